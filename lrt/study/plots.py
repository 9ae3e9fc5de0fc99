"""Figures of the study: many runs a method, every seed to be seen, the mean and its interval beside them.

Each function takes a table of `lrt.study.tables` and returns a matplotlib Figure; the words for it are in
`lrt.study.story`. Intervals over seeds are t-intervals; those of differences at the last step are the claims' own, over
seeds and prompts (`lrt.study.seeds.hierarchical`). A single seed is drawn without an interval. ValueError for an empty
table: an empty picture would look like a result.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lrt.study.claims import Decision
from lrt.study.effects import Effect
from lrt.study.outcomes import measure
from lrt.study.tables import PLAIN, Split, over_seeds
from lrt.style import BLACK, GREY, ends, figure, in_order, legend, look, percent, runs_text, words
from lrt.words import label_of

FAINT = {"linewidth": 0.8, "alpha": 0.6}


def something(table, what: str) -> None:
    if not len(table):
        raise ValueError(f"no {what} to draw")


def behind(table: pd.DataFrame) -> str:
    """How many runs are behind a figure."""
    return runs_text(list(table.groupby("method")["seed"].nunique()))


def titled(what: str, table: pd.DataFrame, bars: str) -> str:
    """A title with how many runs are behind it, and what its bars are; one seed has none."""
    seeds = behind(table)
    return f"{what} ({seeds}: no intervals)" if seeds == "one seed" else f"{what} ({seeds}; {bars})"


def within_shares(axes) -> None:
    """No axis of shares beyond 0 and 100 %: an interval of few seeds may reach further, and means nothing there."""
    for ax in axes:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -0.03), min(high, 1.03))


def spread(ax, mean: pd.DataFrame, method: str, band: bool = False, **style) -> None:
    """Means by step with their intervals, as bars or as a band."""
    label, colour, marker = look(method)
    mean = mean.sort_values("step")
    ax.plot(mean["step"], mean["mean"], **{"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.6,
                                           "label": label} | style)
    if band:
        ax.fill_between(mean["step"], mean["low"], mean["high"], color=colour, alpha=0.13, linewidth=0)
    else:
        arms = ends(mean["mean"], mean["low"], mean["high"])
        ax.errorbar(mean["step"], mean["mean"], arms, color=colour, linestyle="none", linewidth=0.9, alpha=0.5)


def one_comparison(found: Split):
    """Every seed's difference from plain GRPO in one measure, the two that disagree most in colour."""
    something(found.table, "differences")
    rows = found.table.sort_values("seed")
    label, colour, marker = look(found.method)
    what = measure(found.measure).label
    fig, [[ax]] = figure(f"{label} against plain GRPO, {what} (bars: intervals over prompts, of that seed alone)",
                         size=(8, 3.4))
    for i, row in enumerate(rows.itertuples()):
        chosen = row.seed in (found.up, found.down)
        style = {"color": colour, "markersize": 9} if chosen else {"color": GREY, "markersize": 6, "alpha": 0.8}
        arms = ends(row.value, row.low, row.high)
        ax.errorbar(i, row.value, arms, marker=marker, linestyle="none", capsize=3, **style)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.set(xlabel="seed", ylabel="difference (points)")
    ax.set_xticks(range(len(rows)), rows["seed"])
    percent(ax.yaxis)
    return fig


def over_training(table: pd.DataFrame, title: str = "Over training", plain: str = PLAIN):
    """A row a measure, a column a method: every run a thin line, the mean over seeds with its interval, and the mean
    of plain GRPO (the method `plain`) dashed in every column. table: `study_tables.curves`."""
    something(table, "measurements")
    names, methods = list(table["measure"].unique()), in_order(table["method"])
    title = titled(f"{title}, with GRPO dashed", table, "thin: single runs; bars: intervals over seeds")
    fig, axes = figure(title, len(names), len(methods), size=(max(5, 1.9 * len(methods)), 1.2 + 1.6 * len(names)),
                       sharex=True, sharey="row")
    for row, name in zip(axes, names, strict=True):
        own = table[table["measure"] == name]
        mean = over_seeds(own, ["method", "step"])
        dashed = mean[mean["method"] == plain].sort_values("step")
        for ax, method in zip(row, methods, strict=True):
            for _, run in own[own["method"] == method].groupby("seed"):
                ax.plot(run["step"], run["value"], color=look(method)[1], **FAINT)
            if method != plain:
                ax.plot(dashed["step"], dashed["mean"], color=look(plain)[1], linestyle="--", linewidth=1.2)
            spread(ax, mean[mean["method"] == method], method)
        row[0].set_ylabel(words(measure(name).label, 16) + " (%)", fontsize=9)
        within_shares(row[:1])
        percent(row[0].yaxis)
    for ax, method in zip(axes[0], methods, strict=True):
        ax.set_title(look(method)[0], fontsize=9.5)
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=9)
    for ax in axes.flat:
        ax.tick_params(labelsize=8)
    return fig


