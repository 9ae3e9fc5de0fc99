"""Direct preference optimisation through TRL's `DPOTrainer` (arXiv 2305.18290), configured in one place.

    loss = -log sigmoid(beta (log pi(y_w)/pi_0(y_w) - log pi(y_l)/pi_0(y_l)))

It pays for the difference alone: both completions may become unlikely (arXiv 2410.08847). `sft_weight` adds the mean of
-log pi over the chosen completions' tokens, which holds y_w up (arXiv 2404.19733).

The two completions of a pair come from the model that training begins with, sampled once: y_w gives the answer that the
vote names, y_l the other one, both in the right format. So it learns from the same labels as GRPO, with text that the
model wrote itself, but off-policy: nothing is sampled again while it learns.

pi_0 is read from disk. TRL's trainers wrap `forward` on the object, and a copy of a wrapped model would run the weights
that are being trained.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from lrt.files import read_lines, write_lines
from lrt.listener import scoring
from lrt.models import Loaded, generate, load
from lrt.prompts import messages, parse
from lrt.rows import order_of, pairs_id, without_ties
from lrt.runs import OnStep, Watch, check_adapter, check_settings, common_arguments, run

BATCH = 32  # pairs that are sampled at a time, and written down together


@dataclass(frozen=True)
class DPOSettings:
    """One run. Equal settings, pairs and model give equal weights on the same machine."""

    steps: int = 300  # optimiser steps
    pairs_per_step: int = 8  # pairs an optimiser step, two completions each
    lr: float = 5e-5  # constant
    beta: float = 0.1  # how much a departure from the first model counts: TRL's default
    sft_weight: float = 0.0  # of the SFT term on the chosen completions
    samples: int = 4  # completions a pair, sampled before training; two of them are used
    temperature: float = 1.0  # of sampling
    max_new_tokens: int = 64  # a completion is cut here
    balance_votes: bool = False  # as many votes for image 1 as for image 2 in every step
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    seed: int = 0  # of the samples and of the order of rows
    precision: str = "fp32"  # "fp32", or mixed: "bf16" or "fp16" (GPU)
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more time
    save_every: int = 50  # steps between checkpoints; the last one is kept
    log_every: int = 1  # steps a record of the log; several are averaged

    def __post_init__(self):
        if self.samples < 2 or self.beta <= 0 or self.sft_weight < 0:
            raise ValueError(f"samples must be at least 2, beta above 0 and sft_weight 0 or more, not {self.samples}, "
                             f"{self.beta} and {self.sft_weight}")
        check_settings(self)


# --- completions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """What a model wrote about some pairs: `texts[b]` are the completions of pair b, `tokens` how many tokens all have
    together, `seconds` how long it took."""

    texts: list[list[str]]
    tokens: int
    seconds: float


def sample(loaded: Loaded, pairs: Dataset, settings: DPOSettings, path: Path) -> Samples:
    """`settings.samples` completions of every pair, from the model as it is.

    They are kept in `path`: a JSON line that says how they were sampled, then one a pair. A call that was broken off
    goes on there, and what is complete is only read. The same settings, pairs and model give the same texts. ValueError
    if the file was begun otherwise.
    """
    names, found = pairs["pair_id"][:], read_lines(path)
    how = {"model": loaded.name, "samples": settings.samples, "temperature": settings.temperature,
           "max_new_tokens": settings.max_new_tokens, "seed": settings.seed}
    head, kept = found[:1] or [how], found[1:]
    if head != [how] or [line.get("pair_id") for line in kept] != names[: len(kept)]:
        raise ValueError(f"{path} holds completions that were sampled otherwise, or of other pairs: use another folder")
    if len(kept) < len(names):
        kept = kept[: len(kept) - len(kept) % BATCH]  # each batch has its own seed: a torn one is sampled anew
    write_lines(path, [how, *kept])
    for start in range(len(kept), len(names), BATCH):
        lines = _sampled(loaded, pairs[start : start + BATCH], settings, start)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        kept += lines
    return Samples([line["texts"] for line in kept], sum(line["tokens"] for line in kept),
                   round(sum(line["time_sample"] for line in kept), 1))


def _sampled(loaded: Loaded, chunk: dict, settings: DPOSettings, start: int) -> list[dict]:
    started, n = time.perf_counter(), settings.samples
    with scoring(loaded.model):
        texts = generate(
            loaded,
            [prompt for prompt in chunk["prompt"] for _ in range(n)],
            [images for images in chunk["images"] for _ in range(n)],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed * 1_000_003 + start,
            batch=BATCH * n,
        )
    seconds = (time.perf_counter() - started) / len(chunk["pair_id"])
    groups = [texts[i : i + n] for i in range(0, len(texts), n)]
    return [
        {"pair_id": name, "texts": group, "tokens": sum(length(loaded, text, settings) for text in group),
         "time_sample": round(seconds, 4)}
        for name, group in zip(chunk["pair_id"], groups, strict=True)
    ]


def length(loaded: Loaded, text: str, settings: DPOSettings) -> int:
    """Tokens of a completion, its end of turn counted, as TRL counts them; a cut one has none."""
    return min(len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1, settings.max_new_tokens)


def preferences(pairs: Dataset, texts: Sequence[Sequence[str]]) -> Dataset:
    """The pairs for which a right and a wrong answer were sampled, with the columns `chosen` and `rejected`: the first
    parsable completion that gives the vote's answer, and the first that gives the other. The others are left out."""
    kept, chosen, rejected = [], [], []
    for i, (vote, group) in enumerate(zip(pairs["vote"], texts, strict=True)):
        first = {answer: text for text in reversed(group) if (answer := parse(text).answer)}
        kept += [i] if len(first) == 2 else []
        chosen.append(first.get(vote, ""))
        rejected.append(first.get(3 - vote, ""))
    return pairs.add_column("chosen", chosen).add_column("rejected", rejected).select(kept)


