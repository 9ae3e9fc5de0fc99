"""What the listener and this package cost, as ratios of times measured in one run: `lrt bench`.

Seconds differ from machine to machine, ratios hardly. What is compared takes turns, repeat by repeat, so that a machine
that slows down slows both; each number is a ratio of medians over all repeats, with the smallest and the largest ratio
of a single repeat: if those lie far apart, other programs were running, and the number says little.
The learning rate is 0: no weight moves, and every repeat does the same work on the same completions.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from lrt import traces, world
from lrt.grpo import GRPOSettings, train_grpo, training_rows, trl_config
from lrt.listener import LocalListener
from lrt.models import load
from lrt.pairs import scenes_of, tiny_pairs
from lrt.rewards import WEIGHTS, ListenerReward, accuracy_reward, format_reward

GROUPS = (4, 8, 16)  # completions a pair


@dataclass(frozen=True)
class Ratio:
    """`value` is a ratio of medians; `low` and `high` are the ends of the ratios of single repeats."""

    name: str
    value: float
    low: float
    high: float
    goal: str  # in words; "" where there is none
    meets: bool | None  # None without a goal


def ratio(name: str, times: Sequence[list[float]], others: Sequence[list[float]], at_least=None, at_most=None) -> Ratio:
    """times / others: an entry a repeat, each a list of what was measured in it, both in the same unit."""
    median = statistics.median
    value = median(chain.from_iterable(times)) / median(chain.from_iterable(others))
    single = [median(a) / median(b) for a, b in zip(times, others, strict=True)]
    goal = f"at least {at_least}" if at_least is not None else f"at most {at_most}" if at_most is not None else ""
    meets = None if not goal else value >= at_least if at_least is not None else value <= at_most
    return Ratio(name, value, min(single), max(single), goal, meets)


def in_turns(arms: dict[str, Callable[[], list[float]]], repeats: int) -> dict[str, list[list[float]]]:
    """name -> what each arm returned, one entry a repeat; the arms take turns, and every second repeat turns round."""
    measured: dict[str, list[list[float]]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name in list(arms) if repeat % 2 == 0 else reversed(arms):
            measured[name].append(arms[name]())
    return measured


# --- listener scoring ----------------------------------------------------------------------------------------------


def scoring_ratio(group: int, pairs: Dataset, name: str = "reader", repeats: int = 5) -> Ratio:
    """Plain forward passes over shared-prefix ones, both scoring `group` traces of every pair."""
    loaded, rows = load(name), list(pairs)
    traces_BG = [_some_traces(row, group) for row in rows]
    prompts_B, images_B = [row["prompt"] for row in rows], [row["images"] for row in rows]

    def arm(share_prefix: bool) -> Callable[[], list[float]]:
        listener = LocalListener(loaded, share_prefix=share_prefix, batch=len(rows) * group)
        return lambda: [seconds(lambda: listener.p_first(prompts_B, images_B, traces_BG))]

    arms = {"plain": arm(False), "shared": arm(True)}
    for run in arms.values():
        run()  # the first pass of either pays for what both then have
    times = in_turns(arms, repeats)
    goal = 1.5 if group == 8 else None
    return ratio(f"listener, G = {group}: plain / shared prefix", times["plain"], times["shared"], at_least=goal)


def _some_traces(row: dict, group: int) -> list[str]:
    """True traces with a third of their words replaced: as long as real ones, and all different."""
    gold = traces.gold_trace(world.parse_prompt(row["prompt"]), scenes_of(row), 1)
    return [str(traces.corrupt(gold, 0.3, world.rng("bench", row["pair_id"], g))) for g in range(group)]


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


# --- training steps ------------------------------------------------------------------------------------------------


class Clock(TrainerCallback):
    """When each step ended. What lies between two ends is a whole step: data, rollout, rewards, update, log."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    def steps(self) -> list[float]:
        """Seconds of each step but the first, which warms up."""
        return [b - a for a, b in pairwise(self.ends)]


