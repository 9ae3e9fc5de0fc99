"""Figures of results, each a function that returns a matplotlib Figure for `show` and `save`.

Records are `lrt.stats.Record`: one without a value (NaN) draws nothing, one without an interval a bare point.
A function takes those that it needs, by metric, from all that it is given, and raises ValueError if there are
none: an empty picture would look like a result. What happens inside a run is drawn in `lrt.diagrams`, and can
be reached from here too, so that a page needs one import.
"""

import math

import numpy as np

from lrt.diagrams import CURVES, clip_objective, learning_curves, pairs_grid, reward_parts, two_logits
from lrt.stats import select
from lrt.style import (
    BLUE,
    GREY,
    METHODS,
    SKY,
    categories,
    chance,
    ends,
    figure,
    in_order,
    legend,
    look,
    percent,
    points,
    records_title,
    save,
    show,
    side_by_side,
    words,
)

__all__ = ["METHODS", "CURVES", "show", "save", "pairs_grid", "learning_curves", "accuracy_by_split",
           "agree_conflict", "flip_rates", "contradiction_bars", "accuracy_reference",
           "accuracy_by_disagreement", "reliability_diagram", "two_logits", "reward_parts", "clip_objective"]

ACCURACY = "accuracy (% of pairs)"
RULES = {  # reference lines: judges that are rules, recorded like methods (`lrt.evaluate`) but drawn as lines
    "content_only": "content only",
    "tint_only": "tint only",
    "stated_rule": "rule on base's statements",
}


def _is_line(record):
    return record.method in RULES or record.method.startswith("majority_of_")


def _wanted(records, metric, split=None):
    """Records of a metric ("accuracy", or "contradiction/" for all that begin so) with a value, by method."""
    fits = str.startswith if metric.endswith("/") else str.__eq__
    found = [r for r in records if fits(r.metric, metric) and split in (None, r.split)
             and not math.isnan(r.value) and not _is_line(r)]
    if not found:
        raise ValueError(f"no record of metric {metric!r}" + (f" on split {split!r}" if split else ""))
    return [r for method in in_order(r.method for r in found) for r in found if r.method == method]


def _one_split(records):
    splits = list(dict.fromkeys(r.split for r in records))
    if len(splits) > 1:
        raise ValueError(f"records of several splits: choose one with split=..., of {', '.join(splits)}")
    return words(splits[0], 40)


def _label(record):
    return look(record.method)[0]


def accuracy_by_split(records, metric="accuracy"):
    """Methods x splits: a point and its interval for each training run; chance at 50 %."""
    wanted = _wanted(records, metric)
    fig, [[ax]] = figure(records_title("Accuracy by split", wanted))
    for own, x, _ in side_by_side(wanted, lambda r: r.split):
        points(ax, x, own)
    chance(ax)
    categories(ax, wanted, lambda r: r.split)
    ax.set(ylabel=ACCURACY, xlabel="test split")
    percent(ax.yaxis)
    legend(fig)
    return fig


def agree_conflict(records, split="tint_uninformative", metrics=("accuracy_agree", "accuracy_conflict")):
    """Accuracy where tint and content agree (filled) and where they conflict (open), an arrow from one to
    the other: the longer the arrow, the more the method leans on the tint. A row a method and run."""
    agree, conflict = (_wanted(records, metric, split) for metric in metrics)
    several = len({(r.method, r.seed) for r in agree}) > len({r.method for r in agree})
    title = records_title(f"Where tint and content agree or conflict, {_one_split(agree)}", agree)
    fig, [[ax]] = figure(title, size=(8, 1.9 + (0.36 if several else 0.5) * len(agree)))
    for y, a in enumerate(agree):
        points(ax, [y - 0.13], [a], across=True, label=None)
        for c in (r for r in conflict if (r.method, r.seed) == (a.method, a.seed)):
            points(ax, [y + 0.13], [c], across=True, label=None, markerfacecolor="white")
            ax.annotate("", (c.value, y + 0.13), (a.value, y - 0.13),
                        arrowprops={"arrowstyle": "->", "color": GREY, "shrinkA": 5, "shrinkB": 5})
    ax.plot([], [], "o", color=GREY, label="tint and content agree")
    ax.plot([], [], "o", color=GREY, markerfacecolor="white", label="they conflict")
    chance(ax, across=True)
    ax.set_yticks(range(len(agree)), [_label(r) + (f", seed {r.seed}" if several else "") for r in agree])
    ax.set(ylim=(len(agree) - 0.5, -0.5), xlabel=ACCURACY, ylabel="method")
    percent(ax.xaxis)
    legend(fig)
    return fig


