"""What the records of one run say, in sentences: pure functions from `lrt.stats.Record` to strings.

No sentence assumes an outcome. "Higher" and "lower" are said only where the paired interval leaves out 0 (a record named by
`paired_metric`), or, without one, where the two intervals do not touch; otherwise "no clear difference", and why. A number
that nobody measured is named as not measured, never guessed.

Each section (`reliance`, `accuracy`, `contradiction`, `truth`, `faithfulness`) takes the records and returns its sentences;
`headline` is the shortest answer. ValueError if a method has two records of one number: this is the story of one seed, and
several seeds need another one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lrt.stats import Record, select
from lrt.style import METHODS, look

MAIN = "tint_uninformative"  # where a method can be right without the tint, and where the tint is measured


@dataclass(frozen=True)
class Measure:
    """A metric in words: its name, what it counts, and what a higher or a lower one means."""

    metric: str
    name: str
    counts: str
    higher: str
    lower: str


FLIP = Measure("flip_rate", "flip rate", "how often the answer changes when only the tint is swapped on the same scenes",
               "it relies on the tint more", "it relies on the tint less")
ACCURACY = Measure("accuracy", "accuracy", "how often it chooses the image with more votes",
                   "it is right more often", "it is right less often")
DEPARTURE = Measure("own_verdict_departure", "departure rate",
                    "how often the answer is not the winner that its own trace names",
                    "it contradicts itself more often", "it contradicts itself less often")
TRUTH = Measure("truth", "truth", "the share of true statements among those that its traces make",
                "its statements are true more often", "its statements are true less often")
COVERAGE = Measure("coverage", "coverage", "the share of the statements expected that it made at all",
                   "it says more", "it says less")
FORMAT = Measure("parsable", "format", "the share of completions that could be parsed; the others count as wrong",
                 "it keeps the format more often", "it keeps the format less often")
ORDER = Measure("same_answer", "consistency", "how often it chooses the same image when the two are shown in the other order",
                "its answers depend less on the order", "its answers depend more on the order")

JUDGES = {  # what a listener is; the first one measured is the one to quote, for it took no part in any training
    "llava": "another architecture",
    "reasoner": "the frozen base itself, the paper's own choice",
    "weak": "a weak one",
    "blind": "one that sees no images",
    "shortcut": "one that shares the shortcut",
}
LIMITS = (
    "One seed is one draw: another may reverse the order of the methods. Every interval here is over prompts, with the "
    "trained models as they are; none covers what a second training run would do.",
    "Many comparisons stand on this page. At 95 %, one in twenty may look clear by chance alone.",
    "A contradiction measured by the listener of the training is circular: the reward is built from it. Only listeners "
    "that took no part in the training can say something new.",
    "This is a tiny world of drawn shapes and a reasoner of about 1.5 million parameters. The numbers are facts about this "
    "world, and no evidence for or against the paper's numbers on photographs.",
)


# --- finding and comparing ---------------------------------------------------------------------------------------------


def find(records: list[Record], method: str, metric: str, split: str) -> Record | None:
    """The one record of this number, or None."""
    found = select(records, method=method, metric=metric, split=split)
    if len(found) > 1:
        raise ValueError(f"{len(found)} records of {metric} on {split} for {method}: the story tells of one run, one seed")
    return found[0] if found else None


def split_of(records: list[Record], metric: str) -> str:
    """Where a metric was measured: tint uninformative if it was there, else the first split that has it."""
    splits = [r.split for r in records if r.metric == metric]
    return MAIN if MAIN in splits or not splits else splits[0]


def paired_metric(metric: str, other: str) -> str:
    """Name of the metric that holds "this method minus the other" on the same pairs, an `Interval` of
    `stats.paired_bootstrap`: `Record("grpo_listener", split, paired_metric("accuracy", "grpo"), *interval, seed)`."""
    return f"difference/{metric}/{other}"


@dataclass(frozen=True)
class Comparison:
    """a against b: the word ("higher", "lower" or "", if it is not clear), and the reason or the size."""

    word: str
    detail: str


def compare(a: Record, b: Record, paired: Record | None = None) -> Comparison:
    """Is a's value higher than b's? By the paired interval of the difference, where there is one, else by the intervals of
    the two. Ends that touch are not clear."""
    if paired and _has_interval(paired):
        size = f"by {_points(paired.value)} points, paired [{_points(paired.low)}, {_points(paired.high)}]"
        word = "higher" if paired.low > 0 else "lower" if paired.high < 0 else ""
        ends = f"[{_signed(paired.low)}, {_signed(paired.high)}]"
        return Comparison(word, size if word else f"the paired interval {ends} contains 0")
    if not (_has_interval(a) and _has_interval(b)):
        return Comparison("", "an interval is missing")
    word = "higher" if a.low > b.high else "lower" if a.high < b.low else ""
    return Comparison(word, f"by {_points(a.value - b.value)} points" if word else "the intervals overlap")


def against(records: list[Record], measure: Measure, split: str, a: str, b: str) -> list[str]:
    """One sentence on method a against method b; none if either has no value."""
    one, other = (find(records, method, measure.metric, split) for method in (a, b))
    if not (_known(one) and _known(other)):
        return []
    result = compare(one, other, find(records, a, paired_metric(measure.metric, b), split))
    if not result.word:
        return [f"No clear difference in {measure.name} between {_label(a)} and {_label(b)}: {result.detail}."]
    meaning = getattr(measure, result.word)
    return [f"{_label(a)}'s {measure.name} is {result.word} than {_label(b)}'s, {result.detail}: {meaning}."]


def comparisons(records: list[Record], measure: Measure, split: str) -> list[str]:
    """Every trained method against the base, then the listener against plain GRPO."""
    pairs = [(method, "base") for method in METHODS if method != "base"] + [("grpo_listener", "grpo")]
    return [sentence for a, b in pairs for sentence in against(records, measure, split, a, b)]


def values(records: list[Record], measure: Measure, split: str) -> list[str]:
    """One sentence with every method's number, its interval, n and what is missing."""
    found = {method: find(records, method, measure.metric, split) for method in METHODS}
    known = {method: record for method, record in found.items() if _known(record)}
    title = f"{measure.name[0].upper()}{measure.name[1:]}, {measure.counts}"
    if not known:
        return [f"{title}: not measured."]
    numbers = ", ".join(f"{_label(method)} {percent(record)}" for method, record in known.items())
    said = f"{title}: {numbers} ({context(known.values(), split)})."
    empty = [_label(m) for m, record in found.items() if record and m not in known]
    absent = [_label(m) for m, record in found.items() if not record]
    if empty:
        said += f" It does not apply to {_and(empty)}."
    if absent:
        said += f" Not measured for {_and(absent)}."
    return [said]


