"""Traces of the tiny world: writing one, reading one, holding it against the true scenes, and editing it.

    image 1 : red circle top-left good , missing , clear . image 2 : ... , ... , blurred . image 1 is better .

Per image two slots in reading order (a thing and whether it is exactly what the prompt asks for, or `missing`), then a
word for its quality; at the end the verdict. Real models write free text; only the tiny world's traces can be checked
word by word, and only here is that done.
"""

import re
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from lrt.world import COLOURS, PLACES, QUALITIES, SHAPES, Scene, Thing, pick, reading_order

MARKS = ("good", "bad")


@dataclass(frozen=True)
class Claim:
    """What a trace says of one thing: what it is, where, and whether the prompt asks for it ("good" or "bad")."""

    thing: Thing
    mark: str

    def __str__(self) -> str:
        return f"{self.thing} {self.mark}"


@dataclass(frozen=True)
class Description:
    """What a trace says of one image: two slots (None = "missing") and a quality."""

    slots: tuple[Claim | None, Claim | None]
    quality: str

    def __str__(self) -> str:
        return " , ".join([*(str(slot) if slot else "missing" for slot in self.slots), self.quality])


@dataclass(frozen=True)
class Trace:
    """Both descriptions and the verdict; a part that is absent or malformed is None."""

    images: tuple[Description | None, Description | None]
    verdict: int | None

    def __str__(self) -> str:
        parts = [f"image {i} : {d} ." for i, d in enumerate(self.images, start=1) if d]
        return " ".join(parts + ([f"image {self.verdict} is better ."] if self.verdict else []))


@dataclass(frozen=True)
class Statement:
    """One checked word: `true` is None where the vocabulary has no word for what is there (never counted)."""

    image: int
    attribute: str  # colour, shape, place, mark, missing or quality
    said: str
    true: bool | None
    slot: int  # 0 or 1; 2 for the quality


# --- writing and reading -------------------------------------------------------------------------------------------


def describe(asked: tuple[Thing, Thing], scene: Scene) -> Description:
    """The true description of a scene. A third thing has no slot, and an unseen quality no word: ValueError."""
    if len(scene.things) > 2 or scene.quality not in QUALITIES:
        raise ValueError(f"the vocabulary has no words for {scene}")
    claims = [Claim(t, "good" if t in asked else "bad") for t in reading_order(scene.things)]
    slots = (claims + [None, None])[:2]
    return Description((slots[0], slots[1]), scene.quality)


def gold_trace(asked: tuple[Thing, Thing], scenes: tuple[Scene, Scene], verdict: int | None) -> Trace:
    return Trace((describe(asked, scenes[0]), describe(asked, scenes[1])), verdict)


def write_completion(trace: Trace | str, answer: int) -> str:
    """`<think> trace </think> <answer> answer </answer>`, words separated by single spaces."""
    return " ".join(["<think>", *str(trace).split(), "</think>", "<answer>", str(answer), "</answer>"])


_SLOT = rf"(?:missing|(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}) (?:{'|'.join(PLACES)}) (?:good|bad))"
_IMAGE = re.compile(rf"^image ([12]) : ({_SLOT}) , ({_SLOT}) , ({'|'.join(QUALITIES)})$")
_VERDICT = re.compile(r"^image ([12]) is better$")


def _read_slot(text: str) -> Claim | None:
    if text == "missing":
        return None
    colour, shape, place, mark = text.split()
    return Claim(Thing(colour, shape, place), mark)


def read_trace(text: str) -> tuple[Trace, int]:
    """(trace, number of sentences that are not of the grammar). The first description of an image and the last verdict
    count; a second description of the same image is malformed. Never raises."""
    images: list[Description | None] = [None, None]
    verdict, malformed = None, 0
    for sentence in (" ".join(s.split()) for s in text.split(" .")):
        if not sentence:
            continue
        if found := _VERDICT.match(sentence):
            verdict = int(found[1])
        elif (found := _IMAGE.match(sentence)) and images[int(found[1]) - 1] is None:
            slots = (_read_slot(found[2]), _read_slot(found[3]))
            images[int(found[1]) - 1] = Description(slots, found[4])
        else:
            malformed += 1
    return Trace((images[0], images[1]), verdict), malformed


