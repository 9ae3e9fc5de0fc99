"""The methods that are compared, each in one place: what it is rewarded for, how it is trained, where its model is.

| method | training |
|---|---|
| base | none: the model that the others start from |
| sft | supervised on the votes, without traces |
| grpo | GRPO on r = r_format + 0.5 r_accuracy |
| grpo_listener | GRPO on r = r_format + 0.5 r_accuracy + 0.5 r_listener (arXiv 2506.22832) |

Plain GRPO keeps the same weights for the parts that it has, so that the listener's term is the only difference.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from lrt.checkpoints import with_adapter
from lrt.grpo import GRPOSettings, train_grpo
from lrt.listener import AdapterOffListener, Listener, LocalListener
from lrt.models import Loaded, find, load
from lrt.pairs import tiny_pairs
from lrt.profiles import Profile
from lrt.remote import RemoteListener
from lrt.rewards import WEIGHTS, ListenerReward, accuracy_reward, format_reward
from lrt.runs import OnStep
from lrt.samples import Keeping
from lrt.sft import SFTSettings, train_sft

SHIPPED = {
    "base": "reasoner",
    "sft": "reasoner-sft",
    "grpo": "reasoner-grpo",
    "grpo_listener": "reasoner-grpo-listener",
}
METHODS = tuple(SHIPPED)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_pairs(settings: Profile, seed: int) -> Dataset:
    """The pairs that every method of a run learns from: tint dial 0.9, one drawn vote a pair.

    ValueError for a profile of real pairs, which have to be brought (`lrt.real.bring`).
    """
    if settings.data != "tiny":
        raise ValueError(f"{settings.name} learns from {settings.data}: pass its pairs on (--pairs); "
                         "lrt.real.sources reads them")
    return tiny_pairs("train", settings.train_pairs, seed=seed)


def test_splits(settings: Profile) -> dict[str, Dataset]:
    """The test pairs of every split that the profile names: the same for every method and seed.

    ValueError for a profile of real pairs, which are judged on benchmarks.
    """
    if settings.data != "tiny":
        raise ValueError(f"{settings.name} is judged on {', '.join(settings.benchmarks)}: read them with "
                         "lrt.real.sources")
    return {split: tiny_pairs(split, settings.test_pairs) for split in settings.splits}


def _in_common(settings: Profile) -> dict[str, Any]:
    return {
        "lora_rank": settings.lora_rank,
        "precision": settings.precision,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_every": settings.save_every,
        "image_side": settings.image_side,
    }


def sft_settings(settings: Profile, seed: int) -> SFTSettings:
    return SFTSettings(
        settings.sft_steps,
        settings.sft_batch,
        settings.sft_lr,
        seed=seed,
        pairs_per_pass=settings.pairs_per_pass,
        **_in_common(settings),
    )


def grpo_settings(settings: Profile, seed: int) -> GRPOSettings:
    return GRPOSettings(
        steps=settings.grpo_steps,
        pairs_per_step=settings.pairs_per_step,
        num_generations=settings.num_generations,
        lr=settings.grpo_lr,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
        beta=settings.beta,
        completions_per_pass=settings.completions_per_pass,
        vllm_server=settings.vllm_server,
        **_in_common(settings),
    )


# --- models as a profile wants them --------------------------------------------------------------------------------


def load_as(settings: Profile, name: str, trainable: bool = False, revision: str | None = None) -> Loaded:
    """`models.load` on the profile's device, in its precision, with its limit on images.

    A tiny model, whatever the profile, has its own size of images. ValueError for a GPU profile where there is none,
    and for all weights of a model to be trained in 16 bits, where most small steps round to nothing (sharded weights
    are put into fp32 by accelerate).
    """
    if trainable and settings.weights in ("bf16", "fp16") and not settings.sharded:
        raise ValueError(f"{settings.name} without an adapter would train its {settings.weights} weights themselves, "
                         "and lose most small steps: give it a lora_rank, or --set weights=fp32")
    device = settings.device
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"profile {settings.name} is for a GPU, and torch sees none: `lrt doctor` says what fits")
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # one card a process of `accelerate launch`
    four_bit = settings.weights == "4bit"
    dtype = DTYPES[settings.precision if four_bit else settings.weights]
    return load(name, device, dtype, trainable, revision, four_bit, settings.max_pixels)


def reasoner(settings: Profile, seed: int, name: str | None = None) -> Loaded:
    """The profile's base (or another by name), ready to be trained: under a fresh adapter if the profile has a rank."""
    loaded = load_as(settings, name or settings.reasoner, trainable=not settings.lora_rank)
    return with_adapter(loaded, settings.lora_rank, seed)


def listener_for(settings: Profile, loaded: Loaded, name: str | None = None) -> Listener:
    """The profile's listener (or another by name) for a reasoner; "adapter-off" is the reasoner's own base."""
    name, batch = name or settings.listener, settings.listener_batch
    if "://" in name:
        return RemoteListener.at(name, loaded.wording, settings.max_pixels)
    if name == "adapter-off":
        if settings.sharded:
            raise ValueError(f"{settings.name} shards its weights, and its processes would wait for each other's "
                             "passes: its listener must be a server (data/configs/README.md)")
        return AdapterOffListener(loaded, batch=batch)
    return LocalListener(load_as(settings, name), batch=batch)


def rewards(method: str, listener=None) -> tuple[list[Callable], list[float]]:
    """(reward functions, weights) of a GRPO method. ValueError for any other method, or a missing listener."""
    if method == "grpo":
        return [format_reward, accuracy_reward], list(WEIGHTS[:2])
    if method == "grpo_listener" and listener is not None:
        return [format_reward, accuracy_reward, ListenerReward(listener)], list(WEIGHTS)
    raise ValueError(f"{method!r} is no method with rewards, or its listener is missing")


def train(
    method: str,
    settings: Profile,
    run_dir: str | Path,
    seed: int,
    pairs: Dataset | None = None,
    on_step: OnStep | None = None,
) -> tuple[Loaded, list[dict]]:
    """Train a method from the profile's base in `run_dir/method`; the model, and its log by step.

    Called again it goes on from where it was, or only loads a finished run. `pairs` default to `training_pairs`.
    """
    if method not in METHODS[1:]:
        raise ValueError(f"{method!r} is not trained; choose one of {', '.join(METHODS[1:])}")
    loaded = reasoner(settings, seed)
    pairs = training_pairs(settings, seed) if pairs is None else pairs
    out = Path(run_dir) / method
    if method == "sft":
        return loaded, train_sft(loaded, pairs, sft_settings(settings, seed), out, on_step=on_step)
    listener = listener_for(settings, loaded) if method == "grpo_listener" else None
    functions, weights = rewards(method, listener)
    how = grpo_settings(settings, seed)
    keep = [Keeping(loaded, out, every=max(1, how.steps // 6))] if settings.data == "tiny" else []
    return loaded, train_grpo(loaded, pairs, functions, weights, how, out, on_step=on_step, callbacks=keep)


def where(method: str, settings: Profile, run_dir: str | Path) -> tuple[str, bool]:
    """(name or folder of a method's model, whether it was trained in this run): the run's own if it is finished,
    otherwise the one that is shipped. ValueError for an unknown method."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if method == "base":
        return settings.reasoner, False
    own = Path(run_dir) / method
    if (own / "done.json").exists():
        return str(own / "model"), True
    find(SHIPPED[method])
    return SHIPPED[method], False
