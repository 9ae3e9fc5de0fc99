"""Intervals over seeds and prompts together: against a naive form, and against worlds whose truth is known."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt.stats import t_quantile
from lrt.study.seeds import false_alarms, hierarchical, prediction

NAN = float("nan")


def naive(d_SB, clusters, n_boot, seed, student):
    """The same draws, one at a time: (value, list of draws)."""
    rng, ids = np.random.default_rng(seed), sorted(set(clusters))
    S, C = len(d_SB), len(ids)
    times = [[list(row).count(c) for c in range(C)] for row in rng.integers(C, size=(n_boot, C))]
    seeds = rng.integers(S, size=(n_boot, S))
    chi = rng.chisquare(S - 1, n_boot) if student else np.full(n_boot, S - 1)

    def mean(row, weights):
        pairs = [(w, row[b]) for w, name in zip(weights, ids, strict=True)
                 for b in range(len(row)) if clusters[b] == name and not math.isnan(row[b])]
        total = sum(w for w, _ in pairs)
        return sum(w * v for w, v in pairs) / total if total else NAN

    own = [mean(row, [1] * C) for row in d_SB]
    value, draws = sum(own) / S, []
    for weights, drawn, c in zip(times, seeds, chi, strict=True):
        k = math.sqrt(S / (S - 1)) / math.sqrt(c / (S - 1))
        rest = [m - own[s] for s in drawn if not math.isnan(m := mean(d_SB[s], weights))]
        draws.append(value + k * (sum(own[s] for s in drawn) / S - value) + (sum(rest) / len(rest) if rest else 0))
    return value, draws


@pytest.mark.parametrize("student", [False, True])
def test_equals_the_naive_loop_with_the_same_draws(student):
    rng = np.random.default_rng(1)
    d_SB, clusters = rng.normal(0.2, 1, (4, 12)), [f"p{b // 3}" for b in range(12)]
    d_SB[0, :3] = d_SB[2, 4] = d_SB[3, 3:] = NAN  # the last seed has one prompt alone
    got, p = hierarchical(d_SB, clusters, n_boot=300, seed=5, student=student)
    value, draws = naive(d_SB, clusters, 300, 5, student)
    assert got == pytest.approx((value, *np.quantile(draws, [0.025, 0.975]), 12 * 4 - 3 - 1 - 9))
    assert p == pytest.approx(2 * min(np.mean(np.array(draws) <= 0), np.mean(np.array(draws) >= 0)))


def world(rng, S, C, seeds, prompts, rest):
    """(S, 2 C) differences around 0, two pairs a prompt, and their prompts."""
    d = rng.normal(0, seeds, (S, 1, 1)) + rng.normal(0, prompts, (1, C, 1)) + rng.normal(0, rest, (S, C, 2))
    return d.reshape(S, -1), np.repeat(np.arange(C), 2)


def coverage(S, student, spread, runs=250):
    rng, hits = np.random.default_rng(2), 0
    for i in range(runs):
        got, _ = hierarchical(*world(rng, S, 40, *spread), n_boot=400, seed=i, student=student)
        hits += got.low <= 0 <= got.high
    return hits / runs


@pytest.mark.parametrize("S", [3, 10])
@pytest.mark.parametrize("spread", [(0.14, 0.1, 0.5), (0.3, 0.05, 0.3)])  # of seeds, prompts, and what is left
def test_intervals_of_known_worlds_cover_95_percent_with_student(S, spread):
    assert 0.92 <= coverage(S, True, spread) <= 0.995  # 250 worlds tell 95 from 92 % by two standard errors


def test_without_student_ten_seeds_nearly_cover_and_three_do_not():
    assert 0.87 <= coverage(10, False, (0.3, 0.05, 0.3)) <= 0.95
    assert coverage(3, False, (0.3, 0.05, 0.3)) < 0.88


def test_where_only_prompts_differ_more_seeds_do_not_narrow_the_interval():
    d_1B, clusters = world(np.random.default_rng(3), 1, 40, 0, 1, 0)
    few, many = (hierarchical(np.repeat(d_1B, S, axis=0), clusters)[0] for S in (3, 30))
    assert few.high - few.low == pytest.approx(many.high - many.low, rel=0.1)
    assert few.high - few.low == pytest.approx(2 * 1.96 * d_1B.std() / math.sqrt(40), rel=0.15)


def test_where_only_seeds_differ_the_interval_is_theirs():
    d_SB = np.repeat(np.random.default_rng(4).normal(0, 1, (20, 1)), 30, axis=1)
    got, _ = hierarchical(d_SB, np.arange(30), n_boot=4000)
    student = 2 * t_quantile(0.95, 19) * d_SB[:, 0].std(ddof=1) / math.sqrt(20)
    assert got.high - got.low == pytest.approx(student, rel=0.1)


rows = st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0, NAN]), min_size=8, max_size=8), min_size=2, max_size=5)


@settings(max_examples=60, deadline=None)
@given(rows, st.booleans())
def test_the_other_direction_is_the_mirror_image_and_p_fits_the_interval(d_SB, student):
    clusters = [0, 0, 1, 1, 2, 2, 3, 3]
    got, p = hierarchical(d_SB, clusters, n_boot=200, student=student)
    back, q = hierarchical(-np.array(d_SB), clusters, n_boot=200, student=student)
    assert (got.value, got.low, got.high, p) == pytest.approx((-back.value, -back.high, -back.low, q), nan_ok=True)
    if not math.isnan(p):
        assert 2 / 200 <= p <= 1
        assert (got.low > 0 or got.high < 0) if p < 0.04 else (got.low <= 0 <= got.high) if p > 0.06 else True


@settings(max_examples=30, deadline=None)
@given(rows)
def test_seeds_and_pairs_without_any_value_change_nothing(d_SB):
    d_SB, clusters = np.array(d_SB), list("aabbccdd")
    wider = np.full((len(d_SB) + 1, 10), NAN)
    wider[:-1, :-2] = d_SB
    got, p = hierarchical(d_SB, clusters, n_boot=50)
    same, q = hierarchical(wider, [*clusters, "e", "a"], n_boot=50)
    assert (*got, p) == pytest.approx((*same, q), nan_ok=True)


def test_no_difference_at_all_and_a_difference_in_every_pair():
    assert hierarchical(np.zeros((3, 6)), list("aabbcc")) == ((0, 0, 0, 18), 1.0)
    got, p = hierarchical(np.full((3, 6), 0.25), list("aabbcc"), n_boot=500)
    assert got == (0.25, 0.25, 0.25, 18) and p == 2 / 500


def test_what_cannot_be_seen_is_nan():
    one_seed, p = hierarchical([[1.0, 0.0, NAN]], ["a", "b", "c"])
    assert one_seed[0] == 0.5 and one_seed.n == 2 and np.isnan([one_seed.low, one_seed.high, p]).all()
    one_prompt, p = hierarchical([[1.0, 0.0], [0.0, 0.0]], ["a", "a"])
    assert one_prompt[0] == 0.25 and np.isnan([one_prompt.low, one_prompt.high, p]).all()
    for nothing in (np.full((3, 2), NAN), np.empty((0, 2)), np.empty((3, 0))):
        got, p = hierarchical(nothing, list("ab")[: nothing.shape[1]])
        assert got.n == 0 and np.isnan([*got[:3], p]).all()


def test_seeds_count_alike_however_many_pairs_they_have():
    d_SB = [[1.0, NAN, NAN, NAN], [0.0, 0.0, 0.0, 0.0]]
    assert hierarchical(d_SB, list("abcd"))[0].value == 0.5


@pytest.mark.parametrize("d_SB, clusters, options, message", [
    ([[1.0, 2.0]], ["a"], {}, "do not fit"),
    ([1.0, 2.0], ["a", "b"], {}, "do not fit"),
    ([[1.0, 2.0], [1.0, math.inf]], ["a", "b"], {}, "seed 1"),
    ([[1.0, 2.0]], ["a", "b"], {"level": 95}, "level"),
    ([[1.0, 2.0]], ["a", "b"], {"n_boot": 0}, "n_boot"),
])
def test_bad_input_is_a_clear_error(d_SB, clusters, options, message):
    with pytest.raises(ValueError, match=message):
        hierarchical(d_SB, clusters, **options)


def test_false_alarms_of_even_noise_are_as_many_as_promised_and_do_not_see_the_mean():
    rng = np.random.default_rng(3)
    d_SB, prompts = rng.normal(0, 0.1, (12, 1)) + rng.normal(0, 0.2, (12, 30)), np.arange(30)
    share = false_alarms(d_SB, prompts, 6, times=200)
    assert 0.005 <= share <= 0.11, "5 %, within what 200 draws can miss"
    assert false_alarms(d_SB + 0.7, prompts, 6, times=200) == share


def test_false_alarms_see_prompts_that_all_seeds_share():
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 0.3, (1, 30)) + rng.normal(0, 0.001, (12, 30))
    assert false_alarms(shared, np.arange(30), 6, times=200) <= 0.1


def test_false_alarms_need_as_many_seeds_as_they_are_asked_for():
    d_SB = np.array([[0.1, 0.2], [0.3, 0.1], [NAN, NAN]])
    with pytest.raises(ValueError, match="3 seeds asked for, 2 have values"):
        false_alarms(d_SB, ["a", "b"], 3)


def test_prediction_against_its_formula_and_against_new_runs():
    half = 4.302653 * 0.1 * math.sqrt(1 + 1 / 3)
    assert prediction([0.6, 0.7, 0.8, NAN]) == pytest.approx((0.7, 0.7 - half, 0.7 + half, 3), abs=1e-6)
    draws = np.random.default_rng(5).normal(0.5, 0.1, (800, 5))
    inside = [(got := prediction(row[:4])).low <= row[4] <= got.high for row in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)
    one = prediction([0.7])
    assert one.value == 0.7 and one.n == 1 and np.isnan([one.low, one.high]).all()
