"""Judgements by dummy reasoners whose answers are known, and the metrics that must follow from them."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lrt.evaluate as ev
from lrt import metrics
from lrt.models import Loaded
from lrt.pairs import scenes_of, swap_order, tiny_pairs
from lrt.prompts import TINY_WORDING
from lrt.stats import Interval, Record
from lrt.traces import gold_trace, write_completion
from lrt.world import parse_prompt


class Dummy(torch.nn.Module):
    """A reasoner that is a function of (prompt, two images, seed)."""

    def __init__(self, write):
        super().__init__()
        self.write = write


def dummy(write) -> Loaded:
    return Loaded("dummy", Dummy(write), None, TINY_WORDING)


@pytest.fixture(autouse=True)
def no_real_model(monkeypatch):
    def generate(loaded, prompts, images, max_new_tokens, temperature=0.0, seed=0, batch=64):
        assert not loaded.model.training
        return [loaded.model.write(p, i, seed) for p, i in zip(prompts, images, strict=True)]

    monkeypatch.setattr(ev, "generate", generate)


def say(answer) -> str:
    return write_completion("", answer)


def always_first(prompt, images, seed):
    return say(1)


def redness(image) -> float:
    """Of the background: the corner pixels, which no object reaches. Positive for warm, negative for cool."""
    pixels = np.asarray(image, dtype=float)[[0, 0, -1, -1], [0, -1, 0, -1]]
    return float(pixels[:, 0].mean() - pixels[:, 2].mean())


def by_tint(prompt, images, seed):
    return say(1 if redness(images[0]) > redness(images[1]) else 2)


@pytest.fixture(scope="module")
def pairs():
    return tiny_pairs("tint_uninformative", 60)


@pytest.fixture(scope="module")
def table(pairs):
    """Judgements without answers yet."""
    return ev.judgements(pairs, [""] * len(pairs))


def answered(table: pd.DataFrame, answers) -> pd.DataFrame:
    answers = [None if a is None or a != a else int(a) for a in answers]
    return table.assign(answer=pd.array(answers, dtype="Int64"), parsable=[a is not None for a in answers])


def content(table: pd.DataFrame, ties=1) -> pd.DataFrame:
    better = metrics.labels(table, "utility")
    return answered(table, np.where(np.isnan(better), ties, better))


# --- judging -----------------------------------------------------------------------------------------------


def test_a_judgement_has_everything_about_its_pair(pairs):
    three = pairs.select(range(3))
    said = ["<think> image 1 is better . </think> <answer> 2 </answer>", "no tags", say(1)]
    frame = ev.judgements(three, said)
    assert frame["answer"].isna().tolist() == [False, True, False]
    assert frame["answer"].dropna().tolist() == [2, 1]
    assert frame["parsable"].tolist() == [True, False, True]
    assert frame["trace"].tolist()[::2] == ["image 1 is better .", ""]
    assert frame["completion"].tolist() == said
    for column in ("pair_id", "prompt_id", "vote", "share", "utility_1", "tint_2", "scene_1", "split"):
        assert frame[column].tolist() == three[column]
    assert "images" not in frame
    with pytest.raises(ValueError, match="3 pairs, but 1 completions"):
        ev.judgements(three, said[:1])


def test_batches_cover_all_pairs_and_report_progress(pairs):
    ticks, ten = [], pairs.select(range(10))
    frame = ev.judge(dummy(by_tint), ten, batch=4, progress=lambda *tick: ticks.append(tick))
    assert ticks == [(4, 10), (8, 10), (10, 10)]
    assert frame["answer"].tolist() == metrics.warm_side(frame).tolist()


def test_a_policy_in_training_is_put_into_eval_mode_and_back(pairs):
    policy = dummy(always_first)
    policy.model.train()
    ev.judge(policy, pairs.select([0]))  # the fixture's generate asserts eval mode
    assert policy.model.training


def test_samples_have_different_seeds_that_a_second_call_repeats(pairs):
    policy = dummy(lambda prompt, images, seed: f"seed {seed}")
    two = pairs.select(range(6))

    def seeds(seed):
        frames = ev.judge_samples(policy, two, n=3, seed=seed, batch=2)
        return [c for f in frames for c in f["completion"].unique()]

    assert len(set(seeds(0))) == 9  # three samples of three batches
    assert seeds(0) == seeds(0)
    assert not set(seeds(0)) & set(seeds(1))


def test_always_first_is_found_out_by_both_orders(pairs):
    forward, reverse = ev.judge_both_orders(dummy(always_first), pairs)
    assert set(forward["answer"]) == {1} and set(reverse["answer"]) == {2}  # same place, so other image
    assert set(reverse["order"]) == {"reverse"}
    both = metrics.both_orders(forward, reverse, "utility")
    assert both["accuracy_forward"].value + both["accuracy_reverse"].value == pytest.approx(1)
    assert both["accuracy_consistent"].value == 0 and both["same_answer"].value == 0
    assert both["first_share"].value == 1


def test_a_judge_of_the_images_is_the_same_in_both_orders(pairs):
    both = metrics.both_orders(*ev.judge_both_orders(dummy(by_tint), pairs))
    assert both["same_answer"].value == 1
    assert both["accuracy_forward"] == both["accuracy_reverse"] == both["accuracy_consistent"]
    assert both["first_share"].value == 0.5


def test_a_predicted_tie_chooses_neither_place(table):
    rows = answered(table.iloc[:4], [1, 2, 0, 0])
    turned = rows.assign(answer=pd.array([2, 1, 0, None], dtype="Int64"))  # "1", "2", a tie, and nothing to be read
    assert metrics.both_orders(rows, turned)["first_share"][0::3] == (0.5, 4)


def test_reverse_keeps_the_labels_of_the_pair(pairs):
    forward, reverse = ev.judge_both_orders(dummy(by_tint), pairs)
    unchanged = ["pair_id", "vote", "share", "utility_1", "tint_1", "scene_2"]
    pd.testing.assert_frame_equal(forward[unchanged], reverse[unchanged])
    shown = ev.judgements(swap_order(pairs), reverse["completion"].tolist())
    assert np.array_equal(metrics.correct(shown, "vote"), metrics.correct(reverse, "vote"))


# --- right and wrong ---------------------------------------------------------------------------------------


def test_correct_by_hand(table):
    rows = answered(table.iloc[:5], [1, 2, None, 1, None]).assign(
        share=[1.0, 0.75, 0.25, 0.5, 0.5], vote=[2, 2, 2, 0, 1], utility_1=[0, 0, 0, -1, 0],
        utility_2=[-1, 0, -1, 0, np.nan])  # fmt: skip
    nan = np.nan
    assert np.array_equal(metrics.correct(rows, "majority"), [1, 0, 0, nan, nan], equal_nan=True)
    assert np.array_equal(metrics.correct(rows, "majority", "half"), [1, 0, 0, 0.5, 0], equal_nan=True)
    assert np.array_equal(metrics.correct(rows, "vote"), [0, 1, 0, nan, 0], equal_nan=True)
    assert np.array_equal(metrics.correct(rows, "utility"), [1, nan, 0, 0, nan], equal_nan=True)
    assert np.array_equal(metrics.correct(rows, "utility", "half"), [1, 0.5, 0, 0, nan], equal_nan=True)
    assert metrics.accuracy(rows)[0] == pytest.approx(1 / 3) and metrics.accuracy(rows).n == 3
    with pytest.raises(ValueError, match="against is one of"):
        metrics.correct(rows, "label")
    with pytest.raises(ValueError, match="'out' or 'half'"):
        metrics.correct(rows, "vote", "in")


def test_agreement_thresholds_keep_ties_out_and_survive_float32(table):
    share = np.array([0.5, 0.7, 0.3, 1.0], dtype="float32")
    rows = answered(table.iloc[:4].assign(share=share), [1, 1, 1, 1])
    by_t = dict(metrics.by_agreement(rows, (0.5, 0.7, 0.9)))
    assert [(by_t[t].value, by_t[t].n) for t in (0.5, 0.7, 0.9)] == [(2 / 3, 3), (2 / 3, 3), (1, 1)]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_more_right_answers_never_lower_any_accuracy(table, data):
    """And an unparsable completion is worth no more than any answer."""
    rows = table.iloc[:12]
    answers = data.draw(st.lists(st.sampled_from([1, 2, None]), min_size=12, max_size=12))
    against = data.draw(st.sampled_from(metrics.AGAINST))
    ties = data.draw(st.sampled_from(["out", "half"]))
    label = metrics.labels(rows, against)
    better = [a if np.isnan(y) else y for a, y in zip(answers, label, strict=True)]
    right, best = (metrics.correct(answered(rows, a), against, ties) for a in (answers, better))
    nothing = metrics.correct(answered(rows, [None] * 12), against, ties)
    assert np.array_equal(np.isnan(right), np.isnan(best))
    assert (np.nan_to_num(nothing) <= np.nan_to_num(right)).all()
    assert (np.nan_to_num(right) <= np.nan_to_num(best)).all()


# --- the tint ----------------------------------------------------------------------------------------------


def test_the_tint_only_judge_flips_always_and_the_content_judge_never(pairs, table):
    tint_judge = dummy(by_tint)
    frame, swapped = ev.judge(tint_judge, pairs), ev.judge_swapped_tints(tint_judge, pairs)
    assert metrics.rate(frame, metrics.flips(frame, swapped))[:1] == (1.0,)
    agree, conflict = metrics.agree_conflict(frame)
    assert (agree.value, conflict.value) == (1, 0) and agree.n > 10 and conflict.n > 10
    judge = content(table)
    assert metrics.rate(judge, metrics.flips(judge, content(judge)))[:1] == (0.0,)
    assert [i.value for i in metrics.agree_conflict(judge)] == [1, 1]


def test_flips_leave_out_and_count_what_cannot_be_compared(table):
    rows = table.iloc[:5].assign(
        tint_1=["warm", "cool", "warm", "none", "warm"], tint_2=["cool", "warm", "cool", "none", "cool"]
    )
    before, after = answered(rows, [1, 1, None, 1, 2]), answered(rows, [2, 1, 2, None, None])
    nan = np.nan
    assert np.array_equal(metrics.flips(before, after), [1, 0, nan, nan, nan], equal_nan=True)
    assert np.array_equal(metrics.flip_unparsable(before, after), [0, 0, 1, nan, 1], equal_nan=True)
    assert np.array_equal(metrics.flips(before, after.iloc[::-1]), [1, 0, nan, nan, nan], equal_nan=True)


def test_agree_and_conflict_make_up_every_accuracy():
    """The identity is exact with the split's own share of agreeing pairs; with the dial it holds on average."""
    r = np.random.default_rng(0)
    kept = {}
    for split in ("in_distribution", "tint_uninformative", "tint_reversed"):
        frame = ev.judgements(tiny_pairs(split, 90), [""] * 90)
        better, warm = metrics.labels(frame, "utility"), metrics.warm_side(frame)
        # right with probability 0.9 where the tint agrees, 0.4 where it conflicts
        right = r.random(len(frame)) < np.where(better == warm, 0.9, 0.4)
        frame = answered(frame, np.where(right, better, 3 - better))
        a, c = metrics.agree_conflict(frame)
        accuracy = metrics.accuracy(frame, "utility")
        assert a.n + c.n == accuracy.n
        assert (a.n * a.value + c.n * c.value) / accuracy.n == pytest.approx(accuracy.value)
        kept[split] = accuracy
    implied = metrics.mixture(0.9, 0.4)
    expected = {"in_distribution": 0.85, "tint_uninformative": 0.65, "tint_reversed": 0.45}
    assert implied == pytest.approx(expected)
    for split, accuracy in kept.items():
        spread = np.sqrt(0.25 / accuracy.n)
        assert abs(accuracy.value - implied[split]) < 4 * spread


# --- samples, comparisons, references ----------------------------------------------------------------------


def test_majority_takes_ties_from_the_first_sample_and_keeps_trace_and_answer_together(table):
    rows = table.iloc[:4]
    samples = [[1, None, 2, None], [2, 2, 1, None], [2, 1, 1, None], [1, None, 1, None]]
    frames = [answered(rows, s).assign(trace=[f"sample {i}"] * 4) for i, s in enumerate(samples)]
    whole = metrics.majority([frames[0], *(f.iloc[::-1] for f in frames[1:])])  # in any order
    assert whole["answer"].isna().tolist() == [False, False, False, True]
    assert whole["answer"].dropna().tolist() == [1, 2, 1]
    assert whole["trace"].tolist() == ["sample 0", "sample 1", "sample 1", "sample 0"]
    assert whole["parsable"].tolist() == [True, True, True, False]
    assert whole["pair_id"].tolist() == rows["pair_id"].tolist()
    with pytest.raises(ValueError, match="at least one"):
        metrics.majority([])


def test_compare_counts_the_pairs_that_one_alone_has_right(table):
    rows = table.assign(share=1.0).iloc[:10]
    a, b = answered(rows, [1] * 8 + [2, 2]), answered(rows, [1] * 2 + [2] * 6 + [1, None])
    found = metrics.compare(a, b.iloc[::-1])
    assert (found.only_a, found.only_b) == (6, 1)
    assert found.difference.value == pytest.approx(0.5)
    assert found.p == pytest.approx(2 * (1 + 7) / 2**7)
    mirrored = metrics.compare(b, a)
    assert (mirrored.only_a, mirrored.only_b, mirrored.p) == (1, 6, found.p)
    with pytest.raises(ValueError, match="different pairs: 1"):
        metrics.compare(a, b.iloc[1:])
    with pytest.raises(ValueError, match="more than once"):
        metrics.compare(a, pd.concat([b, b.iloc[:1]]))


def test_reference_lines_are_the_rules_that_they_name(pairs, table):
    halves = metrics.labels(table, "majority")
    better, warm = metrics.labels(table, "utility"), metrics.warm_side(table)
    credit = np.where(np.isnan(better), 0.5, better == halves)[~np.isnan(halves)]
    assert metrics.reference(table, "content_only").value == pytest.approx(credit.mean())
    assert metrics.reference(table, "content_only", "utility").value == 1
    tint = metrics.accuracy(answered(table, warm), "vote")
    assert metrics.reference(table, "tint_only", "vote") == tint
    traces = [str(gold_trace(parse_prompt(row["prompt"]), scenes_of(row), None)) for row in pairs]
    told = table.assign(trace=traces)  # true statements: the rule on them is the content
    assert metrics.reference(told, "stated_rule") == metrics.reference(table, "content_only")
    assert metrics.reference(table, "stated_rule", "vote")[0] == 0.5  # nothing readable: a coin
    with pytest.raises(ValueError, match="reference lines"):
        metrics.reference(table, "oracle")


def test_a_rule_that_cannot_choose_gets_half_and_one_that_does_not_apply_nothing():
    plain = tiny_pairs("no_tint", 12)
    frame = ev.judgements(plain, [""] * 12)
    assert metrics.reference(frame, "tint_only").value == 0.5
    elsewhere = frame.assign(utility_1=np.nan, utility_2=np.nan, tint_1=None, tint_2=None, scene_1=None)
    for name in metrics.REFERENCES:
        assert metrics.reference(elsewhere, name).n == 0


