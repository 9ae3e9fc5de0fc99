import copy
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_runs import DEVICES, assert_same_weights, build, changed, saved, untimed, weights

from lrt import grpo, models
from lrt.by_hand import capture_batch
from lrt.checkpoints import with_adapter
from lrt.controls import Permuted
from lrt.grpo import GRPOSettings
from lrt.listener import AdapterOffListener, LocalListener
from lrt.pairs import tiny_pairs
from lrt.prompts import text_of
from lrt.rewards import ListenerReward, accuracy_reward, format_reward
from lrt.rows import balanced_order, row_order

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


def test_votes_can_be_balanced_in_every_step():
    pairs, loaded = tiny_pairs("train", 24), build()
    usual = grpo.training_rows(pairs, GRPOSettings(**SMALL), loaded)
    balanced = grpo.training_rows(pairs, GRPOSettings(**SMALL, balance_votes=True), loaded)
    assert len(balanced) == len(usual) == 12
    assert [balanced[i]["pair_id"] for i in range(12)] == [
        pairs[i]["pair_id"] for i in balanced_order(pairs["vote"][:], 2, 6, 0)]
    by_step = [{balanced[i]["vote"], balanced[i + 1]["vote"]} for i in range(0, 12, 2)]
    assert by_step == [{1, 2}] * 6
    assert any(usual[i]["vote"] == usual[i + 1]["vote"] for i in range(0, 12, 2))  # which the usual order is not
    with pytest.raises(ValueError, match="even number of pairs, not 3"):
        grpo.training_rows(pairs, GRPOSettings(**{**SMALL, "pairs_per_step": 3}, balance_votes=True), loaded)


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


@pytest.mark.parametrize("architecture", ["qwen", "llava"])
def test_training_and_judging_put_the_same_tokens_and_pixels_before_the_model(tmp_path, architecture):
    loaded, settings = build(architecture), GRPOSettings(**SMALL)
    trainer = grpo.build_trainer(loaded, PAIRS, [length_reward], [1.0], settings, tmp_path)
    batch, _ = capture_batch(trainer)
    asked = [PAIRS[i] for i in row_order(len(PAIRS), 2, 1, 0) for _ in range(3)]
    judged = loaded.processor(
        text=[loaded.chat(pair["prompt"]) for pair in asked],
        images=[list(pair["images"]) for pair in asked],
        padding=True,
        return_tensors="pt",
    )
    assert torch.equal(batch["prompt_ids"], judged["input_ids"])
    assert torch.equal(batch["prompt_mask"], judged["attention_mask"])
    assert torch.equal(batch["pixel_values"], judged["pixel_values"])


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
    again, log_again = train(base, tmp_path / "killed", device, on_step=lambda step, total, record: steps.append(step))
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


