"""What the study's tables say, in sentences: for the text of a page, and as the words that stand for a figure.

No sentence assumes an outcome. "Higher", "lower", "more" and "fewer" appear only where an interval leaves out 0; where
there is none, since one seed has none, that is said. Every function returns a sentence or a list of them.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrt.stats import several_seeds
from lrt.study.credit import CREDITED
from lrt.study.effects import Effect
from lrt.study.grid import Grid
from lrt.study.logs import Run
from lrt.study.outcomes import measure
from lrt.study.tables import Split, over_seeds
from lrt.study.words import capital, listed, name_of, points, seeds_text, share, side
from lrt.style import in_order

FEW = 5  # seeds; simulated with the spread that was found, fewer may cry wolf (notebook 06)


# --- what is there ---------------------------------------------------------------------------------------------------


def present(runs: Sequence[Run], grid: Grid) -> list[str]:
    """How many runs of each tier there are, and what the first tier lacks."""
    have, told = {(run.cell.method, run.cell.seed) for run in runs}, []
    for i, tier in enumerate(grid.tiers):
        wanted = [(method, seed) for seed in tier.seeds for method in tier.methods]
        there = [cell for cell in wanted if cell in have]
        text = f"Tier {tier.name} ({tier.why}): {len(there)} of {len(wanted)} runs are here."
        if i == 0 and there and len(there) < len(wanted):
            seeds = {m: sum(method == m for method, _ in there) for m in tier.methods}
            text += " Seeds by method: " + ", ".join(f"{name_of(m)} {n}" for m, n in seeds.items()) + "."
        told.append(text)
    return told


# --- seeds -----------------------------------------------------------------------------------------------------------


def opposite(found: Split | None, n_seeds: int) -> str:
    """The two seeds that tell opposite stories, or that there are none."""
    if n_seeds < 2:
        return "There are not yet runs of two seeds to set against each other."
    if found is None:
        return (f"In no comparison do two of the {n_seeds} seeds point to different sides: here a single seed would "
                "not have misled about the direction.")
    rows = found.table.set_index("seed")
    up, down = (points(*rows.loc[seed, ["value", "low", "high"]]) for seed in (found.up, found.down))
    verdict = "Not both intervals over prompts leave out 0, so a careful reader of one seed would have held back."
    if found.clear:
        verdict = "Both intervals over prompts leave out 0: each seed alone would pass for a finding, one the opposite."
    return (f"{name_of(found.method)} against plain GRPO, {measure(found.measure).label}: seed {found.up} says {up}, "
            f"seed {found.down} says {down}. {verdict} {int((rows['value'] > 0).sum())} of {len(rows)} seeds are above "
            "0.")


# --- over training, and at the end -----------------------------------------------------------------------------------


def over_training(table: pd.DataFrame, name: str) -> str:
    """A measure's mean over seeds for each method, from the first measurement to the last."""
    own, told = table[table["measure"] == name], []
    for method in in_order(own["method"]):
        mean = over_seeds(own[own["method"] == method], ["step"]).sort_values("step")
        first, end = mean.iloc[0], mean.iloc[-1]
        told.append(f"{name_of(method)} from {share(first['mean'])} to {share(*end[['mean', 'low', 'high']])} "
                    f"(n = {int(end['seeds'])})")
    return f"{capital(measure(name).label)}: {'; '.join(told)}."


def effect_sentences(effects: Sequence[Effect], name: str) -> list[str]:
    """Each method's difference in one measure, from plain GRPO or (`stopped_early`) from its own last step. No side is
    named from fewer than `FEW` seeds: so few give an interval that leaves out 0 more often than it says."""
    told = []
    for e in (e for e in effects if e.measure == name and not math.isnan(e.effect)):
        word, better = side(e.low, e.high), measure(name).better
        verdict = "one seed, so no interval" if math.isnan(e.low) else "not clearly different"
        if word and len(e.seeds) < FEW:
            verdict = f"the interval leaves out 0, which {len(e.seeds)} seeds do too easily"
        elif word:
            verdict = word + ("" if better is None else ", which is better" if word == better else ", which is worse")
        other = "its own last step" if e.at == "best checkpoint" else name_of(e.reference)
        told.append(f"{name_of(e.method)}, {measure(name).label}: {points(e.effect, e.low, e.high)} against "
                    f"{other} ({seeds_text(len(e.seeds))}): {verdict}.")
    return told


