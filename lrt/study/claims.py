"""The claims of the study held against its logs: `data/study/claims.toml` says what was claimed before it was run, and
`data/study/PLAN.md` what decides. `write` makes the tables that are kept beside them.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lrt.models import data_dir
from lrt.stats import holm
from lrt.study.fresh import fresh_rows, held_against
from lrt.study.grid import Cell, read_grid
from lrt.study.logs import Run, read_runs
from lrt.study.outcomes import Paired, at_matched, matched_steps, measure, paired
from lrt.study.seeds import hierarchical

BASE = "base"  # as a method to compare with: the model before training
LEVEL = 0.05
DRAWS = 10_000  # of the bootstrap, where a verdict hangs on them
SHOWN = ("flip", "conflict", "contradiction/llava", "truth", "told", "in_distribution")
WHERE = "in the tiny world"  # part of every verdict
PLANNED = 10  # seeds that PLAN.md asks for; with fewer a verdict is one on the way
NAN = float("nan")


@dataclass(frozen=True)
class Claim:
    """What a method does to a measure, against each of the others named."""

    id: str
    about: str
    text: str
    method: str
    against: tuple[str, ...]
    measure: str
    predicted: Literal["higher", "lower"]


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


@dataclass(frozen=True)
class Decision:
    claim: Claim
    comparisons: tuple[Comparison, ...]
    verdict: Literal["supported", "not supported", "reversed", "not run"]

    @property
    def seeds(self) -> int:
        """Of the comparison that has fewest."""
        return min(len(c.seeds) for c in self.comparisons)

    def in_words(self) -> str:
        """The verdict as a table says it; as one on the way while seeds of the plan are missing."""
        if self.verdict == "not run":
            return self.verdict
        so_far = f"so far, with {self.seeds} of {PLANNED} seeds: " if self.seeds < PLANNED else ""
        return f"{so_far}**{self.verdict}** {WHERE}"


def read_claims(path: str | Path | None = None) -> list[Claim]:
    """The claims of a file, by default the study's own. ValueError names the file, the claim and what does not fit."""
    path = Path(path) if path else data_dir() / "study" / "claims.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None
    rows = raw.get("claims")
    if set(raw) != {"claims"} or not isinstance(rows, list):
        raise ValueError(f"{path}: expected [[claims]] and nothing else, found {', '.join(raw) or 'nothing'}")
    claims = [_claim(row, f"{path}, claim {i}") for i, row in enumerate(rows, start=1)]
    ids = [claim.id for claim in claims]
    if again := [name for name in ids if ids.count(name) > 1]:
        raise ValueError(f"{path}: there are two claims {again[0]!r}")
    return claims


def _claim(row, where: str) -> Claim:
    names = [field.name for field in fields(Claim)]
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"{where}: expected exactly the fields {', '.join(names)}")
    for name, value in row.items():
        texts = value if name == "against" and isinstance(value, list) else [value]
        if (name == "against") != isinstance(value, list) or not all(isinstance(t, str) and t for t in texts):
            raise ValueError(f"{where}, {name}: {value!r} does not fit")
    against = row["against"]
    if not against or len(set(against)) < len(against) or row["method"] in against:
        raise ValueError(f"{where}, against: expected other methods, each once, not {against!r}")
    if row["predicted"] not in ("higher", "lower"):
        raise ValueError(f"{where}, predicted: 'higher' or 'lower', not {row['predicted']!r}")
    try:
        measure(row["measure"])
    except ValueError as error:
        raise ValueError(f"{where}, measure: {error}") from None
    return Claim(**{**row, "against": tuple(against)})


# --- deciding --------------------------------------------------------------------------------------------------------


def decide(claim: Claim, runs: Sequence[Run]) -> Decision:
    """A claim held against the runs, at the last step (see `claims.toml` for the rule).

    *not run*: a method without runs, fewer than two seeds in common, or a measure that applies to nothing, in any of
    its comparisons.
    """
    of = {name: [run for run in runs if run.cell.method == name] for name in (claim.method, *claim.against)}
    compared = [
        _compared(paired(of[claim.method], BASE if name == BASE else of[name], claim.measure), name)
        for name in claim.against
    ]
    p = [c.p for c in compared]
    if np.isnan(p).any():
        return Decision(claim, tuple(compared), "not run")
    compared = [replace(c, p_holm=float(q)) for c, q in zip(compared, holm(p), strict=True)]
    predicted = 1 if claim.predicted == "higher" else -1
    sides = [predicted * np.sign(c.effect) if c.p_holm <= LEVEL else 0 for c in compared]  # 1: as predicted, and clear
    verdict = "supported" if min(sides) == 1 else "reversed" if sides[0] == -1 else "not supported"
    return Decision(claim, tuple(compared), verdict)


