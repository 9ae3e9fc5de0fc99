"""Memory: counts are those of transformers' own classes; estimates are held against what autograd saves."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import DynamicCache, Qwen2VLImageProcessorPil

from lrt.checkpoints import LANGUAGE_LINEAR
from lrt.machine import memory
from lrt.machine.run_cost import BENCHMARK_PAIRS, H100, assumed, run_cost
from lrt.machine.run_cost import table as cost_table
from lrt.machine.shapes import meta_model, parameters, qwen_config
from lrt.profiles import PROFILES, REAL

SIZES = ("3B", "7B", "tiny")


@pytest.mark.parametrize("size", SIZES)
def test_weights_are_counted_as_the_model_has_them(size):
    config = qwen_config(size)
    model, counts = meta_model(config), memory.weight_counts(config)
    assert sum(counts.values()) == parameters(model)
    named = dict(model.named_parameters())
    assert counts["vision"] == sum(p.numel() for name, p in named.items() if ".visual." in name)
    assert counts["embedding"] == model.get_input_embeddings().weight.numel()
    linear = [name for name in named if ".language_model.layers." in name and name.endswith("_proj.weight")]
    assert counts["linear"] == sum(named[name].numel() for name in linear)
    assert bool(counts["head"]) == (not config.tie_word_embeddings)


@pytest.mark.parametrize("size", SIZES)
def test_an_adapter_is_counted_as_peft_makes_it(size):
    config = qwen_config(size)
    model = meta_model(config)
    with torch.device("meta"):
        tuned = get_peft_model(model, LoraConfig(r=5, target_modules=LANGUAGE_LINEAR), low_cpu_mem_usage=True)
    assert memory.adapter_count(config, 5) == sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def test_published_sizes():
    three, seven = (sum(memory.weight_counts(qwen_config(size)).values()) for size in ("3B", "7B"))
    assert three == 3_754_622_976 and seven == 8_292_166_656


def test_weights_by_precision():
    config = qwen_config("3B")
    assert memory.weights_bytes(config, "fp32") == 2 * memory.weights_bytes(config, "fp16")
    packed = memory.weight_counts(config)["linear"]
    assert memory.weights_bytes(config, "bf16") - memory.weights_bytes(config, "4bit") == pytest.approx(
        packed * (2 - 0.516), rel=1e-3
    )
    with pytest.raises(ValueError, match="weights are one of fp32, bf16, fp16, 4bit; not 'int3'"):
        memory.weights_bytes(config, "int3")


@pytest.mark.parametrize(("width", "height", "limit"), [(512, 512, 512**2), (1024, 768, 200704), (40, 300, 12845056)])
def test_patches_are_those_of_the_processor(width, height, limit):
    processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=limit)
    grid = processor(images=[Image.new("RGB", (width, height))], return_tensors="pt")["image_grid_thw"][0]
    patches = memory.image_patches(width, height, limit)
    assert patches == int(grid.prod()) and patches * 14 * 14 <= limit


@pytest.mark.parametrize("settings", REAL.values(), ids=REAL)
@pytest.mark.parametrize("size", [(512, 512), (2000, 1100), (300, 4000)])
def test_no_image_is_more_than_the_geometry_allows(settings, size):
    assert 2 * memory.image_patches(*size, settings.max_pixels) <= memory.geometry(settings).patches


# ---- estimates against what is saved ----


def saved_bytes(layers, rank=8, checkpointing=False, **changes):
    """What autograd saves in a forward pass of the language model with an adapter, without its weights."""
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, **changes}
    config = qwen_config("tiny")
    for name, value in text.items():
        setattr(config.text_config, name, value)
    config.text_config.layer_types = ["full_attention"] * layers
    config.text_config.rope_parameters["mrope_section"] = [4, 6, 6]
    config.vision_config.out_hidden_size = text["hidden_size"]
    torch.manual_seed(0)
    model = type(meta_model(config))(config).to(torch.bfloat16).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=rank, target_modules=LANGUAGE_LINEAR)).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.base_model.model.activation_checkpointing_enable()
    weights, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape.numel() >= T:  # not the small copies of adapter weights
            found[storage.data_ptr()] = (storage, storage.nbytes())  # held, so that no address is used twice
        return tensor

    ids = torch.randint(1, 400, (1, T))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        model.get_base_model().model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return sum(n for _, n in found.values()), config


T = 512  # enough that what does not grow with the tokens is small


@pytest.mark.parametrize("changes", [{}, {"intermediate_size": 768}, {"num_key_value_heads": 4}, {"rank": 16}])
def test_a_layers_activations_are_what_autograd_saves(changes):
    (two, config), (one, _) = saved_bytes(2, **changes), saved_bytes(1, **changes)
    estimate = memory.layer_bytes(config, changes.get("rank", 8))
    assert (two - one) / T == pytest.approx(estimate, rel=0.1)


def test_with_checkpointing_a_layer_keeps_its_input():
    (three, config), (two, _) = saved_bytes(3, checkpointing=True), saved_bytes(2, checkpointing=True)
    assert (three - two) / T == pytest.approx(2.0 * config.text_config.hidden_size, rel=0.1)


def test_the_cache_is_what_generation_holds():
    config = qwen_config("tiny")
    model = type(meta_model(config))(config).eval()
    cache = DynamicCache(config=config.text_config)
    with torch.no_grad():
        model(input_ids=torch.randint(1, 400, (3, 11)), past_key_values=cache, use_cache=True)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == 3 * 11 * memory.cache_bytes(config, element=4.0)


def test_logits_in_tiles_are_a_small_part_of_plain_ones():
    tiled, plain = memory.logits_bytes(qwen_config("7B"), 16 * 512)
    assert plain == 2 * 4 * 16 * 512 * 152064 and tiled < plain / 20
    assert memory.logits_bytes(qwen_config("tiny"), 10)[0] == 10 * 512 * 2 + 4 * 10 * 64


# ---- profiles ----


@pytest.mark.parametrize("settings", REAL.values(), ids=REAL)
def test_every_real_profile_fits_the_card_that_it_is_written_for(settings):
    for step in (memory.grpo_memory(settings), memory.sft_memory(settings)):
        assert 0.1 * settings.gpu_gb < step.peak_gb < 0.95 * settings.gpu_gb
        assert all(value > 0 for parts in (step.held, *step.phases.values()) for value in parts.values())


def test_what_the_reasons_of_the_profiles_say():
    """Numbers that comments in lrt/profiles.py give."""
    t4, gpu = REAL["colab-t4"], REAL["gpu"]
    assert memory.weights_bytes(qwen_config("7B"), "fp16") / 1e9 == pytest.approx(16.6, abs=0.05)
    assert memory.weights_bytes(qwen_config("7B"), "fp16") / 1e9 > t4.gpu_gb
    assert memory.grpo_memory(replace(t4, weights="fp32")).peak_gb > t4.gpu_gb
    saved = memory.grpo_memory(t4).peak - memory.grpo_memory(replace(t4, weights="4bit")).peak
    assert saved / 1e9 == pytest.approx(4.5, abs=0.5)
    assert memory.adapter_count(qwen_config("3B"), 16) == pytest.approx(30e6, rel=0.02)
    assert memory.adapter_count(qwen_config("7B"), 32) == pytest.approx(81e6, rel=0.02)
    for settings in (t4, gpu):
        assert memory.grpo_memory(replace(settings, gradient_checkpointing=False)).peak_gb > settings.gpu_gb
    activations = memory.grpo_memory(replace(gpu, gradient_checkpointing=False)).phases["update"]["activations"]
    assert activations / 1e9 == pytest.approx(150, rel=0.05)
    many = REAL["gpu-many"]
    assert memory.grpo_memory(many).held["weights"] / 1e9 == pytest.approx(4.1, abs=0.1)


@pytest.mark.parametrize(
    ("name", "change", "less"),
    [
        ("gpu", {"weights": "4bit"}, True),
        ("gpu", {"gradient_checkpointing": False}, False),
        ("gpu", {"completions_per_pass": 32}, False),
        ("gpu", {"max_pixels": 256 * 28 * 28}, True),
        ("gpu", {"lora_rank": 0}, False),  # all weights: gradients and two moments of each
        ("gpu", {"beta": 0.04}, False),
        ("gpu-many", {"sharded": False}, False),
    ],
)
def test_what_a_change_does_to_the_peak(name, change, less):
    before = memory.grpo_memory(REAL[name]).peak
    after = memory.grpo_memory(replace(REAL[name], **change)).peak
    assert (after < before) if less else (after > before)


def test_training_all_weights_of_7b_needs_more_than_one_card():
    peak = memory.grpo_memory(replace(REAL["gpu"], lora_rank=0)).peak_gb
    assert peak > (2 + 4 + 8) * 8.29


def test_a_server_takes_generation_off_the_training_cards():
    assert "generate" in memory.grpo_memory(REAL["gpu"]).phases
    assert "generate" not in memory.grpo_memory(REAL["gpu-many"]).phases


def test_a_listener_elsewhere_is_not_on_the_training_cards():
    assert "listener" in memory.grpo_memory(REAL["gpu"]).phases
    assert "listener" not in memory.grpo_memory(REAL["gpu-many"]).phases


def test_the_table_names_every_part_and_its_peak():
    said = memory.table(REAL["colab-t4"])
    for words in ("Qwen2.5-VL-3B, 1 card of 15.8 GB", "weights", "AdamW's two moments", "logits, in tiles", "estimate"):
        assert words in said
    assert f"{memory.grpo_memory(REAL['colab-t4']).peak_gb:.2f} GB" in said


def test_a_tiny_profile_has_no_such_arithmetic():
    for ask in (memory.grpo_memory, memory.sft_memory, run_cost):
        with pytest.raises(ValueError, match="laptop is a profile of the tiny world"):
            ask(PROFILES["laptop"])
    with pytest.raises(ValueError, match="without max_pixels"):
        memory.geometry(replace(REAL["gpu"], max_pixels=None))


# ---- cost ----


def test_cost_follows_from_steps_and_assumptions():
    settings = REAL["gpu"]
    cost = run_cost(settings)
    assert cost.pairs == 500 * 8 and cost.completions == 8 * cost.pairs
    assert cost.new_tokens == 200 * cost.completions
    assert cost.prompt_tokens == cost.completions * memory.geometry(settings).prompt
    twice = run_cost(replace(settings, grpo_steps=1000))
    for part in ("generation", "listener", "update"):
        assert twice.hours[part] == pytest.approx(2 * cost.hours[part])
    assert twice.hours["evaluation"] == cost.hours["evaluation"]  # of the benchmark, not of the run
    # the dearest part by hand: 3 passes of 6.5e9 weights for each token, a little more for attention and images
    tokens = cost.completions * (memory.geometry(settings).prompt + 200)
    floor = 3 * 2 * 6.5e9 * tokens / (H100.peak * H100.training) / 3600
    assert floor < cost.hours["update"] < 1.6 * floor


def test_each_part_of_a_run_is_timed_on_its_own_cards():
    many = REAL["gpu-many"]
    cost = run_cost(many)
    for field, part in (("gpus", "update"), ("rollout_gpus", "generation")):
        half = run_cost(replace(many, **{field: getattr(many, field) // 2}))
        assert half.hours[part] == pytest.approx(2 * cost.hours[part])
        others = {"update", "generation", "listener"} - {part}
        assert all(half.hours[name] == pytest.approx(cost.hours[name]) for name in others)
    trained = sum(hours for part, hours in cost.hours.items() if part != "evaluation")
    assert cost.gpu_hours == pytest.approx(8 * trained + cost.hours["evaluation"])
    # A second engine of the listener halves the traces that each hears, not the prompts: both read them.
    one = run_cost(replace(many, listener_gpus=1))
    assert cost.hours["listener"] < one.hours["listener"] < 2 * cost.hours["listener"]


def test_how_many_pairs_are_judged():
    """ImageReward's test is judged whole; HPDv2's README counts ten choices for each pair of its test."""
    assert BENCHMARK_PAIRS["imagereward"] == REAL["gpu"].test_pairs == REAL["gpu-many"].test_pairs == 7230
    assert 10 * BENCHMARK_PAIRS["hpdv2"] == 153_000
    cost = run_cost(REAL["paper"])
    # Both orders of each pair, on one card, whatever else there is (`lrt evaluate` is one process).
    rate = assumed(REAL["paper"])
    writing = 2 * (7230 + 15_300) * rate.trace / rate.judging
    assert writing < 3600 * cost.hours["evaluation"] < 1.2 * writing
    one_card = run_cost(REAL["gpu"]).hours["evaluation"]
    assert one_card == pytest.approx(cost.hours["evaluation"] * 7230 / (7230 + 15_300))


def test_the_papers_run():
    cost = run_cost(REAL["paper"])
    assert cost.pairs == pytest.approx(0.16 * 645_000, rel=0.001)
    assert cost.left_out == ("rapidata",) and BENCHMARK_PAIRS["rapidata"] is None
    said = cost_table(REAL["paper"])
    assert "An estimate" in said and "no such run was made" in said and "Not counted" in said and "Assumed" in said
    assert assumed(REAL["colab-t4"]).name.startswith("T4") and "vLLM" in assumed(REAL["paper"]).name
