"""The story follows the numbers: opposite results, opposite sentences; what is unclear or missing is said to be so."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import comparing, story, style
from lrt.stats import Record

NAN = float("nan")
ALL = ("base", "sft", "grpo", "grpo_listener")
MAIN = "tint_uninformative"
METRICS = ["accuracy_agree", "accuracy_conflict", "flip_rate",
           "own_verdict_departure_sampled", "truth", "coverage", "parsable",
           "same_answer", "contradiction/llava", "contradiction_no_verdict/llava", "contradiction/reader",
           "changed/swapped", "changed/reordered", "changed/verdict_flipped", "changed/reordered_forced"]
TURNS = [("higher", "lower"), ("more", "less"), ("go with the tint", "go against the tint"), ("helps it", "hurts it"),
         ("the answer follows the trace", "the answer moves less than by an empty edit")]
OPPOSITE = dict(TURNS) | {b: a for a, b in TURNS}
DIRECTION = re.compile("|".join(rf"\b{words}\b" for words in sorted(OPPOSITE, key=len, reverse=True)))


def record(method, metric, value, half=0.03, split=MAIN, n=240, seed=0):
    return Record(method, split, metric, value, max(0.0, value - half), min(1.0, value + half), n, seed)


def a_run(half=0.03):
    """Every metric, every method, with differences in both directions that small intervals make clear."""
    levels = {"base": 0.30, "sft": 0.85, "grpo": 0.60, "grpo_listener": 0.45}
    rows = [record(m, metric, (v if i % 2 else 1 - v) * 0.9, half) for i, metric in enumerate(METRICS)
            for m, v in levels.items()]
    for split, shift in (("in_distribution", 0.1), (MAIN, 0.0), ("tint_reversed", -0.2)):
        rows += [record(m, "accuracy", v + shift, half, split) for m, v in levels.items()]
    return rows


def opposite(records):
    """The same run with every rate turned round: what was higher is lower."""
    return [Record(r.method, r.split, r.metric, 1 - r.value, 1 - r.high, 1 - r.low, r.n, r.seed) for r in records]


def sentences(records):
    return [p for section in story.sections(records) for p in section.paragraphs]


def about(text, method, other="base"):
    """The word that a paragraph has for a method against another."""
    if (method, other) == ("grpo_listener", "grpo"):
        return re.search(r"GRPO \+ listener against GRPO: (higher|lower|no clear difference)", text).group(1)
    label = re.escape(style.look(method)[0])
    for part in re.split(r"[.;] ", text):
        found = re.match(rf"(?i)(higher than|lower than|no clear difference from) {other}: .*?(?<!\+ ){label} \(", part)
        if found:
            return found.group(1).lower().removesuffix(" than").removesuffix(" from")


# --- opposite results ------------------------------------------------------------------------------------------------


def test_every_sentence_with_a_direction_turns_with_the_results():
    before, after = sentences(a_run()), sentences(opposite(a_run()))
    assert len(before) == len(after)
    turned = 0
    for one, other in zip(before, after, strict=True):
        said, against = (sorted(DIRECTION.findall(without_lead(text))) for text in (one, other))
        assert sorted(OPPOSITE[word] for word in said) == against, (one, other)
        turned += bool(said)
    assert turned == len(before), "with intervals this small every paragraph of the story takes a side"


def without_lead(paragraph):
    """A paragraph without the words that name its measure: they are the same whatever the results."""
    return re.sub(r"^[^:]*(\([^)]*\))?:", "", paragraph)


def test_the_methods_named_turn_too():
    measure, records = story.FLIP, a_run()
    text, mirrored = (story.paragraph(r, measure) for r in (records, opposite(records)))
    words = {m: about(text, m) for m in ALL[1:]}
    assert words == {"sft": "lower", "grpo": "lower", "grpo_listener": "lower"}
    assert {m: about(mirrored, m) for m in ALL[1:]} == dict.fromkeys(ALL[1:], "higher")
    assert about(text, "grpo_listener", "grpo") == "higher" and about(mirrored, "grpo_listener", "grpo") == "lower"
    assert "it relies on the tint more" in text and "it relies on the tint less" in mirrored


def test_the_headline_names_the_other_method():
    flips = [record(m, "flip_rate", v) for m, v in zip(ALL, (0.1, 0.7, 0.5, 0.3), strict=True)]
    assert story.headline(flips)[0].startswith("SFT relies on the tint most: its flip rate")
    assert story.headline(opposite(flips))[0].startswith("Base relies on the tint most: its flip rate")
    close = [record(m, "flip_rate", v, half=0.2) for m, v in zip(ALL, (0.1, 0.7, 0.5, 0.3), strict=True)]
    said = story.headline(close)[0]
    assert said.startswith("It is not clear which method relies on the tint most") and "GRPO, 50 % [30, 70]" in said
    assert "no clear difference from" in said and "base" not in said, "base is clear of the highest"
    same = story.headline([record(m, "flip_rate", 0.0) for m in ("base", "grpo")])[0]
    assert same.startswith("The flip rate (") and "is the same, 0 % [0, 3], for base and GRPO (" in same


def test_the_headline_quotes_a_listener_that_took_no_part():
    rows = [record(m, f"contradiction/{name}", v) for name in ("reader", "llava")
            for m, v in (("base", 0.2), ("grpo", 0.6), ("grpo_listener", 0.4))]
    heard = [text for text in story.headline(rows) if "to the ear of" in text]
    assert len(heard) == 1 and heard[0].startswith("GRPO contradicts itself most often to the ear of llava: its ")
    [turned] = [text for text in story.headline(opposite(rows)) if "to the ear of" in text]
    assert turned.startswith("Base contradicts itself")
    assert not [text for text in story.headline(rows[:3]) if "to the ear of" in text], "the rewarded one is not quoted"


def test_the_listeners_effect_in_one_sentence():
    rows = [record(m, metric, v) for metric, values in (("accuracy", (0.6, 0.8)), ("flip_rate", (0.5, 0.2)),
            ("truth", (0.7, 0.71))) for m, v in zip(("grpo", "grpo_listener"), values, strict=True)]
    said = story.listener_effect(rows)
    assert "higher accuracy (80 % against 60 %)" in said and "lower flip rate (20 % against 50 %)" in said
    assert "no clear difference in truth (71 % against 70 %)" in said and "not measured: departure rate" in said
    turned = story.listener_effect(opposite(rows))
    assert "lower accuracy (20 % against 40 %)" in turned and "higher flip rate" in turned
    assert "no clear difference in truth" in turned
    assert story.listener_effect(rows[::2]).endswith("not measured.")


def test_the_listener_that_was_rewarded_is_not_the_one_quoted():
    rows = [record(m, f"contradiction/{name}", v) for name in ("reader", "llava")
            for m, v in (("grpo", 0.4), ("grpo_listener", 0.1))]
    assert story.judges(rows) == ["llava", "reader"] and story.judges(rows, "llava") == ["reader", "llava"]
    assert "heard by llava" in story.listener_effect(rows)
    assert "heard by reader" not in story.listener_effect([r for r in rows if "reader" in r.metric])
    told = story.contradiction(rows)
    assert [("circular" in text) for text in told if "heard by" in text] == [False, True]


# --- what is not clear -----------------------------------------------------------------------------------------------


def test_wide_intervals_leave_no_direction():
    for text in sentences(a_run(half=0.6)):
        assert not DIRECTION.findall(without_lead(text)), text
        assert "the intervals overlap" in text


@pytest.mark.parametrize("a, b, word", [
    ((0.5, 0.4, 0.6), (0.3, 0.2, 0.39), "higher"),
    ((0.3, 0.2, 0.39), (0.5, 0.4, 0.6), "lower"),
    ((0.5, 0.4, 0.6), (0.3, 0.2, 0.4), ""),  # they touch
    ((0.5, NAN, NAN), (0.1, 0.0, 0.2), ""),
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), ""),
    ((0.4, 0.2, 0.6), (0.0, 0.0, 0.0), ""),  # 0 of 9 is compatible with a third
    ((0.4, 0.35, 0.6), (0.0, 0.0, 0.0), "higher"),
    ((0.6, 0.4, 0.65), (1.0, 1.0, 1.0), "lower"),
])
def test_compare(a, b, word):
    result = comparing.compare(*(Record("m", "s", "x", *row, 9, 0) for row in (a, b)))
    assert result.word == word
    assert (f"by {100 * abs(a[0] - b[0]):.0f} points" in result.detail) == bool(word)
    if not word:
        assert ("missing" if math.isnan(a[1]) else "overlap") in result.detail


def test_a_paired_interval_decides_where_there_is_one():
    rows = [record("grpo", "accuracy", 0.60, 0.06), record("grpo_listener", "accuracy", 0.65, 0.06)]
    assert "the intervals overlap" in story.paragraph(rows, story.ACCURACY)

    def with_pair(value, low, high):
        pair = Record("grpo_listener", MAIN, comparing.paired_metric("accuracy", "grpo"), value, low, high, 240, 0)
        return story.paragraph([*rows, pair], story.ACCURACY)

    up, down = with_pair(0.05, 0.01, 0.09), with_pair(-0.05, -0.09, -0.01)
    assert "higher, by 5 points, the paired interval [+1.0, +9.0]: it is right more often" in up
    assert "lower, by 5 points, the paired interval [-9.0, -1.0]: it is right less often" in down
    assert "no clear difference: the paired interval [-1.0, +9.0] contains 0" in with_pair(0.04, -0.01, 0.09)
    assert "the intervals overlap" in with_pair(0.05, NAN, NAN)

    turned = Record("grpo", MAIN, comparing.paired_metric("accuracy", "grpo_listener"), -0.05, -0.09, -0.01, 240, 0)
    assert "higher, by 5 points, the paired interval [+1.0, +9.0]" in story.paragraph([*rows, turned], story.ACCURACY)


# --- what is missing -------------------------------------------------------------------------------------------------


def test_nothing_measured_is_said_and_nothing_else():
    for text in [*story.headline([]), *sentences([])]:
        assert text.endswith("not measured."), text
        assert not re.search(r"\d", text), "no number out of nowhere"


@pytest.mark.parametrize("missing", sorted({r.metric for r in a_run()}))
def test_a_missing_metric_changes_only_what_is_said_of_it(missing):
    records = a_run()
    left = [r for r in records if r.metric != missing]
    lost = set(sentences(records)) - set(sentences(left))
    new = set(sentences(left)) - set(sentences(records))
    assert lost and all("not measured" in text for text in new)


def test_methods_that_are_missing_or_to_which_it_does_not_apply_are_named():
    rows = [record("base", "truth", 0.8), record("grpo", "truth", 0.6),
            Record("sft", MAIN, "truth", NAN, NAN, NAN, 0, 0)]
    said = story.paragraph(rows, story.TRUTH)
    assert "Does not apply to SFT." in said and "Not measured for GRPO + listener." in said
    assert "Lower than base: GRPO (by 20 points)." in said and "SFT 0" not in said and "nan" not in said
    only = story.paragraph(rows[2:], story.TRUTH)
    assert only.endswith("does not apply.")


def test_an_interval_that_is_missing_allows_no_claim():
    rows = [Record(m, MAIN, "flip_rate", v, NAN, NAN, 1, 0) for m, v in (("base", 0.1), ("sft", 0.9))]
    said = story.paragraph(rows, story.FLIP)
    assert "90 % (no interval)" in said and "an interval is missing" in said
    assert not DIRECTION.findall(without_lead(said))


def test_several_seeds_are_another_story():
    rows = [record("grpo", "flip_rate", 0.4, seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="2 records of flip_rate on tint_uninformative for grpo"):
        story.reliance(rows)


# --- always ----------------------------------------------------------------------------------------------------------


def test_every_number_comes_with_its_n_its_seed_and_its_world():
    for text in [*story.headline(a_run()), *sentences(a_run())]:
        assert "tiny world" in text and "one seed" in text and "n = 240" in text, text


def test_n_is_a_range_where_it_differs_and_the_split_is_the_records_own():
    rows = [record("base", "truth", 0.8, n=7, split="no_tint"), record("grpo", "truth", 0.6, n=9, split="no_tint")]
    assert "(tiny world, no tint, one seed, n = 7 to 9)" in story.paragraph(rows, story.TRUTH)


@st.composite
def some_record(draw):
    low, value, high = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
    method, split = draw(st.sampled_from([*ALL, "content_only"])), draw(st.sampled_from([MAIN, "in_distribution"]))
    metric, n = draw(st.sampled_from([*METRICS, "accuracy"])), draw(st.integers(1))
    return Record(method, split, metric, value, low, high, n, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(some_record(), max_size=60, unique_by=lambda r: (r.method, r.split, r.metric)))
def test_any_records_give_a_story_that_turns_with_them(records):
    for one, other in zip(sentences(records), sentences(opposite(records)), strict=True):
        said, against = (sorted(DIRECTION.findall(without_lead(text))) for text in (one, other))
        assert sorted(OPPOSITE[word] for word in said) == against
        assert "nan" not in one
