"""Credit: shares of the advantage that add up to what TRL computes, and a covariance that is the derivative it claims
to be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import nanstd

from lrt.pairs import scenes_of, tiny_pairs
from lrt.prompts import parse
from lrt.rewards import accuracy_reward, advantages, format_reward
from lrt.study.credit import PROPERTIES, CreditWatch, credit, dead_groups, shares_of_advantage
from lrt.traces import check_trace, gold_trace, write_completion
from lrt.world import parse_prompt

NAN = float("nan")
PAIRS = tiny_pairs("train", 18)
ROWS = list(PAIRS.remove_columns("images"))
BROKEN = "<think> image 1 is better . </think> <answer> 1"

eighths = st.integers(0, 8).map(lambda n: n / 8)


@st.composite
def batches(draw, parts=3):
    """(parts (K, N), groups (N,), number of groups, weights); a listener's part may be NaN, the first never is."""
    b, g = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    heard = st.one_of(st.just(NAN), eighths)
    rows = [draw(st.lists(heard if k == 2 else eighths, min_size=b * g, max_size=b * g)) for k in range(parts)]
    weights = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=parts, max_size=parts))
    return np.array(rows), [f"pair {i // g}" for i in range(b * g)], b, weights


# --- shares of the advantage


@settings(max_examples=200, deadline=None)
@given(batches(), st.sampled_from(["group", "batch", "none"]))
def test_shares_sum_to_the_advantage(batch, scale):
    parts_KN, groups, b, weights = batch
    shares_KN = shares_of_advantage(parts_KN, weights, groups, scale)
    total_BG = np.nansum(parts_KN * np.array(weights)[:, None], axis=0).reshape(b, -1)
    np.testing.assert_allclose(shares_KN.sum(axis=0), advantages(total_BG, scale).ravel(), atol=1e-9)
    assert shares_KN.shape == parts_KN.shape
    np.testing.assert_allclose(shares_KN.reshape(len(weights), b, -1).sum(axis=2), 0, atol=1e-9)  # none favours a group


def as_trl_does(parts_KN, weights, n_groups):
    """`GRPOTrainer`'s arithmetic under "normalize_then_sum", in double precision."""
    per_function = torch.tensor(parts_KN).T
    grouped = per_function.view(n_groups, -1, len(weights))
    mean_k, std_k = torch.nanmean(grouped, dim=1, keepdim=True), nanstd(grouped, dim=1, keepdim=True)
    reward_k = ((grouped - mean_k) / (std_k + 1e-4)).view(-1, len(weights))
    rewards = (reward_k * torch.tensor(weights, dtype=torch.float64)).nansum(dim=1)
    return torch.nan_to_num((rewards - torch.nanmean(rewards)) / (nanstd(rewards) + 1e-4)).numpy()


@settings(max_examples=200, deadline=None)
@given(batches().filter(lambda batch: len(batch[1]) > batch[2]), st.sampled_from(["group", "batch", "none"]))
def test_shares_of_parts_that_are_normalised_first_sum_to_trls_advantage(batch, scale):
    parts_KN, groups, b, weights = batch
    before = parts_KN.copy()
    shares_KN = shares_of_advantage(parts_KN, weights, groups, scale, aggregation="normalize_then_sum")
    np.testing.assert_allclose(shares_KN.sum(axis=0), as_trl_does(parts_KN, weights, b), atol=1e-6)
    np.testing.assert_array_equal(parts_KN, before)  # what was passed is left alone


