"""What the tests of the study's analysis share: small logs of runs that never were, with answers as one likes."""

import json

import numpy as np

from lrt.study.grid import Cell
from lrt.study.probe import DIGITS, known

SMALL = {"bases": ("nobody",), "steps": 4, "measure_every": 2, "measured_pairs": 8, "final_pairs": 12,
         "judges": ("reader", "llava")}


def cell(method: str = "grpo", seed: int = 0, **changes) -> Cell:
    return Cell(method, seed, **{**SMALL, **changes})


def sides(values) -> str:
    return "".join("-" if np.isnan(v) else str(int(v)) for v in values)


def two(p: float) -> str:
    """A probability as it stands in a log."""
    return "".join(DIGITS[d] for d in divmod(round(1000 * p), 36))


def like_tint(n: int) -> dict:
    """Answers of somebody who sees the tint alone."""
    warm = known(n)["warm"]
    return {"answers": sides(warm), "swapped": sides(3 - warm), "sampled": sides(warm)}


def like_content(n: int, right: int | None = None) -> dict:
    """Answers of somebody who sees the content alone: right for the first `right` pairs (all), wrong for the others;
    the first image where neither is better."""
    better = known(n)["better"].fillna(1)
    said = sides(better.where(better.index < (n if right is None else right), 3 - better))
    return {"answers": said, "swapped": said, "sampled": said}


def measurement(n: int, judges=SMALL["judges"], **changes) -> dict:
    """The fields of one measurement; without changes everything is "1", and two statements of three are true."""
    ones = {name: "1" * n for name in ("answers", "verdicts", "swapped", "sampled", "sampled_verdicts")}
    counts = {"said": "3" * n, "true": "2" * n, "sampled_said": "3" * n, "sampled_true": "2" * n}
    return {"n": n, **ones, **counts, "sampled_p": {name: two(0.9) * n for name in judges}, **changes}


def lines(of: Cell, at=lambda step, n: {}) -> list[dict]:
    """A log's lines; `at(step, n)` are the fields of the measurement on n pairs after a step."""
    found = [{"cell": {**vars(of)}, "lrt": "0"}]
    for step in range(of.steps + 1):
        found += [{"step": step, "reward": 1.0 + step, "time_step": 0.5}] if step else []
        if step % of.measure_every == 0 and step < of.steps:
            n = of.measured_pairs if step else of.final_pairs
            found.append({"measured": step, **measurement(n, of.judges, **at(step, n))})
    return [*found, {"final": of.steps, **measurement(of.final_pairs, of.judges, **at(of.steps, of.final_pairs))}]


def written(folder, of: Cell, at=lambda step, n: {}):
    """The path of a log."""
    path = folder / f"{of.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines(of, at)))
    return path
