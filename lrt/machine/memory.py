"""How much memory of a GPU a step takes, worked out from a published config before anything is downloaded.

Counts of weights, adapters, optimiser states and caches are exact: they follow from the shapes, and tests hold them
against transformers' own classes. What a pass keeps for its backward (activations) is an estimate: the tensors that
autograd saves in a decoder layer, counted on small models of the same class (tests/test_memory.py), times the width.
Buffers of single operations, fragmentation and what the driver keeps are an allowance, `SPARE`. Nothing here was
measured on a card. GB are 1e9 bytes, as torch's `total_memory` / 1e9.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from lrt.machine.shapes import MIN_PIXELS, qwen_config
from lrt.profiles import Profile

GB = 1e9
CONTEXT = 0.6  # GB that CUDA and its libraries take before the first tensor
SPARE = 0.10  # of everything else: fragmentation, buffers of single operations
TEXT_TOKENS = 250  # of a real prompt with the chat's own words, generously: CLIP's limit of 77 and lrt.prompts's task
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
# NF4: 4 bits a weight, and for every 64 weights a scale of 8 bits, itself scaled by one fp32 for every 256 (QLoRA,
# arXiv 2305.14314). bitsandbytes leaves embeddings, and here the vision tower and the output, as they are.
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
# TRL's fused output layer computes logits in tiles of at most so many tokens x so many words, in the precision of
# training, never (tokens, vocabulary) at once: trl/kernels/chunked_logprob.py, trl/trainer/utils.py.
TILE = (4096, 32768)


# --- weights -------------------------------------------------------------------------------------------------------


def weight_counts(config: Qwen2_5_VLConfig) -> dict[str, int]:
    """Numbers of weights, by part; they add up to those of `Qwen2_5_VLForConditionalGeneration`.

    `linear`: matrices of the language layers, which 4-bit loading packs; `rest`: their biases and norms; `embedding`;
    `head`: the output matrix, 0 where it is the embedding; `vision`: the tower with its merger.
    """
    text, vision = config.text_config, config.vision_config
    h, i, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    kv = h // text.num_attention_heads * text.num_key_value_heads
    words = text.vocab_size * h
    v, vi = vision.hidden_size, vision.intermediate_size
    merged = v * vision.spatial_merge_size**2
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * v
    block = 2 * v + (3 * v * v + 3 * v) + (v * v + v) + 2 * (v * vi + vi) + (vi * v + v)
    merger = v + merged * merged + merged + merged * vision.out_hidden_size + vision.out_hidden_size
    return {
        "linear": layers * (2 * h * h + 2 * h * kv + 3 * h * i),
        "rest": layers * (h + 2 * kv + 2 * h) + h,
        "embedding": words,
        "head": 0 if config.tie_word_embeddings else words,
        "vision": patch + vision.depth * block + merger,
    }


def adapter_count(config: Qwen2_5_VLConfig, rank: int) -> int:
    """Weights of a LoRA adapter on every matrix of the language layers, as `checkpoints.with_adapter` puts it there."""
    text = config.text_config
    h, i = text.hidden_size, text.intermediate_size
    kv = h // text.num_attention_heads * text.num_key_value_heads
    shapes = [(h, h), (h, kv), (h, kv), (h, h), (h, i), (h, i), (i, h)]
    return text.num_hidden_layers * rank * sum(map(sum, shapes))


def weights_bytes(config: Qwen2_5_VLConfig, how: str) -> float:
    """Of the model at rest: "fp32", "bf16", "fp16", or "4bit" (the language layers' matrices in NF4, all else in 16
    bits). ValueError for another."""
    counts = weight_counts(config)
    if how == "4bit":
        return NF4 * counts["linear"] + 2.0 * (sum(counts.values()) - counts["linear"])
    if how not in BYTES:
        raise ValueError(f"weights are one of {', '.join(BYTES)}, 4bit; not {how!r}")
    return BYTES[how] * sum(counts.values())


# --- tokens --------------------------------------------------------------------------------------------------------


def image_patches(width: int, height: int, max_pixels: int, side: int = 28) -> int:
    """Patches of 14 x 14 pixels that the vision tower sees of an image, as the model's own processor cuts it; a quarter
    of them are tokens of the language model. `side`: the processor keeps both sides a multiple of it."""
    high, wide = smart_resize(height, width, factor=side, min_pixels=MIN_PIXELS, max_pixels=max_pixels)
    return high * wide * 4 // side**2


@dataclass(frozen=True)
class Geometry:
    """What one completion is made of."""

    patches: int  # of both images together
    text: int  # tokens of the chat's words
    new: int  # tokens of the completion, at most

    @property
    def prompt(self) -> int:
        """Tokens before the completion: words and both images."""
        return self.text + self.patches // 4

    @property
    def tokens(self) -> int:
        return self.prompt + self.new


def geometry(settings: Profile) -> Geometry:
    """The largest that a real profile allows: two images of `max_pixels`. ValueError for a profile without a limit."""
    if not settings.max_pixels:
        raise ValueError(f"{settings.name}: without max_pixels an image may be of any size")
    patches = 2 * (settings.max_pixels // 28**2) * 4
    return Geometry(patches, TEXT_TOKENS, settings.max_new_tokens)


# --- what a pass keeps ---------------------------------------------------------------------------------------------


def layer_bytes(config: Qwen2_5_VLConfig, rank: int, element: float = 2.0) -> float:
    """Estimate: what autograd saves in one decoder layer for one token, in training an adapter of this rank.

    Counted with 16-bit autocast: of width h two norms in fp32 and eight tensors, four of the MLP's width, keys and
    values, and ten of the adapter's rank. Counting by torch's saved-tensor hooks on small models gives the same within
    a few per cent (a test).
    """
    text = config.text_config
    h, i = text.hidden_size, text.intermediate_size
    kv = h // text.num_attention_heads * text.num_key_value_heads
    return (8 + 8 * element) * h + 4 * element * i + 2 * element * kv + 10 * element * rank


def vision_bytes(config: Qwen2_5_VLConfig, element: float = 2.0) -> float:
    """Estimate: what one block of the vision tower needs for one patch while it runs: two norms in fp32, queries, keys
    and values, attention's output, three tensors of the MLP's width."""
    vision = config.vision_config
    return (8 + 6 * element) * vision.hidden_size + 3 * element * vision.intermediate_size


def cache_bytes(config: Qwen2_5_VLConfig, element: float = 2.0) -> float:
    """Keys and values of one token in all layers."""
    text = config.text_config
    kv = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    return 2 * element * kv * text.num_hidden_layers


def logits_bytes(config: Qwen2_5_VLConfig, tokens: int, element: float = 2.0) -> tuple[float, float]:
    """(as TRL computes them, as plain fp32 logits with their gradient would be) for so many completion tokens."""
    words = config.text_config.vocab_size
    tile = min(tokens, TILE[0]) * min(words, TILE[1]) * element
    hidden = 4.0 * tokens * config.text_config.hidden_size  # the gradient of the last hidden states, in fp32
    return tile + hidden, 2 * 4.0 * tokens * words


# --- a step --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Of one card, in bytes. `held` stays throughout a step; of `phases` one runs at a time."""

    held: Mapping[str, float]
    phases: Mapping[str, Mapping[str, float]]

    @property
    def peak(self) -> float:
        """With the allowance `SPARE` and what CUDA takes."""
        largest = max(sum(parts.values()) for parts in self.phases.values())
        return (sum(self.held.values()) + largest) * (1 + SPARE) + CONTEXT * GB

    @property
    def peak_gb(self) -> float:
        return self.peak / GB


