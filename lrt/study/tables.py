"""The study's runs as tables for figures and sentences: one row a run, or a run and step. Nothing is drawn here, and
nothing decided (`lrt.study.claims` decides).

Every function takes what `logs.read_runs` returns, or a part of it, and works with whatever is there: a table of
nothing is empty, an interval over one seed has NaN ends.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from lrt.contradiction import EDGES
from lrt.stats import NAN, bootstrap, ece, several_seeds
from lrt.study.credit import PROPERTIES
from lrt.study.effects import references
from lrt.study.grid import Grid
from lrt.study.logs import Run
from lrt.study.outcomes import mean, measure, trajectory, values
from lrt.study.pairing import by_method, paired
from lrt.study.seeds import false_alarms, hierarchical
from lrt.style import in_order

PLAIN = "grpo"  # the method that the others are held against
JUDGE = "llava"  # the listener that rewards nobody in tier 1
MAIN = ("flip", "conflict", f"contradiction/{JUDGE}", "truth")


def of_methods(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """method -> its runs, in the order of the figures."""
    of = by_method(runs)
    return {method: of[method] for method in in_order(of)}


def beside_first(runs: Sequence[Run], grid: Grid, tier: str) -> list[Run]:
    """The runs of a tier and, on the seeds that it has, those of the first; [] if none of its own was run."""
    asked = grid.tier(tier)
    own = [run for run in runs if run.cell.method in asked.methods and run.cell.seed in asked.seeds]
    seeds = {run.cell.seed for run in own}
    return own + [run for run in runs if run.cell.method in grid.tiers[0].methods and run.cell.seed in seeds]


def measured(runs: Iterable[Run], names: Sequence[str] = MAIN) -> list[str]:
    """Those measures whose listener heard the traces of every run."""
    ears = [set(run.cell.judges) for run in runs]
    return [name for name in names if all({name.partition("/")[2]} <= own | {""} for own in ears)]


def over_seeds(table: pd.DataFrame, by: Sequence[str], column: str = "value") -> pd.DataFrame:
    """Mean, low, high (95 %, t over seeds), seeds of a column, for each group of `by`; NaN values are left out."""
    rows = []
    for key, own in table.groupby(list(by), sort=False):
        rows.append((*key, *several_seeds(own[column])))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])


# --- one measure, run by run -----------------------------------------------------------------------------------------


def curves(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """measure, method, seed, step, value: each run's mean over the first measured pairs at every measured step."""
    tables = [trajectory(runs, name).assign(measure=name) for name in names]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["measure", "method", "seed"])


def differences(runs: Sequence[Run], names: Sequence[str], grid: Grid | None = None) -> pd.DataFrame:
    """measure, method, seed, value, low, high: each run's difference from its plain GRPO's run (`effects.references`)
    of the same seed at the last step. The interval is over prompts, for this one run: it says nothing of another
    seed. With a `grid` methods that the figures do not know stand in its order."""
    planned = list(grid.changes) if grid else []
    runs = sorted(runs, key=lambda run: planned.index(run.cell.method) if run.cell.method in planned else len(planned))
    of, rows = of_methods(runs), []
    for method, other in references(of, grid, PLAIN).items():
        for name in names:
            found = paired(of[method], of[other], name)
            for seed, d_B in zip(found.seeds, found.d_SB, strict=True):
                rows.append((name, method, seed, *bootstrap(d_B, found.prompt_id_B)[:3]))
    return pd.DataFrame(rows, columns=["measure", "method", "seed", "value", "low", "high"])


