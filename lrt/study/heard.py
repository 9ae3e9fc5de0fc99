"""What the study's tables on traces, listeners and the gradient say, in sentences (see `lrt.study.story`)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrt.metrics import rate
from lrt.stats import several_seeds
from lrt.study.credit import CREDITED
from lrt.study.logs import Run
from lrt.study.tables import PROBES, over_seeds
from lrt.style import in_order
from lrt.words import FEW, capital, listed, name_of, points, seeds_text, share, side


def by_bin(bins: dict[str, list[dict]]) -> str:
    """Accuracy in the first and the last bin of disagreement that hold anything."""
    told, apart = [], []
    for method, rows in bins.items():
        full = [row for row in rows if row["n"]]
        if len(full) > 1:
            first, end = (share(row["accuracy"], row["lo"], row["hi"]) for row in (full[0], full[-1]))
            told.append(f"{name_of(method)} {first} where disagreement is lowest, {end} where it is highest")
            apart += [name_of(method)] if full[0]["lo"] > full[-1]["hi"] else []
    return (f"Accuracy of sampled answers. {'; '.join(told) or 'All pairs lie in one bin'}. The two intervals lie "
            f"apart, the lower where disagreement is highest, for {listed(apart)}.")


def together(table: pd.DataFrame, y: str = "followed/llava") -> str:
    """Do runs whose traces are followed more also state more that is true? `table`: `last`."""
    x = "truth"
    runs, mute = table.groupby("method")[x].agg(["size", "count"]), table.loc[table[x].isna(), "seed"]
    means = table[~table["seed"].isin(mute)].groupby("method")[[x, y]].mean()
    if len(runs) < 2:
        both = table[[x, y]].mean()
        return f"One method: {share(both[y])} followed, {share(both[x])} true."
    most = ""
    if len(means):
        most = (f"The highest means: followed, {name_of(means[y].idxmax())} ({share(means[y].max())}); true, "
                f"{name_of(means[x].idxmax())} ({share(means[x].max())}). Other seeds may rank them otherwise.")
    for method, (size, with_any) in runs[runs["size"] > runs["count"]].iterrows():
        most += (f" {name_of(method)} has traces with statements in {with_any} of its {size} runs alone: the means are "
                 "over the seeds in which every method has them, and the figure leaves the others of its runs out.")
    table = table.dropna(subset=[x, y])
    means = table.groupby("method")[[x, y]].mean()
    within = table[[x, y]] - table.groupby("method")[[x, y]].transform("mean")
    if len(table) - len(means) < 3 or (within.std() == 0).any():
        return f"{most} Too few seeds to ask whether the two go together within a method."
    r, free = within.corr().iloc[0, 1], len(within) - table["method"].nunique() - 2
    z, half = math.atanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1.96 / math.sqrt(free) if free > 0 else math.inf
    low, high = math.tanh(z - half), math.tanh(z + half)  # Fisher's z, less a mean a method
    found = {"higher": "the two go together", "lower": "they go apart"}.get(side(low, high, 2), "no clear relation")
    return (f"{most} Within methods, over seeds, the correlation of the two is {r:+.2f}, 95 % [{low:+.2f}, "
            f"{high:+.2f}] ({len(within)} runs): {found}. Seeds differ in their base as well: some of it may be the "
            "bases'.")


def probed(table: pd.DataFrame) -> str:
    """Each probe's mean before and after, method by method; table: `tables.probes`."""
    means = table.groupby(["method", "when"])[list(PROBES)].mean()
    told = []
    for probe, (label, unit) in PROBES.items():
        scale = 1 if probe == "length" else 100
        cells = [f"{name_of(method)} {scale * means.loc[method, 'before'][probe]:.0f} to "
                 f"{scale * means.loc[method, 'after'][probe]:.0f}" for method in in_order(table["method"])]
        told.append(f"{capital(label)} ({unit}), means before and after: {', '.join(cells)}.")
    return " ".join(told)


def silent(probes: pd.DataFrame) -> str:
    """Which runs end with more than half of their traces without any statement; probes: `tables.probes`."""
    runs = probes[(probes["when"] == "after") & (probes["verdict only"] > 0.5)]
    told = [f"{name_of(row.method)} seed {row.seed}" for row in runs.itertuples()]
    return f"Runs whose traces mostly state nothing in the end, which a mean over seeds hides: {listed(told)}."


