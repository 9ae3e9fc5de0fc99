"""The assignment: one question, three own runs of minutes, and a seed a student, so that numbers can be checked.

    lrt classroom seed "Ada Lovelace"              # the seed, from the name by a stated hash
    lrt classroom run "Ada Lovelace" ada           # asks for a prediction, then trains, then writes report.md
    lrt classroom check ada bob carol              # the teacher: whose numbers are whose, and the class together

*Is it the data or the lesson that teaches a judge the shortcut?* The same base learns from the same number of votes
three times: from answers alone where the tint predicts the vote, from answers alone where it says nothing, and from
true traces where it predicts it. A submission is a folder:

    submission.json     name, course, seed         RUN.s<seed>.jsonl   a log each (`lrt.study.cell`)
    prediction.md       written before the runs    report.md           a table made of the logs, and the student's words

The seed chooses base, pairs, their order and all sampling. On one machine equal seeds give equal logs; on another the
last digits differ, and `TOLERANCE` says by how much they may.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lrt.stats import Interval, bootstrap, paired_bootstrap
from lrt.study import outcomes, pairing
from lrt.study.grid import Cell, read_grid
from lrt.study.logs import Run, read_run

RUNS = {  # name -> (the study's method that it is made from, the tint's dial, what it is called)
    "answers_tint": ("sft_answer", 0.9, "answers alone; the tint predicts the vote"),
    "answers_even": ("sft_answer", 0.5, "answers alone; the tint says nothing"),
    "traces_tint": ("sft_trace", 0.9, "true traces; the tint predicts the vote"),
}
SHORT = {"steps": 60, "measure_every": 20, "measured_pairs": 48, "final_pairs": 120, "judges": ()}
MEASURES = ("flip", "agree", "conflict", "in_distribution")
CONTRASTS = (("answers_even", "answers_tint"), ("traces_tint", "answers_tint"))
LOWEST, SEEDS = 1000, 999_000  # below are the study's own seeds
FIRST = 20  # steps of a quick check: the losses of the first few are the format's, and much alike for all seeds
TOLERANCE = 0.003  # between two machines, of a loss, as a share of it, in the median over steps
SAME_ANSWERS = 0.95  # of the pairs, after a whole rerun on another machine
TABLE = ("<!-- table: made of the logs by `lrt classroom run` -->", "<!-- end of table -->")
ASK = """# Prediction

Written before the runs. Replace each line of dots by a sentence with a number, and why.

1. After learning from answers alone where the tint predicts the vote, how many answers will flip when only the tint is
   exchanged (per cent)? ...
2. And where the tint says nothing? ...
3. And after learning from true traces, where the tint predicts the vote? ...
"""


def seed_of(name: str, course: str = "") -> int:
    """The seed of a name or an id: 1000 + (the first 8 bytes of SHA-256 of "lrt classroom", the course and the name,
    each on a line, in UTF-8, read as one number) mod 999000. Case, spaces at the ends and how many stand between words
    do not count (Unicode's NFKC and case folding). ValueError for an empty name."""
    plain = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in (course, name)]
    if not plain[1]:
        raise ValueError("the name is empty: a seed comes from a name or an id")
    digest = hashlib.sha256("\n".join(["lrt classroom", *plain]).encode()).digest()
    return LOWEST + int.from_bytes(digest[:8], "big") % SEEDS


def cells(seed: int) -> dict[str, Cell]:
    """The three runs of a seed."""
    grid = read_grid()
    return {name: replace(grid.cell(method, seed), method=name, dial=dial, **SHORT)
            for name, (method, dial, _) in RUNS.items()}


# --- the student -----------------------------------------------------------------------------------------------------


def run(name: str, out: str | Path, course: str = "", report: Callable[[str], None] = print) -> Path | None:
    """Make the runs of a name in the folder `out`, and its report; the report's path, or None as long as the prediction
    is not written. Killed and called again, it goes on. ValueError if the folder is another student's."""
    from lrt.files import write_json, write_text
    from lrt.study.cell import run_cell
    from lrt.study.pool import finished

    out, seed = Path(out), seed_of(name, course)
    said = {"name": name, "course": course, "seed": seed}
    out.mkdir(parents=True, exist_ok=True)
    if (out / "submission.json").is_file() and _submission(out) != said:
        raise ValueError(f"{out} is the folder of {_submission(out)['name']!r}: name another one")
    write_json(out / "submission.json", said)
    prediction = out / "prediction.md"
    if not prediction.is_file():
        write_text(prediction, ASK)
    if "..." in prediction.read_text(encoding="utf-8"):
        report(f"Your seed is {seed}. First write what you expect: fill in {prediction}, then call this again.")
        return None
    for run_name, cell in cells(seed).items():
        if not finished(cell, out):
            report(f"{run_name}: {RUNS[run_name][2]} ({cell.steps} steps from the base {cell.base})")
            run_cell(cell, out / "runs" / cell.name, out / f"{cell.name}.jsonl")
    path = out / "report.md"
    write_text(path, report_of(said, logs(out, seed), path.read_text(encoding="utf-8") if path.is_file() else ""))
    return path


