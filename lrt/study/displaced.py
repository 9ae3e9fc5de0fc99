"""What DPO's loss does to the completions that it learns from: how likely they stay, and whether the format survives.

The loss pays for a difference of two log-probabilities, and both may fall (likelihood displacement, arXiv 2410.08847).
Runs of `dpo` log both, runs of `dpo_sft` too (PLAN.md, "Added later: what DPO loses").
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from lrt.stats import NAN
from lrt.study.logs import Run
from lrt.study.outcomes import mean
from lrt.study.plots import FAINT, behind, something
from lrt.study.tables import in_blocks
from lrt.style import BLACK, GREY, figure, percent, words
from lrt.words import label_of, seeds_text, share

LOGGED = {"logp_chosen": "chosen", "logp_rejected": "rejected", "loss": "loss"}
SIDES = ("chosen", "rejected")
LINE = FAINT | {"linewidth": 1.2}


def displacement(runs: Sequence[Run]) -> pd.DataFrame:
    """method, seed, step, chosen, rejected, loss, parsable: of each run that logs them, the mean log-probability of the
    two completions and the mean loss over the steps since the measurement before (at step 0: of the first step), and
    the share of greedy completions in the format."""
    rows = []
    for run in (run for run in runs if set(LOGGED) <= set(run.steps)):
        means = [{0: run.steps[column].iloc[0]} | dict(in_blocks(run, column)) for column in LOGGED]
        for step, table in run.history().items():
            logged = (own.get(step, NAN) for own in means)
            whole = run.final if step == run.cell.steps else table  # the last measurement has more pairs
            rows.append((run.cell.method, run.cell.seed, step, *logged, mean(whole, "parsable")))
    return pd.DataFrame(rows, columns=["method", "seed", "step", *LOGGED.values(), "parsable"])


def picture(table: pd.DataFrame, labels: Mapping[str, str]):
    """A column a method: above the log-probabilities of chosen (black) and rejected completions (grey), below how many
    greedy completions are in the format; a line a run. table: `displacement`."""
    something(table, "runs that log both completions")
    methods = list(dict.fromkeys(table["method"]))
    title = f"What DPO's loss leaves likely ({behind(table)}; a line is a run)"
    fig, axes = figure(title, 2, len(methods), size=(max(5, 3.6 * len(methods)), 4.2), sharex=True, sharey="row")
    for column, method in zip(axes.T, methods, strict=True):
        for i, (_, run) in enumerate(table[table["method"] == method].groupby("seed")):
            for side, colour in (("rejected", GREY), ("chosen", BLACK)):
                column[0].plot(run["step"], run[side], color=colour, label=side if i == 0 else None,
                               **LINE)
            column[1].plot(run["step"], run["parsable"], color=BLACK, **LINE)
        column[0].set_title(words(label_of(method, labels), 34), fontsize=9.5)
        column[1].set(xlabel="step", ylim=(-0.03, 1.03))
    axes[0, 0].set_ylabel("log p of a completion (nats)", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8.5)
    axes[1, 0].set_ylabel("in the format (%)", fontsize=9)
    percent(axes[1, 0].yaxis)
    return fig


def told(table: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """A sentence a method: from where to where log-probabilities and loss go, and the format at the end, run by run."""
    sentences = []
    for method, own in table.groupby("method", sort=False):
        first, last = (own[own["step"] == step] for step in (own["step"].min(), own["step"].max()))
        moved = "; ".join(f"log p of the {side} from {first[side].mean():.1f} to {last[side].mean():.1f}"
                          for side in SIDES)
        moved += f"; the loss from {first['loss'].mean():.2f} to {last['loss'].mean():.2f}"
        kept = ", ".join(share(value) for value in last["parsable"])
        fell = sum(last["chosen"].to_numpy() < first["chosen"].to_numpy())
        sentences.append(f"{label_of(method, labels)} ({seeds_text(len(last))}): {moved}; the chosen ones ended less "
                         f"likely than at first in {fell} of {len(last)}; greedy completions in the format at the end, "
                         f"run by run: {kept}.")
    return sentences
