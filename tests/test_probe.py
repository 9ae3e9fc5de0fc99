"""Measurements as strings: what is written is what was judged and heard, and is read back as it was."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import build

from lrt import models
from lrt.contradiction import listen
from lrt.evaluate import judge, judgements
from lrt.listener import LocalListener
from lrt.pairs import SPLITS, scenes_of, split_prompts, tiny_pairs
from lrt.prompts import verdict_of
from lrt.study import probe
from lrt.study.probe import Fixed, fixed_pairs, known, measure, numbers, probabilities, table
from lrt.traces import check_trace, gold_trace, write_completion
from lrt.world import parse_prompt

NAN = float("nan")


# --- one and two characters a pair


@given(st.lists(st.sampled_from([1.0, 2.0, NAN])))
def test_sides_survive_being_written(values):
    text = probe._one(values)
    assert len(text) == len(values) and set(text) <= set("12-")
    np.testing.assert_array_equal(numbers(text), values)


@given(st.lists(st.integers(0, 35)))
def test_counts_are_read_as_digits_in_base_36(counts):
    np.testing.assert_array_equal(numbers("".join(np.base_repr(n, 36).lower() for n in counts)), counts)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(NAN))))
def test_probabilities_survive_to_a_thousandth(p):
    text = probe._two(p)
    assert len(text) == 2 * len(p) and set(text) <= set(probe.DIGITS + "-")
    found = probabilities(text)
    np.testing.assert_allclose(found, p, atol=0.0005 + 1e-9)
    assert probe._two(found) == text  # nothing is lost the second time


@given(st.integers(0, 1000))
def test_every_thousandth_is_read_as_itself(n):
    assert probabilities(probe._two([n / 1000])).tolist() == [n / 1000]
    assert int(probe._two([n / 1000]), 36) == n


# --- the pairs


def test_two_pairs_a_prompt_that_show_four_images():
    rows = list(fixed_pairs(12))
    assert len({row["prompt_id"] for row in rows}) == 6
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["prompt_id"] == second["prompt_id"]
        assert len({row[scene] for row in (first, second) for scene in ("scene_1", "scene_2")}) == 4
        assert first["split"] == "tint_uninformative" and SPLITS["tint_uninformative"].shortcut == 0.5
        assert {first["tint_1"], first["tint_2"]} == {"warm", "cool"}


def test_fixed_pairs_are_those_of_the_split():
    whole = {row["pair_id"]: row for row in tiny_pairs("tint_uninformative", 18).remove_columns("images")}
    found = list(fixed_pairs(6).remove_columns("images"))
    assert found == [row for name, row in whole.items() if name.endswith(("/1", "/4"))]


def test_more_pairs_begin_with_the_same():
    names = [fixed_pairs(n)["pair_id"][:] for n in (1, 2, 7, 12)]
    assert [len(few) for few in names] == [1, 2, 7, 12] and len(set(names[-1])) == 12
    assert all(more[: len(few)] == few for few, more in pairwise(names))


def test_there_are_no_more_than_two_a_prompt():
    most = 2 * len(split_prompts("tint_uninformative"))
    with pytest.raises(ValueError, match=f"at most {most} pairs: {most + 1}"):
        fixed_pairs(most + 1)


def test_what_is_known_of_the_pairs():
    rows, found = list(fixed_pairs(16).remove_columns("images")), known(16)
    for row, (_, facts) in zip(rows, found.iterrows(), strict=True):
        gap = row["utility_1"] - row["utility_2"]
        votes = row["votes_1"] - row["votes_2"]
        assert facts["prompt_id"] == row["prompt_id"]
        assert facts["warm"] == (1 if row["tint_1"] == "warm" else 2)
        assert facts["better"] == (1 if gap > 0 else 2) or (gap == 0 and math.isnan(facts["better"]))
        assert facts["majority"] == (1 if votes > 0 else 2) or (votes == 0 and math.isnan(facts["majority"]))
    assert found["better"].notna().mean() > 0.7  # few ties
    assert known(6).equals(found.iloc[:6])


# --- reading back

WRITTEN = {"n": 3, "answers": "12-", "said": "0az", "sampled_p": {"reader": "00--rs", "llava": "dwdwdw"},
           "measured": 7, "time_measure": 0.5}  # fmt: skip


def test_a_table_has_a_column_a_field_beside_what_is_known():
    found = table(WRITTEN)
    assert list(found) == [*known(3), "answers", "said", "sampled_p/reader", "sampled_p/llava"]
    np.testing.assert_array_equal(found["answers"], [1, 2, NAN])
    np.testing.assert_array_equal(found["said"], [0, 10, 35])
    np.testing.assert_array_equal(found["sampled_p/reader"], [0, NAN, 1])
    np.testing.assert_array_equal(found["sampled_p/llava"], [0.5] * 3)
    assert found[list(known(3))].equals(known(3)) and "answers" not in known(3)  # the table that is kept is not touched


@pytest.mark.parametrize("name, value", [("answers", "12"), ("said", "0azz"), ("answers", "")])
def test_a_string_of_the_wrong_length_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} has {len(value)} pairs instead of 3"):
        table({**WRITTEN, name: value})


@pytest.mark.parametrize("value", ["00--", "00--rs00"])
def test_a_listeners_string_of_the_wrong_length_is_named(value):
    with pytest.raises(ValueError, match=f"sampled_p/reader has {len(value) // 2} pairs instead of 3"):
        table({**WRITTEN, "sampled_p": {"reader": value}})
    with pytest.raises(ValueError, match=f"two characters a pair, and these are {len(value) - 1}"):
        table({**WRITTEN, "sampled_p": {"reader": value[:-1]}})


# --- measuring


@pytest.fixture(scope="module")
def reasoner():
    return models.load("reasoner")


class Half:
    """A listener that hears every second pair alone."""

    name = "half"

    def p_first(self, prompts_B, images_B, traces_BG):
        return [[0.25 if b % 2 else None for _ in traces] for b, traces in enumerate(traces_BG)]


def test_a_measurement_is_what_judging_and_listening_give(reasoner):
    ears = {"reader": LocalListener(models.load("reader")), "half": Half()}
    fixed = Fixed.of(4, ears, max_new_tokens=56)
    random_state = torch.get_rng_state()
    found = measure(reasoner, fixed, seed=5)
    assert torch.equal(torch.get_rng_state(), random_state)
    read, pairs = table(found), fixed_pairs(4)

    options = {"max_new_tokens": 56, "batch": 96}
    greedy = judge(reasoner, pairs, **options)
    sampled = judge(reasoner, pairs, temperature=1.0, seed=5, **options)
    swapped = judge(reasoner, fixed.swapped, **options)
    frames = {"answers": greedy, "sampled": sampled, "swapped": swapped}
    for name, frame in frames.items():
        np.testing.assert_array_equal(read[name], [NAN if pd.isna(a) else a for a in frame["answer"]])
    for prefix, frame in (("", greedy), ("sampled_", sampled)):
        made = [[s.true for s in check_trace(row["trace"], parse_prompt(row["prompt"]), scenes_of(row))]
                for _, row in frame.iterrows()]
        np.testing.assert_array_equal(read[f"{prefix}verdicts"], [verdict_of(t) or NAN for t in frame["trace"]])
        assert read[f"{prefix}said"].tolist() == [len(m) for m in made]
        assert read[f"{prefix}true"].tolist() == [m.count(True) for m in made]
    assert greedy["parsable"].any() and read["said"].sum() > 0  # this model talks
    np.testing.assert_allclose(read["sampled_p/reader"], listen(sampled, ears["reader"], pairs), atol=0.0005 + 1e-9)
    assert probe._two(read["sampled_p/half"]) == probe._two(listen(sampled, Half(), pairs))
    assert "--" in found["sampled_p"]["half"]


def test_the_tints_are_exchanged_and_nothing_else():
    fixed = Fixed.of(3, {})
    for row, turned in zip(fixed.pairs, fixed.swapped, strict=True):
        assert (row["tint_1"], row["tint_2"]) == (turned["tint_2"], turned["tint_1"])
        drawn = ("images", "tint_1", "tint_2")
        assert {k: v for k, v in row.items() if k not in drawn} == {k: v for k, v in turned.items() if k not in drawn}
        assert row["images"][0].tobytes() != turned["images"][0].tobytes()


def test_the_seed_is_of_the_samples_alone(reasoner):
    fixed = Fixed.of(3, {})
    one, other = (measure(reasoner, fixed, seed) for seed in (0, 1))
    assert [one[name] for name in ("answers", "verdicts", "swapped", "said", "true")] == [
        other[name] for name in ("answers", "verdicts", "swapped", "said", "true")]
    assert one != other and one["n"] == 3 and one["sampled_p"] == {}


def test_a_policy_that_babbles_has_no_answers():
    found = measure(build(), Fixed.of(2, {"half": Half()}, max_new_tokens=4), seed=0)
    for name in ("answers", "swapped", "sampled"):
        assert found[name] == "--"
    assert found["sampled_p"] == {"half": "----"} and found["said"] == found["true"] == "00"


def test_statements_without_a_word_for_what_is_there_are_not_counted():
    unseen = tiny_pairs("unseen_flaws", 12)
    striped = [[scene.quality == "striped" for scene in scenes_of(row)] for row in unseen]
    said = "image 1 : missing , missing , blurred . image 2 : missing , missing , blurred . image 2 is better ."
    frame = judgements(unseen, [write_completion(said, 1)] * 12)
    found = probe._written(frame, "sampled_")
    assert numbers(found["sampled_said"]).tolist() == [6 - sum(two) for two in striped]
    assert 0 < sum(map(sum, striped)) < 24
    assert found["sampled"] == "1" * 12 and found["sampled_verdicts"] == "2" * 12
    assert set(found) == {"sampled", "sampled_verdicts", "sampled_said", "sampled_true"}


def test_gold_traces_are_all_true():
    pairs = fixed_pairs(6)
    completions = [write_completion(gold_trace(parse_prompt(r["prompt"]), scenes_of(r), 1), 2) for r in pairs]
    found = probe._written(judgements(pairs, [*completions[:5], "image 1 is better ."]), "")
    assert found["answers"] == "22222-" and found["verdicts"] == "111111"
    assert found["said"] == found["true"] and "0" not in found["said"][:5] and found["said"][5] == "0"
