"""Profiles: what each decides reaches the trainers; the share of prompts; images of one size; old runs stay theirs."""

import ast
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import build, saved

from lrt import grpo, images, methods, models, profiles, sft
from lrt.checkpoints import adapter_in_fp32, with_adapter
from lrt.grpo import GRPOSettings
from lrt.listener import AdapterOffListener, LocalListener
from lrt.pairs import tiny_pairs
from lrt.passes import passes
from lrt.profiles import PROFILES, REAL, in_share
from lrt.remote import RemoteListener
from lrt.runs import check_call, read_log
from lrt.sft import SFTSettings

CPU = torch.device("cpu")
PAIRS = tiny_pairs("train", 6)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("profiles") / "base")


def small(name, base, **changes):
    """A real profile with a tiny model on a CPU in place of the hub's on a GPU."""
    sizes = {"reasoner": base, "device": "cpu", "weights": "fp32", "precision": "fp32", "max_pixels": None,
             "grpo_steps": 1, "pairs_per_step": 2, "num_generations": 2, "completions_per_pass": 2, "max_new_tokens": 6,
             "sft_steps": 1, "sft_batch": 4, "pairs_per_pass": 2, "lora_rank": 2, "image_side": None,
             "vllm_server": None, "share": 1.0}
    return replace(REAL[name], **{**sizes, **changes})


# ---- what the profiles say ----


def test_every_value_of_a_profile_that_is_written_out_has_its_reason():
    source = Path(profiles.__file__).read_text()
    lines = source.splitlines()
    calls = [node.value for node in ast.parse(source).body
             if isinstance(node, ast.Assign) and node.targets[0].id in ("COLAB_T4", "GPU", "GPU_MANY", "PAPER")]
    assert len(calls) == 4
    self_explaining = {"name", "splits", "data", "benchmarks", "size", "device", "gpus"}
    for call in calls:
        for keyword in call.keywords:
            if keyword.arg not in self_explaining:
                assert "  # " in lines[keyword.lineno - 1] or keyword.arg in ("pairs_per_pass",), keyword.arg
    for field in fields(profiles.Profile):
        assert any(line.strip().startswith(f"{field.name}: ") for line in lines)


@given(st.sampled_from([f for f in fields(profiles.Profile) if f.name != "name"]), st.sampled_from(list(REAL)))
def test_a_field_can_be_said_as_it_is_written(field, name):
    """Every field of every profile, as text, comes back as it was."""
    settings, value = REAL[name], getattr(REAL[name], field.name)
    said = ",".join(value) if isinstance(value, tuple) else str(value)
    other = replace(PROFILES["ci"], **{field.name: getattr(PROFILES["laptop"], field.name)})
    assert getattr(profiles.changed(other, [f"{field.name}={said}"]), field.name) == value
    assert profiles.changed(settings, [f"{field.name}={said}"]) == settings


def test_fields_are_changed_one_after_another():
    found = profiles.changed(REAL["gpu"], ["weights=4bit", "max_pixels=none", "grpo_lr=2e-5", "sharded=true",
                                           "benchmarks=hpdv2, rapidata", "weights=fp16"])
    assert (found.weights, found.max_pixels, found.grpo_lr, found.sharded) == ("fp16", None, 2e-5, True)
    assert found.benchmarks == ("hpdv2", "rapidata") and profiles.changed(found, []) == found


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("rank=3", "'rank=3' is no field=value of a profile; fields are reasoner, .*weights, precision"),
        ("weights", "'weights' is no field=value"),
        ("name=mine", "'name=mine' is no field=value"),
        ("gpus=none", "gpus is a whole number of at least 0, not 'none'"),
        ("gpus=1.5", "gpus is a whole number of at least 0, not '1.5'"),
        ("grpo_lr=nan", "grpo_lr is a number of at least 0, not 'nan'"),
        ("sharded=yes", "sharded is true or false, not 'yes'"),
        ("precision=4bit", "precision is fp32 or bf16 or fp16, not '4bit'"),
    ],
)
def test_what_is_no_field_or_no_value_of_one_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        profiles.changed(REAL["gpu"], [said])