def without_verdict(runs: Sequence[Run]) -> str:
    """Which runs end with traces that name no winner, in more than one sampled trace of ten that has an answer."""
    told = []
    for run in runs:
        table = run.final.dropna(subset="sampled")
        none = table["sampled_verdicts"].isna().mean()
        told += [f"{name_of(run.cell.method)} seed {run.cell.seed} ({share(none)} name none)"] if none > 0.1 else []
    return (f"Runs whose sampled traces often name no winner in the end: {listed(told)}. Where nothing is named, "
            "nothing can depart: a low rate there is silence, not consistency, and a run without any is left out.")


def fooled(proxy: pd.DataFrame, greedy: pd.DataFrame, method: str) -> str:
    """What the reward of a method's listener did in training, and whether right answers rose with it: sampled ones
    (proxy: `tables.proxy_and_gold`) and greedy ones (`tables.curves` of one measure)."""
    told, gains = [], {}
    for table, column, what in ((proxy, "paid", "the reward paid in training"),
                                (proxy, "p_better", "the listener's p on the better image"),
                                (proxy, "right", "right sampled answers"), (greedy, "value", "right greedy answers")):
        own = table[table["method"] == method].dropna(subset=column).sort_values("step")
        ends = own.groupby("seed")[column].agg(["first", "last"])
        gains[column] = several_seeds(ends["last"] - ends["first"])
        told.append(f"{what} {points(*gains[column][:3])}")
    paid, right, choice = (side(*gains[name][1:3]) for name in ("paid", "right", "value"))
    if math.isnan(gains["right"].low):
        verdict = "One seed: no more can be said."
    elif paid == "higher" and right == "lower":
        verdict = "The reward rose and right answers fell: what is paid for and what is wanted have parted."
    elif paid == "higher" and choice == "lower":
        verdict = "The reward rose and right greedy answers fell, so what is paid for and what is wanted have parted."
    elif paid == "higher" and not right:
        verdict = "The reward rose; whether right answers did, these seeds cannot say."
    elif paid == "higher":
        verdict = "The reward and right sampled answers both rose, and greedy ones did not clearly fall."
    else:
        verdict = "The reward did not clearly rise: whether anybody was pleased, or fooled, these seeds cannot say."
    return f"{name_of(method)}, from the first measurement to the last: {', '.join(told)}. {verdict}"


def calibrated(table: pd.DataFrame, listener: str) -> str:
    """How far the stated probabilities of a listener are from what comes true, before and after training."""
    means, clear = table.groupby("method")[["before", "after"]].mean(), []
    for method in in_order(table["method"]):
        own = table[table["method"] == method]
        change = several_seeds(own["after"] - own["before"])
        word = {"higher": "worse", "lower": "better"}.get(side(*change[1:3]))
        clear += [f"{name_of(method)} {word} by {points(*change[:3])}"] if word else []
    after = [f"{name_of(method)} {100 * means.loc[method, 'after']:.1f}" for method in in_order(table["method"])]
    return (f"Calibration error of {listener}, points, before {100 * means['before'].mean():.1f}; after: "
            f"{', '.join(after)}. Clearly changed: {'; '.join(clear) or 'none'}.")


def paid_apart(table: pd.DataFrame, name: str, method: str, other: str) -> str:
    """How much more one method's added part pays for a property than another's, over the whole training, seed by seed;
    "" without two such methods. table: `tables.credits`."""
    own = table[(table["part"] == "credit_added") & (table["property"] == name)]
    mean = own.groupby(["method", "seed"])["value"].mean().unstack("method")
    if not {method, other} <= set(mean):
        return ""
    found = several_seeds((mean[method] - mean[other]).dropna())
    word = {"higher": "more", "lower": "less"}.get(side(*found[1:3], decimals=4), "not clearly more or less")
    said = (f"pays {word} than that of {name_of(other)}" if found.n >= FEW else
            f"less that of {name_of(other)} ({seeds_text(found.n)}, too few to name a side)")
    ends = "" if math.isnan(found.low) else f" [{found.low:+.4f}, {found.high:+.4f}]"
    return f"For *{CREDITED[name]}* the added part of {name_of(method)} {said}: {found.value:+.4f}{ends}."


def leaned(frame: pd.DataFrame, p: pd.DataFrame, listener: str) -> str:
    """Does a listener go with a verdict, or against it? frame: judgements of one sampled trace a pair; p:
    `contradiction.leaning` of it."""
    found = rate(frame, p["kept"] - p["turned"])
    word = {"higher": "with", "lower": "against"}.get(side(*found[1:3]))
    what = f"leans {word} the verdict" if word else "does not clearly lean to either side"
    means = ", ".join(f"{name} {p[name].mean():.3f}" for name in p)
    return (f"{listener}, {found.n} traces of the base: p of the image that the trace names as the winner, verdict "
            f"{means}. Kept less turned {points(*found[:3])}: it {what}.")


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
