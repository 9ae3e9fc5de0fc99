"""What the training runs share: a folder that can be killed at any moment, its log, and the model around it.

    out/settings.json   what the run was started with; a call with anything else is refused
    out/log.jsonl       one line of metrics a step, cut back to the checkpoint when a run goes on
    out/checkpoint-N/   the last whole checkpoint (the trainers'); removed when the run is done
    out/model/          the trained model (`models.load` reads it), or its adapter
    out/done.json       written last: a run with this file returns at once

What the trainers leave open and this room closes: checkpoints are written in place, so a torn one can be the newest; the
weights of a vision-language checkpoint are saved under the hub's names and silently not loaded again; random numbers
depend on everything drawn before; a trained model keeps the trainer's patches.
"""

import copy
import hashlib
import json
import math
import os
import shutil
import sys
import time
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import update_wrapper
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed
from transformers.utils import logging as hf_logging

from lrt import world
from lrt.models import Loaded
from lrt.prompts import TINY_WORDING

OnStep = Callable[[int, int, dict], None]  # (step, total, the step's record)

# Attention and MLP of the language model, by the names that Qwen's and LLaVA's classes share; never the vision tower.
LANGUAGE_LINEAR = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


# --- the rows of a run ---------------------------------------------------------------------------------------------


def without_ties(pairs: Dataset) -> Dataset:
    """The pairs that have a vote; those with vote 0 (a tie) teach no answer and are dropped, with a warning."""
    kept = [i for i, vote in enumerate(pairs["vote"]) if vote in (1, 2)]
    if len(kept) < len(pairs):
        warnings.warn(f"{len(pairs) - len(kept)} of {len(pairs)} pairs are ties (vote 0): left out", stacklevel=3)
    return pairs.select(kept)


def row_order(n_pairs: int, per_step: int, steps: int, seed: int) -> list[int]:
    """Which pair is at which place of a run: `steps * per_step` indices, the same on every machine.

    One seeded permutation of the pairs after another, each cut to whole steps, so that no step holds a pair twice (its
    completions would be taken for one group). A longer run begins with the same rows. Written down as data, the order
    needs no sampler whose state a resumed run would have to restore. ValueError for fewer pairs than a step takes.
    """
    if n_pairs < per_step:
        raise ValueError(f"{n_pairs} pairs with a vote are fewer than the {per_step} that one step takes")
    whole = n_pairs - n_pairs % per_step
    order: list[int] = []
    for epoch in range(math.ceil(steps * per_step / whole)):
        order += world.rng("row order", seed, epoch).permutation(n_pairs)[:whole].tolist()
    return order[: steps * per_step]


# --- models --------------------------------------------------------------------------------------------------------


def with_adapter(loaded: Loaded, rank: int, seed: int = 0) -> Loaded:
    """The model with a fresh LoRA adapter on its language model; rank 0 gives it back as it is.

    The base is frozen and, with the adapter off (`model.disable_adapter()`), computes what it did before: the paper's
    listener without a second copy. The adapter starts as zero, so at first nothing changes.
    """
    if not rank:
        return loaded
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LANGUAGE_LINEAR)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(loaded.model, config)
    model.peft_config["default"].base_model_name_or_path = loaded.name  # what `models.load` looks up
    return replace(loaded, model=model)


