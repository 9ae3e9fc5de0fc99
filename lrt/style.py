"""What all figures share: palette, title, intervals, legend, and the way to the page and to disk.

A method has one colour and one marker on every page (Okabe and Ito's palette, which colour-blind readers can
tell apart; the markers serve print). No pyplot: a figure here is an object, not a global state.
"""

import base64
import html
import io
import sys
import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
GREY = "#666666"
METHODS = {  # of the course: method -> (label, colour, marker)
    "base": ("base", BLACK, "o"),
    "sft": ("SFT", GREEN, "s"),
    "grpo": ("GRPO", VERMILION, "^"),
    "grpo_listener": ("GRPO + listener", BLUE, "D"),
}
STUDY = {  # of the study, beside base and GRPO; its other methods are grey (`look`)
    "listener_base": ("base as listener", SKY, "s"),
    "listener_reader": ("reader as listener", BLUE, "D"),
    "rule": ("rule", ORANGE, "X"),
    "permuted": ("permuted", PURPLE, "P"),
    "no_verdict": ("reader, verdict removed", GREY, "v"),
    "permuted_no_verdict": ("reader, verdict removed, permuted", GREY, "^"),
    "grpo_long": ("plain GRPO, 900 steps", VERMILION, "^"),  # never in one figure with the same method's short runs
    "reader_long": ("reader, 900 steps", BLUE, "D"),
}


# --- to the page and to disk -------------------------------------------------------------------------------


def show(fig, alt):
    """Display a figure in a notebook as an <img> with alternative text, and close it."""
    from IPython.display import HTML, display

    data = base64.b64encode(_png(fig, alt)).decode()
    width = round(fig.get_figwidth() * 96)
    display(HTML(f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" '
                 f'style="width:{width}px;max-width:100%;background:white">'))
    if "matplotlib.pyplot" in sys.modules:  # only a figure that pyplot made is registered there
        sys.modules["matplotlib.pyplot"].close(fig)


def save(fig, path, alt=None):
    """Write a PNG whose Description holds the alternative text: the one given here, or the one at `show`."""
    data = _png(fig, getattr(fig, "alt", "") if alt is None else alt)
    with open(path, "wb") as file:
        file.write(data)


def _png(fig, alt):
    if not alt or not alt.strip():
        raise ValueError("a figure needs alternative text: say in a sentence what it shows")
    fig.alt = alt
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=150, metadata={"Description": alt})
    return buffer.getvalue()


# --- parts of figures --------------------------------------------------------------------------------------


def figure(title, rows=1, cols=1, size=(8, 4), **layout):
    """A white figure with its title, and an array (rows, cols) of tidy axes."""
    fig = Figure(figsize=size, layout="constrained", facecolor="white")
    fits = len(title) <= size[0] * 11  # letters of this size, roughly
    fig.suptitle(title if fits else title.replace(" (", "\n(", 1), fontsize=12)
    axes = fig.subplots(rows, cols, squeeze=False, **layout)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#e6e6e6", linewidth=0.8)
        ax.set_axisbelow(True)
    return fig, axes


def look(method):
    """(label, colour, marker) of a method; grey for one that neither METHODS nor STUDY knows."""
    return (METHODS | STUDY).get(method, (method.replace("_", " "), GREY, "v"))


def in_order(methods):
    """The methods once each: the known ones in their fixed order, then the others as they come."""
    methods, known = list(dict.fromkeys(methods)), METHODS | STUDY
    return [m for m in known if m in methods] + [m for m in methods if m not in known]


def words(name, width=14):
    return textwrap.fill(name.replace("_", " "), width)


def runs_text(counts):
    """How many training runs are behind a figure; counts: runs a method. A single run is called one seed."""
    most = max(counts, default=0)
    return "one seed" if most <= 1 else f"{most} seeds" if min(counts) == most else f"{min(counts)} to {most} seeds"


def ends(value, low, high):
    """(2, n) the two arms of error bars; an interval that leaves out its own value has none on that side."""
    return np.maximum(0, [np.atleast_1d(value - low), np.atleast_1d(high - value)])  # NaN stays NaN: no bar


def records_title(what, records):
    """Title of a figure of records: what it shows, how many runs are behind it, what its bars are."""
    seeds = {m: {r.seed for r in records if r.method == m} for m in in_order(r.method for r in records)}
    seeds.pop("base", None)  # not trained here: its seed says nothing about spread
    if seeds and all(own == {None} for own in seeds.values()):
        return f"{what} (mean of several seeds; bars: intervals over seeds)"
    return f"{what} ({runs_text([len(own) for own in seeds.values()])}; bars: intervals over prompts)"


def points(ax, x, records, across=False, **style):
    """Points of one method's records with their intervals at positions x; `across` swaps the axes."""
    label, colour, marker = look(records[0].method)
    value, low, high = np.array([(r.value, r.low, r.high) for r in records], dtype=float).T
    spread = ends(value, low, high)
    place = {"x": value, "y": x, "xerr": spread} if across else {"x": x, "y": value, "yerr": spread}
    style = {"label": label, "color": colour, "marker": marker, "markersize": 6, "capsize": 2.5} | style
    return ax.errorbar(**place, linestyle="none", **style)


def side_by_side(records, category):
    """Yield (records of one method, their x positions, room for each): a place a category, within it a column
    a method, within that one a run. `categories` names the places."""
    places = {}
    for record in records:
        places.setdefault(category(record), []).append(record.method)
    places = {name: in_order(methods) for name, methods in places.items()}
    column = 0.72 / max(map(len, places.values()))
    for method in in_order(r.method for r in records):
        own = [r for r in records if r.method == method]
        seeds = list(dict.fromkeys(r.seed for r in own))
        room = column if len(seeds) == 1 else min(0.12, 0.7 * column / len(seeds))
        x = [list(places).index(category(r)) + _off(method, places[category(r)]) * column
             + _off(r.seed, seeds) * room for r in own]
        yield own, x, room


def _off(item, items):
    """How many steps right of the middle an item stands when they stand in a row."""
    return items.index(item) - (len(items) - 1) / 2


def categories(ax, records, category, width=14):
    """Name the places of `side_by_side` on the x axis."""
    names = list(dict.fromkeys(map(category, records)))
    ax.set_xticks(range(len(names)), [words(name, width) for name in names], fontsize=9)
    ax.set_xlim(-0.5, max(len(names), 1) - 0.5)
    ax.grid(axis="x", visible=False)


def legend(fig, ncols=5):
    """One legend for all axes, below them, where nothing can lie under it."""
    handles = {}
    for ax in fig.axes:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if handles:
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=ncols, frameon=False,
                   fontsize=9)


def percent(axis):
    """Shares on an axis, written as percentages; the axis' label says so."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))


def chance(ax, across=False):
    """The line of a judge that tosses a coin."""
    (ax.axvline if across else ax.axhline)(0.5, color=GREY, linestyle="--", linewidth=1, label="chance")