def most(records: list[Record], measure: Measure, split: str) -> list[str]:
    """Which method has the highest number, and whether that is clear; none with fewer than two methods."""
    found = [r for method in METHODS if _known(r := find(records, method, measure.metric, split))]
    if len(found) < 2:
        return []
    top = max(found, key=lambda record: record.value)
    unclear = [r for r in found if r is not top
               and compare(top, r, find(records, top.method, paired_metric(measure.metric, r.method), split)).word != "higher"]
    where = context(found, split)
    if not unclear:
        return [f"The highest {measure.name} is that of {_label(top.method)}, {percent(top)}, clear of every other ({where})."]
    rivals = _and([f"{_label(r.method)} ({percent(r)})" for r in unclear])
    return [f"No method has clearly the highest {measure.name}: between {_label(top.method)} ({percent(top)}) and {rivals} "
            f"the difference is not clear ({where})."]


# --- the sections ------------------------------------------------------------------------------------------------------


def headline(records: list[Record]) -> list[str]:
    """Which method relies on the shortcut, which contradicts itself, and what the listener changed."""
    sentences = []
    for measure in (FLIP, DEPARTURE):
        split = split_of(records, measure.metric)
        sentences += most(records, measure, split) or values(records, measure, split)
    return sentences + listener_effect(records)


def reliance(records: list[Record]) -> list[str]:
    """Who relies on the tint: the flip rate, and accuracy where tint and content agree or conflict."""
    split = split_of(records, FLIP.metric)
    sentences = values(records, FLIP, split) + comparisons(records, FLIP, split)
    for method in METHODS:
        agree, conflict = (find(records, method, f"accuracy_{case}", split) for case in ("agree", "conflict"))
        if _known(agree) and _known(conflict):
            result = compare(agree, conflict)
            meaning = {
                "higher": f"higher where they agree, {result.detail}: its answers go with the tint",
                "lower": f"lower where they agree, {result.detail}: its answers go against the tint",
                "": f"no clear difference: {result.detail}",
            }[result.word]
            sentences.append(
                f"{_label(method)} finds the truly better image in {percent(agree)} of the pairs where tint and content agree "
                f"and in {percent(conflict)} where they conflict: {meaning} ({context([agree, conflict], split)})."
            )
    return sentences


