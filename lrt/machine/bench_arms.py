"""What `lrt bench gpu` measures: one function an arm, from nothing to numbers. `lrt.machine.bench_gpu` runs them.

The 3B and 7B shapes of Qwen2.5-VL are built from their published configs with random weights (`lrt.machine.shapes`), in
bfloat16 on the GPU itself, with a LoRA adapter and gradient checkpointing. Two 512 x 512 images, traces of 200 tokens,
8 completions a pair. On a CPU the same functions run with float32, for tests.

Random weights write random tokens, never an answer in the right format, which a listener would not even be asked
about. So the model generates, 200 tokens every time (it may not end its turn earlier), and then `Injected` hands the
rewards fixed completions of the same length instead. Nothing but the words differs: the listener reads as much as it
would of a trained model. The learning rate is 0.

Not in it: downloads, more than one GPU, and vLLM. Images are decoded and resized in every step, as in training.
"""

import copy
import functools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import GenerationConfig, PrinterCallback
from trl import SFTTrainer

from lrt import sft as sft_room
from lrt.grpo import GRPOSettings, train_grpo
from lrt.listener import AdapterOffListener
from lrt.machine.bench import Clock, in_turns, seconds
from lrt.machine.bench_model import (
    GIB,
    Bench,
    Geometry,
    about,
    build,
    completion,
    dtype_of,
    fake_pairs,
    fake_traces,
    precision,
    tokens_of,
)
from lrt.models import Loaded
from lrt.prompts import messages
from lrt.rewards import WEIGHTS, ListenerReward, RewardFunction, accuracy_reward, format_reward
from lrt.runs import as_found, deterministic


class Injected:
    """A reward function that is given fixed completions in the place of what the model wrote.

    Half of a group answers 1 and half 2, so that rewards differ. The device is waited for on both sides: the seconds
    that `ListenerReward` counts are its own.
    """

    def __init__(self, reward: RewardFunction, texts: Sequence[str]):
        self.__name__ = reward.__name__
        self.reward, self.texts = reward, texts

    def __call__(self, prompts=None, completions=(), **columns) -> list[float | None]:
        texts = [self.texts[i % len(self.texts)] for i in range(len(completions))]
        wait()
        found = self.reward(prompts=prompts, completions=texts, **columns)
        wait()
        return found


# --- what is measured ----------------------------------------------------------------------------------------------


def wait() -> None:
    """Until the GPU has done what it was given; there is nothing to wait for on a CPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of a call: by CUDA events on a GPU, by the clock on a CPU."""
    if device != "cuda":
        return seconds(function)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    wait()
    start.record()
    function()
    end.record()
    wait()
    return start.elapsed_time(end) / 1000


