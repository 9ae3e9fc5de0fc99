"""The cost table's measurements: all arms on a CPU with the tiny shape, and what is made of them."""

import json
import shutil
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lrt import cli
from lrt.files import read_lines, write_lines
from lrt.grpo import GRPOSettings, train_grpo
from lrt.listener import AdapterOffListener, LocalListener
from lrt.machine import bench_arms, bench_gpu, bench_model, cost_table, shapes
from lrt.machine.bench_arms import Injected
from lrt.machine.bench_model import SMALL, Bench, Geometry, Tokens
from lrt.rewards import ListenerReward, accuracy_reward, format_reward

TINY = Bench("tiny", "cpu", SMALL)
CUDA = replace(TINY, device="cuda")
COMMIT = "0123456789ab"


def measure(out, told=None, **changes):
    given = {"size": "tiny", "out": out, "device": "cpu", "commit": COMMIT, "geometry": SMALL, **changes}
    return bench_gpu.bench_gpu(**given, report=(told if told is not None else []).append)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file with every arm, as the command leaves it."""
    out = tmp_path_factory.mktemp("cost") / "below" / "cost.jsonl"
    measure(out)
    return out


# --- all of it, on a CPU -------------------------------------------------------------------------------------------


def test_every_arm_is_measured(whole):
    records = {record["arm"]: record for record in read_lines(whole)}
    assert list(records) == list(bench_gpu.ARMS)
    for record in records.values():
        assert (record["size"], record["commit"], record["hardware"]) == ("tiny", COMMIT, {"name": "CPU"})
        assert record["geometry"]["trace_tokens"] == SMALL.trace_tokens and record["machine"]["torch"]
    found = {name: record["found"] for name, record in records.items()}
    for name in ("sft", "grpo", "grpo_listener", "generation"):
        assert len(found[name]["seconds"]) == SMALL.steps - 1 and min(found[name]["seconds"]) > 0
        assert found[name]["peak_gib"] is None and found[name]["flops"] > 0  # no GPU, no peak
    assert found["grpo_listener"]["flops"] > found["grpo"]["flops"]
    for name in ("grpo", "grpo_listener"):
        assert all(a < b for a, b in zip(found[name]["generate_seconds"], found[name]["seconds"], strict=True))
    assert all(0 < a < b for a, b in zip(found["grpo_listener"]["listener_seconds"],
                                         found["grpo_listener"]["seconds"], strict=True))
    assert {kind: np.shape(times) for kind, times in found["listener"]["seconds"].items()} == {
        "plain": (SMALL.repeats, 1), "shared": (SMALL.repeats, 1),
    }
    assert found["listener"]["largest_difference_of_p"] < 1e-6
    assert found["sft"]["parameters"] == shapes.parameters(shapes.meta_model(shapes.qwen_config("tiny")))


def test_asked_again_only_what_is_missing_is_run(whole, tmp_path):
    lines = whole.read_text().splitlines(keepends=True)
    out, told = tmp_path / "cost.jsonl", []
    out.write_text("".join(line for line in lines if '"arm": "generation"' not in line) + lines[2][:50])  # torn
    measure(out, told)
    assert [name for name in told if name.endswith("...")] == ["generation ..."]
    again = {record["arm"]: record for record in read_lines(out)}
    before = {record["arm"]: record for record in read_lines(whole)}
    assert again.keys() == before.keys()
    assert all(again[name] == before[name] for name in before if name != "generation")
    told.clear()
    finished = out.read_bytes()
    measure(out, told)
    assert out.read_bytes() == finished and told == [f"{name}: measured already" for name in bench_gpu.ARMS]


@pytest.mark.parametrize(("change", "named"), [
    ({"commit": "another"}, "another commit"),
    ({"geometry": replace(SMALL, image=112)}, "another geometry"),
])
def test_a_file_holds_one_measurement_of_a_size(whole, change, named):
    before = whole.read_bytes()
    with pytest.raises(ValueError, match=f"holds tiny measured with {named}: name another file"):
        measure(whole, **change)
    assert whole.read_bytes() == before


def test_an_arm_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def fails(bench):
        raise bench_gpu.ArmFailed("out of memory")

    monkeypatch.setattr(bench_gpu, "ARMS", {"listener": fails, "matmul": bench_arms.matmul})
    told = []
    with pytest.raises(ValueError, match=r"not measured: listener \(why stands above\)"):
        measure(tmp_path / "cost.jsonl", told)
    assert "listener: out of memory" in told
    assert [record["arm"] for record in read_lines(tmp_path / "cost.jsonl")] == ["matmul"]


def test_an_arm_in_a_process_of_its_own(monkeypatch):
    found = bench_gpu.in_own_process("matmul", TINY)
    assert found["flops_per_second"] > 0 and found["side"] == 256
    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # a process that ends badly, at once
    with pytest.raises(bench_gpu.ArmFailed, match="ended with status 1"):
        bench_gpu.in_own_process("matmul", TINY)


def test_the_command_prints_the_table_and_bench_alone_is_what_it_was(whole, tmp_path):
    out = tmp_path / "cost.jsonl"
    shutil.copy(whole, out)
    asked = ["bench", "gpu", "--size", "tiny", "--device", "cpu", "--commit", COMMIT, "--out", str(out)]
    result = CliRunner().invoke(cli.app, asked)
    assert result.exit_code == 0 and result.stdout.count("measured already") == len(bench_gpu.ARMS)
    assert cost_table.cost_table(out) in result.stdout
    refused = CliRunner().invoke(cli.app, ["bench", "gpu", "--size", "3B", "--device", "cpu"])
    assert refused.exit_code == 2 and refused.stderr.startswith("lrt: 3B is measured on a GPU")
    helped = CliRunner().invoke(cli.app, ["bench", "--help"])
    assert "--repeats" in helped.stdout and "gpu" in helped.stdout


@pytest.mark.parametrize(("size", "device", "sentence"), [
    ("8B", "cuda", "no shape '8B'; there are 3B, 7B, tiny"),
    ("7B", "cpu", "7B is measured on a GPU"),
    ("7B", "mps", 'the device is "cuda" or "cpu", not \'mps\''),
])
def test_the_wrong_size_or_device_is_said_in_a_sentence(tmp_path, size, device, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(tmp_path / "cost.jsonl", size=size, device=device)
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_the_command_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ValueError, match="no CUDA device here"):
        measure(tmp_path / "cost.jsonl", size="3B", device="cuda")
    assert not list(tmp_path.iterdir())


# --- that it measures what it says ---------------------------------------------------------------------------------


@cache
def real_tokens() -> Tokens:
    """The real geometry on the tiny shape: the number of tokens does not depend on the model's width."""
    return bench_model.tokens_of(bench_model.build(replace(TINY, geometry=Geometry())), Geometry())


