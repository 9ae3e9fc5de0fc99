"""The study's supervised baselines: the same votes on the same pairs, learned without a reward.

| `trainer` | what learns | from what |
|---|---|---|
| sft_answer | TRL's SFTTrainer | the vote, behind an empty trace |
| sft_trace | TRL's SFTTrainer | the true trace of both scenes, with the vote as verdict and answer |
| bradley_terry | `lrt.bradley_terry` | which of two images the vote prefers; it writes no text |
| dpo | TRL's DPOTrainer | pairs of the base's own completions, the better one with the vote's answer |

`sft_trace` needs to know what the images truly show: only a world that drew them itself can teach that, so it is an
upper bound for learning from traces and no method for real pairs. Pairs, their order, the base and the measures are
those of the GRPO run of the same seed, as far as steps and pairs a step agree.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from lrt.bradley_terry import BTSettings, Scorer, train_bradley_terry
from lrt.dpo import DPOSettings, train_dpo
from lrt.models import Loaded
from lrt.rows import order_of
from lrt.runs import OnStep
from lrt.sft import SFTSettings, train_sft
from lrt.study.grid import Cell

KEPT = {  # of a step's record, beside what `lrt.study.cell` keeps anyway: the trainer's name -> the log's
    "loss": "loss",
    "mean_token_accuracy": "token_accuracy",  # SFT: of the completion's tokens; DPO: of the chosen one's
    "accuracy": "ranked_right",  # Bradley-Terry: how often the preferred image had the higher number
    "rewards/accuracies": "ranked_right",  # DPO: how often the chosen completion gained more than the rejected one
    "margin": "margin",
    "rewards/margins": "margin",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
}


def settings_of(cell: Cell) -> SFTSettings | BTSettings | DPOSettings:
    """A cell's settings as its trainer names them. ValueError for a cell of GRPO's."""
    shared = {"steps": cell.steps, "pairs_per_step": cell.pairs_per_step, "lr": cell.lr, "seed": cell.seed,
              "balance_votes": cell.balance_votes, "save_every": cell.measure_every}
    if cell.trainer in ("sft_answer", "sft_trace"):
        return SFTSettings(**shared)
    if cell.trainer == "bradley_terry":
        return BTSettings(**shared)
    if cell.trainer != "dpo":
        raise ValueError(f"{cell.method}: {cell.trainer!r} is no baseline; see lrt.study.baselines")
    own = {"beta": cell.beta, "sft_weight": cell.sft_weight, "samples": cell.num_generations,
           "max_new_tokens": cell.max_new_tokens}
    return DPOSettings(**shared, **own)


def policy_of(cell: Cell, base: Loaded) -> Loaded | Scorer:
    """What is trained and measured: the base itself, or, for a Bradley-Terry head, a scorer made of it."""
    return Scorer.of(base, cell.seed) if cell.trainer == "bradley_terry" else base


def train(cell: Cell, policy: Loaded | Scorer, pairs: Dataset, out: Path, on_step: OnStep | None = None,
          callbacks: Sequence[TrainerCallback] = ()) -> tuple[list[dict], dict]:
    """Train a cell's baseline: the log, one record a step, and what a log says of its labels (`label_use`; DPO also
    how many pairs were sampled in vain, and the seconds of sampling)."""
    settings = settings_of(cell)
    if cell.trainer == "dpo":
        records, samples, preferred = train_dpo(policy, pairs, settings, out, on_step, callbacks)
        labels = label_use(cell, preferred["vote"][:], samples.tokens)
        return records, {"labels": labels | {"skipped": len(pairs) - len(preferred)}, "time_sample": samples.seconds}
    if cell.trainer == "bradley_terry":
        records = train_bradley_terry(policy, pairs, settings, out, on_step, callbacks)
    else:
        target = cell.trainer.removeprefix("sft_")
        records = train_sft(policy, pairs, settings, out, target, on_step, callbacks)
    return records, {"labels": label_use(cell, pairs["vote"][:], 0)}


def label_use(cell: Cell, votes: Sequence[int], generated_tokens: int) -> dict:
    """What a run took from its labels: `unique` pairs whose vote it saw, `views` (pairs times how often each was seen)
    and `generated_tokens`, all that the policy wrote in training. `votes` are of the pairs that it could use."""
    order = order_of(votes, cell.pairs_per_step, cell.steps, cell.seed, cell.balance_votes)
    return {"unique": len(set(order)), "views": len(order), "generated_tokens": generated_tokens}
