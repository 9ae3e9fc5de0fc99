"""The reader's own run beside the study's: where does one run lie among many?

The study (`data/study`) measured the same things as the notebooks, on other pairs of the same kind, after other
numbers of steps, from three bases. So the two are shown together and never subtracted from each other.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lrt.stats import Record, several_seeds
from lrt.story import MAIN, find
from lrt.study.logs import read_runs
from lrt.study.outcomes import mean, measure
from lrt.study.pool import logs_folder
from lrt.study.seeds import prediction
from lrt.study.words import name_of, share
from lrt.style import GREY, figure, in_order, look, percent, runs_text, words

STUDIED = {  # the notebooks' name of a method -> the study's
    "sft": "sft_answer",
    "grpo": "grpo",
    "grpo_listener": "listener_reader",
}
SAME = {  # a measure of the study -> the notebooks' metric; truth is pooled there, and here averaged over traces
    "agree": "accuracy_agree",
    "conflict": "accuracy_conflict",
    "flip": "flip_rate",
    "departs": "own_verdict_departure_sampled",
    "greedy_truth": "truth",
}


def beside(records: Sequence[Record], methods: Sequence[str], names: Sequence[str],
           logs: str | Path | None = None) -> pd.DataFrame:
    """measure, method (the notebooks' name), seed, value, whose ("study" or "yours"): the last step of every run of the
    study whose log is there, and the records of the reader's run where the tint says nothing. NaN values are left
    out; `logs` is the study's own folder by default."""
    ours = {STUDIED[method]: method for method in methods if method in STUDIED}
    rows = [(name, ours[run.cell.method], run.cell.seed, mean(run.final, name), "study")
            for run in read_runs(logs or logs_folder(), ours) for name in names]
    for method in methods:
        for name in names:
            record = find(list(records), method, SAME[name], MAIN)
            rows += [(name, method, record.seed, record.value, "yours")] if record else []
    return pd.DataFrame(rows, columns=["measure", "method", "seed", "value", "whose"]).dropna(subset="value")


def picture(table: pd.DataFrame):
    """A panel a measure, a row a method: the study's runs as dots, their mean with its interval over seeds, the
    reader's run as a star. table: `beside`. ValueError for an empty one."""
    if not len(table):
        raise ValueError("no runs to draw")
    names, methods = list(dict.fromkeys(table["measure"])), in_order(table["method"])
    counts = table[table["whose"] == "study"].groupby("method")["seed"].nunique()
    title = f"One run among many (study: {runs_text(list(counts)) if len(counts) else 'not run'}; star: this run)"
    fig, axes = figure(title, 1, len(names), size=(8.4, 1.7 + 0.55 * len(methods)), sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        for y, method in enumerate(methods):
            _row(ax, y, method, table[(table["measure"] == name) & (table["method"] == method)])
        ax.set_title(words(measure(name).label, 20), fontsize=9.5)
        ax.set_xlabel("%", fontsize=9)
        ax.set_xlim(-0.04, 1.04)
        percent(ax.xaxis)
    axes[0, 0].set_yticks(range(len(methods)), [look(method)[0] for method in methods])
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    return fig


def _row(ax, y: float, method: str, own: pd.DataFrame) -> None:
    _, colour, marker = look(method)
    many, yours = (own[own["whose"] == whose]["value"].to_numpy() for whose in ("study", "yours"))
    ax.plot(many, np.full(len(many), y + 0.22), ".", color=colour, alpha=0.6, markersize=6)
    if len(many):
        middle = several_seeds(many)
        ends = np.maximum(0, [[middle.value - middle.low], [middle.high - middle.value]])
        ax.errorbar(middle.value, y, xerr=ends, color=colour, marker=marker, markersize=7, capsize=3)
    ax.plot(yours, np.full(len(yours), y - 0.25), "*", color=colour, markersize=13, markeredgecolor=GREY)


def told(table: pd.DataFrame) -> list[str]:
    """A sentence a method and measure: this run, the study's mean over seeds with its interval, and where 95 % of
    single runs would lie (`seeds.prediction`)."""
    sentences = []
    for (method, name), own in table.groupby(["method", "measure"], sort=False):
        many, yours = (own[own["whose"] == whose]["value"] for whose in ("study", "yours"))
        lead = f"{name_of(method)}, {measure(name).label}"
        here = f"this run {share(yours.iloc[0])}" if len(yours) else "not measured in this run"
        sentences.append(f"{lead}: {here}; {_of_many(many, yours)}.")
    return sentences


def _of_many(many: pd.Series, yours: pd.Series) -> str:
    if not len(many):
        return "the study has no such run yet"
    if len(many) == 1:
        return f"the study's one seed so far {share(many.iloc[0])}: no interval"
    middle, next_one = several_seeds(many), prediction(many)
    low, high = max(0.0, next_one.low), min(1.0, next_one.high)
    text = (f"the study's {len(many)} seeds {share(*middle[:3])} in the mean, and 95 % of single runs "
            f"expected in [{100 * low:.0f}, {100 * high:.0f}]")
    if not len(yours):
        return text
    return f"{text}, where this run {'lies' if low <= yours.iloc[0] <= high else 'does not lie'}"