def test_tiny_profiles_are_found_beside_real_ones():
    assert profiles.profile("ci") is PROFILES["ci"] and profiles.profile("gpu") is REAL["gpu"]
    assert not set(PROFILES) & set(REAL) and all(one.name == name for name, one in REAL.items())
    with pytest.raises(ValueError, match="no profile 'huge'; there are laptop, ci, colab-t4, gpu, gpu-many, paper"):
        profiles.profile("huge")


@pytest.mark.parametrize("settings", REAL.values(), ids=REAL)
def test_a_real_profile_gives_settings_that_the_trainers_take(settings, tmp_path):
    """TRL's own checks of batch and group sizes are passed, and a step comes out even on the profile's cards."""
    how = methods.grpo_settings(settings, seed=3)
    cpu = replace(how, precision="fp32")  # the arguments refuse 16 bits without a GPU
    config = grpo.trl_config(cpu, [1.0, 0.5, 0.5], tmp_path, CPU, image_token=7)
    completions = settings.pairs_per_step * settings.num_generations
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == completions
    assert config.per_device_train_batch_size == settings.completions_per_pass
    rows, times = passes(completions, settings.completions_per_pass, "completions", settings.gpus)
    assert rows * times * settings.gpus == completions
    assert (how.precision, how.lora_rank, how.gradient_checkpointing) == (settings.precision, settings.lora_rank, True)
    assert config.activation_checkpointing and config.beta == settings.beta
    assert config.max_completion_length == settings.max_new_tokens
    assert config.use_vllm == bool(settings.vllm_server)
    if settings.vllm_server:
        assert (config.vllm_mode, config.vllm_server_base_url) == ("server", settings.vllm_server)
    tuned = sft.trl_config(replace(methods.sft_settings(settings, 3), precision="fp32"), tmp_path, CPU)
    assert tuned.per_device_train_batch_size * tuned.gradient_accumulation_steps == settings.sft_batch
    assert passes(settings.sft_batch, settings.pairs_per_pass, "pairs", settings.gpus)[0] == settings.pairs_per_pass


