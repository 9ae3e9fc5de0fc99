"""What the training runs share: a folder that can be killed at any moment, and its log.

    out/settings.json   what the run was started with; a call with anything else is refused
    out/listeners.json  who listened, of a GRPO run with a listener's reward, as of its last start
    out/log.jsonl       one line of metrics a step, cut back to the checkpoint when a run goes on
    out/checkpoint-N/   the last whole checkpoint (the trainer's); removed when the run is done
    out/model/          the trained model, or its adapter: `models.load` reads it
    out/done.json       written last: a run with this file only loads its model

A killed run that is started again ends with the weights of one that was not, because nothing that a step needs lives
outside the checkpoint: rows are data, in order (`lrt.rows`); and what a step draws is a function of (seed, step). (A
vLLM server that generates draws by itself: a run with one goes on, but not exactly as it would have.)
"""

import json
import math
import os
import shutil
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import update_wrapper
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed
from transformers.utils import logging as hf_logging

from lrt.checkpoints import fingerprint, last_checkpoint, load_weights, save_model
from lrt.files import read_lines, write_json, write_lines
from lrt.models import Loaded

OnStep = Callable[[int, int, dict], None]  # (step, total, the step's record)
PRECISIONS = ("fp32", "bf16", "fp16")
LATER = {"vllm_server": None, "image_side": None, "balance_votes": False, "sft_weight": 0.0}  # not in the first runs
PATCHED = ("forward", "generate", "_original_forward", "merge_adapter", "unmerge_adapter")  # on the model, by trainers
UNLOGGED = ("epoch", "num_tokens", "step_time")  # one epoch is the run; SFT's tokens restart; time_step is ours


# --- settings that both trainers know ------------------------------------------------------------------------------


def check_settings(settings: Any) -> None:
    """ValueError for a run that could not be resumed exactly, or a precision that there is not."""
    if settings.save_every % settings.log_every:
        raise ValueError("save_every must be a multiple of log_every, or a resumed log would miss steps")
    if settings.precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {settings.precision!r}")


def check_adapter(loaded: Loaded, rank: int) -> None:
    """ValueError unless the model has an adapter where the settings speak of one, and none where they do not."""
    if isinstance(loaded.model, PeftModel) != bool(rank):
        raise ValueError(
            f"lora_rank is {rank}, but the model has {'no' if rank else 'an'} adapter: "
            "checkpoints.with_adapter(loaded, lora_rank, seed) adds one"
        )


def common_arguments(settings: Any, out: str | Path, device: torch.device) -> dict[str, Any]:
    """What both trainers are told in the same words."""
    return {
        "output_dir": str(out),
        "max_steps": settings.steps,
        "learning_rate": settings.lr,
        "lr_scheduler_type": "constant",
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "bf16": settings.precision == "bf16",
        "fp16": settings.precision == "fp16",
        "activation_checkpointing": settings.gradient_checkpointing,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        "remove_unused_columns": False,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": 1,  # the older one goes when the newer is complete
        "logging_steps": settings.log_every,
        "report_to": "none",
        "disable_tqdm": True,
    }


# --- the folder ----------------------------------------------------------------------------------------------------


def read_log(out: str | Path) -> list[dict]:
    """The records of a run's log.jsonl (`read_lines`)."""
    return read_lines(Path(out) / "log.jsonl")


def replayed(log: list[dict], out: Path) -> str:
    """What is said of a finished run that is read and not trained again."""
    seconds = sum(record.get("time_step") or 0 for record in log)
    took = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return (f"A recorded run is replayed: {len(log)} steps, which took {took} when they were trained. "
            f"Its model and its log are read from {out}; nothing is trained now.")


def cut_log(out: Path, step: int) -> None:
    """Drop what was logged after a step: it will be computed again."""
    write_lines(out / "log.jsonl", (record for record in read_log(out) if record["step"] <= step))


def differing(started: Mapping[str, Any], call: Mapping[str, Any]) -> list[str]:
    """The names in which what a folder's run was started with is not what is asked for now. What runs from before
    there was such a setting do not name (`LATER`) was as it is by default; who listened to them is not known."""
    unknown = {name: value for name, value in {**LATER, "listeners": call.get("listeners")}.items() if name in call}
    started = {**unknown, **started}
    return [name for name in {**started, **call} if started.get(name) != call.get(name)]


def check_call(out: Path, call: dict) -> None:
    """Write down what a new run was started with; ValueError if a started one was started with something else."""
    path, call = out / "settings.json", json.loads(json.dumps(call))
    if not path.exists():
        write_json(path, call)
        return
    started = json.loads(path.read_text())
    differ = differing(started, call)
    if differ:
        what = "; ".join(f"{name} was {started.get(name)!r}, is {call.get(name)!r}" for name in differ)
        raise ValueError(f"{out} holds a run that was started differently ({what}): use another folder")


def check_start(out: Path, start: str, name: str) -> None:
    """A run broken off before its first checkpoint can only begin again from the weights that it began with."""
    path = out / "start.json"
    if not path.exists():
        write_json(path, start)
    elif json.loads(path.read_text()) != start:
        raise ValueError(f"{out} was started from other weights than {name} holds now: load the model again")


