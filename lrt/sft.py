"""Supervised fine-tuning through TRL's `SFTTrainer`, configured in one place.

The loss is the mean negative log-probability of the completion's tokens; prompt and images are given. With
`target="answer"` the trace is empty and only the vote is taught: the plainest way to learn a preference, and the
quickest to learn a shortcut. With `target="trace"` the completion is the true trace of the scene with the vote as its
verdict, which only the tiny world can supply.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from lrt.checkpoints import adapter_in_fp32
from lrt.images import squared
from lrt.models import Loaded
from lrt.pairs import scenes_of
from lrt.passes import passes
from lrt.prompts import TINY_WORDING, Wording, listener_continuation, messages
from lrt.rows import order_of, pairs_id, without_ties
from lrt.runs import OnStep, Watch, check_adapter, check_settings, common_arguments, run
from lrt.traces import gold_trace, write_completion
from lrt.world import parse_prompt


@dataclass(frozen=True)
class SFTSettings:
    """One SFT run. Equal settings, pairs and model give equal weights on the same machine."""

    steps: int = 150  # optimiser steps
    pairs_per_step: int = 32  # pairs an optimiser step
    lr: float = 1e-4  # constant
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    seed: int = 0  # of the order of rows
    lora_rank: int = 0  # of the adapter that `checkpoints.with_adapter` put on the model; 0 = train all weights
    precision: str = "fp32"  # "fp32", or mixed: "bf16" or "fp16" (GPU)
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more time
    pairs_per_pass: int | None = None  # pairs a forward pass; None = a whole step's at once
    save_every: int = 50  # steps between checkpoints; the last one is kept
    log_every: int = 1  # steps a record of the log; several are averaged
    balance_votes: bool = False  # as many votes for image 1 as for image 2 in every step: GRPO's order of pairs
    image_side: int | None = None  # every image on a square of so many pixels (lrt.images)

    def __post_init__(self):
        if self.pairs_per_step % (self.pairs_per_pass or self.pairs_per_step):
            raise ValueError(f"pairs_per_pass {self.pairs_per_pass} must divide pairs_per_step {self.pairs_per_step}")
        check_settings(self)


def completion_of(row: dict, target: str, wording: Wording = TINY_WORDING) -> str:
    """What a pair teaches: `<think> </think> <answer> vote </answer>`, or the same with the true trace inside. Outside
    the tiny world no space stands around the vote: a real tokenizer would make a token of it, and a listener reads the
    answer from the token that follows `<answer>`."""
    if target not in ("answer", "trace"):
        raise ValueError(f'target is "answer" or "trace", not {target!r}')
    trace = str(gold_trace(parse_prompt(row["prompt"]), scenes_of(row), row["vote"])) if target == "trace" else ""
    if wording == TINY_WORDING:
        return write_completion(trace, row["vote"])
    return f"{listener_continuation(trace)}{row['vote']}</answer>"


def training_rows(pairs: Dataset, settings: SFTSettings, loaded: Loaded, target: str = "answer") -> Dataset:
    """The rows of a run in the order in which they are used: `prompt` (the chat), `completion`, `images` (two).

    Chats are written when a row is read. Ties are left out, with a warning. ValueError for fewer pairs than a step
    takes, or a trace asked of pairs whose true scenes are not known.
    """
    pairs = without_ties(pairs)
    said = [completion_of(row, target, loaded.wording) for row in pairs.remove_columns("images")]
    order = order_of(pairs["vote"], settings.pairs_per_step, settings.steps, settings.seed, settings.balance_votes)
    rows = pairs.select_columns(["prompt", "images"]).add_column("completion", said).select(order)

    wording, side = loaded.wording, settings.image_side  # alone: the data set pickles what the function holds on to

    def with_chats(batch: dict) -> dict:
        prompts = [messages(text, wording) for text in batch["prompt"]]
        completions = [[{"role": "assistant", "content": text}] for text in batch["completion"]]
        return {**squared(batch, side), "prompt": prompts, "completion": completions}

    return rows.with_transform(with_chats)


def trl_config(settings: SFTSettings, out: str | Path, device: torch.device) -> SFTConfig:
    """The settings as TRL names them. A step's pairs are shared out evenly over the processes of `accelerate launch`;
    ValueError if they cannot be."""
    per_pass, accumulated = passes(settings.pairs_per_step, settings.pairs_per_pass, "pairs")
    return SFTConfig(
        **common_arguments(settings, out, device),
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=accumulated,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        max_length=None,  # the default would cut through the image tokens of a real pair
    )


def train_sft(
    loaded: Loaded,
    pairs: Dataset,
    settings: SFTSettings,
    out_dir: str | Path,
    target: str = "answer",
    on_step: OnStep | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict]:
    """Train a reasoner on votes (or on true traces with votes) and return the log, one record a step.

    Resuming, the folder, `on_step` and the model afterwards are as in `lrt.grpo.train_grpo`. Raises ValueError if
    `out_dir` was started with other settings, pairs or target, for a frozen model, and for too few pairs.
    """

    def make_trainer(watch: Watch) -> SFTTrainer:
        check_adapter(loaded, settings.lora_rank)
        trainer = SFTTrainer(
            model=loaded.model,
            processing_class=loaded.processor,
            args=trl_config(settings, out_dir, loaded.device),
            train_dataset=training_rows(pairs, settings, loaded, target),
            callbacks=[watch, *callbacks],
        )
        if settings.lora_rank:
            adapter_in_fp32(loaded.model)
        return trainer

    call = {"kind": "sft", **asdict(settings), "target": target, "pairs": pairs_id(pairs)}
    return run(loaded, make_trainer, call, settings.seed, settings.steps, out_dir, on_step)