def test_shares_by_hand():
    parts = [[1, 1, 1, 0], [1, 0, 1, 1], [0.5, 0.5, NAN, NAN]]
    shares = shares_of_advantage(parts, [1, 0.5, 0.5], ["a", "a", "b", "b"], "none")
    np.testing.assert_allclose(shares, [[0, 0, 0.5, -0.5], [0.25, -0.25, 0, 0], [0, 0, 0, 0]])
    scaled = shares_of_advantage(parts, [1, 0.5, 0.5], ["a", "a", "b", "b"], "group")
    deviation = np.std([1.75, 1.25], ddof=1), np.std([1.5, 0.5], ddof=1)
    np.testing.assert_allclose(scaled[:, :2], shares[:, :2] / (deviation[0] + 1e-4))
    np.testing.assert_allclose(scaled[:, 2:], shares[:, 2:] / (deviation[1] + 1e-4))


def test_a_group_without_a_difference_has_no_shares():
    dead, alive = [[1, 1, 1, 0]], [[0, 1, 1, 0]]
    shares = shares_of_advantage([*dead, *alive], [1, 1], ["a", "a", "b", "b"])
    assert shares[0, :2].tolist() == [0, 0] and not shares[:, :2].sum(axis=0)[0] == 0
    one = shares_of_advantage(dead, [1], ["a", "a", "b", "b"])
    assert one[0, :2].tolist() == [0, 0] and one[0, 2] > 0 > one[0, 3]


# --- dead groups


@pytest.mark.parametrize("parts, weights, share", [
    ([[1, 1, 1, 0]], [1.0], 0.5),
    ([[1, 1, 1, 1], [0.3, 0.3, 0.2, 0.2]], [1.0, 0.5], 1.0),
    ([[1, 1, 1, 1], [0.3, 0.31, 0.2, 0.2]], [1.0, 0.5], 0.5),
    ([[1, 0, 1, 1], [0, 1, 0, 1]], [0.5, 0.5], 0.5),
    ([[1, NAN, 1, 1], [0.5, 0.5, NAN, NAN]], [1.0, 1.0], 0.5),
])
def test_a_group_is_dead_where_all_earn_the_same_however_rewards_are_scaled(parts, weights, share):
    assert dead_groups(parts, weights, ["a", "a", "b", "b"]) == share
    assert dead_groups(np.array(parts)[:, [0, 2, 1, 3]], weights, ["a", "b", "a", "b"]) == share, "in any order"


# --- credit


def naive_credit(advantages_N, x_N, group_N):
    products = []
    for i, (a, x) in enumerate(zip(advantages_N, x_N, strict=True)):
        own = [x_N[j] for j in range(len(x_N)) if group_N[j] == group_N[i] and not math.isnan(x_N[j])]
        if not math.isnan(x):
            products.append(a * (x - sum(own) / len(own)))
    return sum(products) / len(products) if products else NAN


numbers = st.floats(-4, 4).map(lambda x: round(x, 3))
completion = st.tuples(numbers, st.one_of(st.just(NAN), numbers), st.sampled_from("abc"))


@settings(deadline=None)
@given(st.lists(completion, min_size=1, max_size=16))
def test_credit_against_a_naive_loop(rows):
    a_N, x_N, group_N = map(list, zip(*rows, strict=True))  # groups may stand interleaved
    found = credit(np.array(a_N), np.array(x_N), group_N)
    assert found == pytest.approx(naive_credit(a_N, x_N, group_N), nan_ok=True, abs=1e-9)


@settings(deadline=None)
@given(batches(), st.integers(0, 999), st.sampled_from(["sum_then_normalize", "normalize_then_sum"]))
def test_credit_is_linear_in_the_parts(batch, seed, aggregation):
    parts_KN, groups, _, weights = batch
    x_N = np.random.default_rng(seed).random(len(groups))
    shares_KN = shares_of_advantage(parts_KN, weights, groups, aggregation=aggregation)
    by_part = [credit(share_N, x_N, groups) for share_N in shares_KN]
    assert sum(by_part) == pytest.approx(credit(shares_KN.sum(axis=0), x_N, groups), abs=1e-9)


