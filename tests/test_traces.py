"""Traces of the tiny world: written, read back, held against the scenes, edited."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import traces, world
from lrt.prompts import parse, remove_verdict, verdict_of
from lrt.traces import Claim, Description, Trace
from lrt.world import Scene, Thing

things = st.builds(
    Thing, st.sampled_from(tuple(world.COLOURS)), st.sampled_from(world.SHAPES), st.sampled_from(world.PLACES)
)
slots = st.none() | st.builds(Claim, things, st.sampled_from(traces.MARKS))
descriptions = st.builds(Description, st.tuples(slots, slots), st.sampled_from(tuple(world.QUALITIES)))
verdicts = st.none() | st.sampled_from([1, 2])
any_trace = st.builds(Trace, st.tuples(st.none() | descriptions, st.none() | descriptions), verdicts)
prompts = st.sampled_from(world.all_prompts())


@st.composite
def drawn(draw):
    """(what was asked, two scenes as the generators draw them)"""
    asked, r = draw(prompts), world.rng("test traces", draw(st.integers(0, 10_000)))
    return asked, tuple(world.draw_scene(asked, f, r, allow_held_out=True) for f in (world.SKILLED, world.CLUMSY))


quick = settings(max_examples=60, deadline=None)
ASKED = world.parse_prompt("red circle top-left and blue square bottom-right")
RED_CIRCLE, BLUE_SQUARE = ASKED
GOOD = Scene(ASKED)
HALF = Scene((RED_CIRCLE,), "blurred")
TEXT = (
    "image 1 : red circle top-left good , blue square bottom-right good , clear . "
    "image 2 : red circle top-left good , missing , blurred . image 1 is better ."
)


def untrue(text, scenes=(GOOD, HALF), asked=ASKED):
    return [(s.image, s.attribute, s.said) for s in traces.check_trace(text, asked, scenes) if s.true is False]


# ---- writing and reading ----


def test_a_trace_reads_like_this():
    assert str(traces.gold_trace(ASKED, (GOOD, HALF), 1)) == TEXT
    assert traces.write_completion(TEXT, 1) == f"<think> {TEXT} </think> <answer> 1 </answer>"
    assert traces.write_completion("", 2) == "<think> </think> <answer> 2 </answer>"


@quick
@given(any_trace)
def test_what_is_written_is_read_back(trace):
    assert traces.read_trace(str(trace)) == (trace, 0)


@quick
@given(any_trace, st.sampled_from([1, 2]))
def test_a_completion_is_in_the_strict_format_and_its_verdict_is_found_and_removed(trace, answer):
    said = parse(traces.write_completion(trace, answer))
    assert (said.ok, said.answer, said.trace) == (True, answer, str(trace))
    assert verdict_of(str(trace)) == trace.verdict
    assert remove_verdict(str(trace)) == str(Trace(trace.images, None))


@quick
@given(st.text() | st.lists(st.sampled_from(TEXT.split()), max_size=40).map(" ".join))
def test_any_text_is_read_and_checked(text):
    trace, malformed = traces.read_trace(text)
    assert malformed >= 0 and traces.read_trace(str(trace)) == (trace, 0)
    statements = traces.check_trace(text, ASKED, (GOOD, HALF))
    assert len(statements) == len([w for d in trace.images if d for w in str(d).split() if w != ","])
    traces.rule_verdict(trace)


@pytest.mark.parametrize(
    "sentence",
    [
        "image 3 : missing , missing , clear",
        "image 1 : missing , clear",
        "image 1 : missing , missing , missing , clear",
        "image 1 : missing , missing",
        "image 1 : red circle top-left , missing , clear",  # no mark
        "image 1 : circle red top-left good , missing , clear",
        "image 1 : missing , missing , striped",
        "image 1 is worse",
        "hello",
    ],
)
def test_a_sentence_outside_the_grammar_is_counted_and_says_nothing(sentence):
    trace, malformed = traces.read_trace(f"{sentence} . image 2 : missing , missing , clear . image 2 is better .")
    assert malformed == 1
    assert trace.images[0] is None and trace.images[1] is not None and trace.verdict == 2


def test_the_first_description_and_the_last_verdict_count():
    first, second = "image 1 : missing , missing , clear .", "image 1 : missing , missing , noisy ."
    trace, malformed = traces.read_trace(f"{first} {second} image 1 is better . image 2 is better .")
    assert (str(trace.images[0]), trace.verdict, malformed) == ("missing , missing , clear", 2, 1)


def test_scenes_without_words_have_no_description():
    third = Thing("green", "star", "top-right")
    for scene in (Scene((*ASKED, third)), Scene(ASKED, "striped")):
        with pytest.raises(ValueError, match="no words"):
            traces.describe(ASKED, scene)


# ---- truth ----


@quick
@given(drawn(), verdicts)
def test_every_word_of_a_gold_trace_is_true(world_of, verdict):
    asked, scenes = world_of
    gold = traces.gold_trace(asked, scenes, verdict)
    statements = traces.check_trace(str(gold), asked, scenes)
    assert statements and all(s.true for s in statements)
    assert {s.image for s in statements} == {1, 2}


@quick
@given(drawn())
def test_the_order_in_which_things_are_named_does_not_matter(world_of):
    asked, scenes = world_of
    turned = traces.swap_slots(traces.gold_trace(asked, scenes, 1))
    assert untrue(str(turned), scenes, asked) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("1 : red", "1 : green", [(1, "colour", "green")]),
        ("1 : red circle", "1 : red star", [(1, "shape", "star")]),
        ("blue square bottom-right", "blue square top-right", [(1, "place", "top-right")]),
        ("bottom-right good", "bottom-right bad", [(1, "mark", "bad")]),
        ("clear", "faded", [(1, "quality", "faded")]),
        ("blurred", "clear", [(2, "quality", "clear")]),
        ("blue square bottom-right good , clear", "missing , clear", [(1, "missing", "missing")]),
        # a thing that is not there: no word about it is true, its mark included
        (
            "missing , blurred",
            "blue square top-right bad , blurred",
            [(2, "colour", "blue"), (2, "shape", "square"), (2, "place", "top-right"), (2, "mark", "bad")],
        ),
        ("image 1 is better", "image 2 is better", []),  # a verdict is no statement about an image
    ],
)
def test_what_is_false_is_found_and_nothing_else(old, new, expected):
    assert TEXT.count(old) == 1
    assert untrue(TEXT.replace(old, new)) == expected


def test_one_thing_named_twice_is_true_once():
    text = "image 2 : red circle top-left good , red circle top-left good , blurred ."
    true = [s.true for s in traces.check_trace(text, ASKED, (GOOD, HALF))]
    assert sum(true) == 5 and len(true) == 9


def test_an_unseen_flaw_makes_clear_false_and_no_other_word_true_or_false():
    striped = Scene(ASKED, "striped")
    for word, expected in [("clear", False), ("blurred", None), ("noisy", None), ("faded", None)]:
        text = f"image 1 : red circle top-left good , blue square bottom-right good , {word} ."
        *words, quality = traces.check_trace(text, ASKED, (striped, HALF))
        assert quality.attribute == "quality" and quality.true is expected
        assert all(s.true for s in words)


def test_any_two_of_three_things_may_be_named():
    three = Scene((RED_CIRCLE, Thing("green", "star", "top-right"), BLUE_SQUARE))
    said = {
        "red circle top-left good , blue square bottom-right good": 0,
        "green star top-right bad , red circle top-left good": 0,
        "green star top-right good , red circle top-left good": 1,
        "red circle top-left good , missing": 1,
    }
    for slots_said, n_false in said.items():
        assert len(untrue(f"image 1 : {slots_said} , clear .", (three, HALF))) == n_false, slots_said


@quick
@given(drawn())
def test_the_rule_on_a_gold_trace_finds_the_better_image(world_of):
    asked, scenes = world_of
    first, second = (world.utility(asked, scene) for scene in scenes)
    expected = None if first == second else 1 if first > second else 2
    assert traces.rule_verdict(traces.gold_trace(asked, scenes, None)) == expected


def test_the_rule_needs_both_images():
    assert traces.rule_verdict(traces.read_trace("image 1 : missing , missing , clear .")[0]) is None


# ---- edits ----


@quick
@given(any_trace)
def test_edits_undo_themselves_and_touch_nothing_else(trace):
    for edit in (traces.swap_descriptions, traces.flip_verdict, traces.swap_slots):
        assert edit(edit(trace)) == trace
    assert traces.swap_descriptions(trace).verdict == trace.verdict
    assert traces.swap_descriptions(trace).images == trace.images[::-1]
    assert traces.flip_verdict(trace).images == trace.images
    assert traces.flip_verdict(trace).verdict == {None: None, 1: 2, 2: 1}[trace.verdict]
    assert sorted(str(traces.swap_slots(trace)).split()) == sorted(str(trace).split())


def words_of(trace):
    return [word for d in trace.images if d for word in str(d).split() if word not in (",", "missing")]


@quick
@given(any_trace, st.integers(0, 1000))
def test_corruption_at_0_and_at_1(trace, seed):
    assert traces.corrupt(trace, 0.0, world.rng(seed)) == trace
    damaged = traces.corrupt(trace, 1.0, world.rng(seed))
    assert damaged.verdict == trace.verdict
    assert traces.read_trace(str(damaged)) == (damaged, 0)
    before, after = words_of(trace), words_of(damaged)
    assert len(before) == len(after) and all(a != b for a, b in zip(before, after, strict=True))


def test_corruption_comes_at_its_rate():
    gold, r = traces.gold_trace(ASKED, (GOOD, HALF), 1), world.rng("corrupt")
    changed = [
        a != b
        for _ in range(300)
        for a, b in zip(words_of(gold), words_of(traces.corrupt(gold, 0.3, r)), strict=True)
    ]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.02)