def save_model(loaded: Loaded, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Save a model so that `models.load(folder)` gives it back: weights and processor, or an adapter that names its base.

    `dtype` converts what is written (float16 halves a shipped model), not the model itself.
    """
    folder, part = Path(folder), Path(f"{folder}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model = loaded.model if dtype is None else copy.deepcopy(loaded.model).to(dtype)
    model.save_pretrained(part)
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


@contextmanager
def as_found(model: Any) -> Iterator[None]:
    """Take a trainer's patches off a model when it leaves, and set it to eval mode.

    The trainers replace `forward` on the object (a deep copy made of a patched model would run the original's weights)
    and switch the cache off in its config.
    """
    parts = {id(m): m for m in (model, model.get_base_model() if isinstance(model, PeftModel) else model)}.values()
    names = ("forward", "generate", "_original_forward")
    before = [(m, {n: m.__dict__[n] for n in names if n in m.__dict__}) for m in parts]
    config, verbose = model.config.__dict__, hf_logging.is_progress_bar_enabled()
    use_cache = {"use_cache": config["use_cache"]} if "use_cache" in config else {}
    hf_logging.disable_progress_bar()  # a bar for every file that is written
    try:
        yield
    finally:
        for m, found in before:
            for n in names:
                m.__dict__.pop(n, None)
            m.__dict__.update(found)
        if getattr(model, "is_gradient_checkpointing", False):
            model.activation_checkpointing_disable()
        config.pop("use_cache", None)
        config.update(use_cache)
        model.eval()
        if verbose:
            hf_logging.enable_progress_bar()


# --- the folder ----------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Write a whole file or none of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


def read_log(out: str | Path) -> list[dict]:
    """The records of a run's log.jsonl, in order; a line torn by a kill is left out. [] where there is none."""
    path, records = Path(out) / "log.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def cut_log(out: Path, step: int) -> None:
    """Drop what was logged after a step: it will be computed again."""
    kept = [json.dumps(record) + "\n" for record in read_log(out) if record["step"] <= step]
    part = out / "log.jsonl.part"
    part.write_text("".join(kept))
    os.replace(part, out / "log.jsonl")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the state (written last) parses, and every file opens.

    Formats: safetensors knows its own length; a torch file is a zip, whose directory is at its end.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        weights = list(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safe_open(path, framework="pt"):
                pass
        zips = [checkpoint / name for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")]
    except (OSError, ValueError, SafetensorError):
        return False
    right_step = state.get("global_step") == int(checkpoint.name.rpartition("-")[2])
    return right_step and bool(weights) and all(zipfile.is_zipfile(path) for path in zips)


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


def check_call(out: Path, call: dict) -> None:
    """Write down what a new run was started with; ValueError if a started one was started with something else."""
    path, call = out / "settings.json", json.loads(json.dumps(call))
    if not path.exists():
        write_json(path, call)
        return
    started = json.loads(path.read_text())
    differ = [name for name in {**started, **call} if started.get(name) != call.get(name)]
    if differ:
        what = "; ".join(f"{name} was {started.get(name)!r}, is {call.get(name)!r}" for name in differ)
        raise ValueError(f"{out} holds a run that was started differently ({what}): use another folder")


# --- watching a run ------------------------------------------------------------------------------------------------


class Watch(TrainerCallback):
    """Seeds every step, times its parts, writes the log and reports progress.

    What a step draws is a function of (seed, step) alone, whatever was drawn before and in whichever process.
    """

    def __init__(self, out: Path, seed: int, on_step: OnStep):
        self.log, self.seed, self.on_step = out / "log.jsonl", seed, on_step
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps, self.since = 0, 0.0

    def timed(self, name: str, function: Callable) -> Callable:
        """The function with its seconds added up under `time_<name>` (on a GPU: until it returns, not until it is done)."""

        def wrapped(*args, **kwargs):
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[f"time_{name}"] += time.perf_counter() - started

        return update_wrapper(wrapped, function)

    def on_step_begin(self, args, state, control, **kwargs):
        set_seed((self.seed * 1_000_003 + state.global_step) % 2**32)
        self.steps += 1
        if self.steps == 1:
            self.since = time.perf_counter()

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" not in logs:
            return  # the trainer's closing summary
        self.seconds["time_step"] = time.perf_counter() - self.since
        times = {name: round(seconds / self.steps, 4) for name, seconds in sorted(self.seconds.items())}
        record = {"step": state.global_step, **{k: _finite(v) for k, v in logs.items() if k != "step_time"}, **times}
        self.seconds.clear()
        self.steps = 0
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.on_step(state.global_step, state.max_steps, record)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def progress_bar(name: str, total: int, first: int) -> OnStep:
    """A plain bar on stderr, with the time left and the reward or loss."""
    bar = tqdm(total=total, initial=first, desc=name, unit="step", file=sys.stderr, mininterval=1.0)

    def on_step(step: int, total: int, record: dict) -> None:
        shown = "reward" if "reward" in record else "loss"
        bar.set_postfix({shown: record[shown]}, refresh=False)
        bar.update(step - bar.n)
        if step == total:
            bar.close()

    return on_step


def run(
    loaded: Loaded,
    make_trainer: Callable[[Watch], Trainer],
    call: dict,
    seed: int,
    steps: int,
    out: str | Path,
    on_step: OnStep | None = None,
) -> list[dict]:
    """Train to the end, from wherever the folder stands, and return the log. The model holds the trained weights after.

    `make_trainer(watch)` builds the trainer with `watch` among its callbacks. `call` is whatever makes two runs the same
    one. ValueError if the folder was started otherwise, or if the model was already trained on and cannot start anew.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not any(p.requires_grad for p in loaded.model.parameters()):
        raise ValueError(f"{loaded.name} is frozen: load it with trainable=True, or give it an adapter")
    start = fingerprint(loaded.model, trained=True)
    check_call(out, {"model": loaded.name, **call, "frozen_weights": fingerprint(loaded.model, trained=False)})
    with as_found(loaded.model):
        if (out / "done.json").exists():
            load_weights(loaded.model, out / "model")
            return read_log(out)
        checkpoint, first = last_checkpoint(out)
        if checkpoint is None:
            _check_start(out, start, loaded.name)
        else:
            load_weights(loaded.model, checkpoint)
        cut_log(out, first)
        watch = Watch(out, seed, on_step or progress_bar(out.name, steps, first))
        trainer = make_trainer(watch)
        trainer.remove_callback(PrinterCallback)
        # The trainer's own loading takes the hub's names of the weights for unknown ones and loads none of them.
        trainer._load_from_checkpoint = lambda folder, model=None: None
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_model(loaded, out / "model")
    write_json(out / "done.json", {"steps": steps})
    for path in out.glob("checkpoint-*"):
        shutil.rmtree(path)
    return read_log(out)


def _check_start(out: Path, start: str, name: str) -> None:
    """A run that was broken off before its first checkpoint can only begin again from the weights it began with."""
    path = out / "start.json"
    if not path.exists():
        write_json(path, start)
    elif json.loads(path.read_text()) != start:
        raise ValueError(f"{out} was started from other weights than {name} holds now: load the model again")
