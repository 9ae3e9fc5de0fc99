"""Is what a judge is tested on among what it was trained on? By prompt, by image, and by image encoded anew.

- Prompts are compared normalised: Unicode NFKC, case folded, white space collapsed.
- Images are compared by the SHA-256 of their bytes: the same file.
- Copies that were resized or encoded anew have other bytes. They are looked for by a difference hash: the image in grey
  at 9 x 8 pixels, one bit for each pixel that is brighter than its right neighbour (Krawetz 2013, "Kind of Like That",
  with a margin, so that noise on a plain area decides no bit). Images whose hashes differ in at most `NEAR` of the 64
  bits are candidates: look at them. An image with hardly a bit set is too plain to be compared so.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lrt.folder import decoded, image_problem
from lrt.real.reading import name_of

NEAR = 6  # bits of 64
MARGIN = 4  # grey levels by which a pixel must be brighter
PLAIN = 6  # fewer bits set: too plain
BLOCK = 4_000_000  # comparisons at a time


def normalised(prompt: str) -> str:
    """A prompt as it is compared."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def difference_hash(image: Image.Image) -> int | None:
    """64 bits that a re-encoded or resized copy shares, up to a few; None for a plain image."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, :-1] - small[:, 1:]) > MARGIN
    return int.from_bytes(np.packbits(bits).tobytes(), "big") if bits.sum() >= PLAIN else None


@dataclass
class Prints:
    """The prompts and images of one set, as they are compared."""

    prompts: dict[str, str] = field(default_factory=dict)  # normalised -> as it stands first
    images: dict[str, str] = field(default_factory=dict)  # SHA-256 -> name of the first such image
    hashes: dict[str, int | None] = field(default_factory=dict)  # SHA-256 -> difference hash
    unreadable: int = 0


def prints(rows: Iterable[dict]) -> Prints:
    """Read rows (of `sources.rows`, or of any `Dataset` of pairs with undecoded images) once, one image at a time."""
    found, seen = Prints(), set()
    for row in rows:
        found.prompts.setdefault(normalised(row["prompt"]), row["prompt"])
        cells = row["images"] or []
        names = row.get("image_names") or [name_of(cell) for cell in cells]
        for cell, name in zip(cells, names, strict=False):
            if name_of(cell) not in seen:
                seen.add(name_of(cell))
                _add(found, cell, name)
    return found


def _add(found: Prints, cell: dict, name: str) -> None:
    data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest in found.images:
        return
    if image_problem(data):
        found.unreadable += 1
        return
    found.images[digest] = name
    found.hashes[digest] = difference_hash(decoded(data))


@dataclass(frozen=True)
class Overlap:
    """What two sets share. The lists hold names as the test set has them first."""

    train: Prints
    test: Prints
    prompts: list[str]
    images: list[tuple[str, str]]  # (in test, in train): the same bytes
    near: list[tuple[str, str, int]]  # (in test, in train, bits that differ): other bytes, nearly the same hash


def overlap(train: Prints, test: Prints, near: int = NEAR) -> Overlap:
    """Prompts and images of the test set that the training set has too."""
    if not 0 <= near <= 64:
        raise ValueError(f"near is a number of bits, 0 to 64: {near}")
    same = [digest for digest in test.images if digest in train.images]
    return Overlap(
        train,
        test,
        [prompt for key, prompt in test.prompts.items() if key in train.prompts],
        [(test.images[digest], train.images[digest]) for digest in same],
        _near(train, test, near),
    )


def _near(train: Prints, test: Prints, near: int) -> list[tuple[str, str, int]]:
    """Each test image that is not in training as it is, with the training image nearest to it, if that is near."""
    ours = [d for d, h in test.hashes.items() if h is not None and d not in train.images]
    theirs = [d for d, h in train.hashes.items() if h is not None]
    if not ours or not theirs:
        return []
    theirs_N = np.array([train.hashes[d] for d in theirs], dtype=np.uint64)
    rows, found = max(1, BLOCK // len(theirs)), []
    for start in range(0, len(ours), rows):
        block = ours[start : start + rows]
        ours_M = np.array([test.hashes[d] for d in block], dtype=np.uint64)
        bits_MN = np.bitwise_count(ours_M[:, None] ^ theirs_N[None, :])
        nearest_M = bits_MN.argmin(axis=1)
        for digest, k, bits in zip(block, nearest_M, bits_MN.min(axis=1), strict=True):
            if bits <= near:
                found.append((test.images[digest], train.images[theirs[k]], int(bits)))
    return found


def told(found: Overlap, most: int = 5) -> str:
    """In words, for a terminal; of each list at most so many."""
    train, test = found.train, found.test
    lines = [f"prompts of the test set that are in training: {len(found.prompts):,} of {len(test.prompts):,} "
             f"(training has {len(train.prompts):,})"]
    lines += [f"  {prompt[:100]}" for prompt in found.prompts[:most]]
    if not (test.images and train.images):
        return "\n".join([*lines, "images were not compared: one of the sets was read without them"])
    lines.append(f"images of the test set that are in training, byte for byte: {len(found.images):,} of "
                 f"{len(test.images):,} (training has {len(train.images):,})")
    lines += [f"  {a} = {b}" for a, b in found.images[:most]]
    lines.append(f"others that look like a training image (candidates, to be looked at): {len(found.near):,}")
    lines += [f"  {a} ~ {b} ({bits} of 64 bits differ)" for a, b, bits in found.near[:most]]
    plain = sum(h is None for h in test.hashes.values())
    unread = train.unreadable + test.unreadable
    if plain:
        lines.append(f"too plain to be compared by looks: {plain:,} images of the test set")
    return "\n".join(lines + ([f"images that cannot be read, left out: {unread:,}"] if unread else []))
