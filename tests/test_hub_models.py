"""Real repositories' layouts, made small by the real classes: by folder, and by id from a cache in the hub's layout."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from lrt import models, tiny
from lrt.checkpoints import with_adapter
from lrt.listener import LocalListener
from lrt.machine.shapes import qwen_config
from lrt.methods import DTYPES
from lrt.prompts import ENGLISH_WORDING

PROMPT = "a red fox in the snow"
TRACE = "Image 1 shows a fox; image 2 shows a dog."
OURS = "alexgambashidze/qwen2.5vl_image_preference_reasoner"
COMMIT, OLDER = "a" * 40, "b" * 40


def pair():
    return [Image.new("RGB", size, colour) for size, colour in (((90, 60), "red"), ((56, 200), "blue"))]


def processor(folder):
    """Saved as a real repository has it: preprocessor_config.json and chat_template.json, no processor_config.json."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    core.train_from_iterator([ENGLISH_WORDING.task, "<think> image 1 </think> <answer> 2 </answer>"] * 5, trainer)
    core.add_special_tokens(tiny.QWEN_SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="right"
    )
    tokenizer.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=12_845_056)
    about = json.loads(images.to_json_string())
    about |= {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
              "min_pixels": 3136, "max_pixels": 12845056}
    about.pop("size")
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": tiny.QWEN_TEMPLATE}))
    (folder / "processor_config.json").unlink(missing_ok=True)
    return tokenizer


def config_for(tokenizer):
    config = qwen_config("tiny")
    ids = tokenizer.convert_tokens_to_ids
    config.text_config.vocab_size = len(tokenizer)
    for name, token in {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
                        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}.items():
        setattr(config, name, ids(token))
    config.text_config.bos_token_id, config.text_config.eos_token_id = None, ids("<|im_end|>")
    config.text_config.pad_token_id = ids("<|endoftext|>")
    return config


def repository(folder: Path, seed: int = 0):
    """Full weights in several safetensors files, with an index."""
    folder.mkdir(parents=True)
    config = config_for(processor(folder))
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, p[0].numel() ** -0.5)
    model.save_pretrained(folder, max_shard_size="300KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1 and (folder / "model.safetensors.index.json").exists()
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "full"
    return folder, repository(folder)


def logits(loaded):
    inputs = loaded.processor(text=[loaded.chat(PROMPT)], images=[pair()], return_tensors="pt")
    with torch.no_grad():
        return loaded.model(**inputs).logits


def test_a_repository_in_the_real_layout_loads(made):
    folder, model = made
    loaded = models.load(str(folder))
    assert loaded.wording == ENGLISH_WORDING and loaded.sees and loaded.tokenizer.padding_side == "left"
    saved = model.state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in loaded.model.state_dict().items())
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    inputs = loaded.processor(text=[loaded.chat(PROMPT)], images=[pair()], return_tensors="pt")
    grids = inputs["image_grid_thw"].prod(dim=1)  # tokens of images as their sizes ask, in the places of the chat
    assert int((inputs["input_ids"] == loaded.model.config.image_token_id).sum()) == int(grids.sum()) // 4
    (p,) = LocalListener(loaded).p_first([PROMPT], [pair()], [[TRACE, ""]])
    assert all(0 < one < 1 for one in p) and p[0] != p[1]
    text = models.generate(loaded, [PROMPT], [pair()], 5)[0]
    assert isinstance(text, str) and "<|image_pad|>" not in text


