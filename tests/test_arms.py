"""Every reward of the study against a naive form of itself, with listeners whose p is known."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import models
from lrt.pairs import scenes_of, tiny_pairs
from lrt.prompts import verdict_of
from lrt.rewards import accuracy_reward, format_reward
from lrt.study import arms
from lrt.study.arms import MeanListener, TruthReward, added_reward, listener_of, reward_functions, verdict_reward
from lrt.study.grid import Cell, read_grid
from lrt.traces import check_trace, corrupt, gold_trace, read_trace, write_completion
from lrt.world import parse_prompt, rng

PAIRS = tiny_pairs("train", 12)
ROWS = list(PAIRS)
IDS, PROMPTS = PAIRS["pair_id"][:], PAIRS["prompt"][:]
BROKEN = "<think> 0.9 </think> <answer> 1"
WITH_LISTENER = ("listener", "permuted", "wrong_pair", "binary", "log_p", "agreement", "opinion")
ALL = (*WITH_LISTENER, "rule", "random", "truth")  # self_reading needs a model: see the last test


class Says:
    """A listener that is told what to believe: the trace is its p, "deaf" is None, an empty trace is 0.3."""

    name = "says"

    def __init__(self):
        self.heard = []

    def p_first(self, prompts_B, images_B, traces_BG):
        self.heard += [trace for group in traces_BG for trace in group]
        return [[None if t == "deaf" else float(t or 0.3) for t in group] for group in traces_BG]


class Oracle:
    """A listener that is sure of the winner that a trace names."""

    name = "oracle"

    def p_first(self, prompts_B, images_B, traces_BG):
        return [[2.0 - verdict_of(trace) for trace in group] for group in traces_BG]


def cell(reward: str, **changes) -> Cell:
    return Cell("tried", 3, ("nobody",), reward, ("says",), **changes)


@pytest.fixture
def reward_of(monkeypatch):
    """The added reward of a name, its listener being `Says` (or another)."""

    def made(name, ear=None):
        monkeypatch.setattr(arms, "listener_of", lambda of: ear or Says())
        return added_reward(cell(name), None, PAIRS)

    return made


def completion(trace, answer=1):
    return f"<think> {trace} </think> <answer> {answer} </answer>"


def columns(*groups, votes=(1, 2, 1, 2)):
    """TRL's call: a group of completions for each of the first training pairs, with the votes given here."""
    rows = [(b, text) for b, group in enumerate(groups) for text in group]
    return {
        "prompts": None,
        "completions": [[{"role": "assistant", "content": text}] for _, text in rows],
        "pair_text": [PROMPTS[6 * (b % 2)] for b, _ in rows],  # two prompts in turn
        "images": [f"images of {b}" for b, _ in rows],
        "vote": [votes[b] for b, _ in rows],
        "pair_id": [IDS[b] for b, _ in rows],
        "trainer_state": None,
    }


def side(p, chosen):
    return p if chosen == 1 else 1 - p


thousandths = st.integers(0, 1000).map(lambda n: n / 1000)
group_of_p = st.lists(st.tuples(thousandths, st.integers(1, 2)), min_size=1, max_size=6)
groups_of_p = st.lists(group_of_p, min_size=1, max_size=4)


def said(groups):
    return [[completion(p, answer) for p, answer in group] for group in groups]


# --- rewards that hear


NAIVE = {  # r of (p, answer, vote)
    "listener": lambda p, answer, vote: side(p, vote),
    "binary": lambda p, answer, vote: 0.5 if p == 0.5 else float((p > 0.5) == (vote == 1)),
    "log_p": lambda p, answer, vote: max(0.0, 1 + math.log10(side(p, vote)) / 2) if side(p, vote) > 0 else 0.0,
    "agreement": lambda p, answer, vote: side(p, answer),
    "opinion": lambda p, answer, vote: side(0.3, answer),
}


@pytest.mark.parametrize("name", NAIVE)
def test_a_listeners_rewards_against_a_naive_form(reward_of, name):
    function = reward_of(name)

    @settings(max_examples=40, deadline=None)
    @given(groups_of_p)
    def holds(groups):
        votes = (1, 2, 1, 2)
        expected = [NAIVE[name](p, answer, vote)
                    for vote, group in zip(votes, groups, strict=False) for p, answer in group]
        found = function(**columns(*said(groups), votes=votes))
        assert found == pytest.approx(expected, abs=1e-9) and all(0 <= r <= 1 for r in found)

    holds()


def test_log_p_at_known_points(reward_of):
    found = reward_of("log_p")(**columns([completion(p) for p in (1, 0.1, 0.01, 0.001, 0)]))
    assert found == pytest.approx([1, 0.5, 0, 0, 0], abs=1e-12)


