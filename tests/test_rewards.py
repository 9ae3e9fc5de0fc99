"""The three rewards, what becomes of a completion that cannot be scored, and advantages as TRL computes them."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import get_callable_name, is_async_callable, nanstd

from lrt import traces, world
from lrt.pairs import SPLITS, scenes_of, tiny_pairs
from lrt.rewards import (
    WEIGHTS,
    ListenerReward,
    accuracy_reward,
    advantages,
    format_reward,
    reward_parts,
    total,
)

GOOD = "<think> red </think> <answer> 1 </answer>"
OTHER = "<think> blue </think> <answer> 2 </answer>"
BROKEN = "<think> red </think> <answer> 1"
DEAF = "<think> unheard </think> <answer> 1 </answer>"


def said(text):
    return [{"role": "assistant", "content": text}]


class Dictionary:
    """A listener with known scores: p by the trace's first word; remembers each call's groups."""

    name = "dictionary"
    p = {"red": 0.9, "blue": 0.2, "unheard": None, "broken": math.nan, "": 0.6}

    def __init__(self):
        self.calls = []

    def p_first(self, prompts_B, images_B, traces_BG):
        self.calls.append(list(zip(prompts_B, images_B, traces_BG, strict=True)))
        return [[self.p[(trace.split() or [""])[0]] for trace in group] for group in traces_BG]


def columns(*groups, prompts=("p", "q", "r"), votes=(1, 2, 1)):
    """TRL's call for groups of completions: one entry a completion, the completions as messages."""
    rows = [(b, text) for b, group in enumerate(groups) for text in group]
    return {
        "prompts": [[{"role": "user", "content": "ignored"}] for _ in rows],
        "completions": [said(text) for _, text in rows],
        "completion_ids": [[0] for _ in rows],
        "pair_text": [prompts[b] for b, _ in rows],
        "images": [f"images of {b}" for b, _ in rows],
        "vote": [votes[b] for b, _ in rows],
        "pair_id": [f"pair {b}" for b, _ in rows],
        "trainer_state": None,
        "log_extra": None,
    }


def as_trl_does(rewards_by_function, num_generations, weights=WEIGHTS):
    """`GRPOTrainer`'s arithmetic between rewards and advantages ("sum_then_normalize", scaled by group)."""
    per_function = torch.tensor([[math.nan if r is None else r for r in rs] for rs in rewards_by_function]).T
    rewards = (per_function * torch.tensor(weights)).nansum(dim=1).view(-1, num_generations)
    return (rewards - rewards.nanmean(1, keepdim=True)) / (nanstd(rewards, dim=1, keepdim=True) + 1e-4)


# ---- format and accuracy ----


def test_format_is_strict_and_takes_both_forms_of_completion():
    texts = [GOOD, OTHER, BROKEN, GOOD + " and more", ""]
    assert format_reward(texts) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert format_reward(prompts=None, completions=[said(t) for t in texts], vote=[1] * 5) == format_reward(texts)


def test_accuracy_is_against_the_vote():
    assert accuracy_reward([said(t) for t in (GOOD, OTHER, BROKEN)] * 2, vote=[1, 1, 1, 2, 2, 2]) == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("vote", [0, None, 3])
def test_a_tie_has_no_right_answer(vote):
    with pytest.raises(ValueError, match=f"pair 'b': vote is {vote}, not 1 or 2"):
        accuracy_reward([GOOD, GOOD], vote=[1, vote], pair_id=["a", "b"])
    given = {**columns([GOOD, GOOD]), "vote": [1, vote]}
    with pytest.raises(ValueError, match=f"pair 'pair 0': vote is {vote}"):
        ListenerReward(Dictionary())(**given)


@pytest.mark.parametrize("split", SPLITS)
def test_every_rows_gold_trace_earns_full_format_and_accuracy(split):
    pairs = tiny_pairs(split, 24)
    told = []
    for row in pairs:
        try:
            trace = traces.gold_trace(world.parse_prompt(row["prompt"]), scenes_of(row), row["vote"])
        except ValueError:
            continue  # the vocabulary has no word for this flaw, so there is no gold trace
        told.append((row, said(traces.write_completion(trace, row["vote"]))))
    assert len(told) == len(pairs) or split == "unseen_flaws"
    completions, vote = [c for _, c in told], [row["vote"] for row, _ in told]
    assert told and format_reward(completions) == accuracy_reward(completions, vote) == [1.0] * len(told)


# ---- the listener's reward ----


def test_listener_reward_is_p_on_the_side_of_the_vote():
    listener = Dictionary()
    rewards = ListenerReward(listener)(**columns([GOOD, OTHER, BROKEN], [OTHER, GOOD, OTHER]))
    assert rewards == pytest.approx([0.9, 0.2, 0.0, 0.8, 0.1, 0.8])
    (call,) = listener.calls  # one call, a group a pair, without what cannot be parsed
    assert call == [("p", "images of 0", ["red", "blue"]), ("q", "images of 1", ["blue", "red", "blue"])]


