"""What a policy writes on its way: completions of a few fixed pairs, kept while a run trains.

    out/samples.jsonl     one line a completion: step, pair_id, sample (0 is the greedy one), text, p

`Keeping` is a callback for `grpo.train_grpo`. The records that the site shows are made by

    python -m lrt.samples                  # the shipped models, before and after training: data/results/samples
    python -m lrt.samples grpo 0           # a run of the course's settings with seed 0: minutes, killed it goes on

`p` is {listener: p that image 1 is better, having heard this trace}; a callback leaves it empty, since listeners can
hear a text at any time (`heard_by`).
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from lrt.files import read_lines, write_lines
from lrt.listener import Listener, LocalListener, scoring
from lrt.metrics import labels, warm_side
from lrt.models import Loaded, data_dir, find, generate, load
from lrt.pairs import tiny_pairs
from lrt.rewards import Asked
from lrt.runs import rank

FILE = "samples.jsonl"
SPLIT, OF_EACH, CANDIDATES = "tint_uninformative", (1,), 24
KEYS = {"step": int, "pair_id": str, "sample": int, "text": str, "p": dict}
SHIPPED = {"grpo": "reasoner-grpo", "grpo_listener": "reasoner-grpo-listener"}
EARS = ("reader", "llava", "reasoner")  # the rewarding listener of the course, one that never rewards, the frozen base


def fixed_pairs(n: int = 4) -> Dataset:
    """n pairs of different prompts, where the tint says nothing: the first on which tint and content conflict, and as
    many on which they agree, in turns, all with a gap in utility of at least 1. ValueError for more than there are."""
    rows = tiny_pairs(SPLIT, CANDIDATES, of_each=OF_EACH)
    frame = rows.remove_columns("images").to_pandas()
    clear_B = (frame["utility_1"] - frame["utility_2"]).abs() >= 1
    agrees_B = warm_side(frame) == labels(frame, "utility")
    sides = [[i for i in frame.index if clear_B[i] and agrees_B[i] == agrees] for agrees in (False, True)]
    chosen = [i for both in zip(*sides, strict=False) for i in both][:n]
    if len(chosen) < n:
        raise ValueError(f"there are {len(chosen)} such pairs, not {n}")
    return rows.select(chosen)


def write_samples(policy: Loaded, pairs: Dataset, step: int, samples: int = 3, seed: int = 0,
                  max_new_tokens: int = 56) -> list[dict]:
    """A line for each pair and completion: one greedy, then `samples` drawn at temperature 1, with the same seed at
    every step, so that two steps differ in the policy alone. Global generators stay as they were."""
    ids, texts_of = pairs["pair_id"][:], []
    for count, temperature in ((1, 0.0), (samples, 1.0)):
        asked = [row for row in pairs for _ in range(count)]
        with scoring(policy.model):
            texts = generate(policy, [row["prompt"] for row in asked], [row["images"] for row in asked],
                             max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        texts_of.append([texts[i * count : (i + 1) * count] for i in range(len(ids))])
    return [
        {"step": step, "pair_id": name, "sample": k, "text": text, "p": {}}
        for i, name in enumerate(ids) for k, text in enumerate(texts_of[0][i] + texts_of[1][i])
    ]


class Keeping(TrainerCallback):
    """Keeps completions before the first step, every so many steps, and after the last. A resumed run drops what it is
    going to write again."""

    def __init__(self, policy: Loaded, out: str | Path, every: int, samples: int = 3, seed: int = 0,
                 max_new_tokens: int = 56, pairs: Dataset | None = None):
        self.policy, self.path, self.every = policy, Path(out) / FILE, every
        self.pairs = fixed_pairs() if pairs is None else pairs
        self.how = {"samples": samples, "seed": seed, "max_new_tokens": max_new_tokens}

    def on_train_begin(self, args, state, control, **kwargs):
        if rank():
            return
        kept = [line for line in read_lines(self.path) if line["step"] <= state.global_step]
        write_lines(self.path, kept)
        if not kept:
            self.add(0)

    def on_step_end(self, args, state, control, **kwargs):
        if not rank() and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self.add(state.global_step)

    def add(self, step: int) -> None:
        write_lines(self.path, [*read_lines(self.path), *write_samples(self.policy, self.pairs, step, **self.how)])


# --- reading and hearing ---------------------------------------------------------------------------------------------


def read_samples(path: str | Path) -> list[dict]:
    """The lines of a samples.jsonl, checked: ValueError names the file and the line that does not fit."""
    lines = read_lines(Path(path))
    for i, line in enumerate(lines, start=1):
        if not isinstance(line, dict):
            raise ValueError(f"{path}, line {i}: {line!r} is no object; make the file again")
        for key, kind in KEYS.items():
            if not isinstance(line.get(key), kind) or isinstance(line.get(key), bool):
                raise ValueError(f"{path}, line {i}, {key}: {line.get(key)!r} does not fit; make the file again")
        for name, p in line["p"].items():
            if p is not None and not (isinstance(p, (int, float)) and 0 <= p <= 1):
                raise ValueError(f"{path}, line {i}, p of {name}: {p!r} is no probability")
    return lines


def heard_by(lines: Sequence[dict], pairs: Dataset, listeners: Mapping[str, Listener]) -> list[dict]:
    """The lines with each listener's p that image 1 is better (None for what cannot be parsed), to three digits.
    ValueError for a line of another pair."""
    by_id = {row["pair_id"]: row for row in pairs}
    if unknown := {line["pair_id"] for line in lines} - by_id.keys():
        raise ValueError(f"no pair {min(unknown)!r} among those given")
    rows = [by_id[line["pair_id"]] for line in lines]
    groups = [(line["step"], line["pair_id"]) for line in lines]
    asked = Asked.of([line["text"] for line in lines], [r["prompt"] for r in rows], [r["images"] for r in rows], groups)
    found = {name: asked.by_row(ear.p_first(*asked.groups), ear.name) for name, ear in listeners.items()}
    return [{**line, "p": {name: _short(p[i]) for name, p in found.items()}} for i, line in enumerate(lines)]


def _short(p: float | None) -> float | None:
    return None if p is None or math.isnan(p) else round(p, 3)


def steps_of(lines: Sequence[dict]) -> list[int]:
    return [step for step, _ in groupby(sorted(line["step"] for line in lines))]


# --- the records of the site -----------------------------------------------------------------------------------------


def records_folder() -> Path:
    return data_dir() / "results" / "samples"


def shipped(method: str) -> list[dict]:
    """What the shipped models say: the base as step 0, and a method of `SHIPPED` after its own number of steps."""
    steps = json.loads((Path(find(SHIPPED[method])) / "recipe.json").read_text())["settings"]["steps"]
    pairs, policies = fixed_pairs(), {0: load("reasoner"), steps: load(SHIPPED[method])}
    return [line for step, policy in policies.items() for line in write_samples(policy, pairs, step)]


def trained(method: str, seed: int) -> list[dict]:
    """What a run of the course's settings says every 25 steps; it lies in runs/samples, and goes on if killed."""
    from lrt import methods, profiles
    from lrt.grpo import train_grpo

    settings, out = profiles.profile("laptop"), Path("runs") / "samples" / f"{method}.s{seed}"
    loaded = methods.reasoner(settings, seed)
    listener = methods.listener_for(settings, loaded) if method == "grpo_listener" else None
    functions, weights = methods.rewards(method, listener)
    pairs = methods.training_pairs(settings, seed)
    train_grpo(loaded, pairs, functions, weights, methods.grpo_settings(settings, seed), out,
               callbacks=[Keeping(loaded, out, every=25)])
    return read_samples(out / FILE)


def main(method: str | None = None, seed: str = "0") -> None:
    ears = {name: LocalListener(load(name)) for name in EARS}
    for name in [method] if method else SHIPPED:
        if name not in SHIPPED:
            raise ValueError(f"no method {name!r}; there are {', '.join(SHIPPED)}")
        lines = heard_by(trained(name, int(seed)) if method else shipped(name), fixed_pairs(), ears)
        records_folder().mkdir(parents=True, exist_ok=True)
        write_lines(records_folder() / f"{name}.jsonl", lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
