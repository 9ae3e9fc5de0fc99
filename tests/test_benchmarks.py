"""The benchmarks' rules against naive forms, what must not change a score, real labels, and `lrt score`."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lrt.cli import app
from lrt.real import benchmarks, imagereward, published, score_report
from lrt.real.benchmarks import score
from lrt.real.predictions import Predictions, template
from lrt.real.ranked import Ranked, pairs_of
from lrt.real.scores import Pair, scores_of
from lrt.stats import load_records

REAL = Path(__file__).resolve().parents[1] / "../shared/data/imagereward/test_first120.json"
RULES = {
    "imagereward": lambda frame: benchmarks.imagereward(frame).value,
    "hpsv2_macro": lambda frame: benchmarks.hpsv2_macro(frame).value,
    "inversions": lambda frame: benchmarks.inversions(frame).value,
    "pickscore": lambda frame: benchmarks.pickscore(frame).value,
}


def ranking(name, rank):
    return Ranked(name, f"prompt {name}", tuple(f"{name}-{i}.png" for i in range(len(rank))), tuple(map(float, rank)))


def judged(ranked, scores):
    """A judge that gives scores[k][i] to image i of prompt k."""
    values = {(row.prompt_id, image): float(s) for row, own in zip(ranked, scores, strict=True)
              for image, s in zip(row.images, own, strict=True)}
    return Predictions("image", values)


def chosen(ranked, choose, both=False):
    """A judge that says choose(row, i, j) of images shown in this order: 1, 2, or 0."""
    values = {}
    for row in ranked:
        for i, j, _ in pairs_of(row):
            for a, b in [(i, j), (j, i)] if both else [(i, j)]:
                values[row.prompt_id, row.images[a], row.images[b]] = choose(row, a, b)
    return Predictions("pair", values)


def first(row, i, j):
    return 1


def oracle(row, i, j):
    return 1 if row.rank[i] < row.rank[j] else 2 if row.rank[j] < row.rank[i] else 0


def by_order(lines, rule=0):
    names = list(dict.fromkeys(line.rule for line in lines))
    return {line.order: line for line in lines if line.rule == names[rule]}


@st.composite
def rankings(draw, ties=True):
    """Prompts with 2 to 5 images each and whole scores for them; at least one untied pair in all."""
    n = draw(st.lists(st.integers(2, 5), min_size=1, max_size=5))
    ranks = [draw(st.lists(st.integers(1, 3), min_size=k, max_size=k) if ties else st.permutations(range(k)))
             for k in n]
    scores = [draw(st.lists(st.integers(-2, 2), min_size=k, max_size=k)) for k in n]
    ranks[0] = [1, 2, *ranks[0][2:]] if ties else ranks[0]
    return [ranking(str(k), rank) for k, rank in enumerate(ranks)], scores


# ---- naive forms, written from the rules ----


def naive(ranked, scores):
    pooled, prompts, inversions, credits = [], [], [], []
    for row, s in zip(ranked, scores, strict=True):
        own, inverted, n = [], 0.0, len(s)
        for i, j in itertools.combinations(range(n), 2):
            label, said = row.rank[j] - row.rank[i], s[i] - s[j]
            if label:
                own.append(float(label * said > 0))
                inverted += 1.0 if label * said < 0 else 0.5 if said == 0 else 0.0
            credits.append(1.0 if np.sign(label) == np.sign(said) else 0.5 if 0 in (label, said) else 0.0)
        pooled += own
        prompts += [np.mean(own)] if own else []
        inversions.append(1 - inverted / (n * (n - 1) / 2))
    return {"imagereward": np.mean(pooled), "hpsv2_macro": np.mean(prompts), "inversions": np.mean(inversions),
            "pickscore": np.mean(credits)}


@settings(max_examples=30, deadline=None)
@given(rankings())
def test_every_rule_equals_its_naive_form(made):
    ranked, scores = made
    frame = scores_of(judged(ranked, scores), ranked)
    for name, expected in naive(ranked, scores).items():
        assert RULES[name](frame) == pytest.approx(expected), name


@settings(max_examples=30, deadline=None)
@given(rankings())
def test_equal_scores_count_as_a_random_order_does_on_average(made):
    """HPSv2's code breaks ties of scores by whatever order its sort leaves: `inversions` is the mean over all."""
    (row, *_), (scores, *_) = made
    n, total = len(scores), []
    for order in itertools.permutations(range(n)):  # of equal scores, the one earlier in `order` ranks higher
        place = sorted(range(n), key=lambda i: (-scores[i], order.index(i)))  # noqa: B023
        rank = [place.index(i) for i in range(n)]
        two = itertools.combinations(range(n), 2)
        wrong = sum((rank[i] - rank[j]) * (row.rank[i] - row.rank[j]) < 0 for i, j in two)
        total.append(1 - wrong / (n * (n - 1) / 2))
    assert RULES["inversions"](scores_of(judged([row], [scores]), [row])) == pytest.approx(np.mean(total))