def effects_alt(effects: Sequence[Effect]) -> str:
    """The same for all measures, in short."""
    told = []
    for name in dict.fromkeys(e.measure for e in effects):
        own = [e for e in effects if e.measure == name and not math.isnan(e.effect)]
        groups = {word: [name_of(e.method) for e in own if side(e.low, e.high) == word] for word in ("lower", "higher")}
        clear = "; ".join(f"clearly {word}: {listed(names)}" for word, names in groups.items() if names)
        if not clear:
            clear = "one seed, no interval" if all(math.isnan(e.low) for e in own) else "no clear difference"
        told.append(f"{measure(name).label}: {clear}")
    return f"Differences from plain GRPO at the last step. {'. '.join(map(capital, told))}."


def chosen(steps: pd.DataFrame) -> str:
    """Which steps validation chose; steps: method, seed, step."""
    told = [f"{name_of(m)} {listed(map(str, steps.loc[steps['method'] == m, 'step']))}" for m in
            in_order(steps["method"])]
    return f"Steps chosen, seed by seed: {'; '.join(told)}."


def dead(table: pd.DataFrame) -> list[str]:
    """How the share of dead groups moved; table: `tables.dead_groups`."""
    told = []
    for method in in_order(table["method"]):
        own = table[table["method"] == method]
        first, end = (several_seeds(own[when])[:3] for when in ("before", "after"))
        told.append(f"{name_of(method)}: {share(*first)} of the groups were dead in its first steps, {share(*end)} in "
                    f"its last ({seeds_text(len(own))}).")
    return told


def one_sided(ends: pd.DataFrame) -> str:
    """Which runs answer, greedy, with one image 19 times in 20 or more; ends: `tables.last` of "first"."""
    stuck = ends[(ends["first"] < 0.05) | (ends["first"] > 0.95)]
    told = [f"{name_of(row.method)} seed {row.seed} ({share(row.first)} \"1\")" for row in stuck.itertuples()]
    return f"Runs that end with one answer for nearly every pair, and so hardly can flip: {listed(told)}."


def paths(table: pd.DataFrame) -> str:
    """Where each method's runs end in the plane of the two accuracies; table: `curves` of both."""
    ends = table[table["step"] == table.groupby(["method", "seed"])["step"].transform("max")]
    mean = over_seeds(ends, ["method", "measure"]).set_index(["method", "measure"])["mean"]
    other = next(name for name in table["measure"].unique() if name != "in_distribution")
    told = [f"{name_of(m)} at {share(mean[m, 'in_distribution'])} and {share(mean[m, other])}"
            for m in in_order(ends["method"])]
    return f"Mean ends, in distribution and {measure(other).label}: {'; '.join(told)}."


# --- traces and listeners --------------------------------------------------------------------------------------------


def by_bin(bins: dict[str, list[dict]]) -> str:
    """Accuracy in the first and the last bin of disagreement that hold anything."""
    told = []
    for method, rows in bins.items():
        full = [row for row in rows if row["n"]]
        if len(full) > 1:
            first, end = (share(row["accuracy"], row["lo"], row["hi"]) for row in (full[0], full[-1]))
            told.append(f"{name_of(method)} {first} where disagreement is lowest, {end} where it is highest")
    return f"Accuracy of sampled answers. {'; '.join(told) or 'All pairs lie in one bin'}."


