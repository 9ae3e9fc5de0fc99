"""Notebook 02: the loss that it teaches is the trainer's (test_notebooks.py runs it)."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import build
from trl import SFTTrainer

from lrt import pairs, sft

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "02_sft.ipynb"


# --- what it teaches -------------------------------------------------------------------------------------------------


def taught(name):
    """The function of the one tagged cell that defines it; nothing else of the notebook is run."""
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if "teaches" in c.metadata.get("tags", [])]
    (source,) = [cell.source for cell in cells if f"def {name}(" in cell.source]
    scope = {}
    exec(source, scope)
    return scope[name]


@pytest.mark.parametrize("target", ["answer", "trace"])  # equal completions, and unequal ones, which are padded
def test_the_loss_and_its_gradient_are_the_trainer_s(tmp_path, target):
    settings = sft.SFTSettings(steps=1, pairs_per_step=4)
    loaded, twin = build(), build().model
    rows = sft.training_rows(pairs.tiny_pairs("train", 12).select([0, 4, 6, 11]), settings, loaded, target)
    config = sft.trl_config(settings, tmp_path, loaded.device)
    trainer = SFTTrainer(model=loaded.model, processing_class=loaded.processor, args=config, train_dataset=rows)
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["labels"]
    lengths = set((labels != -100).sum(dim=1).tolist())
    assert lengths == {6} if target == "answer" else len(lengths) > 1

    theirs = trainer.compute_loss(loaded.model, dict(batch))
    theirs.backward()
    ours = taught("completion_loss")(twin(**{k: v for k, v in batch.items() if k != "labels"}).logits, labels)
    ours.backward()
    torch.testing.assert_close(ours, theirs)
    for (name, a), (_, b) in zip(twin.named_parameters(), loaded.model.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


@given(st.integers(0, 5), st.lists(st.booleans(), min_size=2, max_size=7).filter(lambda scored: any(scored[1:])))
def test_only_scored_tokens_count(seed, scored):
    r = torch.Generator().manual_seed(seed)
    logits, ids = torch.randn(1, len(scored), 5, generator=r), torch.randint(5, (1, len(scored)), generator=r)
    labels = torch.where(torch.tensor([scored]), ids, -100)
    by_hand = [-math.log(logits[0, t - 1].softmax(-1)[ids[0, t]]) for t in range(1, len(scored)) if scored[t]]
    loss = taught("completion_loss")(logits, labels)
    assert loss.item() == pytest.approx(np.mean(by_hand), rel=1e-4)
    unscored = torch.tensor([not s for s in scored[1:]] + [True])  # positions whose next token is not scored
    assert torch.equal(taught("completion_loss")(logits + 9 * unscored[None, :, None] * logits.sign(), labels), loss)