def grpo_memory(settings: Profile) -> Memory:
    """Of a GRPO step with the listener, on one of the profile's cards. ValueError for a profile of the tiny world."""
    config, shape, held = _start(settings)
    element = BYTES.get(settings.precision, 2.0)
    rollouts = settings.pairs_per_step * settings.num_generations // settings.gpus
    per_pass = settings.completions_per_pass or rollouts
    phases = {"update": _update(config, settings, shape, per_pass)}
    seen = per_pass if settings.vllm_server else rollouts  # completions whose images go through at once
    phases["vision tower"] = {"one block": seen * shape.patches * vision_bytes(config, element)}
    if not settings.vllm_server:
        phases["generate"] = {
            "cache of keys and values": rollouts * shape.tokens * cache_bytes(config, element),
            "prefill of one layer": rollouts * shape.prompt * _forward_bytes(config, element),
        }
    if settings.listener_gpus:
        return Memory(held, phases)  # it is heard on other cards
    heard = min(settings.listener_batch, rollouts)
    pairs = -(-heard // settings.num_generations)  # prefixes, each once
    phases["listener"] = {
        "cache of keys and values": (pairs * shape.prompt + heard * shape.tokens) * cache_bytes(config, element),
        "one layer": max(pairs * shape.prompt, heard * shape.new) * _forward_bytes(config, element),
    }
    return Memory(held, phases)


def sft_memory(settings: Profile) -> Memory:
    """Of an SFT step on votes (no trace: about 20 tokens of completion), on one of the profile's cards."""
    config, shape, held = _start(settings)
    short = Geometry(shape.patches, shape.text, 20)
    per_pass = settings.pairs_per_pass or settings.sft_batch // settings.gpus
    seen = per_pass * shape.patches * vision_bytes(config, BYTES.get(settings.precision, 2.0))
    return Memory(held, {"update": _update(config, settings, short, per_pass), "vision tower": {"one block": seen}})


def _start(settings: Profile) -> tuple[Qwen2_5_VLConfig, Geometry, dict[str, float]]:
    if not settings.size or not settings.gpus:
        raise ValueError(f"{settings.name} is a profile of the tiny world: it needs no GPU")
    config = qwen_config(settings.size)
    cards = settings.gpus if settings.sharded else 1
    base = weights_bytes(config, settings.weights)
    trained = adapter_count(config, settings.lora_rank) if settings.lora_rank else sum(weight_counts(config).values())
    held = {"weights": base / cards}
    if settings.lora_rank:
        held["adapter"] = 4.0 * trained / cards
        if settings.beta:  # TRL keeps the adapter as it began, as a second one
            held["reference adapter"] = 4.0 * trained / cards
    held["gradients"] = 4.0 * trained / cards
    held["AdamW's two moments"] = 8.0 * trained / cards
    if settings.sharded:  # one layer is gathered while the next one is on its way; the embedding once
        counts = weight_counts(config)
        layer = base * counts["linear"] / sum(counts.values()) / config.text_config.num_hidden_layers
        held["gathered layers"] = 2 * layer + 2.0 * counts["embedding"]
    return config, geometry(settings), held


def _update(config: Qwen2_5_VLConfig, settings: Profile, shape: Geometry, per_pass: int) -> dict[str, float]:
    """Forward and backward of one pass. With gradient checkpointing each layer keeps its input, and one layer at a time
    is computed again; its gradients are of the same size again. Nothing of the frozen vision tower is kept
    (`models.without_vision_gradients`)."""
    element = BYTES.get(settings.precision, 2.0)
    text = config.text_config
    tokens = per_pass * shape.tokens
    layer = layer_bytes(config, settings.lora_rank, element) * tokens
    parts = {"logits, in tiles": logits_bytes(config, per_pass * shape.new, element)[0]}
    if not settings.gradient_checkpointing:
        return parts | {"activations": layer * text.num_hidden_layers}
    parts["inputs of layers"] = element * tokens * text.hidden_size * text.num_hidden_layers
    parts["one layer again, with gradients"] = 2 * layer
    return parts


def _forward_bytes(config: Qwen2_5_VLConfig, element: float) -> float:
    """Of one token while a layer runs without gradients: four tensors of the model's width, three of the MLP's."""
    return element * (4 * config.text_config.hidden_size + 3 * config.text_config.intermediate_size)


def table(settings: Profile) -> str:
    """The arithmetic of a profile as text: every part of a GRPO step in GB, by phase."""
    memory, shape = grpo_memory(settings), geometry(settings)
    cards = f"{settings.gpus} card{'s' * (settings.gpus > 1)} of {settings.gpu_gb:g} GB"
    if settings.cards > settings.gpus:
        cards += f" that train ({settings.rollout_gpus} more generate, {settings.listener_gpus} listen)"
    lines = [f"{settings.name}: Qwen2.5-VL-{settings.size}, {cards}; {shape.prompt} tokens of prompt, of which "
             f"{shape.patches // 4} of images, and {shape.new} new ones"]
    rows = [("held", memory.held), *((f"while it runs: {name}", parts) for name, parts in memory.phases.items())]
    for title, parts in rows:
        lines.append(f"{title:<36}{sum(parts.values()) / GB:>8.2f} GB")
        lines += [f"  {name:<34}{value / GB:>8.2f}" for name, value in parts.items()]
    plain = logits_bytes(qwen_config(settings.size), (settings.completions_per_pass or 1) * shape.new)[1]
    lines.append(f"{'peak, with allowances (an estimate)':<36}{memory.peak_gb:>8.2f} GB")
    return "\n".join([*lines, f"Plain fp32 logits and their gradient would take {plain / GB:.1f} GB more."])