def test_a_step_is_shared_out_over_processes(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert passes(64, None, "completions") == (64, 1) and passes(64, 16, "completions") == (16, 4)
    assert passes(64, None, "completions", 8) == (8, 1) and passes(64, 4, "completions", 8) == (4, 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert passes(6, None, "pairs") == (2, 1)
    with pytest.raises(ValueError, match="8 completions a step cannot be shared out over 3 processes, 2 a pass"):
        grpo.trl_config(GRPOSettings(pairs_per_step=2, num_generations=4), [1.0], tmp_path, CPU)
    with pytest.raises(ValueError, match="2 pairs a step cannot be shared out over 3 processes, 0 a pass"):
        sft.trl_config(SFTSettings(pairs_per_step=2), tmp_path, CPU)


def test_a_real_profile_is_not_silently_run_on_something_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="colab-t4 is for a GPU, and torch sees none: `lrt doctor`"):
        methods.load_as(REAL["colab-t4"], "reasoner")
    with pytest.raises(ValueError, match="gpu learns from hpdv2: pass its pairs on"):
        methods.training_pairs(REAL["gpu"], 0)
    with pytest.raises(ValueError, match="paper is judged on imagereward, hpdv2, rapidata"):
        methods.test_splits(REAL["paper"])


def test_it_loads_as_the_profile_says(base, monkeypatch):
    asked = []
    monkeypatch.setattr(methods, "load", lambda *args: asked.append(args))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    methods.load_as(REAL["gpu"], "owner/model")
    methods.load_as(replace(REAL["colab-t4"], weights="4bit"), "owner/model", revision="v1")
    methods.load_as(PROFILES["ci"], "reasoner", trainable=True)
    assert asked == [
        ("owner/model", "cuda:3", torch.bfloat16, False, None, False, 512 * 512),
        ("owner/model", "cuda:3", torch.float16, False, "v1", True, 256 * 28 * 28),
        ("reasoner", "cpu", torch.float32, True, None, False, None),
    ]


@pytest.mark.parametrize("name", ["colab-t4", "paper"])
def test_the_functions_that_train_take_a_real_profile(name, base, tmp_path):
    """With a tiny model in place of the hub's, and one process: its base under the adapter listens."""
    settings = small(name, base, sharded=False, listener="adapter-off")  # one process
    loaded, log = methods.train("grpo_listener", settings, tmp_path, seed=0, pairs=PAIRS)
    assert len(log) == 1 and "rewards/listener_reward/mean" in log[0]
    assert (tmp_path / "grpo_listener/model/adapter_config.json").exists()
    _, log = methods.train("sft", settings, tmp_path, seed=0, pairs=PAIRS)
    assert len(log) == 1 and log[0]["loss"] > 0
    assert {p.dtype for p in loaded.model.parameters() if p.requires_grad} == {torch.float32}


def test_the_listener_of_a_profile(base):
    settings = small("gpu", base, listener_batch=5)
    policy = methods.reasoner(settings, 0)
    ear = methods.listener_for(settings, policy)
    assert isinstance(ear, AdapterOffListener) and ear.local.batch == 5
    other = methods.listener_for(settings, policy, base)
    assert isinstance(other, LocalListener) and other.loaded.model is not policy.model and other.batch == 5
    far = methods.listener_for(settings, policy, profiles.GPU_MANY.listener)
    assert isinstance(far, RemoteListener) and far.model == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_profile_that_shards_its_weights_cannot_hear_with_them(base):
    policy = methods.reasoner(small("gpu", base), 0)
    with pytest.raises(ValueError, match="gpu-many shards its weights.*must be a server"):
        methods.listener_for(small("gpu-many", base), policy, "adapter-off")


# ---- runs from before ----


def test_a_run_from_before_the_new_settings_is_still_its_folders(tmp_path):
    """Fields that came later were what they are by default; who listened then is not known."""
    now = asdict(GRPOSettings())
    old = {name: value for name, value in now.items() if name not in ("vllm_server", "image_side", "balance_votes")}
    check_call(tmp_path, {"kind": "grpo", **old})
    check_call(tmp_path, {"kind": "grpo", **now, "listeners": [{"models": ["reader"]}]})
    with pytest.raises(ValueError, match="image_side was None, is 56"):
        check_call(tmp_path, {"kind": "grpo", **asdict(GRPOSettings(image_side=56))})
    with pytest.raises(ValueError, match="beta was 0.0, is None"):
        check_call(tmp_path, {"kind": "grpo", **{name: value for name, value in now.items() if name != "beta"}})


def test_who_listens_belongs_to_a_run(tmp_path):
    check_call(tmp_path, {"kind": "grpo", "listeners": [{"models": ["reader"]}]})
    for other in ({"listeners": [{"models": ["llava"]}]}, {}):
        with pytest.raises(ValueError, match="listeners was"):
            check_call(tmp_path, {"kind": "grpo", **other})


def test_an_sft_record_too(base, tmp_path):
    settings = small("gpu", base)
    methods.train("sft", settings, tmp_path, seed=0, pairs=PAIRS)
    record = json.loads((tmp_path / "sft/settings.json").read_text())
    assert record["image_side"] is None and record["pairs_per_step"] == 4
    with pytest.raises(ValueError, match="image_side was None, is 56"):
        methods.train("sft", replace(settings, image_side=56), tmp_path, seed=0, pairs=PAIRS)


# ---- precision ----


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_an_adapter_on_a_base_in_16_bits_is_in_32(precision, base):
    loaded = models.load(base, dtype=methods.DTYPES[precision])
    tuned = with_adapter(loaded, 2)
    assert {p.dtype for p in tuned.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in tuned.model.parameters() if not p.requires_grad} == {methods.DTYPES[precision]}


def test_what_trl_casts_for_a_model_in_4_bits_is_cast_back(base, tmp_path, monkeypatch):
    """TRL sees `is_loaded_in_4bit` and puts the adapter into bf16: small steps are lost, and a scaler refuses it."""
    settings = GRPOSettings(steps=2, pairs_per_step=2, num_generations=2, max_new_tokens=4, save_every=2, lora_rank=2)
    trl_config = grpo.trl_config
    monkeypatch.setattr(grpo, "trl_config", lambda how, *rest: trl_config(replace(how, precision="fp32"), *rest))
    for precision in ("bf16", "fp16"):
        loaded = with_adapter(models.load(base), 2)
        loaded.model.get_base_model().is_loaded_in_4bit = True
        how = replace(settings, precision=precision)
        grpo.build_trainer(loaded, PAIRS, [lambda completions, **_: [0.0] * len(completions)], [1.0], how, tmp_path)
        assert {p.dtype for p in loaded.model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("settings", profiles.REAL.values(), ids=lambda settings: settings.name)
def test_the_squares_of_a_profile_are_whole_cells_within_its_pixels(settings):
    side = settings.image_side
    if side:
        assert images.on_square(Image.new("RGB", (640, 400)), side).size == (side, side)
        assert side * side <= settings.max_pixels


def test_all_weights_are_not_trained_in_16_bits(base):
    """Where weights are sharded accelerate puts them into float32 itself."""
    with pytest.raises(ValueError, match="gpu without an adapter would train its bf16 weights.*--set weights=fp32"):
        methods.reasoner(small("gpu", base, lora_rank=0, weights="bf16"), 0)
    for settings in (small("gpu", base, lora_rank=0, weights="fp32"), small("gpu-many", base, lora_rank=0)):
        loaded = methods.reasoner(settings, 0)
        assert all(p.requires_grad for p in loaded.model.parameters())


def test_only_trained_weights_are_cast(base):
    tuned = with_adapter(models.load(base, dtype=torch.float16), 2).model
    for p in tuned.parameters():
        p.data = p.data.half()
    adapter_in_fp32(tuned)
    assert {(p.requires_grad, p.dtype) for p in tuned.parameters()} == {(True, torch.float32), (False, torch.float16)}


def test_checkpointing_gives_the_same_run_and_leaves_the_vision_tower_out(base, tmp_path):
    """Same log to float rounding; and no gradient is asked of the frozen tower, which transformers would do."""
    logs, asked = [], set()
    for on in (False, True):
        settings = small("gpu", base, gradient_checkpointing=on, grpo_lr=1e-2, grpo_steps=2)
        loaded = methods.reasoner(settings, 0)
        tower = next(m for n, m in loaded.model.named_modules() if n.endswith("visual"))
        tower.register_forward_hook(lambda module, given, out: asked.add(out.last_hidden_state.requires_grad))
        functions, weights = methods.rewards("grpo")
        how = replace(methods.grpo_settings(settings, 0), save_every=2)
        logs.append(grpo.train_grpo(loaded, PAIRS, functions, weights, how, tmp_path / str(on)))
        assert read_log(tmp_path / str(on)) == logs[-1]
    assert asked == {False}
    for plain, checkpointed in zip(*logs, strict=True):
        assert plain["reward"] == checkpointed["reward"]
        assert plain["grad_norm"] == pytest.approx(checkpointed["grad_norm"], rel=1e-4)


# ---- the share of prompts ----


@given(st.text(max_size=40), st.integers(0, 5))
def test_a_larger_share_holds_the_smaller_one(prompt, seed):
    inside = [in_share(prompt, share, seed) for share in (0.0, 0.16, 0.5, 1.0)]
    assert inside == sorted(inside) and inside[0] is False and inside[-1] is True


def test_the_share_is_what_it_says():
    prompts = [f"a painting of {n} cats" for n in range(20_000)]
    kept = {prompt for prompt in prompts if in_share(prompt, 0.16)}
    assert abs(len(kept) / len(prompts) - 0.16) < 4 * (0.16 * 0.84 / len(prompts)) ** 0.5
    other = {prompt for prompt in prompts if in_share(prompt, 0.16, seed=1)}
    assert abs(len(kept & other) / len(kept) - 0.16) < 0.03  # another seed, another draw
    assert in_share("A  Red\nFox ", 0.16) == in_share("a red fox", 0.16)
    # written down: the rule must not change with the code
    assert [n for n in range(40) if in_share(f"a painting of {n} cats", 0.16)] == WRITTEN
    with pytest.raises(ValueError, match="between 0 and 1, not 16"):
        in_share("a", 16)


WRITTEN = [10, 15, 18, 21, 29, 32, 37, 38, 39]


# ---- images of one size ----


def test_an_image_is_put_in_the_middle_of_a_square():
    wide = Image.new("RGB", (100, 50), "red")
    square = np.asarray(images.on_square(wide, 56))
    assert square.shape == (56, 56, 3)
    assert (square[14:42] == (255, 0, 0)).all() and (square[:14] == 128).all() and (square[42:] == 128).all()
    same = Image.effect_noise((56, 56), 50).convert("RGB")
    assert images.on_square(same, 56).tobytes() == same.tobytes()
    with pytest.raises(ValueError, match="multiple of 28 pixels: 56 or 84, not 60"):
        images.on_square(wide, 60)


def test_training_sees_images_of_one_size():
    loaded = build()
    for rows in (
        grpo.training_rows(PAIRS, GRPOSettings(steps=2, pairs_per_step=2, save_every=2, image_side=84), loaded),
        sft.training_rows(PAIRS, SFTSettings(steps=2, pairs_per_step=2, image_side=84), loaded),
        images.one_size(PAIRS, 84),
    ):
        assert {image.size for pair in rows[:3]["images"] for image in pair} == {(84, 84)}
    assert images.one_size(PAIRS, None) is PAIRS
    assert images.one_size(PAIRS, 84)["prompt"][:] == PAIRS["prompt"][:]


def test_a_vllm_server_wants_one_size_and_the_package(base, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="with vllm_server set image_side"):
        GRPOSettings(vllm_server="http://127.0.0.1:8000")
    how = GRPOSettings(steps=1, pairs_per_step=2, num_generations=2, save_every=1,
                       vllm_server="http://127.0.0.1:8000", image_side=56)
    loaded = models.load(base, trainable=True)
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match="vllm_server needs the package vllm"):
            grpo.build_trainer(loaded, PAIRS, [], [], how, tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    loaded.model.is_loaded_in_4bit = True
    with pytest.raises(ValueError, match="a vllm_server is sent whole weights"):
        grpo.build_trainer(loaded, PAIRS, [], [], how, tmp_path)


def test_a_run_with_a_vllm_server_keeps_its_base_as_it_was(base, tmp_path, monkeypatch):
    """The trainer that would ask the server is not built here: what is done to the model before it, is."""
    how = GRPOSettings(steps=1, pairs_per_step=2, num_generations=2, save_every=1, lora_rank=2,
                       vllm_server="http://127.0.0.1:8000", image_side=56)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(grpo, "GRPOTrainer", lambda **_: None)
    loaded, asked = with_adapter(models.load(base), 2), []
    monkeypatch.setattr(grpo, "exact_merging", asked.append)
    grpo.build_trainer(loaded, PAIRS, [], [], how, tmp_path)
    grpo.build_trainer(loaded, PAIRS, [], [], replace(how, vllm_server=None), tmp_path)
    assert asked == [loaded.model]