# ---- properties ----


@settings(max_examples=15, deadline=None)
@given(rankings())
def test_perfect_scores_are_perfect_by_every_rule(made):
    ranked, _ = made
    frame = scores_of(judged(ranked, [[-r for r in row.rank] for row in ranked]), ranked)
    assert [rule(frame) for rule in RULES.values()] == [1.0] * 4
    frame = scores_of(chosen(ranked, oracle), ranked)
    assert [rule(frame) for rule in RULES.values()] == [1.0] * 4


@settings(max_examples=15, deadline=None)
@given(rankings(ties=False))
def test_reversed_scores_are_wrong_everywhere(made):
    ranked, _ = made
    frame = scores_of(judged(ranked, [row.rank for row in ranked]), ranked)
    assert [rule(frame) for rule in RULES.values()] == [0.0] * 4


@settings(max_examples=15, deadline=None)
@given(rankings(), st.lists(st.integers(-5, 5), min_size=5, max_size=5), st.randoms(use_true_random=False))
def test_neither_a_constant_nor_the_order_of_images_changes_a_score(made, constants, rng):
    ranked, scores = made
    before = scores_of(judged(ranked, scores), ranked)
    moved = judged(ranked, [[s + c for s in own] for own, c in zip(scores, constants, strict=False)])
    turned = []
    for row in ranked:
        order = rng.sample(range(len(row.images)), len(row.images))
        turned.append(replace(row, images=tuple(row.images[i] for i in order), rank=tuple(row.rank[i] for i in order)))
    for frame in (scores_of(moved, ranked), scores_of(judged(ranked, scores), turned)):
        for rule in RULES.values():
            assert rule(frame) == pytest.approx(rule(before))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_micro_is_macro_where_all_prompts_have_as_many_untied_pairs(scores):
    ranked = [ranking(str(k), (1, 2, 2, 4)) for k in range(len(scores))]
    frame = scores_of(judged(ranked, scores), ranked)
    assert RULES["imagereward"](frame) == pytest.approx(RULES["hpsv2_macro"](frame))


@settings(max_examples=15, deadline=None)
@given(rankings(), st.integers(0, 1000))
def test_leaving_a_prediction_out_never_helps(made, which):
    ranked, scores = made
    whole = judged(ranked, scores)
    gone = sorted(whole.values)[which % len(whole.values)]
    part = Predictions("image", {key: value for key, value in whole.values.items() if key != gone})
    for rule in RULES.values():
        assert rule(scores_of(part, ranked)) <= rule(scores_of(whole, ranked)) + 1e-12


# ---- single rules ----


def test_a_prompt_of_ties_alone_is_no_part_of_the_macro_mean():
    ranked = [ranking("a", (1, 2)), ranking("b", (3, 3, 3))]
    interval = benchmarks.hpsv2_macro(scores_of(judged(ranked, [(1, 0), (0, 1, 2)]), ranked))
    assert (interval.value, interval.n) == (1.0, 1)
    assert benchmarks.inversions(scores_of(judged(ranked, [(1, 0), (0, 1, 2)]), ranked)).n == 2


def test_averaged_ranks_are_compared_as_numbers():
    ranked = [ranking("a", (1.4, 1.6, 3.0))]
    assert benchmarks.inversions(scores_of(judged(ranked, [(1, 2, 0)]), ranked)).value == pytest.approx(2 / 3)


def test_intervals_resample_prompts_not_pairs():
    ranked = [ranking(str(k), (1, 2, 3, 4)) for k in range(20)]
    right = [(4, 3, 2, 1) if k % 2 else (1, 2, 3, 4) for k in range(20)]  # a prompt is all right or all wrong
    frame = scores_of(judged(ranked, right), ranked)
    interval = benchmarks.imagereward(frame)
    assert interval.value == 0.5 and interval.n == 120
    assert interval.high - interval.low > 0.3  # 120 independent pairs would give 0.18
    for rule in (benchmarks.hpsv2_macro, benchmarks.inversions):
        assert rule(frame)[:3] == pytest.approx(interval[:3])


