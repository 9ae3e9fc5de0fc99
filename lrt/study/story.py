"""What the study's tables say, in sentences: for the text of a page, and as the words that stand for a figure.

No sentence assumes an outcome. "Higher", "lower", "more" and "fewer" appear only where an interval leaves out 0; where
there is none, since one seed has none, that is said. Every function returns a sentence or a list of them.
"""

import math
from collections.abc import Sequence

import pandas as pd

from lrt.stats import several_seeds
from lrt.study.effects import Effect, own_ear
from lrt.study.grid import Grid
from lrt.study.logs import Run
from lrt.study.outcomes import measure
from lrt.study.tables import Split, over_seeds
from lrt.style import in_order
from lrt.words import FEW, capital, in_points, label_of, listed, name_of, points, seeds_text, share, side

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


def counted(runs: Sequence[Run], grid: Grid) -> str:
    """How many of the planned runs are there, in one sentence."""
    have, told = {(run.cell.method, run.cell.seed) for run in runs}, []
    for tier in grid.tiers:
        wanted = [(method, seed) in have for seed in tier.seeds for method in tier.methods]
        told.append(f"{sum(wanted)} of {len(wanted)} of tier {tier.name}")
    return f"Runs so far: {listed(told)}."


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


def at_the_level(flip: Effect, level: Effect) -> str:
    """Two effects at matched accuracy (`effects.against_plain`), answers that flip and accuracy in distribution: how
    far apart both are where each run first reaches what both reach. "" where no seed compares."""
    if not flip.seeds:
        return ""
    ran = len(flip.seeds) + len(flip.left_out)
    which = f"{len(flip.seeds)} of {seeds_text(ran)}" + ("; in the others one of the two never rises above its base"
                                                         if flip.left_out else "")
    word = side(flip.low, flip.high) if len(flip.seeds) >= FEW else ""
    few = "" if len(flip.seeds) >= FEW else ", and too few seeds to name a side"
    return (f"{name_of(flip.method)} and {name_of(flip.reference)}, each at the first step at which it reaches the "
            f"accuracy in distribution that both reach ({which}): {measure(flip.measure).label} "
            f"{points(flip.effect, flip.low, flip.high)}, {word or 'not clearly different'}{few}; there they are "
            f"{points(level.effect, level.low, level.high)} apart in {measure(level.measure).label}.")


def both_clear(effects: Sequence[Effect], guess: str) -> str:
    """What was guessed, that every one of these differences is clearly above 0, and whether it is so."""
    if not effects or any(not e.seeds for e in effects):
        return f"{guess} Not all of it has been run."
    n = min(len(e.seeds) for e in effects)
    if n < FEW:
        return f"{guess} {capital(seeds_text(n))} are too few to say."
    clear = [side(e.low, e.high) == "higher" for e in effects]
    return f"{guess} By these intervals it is {'so' if all(clear) else 'not shown'} ({seeds_text(n)})."


def widest(effects: Sequence[Effect]) -> str:
    """What the intervals that hold 0 also hold."""
    held = [e for e in effects if not math.isnan(e.low) and not side(e.low, e.high)]
    if not held:
        return "No interval holds 0."
    low, high = min(held, key=lambda e: e.low), max(held, key=lambda e: e.high)
    return (f"Of {len(effects)} intervals {len(held)} hold 0. They hold much else, down to "
            f"{in_points(low.low)} points ({name_of(low.method)}, {measure(low.measure).label}) and up to "
            f"{in_points(high.high)} ({name_of(high.method)}, {measure(high.measure).label}).")


def effects_alt(effects: Sequence[Effect]) -> str:
    """What `effects.against_plain` found in all measures, in short."""
    return f"Differences from plain GRPO at the last step. {in_short(effects)}"


