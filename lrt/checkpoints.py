"""Weights on disk: a model saved and put back, an adapter added, and which checkpoint of a run is whole.

The trainers write a checkpoint in place, so a killed run may leave a torn one as its newest; and they save a
vision-language model under the hub's names, which their own loading then takes for unknown ones and silently skips.
"""

import copy
import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open

from lrt.models import Loaded, merged, without_vision_gradients
from lrt.prompts import TINY_WORDING

# Attention and MLP of the language model, by the names that Qwen's and LLaVA's classes share; never the vision tower.
LANGUAGE_LINEAR = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def with_adapter(loaded: Loaded, rank: int, seed: int = 0) -> Loaded:
    """The model with a fresh LoRA adapter on its language model; rank 0 gives it back as it is.

    The base is frozen and, with the adapter off (`model.disable_adapter()`), computes what it did before: the paper's
    listener without a second copy. The adapter starts as zero, so at first nothing changes. One that the model has
    already (of an SFT run, say) becomes part of that base: `models.merged`.
    """
    if not rank:
        return loaded
    loaded = replace(loaded, model=merged(loaded.model, loaded.name))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LANGUAGE_LINEAR)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # The adapter is in fp32, whatever the base is in; but ZeRO-3 gathers its small weights in one precision.
        mixed = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") != "3"
        model = get_peft_model(loaded.model, config, autocast_adapter_dtype=mixed)
    without_vision_gradients(model)
    model.peft_config["default"].base_model_name_or_path = loaded.name  # what `models.load` looks up
    return replace(loaded, model=model)


def adapter_in_fp32(model: Any) -> None:
    """Put trained weights of 16 bits back into fp32 (in place): in bf16 most small steps round to nothing, and a
    gradient scaler (fp16) refuses 16 bits. TRL's trainers cast the adapter of a 4-bit model to bf16 when they are
    built, so this comes after."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def exact_merging(model: PeftModel) -> None:
    """Let `unmerge_adapter` put the base's weights back to the bit (in place).

    To send whole weights to a vLLM server, TRL adds the adapter to the base in place and takes it off again
    (trl/generation/vllm_generation.py). In 16 bits both round, so the base would drift at every step, and with it the
    listener `adapter-off`. The base is frozen: one copy of the weights under the adapter, in each process's CPU memory,
    serves the whole run. The merged weights themselves stay as they are, since those that were handed out last may not
    have been sent yet: the layer gets other ones. Weights spread over processes (FSDP2) were gathered into new tensors
    for the server, and are written over. ValueError if an adapter is merged already.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if any(layer.merged for layer in layers):
        raise ValueError("the adapter is merged into its base, whose own weights are not known any more: load it anew")
    merge, kept = model.merge_adapter, []

    def keep_and_merge(*args, **options):
        if not kept:
            kept.extend(_own_weight(layer).to("cpu", copy=True) for layer in layers)
        merge(*args, **options)

    def unmerge_and_restore():
        for layer, weight in zip(layers, kept, strict=True):
            parameter = layer.get_base_layer().weight
            if hasattr(parameter.data, "to_local"):
                _own_weight(layer).copy_(weight)
            else:
                parameter.data = weight.to(parameter.device, copy=True)
            layer.merged_adapters.clear()

    model.merge_adapter, model.unmerge_adapter = keep_and_merge, unmerge_and_restore


def _own_weight(layer: LoraLayer) -> torch.Tensor:
    """The base's weight under an adapter; of one that is spread over processes (FSDP2), this process's part."""
    weight = layer.get_base_layer().weight.data
    return weight.to_local() if hasattr(weight, "to_local") else weight


def save_model(loaded: Loaded, folder: str | Path, dtype: torch.dtype | None = None,
               weights: dict[str, torch.Tensor] | None = None) -> None:
    """Save a model for `models.load(folder)`: its weights and processor, or an adapter that names its base.

    `dtype` converts what is written (float16 halves a shipped model), not the model itself. `weights` are its whole
    weights by name, where the model itself holds only this process's part of them.
    """
    folder, part = Path(folder), Path(f"{folder}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model = loaded.model if dtype is None else copy.deepcopy(loaded.model).to(dtype)
    model.save_pretrained(part, state_dict=weights)
    if not isinstance(model, PeftModel):
        loaded.processor.save_pretrained(part)
        if loaded.wording == TINY_WORDING:  # the mark of a tiny model
            settings = {"wording": loaded.wording.name, "images": loaded.sees}
            (part / "lrt.json").write_text(json.dumps(settings) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_weights(model: Any, folder: str | Path) -> None:
    """Put the weights saved in a folder into a model of the same shape (adapter weights into an adapter)."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    else:
        saved = type(model).from_pretrained(str(folder), dtype=model.dtype)
        model.load_state_dict(saved.state_dict())


def fingerprint(model: Any, trained: bool) -> str:
    """A short hash of the weights that are trained, or of those that are frozen: their first 64 numbers each."""
    digest = hashlib.sha256()
    for name, p in model.named_parameters():
        if p.requires_grad == trained:
            digest.update(name.encode() + p.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the state (written last) parses, and every file opens.

    Formats: safetensors knows its own length; a torch file is a zip, whose directory is at its end. The optimizer's
    state is `optimizer.bin` where FSDP saved it; DeepSpeed keeps it in a folder of its own that the file `latest`,
    written after it, names.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        weights = list(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safe_open(path, framework="pt"):
                pass
        optimizer = [path for path in (checkpoint / "optimizer.pt", checkpoint / "optimizer.bin") if path.exists()]
        by_deepspeed = (checkpoint / "latest").exists()
        states = list(checkpoint.glob("rng_state*.pth"))  # one a process, each with its number if there are several
    except (OSError, ValueError, SafetensorError):
        return False
    right_step = state.get("global_step") == int(checkpoint.name.rpartition("-")[2])
    zips = [*optimizer, checkpoint / "scheduler.pt", *states]
    complete = weights and states and (optimizer or by_deepspeed)
    return right_step and bool(complete) and all(map(zipfile.is_zipfile, zips))


def last_checkpoint(out: Path) -> tuple[Path | None, int]:
    """The newest whole checkpoint and its step, or (None, 0). Torn ones are removed: the trainer would count them."""
    found = {}
    for path in out.glob("checkpoint-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and is_whole(path):
            found[int(number)] = path
        else:
            shutil.rmtree(path)
    step = max(found, default=0)
    return found.get(step), step
