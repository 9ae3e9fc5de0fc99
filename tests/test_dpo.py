"""DPO on a model's own completions: what is sampled, what is preferred, the loss, and that a kill changes nothing."""

import math

import pytest
import torch
from tiny_runs import DEVICES, assert_same_weights, changed, saved, untimed, weights

from lrt import dpo, models
from lrt.checkpoints import with_adapter
from lrt.dpo import DPOSettings, preferences, sample, train_dpo, training_rows
from lrt.files import read_lines
from lrt.models import load
from lrt.pairs import tiny_pairs
from lrt.prompts import parse
from lrt.rows import balanced_order

PAIRS = tiny_pairs("train", 12)
SETTINGS = DPOSettings(steps=4, pairs_per_step=2, lr=1e-3, save_every=2, samples=2, max_new_tokens=12, seed=3)


def said(answer, trace=""):
    return f"<think> {trace} </think> <answer> {answer} </answer>".replace("  ", " ")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("dpo") / "base")


@pytest.fixture
def talks(monkeypatch):
    """Models that write a right and a wrong answer by turns, as short as they come: random ones never would."""
    calls = []

    def generate(loaded, prompts, images, max_new_tokens, temperature, seed, batch):
        calls.append((len(prompts), seed))
        return [said(1 + i % 2, f"image {1 + i % 2} is better .") for i in range(len(prompts))]

    monkeypatch.setattr(dpo, "generate", generate)
    return calls


def train(base, out, device="cpu", settings=SETTINGS, on_step=lambda *_: None, pairs=PAIRS):
    loaded = models.load(base, device, torch.float32, trainable=True)
    return loaded, *train_dpo(loaded, pairs, settings, out, on_step)


# --- completions


def test_samples_are_the_models_own_and_counted(tmp_path):
    loaded, settings = load("reasoner"), DPOSettings(samples=3, max_new_tokens=40, seed=5)
    pairs = PAIRS.select(range(3))
    found = sample(loaded, pairs, settings, tmp_path / "a.jsonl")
    assert [len(group) for group in found.texts] == [3, 3, 3] and len({t for g in found.texts for t in g}) > 3
    lengths = [len(text.split()) for group in found.texts for text in group]
    assert found.tokens == sum(min(n + 1, 40) for n in lengths) and found.seconds > 0
    assert any(n == 40 for n in lengths) and any(n < 40 for n in lengths)  # some are cut, some end
    assert sample(loaded, pairs, settings, tmp_path / "b.jsonl").texts == found.texts
    other = sample(loaded, pairs, DPOSettings(samples=3, max_new_tokens=40, seed=6), tmp_path / "c.jsonl")
    assert other.texts != found.texts


def test_sampling_goes_on_where_it_was_broken_off(base, tmp_path, talks, monkeypatch):
    monkeypatch.setattr(dpo, "BATCH", 5)
    loaded, path = load(base), tmp_path / "samples.jsonl"
    whole = sample(loaded, PAIRS, SETTINGS, path)
    assert [n for n, _ in talks] == [10, 10, 4] and len({seed for _, seed in talks}) == 3
    lines = path.read_text().split("\n")
    path.write_text("\n".join(lines[:9]) + '\n{"pair_id": "tor')  # in the second batch
    again = sample(loaded, PAIRS, SETTINGS, path)
    assert talks[3:] == talks[1:3] and again.texts == whole.texts and again.tokens == whole.tokens
    sample(loaded, PAIRS, SETTINGS, path)
    assert len(talks) == 5  # nothing was left to sample
    assert [line["pair_id"] for line in read_lines(path)[1:]] == PAIRS["pair_id"][:]


def test_samples_of_something_else_are_refused(base, tmp_path, talks):
    loaded, path = load(base), tmp_path / "samples.jsonl"
    sample(loaded, PAIRS, SETTINGS, path)
    with pytest.raises(ValueError, match="samples.jsonl .*other pairs"):
        sample(loaded, tiny_pairs("train", 12, seed=1), SETTINGS, path)
    with pytest.raises(ValueError, match="samples.jsonl .*sampled otherwise"):
        sample(loaded, PAIRS, DPOSettings(samples=3, max_new_tokens=12, seed=3), path)


def test_a_preference_is_a_right_and_a_wrong_answer_in_the_right_format():
    right, wrong = ([v if side else 3 - v for v in PAIRS["vote"][:4]] for side in (True, False))
    groups = [
        [said(wrong[0], "a"), said(right[0], "b"), said(right[0], "c"), said(wrong[0], "d")],
        [said(right[1]), said(right[1])],  # nothing to learn from
        ["image 1 is better .", said(wrong[2])],  # nor here: the other one cannot be read
        [said(right[3]), "nonsense", said(wrong[3])],
    ]
    found = preferences(PAIRS.select(range(4)), groups)
    assert found["pair_id"][:] == [PAIRS[0]["pair_id"], PAIRS[3]["pair_id"]]
    assert found["chosen"][:] == [said(right[0], "b"), said(right[3])]
    assert found["rejected"][:] == [said(wrong[0], "a"), said(wrong[3])]
    for row in found:
        assert parse(row["chosen"]).answer == row["vote"] == 3 - parse(row["rejected"]).answer


# --- training


