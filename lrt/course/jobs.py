"""A notebook in a process of its own: start it through papermill, say why it failed, and leave nothing running behind.

Linux and macOS: it takes POSIX signals and file locks.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

OFFLINE = dict.fromkeys(
    ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "WANDB_DISABLED"), "1"
)


@dataclass(frozen=True)
class Job:
    """A notebook and the papermill process that runs it."""

    path: Path
    executed: Path  # its executed copy, written cell by cell
    process: subprocess.Popen
    started: float  # seconds since 1970, as file times are

    @property
    def name(self) -> str:
        return self.path.stem


def start(path: Path, executed: Path, given: dict, threads: int | None = None, keep_open: Iterable[int] = ()) -> Job:
    """Start a notebook with parameters, offline, on `threads` threads (as the environment says, or all cores).

    What papermill and the kernel print goes to a log beside the executed copy. `keep_open`: file descriptors that the
    process inherits, and so holds for as long as it lives."""
    env = os.environ | OFFLINE | {"JUPYTER_PREFER_ENV_PATH": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["OMP_NUM_THREADS"] = str(threads or os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    # Threads that spin while they wait for each other lose whole time slices to other programs: with two threads and a
    # busy one beside them a step of SFT took 1.5 s, and 0.55 s where they sleep (0.33 and 0.36 s alone).
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = [sys.executable, "-m", "papermill", str(path), str(executed), "-k", "python3", "--no-progress-bar",
               "--start-timeout", "300",  # a busy machine may take minutes to import what a kernel needs
               "-y", json.dumps(given)]  # JSON is YAML too: values keep their types
    with open(log_of(executed), "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                                   pass_fds=list(keep_open))
    return Job(path, executed, process, time.time())


def log_of(executed: Path) -> Path:
    return executed.with_suffix(".log")


def lost_its_port(job: Job) -> bool:
    """Did the kernel of a job that failed end before its first cell, because somebody took a port meant for it?

    jupyter_client chooses free ports and the kernel binds them a moment later: with several kernels at once, now and
    then another one is faster. Nothing was run, so the notebook can simply be started again."""
    try:
        text = log_of(job.executed).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "Address already in use" in text and "Kernel died before replying" in text


def check_parameters(path: Path, given: dict) -> None:
    """ValueError if a notebook does not know a parameter: papermill only warns, and the run would be another one."""
    from papermill import inspect_notebook  # slow to import

    if not path.is_file():
        raise ValueError(f"{path}: no such notebook")
    known = inspect_notebook(str(path))
    if unknown := [name for name in given if name not in known]:
        has = ", ".join(known) or "none"
        raise ValueError(f"{path}: no parameter {', '.join(unknown)}; its parameters cell has {has}")


def describe_failure(executed: Path) -> str:
    """A few lines on why a notebook failed: the cell and the end of its traceback, else the end of papermill's log."""
    said = [f"{executed.stem} failed."]
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except Exception:  # not written, or torn: the log has to do
        cells = []
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                first = next((line for line in cell.source.splitlines() if line.strip()), "")
                said.append(f"  cell [{cell.execution_count}]: {first}")
                said += _tail("\n".join(output.traceback) or f"{output.ename}: {output.evalue}")
                return "\n".join([*said, f"  The executed copy: {executed}"])
    log = log_of(executed)
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if "DeadKernelError" in text:
        said.append("  Its Python process died without a message, most often because memory ran out.")
    return "\n".join([*said, *_tail(text), f"  The whole log: {log}"])


def _tail(text, lines=6):
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return [f"    {line[:200]}" for line in plain.splitlines() if line.strip()][-lines:]


# --- stopping --------------------------------------------------------------------------------------------------------


def stop(jobs: Iterable[Job], patience: float = 5.0) -> None:
    """End jobs that still run, and everything below them (a kernel is in a session of its own): first politely, as
    Ctrl-C does, so that papermill ends its kernel; after `patience` seconds by force."""
    alive = [job.process for job in jobs if job.process.poll() is None]
    if not alive:
        return
    with _handled(signal.SIGINT, signal.SIG_IGN):  # a second Ctrl-C must not leave half of them
        family = [member for process in alive for member in _family(process.pid)]
        for process in alive:
            process.send_signal(signal.SIGINT)
        _, left = psutil.wait_procs(family, timeout=patience)
        for member in left:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass
        for process in alive:
            process.wait()


def _family(pid):
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def stops_when_told():
    """Told to end (by `kill`, or a terminal that closes), unwind as after Ctrl-C: no notebook is left running."""

    def leave(number, frame):
        raise SystemExit(128 + number)

    with _handled(signal.SIGTERM, leave), _handled(signal.SIGHUP, leave):
        yield


@contextmanager
def _handled(number, handler):
    if threading.current_thread() is not threading.main_thread():  # Python sets signals in the main thread only
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def only_run(out: Path):
    """Nobody else writes to `out` meanwhile: ValueError if another run does. Yields the lock's file descriptor:
    processes that inherit it hold the lock too, should this one be killed."""
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing to {out}: wait for it, or choose another folder") from None
        yield lock.fileno()
