"""What a method of the study uses up to learn: labels, tokens, steps, seconds."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from lrt.pairs import tiny_votes
from lrt.rows import order_of
from lrt.study.logs import Run
from lrt.style import in_order
from lrt.words import label_of

COSTS = {  # what stands side by side when methods learn from the same votes
    "unique": "labels used",  # pairs whose vote was seen
    "views": "label views",  # how often a vote was seen, over all pairs
    "generated_tokens": "tokens generated",  # all that the policy wrote in order to learn
    "steps": "optimiser steps",
    "seconds": "seconds",  # of training, on whatever else the machine did: an order of magnitude
}


def costs(runs: Sequence[Run]) -> pd.DataFrame:
    """method, seed, and a column for each of `COSTS`.

    GRPO's logs from before there were baselines do not tell the first three: labels then follow from the settings, and
    tokens from the mean lengths of completions, which logs hold to three digits.
    """
    rows = []
    for run in runs:
        told = run.header.get("labels") or _labels_of_grpo(run)
        own = (told["unique"], told["views"], told["generated_tokens"], run.cell.steps, run.seconds)
        rows.append((run.cell.method, run.cell.seed, *own))
    return pd.DataFrame(rows, columns=["method", "seed", *COSTS])


def _labels_of_grpo(run: Run) -> dict:
    of = run.cell
    unique = _unique_pairs(of.train_pairs, of.pairs_per_step, of.steps, of.seed, of.balance_votes)
    per_step = of.pairs_per_step * of.num_generations
    tokens = run.steps["length"].sum() * per_step if "length" in run.steps else float("nan")
    return {"unique": unique, "views": of.steps * of.pairs_per_step, "generated_tokens": tokens}


@cache
def _unique_pairs(train_pairs: int, per_step: int, steps: int, seed: int, balance: bool) -> int:
    return len(set(order_of(tiny_votes("train", train_pairs, seed), per_step, steps, seed, balance)))


def cost_table(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Cells of text, a row a method (`words.label_of`): means over its runs, of
    seconds the median (a run that was stopped for a while counts little), "-" for what is not known."""
    cells: dict[str, dict[str, str]] = {}
    for method in in_order(table["method"]):
        own = table[table["method"] == method]
        name = label_of(method, labels)
        cells.setdefault("runs", {})[name] = str(len(own))
        for column, head in COSTS.items():
            value = own[column].median() if column == "seconds" else own[column].mean()
            cells.setdefault(head, {})[name] = "-" if np.isnan(value) else f"{value:,.0f}"
    return pd.DataFrame(cells)
