"""A Bradley-Terry head: one number an image, learned from votes. The plainest reward model there is.

    s = head(last hidden state of [prompt, one image])        p(image 1 is preferred) = sigmoid(s_1 - s_2)

The loss is -log sigmoid(s_win - s_lose), the mean over pairs (Bradley and Terry 1952; as a reward model: Ouyang et al.
2022, arXiv 2203.02155). The whole network is trained. As a judge it chooses the image with the higher number, and it
writes nothing: there is no trace to read. It sees one image at a time, always in the same place, so the order in which
a pair is shown cannot matter: it is symmetric by construction.

TRL's `RewardTrainer` has no vision path and transformers no classifier on Qwen2.5-VL, hence a small model class and a
`Trainer` whose loss is this one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL.Image import Image
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import Qwen2_5_VLForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments

from lrt.listener import scoring
from lrt.models import Loaded
from lrt.prompts import messages
from lrt.rows import order_of, pairs_id, without_ties
from lrt.runs import OnStep, Watch, check_adapter, check_settings, common_arguments, run


class QwenWithHead(Qwen2_5_VLForConditionalGeneration):
    """A Qwen2.5-VL that gives numbers (B,) instead of text: its own network and a linear head on the last position of
    each row, so inputs are padded on the left. The language head is carried along and not used."""

    def __init__(self, config):
        super().__init__(config)
        self.score = nn.Linear(config.text_config.hidden_size, 1, bias=False)

    def forward(self, **inputs) -> torch.Tensor:
        hidden_BTD = self.model(**inputs, use_cache=False).last_hidden_state
        return self.score(hidden_BTD[:, -1]).squeeze(-1)


@dataclass(frozen=True)
class Scorer:
    """A judge that gives each image a number and writes nothing. `loaded.model` is a `QwenWithHead`."""

    loaded: Loaded

    @staticmethod
    def of(base: Loaded, seed: int = 0) -> "Scorer":
        """A base with a fresh head: normal with variance 1 / (width + 1), as in Stiennon et al. 2020 (arXiv
        2009.01325), so it judges at random before training. The network's weights are copied. ValueError for another
        architecture, or a model with an adapter."""
        check_adapter(base, 0)
        if not isinstance(base.model, Qwen2_5_VLForConditionalGeneration):
            kind = type(base.model).__name__
            raise ValueError(f"{base.name}: a Bradley-Terry head is built on Qwen2.5-VL, not {kind}")
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = QwenWithHead(base.model.config)
            nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5)
        model.load_state_dict(base.model.state_dict(), strict=False)
        model.generation_config = base.model.generation_config
        model.to(base.device, base.model.dtype)
        return Scorer(Loaded(base.name, model.eval(), base.processor, base.wording, base.sees))

    def inputs(self, prompts: Sequence[str], images: Sequence[Image]):
        """Model inputs of one image each."""
        texts = [self.chat(prompt) for prompt in prompts]
        batch = self.loaded.processor(text=texts, images=[[i] for i in images], padding=True, padding_side="left",
                                      return_tensors="pt")
        return batch.to(self.loaded.device)

    def chat(self, prompt: str) -> str:
        """The chat about a pair, without its second image."""
        chat = messages(prompt, self.loaded.wording)
        content = chat[0]["content"]
        chat[0]["content"] = content[:2] + content[4:]
        return self.loaded.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)

    def scores(self, pairs: Dataset, batch: int = 64) -> np.ndarray:
        """(B, 2) the numbers of both images of each pair. `batch` is how many pairs a forward pass takes."""
        found = [np.empty((0, 2))]
        for start in range(0, len(pairs), batch):  # images are decoded a batch at a time
            chunk = pairs[start : start + batch]
            sides = [[pair[side] for pair in chunk["images"]] for side in (0, 1)]
            with scoring(self.loaded.model):
                columns = [self.loaded.model(**self.inputs(chunk["prompt"], side)) for side in sides]
            found.append(torch.stack(columns, dim=1).double().cpu().numpy())
        return np.concatenate(found)

    def choices(self, pairs: Dataset, batch: int = 64) -> np.ndarray:
        """(B,) 1 where the first image has the higher number, else 2."""
        s_B2 = self.scores(pairs, batch)
        return np.where(s_B2[:, 0] > s_B2[:, 1], 1, 2)


# --- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BTSettings:
    """One run. Equal settings, pairs and model give equal weights on the same machine."""

    steps: int = 150  # optimiser steps
    pairs_per_step: int = 32  # pairs an optimiser step, two images each
    lr: float = 1e-4  # constant
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    seed: int = 0  # of the order of rows
    balance_votes: bool = False  # as many votes for image 1 as for image 2 in every step: GRPO's order of pairs
    precision: str = "fp32"  # "fp32", or mixed: "bf16" or "fp16" (GPU)
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more time
    save_every: int = 50  # steps between checkpoints; the last one is kept
    log_every: int = 1  # steps a record of the log; several are averaged

    def __post_init__(self):
        check_settings(self)


def training_rows(pairs: Dataset, settings: BTSettings) -> Dataset:
    """The pairs of a run in the order in which they are used. Ties are left out, with a warning. ValueError for fewer
    pairs than a step takes."""
    pairs = without_ties(pairs)
    order = order_of(pairs["vote"], settings.pairs_per_step, settings.steps, settings.seed, settings.balance_votes)
    return pairs.select_columns(["prompt", "images", "vote"]).select(order)


class BTTrainer(Trainer):
    """transformers' trainer with the Bradley-Terry loss. It also logs `accuracy` (how often the preferred image has
    the higher number) and `margin` (by how much, on average) of the pairs of the step, before their update."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen: list[torch.Tensor] = []  # margins since the last record

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        winners_B, losers_B = model(**inputs).chunk(2)
        margin_B = winners_B - losers_B
        self.seen.append(margin_B.detach())
        loss = -logsigmoid(margin_B).mean()
        return (loss, margin_B) if return_outputs else loss

    def log(self, logs, *rest):
        if self.seen:
            margin = torch.cat(self.seen)
            logs |= {"accuracy": (margin > 0).float().mean().item(), "margin": margin.mean().item()}
            self.seen.clear()
        super().log(logs, *rest)