def step_ratios(settings: GRPOSettings, pairs: Dataset, reasoner: str = "reasoner", listener: str = "reader",
                repeats: int = 3) -> list[Ratio]:
    """A step with a listener against one without; the listener's share of a step; our step against a bare trainer's."""
    reward = ListenerReward(LocalListener(load(listener)))
    two, three = [format_reward, accuracy_reward], [format_reward, accuracy_reward, reward]
    shares: list[list[float]] = []

    def with_listener() -> list[float]:
        log, steps = our_steps(reasoner, pairs, three, settings)
        shares.append([record["listener/seconds"] / record["time_step"] for record in log[1:]])
        return steps

    times = in_turns(
        {
            "with": with_listener,
            "without": lambda: our_steps(reasoner, pairs, two, settings)[1],
            "bare": lambda: bare_steps(reasoner, pairs, two, settings),
        },
        repeats,
    )
    ones = [[1.0]] * len(shares)
    return [
        ratio("GRPO step: with listener / without", times["with"], times["without"]),
        ratio("listener's share of a step", shares, ones, at_most=0.1),
        ratio("GRPO step: ours / bare TRL", times["without"], times["bare"], at_most=1.02),
    ]


def our_steps(reasoner: str, pairs: Dataset, rewards: list, settings: GRPOSettings) -> tuple[list[dict], list[float]]:
    """(log, seconds of each step) of `train_grpo`, from fresh weights."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        log = train_grpo(
            load(reasoner, trainable=True), pairs, rewards, WEIGHTS[: len(rewards)], settings, Path(out) / "run",
            on_step=lambda *_: None, callbacks=[clock],
        )
    return log, clock.steps()


def bare_steps(reasoner: str, pairs: Dataset, rewards: list, settings: GRPOSettings) -> list[float]:
    """Seconds of each step of TRL's own trainer: the same model, rows, rewards and configuration, and no more."""
    loaded, clock = load(reasoner, trainable=True), Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer = GRPOTrainer(
            model=loaded.model,
            processing_class=loaded.processor,
            reward_funcs=rewards,
            args=trl_config(settings, WEIGHTS[: len(rewards)], out, loaded.device),
            train_dataset=training_rows(pairs, settings, loaded),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.steps()


# --- all of it -----------------------------------------------------------------------------------------------------


def bench(steps: int = 5, repeats: int = 3, groups: Sequence[int] = GROUPS, pairs_per_step: int = 8,
          num_generations: int = 8, reasoner: str = "reasoner", listener: str = "reader",
          report: Callable[[str], None] = print) -> list[Ratio]:
    """Measure everything, telling each result as it comes. `steps` a run, of which the first is not counted.

    The default takes about four minutes on two CPU cores. ValueError for fewer than 2 steps or 1 repeat.
    """
    if steps < 2 or repeats < 1:
        raise ValueError(f"bench needs at least 2 steps and 1 repeat, not {steps} and {repeats}")
    settings = GRPOSettings(
        steps=steps, pairs_per_step=pairs_per_step, num_generations=num_generations, lr=0.0, save_every=steps,
        max_new_tokens=56,
    )
    report(setting_line(settings, reasoner, listener))
    few = tiny_pairs("validation", pairs_per_step)
    found = []
    for group in groups:
        found.append(scoring_ratio(group, few, listener, repeats=max(repeats, 5)))
        report(line(found[-1]))
    for one in step_ratios(settings, tiny_pairs("train", 2 * pairs_per_step), reasoner, listener, repeats):
        found.append(one)
        report(line(one))
    return found


def setting_line(settings: GRPOSettings, reasoner: str, listener: str) -> str:
    import torch

    threads = torch.get_num_threads()
    return (
        f"{reasoner} and {listener}; {settings.pairs_per_step} pairs x {settings.num_generations} completions a step; "
        f"CPU, {threads} thread{'s' * (threads != 1)} of {os.cpu_count()} cores"
    )


def line(found: Ratio) -> str:
    """`name   value (low to high)   goal: met or missed`"""
    goal = f"   goal {found.goal}: {'met' if found.meets else 'missed'}" if found.goal else ""
    return f"{found.name:<42} {found.value:5.2f} ({found.low:.2f} to {found.high:.2f}){goal}"
