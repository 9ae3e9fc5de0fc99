"""What the study's tables say, in sentences: for the text of a page, and as the words that stand for a figure.

No sentence assumes an outcome. "Higher", "lower", "more" and "fewer" appear only where an interval leaves out 0; where
there is none, since one seed has none, that is said. Every function returns a sentence or a list of them.
"""

import math
from collections.abc import Sequence

import pandas as pd

from lrt.stats import several_seeds
from lrt.study.claims import PLANNED, WHERE, Decision
from lrt.study.credit import CREDITED
from lrt.study.effects import Effect
from lrt.study.grid import Grid
from lrt.study.logs import Run
from lrt.study.outcomes import measure
from lrt.study.tables import Split, over_seeds
from lrt.study.words import capital, listed, name_of, points, seeds_text, share, side
from lrt.style import in_order

SEEN_SIZE = 0.1  # a help of 10 points: what the plan asks the study to be able to exclude


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
    """Each method's difference in one measure, from plain GRPO or (`stopped_early`) from its own last step."""
    told = []
    for e in (e for e in effects if e.measure == name and not math.isnan(e.effect)):
        word, better = side(e.low, e.high), measure(name).better
        verdict = "one seed, so no interval" if math.isnan(e.low) else "not clearly different"
        if word:
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


def prevents(last: Sequence[Effect], matched: Sequence[Effect], long: Sequence[Effect], method: str) -> str:
    """The plan's three words for a listener, by `flip` against plain GRPO: prevents, delays, neither. Each list holds
    `effects.against_plain`: at the last step, at matched accuracy, and (of any method) at the last of 900 steps."""
    at_end, at_matched = ([e for e in found if e.method == method and e.measure == "flip"] for found in (last, matched))
    later = [e for e in long if e.measure == "flip"]
    if not at_end or math.isnan(at_end[0].low):
        return f"{name_of(method)}: too few seeds to say anything about the tint."
    if side(at_end[0].low, at_end[0].high) != "lower":
        return (f"{name_of(method)}: **neither** is shown. At the last step its answers do not flip clearly less often "
                f"than plain GRPO's: {points(*_three(at_end[0]))}.")
    told = {"where it is as accurate in distribution": at_matched, "in the runs of 900 steps": later}
    less = {where: side(found[0].low, found[0].high) == "lower" for where, found in told.items()
            if found and not math.isnan(found[0].low)}
    text = f"{name_of(method)}: at the last step its answers flip less often ({points(*_three(at_end[0]))})"
    if not all(less.values()):
        return f"{text}, but not clearly so {listed(w for w, yes in less.items() if not yes)}: **delays**, at most."
    if missing := [where for where in told if where not in less]:
        return f"{text}; whether that is to prevent or to delay must be seen {listed(missing)}: not run."
    return f"{text}, and so they do {listed(less)}: **prevents**, as far as these runs go."


def _three(e: Effect) -> tuple[float, float, float]:
    return e.effect, e.low, e.high


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
    most = (f"On average {name_of(means[y].idxmax())} is followed most ({share(means[y].max())}), and of what it "
            f"states {name_of(means[x].idxmax())} has the largest share true ({share(means[x].max())}).")
    runs = table.groupby("method")[x].agg(["size", "count"])
    for method, (size, with_any) in runs[runs["size"] > runs["count"]].iterrows():
        most += (f" {name_of(method)} has only {with_any} of its {size} runs in that: in the others the traces state "
                 "nothing, and have no share.")
    within = table[[x, y]] - table.groupby("method")[[x, y]].transform("mean")
    if len(table) - len(means) < 3 or (within.std() == 0).any():
        return f"{most} Too few seeds to ask whether the two go together within a method."
    r, n = within.corr().iloc[0, 1], int(within.notna().all(axis=1).sum())
    return f"{most} Within methods, over seeds, the correlation of the two is {r:+.2f} ({n} runs)."


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
        verdict = "Both rose: no sign here that the listener is fooled."
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


# --- claims ----------------------------------------------------------------------------------------------------------


def decided(decisions: Sequence[Decision], details: bool = True) -> list[str]:
    """The claims that are decided, in words with their effects; the names of the others, and (`details`) what each that
    is not supported leaves open."""
    told = []
    for verdict in ("supported", "reversed"):
        for d in (d for d in decisions if d.verdict == verdict):
            c = d.comparisons[0]
            told.append(f"**{capital(verdict)}** {WHERE}: {d.claim.text} ({d.claim.id}; "
                        f"{points(c.effect, c.low, c.high)} against {name_of(c.against)}).")
    for verdict in ("not supported", "not run"):
        if names := [d.claim.id for d in decisions if d.verdict == verdict]:
            told.append(f"**{capital(verdict)}** {WHERE if verdict != 'not run' else 'yet'}: {listed(names)}.")
    if early := [d for d in decisions if d.verdict != "not run" and d.seeds < PLANNED]:
        told.append(f"These verdicts are on the way: the plan asks for {PLANNED} seeds, and {len(early)} of them rest "
                    f"on fewer, {min(d.seeds for d in early)} at least.")
    open_ones: dict[str, list[str]] = {}
    for d in (d for d in decisions if details and d.verdict == "not supported"):
        sign = 1 if d.claim.predicted == "higher" else -1
        open_to = [c.against for c in d.comparisons if max(sign * c.low, sign * c.high) > SEEN_SIZE]
        held = [c.against for c in d.comparisons if c.p_holm <= 0.05 and sign * c.effect > 0]
        text = "clear against " + listed(map(name_of, held))
        size = f"not excluded against {listed(map(name_of, open_to))}" if open_to else "excluded against all"
        text += f"; an effect of {100 * SEEN_SIZE:.0f} points as predicted is {size}"
        open_ones.setdefault(text, []).append(d.claim.id)
    return told + [f"{listed(names)}: {text}." for text, names in open_ones.items()]