def train_bradley_terry(
    scorer: Scorer,
    pairs: Dataset,
    settings: BTSettings,
    out_dir: str | Path,
    on_step: OnStep | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict]:
    """Train a scorer on votes and return the log, one record a step.

    Resuming, the folder, `on_step` and the model afterwards are as in `lrt.grpo.train_grpo`, but for `out_dir/model`,
    which `QwenWithHead.from_pretrained` reads. Raises ValueError if `out_dir` was started with other settings or pairs,
    and for too few pairs.
    """

    def collate(rows: list[dict]):
        prompts, images = [row["prompt"] for row in rows], [row["images"] for row in rows]
        winners = [pair[row["vote"] - 1] for row, pair in zip(rows, images, strict=True)]
        losers = [pair[2 - row["vote"]] for row, pair in zip(rows, images, strict=True)]
        return scorer.inputs(prompts * 2, winners + losers)

    def make_trainer(watch: Watch) -> BTTrainer:
        return BTTrainer(
            model=scorer.loaded.model,
            args=TrainingArguments(
                **common_arguments(settings, out_dir, scorer.loaded.device),
                per_device_train_batch_size=settings.pairs_per_step,
                train_sampling_strategy="sequential",
            ),
            data_collator=collate,
            train_dataset=training_rows(pairs, settings),
            callbacks=[watch, *callbacks],
        )

    call = {"kind": "bradley_terry", **asdict(settings), "pairs": pairs_id(pairs)}
    return run(scorer.loaded, make_trainer, call, settings.seed, settings.steps, out_dir, on_step)