def together(table: pd.DataFrame, x: str = "truth", y: str = "followed/llava") -> str:
    """Do runs whose traces are followed more also state more that is true? `table`: `last`."""
    means = table.groupby("method")[[x, y]].mean()
    if len(means) < 2:
        return f"One method: {share(means[y].iloc[0])} followed, {share(means[x].iloc[0])} true."
    most = (f"The highest means: followed, {name_of(means[y].idxmax())} ({share(means[y].max())}); true, "
            f"{name_of(means[x].idxmax())} ({share(means[x].max())}). Other seeds may rank them otherwise.")
    runs = table.groupby("method")[x].agg(["size", "count"])
    for method, (size, with_any) in runs[runs["size"] > runs["count"]].iterrows():
        most += (f" {name_of(method)} has only {with_any} of its {size} runs in that: in the others the traces state "
                 "nothing, and have no share.")
    table = table.dropna(subset=[x, y])
    within = table[[x, y]] - table.groupby("method")[[x, y]].transform("mean")
    if len(table) - len(means) < 3 or (within.std() == 0).any():
        return f"{most} Too few seeds to ask whether the two go together within a method."
    r, free = within.corr().iloc[0, 1], len(within) - table["method"].nunique() - 2
    z, half = math.atanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1.96 / math.sqrt(free) if free > 0 else math.inf
    ends = ", ".join(f"{math.tanh(z + sign * half):+.2f}" for sign in (-1, 1))  # Fisher's z, less a mean a method
    return (f"{most} Within methods, over seeds, the correlation of the two is {r:+.2f}, 95 % [{ends}] "
            f"({len(within)} runs).")


def fooled(proxy: pd.DataFrame, method: str) -> str:
    """What the reward of a method's listener did in training, and whether right answers rose with it."""
    told, gains = [], {}
    for column, what in (("paid", "the reward paid in training"), ("p_better", "the listener's p on the better image"),
                         ("right", "right answers")):
        own = proxy[proxy["method"] == method].dropna(subset=column).sort_values("step")
        ends = own.groupby("seed")[column].agg(["first", "last"])
        gains[column] = several_seeds(ends["last"] - ends["first"])
        told.append(f"{what} {points(*gains[column][:3])}")
    paid, right = (side(*gains[name][1:3]) for name in ("paid", "right"))
    if math.isnan(gains["right"].low):
        verdict = "One seed: no more can be said."
    elif paid == "higher" and right == "lower":
        verdict = "The reward rose and right answers fell: what is paid for and what is wanted have parted."
    elif paid == "higher" and not right:
        verdict = "The reward rose; whether right answers did, these seeds cannot say."
    elif paid == "higher":
        verdict = "Both rose: no sign in these two that the listener is fooled."
    else:
        verdict = "The reward did not clearly rise, so nobody was clearly pleased, let alone fooled."
    return f"{name_of(method)}, from the first measurement to the last: {', '.join(told)}. {verdict}"


def calibrated(table: pd.DataFrame, listener: str) -> list[str]:
    """How far the stated probabilities of a listener are from what comes true, before and after training."""
    told = []
    for method in in_order(table["method"]):
        own = table[table["method"] == method]
        change = several_seeds(own["after"] - own["before"])
        word = "one seed" if math.isnan(change.low) else "no clear change"
        word = {"higher": "worse calibrated", "lower": "better calibrated"}.get(side(*change[1:3]), word)
        told.append(f"{name_of(method)}: {listener}'s calibration error goes from {100 * own['before'].mean():.1f} to "
                    f"{100 * own['after'].mean():.1f} points, {points(*change[:3])}: {word}.")
    return told


def credited(table: pd.DataFrame, part: str) -> list[str]:
    """Which properties a part of the reward pays for, over the whole training."""
    whole = table[table["part"] == part].groupby(["method", "property", "seed"], as_index=False)["value"].mean()
    told = []
    for method in in_order(whole["method"]):
        rows = over_seeds(whole[whole["method"] == method], ["property"]).sort_values("mean", ascending=False)
        ends = ["" if math.isnan(row.low) else f" [{row.low:+.3f}, {row.high:+.3f}]" for row in rows.itertuples()]
        cells = [f"{CREDITED[row.property]} {row.mean:+.3f}{end}"
                 for row, end in zip(rows.itertuples(), ends, strict=True)]
        told.append(f"{name_of(method)}: {', '.join(cells)}.")
    return told