def alarms(runs: Sequence[Run], names: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """measure (its label), method, seeds, share: how often the interval of a method's difference from plain GRPO
    would leave out 0 with so many of the seeds, were there nothing (`seeds.false_alarms`). Comparisons with fewer seeds
    are left out."""
    of, rows = of_methods(runs), []
    for method in of if PLAIN in of else ():
        for name in names if method != PLAIN else ():
            found = paired(of[method], of[PLAIN], name)
            counted = int((~np.isnan(found.d_SB)).any(axis=1).sum())
            rows += [(measure(name).label, method, n, false_alarms(found.d_SB, found.prompt_id_B, n))
                     for n in sizes if n <= counted]
    return pd.DataFrame(rows, columns=["measure", "method", "seeds", "share"])


class Split(NamedTuple):
    """Two seeds of one comparison that tell opposite stories."""

    measure: str
    method: str
    up: int  # the seed of the highest difference, and of the lowest
    down: int
    clear: bool  # both intervals over prompts leave out 0: each alone would pass for a finding
    table: pd.DataFrame  # of all seeds: see `differences`


def two_stories(table: pd.DataFrame) -> Split | None:
    """The comparison whose seeds disagree most: the one where the smaller of the two opposite differences is largest,
    among those where both are clear, if there are any. None if no comparison has differences on both sides of 0."""
    found = []
    for (name, method), own in table.dropna(subset="value").groupby(["measure", "method"], sort=False):
        up, down = own.loc[own["value"].idxmax()], own.loc[own["value"].idxmin()]
        if up["value"] > 0 > down["value"]:
            clear = bool(up["low"] > 0 > down["high"])
            found.append((clear, min(up["value"], -down["value"]),
                          Split(name, method, int(up["seed"]), int(down["seed"]), clear, own)))
    return max(found, key=lambda row: row[:2])[2] if found else None


# --- traces and listeners --------------------------------------------------------------------------------------------


def accuracy_by_bin(runs: Sequence[Run], listener: str = JUDGE) -> list[dict]:
    """Accuracy of sampled answers in bins of 1 - p of a listener on the answer, for the runs of one method: dicts of
    low, high, accuracy, lo, hi, n, as `plots.accuracy_by_disagreement` draws them. Several runs: the mean over seeds,
    with an interval over seeds and prompts; one run: over prompts. A bin holds low <= d < high, the last also 1."""
    n = min(len(run.final) for run in runs)
    prompts = runs[0].final["prompt_id"].to_numpy()[:n]
    d_SB, right_SB = (np.stack([values(run.final[:n], name) for run in runs])
                      for name in (f"disagreement/{listener}", "sampled_right"))
    rows = []
    for low, high in pairwise(EDGES):
        inside_SB = np.where((d_SB >= low) & ((d_SB < high) | (high == 1)), right_SB, NAN)
        with_any = ~np.isnan(inside_SB).all(axis=1)
        one = with_any.sum() == 1
        found = bootstrap(inside_SB[with_any][0], prompts) if one else hierarchical(inside_SB, prompts)[0]
        rows.append({"low": low, "high": high, "accuracy": found.value, "lo": found.low, "hi": found.high,
                     "n": found.n})
    return rows


def last(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """method, seed, and a column a measure: each run's mean at the last step, over all pairs."""
    rows = [(run.cell.method, run.cell.seed, *(mean(run.final, name) for name in names)) for run in runs]
    return pd.DataFrame(rows, columns=["method", "seed", *names])


def rewarding_listener(run: Run) -> str | None:
    """The one listener that a run's reward is made of, if it also heard the measured traces."""
    ears = run.cell.listeners
    return ears[0] if len(ears) == 1 and ears[0] in run.cell.judges else None


def proxy_and_gold(runs: Sequence[Run]) -> pd.DataFrame:
    """method, seed, step, paid, p_better, right: for runs whose reward is made of one listener.

    paid: the added reward in training, the mean since the measurement before (NaN at step 0). p_better: that
    listener's p on the truly better image after sampled traces of the first measured pairs, whose tint says nothing;
    right: the accuracy of their answers.
    """
    rows = []
    for run in runs:
        if not (ear := rewarding_listener(run)):
            continue
        paid = in_blocks(run, "added")
        for step, table in run.history().items():
            both = (mean(table, f"listener_p/{ear}"), mean(table, "sampled_right"))
            rows.append((run.cell.method, run.cell.seed, step, paid.get(step, NAN), *both))
    return pd.DataFrame(rows, columns=["method", "seed", "step", "paid", "p_better", "right"])


def calibration(runs: Sequence[Run], listener: str = JUDGE) -> pd.DataFrame:
    """method, seed, before, after: expected calibration error of a listener's p that image 1 is the better one, before
    the first step and after the last, on the pairs that both measured: the error is biased in small samples, so they
    must be as good as equally many (what a listener could not hear is left out)."""
    rows = []
    for run in runs:
        before, after = run.measures[0], run.final
        n = min(len(before), len(after))
        rows.append((run.cell.method, run.cell.seed, *(_ece(table[:n], listener) for table in (before, after))))
    return pd.DataFrame(rows, columns=["method", "seed", "before", "after"])


def _ece(table: pd.DataFrame, listener: str) -> float:
    better = table["better"]
    return ece(table[f"sampled_p/{listener}"], np.where(better.isna(), NAN, better == 1))


PROBES = {  # what a policy may do to please a listener, or to need none; and its unit
    "length": ("completion in training", "tokens"),
    "coverage": ("statements made", "% of 18"),
    "verdict only": ("traces without any statement", "% of traces"),
    "first": ("sampled answers \"1\"", "% of answers"),
}


def probes(runs: Sequence[Run]) -> pd.DataFrame:
    """method, seed, when ("before", "after"), and a column for each of `PROBES`, shares as shares."""
    rows = []
    for run in runs:
        length = in_blocks(run, "length")
        ends = length.iloc[[0, -1]] if len(length) else [NAN, NAN]
        for when, table, tokens in zip(("before", "after"), (run.measures[0], run.final), ends, strict=True):
            said, answer = table["sampled_said"], table["sampled"].dropna()
            shares = [(said[answer.index] == 0).mean(), answer.eq(1).mean()]
            rows.append((run.cell.method, run.cell.seed, when, tokens, mean(table, "coverage"), *shares))
    return pd.DataFrame(rows, columns=["method", "seed", "when", *PROBES])


# --- where the gradient lands ----------------------------------------------------------------------------------------


def credits(runs: Sequence[Run]) -> pd.DataFrame:
    """property, part ("credit": of the whole advantage; "credit_added": of the last reward's part), method, seed, step,
    value: means over the steps since the measurement before, in standard deviations of a group's reward times the
    property's own unit (see `lrt.study.credit`). What a run did not log is left out."""
    rows = [
        (name, part, run.cell.method, run.cell.seed, step, value)
        for run in runs
        for name in PROPERTIES
        for part in ("credit", "credit_added")
        for step, value in in_blocks(run, f"{part}/{name}").items()
    ]
    return pd.DataFrame(rows, columns=["property", "part", "method", "seed", "step", "value"])


def dead_groups(runs: Sequence[Run]) -> pd.DataFrame:
    """method, seed, before, after: the share of groups whose completions all earned the same, in the steps before the
    first measurement on the way and in those before the last. Runs that have no groups are left out."""
    blocks = [(run, in_blocks(run, "dead_groups")) for run in runs]
    rows = [(run.cell.method, run.cell.seed, *own.iloc[[0, -1]]) for run, own in blocks if len(own)]
    return pd.DataFrame(rows, columns=["method", "seed", "before", "after"])


def in_blocks(run: Run, column: str) -> pd.Series:
    """step -> the mean of a logged column over the steps since the measurement before; empty if it was not logged."""
    if column not in run.steps:
        return pd.Series(dtype=float)
    every, steps = run.cell.measure_every, run.steps.index
    return run.steps[column].groupby(np.minimum(-(-steps // every) * every, run.cell.steps)).mean().dropna()