def _compared(found: Paired, against: str) -> Comparison:
    interval, p = hierarchical(found.d_SB, found.prompt_id_B, n_boot=DRAWS, level=1 - LEVEL)
    known_SB = ~np.isnan(found.d_SB)
    seeds = tuple(s for s, any_pair in zip(found.seeds, known_SB.any(axis=1), strict=True) if any_pair)
    return Comparison(against, *interval[:3], p, NAN, int(known_SB.any(axis=0).sum()), seeds)


# --- effects without verdicts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """A method against the plain GRPO that shares its settings."""

    method: str
    reference: str
    at: Literal["last step", "matched accuracy"]
    measure: str
    effect: float
    low: float
    high: float
    n: int  # pairs
    seeds: tuple[int, ...]


def reference_of(method: str, cells: Mapping[str, Cell], reference: str = "grpo") -> str:
    """The plain GRPO whose settings are those of a method but for its reward; `reference` if there is none, and for
    itself. cells: one of each method."""
    def but_for_reward(cell: Cell) -> Cell:
        return replace(cell, method="", seed=0, reward="none", listeners=(), verdict=True, weights=())

    wanted = but_for_reward(cells[method])
    same = [name for name, cell in cells.items()
            if name != method and cell.reward == "none" and but_for_reward(cell) == wanted]
    return reference if reference in (method, *same) or not same else sorted(same)[0]


def effects(runs: Sequence[Run], reference: str = "grpo", measures: Sequence[str] = SHOWN,
            matched: bool = False) -> list[Effect]:
    """Each method against its reference (`reference_of`), at the last step or where both are as accurate in
    distribution (`outcomes.at_matched`). The reference itself has none, nor has a method whose reference has no runs.
    """
    cells = {run.cell.method: run.cell for run in runs}
    of = {name: [run for run in runs if run.cell.method == name] for name in cells}
    found = []
    for method in cells:
        other = reference_of(method, cells, reference)
        if other == method or other not in of:
            continue
        a, b = of[method], of[other]
        steps = matched_steps(a, b) if matched else None
        for name in measures:
            c = _compared(at_matched(a, b, name, steps=steps).paired if matched else paired(a, b, name), other)
            at = "matched accuracy" if matched else "last step"
            found.append(Effect(method, other, at, name, c.effect, c.low, c.high, c.n, c.seeds))
    return found


# --- tables ----------------------------------------------------------------------------------------------------------


def claims_table(decisions: Sequence[Decision]) -> str:
    """Markdown: a line that says what it stands on, and a row a comparison."""
    rows = []
    for d in decisions:
        for i, c in enumerate(d.comparisons):
            first = i == 0
            claim = f"**{d.claim.id}** {d.claim.text}" if first else d.claim.id
            rows.append((claim, d.claim.predicted, c.against, _points(c), c.n or "", len(c.seeds) or "",
                         _p(c.p_holm), d.in_words() if first else ""))
    used = {(method, seed) for d in decisions for c in d.comparisons for seed in c.seeds
            for method in (d.claim.method, c.against) if method != BASE}
    head = ("claim", "predicted", "against", "effect, points", "pairs", "seeds", "p (Holm)", "verdict")
    return f"{_stands_on(used)}\n\n{_markdown(head, rows)}"


def effects_table(runs: Sequence[Run], reference: str = "grpo", measures: Sequence[str] = SHOWN,
                  matched: bool = False, labels: Mapping[str, str] | None = None) -> str:
    """Markdown: a row a method, a column a measure; effects and intervals, no verdicts. `labels`: method -> a few
    words; they also give the order of rows."""
    return _effects_table(effects(runs, reference, measures, matched), labels or {})


