"""The methods that are compared, each in one place: what it is rewarded for, how it is trained, where its model is.

| method | training |
|---|---|
| base | none: the model that the others start from |
| sft | supervised on the votes, without traces |
| grpo | GRPO on r = r_format + 0.5 r_accuracy |
| grpo_listener | GRPO on r = r_format + 0.5 r_accuracy + 0.5 r_listener (arXiv 2506.22832) |

Plain GRPO keeps the same weights for the parts that it has, so that the listener's term is the only difference.
"""

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from lrt.grpo import GRPOSettings, train_grpo
from lrt.listener import LocalListener
from lrt.models import Loaded, find, load
from lrt.pairs import tiny_pairs
from lrt.profiles import Profile
from lrt.rewards import WEIGHTS, ListenerReward, accuracy_reward, format_reward
from lrt.runs import OnStep
from lrt.sft import SFTSettings, train_sft

SHIPPED = {
    "base": "reasoner",
    "sft": "reasoner-sft",
    "grpo": "reasoner-grpo",
    "grpo_listener": "reasoner-grpo-listener",
}
METHODS = tuple(SHIPPED)


def training_pairs(settings: Profile, seed: int) -> Dataset:
    """The pairs that every method of a run learns from: tint dial 0.9, one drawn vote a pair."""
    return tiny_pairs("train", settings.train_pairs, seed=seed)


def test_splits(settings: Profile) -> dict[str, Dataset]:
    """The test pairs of every split that the profile names: the same for every method and seed."""
    return {split: tiny_pairs(split, settings.test_pairs) for split in settings.splits}


def sft_settings(settings: Profile, seed: int) -> SFTSettings:
    return SFTSettings(settings.sft_steps, settings.sft_batch, settings.sft_lr, seed=seed)


def grpo_settings(settings: Profile, seed: int) -> GRPOSettings:
    return GRPOSettings(
        steps=settings.grpo_steps,
        pairs_per_step=settings.pairs_per_step,
        num_generations=settings.num_generations,
        lr=settings.grpo_lr,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
    )


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
    loaded = load(settings.reasoner, trainable=True)
    pairs = training_pairs(settings, seed) if pairs is None else pairs
    out = Path(run_dir) / method
    if method == "sft":
        return loaded, train_sft(loaded, pairs, sft_settings(settings, seed), out, on_step=on_step)
    listener = LocalListener(load(settings.listener)) if method == "grpo_listener" else None
    functions, weights = rewards(method, listener)
    return loaded, train_grpo(loaded, pairs, functions, weights, grpo_settings(settings, seed), out, on_step=on_step)


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
