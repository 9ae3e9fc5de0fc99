"""Several listeners: how their rewards combine, and what becomes of the one that could not score a completion."""

import asyncio
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.async_rewards import AsyncListenerReward, listener_reward
from lrt.controls import Binary
from lrt.ensemble import COMBINE, MeanListener, combine, combined
from lrt.rewards import ListenerReward
from lrt.study import arms


class Says:
    """A listener that knows p by the trace; None for what it has no p for."""

    def __init__(self, name, **p):
        self.name, self.p = name, p

    def p_first(self, prompts_B, images_B, traces_BG):
        return [[self.p.get(trace) for trace in group] for group in traces_BG]


class SaysLater(Says):
    """The same, as a remote one."""

    async def p_first_async(self, *asked):
        await asyncio.sleep(0)
        return super().p_first(*asked)

    def p_first(self, *asked):
        raise AssertionError("an async listener is awaited, not called")


ONE = {"x": 0.9, "y": 0.2, "z": 0.6, "w": 0.5}
TWO = {"x": 0.7, "y": 0.4, "z": 0.1, "w": 1.0}


def columns(*traces, pairs="aabb", votes=(1, 1, 2, 2)):
    completions = [f"<think> {t} </think> <answer> 1 </answer>" if t else "no format" for t in traces]
    texts = {"pair_text": ["p"] * len(traces), "images": [()] * len(traces)}
    return {"completions": completions, "vote": votes, "pair_id": list(pairs), **texts}


def rewards(reward, *traces, **changes):
    return asyncio.run(reward(**columns(*traces), **changes))


# ---- combining ----

REWARDS = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@given(REWARDS)
def test_combined_by_hand(r):
    assert combine(r, "mean") == pytest.approx(sum(r) / len(r))
    assert combine(r, "minimum") == sorted(r)[0]
    halves = sum(2 if x > 0.5 else 1 if x == 0.5 else 0 for x in r)
    assert combine(r, "majority") == pytest.approx(halves / (2 * len(r)))


@given(REWARDS, st.sampled_from(COMBINE))
def test_one_is_itself_order_does_not_matter_and_the_result_is_a_reward(r, how):
    assert combine(r, how) == pytest.approx(combine(r[::-1], how)) and 0 <= combine(r, how) <= 1
    if how != "majority":
        assert combine(r[:1], how) == r[0]
    assert combine(r * 2, how) == pytest.approx(combine(r, how))


def test_the_minimum_is_on_the_side_of_the_vote():
    """For vote 2 the trace must convince the listener that is surest of image 1."""
    found = rewards(AsyncListenerReward([Says("1", **ONE), Says("2", **TWO)], "minimum"), "x", "y", "z", "w")
    assert found == pytest.approx([0.7, 0.2, 0.4, 0.0])


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_mean_and_majority_are_those_of_p(one, two):
    """Of these two p and rewards combine to the same numbers, so listeners that do can also serve as one."""
    ears = [Says("1", **dict(zip("xyzw", one, strict=True))), Says("2", **dict(zip("xyzw", two, strict=True)))]
    by_p = {"mean": MeanListener(ears), "majority": MeanListener([Binary(ear) for ear in ears])}
    for how, ear in by_p.items():
        found = rewards(AsyncListenerReward(ears, how), "x", "y", "z", "w")
        assert found == pytest.approx(ListenerReward(ear)(**columns("x", "y", "z", "w")))


@pytest.mark.parametrize("how", COMBINE)
def test_missing_rewards_are_left_out(how):
    assert combined([[0.9, None, None], [0.3, 0.3, None]], how) == [combine([0.9, 0.3], how), combine([0.3], how), None]


def test_other_ways_are_refused():
    with pytest.raises(ValueError, match="by mean, minimum, majority, not 'median'"):
        combine([0.5], "median")
    for make in (AsyncListenerReward, listener_reward):
        with pytest.raises(ValueError, match="not 'median'"):
            make([Says("1")], "median")
        with pytest.raises(ValueError, match="needs a listener"):
            make([])


