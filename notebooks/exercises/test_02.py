"""Notebook 02: which tokens are scored, the floor under the loss, the flip rate."""

import math

import adapters
import numpy as np
import torch
from checking import same


def test_completion_labels():
    end = 7  # the end-of-turn token, which is the padding too
    rows = [[11, 12, 13, 3, 4, end, end, end], [11, 12, 13, 14, 15, 3, 4, end], [11, 3, 4, 5, end, end, end, end]]
    ids_BT = torch.tensor(rows)
    before = ids_BT.clone()
    labels = adapters.completion_labels(ids_BT, torch.tensor([3, 5, 1]), torch.tensor([6, 8, 5]))
    no = -100
    wanted = [[no] * 3 + [3, 4, end, no, no], [no] * 5 + [3, 4, end], [no, 3, 4, 5, end, no, no, no]]
    same(labels, wanted, "the completion and its end of turn, nothing of the prompt, no padding, nothing shifted")
    assert torch.equal(ids_BT, before), "the token ids themselves were changed: the model reads them"


def test_vote_floor():
    def nats(p):
        return sum(-x * math.log(x) for x in (p, 1 - p) if x > 0)

    r = np.random.default_rng(5)
    p_B = np.concatenate([r.random(50), [0, 1, 0.5, 0, 1, 1]])
    same(adapters.vote_floor(p_B, 6), np.mean([nats(p) for p in p_B]) / 6,
         "the entropy of each pair in nats, then the mean, spread over the scored tokens; 0 where all voters agree")
    same(adapters.vote_floor(np.array([0.5]), 1), math.log(2), "a coin costs log 2 = 0.693 nats")
    same(adapters.vote_floor(np.array([0.0, 1.0]), 6), 0, "where all voters agree, nothing is left to pay")


def test_flip_rate():
    r = np.random.default_rng(6)
    before_B, after_B = r.choice([1, 2, np.nan], (2, 200), p=[0.5, 0.3, 0.2])
    flips = [a != b for a, b in zip(before_B, after_B, strict=True) if not math.isnan(a + b)]
    same(adapters.flip_rate(before_B, after_B), np.mean(flips), "NaN differs from everything: leave such pairs out")
    same(adapters.flip_rate(np.array([np.nan, 1]), np.array([np.nan, np.nan])), math.nan, "nothing left: NaN")
