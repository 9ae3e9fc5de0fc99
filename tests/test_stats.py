"""Each statistic against a naive form of itself, against known values, and at its edges."""
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import stats
from lrt.stats import Interval, Record

NAN = float("nan")


def clustered(rng, n_clusters, size, spread):
    """0 / 1 values whose chance differs from cluster to cluster, around 0.6."""
    chance_C = np.clip(rng.normal(0.6, spread, n_clusters), 0, 1)
    values = (rng.random((n_clusters, size)) < chance_C[:, None]).astype(float).ravel()
    return values, np.repeat(np.arange(n_clusters), size)


def naive_draws(numerators, denominators, clusters, n_boot, seed):
    """The same draws of clusters, one list of rows at a time."""
    ids = sorted(set(clusters))
    picks = np.random.default_rng(seed).integers(len(ids), size=(n_boot, len(ids)))
    draws = []
    for row in picks:
        rows = [i for c in row for i, name in enumerate(clusters) if name == ids[c]]
        draws.append(sum(numerators[i] for i in rows) / sum(denominators[i] for i in rows))
    return draws


# ---------------------------------------------------------------- bootstrap

def test_bootstrap_equals_naive_loop_with_the_same_draws():
    rng = np.random.default_rng(1)
    values = rng.random(30)
    clusters = [f"p{i}" for i in rng.integers(0, 8, 30)]
    draws = naive_draws(values, np.ones(30), clusters, 200, seed=5)
    got = stats.bootstrap(values, clusters, n_boot=200, seed=5, level=0.9)
    assert got == pytest.approx((values.mean(), np.quantile(draws, 0.05), np.quantile(draws, 0.95), 30))


def test_any_statistic_takes_the_same_draws_as_the_fast_mean():
    rng = np.random.default_rng(2)
    values, clusters = rng.random(40), rng.integers(0, 9, 40)
    fast = stats.bootstrap(values, clusters, n_boot=300)
    slow = stats.bootstrap(values, clusters, statistic=lambda x: x.sum() / len(x), n_boot=300)
    assert fast == pytest.approx(slow)


def test_ratio_equals_naive_loop_and_differs_from_the_mean_of_ratios():
    rng = np.random.default_rng(3)
    made = rng.integers(1, 9, 30)
    true = rng.binomial(made, 0.7)
    clusters = rng.integers(0, 7, 30).tolist()
    draws = naive_draws(true, made, clusters, 150, seed=0)
    got = stats.bootstrap_ratio(true, made, clusters, n_boot=150)
    assert got == pytest.approx((true.sum() / made.sum(), *np.quantile(draws, [0.025, 0.975]), 30))
    assert abs(got.value - (true / made).mean()) > 1e-4


def test_statistic_of_rows_with_several_columns():
    rng = np.random.default_rng(4)
    p = rng.random(60)
    rows = np.stack([p, rng.random(60) < p], axis=1)
    rows[7, 0] = NAN
    got = stats.bootstrap(rows, np.arange(60), statistic=lambda r: stats.ece(r[:, 0], r[:, 1], 5), n_boot=50)
    assert got.n == 59 and got.value == pytest.approx(stats.ece(rows[:, 0], rows[:, 1], 5))
    assert 0 <= got.low < got.high <= 1


def test_blocks_of_draws_do_not_change_the_result(monkeypatch):
    values, clusters = clustered(np.random.default_rng(5), 20, 3, 0.2)
    whole = stats.bootstrap(values, clusters, n_boot=100)
    picks = stats._picks

    def one_row_at_a_time(n_clusters, n_boot, seed):
        for block in picks(n_clusters, n_boot, seed):
            yield from (row[None] for row in block)

    monkeypatch.setattr(stats, "_picks", one_row_at_a_time)
    assert stats.bootstrap(values, clusters, n_boot=100) == whole


def test_intervals_over_prompts_cover_and_intervals_over_pairs_do_not():
    rng, hits = np.random.default_rng(6), {"prompts": 0, "pairs": 0}
    mean = np.clip(np.random.default_rng(0).normal(0.6, 0.3, 200_000), 0, 1).mean()
    for _ in range(300):
        values, prompts = clustered(rng, 40, 6, 0.3)
        for name, clusters in {"prompts": prompts, "pairs": np.arange(len(values))}.items():
            interval = stats.bootstrap(values, clusters, n_boot=200)
            hits[name] += interval.low <= mean <= interval.high
    assert 0.88 <= hits["prompts"] / 300 <= 0.99
    assert hits["pairs"] / 300 < 0.85


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 5)), min_size=1, max_size=40), st.randoms())
def test_interval_contains_the_value_and_ignores_the_order_of_rows(rows, random):
    values, clusters = zip(*rows, strict=True)
    got = stats.bootstrap(values, clusters, n_boot=200)
    if len(set(clusters)) < 2:
        assert math.isnan(got.low) and math.isnan(got.high)
    else:
        assert got.low - 1e-9 <= got.value <= got.high + 1e-9
        assert min(values) - 1e-9 <= got.low and got.high <= max(values) + 1e-9
    random.shuffle(rows)
    values, clusters = zip(*rows, strict=True)
    assert stats.bootstrap(values, clusters, n_boot=200) == pytest.approx(got, nan_ok=True, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=5, max_size=30))
