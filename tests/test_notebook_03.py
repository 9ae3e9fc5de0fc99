"""Notebook 03: the step that it derives is the package's (test_notebooks.py runs it)."""

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

from lrt import by_hand, rewards

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
