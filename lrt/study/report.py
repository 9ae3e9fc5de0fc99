"""The study's results as tables: `write` keeps them beside the logs (`lrt study claims`)."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lrt.files import write_text
from lrt.models import data_dir
from lrt.study.claims import BASE, WHERE, Claim, Decision, decide, read_claims
from lrt.study.effects import Comparison, Effect, against_plain, own_ear, stopped_early
from lrt.study.fresh import HEAD, fresh_rows, held_against
from lrt.study.grid import Grid, read_grid
from lrt.study.logs import Run, read_runs
from lrt.study.outcomes import measure
from lrt.words import in_points, label_of, name_of

IN_DISTRIBUTION = "\"In distribution\" is dial 0.9, also for runs that were trained at another."
MATCHED = ("Each run at the first measured step at which it reaches the highest accuracy in distribution that both "
           "reach (smoothed; the last column says how well that matches). Seeds in which one of the two is still at "
           "its base are left out.")
STARRED = "\\* heard by a listener that was also paid for: no outside view."
CHOSEN = ("Each run's checkpoint of highest accuracy in distribution on half of the pairs that are measured on the "
          "way: what it gains over the last step of that run, on the other half. Few pairs, so read the intervals.")


def claims_table(decisions: Sequence[Decision]) -> str:
    """Markdown: a line that says what it stands on, and a row a comparison."""
    rows = []
    for d in decisions:
        for i, c in enumerate(d.comparisons):
            first = i == 0
            claim = f"**{d.claim.id}** {d.claim.text}" if first else d.claim.id
            level = "" if np.isnan(c.level) else f"{100 * c.level:.1f}"
            rows.append((claim, d.claim.predicted, name_of(c.against), level, _points(c), c.n or "", _seeds(c),
                         _p(c.p_holm), d.in_words() if first else ""))
    used = {(method, seed) for d in decisions for c in d.comparisons for seed in c.seeds
            for method in (d.claim.method, c.against) if method != BASE}
    head = ("claim", "predicted", "against", "level of that, %", "effect, points", "pairs", "seeds", "p (Holm)",
            "verdict")
    return f"{_stands_on(used)}\n\n{markdown(head, rows)}"


def tabulated(found: Sequence[Effect], grid: Grid) -> str:
    """Markdown: a row a method, in the grid's order, a column a measure; effects and intervals, no verdicts. A star
    marks what was measured with a listener that rewarded one of the two."""
    of = {(e.method, e.measure): e for e in found}
    methods, measures = list(dict.fromkeys(e.method for e in found)), list(dict.fromkeys(e.measure for e in found))
    order = [name for name in grid.changes if name in methods] + [name for name in methods if name not in grid.changes]
    rows = []
    for method in order:
        own = [of[method, name] for name in measures]
        against = "its last step" if own[0].at == "best checkpoint" else label_of(own[0].reference, grid.labels)
        most = max(own, key=lambda e: len(e.seeds))
        rows.append((label_of(method, grid.labels), against, _seeds(most), *(_cell(e, most, grid) for e in own)))
    used = {(method, seed) for e in found for seed in e.seeds for method in (e.method, e.reference)}
    head = ("method", "against", "seeds", *(measure(name).label for name in measures))
    note = f"\n{STARRED}\n" if any("*" in cell for row in rows for cell in row[3:]) else ""
    return f"{_stands_on(used)}\n" + (f"\n{markdown(head, rows)}{note}" if rows else "")


def _cell(e: Effect, most: Effect, grid: Grid) -> str:
    fewer = f" ({_seeds(e)})" if 0 < len(e.seeds) < len(most.seeds) else ""
    star = "\\*" if own_ear(e, grid) else ""
    return f"{_points(e)}{star}{fewer}" if e.seeds else ""


def _stands_on(used: set[tuple[str, int]]) -> str:
    """How many runs, methods and seeds."""
    if not used:
        return f"No runs to compare {WHERE} yet."
    methods, seeds = {method for method, _ in used}, sorted({seed for _, seed in used})
    gapless = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
    which = f"{seeds[0]} to {seeds[-1]}" if gapless else ", ".join(map(str, seeds))
    return (f"{len(used)} runs {WHERE}: {len(methods)} methods, {'seeds' if len(seeds) > 1 else 'seed'} {which}. "
            "Effects are differences in points, with 95 % intervals over seeds and prompts.")


def _points(c: Comparison | Effect) -> str:
    value, low, high = map(in_points, (c.effect, *np.clip([c.low, c.high], -1, 1)))  # no shares differ by more
    known = not np.isnan(c.low) and len(c.seeds) > 2  # an interval from two seeds says "anything", in large numbers
    return "" if np.isnan(c.effect) else f"{value} [{low}, {high}]" if known else value


def _seeds(c: Comparison | Effect) -> str:
    """"9", or "8 of 9" where one says nothing."""
    counted, ran = len(c.seeds), len(c.seeds) + len(c.left_out)
    return f"{counted} of {ran}" if c.left_out else str(ran or "")


def _p(p: float) -> str:
    return "" if np.isnan(p) else f"{p:.4f}" if round(p, 4) else "< 0.0001"


def markdown(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A table, its cells as text."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# --- files -----------------------------------------------------------------------------------------------------------


def rendered(runs: Sequence[Run], claims: Sequence[Claim], grid: Grid,
             fresh: Sequence[Run] = ()) -> tuple[str, str]:
    """(claims.md, claims.json): the same bytes from the same logs. `fresh`: runs of seeds that decide nothing."""
    decisions = [decide(claim, runs) for claim in claims]
    last = against_plain(runs, grid=grid)
    matched = against_plain(runs, matched=True, grid=grid)
    deciding = {name for claim in claims for name in (claim.method, *claim.against)}
    early = stopped_early([run for run in runs if run.cell.method in deciding])
    parts = {
        "# The claims and the logs": "Made by `lrt study claims`, from logs/. What decides: PLAN.md.",
        "## Claims": claims_table(decisions),
        "## Every method at the last step": f"{IN_DISTRIBUTION}\n\n{tabulated(last, grid)}",
        "## Every method where it is as accurate in distribution as what it is held against":
            f"{MATCHED}\n\n{tabulated(matched, grid)}",
        "## The best checkpoint by validation in distribution, against a run's own last step":
            f"{CHOSEN}\n\n{tabulated(early, grid)}",
    }
    if fresh:
        parts["## Fresh seeds where single runs are expected"] = markdown(HEAD, fresh_rows(held_against(runs, fresh)))
    records = {
        "claims": [asdict(d.claim) | asdict(c) | {"verdict": d.verdict} for d in decisions for c in d.comparisons],
        "effects": [asdict(effect) for effect in [*last, *matched, *early]],
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
    `logs`; its own claims.toml and study.toml count, if it has them, otherwise the study's.
    ValueError for a log of a seed beyond the plan."""
    folder = Path(folder) if folder else data_dir() / "study"
    claims, grid = (path if path.exists() else None for path in (folder / "claims.toml", folder / "study.toml"))
    plan = read_grid(grid)
    runs, fresh = (read_runs(folder / name) for name in ("logs", "fresh"))
    planned = {(cell.method, cell.seed) for cell in plan.cells()}
    known = {method for method, _ in planned}
    for run in runs:
        if run.cell.method in known and (run.cell.method, run.cell.seed) not in planned:
            raise ValueError(f"{folder / 'logs' / run.cell.name}.jsonl: seed {run.cell.seed} is not one of the plan's; "
                             f"what is run beyond the plan belongs in {folder / 'fresh'}, and decides nothing")
    texts = rendered(runs, read_claims(claims), plan, fresh)
    paths = folder / "claims.md", folder / "claims.json"
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    return paths
