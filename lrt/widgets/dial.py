"""The shortcut's dial: what it does to pairs, and how far the tint alone then gets a judge.

The dial d is the probability that the better image has the warm background. With g the gap in utility between the
better and the worse image of a pair, and q = sigmoid(1.5 g) the chance that a voter sees it (`world.p_prefer_first`),
the warm image is

    the better one    with probability d
    the one voted for with probability d q + (1 - d) (1 - q)

and likewise for the majority of four votes, where it is not two to two. Where no image is better, the tint and each
vote are coins. Only the utilities of the pairs are drawn here; votes and tints are not, so the lines are exact.
"""

import math
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from PIL import Image

from lrt import world
from lrt.pairs import SPLITS, VOTERS, scenes_of, tiny_pairs
from lrt.style import BLUE, GREEN, VERMILION
from lrt.widgets.fragment import fragment, paragraph, picture, table

TITLE = "The shortcut's dial: the same scenes, other backgrounds"
DIALS = tuple(round(0.1 * i, 1) for i in range(11))
SHOWN, SPLIT = 6, "tint_uninformative"  # pairs that are drawn, and the split whose first prompts they have
PLACES = {  # split -> what it is
    "train": "the training pairs",
    "tint_uninformative": "the test where the tint says nothing",
    "tint_reversed": "the test with the tint reversed",
}
LINES = {  # key -> (what the warm image is, colour, marker)
    "better": ("truly the better one", GREEN, "s"),
    "majority": ("what most of four voters chose", BLUE, "D"),
    "vote": ("what one voter chose", VERMILION, "^"),
}


def agreement(gaps: Sequence[float], dial: float) -> dict[str, float]:
    """How often the warm image is the better one, the majority's and one voter's ("better", "majority", "vote"),
    expected over votes and tints, for pairs with these differences in utility (image 1 minus image 2).

    Pairs without a better image are left out of "better", and every pair counts in "majority" by the probability that
    its four votes are not split two to two. NaN where no pair counts. ValueError for a dial outside 0 to 1.
    """
    if not 0 <= dial <= 1:
        raise ValueError(f"the dial is a probability, not {dial}")
    size_B = np.abs(np.asarray(gaps, dtype=float))
    q_B = np.array([world.p_prefer_first(gap, 0.0) for gap in size_B])
    warm_B = np.where(size_B > 0, dial, 0.5)  # the chance that the image that is named first here is the warm one
    wins_B, untied_B = _majority(q_B)
    return {
        "better": dial if (size_B > 0).any() else math.nan,
        "majority": _ratio(warm_B * wins_B + (1 - warm_B) * (untied_B - wins_B), untied_B),
        "vote": _ratio(warm_B * q_B + (1 - warm_B) * (1 - q_B), np.ones_like(q_B)),
    }


def _majority(q_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(that more than half of the voters choose the image, that the vote is not a tie), for the chance q of one."""
    chance_BK = np.stack([math.comb(VOTERS, k) * q_B**k * (1 - q_B) ** (VOTERS - k) for k in range(VOTERS + 1)], 1)
    half = VOTERS // 2
    return chance_BK[:, half + 1 :].sum(1), 1 - chance_BK[:, half]


def _ratio(tops_B: np.ndarray, bottoms_B: np.ndarray) -> float:
    return float(tops_B.sum() / bottoms_B.sum()) if bottoms_B.sum() else math.nan


def drawn_pairs(n: int = SHOWN, seed: int = 0) -> list[dict]:
    """n pairs of different prompts, as the dial shows them: prompt, alt (two texts), images (data URIs: by image, warm
    then cool), better and voted (1, 2; 0 for none), and warm: by dial, which image is the warm one.

    A pair keeps its scenes, votes and noise; as the dial rises, its tints change places once, or never."""
    by_dial = {dial: tiny_pairs(SPLIT, n, seed, shortcut=dial, of_each=(1,)) for dial in DIALS}
    first = by_dial[DIALS[0]]
    return [
        {
            "prompt": row["prompt"],
            "better": 1 if row["utility_1"] > row["utility_2"] else 2 if row["utility_1"] < row["utility_2"] else 0,
            "votes": [row["votes_1"], row["votes_2"]],
            "alt": [_alt(scene) for scene in scenes_of(row)],
            "images": [[_tinted(scene, tint) for tint in ("warm", "cool")] for scene in scenes_of(row)],
            "warm": [1 if rows[i]["tint_1"] == "warm" else 2 for rows in by_dial.values()],
        }
        for i, row in enumerate(first)
    ]


def _alt(scene: world.Scene) -> str:
    return f"{', '.join(map(str, scene.things)) or 'nothing'}; {scene.quality}"


def _tinted(scene: world.Scene, tint: str) -> str:
    return picture(Image.fromarray(world.render(scene, tint)))


def dial_html(rows: Dataset | None = None) -> str:
    """The thing to play with, as HTML. rows: pairs of the tiny world whose utilities make the lines; by default 240 of
    the training split. ValueError for pairs without a known utility."""
    rows = tiny_pairs("train", 240) if rows is None else rows
    utilities = [rows[name][:] for name in ("utility_1", "utility_2")]
    if not len(rows) or None in utilities[0] or None in utilities[1]:
        raise ValueError("the dial needs pairs of the tiny world, whose utilities are known")
    gaps = np.subtract(*utilities)
    low, high = agreement(gaps, 0.0), agreement(gaps, 1.0)  # straight lines: expectations are linear in the dial
    lines = [{"name": name, "colour": colour, "marker": marker, "ends": [low[key], high[key]]}
             for key, (name, colour, marker) in LINES.items()]
    places = [{"name": name, "dial": SPLITS[split].shortcut} for split, name in PLACES.items()]
    data = {"lines": lines, "dials": DIALS, "pairs": drawn_pairs(), "places": places, "bound": high["vote"],
            "n": len(rows)}
    return fragment("dial", TITLE, data, _static(gaps, data), parts=("chart",))


def _static(gaps: np.ndarray, data: dict) -> str:
    rows = []
    for dial in (0.0, 0.1, 0.5, 0.7, 0.9, 1.0):
        found = agreement(gaps, dial)
        rows.append((f"{dial:g}", *(f"{100 * found[key]:.0f} %" for key in LINES)))
    head = ("dial", *(f"warm is {name}" for name, _, _ in LINES.values()))
    told = (f"Expected over votes and tints for {data['n']} pairs. The training pairs have the dial at 0.9. Whoever "
            f"sees everything agrees with one vote in {100 * data['bound']:.0f} %, whatever the dial: the tint alone "
            "comes close to that as the dial goes to 1, and falls below a coin at the other end.")
    changes = [sum(a != b for a, b in zip(p["warm"], p["warm"][1:], strict=False)) for p in data["pairs"]]
    also = (f"Of the {len(changes)} pairs drawn by the script, {sum(map(bool, changes))} exchange their backgrounds "
            "somewhere between 0 and 1; scenes, votes and noise stay.")
    return table(head, rows, "What the warm background says, by the dial") + paragraph(told) + paragraph(also)