def test_the_tie_threshold_turns_small_differences_into_ties():
    ranked = [ranking("a", (1, 2)), ranking("b", (1, 1)), ranking("c", (1, 2)), ranking("d", (1, 2))]
    # |p1 - p2|: 0.10, 0.10, 0.46, 0.46
    frame = scores_of(judged(ranked, [(0.2, 0), (0.2, 0), (1, 0), (0, 1)]), ranked)
    assert [benchmarks.pickscore(frame, t).value for t in (0, 0.2, 1)] == [2.5 / 4, 2.5 / 4, 2.5 / 4]
    frame = scores_of(judged(ranked, [(1, 0), (0.2, 0), (1, 0), (1, 0)]), ranked)
    assert [benchmarks.pickscore(frame, t).value for t in (0, 0.1, 0.2, 0.5)] == [3.5 / 4, 1.0, 1.0, 2.5 / 4]
    assert benchmarks.tune_threshold(frame) == 0.1  # the first of the best
    with pytest.raises(ValueError, match="no pairs"):
        benchmarks.tune_threshold(frame[:0])


def test_a_choice_has_no_threshold():
    ranked = [ranking("a", (1, 2)), ranking("b", (1, 1))]
    frame = scores_of(chosen(ranked, first), ranked)
    assert [benchmarks.pickscore(frame, t).value for t in (0, 1)] == [0.75, 0.75]


def test_accuracy_by_agreement_leaves_out_the_undecided():
    shares = (0.5, 0.55, 0.3, 0.9, 1.0)
    ranked = [Pair(f"p{k}", "", (f"{k}/1", f"{k}/2"), (1.0, 2.0) if s > 0.5 else (2.0, 1.0), share=s)
              for k, s in enumerate(shares)]
    lines = score("rapidata", chosen(ranked, first), ranked)
    assert [(line.interval.value, line.interval.n) for line in lines] == [
        (0.75, 4), (pytest.approx(2 / 3), 3), (pytest.approx(2 / 3), 3), (1.0, 2), (1.0, 2), (1.0, 1)]
    assert lines[1].rule == "accuracy where >= 60 % of votes agree"


def test_an_unknown_benchmark_is_named():
    with pytest.raises(ValueError, match="no benchmark 'hpdv3'; there are imagereward, hpdv2"):
        score("hpdv3", Predictions("image", {}), [])


# ---- both orders ----


def test_a_judge_that_always_says_first_is_found_out():
    ranked = [ranking("a", (1, 2, 3)), ranking("b", (1, 3, 2))]  # the first of a pair is better in 5 of 6
    lines = by_order(score("imagereward", chosen(ranked, first, both=True), ranked))
    assert list(lines) == ["forward", "reverse", "both", "consistent"]
    assert [line.interval.value for line in lines.values()] == pytest.approx([5 / 6, 1 / 6, 0.5, 0])
    assert [line.always_first for line in lines.values()] == [line.interval.value for line in lines.values()]
    assert {line.interval.n for line in lines.values()} == {6}


def test_an_oracle_is_right_in_both_orders_by_every_rule():
    ranked = [ranking("a", (1, 2, 2)), ranking("b", (2, 1))]
    for benchmark in ("imagereward", "hpdv2", "pickapic"):
        lines = score(benchmark, chosen(ranked, oracle, both=True), ranked)
        assert {line.interval.value for line in lines} == {1.0}


def test_consistent_wants_both_orders_right():
    ranked = [ranking("a", (1, 2)), ranking("b", (1, 2)), ranking("c", (1, 2)), ranking("d", (1, 2))]
    said = {("a", 0): 1, ("a", 1): 2, ("b", 0): 1, ("b", 1): 1, ("c", 0): 2, ("c", 1): 2, ("d", 0): 2, ("d", 1): 1}
    made = chosen(ranked, lambda row, i, j: said[row.prompt_id, i], both=True)
    lines = by_order(score("imagereward", made, ranked))
    assert [line.interval.value for line in lines.values()] == [0.5, 0.5, 0.5, 0.25]


def test_consistent_keeps_what_a_rule_gives_to_ties():
    ranked = [ranking("a", (1, 1)), ranking("b", (1, 2)), ranking("c", (1, 2))]
    said = {("a", 0): 1, ("a", 1): 1, ("b", 0): 0, ("b", 1): 2, ("c", 0): 0, ("c", 1): 1}  # b: a tie, then right
    made = chosen(ranked, lambda row, i, j: said[row.prompt_id, i], both=True)
    values = {name: [line.interval.value for line in score(name, made, ranked)] for name in ("hpdv2", "pickapic")}
    assert values["hpdv2"] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1.5 / 3])
    assert values["pickapic"] == pytest.approx([1.5 / 3, 1.5 / 3, 1.5 / 3, 1 / 3])


