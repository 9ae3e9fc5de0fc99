"""Load a reasoner or a listener: a tiny one by name, any other by its folder or hub id, all through one function.

Whatever a repository or folder holds is data: no code of its own is run (`trust_remote_code` is never set), and weights
are read from safetensors only, never from pickles.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, LlavaProcessor
from transformers.utils import cached_file

from lrt.prompts import ENGLISH_WORDING, TINY_WORDING, Wording, messages
from lrt.tiny import TinyQwenProcessor

FLOAT16_EDGE = torch.finfo(torch.float16).max - 1000  # with room for what a block adds


@dataclass(frozen=True)
class Loaded:
    """A model with what is needed to talk to it. `sees` is False for a blind listener: it is given no images."""

    name: str
    model: Any  # a transformers model for image-text-to-text, or a peft model around one
    processor: Any
    wording: Wording
    sees: bool = True

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    def chat(self, prompt: str) -> str:
        """The chat about a pair as text, up to where the assistant speaks; reasoner and listener read the same."""
        chat = messages(prompt, self.wording)
        if not self.sees:
            chat[0]["content"] = [part for part in chat[0]["content"] if part["type"] == "text"]
        return self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


def data_dir() -> Path:
    """`data/` of the repository, or its copy inside an installed wheel."""
    installed = Path(__file__).parent / "_data"
    return installed if installed.exists() else Path(__file__).parent.parent / "data"


def tiny_names() -> list[str]:
    """Names of the tiny models that are shipped."""
    return sorted(p.parent.name for p in (data_dir() / "models").glob("*/config.json"))


def find(name: str) -> str:
    """Where a model is: the folder of a shipped tiny model, a folder as given, or a hub id ("owner/name") as given.

    ValueError when it can be none of them.
    """
    shipped = data_dir() / "models" / name
    if "/" not in name and (shipped / "config.json").exists():
        return str(shipped)
    folder = Path(name).expanduser()
    if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
        return str(folder)
    if folder.exists():
        raise ValueError(f"{name}: the folder has neither config.json nor adapter_config.json, so it is no model")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise ValueError(f"no model {name!r}: name a tiny one ({', '.join(tiny_names())}), a folder, or a hub id")


def weights_digest(name: str) -> str:
    """SHA-256 of the weights of a shipped model, or of a folder's: what is made from them says which they were."""
    return hashlib.sha256((Path(find(name)) / "model.safetensors").read_bytes()).hexdigest()


def load(name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, trainable=False,
         revision: str | None = None, four_bit: bool = False, max_pixels: int | None = None) -> Loaded:
    """A model by tiny name, folder or hub id, with its processor.

    What holds an adapter is loaded on the base that it names. `dtype` defaults to float32 on a CPU and to bfloat16
    (float16 where the GPU has none) elsewhere; a tiny model is stored in float16 and read as `dtype`. Without
    `trainable` the model is frozen: eval mode, no gradients.

    `revision` is a commit, tag or branch of a hub repository. `four_bit` packs the language layers of the base in NF4
    (bitsandbytes, a GPU); it then trains only under an adapter. `max_pixels` makes larger images smaller, in the
    model's own processor, which takes multiples of 28 pixels a side.

    Raises ValueError for a name that is no model, for options that do not go together, and for a hub id that is neither
    in the cache nor reachable; what transformers raises for a broken or missing one (OSError) passes through.
    """
    where = find(name)
    if revision and Path(where).is_dir():
        raise ValueError(f"{name} is a folder, which has no revisions: leave out {revision!r}")
    dtype = dtype or _usual_dtype(torch.device(device))
    adapter = _adapter(name, where, revision)
    if adapter:
        return _load_adapter(name, where, Path(adapter), device, dtype, trainable, revision, four_bit, max_pixels)
    _refuse_pickles(name, where)
    how = {"dtype": dtype, "use_safetensors": True, **_safe(revision)}
    if four_bit:
        how["quantization_config"] = _nf4(dtype, device, trainable)
    if torch.device(device).type == "cuda":
        how["device_map"] = {"": device}  # straight there: a CPU may have no room for it
    model = AutoModelForImageTextToText.from_pretrained(where, **how)
    if dtype == torch.float16:
        keep_vision_finite(model)
    ours = _own_settings(where)
    wording = TINY_WORDING if ours.get("wording") == "tiny" else ENGLISH_WORDING
    processor = _processor(where, bool(ours), revision)
    if max_pixels:
        limit_pixels(processor, max_pixels)
    loaded = Loaded(name, model if "device_map" in how else model.to(device), processor, wording,
                    ours.get("images", True))
    return loaded if trainable else frozen(loaded)