def test_paired_difference_is_antisymmetric_and_zero_for_identical(rows):
    a, b, _ = zip(*rows, strict=True)
    clusters = [i % 5 for i in range(len(rows))]
    assert stats.paired_bootstrap(a, a, clusters, n_boot=50) == (0, 0, 0, len(rows))
    one = stats.paired_bootstrap(a, b, clusters, n_boot=50)
    other = stats.paired_bootstrap(b, a, clusters, n_boot=50)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-12)


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(7)
    a, clusters = clustered(rng, 60, 4, 0.3)
    b = np.where(rng.random(len(a)) < 0.1, 1 - a, a)
    paired = stats.paired_bootstrap(a, b, clusters)
    alone = stats.bootstrap(a, clusters)
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < alone.high - alone.low


def test_what_does_not_apply_is_left_out():
    got = stats.bootstrap([1, None, 0, NAN, 1, 1], list("aabbcc"), n_boot=100)
    assert got.n == 4 and got.value == 0.75
    assert stats.paired_bootstrap([1, None, 1], [0, 0, None], list("abc")).n == 1
    assert stats.bootstrap_ratio([1, 2], [2, None], list("ab")).n == 1


@pytest.mark.parametrize("values", [[], [None, NAN]])
def test_nothing_left_is_nan_with_n_0(values):
    clusters = list(range(len(values)))
    for got in (stats.bootstrap(values, clusters), stats.bootstrap(values, clusters, statistic=np.median),
                stats.bootstrap_ratio(values, values, clusters), stats.several_seeds(values)):
        assert got.n == 0 and all(math.isnan(x) for x in got[:3])
    assert math.isnan(stats.ece(values, values))
    assert math.isnan(stats.bootstrap_ratio([0, 0], [0, 0], [1, 2]).value)
    assert stats.mcnemar(values, values) == (0, 0, 1.0) and len(stats.holm([])) == 0


@pytest.mark.parametrize("wrong, message", [
    (lambda: stats.bootstrap([1, 2], [1]), "different lengths"),
    (lambda: stats.paired_bootstrap([1], [1, 2], [1, 2]), "different lengths"),
    (lambda: stats.bootstrap([1, math.inf], [1, 2]), "infinite value at position 1"),
    (lambda: stats.bootstrap([1, 2], [1, 2], level=95), "level"),
    (lambda: stats.bootstrap([1, 2], [1, 2], n_boot=0), "n_boot"),
    (lambda: stats.mcnemar([1, 2], [1, 0]), "a_correct must be 0 / 1"),
    (lambda: stats.mcnemar([1, 0], [1]), "different lengths"),
    (lambda: stats.holm([0.5, 1.5]), "p-values"),
    (lambda: stats.holm([0.5, NAN]), "p-values"),
    (lambda: stats.ece([0.5, 1.2], [0, 1]), "probabilities"),
    (lambda: stats.ece([0.5], [0.3]), "hit must be 0 / 1"),
])
def test_bad_input_is_a_clear_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


# ---------------------------------------------------------------- means and seeds

def test_means_of_clusters():
    assert stats.cluster_means([1, 0, 1, 1], ["b", "b", "a", "a"]).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("level, df, expected", [
    (0.95, 1, 12.7062), (0.95, 2, 4.3027), (0.95, 3, 3.1824), (0.95, 4, 2.7764), (0.95, 9, 2.2622),
    (0.95, 30, 2.0423), (0.99, 5, 4.0321), (0.90, 10, 1.8125), (0.95, 2000, 1.9612)])
def test_t_quantile_against_printed_tables(level, df, expected):
    assert stats.t_quantile(level, df) == pytest.approx(expected, abs=6e-5)


def test_several_seeds():
    got = stats.several_seeds([0.60, 0.70, 0.80, None])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert got == pytest.approx((0.70, 0.70 - half, 0.70 + half, 3), abs=1e-6)
    one = stats.several_seeds([0.7])
    assert one.value == 0.7 and one.n == 1 and math.isnan(one.low)


