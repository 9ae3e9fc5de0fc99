"""A head that gives an image a number: its loss, its symmetry, and that a killed run ends as one that was not."""

import math

import numpy as np
import pytest
import torch
from tiny_runs import DEVICES, assert_same_weights, build, changed, saved, untimed, weights

from lrt import models
from lrt.bradley_terry import BTSettings, QwenWithHead, Scorer, train_bradley_terry, training_rows
from lrt.checkpoints import with_adapter
from lrt.pairs import swap_order, tiny_pairs
from lrt.rows import balanced_order, row_order

PAIRS = tiny_pairs("train", 12)
SETTINGS = BTSettings(steps=6, pairs_per_step=4, lr=1e-3, save_every=2, seed=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("bt") / "base")


def scorer(base, device="cpu"):
    return Scorer.of(models.load(base, device, torch.float32, trainable=True), seed=1)


def train(base, out, device="cpu", settings=SETTINGS, on_step=lambda *_: None):
    judge = scorer(base, device)
    return judge, train_bradley_terry(judge, PAIRS, settings, out, on_step)


# --- the judge


def test_a_fresh_head_changes_nothing_but_is_there(base):
    loaded = models.load(base, trainable=True)
    one, same, other = (Scorer.of(loaded, seed).loaded.model for seed in (1, 1, 2))
    own = weights(loaded.model)
    assert set(weights(one)) - set(own) == {"score.weight"}
    assert_same_weights({name: w for name, w in weights(one).items() if name in own}, own)
    assert_same_weights(weights(one), weights(same))
    assert changed(weights(one), weights(other)) == {"score.weight"}
    with torch.no_grad():
        one.score.weight.zero_()
        next(iter(one.model.parameters())).zero_()
    assert_same_weights(weights(loaded.model), own)  # a copy


def test_the_head_is_random_with_the_variance_that_is_said():
    loaded = build()
    heads = torch.cat([Scorer.of(loaded, seed).loaded.model.score.weight.detach().flatten() for seed in range(40)])
    width = loaded.model.config.text_config.hidden_size
    assert heads.std().item() == pytest.approx((width + 1) ** -0.5, rel=0.1) and abs(heads.mean()) < 0.02


def test_a_score_is_the_head_on_the_last_position_of_one_image(base):
    judge = scorer(base)
    model, processor = judge.loaded.model, judge.loaded.processor
    for row, found in zip(PAIRS, judge.scores(PAIRS, batch=5), strict=True):
        text = f"<|im_start|>user\nimage 1 : <|vision_start|><|image_pad|><|vision_end|> prompt : {row['prompt']} ."
        text += "<|im_end|>\n<|im_start|>assistant\n"
        for side in (0, 1):
            alone = processor(text=[text], images=[[row["images"][side]]], return_tensors="pt")
            with torch.no_grad():
                last = model.model(**alone).last_hidden_state[0, -1]
            assert found[side] == pytest.approx((last @ model.score.weight[0]).item(), abs=1e-5)
    assert judge.chat("a b") == judge.chat("a b").replace("image 2", "") and "prompt : a b ." in judge.chat("a b")


def test_the_order_of_a_pair_cannot_matter(base):
    judge = scorer(base)
    forward, turned = judge.scores(PAIRS), judge.scores(swap_order(PAIRS))
    np.testing.assert_allclose(turned[:, ::-1], forward, atol=1e-6)
    assert judge.choices(PAIRS).tolist() == [1 if a > b else 2 for a, b in forward]
    clear = np.abs(forward[:, 0] - forward[:, 1]) > 1e-5
    assert clear.any() and (judge.choices(swap_order(PAIRS)) == 3 - judge.choices(PAIRS))[clear].all()


def test_scoring_leaves_the_model_as_it_was(base):
    judge = scorer(base)
    judge.loaded.model.train()
    before = weights(judge.loaded.model)
    judge.choices(PAIRS)
    assert judge.loaded.model.training and judge.choices(PAIRS.select([])).tolist() == []
    assert_same_weights(weights(judge.loaded.model), before)


