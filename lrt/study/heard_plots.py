"""Figures of what listeners heard, what was paid, and where the gradient landed; as in `lrt.study.plots`, each takes a
table of `lrt.study.tables`, and ValueError says that it is empty. The words are in `lrt.study.heard`."""

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from lrt.plots import accuracy_by_disagreement
from lrt.stats import several_seeds
from lrt.study.credit import CREDITED
from lrt.study.outcomes import measure
from lrt.study.plots import behind, something, spread, titled, within_shares
from lrt.study.tables import PLAIN, PROBES, over_seeds
from lrt.style import BLACK, BLUE, GREEN, GREY, ends, figure, in_order, legend, look, percent, runs_text, words


def by_disagreement(bins: dict[str, list[dict]], seeds: int, listener: str):
    """`plots.accuracy_by_disagreement` for several seeds; bins: method -> `study_tables.accuracy_by_bin`."""
    something(bins, "bins")
    fig = accuracy_by_disagreement(bins, xlabel=f"disagreement: 1 - {listener}'s p on the sampled answer")
    within_shares(fig.axes[:1])
    over = "prompts" if seeds < 2 else "seeds and prompts"
    title = f"Accuracy by {listener}'s disagreement ({runs_text([seeds])}; bars: intervals over {over})"
    fig.suptitle(title, fontsize=12)
    return fig


def persuasive_and_true(table: pd.DataFrame, y: str = "followed/llava"):
    """A point a run: how often a listener follows its traces, against how much of them is true. table: `last`."""
    something(table, "runs")
    x = "truth"
    mute = set(table.loc[table[x].isna(), "seed"])  # means are over the seeds in which every method states something
    fig, [[ax]] = figure(f"Persuasive and true: a point a run ({behind(table)}; large: means)", size=(7, 4))
    for method in in_order(table["method"]):
        own = table[table["method"] == method].dropna(subset=[x, y])
        label, colour, marker = look(method)
        ax.plot(own[x], own[y], marker, color=colour, markersize=5, alpha=0.5, linestyle="none")
        mean = own[~own["seed"].isin(mute)][[x, y]].mean()
        ax.plot(mean[x], mean[y], marker, color=colour, markersize=11, label=label, linestyle="none",
                markeredgecolor="white")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # no ticks at half a percent
    ax.set(xlabel=f"{measure(x).label} (%)", ylabel=f"{measure(y).label} the trace (% of answers)")
    percent(ax.xaxis)
    percent(ax.yaxis)
    legend(fig)
    return fig


def probes(table: pd.DataFrame):
    """Plain tricks before and after training, a panel a trick: every run a dot, the mean with its interval over seeds,
    and the mean before as a hollow mark. table: `study_tables.probes`."""
    something(table, "runs")
    methods = in_order(table["method"])
    title = titled("Plain tricks", table, "hollow: before; dots: runs after; bars: intervals over seeds")
    fig, axes = figure(title, 1, len(PROBES), size=(9, 1.7 + 0.45 * len(methods)), sharey=True)
    for ax, (probe, (label, unit)) in zip(axes[0], PROBES.items(), strict=True):
        for y, method in enumerate(methods):
            own = table[table["method"] == method].set_index("when")[probe]
            after, (_, colour, marker) = np.atleast_1d(own["after"]), look(method)
            mean = several_seeds(after)
            ax.plot(after, np.full(len(after), y + 0.22), ".", color=colour, alpha=0.6, markersize=5)
            ax.errorbar(mean.value, y - 0.08, xerr=ends(*mean[:3]), color=colour, marker=marker, markersize=6,
                        capsize=3)
            ax.plot(np.mean(own["before"]), y - 0.08, "o", color="white", markeredgecolor=GREY, markersize=6, zorder=1)
        ax.set_title(words(label, 16), fontsize=9)
        ax.set_xlabel(unit, fontsize=9)
        ax.tick_params(labelsize=8.5)
        if probe != "length":
            percent(ax.xaxis)
            low, high = ax.get_xlim()
            ax.set_xlim(max(low, -0.03), min(high, 1.03))
    axes[0, 0].set_yticks(range(len(methods)), [look(method)[0] for method in methods])
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    return fig


PROXY = {  # column of `study_tables.proxy_and_gold` -> its words, and how it is drawn
    "paid": ("reward paid in training", {"linestyle": "--", "marker": "o", "color": BLUE}),
    "p_better": ("listener's p on the better image", {"linestyle": ":", "marker": "s", "color": GREEN}),
    "right": ("right answers (what is wanted)", {"linestyle": "-", "marker": "D", "color": BLACK}),
}


def proxy_and_gold(table: pd.DataFrame, plain: pd.DataFrame):
    """What a listener's reward pays and what is wanted, over training: a panel a method, bands over seeds, and plain
    GRPO's right answers in every panel. plain: its `study_tables.curves` of "sampled_right"."""
    something(table, "runs whose reward is made of one listener")
    methods = in_order(table["method"])
    title = titled("What is paid and what is wanted", table, "bands: intervals over seeds")
    fig, axes = figure(title, 1, len(methods), size=(max(5.5, 2.8 * len(methods)), 3.8), sharey=True)
    for ax, method in zip(axes[0], methods, strict=True):
        own = table[table["method"] == method]
        for column, (label, style) in PROXY.items():
            known = own.dropna(subset=column)
            mean = over_seeds(known, ["step"], column).sort_values("step")
            ax.plot(mean["step"], mean["mean"], label=label, markersize=4, **style)
            ax.fill_between(mean["step"], mean["low"], mean["high"], color=style["color"], alpha=0.12, linewidth=0)
        unpaid = over_seeds(plain, ["step"]).sort_values("step")
        ax.plot(unpaid["step"], unpaid["mean"], color=look(PLAIN)[1], linestyle="-.", linewidth=1.2,
                label=f"right answers of {look(PLAIN)[0]}")
        ax.set_title(look(method)[0], fontsize=9.5)
        ax.set_xlabel("step")
        percent(ax.yaxis)
    within_shares(axes[0, :1])
    axes[0, 0].set_ylabel("%")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return fig


def credits(table: pd.DataFrame):
    """Where the gradient lands: a column a property with a scale of its own, the whole advantage above, the added part
    below; means over seeds, bands their intervals. table: `study_tables.credits`."""
    something(table, "credits")
    names = [name for name in CREDITED if name in set(table["property"])]
    parts = {"credit": "whole advantage", "credit_added": "added part"}
    parts = {part: label for part, label in parts.items() if part in set(table["part"])}
    title = titled("Which properties a step pays for", table, "bands: intervals over seeds")
    fig, axes = figure(title, len(parts), len(names), size=(9.5, 1.6 + 1.5 * len(parts)), sharex=True, sharey="col")
    for row, (part, label) in zip(axes, parts.items(), strict=True):
        for ax, name in zip(row, names, strict=True):
            own = table[(table["part"] == part) & (table["property"] == name)]
            for method in in_order(own["method"]):
                mean = over_seeds(own[own["method"] == method], ["step"])
                spread(ax, mean, method, band=True, markersize=3, linewidth=1.2)
            ax.axhline(0, color=GREY, linewidth=0.8)
            ax.tick_params(labelsize=7.5)
        row[0].set_ylabel(f"credit,\n{label}", fontsize=9)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(CREDITED[name], fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=9)
    legend(fig)
    return fig
