"""Names, shares and differences as sentences and tables write them."""

import math
from collections.abc import Iterable, Mapping

from lrt.style import GREY, look

FEW = 5  # seeds; with the spread that was found, intervals from fewer may cry wolf (notebook 06 draws such cases)


def name_of(method: str) -> str:
    return look(method)[0]


def label_of(method: str, labels: Mapping[str, str]) -> str:
    """A method's name in the figures; of one that these draw in grey like all others, its label in the grid."""
    name, colour, _ = look(method)
    return name if colour != GREY else labels.get(method, name)


def share(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """"53 % [45, 61]", without the ends if they are not known. Ends beyond 0 or 100 % mean nothing, and are cut off."""
    ends = "" if math.isnan(low) else f" [{100 * max(low, 0):.0f}, {100 * min(high, 1):.0f}]"
    return f"{100 * value:z.0f} %{ends}"


def in_points(difference: float) -> str:
    """"-12.0" for a difference of shares of -0.12."""
    return f"{round(100 * difference, 1) + 0:+.1f}"  # + 0: never "-0.0"


def points(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """"-12.0 points [-20.1, -3.9]", without the ends if they are not known."""
    ends = "no interval" if math.isnan(low) else f"{in_points(low)}, {in_points(high)}"
    return f"{in_points(value)} points [{ends}]"


def side(low: float, high: float, decimals: int = 3) -> str:
    """"higher" or "lower" where the interval of a difference leaves out 0 as it is printed (`points`: 3 decimals of a
    share), "" where it does not, or is not known."""
    low, high = round(low, decimals), round(high, decimals)
    return "higher" if low > 0 else "lower" if high < 0 else ""


def listed(names: Iterable[str]) -> str:
    """"a, b and c"; "none" of nothing."""
    *most, end = list(names) or ["none"]
    return f"{', '.join(most)} and {end}" if most else end


def seeds_text(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
