"""Runs held against one another, within a seed and on the pairs that both measured: at the last step (`paired`), where
both are as accurate in distribution (`at_matched`), or a run's best checkpoint against its own last step (`at_best`).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lrt.study.logs import Run
from lrt.study.outcomes import mean, measure, trajectory, values


class Paired(NamedTuple):
    """Differences on the same pairs, a row a seed; `seeds.hierarchical` takes the last two."""

    seeds: tuple[int, ...]
    d_SB: np.ndarray  # a - b; NaN where the measure does not apply to one of the two
    prompt_id_B: np.ndarray
    level: float = float("nan")  # the mean of b over the same pairs, averaged over seeds


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """method -> its runs, both in the order in which they come."""
    of: dict[str, list[Run]] = {}
    for run in runs:
        of.setdefault(run.cell.method, []).append(run)
    return of


def paired(runs_a: Sequence[Run], runs_b: Sequence[Run] | Literal["base"], name: str) -> Paired:
    """a - b at the last step, by seed; the runs of one method each, on the first pairs that all of them measured.

    `"base"` is the model before training: step 0 of the runs of a.
    Seeds that one of the two lacks are left out; none in common give arrays of size 0. ValueError for two runs with one
    seed, or of one side with different settings.
    """
    a = _by_seed(runs_a)
    if runs_b == "base":
        b = {seed: run.measures[0] for seed, run in a.items()}
    else:
        b = {seed: run.final for seed, run in _by_seed(runs_b).items()}
    return _paired({seed: run.final for seed, run in a.items()}, b, name)


def _by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """seed -> run, of runs that must differ in nothing else."""
    found: dict[int, Run] = {}
    for run in runs:
        if (other := found.setdefault(run.cell.seed, run)) is not run:
            raise ValueError(f"two runs with seed {run.cell.seed}: {other.cell.name} and {run.cell.name}")
        if differ := [name for name in run.cell.differing(runs[0].cell) if name != "seed"]:
            raise ValueError(f"{runs[0].cell.name} and {run.cell.name} are of different settings: {', '.join(differ)}")
    return found


def _paired(a: Mapping[int, pd.DataFrame], b: Mapping[int, pd.DataFrame], name: str) -> Paired:
    measure(name)
    seeds = tuple(sorted(set(a) & set(b)))
    if not seeds:
        return Paired((), np.empty((0, 0)), np.empty(0, dtype=object))
    n = min(len(tables[seed]) for tables in (a, b) for seed in seeds)
    a_SB, b_SB = (np.stack([values(tables[seed][:n], name) for seed in seeds]) for tables in (a, b))
    d_SB = a_SB - b_SB
    own = [b_B[~np.isnan(d_B)] for b_B, d_B in zip(b_SB, d_SB, strict=True)]
    level = np.mean([b_B.mean() for b_B in own if len(b_B)] or [np.nan])
    return Paired(seeds, d_SB, a[seeds[0]]["prompt_id"].to_numpy(object)[:n], float(level))


def at_matched(runs_a: Sequence[Run], runs_b: Sequence[Run], name: str, steps: pd.DataFrame | None = None) -> Paired:
    """a - b where both runs of a seed are equally far: each at its own step of `matched_steps`, on the first measured
    pairs. `steps`: what `matched_steps` gave, if it is at hand (for several measures of the same runs).

    Seeds in which a run is at step 0 are left out: with one base for both, neither has moved where the other never got
    above it; with two, a trained model would stand against an untrained one.
    """
    a, b = _by_seed(runs_a), _by_seed(runs_b)
    steps = matched_steps(runs_a, runs_b) if steps is None else steps
    moved = steps[(steps["step_a"] > 0) & (steps["step_b"] > 0)]
    at_a = {seed: a[seed].history()[step] for seed, step in zip(moved["seed"], moved["step_a"], strict=True)}
    at_b = {seed: b[seed].history()[step] for seed, step in zip(moved["seed"], moved["step_b"], strict=True)}
    return _paired(at_a, at_b, name)


def matched_steps(runs_a: Sequence[Run], runs_b: Sequence[Run]) -> pd.DataFrame:
    """seed, level, step_a, step_b: for each seed the highest level that both runs reach, and the first measured step at
    which each does.

    A run's level at a step is its highest accuracy in distribution so far, smoothed by medians of three neighbouring
    measurements (the two ends stay as they are): one lucky measurement in between reaches nothing. What the runs are at
    those steps, unsmoothed, can differ; the tables show by how much. If one run never gets above the base of both, the
    level is the base's, and both are taken at step 0.
    """
    a, b = _by_seed(runs_a), _by_seed(runs_b)
    rows = []
    for seed in sorted(set(a) & set(b)):
        so_far = [_so_far(runs[seed]) for runs in (a, b)]
        level = min(reached.max() for reached in so_far)
        rows.append((seed, level, *(int(reached.index[reached >= level][0]) for reached in so_far)))
    return pd.DataFrame(rows, columns=["seed", "level", "step_a", "step_b"])


def _so_far(run: Run) -> pd.Series:
    """step -> the highest level so far."""
    raw = trajectory([run], "in_distribution").set_index("step")["value"]
    return raw.rolling(3, center=True).median().fillna(raw).cummax()


class Best(NamedTuple):
    step: int
    table: pd.DataFrame  # the other pairs at that step: judge it on these
    last: pd.DataFrame  # and at the last step


def best_by_validation(run: Run) -> Best:
    """The checkpoint that somebody with validation pairs would keep: the measured step with the highest accuracy in
    distribution on the first half of the measured prompts (of equals the earliest), and the other half to judge it."""
    tables = run.history()
    prompts = list(dict.fromkeys(tables[0]["prompt_id"]))
    chooses_B = tables[0]["prompt_id"].isin(prompts[: len(prompts) // 2]).to_numpy()
    score = {step: mean(table[chooses_B], "in_distribution") for step, table in tables.items()}
    best = max(score, key=lambda step: (score[step], -step))
    return Best(best, *(tables[step][~chooses_B] for step in (best, run.cell.steps)))


def best_by_seed(runs: Sequence[Run]) -> dict[int, Best]:
    """seed -> `best_by_validation`, for the runs of one method."""
    return {seed: best_by_validation(run) for seed, run in _by_seed(runs).items()}


def at_best(runs: Sequence[Run], name: str, best: Mapping[int, Best] | None = None) -> Paired:
    """The best checkpoint of each run - its last step, on the pairs that did not choose it. `best`: what `best_by_seed`
    gave, if it is at hand (for several measures of the same runs)."""
    best = best_by_seed(runs) if best is None else best
    return _paired({seed: b.table for seed, b in best.items()}, {seed: b.last for seed, b in best.items()}, name)