@contextmanager
def peak_gib(device: str, found: dict, name: str = "peak_gib"):
    """Puts the most memory that tensors took meanwhile into `found`, in GiB; None on a CPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield
    found[name] = torch.cuda.max_memory_allocated() / GIB if device == "cuda" else None


class DeviceClock(Clock):
    """The end of a step is when the device is done with it."""

    def on_step_end(self, args, state, control, **kwargs):
        wait()
        super().on_step_end(args, state, control, **kwargs)


# --- the arms ------------------------------------------------------------------------------------------------------


def matmul(bench: Bench) -> dict:
    """The arithmetic limit: operations a second of one big product of matrices, the best of several tries."""
    n, times = (8192, 20) if bench.device == "cuda" else (256, 2)
    a, b = (torch.randn(n, n, device=bench.device, dtype=dtype_of(bench.device)) for _ in range(2))

    def products():
        for _ in range(times):
            a @ b

    products()
    best = min(timed(products, bench.device) for _ in range(5))
    return {"flops_per_second": times * 2 * n**3 / best, "side": n}


def sft(bench: Bench) -> dict:
    """An SFT step: as many pairs as GRPO has completions, each with one trace and an answer."""
    loaded, geometry, clock, found = build(bench), bench.geometry, DeviceClock(), {}
    tokens = tokens_of(loaded, geometry)
    settings = sft_room.SFTSettings(
        steps=geometry.steps, pairs_per_step=geometry.completions, lr=0.0, lora_rank=geometry.lora_rank,
        precision=precision(bench), gradient_checkpointing=True, save_every=geometry.steps,
    )
    with tempfile.TemporaryDirectory() as out, as_found(loaded.model), deterministic(loaded.device):
        trainer = SFTTrainer(
            model=loaded.model,
            processing_class=loaded.processor,
            args=sft_room.trl_config(settings, out, loaded.device),
            train_dataset=sft_rows(loaded, settings, geometry),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        with peak_gib(bench.device, found):
            trainer.train()
    return {**about(loaded, tokens), **found, "seconds": clock.steps(),
            "flops": geometry.completions * tokens.training()}


def sft_rows(loaded: Loaded, settings: sft_room.SFTSettings, geometry: Geometry) -> Dataset:
    """`sft.training_rows` with traces of the right length in the place of the empty ones that teach an answer."""
    pairs = fake_pairs(geometry, settings.pairs_per_step * settings.steps)
    said = [completion(trace, vote) for trace, vote in
            zip(fake_traces(geometry, len(pairs)), pairs["vote"], strict=True)]
    wording = loaded.wording

    def with_chats(batch: dict) -> dict:
        prompts = [messages(text, wording) for text in batch["prompt"]]
        completions = [[{"role": "assistant", "content": text}] for text in batch["completion"]]
        return {**batch, "prompt": prompts, "completion": completions}

    return pairs.select_columns(["prompt", "images"]).add_column("completion", said).with_transform(with_chats)


def generation(bench: Bench) -> dict:
    """Tokens a second of plain `generate`: a group at a time, the adapter on, every completion of full length."""
    loaded, geometry, found = build(bench), bench.geometry, {}
    tokens, group = tokens_of(loaded, geometry), geometry.completions
    row = fake_pairs(geometry, 1)[0]
    inputs = loaded.processor(text=[loaded.chat(row["prompt"])] * group, images=[list(row["images"])] * group,
                              return_tensors="pt").to(bench.device)
    loaded.model.eval()

    @torch.no_grad()
    def write():
        out = loaded.model.generate(**inputs, **full_length(geometry), do_sample=True,
                                    suppress_tokens=[loaded.processor.image_token_id])
        check_length(out.shape[1] - tokens.chat, geometry)

    write()
    with peak_gib(bench.device, found):
        times = [timed(write, bench.device) for _ in range(geometry.steps - 1)]
    return {**about(loaded, tokens), **found, "seconds": times, "generated": group * geometry.trace_tokens,
            "flops": group * tokens.generating()}


def full_length(geometry: Geometry) -> dict:
    return {"min_new_tokens": geometry.trace_tokens, "max_new_tokens": geometry.trace_tokens}


def to_full_length(generate: Callable, geometry: Geometry) -> Callable:
    """`generate` as TRL calls it, with a config of its own; `generation_kwargs` would lift its ban on image tokens."""

    @functools.wraps(generate)
    def wrapped(*args, generation_config: GenerationConfig, **kwargs):
        config = copy.deepcopy(generation_config)
        config.update(**full_length(geometry))
        return generate(*args, generation_config=config, **kwargs)

    return wrapped


def check_length(length: float, geometry: Geometry) -> None:
    """A random model may end its turn at any token; if it did, the time is of something else."""
    if length != geometry.trace_tokens:
        raise RuntimeError(f"a completion has {length} tokens instead of {geometry.trace_tokens}")


def grpo(bench: Bench, listens: bool = False) -> dict:
    """A GRPO step through `train_grpo`: the group is generated, rewarded and learned from."""
    loaded, geometry, clock, found = build(bench), bench.geometry, DeviceClock(), {}
    tokens, n = tokens_of(loaded, geometry), geometry.pairs_per_step * geometry.completions
    settings = GRPOSettings(
        steps=geometry.steps, pairs_per_step=geometry.pairs_per_step, num_generations=geometry.completions, lr=0.0,
        max_new_tokens=geometry.trace_tokens, lora_rank=geometry.lora_rank, precision=precision(bench),
        gradient_checkpointing=True, save_every=geometry.steps,
    )
    texts = [completion(trace, 1 + i % 2) for i, trace in enumerate(fake_traces(geometry, geometry.completions))]
    rewards = [format_reward, accuracy_reward] + [ListenerReward(AdapterOffListener(loaded))] * listens
    loaded.model.generate = to_full_length(loaded.model.generate, geometry)
    pairs = fake_pairs(geometry, 2 * geometry.pairs_per_step)
    with tempfile.TemporaryDirectory() as out, peak_gib(bench.device, found):
        log = train_grpo(
            loaded, pairs, [Injected(reward, texts) for reward in rewards], WEIGHTS[: len(rewards)], settings,
            Path(out) / "run", on_step=lambda *_: None, callbacks=[clock],
        )
    for end in ("min", "max"):
        check_length(log[-1][f"completions/{end}_length"], geometry)
    flops = n * (tokens.generating() + tokens.training())
    if listens:
        flops += geometry.pairs_per_step * tokens.listening(geometry.completions, shared=True)
        found["listener_seconds"] = [record["listener/seconds"] for record in log[1:]]
    return {**about(loaded, tokens), **found, "seconds": clock.steps(), "flops": flops,
            "generate_seconds": [record["time_generate"] for record in log[1:]]}


def grpo_listener(bench: Bench) -> dict:
    """The same step with the listener: the base under the adapter, which is switched off while it reads."""
    return grpo(bench, listens=True)


def listener(bench: Bench) -> dict:
    """The listener alone on the completions of a step: plain forward passes against a shared prefix, in turns."""
    loaded, geometry, found = build(bench), bench.geometry, {"peak_gib": {}, "seconds": {}}
    tokens, kinds = tokens_of(loaded, geometry), {"plain": False, "shared": True}
    rows = list(fake_pairs(geometry, geometry.pairs_per_step))
    traces_BG = [fake_traces(geometry, geometry.completions) for _ in rows]
    p = {}

    def arm(kind: str, share_prefix: bool) -> Callable[[], list[float]]:
        one = AdapterOffListener(loaded, share_prefix=share_prefix)

        def read():
            p[kind] = one.p_first([row["prompt"] for row in rows], [row["images"] for row in rows], traces_BG)

        def measured() -> list[float]:
            with peak_gib(bench.device, found["peak_gib"], kind):
                return [timed(read, bench.device)]

        return measured

    arms = {kind: arm(kind, share_prefix) for kind, share_prefix in kinds.items()}
    for run in arms.values():
        run()
    found["seconds"] = in_turns(arms, geometry.repeats)
    found["largest_difference_of_p"] = float(np.abs(np.subtract(p["plain"], p["shared"])).max())
    return {**about(loaded, tokens), **found, "flops": {
        kind: geometry.pairs_per_step * tokens.listening(geometry.completions, shared) for kind, shared in kinds.items()
    }}


ARMS = {"matmul": matmul, "listener": listener, "generation": generation, "sft": sft, "grpo": grpo,
        "grpo_listener": grpo_listener}
