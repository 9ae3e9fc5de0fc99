"""Notebook 06: a reward, the number of seeds, a control, an interval over seeds and prompts, credit."""

import math
from collections import Counter

import adapters
import numpy as np
from checking import same, same_interval

from lrt import stats


def test_consistency_reward():
    said = "<think> {} </think> <answer> {} </answer>".format
    texts = [said("image 1 is better .", 1), said("image 2 is better .", 1), said("image 1 : clear .", 1),
             "image 2 is better . 2", said("", 2), said("image 2 is better .", 2), "<think> image 1 is better .",
             said("image 1 is better . so <answer> 1 </answer>", 1), said("image 1 is worse than image 2 .", 2), "1"]
    wanted = [1, 0, 0, 0, 0, 1, 0, 0, 1, 0]
    why = "1 where the format is kept and the answer is the verdict of the trace, whatever the vote"
    for vote in (1, 2):
        got = adapters.consistency_reward(texts, vote=[vote] * 10, pair_id=["a"] * 10)
        assert len(got) == 10, "one number for each completion"
        same(got, wanted, why)
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    same(adapters.consistency_reward(messages, vote=[1] * 10), wanted, f"completions may be lists of messages: {why}")


def test_seeds_needed():
    for sd, effect in ((0.14, 0.10), (0.14, 0.05), (0.14, 0.03), (0.02, 0.05), (0.001, 0.5), (1, 12.6 / math.sqrt(2))):
        n = adapters.seeds_needed(sd, effect)
        assert n >= 2, "one seed has no spread, so no interval"
        wanted = next(k for k in range(2, 1000) if stats.t_quantile(0.95, k - 1) * sd / math.sqrt(k) <= effect)
        assert n == wanted, f"sd {sd}, effect {effect}: {n} instead of {wanted} seeds; t has n - 1 degrees of freedom"


def test_permuted():
    pair_N = np.array([*"abab" * 2, "c"])
    p_N = np.arange(9) / 10
    before, deals = p_N.copy(), []
    for seed in range(600):
        dealt = np.asarray(adapters.permuted(p_N, pair_N, seed))
        assert np.array_equal(p_N, before), "the listener's own values were changed: return a new array"
        for name in "abc":
            same(sorted(dealt[pair_N == name]), p_N[pair_N == name], "a group keeps its own values, each once")
        deals.append(tuple(np.round(10 * dealt).astype(int)))
    same(adapters.permuted(p_N, pair_N, 3), np.array(deals[3]) / 10, "the same seed deals alike")
    for place in range(8):  # 600 deals, four values: 150 each, give or take 11
        counts = Counter(deal[place] for deal in deals).values()
        assert len(counts) == 4 and min(counts) > 95, f"place {place}: not every value of the group comes equally often"
    together = np.mean([np.array_equal(np.argsort(deal[:8:2]), np.argsort(deal[1:8:2])) for deal in deals])
    assert together < 0.2, "both groups are dealt out in the same order: draw anew for each, from one generator"


def test_hierarchical_interval():
    r = np.random.default_rng(14)
    S, P, draws = 8, 30, 20_000
    d_SP = -0.1 + r.normal(0, 0.15, (S, 1)) + r.normal(0, 0.35, (1, P)) + r.normal(0, 0.2, (S, P))
    seeds_RS, prompts_RP = r.integers(S, size=(draws, S)), r.integers(P, size=(draws, P))
    times_RS, times_RP = (np.stack([(x == k).sum(1) for k in range(n)], 1) for x, n in ((seeds_RS, S), (prompts_RP, P)))
    means = np.einsum("rs,rp,sp->r", times_RS, times_RP, d_SP, optimize=True) / (S * P)
    got = adapters.hierarchical_interval(d_SP, n_boot=4000, seed=0)
    same_interval(got, *np.quantile(means, [0.025, 0.975]),
                  "draw seeds and prompts, both with replacement, and the same prompts for all the drawn seeds")


def test_credits_of_parts():
    r = np.random.default_rng(15)
    weights_K = [1.0, 0.5, 0.5]
    for holes in (0, 2):
        parts_KG, x_G = np.stack([np.ones(8), r.integers(2, size=8), r.random(8)]), r.random(8)
        x_G[:holes] = np.nan
        total_G, has = sum(w * part for w, part in zip(weights_K, parts_KG, strict=True)), range(holes, 8)
        s = math.sqrt(sum((total_G - np.mean(total_G)) ** 2) / 7) + 1e-4
        x_mean = np.mean([x_G[i] for i in has])
        wanted = [np.mean([w * (part[i] - np.mean(part)) / s * (x_G[i] - x_mean) for i in has])
                  for w, part in zip(weights_K, parts_KG, strict=True)]
        got = adapters.credits_of_parts(parts_KG, weights_K, x_G)
        same(got, wanted, "weighted, over the deviation (G - 1) of the total, the mean over completions that have x")
