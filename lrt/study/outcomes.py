"""What each run of the study did to each measured pair.

A measure (`MEASURES`) gives one value a pair, NaN where it does not apply, from the table of one measurement
(`probe.table`). An unparsable answer is wrong wherever being right is counted. What is measured on traces does not
apply to a judge that writes none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from lrt.contradiction import contradictions, disagreement
from lrt.metrics import mixture
from lrt.study.logs import Run

STATEMENTS = 18  # of two images: what a trace says at most


@dataclass(frozen=True)
class Measure:
    """A number that each pair has in each measurement."""

    label: str  # for axes and tables
    better: Literal["higher", "lower"] | None
    about: str  # what it is, in one sentence
    of: Callable[[pd.DataFrame, str], np.ndarray]  # (table, listener or "") -> (B,)


# --- what measures are made of ---------------------------------------------------------------------------------------


def _where_sampled(table: pd.DataFrame, value_B: np.ndarray) -> np.ndarray:
    """NaN where nothing was sampled, by a judge that writes no text: that is not the same as an unparsable sample."""
    return np.where(table["sampled_said"].isna(), np.nan, value_B)


def _right(table: pd.DataFrame, answer_B: np.ndarray) -> np.ndarray:
    """1 where the answer is the truly better image, 0 where not or unparsable, NaN where neither is better."""
    better_B = table["better"].to_numpy()
    return np.where(np.isnan(better_B), np.nan, answer_B == better_B)


def _by_tint(table: pd.DataFrame, agrees: bool) -> np.ndarray:
    """Right answers where the tint agrees with the content (or conflicts): each pair was shown with both."""
    better_B, warm_B, answers_B, swapped_B = (table[c].to_numpy() for c in ("better", "warm", "answers", "swapped"))
    answer_B = np.where((warm_B == better_B) == agrees, answers_B, swapped_B)
    return np.where(np.isnan(warm_B), np.nan, _right(table, answer_B))


def _mixed(table: pd.DataFrame, split: str) -> np.ndarray:
    return mixture(_by_tint(table, True), _by_tint(table, False))[split]


def _differ(one: pd.Series, other: pd.Series) -> np.ndarray:
    return np.where(one.isna() | other.isna(), np.nan, (one != other).astype(float))


def _share(true: pd.Series, said: pd.Series) -> np.ndarray:
    return (true / said.where(said > 0)).to_numpy()


def _contradicts(table: pd.DataFrame, listener: str, side: str) -> np.ndarray:
    """1 where the listener's choice is not the image in the column `side`."""
    return contradictions(pd.DataFrame({"answer": table[side]}), table[f"sampled_p/{listener}"])


def _doubts(table: pd.DataFrame, listener: str, side: str) -> np.ndarray:
    """1 - p of the listener on the image in the column `side`."""
    return disagreement(pd.DataFrame({"answer": table[side]}), table[f"sampled_p/{listener}"])