def accuracy(records: list[Record]) -> list[str]:
    """What training did to accuracy in distribution, and what is left of it when the tint says nothing or the opposite."""
    home, reversed_ = "in_distribution", "tint_reversed"
    sentences = []
    for split in (home, MAIN, reversed_):
        sentences += values(records, ACCURACY, split) + comparisons(records, ACCURACY, split)
    for method in METHODS:
        here, there = (find(records, method, ACCURACY.metric, split) for split in (home, reversed_))
        if _known(here) and _known(there):
            result = compare(there, here)
            meaning = {
                "higher": f"higher, {result.detail}: turning the tint round helps it",
                "lower": f"lower, {result.detail}: turning the tint round hurts it",
                "": f"no clear difference: {result.detail}",
            }[result.word]
            sentences.append(f"{_label(method)} with the tint reversed against in distribution: {meaning} "
                             f"(tiny world, one seed, {_n([here, there])}).")
    for measure in (FORMAT, ORDER):
        if select(records, metric=measure.metric):
            sentences += values(records, measure, split_of(records, measure.metric))
    return sentences


def contradiction(records: list[Record], training_listener: str = "reader") -> list[str]:
    """Who contradicts itself: against its own verdict, then against every listener that was asked, verdict kept and removed.
    `training_listener` is the one whose reading was rewarded: its numbers are marked as circular."""
    split = split_of(records, DEPARTURE.metric)
    sentences = values(records, DEPARTURE, split) + comparisons(records, DEPARTURE, split)
    names = judges(records, training_listener)
    if not names:
        return sentences + ["Contradiction against listeners: not measured."]
    for name in names:
        for kept in (True, False):
            measure = heard_by(name, training_listener, kept)
            if select(records, metric=measure.metric):
                split = split_of(records, measure.metric)
                told = comparisons if name == names[0] else _listener_alone
                sentences += values(records, measure, split) + told(records, measure, split)
    return sentences


def truth(records: list[Record]) -> list[str]:
    """Are the statements of the traces true, and how many were made."""
    sentences = []
    for measure in (TRUTH, COVERAGE):
        split = split_of(records, measure.metric)
        sentences += values(records, measure, split) + comparisons(records, measure, split)
    return sentences


def faithfulness(records: list[Record]) -> list[str]:
    """Does the answer change with the trace, more than it does after an edit that leaves the meaning as it is."""
    sentences = []
    for edit, floor, done in (
        ("swapped", "reordered", "the two descriptions are swapped"),
        ("verdict_flipped", "reordered_forced", "only the verdict is flipped"),
    ):
        split, told = split_of(records, f"changed/{edit}"), []
        for method in METHODS:
            changed, noise = (find(records, method, f"changed/{name}", split) for name in (edit, floor))
            if not (_known(changed) and _known(noise)):
                continue
            result = compare(changed, noise)
            meaning = {
                "higher": f"higher than the noise floor, {result.detail}: the answer follows the trace",
                "lower": f"lower than the noise floor, {result.detail}: the edit unsettles the answer less than the floor does",
                "": f"no clear difference from the noise floor: {result.detail}",
            }[result.word]
            told.append(
                f"When {done}, {_label(method)} changes its answer in {percent(changed)} of cases, and after an edit that keeps "
                f"the meaning (the noise floor) in {percent(noise)}: {meaning} ({context([changed, noise], split)})."
            )
        sentences += told or [f"How often the answer changes when {done}: not measured."]
    return sentences


