"""Notebook 01: what it teaches cell by cell is what the package does (test_notebooks.py runs it)."""

import math
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import pairs, stats, world

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