def flip_rates(records, metric="flip_rate"):
    """How often the answer changes when only the tint is swapped on the same scenes: a point a run."""
    wanted = _wanted(records, metric)
    several = len({r.split for r in wanted}) > 1
    category = (lambda r: r.split) if several else _label
    fig, [[ax]] = figure(records_title("Answers that change when only the tint is swapped", wanted))
    for own, x, _ in side_by_side(wanted, category):
        points(ax, x, own)
    categories(ax, wanted, category, width=18)
    ax.set(ylabel="flip rate (% of pairs)", xlabel="test split" if several else "method")
    ax.set_ylim(bottom=0)
    percent(ax.yaxis)
    if several:
        legend(fig)
    return fig


def contradiction_bars(records, metric="contradiction", split=None):
    """How often a listener (metric `contradiction/<listener>`), having read the trace, chooses otherwise than
    the reasoner answered: for each listener a bar a method and run."""
    wanted = _wanted(records, metric + "/", split)
    verdict = "removed" if metric.endswith("no_verdict") else "kept"
    fig, [[ax]] = figure(records_title(f"Contradiction, verdict {verdict}, {_one_split(wanted)}", wanted))
    for own, x, width in side_by_side(wanted, _listener):
        ax.bar(x, [r.value for r in own], width=0.9 * width, color=look(own[0].method)[1], alpha=0.3)
        points(ax, x, own, markersize=5)
    categories(ax, wanted, _listener)
    ax.set(ylabel="contradictions (% of completions)", xlabel="listener that reads the trace")
    both = [r.high for r in records if r.metric.startswith("contradiction") and not math.isnan(r.high)]
    ax.set_ylim(-0.02, 1.05 * max(both, default=1))  # one axis for the verdict kept and removed; a rate of 0 is seen
    chance(ax)
    percent(ax.yaxis)
    legend(fig)
    return fig


def _listener(record):
    return record.metric.split("/", 1)[1]


def accuracy_reference(records, references=None, split="in_distribution", metric="accuracy"):
    """Accuracy of the methods on one split beside horizontal lines. references: name -> accuracy in 0..1, by
    default those among the records (majority of 8, the rule on the base's statements, content, tint)."""
    wanted = _wanted(records, metric, split)
    if references is None:
        references = {RULES.get(r.method, r.method.replace("_", " ")): r.value
                      for r in select(records, split=split, metric=metric) if _is_line(r)}
    references = {name: value for name, value in references.items() if not math.isnan(value)}
    fig, [[ax]] = figure(records_title(f"Accuracy beside references, {_one_split(wanted)}", wanted))
    for own, x, _ in side_by_side(wanted, _label):
        points(ax, x, own)
    categories(ax, wanted, _label)
    for value in references.values():
        ax.axhline(value, color=GREY, linestyle=":", linewidth=1.2)
    ax.set(ylabel=ACCURACY, xlabel="method")
    percent(ax.yaxis)
    ax.margins(y=0.12)
    names = sorted(references, key=references.get)
    heights = _spread([references[name] for name in names], gap=0.055 * np.ptp(ax.get_ylim()))
    for name, y in zip(names, heights, strict=True):
        ax.annotate(f"{name} {100 * references[name]:.0f}", (1, references[name]), (1.03, y), fontsize=8.5,
                    xycoords=("axes fraction", "data"), textcoords=("axes fraction", "data"), va="center",
                    arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8})
    return fig


