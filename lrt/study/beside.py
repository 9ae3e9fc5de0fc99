"""The reader's own run beside the study's: where does one run lie among many?

The study (`data/study`) measured the same things as the notebooks, on pairs that are mostly others, in other orders of
the training pairs, often after other numbers of steps, and from three bases (its seed 0 has the notebooks' base). So
the two are shown together and never subtracted from each other.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lrt.comparing import MAIN, find
from lrt.stats import NAN, Record, several_seeds
from lrt.study.effects import against_plain
from lrt.study.logs import read_runs
from lrt.study.outcomes import mean, measure
from lrt.study.pool import logs_folder
from lrt.study.seeds import prediction
from lrt.study.story import effect_sentences
from lrt.style import GREY, ends, figure, in_order, look, percent, runs_text, words
from lrt.words import FEW, listed, name_of, seeds_text, share

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
    """measure, method (the notebooks' name), seed, value, whose ("study" or "yours"), low, high (over prompts), steps,
    pairs (a step): the last step of every run of the study whose log is there, and the records of the reader's run
    where the tint says nothing. Of the study's runs the ends are NaN, of the reader's the settings; a value is NaN
    where a measure applies to nothing in a run. `logs` is the study's own folder by default."""
    ours = {STUDIED[method]: method for method in methods if method in STUDIED}
    rows = [(name, ours[run.cell.method], run.cell.seed, mean(run.final, name), "study", NAN, NAN, run.cell.steps,
             run.cell.pairs_per_step) for run in read_runs(logs or logs_folder(), ours) for name in names]
    for method in methods:
        for name in names:
            r = find(list(records), method, SAME[name], MAIN)
            known = r is not None and not math.isnan(r.value)
            rows += [(name, method, r.seed, r.value, "yours", r.low, r.high, NAN, NAN)] if known else []
    columns = ["measure", "method", "seed", "value", "whose", "low", "high", "steps", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def picture(table: pd.DataFrame):
    """A panel a measure, a row a method: the study's runs as dots, their mean with its interval over seeds, the
    reader's run as a star with its interval over prompts. table: `beside`. ValueError for an empty one."""
    table = table.dropna(subset="value")
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
    many, yours = own[own["whose"] == "study"]["value"].to_numpy(), own[own["whose"] == "yours"]
    ax.plot(many, np.full(len(many), y + 0.22), ".", color=colour, alpha=0.6, markersize=6)
    if len(many):
        middle = several_seeds(many)
        ax.errorbar(middle.value, y, xerr=ends(*middle[:3]), color=colour, marker=marker, markersize=7, capsize=3)
    ax.plot(yours["value"], np.full(len(yours), y - 0.28), "*", color=colour, markersize=13, markeredgecolor=GREY)
    ax.hlines(np.full(len(yours), y - 0.28), yours["low"], yours["high"], color=colour, linewidth=1, zorder=1)


def told(table: pd.DataFrame) -> list[str]:
    """What the study's runs were, and a sentence a method and measure: this run with its interval over prompts, the
    range and the mean of the study's with its interval over seeds, and where 95 % of new runs with the study's
    settings would lie (`seeds.prediction`). From fewer than `FEW` seeds nothing is expected of another run."""
    sentences = _what_runs(table)
    for (method, name), own in table.groupby(["method", "measure"], sort=False):
        many, yours = (own[own["whose"] == whose] for whose in ("study", "yours"))
        lead = f"{name_of(method)}, {measure(name).label}"
        here = "not measured in this run"
        if len(yours):
            here = f"this run {share(*yours.iloc[0][['value', 'low', 'high']])}"
        sentences.append(f"{lead}: {here}; {_of_many(many['value'], yours['value'])}.")
    return sentences


def _what_runs(table: pd.DataFrame) -> list[str]:
    """Seeds and settings of the study's runs; nothing if there are none."""
    alike: dict[str, list[str]] = {}
    for (method, steps, pairs), own in table[table["whose"] == "study"].groupby(["method", "steps", "pairs"]):
        seeds = sorted(own["seed"].unique())
        which = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
        alike.setdefault(f"{which}, {steps:.0f} steps of {pairs:.0f} pairs", []).append(name_of(method))
    if not alike:
        return []
    told = "; ".join(f"{listed(names)}, {settings}" for settings, names in alike.items())
    return [f"The study's runs: {told}, with as many votes for image 1 as for image 2 in every step."]


def _of_many(many: pd.Series, yours: pd.Series) -> str:
    if not len(many):
        return "the study has no such run yet"
    silent, many = int(many.isna().sum()), many.dropna()
    if len(many) < FEW:
        return (f"the study's {seeds_text(len(many))} so far {listed(map(share, many))}: too few to say what another "
                "would do")
    middle, next_one = several_seeds(many), prediction(many)
    low, high = max(0.0, next_one.low), min(1.0, next_one.high)
    of = f"{len(many)} of {len(many) + silent} seeds (in the others it applies to nothing)" if silent else (
        f"{len(many)} seeds")
    text = (f"the study's {of} {100 * many.min():.0f} to {share(many.max())}, in the mean {share(*middle[:3])}; a new "
            f"run of the study is expected in [{100 * low:.0f}, {100 * high:.0f}]")
    if not len(yours):
        return text
    return f"{text}, and this one lies {'inside' if low <= yours.iloc[0] <= high else 'outside'}"


def listener_against_plain(names: Sequence[str], logs: str | Path | None = None) -> list[str]:
    """What the study itself finds between its reader as listener and plain GRPO, paired by seed at the last step: a
    sentence a measure, or one that says that there are no such runs."""
    runs = read_runs(logs or logs_folder(), (STUDIED["grpo"], STUDIED["grpo_listener"]))
    effects = against_plain(runs, measures=names)
    told = [sentence for name in names for sentence in effect_sentences(effects, name)]
    return told or ["The study has no seed yet that both methods have run."]