# --- training --------------------------------------------------------------------------------------------------------


def training_rows(preferred: Dataset, settings: DPOSettings, loaded: Loaded) -> Dataset:
    """The rows of a run in the order in which they are used: `prompt` (the chat), `chosen`, `rejected` (the
    assistant's turn), `images` (two). Chats are written when a row is read. ValueError for fewer pairs than a step
    takes."""
    order = order_of(preferred["vote"], settings.pairs_per_step, settings.steps, settings.seed, settings.balance_votes)
    rows = preferred.select_columns(["prompt", "images", "chosen", "rejected"]).select(order)

    wording = loaded.wording  # alone: the data set pickles what the function below holds on to

    def with_chats(batch: dict) -> dict:
        said = {name: [[{"role": "assistant", "content": text}] for text in batch[name]]
                for name in ("chosen", "rejected")}
        return {**batch, "prompt": [messages(text, wording) for text in batch["prompt"]], **said}

    return rows.with_transform(with_chats)


def trl_config(settings: DPOSettings, out: str | Path, device: torch.device) -> DPOConfig:
    """The settings as TRL names them."""
    return DPOConfig(
        **common_arguments(settings, out, device),
        per_device_train_batch_size=settings.pairs_per_step,
        train_sampling_strategy="sequential",
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if settings.sft_weight else ["sigmoid"],
        loss_weights=[1.0, settings.sft_weight] if settings.sft_weight else None,
        max_length=None,  # the default would cut through the image tokens of a real pair
    )


def train_dpo(
    loaded: Loaded,
    pairs: Dataset,
    settings: DPOSettings,
    out_dir: str | Path,
    on_step: OnStep | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[list[dict], Samples, Dataset]:
    """Train a reasoner on pairs of its own completions; the log (one record a step), what was sampled, and the pairs
    that could be used (`preferences`).

    `loaded` must hold the weights that `models.load(loaded.name)` reads: they write the completions, and are the
    reference. Completions are kept in `out_dir/samples.jsonl`. Resuming, the folder, `on_step` and the model afterwards
    are as in `lrt.grpo.train_grpo`. Raises ValueError if `out_dir` was started with other settings or pairs, for an
    adapter, and for too few pairs with a right and a wrong answer.
    """
    check_adapter(loaded, 0)
    out, pairs = Path(out_dir), without_ties(pairs)
    out.mkdir(parents=True, exist_ok=True)
    samples = sample(loaded, pairs, settings, out / "samples.jsonl")
    preferred = preferences(pairs, samples.texts)

    def make_trainer(watch: Watch) -> DPOTrainer:
        return DPOTrainer(
            model=loaded.model,
            ref_model=load(loaded.name, loaded.device, loaded.model.dtype).model,
            processing_class=loaded.processor,
            args=trl_config(settings, out, loaded.device),
            train_dataset=training_rows(preferred, settings, loaded),
            callbacks=[watch, *callbacks],
        )

    call = {"kind": "dpo", **asdict(settings), "pairs": pairs_id(pairs)}
    return run(loaded, make_trainer, call, settings.seed, settings.steps, out, on_step), samples, preferred
