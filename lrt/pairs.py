"""One schema for preference pairs, and the tiny world's splits in it.

Every source of pairs becomes a `datasets.Dataset` with the columns of `FEATURES`:

| column | meaning |
|---|---|
| pair_id | unique name of the row |
| prompt_id | pairs of one prompt share it: intervals are clustered by it |
| prompt | the text that both images were made from |
| images | the two images (bytes or a file's path on disk, PIL images when read); null where only labels were read |
| vote | the training label: 1 or 2, one drawn vote; 0 = tie, where a source gives no single vote |
| votes_1, votes_2 | how many voters preferred each image; null where a source gives shares alone |
| share | share of votes for image 1; 0.5 is a tie |
| utility_1, utility_2 | the true worth of each image; null outside the tiny world |
| tint_1, tint_2 | background of each image: warm, cool or none; null outside the tiny world |
| scene_1, scene_2 | what each image truly shows, as JSON (`world.Scene`); null outside the tiny world |
| split | which split the row belongs to |
| source | where it comes from: tiny, folder, imagereward, hpdv2, rapidata, pickapic |

A folder of the user's own pairs is read into this schema by `lrt.folder`, the benchmarks' files by `lrt.real.sources`.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from lrt import world
from lrt.world import Scene

FEATURES = Features(
    {
        "pair_id": Value("string"),
        "prompt_id": Value("string"),
        "prompt": Value("string"),
        "images": List(Image()),
        "vote": Value("int32"),
        "votes_1": Value("int32"),
        "votes_2": Value("int32"),
        "share": Value("float32"),
        "utility_1": Value("float32"),
        "utility_2": Value("float32"),
        "tint_1": Value("string"),
        "tint_2": Value("string"),
        "scene_1": Value("string"),
        "scene_2": Value("string"),
        "split": Value("string"),
        "source": Value("string"),
    }
)
VOTERS = 4


@dataclass(frozen=True)
class Split:
    """A split of the tiny world: which prompts it may use and how its pairs are drawn.

    `buckets` are the prompt's hash modulo 100: no prompt is in two splits, whatever the seed. `shortcut` is the
    probability that the better image has the warm background (None = no tint at all).
    """

    buckets: range
    shortcut: float | None
    generators: tuple[world.Flaws, world.Flaws] = (world.SKILLED, world.CLUMSY)
    held_out: bool = False  # True: prompts with a held-out combination of colour and shape, and only those


SPLITS = {
    "pretrain": Split(range(0, 40), 0.5),
    "listener": Split(range(40, 54), 0.5),
    "train": Split(range(54, 76), 0.9),
    "validation": Split(range(76, 79), 0.9),
    "in_distribution": Split(range(79, 83), 0.9),
    "tint_uninformative": Split(range(83, 88), 0.5),
    "tint_reversed": Split(range(88, 92), 0.1),
    "no_tint": Split(range(92, 96), None),
    "unseen_flaws": Split(range(96, 100), 0.5, (world.UNSEEN_SKILLED, world.UNSEEN_CLUMSY)),
    "unseen_combinations": Split(range(0, 100), 0.5, held_out=True),
}


def dataset_of(rows: list[dict]) -> Dataset:
    """Rows of the schema as a dataset; none give an empty one (`from_list` alone cannot tell its columns)."""
    if not rows:
        return Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
    return Dataset.from_list(rows, features=FEATURES)


def bucket(prompt_id: str) -> int:
    """0..99 by the prompt's hash, the same on every machine and for both orders of its things."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:4], "little") % 100