def test_credit_of_what_does_not_vary_or_does_not_apply():
    a_N, groups = np.array([1.0, -1.0, 2.0, -2.0]), ["a", "a", "b", "b"]
    assert credit(a_N, np.array([1.0, 1.0, 0.0, 0.0]), groups) == 0  # all of a group have it, or none
    assert credit(np.zeros(4), np.array([1.0, 0.0, 1.0, 0.0]), groups) == 0  # nothing was paid
    assert credit(a_N, np.array([1.0, 0.0, 1.0, 0.0]), groups) == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    assert credit(a_N, np.array([1.0, 0.0, NAN, NAN]), groups) == pytest.approx(0.5)
    assert math.isnan(credit(a_N, np.full(4, NAN), groups))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), eighths, eighths), min_size=2, max_size=6))
def test_credit_is_a_derivative_of_the_expected_property(actions):
    """A group that holds each action as often as a softmax policy would take it: moving the policy's logits along A
    changes E[x] at the rate of the credit; so does moving them along x change the expected reward."""
    counts, r, x = (torch.tensor(values, dtype=torch.float64) for values in zip(*actions, strict=True))
    each = [i for i, n in enumerate(counts) for _ in range(int(n))]
    a_N = advantages([r[each].tolist()], "none").ravel()
    found = credit(a_N, x[each].numpy(), ["pair"] * len(each))
    a = r - r[each].mean()
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for direction, property_ in ((a, x), (x, r)):
        expected = torch.softmax(counts.log() + t * direction, 0) @ property_
        (slope,) = torch.autograd.grad(expected, t)
        assert found == pytest.approx(slope.item(), abs=1e-12)


# --- watching


def gold(row, verdict=1, answer=1):
    return write_completion(gold_trace(parse_prompt(row["prompt"]), scenes_of(row), verdict), answer)


def better(row):
    return 1 if row["utility_1"] > row["utility_2"] else 2 if row["utility_1"] < row["utility_2"] else None


def test_properties_by_hand():
    row = next(r for r in ROWS if better(r) == 1 and r["tint_1"] == "warm")
    words = gold(row).split()
    words[4] = "green" if words[4] != "green" else "red"
    said = check_trace(parse(gold(row)).trace, parse_prompt(row["prompt"]), scenes_of(row))
    assert words[1:4] == ["image", "1", ":"] and words[4] in ("green", "red")
    completions = {
        gold(row): (1, 1, 1, 1, 1),
        " ".join(words): (1 - 1 / len(said), 1, 1, 1, 1),
        gold(row, verdict=2): (1, 0, 1, 1, 0),
        gold(row, answer=2): (1, 1, 0, 0, 0),
        gold(row, 2, 2): (1, 0, 0, 0, 1),
        "<think> so what . </think> <answer> 1 </answer>": (NAN, NAN, 1, 1, NAN),
        BROKEN: (NAN,) * 5,
    }
    found = CreditWatch(PAIRS, [1, 0.5]).properties(list(completions), [row["pair_id"]] * len(completions))
    assert tuple(found) == PROPERTIES
    for i, (text, expected) in enumerate(completions.items()):
        assert [found[name][i] for name in PROPERTIES] == pytest.approx(list(expected), nan_ok=True), text


def test_properties_where_no_image_is_better_or_warm():
    tied = next(r for r in ROWS if better(r) is None)
    watch = CreditWatch(PAIRS, [1, 0.5])
    found = watch.properties([gold(tied)], [tied["pair_id"]])
    assert math.isnan(found["verdict"][0]) and math.isnan(found["answer"][0])
    assert found["own"][0] == 1 and found["tint"][0] == float(tied["tint_1"] == "warm")
    untinted = tiny_pairs("train", 6, shortcut=None)
    assert math.isnan(CreditWatch(untinted, [1]).properties([gold(untinted[0])], [untinted[0]["pair_id"]])["tint"][0])


