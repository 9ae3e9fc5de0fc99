import copy
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_runs import DEVICES, assert_same_weights, build, changed, saved, untimed, weights

from lrt import grpo, models
from lrt.checkpoints import with_adapter
from lrt.grpo import GRPOSettings
from lrt.listener import ModelListener
from lrt.pairs import tiny_pairs
from lrt.prompts import text_of
from lrt.rewards import ListenerReward, accuracy_reward, format_reward
from lrt.runs import row_order

PAIRS = tiny_pairs("train", 5)
# 5 pairs, 2 a step: the second epoch begins with step 3
SMALL = {"steps": 6, "pairs_per_step": 2, "num_generations": 3, "max_new_tokens": 6, "lr": 1e-2, "save_every": 2}


def length_reward(completions, **_):
    return [len(text_of(c)) / 100 for c in completions]


class Failing:
    """A reward that breaks off at the n-th rollout, as a killed process would."""

    __name__ = "length_reward"

    def __init__(self, at: int):
        self.left = at

    def __call__(self, completions, **_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return length_reward(completions)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("grpo") / "base")


def fresh(base, device="cpu", rank=0):
    return with_adapter(models.load(base, device, torch.float32, trainable=True), rank, seed=1)


def train(base, out, device="cpu", rewards=(length_reward,), weights=(1.0,), on_step=lambda *_: None, **changes):
    settings = GRPOSettings(**{**SMALL, **changes})
    loaded = fresh(base, device, settings.lora_rank)
    return loaded, grpo.train_grpo(loaded, PAIRS, rewards, weights, settings, out, on_step)


# --- rows


def test_rows_are_the_whole_run_in_order():
    settings, loaded = GRPOSettings(**SMALL), build()
    rows = grpo.training_rows(PAIRS, settings, loaded)
    order = row_order(len(PAIRS), 2, 6, 0)
    assert [row["pair_id"] for row in rows] == [PAIRS[i]["pair_id"] for i in order]
    row, pair = rows[0], PAIRS[order[0]]
    assert (row["pair_text"], row["vote"], len(row["images"])) == (pair["prompt"], pair["vote"], 2)
    content = row["prompt"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image", "text", "image", "text"]
    assert all("text" not in part for part in content if part["type"] == "image")  # no `text: None` beside an image
    assert len(grpo.training_rows(PAIRS, GRPOSettings(**SMALL, num_iterations=2), loaded)) == 6


def test_a_step_needs_enough_pairs():
    with pytest.raises(ValueError, match="5 pairs with a vote are fewer than the 8"):
        grpo.training_rows(PAIRS, GRPOSettings(), build())


def test_each_pairs_completions_reach_the_rewards_together(base, tmp_path):
    seen = []

    def looking(prompts, completions, completion_ids, images, vote, pair_id, pair_text, **_):
        seen.append((pair_id, pair_text, vote, images, completions, prompts))
        return length_reward(completions)

    train(base, tmp_path / "run", rewards=[looking], steps=2)
    by_id = {pair["pair_id"]: pair for pair in PAIRS}
    for step, (pair_id, pair_text, vote, images, completions, prompts) in enumerate(seen):
        order = row_order(len(PAIRS), 2, 6, 0)[2 * step : 2 * step + 2]
        assert pair_id == [PAIRS[i]["pair_id"] for i in order for _ in range(3)]
        pairs = [by_id[name] for name in pair_id]
        assert pair_text == [p["prompt"] for p in pairs] and vote == [p["vote"] for p in pairs]
        assert [i.tobytes() for two in images for i in two] == [i.tobytes() for p in pairs for i in p["images"]]
        assert len({text_of(c) for c in completions}) > 1
        shown = [part["image"].tobytes() for part in prompts[0][0]["content"] if part["type"] == "image"]
        assert shown == [i.tobytes() for i in images[0]]


# --- the same numbers, killed or not


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_command_gives_the_same_numbers(base, tmp_path, device):
    a, log_a = train(base, tmp_path / "a", device)
    torch.rand(100)  # whatever was drawn before
    b, log_b = train(base, tmp_path / "b", device)
    assert untimed(log_a) == untimed(log_b)
    assert_same_weights(weights(a.model), weights(b.model))
    c, _ = train(base, tmp_path / "c", device, seed=1, steps=2)
    assert changed(weights(a.model), weights(c.model))


VARIANTS = {
    "full": {},
    "lora": {"lora_rank": 2},
    "two iterations": {"num_iterations": 2},
    "two passes": {"completions_per_pass": 3},
    "kl": {"beta": 0.1},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_killed_mid_rollout_past_the_first_epoch_it_ends_the_same(base, tmp_path, changes, device):
    whole, log = train(base, tmp_path / "whole", device, **changes)
    rollouts = 6 // changes.get("num_iterations", 1)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "killed", device, rewards=[Failing(at=rollouts)], **changes)
    assert [p.name for p in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-4"]
    steps = []
    again, log_again = train(
        base, tmp_path / "killed", device, on_step=lambda step, total, record: steps.append(step), **changes
    )
    assert steps == [5, 6]
    assert untimed(log_again) == untimed(log)
    assert_same_weights(weights(again.model), weights(whole.model))


def test_llava_goes_on_from_its_checkpoint_too(tmp_path):
    base = saved(tmp_path / "base", "llava")
    whole, log = train(base, tmp_path / "whole", steps=4)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "killed", steps=4, rewards=[Failing(at=4)])
    again, log_again = train(base, tmp_path / "killed", steps=4)
    assert untimed(log_again) == untimed(log)
    assert_same_weights(weights(again.model), weights(whole.model))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("at", ["optimizer.pt", "model.safetensors", "trainer_state.json"])
def test_killed_mid_save_it_ends_the_same(base, tmp_path, monkeypatch, at, device):
    whole, log = train(base, tmp_path / "whole", device)
    torn = []

    def kill(step, total, record):
        """Let the save of step 4 break off in the middle of one file."""
        if step == 4:
            tear(monkeypatch, at, torn)

    with monkeypatch.context():
        with pytest.raises(KeyboardInterrupt):
            train(base, tmp_path / "killed", device, on_step=kill)
    monkeypatch.undo()
    assert torn == [at]
    assert {p.name for p in (tmp_path / "killed").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    steps = []
    again, log_again = train(
        base, tmp_path / "killed", device, on_step=lambda step, total, record: steps.append(step)
    )
    assert steps == [3, 4, 5, 6]  # checkpoint 4 is torn
    assert untimed(log_again) == untimed(log)
    assert_same_weights(weights(again.model), weights(whole.model))


def tear(monkeypatch, at, torn):
    """Make the next writing of a file write half of it and break off."""
    from transformers import PreTrainedModel, TrainerState

    def half(path):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        torn.append(path.name)
        raise KeyboardInterrupt

    if at == "optimizer.pt":
        save = torch.save

        def torn_save(value, path, *args, **kwargs):
            save(value, path, *args, **kwargs)
            if str(path).endswith(at):
                half(Path(path))

        monkeypatch.setattr(torch, "save", torn_save)
    elif at == "model.safetensors":
        save_pretrained = PreTrainedModel.save_pretrained

        def torn_pretrained(self, folder, *args, **kwargs):
            save_pretrained(self, folder, *args, **kwargs)
            half(Path(folder) / at)

        monkeypatch.setattr(PreTrainedModel, "save_pretrained", torn_pretrained)
    else:
        save_state = TrainerState.save_to_json

        def torn_state(self, path):
            save_state(self, path)
            half(Path(path))

        monkeypatch.setattr(TrainerState, "save_to_json", torn_state)