def at_the_end(table: pd.DataFrame, effects: Sequence[Effect], what: str = "Against plain GRPO at the last step",
               labels: Mapping[str, str] | None = None, groups: Mapping[str, Sequence[str]] | None = None,
               hollow: Sequence[Effect] = ()):
    """Differences from plain GRPO at the last step, a panel a measure: every seed a point, the mean with the interval
    over seeds and prompts, where there are seeds enough for one. table: `study_tables.differences`; effects:
    `effects.against_plain`; labels: names of the methods that all figures draw in grey (`words.label_of`); groups:
    heading -> the methods below it; hollow: those of the effects whose marker stays empty. A star marks a method that
    is held against plain GRPO of its own settings. The title, `what`, must say what either means."""
    something(table, "differences")
    names, methods = list(table["measure"].unique()), in_order(table["method"])
    there = {heading: [m for m in own if m in methods] for heading, own in (groups or {"": methods}).items()}
    rows = [row for heading, own in there.items() if own for row in ([heading] if heading else []) + own]
    title = titled(what, table, "dots: single runs; bars: over seeds and prompts")
    size = (8.6, 1.6 + 0.5 * len(rows)) if len(rows) < 8 else (9.8, 1.8 + 0.34 * len(rows))
    fig, axes = figure(title, 1, len(names), size=size, sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        for y, method in enumerate(rows):
            own = table[(table["measure"] == name) & (table["method"] == method)]
            _, colour, marker = look(method)
            ax.plot(own["value"], np.full(len(own), y + 0.2), ".", color=colour, alpha=0.6, markersize=5)
            for e in (e for e in effects if (e.measure, e.method) == (name, method)):
                few = len(e.seeds) < 3  # two give an interval that holds everything, in large numbers
                arms = None if few else ends(e.effect, e.low, e.high)
                ax.errorbar(e.effect, y - 0.1, xerr=arms, color=colour, marker=marker, markersize=7, capsize=3,
                            markerfacecolor="white" if e in hollow else colour)
        better, single = measure(name).better, [0, *table.loc[table["measure"] == name, "value"]]
        room = 0.12 * (max(single) - min(single)) or 0.01
        ax.set_xlim(min(single) - room, max(single) + room)  # bars of few seeds go on beyond it
        ax.axvline(0, color=GREY, linewidth=1)
        ax.set_title(words(measure(name).label, 16), fontsize=9.5)
        ax.set_xlabel("points" + {"higher": " (right is better)", "lower": " (left is better)"}.get(better, ""),
                      fontsize=8.5)
        ax.tick_params(labelsize=8.5)
        percent(ax.xaxis)
    starred = {e.method for e in effects if e.reference != PLAIN}
    said = [row if row in there else words(label_of(row, labels or {}) + " *" * (row in starred), 34) for row in rows]
    axes[0, 0].set_yticks(range(len(rows)), said)
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    for row, tick in zip(rows, axes[0, 0].get_yticklabels(), strict=True):
        tick.set_fontweight("bold" if row in there else "normal")
    return fig


def paths(table: pd.DataFrame):
    """Where each method's runs go in the plane of the two accuracies: a line from the mean start to the mean end, small
    points the ends of single runs. table: `study_tables.curves` of agree and conflict."""
    something(table, "measurements")
    title = f"Right where the tint agrees, and where it conflicts ({behind(table)}; small: ends of single runs)"
    fig, [[ax]] = figure(title, size=(7.4, 5))
    wide = table.pivot_table(index=["method", "seed", "step"], columns="measure", values="value").reset_index()
    for method in in_order(wide["method"]):
        own = wide[wide["method"] == method]
        label, colour, marker = look(method)
        mean = own.groupby("step")[["agree", "conflict"]].mean().sort_index()
        last = own[own["step"] == own["step"].max()]
        ax.plot(last["agree"], last["conflict"], marker, color=colour, markersize=4, alpha=0.4, linestyle="none")
        ax.plot(*mean.iloc[[0, -1]].to_numpy().T, color=colour, linewidth=1.6)
        ax.plot(*mean.iloc[-1:].to_numpy().T, marker, color=colour, markersize=10, label=label, linestyle="none",
                markeredgecolor="white", zorder=4)
    start = wide[wide["step"] == wide["step"].min()][["agree", "conflict"]].mean()
    ax.plot(*start, "o", color="white", markeredgecolor=BLACK, markersize=9, zorder=5, label="start: the bases")
    ax.axline((0.5, 0.5), slope=1, color=GREY, linestyle=":", linewidth=1, label="the tint makes no difference")
    low = min(0.4, wide[["agree", "conflict"]].min().min()) - 0.03
    ax.set(xlabel=f"{measure('agree').label} (%)", ylabel=f"{measure('conflict').label} (%)", xlim=(low, 1.03),
           ylim=(low, 1.03), aspect="equal")
    percent(ax.xaxis)
    percent(ax.yaxis)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return fig


def claims(decisions: Sequence[Decision]):
    """A row a claim: its comparisons with their intervals, turned so that what was predicted is to the right."""
    something(decisions, "claims")
    fig, [[ax]] = figure("The claims (right of 0: as predicted; bars: 95 % over seeds and prompts, unadjusted)",
                         size=(9, 1.2 + 0.62 * len(decisions)))
    for y, d in enumerate(decisions):
        sign = 1 if d.claim.predicted == "higher" else -1
        for i, c in enumerate(d.comparisons):
            _, colour, marker = look(c.against)
            arms = ends(c.effect, c.low, c.high)[::sign]
            ax.errorbar(sign * c.effect, y + 0.22 * (i - (len(d.comparisons) - 1) / 2), xerr=arms, color=colour,
                        marker=marker, markersize=5, capsize=2, linewidth=1.2)
        ax.annotate(d.verdict, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    against = in_order(c.against for d in decisions for c in d.comparisons)
    for name in against:
        label, colour, marker = look(name)
        ax.plot([], [], marker, color=colour, label=f"against {label}", linestyle="none")
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_yticks(range(len(decisions)), [words(f"{d.claim.id}: {d.claim.text}", 58) for d in decisions], fontsize=8)
    ax.set_ylim(len(decisions) - 0.5, -0.5)
    ax.set_xlabel("points")
    percent(ax.xaxis)
    legend(fig)
    return fig
