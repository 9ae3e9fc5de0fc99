"""Notebook 05: what it teaches cell by cell equals what the package does, and its solutions run on its own names."""

import ast
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from lrt import contradiction, stats

NOTEBOOK = nbformat.read(Path(__file__).resolve().parents[1] / "notebooks" / "05_contradictions.ipynb", as_version=4)
SOLUTIONS = re.findall(r"```python\n(.*?)```", "\n".join(c.source for c in NOTEBOOK.cells), re.S)


@pytest.fixture(scope="module")
def taught():
    """The functions of the cells that teach, executed alone."""
    names = {"np": np, "math": math}
    for cell in NOTEBOOK.cells:
        if "teaches" in cell.metadata.get("tags", []):
            exec(cell.source, names)
    return names


def judged(seed, n=200):
    """A judgement table with unparsable completions, ties and every edge of the bins, and p to go with it."""
    r = np.random.default_rng(seed)
    answer = r.choice([1, 2, None], n, p=[0.45, 0.45, 0.1])
    p = np.where(r.random(n) < 0.3, r.choice([0, 0.2, 0.4, 0.5, 0.6, 0.8, 1], n), r.random(n))
    table = pd.DataFrame({
        "prompt_id": r.integers(20, size=n).astype(str),
        "answer": pd.array(answer, dtype="Int64"),
        "share": r.choice([0, 0.25, 0.5, 0.75, 1], n),
    })
    return table, np.where(r.random(n) < 0.1, np.nan, p)


def floats(answers):
    return answers.astype("Float64").to_numpy(float, na_value=np.nan)


@pytest.mark.parametrize("seed", range(3))
def test_contradiction_and_disagreement_as_taught(taught, seed):
    table, p = judged(seed)
    answer = floats(table["answer"])
    np.testing.assert_allclose(taught["disagreement"](answer, p), contradiction.disagreement(table, p))
    np.testing.assert_array_equal(taught["contradicts"](answer, p), contradiction.contradictions(table, p))


@pytest.mark.parametrize("seed", range(3))
def test_bins_as_taught(taught, seed):
    table, p = judged(seed)
    d, right = contradiction.disagreement(table, p), contradiction.correct(table)
    ours = taught["accuracy_by_bin"](d, right)
    theirs = contradiction.disagreement_bins(table, p)
    assert [n for _, n in ours] == [b["n"] for b in theirs]
    np.testing.assert_allclose([accuracy for accuracy, _ in ours], [b["accuracy"] for b in theirs])


def test_an_empty_bin_has_no_accuracy(taught):
    *_, (accuracy, n) = taught["accuracy_by_bin"](np.array([0.1, np.nan]), np.array([1.0, 0.0]))
    assert math.isnan(accuracy) and n == 0


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_as_taught(taught, seed):
    r = np.random.default_rng(seed)
    p, hit = r.choice(np.linspace(0, 1, 41), 150), r.choice([0, 1, np.nan], 150)
    assert taught["calibration_error"](p, hit) == pytest.approx(stats.ece(p, hit))


def test_solutions_are_folded_and_use_names_that_exist():
    """Each exercise has one folded solution, whose names the notebook or the solution itself defines."""
    source = "\n".join(c.source for c in NOTEBOOK.cells if c.cell_type == "markdown")
    assert source.count("<details><summary>Solution</summary>") == len(SOLUTIONS) == 5
    assert source.count("<details>") == source.count("</details>")
    code = "\n".join(c.source for c in NOTEBOOK.cells if c.cell_type == "code")
    known = defined(code) | set(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)
    for solution in SOLUTIONS:
        used = {n.id for n in ast.walk(ast.parse(solution)) if isinstance(n, ast.Name)}
        assert used <= known | defined(solution)


def defined(code):
    """Names that code assigns, imports, or takes as arguments."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.arg(arg=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name)
    return found