def limit_pixels(processor, max_pixels: int) -> None:
    """Make Qwen's processor scale an image of more pixels down (in place). ValueError for a processor with one size,
    and for less than the smallest image that it knows."""
    images = processor.image_processor
    size = dict(images.size)
    if "longest_edge" not in size or "shortest_edge" not in size or not hasattr(images, "merge_size"):
        raise ValueError(f"max_pixels is for Qwen's processors: {type(images).__name__} has one size for all images")
    if max_pixels < size["shortest_edge"]:
        raise ValueError(f"max_pixels {max_pixels} is less than the {size['shortest_edge']} of the smallest image")
    images.size = type(images.size)(shortest_edge=size["shortest_edge"], longest_edge=max_pixels)


def keep_vision_finite(model) -> None:
    """Bound what each block of Qwen's vision tower passes on to what float16 can hold (in place).

    Qwen2.5-VL-3B is reported to overflow there, for some images (vLLM, issue 13817 and pull request 13968, whose remedy
    this is): one infinite number becomes NaN in the next norm, and every token after it. Only outputs in float16 are
    touched, and only those beyond its range; other models have no such tower and stay as they are.
    """
    def bounded(block, given, out):
        return out.clamp(-FLOAT16_EDGE, FLOAT16_EDGE) if out.dtype == torch.float16 else out

    tower = getattr(getattr(model, "model", None), "visual", None)
    for block in getattr(tower, "blocks", ()):
        block.register_forward_hook(bounded)


def frozen(loaded: Loaded) -> Loaded:
    """The same model, set to eval mode and to take no gradients (in place)."""
    loaded.model.eval().requires_grad_(False)
    return loaded


def _load_adapter(name: str, where: str, config: Path, device, dtype, trainable: bool, revision: str | None,
                  four_bit: bool, max_pixels: int | None) -> Loaded:
    from peft import PeftModel

    said = json.loads(config.read_text())
    if not said.get("base_model_name_or_path"):
        raise ValueError(f"{config}: base_model_name_or_path is empty, so its base is unknown")
    if not _file(where, "adapter_model.safetensors", revision):
        raise ValueError(f"{name}: no adapter_model.safetensors; pickled weights (.bin) are not read")
    base = load(said["base_model_name_or_path"], device, dtype, False, said.get("revision"), four_bit, max_pixels)
    of = {"revision": revision} if revision else {}
    model = PeftModel.from_pretrained(merged(base.model, base.name), where, is_trainable=trainable, **of)
    without_vision_gradients(model)
    loaded = Loaded(name, model, base.processor, base.wording, base.sees)
    return loaded if trainable else frozen(loaded)


