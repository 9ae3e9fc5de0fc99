"""Load a reasoner or a listener: a tiny one by name, any other by its folder or hub id, all through one function."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LlavaProcessor

from lrt.prompts import ENGLISH_WORDING, TINY_WORDING, Wording, listener_continuation, messages
from lrt.tiny import TinyQwenProcessor


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


def load(name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, trainable=False) -> Loaded:
    """A model by tiny name, folder or hub id, with its processor.

    A folder that holds an adapter is loaded on the base that it names. `dtype` defaults to float32 on a CPU and to
    bfloat16 (float16 where the GPU has none) elsewhere; a tiny model is stored in float16 and read as `dtype`. Without
    `trainable` the model is frozen: eval mode, no gradients.

    Raises ValueError for a name that is no model; what transformers raises for a broken one (OSError) passes through.
    """
    where = find(name)
    dtype = dtype or _usual_dtype(torch.device(device))
    if (Path(where) / "adapter_config.json").exists():
        return _load_adapter(name, Path(where), device, dtype, trainable)
    model = AutoModelForImageTextToText.from_pretrained(where, dtype=dtype)
    ours = _own_settings(where)
    wording = TINY_WORDING if ours.get("wording") == "tiny" else ENGLISH_WORDING
    loaded = Loaded(name, model.to(device), _processor(where, tiny=bool(ours)), wording, ours.get("images", True))
    return loaded if trainable else frozen(loaded)


def frozen(loaded: Loaded) -> Loaded:
    """The same model, set to eval mode and to take no gradients (in place)."""
    loaded.model.eval().requires_grad_(False)
    return loaded


def _load_adapter(name: str, folder: Path, device, dtype, trainable: bool) -> Loaded:
    from peft import PeftModel

    base_name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    if not base_name:
        raise ValueError(f"{folder / 'adapter_config.json'}: base_model_name_or_path is empty, so its base is unknown")
    base = load(base_name, device, dtype)
    model = PeftModel.from_pretrained(base.model, str(folder), is_trainable=trainable)
    loaded = Loaded(name, model, base.processor, base.wording, base.sees)
    return loaded if trainable else frozen(loaded)


def _usual_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported(False) else torch.float16


def _own_settings(where: str) -> dict:
    path = Path(where) / "lrt.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _processor(where: str, tiny: bool):
    if tiny:
        kind = AutoConfig.from_pretrained(where).model_type
        return (TinyQwenProcessor if kind == "qwen2_5_vl" else LlavaProcessor).from_pretrained(where)
    try:
        processor = AutoProcessor.from_pretrained(where)
    except ImportError:  # without torchvision only Qwen's video part is missing, and no pair has a video
        processor = TinyQwenProcessor.from_pretrained(where)
    processor.tokenizer.padding_side = "left"
    return processor


def answer_token_ids(loaded: Loaded) -> tuple[int, int]:
    """Ids of "1" and "2" as they follow `<answer>` in the listener's prompt.

    ValueError when the tokenizer does not give each a single token of its own there.
    """
    start = listener_continuation("image 1 is better .")
    given = loaded.tokenizer(start, add_special_tokens=False)["input_ids"]
    rest = []
    for answer in ("1", "2"):
        ids = loaded.tokenizer(start + answer, add_special_tokens=False)["input_ids"]
        if ids[: len(given)] != given or len(ids) != len(given) + 1:
            raise ValueError(f"{loaded.name}: {answer!r} after '<answer>' is not one token of its tokenizer")
        rest.append(ids[-1])
    if rest[0] == rest[1] or loaded.tokenizer.unk_token_id in rest:
        raise ValueError(f"{loaded.name}: its tokenizer does not tell '1' from '2' after '<answer>'")
    return rest[0], rest[1]


def generate(loaded: Loaded, prompts: list[str], images: list, max_new_tokens: int, temperature: float = 0.0,
             seed: int = 0, batch: int = 64, starts: list[str] | None = None) -> list[str]:
    """One completion a pair, as text without the end-of-turn mark. Greedy at temperature 0; otherwise sampled, each
    batch with a seed of its own, leaving the global generators as they were. Image tokens are never sampled.

    With `starts` the assistant's turn begins with a given text, which should end between two words; what comes back
    is only what follows it."""
    tokenizer, texts = loaded.tokenizer, []
    starts = starts or [""] * len(prompts)
    sampling = {"do_sample": temperature > 0}
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
