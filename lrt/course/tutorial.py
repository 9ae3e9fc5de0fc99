"""The main job: run the notebooks, gather what they measured, write the page.

Each notebook runs through papermill in a process of its own; those that do not need each other run side by side, a core
each. What is finished is remembered, so that the same call, made again after a failure, goes on from the notebook that
failed.

    out/notebooks/NAME.ipynb   executed copies          out/results.json   all records
    out/records/NAME.json      what each measured       out/index.html     the story on one page
    out/figures/*.png          what each drew           out/state.json     what is finished
"""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, astuple, replace
from pathlib import Path

import nbformat

import lrt
from lrt import profiles, stats
from lrt.course import jobs, page
from lrt.course.jobs import Job
from lrt.course.progress import SECONDS, UNKNOWN, Display, Stage, clock, status, with_step
from lrt.files import write_text
from lrt.style import METHODS

ORDER = (("01_data",), ("02_sft",), ("03_grpo", "04_listener_rewards"),
         ("05_contradictions", "06_controls"))
NEEDS = {"05_contradictions": ("02_sft", "03_grpo", "04_listener_rewards")}  # whose models it loads
TRAINS = {  # notebook -> (folder of its training, the profile's number of steps)
    "02_sft": ("sft", "sft_steps"),
    "03_grpo": ("grpo", "grpo_steps"),
    "04_listener_rewards": ("grpo_listener", "grpo_steps"),
}
Groups = Iterable[Iterable[str | Path]]  # the notebooks of a group run side by side, groups in turn


class NotebookFailed(RuntimeError):
    """A notebook did not run to its end; the message says where, why, and where its executed copy lies."""


def run(profile: str = "laptop", out: str | Path = "runs/tutorial", notebooks: Groups | None = None,
        **parameters) -> Path:
    """Run the notebooks (the project's own, if none are named) under a profile, then merge their records, write the
    page and print the table. Returns the page's path.

    `parameters` go to every notebook, beside profile and run_dir. ValueError for an unknown profile or parameter, or if
    another run writes to `out`; NotebookFailed if a notebook fails: call again to go on from there. Interrupted, it
    ends every process that it started.
    """
    groups = [[Path(path) for path in group] for group in (default_notebooks() if notebooks is None else notebooks)]
    start, display = time.monotonic(), Display()
    run_notebooks(groups, profile, out, display, **parameters)
    written = write_results([path.stem for group in groups for path in group], profile, out, display)
    display.say(f"Done in {clock(time.monotonic() - start)}.")
    return written


def default_notebooks() -> list[list[Path]]:
    """The notebooks in their order: of the repository that this package is in, else of the working directory."""
    for root in (Path(lrt.__file__).resolve().parents[1], Path.cwd()):
        groups = [[root / "notebooks" / f"{name}.ipynb" for name in group] for group in ORDER]
        if all(path.is_file() for group in groups for path in group):
            return groups
    raise ValueError("the notebooks are not here: run this in a clone of the repository, where notebooks/ is")


# --- running ---------------------------------------------------------------------------------------------------------


def run_notebooks(groups: Groups, profile: str, out: str | Path, display: Display | None = None, **parameters) -> None:
    """Run every notebook that is not finished yet; see `run`. All are checked before the first one starts."""
    settings, out, display = profiles.profile(profile), Path(out), display or Display()
    groups = [[Path(path) for path in group] for group in groups]
    paths = [path for group in groups for path in group]
    given = {"profile": profile, "run_dir": out.as_posix(), **parameters}
    for path in paths:
        jobs.check_parameters(path, given)
    keys, start = source_keys(paths, {"profile": asdict(settings), **parameters}), time.monotonic()
    board = _Board([[_stage(path.stem, settings) for path in group] for group in groups], start, display)
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    with jobs.only_run(out) as lock, jobs.stops_when_told():
        for group in groups:
            todo = [path for path in group if not is_finished(path.stem, keys[path.stem], out)]
            for path in group:
                if path not in todo:
                    board.finished(path.stem, "already done")
            threads = 1 if len(todo) > 1 else None
            running: list[Job] = []

            def start(path, threads=threads):
                return jobs.start(path, out / "notebooks" / path.name, given, threads, [lock])

            try:
                for path in todo:
                    running.append(start(path))
                failures = _watch(running, board, keys, out, start)
            finally:
                jobs.stop(running)
            if failures:
                raise NotebookFailed("\n\n".join([*failures, "The same command goes on from there."]))


def _stage(name, settings):
    expected = SECONDS.get(settings.name, {}).get(name, UNKNOWN)
    return Stage(name, expected, total=getattr(settings, TRAINS[name][1]) if name in TRAINS else 0)


def _watch(running, board, keys, out, start):
    """Wait for the jobs of a group (`running` loses those that end); returns what to say of those that failed. One that
    fails leaves the others running: their work is not lost."""
    failures, again = [], set()
    while running:
        time.sleep(0.2)
        for job in running:
            board.goes_on(job, out)
        for job in [job for job in running if job.process.poll() is not None]:
            running.remove(job)
            if job.process.returncode == 0:
                jobs.log_of(job.executed).unlink(missing_ok=True)
                remember(job.name, keys[job.name], board.stages[job.name].elapsed, out)
                board.finished(job.name, f"done in {clock(board.stages[job.name].elapsed)}")
            elif jobs.lost_its_port(job) and job.name not in again:
                again.add(job.name)
                board.display.say(f"{job.name}: its kernel found a port taken; started again")
                running.append(start(job.path))
            else:
                failures.append(jobs.describe_failure(job.executed))
                others = " and ".join(other.name for other in running)
                board.display.say(f"{job.name}: failed" + (f"; still running: {others}" if others else ""))
        board.show()
    return failures


class _Board:
    """Where every notebook stands, and the line that says so."""

    def __init__(self, groups, start, display):
        self.stages = {stage.name: stage for group in groups for stage in group}
        self.names = [[stage.name for stage in group] for group in groups]
        self.start, self.display = start, display

    def goes_on(self, job, out):
        stage = replace(self.stages[job.name], elapsed=time.time() - job.started)
        if stage.total:
            stage = with_step(stage, out / TRAINS[job.name][0] / "log.jsonl", job.started)
        self.stages[job.name] = stage

    def finished(self, name, how):
        self.stages[name] = replace(self.stages[name], finished=True)
        self.display.say(f"{name}: {how}")

    def show(self):
        groups = [[self.stages[name] for name in names] for names in self.names]
        self.display.update(status(groups, time.monotonic() - self.start))


# --- what is finished ------------------------------------------------------------------------------------------------


def source_keys(paths: list[Path], given: dict) -> dict[str, str]:
    """A key for each notebook: it changes with the cells (not their outputs), the parameters, our version, and with the
    keys of the notebooks whose models it loads."""
    keys: dict[str, str] = {}
    for path in paths:
        cells = [[cell.cell_type, cell.source] for cell in nbformat.read(path, as_version=4).cells]
        needed = [keys.get(name, "") for name in NEEDS.get(path.stem, ())]
        content = json.dumps([cells, given, lrt.__version__, needed], sort_keys=True)
        keys[path.stem] = hashlib.sha256(content.encode()).hexdigest()
    return keys


def is_finished(name: str, key: str, out: Path) -> bool:
    """Did this very notebook run to its end, and is what it left still there?"""
    entry = _state(out).get(name, {})
    left = [out / "notebooks" / f"{name}.ipynb", *([records_file(out, name)] if entry.get("records") else [])]
    return entry.get("key") == key and all(path.is_file() for path in left)


def remember(name: str, key: str, seconds: float, out: Path) -> None:
    """Note in `state.json` that a notebook is finished."""
    entry = {"key": key, "seconds": round(seconds, 1), "records": records_file(out, name).is_file()}
    write_text(out / "state.json", json.dumps(_state(out) | {name: entry}, indent=1) + "\n")


def _state(out):
    try:
        state = json.loads((out / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # none yet, or not ours: run everything
    return {name: entry for name, entry in state.items() if isinstance(entry, dict)} if isinstance(state, dict) else {}


def records_file(out: Path, name: str) -> Path:
    return out / "records" / f"{name}.json"


# --- results ---------------------------------------------------------------------------------------------------------


def write_results(names: list[str], profile: str, out: str | Path, display: Display | None = None) -> Path:
    """Merge the records of the notebooks into results.json, write index.html, print the table of methods x splits and
    where the page is. Returns the page's path. ValueError if no notebook left records."""
    from lrt.evaluate import format_table
    from lrt.runs import read_log
    from lrt.study import page as study_page  # like the next, brings torch, which takes seconds to import

    out, display = Path(out), display or Display()
    records, notes = merge_records([records_file(out, name) for name in names])
    for note in notes:
        display.say(note)
    if not records:
        raise ValueError(f"no notebook left records in {out / 'records'}")
    stats.save_records(records, out / "results.json")
    executed = [path for name in names if (path := out / "notebooks" / f"{name}.ipynb").is_file()]
    listener = profiles.profile(profile).listener
    logs = {method: read_log(out / method) for method, steps in TRAINS.values() if steps == "grpo_steps"}
    page.draw_overview(records, logs, out / "figures")
    many = study_page.whole()
    study_page.draw(*many[:2], out / "figures")
    told = [text.replace("*", "") for text in study_page.paragraphs(*many, details=False)]
    written = page.write_page(records, out / "figures", out / "index.html", executed, listener, told)
    print(f"\nTiny world, one seed.\n\n{format_table([r for r in records if r.method in METHODS])}\n")
    print(f"The story on one page: {written}", flush=True)
    return written


def merge_records(files: Iterable[Path]) -> tuple[list[stats.Record], list[str]]:
    """(records, notes): those of all files that are there, each number once. Where two files give one number
    differently the later one counts, and a note says so."""
    merged: dict[tuple, stats.Record] = {}
    notes = []
    for file in filter(Path.is_file, files):
        for record in stats.load_records(file):
            key = (record.method, record.split, record.metric, record.seed)
            before = merged.get(key)
            if before and str(astuple(before)) != str(astuple(record)):
                name = f"{record.metric} of {record.method} on {record.split}"
                notes.append(f"{file.stem}: {name} is {record.value:.4f}; an earlier notebook had {before.value:.4f}; "
                             "the later number counts")
            merged[key] = record
    return list(merged.values()), notes
