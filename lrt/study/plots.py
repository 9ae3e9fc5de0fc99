"""Figures of the study: many runs a method, every seed to be seen, the mean and its interval beside them.

Each function takes a table of `lrt.study.tables` and returns a matplotlib Figure; the words for it are in
`lrt.study.story`. Intervals over seeds are t-intervals; those of differences at the last step are the claims' own, over
seeds and prompts (`lrt.study.seeds.hierarchical`). A single seed is drawn without an interval. ValueError for an empty
table: an empty picture would look like a result.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from lrt.plots import accuracy_by_disagreement
from lrt.study.credit import CREDITED
from lrt.study.effects import Effect
from lrt.study.outcomes import measure
from lrt.study.tables import PLAIN, Split, over_seeds
from lrt.style import BLACK, BLUE, GREEN, GREY, figure, in_order, legend, look, percent, runs_text, words

FAINT = {"linewidth": 0.8, "alpha": 0.6}


def _something(table, what: str) -> None:
    if not len(table):
        raise ValueError(f"no {what} to draw")


def _behind(table: pd.DataFrame) -> str:
    """How many runs are behind a figure."""
    return runs_text(list(table.groupby("method")["seed"].nunique()))


def _title(what: str, table: pd.DataFrame, bars: str) -> str:
    """A title with how many runs are behind it, and what its bars are; one seed has none."""
    seeds = _behind(table)
    return f"{what} ({seeds}: no intervals)" if seeds == "one seed" else f"{what} ({seeds}; {bars})"


def _within_shares(axes) -> None:
    """No axis of shares beyond 0 and 100 %: an interval of few seeds may reach further, and means nothing there."""
    for ax in axes:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -0.03), min(high, 1.03))


def _spread(ax, mean: pd.DataFrame, method: str, band: bool = False, **style) -> None:
    """Means by step with their intervals, as bars or as a band."""
    label, colour, marker = look(method)
    mean = mean.sort_values("step")
    ax.plot(mean["step"], mean["mean"], **{"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.6,
                                           "label": label} | style)
    if band:
        ax.fill_between(mean["step"], mean["low"], mean["high"], color=colour, alpha=0.13, linewidth=0)
    else:
        ends = np.maximum(0, [mean["mean"] - mean["low"], mean["high"] - mean["mean"]])
        ax.errorbar(mean["step"], mean["mean"], ends, color=colour, linestyle="none", linewidth=0.9, alpha=0.5)


def one_comparison(found: Split):
    """Every seed's difference from plain GRPO in one measure, the two that disagree most in colour."""
    _something(found.table, "differences")
    rows = found.table.sort_values("seed")
    label, colour, marker = look(found.method)
    what = measure(found.measure).label
    fig, [[ax]] = figure(f"{label} against plain GRPO, {what} (bars: intervals over prompts, of that seed alone)",
                         size=(8, 3.4))
    for i, row in enumerate(rows.itertuples()):
        chosen = row.seed in (found.up, found.down)
        style = {"color": colour, "markersize": 9} if chosen else {"color": GREY, "markersize": 6, "alpha": 0.8}
        ends = np.maximum(0, [[row.value - row.low], [row.high - row.value]])
        ax.errorbar(i, row.value, ends, marker=marker, linestyle="none", capsize=3, **style)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.set(xlabel="seed", ylabel="difference (points)")
    ax.set_xticks(range(len(rows)), rows["seed"])
    percent(ax.yaxis)
    return fig


def over_training(table: pd.DataFrame, title: str = "Over training"):
    """A row a measure, a column a method: every run a thin line, the mean over seeds with its interval, and plain
    GRPO's mean dashed in every column. table: `study_tables.curves`."""
    _something(table, "measurements")
    names, methods = list(table["measure"].unique()), in_order(table["method"])
    title = _title(f"{title}, with GRPO dashed", table, "thin: single runs; bars: intervals over seeds")
    fig, axes = figure(title, len(names), len(methods), size=(max(5, 1.9 * len(methods)), 1.2 + 1.6 * len(names)),
                       sharex=True, sharey="row")
    for row, name in zip(axes, names, strict=True):
        own = table[table["measure"] == name]
        mean = over_seeds(own, ["method", "step"])
        plain = mean[mean["method"] == PLAIN].sort_values("step")
        for ax, method in zip(row, methods, strict=True):
            for _, run in own[own["method"] == method].groupby("seed"):
                ax.plot(run["step"], run["value"], color=look(method)[1], **FAINT)
            if method != PLAIN:
                ax.plot(plain["step"], plain["mean"], color=look(PLAIN)[1], linestyle="--", linewidth=1.2)
            _spread(ax, mean[mean["method"] == method], method)
        row[0].set_ylabel(words(measure(name).label, 16) + " (%)", fontsize=9)
        _within_shares(row[:1])
        percent(row[0].yaxis)
    for ax, method in zip(axes[0], methods, strict=True):
        ax.set_title(look(method)[0], fontsize=9.5)
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=9)
    for ax in axes.flat:
        ax.tick_params(labelsize=8)
    return fig