def test_reference_records_name_the_number_of_samples(table):
    frame = content(table)
    records = ev.reference_records(frame, "s", samples=[frame] * 3)
    found = {r.method: r for r in records}
    assert set(found) == {*metrics.REFERENCES, "majority_of_3"}
    assert found["majority_of_3"].value == metrics.accuracy(frame).value
    assert {(r.metric, r.split, r.seed) for r in records} == {("accuracy", "s", None)}


# --- records and the terminal's table ----------------------------------------------------------------------


def test_evaluate_gives_the_records_of_every_split(pairs):
    splits = {"in_distribution": tiny_pairs("in_distribution", 30), "tint_uninformative": pairs}
    ticks = []
    follow = {"progress": lambda *tick: ticks.append(tick), "batch": 40}
    records, frames = ev.evaluate(dummy(by_tint), splits, "grpo", 7, **follow)
    assert set(frames) == {"in_distribution", "tint_uninformative", "tint_uninformative/swapped"}
    found = {(r.split, r.metric): r for r in records}
    assert len(found) == len(records) == 4 + 4 + 4
    assert {(r.method, r.seed) for r in records} == {("grpo", 7)}
    assert found["tint_uninformative", "flip_rate"].value == 1
    assert found["tint_uninformative", "flip_unparsable"].value == 0
    assert found["tint_uninformative", "accuracy_agree"].value == 1
    assert found["in_distribution", "parsable"].value == 1
    assert found["in_distribution", "accuracy_utility"].value > 0.7  # the tint is right 9 times in 10
    totals = {total for _, total in ticks}
    assert totals == {150} and [done for done, _ in ticks] == [30, 70, 90, 130, 150]


