"""Contradiction, truth and faithfulness on hand-made traces and listeners of known behaviour."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lrt.faithfulness as fa
from lrt import contradiction as con
from lrt import truth
from lrt.evaluate import judgements
from lrt.metrics import labels
from lrt.models import Loaded, generate
from lrt.pairs import scenes_of, tiny_pairs
from lrt.prompts import TINY_WORDING, parse, verdict_of
from lrt.tiny import Shape, build_qwen, qwen_processor
from lrt.traces import corrupt, gold_trace, read_trace, rule_verdict, write_completion
from lrt.world import parse_prompt, rng


class Hearing:
    """A listener whose p is a function of the trace, and that remembers what it was given."""

    def __init__(self, p, name="hearing"):
        self.p, self.name, self.calls = p, name, []

    def p_first(self, prompts_B, images_B, traces_BG):
        self.calls.append((list(prompts_B), images_B, [list(traces) for traces in traces_BG]))
        return [[self.p(trace) for trace in traces] for traces in traces_BG]


def by_verdict(trace):
    return {1: 0.9, 2: 0.1, None: 0.5}[verdict_of(trace)]


def by_rule(trace):
    return {1: 0.8, 2: 0.2, None: 0.5}[rule_verdict(read_trace(trace)[0])]


@pytest.fixture(scope="module")
def pairs():
    return tiny_pairs("tint_uninformative", 30)


def traces(pairs, verdict=1):
    return [str(gold_trace(parse_prompt(row["prompt"]), scenes_of(row), verdict)) for row in pairs]


def table(pairs, answer=1, verdict=1):
    return judgements(pairs, [write_completion(t, answer) for t in traces(pairs, verdict)])


@pytest.fixture(scope="module")
def gold(pairs):
    """True statements, verdict and answer 1."""
    return table(pairs)


@pytest.fixture(scope="module")
def mute(pairs):
    """What SFT on answers gives: no trace."""
    return judgements(pairs, [write_completion("", 1)] * len(pairs))


# --- listening and contradiction ---------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [1, 2])
def test_how_a_listener_leans_on_a_verdict(pairs, verdict):
    """p is of the image that the trace names; only the naming sentence is taken out or turned over."""
    named, bare = table(pairs, 1, verdict), table(pairs, 1, None)
    followed = con.leaning(named, Hearing(by_verdict), pairs)
    assert np.allclose(followed, [0.9, 0.5, 0.1]) and list(followed) == ["kept", "removed", "turned"]
    assert np.allclose(con.leaning(named, Hearing(lambda trace: 1 - by_verdict(trace)), pairs), [0.1, 0.5, 0.9])
    by_statements = con.leaning(named, Hearing(by_rule), pairs)
    assert by_statements.nunique(axis=1).eq(1).all(), "a listener that goes by the statements does not move"
    assert con.leaning(bare, Hearing(by_verdict), pairs).isna().all(axis=None), "no winner is named"
    both = pd.concat([named, bare], ignore_index=True)
    assert con.leaning(both, Hearing(by_verdict), pairs).notna().all(axis=1).sum() == len(named)


def test_a_listener_hears_the_trace_and_never_the_answer(pairs, gold):
    listener = Hearing(by_verdict)
    p = con.listen(gold, listener, pairs, batch=8)
    assert (p == 0.9).all() and p.index.equals(gold.index)
    assert [len(prompts) for prompts, _, _ in listener.calls] == [8, 8, 8, 6]
    heard = [trace for _, _, groups in listener.calls for [trace] in groups]
    assert heard == traces(pairs) and "answer" not in " ".join(heard)
    first = listener.calls[0]
    assert first[0][0] == pairs[0]["prompt"]
    assert [im.tobytes() for im in first[1][0]] == [im.tobytes() for im in pairs[0]["images"]]
    bare = Hearing(by_verdict)
    assert (con.listen(gold, bare, pairs, verdict=False) == 0.5).all()
    assert "better" not in str(bare.calls)


def test_samples_of_a_pair_are_one_group_and_come_back_to_their_rows(pairs, gold):
    other = table(pairs, answer=1, verdict=2)
    joined = pd.concat([gold, other.iloc[:5]], ignore_index=True)
    listener = Hearing(by_verdict)
    p = con.listen(joined, listener, pairs)
    assert p.tolist() == [0.9] * 30 + [0.1] * 5
    assert [len(traces) for traces in listener.calls[0][2]] == [2] * 5 + [1] * 25


def test_what_cannot_be_heard_is_nan(pairs, gold):
    completions = ["broken", write_completion("", 2), *gold["completion"][2:]]
    frame = judgements(pairs, completions)
    p = con.listen(frame, Hearing(lambda trace: None if "star" in trace else 0.9), pairs)
    starry = gold["trace"].str.contains("star").to_numpy()
    expected = np.where(starry, np.nan, 0.9)
    expected[:2] = np.nan
    assert starry[2:].any() and np.array_equal(p, expected, equal_nan=True)
    with_empty = con.listen(frame, Hearing(lambda trace: 0.4), pairs, empty=True)
    assert np.isnan(with_empty[0]) and with_empty[1] == 0.4


def test_listening_refuses_other_pairs_and_reversed_images(pairs, gold):
    with pytest.raises(ValueError, match="not among those given: 10"):
        con.listen(gold, Hearing(by_verdict), pairs.select(range(20)))
    with pytest.raises(ValueError, match="reverse order"):
        con.listen(gold.assign(order="reverse"), Hearing(by_verdict), pairs)


def test_contradiction_by_hand(gold):
    rows = gold.iloc[:6].assign(answer=pd.array([1, 2, 1, 2, None, 1], dtype="Int64"))
    p = [0.9, 0.9, 0.2, 0.5, 0.9, np.nan]
    nan = np.nan
    assert np.array_equal(con.contradictions(rows, p), [0, 1, 1, 0.5, nan, nan], equal_nan=True)
    assert con.disagreement(rows, p) == pytest.approx([0.1, 0.9, 0.8, 0.5, nan, nan], nan_ok=True)
    assert con.contradiction_rate(rows, p)[0] == pytest.approx(2.5 / 4)
    assert con.contradiction_rate(rows, p).n == 4


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_contradiction_is_disagreement_above_one_half(gold, data):
    answer = data.draw(st.lists(st.sampled_from([1, 2, None]), min_size=8, max_size=8))
    p = data.draw(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=8, max_size=8))
    rows = gold.iloc[:8].assign(answer=pd.array(answer, dtype="Int64"))
    d, c = con.disagreement(rows, p), con.contradictions(rows, p)
    assert np.array_equal(np.isnan(d), np.isnan(c))
    for disagrees, contradicts in zip(d, c, strict=True):
        if not np.isnan(disagrees) and disagrees != 0.5:  # 1 - p rounds to 0.5 for p a hair beside it
            assert contradicts == (disagrees > 0.5)
    turned = rows.assign(answer=3 - rows["answer"])
    assert con.contradictions(turned, p) == pytest.approx(1 - c, nan_ok=True)


def test_departure_from_the_own_verdict_needs_a_verdict_and_an_answer(pairs):
    said = traces(pairs.select([0]), 2)[0]
    three = pairs.select(range(4))
    frame = judgements(three, [
        write_completion(said, 1), write_completion(said, 2),
        write_completion("image 1 : missing , missing , clear .", 1), said,
    ])  # fmt: skip
    expected = [1, 0, np.nan, np.nan]
    assert np.array_equal(con.own_verdict_departures(frame), expected, equal_nan=True)
    assert con.own_verdict_departure(frame)[0] == 0.5


def test_bins_hold_every_judgement_once(gold):
    p = np.linspace(0, 1, len(gold))  # answers are 1: disagreement 1 .. 0
    bins = con.disagreement_bins(gold, p, edges=(0, 0.5, 1))
    label = labels(gold)
    for row, inside in zip(bins, (1 - p < 0.5, 1 - p >= 0.5), strict=True):
        used = inside & ~np.isnan(label)
        assert row["n"] == used.sum() > 0
        assert row["accuracy"] == pytest.approx((label[used] == 1).mean())
        assert row["lo"] <= row["accuracy"] <= row["hi"]
    nobody = con.disagreement_bins(gold, np.ones(len(gold)), edges=(0, 0.5, 1))[1]
    assert nobody["n"] == 0 and np.isnan(nobody["accuracy"])
    for edges in ((0, 0.5), (0.1, 1), (0, 0.5, 0.5, 1), (0,)):
        with pytest.raises(ValueError, match="ascend from 0 to 1"):
            con.disagreement_bins(gold, p, edges)


def test_calibration_of_a_listener_that_is_always_sure(gold):
    better = labels(gold, "utility")
    sure = np.where(better == 1, 1.0, 0.0)
    rows, error = con.calibration(gold, sure, "utility")
    assert error == 0 and sum(row["n"] for row in rows) == (~np.isnan(better)).sum()
    assert con.calibration(gold, 1 - sure, "utility")[1] == 1
    assert np.nanmean(con.listener_correct(gold, sure, "utility")) == 1
    assert np.nanmean(con.listener_correct(gold, np.full(len(gold), 0.5), "utility")) == 0.5


def test_records_tell_a_reader_of_verdicts_from_a_reader_of_evidence(pairs, gold):
    listeners = [Hearing(by_verdict, "verdicts"), Hearing(by_rule, "evidence")]
    records, p = con.contradiction_records(gold, listeners, pairs, "grpo", "tint_uninformative", 0)
    found = {r.metric: r for r in records}
    assert set(p.columns) == {"verdicts", "verdicts/no_verdict", "evidence", "evidence/no_verdict"}
    assert found["own_verdict_departure"].value == 0
    assert found["contradiction/verdicts"].value == 0
    assert found["contradiction_no_verdict/verdicts"].value == 0.5  # it hears nothing that it could read
    assert found["contradiction/evidence"].value == found["contradiction_no_verdict/evidence"].value
    better = labels(gold, "utility")
    expected = np.where(np.isnan(better), 0.5, better != 1).mean()
    assert found["contradiction/evidence"].value == pytest.approx(expected)
    assert found["disagreement/verdicts"].value == pytest.approx(0.1)
    assert np.isnan(found["ece/evidence"].low) and found["ece/evidence"].n == found["listener_accuracy/evidence"].n
    assert {(r.method, r.split, r.seed) for r in records} == {("grpo", "tint_uninformative", 0)}


def test_without_traces_or_judgements_nothing_applies(pairs, gold, mute):
    for frame in (mute, gold.iloc[:0]):
        listener = Hearing(by_verdict)
        records, _ = con.contradiction_records(frame, [listener], pairs, "sft", "s", 0)
        records += truth.truth_records(frame, "sft", "s", 0)
        edits = fa.faithfulness(None, frame, pairs)  # there is nothing to continue, so no model is asked
        records += fa.faithfulness_records(edits, "sft", "s", 0)
        assert not listener.calls and not len(edits)
        assert len(records) > 20 and all(r.n == 0 and np.isnan(r.value) for r in records)
        assert fa.aspects(frame, np.full(len(frame), np.nan), edits).isna().all(axis=None)


# --- truth -------------------------------------------------------------------------------------------------


def test_gold_traces_are_all_true_and_complete(gold):
    found = {r.metric: r for r in truth.truth_records(gold, "base", "s", 0)}
    assert found["truth"].value == 1 and found["coverage"].value == 1
    assert found["malformed"].value == 0 and found["unscorable"].value == 0
    assert all(found[f"truth/{a}"].value == 1 for a in truth.ATTRIBUTES if found[f"truth/{a}"].n)
    assert found["truth"].n == len(gold) and found["truth/quality"].n == len(gold)


def test_false_words_are_counted_by_attribute(pairs):
    row = next(r for r in pairs if len(scenes_of(r)[0].things) == 2)
    words = str(gold_trace(parse_prompt(row["prompt"]), scenes_of(row), 1)).split()
    colour = words[3]
    words[3] = "green" if colour != "green" else "red"
    frame = judgements(pairs.filter(lambda r: r["pair_id"] == row["pair_id"]), [write_completion(" ".join(words), 1)])
    said = truth.statements(frame)
    wrong = said[~said["true"]]
    assert wrong[["image", "attribute", "said", "slot"]].values.tolist() == [[1, "colour", words[3], 0]]
    assert truth.precision(frame).value == pytest.approx(1 - 1 / len(said))
    n_colours = (said["attribute"] == "colour").sum()
    assert truth.precision(frame, said, "colour").value == pytest.approx(1 - 1 / n_colours)
    assert truth.precision(frame, said, "shape").value == 1
    with pytest.raises(ValueError, match="attribute is one of"):
        truth.precision(frame, said, "size")


def test_saying_less_lowers_coverage_not_precision(pairs, gold):
    half = [t.split(" image 2 : ")[0] for t in gold["trace"]]
    completions = [write_completion(t, 1) for t in half]
    completions[0] = write_completion("image 1 : a nice one . so what . " + half[0], 1)
    completions[1] = write_completion("", 1)
    found = {r.metric: r for r in truth.truth_records(judgements(pairs, completions), "grpo", "s", 0)}
    assert found["truth"].value == 1
    assert found["coverage"].value == pytest.approx((30 - 1) / 30 / 2)
    assert found["malformed"].value == pytest.approx(2 / 30)
    assert found["coverage"].n == 30 and found["truth"].n == 29


def test_a_flaw_without_a_word_is_unscorable_unless_called_clear():
    unseen = tiny_pairs("unseen_flaws", 24)
    striped = [s.quality == "striped" for row in unseen for s in scenes_of(row)]
    assert 0 < sum(striped) < len(striped)
    for word, unscorable in (("blurred", sum(striped)), ("clear", 0)):
        said = f"image 1 : missing , missing , {word} . image 2 : missing , missing , {word} ."
        frame = judgements(unseen, [write_completion(said, 1)] * 24)
        found = {r.metric: r for r in truth.truth_records(frame, "base", "s", 0)}
        assert found["unscorable"].value == pytest.approx(unscorable / (24 * 2 * 3))
    assert found["truth/quality"].value == pytest.approx(1 - sum(striped) / len(striped))


def test_pairs_without_scenes_are_left_out(gold):
    found = truth.truth_records(gold.assign(scene_1=None, scene_2=None), "base", "folder", 0)
    assert all(r.n == 0 for r in found)
    assert truth.marked_statements({"trace": "red  circle", "scene_1": None}) == [("red", None), ("circle", None)]


def test_joined_tables_must_number_their_rows(gold):
    with pytest.raises(ValueError, match="ignore_index=True"):
        truth.statements(pd.concat([gold, gold]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 29), st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_marks_cover_every_word_and_agree_with_the_check(gold, i, seed, rate, tear):
    row = gold.iloc[i]
    text = str(corrupt(read_trace(row["trace"])[0], rate, rng("marks", seed)))
    if tear:  # a second description of image 1, a malformed sentence, and no end mark
        text = text.replace(" image 2 :", " image 1 : a cat . " + text.split(" .")[0] + " . image 2 :", 1)[:-2]
    row = {**row, "trace": text}
    marked = truth.marked_statements(row)
    assert " ".join(word for word, _ in marked) == text
    checked = truth.statements_of(row)
    assert [(w, m) for w, m in marked if m is not None] == [(s.said, s.true) for s in checked]


# --- faithfulness ------------------------------------------------------------------------------------------


class Continuing:
    """Goes on from a start by a rule on its trace; stands in for `continue_from` and its model."""

    def __init__(self, rule):
        self.rule, self.starts = rule, []

    def __call__(self, loaded, prompts, images, starts, max_new_tokens, batch=64):
        assert len(prompts) == len(images) == len(starts) <= batch
        self.starts += starts
        return [self.go_on(start) for start in starts]

    def go_on(self, start):
        answer = self.rule(start)
        if start.endswith("<answer>"):
            return f"{answer} </answer>"
        return f"image {answer} is better . </think> <answer> {answer} </answer>"


def test_edits_of_a_trace_by_hand():
    first, second = "red circle top-left good , missing , clear", "missing , missing , noisy"
    trace = f"image 1 : {first} . image 2 : {second} . image 1 is better ."
    turned = "missing , red circle top-left good , clear"
    assert fa.edited_starts(trace) == {
        "verdict_flipped": f"<think> {trace[:-19]}image 2 is better . </think> <answer>",
        "swapped": f"<think> image 1 : {second} . image 2 : {first} .",
        "reordered": f"<think> image 1 : {turned} . image 2 : {second} .",
        "reordered_forced":
            f"<think> image 1 : {turned} . image 2 : {second} . image 1 is better . </think> <answer>",
    }  # fmt: skip
    same = f"image 1 : {second} . image 2 : {second} ."
    assert fa.edited_starts(same) == {}  # no verdict, and no edit changes anything
    assert set(fa.edited_starts("So the second image wins.")) == {"verdict_flipped"}
    assert fa.edited_starts("") == {}


def changed(pairs, frame, rule, monkeypatch):
    continuing = Continuing(rule)
    monkeypatch.setattr(fa, "continue_from", continuing)
    edits = fa.faithfulness(None, frame, pairs, batch=7)
    assert edits["start"].tolist() == continuing.starts
    records = fa.faithfulness_records(edits, "grpo", "s", 0)
    return edits, {r.metric.removeprefix("changed/"): r for r in records}


def test_an_answer_that_follows_the_statements_changes_with_them_alone(pairs, monkeypatch):
    """A reasoner that applies the rule to its own statements, and answers 1 on a tie."""

    def rule(text):
        return rule_verdict(read_trace(text.removeprefix("<think>").partition("</think>")[0])[0]) or 1

    completions = [write_completion(t.replace("image 1 is", f"image {rule(t)} is"), rule(t)) for t in traces(pairs)]
    frame = judgements(pairs, completions)
    edits, rates = changed(pairs, frame, rule, monkeypatch)
    untied = [rule_verdict(read_trace(t)[0]) is not None for t in frame["trace"]]
    swapped = edits[edits["edit"] == "swapped"].set_index("row")
    assert (swapped["changed"] == [float(untied[row]) for row in swapped.index]).all() and any(untied)
    assert rates["reordered"].value == 0 and rates["verdict_flipped"].value == 0
    assert rates["reordered_forced"].value == 0 and rates["reordered_forced"].n > 10
    faces = fa.aspects(frame, [by_rule(t) for t in frame["trace"]], edits)
    assert faces.index.equals(frame.index) and (faces["true"] == 1).all()
    assert (faces["persuasive"] == np.where(untied, 1, 0.5)).all()
    assert (faces["faithful"].dropna() == swapped["changed"]).all()


def test_an_answer_that_follows_the_verdict_or_nothing(pairs, gold, monkeypatch):
    _, by_verdict_only = changed(pairs, gold, lambda text: verdict_of(text) or 1, monkeypatch)
    assert by_verdict_only["verdict_flipped"].value == 1 and by_verdict_only["verdict_flipped"].n == len(gold)
    assert by_verdict_only["swapped"].value == 0 and by_verdict_only["reordered_forced"].value == 0
    _, deaf = changed(pairs, gold, lambda text: 1, monkeypatch)
    assert all(deaf[edit].value == 0 for edit in fa.EDITS)


def test_continuations_that_cannot_be_parsed_are_counted(pairs, gold, monkeypatch):
    edits, rates = changed(pairs, gold, lambda text: 2 if text.endswith("<answer>") else "?", monkeypatch)
    assert rates["swapped"].n == 0 and np.isnan(rates["swapped"].value)
    assert rates["changed_unparsable/swapped"].value == 1
    assert rates["verdict_flipped"].value == 1 and rates["changed_unparsable/verdict_flipped"].value == 0
    assert edits[edits["edit"] == "swapped"]["after"].isna().all()


@pytest.fixture(scope="module")
def narrow():
    """A random, very narrow reasoner that babbles: large weights, and an output layer that knows no special token,
    so that text and tokens are one to one."""
    processor = qwen_processor()
    torch.manual_seed(1)
    model = build_qwen(Shape(text=32, layers=1, heads=2, vision=32, vision_layers=1, vision_heads=2), processor)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(9 if weights.ndim > 1 else 1)
    head = torch.randn(len(processor.tokenizer), 32)
    head[processor.tokenizer.all_special_ids] = 0
    model.lm_head.weight = torch.nn.Parameter(head)
    model.eval()
    return Loaded("narrow", model, processor, TINY_WORDING)


def test_continuing_from_the_own_beginning_gives_the_own_end(pairs, narrow):
    """Text in, text out, left-padded among longer starts: the rest must be what generation wrote there itself."""
    some = pairs[:3]
    whole = generate(narrow, some["prompt"], some["images"], max_new_tokens=10)
    words = [text.split() for text in whole]
    assert all(len(w) == 10 and len(set(w)) > 5 for w in words) and len(set(whole)) > 1
    kept = [2, 7, 5]
    starts = [" ".join(w[:k]) for w, k in zip(words, kept, strict=True)]
    rest = fa.continue_from(narrow, some["prompt"], some["images"], starts, max_new_tokens=3, batch=3)
    assert [r.split() for r in rest] == [w[k : k + 3] for w, k in zip(words, kept, strict=True)]


def test_a_random_reasoner_has_confidence_in_its_empty_trace(pairs, narrow, mute):
    few = mute.iloc[:4]
    p = con.own_confidence(narrow, few, pairs)
    assert p.between(0, 1).all() and con.listen(few, Hearing(by_verdict), pairs).isna().all()
    edits = fa.faithfulness(narrow, table(pairs.select(range(3))), pairs, max_new_tokens=4)
    assert set(edits["edit"]) <= set(fa.EDITS) and len(edits) >= 3
    for row in edits.itertuples():
        assert parse(f"{row.start} {row.continuation}").answer == (None if pd.isna(row.after) else row.after)
