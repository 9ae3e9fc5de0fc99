"""Do runs that nobody has looked at yet fall where the study says that single runs fall?

A study's intervals are a promise about runs that were not made. `data/study/fresh` holds logs of seeds beyond the
study's own; no claim is decided with them. Each is held against the 95 % *prediction* interval of its method
(`seeds.prediction`: where one new run would lie), which the study's own runs give.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrt.study.logs import Run
from lrt.study.outcomes import mean, measure
from lrt.study.seeds import prediction
from lrt.words import name_of

HEAD = ("method", "measure", "seeds of the study", "95 % of single runs, %", "fresh runs, %", "inside")
MEASURES = ("flip", "conflict", "in_distribution", "truth", "contradiction/llava")


@dataclass(frozen=True)
class Fresh:
    """A new run in one measure, and what was expected of it."""

    method: str
    seed: int
    measure: str
    value: float
    low: float  # of a share, but not cut off at 0 and 1: a value is inside or not either way
    high: float
    runs: int  # of the study, behind the interval

    @property
    def inside(self) -> bool:
        return self.low <= self.value <= self.high


def held_against(runs: Sequence[Run], fresh: Sequence[Run], measures: Sequence[str] = MEASURES) -> list[Fresh]:
    """Every fresh run against the study's runs of its method, of which there must be two at least, in each measure that
    applies to it. ValueError for a seed that the study has too, and for a run of other settings."""
    known, found = {(run.cell.method, run.cell.seed) for run in runs}, []
    cells = {run.cell.method: run.cell for run in runs}
    for run in fresh:
        if (run.cell.method, run.cell.seed) in known:
            raise ValueError(f"{run.cell.name} is no fresh seed: the study has it")
        if set(run.cell.differing(cells.get(run.cell.method, run.cell))) - {"seed"}:
            raise ValueError(f"{run.cell.name} was run with other settings than the study's runs of {run.cell.method}")
        for name in measures:
            of = [mean(own.final, name) for own in runs if own.cell.method == run.cell.method]
            expected, value = prediction(of), mean(run.final, name)
            if expected.n > 1 and not math.isnan(value):  # traces that state nothing have no share of true ones
                found.append(Fresh(run.cell.method, run.cell.seed, name, value, *expected[1:3], expected.n))
    return found


def fresh_rows(found: Sequence[Fresh]) -> list[list[str]]:
    """The rows below HEAD."""
    rows = []
    for method, name in dict.fromkeys((f.method, f.measure) for f in found):
        own = [f for f in found if (f.method, f.measure) == (method, name)]
        values = ", ".join(f"{100 * f.value:.1f}" for f in own)
        low, high = max(own[0].low, 0), min(own[0].high, 1)  # every measure here is a share
        interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
        inside = f"{sum(f.inside for f in own)} of {len(own)}"
        rows.append([name_of(method), measure(name).label, str(own[0].runs), interval, values, inside])
    return rows
