"""How far apart two methods are: differences paired by seed, with intervals over seeds and prompts. No verdicts
(`lrt.study.claims` gives those).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lrt.study.grid import Cell, Grid
from lrt.study.logs import Run
from lrt.study.pairing import Paired, at_best, at_matched, best_by_seed, by_method, matched_steps, paired
from lrt.study.seeds import hierarchical

LEVEL = 0.05
DRAWS = 100_000  # of the bootstrap: another generator's seed moves the ends of wide intervals by a point at most
SHOWN = ("flip", "conflict", "contradiction/llava", "truth", "told", "in_distribution")
NAN = float("nan")


@dataclass(frozen=True)
class Comparison:
    """One difference, method - against, in the measure's own unit (a share of pairs: 0.1 is 10 points)."""

    against: str
    effect: float
    low: float  # 95 %, for this comparison alone
    high: float
    p: float
    p_holm: float  # adjusted within the claim; NaN unless all its comparisons were run
    n: int  # pairs
    seeds: tuple[int, ...]
    left_out: tuple[int, ...] = ()  # seeds that both ran, where the measure applies to nothing
    level: float = NAN  # of the other, on the same pairs; the method's own is level + effect


def compared(found: Paired, against: str) -> Comparison:
    interval, p = hierarchical(found.d_SB, found.prompt_id_B, n_boot=DRAWS, level=1 - LEVEL)
    known_SB = ~np.isnan(found.d_SB)
    seeds = tuple(s for s, any_pair in zip(found.seeds, known_SB.any(axis=1), strict=True) if any_pair)
    left_out = tuple(seed for seed in found.seeds if seed not in seeds)
    return Comparison(against, *interval[:3], p, NAN, int(known_SB.any(axis=0).sum()), seeds, left_out, found.level)


@dataclass(frozen=True)
class Effect:
    """One difference of a method: from `reference` (plain GRPO, another method, or its own last step), where `at`
    says."""

    method: str
    reference: str
    at: Literal["last step", "matched accuracy", "best checkpoint"]
    measure: str
    effect: float
    low: float
    high: float
    n: int  # pairs
    seeds: tuple[int, ...]
    left_out: tuple[int, ...] = ()  # seeds that say nothing: see `Comparison`, and `pairing.at_matched`


def own_ear(effect: Effect, grid: Grid) -> bool:
    """Was it measured with a listener that rewarded one of the two methods? Then it is no outside view."""
    changes = [grid.changes.get(name, {}) for name in (effect.method, effect.reference)]
    return effect.measure.partition("/")[2] in {ear for own in changes for ear in own.get("listeners", ())}


def reference_of(method: str, cells: Mapping[str, Cell], reference: str = "grpo") -> str:
    """The plain GRPO whose settings are those of a method but for its reward; `reference` if there is none, and for
    itself. cells: one of each method."""
    def but_for_reward(cell: Cell) -> Cell:
        return replace(cell, method="", seed=0, reward="none", listeners=(), verdict=True, weights=())

    wanted = but_for_reward(cells[method])
    same = [name for name, cell in cells.items()
            if name != method and cell.reward == "none" and but_for_reward(cell) == wanted]
    return reference if reference in (method, *same) or not same else sorted(same)[0]


def references(of: Mapping[str, Sequence[Run]], grid: Grid | None = None, reference: str = "grpo") -> dict[str, str]:
    """method -> what it is held against (`reference_of`), for methods that have such runs and are not it themselves.
    of: runs by method; `grid`: where references are looked up first, since one may not have been run yet."""
    cells = {method: own[-1].cell for method, own in of.items()}
    cells |= {method: grid.cell(method, 0) for method in grid.changes} if grid else {}
    found = {method: reference_of(method, cells, reference) for method in of}
    return {method: other for method, other in found.items() if other != method and other in of}


def against_plain(runs: Sequence[Run], reference: str = "grpo", measures: Sequence[str] = SHOWN,
                  matched: bool = False, grid: Grid | None = None) -> list[Effect]:
    """Each method against its reference (`references`), at the last step or where both are as accurate in distribution
    (`pairing.at_matched`)."""
    of, found = by_method(runs), []
    for method, other in references(of, grid, reference).items():
        a, b = of[method], of[other]
        steps = matched_steps(a, b) if matched else None
        for name in measures:
            if matched:
                c = compared(at_matched(a, b, name, steps), other)
                c = replace(c, left_out=tuple(seed for seed in steps["seed"] if seed not in c.seeds))
            else:
                c = compared(paired(a, b, name), other)
            found.append(_effect(method, "matched accuracy" if matched else "last step", name, c))
    return found


def versus(runs: Sequence[Run], method: str, other: str, measures: Sequence[str] = SHOWN) -> list[Effect]:
    """One method against any other at the last step."""
    a, b = (by_method(runs).get(name, []) for name in (method, other))
    return [_effect(method, "last step", name, compared(paired(a, b, name), other)) for name in measures]


def stopped_early(runs: Sequence[Run], measures: Sequence[str] = SHOWN) -> list[Effect]:
    """What each method would have gained by keeping the checkpoint that validation pairs of the training distribution
    choose (`pairing.at_best`): a difference from its own last step."""
    found = []
    for method, own in by_method(runs).items():
        best = best_by_seed(own)
        found += [_effect(method, "best checkpoint", name, compared(at_best(own, name, best), method))
                  for name in measures]
    return found


def _effect(method: str, at: str, name: str, c: Comparison) -> Effect:
    return Effect(method, c.against, at, name, c.effect, c.low, c.high, c.n, c.seeds, c.left_out)
