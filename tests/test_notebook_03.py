"""Notebook 03: the step that it derives is the package's, and it runs, with its exercises, and records what it says."""

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lrt import by_hand, profiles, rewards, stats

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "03_grpo.ipynb"


# --- what it teaches ---------------------------------------------------------------------------------------


@cache
def taught(name):
    """The function of the one tagged cell that defines it; nothing else of the notebook is run."""
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if "teaches" in c.metadata.get("tags", [])]
    (source,) = [cell.source for cell in cells if f"def {name}(" in cell.source]
    scope = {"torch": torch}
    exec(source, scope)
    return scope[name]


shapes = st.tuples(st.integers(1, 4), st.integers(2, 8))
groups = hnp.arrays(float, shapes, elements=st.sampled_from([0.0, 1.0, 1.3, 1.5]))


@settings(deadline=None)
@given(groups, st.sampled_from([0, 1]))
def test_the_advantage_is_the_package_s(rewards_BG, ddof):
    ours = taught("advantages")(torch.tensor(rewards_BG), ddof)
    np.testing.assert_allclose(ours, rewards.advantages(rewards_BG, ddof=ddof), atol=1e-9)
    if ddof == 1:
        torch.testing.assert_close(ours, by_hand.advantages(torch.tensor(rewards_BG)))


def test_the_log_probabilities_are_the_package_s():
    """A model whose logits are a known function of the token before: nothing to load, everything to predict."""
    V = 7
    rows = torch.arange(V * V, dtype=torch.float32).view(V, V).sin()
    model = lambda input_ids, attention_mask, **seen: SimpleNamespace(logits=rows[input_ids])  # noqa: E731
    torch.manual_seed(0)
    batch = {
        "prompt_ids": torch.randint(V, (3, 4)),
        "prompt_mask": torch.ones(3, 4),
        "completion_ids": torch.randint(V, (3, 5)),
        "completion_mask": torch.tensor([[1.0] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]),
        **{name: torch.zeros(3) for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")},
    }
    ours = taught("log_probs")(model, batch)
    torch.testing.assert_close(ours, by_hand.log_probs(model, batch))
    before, token = batch["completion_ids"][0, 1], batch["completion_ids"][0, 2]
    assert ours[0, 2].item() == pytest.approx(rows[before].log_softmax(-1)[token].item(), abs=1e-6)
    assert (ours[1, 2:] == 0).all() and (ours[0] < 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_the_package_s_and_autograd_s(seed):
    torch.manual_seed(seed)
    logp = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    old, A = logp.detach() + 0.4 * torch.randn(6, 9), torch.randn(6, dtype=torch.float64)
    mask = torch.rand(6, 9) < 0.8
    weights = by_hand.token_weights(mask.double(), "dapo")
    loss = taught("grpo_loss")(logp, old, A, mask)
    torch.testing.assert_close(loss, by_hand.loss(logp, old, A, weights))
    gradient, held = taught("loss_gradient")(logp, old, A, mask)
    torch.testing.assert_close(gradient, by_hand.loss_gradient(logp, old, A, weights))
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, logp)[0])
    assert torch.equal(held, by_hand.clipped_away((logp - old).exp().detach(), A))
    assert 0 < (held & mask).sum() < mask.sum()


# --- the whole notebook --------------------------------------------------------------------------------------


@pytest.mark.notebooks
def test_records_are_of_the_trained_method_on_every_split(course):
    folder = course.out
    records = stats.load_records(folder / "records" / "03_grpo.json")
    found = {(r.split, r.metric): r for r in records}
    assert len(found) == len(records) and {(r.method, r.seed) for r in records} == {("grpo", 0)}
    for split in profiles.profile("ci").splits:
        expected = {"accuracy", "accuracy_utility", "parsable", "difference/accuracy/base"}
        assert expected <= {metric for where, metric in found if where == split}
        assert 0 <= found[split, "accuracy"].low <= found[split, "accuracy"].value <= found[split, "accuracy"].high <= 1
        assert found[split, "parsable"].value > 0.8  # four small steps do not unlearn the format
        assert (folder / "judgements" / "grpo" / f"{split}.parquet").exists()
    assert ("tint_uninformative", "flip_rate") in found
    assert (folder / "judgements" / "grpo" / "tint_uninformative-swapped.parquet").exists()
    assert (folder / "grpo" / "model" / "config.json").exists()


@pytest.mark.notebooks
def test_the_reader_sees_both_iterations_agree_with_trl(course):
    told = course.told("03_grpo")
    ours, theirs = re.search(r"our loss (\S+), TRL's (\S+)", told).groups()
    assert abs(float(ours)) < 1e-2 and float(ours) == pytest.approx(float(theirs), abs=1e-6)
    norms = re.search(r"norm of the gradient: ours (\S+), TRL's (\S+)", told).groups()
    assert float(norms[0]) > 0.01 and norms[0] == norms[1]
    second = re.search(r"second iteration: loss (\S+), TRL's (\S+); (\d+) tokens without gradient", told)
    assert second[1] == second[2] and int(second[3]) > 0


@pytest.mark.notebooks
def test_figures_and_what_the_reader_is_told(course):
    told, (named, drawn) = course.told("03_grpo"), course.figures_of("03_grpo")
    assert named == drawn
    assert 'class="lrt-viewer"' in told and "step 0 (" in told
    assert "nan" not in re.sub(r'(?i)base64,[^"]*', "", told).lower()
    assert "warning" not in told.lower()


@pytest.mark.notebooks
def test_solutions_give_what_their_text_says(course):
    two, at_one, leash, clipped, hasty = course.answers("03_grpo")
    assert two.count("0.707") == 4 and two.count("0.697") == 2
    losses = np.array(re.findall(r"dapo (\S+), grpo (\S+)", at_one), dtype=float)
    assert (abs(losses[:, 1]) < 1e-5).all() and losses[1, 0] < -0.01  # zero in every batch; about lengths
    held = [int(x) for x in re.findall(r"(\d+) tokens held", clipped)]
    assert held == sorted(held, reverse=True) and held[0] > held[-1]
    k1, k3 = (list(map(float, re.findall(r"-?\d+\.\d+", line))) for line in leash.splitlines())
    assert k1[2] < 0 <= k3[2]
    assert "rewards/format_reward/mean" in hasty
