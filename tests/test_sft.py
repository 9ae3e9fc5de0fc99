
import pytest
import torch
from tiny_runs import DEVICES, assert_same_weights, build, changed, saved, untimed, weights

from lrt import models, sft
from lrt.checkpoints import with_adapter
from lrt.pairs import tiny_pairs
from lrt.prompts import ENGLISH_WORDING, TINY_WORDING, listener_continuation, parse
from lrt.rows import balanced_order, row_order

SETTINGS = sft.SFTSettings(steps=6, pairs_per_step=2, lr=1e-3, save_every=2, seed=3)  # 5 pairs: two steps an epoch
PAIRS = tiny_pairs("train", 5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("sft") / "base")


def train(base, out, device="cpu", settings=SETTINGS, **kwargs):
    loaded = models.load(base, device, torch.float32, trainable=True)
    log = sft.train_sft(loaded, PAIRS, settings, out, on_step=kwargs.pop("on_step", lambda *_: None), **kwargs)
    return loaded, log


def test_rows_hold_chat_completion_and_images_in_order():
    loaded = build()
    rows = sft.training_rows(PAIRS, SETTINGS, loaded)
    assert len(rows) == 12
    for row, i in zip(rows, row_order(5, 2, 6, 3), strict=True):
        vote = PAIRS[i]["vote"]
        assert row["completion"] == [{"role": "assistant", "content": f"<think> </think> <answer> {vote} </answer>"}]
        content = row["prompt"][0]["content"]
        assert [part["type"] for part in content] == ["text", "image", "text", "image", "text"]
        assert all("text" not in part for part in content if part["type"] == "image")
        assert [list(image.getdata()) for image in row["images"]] == [list(x.getdata()) for x in PAIRS[i]["images"]]


def test_votes_are_balanced_in_the_order_of_grpo_if_asked(base, tmp_path):
    settings, pairs = sft.SFTSettings(steps=3, pairs_per_step=2, seed=3, balance_votes=True), tiny_pairs("train", 12)
    order = balanced_order(pairs["vote"][:], 2, 3, 3)
    rows = sft.training_rows(pairs, settings, build())
    votes = [int(row["completion"][0]["content"].split()[-2]) for row in rows]
    assert votes == [pairs[i]["vote"] for i in order] and [sum(votes[i : i + 2]) for i in (0, 2, 4)] == [3, 3, 3]
    train(base, tmp_path, settings=sft.SFTSettings(steps=1, pairs_per_step=2))
    with pytest.raises(ValueError, match="balance_votes was False, is True"):
        train(base, tmp_path, settings=sft.SFTSettings(steps=1, pairs_per_step=2, balance_votes=True))


def test_a_trace_is_the_true_one_with_the_vote_as_verdict():
    for row in PAIRS:
        said = sft.completion_of(row, "trace")
        assert said.startswith("<think> image 1 : ")
        assert said.endswith(f"image {row['vote']} is better . </think> <answer> {row['vote']} </answer>")
    with pytest.raises(ValueError, match="target"):
        sft.completion_of(PAIRS[0], "verdict")
    with pytest.raises(ValueError, match="no words"):
        sft.training_rows(tiny_pairs("unseen_flaws", 12), SETTINGS, build(), "trace")


@pytest.mark.parametrize("device", DEVICES)
def test_the_loss_is_the_completions_alone(base, tmp_path, device):
    loaded = models.load(base, device, torch.float32, trainable=True)
    settings = sft.SFTSettings(steps=1, pairs_per_step=2)
    rows = sft.training_rows(PAIRS, settings, loaded)
    total = count = 0
    for row, i in zip(rows, row_order(5, 2, 1, 0), strict=True):
        start = loaded.chat(PAIRS[i]["prompt"])
        end = row["completion"][0]["content"] + loaded.tokenizer.eos_token
        both = loaded.processor(text=[start + " " + end], images=[row["images"]], return_tensors="pt").to(device)
        n = len(loaded.tokenizer(end)["input_ids"])
        with torch.no_grad():
            logp = loaded.model(**both).logits[0, -n - 1 : -1].log_softmax(-1)
        total -= logp.gather(-1, both["input_ids"][0, -n:, None]).sum().item()
        count += n
    _, log = train(base, tmp_path / "run", device, settings)
    assert log[0]["loss"] == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_command_gives_the_same_numbers_and_learns(base, tmp_path, device):
    a, log_a = train(base, tmp_path / "a", device)
    b, log_b = train(base, tmp_path / "b", device)
    assert untimed(log_a) == untimed(log_b)
    assert_same_weights(weights(a.model), weights(b.model))
    assert [record["step"] for record in log_a] == [1, 2, 3, 4, 5, 6]
    assert log_a[-1]["loss"] < log_a[0]["loss"]
    assert_same_weights(weights(models.load(str(tmp_path / "a/model"), device, torch.float32).model), weights(a.model))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rank", [0, 2])
