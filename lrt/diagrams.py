"""Figures of what happens inside a run, rather than what came of it: pairs, training curves, the listener's
logits, a group's rewards, clipping. `lrt.plots` hands them on, so that a page needs one import.
"""

import math
import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lrt.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    figure,
    in_order,
    legend,
    look,
    runs_text,
    words,
)

PARTS = ((SKY, ""), (ORANGE, "///"), (BLUE, "..."), (GREEN, "xxx"), (PURPLE, "\\\\\\"))  # colour, hatch

CURVES = {  # key of a training log -> title of its panel
    "reward": "total reward",
    "rewards/format_reward/mean": "format reward",
    "rewards/accuracy_reward/mean": "accuracy reward",
    "rewards/listener_reward/mean": "listener reward",
    "frac_reward_zero_std": "dead groups (share)",
    "completions/mean_length": "completion length (tokens)",
    "entropy": "entropy (nats per token)",
}
SHARES = [key for key in CURVES if key.startswith("rewards/")] + ["frac_reward_zero_std"]  # panels from 0 to 1


def pairs_grid(rows, n=6, titles=None):
    """The first n pairs (rows of the pairs' schema): prompt above (at most three lines), both images
    enlarged without smoothing, votes below, the training label marked. titles: one more line above each."""
    n = min(n, len(rows))
    if not n:
        raise ValueError("no pairs to draw")
    n_cols = {1: 1, 2: 2, 4: 2}.get(n, 3)
    n_rows = math.ceil(n / n_cols)
    fig = Figure(figsize=(8, 0.5 + n_rows * (4.4 / n_cols + 0.4)), layout="constrained", facecolor="white")
    fig.suptitle("Example pairs: prompt, both images, votes (* = label drawn for training)", fontsize=12)
    wrap = {"width": 100 // n_cols, "break_on_hyphens": False, "max_lines": 3, "placeholder": " ..."}
    heads = [([titles[i]] if titles else []) + textwrap.wrap(rows[i]["prompt"], **wrap) for i in range(n)]
    height = max(map(len, heads))  # as many lines above each pair, so that all images align
    for i, cell in zip(range(n), fig.subfigures(n_rows, n_cols, squeeze=False).flat, strict=False):
        row = rows[i]
        cell.suptitle("\n".join(heads[i] + [" "] * (height - len(heads[i]))), fontsize=9, parse_math=False)
        for k, ax in enumerate(cell.subplots(1, 2), start=1):
            ax.imshow(np.asarray(row["images"][k - 1].convert("RGB")), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            votes = "a tie" if not row["vote"] else f"{row[f'votes_{k}']} vote" + "s" * (row[f"votes_{k}"] != 1)
            ax.set_xlabel(f"image {k}: {votes}" + " *" * (row["vote"] == k), fontsize=9)
    return fig


def learning_curves(logs, keys=CURVES, smooth=9):
    """Small multiples of training logs. logs: method -> one run (list of dict(step, ...)) or list of runs;
    keys: log key -> panel title, or a list of keys. Faint: as logged; strong: mean of `smooth` entries, where a
    run has more than two such means."""
    keys = keys if isinstance(keys, dict) else {key: CURVES.get(key, key) for key in keys}
    runs = {m: logs[m] if logs[m] and isinstance(logs[m][0], list) else [logs[m]] for m in in_order(logs)}
    n_cols, n_rows = min(4, len(keys)), math.ceil(len(keys) / 4)
    smooth = smooth if max((len(run) for many in runs.values() for run in many), default=0) > 2 * smooth else 1
    drawn = f"mean of {smooth} entries" if smooth > 1 else "as logged"
    title = f"Learning curves ({runs_text([len(r) for r in runs.values()])}; {drawn})"
    fig, axes = figure(title, n_rows, n_cols, size=(max(6, 2.25 * n_cols), 1 + 1.9 * n_rows))
    for ax, (key, name) in zip(axes.flat, keys.items(), strict=False):
        for method, many in runs.items():
            for run in many:
                _curve(ax, [(e["step"], e[key]) for e in run if e.get(key) is not None], method, smooth)
        if not ax.lines:
            ax.text(0.5, 0.5, "not logged", transform=ax.transAxes, ha="center", color=GREY)
        ax.set_title(name, fontsize=9.5)
        ax.set_xlabel("step", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _fit(ax, key)
    for ax in axes.flat[len(keys):]:
        ax.set_axis_off()
    legend(fig)
    return fig


def _fit(ax, key):
    """A share is seen from 0 to 1, and other curves that hardly move get no axis on which that would look like much."""
    if not ax.lines:
        return
    if key in SHARES:
        ax.set_ylim(-0.03, 1.03)
        return
    low, high = ax.dataLim.intervaly
    least = 0.2 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        middle = (low + high) / 2
        ax.set_ylim(middle - 0.55 * least, middle + 0.55 * least)


def _curve(ax, entries, method, smooth):
    if not entries:
        return
    step, value = np.array(entries, dtype=float).T
    label, colour, marker = look(method)
    window = np.ones(min(smooth, len(value)))
    mean = np.convolve(value, window, "same") / np.convolve(np.ones_like(value), window, "same")
    ax.plot(step, value, color=colour, alpha=0.25, linewidth=0.8)
    ax.plot(step, mean, color=colour, linewidth=1.6, marker=marker, markersize=4.5,
            markevery=max(1, len(step) // 5), label=label)


def two_logits(before, after):
    """The listener's two logits and what the softmax makes of them, for one trace and its edits. before:
    (z1, z2) of the trace as written; after: name of an edit -> (z1, z2)."""
    variants = {"as written": before, **after}
    z = np.array(list(variants.values()), dtype=float)
    p = 1 / (1 + np.exp(z[:, 1] - z[:, 0]))
    y = np.arange(len(variants))
    title = "One trace and its edits: the listener's two logits, and p = softmax of the two"
    fig, [[left, right]] = figure(title, 1, 2, size=(8, 1.9 + 0.5 * len(y)), sharey=True)
    for k, (colour, hatch) in enumerate([(ORANGE, ""), (SKY, "///")]):
        left.barh(y + (k - 0.5) * 0.36, z[:, k], height=0.34, color=colour, hatch=hatch, edgecolor="white",
                  label=f'logit of "{k + 1}"')
    left.axvline(0, color=GREY, linewidth=0.8)
    left.set_yticks(y, [words(name, 26) for name in variants])
    left.set(ylim=(len(y) - 0.5, -0.5), xlabel="logit (nats)", ylabel="trace")
    right.barh(y, p, height=0.5, color=BLUE, alpha=0.4)
    right.axvline(0.5, color=GREY, linestyle="--", linewidth=1, label="undecided")
    for height, value in zip(y, p, strict=True):
        right.text(value + 0.02, height, f"{value:.2f}", va="center", fontsize=9)
    right.set(xlim=(0, 1.15), xlabel="p(image 1 is better)", xticks=np.linspace(0, 1, 5))
    legend(fig)
    return fig


def reward_parts(rows, weights=None):
    """One group's completions: weighted reward parts stacked, and below the advantage that each earns.

    rows: list of dict(format, accuracy, listener, advantage), a part None where it could not be scored;
    weights: part -> weight, by default the paper's 1, 0.5, 0.5."""
    weights = weights or {"format": 1.0, "accuracy": 0.5, "listener": 0.5}
    fig, [[top], [bottom]] = figure("One group: where each completion's reward comes from, and its advantage",
                                    2, 1, size=(8, 4.6), sharex=True, height_ratios=(3, 2))
    x, base = np.arange(1, len(rows) + 1), np.zeros(len(rows))
    for (part, weight), (colour, hatch) in zip(weights.items(), PARTS, strict=False):
        height = np.array([weight * (row[part] or 0.0) for row in rows])
        top.bar(x, height, 0.7, bottom=base, color=colour, hatch=hatch, edgecolor="white",
                label=f"{weight:g} x {part}")
        base += height
    for i, row in enumerate(rows):
        if missing := [part for part in weights if row[part] is None]:
            top.text(x[i], base[i] + 0.03, "no " + ", ".join(missing), ha="center", va="bottom", fontsize=8)
    top.set(ylabel="weighted reward", ylim=(0, 1.12 * max(base.max(), 0.1)))
    _advantages(bottom, x, np.array([row["advantage"] for row in rows], dtype=float))
    legend(fig)
    return fig


def _advantages(ax, x, advantage):
    for own, colour, marker, name in ((advantage > 0, GREEN, "^", "advantage > 0"),
                                      (advantage < 0, VERMILION, "v", "advantage < 0")):
        ax.vlines(x[own], 0, advantage[own], color=colour, linewidth=1.5)
        ax.plot(x[own], advantage[own], marker, color=colour, markersize=8, label=name)
    ax.plot(x[advantage == 0], advantage[advantage == 0], "o", color=GREY)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.margins(y=0.25)
    ax.set(xlabel="completion of the group", xticks=x)
    ax.set_ylabel("advantage\n(group's std)", fontsize=9)


def clip_objective(epsilon=0.2):
    """PPO's clipped objective for one token (Schulman et al. 2017, eq. 7) against the ratio of new to old
    probability, for either sign of the advantage: where it is flat, there is no gradient."""
    ratio = np.linspace(0.4, 1.6, 241)
    fig, axes = figure("The clipped objective of one token: min(r A, clip(r, 1 - ε, 1 + ε) A)", 1, 2)
    sides = [(1, 1 + epsilon, 1.6, "made likelier, but no\nreward beyond 1 + ε", (0.42, 1.4)),
             (-1, 1 - epsilon, 0.4, "made rarer, but no\nreward below 1 - ε", (1.0, -0.6))]
    for ax, (advantage, edge, far, text, place) in zip(axes.flat, sides, strict=True):
        ax.plot(ratio, ratio * advantage, color=GREY, linestyle="--", label="unclipped: r A")
        clipped = np.minimum(ratio * advantage, np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)
        ax.plot(ratio, clipped, color=BLUE, linewidth=2.5, label="clipped")
        ax.axvspan(*sorted((edge, far)), color=ORANGE, alpha=0.15, label="flat: no gradient")
        ax.plot(1, advantage, "o", color=VERMILION, label="r = 1: first step after sampling")
        ax.annotate(text, (edge, edge * advantage), place, fontsize=9, va="center",
                    arrowprops={"arrowstyle": "->", "color": GREY, "shrinkB": 4})
        ax.set(title=f"advantage A = {advantage:+d}", xlabel="ratio r = new / old probability",
               ylabel="objective (units of A)", xticks=[0.4, 1 - epsilon, 1, 1 + epsilon, 1.6])
    legend(fig)
    return fig