def step(names):
    """A step of two pairs and four completions each: (completions as TRL has them, pair_id, vote)."""
    rows = [next(r for r in ROWS if r["pair_id"] == name) for name in names]
    texts = [text for row in rows for text in (gold(row), gold(row, 2, 2), gold(row, 1, 2), BROKEN)]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    return messages, [row["pair_id"] for row in rows for _ in range(4)], [row["vote"] for row in rows for _ in range(4)]


def added(completions, **_):
    return [None] * 4 + [0.25, 0.75, 0.5, 0.0]


def test_a_watched_step_logs_the_credit_of_every_property_once():
    names = [r["pair_id"] for r in ROWS if better(r)][:2]
    messages, pair_id, vote = step(names)
    functions, weights = [format_reward, accuracy_reward, added], [1.0, 0.5, 0.5]
    watch = CreditWatch(PAIRS, weights)
    logged = []
    for _ in range(2):  # a second step begins anew
        before = len(logged)
        for function, watched in zip(functions, watch.watching(functions), strict=True):
            assert watched.__name__ == function.__name__
            assert len(logged) == before  # not before the last function has spoken
            values = watched(prompts=None, completions=messages, completion_ids=None, vote=vote, pair_id=pair_id,
                             log_metric=lambda name, value: logged.append((name, value)), trainer_state=None)
            assert values == function(completions=messages, vote=vote, pair_id=pair_id)
    half = len(logged) // 2
    assert logged[:half] == logged[half:]
    found = dict(logged[:half])
    each = {f"{kind}/{name}" for kind in ("credit", "credit_added", "rollout") for name in PROPERTIES}
    assert set(found) == {"dead_groups", *each}

    parts = np.array([f(completions=messages, vote=vote, pair_id=pair_id) for f in functions], dtype=float)
    shares_KN = shares_of_advantage(parts, weights, pair_id)
    x = watch.properties([m[0]["content"] for m in messages], pair_id)
    for name in PROPERTIES:
        assert found[f"credit/{name}"] == pytest.approx(naive_credit(shares_KN.sum(axis=0), x[name], pair_id))
        assert found[f"credit_added/{name}"] == pytest.approx(naive_credit(shares_KN[2], x[name], pair_id))
        assert found[f"rollout/{name}"] == pytest.approx(np.nanmean(x[name]))
    assert found["rollout/own"] == pytest.approx(2 / 3) and found["rollout/statements"] == 1
    assert found["credit/answer"] != 0 != found["credit_added/verdict"]


def test_plain_grpo_has_no_added_credit_and_what_nobody_has_is_left_out():
    messages, pair_id, vote = step([ROWS[0]["pair_id"]])
    watch = CreditWatch(PAIRS, [1.0, 0.5])
    found = watch.report([format_reward(messages), accuracy_reward(messages, vote)], messages, pair_id)
    assert "credit/own" in found and not any(name.startswith("credit_added") for name in found)
    silent = [[{"role": "assistant", "content": BROKEN}]] * 4
    assert watch.report([format_reward(silent), accuracy_reward(silent, vote)], silent, pair_id) == {"dead_groups": 1}


def test_the_watch_scales_as_the_trainer_does():
    messages, pair_id, vote = step([r["pair_id"] for r in ROWS if better(r)][:2])
    parts = [format_reward(messages), accuracy_reward(messages, vote)]
    found = {
        options: CreditWatch(PAIRS, [1.0, 0.5], *options).report(parts, messages, pair_id)["credit/answer"]
        for options in (("group",), ("batch",), ("none",), ("group", "normalize_then_sum"))
    }
    assert len(set(found.values())) == 4
    x_N = CreditWatch(PAIRS, [1]).properties([m[0]["content"] for m in messages], pair_id)["answer"]
    for options, value in found.items():
        shares_KN = shares_of_advantage(parts, [1.0, 0.5], pair_id, options[0], aggregation=(
            *options, "sum_then_normalize")[1])
        assert value == pytest.approx(credit(shares_KN.sum(axis=0), x_N, pair_id))
