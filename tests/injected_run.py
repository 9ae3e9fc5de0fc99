"""One step of GRPO with given completions, in as many processes as it is launched in: see test_processes.py.

    accelerate launch --cpu --num_processes 2 injected_run.py FOLDER

Each process writes what became of its own completions to FOLDER/PROCESSES-RANK.json.
"""

import asyncio
import json
import sys
from pathlib import Path

from accelerate import PartialState
from tiny_runs import saved

from lrt import models
from lrt.async_rewards import AsyncListenerReward
from lrt.grpo import GRPOSettings, build_trainer
from lrt.listener import LocalListener
from lrt.pairs import tiny_pairs
from lrt.prompts import text_of
from lrt.rewards import ListenerReward, accuracy_reward, format_reward

PAIRS, GROUP = 3, 4  # 12 completions: over two processes the second group has two on each
WORDS = [["red", "blue", "good", ""], ["circle", "square", "star", "missing"], ["green", "yellow", "bad", "clear"]]
DEAF = "missing"  # no listener of a kind can score this trace, which the second process has
BROKEN = "bad"  # this one is no completion in the right format
WEIGHTS = [1.0, 0.5, 0.5, 0.25, 0.125]


def completion(number: int) -> str:
    """The completion with this number over all processes. Half of them answer 1, half 2."""
    word = WORDS[number // GROUP][number % GROUP]
    answer = "" if word == BROKEN else f"{1 + number % 2} </answer>"
    return " ".join(f"<think> {word} </think> <answer> {answer}".split())


class DeafTo:
    """A listener that has no p for one trace."""

    def __init__(self, listener, word):
        self.listener, self.word, self.name = listener, word, f"{listener.name}, deaf to {word}"

    def p_first(self, prompts_B, images_B, traces_BG):
        p_BG = self.listener.p_first(prompts_B, images_B, traces_BG)
        return [
            [None if trace == self.word else p for trace, p in zip(traces, p_G, strict=True)]
            for traces, p_G in zip(traces_BG, p_BG, strict=True)
        ]


class InAnyOrder(DeafTo):
    """As a remote one: in the first process it answers before another one does, in the second after it."""

    def __init__(self, listener, word, first_in):
        super().__init__(listener, word)
        self.other, self.answered, self.first_in = None, asyncio.Event(), first_in

    async def p_first_async(self, *asked):
        if PartialState().process_index != self.first_in:
            await self.other.answered.wait()
        self.answered.set()
        return self.p_first(*asked)


def reward_functions(folder: Path):
    ear = LocalListener(models.load(str(folder / "listener")))
    one, two = InAnyOrder(ear, "good", 0), InAnyOrder(ear, "clear", 1)
    one.other, two.other = two, one
    return [
        format_reward,
        accuracy_reward,
        ListenerReward(DeafTo(ear, DEAF)),
        AsyncListenerReward([one], name="one"),
        AsyncListenerReward([two, DeafTo(ear, "square")], "minimum", name="two"),
    ]


def main(folder: Path) -> None:
    world = PartialState(cpu=True).num_processes
    rank = PartialState().process_index
    settings = GRPOSettings(steps=1, pairs_per_step=PAIRS, num_generations=GROUP, lr=1e-3)
    loaded = models.load(str(folder / "policy"), trainable=True)
    out = folder / f"out-{world}-{rank}"
    trainer = build_trainer(loaded, tiny_pairs("train", 5), reward_functions(folder), WEIGHTS, settings, out)
    rows = []

    def inject(prompt_ids, *_):
        mine = range(rank * len(prompt_ids), (rank + 1) * len(prompt_ids))
        eos = [loaded.tokenizer.eos_token_id]
        return [loaded.tokenizer(completion(n), add_special_tokens=False)["input_ids"] + eos for n in mine], None

    def watch_rewards(inputs, prompts, completions, ids):
        rewards = calculate(inputs, prompts, completions, ids)
        here = rewards[rank * len(prompts) : (rank + 1) * len(prompts)].tolist()  # TRL has gathered them
        rows.extend(
            {"pair_id": row["pair_id"], "completion": text_of(c), "rewards": r}
            for row, c, r in zip(inputs, completions, here, strict=True)
        )
        return rewards

    def watch_advantages(inputs):
        batch = generate(inputs)
        for row, advantage in zip(rows, batch["advantages"].tolist(), strict=True):
            row["advantage"] = advantage
        return batch

    calculate, generate = trainer._calculate_rewards, trainer._generate_and_score_completions
    trainer._generate_single_turn = inject
    trainer._calculate_rewards = watch_rewards
    trainer._generate_and_score_completions = watch_advantages
    trainer.train()
    logged = trainer.state.log_history[0]
    (folder / f"{world}-{rank}.json").write_text(json.dumps({"rows": rows, "log": logged}))


def prepare(folder: Path) -> None:
    """The two models on disk."""
    saved(folder / "policy")
    saved(folder / "listener", "llava")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
