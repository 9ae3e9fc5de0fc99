"""Records of one run found, compared and put into words, one number at a time: what `lrt.story` is made of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lrt.stats import Record, select
from lrt.words import listed, side

HOME, MAIN, AWAY = "in_distribution", "tint_uninformative", "tint_reversed"  # MAIN: the one to quote, where it is


@dataclass(frozen=True)
class Measure:
    """A metric in words: its name, what it counts, what a higher or a lower one means, and what the highest does."""

    metric: str
    name: str
    counts: str
    higher: str
    lower: str
    most: str = ""


def find(records: list[Record], method: str, metric: str, split: str) -> Record | None:
    """The one record of this number, or None."""
    found = select(records, method=method, metric=metric, split=split)
    if len(found) > 1:
        raise ValueError(f"{len(found)} records of {metric} on {split} for {method}: the story tells of one seed")
    return found[0] if found else None


def split_of(records: list[Record], metric: str) -> str:
    """Where a metric was measured: tint uninformative if it was there, else the first split that has it."""
    splits = [r.split for r in records if r.metric == metric]
    return MAIN if MAIN in splits or not splits else splits[0]


def paired_metric(metric: str, other: str) -> str:
    """Name of the metric that holds this method minus the other on the same pairs (`stats.paired_bootstrap`):
    `Record("grpo_listener", split, paired_metric("accuracy", "grpo"), *interval, seed)`."""
    return f"difference/{metric}/{other}"


@dataclass(frozen=True)
class Comparison:
    """a against b: the word ("higher", "lower", or "" where it is not clear), and its size or the reason."""

    word: str
    detail: str

    def __str__(self) -> str:
        return f"{self.word}, {self.detail}" if self.word else f"no clear difference: {self.detail}"


def compare(a: Record, b: Record, paired: Record | None = None) -> Comparison:
    """Is a's value higher than b's? By the paired interval of the difference, where there is one, else by the two
    intervals; ends that touch are not clear. Where nothing varied (0 or all of n) an interval has no width, and is read
    as 3 / n wide (the rule of three)."""
    if paired and _has_interval(paired) and paired.low < paired.high:
        word = side(paired.low, paired.high)
        ends = f"the paired interval [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]"
        return Comparison(word, f"by {_points(paired.value)}, {ends}" if word else f"{ends} contains 0")
    if not (_has_interval(a) and _has_interval(b)):
        return Comparison("", "an interval is missing")
    (a_low, a_high), (b_low, b_high) = map(_ends, (a, b))
    word = "higher" if a_low > b_high else "lower" if a_high < b_low else ""
    return Comparison(word, f"by {_points(a.value - b.value)}" if word else "the intervals overlap")


def compared(records: list[Record], measure: Measure, split: str, a: str, b: str) -> Comparison | None:
    """Method a against method b in a measure; None if either has no value."""
    one, other = (find(records, method, measure.metric, split) for method in (a, b))
    paired = find(records, a, paired_metric(measure.metric, b), split)
    if not paired and (turned := find(records, b, paired_metric(measure.metric, a), split)):
        paired = replace(turned, method=a, value=-turned.value, low=-turned.high, high=-turned.low)
    return compare(one, other, paired) if has_value(one) and has_value(other) else None


def percent(record: Record) -> str:
    """`61 % [55, 67]`: the value and its interval in per cent."""
    ends = f"[{100 * record.low:.0f}, {100 * record.high:.0f}]" if _has_interval(record) else "(no interval)"
    return f"{in_percent(record)} {ends}"


def context(found: Iterable[Record]) -> str:
    """What every number needs beside it: that the world is tiny, which splits, one seed, how many pairs."""
    found = list(found)
    splits = listed(dict.fromkeys(record.split.replace("_", " ") for record in found))
    low, high = min(record.n for record in found), max(record.n for record in found)
    return f"tiny world, {splits}, one seed, n = {low}" + (f" to {high}" if low < high else " each")


def in_percent(record: Record) -> str:
    """`61 %`."""
    return f"{100 * record.value:.0f} %"


def _points(difference):
    size = 100 * abs(difference)
    return f"{size:.0f} points" if size >= 1.5 else f"{size:.1f} points"


def has_value(record: Record | None) -> bool:
    """Whether it was measured, and applies to anything."""
    return record is not None and not math.isnan(record.value)


def _ends(record):
    """The ends of an interval, never without width."""
    width = 3 / max(record.n, 1) if record.low == record.high else 0.0
    return max(0.0, record.low - width), min(1.0, record.high + width)


def _has_interval(record):
    return not math.isnan(record.low) and not math.isnan(record.high)
