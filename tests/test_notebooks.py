"""The notebooks, from top to bottom, under the profile `ci`, and what the records that they leave say."""

import json
import math

import nbformat
import pytest

from lrt import models, profiles, stats
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
def out(course):
    """The folder of one run of the main job."""
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
