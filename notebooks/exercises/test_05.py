"""Notebook 05: two listeners, bins of disagreement, the truth of statements."""

import math

import adapters
import numpy as np
from checking import same


def judged(seed, n=300):
    """(answers, p, another p, shares of votes) with everything that real tables have: NaN, ties, edges of bins."""
    r = np.random.default_rng(seed)
    answer_B = r.choice([1, 2, np.nan], n, p=[0.5, 0.3, 0.2])
    p_B, q_B = (np.where(r.random(n) < 0.15, np.nan, r.choice(np.arange(17) / 16, n)) for _ in range(2))
    return answer_B, p_B, q_B, r.choice([0, 0.25, 0.5, 0.75, 1], n, p=[0.1, 0.1, 0.3, 0.2, 0.3])


def test_two_listeners():
    answer_B, p_B, q_B, _ = judged(12)
    p_B, q_B = (np.where(x == 0.5, 0.6, x) for x in (p_B, q_B))
    found = [((1 if p > 0.5 else 2) != answer, (1 if q > 0.5 else 2) != answer)
             for answer, p, q in zip(answer_B, p_B, q_B, strict=True) if not math.isnan(answer + p + q)]
    both, either = adapters.two_listeners(answer_B, p_B, q_B)
    why = "a listener contradicts where it chooses the other image; judgements with a NaN are left out of both shares"
    same(both, np.mean([all(two) for two in found]), f"both: {why}")
    same(either, np.mean([any(two) for two in found]), f"either: {why}")
    nothing = adapters.two_listeners(np.array([math.nan]), np.array([0.7]), np.array([0.2]))
    same(nothing, (math.nan, math.nan), "where no judgement is left there are no shares: NaN, not 0")


def test_accuracy_by_disagreement():
    answer_B, p_B, _, share_B = judged(13)
    used = [(1 - p if answer == 1 else p, answer == (1 if share > 0.5 else 2))
            for answer, p, share in zip(answer_B, p_B, share_B, strict=True)
            if not math.isnan(answer + p) and share != 0.5]
    for edges in ((0, 0.25, 0.5, 0.75, 1), (0, 0.5, 1)):
        bins = [[right for d, right in used if low <= d < high or d == high == 1]
                for low, high in zip(edges, edges[1:], strict=False)]
        got = adapters.accuracy_by_disagreement(answer_B, p_B, share_B, edges)
        why = "1 - p of the answer; no ties, no NaN; an edge belongs to the bin above it, 1 to the last"
        same([n for _, n in got], [len(own) for own in bins], f"counts: {why}")
        same([accuracy for accuracy, _ in got], [np.mean(own) for own in bins], f"accuracy: {why}")
    one = adapters.accuracy_by_disagreement(*map(np.array, ([1.0], [0.9], [1.0])), (0, 0.5, 1))
    same(one, [(1, 1), (math.nan, 0)], "an empty bin has no accuracy, and n = 0")


def test_truth_of():
    said = [[True, True, False, None], [], [False], [None, None], [True] * 7 + [False], [True, None]]
    pooled, averaged = adapters.truth_of(said)
    same(pooled, 10 / 13, "pooled: all true statements over all that count; None does not")
    same(averaged, np.mean([2 / 3, 0, 7 / 8, 1]), "mean over traces: a trace in which nothing counts is left out")
    same(adapters.truth_of([[], [None]]), [math.nan, math.nan], "where nothing counts there is no share")
