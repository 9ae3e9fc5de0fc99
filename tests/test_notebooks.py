"""The notebooks, from top to bottom, under the profile `ci`, and what the records that they leave say."""

import json
import math
import re

import course_run
import nbformat
import numpy as np
import pandas as pd
import pytest

from lrt import comparing, metrics, models, pairs, profiles, stats
from lrt.course import page, tutorial
from lrt.course.progress import Display
from lrt.runs import read_log
from lrt.study.pool import logs_folder

pytestmark = pytest.mark.notebooks
SETTINGS = profiles.profile("ci")
NAMES = [name for group in tutorial.ORDER for name in group]
METHODS = ("base", "sft", "grpo", "grpo_listener")
MAIN = "tint_uninformative"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """One run of the main job."""
    return course_run.run(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def out(course):
    """Its folder."""
    return course.out


@pytest.fixture(scope="module")
def records(out):
    return stats.load_records(out / "results.json")


def one(records, method, metric, split=MAIN):
    [found] = stats.select(records, method=method, metric=metric, split=split)
    return found


def test_every_notebook_ran_without_an_error(out):
    for name in NAMES:
        notebook = nbformat.read(out / "notebooks" / f"{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        assert all(cell.execution_count for cell in code), f"{name}: every cell was run"
        outputs = [output for cell in code for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        html = "".join(output.data.get("text/html", "") for output in outputs if "data" in output)
        assert html.count("<img") == html.count("alt="), f"{name}: every figure has words"
        assert "<img" in html or (name == "06_controls" and not any(logs_folder().glob("*.jsonl"))), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("split", SETTINGS.splits)
def test_accuracy_of_every_method_on_every_split(records, method, split):
    for metric in ("accuracy", "accuracy_vote", "accuracy_utility"):
        found = one(records, method, metric, split)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert SETTINGS.test_pairs / 2 < found.n <= SETTINGS.test_pairs, "ties alone are left out"
    if method != "sft":  # whose answers alone are another format, half learned here
        assert one(records, method, "parsable", split).value > 0.75, "a few steps do not undo the format"


@pytest.mark.parametrize("method", METHODS)
def test_reliance_on_the_tint_was_measured(records, method):
    flips, unparsable = (one(records, method, metric) for metric in ("flip_rate", "flip_unparsable"))
    assert flips.n == round((1 - unparsable.value) * unparsable.n), "pairs whose two answers can be compared"
    assert flips.n == 0 or 0 <= flips.value <= 1
    agree, conflict = (one(records, method, f"accuracy_{case}") for case in ("agree", "conflict"))
    assert agree.n > 0 < conflict.n and agree.n + conflict.n <= SETTINGS.test_pairs


def test_the_reference_lines_frame_the_methods(records):
    content = one(records, "content_only", "accuracy_utility", "in_distribution")
    assert content.value == 1, "it knows the utility"
    assert one(records, "tint_only", "accuracy_utility", "in_distribution").value > 0.7, "the dial stands at 0.9"
    assert 0.3 < one(records, "tint_only", "accuracy_utility").value < 0.7, "and here at 0.5"


@pytest.mark.parametrize("method", ["base", "grpo", "grpo_listener"])
def test_contradiction_truth_and_faithfulness_of_those_with_traces(records, method):
    for name in (SETTINGS.listener, *SETTINGS.judges):
        for metric in ("contradiction", "contradiction_no_verdict", "disagreement"):
            found = one(records, method, f"{metric}/{name}")
            assert 0 <= found.value <= 1 and found.n > SETTINGS.test_pairs / 2
    assert one(records, method, "own_verdict_departure").value < 0.6, "the base departs in about a fifth of pairs"
    assert one(records, method, "truth").value > 0.6 and one(records, method, "coverage").value > 0.8
    changed, floor = one(records, method, "changed/swapped"), one(records, method, "changed/reordered")
    assert changed.n > 0 < floor.n


@pytest.mark.parametrize("method", ["grpo", "grpo_listener"])
def test_training_was_real(out, method):
    log = read_log(out / method)
    assert [entry["step"] for entry in log] == list(range(1, SETTINGS.grpo_steps + 1))
    heard = [entry.get("rewards/listener_reward/mean") for entry in log]
    if method == "grpo_listener":
        assert all(0 <= value <= 1 for value in heard)
    else:
        assert heard == [None] * len(log), "plain GRPO has no listener"
    assert all(math.isfinite(entry["loss"]) for entry in log)
    weights = [dict(models.load(name).model.named_parameters())
               for name in (SETTINGS.reasoner, str(out / method / "model"))]
    assert weights[0].keys() == weights[1].keys()
    assert any(not (weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_a_number_has_one_value_whichever_notebook_computes_it(out):
    files = [tutorial.records_file(out, name) for name in NAMES]
    assert tutorial.merge_records(files)[1] == []


def test_the_page_shows_all_methods_and_its_figures(out, records):
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "one seed" in text and all(f'href="notebooks/{name}.ipynb"' in text for name in NAMES)
    placed, _ = page.place(page.load_figures(out / "figures"))
    for section, shown in placed.items():
        assert shown, f"no figure stands in the section {section}"
    [(_, rows), *_] = page.table(records)
    assert [label for label, _ in rows] == [split.replace("_", " ") for split in SETTINGS.splits]
    assert not [cell["why"] for _, cells in rows for cell in cells if cell["why"]], "no hole in methods x splits"


def test_asked_again_there_is_nothing_left_to_do(course, out, capsys):
    before = (out / "state.json").read_text()
    tutorial.run_notebooks(course.notebooks, "ci", out)
    said = capsys.readouterr().err
    assert said.count("already done") == len(NAMES) and (out / "state.json").read_text() == before
    assert set(json.loads(before)) == set(NAMES)


def test_an_unknown_parameter_fails(out):
    with pytest.raises(ValueError, match="01_data.ipynb: no parameter steps"):
        tutorial.run_notebooks(tutorial.default_notebooks(), "ci", out, Display(), steps=3)
    from papermill import inspect_notebook

    for path in (path for group in tutorial.default_notebooks() for path in group):
        defaults = {name: p["default"] for name, p in inspect_notebook(str(path)).items()}
        shared = {"profile": '"laptop"', "run_dir": '"runs"', "seed": "0"}
        own = {"logs": '""', "live_steps": "0"} if path.stem == "06_controls" else {}
        assert defaults == shared | own, path.name


# --- 01_data --------------------------------------------------------------------------------------------------------


def test_1_records_are_the_reference_lines(out):
    records = stats.load_records(out / "records" / "01_data.json")
    splits = profiles.profile("ci").splits
    found = {(r.method, r.split, r.metric): r for r in records}
    assert set(found) == {
        (method, split, metric)
        for method in ("content_only", "tint_only")
        for split in splits
        for metric in ("accuracy", "accuracy_vote", "accuracy_utility")
    }
    assert len(found) == len(records) and {r.seed for r in records} == {None}
    for split in splits:
        assert found["content_only", split, "accuracy_utility"].value == 1
        assert 0.6 < found["content_only", split, "accuracy_vote"].value < 1
        tint = found["tint_only", split, "accuracy_utility"]  # binomial around the dial: 4 standard errors
        assert abs(tint.value - pairs.SPLITS[split].shortcut) < 4 * math.sqrt(0.25 / tint.n)


def test_1_figures_and_what_the_reader_is_told(course):
    told, (named, drawn) = course.told("01_data"), course.figures_of("01_data")
    assert named == drawn
    assert told.count('alt="') == len(drawn)
    assert "pairs.csv, row 2 (line 3), column votes_1" in told  # the wrong row
    assert "not a prompt of the tiny world: 'a cat on a mat'" in told
    assert "the same scenes at every dial: True" in told
    assert "most prompts that any two of them share: 0" in told
    assert re.search(r"gold: (\d+) of \1 words are true", told)
    assert "whole prompts: 0 % of the test pairs" in told and "accuracy 50 % [50, 50]" in told  # nothing to recall
    assert "nan %" not in re.sub(r'src="[^"]*"', "", told)


def test_1_solutions_give_what_their_text_says(course):
    noisier, agreement, orders, difference, subtle = course.answers("01_data")
    bounds = [float(x) for x in re.findall(r": ([\d.]+) %", noisier)]
    assert bounds == sorted(bounds) and 50 < bounds[0] and bounds[-1] < 100
    reached = [float(x) for x in re.findall(r": ([\d.]+) %", agreement)]
    assert len(reached) == 3 and 50 < reached[0] < reached[-1]  # fewer votes against the better image
    assert "always first: 0 %" in orders
    low, high = (float(x) for x in re.search(r"the difference: (\S+) to (\S+) points", difference).groups())
    alone = [float(b) - float(a) for a, b in re.findall(r"alone: (\S+) to (\S+) %", difference)]
    assert 0 < high - low < sum(alone)
    assert 70 <= int(re.search(r"(\d+) %", subtle)[1]) <= 80


# --- 02_sft ---------------------------------------------------------------------------------------------------------


def test_2_records_of_base_and_sft(out):
    records = stats.load_records(out / "records" / "02_sft.json")
    found = {(r.method, r.split, r.metric): r for r in records}
    assert len(found) == len(records)
    splits = profiles.profile("ci").splits
    here = {"accuracy_agree", "accuracy_conflict", "flip_rate", "same_answer", "accuracy_consistent"}
    for method in ("base", "sft"):
        assert {(method, s, m) for s in splits for m in ("accuracy", "accuracy_utility", "parsable")} <= set(found)
        assert {(method, "tint_uninformative", metric) for metric in here} <= set(found)
    for split in splits:  # the difference on the same pairs is the difference of the two
        a, b = (found[method, split, "accuracy"] for method in ("sft", "base"))
        paired = found["sft", split, comparing.paired_metric("accuracy", "base")]
        assert paired.value == pytest.approx(a.value - b.value) and paired.low <= paired.value <= paired.high
    assert {r.method for r in records} == {"base", "sft", "stated_rule"}  # the other lines are notebook 01's
    assert found["base", "in_distribution", "parsable"].value > 0.9


@pytest.mark.parametrize("method", ["base", "sft"])
def test_2_judgements_are_those_of_the_records(out, method):
    records = stats.load_records(out / "records" / "02_sft.json")
    frames = {p.stem: pd.read_parquet(p) for p in (out / "judgements" / method).glob("*.parquet")}
    assert set(frames) == {*profiles.profile("ci").splits, "tint_uninformative-swapped"}
    for split in profiles.profile("ci").splits:
        (record,) = stats.select(records, method=method, split=split, metric="accuracy")
        again = metrics.accuracy(frames[split])
        assert (record.value, record.n) == (pytest.approx(again.value), again.n)
    apart = metrics.flips(frames["tint_uninformative"], frames["tint_uninformative-swapped"])
    (record,) = stats.select(records, method=method, metric="flip_rate")
    assert record.n == np.sum(~np.isnan(apart))


def test_2_figures_and_what_the_reader_is_told(course, out):
    told, (named, drawn) = course.told("02_sft"), course.figures_of("02_sft")
    assert named == drawn
    assert "33 tokens, 8 of them image tokens" in told
    assert re.search(r"our loss (\d+\.\d+), the one of transformers \1", told)
    coin, tint, content = (float(x) for x in re.findall(r"<td>(0\.\d+)</td>\s*<td>0\.\d+</td>\s*</tr>", told)[:3])
    assert coin == 0.693 > tint > content > 0.2
    assert (out / "sft" / "model" / "model.safetensors").exists()
    assert re.search(r"\*\*Accuracy in distribution (rose|fell|did not clearly change), and ", told)
    assert "nan" not in re.sub(r'base64,[^"]*', "", told).lower()


def test_2_solutions_give_what_their_text_says(course):
    counting, counts, flips, traces, new_pairs = course.answers("02_sft")
    assert "the labels of this notebook: True" in counting
    estimated, true = (float(x) for x in re.search(r"from counts ([\d.]+), true ([\d.]+)", counts).groups())
    assert estimated < true and "a coin 0.116" in counts
    assert re.search(r"base: \d+ % of \d+ pairs\nSFT: \d+ % of \d+ pairs", flips)
    nats = [float(x) for x in re.findall(r"^\w+ +([\d.]+) \[", new_pairs, re.M)]
    assert len(nats) == len(profiles.profile("ci").splits) and all(0 < x < 3 for x in nats)
    assert "sft_traces, seed 0" in traces and "<think> image 1 :" in traces


# --- 03_grpo --------------------------------------------------------------------------------------------------------


def test_3_records_are_of_the_trained_method_on_every_split(out):
    records = stats.load_records(out / "records" / "03_grpo.json")
    found = {(r.split, r.metric): r for r in records}
    assert len(found) == len(records) and {(r.method, r.seed) for r in records} == {("grpo", 0)}
    for split in profiles.profile("ci").splits:
        expected = {"accuracy", "accuracy_utility", "parsable", "difference/accuracy/base"}
        assert expected <= {metric for where, metric in found if where == split}
        assert 0 <= found[split, "accuracy"].low <= found[split, "accuracy"].value <= found[split, "accuracy"].high <= 1
        assert found[split, "parsable"].value > 0.8  # four small steps do not unlearn the format
        assert (out / "judgements" / "grpo" / f"{split}.parquet").exists()
    assert ("tint_uninformative", "flip_rate") in found
    assert (out / "judgements" / "grpo" / "tint_uninformative-swapped.parquet").exists()
    assert (out / "grpo" / "model" / "config.json").exists()


def test_3_the_reader_sees_both_iterations_agree_with_trl(course):
    told = course.told("03_grpo")
    ours, theirs = re.search(r"our loss (\S+), TRL's (\S+)", told).groups()
    assert abs(float(ours)) < 1e-2 and float(ours) == pytest.approx(float(theirs), abs=1e-6)
    norms = re.search(r"norm of the gradient: ours (\S+), TRL's (\S+)", told).groups()
    assert float(norms[0]) > 0.01 and norms[0] == norms[1]
    second = re.search(r"second iteration: loss (\S+), TRL's (\S+); (\d+) tokens without gradient", told)
    assert second[1] == second[2] and int(second[3]) > 0


def test_3_figures_and_what_the_reader_is_told(course):
    told, (named, drawn) = course.told("03_grpo"), course.figures_of("03_grpo")
    assert named == drawn
    assert 'class="lrt-viewer"' in told and "step 0 (" in told
    assert "nan" not in re.sub(r'(?i)base64,[^"]*', "", told).lower()
    assert "warning" not in told.lower()


def test_3_solutions_give_what_their_text_says(course):
    two, at_one, leash, clipped, hasty = course.answers("03_grpo")
    assert two.count("0.707") == 4 and two.count("0.697") == 2
    losses = np.array(re.findall(r"dapo (\S+), grpo (\S+)", at_one), dtype=float)
    assert (abs(losses[:, 1]) < 1e-5).all() and losses[1, 0] < -0.01  # zero in every batch; about lengths
    held = [int(x) for x in re.findall(r"(\d+) tokens held", clipped)]
    assert held == sorted(held, reverse=True) and held[0] > held[-1]
    k1, k3 = (list(map(float, re.findall(r"-?\d+\.\d+", line))) for line in leash.splitlines())
    assert k1[2] < 0 <= k3[2]
    assert "rewards/format_reward/mean" in hasty
