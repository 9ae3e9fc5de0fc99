"""The tiny world: scenes, the images that show them, and the voters who compare them.

A prompt asks for two coloured shapes, each in a cell of a 2 x 2 grid. Two "generators" of different skill draw it, with
flaws; simulated voters prefer one image by a Bradley-Terry choice on a known utility. What real data hides is known
here: which image is truly better, which statements about an image are true, how noisy the votes are.

One cell is 28 x 28 pixels, exactly one image token of Qwen2.5-VL (14-pixel patches, merged 2 x 2).

Everything is drawn by numpy from seeds derived from names, so the same seed gives the same bytes.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations, permutations

import numpy as np

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 90, 200),
    "yellow": (240, 200, 20),
    "purple": (140, 60, 170),
    "orange": (250, 125, 15),
}
SHAPES = ("circle", "square", "triangle", "star")
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
QUALITIES = {"clear": 0.0, "blurred": 1.5, "noisy": 1.0, "faded": 0.5}  # word -> penalty in utility
UNSEEN_QUALITIES = {"striped": 1.0}  # no word of the vocabulary names it
EXTRA_PENALTY = 1.0  # for each thing drawn that was not asked for, beyond the two
BACKGROUNDS = {"warm": (252, 232, 206), "cool": (208, 226, 252), "none": (233, 233, 233)}
HELD_OUT = frozenset({("purple", "star"), ("orange", "circle"), ("green", "triangle")})
CELL = 28
VOTE_SCALE = 1.5  # Bradley-Terry: P(image 1) = sigmoid(VOTE_SCALE * (utility 1 - utility 2))


@dataclass(frozen=True)
class Thing:
    """One object: a colour, a shape and the cell that it stands in."""

    colour: str
    shape: str
    place: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape} {self.place}"


@dataclass(frozen=True)
class Scene:
    """What an image shows: its things in reading order, its quality, and the seed of its render noise."""

    things: tuple[Thing, ...]
    quality: str = "clear"
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Scene":
        raw = json.loads(text)
        return Scene(tuple(Thing(**thing) for thing in raw["things"]), raw["quality"], raw["seed"])


@dataclass(frozen=True)
class Flaws:
    """How a generator fails: rates per attribute, and which quality flaws and extra things it may add."""

    rate: float
    qualities: tuple[str, ...] = ("blurred", "noisy", "faded")
    extra: float = 0.0  # probability of a third thing that nobody asked for


SKILLED, CLUMSY = Flaws(0.10), Flaws(0.45)
UNSEEN_SKILLED = Flaws(0.10, qualities=("striped",), extra=0.1)
UNSEEN_CLUMSY = Flaws(0.45, qualities=("striped",), extra=0.45)


def rng(*names) -> np.random.Generator:
    """A generator seeded by names, the same on every machine (Python's own `hash` is salted)."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def pick(r: np.random.Generator, options):
    """One of a sequence, uniformly (`Generator.choice` would make an array of strings first: ten times slower)."""
    return options[int(r.integers(len(options)))]


# --- prompts -------------------------------------------------------------------------------------------------------


def prompt_text(things: tuple[Thing, Thing]) -> str:
    return f"{things[0]} and {things[1]}"


def parse_prompt(text: str) -> tuple[Thing, Thing]:
    """The two things that a prompt asks for. ValueError, naming the words that this world knows, for any other text."""
    parts = [part.split() for part in text.strip().split(" and ")]
    known = (COLOURS, SHAPES, PLACES)
    if len(parts) != 2 or any(len(p) != 3 or any(w not in k for w, k in zip(p, known, strict=True)) for p in parts):
        raise ValueError(
            f"not a prompt of the tiny world: {text!r}. It knows only 'COLOUR SHAPE PLACE and COLOUR SHAPE PLACE' "
            f"with colours {', '.join(COLOURS)}; shapes {', '.join(SHAPES)}; places {', '.join(PLACES)}."
        )
    first, second = (Thing(*part) for part in parts)
    return first, second


def prompt_id(things: tuple[Thing, Thing]) -> str:
    """The same for both orders in which two things can be named: intervals are clustered by it."""
    return " and ".join(sorted(map(str, things)))


def is_held_out(things) -> bool:
    return any((t.colour, t.shape) in HELD_OUT for t in things)


@cache
def all_prompts() -> tuple[tuple[Thing, Thing], ...]:
    """Every prompt once, up to the order of its two things: different colour-shape pairs in different places."""
    kinds = [(c, s) for c in COLOURS for s in SHAPES]
    pairs = [
        (Thing(*a, p), Thing(*b, q)) for a, b in combinations(kinds, 2) for p, q in permutations(PLACES, 2)
    ]
    return tuple(sorted(pairs, key=prompt_id))


# --- scenes and votes ----------------------------------------------------------------------------------------------


def utility(asked: tuple[Thing, Thing], scene: Scene) -> float:
    """-(things asked for and not there exactly) - penalty of the quality - EXTRA_PENALTY for each thing beyond two."""
    wrong = sum(thing not in scene.things for thing in asked)
    penalty = (QUALITIES | UNSEEN_QUALITIES)[scene.quality]
    return -wrong - penalty - EXTRA_PENALTY * max(0, len(scene.things) - 2)


def reading_order(things) -> tuple[Thing, ...]:
    return tuple(sorted(things, key=lambda t: PLACES.index(t.place)))


def random_thing(r: np.random.Generator, places, allow_held_out: bool) -> Thing:
    while True:
        thing = Thing(pick(r, tuple(COLOURS)), pick(r, SHAPES), pick(r, places))
        if allow_held_out or not is_held_out([thing]):
            return thing


def draw_scene(asked: tuple[Thing, Thing], flaws: Flaws, r: np.random.Generator, allow_held_out=False) -> Scene:
    """A generator's attempt at a prompt: each attribute wrong at `flaws.rate`, a thing missing at a third of it.

    Without `allow_held_out` no held-out kind is drawn; ValueError if the prompt itself asks for one.
    """
    if not allow_held_out and is_held_out(asked):
        raise ValueError(f"{prompt_text(asked)!r} asks for a held-out kind: only with allow_held_out")

    def other(options, current):
        return pick(r, [o for o in options if o != current])

    def attempt(thing: Thing, taken: set[str]) -> Thing:
        while True:
            colour = other(COLOURS, thing.colour) if r.random() < flaws.rate else thing.colour
            shape = other(SHAPES, thing.shape) if r.random() < flaws.rate else thing.shape
            place = thing.place
            if r.random() < flaws.rate or place in taken:
                place = other([p for p in PLACES if p not in taken], thing.place)
            drawn = Thing(colour, shape, place)
            if allow_held_out or not is_held_out([drawn]):
                return drawn

    things: list[Thing] = []
    for thing in asked:
        if r.random() >= flaws.rate / 3:
            things.append(attempt(thing, {t.place for t in things}))
    if r.random() < flaws.extra:
        free = [p for p in PLACES if p not in {t.place for t in things}]
        things.append(random_thing(r, free, allow_held_out))
    quality = pick(r, flaws.qualities) if r.random() < flaws.rate else "clear"
    return Scene(reading_order(things), quality, seed=int(r.integers(2**31)))


def p_prefer_first(utility_1: float, utility_2: float) -> float:
    """Bradley-Terry (1952): the probability that a voter prefers image 1."""
    return 1.0 / (1.0 + math.exp(-VOTE_SCALE * (utility_1 - utility_2)))


# --- pixels --------------------------------------------------------------------------------------------------------


@cache
def coverage(shape: str, radius: int, dx: int, dy: int) -> np.ndarray:
    """(28, 28) share of each pixel that a shape covers: 4 x 4 samples a pixel."""
    n = 4
    axis = (np.arange(CELL * n) + 0.5) / n - CELL / 2
    x, y = np.meshgrid(axis - dx, axis - dy)
    if shape == "circle":
        inside = x**2 + y**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(np.abs(x), np.abs(y)) <= 0.85 * radius
    elif shape == "triangle":
        inside = (y <= 0.8 * radius) & (y >= -radius + 1.8 * np.abs(x))
    else:  # a five-pointed star: the radius of its edge as a function of the angle
        angle = np.mod(np.arctan2(x, -y), 2 * np.pi / 5)
        angle = np.minimum(angle, 2 * np.pi / 5 - angle)
        edge = radius * 1.1 * math.sin(math.pi / 10) / np.sin(math.pi - math.pi / 10 - angle)
        inside = np.hypot(x, y) <= edge
    return inside.reshape(CELL, n, CELL, n).mean(axis=(1, 3)).astype(np.float32)


def blur(pixels: np.ndarray, sigma: float = 2.2) -> np.ndarray:
    """Separable Gaussian blur of (H, W, 3), edges repeated."""
    reach = np.arange(-6, 7)
    kernel = np.exp(-(reach**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        width = [(6, 6) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(pixels, width, mode="edge")
        size = pixels.shape[axis]
        pixels = sum(k * np.take(padded, range(i, i + size), axis=axis) for i, k in enumerate(kernel))
    return pixels


def render(scene: Scene, tint: str) -> np.ndarray:
    """(56, 56, 3) uint8 image of a scene. The noise depends on `scene.seed` alone, so that two tints of one scene
    differ in their backgrounds and nothing else."""
    r = rng("render", scene.seed)
    background = np.array(BACKGROUNDS[tint], dtype=np.float32)
    pixels = np.tile(background, (2 * CELL, 2 * CELL, 1))
    for thing in scene.things:
        row, column = divmod(PLACES.index(thing.place), 2)
        radius, dx, dy = int(r.integers(9, 12)), int(r.integers(-2, 3)), int(r.integers(-2, 3))
        colour = np.array(COLOURS[thing.colour], dtype=np.float32) + r.integers(-12, 13, size=3)
        alpha = coverage(thing.shape, radius, dx, dy)[..., None] * (0.3 if scene.quality == "faded" else 1.0)
        cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        cell[:] = cell * (1 - alpha) + colour * alpha
    if scene.quality == "blurred":
        pixels = blur(pixels)
    if scene.quality == "striped":
        pixels[::7] *= 0.35
    noise = r.standard_normal(pixels.shape, dtype=np.float32)
    pixels += noise * (38.0 if scene.quality == "noisy" else 3.0)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
