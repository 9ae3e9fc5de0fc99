"""What each method learns at each setting of the training dial, from the study's logs: only what was run is shown.

A run is two numbers here, and a third: a, its greedy accuracy where the tint agrees with the content, c, where they
conflict (`lrt.study.outcomes`), and the flip rate. At any *test* dial d it is then right in d a + (1 - d) c of the
pairs (notebook 01). The *training* dial is a setting of the run: 0.9 in most of the study, 0.5 and 0.7 in its third
tier. A run at another dial is shown under the method that has all of its other settings.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from lrt.stats import several_seeds, t_quantile
from lrt.study.grid import Cell, Grid, read_grid
from lrt.study.logs import Run, read_runs
from lrt.study.outcomes import mean
from lrt.study.pool import logs_folder
from lrt.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, in_order
from lrt.widgets.fragment import fragment, paragraph, table
from lrt.words import label_of

TITLE = "The dial in training, and what each method learns"
DIALS = (0.9, 0.7, 0.5)  # of training, as the study has them
HOME = 0.9  # the dial of every method that does not name another
SHOWN = {  # the methods that are drawn -> colour and marker, where the study's figures have them grey
    "grpo": (VERMILION, "^"), "listener_base": (SKY, "s"), "listener_reader": (BLUE, "D"), "rule": (ORANGE, "X"),
    "permuted": (PURPLE, "P"), "sft_answer": (GREEN, "s"), "sft_trace": (GREEN, "v"), "bradley_terry": (GREY, "o"),
    "dpo": (GREY, "v"),
}
MEASURES = ("agree", "conflict", "flip")


def known_as(grid: Grid) -> dict[Cell, str]:
    """A cell without its own name, seed and dial -> the method of `SHOWN` that has these settings."""
    return {_bare(grid.cell(method, 0)): method for method in SHOWN if method in grid.changes}


def _bare(cell: Cell) -> Cell:
    return replace(cell, method="", seed=0, dial=HOME)


def learned(runs: Sequence[Run], grid: Grid) -> dict[float, dict[str, list[dict]]]:
    """training dial -> method -> its runs by seed: seed, agree, conflict and flip at the last step, over all pairs.

    Every dial and method that the grid asks for is there, with an empty list where nothing was run."""
    names = known_as(grid)
    found: dict[float, dict[str, list[dict]]] = {dial: {} for dial in DIALS}
    for method in grid.changes:
        cell = grid.cell(method, 0)
        if cell.dial in found and _bare(cell) in names:
            found[cell.dial].setdefault(names[_bare(cell)], [])
    for run in sorted(runs, key=lambda run: run.cell.seed):
        method = names.get(_bare(run.cell))
        if method is not None and run.cell.dial in found:
            numbers = {name: mean(run.final, name) for name in MEASURES}
            found[run.cell.dial].setdefault(method, []).append({"seed": run.cell.seed} | numbers)
    return found


def at_test_dial(own: Sequence[dict], dial: float) -> tuple[float, float, float]:
    """(mean, low, high) over seeds of d a + (1 - d) c: a t-interval, NaN ends with fewer than two seeds."""
    return several_seeds([dial * run["agree"] + (1 - dial) * run["conflict"] for run in own])[:3]


def wanted(grid: Grid) -> list[str]:
    """The methods of the grid, at any dial, that are drawn: what `logs.read_runs` has to read for it."""
    names = known_as(grid)
    return [method for method in grid.changes if _bare(grid.cell(method, 0)) in names]


def learned_html(runs: Sequence[Run] | None = None, grid: Grid | None = None) -> str:
    """The thing to play with, as HTML, from runs of the study (others are left out); by default all whose logs are
    there, and the study's own grid."""
    grid, methods = grid or read_grid(), []
    found = learned(read_runs(logs_folder(), wanted(grid)) if runs is None else runs, grid)
    for method in in_order(SHOWN):
        colour, marker = SHOWN[method]
        name = label_of(method, grid.labels).partition(" (")[0]
        runs = [[[_known(run[m]) for m in MEASURES] for run in found[dial].get(method, [])] for dial in DIALS]
        asked = [method in found[dial] for dial in DIALS]
        methods.append({"name": name, "colour": colour, "marker": marker, "runs": runs, "asked": asked})
    most = max((len(own) for method in methods for own in method["runs"]), default=0)
    t = [None, None, *(round(t_quantile(0.95, n - 1), 6) for n in range(2, most + 1))]
    data = {"methods": methods, "dials": DIALS, "t": t}
    return fragment("learned", TITLE, data, _static(methods, found), parts=("chart",))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def _static(methods: list[dict], found: dict[float, dict[str, list[dict]]]) -> str:
    parts = []
    for d, dial in enumerate(DIALS):
        rows = [(m["name"], len(m["runs"][d]), *_cells(m["runs"][d])) for m in methods if m["runs"][d]]
        if rows:
            head = ("method", "seeds", "right, tint agrees", "right, tint conflicts", "answers that flip")
            parts.append(table(head, rows, f"Trained with the dial at {dial}: the last step, mean over seeds"))
        if missing := [m["name"] for m in methods if m["asked"][d] and not m["runs"][d]]:
            parts.append(paragraph(f"Dial {dial}: not run yet: {', '.join(missing)}."))
    parts.append(paragraph("At a test dial d a run is right in d x (tint agrees) + (1 - d) x (tint conflicts). One "
                           "seed has no interval, and says little about a method."))
    return "".join(parts)


def _cells(runs: list[list[float]]) -> list[str]:
    """agree, conflict and flip, each as a mean with its interval over seeds."""
    cells = []
    for values in zip(*runs, strict=True):
        value, low, high, _ = several_seeds([math.nan if v is None else v for v in values])
        ends = "" if math.isnan(low) else f" [{100 * max(0, low):.0f}, {100 * min(1, high):.0f}]"
        cells.append("-" if math.isnan(value) else f"{100 * value:.0f} %{ends}")
    return cells
