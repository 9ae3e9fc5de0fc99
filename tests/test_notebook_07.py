"""Notebook 07 under the profile `ci`: a tiny model in place of the 3B one, files in the real formats, its solutions."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from lrt import stats
from lrt.course import tutorial
from lrt.course.progress import Display
from lrt.runs import read_log

pytestmark = pytest.mark.notebooks
NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "07_real_scale.ipynb"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a run of the notebook with its solutions behind it."""
    folder = tmp_path_factory.mktemp("real")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    solutions = [code for cell in notebook.cells if cell.cell_type == "markdown"
                 for part in re.findall(r"<summary>Solution</summary>(.*?)</details>", cell.source, re.S)
                 for code in re.findall(r"```python\n(.*?)```", part, re.S)]
    assert len(solutions) == 3
    notebook.cells += [new_code_cell(code) for code in solutions]
    path = folder / NOTEBOOK.name
    nbformat.write(notebook, path)
    tutorial.run_notebooks([[path]], "ci", folder / "run", Display(), steps=2)
    return folder / "run"


@pytest.fixture(scope="module")
def text(out):
    """What its cells printed, and the Markdown that they showed."""
    notebook = nbformat.read(out / "notebooks" / NOTEBOOK.name, as_version=4)
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/markdown", "") for output in shown)


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