def test_arms_takes_the_mean_from_here():
    assert arms.MeanListener is MeanListener


# ---- one that cannot score ----


def test_a_listener_that_misses_one_completion_is_left_out_for_its_group(caplog):
    deaf = {k: v for k, v in TWO.items() if k != "y"}
    logged = {}
    reward = AsyncListenerReward([Says("one", **ONE), SaysLater("two", **deaf)], "mean")
    with caplog.at_level(logging.WARNING, "lrt"):
        found = rewards(reward, "x", "y", "z", "w", log_metric=logged.__setitem__)
    assert found == pytest.approx([0.9, 0.2, (0.4 + 0.9) / 2, (0.5 + 0.0) / 2])  # the first group by "one" alone
    assert logged["listener/left_out"] == 1 / 4 and logged["listener/unscored_groups"] == 0
    assert reward.unscored_groups == 0 and "listener two is left out for a" in caplog.text


@pytest.mark.parametrize("how", COMBINE)
def test_with_none_left_the_group_has_none(how):
    """Each completion of the first group has some listener, but the group has none for all."""
    reward = AsyncListenerReward([Says("one", x=0.9, z=0.6, w=0.5), Says("two", y=0.4, z=0.1, w=1.0)], how)
    found = rewards(reward, "x", "y", "z", "w")
    assert found[:2] == [None, None] and None not in found[2:] and reward.unscored_groups == 1


def test_what_cannot_be_parsed_scores_nothing_with_several_listeners_too():
    found = rewards(AsyncListenerReward([Says("one", **ONE), Says("two", **TWO)], "mean"), "x", "", "", "")
    assert found == pytest.approx([0.8, 0, 0, 0])


# ---- one after another, and side by side ----


def test_one_local_listener_needs_no_event_loop():
    reward = listener_reward([Says("one", **ONE)])
    assert type(reward) is ListenerReward and reward(**columns("x", "y", "z", "w"))[0] == 0.9
    assert isinstance(listener_reward([SaysLater("one", **ONE)]), AsyncListenerReward)
    assert isinstance(listener_reward([Says("one", **ONE)], "majority"), AsyncListenerReward)


def test_local_listeners_run_one_after_another_while_the_others_answer():
    """Two local listeners may be one model; a remote one does not wait for them."""
    inside, order = threading.Semaphore(1), []

    class Careful(Says):
        def p_first(self, *asked):
            assert inside.acquire(blocking=False)
            order.append(self.name)
            answered.wait(30)  # until the remote one has: it was asked at the same time
            inside.release()
            return super().p_first(*asked)

    class Quick(SaysLater):
        async def p_first_async(self, *asked):
            answered.set()
            return Says.p_first(self, *asked)

    answered = threading.Event()
    ears = [Careful("one", **ONE), Quick("remote", **TWO), Careful("two", **ONE)]
    found = rewards(AsyncListenerReward(ears), "x", "y", "z", "w")
    assert order == ["one", "two"] and answered.is_set()
    assert found[0] == pytest.approx((0.9 + 0.7 + 0.9) / 3)


def test_rewards_that_fail_do_not_hold_up_the_others():
    class Broken(SaysLater):
        async def p_first_async(self, *asked):
            raise KeyError("broken")

    async def both():
        calls = [AsyncListenerReward([ear])(**columns("x", "y", "z", "w")) for ear in (Broken("b"), Says("1", **ONE))]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)

    failed, found = asyncio.run(both())
    assert isinstance(failed, KeyError) and found == pytest.approx([0.9, 0.2, 0.4, 0.5])


def test_a_wrong_number_of_scores_is_refused():
    class Short(SaysLater):
        async def p_first_async(self, *asked):
            return [group[1:] for group in await super().p_first_async(*asked)]

    with pytest.raises(ValueError, match="listener 'short' did not return one score for each trace"):
        rewards(AsyncListenerReward([Says("one", **ONE), Short("short", **ONE)]), "x", "y", "z", "w")