def test_the_geometry_is_the_real_one():
    found = real_tokens()
    assert found.image == 18 * 18  # 512 pixels become 504, of which 28 are a token
    assert 2 * found.image + 100 < found.chat < 2 * found.image + 150
    tokenizer = bench_model.build(TINY).tokenizer
    traces = bench_model.fake_traces(Geometry(), 8)
    assert [len(tokenizer(trace)["input_ids"]) for trace in traces] == [200] * 8
    assert len(set(traces)) == 8
    assert len(tokenizer) < min(shapes.TEXT[size]["vocab_size"] for size in shapes.SIZES)


def test_weights_are_random_frozen_and_the_same_every_time():
    one, other = (dict(bench_model.build(TINY).model.named_parameters()) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {"lora_" in name for name, p in one.items() if p.requires_grad} == {True}
    assert all(p.std() > 0 for name, p in one.items() if name.endswith("_proj.base_layer.weight"))


def test_the_listener_reads_the_injected_completions():
    loaded = bench_model.build(TINY)
    row = bench_model.fake_pairs(SMALL, 1)[0]
    traces = bench_model.fake_traces(SMALL, 2)
    texts = [bench_model.completion(trace, 1 + i) for i, trace in enumerate(traces)]
    columns = {"pair_text": [row["prompt"]] * 4, "images": [row["images"]] * 4, "vote": [1] * 4, "pair_id": ["a"] * 4}
    written = ["nothing in the right format"] * 4
    p = AdapterOffListener(loaded).p_first([row["prompt"]], [row["images"]], [traces])[0]
    reward = Injected(ListenerReward(AdapterOffListener(loaded)), texts)
    assert reward(prompts=None, completions=written, **columns) == pytest.approx([*p, *p], abs=1e-6)
    assert reward.reward.unparsable == 0 and reward.__name__ == "listener_reward"
    assert Injected(format_reward, texts)(completions=written, **columns) == [1.0] * 4
    assert Injected(accuracy_reward, texts)(completions=written, **columns) == [1.0, 0.0, 1.0, 0.0]


def test_a_completion_of_another_length_is_not_measured():
    bench_arms.check_length(SMALL.trace_tokens, SMALL)
    with pytest.raises(RuntimeError, match="3 tokens instead of 12"):
        bench_arms.check_length(3, SMALL)


@given(st.integers(1, 40), st.integers(1, 2000), st.integers(1, 400))
def test_a_shared_prefix_saves_all_prefixes_but_one(completions, chat, trace):
    weights = {"language": 1000, "head": 10, "vision": 0, "merger": 0}
    one = Tokens(chat, 0, trace, shapes.qwen_config("tiny"), weights, vision=500.0)
    saved = one.listening(completions, shared=False) - one.listening(completions, shared=True)
    assert saved == (completions - 1) * (one.vision + one.text(chat)) - one.heads(1)


def test_at_7b_the_arithmetic_leaves_room_for_the_goal():
    config = shapes.qwen_config("7B")
    weights = shapes.linear_weights(shapes.meta_model(config))
    pictures = 2 * shapes.vision_flops(config, weights, (36, 36))
    one = replace(real_tokens(), config=config, weights=weights, vision=pictures)
    assert 3 < one.listening(8, shared=False) / one.listening(8, shared=True) < 8


# --- the table -----------------------------------------------------------------------------------------------------


def record(arm: str, size: str = "7B", **found) -> dict:
    return {"arm": arm, "size": size, "hardware": {"name": "A card", "gib": 80, "cuda": "13.0"}, "date": "2026-01-02",
            "geometry": {"image": 512, "lora_rank": 16, "completions": 8, "trace_tokens": 200, "pairs_per_step": 1},
            "commit": COMMIT, "found": found}


def listener_record(plain: float, size: str = "7B") -> dict:
    return record("listener", size, seconds={"plain": [[plain], [plain]], "shared": [[0.5], [0.5]]},
                  peak_gib={"plain": 20.0, "shared": 18.0}, flops={"plain": 4e12, "shared": 1e12})


def grpo_records(peak: float, reading: float) -> list[dict]:
    same = {"seconds": [10.0, 10.0], "generate_seconds": [6.0, 6.0], "flops": 1e13, "weights_gib": 16.0}
    return [record("grpo", peak_gib=30.0, **same),
            record("grpo_listener", peak_gib=peak, listener_seconds=[reading, reading], **same)]


@pytest.mark.parametrize(("plain", "peak", "reading", "met"), [
    (1.6, 30.5, 0.9, [True, True, True]),
    (1.4, 46.0, 1.1, [False, False, False]),  # the second copy would weigh 16 GiB
])
def test_goals(plain, peak, reading, met):
    arms = {one["arm"]: one for one in [listener_record(plain), *grpo_records(peak, reading)]}
    found = cost_table.goals(arms, "7B")
    assert [one.meets for one in found] == met
    assert [one.value for one in found] == pytest.approx([plain / 0.5, reading / 10, (peak - 30) / 16])
    assert cost_table.goals(arms, "3B")[0].meets is None  # the first goal is of 7B shapes alone
    del arms["grpo"]
    assert len(cost_table.goals(arms, "7B")) == 2 and cost_table.goals({}, "7B") == []


def test_the_table_says_what_was_measured_and_what_was_not(tmp_path):
    path = tmp_path / "cost.jsonl"
    write_lines(path, [record("matmul", flops_per_second=1e13), listener_record(1.6), listener_record(1.0, "3B"),
                       record("generation", seconds=[4.0, 2.0, 5.0], generated=1600, peak_gib=None, flops=1e12)])
    table = cost_table.cost_table(path)
    rows = {row[1]: row[2:4] for row in ([cell.strip() for cell in line.split("|")] for line in table.splitlines())
            if len(row) == 5}
    assert rows[""] == ["3B", "7B"]
    assert rows["Listener alone, plain: seconds"] == ["1 (1 to 1)", "1.6 (1.6 to 1.6)"]
    assert rows["Listener alone, shared prefix: peak GiB"] == ["18.0", "18.0"]
    assert rows["Listener alone, shared prefix: share of the arithmetic limit"] == ["not measured", "20.0 %"]
    assert rows["Generation: tokens a second"] == ["not measured", "400"]
    assert rows["Generation: peak GiB"] == ["not measured", "not measured"]
    assert rows["GRPO step: seconds"] == ["not measured", "not measured"]
    assert f"- 7B: A card, 80 GiB, CUDA 13.0; ; commit {COMMIT}; 2026-01-02." in table
    assert "plain / shared prefix 3.20 (3.20 to 3.20) goal at least 3.0: met" in table


def test_the_table_of_a_whole_run_has_every_row(whole):
    rows = [line for line in cost_table.cost_table(whole).splitlines() if line.startswith("| ")]
    without = [row for row in rows if "not measured" in row]
    assert len(rows) > 20 and all("peak GiB" in row for row in without)


def test_no_file_is_not_measured(tmp_path):
    assert cost_table.cost_table(tmp_path / "none.jsonl").startswith("Not measured")
    (tmp_path / "empty.jsonl").write_text("")
    assert cost_table.cost_table(tmp_path / "empty.jsonl").startswith("Not measured")


@pytest.mark.parametrize(("line", "missing"), [({"arm": "sft"}, "size"), ([1], "arm"), ({"size": "7B"}, "arm")])
def test_a_line_that_is_no_measurement_is_named(tmp_path, line, missing):
    path = tmp_path / "cost.jsonl"
    path.write_text("\n".join(map(json.dumps, [listener_record(1.0), line])) + "\n")
    with pytest.raises(ValueError, match=rf"cost.jsonl, line 2: no '{missing}' in it"):
        cost_table.cost_table(path)


# --- on a GPU ------------------------------------------------------------------------------------------------------


def listened(listener, geometry: Geometry) -> np.ndarray:
    """Logits (completions, 2) for the traces of one pair."""
    row = bench_model.fake_pairs(geometry, 1)[0]
    traces = bench_model.fake_traces(geometry, geometry.completions)
    return np.array(listener.logits([row["prompt"]], [row["images"]], [traces])[0])


@pytest.mark.gpu
def test_in_bfloat16_adapter_off_is_a_frozen_copy():
    policy = bench_model.build(CUDA)
    copy = bench_model.build(replace(CUDA, geometry=replace(SMALL, lora_rank=0)))
    assert copy.model.dtype == torch.bfloat16
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.5)
    expected = listened(LocalListener(copy), SMALL)
    np.testing.assert_array_equal(listened(AdapterOffListener(policy), SMALL), expected)
    assert np.abs(listened(LocalListener(policy), SMALL) - expected).max() > 0.1  # the adapter does something