def test_listener_reward_is_what_trl_takes():
    reward = ListenerReward(Dictionary())
    assert get_callable_name(reward) == "listener_reward" and not is_async_callable(reward)
    assert [get_callable_name(f) for f in (format_reward, accuracy_reward)] == ["format_reward", "accuracy_reward"]


def test_the_answer_is_never_heard_and_the_verdict_only_if_asked():
    text = "<think> red . image 1 is better . </think> <answer> {} </answer>"
    for verdict, trace in ((True, "red . image 1 is better ."), (False, "red .")):
        listener = Dictionary()
        ListenerReward(listener, verdict)(**columns([text.format(1), text.format(2)]))
        assert listener.calls == [[("p", "images of 0", [trace, trace])]]


def test_unparsable_completions_score_nothing_and_are_counted():
    logged, listener = {}, Dictionary()
    reward = ListenerReward(listener)
    given = columns([BROKEN, BROKEN], [GOOD, BROKEN])
    assert reward(**given, log_metric=logged.__setitem__) == pytest.approx([0, 0, 0.1, 0])
    assert listener.calls == [[("q", "images of 1", ["red"])]]
    assert logged["listener/unparsable"] == 0.75 and logged["listener/unscored_groups"] == 0
    assert (reward.unparsable, reward.unscored_groups) == (3, 0)
    assert reward(**columns([BROKEN])) == [0]
    assert reward.unparsable == 4
    assert reward.seconds > logged["listener/seconds"] > 0


@pytest.mark.parametrize("failure", ["unheard", "broken"])
def test_one_failure_drops_the_listeners_part_of_its_group_and_no_other(failure, caplog):
    logged, reward = {}, ListenerReward(Dictionary())
    failed = DEAF.replace("unheard", failure)
    given = columns([GOOD, failed, BROKEN], [OTHER, GOOD], [failed])
    assert reward(**given, log_metric=logged.__setitem__) == [None, None, None, 0.8, pytest.approx(0.1), None]
    assert reward.unscored_groups == 2 and logged["listener/unscored_groups"] == pytest.approx(2 / 3)
    assert "pair 0, pair 2" in caplog.text and "pair 1" not in caplog.text


def test_one_failure_leaves_the_others_order_and_is_not_held_against_it():
    red_but_wrong = GOOD.replace("1", "2")
    group = [GOOD, DEAF, red_but_wrong, BROKEN]
    given = columns(group)
    parts = [f(**given) for f in (format_reward, accuracy_reward)]
    dropped = as_trl_does([*parts, ListenerReward(Dictionary())(**given)], 4)[0]
    without = as_trl_does(parts, 4, WEIGHTS[:2])[0]
    assert torch.allclose(dropped, without)  # nothing but the listener's part is gone
    assert dropped[0] == dropped[1] > dropped[2] > dropped[3]
    alone = as_trl_does([*parts, [0.9, None, 0.9, 0.0]], 4)[0]
    assert alone[1] < alone[0]  # what TRL makes of a None that stands alone: the trap


def test_a_listener_with_too_few_scores_is_refused():
    class Short(Dictionary):
        def p_first(self, *args):
            return [group[:-1] for group in super().p_first(*args)]

    with pytest.raises(ValueError, match="'dictionary' did not return one score for each trace"):
        ListenerReward(Short())(**columns([GOOD, OTHER]))


PROCESS = """
import sys
from torch import distributed
from lrt.rewards import ListenerReward

rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)

class Listener:
    name = "fails on one process"
    def p_first(self, prompts_B, images_B, traces_BG):
        return [[None if t == "unheard" else 0.75 for t in group] for group in traces_BG]

words = [["a", "unheard", "b"], ["c", "d", "e"]][rank]  # pair 1 stands on both processes
ids = [["0", "1", "1"], ["1", "2", "2"]][rank]
texts = [f"<think> {w} </think> <answer> 1 </answer>" for w in words]
print(ListenerReward(Listener())(
    completions=texts, pair_text=["p"] * 3, images=[()] * 3, vote=[1] * 3, pair_id=ids
))
distributed.destroy_process_group()
"""


