"""How far the notebooks of the main job are, and how long they will take: pure but for reading logs and writing lines.

The estimate starts from a table of seconds, measured once, and is rescaled by the pace of this machine as it shows.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple


class Phases(NamedTuple):
    """Seconds that a notebook takes: before its training, for each step of it, and after it (all in `before` if it
    trains nothing)."""

    before: float
    step: float = 0.0
    after: float = 0.0


# Measured once, on two CPU cores. What matters is their proportion: the pace corrects the rest.
SECONDS = {
    "laptop": {
        "01_data": Phases(50),
        "02_sft": Phases(60, 0.45, 30),
        "03_grpo": Phases(45, 2.2, 50),
        "04_listener_rewards": Phases(36, 2.3, 56),
        "05_contradictions": Phases(200),
        "06_controls": Phases(40),
    },
    "ci": {
        "01_data": Phases(15),
        "02_sft": Phases(25, 0.5, 8),
        "03_grpo": Phases(35, 2, 12),
        "04_listener_rewards": Phases(25, 2, 15),
        "05_contradictions": Phases(150),
        "06_controls": Phases(40),
    },
}
UNKNOWN = Phases(30)  # a notebook that is not in the table
TRUST = 30.0  # seconds that must pass before the pace of this machine counts as much as the table


@dataclass(frozen=True)
class Stage:
    """A notebook on its way. `elapsed`: seconds since its start, None before it or if it needed no run; `step` of
    `total`: of its training, logged `at` seconds after the start; 0 before that begins or if it trains nothing."""

    name: str
    expected: Phases
    elapsed: float | None = None
    finished: bool = False
    step: int = 0
    total: int = 0
    at: float = 0.0

    @property
    def whole(self) -> float:
        """Seconds expected in all."""
        return self.expected.before + self.expected.step * self.total + self.expected.after

    def __str__(self) -> str:
        return f"{self.name} step {self.step}/{self.total}" if self.step else self.name


def seconds_left(groups: list[list[Stage]]) -> float:
    """Estimated seconds until the last notebook is done; the stages of a group run side by side, groups in turn."""
    seen = [_seen(stage) for group in groups for stage in group if stage.elapsed is not None]
    planned, taken = (sum(column) for column in zip((0.0, 0.0), *seen, strict=True))
    pace = (taken + TRUST) / (planned + TRUST)
    return sum(max((_left(stage, pace) for stage in group), default=0.0) for group in groups)


def _seen(stage):
    """(seconds planned, seconds taken) for the part of a notebook that is known to have passed."""
    if stage.finished:
        return stage.whole, stage.elapsed
    if stage.step:
        return stage.expected.before + stage.expected.step * min(stage.step, stage.total), stage.at
    if stage.elapsed > stage.expected.before:  # late: it has taken at least that long for its first part
        return stage.expected.before, stage.elapsed
    return 0.0, 0.0


def _left(stage, pace):
    if stage.finished:
        return 0.0
    passed, at = _seen(stage) if stage.step else (0.0, 0.0)
    ahead = pace * (stage.whole - passed)
    return max(ahead - ((stage.elapsed or 0.0) - at), 0.05 * ahead)  # never done before it is


def clock(seconds: float) -> str:
    """`4:05`, or `1:02:03` from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def status(groups: list[list[Stage]], elapsed: float) -> str:
    """The status line: what runs, how far it is, how long it has taken and about how long it will."""
    stages = [stage for group in groups for stage in group]
    running = [str(stage) for stage in stages if stage.elapsed is not None and not stage.finished]
    done = sum(stage.finished for stage in stages)
    return (f"[{done}/{len(stages)} done] {', '.join(running) or 'starting'} | {clock(elapsed)} so far, "
            f"about {clock(seconds_left(groups))} left")


def with_step(stage: Stage, log: Path, since: float) -> Stage:
    """The stage with the last step in a training's JSONL log, if that was written after `since` (seconds since 1970):
    an older log is that of an earlier run."""
    try:
        written = os.stat(log).st_mtime
        if written < since:
            return stage
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().splitlines()
    except OSError:
        return stage
    for line in reversed(lines):
        try:
            return replace(stage, step=int(json.loads(line)["step"]), at=written - since)
        except (ValueError, KeyError, TypeError):
            continue  # half written, or a line of something else
    return stage


class Display:
    """One line that is refreshed where a terminal shows it; else a line every `every` seconds."""

    def __init__(self, stream=None, every: float = 15.0):
        self.stream = stream or sys.stderr
        self.live, self.every, self.last = self.stream.isatty(), every, time.monotonic()

    def update(self, line: str) -> None:
        if self.live:
            self.stream.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            self.stream.flush()
        elif time.monotonic() - self.last >= self.every:
            self.say(line)

    def say(self, line: str) -> None:
        """A line that stays."""
        self.stream.write(f"\r\x1b[K{line}\n" if self.live else f"{line}\n")
        self.stream.flush()
        self.last = time.monotonic()