def test_agreement_and_opinion_do_not_know_the_vote(reward_of):
    group = [completion(0.8, 1), completion(0.8, 2)]
    for name, expected in (("agreement", [0.8, 0.2]), ("opinion", [0.3, 0.7])):
        for votes in ((1,), (2,)):
            assert reward_of(name)(**columns(group, votes=votes)) == pytest.approx(expected)


def test_opinion_hears_nothing_and_the_others_no_answer(reward_of):
    for name in WITH_LISTENER:
        ear = Says()
        reward_of(name, ear)(**columns([completion(0.25, 1), completion(0.75, 2)], [completion(0.5)]))
        assert set(ear.heard) == ({""} if name == "opinion" else {"0.25", "0.75", "0.5"}), name


@settings(max_examples=40, deadline=None)
@given(groups_of_p)
def test_permuted_keeps_each_groups_mean_and_spread(groups):
    given_columns = columns(*said(groups))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "listener_of", lambda of: Says())
        plain, dealt, again, other = (
            added_reward(replace(cell(name), seed=seed), None, PAIRS)(**given_columns)
            for name, seed in (("listener", 3), ("permuted", 3), ("permuted", 3), ("permuted", 4))
        )
    assert dealt == again
    at = 0
    for group in groups:
        rows = slice(at, at := at + len(group))
        assert sorted(dealt[rows]) == sorted(other[rows]) == sorted(plain[rows])


def test_permuted_says_nothing_about_the_single_trace(reward_of):
    ps = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]
    correlations = []
    for i in range(20):
        groups = [[completion(f"{p + (12 * i + b) / 1e4:.4f}") for p in ps] for b in range(12)]
        dealt = reward_of("permuted")(**columns(*groups, votes=(1,) * 12))
        correlations += [np.corrcoef(ps, group)[0, 1] for group in np.reshape(dealt, (12, 8))]
    assert abs(np.mean(correlations)) < 0.1  # four standard errors
    assert np.min(correlations) < -0.5 and np.max(correlations) > 0.5


def test_wrong_pair_hears_the_trace_beside_another_prompt(reward_of):
    class Remembers(Says):
        def p_first(self, prompts_B, images_B, traces_BG):
            self.calls = list(zip(prompts_B, images_B, traces_BG, strict=True))
            return super().p_first(prompts_B, images_B, traces_BG)

    ear, one, other = Remembers(), PROMPTS[0], PROMPTS[6]
    found = reward_of("wrong_pair", ear)(**columns([completion(0.25)], [completion(0.75)], votes=(1, 1)))
    assert found == [0.25, 0.75] and one != other
    assert ear.calls == [(other, "images of 1", ["0.25"]), (one, "images of 0", ["0.75"])]
    assert reward_of("wrong_pair", ear)(**columns([completion(0.25)])) == [None]  # there is no other pair


def test_random_is_a_function_of_seed_prompt_and_trace(reward_of):
    group = [completion(0.1), completion(0.1, 2), completion(0.2)]
    first, second = reward_of("random"), reward_of("random")
    r = first(**columns(group, votes=(1,)))
    assert r == second(**columns(group, votes=(1,))) and r[0] == r[1] != r[2]
    assert first(**columns(group, votes=(2,))) == pytest.approx([1 - x for x in r])
    assert added_reward(replace(cell("random"), seed=4), None, PAIRS)(**columns(group, votes=(1,))) != r


@pytest.mark.parametrize("name", WITH_LISTENER)
def test_a_trace_that_was_not_scored_drops_its_whole_group_and_no_other(reward_of, name):
    ear = Says()
    if name == "opinion":  # hears empty traces alone
        ear.p_first = lambda prompts_B, images_B, traces_BG: [[None]] + [[0.3] for _ in traces_BG[1:]]
    deaf = [completion(0.25), completion("deaf"), BROKEN]
    found = reward_of(name, ear)(**columns(deaf, [completion(0.75), completion(0.5)]))
    assert found[:3] == [None] * 3 and None not in found[3:]


# --- what cannot be read, and what is perfect


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("broken", [BROKEN, "", "image 1 is better .", "<answer> 1 </answer>", completion(0.9, 3)])
def test_what_cannot_be_parsed_scores_nothing(reward_of, name, broken):
    ear = Says()
    found = reward_of(name, ear)(**columns([broken, completion(0.9)], [completion(0.4)], [broken]))
    assert None not in found and (found[0], found[3]) == pytest.approx((0, 0), abs=1e-12)
    assert set(ear.heard) <= {"0.9", "0.4", ""}


def gold(row, verdict=None, answer=None):
    trace = gold_trace(parse_prompt(row["prompt"]), scenes_of(row), verdict or row["vote"])
    return write_completion(trace, answer or row["vote"])


