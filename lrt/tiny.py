"""The tiny models' anatomy: real classes of transformers, only narrow, built from a config without any download.

The reasoner is a `Qwen2_5_VLForConditionalGeneration` with Qwen2.5-VL's chat markers, M-RoPE and image tokens; one
listener is of LLaVA's classes, with a tokenizer and chat format of its own. Both know a vocabulary of about 50 words.
"""

from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
)

from lrt.world import CELL, COLOURS, PLACES, QUALITIES, SHAPES

WORDS = ["image", "1", "2", ":", ",", ".", "prompt", "and", "good", "bad", "missing", "is", "better"]
WORDS += [*COLOURS, *SHAPES, *PLACES, *QUALITIES]
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %} <|vision_start|><|image_pad|><|vision_end|> {% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
LLAVA_TEMPLATE = (
    "<s>{% for m in messages %} {{ m.role }} "
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %} <image> {% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{% if m.role == 'assistant' %} </s>{% endif %}{% endfor %}{% if add_generation_prompt %} assistant {% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """How wide and deep a tiny model is. Head width is `text / heads`."""

    text: int = 128
    layers: int = 4
    heads: int = 4
    vision: int = 96
    vision_layers: int = 3
    vision_heads: int = 3


class TinyQwenProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video part, which needs torchvision (no CPU build of it fits every torch)."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # the parent's own __init__ would hand a video processor on; its parent takes the parts that there are
        super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)


def _tokenizer(special: list[str], words: list[str], **roles) -> PreTrainedTokenizerFast:
    vocabulary = special + ["<unk>"] + TAGS + words
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.add_special_tokens(special)
    core.add_tokens(TAGS)
    # no roles but these: a decoded completion keeps <think> and <answer>, and loses the end-of-turn mark
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        padding_side="left",
        additional_special_tokens=special,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **roles,
    )


def qwen_processor() -> TinyQwenProcessor:
    tokenizer = _tokenizer(
        QWEN_SPECIAL, ["user", "assistant", "system", *WORDS], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    image_processor = Qwen2VLImageProcessorPil(min_pixels=4 * CELL**2, max_pixels=64 * CELL**2)
    return TinyQwenProcessor(image_processor, tokenizer, chat_template=QWEN_TEMPLATE)


def llava_processor() -> LlavaProcessor:
    tokenizer = _tokenizer(
        LLAVA_SPECIAL, sorted([*WORDS, "user", "assistant"]), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    size = {"height": 2 * CELL, "width": 2 * CELL}
    image_processor = CLIPImageProcessorPil(size=size, crop_size=size)
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=LLAVA_TEMPLATE,
        num_additional_image_tokens=1,
    )


def build_qwen(shape: Shape, processor: TinyQwenProcessor) -> Qwen2_5_VLForConditionalGeneration:
    """A narrow Qwen2.5-VL with random weights (seed torch before). M-RoPE's sections add up to half the head width."""
    ids = processor.tokenizer.convert_tokens_to_ids
    half = shape.text // shape.heads // 2
    sections = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": shape.text,
            "intermediate_size": 2 * shape.text,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "max_position_embeddings": 4096,
            "max_window_layers": shape.layers,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
            "bos_token_id": None,
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision,
            "intermediate_size": 2 * shape.vision,
            "num_heads": shape.vision_heads,
            "out_hidden_size": shape.text,
            "fullatt_block_indexes": list(range(shape.vision_layers)),
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return _with_generation(Qwen2_5_VLForConditionalGeneration(config), processor)


def build_llava(shape: Shape, processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """A narrow LLaVA: CLIP's vision tower with 14-pixel patches (16 tokens an image) and a Qwen2 language model."""
    tokenizer = processor.tokenizer
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.text,
        intermediate_size=2 * shape.text,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
        max_window_layers=shape.layers,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    vision = CLIPVisionConfig(
        hidden_size=shape.vision,
        intermediate_size=2 * shape.vision,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=2 * CELL,
        patch_size=14,
        projection_dim=shape.text,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=processor.image_token_id,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    return _with_generation(LlavaForConditionalGeneration(config), processor)


def _with_generation(model, processor):
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model