# --- watching ------------------------------------------------------------------------------------------------------


class Watch(TrainerCallback):
    """Seeds every step, times its parts, writes the log and reports progress."""

    def __init__(self, out: Path, seed: int, on_step: OnStep):
        self.log, self.seed, self.on_step = out / "log.jsonl", seed, on_step
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps, self.since = 0, 0.0

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, its seconds added up as `time_<name>` (on a GPU until it returns, not until it is done)."""

        def wrapped(*args, **kwargs):
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[f"time_{name}"] += time.perf_counter() - started

        return update_wrapper(wrapped, function)

    def on_step_begin(self, args, state, control, **kwargs):
        # a group may stand on several processes: with one seed each would write the same completions
        set_seed((self.seed * 1_000_003 + state.global_step + rank() * 15_485_863) % 2**32)
        if self.steps == 0:
            self.since = time.perf_counter()
        self.steps += 1

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" not in logs or rank():
            return  # the trainer's closing summary, or another process's copy
        self.seconds["time_step"] = time.perf_counter() - self.since
        metrics = {name: _finite(value) for name, value in logs.items() if name not in UNLOGGED}
        times = {name: round(seconds / self.steps, 4) for name, seconds in sorted(self.seconds.items())}
        record = {"step": state.global_step, **metrics, **times}
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


# --- several processes ---------------------------------------------------------------------------------------------


def processes() -> int:
    """How many processes `accelerate launch` (or torchrun) started; 1 where there was no such launch."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this is; the first, 0, writes the run's files."""
    return int(os.environ.get("RANK", 0))


def first_alone(device: torch.device) -> AbstractContextManager:
    """The first process goes through the block before the others."""
    return PartialState(cpu=device.type == "cpu").main_process_first() if processes() > 1 else nullcontext()


# --- running -------------------------------------------------------------------------------------------------------


@contextmanager
def as_found(model: Any) -> Iterator[None]:
    """Take a trainer's patches off a model when it leaves, and set it to eval mode.

    The trainers replace `forward` on the object (a deep copy of a patched model would run the original's weights) and
    switch the cache off in its config. Their progress bars and notices about renamed options are kept quiet.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config, names = model.config.__dict__, PATCHED
    before = [(m.__dict__, {n: m.__dict__[n] for n in names if n in m.__dict__}) for m in (model, base)]
    before.append((config, {"use_cache": config["use_cache"]} if "use_cache" in config else {}))
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*gradient_checkpointing", FutureWarning)
            yield
    finally:
        if isinstance(model, PeftModel) and any(getattr(module, "merged", False) for module in model.modules()):
            model.unmerge_adapter()  # a server that failed while it was sent the weights
        for attributes, found in before:
            for name in (*names, "use_cache"):
                attributes.pop(name, None)
            attributes.update(found)
        if base.is_activation_checkpointing:
            base.activation_checkpointing_disable()
        model.eval()
        if bars:
            hf_logging.enable_progress_bar()


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Equal sums in equal order on a GPU, where torch has such kernels; a CPU computes so anyway."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def run(
    loaded: Loaded,
    make_trainer: Callable[[Watch], Trainer],
    call: dict,
    seed: int,
    steps: int,
    out: str | Path,
    on_step: OnStep | None = None,
) -> list[dict]:
    """Train to the end, from wherever the folder stands, and return the log; the model then holds the trained weights.

    `make_trainer(watch)` builds the trainer with `watch` among its callbacks; `call` is whatever makes two runs one and
    the same. ValueError if the folder was started otherwise, or if the model was trained since and cannot start anew.
    """
    out, model = Path(out), loaded.model
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{loaded.name} is frozen: load it with trainable=True, or give it an adapter")
    out.mkdir(parents=True, exist_ok=True)
    with as_found(model), deterministic(loaded.device):
        with first_alone(loaded.device):
            check_call(out, {"model": loaded.name, **call, "frozen_weights": fingerprint(model, trained=False)})
            if (out / "done.json").exists():
                load_weights(model, out / "model")
                log = read_log(out)
                if not rank():
                    print(replayed(log, out), flush=True)
                return log
            checkpoint, first = last_checkpoint(out)
            if checkpoint is None:
                check_start(out, fingerprint(model, trained=True), loaded.name)
            else:
                load_weights(model, checkpoint)
            if not rank():
                cut_log(out, first)
        shown = on_step or (progress_bar(out.name, steps, first) if not rank() else lambda *_: None)
        trainer = make_trainer(Watch(out, seed, shown))
        trainer.remove_callback(PrinterCallback)
        # The weights are there already; the trainer's own loading knows none of their names (see lrt.checkpoints).
        trainer._load_from_checkpoint = lambda *_: None
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # Weights that are spread over the processes are gathered by all of them together.
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if processes() > 1 else None
    with as_found(model), first_alone(loaded.device):
        if not rank():
            save_model(loaded, out / "model", weights=weights)
            write_json(out / "done.json", {"steps": steps})
            for path in out.glob("checkpoint-*"):
                shutil.rmtree(path)
    return read_log(out)