def test_a_group_spread_over_processes_is_dropped_on_all_of_them(tmp_path):
    run = [sys.executable, "-c", PROCESS]
    started = [
        subprocess.Popen(
            [*run, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        printed = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [out.strip() for out, _ in printed] == ["[0.75, None, None]", "[None, 0.75, 0.75]"], printed


# ---- totals and advantages ----


def test_total_is_the_papers_sum():
    assert WEIGHTS == (1.0, 0.5, 0.5)
    assert total((1, 1, 0.8)) == pytest.approx(1.9)
    assert total((1, 0, None)) == 1.0
    with pytest.raises(ValueError):
        total((1, 0))


rewards_BG = st.integers(2, 6).flatmap(
    lambda g: st.lists(st.lists(st.floats(0, 2, width=16), min_size=g, max_size=g), min_size=1, max_size=4)
)


@settings(deadline=None)
@given(rewards_BG)
def test_advantages_are_those_of_trl(rewards):
    by_function = [[r for group in rewards for r in group]]
    expected = as_trl_does(by_function, len(rewards[0]), weights=(1.0,))
    np.testing.assert_allclose(advantages(rewards), expected.double().numpy(), atol=2e-3, rtol=1e-3)


@settings(deadline=None)
@given(rewards_BG, st.sampled_from([0, 1]))
def test_advantages_by_hand(rewards, ddof):
    batch = [r for group in rewards for r in group]
    batch_mean = sum(batch) / len(batch)
    batch_std = math.sqrt(sum((r - batch_mean) ** 2 for r in batch) / (len(batch) - ddof))
    for scale in ("group", "batch", "none"):
        found = advantages(rewards, scale, ddof)
        for b, group in enumerate(rewards):
            mean = sum(group) / len(group)
            std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - ddof))
            by = {"group": std + 1e-4, "batch": batch_std + 1e-4, "none": 1.0}[scale]
            np.testing.assert_allclose(found[b], [(r - mean) / by for r in group], atol=1e-9)


def test_advantages_of_nothing_to_compare():
    assert advantages([[0.75, 0.75, 0.75]]).tolist() == [[0, 0, 0]]
    for scale in ("group", "batch", "none"):
        assert advantages([[0.7]], scale).tolist() == [[0]]


def test_advantages_leave_out_what_is_not_there():
    ragged = advantages([[1.0, 2.0, 4.0], [1.0, np.nan, 2.0], [3.0, np.nan, np.nan], [np.nan] * 3])
    assert ragged[0] == pytest.approx(advantages([[1.0, 2.0, 4.0]])[0])
    assert ragged[1, [0, 2]] == pytest.approx(advantages([[1.0, 2.0]])[0])
    assert ragged[1, 1] == 0 and not ragged[2].any() and not ragged[3].any()
    batch = advantages([[1.0, 2.0], [4.0, np.nan]], "batch")
    assert batch[0] == pytest.approx(np.array([-0.5, 0.5]) / (np.std([1, 2, 4], ddof=1) + 1e-4))


def test_advantages_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="scale"):
        advantages([[1.0, 2.0]], scale="rows")
    with pytest.raises(ValueError, match=re.escape("not of shape (2,)")):
        advantages([1.0, 2.0])


# ---- the table ----


def rows_of(*votes):
    return [{"pair_id": f"{b}", "prompt": f"p{b}", "images": (b, b), "vote": v} for b, v in enumerate(votes)]


def test_reward_parts_are_what_training_gives():
    groups = [[GOOD, OTHER, BROKEN], [said(OTHER), said(GOOD)], [GOOD, DEAF]]
    table = reward_parts(rows_of(1, 2, 1), groups, Dictionary())
    assert [(row["pair_id"], row["completion"]) for row in table] == [
        (str(b), g) for b, group in enumerate(groups) for g in range(len(group))
    ]
    assert [row["answer"] for row in table] == [1, 2, None, 2, 1, 1, 1]
    assert [row["trace"] for row in table] == ["red", "blue", "red", "blue", "red", "red", "unheard"]
    assert [row["p_first"] for row in table] == [0.9, 0.2, None, 0.2, 0.9, 0.9, None]
    assert [row["format"] for row in table] == [1, 1, 0, 1, 1, 1, 1]
    assert [row["accuracy"] for row in table] == [1, 0, 0, 1, 0, 1, 1]
    assert [row["listener"] for row in table] == [0.9, 0.2, 0.0, 0.8, pytest.approx(0.1), None, None]
    assert [row["total"] for row in table] == pytest.approx([1.95, 1.1, 0, 1.9, 1.05, 1.5, 1.5])
    first = as_trl_does([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.9, 0.2, 0.0]], 3)[0].tolist()
    assert [row["advantage"] for row in table[:3]] == pytest.approx(first, abs=1e-4)
    assert sum(row["advantage"] for row in table[3:5]) == pytest.approx(0)
    assert [row["advantage"] for row in table[5:]] == [0, 0]


def test_reward_parts_without_a_listener():
    table = reward_parts(rows_of(1), [[GOOD, BROKEN]])
    assert [row["listener"] for row in table] == [None, None]
    assert [row["total"] for row in table] == [1.5, 0]
    assert reward_parts([], []) == []


def test_reward_parts_with_other_weights_and_scale():
    table = reward_parts(rows_of(1), [[GOOD, OTHER]], Dictionary(), weights=(0, 0, 1), scale="none")
    assert [row["total"] for row in table] == pytest.approx([0.9, 0.2])
    assert [row["advantage"] for row in table] == pytest.approx([0.35, -0.35])
