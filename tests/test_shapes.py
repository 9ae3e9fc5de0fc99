"""The published shapes: their sizes, and the arithmetic of a pass against torch's own counter and a naive count."""

from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLForConditionalGeneration

from lrt.machine import shapes

sides = st.integers(1, 21).map(lambda n: 2 * n)  # patches come in squares of 2 x 2


@cache
def meta(size: str):
    return shapes.meta_model(shapes.qwen_config(size))


@pytest.mark.parametrize(("size", "weights"), [
    ("3B", 3_754_622_976),
    ("7B", 16_584_333_312 // 2),  # "total_size", in bytes of bfloat16, of the hub's index of weights
])
def test_the_built_models_have_as_many_weights_as_the_published(size, weights):
    assert shapes.parameters(meta(size)) == weights


@pytest.mark.parametrize("size", shapes.SIZES)
def test_a_config_fits_together(size):
    config = shapes.qwen_config(size)
    text, vision = config.text_config, config.vision_config
    head = text.hidden_size // text.num_attention_heads
    assert head * text.num_attention_heads == text.hidden_size
    assert 2 * sum(text.rope_parameters["mrope_section"]) == head
    assert vision.out_hidden_size == text.hidden_size
    assert vision.window_size % (vision.patch_size * vision.spatial_merge_size) == 0
    ids = [config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id,
           text.eos_token_id, text.pad_token_id]
    assert len(set(ids)) == len(ids) and all(0 <= i < text.vocab_size for i in ids)
    shared = meta(size).get_input_embeddings().weight is meta(size).get_output_embeddings().weight
    assert shared == config.tie_word_embeddings == shapes.TIED[size]


def test_there_is_no_other_size():
    with pytest.raises(ValueError, match="no shape '8B'; there are 3B, 7B, tiny"):
        shapes.qwen_config("8B")


@pytest.mark.parametrize("size", shapes.SIZES)
def test_linear_weights_are_all_but_the_embedding_norms_and_biases(size):
    model, found = meta(size), shapes.linear_weights(meta(size))
    rest = sum(p.numel() for p in model.parameters() if p.ndim == 1) + model.get_input_embeddings().weight.numel()
    head = found["head"] if not shapes.TIED[size] else 0
    assert found["language"] + found["vision"] + found["merger"] + head + rest == shapes.parameters(model)
    assert found["head"] == model.get_output_embeddings().weight.numel()


# --- operations ----------------------------------------------------------------------------------------------------


def counted(model, **inputs) -> int:
    """Operations of a forward pass as torch counts them: with plain attention, and so of the whole square."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


@cache
def small():
    config = shapes.qwen_config("tiny")
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_operations_of_the_language_model_are_torchs(tokens):
    model, config = small(), small().config
    text, weights = config.text_config, shapes.linear_weights(model)
    found = counted(model, input_ids=torch.full((1, tokens), 3), logits_to_keep=1)
    met = tokens * (tokens + 1) / 2
    upper_half = 4 * text.num_hidden_layers * text.hidden_size * (tokens**2 - met)  # what a causal mask makes needless
    ours = shapes.text_flops(config, weights, tokens) + 2 * weights["head"]
    assert found == ours + upper_half


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (12, 20)])
def test_operations_of_the_vision_tower_are_torchs(grid):
    model, config = small(), small().config
    patches = torch.zeros(grid[0] * grid[1], 3 * 2 * 14 * 14)
    found = counted(model.model.visual, hidden_states=patches, grid_thw=torch.tensor([[1, *grid]]))
    ours = shapes.vision_flops(config, shapes.linear_weights(model), grid)
    assert ours == pytest.approx(found, rel=1e-3)


@given(sides, sides, st.integers(1, 9))
def test_patches_meet_within_their_window(high, wide, side):
    windows = {}
    for y, x in product(range(high), range(wide)):
        windows[y // side, x // side] = windows.get((y // side, x // side), 0) + 1
    assert shapes._windows(high, side) * shapes._windows(wide, side) == sum(n**2 for n in windows.values())


@given(st.integers(0, 900), st.integers(1, 300))
def test_a_pass_in_two_parts_takes_what_the_whole_takes(before, tokens):
    config, weights = shapes.qwen_config("tiny"), {"language": 1000, "head": 10}
    parts = shapes.text_flops(config, weights, before) + shapes.text_flops(config, weights, tokens, before)
    assert parts == shapes.text_flops(config, weights, before + tokens)