def test_a_config_as_it_was_published_is_read_too(made, tmp_path):
    """Repositories from 2025 have the text part's numbers at the top and `rope_scaling`: transformers 4's form."""
    folder = shutil.copytree(made[0], tmp_path / "older")
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {name: value for name, value in text.items() if name not in ("model_type", "dtype", "layer_types")}
    flat |= {"rope_theta": rope["rope_theta"], "torch_dtype": "bfloat16",
             "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    config["vision_config"] |= {"in_chans": 3, "spatial_patch_size": 14}
    (folder / "config.json").write_text(json.dumps({**flat, **config}))
    assert torch.allclose(logits(models.load(str(folder))), logits(models.load(str(made[0]))), atol=1e-6)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_precision_is_what_is_asked_for(made, name):
    loaded = models.load(str(made[0]), dtype=DTYPES[name])
    assert {p.dtype for p in loaded.model.parameters()} == {DTYPES[name]}


def test_max_pixels_makes_large_images_smaller_and_no_small_one_larger(made):
    large, small = Image.new("RGB", (800, 600)), Image.new("RGB", (84, 56))
    patches = {}
    for limit in (None, 200_704):
        given = models.load(str(made[0]), max_pixels=limit).processor.image_processor(images=[large, small])
        patches[limit] = [int(grid.prod()) for grid in torch.as_tensor(given["image_grid_thw"])]
    assert patches[None][0] > 200_704 / 14**2 >= patches[200_704][0] > 150_000 / 14**2
    assert patches[None][1] == patches[200_704][1] == 24
    with pytest.raises(ValueError, match="max_pixels 100 is less than the 3136"):
        models.load(str(made[0]), max_pixels=100)
    with pytest.raises(ValueError, match="CLIPImageProcessorPil has one size for all images"):
        models.limit_pixels(tiny.llava_processor(), 200_704)


# ---- by id, from a cache in the hub's layout ----


def into_cache(home: Path, repo: str, folder: Path, commit: str, ref: str | None):
    """models--owner--name/snapshots/COMMIT with links into blobs/, and the commit under refs/."""
    root = home / "hub" / f"models--{repo.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "snapshots" / commit).mkdir(parents=True)
    for file in folder.iterdir():
        blob = root / "blobs" / f"{commit[:4]}-{file.name}"
        shutil.copy(file, blob)
        (root / "snapshots" / commit / file.name).symlink_to(os.path.relpath(blob, root / "snapshots" / commit))
    if ref:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / ref).write_text(commit)


BY_ID = """
import json, sys, torch
from PIL import Image
from lrt import models
from lrt.listener import LocalListener
pair = [Image.new("RGB", size, colour) for size, colour in (((90, 60), "red"), ((56, 200), "blue"))]
said = {}
for key, repo, revision in json.loads(sys.argv[1]):
    try:
        loaded = models.load(repo, revision=revision)
    except (OSError, ValueError) as error:
        said[key] = f"{type(error).__name__}: {error}"
        continue
    z = LocalListener(loaded).logits([sys.argv[2]], [pair], [[sys.argv[3]]])[0][0]
    said[key] = [loaded.name, type(loaded.model).__name__, z]
print(json.dumps(said))
"""


def test_models_load_by_their_id_offline(made, tmp_path):
    """The released reasoner's id, an older commit of it, an adapter on it, and what is not there."""
    folder, _ = made
    into_cache(tmp_path, OURS, folder, COMMIT, "main")
    repository(tmp_path / "older", seed=1)
    into_cache(tmp_path, OURS, tmp_path / "older", OLDER, None)
    base = models.load(str(folder))
    expected = LocalListener(base).logits([PROMPT], [pair()], [[TRACE]])[0][0]
    tuned = with_adapter(base, 2, seed=0)
    with torch.no_grad():
        for name, p in tuned.model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    other = LocalListener(tuned).logits([PROMPT], [pair()], [[TRACE]])[0][0]
    tuned.model.peft_config["default"].base_model_name_or_path = OURS
    tuned.model.save_pretrained(tmp_path / "adapter")
    into_cache(tmp_path, "someone/adapter", tmp_path / "adapter", COMMIT, "main")

    asked = [("main", OURS, None), ("older", OURS, OLDER), ("adapter", "someone/adapter", None),
             ("none", "someone/else", None), ("no commit", OURS, "c" * 40)]
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", BY_ID, json.dumps(asked), PROMPT, TRACE], env=env,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["main"][:2] == [OURS, "Qwen2_5_VLForConditionalGeneration"]
    assert said["main"][2] == pytest.approx(expected, abs=1e-4)
    assert said["older"][2] != pytest.approx(expected, abs=1e-2)
    assert said["adapter"][1].startswith("PeftModel") and said["adapter"][2] == pytest.approx(other, abs=1e-4)
    assert other != pytest.approx(expected, abs=1e-2)
    for key, name in (("none", "someone/else"), ("no commit", OURS)):
        assert said[key].startswith(f"ValueError: {name} is neither in the cache nor reachable: name a folder")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def nobody(*what, **_):
        asked.append(what)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(models, "hf_hub_download", nobody)
    with pytest.raises(ValueError, match="someone/else is neither in the cache nor reachable.*`lrt doctor`"):
        models.load("someone/else")
    assert asked == [("someone/else", "adapter_config.json")]


