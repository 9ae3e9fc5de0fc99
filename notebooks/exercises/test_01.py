"""Notebook 01: the content-only bound, agreement thresholds, both orders, an interval of a difference."""

import math

import adapters
import numpy as np
from checking import same, same_interval

from lrt import stats
from lrt.world import p_prefer_first


def test_content_bound():
    r = np.random.default_rng(1)
    gap_B = r.choice([-2.5, -1, -0.5, 0, 0.5, 1, 3], 200)
    agree = [p_prefer_first(abs(gap), 0) for gap in gap_B]  # the voter takes the better image; one half at 0
    same(adapters.content_bound(gap_B), np.mean(agree), "the judge takes the better image, whichever of the two it is")
    same(adapters.content_bound(gap_B, 0), 0.5, "at scale 0 the votes are coin tosses")
    same(adapters.content_bound(np.array([0.0, 0.0]), 5), 0.5, "pairs of equal utility stay coin tosses at any scale")
    same(adapters.content_bound(np.array([-1.0]), 3), 1 / (1 + math.exp(-3)), "the scale multiplies the gap")


def test_accuracy_at_agreement():
    r = np.random.default_rng(2)
    share_B = r.choice([0, 0.25, 0.5, 0.75, 1], 300)
    answer_B = np.where(r.random(300) < 0.7, np.where(share_B > 0.5, 1.0, 2.0), r.choice([1.0, 2.0, np.nan], 300))
    for threshold in (0.5, 0.75, 1):
        right = []
        for answer, share in zip(answer_B, share_B, strict=True):
            if share != 0.5 and max(share, 1 - share) >= threshold:
                right.append(answer == (1 if share > 0.5 else 2))  # NaN equals nothing, so it is wrong
        same(adapters.accuracy_at_agreement(answer_B, share_B, threshold), np.mean(right),
             f"threshold {threshold}: no ties, the larger of the two shares, the threshold itself included, NaN wrong")
    none = adapters.accuracy_at_agreement(np.array([1.0]), np.array([0.5]), 0.5)
    same(none, math.nan, "without any pair there is no accuracy")


def test_right_in_both_orders():
    r = np.random.default_rng(3)
    better_B = r.choice([1, 2], 200)
    forward_B = np.where(r.random(200) < 0.7, better_B, r.choice([1, 2, np.nan], 200))
    reverse_B = np.where(r.random(200) < 0.7, 3 - better_B, r.choice([1, 2, np.nan], 200))
    both = [f == b and v == 3 - b for f, v, b in zip(forward_B, reverse_B, better_B, strict=True)]
    same(adapters.right_in_both_orders(forward_B, reverse_B, better_B), np.mean(both),
         'a "1" in the reverse order is the image that is 2 in the table; a pair must be right twice; NaN is not right')
    ones = np.ones(200)
    same(adapters.right_in_both_orders(ones, ones, better_B), 0, '"always first" is never right in both orders')


def test_paired_interval():
    r = np.random.default_rng(4)
    sizes = r.integers(2, 11, size=40)
    prompt_B = r.permutation(np.repeat([f"prompt {i}" for i in range(40)], sizes))
    number_B = np.array([int(name[7:]) for name in prompt_B])
    hard_B = r.random(40)[number_B]  # what both judges find hard
    lead_B = np.where(sizes > 6, 0.45, -0.15)[number_B]  # and where one of them leads: on prompts with many pairs
    b = r.random(len(prompt_B)) < hard_B
    a = np.where(r.random(len(prompt_B)) < np.abs(lead_B), lead_B > 0, b)
    reference = stats.paired_bootstrap(a, b, prompt_B, n_boot=20_000, seed=1)
    got = adapters.paired_interval(a.astype(float), b.astype(float), prompt_B, n_boot=3000, seed=0)
    same_interval(got, reference.low, reference.high,
                  "subtract pair by pair, draw whole prompts, take the mean over pairs, and its 2.5 and 97.5 % points")
