"""Loading by name, folder and adapter; the answer slot; generation. Built small, no hub."""

import json

import pytest
import torch
from PIL import Image as PILImage

from lrt import models, tiny
from lrt.answer_slot import answer_token_ids
from lrt.models import Loaded
from lrt.prompts import TINY_WORDING

NARROW = tiny.Shape(text=32, layers=2, heads=2, vision=32, vision_layers=1, vision_heads=2)
PROMPT = "red circle top-left and blue square bottom-right"


def build(kind: str) -> Loaded:
    torch.manual_seed(0)
    processor = tiny.qwen_processor() if kind == "qwen" else tiny.llava_processor()
    model = (tiny.build_qwen if kind == "qwen" else tiny.build_llava)(NARROW, processor)
    return Loaded(kind, model.eval(), processor, TINY_WORDING)


def save(loaded: Loaded, folder) -> str:
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    (folder / "lrt.json").write_text(json.dumps({"wording": "tiny", "images": True}))
    return str(folder)


def images(size=56):
    return [PILImage.new("RGB", (size, size), c) for c in ("white", "red")]


@pytest.mark.parametrize("kind", ["qwen", "llava"])
def test_a_saved_model_loads_the_same_by_its_folder(kind, tmp_path):
    built = build(kind)
    loaded = models.load(save(built, tmp_path))
    inputs = built.processor(text=[built.chat(PROMPT)], images=[images()], return_tensors="pt")
    again = loaded.processor(text=[loaded.chat(PROMPT)], images=[images()], return_tensors="pt")
    assert torch.equal(inputs["input_ids"], again["input_ids"])
    assert torch.equal(built.model(**inputs).logits, loaded.model(**again).logits)
    assert loaded.wording == TINY_WORDING and not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_vision_tower_that_overflows_in_float16_is_bounded():
    model = build("qwen").model.half()
    tower = model.model.visual
    with torch.no_grad():
        tower.blocks[0].mlp.down_proj.bias.fill_(6e4)
        tower.blocks[0].attn.proj.bias.fill_(6e4)  # the two add up to more than float16 holds
    inputs = build("qwen").processor.image_processor(images(), return_tensors="pt")

    def seen():
        with torch.no_grad():
            out = tower(inputs["pixel_values"].half(), grid_thw=inputs["image_grid_thw"])
        return out.last_hidden_state

    assert not seen().isfinite().all()
    models.keep_vision_finite(model)
    assert seen().isfinite().all()
    model.float()
    exact = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).last_hidden_state
    assert exact.abs().max() > models.FLOAT16_EDGE, "another precision is not touched"


def test_trainable_models_take_gradients(tmp_path):
    loaded = models.load(save(build("qwen"), tmp_path), trainable=True)
    assert all(p.requires_grad for p in loaded.model.parameters())


def test_an_adapter_folder_loads_on_the_base_that_it_names(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = save(build("qwen"), tmp_path / "base")
    plain = models.load(base)
    tuned = get_peft_model(models.load(base).model, LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    tuned.peft_config["default"].base_model_name_or_path = base
    tuned.save_pretrained(tmp_path / "adapter")
    loaded = models.load(str(tmp_path / "adapter"))
    ids = torch.randint(20, 40, (1, 8))
    expected = tuned(input_ids=ids).logits
    assert torch.allclose(loaded.model(input_ids=ids).logits, expected)
    assert not torch.allclose(plain.model(input_ids=ids).logits, expected)


@pytest.mark.parametrize(
    ("name", "said"),
    [("no-such-model", "no model 'no-such-model'"), ("./nowhere/at/all", "no model"), ("a/b/c", "no model")],
)
def test_a_wrong_name_is_a_sentence(name, said):
    with pytest.raises(ValueError, match=said):
        models.load(name)


def test_a_folder_without_a_model_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="neither config.json nor adapter_config.json"):
        models.load(str(tmp_path))


@pytest.mark.parametrize("kind", ["qwen", "llava"])
def test_answer_ids_are_the_tokens_that_follow_the_answer_tag(kind):
    loaded = build(kind)
    ids = loaded.tokenizer("<think> image 1 : missing . </think> <answer> 1 </answer> 2")["input_ids"]
    one, two = answer_token_ids(loaded)
    assert (ids[-3], ids[-1]) == (one, two) and one != two


def test_answer_ids_are_refused_where_the_vocabulary_has_no_digit(monkeypatch):
    monkeypatch.setattr(tiny, "WORDS", [w for w in tiny.WORDS if w not in "12"])
    processor = tiny.qwen_processor()
    with pytest.raises(ValueError, match="does not tell '1' from '2'"):
        answer_token_ids(Loaded("wordless", None, processor, TINY_WORDING))


def test_a_blind_listener_is_given_no_image():
    loaded = build("qwen")
    blind = Loaded("blind", loaded.model, loaded.processor, TINY_WORDING, sees=False)
    assert "<|image_pad|>" in loaded.chat(PROMPT) and "<|image_pad|>" not in blind.chat(PROMPT)


def test_generation_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    loaded = build("qwen")
    prompts, pairs = [PROMPT] * 3, [images()] * 3
    before = torch.get_rng_state()
    first = models.generate(loaded, prompts, pairs, 6, temperature=1.0, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert first == models.generate(loaded, prompts, pairs, 6, temperature=1.0, seed=1)
    assert first != models.generate(loaded, prompts, pairs, 6, temperature=1.0, seed=2)
    assert "<|image_pad|>" not in "".join(first)


def test_a_hub_models_penalty_on_repetition_does_not_reach_the_judge():
    """Training samples without one; then a judge that is measured with one is another policy."""
    loaded = build("qwen")
    plain = models.generate(loaded, [PROMPT], [images()], 12)
    loaded.model.generation_config.repetition_penalty = 50.0
    assert models.generate(loaded, [PROMPT], [images()], 12) == plain
    inputs = loaded.processor(text=[loaded.chat(PROMPT)], images=[images()], return_tensors="pt")
    out = loaded.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert loaded.tokenizer.decode(out, skip_special_tokens=True) != plain[0], "here it would change what is said"


def test_image_tokens_are_never_generated_even_when_the_model_wants_nothing_else():
    loaded = build("qwen")
    image_id = loaded.model.config.image_token_id
    loaded.model.lm_head.register_forward_hook(lambda m, i, out: out.index_fill(-1, torch.tensor([image_id]), 1e4))
    texts = models.generate(loaded, [PROMPT], [images()], 4)
    ids = loaded.tokenizer(texts[0])["input_ids"]
    assert image_id not in ids
