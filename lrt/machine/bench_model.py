"""What `lrt bench gpu` builds: a published shape with random weights, pairs and traces of real size, and the operations
that they ask for (`lrt.machine.shapes`). `lrt.machine.bench_arms` measures them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset, Features
from PIL import Image
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2VLImageProcessorPil

from lrt.checkpoints import with_adapter
from lrt.machine.shapes import MAX_PIXELS, MIN_PIXELS, linear_weights, parameters, qwen_config, text_flops, vision_flops
from lrt.models import Loaded
from lrt.pairs import FEATURES
from lrt.prompts import ENGLISH_WORDING
from lrt.tiny import QWEN_TEMPLATE, WORDS, TinyQwenProcessor, qwen_processor

GIB = 2**30
TRAINING_PASSES = 3  # forward, forward again for the gradients, gradients of the inputs; the base's weights have none


@dataclass(frozen=True)
class Geometry:
    """What is measured. The defaults are those of the cost table."""

    image: int = 512  # pixels a side of both images
    prompt_words: int = 40  # of the text that the images were made from; the instructions are 70 more
    trace_tokens: int = 200  # of a trace, and of what is generated
    completions: int = 8  # a pair, and the pairs of an SFT step
    pairs_per_step: int = 1  # of a GRPO step
    lora_rank: int = 16
    steps: int = 4  # a training run; the first is not counted
    repeats: int = 5  # of the listener alone; generation is repeated as often as a step is counted


SMALL = Geometry(image=84, prompt_words=6, trace_tokens=12, completions=2, lora_rank=2, steps=3, repeats=2)


@dataclass(frozen=True)
class Bench:
    """One size on one device, with everything that an arm needs."""

    size: str
    device: str
    geometry: Geometry


# --- what is built -------------------------------------------------------------------------------------------------


def build(bench: Bench) -> Loaded:
    """The shape with random weights, made on the device in the type it keeps, and a fresh adapter on it.

    The tokenizer is the tiny world's: one word, one token, with ids far below the vocabulary's end; other ids decode to
    nothing. The image processor is Qwen2.5-VL's own: 512 x 512 pixels become 504 x 504, which is 18 x 18 tokens.
    """
    image_processor = Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    processor = TinyQwenProcessor(image_processor, qwen_processor().tokenizer, chat_template=QWEN_TEMPLATE)
    ids = processor.tokenizer.convert_tokens_to_ids
    config = qwen_config(bench.size)
    config.image_token_id, config.video_token_id = processor.image_token_id, processor.video_token_id
    config.vision_start_token_id, config.vision_end_token_id = ids("<|vision_start|>"), ids("<|vision_end|>")
    config.text_config.bos_token_id = None
    config.text_config.eos_token_id, config.text_config.pad_token_id = ids("<|im_end|>"), ids("<|endoftext|>")
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype_of(bench.device))
    model.requires_grad_(False)
    bare = Loaded(f"Qwen2.5-VL-{bench.size}-random", model, processor, ENGLISH_WORDING)
    return with_adapter(bare, bench.geometry.lora_rank)


def dtype_of(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32


def precision(bench: Bench) -> str:
    return "bf16" if bench.device == "cuda" else "fp32"


def fake_pairs(geometry: Geometry, n_pairs: int) -> Dataset:
    """Pairs of the right size: coloured clouds, and prompts of words drawn at random. Always the same."""
    draw = np.random.default_rng(0)

    def picture() -> Image.Image:
        coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        return coarse.resize((geometry.image, geometry.image), Image.Resampling.BICUBIC)

    rows = [
        {
            "prompt": " ".join(draw.choice(WORDS, geometry.prompt_words)),
            "images": [picture(), picture()],
            "vote": 1 + i % 2,
            "pair_id": f"random/{i}",
        }
        for i in range(n_pairs)
    ]
    return Dataset.from_list(rows, features=Features({name: FEATURES[name] for name in rows[0]}))


def fake_traces(geometry: Geometry, n_traces: int) -> list[str]:
    """Traces of `trace_tokens` words, all different. Always the same."""
    draw = np.random.default_rng(1)
    return [" ".join(draw.choice(WORDS, geometry.trace_tokens)) for _ in range(n_traces)]


def completion(trace: str, answer: int) -> str:
    return f"<think> {trace} </think> <answer> {answer} </answer>"


# --- what it asks for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """What one sequence is made of, in tokens, and the operations that follow from it (`lrt.machine.shapes`)."""

    chat: int  # with both images
    image: int  # one image
    trace: int
    config: Qwen2_5_VLConfig
    weights: dict[str, int]
    vision: float  # operations of both images' passes through the vision tower

    def text(self, tokens: int, before: int = 0) -> float:
        return text_flops(self.config, self.weights, tokens, before)

    def heads(self, positions: int) -> float:
        return 2.0 * self.weights["head"] * positions

    def training(self) -> float:
        """One sequence, forward and back. The vision tower lies below all that is trained: forward is all it needs."""
        return self.vision + TRAINING_PASSES * self.text(self.chat + self.trace) + 2 * self.heads(self.trace)

    def generating(self) -> float:
        return self.vision + self.text(self.chat + self.trace) + self.heads(self.trace)

    def listening(self, completions: int, shared: bool) -> float:
        """All completions of a pair; those that share a prefix run it, and the images, once."""
        if shared:
            start = self.vision + self.text(self.chat) + self.heads(1)
            return start + completions * (self.text(self.trace, self.chat) + self.heads(1))
        return completions * (self.vision + self.text(self.chat + self.trace) + self.heads(1))


def tokens_of(loaded: Loaded, geometry: Geometry) -> Tokens:
    row = fake_pairs(geometry, 1)[0]
    inputs = loaded.processor(text=[loaded.chat(row["prompt"])], images=[row["images"]], return_tensors="pt")
    base = loaded.model.get_base_model()
    weights, grids = linear_weights(base), inputs["image_grid_thw"].tolist()
    return Tokens(
        chat=inputs["input_ids"].shape[1],
        image=int((inputs["input_ids"] == loaded.processor.image_token_id).sum()) // 2,
        trace=geometry.trace_tokens,
        config=base.config,
        weights=weights,
        vision=sum(vision_flops(base.config, weights, (high, wide)) for _, high, wide in grids),
    )


def about(loaded: Loaded, tokens: Tokens) -> dict:
    """What every arm with a model says of it."""
    base = loaded.model.get_base_model()
    weights = sum(p.numel() * p.element_size() for name, p in base.named_parameters() if "lora_" not in name)
    adapter = sum(p.numel() for name, p in base.named_parameters() if "lora_" in name)
    return {
        "parameters": parameters(base) - adapter,
        "adapter_parameters": adapter,
        "weights_gib": weights / GIB,
        "tokens": {"image": tokens.image, "chat": tokens.chat, "trace": tokens.trace},
        "attention": base.config._attn_implementation,
    }