def test_nothing_to_judge_is_said_clearly(pairs):
    empty = pairs.select([])
    records, frames = ev.evaluate(dummy(always_first), {"tint_uninformative": empty}, "base", None)
    assert len(records) == 8 and all(r.n == 0 and np.isnan(r.value) for r in records)
    assert list(frames["tint_uninformative"].columns) == list(ev.judgements(pairs, [""] * 60).columns)
    forward, reverse = ev.judge_both_orders(dummy(always_first), empty)
    assert all(i.n == 0 for i in metrics.both_orders(forward, reverse).values())
    assert all(i.n == 0 for _, i in metrics.by_agreement(forward))
    assert len(metrics.majority([forward, forward])) == 0
    assert metrics.compare(forward, forward).difference.n == 0
    table = ev.format_table(records)
    assert "base" in table and "-" in table.splitlines()[3]


def test_the_table_shows_methods_by_splits():
    def record(method, seed, split, metric, value, low=float("nan"), high=float("nan"), n=10):
        return Record(method, split, metric, value, low, high, n, seed)

    records = [
        record("base", None, "in_distribution", "accuracy", 0.541, 0.5, 0.58),
        record("grpo", 1, "in_distribution", "accuracy", 0.86, 0.8, 0.9),
        record("grpo", 1, "no_tint", "accuracy", 0.5),
        record("grpo", 1, "tint_uninformative", "flip_rate", 0.25, 0.2, 0.3),
    ]
    lines = [line.split() for line in ev.format_table(records).splitlines()]
    assert lines[0] == ["accuracy", "%", "in", "no"] and lines[1] == ["distribution", "tint"]
    assert lines[3] == ["base", "54", "[50,", "58]", "-"]
    assert lines[4] == ["grpo,", "seed", "1", "86", "[80,", "90]", "50"]
    assert lines[-1] == ["grpo,", "seed", "1", "-", "-", "25", "[20,", "30]"]
    rows = ev.format_table(records).splitlines()[:5]
    assert rows[3].index("54") == rows[4].index("86") == rows[0].index("in")


def test_an_interval_becomes_a_record():
    [record] = ev.to_records({"m": Interval(0.5, 0.4, 0.6, 9)}, "sft", "s", 3)
    assert record == Record("sft", "s", "m", 0.5, 0.4, 0.6, 9, 3)