def logs(folder: Path, seed: int) -> dict[str, Run]:
    """The three logs of a submission. ValueError names the file that is missing, or that is of another seed or other
    settings."""
    found = {}
    for name, cell in cells(seed).items():
        path = folder / f"{cell.name}.jsonl"
        if not path.is_file():
            raise ValueError(f"{path}: there is no such log; `lrt classroom run` makes it")
        found[name] = read_run(path)
        if found[name].cell != cell:
            theirs, ours = asdict(found[name].cell), asdict(cell)
            differ = [f"{key} is {theirs[key]!r}, not {ours[key]!r}" for key in ours if theirs[key] != ours[key]]
            raise ValueError(f"{path}: not the run that was assigned ({'; '.join(differ)})")
    return found


def report_of(said: dict, runs: dict[str, Run], before: str = "") -> str:
    """The report with its table made of the logs; the student's own words in `before` stay."""
    block = f"{TABLE[0]}\n\n{table_of(runs)}\n{TABLE[1]}"
    head, start, rest = before.partition(TABLE[0])
    if start and TABLE[1] in rest:
        return head + block + rest.partition(TABLE[1])[2]
    base = next(iter(runs.values())).cell.base
    return (f"# Is it the data or the lesson? {said['name']}, seed {said['seed']}, base {base}\n\n{block}\n\n"
            "## What I expected, and what came\n\n## Three traces, read\n\n## The data or the lesson?\n\n"
            "## What one seed cannot say\n")


def table_of(runs: dict[str, Run]) -> str:
    """The numbers of a submission as Markdown: each run at its last step, then the two comparisons, pair by pair."""
    heads = [outcomes.measure(name).label for name in MEASURES]
    lines = [f"| learned from | {' | '.join(f'{head}, %' for head in heads)} |", "|---" * (len(heads) + 1) + "|"]
    prompts = next(iter(runs.values())).final["prompt_id"].to_numpy()
    values = {name: {m: outcomes.values(one.final, m) for m in MEASURES} for name, one in runs.items()}
    for name, of in values.items():
        lines.append(f"| {RUNS[name][2]} | " + " | ".join(_ends(bootstrap(of[m], prompts)) for m in MEASURES) + " |")
    for a, b in CONTRASTS:
        cells_ = [_ends(paired_bootstrap(values[a][m], values[b][m], prompts), sign="+") for m in MEASURES]
        lines.append(f"| *{a} minus {b}, points* | " + " | ".join(cells_) + " |")
    n = len(prompts)
    return "\n".join(lines) + (f"\n\nTiny world, one seed, {n} pairs, last step of {SHORT['steps']}; brackets are 95 % "
                               "intervals over prompts, not over seeds.\n")


def _ends(interval: Interval, sign: str = "") -> str:
    if math.isnan(interval.value):
        return "does not apply"
    value, low, high = (f"{100 * number:{sign}.0f}" for number in interval[:3])
    return f"{value} [{low}, {high}]"


# --- the teacher -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """What was found of a submission; `fault` is empty where its numbers are its own."""

    folder: Path
    name: str
    seed: int
    runs: dict[str, Run]
    fault: str
    rerun: str  # what a rerun showed; "" without one