def test_only_what_it_was_built_for(base):
    with pytest.raises(ValueError, match="built on Qwen2.5-VL, not LlavaForConditionalGeneration"):
        Scorer.of(build("llava"))
    with pytest.raises(ValueError, match="has an adapter"):
        Scorer.of(with_adapter(models.load(base, trainable=True), rank=2))


# --- training


def test_rows_come_in_the_order_of_the_other_trainers():
    rows = training_rows(PAIRS, SETTINGS)
    assert rows["prompt"][:] == [PAIRS[i]["prompt"] for i in row_order(12, 4, 6, 3)]
    even = training_rows(PAIRS, BTSettings(steps=3, pairs_per_step=4, balance_votes=True, seed=3))["vote"][:]
    assert even == [PAIRS[i]["vote"] for i in balanced_order(PAIRS["vote"][:], 4, 3, 3)]
    assert [sorted(even[i : i + 4]) for i in (0, 4, 8)] == [[1, 1, 2, 2]] * 3


@pytest.mark.parametrize("device", DEVICES)
def test_the_loss_is_bradley_and_terrys_on_the_votes(base, tmp_path, device):
    s_B2 = scorer(base, device).scores(PAIRS)
    _, log = train(base, tmp_path, device, BTSettings(steps=1, pairs_per_step=4, seed=3))
    margins = []
    for i in row_order(12, 4, 1, 3):
        win = PAIRS[i]["vote"] - 1
        margins.append(s_B2[i, win] - s_B2[i, 1 - win])
    assert log[0]["loss"] == pytest.approx(np.mean([math.log1p(math.exp(-m)) for m in margins]), rel=1e-4)
    assert log[0]["margin"] == pytest.approx(np.mean(margins), abs=1e-5)
    assert log[0]["accuracy"] == np.mean([m > 0 for m in margins])


@pytest.mark.parametrize("device", DEVICES)
def test_it_learns_with_its_whole_network(base, tmp_path, device):
    before = weights(scorer(base, device).loaded.model)
    judge, log = train(base, tmp_path, device, BTSettings(steps=30, pairs_per_step=12, lr=3e-3, seed=3))
    assert np.mean([record["loss"] for record in log[-5:]]) < 0.6 * log[0]["loss"]
    assert np.mean(judge.choices(PAIRS) == PAIRS["vote"][:]) > 0.8
    moved = changed(before, weights(judge.loaded.model))
    assert "score.weight" in moved and any("visual" in name for name in moved)
    assert {name for name in before if "language_model.layers" in name and name.endswith("weight")} <= moved


@pytest.mark.parametrize("device", DEVICES)
def test_killed_and_started_again_it_ends_the_same(base, tmp_path, device):
    def kill(step, total, record):
        if step == 5:
            raise KeyboardInterrupt

    steps = []
    whole, log = train(base, tmp_path / "whole", device)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "killed", device, on_step=kill)
    again, log_again = train(base, tmp_path / "killed", device, on_step=lambda step, *_: steps.append(step))
    assert steps == [5, 6]  # it went on from checkpoint 4
    assert untimed(log_again) == untimed(log)
    assert_same_weights(weights(again.loaded.model), weights(whole.loaded.model))
    kept, _ = train(base, tmp_path / "killed", device, on_step=lambda *_: pytest.fail("nothing is left to do"))
    assert_same_weights(weights(kept.loaded.model), weights(whole.loaded.model))
    read = QwenWithHead.from_pretrained(tmp_path / "killed/model", dtype=torch.float32).to(device)
    assert_same_weights(weights(read), weights(whole.loaded.model))


def test_another_call_needs_another_folder(base, tmp_path):
    train(base, tmp_path, settings=BTSettings(steps=1, pairs_per_step=4))
    with pytest.raises(ValueError, match="lr was 0.0001, is 0.01"):
        train(base, tmp_path, settings=BTSettings(steps=1, pairs_per_step=4, lr=1e-2))
    with pytest.raises(ValueError, match="13 that one step takes"):
        train(base, tmp_path / "other", settings=BTSettings(steps=1, pairs_per_step=13))


@pytest.mark.parametrize("wrong", [{"save_every": 3, "log_every": 2}, {"precision": "int8"}])
def test_settings_that_make_no_run(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BTSettings(**wrong)
