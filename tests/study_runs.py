"""Logs of a study that never was: answers drawn at random by policies of known habits, written as `lrt.study.probe`
writes them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import study_logs

from lrt.study.grid import Cell
from lrt.study.probe import DIGITS, known

REWARDS = {  # method -> what its cell says of the reward
    "grpo": {},
    "listener_base": {"reward": "listener", "listeners": ("base",)},
    "listener_reader": {"reward": "listener", "listeners": ("reader",)},
    "rule": {"reward": "rule"},
    "permuted": {"reward": "permuted", "listeners": ("reader",)},
    "truth": {"reward": "truth"},
    "reader_living": {"reward": "living", "listeners": ("reader",)},
    "reader_dead": {"reward": "dead", "listeners": ("reader",)},
    "listener_llava": {"reward": "listener", "listeners": ("llava",)},
    "grpo_dial_50": {"dial": 0.5},
    "reader_dial_50": {"reward": "listener", "listeners": ("reader",), "dial": 0.5},
    "grpo_long": {"steps": 12},
    "reader_long": {"reward": "listener", "listeners": ("reader",), "steps": 12},
}
RELIANCE = {"grpo": 0.7, "listener_base": 0.5, "listener_reader": 0.3, "rule": 0.45}  # on the tint, after the last step
SIZES = {"steps": 8, "measure_every": 2, "measured_pairs": 24, "final_pairs": 40, "judges": ("reader", "llava", "base")}


def cell(method: str, seed: int = 0, **changes) -> Cell:
    return study_logs.cell(method, seed, **{**SIZES, **REWARDS[method], **changes})


def answered(n: int, r: np.random.Generator, reliance: float, skill: float, departs: float, truth: float) -> dict:
    """The fields of a measurement of somebody who answers the warm image with probability `reliance`, and otherwise
    the better one with probability `skill`; whose answer departs from the verdict, and whose statements are true, as
    often as named. Listeners mostly follow the verdict."""
    frame = known(n)
    warm, better = frame["warm"].to_numpy(), frame["better"].fillna(1).to_numpy()

    def answers(warm_B):
        content_B = np.where(r.random(n) < skill, better, 3 - better)
        return np.where(r.random(n) < reliance, warm_B, content_B)

    fields, content = {}, answers(warm)
    fields["answers"], fields["sampled"] = content, answers(warm)
    fields["swapped"] = np.where((r.random(n) < reliance) & (content == warm), 3 - warm, content)
    for name, of in (("verdicts", "answers"), ("sampled_verdicts", "sampled")):
        fields[name] = np.where(r.random(n) < departs, 3 - fields[of], fields[of])
    said = r.integers(0, 19, n)
    counts = {"said": said, "true": r.binomial(said, truth), "sampled_said": said, "sampled_true":
              r.binomial(said, truth)}
    p_B = np.where(fields["sampled_verdicts"] == 1, 0.5, 0) + 0.5 * r.random(n)
    return {
        **{name: study_logs.sides(values) for name, values in fields.items()},
        **{name: "".join(DIGITS[k] for k in values) for name, values in counts.items()},
        "sampled_p": {name: "".join(map(study_logs.two, p_B)) for name in SIZES["judges"]},
    }


def lines(of: Cell, noise: float = 0.1, reliance: dict | None = None) -> list[dict]:
    """A log's lines: reliance grows to that of `RELIANCE`, or of `reliance`, give or take `noise` a seed."""
    r = np.random.default_rng([of.seed, *of.method.encode()])
    reliance = {**RELIANCE, **(reliance or {})}
    last = float(np.clip(reliance.get(of.method, 0.6) + noise * r.normal(), 0, 1))

    def at(step, n):
        done = step / of.steps
        start = np.random.default_rng([of.seed, 9]) if step == 0 else r  # all methods begin from the same base
        return answered(n, start, last * done, 0.6 + 0.2 * done, 0.1 + 0.3 * last * done, 0.9 - 0.2 * last * done)

    found = study_logs.lines(of, at)
    for line in (line for line in found if "step" in line):
        line |= {"length": 40 - line["step"] / 2, "accuracy": 0.6}
        line |= {f"credit/{name}": r.normal(0.1, 0.02) for name in ("statements", "answer", "tint", "own")}
        if of.reward != "none":
            line |= {"added": 0.5 + 0.01 * line["step"], "credit_added/answer": 0.03, "credit_added/statements": 0.04}
    return found


def written(folder, methods=("grpo", "listener_base", "listener_reader", "rule", "permuted"), seeds=(0, 1, 2),
            noise: float = 0.1, reliance: dict | None = None, **changes) -> Path:
    """A folder of logs: each method with each seed."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for method in methods:
        for seed in seeds:
            of = replace(cell(method, seed), **changes)
            text = "".join(json.dumps(line) + "\n" for line in lines(of, noise, reliance))
            (Path(folder) / f"{of.name}.jsonl").write_text(text)
    return Path(folder)