def merged(model, name: str):
    """The model with its adapter, if it has one, added to its weights and rounded to their precision: a second adapter
    put on a first one would take its place. ValueError on weights in 4 bits, which would round it away."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    if getattr(model, "is_loaded_in_4bit", False):
        raise ValueError(f"{name} is an adapter on weights in 4 bits, and cannot become part of them without loss: "
                         "load it with weights=fp16 or bf16, or begin from the base")
    return model.merge_and_unload()


def without_vision_gradients(model) -> None:
    """Keep gradients out of Qwen's frozen vision tower (in place): an adapter sits on the language model alone.

    With gradient checkpointing transformers asks the first layer of *every* part for gradients
    (`enable_input_require_grads`), so the whole tower would be kept and run backward for nothing.
    """
    for module in model.modules():
        if getattr(module, "_input_embed_layer", "") == "patch_embed" and hasattr(module, "blocks"):
            module.blocks[0].register_forward_pre_hook(_detached)


def _detached(module, args):
    return args[0].detach(), *args[1:]


def _adapter(name: str, where: str, revision: str | None) -> str | None:
    """The path of adapter_config.json, None where there is none: the first thing that is asked of the hub, and so the
    place where it is seen that nobody answers. ValueError then, unless the cache has the model."""
    if Path(where).is_dir():
        return _file(where, "adapter_config.json", revision)
    revision = revision or "main"
    try:
        return hf_hub_download(where, "adapter_config.json", revision=revision)
    except LocalEntryNotFoundError:
        if isinstance(try_to_load_from_cache(where, "config.json", revision=revision), str):
            return None
        raise ValueError(f"{name} is neither in the cache nor reachable: name a folder, or download it elsewhere and "
                         "set HF_HOME to where it is; `lrt doctor` says whether the hub answers") from None
    except (EntryNotFoundError, HfHubHTTPError):  # not there, or refused: transformers says of what is refused why
        return None


def _file(where: str, name: str, revision: str | None) -> str | None:
    """The path of a file of a folder or hub repository (fetched if need be), None where there is none."""
    if Path(where).is_dir():
        return str(Path(where) / name) if (Path(where) / name).exists() else None
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "gated_repo", "connection_errors")}
    return cached_file(where, name, revision=revision or "main", **quiet)


def _safe(revision: str | None) -> dict:
    """Never code from a repository, not even after a question."""
    return {"trust_remote_code": False, **({"revision": revision} if revision else {})}


def _refuse_pickles(name: str, where: str) -> None:
    folder = Path(where)
    if any(folder.glob("pytorch_model*.bin*")) and not any(folder.glob("*.safetensors")):
        raise ValueError(f"{name}: its weights are pickles (.bin), which can run code and are not read; "
                         "save them again as safetensors")


def _nf4(dtype: torch.dtype, device: str | torch.device, trainable: bool) -> BitsAndBytesConfig:
    """4 bits a weight for the language layers; output and vision tower stay as they are (`lrt.machine.memory`)."""
    if torch.device(device).type != "cuda":
        raise ValueError("weights in 4 bits need a GPU: leave out 4bit")
    if trainable:
        raise ValueError("weights in 4 bits cannot be trained: load them frozen, and give them an adapter (lora_rank)")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("weights in 4 bits need the package bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "lm_head"],  # names are matched from their beginning
    )


def _usual_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported(False) else torch.float16


def _own_settings(where: str) -> dict:
    path = Path(where) / "lrt.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _processor(where: str, tiny: bool, revision: str | None = None):
    if tiny:
        kind = AutoConfig.from_pretrained(where).model_type
        return (TinyQwenProcessor if kind == "qwen2_5_vl" else LlavaProcessor).from_pretrained(where)
    try:
        processor = AutoProcessor.from_pretrained(where, **_safe(revision))
    except ImportError:  # without torchvision only Qwen's video part is missing, and no pair has a video
        processor = TinyQwenProcessor.from_pretrained(where, **_safe(revision))
    processor.tokenizer.padding_side = "left"
    return processor


def generate(loaded: Loaded, prompts: list[str], images: list, max_new_tokens: int, temperature: float = 0.0,
             seed: int = 0, batch: int = 64, starts: list[str] | None = None) -> list[str]:
    """One completion a pair, as text without the end-of-turn mark. Greedy at temperature 0; otherwise sampled, each
    batch with a seed of its own, leaving the global generators as they were. Image tokens are never sampled, and no
    token is punished for having been said, whatever a hub model asks for: training samples so, too.

    With `starts` the assistant's turn begins with a given text, which should end between two words; what comes back
    is only what follows it."""
    tokenizer, texts = loaded.tokenizer, []
    starts = starts or [""] * len(prompts)
    sampling = {"do_sample": temperature > 0, "repetition_penalty": 1.0}
    if temperature:
        sampling |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    image_ids = [loaded.model.config.image_token_id]
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    for start in range(0, len(prompts), batch):
        chunk = slice(start, start + batch)
        inputs = loaded.processor(
            text=[loaded.chat(p) + s for p, s in zip(prompts[chunk], starts[chunk], strict=True)],
            images=[list(pair) for pair in images[chunk]],
            padding=True,
            return_tensors="pt",
        ).to(loaded.device)
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(seed * 1_000_003 + start)
            out = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, suppress_tokens=image_ids, **sampling)
        new = out[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts
