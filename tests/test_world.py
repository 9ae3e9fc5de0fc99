"""The tiny world: prompts, scenes, utility, votes and pixels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import world
from lrt.world import Flaws, Scene, Thing

RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle", "top-left"), Thing("blue", "square", "bottom-right")
ASKED = (RED_CIRCLE, BLUE_SQUARE)
SEEN = [p for p in world.all_prompts() if not world.is_held_out(p)]
seeds = st.integers(0, 10_000)
quick = settings(max_examples=50, deadline=None)


# ---- prompts ----


def test_every_prompt_names_two_kinds_in_two_places_once():
    prompts = world.all_prompts()
    assert len(prompts) == math.comb(24, 2) * 4 * 3
    assert len({world.prompt_id(p) for p in prompts}) == len(prompts)
    for a, b in prompts:
        assert a.place != b.place and (a.colour, a.shape) != (b.colour, b.shape)


@quick
@given(st.sampled_from(world.all_prompts()))
def test_a_prompt_is_read_as_it_was_written(things):
    assert world.parse_prompt(world.prompt_text(things)) == things
    assert world.prompt_id(things) == world.prompt_id(things[::-1])


@pytest.mark.parametrize(
    "text",
    ["", "a cat", "red circle top-left", "red circle top-left and blue square", "red circle top-left and", " and "]
    + ["red circle top-left and blue square bottom-right and red star top-right"]
    + ["circle red top-left and blue square bottom-right", "Red circle top-left and blue square bottom-right"]
    + ["red circle top-left , and blue square bottom-right", "pink circle top-left and blue square bottom-right"],
)
def test_any_other_prompt_is_refused_with_the_words_that_are_known(text):
    with pytest.raises(ValueError) as caught:
        world.parse_prompt(text)
    assert repr(text) in str(caught.value)
    for word in (*world.COLOURS, *world.SHAPES, *world.PLACES):
        assert word in str(caught.value)


# ---- scenes ----


@quick
@given(st.sampled_from(world.all_prompts()), seeds)
def test_a_generator_without_flaws_draws_what_is_asked(asked, seed):
    scene = world.draw_scene(asked, Flaws(0.0), world.rng(seed), allow_held_out=True)
    assert scene.things == world.reading_order(asked)
    assert scene.quality == "clear" and world.utility(asked, scene) == 0


@quick
@given(st.sampled_from(SEEN), seeds, st.floats(0, 1), st.floats(0, 1))
def test_no_scene_has_two_things_in_one_place_nor_a_held_out_kind(asked, seed, rate, extra):
    scene = world.draw_scene(asked, Flaws(rate, extra=extra), world.rng(seed))
    places = [world.PLACES.index(t.place) for t in scene.things]
    assert places == sorted(set(places))
    assert not world.is_held_out(scene.things)
    assert len(scene.things) <= 3


def test_a_prompt_that_is_held_out_cannot_be_drawn_by_mistake():
    asked = next(p for p in world.all_prompts() if world.is_held_out(p))
    with pytest.raises(ValueError, match="held-out"):
        world.draw_scene(asked, Flaws(0.0), world.rng(0))


def flaw_shares(flaws, n=600):
    """Shares of things missing, and of wrong colours among the things drawn alone (so that they can be matched)."""
    r = world.rng("flaws", flaws.rate)
    missing = wrong = drawn = 0
    for _ in range(n):
        scene = world.draw_scene(ASKED, flaws, r)
        missing += 2 - len(scene.things)
        for asked in ASKED:
            same = [t for t in scene.things if (t.shape, t.place) == (asked.shape, asked.place)]
            drawn += len(same)
            wrong += sum(t.colour != asked.colour for t in same)
    return missing / (2 * n), wrong / drawn


@pytest.mark.parametrize("flaws", [world.SKILLED, world.CLUMSY])
def test_flaws_come_at_their_rates(flaws):
    missing, wrong_colour = flaw_shares(flaws)
    assert missing == pytest.approx(flaws.rate / 3, abs=0.03)
    # a held-out kind is drawn again, and a shape may have come from the other thing: roughly the rate
    assert wrong_colour == pytest.approx(flaws.rate, abs=0.06)


@quick
@given(st.sampled_from(world.all_prompts()), seeds)
def test_a_scene_survives_json(asked, seed):
    scene = world.draw_scene(asked, world.UNSEEN_CLUMSY, world.rng(seed), allow_held_out=True)
    assert Scene.from_json(scene.to_json()) == scene


# ---- utility and votes ----


@pytest.mark.parametrize(
    ("things", "quality", "utility"),
    [
        (ASKED, "clear", 0),
        (ASKED, "blurred", -1.5),
        (ASKED, "noisy", -1.0),
        (ASKED, "faded", -0.5),
        (ASKED, "striped", -1.0),
        ((RED_CIRCLE,), "clear", -1),
        ((), "clear", -2),
        ((), "blurred", -3.5),
        ((RED_CIRCLE, Thing("red", "square", "bottom-right")), "clear", -1),  # wrong colour
        ((RED_CIRCLE, Thing("blue", "square", "top-right")), "clear", -1),  # wrong place
        ((RED_CIRCLE, Thing("red", "star", "top-right"), BLUE_SQUARE), "clear", -1),  # one too many
        ((RED_CIRCLE, Thing("red", "star", "top-right"), Thing("red", "star", "bottom-right")), "faded", -2.5),
    ],
)
def test_utility_by_hand(things, quality, utility):
    assert world.utility(ASKED, Scene(things, quality)) == utility
    assert world.utility(ASKED[::-1], Scene(things, quality)) == utility


def test_voters_follow_bradley_terry():
    assert world.p_prefer_first(-1, -1) == 0.5
    assert world.p_prefer_first(0, -1) == pytest.approx(1 / (1 + math.exp(-1.5)))
    for a, b in [(0, -2.5), (-1, -0.5), (-3, -1)]:
        assert world.p_prefer_first(a, b) + world.p_prefer_first(b, a) == pytest.approx(1)
        assert (world.p_prefer_first(a, b) > 0.5) == (a > b)


# ---- pixels ----


def covered(thing, scene):
    """(56, 56) share of each pixel that the thing covers, drawing what `render` draws in the same order."""
    r = world.rng("render", scene.seed)
    full = np.zeros((56, 56))
    for t in scene.things:
        radius, dx, dy = int(r.integers(9, 12)), int(r.integers(-2, 3)), int(r.integers(-2, 3))
        r.integers(-12, 13, size=3)
        if t == thing:
            row, column = divmod(world.PLACES.index(t.place), 2)
            full[28 * row : 28 * row + 28, 28 * column : 28 * column + 28] = world.coverage(t.shape, radius, dx, dy)
    return full


def clear_scene(seed):
    return world.draw_scene(ASKED, Flaws(0.3, qualities=("clear",)), world.rng("clear", seed))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_twins_differ_in_the_background_and_are_equal_where_things_cover(seed):
    scene = clear_scene(seed)
    warm, cool = world.render(scene, "warm").astype(int), world.render(scene, "cool").astype(int)
    cover = sum(covered(t, scene) for t in scene.things) if scene.things else np.zeros((56, 56))
    differs = (warm != cool).any(axis=2)
    assert not differs[cover == 1].any()
    assert differs[cover == 0].all()
    change = (warm - cool)[cover == 0].mean(axis=0)  # the two backgrounds, but for what is clipped at 255
    assert change == pytest.approx(np.subtract(world.BACKGROUNDS["warm"], world.BACKGROUNDS["cool"]), abs=2)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(tuple(world.COLOURS)), st.sampled_from(world.SHAPES), st.sampled_from(world.PLACES))
def test_a_thing_has_its_colour_and_stays_in_its_cell(seed, colour, shape, place):
    thing = Thing(colour, shape, place)
    scene = Scene((thing,), seed=seed)
    pixels = world.render(scene, "none").astype(float)
    cover = covered(thing, scene)
    assert 100 < cover.sum() < 28 * 28 * 0.6
    assert np.abs(pixels[cover == 1].mean(axis=0) - world.COLOURS[colour]).max() < 14
    assert np.abs(pixels[cover == 0] - 233).max() < 25


def test_an_image_is_uint8_and_the_same_each_time():
    scene = clear_scene(1)
    image = world.render(scene, "warm")
    assert image.shape == (56, 56, 3) and image.dtype == np.uint8
    assert (image == world.render(scene, "warm")).all()
    assert (image != world.render(Scene(scene.things, "clear", seed=scene.seed + 1), "warm")).any()


def test_quality_is_seen_in_the_pixels():
    def roughness(quality):
        pixels = world.render(Scene(ASKED, quality, seed=3), "none").astype(float)
        return np.abs(np.diff(pixels, axis=0)).mean(), pixels

    rough = {quality: roughness(quality) for quality in (*world.QUALITIES, *world.UNSEEN_QUALITIES)}
    assert rough["noisy"][0] > 3 * rough["clear"][0]
    steepest = {quality: np.abs(np.diff(pixels, axis=0)).max() for quality, (_, pixels) in rough.items()}
    assert steepest["blurred"] < steepest["clear"] / 2
    contrast = {quality: pixels.std() for quality, (_, pixels) in rough.items()}
    assert contrast["faded"] < contrast["clear"] / 2
    striped = rough["striped"][1].mean(axis=(1, 2))
    assert striped[::7].max() < 120 < np.delete(striped, range(0, 56, 7)).min()


def test_names_seed_a_generator_the_same_everywhere():
    assert world.rng("a", 1).integers(10**9) == world.rng("a", 1).integers(10**9)
    assert len({int(world.rng("a", i).integers(10**9)) for i in range(50)}) == 50
    assert int(world.rng("render", 0).integers(2**31)) == 2099680815  # numpy's PCG64 behind a SHA-256: fixed for good
