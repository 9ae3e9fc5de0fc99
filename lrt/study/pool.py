"""Many runs of the grid, as many side by side as there are cores; killed at any moment, they go on.

Each run is a process of its own with one thread (`lrt.study.cell`). What is finished has a log in the folder of logs
and is not run again; what is not goes on from its last checkpoint. A run that fails says so at the end, and does not
stop the others.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from tqdm import tqdm

from lrt.checkpoints import last_checkpoint
from lrt.course.jobs import OFFLINE, only_run, stops_when_told
from lrt.files import write_json
from lrt.models import data_dir, find
from lrt.runs import read_log
from lrt.study.grid import Cell

POLL = 1.0  # seconds


def logs_folder() -> Path:
    return data_dir() / "study" / "logs"


def log_of(cell: Cell, logs: Path) -> Path:
    return logs / f"{cell.name}.jsonl"


def finished(cell: Cell, logs: Path) -> bool:
    """Whether a cell's log is there. ValueError if a log of that name is of other settings."""
    path = log_of(cell, logs)
    if not path.exists():
        return False
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    try:
        found = Cell.from_dict(json.loads(first)["cell"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}, line 1 does not say which run this is: move the file to run it anew") from None
    if differ := cell.differing(found):
        raise ValueError(f"{path} is of a run with other settings ({', '.join(differ)}): move it, or name the method "
                         "otherwise")
    return True


def run_study(cells: Sequence[Cell], runs: Path, logs: Path, jobs: int | None = None,
              progress: Callable[[str], None] | None = None) -> list[Path]:
    """Run what is not finished, and return the logs of all cells, in order.

    `runs` holds the unfinished runs; `jobs` is how many run side by side (default: the cores). `progress` gets a line
    when a run ends; a bar with the time left stands on stderr. RuntimeError at the end names the runs that failed;
    ValueError, before anything is run, a log or an unfinished run that is of other settings, or a model that is not
    there.
    """
    todo = [cell for cell in cells if not finished(cell, logs)]
    for cell in todo:
        check_unfinished(cell, runs / cell.name)
        for model in {cell.base, *cell.listeners, *cell.judges} - {"base"}:
            find(model)
    runs.mkdir(parents=True, exist_ok=True)
    jobs = jobs or psutil.cpu_count(logical=True) or 1
    say = progress or (lambda line: tqdm.write(line, file=sys.stderr))
    with only_run(runs) as lock, stops_when_told():
        failed = _Pool(todo, runs, logs, jobs, say, lock).run()
    if failed:
        where = "\n".join(f"  {cell.name}: {runs / cell.name / 'errors.txt'}" for cell in failed)
        raise RuntimeError(f"{len(failed)} of {len(todo)} runs failed; their last words are in\n{where}")
    return [log_of(cell, logs) for cell in cells]


class _Pool:
    """The processes that run, and the bar. They hold the `lock` too: should this process be killed, nobody else writes
    to their folders before they have noticed."""

    def __init__(self, todo: list[Cell], runs: Path, logs: Path, jobs: int, say: Callable[[str], None], lock: int):
        self.waiting, self.runs, self.logs, self.jobs, self.say, self.lock = list(todo), runs, logs, jobs, say, lock
        self.running: dict[str, tuple[Cell, subprocess.Popen, float]] = {}
        self.failed: list[Cell] = []
        self.total, self.done = len(todo), {cell.name: resumed_at(cell, runs / cell.name) for cell in todo}
        first, steps = sum(self.done.values()), sum(cell.steps for cell in todo)
        self.bar = tqdm(total=steps, initial=first, unit="step", file=sys.stderr, mininterval=1.0, disable=not todo)

    def run(self) -> list[Cell]:
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.jobs:
                    self._start(self.waiting.pop(0))
                time.sleep(POLL)
                self._look()
        finally:
            for _, process, _ in self.running.values():
                process.terminate()
            for _, process, _ in self.running.values():
                process.wait()
            self.bar.close()
        return self.failed

    def _start(self, cell: Cell) -> None:
        out = self.runs / cell.name
        out.mkdir(exist_ok=True)
        write_json(out / "cell.json", json.loads(cell.to_json()))
        environment = {**os.environ, **OFFLINE, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                       "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(Path(__file__).parents[2])}
        with open(out / "errors.txt", "w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "lrt.study.cell", str(out), str(log_of(cell, self.logs)), str(os.getpid())],
                env=environment, stdout=subprocess.DEVNULL, stderr=errors, stdin=subprocess.DEVNULL,
                pass_fds=[self.lock],
            )
        self.running[cell.name] = (cell, process, time.time())

    def _look(self) -> None:
        for name, (cell, process, since) in list(self.running.items()):
            self.done[name] = self._steps(name, since)
            if process.poll() is None:
                continue
            del self.running[name]
            minutes = (time.time() - since) / 60
            if process.returncode:
                self.failed.append(cell)
                self.say(f"{name} failed after {minutes:.1f} min")
            else:
                self.done[name] = cell.steps
                shutil.rmtree(self.runs / name)
                self.say(f"{name} done in {minutes:.1f} min")
        ended = self.total - len(self.waiting) - len(self.running)
        self.bar.set_description(f"{ended} of {self.total} runs", refresh=False)
        self.bar.update(sum(self.done.values()) - self.bar.n)

    def _steps(self, name: str, since: float) -> int:
        log = self.runs / name / "log.jsonl"
        if not log.exists() or log.stat().st_mtime < since:  # as an earlier process left it: its last steps come again
            return self.done[name]
        lines = read_log(log.parent)
        return lines[-1]["step"] if lines else 0


def resumed_at(cell: Cell, out: Path) -> int:
    """The step from which an unfinished run goes on: all of them where only its last measurement is missing."""
    return cell.steps if (out / "done.json").exists() else last_checkpoint(out)[1]


def check_unfinished(cell: Cell, out: Path) -> None:
    """ValueError if an unfinished run of that name is something else."""
    path = out / "cell.json"
    try:
        same = not path.exists() or Cell.from_dict(json.loads(path.read_text())) == cell
    except (ValueError, TypeError, AttributeError):  # torn, or of no cell
        same = False
    if not same:
        raise ValueError(f"{out} holds an unfinished run with other settings: remove it to begin again")
