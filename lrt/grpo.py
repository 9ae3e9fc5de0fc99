"""GRPO through TRL's `GRPOTrainer`, configured in one place.

What is simpler here than in a large run, and why:

- **One update a rollout, no reference model** (`beta=0`), TRL's own defaults: the ratio is 1, nothing is clipped, and
  notebook 03 can derive the whole step by hand. `num_iterations` and `beta` bring both back.
- **Plain `generate`, no inference engine**: a tiny model samples 64 completions in half a second, and the policy that
  samples is bit for bit the policy that is updated. `vllm_server` names one for models that need it.
- **The order of the rows is data** (`training_rows`), not a sampler: TRL's sampler starts over in a resumed run.
- **Every step is seeded by (seed, step)**, so a killed run goes on exactly, and two runs can be compared step by step.
- **A constant learning rate**: a schedule would make the same step mean different things in runs of different length.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import get_callable_name, is_async_callable

from lrt.checkpoints import adapter_in_fp32, exact_merging
from lrt.files import write_json
from lrt.images import squared
from lrt.models import Loaded
from lrt.passes import passes
from lrt.prompts import messages
from lrt.rewards import RewardFunction, who_listens
from lrt.rows import order_of, pairs_id, without_ties
from lrt.runs import OnStep, Watch, check_adapter, check_settings, common_arguments, rank, run


@dataclass(frozen=True)
class GRPOSettings:
    """One GRPO run. Equal settings, pairs, rewards and model give equal weights on the same machine."""

    steps: int = 250  # optimiser steps
    pairs_per_step: int = 8  # groups a rollout
    num_generations: int = 8  # completions a pair: the size of a group
    lr: float = 5e-5  # constant; 3e-4 makes the tiny model's traces collapse within 6 steps
    temperature: float = 1.0  # of sampling, and of the log-probabilities in the loss
    max_new_tokens: int = 64  # a completion is cut here; a gold trace of the tiny world has at most 43 tokens
    beta: float = 0.0  # weight of the KL to the model that training began with; 0 = no such model in memory
    epsilon: float = 0.2  # the ratio is clipped to 1 - epsilon .. 1 + epsilon
    num_iterations: int = 1  # optimiser steps on one rollout; from the second on the ratio is not 1
    loss_type: str = "dapo"  # how tokens are averaged: over the batch ("dapo") or a completion first ("grpo")
    scale_rewards: str = "group"  # advantages divided by the std of the "group", of the "batch", or by "none"
    aggregation: str = "sum_then_normalize"  # of reward parts; "normalize_then_sum" scales each by its own deviation
    balance_votes: bool = False  # as many votes for image 1 as for image 2 in every step
    entropy_coef: float = 0.0  # weight of a bonus for the mean entropy of the policy's tokens
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    seed: int = 0  # of the order of rows and of all sampling
    lora_rank: int = 0  # of the adapter that `checkpoints.with_adapter` put on the model; 0 = train all weights
    precision: str = "fp32"  # "fp32", or mixed: "bf16" or "fp16" (GPU)
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more time
    completions_per_pass: int | None = None  # completions a forward pass; None = a whole step's at once
    save_every: int = 50  # steps between checkpoints; the last one is kept
    log_every: int = 1  # steps a record of the log; several are averaged
    vllm_server: str | None = None  # "http://host:8000" of a vLLM server that generates; None = this process
    image_side: int | None = None  # every image on a square of so many pixels (lrt.images); vLLM asks for one size

    def __post_init__(self):
        if self.vllm_server and not self.image_side:
            raise ValueError("with vllm_server set image_side: some versions of vLLM corrupt prompts of mixed sizes")
        per_pass = self.completions_per_pass or self.completions
        if self.completions % per_pass or per_pass % self.num_generations:
            raise ValueError(
                f"completions_per_pass {per_pass} must divide {self.completions} completions into whole groups "
                f"of {self.num_generations}"
            )
        if self.num_generations < 2:
            raise ValueError("num_generations must be at least 2: an advantage compares the completions of a pair")
        if self.steps % self.num_iterations or self.save_every % self.num_iterations:
            raise ValueError(f"steps and save_every must be multiples of num_iterations {self.num_iterations}")
        check_settings(self)

    @property
    def completions(self) -> int:
        return self.pairs_per_step * self.num_generations


NEVER = -100.0  # the lowest bias on a logit that vLLM takes


def training_rows(pairs: Dataset, settings: GRPOSettings, loaded: Loaded) -> Dataset:
    """The rows of a run in the order in which they are used: `pairs_per_step` a rollout.

    Columns: `prompt` (the chat, with places for the images), `images` (two), `vote` (1 or 2), `pair_id`, `pair_text`
    (the prompt as the pair has it). The chat is written when a row is read: stored, it would get a `text: None` beside
    every image. Ties are left out, with a warning. ValueError for fewer pairs than a step takes.
    """
    pairs = without_ties(pairs)
    rollouts = settings.steps // settings.num_iterations
    order = order_of(pairs["vote"], settings.pairs_per_step, rollouts, settings.seed, settings.balance_votes)
    rows = pairs.select(order).select_columns(["prompt", "images", "vote", "pair_id"])

    wording, side = loaded.wording, settings.image_side  # alone: the data set pickles what the function holds on to

    def with_chat(batch: dict) -> dict:
        return {**squared(batch, side), "prompt": [messages(text, wording) for text in batch["pair_text"]]}

    return rows.rename_column("prompt", "pair_text").with_transform(with_chat)


def trl_config(
    settings: GRPOSettings,
    weights: Sequence[float],
    out: str | Path,
    device: torch.device,
    image_token: int | None = None,
) -> GRPOConfig:
    """The settings as TRL names them. A sampled image token would have no image behind it and end the run: TRL keeps
    them out of what `generate` writes, as long as `generation_kwargs` is left alone, but not out of what a vLLM server
    writes (trl/trainer/grpo_trainer.py). There a bias does it, so that `vllm_server` needs the id `image_token`.

    A step's completions are shared out evenly over the processes of `accelerate launch`; ValueError if they cannot be,
    and for a server without that id.
    """
    per_pass, accumulated = passes(settings.completions, settings.completions_per_pass, "completions")
    server = {}
    if settings.vllm_server:
        if image_token is None:
            raise ValueError("with vllm_server say which id the image token has: only then it is not sampled")
        server = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": settings.vllm_server,
                  "generation_kwargs": {"logit_bias": {image_token: NEVER}}}
    return GRPOConfig(
        **common_arguments(settings, out, device),
        **server,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=accumulated,
        num_generations=settings.num_generations,
        num_iterations=settings.num_iterations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.beta,
        epsilon=settings.epsilon,
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        multi_objective_aggregation=settings.aggregation,
        entropy_coef=settings.entropy_coef,
        reward_weights=list(weights),
        shuffle_dataset=False,
    )


def build_trainer(
    loaded: Loaded,
    pairs: Dataset,
    reward_funcs: Sequence[RewardFunction],
    weights: Sequence[float],
    settings: GRPOSettings,
    out: str | Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> GRPOTrainer:
    """TRL's trainer with everything in place. It patches the model: `train_grpo` takes the patches off again."""
    check_adapter(loaded, settings.lora_rank)
    if settings.vllm_server and importlib.util.find_spec("vllm") is None:
        raise ValueError("vllm_server needs the package vllm here too, to pass weights on: pip install trl[vllm]")
    if settings.vllm_server and getattr(loaded.model, "is_loaded_in_4bit", False):
        raise ValueError("a vllm_server is sent whole weights, and weights in 4 bits are not: load them in bf16")
    if settings.beta and not settings.lora_rank and not loaded.model.config._name_or_path:
        raise ValueError(
            "beta needs the model that training began with, which is read from disk: save and load it first"
        )
    if settings.vllm_server and settings.lora_rank:
        exact_merging(loaded.model)
    trainer = GRPOTrainer(
        model=loaded.model,
        processing_class=loaded.processor,
        reward_funcs=list(reward_funcs),
        args=trl_config(settings, weights, out, loaded.device, loaded.model.config.image_token_id),
        train_dataset=training_rows(pairs, settings, loaded),
        callbacks=list(callbacks),
    )
    if settings.lora_rank:
        adapter_in_fp32(loaded.model)
    return trainer