def test_a_folder_has_no_revision(made):
    with pytest.raises(ValueError, match="is a folder, which has no revisions"):
        models.load(str(made[0]), revision="v1")


# ---- what is not trusted ----


class Burglar:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["LRT_TEST_BROKEN_IN"]),))


def test_pickled_weights_are_refused_and_never_opened(made, tmp_path, monkeypatch):
    monkeypatch.setenv("LRT_TEST_BROKEN_IN", str(tmp_path / "broken in"))
    folder = shutil.copytree(made[0], tmp_path / "bin", ignore=shutil.ignore_patterns("*.safetensors*"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Burglar()))
    with pytest.raises(ValueError, match="its weights are pickles"):
        models.load(str(folder))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(made[0])}))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Burglar()))
    with pytest.raises(ValueError, match="no adapter_model.safetensors"):
        models.load(str(adapter))
    assert not (tmp_path / "broken in").exists()


def test_code_in_a_repository_is_not_run(made, tmp_path, monkeypatch):
    """An auto_map asks for it; a known type is loaded by transformers' own class, an unknown one is refused."""
    monkeypatch.setenv("LRT_TEST_BROKEN_IN", str(tmp_path / "broken in"))
    folder = shutil.copytree(made[0], tmp_path / "custom")
    (folder / "theirs.py").write_text("import os, pathlib; pathlib.Path(os.environ['LRT_TEST_BROKEN_IN']).touch()")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForImageTextToText": "theirs.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    assert type(models.load(str(folder)).model) is Qwen2_5_VLForConditionalGeneration
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "theirs"}))
    with pytest.raises(ValueError):
        models.load(str(folder))
    assert not (tmp_path / "broken in").exists()


# ---- 4 bits ----


def test_four_bits_say_what_they_need(made, monkeypatch):
    with pytest.raises(ValueError, match="weights in 4 bits need a GPU"):
        models.load(str(made[0]), four_bit=True)
    with pytest.raises(ValueError, match="cannot be trained: load them frozen"):
        models._nf4(torch.float16, "cuda", trainable=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="need the package bitsandbytes"):
        models._nf4(torch.float16, "cuda", trainable=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    how = models._nf4(torch.float16, "cuda:0", trainable=False)
    assert (how.load_in_4bit, how.bnb_4bit_quant_type, how.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert how.bnb_4bit_compute_dtype == torch.float16 and how.llm_int8_skip_modules == ["model.visual", "lm_head"]


def test_four_bits_leave_the_vision_tower_alone(made, monkeypatch):
    """By transformers' own rule, on the names that the modules have."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    skip = models._nf4(torch.float16, "cuda", trainable=False).llm_int8_skip_modules
    monkeypatch.undo()
    names = [name for name, module in models.load(str(made[0])).model.named_modules()
             if isinstance(module, torch.nn.Linear)]
    kept = {name for name in names if not should_convert_module(name, skip)}
    assert kept == {name for name in names if ".visual." in name or name == "lm_head"} and len(kept) > 1
    assert set(names) - kept, "the language layers are packed"


@pytest.mark.gpu
def test_a_base_in_four_bits_trains_an_adapter(made, tmp_path):
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    from lrt.grpo import GRPOSettings, train_grpo
    from lrt.pairs import tiny_pairs

    loaded = models.load(str(made[0]), "cuda", torch.float16, four_bit=True)
    vision = [p.dtype for name, p in loaded.model.named_parameters() if ".visual." in name]
    language = [p.dtype for name, p in loaded.model.named_parameters() if name.endswith("q_proj.weight")
                and "language_model" in name]
    assert set(vision) == {torch.float16} and set(language) == {torch.uint8}
    tuned = with_adapter(loaded, 2)
    how = GRPOSettings(steps=2, pairs_per_step=2, num_generations=2, max_new_tokens=8, save_every=2, lora_rank=2,
                       precision="fp16", gradient_checkpointing=True)
    rewards = [lambda completions, **_: [float(len(str(c))) for c in completions]]
    log = train_grpo(tuned, tiny_pairs("train", 6), rewards, [1.0], how, tmp_path)
    assert len(log) == 2 and {p.dtype for p in tuned.model.parameters() if p.requires_grad} == {torch.float32}