def test_killed_past_the_first_epoch_and_started_again_ends_the_same(base, tmp_path, device, rank):
    settings = sft.SFTSettings(steps=6, pairs_per_step=2, lr=1e-3, save_every=2, seed=3, lora_rank=rank)

    def start(out, on_step):
        loaded = with_adapter(models.load(base, device, torch.float32, trainable=True), rank, seed=1)
        return loaded, sft.train_sft(loaded, PAIRS, settings, out, on_step=on_step)

    def kill(step, total, record):
        if step == 5:
            raise KeyboardInterrupt

    steps = []
    whole, log = start(tmp_path / "whole", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "killed", kill)
    again, log_again = start(tmp_path / "killed", lambda step, total, record: steps.append((step, total)))
    assert steps == [(5, 6), (6, 6)]  # it went on from checkpoint 4
    assert untimed(log_again) == untimed(log)
    assert_same_weights(weights(again.model), weights(whole.model))


def test_an_adapter_leaves_the_base_alone(base, tmp_path):
    loaded = with_adapter(models.load(base, trainable=True), rank=2)
    before = weights(loaded.model)
    settings = sft.SFTSettings(steps=2, pairs_per_step=2, lr=1e-2, lora_rank=2)
    sft.train_sft(loaded, PAIRS, settings, tmp_path / "run", on_step=lambda *_: None)
    touched = changed(before, weights(loaded.model))
    assert touched and all("lora_" in name for name in touched)
    with pytest.raises(ValueError, match="has an adapter"):
        sft.train_sft(loaded, PAIRS, sft.SFTSettings(steps=1, pairs_per_step=2), tmp_path / "other")


def test_another_target_needs_another_folder(base, tmp_path):
    settings = sft.SFTSettings(steps=1, pairs_per_step=2)
    _, log = train(base, tmp_path, settings=settings)
    with pytest.raises(ValueError, match="target was 'answer', is 'trace'"):
        train(base, tmp_path, settings=settings, target="trace")
    _, trace_log = train(base, tmp_path / "trace", settings=settings, target="trace")
    assert trace_log[0]["loss"] != log[0]["loss"]


def test_two_passes_a_step_add_up_to_one(base, tmp_path):
    one = sft.SFTSettings(steps=1, pairs_per_step=4, lr=1e-3)
    two = sft.SFTSettings(steps=1, pairs_per_step=4, lr=1e-3, pairs_per_pass=2)
    _, log_one = train(base, tmp_path / "one", settings=one)
    _, log_two = train(base, tmp_path / "two", settings=two)
    assert log_two[0]["loss"] == pytest.approx(log_one[0]["loss"], rel=1e-5)
    assert log_two[0]["grad_norm"] == pytest.approx(log_one[0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("wrong", [{"pairs_per_pass": 5}, {"save_every": 3, "log_every": 2}, {"precision": "int8"}])
def test_settings_that_make_no_run(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sft.SFTSettings(**wrong)


def test_a_real_tokenizer_is_taught_the_answer_where_a_listener_reads_it():
    """`<answer>1`, as the listener's own prompt continues; with a space before it, the space would be the token."""
    for target in ("answer", "trace"):
        tiny, real = (sft.completion_of(PAIRS[0], target, wording) for wording in (TINY_WORDING, ENGLISH_WORDING))
        assert tiny == sft.completion_of(PAIRS[0], target) and parse(real) == parse(tiny)
        assert real.endswith(f"<answer>{PAIRS[0]['vote']}</answer>")
        assert listener_continuation("x").endswith("<answer>"), "and nothing between the mark and the number"
