"""Settings by machine: what changes between a test run, a laptop and more is a profile, never the functions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """How much is trained and measured. Times are for two CPU cores."""

    name: str
    reasoner: str  # the base: a tiny name, a folder or a hub id
    listener: str  # the frozen model whose reading is rewarded
    judges: tuple[str, ...]  # listeners that only measure, never reward
    train_pairs: int  # pairs that SFT and GRPO draw from
    test_pairs: int  # pairs of every test split
    sft_steps: int  # optimiser steps of SFT, `sft_batch` pairs each
    sft_batch: int
    sft_lr: float
    grpo_steps: int  # optimiser steps of GRPO, `pairs_per_step` groups of `num_generations` completions each
    pairs_per_step: int
    num_generations: int
    grpo_lr: float
    max_new_tokens: int  # a gold trace of the tiny world with its answer is at most 43 tokens
    splits: tuple[str, ...]  # test splits that every method is judged on


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


def profile(name: str) -> Profile:
    """A profile by name; ValueError naming those that there are."""
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]