def at_the_end(table: pd.DataFrame, effects: Sequence[Effect]):
    """Differences from plain GRPO at the last step, a panel a measure: every seed a point, the mean with the interval
    over seeds and prompts. table: `study_tables.differences`; effects: `effects.against_plain`."""
    _something(table, "differences")
    names, methods = list(table["measure"].unique()), in_order(table["method"])
    title = _title("Against plain GRPO at the last step", table, "dots: single runs; bars: over seeds and prompts")
    fig, axes = figure(title, 1, len(names), size=(8.6, 1.6 + 0.5 * len(methods)), sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        for y, method in enumerate(methods):
            own = table[(table["measure"] == name) & (table["method"] == method)]
            _, colour, marker = look(method)
            ax.plot(own["value"], np.full(len(own), y + 0.2), ".", color=colour, alpha=0.6, markersize=5)
            for e in (e for e in effects if (e.measure, e.method) == (name, method)):
                ends = np.maximum(0, [[e.effect - e.low], [e.high - e.effect]])
                ax.errorbar(e.effect, y - 0.1, xerr=ends, color=colour, marker=marker, markersize=7, capsize=3)
        better = measure(name).better
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_title(words(measure(name).label, 20), fontsize=9.5)
        ax.set_xlabel("points" + {"higher": " (right is better)", "lower": " (left is better)"}.get(better, ""),
                      fontsize=8.5)
        ax.tick_params(labelsize=8.5)
        percent(ax.xaxis)
    axes[0, 0].set_yticks(range(len(methods)), [look(m)[0] for m in methods])
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    return fig


def paths(table: pd.DataFrame, x: str = "in_distribution", y: Sequence[str] = ("uninformative", "reversed")):
    """Trajectories in the plane of two accuracies: lines are means over seeds, their last points large; small points
    the ends of single runs. table: `study_tables.curves` of x and all of y."""
    _something(table, "measurements")
    title = f"Accuracy in distribution and elsewhere ({_behind(table)}; white: start; small: ends of single runs)"
    fig, axes = figure(title, 1, len(y), size=(8.4, 4))
    wide = table.pivot_table(index=["method", "seed", "step"], columns="measure", values="value").reset_index()
    for ax, name in zip(axes[0], y, strict=True):
        for method in in_order(wide["method"]):
            own = wide[wide["method"] == method]
            label, colour, marker = look(method)
            mean = own.groupby("step")[[x, name]].mean().sort_index()
            ends = own[own["step"] == own["step"].max()]
            ax.plot(ends[x], ends[name], marker, color=colour, markersize=4, alpha=0.45, linestyle="none")
            ax.plot(mean[x], mean[name], color=colour, linewidth=1.3)
            ax.plot(mean[x].iloc[:1], mean[name].iloc[:1], marker, color="white", markersize=7, markeredgecolor=colour,
                    zorder=4)
            ax.plot(mean[x].iloc[-1:], mean[name].iloc[-1:], marker, color=colour, markersize=9, label=label,
                    markeredgecolor="white", linestyle="none")
        ax.axhline(0.5, color=GREY, linestyle=":", linewidth=1)
        ax.set(xlabel="right, in distribution (%)", ylabel=f"{measure(name).label} (%)")
        percent(ax.xaxis)
        percent(ax.yaxis)
    legend(fig)
    return fig


def by_disagreement(bins: dict[str, list[dict]], seeds: int, listener: str):
    """`plots.accuracy_by_disagreement` for several seeds; bins: method -> `study_tables.accuracy_by_bin`."""
    _something(bins, "bins")
    fig = accuracy_by_disagreement(bins, xlabel=f"disagreement: 1 - {listener}'s p on the sampled answer")
    _within_shares(fig.axes[:1])
    over = "prompts" if seeds < 2 else "seeds and prompts"
    title = f"Accuracy by {listener}'s disagreement ({runs_text([seeds])}; bars: intervals over {over})"
    fig.suptitle(title, fontsize=12)
    return fig


def persuasive_and_true(table: pd.DataFrame, x: str = "truth", y: str = "followed/llava"):
    """A point a run: how often a listener follows its traces, against how much of them is true. table: `last`."""
    _something(table, "runs")
    fig, [[ax]] = figure(f"Persuasive and true: a point a run ({_behind(table)}; large: means)", size=(7, 4))
    for method in in_order(table["method"]):
        own = table[table["method"] == method]
        label, colour, marker = look(method)
        ax.plot(own[x], own[y], marker, color=colour, markersize=5, alpha=0.5, linestyle="none")
        ax.plot(own[x].mean(), own[y].mean(), marker, color=colour, markersize=11, label=label, linestyle="none",
                markeredgecolor="white")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # no ticks at half a percent
    ax.set(xlabel=f"{measure(x).label} (%)", ylabel=f"{measure(y).label} the trace (% of answers)")
    percent(ax.xaxis)
    percent(ax.yaxis)
    legend(fig)
    return fig


PROXY = {  # column of `study_tables.proxy_and_gold` -> its words, and how it is drawn
    "paid": ("reward paid in training", {"linestyle": "--", "marker": "o", "color": BLUE}),
    "p_better": ("listener's p on the better image", {"linestyle": ":", "marker": "s", "color": GREEN}),
    "right": ("right answers (what is wanted)", {"linestyle": "-", "marker": "D", "color": BLACK}),
}


def proxy_and_gold(table: pd.DataFrame):
    """What a listener's reward pays and what is wanted, over training: a panel a method, bands over seeds."""
    _something(table, "runs whose reward is made of one listener")
    methods = in_order(table["method"])
    title = _title("What is paid and what is wanted", table, "bands: intervals over seeds")
    fig, axes = figure(title, 1, len(methods), size=(max(5.5, 2.8 * len(methods)), 3.8), sharey=True)
    for ax, method in zip(axes[0], methods, strict=True):
        own = table[table["method"] == method]
        for column, (label, style) in PROXY.items():
            known = own.dropna(subset=column)
            mean = over_seeds(known, ["step"], column).sort_values("step")
            ax.plot(mean["step"], mean["mean"], label=label, markersize=4, **style)
            ax.fill_between(mean["step"], mean["low"], mean["high"], color=style["color"], alpha=0.12, linewidth=0)
        ax.set_title(look(method)[0], fontsize=9.5)
        ax.set_xlabel("step")
        percent(ax.yaxis)
    _within_shares(axes[0, :1])
    axes[0, 0].set_ylabel("%")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return fig


def credits(table: pd.DataFrame):
    """Where the gradient lands: a column a property with a scale of its own, the whole advantage above, the added part
    below; means over seeds, bands their intervals. table: `study_tables.credits`."""
    _something(table, "credits")
    names = [name for name in CREDITED if name in set(table["property"])]
    parts = {"credit": "whole advantage", "credit_added": "added part"}
    parts = {part: label for part, label in parts.items() if part in set(table["part"])}
    title = _title("Which properties a step pays for", table, "bands: intervals over seeds")
    fig, axes = figure(title, len(parts), len(names), size=(9.5, 1.6 + 1.5 * len(parts)), sharex=True, sharey="col")
    for row, (part, label) in zip(axes, parts.items(), strict=True):
        for ax, name in zip(row, names, strict=True):
            own = table[(table["part"] == part) & (table["property"] == name)]
            for method in in_order(own["method"]):
                mean = over_seeds(own[own["method"] == method], ["step"])
                _spread(ax, mean, method, band=True, markersize=3, linewidth=1.2)
            ax.axhline(0, color=GREY, linewidth=0.8)
            ax.tick_params(labelsize=7.5)
        row[0].set_ylabel(f"credit,\n{label}", fontsize=9)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(CREDITED[name], fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=9)
    legend(fig)
    return fig