def timed_reward(watch: Watch, function: RewardFunction) -> RewardFunction:
    if is_async_callable(function):
        return function
    timed = watch.timed(f"reward_{get_callable_name(function)}", function)
    timed.__name__ = get_callable_name(function)
    return timed


def train_grpo(
    loaded: Loaded,
    pairs: Dataset,
    reward_funcs: Sequence[RewardFunction],
    weights: Sequence[float],
    settings: GRPOSettings,
    out_dir: str | Path,
    on_step: OnStep | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict]:
    """Train a reasoner and return the log: one record a step, TRL's metric names plus `time_*` in seconds.

    Killed at any moment and called again in the same way, it ends with the weights of a run that was not (but with
    `vllm_server`: what a server samples is not seeded from here); a finished run only loads its model. Afterwards
    `loaded.model` holds the trained weights, in eval mode, and `out_dir/model` has them for `models.load`.
    `on_step(step, total, record)` replaces the progress bar. Reward functions have TRL's form (see `lrt.rewards`); what
    they draw from the global generators is seeded by the step.

    Raises ValueError if `out_dir` was started with other settings, pairs, rewards, listeners or weights, for a frozen
    model, and for too few pairs.
    """

    def make_trainer(watch: Watch) -> GRPOTrainer:
        timed = [timed_reward(watch, f) for f in reward_funcs]
        trainer = build_trainer(loaded, pairs, timed, weights, settings, out_dir, [watch, *callbacks])
        loaded.model.generate = watch.timed("generate", loaded.model.generate)
        if not rank():
            write_json(Path(out_dir) / "listeners.json", who_listens(reward_funcs))
        return trainer

    call = {
        "kind": "grpo",
        **asdict(settings),
        "rewards": [get_callable_name(f) for f in reward_funcs],
        "weights": list(weights),
        "pairs": pairs_id(pairs),
    }
    if heard := who_listens(reward_funcs):
        call["listeners"] = heard
    return run(loaded, make_trainer, call, settings.seed, settings.steps, out_dir, on_step)