def in_short(effects: Sequence[Effect]) -> str:
    """Measure by measure, whose effects leave out 0: no side from fewer than `FEW` seeds."""
    told = []
    for name in dict.fromkeys(e.measure for e in effects):
        own = [e for e in effects if e.measure == name and not math.isnan(e.effect)]
        known = [e for e in own if len(e.seeds) >= FEW]
        groups = {word: [name_of(e.method) for e in known if side(e.low, e.high) == word]
                  for word in ("lower", "higher")}
        clear = "; ".join(f"clearly {word}: {listed(names)}" for word, names in groups.items() if names)
        if not clear:
            few = "one seed, no interval" if all(math.isnan(e.low) for e in own) else "too few seeds to name a side"
            clear = "no clear difference" if known else few
        told.append(f"{measure(name).label}: {clear}")
    return f"{'. '.join(map(capital, told))}."


def ranged(effects: Sequence[Effect], grid: Grid) -> list[str]:
    """Measure by measure, from which method's mean difference to which: what a figure of many methods shows, and no
    verdict."""
    def end(e: Effect) -> str:
        notes = ["one seed"] * (len(e.seeds) == 1) + ["heard by a listener that was paid for"] * own_ear(e, grid)
        return f"{in_points(e.effect)} ({', '.join([label_of(e.method, grid.labels), *notes])})"

    told = []
    for name in dict.fromkeys(e.measure for e in effects):
        own = sorted((e for e in effects if e.measure == name and not math.isnan(e.effect)), key=lambda e: e.effect)
        if own:
            span = f"from {end(own[0])} to {end(own[-1])}" if len(own) > 1 else end(own[0])
            told.append(f"{capital(measure(name).label)}: means {span} points.")
    return told


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


def fallen(ends: pd.DataFrame) -> str:
    """In how many runs of each method more than half of the answers flip; ends: `tables.last` of "flip"."""
    told = []
    for method in in_order(ends["method"]):
        own = ends[ends["method"] == method]
        seeds = own.loc[own["flip"] > 0.5, "seed"]
        which = f" ({'seed' if len(seeds) == 1 else 'seeds'} {listed(map(str, seeds))})" if len(seeds) else ""
        told.append(f"{name_of(method)} {len(seeds)} of {len(own)}{which}")
    return f"Runs that end with more than half of their answers flipping: {', '.join(told)}."


def paths(table: pd.DataFrame) -> str:
    """Where each method's runs end in the plane of the two accuracies; table: `curves` of agree and conflict."""
    mean = table.groupby(["method", "step", "measure"])["value"].mean().unstack()
    told = []
    for method in in_order(table["method"]):
        own = mean.loc[method].sort_index()
        told.append(f"{name_of(method)} at {share(own['agree'].iloc[-1])} and {share(own['conflict'].iloc[-1])}")
    start = table[table["step"] == table["step"].min()].groupby("measure")["value"].mean()
    return (f"Right where the tint agrees, and where it conflicts: the bases at {share(start['agree'])} and "
            f"{share(start['conflict'])}; mean ends {'; '.join(told)}.")


def moved(table: pd.DataFrame, name: str, method: str) -> str:
    """Did a measure of one method's runs move, from the first measurement to the last? table: `curves`."""
    own = table[(table["measure"] == name) & (table["method"] == method)].sort_values("step")
    ends = own.groupby("seed")["value"].agg(["first", "last"])
    change = several_seeds(ends["last"] - ends["first"])
    word = {"higher": "rose", "lower": "fell"}.get(side(*change[1:3]), "did not clearly move")
    word = "moved, in one seed" if math.isnan(change.low) else word
    return (f"{name_of(method)}, {measure(name).label}: {word}, from {share(ends['first'].mean())} to "
            f"{share(ends['last'].mean())}, {points(*change[:3])}.")


def slopes(ends: pd.DataFrame) -> str:
    """How much each method's runs rely on the tint, as slopes over the dial; ends: `last` of agree and conflict."""
    slope, told = ends["agree"] - ends["conflict"], []
    for method in in_order(ends["method"]):
        own = slope[ends["method"] == method]
        told.append(f"{name_of(method)} {points(*several_seeds(own)[:3])} ({seeds_text(len(own))})")
    return f"Slopes, right where the tint agrees less right where it conflicts: {', '.join(told)}."