def _spread(values, gap):
    """Heights for labels of ascending values, at least `gap` apart: halfway between pushing up and down."""
    up, down = np.array(values, dtype=float), np.array(values, dtype=float)
    for i in range(1, len(up)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-1 - i] = min(down[-1 - i], down[-i] - gap)
    return (up + down) / 2


def accuracy_by_disagreement(bins, confidence=None, xlabel="disagreement: 1 - listener's p on the answer"):
    """Accuracy in bins of disagreement, the number of pairs below. bins: method -> list of dict(low, high,
    accuracy, lo, hi, n); confidence: the same by the reasoner's own doubt, drawn beside it."""
    columns = {xlabel: bins} | ({"doubt: 1 - reasoner's p on its answer": confidence} if confidence else {})
    title = "Accuracy by the listener's disagreement" + " and the reasoner's own doubt" * bool(confidence)
    fig, axes = figure(title + " (bars: intervals over prompts; white: fewer than 10 pairs)", 2, len(columns),
                       size=(8.4, 4.6), sharex=True, sharey="row", height_ratios=(3, 1))
    for (name, table), (top, bottom) in zip(columns.items(), axes.T, strict=True):
        for j, method in enumerate(in_order(table)):
            _binned(top, bottom, method, table[method], j - (len(table) - 1) / 2, len(table))
        chance(top)
        percent(top.yaxis)
        bottom.set(xlabel=name, xlim=(-0.02, 1.02))
    axes[0, 0].set_ylabel(ACCURACY)
    axes[1, 0].set_ylabel("pairs")
    legend(fig)
    return fig


def _binned(top, bottom, method, bins, place, n_methods):
    """One method's bins: accuracy above, counts below; place: columns to the right of the bin's middle."""
    label, colour, marker = look(method)
    low, high, value, lo, hi, n = (np.array([b[key] for b in bins if b["n"]], dtype=float)
                                   for key in ("low", "high", "accuracy", "lo", "hi", "n"))
    middle, width = (low + high) / 2, 0.8 * (high - low) / n_methods
    x, few = middle + place * width / 3, n < 10
    top.errorbar(x, value, ends(value, lo, hi), color=colour, marker=marker, capsize=2.5,
                 linestyle="none", label=label)
    top.plot(x[~few], value[~few], color=colour, linewidth=1.2)  # no line leads to a bin that hardly anything is in
    top.plot(x[few], value[few], marker, color="white", markeredgecolor=colour, markersize=6, zorder=4)
    bottom.bar(middle + place * width, n, width=width, color=colour)


def reliability_diagram(bins, ece, name="listener"):
    """Accuracy against stated probability, counts below; bins and ece as from `lrt.stats`."""
    title = f"Reliability of the {name}: expected calibration error {100 * ece:.1f} points"
    fig, [[top], [bottom]] = figure(title, 2, 1, size=(7, 4.6), sharex=True, height_ratios=(3, 1))
    full = [b for b in bins if b["n"]]
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    many = [b for b in full if b["n"] >= 10]
    top.plot([b["confidence"] for b in many], [b["accuracy"] for b in many], "o-", color=BLUE, label=name)
    few = [b for b in full if b["n"] < 10]
    top.plot([b["confidence"] for b in few], [b["accuracy"] for b in few], "o", color="white", markeredgecolor=BLUE,
             label="fewer than 10 cases" if few else None)
    top.set(ylabel="came true (% of cases)", ylim=(-0.03, 1.03), xlim=(-0.02, 1.02))
    bottom.bar([(b["low"] + b["high"]) / 2 for b in bins], [b["n"] for b in bins],
               width=[0.9 * (b["high"] - b["low"]) for b in bins], color=SKY)
    bottom.set(xlabel="stated probability (%)", ylabel="cases")
    percent(top.yaxis)
    percent(bottom.xaxis)
    legend(fig)
    return fig
