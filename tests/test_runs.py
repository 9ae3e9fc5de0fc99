import copy
import json
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_runs import assert_same_weights, build, changed, saved, weights

from lrt import models, rows, runs
from lrt.checkpoints import (
    exact_merging,
    fingerprint,
    is_whole,
    last_checkpoint,
    load_weights,
    save_model,
    with_adapter,
)
from lrt.pairs import tiny_pairs


def inputs(loaded, n=2):
    pairs = tiny_pairs("train", n)
    text = [loaded.chat(prompt) for prompt in pairs["prompt"]]
    return loaded.processor(text=text, images=[list(i) for i in pairs["images"]], padding=True, return_tensors="pt")


def logits(loaded):
    with torch.no_grad():
        return loaded.model(**inputs(loaded)).logits


# --- rows


@given(n=st.integers(1, 40), per_step=st.integers(1, 12), steps=st.integers(1, 30), seed=st.integers(0, 99))
def test_row_order_passes_through_the_pairs_again_and_again(n, per_step, steps, seed):
    if n < per_step:
        with pytest.raises(ValueError, match=f"{n} pairs"):
            rows.row_order(n, per_step, steps, seed)
        return
    order = rows.row_order(n, per_step, steps, seed)
    assert len(order) == steps * per_step and set(order) <= set(range(n))
    by_step = [order[i : i + per_step] for i in range(0, len(order), per_step)]
    assert all(len(set(step)) == per_step for step in by_step)  # no pair twice in a step
    epoch = n // per_step * per_step
    assert all(len(set(order[i : i + epoch])) == len(order[i : i + epoch]) for i in range(0, len(order), epoch))
    assert rows.row_order(n, per_step, steps + 3, seed)[: len(order)] == order  # a longer run begins the same


def test_row_order_depends_on_seed_and_epoch():
    assert rows.row_order(30, 3, 10, seed=0) != rows.row_order(30, 3, 10, seed=1)
    twice = rows.row_order(30, 3, 20, seed=0)
    assert sorted(twice[:30]) == sorted(twice[30:]) and twice[:30] != twice[30:]


@given(votes=st.lists(st.sampled_from([1, 2]), max_size=40), half=st.integers(1, 5), steps=st.integers(1, 30),
       seed=st.integers(0, 99))
def test_balanced_order_has_equal_votes_in_every_step(votes, half, steps, seed):
    fewer = min(votes.count(1), votes.count(2))
    if fewer < half:
        with pytest.raises(ValueError, match=f"{votes.count(1)} and {votes.count(2)} pairs .* the {half} of "):
            rows.balanced_order(votes, 2 * half, steps, seed)
        return
    order = rows.balanced_order(votes, 2 * half, steps, seed)
    assert len(order) == steps * 2 * half and set(order) <= set(range(len(votes)))
    by_step = [order[i : i + 2 * half] for i in range(0, len(order), 2 * half)]
    assert all(len(set(step)) == 2 * half for step in by_step)  # no pair twice in a step
    assert all([votes[i] for i in step].count(1) == half for step in by_step)
    epoch = fewer // half * 2 * half
    assert all(len(set(order[i : i + epoch])) == len(order[i : i + epoch]) for i in range(0, len(order), epoch))
    assert rows.balanced_order(votes, 2 * half, steps + 3, seed)[: len(order)] == order  # a longer run begins the same


def test_balanced_order_depends_on_seed_and_epoch_and_uses_all_pairs():
    votes = [1] * 10 + [2] * 14
    first, second = (rows.balanced_order(votes, 4, 5, seed) for seed in (0, 1))
    assert first != second and len(first) == 20  # five steps are an epoch: all votes for image 1
    twice = rows.balanced_order(votes, 4, 10, seed=0)
    assert set(twice[:20]) != set(twice[20:]) and set(range(10)) < set(twice[20:])
    assert set(rows.balanced_order(votes, 4, 50, seed=0)) == set(range(24))  # what is over comes in other epochs


def test_balanced_order_needs_an_even_number_of_pairs():
    for per_step in (1, 3):
        with pytest.raises(ValueError, match=f"an even number of pairs, not {per_step}"):
            rows.balanced_order([1, 2] * 9, per_step, 2, 0)