def check(folder: str | Path, rerun: str | None = None, whole: bool = False) -> Checked:
    """Hold a submission against its seed: the seed is the name's, the logs are the runs assigned, the report's table is
    theirs. `rerun` names one of `RUNS` to train again: its first steps, or, `whole`, all of it. ValueError only for a
    folder that is no submission, or a run that there is not."""
    folder = Path(folder)
    said = _submission(folder)
    if rerun is not None and rerun not in RUNS:
        raise ValueError(f"no run {rerun!r}; there are {', '.join(RUNS)}")
    seed = seed_of(said["name"], said["course"])
    one = Checked(folder, said["name"], seed, {}, "", "")
    if said["seed"] != seed:
        return replace(one, fault=f"its seed is {said['seed']}, and that of {said['name']!r} is {seed}")
    try:
        runs = logs(folder, seed)
    except ValueError as error:
        return replace(one, fault=str(error))
    one = replace(one, runs=runs)
    path = folder / "report.md"
    if not path.is_file() or table_of(runs) not in path.read_text(encoding="utf-8"):
        return replace(one, fault=f"the table in {path} is not that of the logs (`lrt classroom run` writes it again)")
    if rerun is None:
        return one
    told, same = compared(runs[rerun], again(runs[rerun].cell, None if whole else FIRST))
    return replace(one, rerun=f"{rerun}: {told}", fault="" if same else f"rerun of {rerun}: {told}")


def again(cell: Cell, steps: int | None = None) -> Run:
    """A cell trained again, in a temporary folder: all of it, or its first `steps`, which are the same rows in the same
    order, measured on a few pairs."""
    from lrt.study.cell import run_cell

    if steps is not None and steps < cell.steps:
        few = min(8, cell.measured_pairs)
        cell = replace(cell, steps=steps, measure_every=steps, measured_pairs=few, final_pairs=few)
    with TemporaryDirectory() as folder:
        log = Path(folder) / f"{cell.name}.jsonl"
        run_cell(cell, Path(folder) / "run", log, lambda *_: None)
        return read_run(log)


def compared(submitted: Run, rerun: Run) -> tuple[str, bool]:
    """(in words, whether they are the same run): the losses of the steps that both have, and, if the rerun is whole,
    the answers at its end. A log keeps three digits of a loss. Another seed has other pairs, and losses that differ by
    more than `TOLERANCE`, even from the same base."""
    steps = rerun.steps.index
    ours, theirs = (one.steps.loc[steps, "loss"].to_numpy(float) for one in (rerun, submitted))
    apart = float(np.median(np.abs(ours - theirs) / np.maximum(np.abs(ours), 1e-9)))
    if np.array_equal(ours, theirs):
        told, same = f"the losses of {len(steps)} steps are equal, digit by digit", True
    else:
        told, same = f"the losses of {len(steps)} steps differ by {apart:.2%} in the median", apart <= TOLERANCE
    if rerun.cell == submitted.cell:
        equal = float(np.mean((rerun.final["answers"] == submitted.final["answers"])
                              | (rerun.final["answers"].isna() & submitted.final["answers"].isna())))
        told, same = f"{told}; {equal:.0%} of the final answers are equal", same and equal >= SAME_ANSWERS
    return told + ("" if same else f", more than another machine explains ({TOLERANCE:.1%})"), same


def class_table(found: Sequence[Checked]) -> str:
    """Every submission on a line, in words, and the class together: the two contrasts in flips, over seeds and prompts,
    of those without fault."""
    from lrt.study.seeds import hierarchical

    lines = []
    for one in found:
        flips = ", ".join(f"{name} {100 * outcomes.mean(of.final, 'flip'):.0f} %" for name, of in one.runs.items())
        told = f"NOT ITS OWN: {one.fault}" if one.fault else f"flips: {flips}" + (f"; {one.rerun}" if one.rerun else "")
        lines.append(f"{one.name} (seed {one.seed}): {told}")
    own = {one.seed: one for one in found if not one.fault}
    for a, b in CONTRASTS if own else ():
        pair = pairing.paired([one.runs[a] for one in own.values()], [one.runs[b] for one in own.values()], "flip")
        whole, _ = hierarchical(pair.d_SB, pair.prompt_id_B)
        ends = "" if math.isnan(whole.low) else f" [{100 * whole.low:+.0f}, {100 * whole.high:+.0f}]"
        lines.append(f"The class, {a} minus {b}: flips {100 * whole.value:+.0f} points{ends} "
                     f"({len(own)} seed{'s' * (len(own) != 1)})")
    return "\n".join(lines)


def _submission(folder: Path) -> dict:
    path = folder / "submission.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        said = None
    kinds = {"name": str, "course": str, "seed": int}
    if not isinstance(said, dict) or set(said) != set(kinds) or any(type(said[k]) is not kinds[k] for k in kinds):
        raise ValueError(f"{path}: not there, or not what `lrt classroom run` writes (name, course, seed)")
    return said