# --- truth ---------------------------------------------------------------------------------------------------------


def check_description(image: int, said: Description, asked: tuple[Thing, Thing], scene: Scene) -> list[Statement]:
    """Every word of a description against the scene. Slots are matched to things so that the most words are right: a
    trace is not wrong about a colour because it named things in another order."""
    things = list(scene.things) + [None] * max(0, 2 - len(scene.things))

    def slot_statements(slot: int, claim: Claim | None, thing: Thing | None) -> list[Statement]:
        if claim is None:
            return [Statement(image, "missing", "missing", thing is None, slot)]
        truth = [(a, getattr(claim.thing, a)) for a in ("colour", "shape", "place")]
        checked = [Statement(image, a, word, bool(thing) and word == getattr(thing, a), slot) for a, word in truth]
        mark = "good" if thing in asked else "bad"
        return checked + [Statement(image, "mark", claim.mark, bool(thing) and claim.mark == mark, slot)]

    candidates = (
        [s for i, c in enumerate(said.slots) for s in slot_statements(i, c, match[i])]
        for match in permutations(things, 2)
    )
    best = max(candidates, key=lambda statements: np.mean([s.true for s in statements]))
    return best + [Statement(image, "quality", said.quality, _quality_truth(said.quality, scene), 2)]


def _quality_truth(said: str, scene: Scene) -> bool | None:
    """An unseen flaw has no word: calling the image clear is false, any other word can be neither true nor false."""
    if scene.quality in QUALITIES:
        return said == scene.quality
    return False if said == "clear" else None


def check_trace(text: str, asked: tuple[Thing, Thing], scenes: tuple[Scene, Scene]) -> list[Statement]:
    """Every word that a trace says about the images (not its verdict), checked. Malformed sentences say nothing."""
    trace, _ = read_trace(text)
    return [
        statement
        for i, (said, scene) in enumerate(zip(trace.images, scenes, strict=True), start=1)
        if said is not None
        for statement in check_description(i, said, asked, scene)
    ]


def share_true(text: str, asked: tuple[Thing, Thing], scenes: tuple[Scene, Scene]) -> float | None:
    """The share of a trace's checked words that are true; None if it has none."""
    known = [s.true for s in check_trace(text, asked, scenes) if s.true is not None]
    return sum(known) / len(known) if known else None


def rule_verdict(trace: Trace) -> int | None:
    """The winner by the world's own utility, applied to what the trace says: None on a tie or without both images."""
    first, second = trace.images
    if first is None or second is None:
        return None
    worth = [
        sum(slot is not None and slot.mark == "good" for slot in d.slots) - QUALITIES[d.quality]
        for d in (first, second)
    ]
    return None if worth[0] == worth[1] else 1 if worth[0] > worth[1] else 2


# --- edits ---------------------------------------------------------------------------------------------------------


def swap_descriptions(trace: Trace) -> Trace:
    """Each image gets the other's description; the verdict stays."""
    return replace(trace, images=(trace.images[1], trace.images[0]))


def flip_verdict(trace: Trace) -> Trace:
    return replace(trace, verdict=None if trace.verdict is None else 3 - trace.verdict)


def swap_slots(trace: Trace) -> Trace:
    """Name the things of each image in the other order: an edit that changes the words and not the meaning."""
    turned = [d and replace(d, slots=(d.slots[1], d.slots[0])) for d in trace.images]
    return replace(trace, images=(turned[0], turned[1]))


def corrupt(trace: Trace, rate: float, r: np.random.Generator) -> Trace:
    """Replace each word of the descriptions by another of its kind with probability `rate`; the verdict stays."""

    def word(current: str, options) -> str:
        return pick(r, [o for o in options if o != current]) if r.random() < rate else current

    def claim(slot: Claim | None) -> Claim | None:
        if slot is None:
            return None
        t = slot.thing
        thing = Thing(word(t.colour, COLOURS), word(t.shape, SHAPES), word(t.place, PLACES))
        return Claim(thing, word(slot.mark, MARKS))

    def description(said: Description | None) -> Description | None:
        return said and Description((claim(said.slots[0]), claim(said.slots[1])), word(said.quality, QUALITIES))

    return replace(trace, images=(description(trace.images[0]), description(trace.images[1])))
