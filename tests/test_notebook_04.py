"""Notebook 04 teaches the listener's reward: its cell and the package give the same numbers."""

from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.listener import p_of
from lrt.rewards import ListenerReward

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "04_listener_rewards.ipynb"
logits = st.floats(-50, 50)


def taught():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    [source] = [cell.source for cell in cells if "teaches" in cell.metadata.get("tags", [])]
    names = {}
    exec(source, names)  # our own notebook's cell
    return names["listener_reward"]


@given(z_1=logits, z_2=logits, vote=st.sampled_from([1, 2]))
def test_the_taught_softmax_is_the_package_s(z_1, z_2, vote):
    p_first = p_of((z_1, z_2))
    assert taught()(z_1, z_2, vote) == pytest.approx(p_first if vote == 1 else 1 - p_first, abs=1e-12)


def test_the_taught_reward_is_what_training_pays():
    class Fixed:
        name = "fixed"

        def p_first(self, prompts_B, images_B, traces_BG):
            return [[p_of((1.5, -0.5)) for _ in traces] for traces in traces_BG]

    text = "<think> image 1 is better . </think> <answer> 1 </answer>"
    for vote in (1, 2):
        paid = ListenerReward(Fixed())(completions=[text], pair_text=["p"], images=[()], vote=[vote], pair_id=["a"])
        assert paid == [pytest.approx(taught()(1.5, -0.5, vote))]
