"""One run of the study's grid, from its settings to its log.

    python -m lrt.study.cell RUN_DIR LOG        # what `lrt study run` starts: RUN_DIR/cell.json says which cell

`RUN_DIR` holds the training run (`lrt.runs`) and the measurements so far; the log is written when the run has ended,
whole or not at all. It is JSON lines: one that begins {"cell": ...}, with the code's and the machine's versions, and
what was used of the labels (`baselines.label_use`); one a step {"step": ...}; one a measurement {"measured": step, ...}
(`lrt.study.probe`); the last one {"final": step, ...}. A run that was killed and went on writes the same log, but for
fields whose names begin with `time_`.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback

from lrt.bradley_terry import Scorer
from lrt.files import read_lines, write_lines, write_text
from lrt.grpo import GRPOSettings, train_grpo
from lrt.listener import LocalListener
from lrt.models import Loaded, load
from lrt.pairs import tiny_pairs
from lrt.rewards import RewardFunction
from lrt.runs import OnStep
from lrt.study import baselines
from lrt.study.arms import reward_functions
from lrt.study.credit import CreditWatch
from lrt.study.grid import Cell
from lrt.study.probe import Fixed, measure

KEPT = {  # of a step's record: TRL's name -> the log's
    "reward": "reward",
    "reward_std": "reward_std",
    "rewards/format_reward/mean": "format",
    "rewards/accuracy_reward/mean": "accuracy",
    "dead_groups": "dead_groups",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "kl": "kl",
    "listener/unscored_groups": "unscored_groups",
    "time_step": "time_step",
}


def grpo_settings(cell: Cell) -> GRPOSettings:
    return GRPOSettings(
        steps=cell.steps,
        pairs_per_step=cell.pairs_per_step,
        num_generations=cell.num_generations,
        balance_votes=cell.balance_votes,
        max_new_tokens=cell.max_new_tokens,
        lr=cell.lr,
        beta=cell.beta,
        entropy_coef=cell.entropy_coef,
        scale_rewards=cell.scale_rewards,
        aggregation=cell.aggregation,
        seed=cell.seed,
        save_every=cell.measure_every,
    )


class Measuring(TrainerCallback):
    """Measures the policy before the first step, on `whole`, and every so many on the first of its pairs, `fixed`.

    The lines are kept in `out/measures.jsonl`. Each stands before the checkpoint of its step, so a resumed run has
    every line up to its checkpoint and makes the others again.
    """

    def __init__(self, policy: Loaded | Scorer, whole: Fixed, fixed: Fixed, every: int, seed: int, out: Path):
        self.policy, self.whole, self.fixed, self.every, self.seed = policy, whole, fixed, every, seed
        self.path = out / "measures.jsonl"

    def on_train_begin(self, args, state, control, **kwargs):
        kept = [record for record in read_lines(self.path) if record["measured"] <= state.global_step]
        write_lines(self.path, kept)
        if not kept:
            self.add(0, self.whole)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self.add(state.global_step, self.fixed)

    def add(self, step: int, fixed: Fixed) -> None:
        started = time.perf_counter()
        record = {"measured": step, **measure(self.policy, fixed, self.seed)}
        record["time_measure"] = round(time.perf_counter() - started, 3)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def run_cell(cell: Cell, out: Path, log: Path, on_step: Callable | None = None,
             added: RewardFunction | None = None) -> None:
    """Train and measure one cell, and write its log. Killed and called again, it goes on.

    `added`, a reward function in TRL's form (see `lrt.rewards`), takes the place of what the cell adds to format and
    accuracy: how a reader tries a reward of their own against the study's controls. ValueError for a baseline, which
    has no rewards.
    """
    if added and cell.trainer != "grpo":
        raise ValueError(f"{cell.method}: {cell.trainer} learns from the votes alone, and takes no reward")
    out.mkdir(parents=True, exist_ok=True)
    begun, head = time.time(), header(cell)  # now: the sources may be edited while it runs
    ears = {name: LocalListener(load(cell.base if name == "base" else name)) for name in cell.judges}
    whole, first = Fixed.of(cell.final_pairs, ears, cell.max_new_tokens), range(cell.measured_pairs)
    fixed = replace(whole, pairs=whole.pairs.select(first), swapped=whole.swapped.select(first))

    policy = baselines.policy_of(cell, load(cell.base, trainable=True))
    pairs = tiny_pairs("train", cell.train_pairs, seed=cell.seed, shortcut=cell.dial)
    measuring = Measuring(policy, whole, fixed, cell.measure_every, cell.seed, out)
    if cell.trainer == "grpo":
        records, use = train_rewarded(cell, policy, pairs, out, on_step, [measuring], added)
        steps = [short(r) for r in records]
    else:
        records, use = baselines.train(cell, policy, pairs, out, on_step, [measuring])
        steps = [short(r, KEPT | baselines.KEPT) for r in records]

    final = {"final": cell.steps, **measure(policy, whole, cell.seed)}
    lines = [head | use, *in_order(steps, read_lines(out / "measures.jsonl")), final]
    lines[-1]["time_wall"] = round(time.time() - begun, 1)
    log.parent.mkdir(parents=True, exist_ok=True)
    write_text(log, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def train_rewarded(cell: Cell, policy: Loaded, pairs: Dataset, out: Path, on_step: OnStep | None,
                   callbacks: Sequence[TrainerCallback], added: RewardFunction | None) -> tuple[list[dict], dict]:
    """Train a cell by GRPO: the log, one record a step, and what a log says of its labels."""
    functions, weights = reward_functions(cell, policy, pairs, added)
    functions = CreditWatch(pairs, weights, cell.scale_rewards, cell.aggregation).watching(functions)
    records = train_grpo(policy, pairs, functions, weights, grpo_settings(cell), out, on_step, callbacks)
    completions = cell.pairs_per_step * cell.num_generations
    tokens = round(sum(record["completions/mean_length"] * completions for record in records))
    return records, {"labels": baselines.label_use(cell, pairs["vote"][:], tokens)}


def in_order(steps: list[dict], measures: list[dict]) -> list[dict]:
    """Steps and measurements by time; the measurement after step n stands behind it."""
    return sorted([*steps, *measures], key=lambda r: (r.get("step", r.get("measured")), "measured" in r))


def short(record: dict, kept: Mapping[str, str] = KEPT) -> dict:
    """A step's record as it is kept: the names of `kept`, the added reward's mean, credits; three digits each."""
    found = {"step": record["step"]} | {ours: record[theirs] for theirs, ours in kept.items() if theirs in record}
    for name, value in record.items():
        if name.startswith("rewards/") and name.endswith("/mean") and name not in kept:
            found["added"] = value
        if name.startswith(("credit", "rollout")):
            found[name] = value
    return {name: float(f"{v:.3g}") if isinstance(v, float) else v for name, v in found.items()}


def header(cell: Cell) -> dict:
    """What the run was: its settings, the code, the machine."""
    return {"cell": asdict(cell), "base": cell.base, **code_version(), **machine()}


def code_version() -> dict:
    """The package's version, a hash of its sources, and the commit if they stand in a git checkout ("+" if changed)."""
    folder = Path(__file__).parents[1]
    source = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()[:16]
    found = {"lrt": version("lrt"), "source": source}
    commit = git_commit("lrt", "data/models")
    return found | {"commit": commit} if commit else found


def git_commit(*paths: str) -> str | None:
    """The commit, with "+" where one of the repository's paths was changed since; None where there is no git or no
    checkout."""
    asked = [["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", *paths]]
    try:
        said = [subprocess.check_output(["git", *words], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL,
                                        text=True) for words in asked]
    except (OSError, subprocess.CalledProcessError):
        return None
    return said[0].strip() + "+" * bool(said[1].strip())


def machine() -> dict:
    """What computed: the processor's name, and the versions that numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "trl")}}


def main(run_dir: str, log: str, parent: str | None = None) -> None:
    """A run in a process of its own: one thread, no noise, gone when its parent is (by its process id; without one,
    whoever is the parent by now: it may have died while this process was still importing)."""
    out, starter = Path(run_dir), int(parent) if parent else os.getppid()
    torch.set_num_threads(1)

    def on_step(step: int, total: int, record: dict) -> None:
        if os.getppid() != starter:
            raise SystemExit(f"{out.name}: whoever started this run is gone")

    run_cell(Cell.from_dict(json.loads((out / "cell.json").read_text())), out, Path(log), on_step)


if __name__ == "__main__":
    main(*sys.argv[1:])