@cache
def split_prompts(split: str) -> tuple[tuple[world.Thing, world.Thing], ...]:
    """Every prompt of a split, in a fixed shuffled order, up to the order of its two things."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    rule = SPLITS[split]
    chosen = [
        p
        for p in world.all_prompts()
        if world.is_held_out(p) == rule.held_out and bucket(world.prompt_id(p)) in rule.buckets
    ]
    order = world.rng("prompt order", split).permutation(len(chosen))
    return tuple(chosen[i] for i in order)


def tiny_pairs(split: str, n_pairs: int, seed: int = 0, shortcut: float | None = -1.0,
               of_each: tuple[int, ...] = (0, 1, 2, 3, 4, 5)) -> Dataset:
    """`n_pairs` pairs of a split: four images a prompt, their six pairs, four voters each. The same seed gives the same
    bytes, and a larger `n_pairs` only adds rows. `shortcut` overrides the split's own dial (None = no tint); `of_each`
    says which of a prompt's six pairs are wanted, for the same number of pairs of more prompts.

    Raises ValueError for an unknown split, or more pairs than its prompts have (six each).
    """
    prompts, each = split_prompts(split), len(of_each)
    if n_pairs > each * len(prompts):
        most = f"at most {each * len(prompts)} pairs"
        raise ValueError(f"split {split!r} has {len(prompts)} prompts, so {most}: {n_pairs}")
    dial = SPLITS[split].shortcut if shortcut == -1.0 else shortcut
    if dial is not None and not 0 <= dial <= 1:
        raise ValueError(f"shortcut is a probability, got {dial}")
    rows = []
    for asked in prompts[: -(-n_pairs // each)]:
        rows.extend(_prompt_rows(split, asked, seed, dial, of_each))
    return dataset_of(rows[:n_pairs])


def tiny_votes(split: str, n_pairs: int, seed: int = 0) -> list[int]:
    """The column `vote` of `tiny_pairs`, without drawing an image; the same whatever the dial, as long as there is
    one."""
    rows = (row for asked in split_prompts(split) for row in _prompt_rows(split, asked, seed, 0.5, range(6), False))
    return [row["vote"] for row in islice(rows, n_pairs)]


def _prompt_rows(split: str, asked, seed: int, dial: float | None, wanted, images: bool = True) -> Iterator[dict]:
    rule, name = SPLITS[split], world.prompt_id(asked)
    r = world.rng("pairs", split, seed, name)
    if r.random() < 0.5:
        asked = (asked[1], asked[0])
    skilled, clumsy = rule.generators
    scenes = [world.draw_scene(asked, f, r, rule.held_out) for f in (skilled, skilled, clumsy, clumsy)]
    for k, (i, j) in enumerate(combinations(range(4), 2)):
        if r.random() < 0.5:
            i, j = j, i
        tints = _tints(world.utility(asked, scenes[i]) - world.utility(asked, scenes[j]), dial, r)
        votes = _votes(world.utility(asked, scenes[i]), world.utility(asked, scenes[j]), r)
        if k not in wanted:  # its draws are made all the same, so that the others do not depend on it
            continue
        yield {
            "pair_id": f"{split}/{seed}/{name}/{k}",
            "prompt_id": name,
            "prompt": world.prompt_text(asked),
            "split": split,
            "source": "tiny",
            **votes,
            **(_drawn((scenes[i], scenes[j]), tints) if images else {}),
        }


def _tints(gap: float, dial: float | None, r: np.random.Generator) -> tuple[str, str]:
    """Warm goes to the better image with probability `dial`; on a tie to either."""
    if dial is None:
        return "none", "none"
    better_is_first = gap > 0 if gap else r.random() < 0.5
    warm_is_first = better_is_first == (r.random() < dial)
    return ("warm", "cool") if warm_is_first else ("cool", "warm")


def _votes(utility_1: float, utility_2: float, r: np.random.Generator) -> dict:
    votes = r.random(VOTERS) < world.p_prefer_first(utility_1, utility_2)
    return {
        "vote": 1 if votes[0] else 2,
        "votes_1": int(votes.sum()),
        "votes_2": int(VOTERS - votes.sum()),
        "share": float(votes.mean()),
        "utility_1": utility_1,
        "utility_2": utility_2,
    }


def _drawn(scenes: tuple[Scene, Scene], tints: tuple[str, str]) -> dict:
    return {
        "images": [{"bytes": png(world.render(s, t)), "path": None} for s, t in zip(scenes, tints, strict=True)],
        "tint_1": tints[0],
        "tint_2": tints[1],
        "scene_1": scenes[0].to_json(),
        "scene_2": scenes[1].to_json(),
    }


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 -> PNG bytes."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def scenes_of(row: dict) -> tuple[Scene, Scene]:
    """The true scenes of a tiny-world row."""
    if row["scene_1"] is None:
        raise ValueError(f"row {row['pair_id']!r} has no scenes: they are known in the tiny world only")
    return Scene.from_json(row["scene_1"]), Scene.from_json(row["scene_2"])


def swap_tints(pairs: Dataset) -> Dataset:
    """The same scenes, votes and render noise with the two backgrounds exchanged: nothing else differs."""
    other = {"warm": "cool", "cool": "warm", "none": "none"}

    def swapped(row: dict) -> dict:
        return {**row, **_drawn(scenes_of(row), (other[row["tint_1"]], other[row["tint_2"]]))}

    return dataset_of([swapped(row) for row in pairs.remove_columns("images")])


def swap_order(pairs: Dataset) -> Dataset:
    """Every pair with its two images exchanged, and with them everything that is said of image 1 and image 2.

    The images' bytes are held in memory: for the tiny world. `evaluate.judge_both_orders` exchanges large ones as it
    reads them."""
    names = [n.removesuffix("_1") for n in FEATURES if n.endswith("_1")]

    def swapped(row: dict) -> dict:
        turned = {f"{n}_{i}": row[f"{n}_{3 - i}"] for n in names for i in (1, 2)}
        vote = 3 - row["vote"] if row["vote"] else 0
        return {**row, **turned, "images": row["images"][::-1], "vote": vote, "share": 1 - row["share"]}

    undecoded = pairs.with_format("arrow")[:].to_pylist()  # the PNG bytes as they are
    return dataset_of([swapped(row) for row in undecoded])