# ---------------------------------------------------------------- tests

@pytest.mark.parametrize("b01, b10", itertools.product(range(6), range(6)))
def test_mcnemar_against_enumeration_of_all_coin_tosses(b01, b10):
    a = [0] * b01 + [1] * b10 + [1, 0, 1]
    b = [1] * b01 + [0] * b10 + [1, 0, NAN]
    n, seen = b01 + b10, abs(b01 - b10)
    as_uneven = [abs(2 * sum(toss) - n) >= seen for toss in itertools.product((0, 1), repeat=n)]
    assert stats.mcnemar(a, b) == (b01, b10, pytest.approx(np.mean(as_uneven)))


def test_mcnemar_stays_exact_where_floats_underflow():
    b01, b10, p = stats.mcnemar([0] * 1500 + [1] * 1500, [1] * 1500 + [0] * 1500)
    assert (b01, b10, p) == (1500, 1500, 1.0)
    assert 0 < stats.mcnemar([0] * 300, [1] * 300)[2] < 1e-80


def test_holm_known_example_and_order():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_rule_rejects(p):
    adjusted, rejected = stats.holm(p), set()
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] * (len(p) - rank) > 0.05:
            break
        rejected.add(i)
    assert rejected == {i for i, q in enumerate(adjusted) if q <= 0.05}


# ---------------------------------------------------------------- calibration

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60),
       st.sampled_from([1, 2, 4, 8, 10]))
def test_ece_and_bins_against_naive(rows, bins):
    edges, naive = np.linspace(0, 1, bins + 1), 0.0
    for i in range(bins):
        own = [(p, hit) for p, hit in rows
               if edges[i] <= p and (p < edges[i + 1] or (i == bins - 1 and p == 1))]
        if own:
            naive += abs(sum(p for p, _ in own) - sum(hit for _, hit in own)) / len(rows)
    p, hit = zip(*rows, strict=True)
    assert stats.ece(p, hit, bins) == pytest.approx(naive, abs=1e-12)
    assert sum(row["n"] for row in stats.reliability(p, hit, bins)) == len(rows)


def test_reliability_edges_and_empty_bins():
    rows = stats.reliability([0.0, 0.5, 1.0, None], [0, 1, 1, 1], bins=4)
    assert [row["n"] for row in rows] == [1, 0, 1, 1]
    assert math.isnan(rows[1]["accuracy"]) and rows[2]["confidence"] == 0.5
    assert stats.ece([0.0, 0.5, 1.0], [0, 1, 1], 4) == pytest.approx(0.5 / 3)


# ---------------------------------------------------------------- records

def test_records_survive_the_disk(tmp_path):
    interval = Interval(0.5, NAN, NAN, 3)
    records = [Record("grpo", "no_tint", "accuracy", *interval, 1),
               Record("base", "no_tint", "flip_rate", 0.25, 0.125, np.float64(0.5), np.int64(400), None)]
    path = tmp_path / "deep" / "results.json"
    stats.save_records(records, path)
    first, second = stats.load_records(path)
    assert second == records[1] and math.isnan(first.low) and first.seed == 1 and first.n == 3
    assert json.loads(path.read_text())[0]["low"] is None
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    stats.save_records([Record("base", "s", "m", 1.0, 1.0, 1.0, 1, 0)], path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        stats.save_records([Record("base", "s", "m", math.inf, 1.0, 1.0, 1, 0)], path)
    assert path.read_bytes() == before


GOOD = {"method": "base", "split": "s", "metric": "m", "value": 0.5, "low": 0, "high": 1, "n": 3, "seed": 0}


@pytest.mark.parametrize("text, message", [
    ("{", "not a JSON file"),
    ("{}", "expected a list"),
    ('[{"method": "base"}]', "record 0: expected exactly the fields"),
    (json.dumps([GOOD, GOOD | {"value": "0.5"}]), "record 1, field value: '0.5'"),
    (json.dumps([GOOD | {"n": None}]), "record 0, field n: None"),
    (json.dumps([GOOD | {"seed": True}]), "record 0, field seed: True")])
def test_a_record_that_does_not_fit_is_named(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        stats.load_records(path)


def test_select():
    records = [Record(m, s, "accuracy", 0.5, 0.4, 0.6, 10, 0) for m in ("base", "sft") for s in ("x", "y")]
    assert stats.select(records, method="sft", split="y") == records[3:]
    assert stats.select(records, metric="ece") == []
