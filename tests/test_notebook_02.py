"""Notebook 02: the loss that it teaches is the trainer's, and it runs, with its exercises, and records what it says."""

import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import build
from trl import SFTTrainer

from lrt import metrics, pairs, profiles, sft, stats, story

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


# --- the whole notebook ----------------------------------------------------------------------------------------------


@pytest.mark.notebooks
def test_records_of_base_and_sft(course):
    folder = course.out
    records = stats.load_records(folder / "records" / "02_sft.json")
    found = {(r.method, r.split, r.metric): r for r in records}
    assert len(found) == len(records)
    splits = profiles.profile("ci").splits
    here = {"accuracy_agree", "accuracy_conflict", "flip_rate", "same_answer", "accuracy_consistent"}
    for method in ("base", "sft"):
        assert {(method, s, m) for s in splits for m in ("accuracy", "accuracy_utility", "parsable")} <= set(found)
        assert {(method, "tint_uninformative", metric) for metric in here} <= set(found)
    for split in splits:  # the difference on the same pairs is the difference of the two
        a, b = (found[method, split, "accuracy"] for method in ("sft", "base"))
        paired = found["sft", split, story.paired_metric("accuracy", "base")]
        assert paired.value == pytest.approx(a.value - b.value) and paired.low <= paired.value <= paired.high
    assert {r.method for r in records} == {"base", "sft", "stated_rule"}  # the other lines are notebook 01's
    assert found["base", "in_distribution", "parsable"].value > 0.9


@pytest.mark.notebooks
@pytest.mark.parametrize("method", ["base", "sft"])
def test_judgements_are_those_of_the_records(course, method):
    folder = course.out
    records = stats.load_records(folder / "records" / "02_sft.json")
    frames = {p.stem: pd.read_parquet(p) for p in (folder / "judgements" / method).glob("*.parquet")}
    assert set(frames) == {*profiles.profile("ci").splits, "tint_uninformative-swapped"}
    for split in profiles.profile("ci").splits:
        (record,) = stats.select(records, method=method, split=split, metric="accuracy")
        again = metrics.accuracy(frames[split])
        assert (record.value, record.n) == (pytest.approx(again.value), again.n)
    apart = metrics.flips(frames["tint_uninformative"], frames["tint_uninformative-swapped"])
    (record,) = stats.select(records, method=method, metric="flip_rate")
    assert record.n == np.sum(~np.isnan(apart))


@pytest.mark.notebooks
def test_figures_and_what_the_reader_is_told(course):
    told, (named, drawn) = course.told("02_sft"), course.figures_of("02_sft")
    assert named == drawn
    assert "33 tokens, 8 of them image tokens" in told
    assert re.search(r"our loss (\d+\.\d+), the one of transformers \1", told)
    coin, tint, content = (float(x) for x in re.findall(r"<td>(0\.\d+)</td>\s*<td>0\.\d+</td>\s*</tr>", told)[:3])
    assert coin == 0.693 > tint > content > 0.2
    assert (course.out / "sft" / "model" / "model.safetensors").exists()
    assert re.search(r"\*\*Accuracy in distribution (rose|fell|did not clearly change), and ", told)
    assert "nan" not in re.sub(r'base64,[^"]*', "", told).lower()


@pytest.mark.notebooks
def test_solutions_give_what_their_text_says(course):
    counting, counts, flips, traces, new_pairs = course.answers("02_sft")
    assert "the labels of this notebook: True" in counting
    estimated, true = (float(x) for x in re.search(r"from counts ([\d.]+), true ([\d.]+)", counts).groups())
    assert estimated < true and "a coin 0.116" in counts
    assert re.search(r"base: \d+ % of \d+ pairs\nSFT: \d+ % of \d+ pairs", flips)
    nats = [float(x) for x in re.findall(r"^\w+ +([\d.]+) \[", new_pairs, re.M)]
    assert len(nats) == len(profiles.profile("ci").splits) and all(0 < x < 3 for x in nats)
    assert "sft_traces, seed 0" in traces and "<think> image 1 :" in traces