@pytest.mark.parametrize("name", ["listener", "binary", "log_p", "agreement", "rule", "truth"])
def test_a_gold_completion_scores_one(reward_of, name):
    rows = PAIRS.select(range(4))
    given_columns = columns(*[[gold(row)] for row in rows], votes=rows["vote"])
    assert reward_of(name, Oracle())(**given_columns) == [1.0] * 4
    assert format_reward(**given_columns) == accuracy_reward(**given_columns) == [1.0] * 4


@pytest.mark.parametrize("name", ["listener", "binary", "log_p", "rule"])
def test_the_wrong_verdict_scores_nothing_whatever_the_answer(reward_of, name):
    rows = PAIRS.select(range(4))
    given_columns = columns(*[[gold(row, verdict=3 - row["vote"])] for row in rows], votes=rows["vote"])
    assert reward_of(name, Oracle())(**given_columns) == pytest.approx([0.0] * 4, abs=1e-12)


# --- rule


def test_rule_compares_the_traces_own_verdict_with_the_vote():
    one, two = "image 1 is better .", "image 2 is better ."
    traces = (one, 2), (two, 1), (f"{one} {two}", 1), ("image 1 : clear .", 1)
    texts = [*(completion(*said) for said in traces), BROKEN]
    assert verdict_reward(texts, vote=[1] * 5) == [1, 0, 0, 0, 0]
    assert verdict_reward(texts, vote=[2] * 5) == [0, 1, 1, 0, 0]  # the last verdict counts
    assert verdict_reward(**columns(texts, votes=(2,))) == [0, 1, 1, 0, 0]


# --- truth


def test_truth_by_hand():
    row = next(row for row in ROWS if len(scenes_of(row)[0].things) == 2)
    reward, words = TruthReward(PAIRS), gold(row).split()
    n = len(check_trace(" ".join(words[1:-4]), parse_prompt(row["prompt"]), scenes_of(row)))
    wrong = ["<think>", *words[1:]]
    wrong[4] = "green" if words[4] != "green" else "red"  # the colour of the first thing
    assert words[1:4] == ["image", "1", ":"] and n > 5
    texts = [" ".join(words), " ".join(wrong), completion(""), completion("image 1 is better ."), BROKEN]
    assert reward(texts, pair_id=[row["pair_id"]] * 5) == pytest.approx([1, 1 - 1 / n, 0, 0, 0])


TRUTH = TruthReward(PAIRS)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 11), st.sampled_from([0.1, 0.3, 1.0]), st.integers(0, 999))
def test_truth_is_the_share_of_true_statements(i, rate, seed):
    row = ROWS[i]
    asked, scenes = parse_prompt(row["prompt"]), scenes_of(row)
    trace = corrupt(gold_trace(asked, scenes, 1), rate, rng("test arms", seed))
    made = [s.true for s in check_trace(str(trace), asked, scenes)]
    found = TRUTH([write_completion(trace, 2)], pair_id=[row["pair_id"]])
    assert found == [pytest.approx(made.count(True) / len(made))] and read_trace(str(trace))[1] == 0


def test_truth_leaves_out_what_there_is_no_word_for():
    unseen = tiny_pairs("unseen_flaws", 24)
    row = next(row for row in unseen if scenes_of(row)[0].quality == "striped" and scenes_of(row)[0].things)
    thing = scenes_of(row)[0].things[0]
    mark = "good" if thing in parse_prompt(row["prompt"]) else "bad"
    text = completion(f"image 1 : {thing} {mark} , missing , {{}} .")
    reward = TruthReward(unseen)
    missing = float(len(scenes_of(row)[0].things) == 1)
    blurred, clear = reward([text.format(q) for q in ("blurred", "clear")], pair_id=[row["pair_id"]] * 2)
    assert blurred == pytest.approx((4 + missing) / 5) and clear == pytest.approx((4 + missing) / 6)


def test_truth_knows_the_training_pairs_alone():
    with pytest.raises(ValueError, match="pair 'elsewhere' is not among the training pairs"):
        TruthReward(PAIRS)([completion("image 1 is better .")], pair_id=["elsewhere"])


# --- several listeners


def test_the_mean_of_listeners_and_none_where_one_fails():
    class Other(Says):
        name = "other"

        def p_first(self, *asked):
            return [[None if p == 0.5 else 1 - p for p in group] for group in super().p_first(*asked)]

    mean = MeanListener([Says(), Other(), Says()])
    assert mean.name == "mean of says, other, says"
    found = mean.p_first(["p", "q", "r"], [()] * 3, [["0.25", "0.5"], [], ["0.75"]])
    assert found == [[pytest.approx((0.25 + 0.75 + 0.25) / 3), None], [], [pytest.approx((0.75 + 0.25 + 0.75) / 3)]]


