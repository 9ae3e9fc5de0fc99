"""Settings by machine: what changes between a test run, a laptop and many GPUs is a profile, never the functions.

`PROFILES` are the tiny world's, which run anywhere. `REAL` are for real pairs and Qwen2.5-VL; each is written for a
card whose memory it must fit, which `lrt.machine.memory` works out and `lrt doctor` compares with the machine at hand.
The paper (arXiv 2506.22832) states neither learning rate nor image size, steps or hardware: those are our choice here,
each with its reason. None of the real profiles has been run by this project.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args, get_type_hints


@dataclass(frozen=True)
class Profile:
    """How much is trained and measured. Times are for two CPU cores."""

    name: str
    reasoner: str  # the base: a tiny name, a folder or a hub id
    listener: str  # the frozen model whose reading is rewarded; "adapter-off": the base under the reasoner's adapter
    judges: tuple[str, ...]  # listeners that only measure, never reward
    train_pairs: int  # pairs that SFT and GRPO draw from, at most
    test_pairs: int  # pairs of every test split, at most
    sft_steps: int  # optimiser steps of SFT, `sft_batch` pairs each
    sft_batch: int
    sft_lr: float
    grpo_steps: int  # optimiser steps of GRPO, `pairs_per_step` groups of `num_generations` completions each
    pairs_per_step: int
    num_generations: int
    grpo_lr: float
    max_new_tokens: int  # a gold trace of the tiny world with its answer is at most 43 tokens
    splits: tuple[str, ...]  # test splits of the tiny world that every method is judged on
    # What only large models need: the defaults are the tiny world's.
    data: str = "tiny"  # where training pairs come from: "tiny" draws them, any other has to be brought
    share: float = 1.0  # of the training prompts, by `in_share`
    benchmarks: tuple[str, ...] = ()  # what is judged in place of `splits`
    size: str = ""  # the published shape behind `reasoner`, for the arithmetic of `lrt.machine.memory`: "3B" or "7B"
    device: str = "cpu"
    gpus: int = 0  # cards that train, each with the same share of a step's completions
    gpu_gb: float = 0.0  # memory of each, in GB (1e9 bytes) as torch reports it
    rollout_gpus: int = 0  # further cards, of the vLLM server that generates
    listener_gpus: int = 0  # further cards, of the vLLM server that listens
    weights: str = "fp32"  # how the base lies in memory: "fp32", "bf16", "fp16" or "4bit"
    precision: str = "fp32"  # of the arithmetic in training: "fp32", or mixed "bf16" or "fp16"
    sharded: bool = False  # weights, gradients and optimiser split over the cards (FSDP2 or DeepSpeed ZeRO-3)
    lora_rank: int = 0  # of the adapter; 0 = train all weights
    gradient_checkpointing: bool = False  # recompute activations in the backward pass
    completions_per_pass: int | None = None  # completions of one forward pass in training, a card
    pairs_per_pass: int | None = None  # the same for SFT
    listener_batch: int = 64  # completions of one forward pass of the listener
    beta: float = 0.0  # weight of the KL to the base; 0 = no reference
    max_pixels: int | None = None  # an image of more is made smaller, by the model's own processor
    image_side: int | None = None  # every image is put on a square of this side first
    vllm_server: str | None = None  # address of a vLLM server that generates instead of the training process
    save_every: int = 50  # steps between checkpoints
    config: str = ""  # for `accelerate launch`, in data/configs; its commands stand at its head

    @property
    def cards(self) -> int:
        """All cards that a run takes, of all its machines."""
        return self.gpus + self.rollout_gpus + self.listener_gpus


ALL_SPLITS = (
    "in_distribution",
    "tint_uninformative",
    "tint_reversed",
    "no_tint",
    "unseen_combinations",
    "unseen_flaws",
)
_JUDGES = ("reasoner", "llava", "blind", "weak", "shortcut")

PROFILES = {
    "laptop": Profile(
        name="laptop",
        reasoner="reasoner",
        listener="reader",
        judges=_JUDGES,
        train_pairs=2400,
        test_pairs=240,
        sft_steps=150,
        sft_batch=32,
        sft_lr=1e-4,
        grpo_steps=150,
        pairs_per_step=8,
        num_generations=8,
        grpo_lr=5e-5,
        max_new_tokens=56,
        splits=ALL_SPLITS,
    ),
    "ci": Profile(
        name="ci",
        reasoner="reasoner",
        listener="reader",
        judges=("llava", "reasoner"),
        train_pairs=96,
        test_pairs=36,
        sft_steps=24,
        sft_batch=8,
        sft_lr=2e-4,
        grpo_steps=4,
        pairs_per_step=4,
        num_generations=4,
        grpo_lr=5e-5,
        max_new_tokens=56,
        splits=("in_distribution", "tint_uninformative"),
    ),
}

# --- real pairs, real models ---------------------------------------------------------------------------------------

COLAB_T4 = Profile(
    name="colab-t4",
    reasoner="Qwen/Qwen2.5-VL-3B-Instruct",  # 7B in fp16 alone is 16.6 GB: more than the card
    listener="adapter-off",  # the paper's listener is the frozen base: no second copy
    judges=(),  # a second listener would be a second 3B in memory: measure with it afterwards
    train_pairs=2000,  # more than the steps below use
    test_pairs=500,  # of about 43 prompts: a half-width of 8 points; the whole benchmark takes the card hours
    sft_steps=100,  # 1,600 pairs
    sft_batch=16,  # a usual size; accumulated, so it costs no memory
    sft_lr=1e-4,  # usual for LoRA
    grpo_steps=100,  # for a session of hours, to see the reward move; no claim can rest on it
    pairs_per_step=4,  # 32 completions a step, and checkpoints often enough for a session that may end
    num_generations=8,  # TRL's default, and the paper's neighbours'
    grpo_lr=1e-5,  # ten times TRL's default for all weights, as is usual for LoRA; not tuned
    max_new_tokens=256,  # a trace of about 200 tokens and its answer; every token costs time
    splits=(),  # of the tiny world: none
    data="imagereward",  # ImageRewardDB comes in small parts: one is enough to try
    benchmarks=("imagereward",),
    size="3B",
    device="cuda",
    gpus=1,
    gpu_gb=15.8,  # a T4, of which the driver keeps a part
    weights="fp16",  # no bf16 on a T4 (see models.keep_vision_finite); "4bit" saves 4 GB and makes every step slower
    precision="fp16",  # adapters stay in fp32, or the gradient scaler fails
    lora_rank=16,  # 30 million weights: their optimiser states take 0.24 GB, those of all weights would take 30
    gradient_checkpointing=True,  # without it one group of 8 needs more than the card has
    completions_per_pass=8,  # one group, the least that a pass may take
    pairs_per_pass=2,
    listener_batch=8,  # as one pass in training
    max_pixels=256 * 28 * 28,  # 448 x 448 or the like: 256 tokens an image
    save_every=5,  # a disconnect costs minutes
)

GPU = Profile(
    name="gpu",
    reasoner="Qwen/Qwen2.5-VL-7B-Instruct",  # the paper's reasoner
    listener="adapter-off",  # the paper's listener, without a second copy
    judges=(),  # measure with others afterwards
    train_pairs=20_000,  # more than the steps below use
    test_pairs=7230,  # all of ImageReward's test, 6,399 untied pairs and 831 tied ones
    sft_steps=300,  # 9,600 pairs
    sft_batch=32,  # a usual size; accumulated
    sft_lr=1e-4,  # usual for LoRA
    grpo_steps=500,  # 4,000 pairs, each seen once
    pairs_per_step=8,  # the tiny world's, so that the two compare
    num_generations=8,  # TRL's default
    grpo_lr=1e-5,  # ten times TRL's default for all weights, as is usual for LoRA; not tuned
    max_new_tokens=512,  # room for traces that grow; TRL masks nothing that is cut
    splits=(),
    data="hpdv2",  # the paper's
    benchmarks=("imagereward",),
    size="7B",
    device="cuda",
    gpus=1,
    gpu_gb=80.0,  # the smallest that is sold as 80 GB has a little more
    weights="bf16",  # as it is published
    precision="bf16",  # needs no gradient scaler
    lora_rank=32,  # 81 million weights
    gradient_checkpointing=True,  # without it one pass needs 150 GB
    completions_per_pass=16,  # two groups
    pairs_per_pass=8,
    max_pixels=512 * 512,  # most images of HPDv2 are 512 x 512: none of those loses anything
    config="1-gpu.yaml",  # one process
)

GPU_MANY = replace(
    GPU,
    name="gpu-many",
    listener="http://127.0.0.1:8001/v1#Qwen/Qwen2.5-VL-7B-Instruct",  # sharded weights cannot hear: data/configs
    train_pairs=100_000,  # more than the steps below use
    grpo_steps=1000,  # 32,000 pairs, each seen once
    pairs_per_step=32,  # four times `gpu`: 256 completions, 64 a card
    gpus=4,  # train with FSDP2 or DeepSpeed ZeRO-3
    rollout_gpus=2,  # generation on two takes about as long as training on four
    listener_gpus=2,  # hearing takes less: the two that are left
    sharded=True,  # 4 GB of weights a card instead of 17: room for a larger base
    lora_rank=64,  # memory is not the limit here
    image_side=504,  # one size for all: some versions of vLLM corrupt prompts whose image tokens come expanded
    max_pixels=512 * 512,  # no image is more, after `image_side`
    vllm_server="http://127.0.0.1:8000",  # the server's own machine, port as `vllm serve` has it
    config="8-gpus.yaml",  # one machine of eight
)

PAPER = replace(
    GPU_MANY,
    name="paper",
    train_pairs=1_000_000,  # all that the share below holds
    test_pairs=1_000_000,  # every pair of every benchmark below
    share=0.16,  # the abstract's 16 %; which 16 %, and how drawn, is not known: `in_share` is our rule
    sft_batch=64,  # one pass on each of the cards below
    grpo_steps=3225,  # 16 % of 645,000 training pairs, 32 a step, each seen once
    gpus=8,
    rollout_gpus=4,  # in proportion as `gpu-many`
    listener_gpus=4,  # the same
    config="2x8-gpus.yaml",  # two machines of eight
    benchmarks=("imagereward", "hpdv2", "rapidata"),  # those of the abstract, and the training set's own test
)

REAL = {one.name: one for one in (COLAB_T4, GPU, GPU_MANY, PAPER)}


def profile(name: str) -> Profile:
    """A profile by name, tiny or real; ValueError naming those that there are."""
    found = {**PROFILES, **REAL}
    if name not in found:
        raise ValueError(f"no profile {name!r}; there are {', '.join(found)}")
    return found[name]


CHOICES = {"weights": ("fp32", "bf16", "fp16", "4bit"), "precision": ("fp32", "bf16", "fp16")}


def changed(settings: Profile, said: Sequence[str]) -> Profile:
    """The profile with fields changed as a command line says it, each "field=value": `--set weights=4bit`.

    A value is read as its field's type: a tuple's parts stand between commas; "none" is None where that is allowed.
    ValueError for what is no field (naming those that there are) or no value of it. The name stays as it is.
    """
    kinds = {name: kind for name, kind in get_type_hints(Profile).items() if name != "name"}
    for one in said:
        name, equals, value = (part.strip() for part in one.partition("="))
        if not equals or name not in kinds:
            raise ValueError(f"{one!r} is no field=value of a profile; fields are {', '.join(kinds)}")
        settings = replace(settings, **{name: _value(name, kinds[name], value)})
    return settings


def _value(name: str, kind, text: str):
    kind, *others = get_args(kind) if type(None) in get_args(kind) else (kind,)
    if others and text.lower() == "none":
        return None
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            number = -1
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} is a {'whole ' * (kind is int)}number of at least 0, not {text!r}")
        return number
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name} is true or false, not {text!r}")
        return text.lower() == "true"
    if text not in CHOICES.get(name, (text,)):
        raise ValueError(f"{name} is {' or '.join(CHOICES[name])}, not {text!r}")
    return text if kind is str else tuple(part.strip() for part in text.split(",") if part.strip())


def in_share(prompt: str, share: float, seed: int = 0) -> bool:
    """Whether the pairs of a prompt are among the `share` of the training set that is used.

    The rule: Unicode form NFKC, case folded, runs of white space as one space; SHA-256 of "<seed>:<that text>"; its
    first 8 bytes as a whole number, over 2^64, is below `share`. All pairs of a prompt are in or out together, on every
    machine and in whatever order the file is; a larger share contains the smaller ones.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is between 0 and 1, not {share}")
    said = " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
    digest = hashlib.sha256(f"{seed}:{said}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share
