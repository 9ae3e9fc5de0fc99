"""The published shapes of Qwen2.5-VL as configs, and the arithmetic that a pass through them takes.

Numbers are those of `config.json` of Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen2.5-VL-7B-Instruct on the hub, in the
words of transformers' config classes. Nothing is downloaded: a model built from such a config has random weights.

    config = qwen_config("7B")
    model = meta_model(config)            # the real class without memory: names and shapes of all weights
    weights = linear_weights(model)

A pass counts 2 operations (a product and a sum) for each weight of a linear map and each token that goes through it,
and the two products of attention. What is left out (norms, activations, rotations, softmax) is below one per cent.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

SIZES = ("3B", "7B", "tiny")
MIN_PIXELS, MAX_PIXELS = 56 * 56, 12_845_056  # of the published image processor: an image is not made larger or smaller
TEXT = {
    "3B": {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11008,
        "vocab_size": 151936,
        "max_position_embeddings": 128000,
    },
    "7B": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "max_position_embeddings": 128000,
    },
    "tiny": {  # no published model: the same anatomy for tests on a CPU
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
    },
}
VISION = {  # the same at every published size, but for out_hidden_size, the width of the text
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
TINY_VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "fullatt_block_indexes": [1]}
EVERY_VISION = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
                "in_channels": 3, "hidden_act": "silu", "tokens_per_second": 2}
MROPE = {"3B": [16, 24, 24], "7B": [16, 24, 24], "tiny": [2, 3, 3]}  # they add up to half the width of a head
TIED = {"3B": True, "7B": False, "tiny": True}  # one matrix for embedding and output


def qwen_config(size: str) -> Qwen2_5_VLConfig:
    """The config of a size: "3B" and "7B" as published, "tiny" the same anatomy for tests. ValueError for another.

    Ids of special tokens are the published ones; "tiny" has room for fewer and takes the last of its vocabulary.
    """
    if size not in SIZES:
        raise ValueError(f"no shape {size!r}; there are {', '.join(SIZES)}")
    shift = 0 if size != "tiny" else 151936 - TEXT["tiny"]["vocab_size"]
    ids = {"bos_token_id": 151643 - shift, "eos_token_id": 151645 - shift, "pad_token_id": 151643 - shift}
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": MROPE[size]}
    vision = TINY_VISION if size == "tiny" else VISION
    return Qwen2_5_VLConfig(
        text_config={
            **TEXT[size], **ids, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_parameters": rope,
            "use_sliding_window": False, "tie_word_embeddings": TIED[size],
        },
        vision_config={**vision, **EVERY_VISION, "out_hidden_size": TEXT[size]["hidden_size"]},
        image_token_id=151655 - shift,
        video_token_id=151656 - shift,
        vision_start_token_id=151652 - shift,
        vision_end_token_id=151653 - shift,
        tie_word_embeddings=TIED[size],
    )


def meta_model(config: Qwen2_5_VLConfig) -> Qwen2_5_VLForConditionalGeneration:
    """The model on torch's meta device: every weight has its name and shape and takes no memory."""
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(config)


def parameters(model: Any) -> int:
    """Number of weights; a matrix shared by embedding and output counts once."""
    return sum(p.numel() for p in model.parameters())


# --- what a pass takes ---------------------------------------------------------------------------------------------


def linear_weights(model: Any) -> dict[str, int]:
    """Weights of the linear maps that a token passes: of the `language` layers, the `head`, the `vision` layers with
    their embedding of patches, and the `merger` of four patches into a token. An adapter's count where they sit."""
    found = {"language": 0, "head": 0, "vision": 0, "merger": 0}
    for name, p in model.named_parameters():
        if p.ndim < 2:
            continue
        if ".merger." in name:
            found["merger"] += p.numel()
        elif ".visual." in name:
            found["vision"] += p.numel()
        elif ".layers." in name:
            found["language"] += p.numel()
    text = model.config.text_config
    return {**found, "head": text.hidden_size * text.vocab_size}


def text_flops(config: Qwen2_5_VLConfig, weights: dict[str, int], tokens: int, before: int = 0) -> float:
    """Operations of a forward pass of the language layers over `tokens` tokens of one sequence that follow `before`
    cached ones. Attention is causal: a token meets itself and what is before it. The output's matrix is not in it:
    2 * weights["head"] for each position whose logits are computed."""
    text = config.text_config
    met = tokens * before + tokens * (tokens + 1) / 2
    attention = 4.0 * text.num_hidden_layers * text.hidden_size * met
    return 2.0 * weights["language"] * tokens + attention


def vision_flops(config: Qwen2_5_VLConfig, weights: dict[str, int], grid_hw: tuple[int, int]) -> float:
    """Operations of the vision tower on one image of `grid_hw` patches: high, wide."""
    vision = config.vision_config
    patches = grid_hw[0] * grid_hw[1]
    side = vision.window_size // vision.patch_size  # patches a side of a window; those at the edge are cut
    windowed = _windows(grid_hw[0], side) * _windows(grid_hw[1], side)
    full = len(vision.fullatt_block_indexes)
    met = full * patches**2 + (vision.depth - full) * windowed
    linear = weights["vision"] * patches + weights["merger"] * patches / vision.spatial_merge_size**2
    return 2.0 * linear + 4.0 * vision.hidden_size * met


def _windows(length: int, side: int) -> int:
    """Sum of the squared sizes of the windows along one side: how many pairs of patches meet along it."""
    sizes: Iterable[int] = [side] * (length // side) + [length % side]
    return sum(size**2 for size in sizes)
