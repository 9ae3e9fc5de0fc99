"""Reading the logs of the study (`lrt.study.cell` writes them): everything checked, nothing guessed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from statistics import median

import pandas as pd

from lrt.study import probe
from lrt.study.grid import Cell, fits
from lrt.study.probe import COUNTS, SIDES


@dataclass(frozen=True)
class Run:
    """One log."""

    cell: Cell
    header: dict  # its first line: the cell, versions of the code and of what it stands on, the machine
    steps: pd.DataFrame  # a row a training step, by its number; columns as `lrt.study.cell` writes them
    measures: Mapping[int, pd.DataFrame]  # step -> `probe.table`, from step 0 on, without the last
    final: pd.DataFrame  # the last one; like the first, at step 0, on more pairs than the others
    seconds: float = float("nan")  # of training, with what was sampled for it and without measurements

    def history(self) -> dict[int, pd.DataFrame]:
        """step -> table on the first `measured_pairs`, at every measured step, the last included."""
        tables = {**self.measures, self.cell.steps: self.final}
        return {step: table.iloc[: self.cell.measured_pairs] for step, table in tables.items()}


def read_runs(folder: str | Path, methods: Iterable[str] | None = None) -> list[Run]:
    """The runs whose logs are in a folder, by method and seed; only those of `methods`, if given. [] if there are none.

    ValueError names the file and the line that do not fit.
    """
    wanted = None if methods is None else set(methods)
    paths = [p for p in Path(folder).glob("*.jsonl") if wanted is None or p.stem.rpartition(".s")[0] in wanted]
    runs = {path: read_run(path) for path in sorted(paths)}
    for path, run in runs.items():
        if path.stem != run.cell.name:
            raise ValueError(f"{path}, line 1: this is the log of {run.cell.name}, and must be named so")
    return sorted(runs.values(), key=lambda run: (run.cell.method, run.cell.seed))


def read_run(path: str | Path) -> Run:
    """One log. ValueError names the file and the line that do not fit."""
    lines = _lines(Path(path))
    cell = _cell(lines[0].get("cell"), f"{path}, line 1")
    steps, measured, final = [], [], None
    for i, line in enumerate(lines[1:], start=2):
        where = f"{path}, line {i}"
        if final is not None:
            raise ValueError(f"{where}: nothing may follow the final measurement")
        if "step" in line:
            steps.append(line)
        elif "measured" in line:
            n = cell.measured_pairs if line["measured"] else cell.final_pairs
            measured.append((line["measured"], _measurement(line, cell, n, where)))
        elif line.get("final") == cell.steps:
            final = _measurement(line, cell, cell.final_pairs, where)
        else:
            raise ValueError(f"{where}: neither a step, nor a measurement, nor the final one of step {cell.steps}")
    if final is None:
        raise ValueError(f"{path}, line {len(lines)}: the log ends without a final measurement")
    _complete([line["step"] for line in steps], range(1, cell.steps + 1), f"{path}: step")
    _complete([step for step, _ in measured], range(0, cell.steps, cell.measure_every), f"{path}: measurement of step")
    return Run(cell, lines[0], pd.DataFrame(steps).set_index("step"), dict(measured), final, _seconds(lines))


def differing(a: str | Path, b: str | Path) -> list[str]:
    """Where two logs differ in more than time: "line 5, reward: 1.25 and 1.5". A run that was killed and went on must
    differ nowhere from one that was not. Of the first line only the cell and its labels are compared: the rest says
    where and from which sources it was made."""
    told, both = [], (_lines(Path(a)), _lines(Path(b)))
    for i, (one, other) in enumerate(zip_longest(*both, fillvalue={}), start=1):
        names = dict.fromkeys([*one, *other]) if i > 1 else ("cell", "labels")
        told += [f"line {i}, {name}: {one.get(name)} and {other.get(name)}" for name in names
                 if not name.startswith("time_") and one.get(name) != other.get(name)]
    return told


def _seconds(lines: list[dict]) -> float:
    """So many steps as the median one, with what was sampled beforehand: a step during which the machine did something
    else, or behind which the policy was measured, does not count for more."""
    steps = [line.get("time_step", float("nan")) for line in lines if "step" in line]
    return lines[0].get("time_sample", 0) + len(steps) * median(steps)


def _lines(path: Path) -> list[dict]:
    texts = path.read_bytes().split(b"\n")
    found = []
    for i, text in enumerate(texts, start=1):
        if i == len(texts) > 1 and not text:
            break  # behind the last end of line
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:  # torn, not UTF-8, or nested without end
            raise ValueError(f"{path}, line {i}: not a whole line of JSON ({error})") from None
        if not isinstance(line, dict):
            raise ValueError(f"{path}, line {i}: expected an object, found {type(line).__name__}")
        for name in ("time_step", "time_sample"):
            if not fits(line.get(name, 0.0), float):
                raise ValueError(f"{path}, line {i}, {name}: {line[name]!r} is no number of seconds")
        found.append(line)
    return found


def _cell(settings, where: str) -> Cell:
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: a log begins with its cell")
    try:
        cell = Cell.from_dict(settings)
    except TypeError as error:
        raise ValueError(f"{where}: these are not the settings of a cell ({error})") from None
    for field in fields(Cell):
        if field.name in settings and not fits(settings[field.name], field.type):
            raise ValueError(f"{where}, {field.name}: {settings[field.name]!r} does not fit")
    if cell.steps < 1 or cell.measure_every < 1:
        raise ValueError(f"{where}: steps and measure_every must be at least 1")
    return cell


def _measurement(line: dict, cell: Cell, n: int, where: str) -> pd.DataFrame:
    """The table of a measurement, checked: its fields, their lengths, and what stands in them."""
    if line.get("n") != n:
        raise ValueError(f"{where}: measured on {line.get('n')!r} pairs instead of {n}")
    heard = line.get("sampled_p")
    if not isinstance(heard, dict) or set(heard) != set(cell.judges):
        raise ValueError(f"{where}, sampled_p: expected the listeners {', '.join(cell.judges)}")
    texts = {name: (line.get(name), n, "12-" if name in SIDES else probe.DIGITS) for name in (*SIDES, *COUNTS)}
    texts |= {f"sampled_p of {name}": (text, 2 * n, probe.DIGITS + "-") for name, text in heard.items()}
    if not cell.writes:
        spoken = ("answers", "swapped")
        texts = {name: (text, length, "12" if name in spoken else "-") for name, (text, length, _) in texts.items()}
    for name, (text, length, alphabet) in texts.items():
        if not isinstance(text, str) or len(text) != length or set(text) - set(alphabet):
            raise ValueError(f"{where}, {name}: expected {length} characters out of {alphabet!r}")
    try:
        table = probe.table({name: line[name] for name in ("n", *SIDES, *COUNTS, "sampled_p")})
    except ValueError as error:  # "a-" in a listener's p
        raise ValueError(f"{where}: {error}") from None
    for said, true in (("said", "true"), ("sampled_said", "sampled_true")):
        if (table[true].to_numpy() > table[said].to_numpy()).any():
            raise ValueError(f"{where}, {true}: more statements are true than were said")
    for name in heard:
        p_B = table[f"sampled_p/{name}"].to_numpy()
        if ((p_B < 0) | (p_B > 1)).any():
            raise ValueError(f"{where}, sampled_p of {name}: a probability lies in 0 to 1000 thousandths")
    return table


def _complete(found: list, expected: range, what: str) -> None:
    """ValueError unless each was found once, in order."""
    for i, step in enumerate(expected):
        if i >= len(found) or found[i] != step:
            raise ValueError(f"{what} {step} is missing, or not in its place")
    if len(found) > len(expected):
        raise ValueError(f"{what} {found[len(expected)]} is more than there should be")
