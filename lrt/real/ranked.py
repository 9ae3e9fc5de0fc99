"""Ranked images of a prompt, as benchmarks label them, and the pairs that a ranking implies.

ImageReward's label file and HPDv2's test file say the same thing in two formats: a prompt, its n images, and a rank for
each. A row of either becomes a `Ranked`, whose n (n - 1) / 2 pairs are what judges are tested on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from lrt.pairs import FEATURES
from lrt.real.reading import Bad, both_images, left_out


@dataclass(frozen=True)
class Ranked:
    """A prompt, the names of its images in the file's order, and how good people found each."""

    prompt_id: str  # intervals are clustered by it; rows of one prompt share it where a source has no ids of prompts
    prompt: str
    images: tuple[str, ...]
    rank: tuple[float, ...]  # one an image: lower is better, 1 = best; equal is a tie; averages are allowed
    votes: tuple[tuple[float, ...], ...] | None = None  # each annotator's own ranks, where the source has them
    row_id: str = ""  # unique in its file; left empty where prompt_id is


@dataclass(frozen=True)
class Pair(Ranked):
    """The label of one pair, where a source labels pairs and does not rank: its `row_id` is the pair's own id."""

    share: float = 0.5  # of its votes for the first image


def vote_of(rank_i: float, rank_j: float) -> int:
    """1 where the first image is better, 2 where the second is, 0 for a tie: the lower rank is better."""
    return 1 if rank_i < rank_j else 2 if rank_j < rank_i else 0


def pairs_of(ranked: Ranked) -> Iterator[tuple[int, int, int]]:
    """(i, j, vote) for every pair of images i < j in the file's order; vote as in `vote_of`, from `rank`."""
    for i, j in combinations(range(len(ranked.images)), 2):
        yield i, j, vote_of(ranked.rank[i], ranked.rank[j])


def counts_of(ranked: Ranked, i: int, j: int) -> tuple[int, int, float]:
    """(votes for image i, votes for image j, share of votes for i) of a pair.

    With the annotators' own ranks each is a voter, and one who ranks both the same counts half for each share. Without
    them the ranking is one vote: 1 or 0, and 0.5 for a tie.
    """
    votes = [vote_of(own[i], own[j]) for own in ranked.votes or (ranked.rank,)]
    first, second = votes.count(1), votes.count(2)
    return first, second, (first + votes.count(0) / 2) / len(votes)


def ranks(values: Sequence, n: int, where: str, column: str) -> tuple[float, ...]:
    """The ranks of n images, checked; ValueError naming `where` and `column` for anything else."""
    if not isinstance(values, list | tuple):
        raise ValueError(f"{where}, column {column}: expected a list of {n} ranks, found {values!r:.80}")
    if len(values) != n:
        raise ValueError(f"{where}, column {column}: {len(values)} ranks for {n} images")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:  # NaN fails it too
            raise ValueError(f"{where}, column {column}: {value!r:.80} is not a rank (a number, 1 = best)")
    return tuple(float(value) for value in values)


def table(ranked: Sequence[Ranked]) -> pd.DataFrame:
    """All pairs: columns pair_id, prompt_id, image_1, image_2 (names), vote, in the file's order."""
    rows = [
        (pair_id(one, i, j), one.prompt_id, one.images[i], one.images[j], vote)
        for one in ranked
        for i, j, vote in pairs_of(one)
    ]
    return pd.DataFrame(rows, columns=["pair_id", "prompt_id", "image_1", "image_2", "vote"])


def pair_id(ranked: Ranked, i: int, j: int) -> str:
    """Unique in its file: images are counted from 1 in the file's order."""
    return f"{ranked.row_id or ranked.prompt_id}/{i + 1}-{j + 1}"


def rows_of(ranked: Ranked, cell: Callable[[int], dict] | None, bad: Bad, **same) -> Iterator[dict]:
    """The pairs of a ranking as rows of the schema.

    `cell(i)` gives image i as a cell of the column `images`, or raises ValueError, and the pair is left out (`bad`);
    None gives rows without images. `same` are columns that all rows share: split and source.
    """
    for i, j, vote in pairs_of(ranked):
        images = None
        with left_out(bad):
            images = cell and both_images(cell, i, j)
        if cell and not images:
            continue
        votes_1, votes_2, share = counts_of(ranked, i, j)
        yield dict.fromkeys(FEATURES) | {
            "pair_id": f"{same['source']}/{pair_id(ranked, i, j)}",
            "prompt_id": ranked.prompt_id,
            "prompt": ranked.prompt,
            "images": images,
            "vote": vote,
            "votes_1": votes_1,
            "votes_2": votes_2,
            "share": share,
            "image_names": (ranked.images[i], ranked.images[j]),
            **same,
        }
