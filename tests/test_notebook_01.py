"""Notebook 01: what it teaches is what the package does, and it runs, with its exercises, and records what it says."""

import math
import re
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import pairs, profiles, stats, world

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "01_data.ipynb"


# --- what it teaches ---------------------------------------------------------------------------------------


@cache
def taught(name):
    """The function of the one tagged cell that defines it; nothing else of the notebook is run."""
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if "teaches" in c.metadata.get("tags", [])]
    (source,) = [cell.source for cell in cells if f"def {name}(" in cell.source]
    scope = {}
    exec(source, scope)
    return scope[name]


@settings(deadline=None)
@given(st.floats(-5, 0), st.floats(-5, 0))
def test_the_vote_function_is_the_world_s(utility_1, utility_2):
    assert taught("p_prefer_first")(utility_1, utility_2) == world.p_prefer_first(utility_1, utility_2)


@settings(deadline=None)
@given(st.text())
def test_the_bucket_is_the_splits_own(prompt_id):
    assert taught("bucket")(prompt_id) == pairs.bucket(prompt_id)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcde")), min_size=2, max_size=30), st.integers(0, 9))
def test_the_interval_is_the_package_s(rows, seed):
    right, prompts = (list(column) for column in zip(*rows, strict=True))
    value, low, high, n = stats.bootstrap(right, prompts, n_boot=50, seed=seed)
    if math.isnan(low):  # one prompt: the package says that it cannot know
        assert len(set(prompts)) == 1
    else:
        ends = taught("interval_over_prompts")(right, prompts, n_boot=50, seed=seed)
        np.testing.assert_allclose(ends, (low, high), atol=1e-12)


# --- the whole notebook --------------------------------------------------------------------------------------


@pytest.mark.notebooks
def test_records_are_the_reference_lines(course):
    folder = course.out
    records = stats.load_records(folder / "records" / "01_data.json")
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


@pytest.mark.notebooks
def test_figures_and_what_the_reader_is_told(course):
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


@pytest.mark.notebooks
def test_solutions_give_what_their_text_says(course):
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