@settings(max_examples=6, deadline=None)
@given(rankings(), st.randoms(use_true_random=False))
def test_consistent_is_no_better_than_either_order(made, rng):
    ranked, _ = made
    both = chosen(ranked, lambda row, i, j: rng.choice((0, 1, 2)), both=True)
    for name in ("imagereward", "hpdv2", "pickapic"):
        lines = {order: line.interval.value for order, line in by_order(score(name, both, ranked)).items()}
        assert lines["consistent"] <= min(lines["forward"], lines["reverse"]) + 1e-12
        assert lines["both"] == pytest.approx((lines["forward"] + lines["reverse"]) / 2)


def test_one_order_a_pair_is_scored_as_given_with_its_own_baseline():
    ranked = [ranking("a", (1, 2)), ranking("b", (2, 1))]
    made = Predictions("pair", {("a", "a-1.png", "a-0.png"): 2, ("b", "b-0.png", "b-1.png"): 2})
    (line,) = by_order(score("imagereward", made, ranked)).values()
    assert (line.order, line.interval.value, line.always_first) == ("given", 1.0, 0.0)


# ---- missing predictions ----


def test_missing_scores_are_refused_by_count_or_counted_as_wrong():
    ranked = [ranking("a", (1, 2, 3)), ranking("b", (1, 2))]
    made = Predictions("image", {("a", "a-0.png"): 3, ("a", "a-1.png"): 2, ("b", "b-1.png"): 0})
    with pytest.raises(ValueError, match="2 of 5 scores of images are missing, .*'a', 'a-2.png'.*'b', 'b-0.png'"):
        score("imagereward", made, ranked)
    lines = score("imagereward", made, ranked, allow_missing=True)
    assert lines[0].interval[0::3] == (0.25, 4)
    assert score("hpdv2", made, ranked, allow_missing=True)[0].interval.value == pytest.approx((1 / 3 + 0) / 2)


def test_a_pair_judged_in_one_order_only_is_missing_where_others_have_both():
    ranked = [ranking("a", (1, 2)), ranking("b", (1, 2))]
    values = dict(chosen(ranked, oracle, both=True).values)
    del values["b", "b-1.png", "b-0.png"]
    with pytest.raises(ValueError, match="1 of 4 choices of ordered pairs .* 'b', 'b-1.png' and 'b-0.png'"):
        score("imagereward", Predictions("pair", values), ranked)
    lines = by_order(score("imagereward", Predictions("pair", values), ranked, allow_missing=True))
    assert [line.interval.value for line in lines.values()] == [1.0, 0.5, 0.75, 0.5]


def test_what_no_rule_looks_at_may_be_missing():
    ranked = [ranking("a", (1, 2, 2))]
    made = Predictions("pair", {("a", "a-0.png", "a-1.png"): 1, ("a", "a-0.png", "a-2.png"): 1})
    assert score("imagereward", made, ranked)[0].interval.value == 1.0
    with pytest.raises(ValueError, match="1 of 3"):
        score("hpdv2", made, ranked)
    assert score("hpdv2", made, ranked, allow_missing=True)[0].interval.value == pytest.approx(2 / 3)
    assert score("pickapic", made, ranked, allow_missing=True)[0].interval.value == pytest.approx(2 / 3)


# ---- published numbers ----


def test_a_part_of_a_benchmark_is_not_compared():
    part = [ranking(str(k), (1, 2)) for k in range(120)]
    lines = score("hpdv2", chosen(part, first), part)
    text = published.beside("hpdv2", lines, part)
    assert "your file has 120 of 400 prompts: not comparable" in text and "> this file" not in text
    assert "85.4  HPSv3" in text and "0.2 to 1.3 points" in text
    whole = [ranking(str(k), (1, 2)) for k in range(466)]
    assert "466 untied and 0 tied pairs, the published test 6399 and 831" in published.not_comparable(
        "imagereward", whole)


def test_a_whole_benchmark_stands_among_the_published_numbers():
    whole = [ranking(str(k), (1, 2) if k % 5 else (2, 1)) for k in range(400)]
    text = published.beside("hpdv2", score("hpdv2", chosen(whole, first), whole), whole)
    values = [float(line[:6]) for line in text.splitlines() if line[:6].strip()[:1].isdigit()]
    assert len(values) == 10 and values == sorted(values)
    assert "  80.0  > this file" in text and "HPSv2's own for HPDv2" in text
    assert "There are no published numbers" in published.beside("rapidata", [], whole)


# ---- real labels ----


@pytest.fixture(scope="module")
def real():
    if not REAL.exists():
        pytest.skip(f"the first 120 rows of ImageReward's test are not there ({REAL.name})")
    return imagereward.labels(REAL)