def _effects_table(found: Sequence[Effect], labels: Mapping[str, str]) -> str:
    of = {(e.method, e.measure): e for e in found}
    methods, measures = (list(dict.fromkeys(names)) for names in (zip(*of, strict=True) if of else ((), ())))
    order = [name for name in labels if name in methods] + [name for name in methods if name not in labels]
    rows = []
    for method in order:
        own = [of[method, name] for name in measures]
        rows.append((labels.get(method, method), own[0].reference, max(len(e.seeds) for e in own), *map(_points, own)))
    used = {(method, seed) for e in found for seed in e.seeds for method in (e.method, e.reference)}
    head = ("method", "against", "seeds", *(measure(name).label for name in measures))
    return f"{_stands_on(used)}\n" + (f"\n{_markdown(head, rows)}" if rows else "")


def _stands_on(used: set[tuple[str, int]]) -> str:
    """How many runs, methods and seeds."""
    if not used:
        return f"No runs to compare {WHERE} yet."
    methods, seeds = {method for method, _ in used}, sorted({seed for _, seed in used})
    gapless = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
    which = f"{seeds[0]} to {seeds[-1]}" if gapless else ", ".join(map(str, seeds))
    return (f"{len(used)} runs {WHERE}: {len(methods)} methods, {'seeds' if len(seeds) > 1 else 'seed'} {which}. "
            "Effects are differences in points, with 95 % intervals over seeds and prompts.")


def in_points(difference: float) -> str:
    """"-12.0" for a difference of shares of -0.12."""
    return f"{round(100 * difference, 1) + 0:+.1f}"  # + 0: never "-0.0"


def _points(c: Comparison | Effect) -> str:
    value, low, high = map(in_points, (c.effect, c.low, c.high))
    return "" if np.isnan(c.effect) else value if np.isnan(c.low) else f"{value} [{low}, {high}]"


def _p(p: float) -> str:
    return "" if np.isnan(p) else f"{p:.4f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# --- files -----------------------------------------------------------------------------------------------------------


def rendered(runs: Sequence[Run], claims: Sequence[Claim], labels: Mapping[str, str] | None = None,
             fresh: Sequence[Run] = ()) -> tuple[str, str]:
    """(claims.md, claims.json): the same bytes from the same logs. `fresh`: runs of seeds that decide nothing."""
    decisions, labels = [decide(claim, runs) for claim in claims], labels or {}
    last = effects(runs)
    matched = effects(runs, measures=[name for name in SHOWN if name != "in_distribution"], matched=True)
    parts = {
        "# The claims and the logs": "Made by `lrt study claims`, from logs/. What decides: PLAN.md.",
        "## Claims": claims_table(decisions),
        "## Every method at the last step": _effects_table(last, labels),
        "## Every method where it is as accurate in distribution as what it is held against":
            _effects_table(matched, labels),
    }
    if fresh:
        head = ["method", "measure", "runs", "one new run, 95 %", "fresh runs", "inside"]
        parts["## Fresh seeds where single runs are expected, per cent"] = _markdown(head, fresh_rows(
            held_against(runs, fresh)))
    records = {
        "claims": [asdict(d.claim) | asdict(c) | {"verdict": d.verdict} for d in decisions for c in d.comparisons],
        "effects": [asdict(effect) for effect in [*last, *matched]],
    }
    page = "\n".join(f"{head}\n\n{body.rstrip()}\n" for head, body in parts.items())
    lists = [f'"{name}": [\n' + ",\n".join(json.dumps(_plain(row)) for row in rows) + "\n]"
             for name, rows in records.items()]
    return page, "{\n" + ",\n".join(lists) + "\n}\n"


def _plain(row: dict) -> dict:
    """Six digits, which are the same on every machine, and null for NaN."""
    return {name: (None if np.isnan(v) else round(v, 6)) if isinstance(v, float) else v for name, v in row.items()}


def write(folder: str | Path | None = None) -> tuple[Path, Path]:
    """Write claims.md and claims.json into a folder of the study (by default `data/study`), from the logs in its
    `logs`; its own claims.toml and study.toml count, if it has them, otherwise the study's."""
    folder = Path(folder) if folder else data_dir() / "study"
    claims, grid = (path if path.exists() else None for path in (folder / "claims.toml", folder / "study.toml"))
    runs, fresh = (read_runs(folder / name) for name in ("logs", "fresh"))
    texts = rendered(runs, read_claims(claims), read_grid(grid).labels, fresh)
    paths = folder / "claims.md", folder / "claims.json"
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