def test_ties_are_dropped_aloud():
    pairs = tiny_pairs("train", 6)
    votes = [1, 0, 2, 0, 1, 2]
    tied = pairs.remove_columns("vote").add_column("vote", votes)
    with pytest.warns(UserWarning, match="2 of 6 pairs are ties"):
        kept = rows.without_ties(tied)
    assert kept["pair_id"] == [pairs["pair_id"][i] for i in (0, 2, 4, 5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(rows.without_ties(kept)) == 4


def test_pairs_id_tells_pairs_votes_and_order_apart():
    pairs = tiny_pairs("train", 5)
    other_vote = pairs.remove_columns("vote").add_column("vote", [3 - v for v in pairs["vote"]])
    ids = [rows.pairs_id(p) for p in (pairs, pairs.select([1, 0, 2, 3, 4]), pairs.select(range(4)), other_vote)]
    assert len(set(ids)) == 4 and rows.pairs_id(tiny_pairs("train", 5)) == ids[0]


# --- weights on disk


@pytest.mark.parametrize("architecture", ["qwen", "llava"])
def test_weights_saved_and_put_back_are_the_same(tmp_path, architecture):
    loaded, other = build(architecture), build(architecture)
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(1.0)
    save_model(other, tmp_path / "m")
    load_weights(loaded.model, tmp_path / "m")
    assert_same_weights(weights(loaded.model), weights(other.model))
    again = models.load(str(tmp_path / "m"))
    assert again.wording == loaded.wording
    assert torch.equal(logits(again), logits(loaded))


def test_shipping_in_float16_leaves_the_model_as_it_is(tmp_path):
    loaded = build()
    before = weights(loaded.model)
    save_model(loaded, tmp_path / "whole")
    save_model(loaded, tmp_path / "half", torch.float16)
    assert_same_weights(weights(loaded.model), before)
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert size["half"] < 0.6 * size["whole"]
    half = weights(models.load(str(tmp_path / "half")).model)
    assert all(torch.equal(half[name], before[name].half().float()) for name in before)


def test_saving_over_a_model_replaces_it(tmp_path):
    (tmp_path / "m.part").mkdir()
    (tmp_path / "m.part" / "torn").touch()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").touch()
    save_model(build(), tmp_path / "m")
    assert not (tmp_path / "m" / "old").exists() and not (tmp_path / "m.part").exists()
    assert not (tmp_path / "m" / "torn").exists()


@pytest.mark.parametrize("architecture", ["qwen", "llava"])
def test_an_adapter_is_on_the_language_model_alone_and_its_base_is_the_model_without_it(tmp_path, architecture):
    plain = models.load(saved(tmp_path / "base", architecture))
    adapted = with_adapter(models.load(saved(tmp_path / "base", architecture), trainable=True), rank=2)
    trainable = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 7 * 2  # A and B, seven layers a block, two blocks
    assert all("language_model" in name and "lora_" in name for name in trainable)
    assert torch.equal(logits(adapted), logits(plain))  # it starts as zero
    with torch.no_grad():
        for p in adapted.model.parameters():
            if p.requires_grad:
                p.normal_()
    assert not torch.allclose(logits(adapted), logits(plain), atol=1e-3)
    with adapted.model.disable_adapter():
        assert torch.equal(logits(adapted), logits(plain))
    save_model(adapted, tmp_path / "adapter")
    assert torch.equal(logits(models.load(str(tmp_path / "adapter"))), logits(adapted))
    assert with_adapter(plain, rank=0) is plain


def learned(loaded):
    """The model, its adapter as if it had been trained."""
    with torch.no_grad():
        for name, p in loaded.model.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.5)
    return loaded


@pytest.mark.filterwarnings("error:You are trying to modify", "error:Already found")  # peft, of a lost first adapter
def test_a_second_adapter_keeps_what_the_first_one_learned(tmp_path):
    base = saved(tmp_path / "base", "qwen")
    first = learned(with_adapter(models.load(base), rank=2))
    save_model(first, tmp_path / "first")
    second = with_adapter(models.load(str(tmp_path / "first")), rank=4, seed=1)
    assert not torch.allclose(logits(first), logits(models.load(base)), atol=1e-2)
    assert torch.allclose(logits(second), logits(first), atol=1e-4)
    learned(second)
    with second.model.disable_adapter():
        assert torch.allclose(logits(second), logits(first), atol=1e-4)
    save_model(second, tmp_path / "second")
    again = logits(models.load(str(tmp_path / "second")))
    assert torch.allclose(again, logits(second), atol=1e-4) and not torch.allclose(again, logits(first), atol=1e-2)


def test_an_adapter_on_four_bits_is_not_merged(tmp_path):
    adapted = with_adapter(models.load(saved(tmp_path / "base", "qwen")), rank=2)
    adapted.model.get_base_model().is_loaded_in_4bit = True
    with pytest.raises(ValueError, match="4 bits, and cannot become part of them.*weights=fp16"):
        with_adapter(adapted, rank=2)


def merged_and_back(model, times):
    for _ in range(times):
        model.merge_adapter()
        inside, handed_out = weights(model), {name: p.data for name, p in model.named_parameters()}
        model.unmerge_adapter()
    return inside, handed_out


def test_a_base_in_16_bits_survives_that_its_adapter_is_merged_and_taken_out():
    """As TRL does it at every step, to send whole weights to a vLLM server. By itself the base drifts."""
    drifting, kept = (with_adapter(build(), 2) for _ in range(2))
    for loaded in (drifting, kept):
        loaded.model.to(torch.bfloat16)
        learned(loaded)
    for loaded, exact in ((drifting, False), (kept, True)):
        before = weights(loaded.model)
        if exact:
            exact_merging(loaded.model)
        inside, handed_out = merged_and_back(loaded.model, 3)
        assert bool(changed(before, weights(loaded.model))) == (not exact)
        assert changed(before, inside), "what is sent has the adapter in it"
        assert bool(changed(inside, handed_out)) == (not exact), "sent late, it still has"


def test_a_server_that_fails_while_it_is_sent_the_weights_leaves_the_base_as_it_was():
    loaded = with_adapter(build(), 2)
    learned(loaded)
    before = weights(loaded.model)
    with pytest.raises(ConnectionError), runs.as_found(loaded.model):
        exact_merging(loaded.model)
        loaded.model.merge_adapter()
        raise ConnectionError
    assert not changed(before, weights(loaded.model)) and "merge_adapter" not in vars(loaded.model)
    loaded.model.merge_adapter()
    with pytest.raises(ValueError, match="merged into its base"):
        exact_merging(loaded.model)


def test_fingerprint_sees_what_is_trained_and_what_is_frozen_apart():
    loaded = build()
    loaded.model.model.visual.requires_grad_(False)
    trained, frozen = fingerprint(loaded.model, True), fingerprint(loaded.model, False)
    with torch.no_grad():
        loaded.model.model.language_model.norm.weight.add_(1e-3)
    assert fingerprint(loaded.model, True) != trained and fingerprint(loaded.model, False) == frozen
    with torch.no_grad():
        loaded.model.model.visual.merger.ln_q.weight.add_(1e-3)
    assert fingerprint(loaded.model, False) != frozen


# --- checkpoints


def checkpoint(out, step):
    folder = out / f"checkpoint-{step}"
    folder.mkdir()
    save_file({"w": torch.zeros(8)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": torch.ones(4)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


TEARS = {
    "no state": lambda f: (f / "trainer_state.json").unlink(),
    "torn state": lambda f: cut(f / "trainer_state.json"),
    "state of another step": lambda f: (f / "trainer_state.json").write_text('{"global_step": 1}'),
    "torn weights": lambda f: cut(f / "model.safetensors"),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "torn optimizer": lambda f: cut(f / "optimizer.pt"),
    "no scheduler": lambda f: (f / "scheduler.pt").unlink(),
    "no random state": lambda f: (f / "rng_state.pth").unlink(),
}


@pytest.mark.parametrize("tear", TEARS.values(), ids=TEARS.keys())
def test_a_torn_checkpoint_is_passed_over_and_removed(tmp_path, tear):
    older, newer = checkpoint(tmp_path, 8), checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == (newer, 10)
    tear(newer)
    assert not is_whole(newer) and is_whole(older)
    assert last_checkpoint(tmp_path) == (older, 8)
    assert not newer.exists()


@pytest.mark.parametrize(("instead", "whole"), [(("optimizer.bin",), True), (("latest",), True), ((), False)])
def test_where_the_weights_are_spread_the_optimizers_state_has_another_place(tmp_path, instead, whole):
    """FSDP's `optimizer.bin`, and DeepSpeed's folder that `latest` names."""
    path = checkpoint(tmp_path, 8)
    for name in instead:
        (path / name).write_bytes((path / "optimizer.pt").read_bytes())
    (path / "optimizer.pt").unlink()
    assert is_whole(path) == whole
    if "optimizer.bin" in instead:
        (path / "optimizer.bin").write_bytes(b"torn")
        assert not is_whole(path)


def test_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-tmp").mkdir()
    assert last_checkpoint(tmp_path) == (None, 0)


# --- log and settings


def test_the_log_is_cut_back_and_a_torn_line_left_out(tmp_path):
    lines = [json.dumps({"step": i, "loss": i / 10}) for i in (1, 2, 3, 4)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 5, "lo')
    assert [r["step"] for r in runs.read_log(tmp_path)] == [1, 2, 3, 4]
    runs.cut_log(tmp_path, 2)
    assert (tmp_path / "log.jsonl").read_text() == lines[0] + "\n" + lines[1] + "\n"
    runs.cut_log(tmp_path, 0)
    assert runs.read_log(tmp_path) == [] == runs.read_log(tmp_path / "nowhere")


def test_a_folder_refuses_a_run_that_was_started_differently(tmp_path):
    runs.check_call(tmp_path, {"lr": 1e-4, "weights": (1.0, 0.5)})
    runs.check_call(tmp_path, {"lr": 1e-4, "weights": [1.0, 0.5]})
    with pytest.raises(ValueError, match="lr was 0.0001, is 0.0002"):
        runs.check_call(tmp_path, {"lr": 2e-4, "weights": [1.0, 0.5]})
    with pytest.raises(ValueError, match="beta was None, is 0.1"):
        runs.check_call(tmp_path, {"lr": 1e-4, "weights": [1.0, 0.5], "beta": 0.1})


def test_numbers_that_json_has_no_word_for_are_null(tmp_path):
    seen = []
    watch = runs.Watch(tmp_path, 0, lambda step, total, record: seen.append((step, total, record)))
    state = type("State", (), {"global_step": 3, "max_steps": 9})()
    watch.on_step_begin(None, state, None)
    watch.on_log(None, state, None, logs={"loss": float("nan"), "reward": 1.0, "epoch": 0.1})
    watch.on_log(None, state, None, logs={"train_runtime": 1.0})
    [(step, total, record)] = seen
    assert (step, total, record["loss"], record["reward"]) == (3, 9, None, 1.0)
    assert "epoch" not in record and record["time_step"] >= 0
    assert runs.read_log(tmp_path) == [record]


def test_a_step_draws_the_same_whatever_was_drawn_before(tmp_path):
    def draw(seed, step, before):
        torch.rand(before)
        watch = runs.Watch(tmp_path, seed, None)
        watch.on_step_begin(None, type("State", (), {"global_step": step})(), None)
        return torch.rand(1).item()

    assert draw(0, 5, before=1) == draw(0, 5, before=7)
    assert len({draw(seed, step, 1) for seed in (0, 1) for step in (5, 6)}) == 4


def test_a_trainers_patches_are_taken_off_even_after_an_error():
    loaded = build()
    loaded.model.train()
    before = weights(loaded.model)
    with pytest.raises(KeyboardInterrupt), runs.as_found(loaded.model):
        original = loaded.model.forward
        loaded.model.forward = lambda *a, **k: original(*a, **k)
        loaded.model.config.use_cache = False
        raise KeyboardInterrupt
    assert "forward" not in vars(loaded.model) and not loaded.model.training
    assert getattr(loaded.model.config, "use_cache", None) is not False
    twin = copy.deepcopy(loaded)
    with torch.no_grad():
        loaded.model.model.language_model.norm.weight.add_(1.0)
    assert not torch.equal(logits(twin), logits(loaded))  # a copy is a copy again
    assert changed(before, weights(twin.model)) == set()


def test_a_frozen_model_is_not_trained(tmp_path):
    loaded = models.frozen(build())
    with pytest.raises(ValueError, match="trainable=True"):
        runs.run(loaded, None, {}, 0, 1, tmp_path / "run")
