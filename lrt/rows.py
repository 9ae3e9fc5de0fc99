"""Which pairs a training run learns from, and in which order: data, the same on every machine, for every trainer."""

import hashlib
import math
import warnings
from collections.abc import Sequence

from datasets import Dataset

from lrt import world


def without_ties(pairs: Dataset) -> Dataset:
    """The pairs that have a vote; those with vote 0 (a tie) teach no answer and are dropped, with a warning."""
    kept = [i for i, vote in enumerate(pairs["vote"]) if vote in (1, 2)]
    if len(kept) < len(pairs):
        warnings.warn(f"{len(pairs) - len(kept)} of {len(pairs)} pairs are ties (vote 0): left out", stacklevel=3)
    return pairs.select(kept)


def row_order(n_pairs: int, per_step: int, steps: int, seed: int) -> list[int]:
    """Which pair is at which place of a run: `steps * per_step` indices, the same on every machine.

    One seeded permutation of the pairs after another, each cut to whole steps, so that no step holds a pair twice (its
    completions would be taken for one group). A longer run begins with the same rows. Written down as data, the order
    needs no sampler whose state a resumed run would have to restore. ValueError for fewer pairs than a step takes.
    """
    if n_pairs < per_step:
        raise ValueError(f"{n_pairs} pairs with a vote are fewer than the {per_step} that one step takes")
    whole = n_pairs - n_pairs % per_step
    order: list[int] = []
    for epoch in range(math.ceil(steps * per_step / whole)):
        order += world.rng("row order", seed, epoch).permutation(n_pairs)[:whole].tolist()
    return order[: steps * per_step]


def balanced_order(votes: list[int], per_step: int, steps: int, seed: int) -> list[int]:
    """Like `row_order`, with as many votes for image 1 as for image 2 in every step.

    A step whose votes happen to favour one side pushes every answer to that side, and a small policy soon gives only
    that answer: no group then has anything to compare. ValueError for an odd number of pairs a step, or too few pairs.
    """
    if per_step % 2:
        raise ValueError(f"votes are balanced in steps of an even number of pairs, not {per_step}")
    half, order, epoch = per_step // 2, [], 0
    sides = [[i for i, vote in enumerate(votes) if vote == side] for side in (1, 2)]
    whole = min(map(len, sides)) // half
    if not whole:
        counts = f"{len(sides[0])} and {len(sides[1])} pairs with each vote"
        raise ValueError(f"{counts} are fewer than the {half} of each that one step takes")
    while len(order) < steps * per_step:
        place = world.rng("balanced order", seed, epoch).permutation(len(votes)).tolist()
        first, second = (sorted(side, key=place.__getitem__) for side in sides)
        for k in range(whole):
            order += first[k * half : (k + 1) * half] + second[k * half : (k + 1) * half]
        epoch += 1
    return order[: steps * per_step]


def order_of(votes: Sequence[int], per_step: int, steps: int, seed: int, balanced: bool) -> list[int]:
    """A run's order: `balanced_order` of the pairs with these votes, or `row_order` of as many."""
    if balanced:
        return balanced_order(list(votes), per_step, steps, seed)
    return row_order(len(votes), per_step, steps, seed)


def pairs_id(pairs: Dataset) -> str:
    """A short hash of which pairs these are, in which order, and how they were voted on."""
    said = zip(pairs["pair_id"], pairs["vote"], strict=True)
    return hashlib.sha256(repr(list(said)).encode()).hexdigest()[:16]