MEASURES = {
    "agree": Measure(
        "right, tint agrees", "higher",
        "Greedy accuracy against the utility where the warm image is the better one.",
        lambda t, _: _by_tint(t, True)),
    "conflict": Measure(
        "right, tint conflicts", "higher",
        "Greedy accuracy against the utility where the warm image is the worse one.",
        lambda t, _: _by_tint(t, False)),
    "in_distribution": Measure(
        "right in distribution", "higher",
        "Greedy accuracy where the better image is warm in nine pairs of ten (dial 0.9): 0.9 agree + 0.1 conflict.",
        lambda t, _: _mixed(t, "in_distribution")),
    "uninformative": Measure(
        "right, tint uninformative", "higher",
        "Greedy accuracy where the tint says nothing: the mean of agree and conflict.",
        lambda t, _: _mixed(t, "tint_uninformative")),
    "reversed": Measure(
        "right, tint reversed", "higher",
        "Greedy accuracy where the better image is cool in nine pairs of ten: 0.1 agree + 0.9 conflict.",
        lambda t, _: _mixed(t, "tint_reversed")),
    "flip": Measure(
        "answers that flip", "lower",
        "How often the greedy answer changes when only the tint is swapped; both must be parsable.",
        lambda t, _: _differ(t["answers"], t["swapped"])),
    "parsable": Measure(
        "parsable", "higher",
        "Greedy completions in the format.",
        lambda t, _: t["answers"].notna()),
    "first": Measure(
        "answers with the first", None,
        "The share of greedy answers that name the first image: a position bias, if far from a half.",
        lambda t, _: t["answers"].eq(1).where(t["answers"].notna())),
    "greedy_truth": Measure(
        "true statements, greedy", "higher",
        "The share of a greedy trace's statements that are true, averaged over traces that state something.",
        lambda t, _: _share(t["true"], t["said"])),
    "sampled_right": Measure(
        "right, sampled", "higher",
        "Accuracy of sampled answers against the utility, tints as drawn.",
        lambda t, _: _where_sampled(t, _right(t, t["sampled"].to_numpy()))),
    "sampled_parsable": Measure(
        "parsable, sampled", "higher",
        "Sampled completions in the format.",
        lambda t, _: _where_sampled(t, t["sampled"].notna())),
    "truth": Measure(
        "true statements", "higher",
        "The share of a sampled trace's statements that are true, averaged over traces that state something.",
        lambda t, _: _share(t["sampled_true"], t["sampled_said"])),
    "coverage": Measure(
        "statements made", None,
        f"Statements of a sampled trace that can be checked, over {STATEMENTS}, the most that there can be.",
        lambda t, _: t["sampled_said"] / STATEMENTS),
    "told": Measure(  # added later (PLAN.md): a trace that states nothing has no share of true ones
        "true statements made", "higher",
        f"True statements of a sampled trace over {STATEMENTS}, the most that there can be: truth x coverage.",
        lambda t, _: t["sampled_true"] / STATEMENTS),
    "departs": Measure(
        "departs from its own verdict", "lower",
        "How often a sampled answer differs from the verdict that its own trace states.",
        lambda t, _: _differ(t["sampled"], t["sampled_verdicts"])),
    "contradiction/<listener>": Measure(
        "contradicts {listener}", "lower",
        "How often a sampled answer differs from what {listener} chooses after its trace; p = 0.5 counts a half.",
        lambda t, ear: _contradicts(t, ear, "sampled")),
    "verdict_contradiction/<listener>": Measure(  # added later (PLAN.md): is it the answer that parts from the trace?
        "verdict contradicts {listener}", "lower",
        "How often the verdict of a sampled trace differs from what {listener} chooses after that trace.",
        lambda t, ear: _contradicts(t, ear, "sampled_verdicts")),
    "disagreement/<listener>": Measure(
        "1 - p of {listener}", "lower",
        "1 - p of {listener} on the side of a sampled answer, after its trace.",
        lambda t, ear: _doubts(t, ear, "sampled")),
    "followed/<listener>": Measure(
        "{listener} follows", None,
        "How often {listener} is led to the sampled answer by its trace, right or wrong: 1 - contradiction.",
        lambda t, ear: 1 - _contradicts(t, ear, "sampled")),
    "listener_right/<listener>": Measure(
        "{listener} is right", "higher",
        "How often {listener} chooses the truly better image after a sampled trace; what it did not hear is left out.",
        lambda t, ear: 1 - _contradicts(t, ear, "better")),
    "listener_p/<listener>": Measure(
        "p of {listener} on the better image", "higher",
        "p of {listener} on the truly better image after a sampled trace: what its reward pays, without votes' noise.",
        lambda t, ear: 1 - _doubts(t, ear, "better")),
}


def measure(name: str) -> Measure:
    """The measure of a name such as "flip" or "contradiction/llava". ValueError lists those that there are."""
    family, slash, listener = name.partition("/")
    key = f"{family}/<listener>" if slash else name
    if key not in MEASURES or (slash and not listener):
        raise ValueError(f"no measure {name!r}; there are {', '.join(MEASURES)}")
    found = MEASURES[key]
    return replace(found, label=found.label.format(listener=listener), about=found.about.format(listener=listener))


def values(table: pd.DataFrame, name: str) -> np.ndarray:
    """(B,) the measure of each pair; NaN where it does not apply. ValueError for a measure, or a listener, that there
    is not."""
    found, listener = measure(name), name.partition("/")[2]
    if listener and f"sampled_p/{listener}" not in table:
        ears = [column.partition("/")[2] for column in table if column.startswith("sampled_p/")]
        raise ValueError(f"{name}: {listener!r} did not hear the traces; {', '.join(ears) or 'nobody'} did")
    return np.asarray(found.of(table, listener), dtype=float)


def mean(table: pd.DataFrame, name: str) -> float:
    """The mean over pairs; NaN if the measure applies to none."""
    found = values(table, name)
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def trajectory(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """method, seed, step, value: means over the first measured pairs, at every measured step, the last included."""
    rows = [
        (run.cell.method, run.cell.seed, step, mean(table, name))
        for run in runs
        for step, table in run.history().items()
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "step", "value"])