def test_three_judges_on_real_labels(real):
    rng = random.Random(0)

    def random_judge(row, i, j):
        return rng.choice((1, 2))

    micro = {judge: by_order(score("imagereward", chosen(real, judge), real))["given"].interval
             for judge in (first, random_judge, oracle)}
    assert {interval.n for interval in micro.values()} == {1644}
    assert f"{100 * micro[first].value:.1f}" == "60.1" and micro[first].value == 988 / 1644
    assert micro[oracle].value == 1.0
    assert micro[random_judge].low < 0.5 < micro[random_judge].high
    assert published.not_comparable("imagereward", real) == "your file has 120 of 466 prompts: not comparable"


# ---- the command ----


def lrt(*arguments, code=0):
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout if code == 0 else result.stderr


@pytest.fixture
def labels(tmp_path):
    rows = [{"id": f"{k}", "prompt": f"prompt {k}", "generations": [f"{k}/{i}.webp" for i in range(3)],
             "ranking": [1, 3, 2]} for k in range(4)]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    return path


def filled(path, value):
    path.write_text(path.read_text().replace("null", value))
    return path


def test_the_command_from_template_to_records(labels, tmp_path):
    asked = ("--benchmark", "imagereward", "--labels", labels)
    form, out = tmp_path / "form.jsonl", tmp_path / "out.json"
    assert f"24 lines in {form}: put a choice" in lrt(*asked, "--template", form, "--form", "pair")
    said = lrt(*asked, "--predictions", filled(form, "1"), "--out", out)
    assert "ImageReward's own (micro, predicted ties wrong)" in said and "66.7 [66.7, 66.7]" in said
    assert "consistent  0.0" in said and "leaves the choice in 0.0 % of pairs" in said
    assert "4 of 466 prompts: not comparable" in said and "listener paper" in said and "0.2 to 1.3" in said
    records = load_records(out)
    assert len(records) == 8 and records[0].method == "form" and records[0].n == 12


def test_the_command_names_what_is_missing_and_says_what_it_counts(labels, tmp_path):
    asked = ("--benchmark", "imagereward", "--labels", labels)
    form = tmp_path / "form.jsonl"
    assert "12 lines" in lrt(*asked, "--template", form)
    form.write_text(form.read_text().replace("null", "2.5", 9))
    assert "3 of 12 scores of images are missing" in lrt(*asked, "--predictions", form, code=2)
    said = lrt(*asked, "--predictions", form, "--allow-missing")
    assert "3 of 12 scores of images are missing" in said and "counted as wrong" in said
    assert "9 untied pairs have two equal scores" in said and "have no order" in said
    filled(form, "NaN")
    assert "form.jsonl, line 10, column score: nan is not" in lrt(*asked, "--predictions", form, code=2)


def test_the_command_refuses_what_does_not_fit_together(labels, tmp_path):
    asked = ("--benchmark", "imagereward", "--labels", labels)
    assert "name either --predictions" in lrt(*asked, code=2)
    assert "no benchmark 'x'" in lrt("--benchmark", "x", "--labels", labels, "--template", tmp_path / "t", code=2)
    form = tmp_path / "form.jsonl"
    lrt(*asked, "--template", form)
    assert "already there" in lrt(*asked, "--template", form, code=2)
    assert "imagereward has none" in lrt(*asked, "--predictions", filled(form, "1"), "--tie-threshold", 0.1, code=2)


def test_the_tie_threshold_is_given_or_tuned(tmp_path, monkeypatch):
    ranked = [ranking("a", (1, 2)), ranking("b", (1, 1))]
    monkeypatch.setattr(score_report, "labels", lambda benchmark, path: ranked)
    path = tmp_path / "valid.jsonl"
    template(ranked, path, "image")
    path.write_text(path.read_text().replace("null", "1.0", 1).replace("null", "0.0", 2).replace("null", "0.1"))
    assert score_report.threshold_for("pickapic", None, "labels", path) == 0.1
    assert score_report.threshold_for("pickapic", 0.3, None, None) == 0.3
    assert score_report.threshold_for("pickapic", None, None, None) is None
    for given_, one, two, says in [(0.1, "l", path, "itself, or tuned"), (None, "l", None, "itself, or tuned"),
                                   (1.5, None, None, "between 0 and 1")]:
        with pytest.raises(ValueError, match=says):
            score_report.threshold_for("pickapic", given_, one, two)
    filled(path, "0")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match="valid.jsonl: 1 of 4 scores"):
        score_report.threshold_for("pickapic", None, "labels", path)
