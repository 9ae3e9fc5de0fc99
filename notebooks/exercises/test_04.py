"""Notebook 04: the reward at the answer slot, failures of a listener, positions behind a shared prefix."""

import math

import adapters
import numpy as np
from checking import same

from lrt.rewards import ListenerReward
from lrt.traces import write_completion


def test_listener_rewards():
    r = np.random.default_rng(11)
    B, T, V, ids = 6, 7, 9, (4, 2)
    logits_BTV, vote_B = 3 * r.normal(size=(B, T, V)), np.array([1, 2, 1, 2, 2, 1])
    length_B = np.array([7, 4, 1, 6, 3, 5])
    for side in ("left", "right"):
        place = np.arange(T) if side == "right" else np.arange(T)[::-1]
        mask_BT = (place < length_B[:, None]).astype(int)
        last_B = [max(np.flatnonzero(mask)) for mask in mask_BT]
        e_B2 = np.exp([logits_BTV[b, t, list(ids)] for b, t in enumerate(last_B)])
        wanted = [e[vote - 1] / e.sum() for e, vote in zip(e_B2, vote_B, strict=True)]
        same(adapters.listener_rewards(logits_BTV, mask_BT, ids, vote_B), wanted,
             f"padding on the {side}: the logits at the last token; a softmax over the two words; the vote's side")
    large = np.array([[[900.0, -900.0]], [[900.0, -900.0]]])
    got = adapters.listener_rewards(large, np.ones((2, 1), dtype=int), (0, 1), np.array([1, 2]))
    same(got, [1, 0], "large logits must not overflow", atol=1e-12)


class Table:
    """A listener that knows its p by the trace."""

    name = "table"

    def __init__(self, p):
        self.p = p

    def p_first(self, prompts_B, images_B, traces_BG):
        return [[self.p[trace] for trace in traces] for traces in traces_BG]


def test_listener_parts():
    p_N = [0.9, 0.2, None, 0.7, None, 0.4, 0.4, None, None, 0.8]
    parsable_N = [True, False, True, True, False, True, False, False, True, True]
    vote_N, pair_N = [1, 1, 1, 2, 2, 2, 1, 1, 2, 2], [*"aaabbbccdd"]
    texts = [write_completion(f"word {i}", 1) if ok else f"word {i}" for i, ok in enumerate(parsable_N)]
    reward = ListenerReward(Table({f"word {i}": p for i, p in enumerate(p_N)}))
    wanted = reward(completions=texts, pair_text=["x"] * 10, images=[()] * 10, vote=vote_N, pair_id=pair_N)
    got = list(adapters.listener_parts(p_N, parsable_N, vote_N, pair_N))
    assert [x is None for x in got] == [x is None for x in wanted], (
        f"None for every completion of a pair with a failure, and for no other; an unparsable one is no failure: {got}")
    same([math.nan if x is None else x for x in got], [math.nan if x is None else x for x in wanted],
         "the probability on the side of the vote; 0 for what cannot be parsed")


def test_trace_positions():
    mask_BL = np.array([[0, 0, 1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0, 0, 1]])
    for n_new in (3, 2):
        got = np.asarray(adapters.trace_positions(mask_BL, n_new))
        assert got.shape == (3, n_new), f"the last {n_new} positions of each row, not an array of {got.shape}"
        for row, mask in zip(got, mask_BL, strict=True):
            wanted = [sum(mask[:t]) for t in range(len(mask))][-n_new:]
            real = mask[-n_new:] == 1
            same(row[real], np.array(wanted)[real], "count the real tokens before it, those of the chat among them")