@pytest.mark.gpu
def test_in_bfloat16_a_shared_prefix_is_the_plain_pass():
    loaded = bench_model.build(replace(CUDA, geometry=Geometry()))
    plain, shared = (listened(AdapterOffListener(loaded, share_prefix=share), Geometry()) for share in (False, True))
    exact = listened(AdapterOffListener(replace(loaded, model=loaded.model.float())), Geometry())
    error = max(np.abs(plain - exact).max(), 2.0**-9)  # of bfloat16, in logits of the order of 0.1
    assert np.abs(shared - exact).max() < 4 * error and np.abs(plain - shared).max() < 4 * error


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_grpo_in_half_precision(tmp_path, precision, monkeypatch):
    # A card without bfloat16 keeps the base in fp16 and the adapter in fp32; its gradient scaler may skip first steps.
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    monkeypatch.setattr(bench_model, "dtype_of", lambda device: half)
    loaded = bench_model.build(CUDA)
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert loaded.model.get_input_embeddings().weight.dtype == half
    before = {name: p.detach().clone() for name, p in trained.items()}
    texts = [bench_model.completion(trace, 1 + i) for i, trace in enumerate(bench_model.fake_traces(SMALL, 2))]
    settings = GRPOSettings(steps=3, pairs_per_step=1, num_generations=2, lr=1e-3, max_new_tokens=12, save_every=3,
                            lora_rank=SMALL.lora_rank, precision=precision, gradient_checkpointing=True)
    rewards = [Injected(accuracy_reward, texts), Injected(ListenerReward(AdapterOffListener(loaded)), texts)]
    log = train_grpo(loaded, bench_model.fake_pairs(SMALL, 1), rewards, [1.0, 0.5], settings, tmp_path / "run",
                     on_step=lambda *_: None)
    assert all(np.isfinite(record["loss"]) and record["reward_std"] > 0 for record in log)
    assert np.isfinite(log[-1]["grad_norm"])
    assert any(not torch.equal(p, before[name]) for name, p in loaded.model.named_parameters() if name in before)


@pytest.mark.gpu
def test_memory_is_measured_and_the_listener_adds_no_copy():
    peaks = {name: bench_gpu.in_own_process(name, CUDA) for name in ("grpo", "grpo_listener")}
    assert all(found["peak_gib"] > found["weights_gib"] > 0 for found in peaks.values())
    assert peaks["grpo_listener"]["peak_gib"] - peaks["grpo"]["peak_gib"] < 0.5 * peaks["grpo"]["weights_gib"]
