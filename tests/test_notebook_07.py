"""Notebook 07 under the profile `ci`: a tiny model in place of the 3B one, files in the real formats, its solutions."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import course_run
import nbformat
import pytest

from lrt import models, prompts, stats
from lrt.course import tutorial
from lrt.course.progress import Display
from lrt.machine.run_cost import run_cost
from lrt.profiles import COLAB_T4, GPU, PROFILES
from lrt.runs import read_log

pytestmark = pytest.mark.notebooks
NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "07_real_scale.ipynb"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a run of the notebook with its solutions behind it."""
    folder = tmp_path_factory.mktemp("real")
    path = course_run.solved(NOTEBOOK, folder)
    assert sum(bool(cell.metadata.get("solution")) for cell in nbformat.read(path, as_version=4).cells) == 3
    tutorial.run_notebooks([[path]], "ci", folder / "run", Display(), steps=2)
    return folder / "run"


@pytest.fixture(scope="module")
def text(out):
    """What its cells printed, and the Markdown that they showed. What is printed comes in pieces, cut anywhere."""
    notebook = nbformat.read(out / "notebooks" / NOTEBOOK.name, as_version=4)
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    return "".join(output.get("text", "") or output.get("data", {}).get("text/markdown", "") + "\n" for output in shown)


def cell(cell_id):
    (found,) = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.id == cell_id]
    return found


def test_it_asks_colab_for_the_card_that_its_profile_is_for():
    about = nbformat.read(NOTEBOOK, as_version=4).metadata
    assert (about["accelerator"], about["colab"]["gpuType"]) == ("GPU", "T4") and "T4 GPU" in cell("c6eff3fa")


def test_its_first_cell_says_what_arithmetic_says():
    """Twenty steps, which is what the notebook takes when nothing is said."""
    assert "short run of 20 steps is about half an hour of training and half an hour of judging" in cell("c6eff3fa")
    assert "steps or min(20, settings.grpo_steps)" in cell("ed7ec449")
    hours = dict(run_cost(replace(COLAB_T4, grpo_steps=20)).hours)
    assert hours.pop("evaluation") == pytest.approx(1 / 2, abs=0.1)
    assert sum(hours.values()) == pytest.approx(1 / 2, abs=0.1)


@pytest.mark.parametrize(
    ("profile", "given", "wanted"),
    [
        (COLAB_T4, {}, ("imagereward", "train of the hub", "imagereward", "test of the hub")),
        (GPU, {"train_labels": "t.json"}, ("hpdv2", "t.json", "imagereward", "test of the hub")),
        (GPU, {"train_labels": "t", "train_source": "rapidata"}, ("rapidata", "t", "imagereward", "test of the hub")),
        (PROFILES["ci"], {}, ("hpdv2", "train.json", "imagereward", "test.json")),
        (PROFILES["ci"], {"test_labels": "x", "test_source": "hpdv2"}, ("hpdv2", "train.json", "hpdv2", "x")),
    ],
)
def test_without_files_a_real_model_gets_real_pairs_and_a_tiny_one_the_samples(profile, given, wanted):
    class Hub:
        imagereward_part = staticmethod(lambda folder, split: (f"{split} of the hub", folder))

    names = ("train_source", "train_labels", "train_images", "test_source", "test_labels", "test_images")
    space = {**dict.fromkeys(names, ""), **given, "settings": profile, "hub_files": Hub, "models": models,
             "Path": Path, "os": os}
    exec(cell("09e2cab8").split("for name,")[0], space)
    found = (space["train_source"], space["train_files"][0], space["test_source"], space["test_files"][0])
    assert tuple(Path(one).name for one in found) == wanted


@pytest.mark.parametrize(("ids", "said"), [((16, 17), "are the tokens 16 and 17"), (None, "as whole continuations")])
def test_it_says_which_way_the_answers_are_scored(ids, said, capsys):
    """A tokenizer that merges an answer with what stands before it is no error."""
    lines = cell("2977ed66").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("ids = "))

    class Slot:
        single_answer_ids = staticmethod(lambda loaded, texts: ids)

    exec("\n".join(lines[start:start + 3]), {"answer_slot": Slot, "prompts": prompts, "reasoner": None})
    assert said in capsys.readouterr().out


def test_it_trained_an_adapter_whose_base_is_the_listener(out, text):
    assert [entry["step"] for entry in read_log(out / "real_scale" / "grpo_listener")] == [1, 2]
    assert (out / "real_scale" / "grpo_listener" / "model" / "adapter_config.json").exists()
    assert "(2.7%)" in text, "of the weights are trained"


def test_it_scores_a_file_that_anybody_could_have_written(out):
    lines = [json.loads(line) for line in (out / "real_scale" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 24 and {line["choice"] for line in lines} <= {0, 1, 2}
    records = {(r.metric, r.split): r for r in stats.load_records(out / "real_scale" / "scores.json")}
    assert records and all(0 <= r.value <= 1 for r in records.values())


def test_it_says_what_it_is_not(text):
    assert "drawn by the tiny world" in text and "not comparable" in text
    assert "4 of the test's prompts are in training as well" in text
    assert "No such run" in text or "no such run was made" in text


def test_its_solutions_say_what_they_should(text):
    assert "'connection'" in text and "[[None, None]]" in text
    assert re.search(r"imagereward \d+\.\d%\nhpsv2_macro \d+\.\d%", text)