def test_one_listener_is_itself_and_base_is_the_runs_own(monkeypatch):
    asked = []
    monkeypatch.setattr(arms, "load", lambda name: asked.append(name) or name)
    monkeypatch.setattr(arms, "LocalListener", lambda loaded, verdict: (loaded, verdict))
    monkeypatch.setattr(arms, "MeanListener", list)
    own = Cell("tried", 4, ("base-a", "base-b", "base-c"), "listener", ("base",))
    assert listener_of(own) == ("base-b", True)
    two = replace(own, listeners=("base", "llava"), verdict=False)
    assert listener_of(two) == [("base-b", False), ("llava", False)]
    assert asked == ["base-b", "base-b", "llava"]


# --- what does not fit


def test_unknown_names_are_named(reward_of):
    with pytest.raises(ValueError, match="tried: no reward 'listner'"):
        reward_of("listner")
    with pytest.raises(ValueError, match="no model 'nobody-at-all'"):
        listener_of(replace(cell("listener"), listeners=("nobody-at-all",)))
    with pytest.raises(ValueError, match="tried: reward 'agreement' needs a listener"):
        listener_of(replace(cell("agreement"), listeners=()))


def test_a_weight_for_every_part():
    functions, weights = reward_functions(cell("rule", weights=(1.0, 0.5, 0.25)), None, PAIRS)
    assert [f.__name__ for f in functions] == ["format_reward", "accuracy_reward", "verdict_reward"]
    assert weights == [1.0, 0.5, 0.25]
    functions, weights = reward_functions(cell("none"), None, PAIRS)
    assert functions == [format_reward, accuracy_reward] and weights == [1.0, 0.5]
    with pytest.raises(ValueError, match="tried: 2 weights for 3 parts of the reward"):
        reward_functions(cell("rule", weights=(1.0, 0.5)), None, PAIRS)


# --- the study's own methods


def test_every_method_of_the_study_builds_its_rewards_and_they_score(monkeypatch):
    monkeypatch.setattr(arms, "load", cache(models.load))
    rows = PAIRS.select([0, 6])
    given_columns = {
        "completions": [text for row in rows for text in (gold(row), gold(row, answer=3 - row["vote"]), BROKEN)],
        **{name: [row[key] for row in rows for _ in range(3)]
           for name, key in (("pair_text", "prompt"), ("images", "images"), ("vote", "vote"), ("pair_id", "pair_id"))},
    }
    grid, policy = read_grid(), models.load("reasoner")
    for method in grid.changes:
        of = replace(grid.cell(method, 0), bases=("reasoner",))
        functions, weights = reward_functions(of, policy, PAIRS)
        assert len(functions) == len(weights) == (2 if of.reward == "none" else 3), method
        assert len({f.__name__ for f in functions}) == len(functions), method
        scored = np.array([function(**given_columns) for function in functions])
        assert scored.shape == (len(functions), 6) and (0 <= scored).all() and (scored <= 1).all(), method
        assert scored[0].tolist() == [1, 1, 0, 1, 1, 0] and scored[1].tolist() == [1, 0, 0, 1, 0, 0], method
        assert (scored[2:, [2, 5]] < 1e-12).all(), method
        paid = len(functions) > 2 and of.reward != "dead"  # these groups live
        assert (scored[2:, [0, 1, 3, 4]] > 0).any() == paid, method


# --- in some groups only


@pytest.mark.parametrize("name", ["living", "dead"])
def test_a_listener_is_paid_for_in_living_or_in_dead_groups_alone(reward_of, name):
    alike = [completion("0.9", 1), completion("0.2", 1)]  # the same answer: plain GRPO learns nothing
    apart = [completion("0.9", 1), completion("0.2", 2)]
    form = [completion("0.9", 1), BROKEN, completion("0.2", 1)]  # the answer aside, one has no format
    whole = reward_of("listener")(**columns(alike, apart, form))
    assert whole == [0.9, 0.2, 1 - 0.9, 1 - 0.2, 0.9, 0.0, 0.2]
    lives = [False] * 2 + [True] * 2 + [True] * 3
    wanted = [p if alive == (name == "living") else 0.0 for p, alive in zip(whole, lives, strict=True)]
    assert reward_of(name)(**columns(alike, apart, form)) == wanted


@given(groups_of_p)
@settings(max_examples=30)
def test_living_and_dead_groups_together_are_the_listeners_reward(groups):
    whole = arms.ListenerReward(Says())(**columns(*said(groups)))
    parts = [arms.SomeGroups(Says(), (1.0, 0.5, 0.5), living)(**columns(*said(groups))) for living in (True, False)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