def test_a_finished_run_only_loads_its_model(base, tmp_path):
    done, log = train(base, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").glob("checkpoint-*")) == []
    assert json.loads((tmp_path / "run" / "done.json").read_text()) == {"steps": 6}
    again, log_again = train(base, tmp_path / "run", rewards=[Failing(at=1)])
    assert log_again == log  # to the time stamps: nothing was computed
    assert_same_weights(weights(again.model), weights(done.model))
    assert_same_weights(weights(models.load(str(tmp_path / "run/model")).model), weights(done.model))


def test_killed_while_the_model_is_saved_it_ends_the_same(base, tmp_path, monkeypatch):
    whole, log = train(base, tmp_path / "whole")

    def kill(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lrt.runs.save_model", kill)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "killed")
    monkeypatch.undo()
    again, log_again = train(base, tmp_path / "killed", rewards=[Failing(at=1)])  # no step is left
    assert untimed(log_again) == untimed(log)
    assert_same_weights(weights(models.load(str(tmp_path / "killed/model")).model), weights(whole.model))


def test_another_call_needs_another_folder(base, tmp_path):
    train(base, tmp_path / "run", steps=2)
    with pytest.raises(ValueError, match="lr was 0.01, is 0.001"):
        train(base, tmp_path / "run", steps=2, lr=1e-3)
    with pytest.raises(ValueError, match="rewards was .*length_reward.*, is .*format_reward"):
        train(base, tmp_path / "run", steps=2, rewards=[format_reward])
    other_pairs = tiny_pairs("train", 6)
    with pytest.raises(ValueError, match="pairs was"):
        settings = GRPOSettings(**{**SMALL, "steps": 2})
        grpo.train_grpo(fresh(base), other_pairs, [length_reward], [1.0], settings, tmp_path / "run")


def test_a_model_that_was_trained_since_cannot_start_the_run_anew(base, tmp_path):
    loaded, settings = fresh(base), GRPOSettings(**{**SMALL, "save_every": 10})

    def start(loaded, reward):
        return grpo.train_grpo(loaded, PAIRS, [reward], [1.0], settings, tmp_path, lambda *_: None)

    with pytest.raises(KeyboardInterrupt):
        start(loaded, Failing(at=3))  # two steps, no checkpoint yet
    with pytest.raises(ValueError, match="load the model again"):
        start(loaded, length_reward)
    assert len(start(fresh(base), length_reward)) == 6


# --- what is trained, and what is not


@pytest.mark.parametrize("device", DEVICES)
def test_a_listener_read_from_the_reasoners_own_folder_stays_frozen(base, tmp_path, device):
    listener = LocalListener(models.load(base, device, torch.float32))
    asked = [(pair["prompt"], tuple(pair["images"])) for pair in PAIRS]
    traces = [["image 1 is better .", ""] for _ in PAIRS]
    before = listener.p_first([p for p, _ in asked], [i for _, i in asked], traces)
    listener_before = weights(listener.loaded.model)
    start = weights(fresh(base, device).model)
    # a random model never keeps the format, so a reward of length moves it and the listener's runs beside it
    rewards, shares = [length_reward, AlwaysHeard(listener)], [1.0, 0.5]
    loaded, log = train(base, tmp_path / "run", device, rewards, shares, steps=2, max_new_tokens=6)
    assert len(changed(start, weights(loaded.model))) > 10
    assert 0 < log[0]["rewards/listener_reward/mean"] < 1
    heard = json.loads((tmp_path / "run" / "listeners.json").read_text())
    assert heard == [{"reward": "listener_reward", "listeners": [listener.name], "combine": None}]
    other = AlwaysHeard(Permuted(listener))
    with pytest.raises(ValueError, match="listeners was .* is .*permuted"):
        train(base, tmp_path / "run", device, [length_reward, other], shares, steps=2, max_new_tokens=6)
    assert_same_weights(weights(listener.loaded.model), listener_before)
    assert listener.p_first([p for p, _ in asked], [i for _, i in asked], traces) == before


class AlwaysHeard(ListenerReward):
    """The listener's reward for whatever was said, put into the right format."""

    def __call__(self, prompts=None, completions=(), **columns):
        said = [f"<think> {text_of(c)} </think> <answer> 1 </answer>" for c in completions]
        return super().__call__(prompts, said, **columns)


@pytest.mark.parametrize("device", DEVICES)
def test_an_adapter_is_all_that_is_trained_and_off_it_is_the_frozen_base(base, tmp_path, device):
    loaded = fresh(base, device, rank=2)
    before = weights(loaded.model)
    copy_of_base, off = LocalListener(models.load(base, device, torch.float32)), AdapterOffListener(loaded)
    pairs = {"prompts_B": PAIRS["prompt"], "images_B": [tuple(two) for two in PAIRS["images"]]}
    traces = [["image 1 is better .", "image 2 is better ."] for _ in PAIRS]
    settings = GRPOSettings(**{**SMALL, "steps": 3, "lora_rank": 2})
    rewards = [length_reward, AlwaysHeard(off)]
    grpo.train_grpo(loaded, PAIRS, rewards, [1.0, 0.5], settings, tmp_path / "run", lambda *_: None)
    after = weights(loaded.model)
    assert changed(before, after) == {name for name in before if "lora_" in name}
    assert all("visual" not in name for name in changed(before, after))
    assert off.p_first(*pairs.values(), traces) == copy_of_base.p_first(*pairs.values(), traces)
    on = LocalListener(loaded).p_first(*pairs.values(), traces)
    assert on != copy_of_base.p_first(*pairs.values(), traces)
    again = LocalListener(models.load(str(tmp_path / "run/model"), device, torch.float32))
    assert again.p_first(*pairs.values(), traces) == on


def test_the_settings_and_the_model_agree_on_an_adapter(base, tmp_path):
    with pytest.raises(ValueError, match="no adapter"):
        grpo.build_trainer(fresh(base), PAIRS, [length_reward], [1.0], GRPOSettings(**SMALL, lora_rank=2), tmp_path)
    with pytest.raises(ValueError, match="an adapter"):
        grpo.build_trainer(fresh(base, rank=2), PAIRS, [length_reward], [1.0], GRPOSettings(**SMALL), tmp_path)


def test_the_model_can_be_used_afterwards(base, tmp_path):
    loaded, log = train(base, tmp_path / "run", steps=2)
    assert not loaded.model.training and "forward" not in vars(loaded.model) and "generate" not in vars(loaded.model)
    twin = copy.deepcopy(loaded)
    said = [models.generate(m, PAIRS["prompt"], list(PAIRS["images"]), 6) for m in (loaded, twin)]
    assert said[0] == said[1] and len(said[0]) == 5
    further = grpo.train_grpo(
        loaded, PAIRS, [length_reward], [1.0], GRPOSettings(**SMALL), tmp_path / "further", lambda *_: None
    )
    assert [record["step"] for record in further] == [1, 2, 3, 4, 5, 6]
    assert models.generate(twin, PAIRS["prompt"], list(PAIRS["images"]), 6) == said[1]  # the copy did not follow


def test_image_tokens_are_never_sampled(base, tmp_path):
    loaded = fresh(base)
    image = loaded.model.config.image_token_id
    bias = torch.zeros(len(loaded.tokenizer))
    bias[image] = 50.0  # by far the likeliest token
    loaded.model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    start = loaded.tokenizer("image 1", return_tensors="pt")
    assert loaded.model.generate(**start, max_new_tokens=1, do_sample=False)[0, -1] == image
    sampled = []

    def looking(completions, completion_ids, **_):
        sampled.extend(i for ids in completion_ids for i in ids)
        return length_reward(completions)

    settings = GRPOSettings(**{**SMALL, "steps": 1})
    grpo.train_grpo(loaded, PAIRS, [looking], [1.0], settings, tmp_path, lambda *_: None)
    assert sampled and image not in sampled


# --- the log, and settings that make no run


def test_the_log_has_every_part_of_a_step(base, tmp_path):
    seen = []
    rewards, shares = [format_reward, accuracy_reward, length_reward], [1.0, 0.5, 1.0]
    _, log = train(base, tmp_path, rewards=rewards, weights=shares, steps=2, on_step=lambda *step: seen.append(step))
    assert seen == [(1, 2, log[0]), (2, 2, log[1])]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == log
    parts = [log[0][f"rewards/{f.__name__}/mean"] for f in rewards]
    assert log[0]["reward"] == pytest.approx(sum(w * p for w, p in zip(shares, parts, strict=True)))
    for name in ("loss", "grad_norm", "entropy", "frac_reward_zero_std", "reward_std", "completions/mean_length"):
        assert isinstance(log[0][name], float), name
    assert log[0]["learning_rate"] == log[1]["learning_rate"] == SMALL["lr"]
    assert log[0]["clip_ratio/region_mean"] == 0.0
    inside = ("time_generate", "time_reward_format_reward", "time_reward_length_reward")
    assert 0 < sum(log[0][name] for name in inside) < log[0]["time_step"]


def test_several_steps_a_record(base, tmp_path):
    _, log = train(base, tmp_path, steps=4, log_every=2)
    assert [record["step"] for record in log] == [2, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"completions_per_pass": 12},
        {"num_generations": 1},
        {"num_iterations": 4},
        {"save_every": 3, "log_every": 2},
        {"precision": "int8"},
    ],
)
def test_settings_that_make_no_run(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GRPOSettings(**wrong)


def test_a_reference_model_must_be_on_disk(tmp_path):
    with pytest.raises(ValueError, match="beta"):
        grpo.build_trainer(build(), PAIRS, [length_reward], [1.0], GRPOSettings(**SMALL, beta=0.1), tmp_path)


def test_no_two_rows_of_a_step_are_one_group():
    few: Dataset = PAIRS.select(range(3))
    rows = grpo.training_rows(few, GRPOSettings(**{**SMALL, "steps": 9}), build())["pair_id"]
    assert all(rows[i] != rows[i + 1] for i in range(0, 18, 2))