def test_rows_hold_chat_both_completions_and_images_in_order(base):
    loaded, settings = load(base), DPOSettings(steps=2, pairs_per_step=4, balance_votes=True, seed=3)
    preferred = preferences(PAIRS, [[said(1), said(2)]] * 12)
    rows, order = training_rows(preferred, settings, loaded), balanced_order(PAIRS["vote"][:], 4, 2, 3)
    assert len(rows) == 8
    for row, i in zip(rows, order, strict=True):
        assert row["chosen"] == [{"role": "assistant", "content": said(PAIRS[i]["vote"])}]
        assert row["rejected"] == [{"role": "assistant", "content": said(3 - PAIRS[i]["vote"])}]
        assert [part["type"] for part in row["prompt"][0]["content"]] == ["text", "image", "text", "image", "text"]
        assert [image.tobytes() for image in row["images"]] == [image.tobytes() for image in PAIRS[i]["images"]]


def log_p(loaded, prompt, images, text):
    """log-probability of a completion, its end of turn included, and its number of tokens."""
    both = loaded.chat(prompt) + " " + text + loaded.tokenizer.eos_token
    inputs = loaded.processor(text=[both], images=[list(images)], return_tensors="pt").to(loaded.device)
    n = len(loaded.tokenizer(text)["input_ids"]) + 1
    with torch.no_grad():
        logp = loaded.model(**inputs).logits[0, -n - 1 : -1].log_softmax(-1)
    return logp.gather(-1, inputs["input_ids"][0, -n:, None]).sum().item(), n


def sft_term(loaded, preferred):
    """Mean of -log p over all tokens of the chosen completions."""
    found = [log_p(loaded, row["prompt"], row["images"], row["chosen"]) for row in preferred]
    return -sum(logp for logp, _ in found) / sum(n for _, n in found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sft_weight", [0.0, 0.7])
def test_the_loss_is_dpos_against_the_first_model(base, tmp_path, talks, device, sft_weight):
    """Two steps on the same pair: at the first DPO's loss is log 2, at the second it is computed by hand, from the
    model after one step and the one on disk. So the reference has not moved. The SFT term comes on top."""
    settings = {"pairs_per_step": 2, "lr": 1e-2, "beta": 0.3, "sft_weight": sft_weight, "samples": 2,
                "max_new_tokens": 12, "seed": 3}
    pairs = PAIRS.select([0, 1])
    after_one, *_ = train(base, tmp_path / "one", device, DPOSettings(steps=1, **settings), pairs=pairs)
    _, log, samples, preferred = train(base, tmp_path / "two", device, DPOSettings(steps=2, **settings), pairs=pairs)
    first, losses = load(base, device, torch.float32), []
    at_first = sft_weight * sft_term(first, preferred)
    assert log[0]["loss"] - at_first == pytest.approx(math.log(2), abs=1e-4 if sft_weight else 1e-6)
    assert log[0]["rewards/margins"] == 0
    for row in preferred:
        ratios = [log_p(after_one, row["prompt"], row["images"], row[side])[0]
                  - log_p(first, row["prompt"], row["images"], row[side])[0] for side in ("chosen", "rejected")]
        losses.append(math.log1p(math.exp(-0.3 * (ratios[0] - ratios[1]))))
    assert max(abs(loss - math.log(2)) for loss in losses) > 0.01  # it has moved
    assert log[1]["loss"] == pytest.approx(sum(losses) / 2 + sft_weight * sft_term(after_one, preferred), rel=1e-3)
    assert log[1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize("device", DEVICES)
def test_killed_and_started_again_it_ends_the_same(base, tmp_path, talks, device):
    def kill(step, total, record):
        if step == 3:
            raise KeyboardInterrupt

    steps = []
    whole, log, samples, preferred = train(base, tmp_path / "whole", device)
    assert len(samples.texts) == len(preferred) == 12 and changed(weights(load(base).model), weights(whole.model))
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "killed", device, on_step=kill)
    sampled = len(talks)
    again, log_again, *same = train(base, tmp_path / "killed", device, on_step=lambda step, *_: steps.append(step))
    assert steps == [3, 4] and len(talks) == sampled  # from checkpoint 2, with the completions that there were
    assert untimed(log_again) == untimed(log) and same[0].texts == samples.texts
    assert_same_weights(weights(again.model), weights(whole.model))
    assert "forward" not in vars(again.model) and not again.model.training


def test_another_call_needs_another_folder(base, tmp_path, talks):
    train(base, tmp_path)
    with pytest.raises(ValueError, match="beta was 0.1, is 0.5"):
        train(base, tmp_path, settings=DPOSettings(steps=4, pairs_per_step=2, lr=1e-3, save_every=2, samples=2,
                                                   max_new_tokens=12, seed=3, beta=0.5))


def test_a_model_that_never_answers_both_ways_cannot_be_trained(base, tmp_path):
    with pytest.raises(ValueError, match="0 pairs with a vote are fewer than the 2 that one step takes"):
        train(base, tmp_path, settings=DPOSettings(steps=1, pairs_per_step=2, samples=2, max_new_tokens=4))


def test_an_adapter_is_refused(base, tmp_path):
    loaded = with_adapter(load(base, trainable=True), rank=2)
    with pytest.raises(ValueError, match="adapter"):
        train_dpo(loaded, PAIRS, SETTINGS, tmp_path)


@pytest.mark.parametrize("wrong", [{"samples": 1}, {"beta": 0.0}, {"sft_weight": -1.0}, {"precision": "int8"}])
def test_settings_that_make_no_run(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DPOSettings(**wrong)
