"""Notebook 04 teaches the listener's reward: its cell and the package give the same numbers."""

import re
from pathlib import Path

import IPython.display
import nbformat
import pytest
from hypothesis import given, settings
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


@settings(deadline=None)
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


# --- the exercises ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The notebook's names after the cells that the exercises need: all before the training, and the controls."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IPython.display, "display", lambda *shown: None)
        cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
        training = next(i for i, cell in enumerate(cells) if "methods.training_pairs(" in cell.source)
        [controls] = [cell for cell in cells if "heard_texts = " in cell.source]
        for cell in [*cells[:training], controls]:
            exec(cell.source, found)  # our own notebook's cells
            if "parameters" in cell.metadata.get("tags", []):
                found |= {"profile": "ci", "run_dir": str(tmp_path_factory.mktemp("run"))}
    return found


@pytest.mark.notebooks
def test_solutions_run_on_the_notebook_s_own_names(names, capsys):
    text = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
    said = []
    for solution in re.findall(r"<summary>Solution</summary>\s*```python\n(.*?)```", text, re.S):
        exec(solution, dict(names))
        said.append(capsys.readouterr().out)
    slot, parts, cost, agreement, log_p = said
    ours, paid = ([float(x) for x in re.findall(r"\d\.\d*", line)] for line in slot.splitlines())
    assert len(ours) == len(paid) == names["n"]
    assert all(a == b or b == 0 for a, b in zip(ours, paid, strict=True)) and any(paid)
    assert parts.splitlines() == ["[None, None, 0.4, 0.4]", "[0.9, 0.0, 0.4, 0.4]"]
    plain, shared = (int(x) for x in re.findall(r"(\d+) (?:plainly|with a shared)", cost))
    assert shared < plain
    assert agreement.strip() and log_p.count("[[") == 1