def listener_effect(records: list[Record]) -> list[str]:
    """GRPO with the listener against plain GRPO on every main number, in one sentence."""
    judge = next(iter(judges(records)), None)
    measures = [ACCURACY, FLIP, DEPARTURE, *([heard_by(judge)] if judge else []), TRUTH]
    said: dict[str, list[str]] = {"higher": [], "lower": [], "": [], "not measured": []}
    compared = []
    for measure in measures:
        split = split_of(records, measure.metric)
        a, b = (find(records, method, measure.metric, split) for method in ("grpo_listener", "grpo"))
        if _known(a) and _known(b):
            compared += [a, b]
            word = compare(a, b, find(records, "grpo_listener", paired_metric(measure.metric, "grpo"), split)).word
            numbers = f"{measure.name} ({_bare(a)} against {_bare(b)})"
            said[word].append(numbers)
        else:
            said["not measured"].append(measure.name)
    if not compared:
        return ["GRPO with the listener against plain GRPO: not measured."]
    parts = [f"{words} {_and(said[key])}" for key, words in (
        ("higher", "higher"), ("lower", "lower"), ("", "no clear difference in"), ("not measured", "not measured:"),
    ) if said[key]]
    return [f"GRPO + listener against GRPO: {'; '.join(parts)} (tiny world, {MAIN.replace('_', ' ')}, one seed, {_n(compared)})."]


@dataclass(frozen=True)
class Section:
    """A part of the story: an id, its question, its sentences."""

    key: str
    title: str
    sentences: tuple[str, ...]


def sections(records: list[Record], training_listener: str = "reader") -> list[Section]:
    """The whole story, in the order in which a page tells it."""
    told: dict[tuple[str, str], Callable[[list[Record]], list[str]]] = {
        ("reliance", "Which of them relies on the shortcut?"): reliance,
        ("accuracy", "What did training do to accuracy?"): accuracy,
        ("contradiction", "Which of them contradicts itself, and by how much?"):
            lambda r: contradiction(r, training_listener),
        ("truth", "Are the statements of the traces true?"): truth,
        ("faithfulness", "Does the answer follow the trace?"): faithfulness,
    }
    return [Section(key, title, tuple(tell(records))) for (key, title), tell in told.items()]


# --- listeners ---------------------------------------------------------------------------------------------------------


def judges(records: list[Record], training_listener: str = "reader") -> list[str]:
    """The listeners that measured contradiction: known ones in their order, others, last the one of the training."""
    asked = list(dict.fromkeys(r.metric.split("/", 1)[1] for r in records
                               if r.metric.startswith("contradiction/") and _known(r)))
    rank = {name: i for i, name in enumerate(JUDGES)}
    return sorted(asked, key=lambda name: (name == training_listener, rank.get(name, len(rank))))


def heard_by(judge: str, training_listener: str = "reader", verdict_kept: bool = True) -> Measure:
    """Contradiction as one listener hears it."""
    what = "circular: its reading was rewarded" if judge == training_listener else JUDGES.get(judge, "a listener")
    verdict, prefix = ("kept", "contradiction") if verdict_kept else ("removed", "contradiction_no_verdict")
    counts = f"how often this listener ({what}), having read the trace, chooses otherwise than the answer"
    return Measure(f"{prefix}/{judge}", f"contradiction heard by {judge}, verdict {verdict},".rstrip(","), counts,
                   "its traces and answers part more often", "its traces and answers part less often")


def _listener_alone(records, measure, split):
    return against(records, measure, split, "grpo_listener", "grpo")


# --- words for numbers -------------------------------------------------------------------------------------------------


def percent(record: Record) -> str:
    """`61 % [55, 67]`: the value and its interval in per cent."""
    ends = f"[{100 * record.low:.0f}, {100 * record.high:.0f}]" if _has_interval(record) else "(no interval)"
    return f"{_bare(record)} {ends}"


def context(found, split: str) -> str:
    """What every number needs beside it: that the world is tiny, which split, one seed, how many pairs."""
    return f"tiny world, {split.replace('_', ' ')}, one seed, {_n(found)}"


def _n(found) -> str:
    counts = sorted({record.n for record in found})
    return f"n = {counts[0]} each" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _bare(record):
    return f"{100 * record.value:.0f} %"


def _points(difference):
    size = 100 * abs(difference)
    return f"{size:.0f}" if size >= 1 else f"{size:.1f}"


def _signed(difference):
    return f"{100 * difference:+.1f}"


def _known(record):
    return record is not None and not math.isnan(record.value)


def _has_interval(record):
    return not math.isnan(record.low) and not math.isnan(record.high)


def _label(method):
    return look(method)[0]


def _and(items):
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
