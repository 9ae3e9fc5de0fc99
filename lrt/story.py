"""What the records of one run say, in sentences: pure functions from `lrt.stats.Record` to strings.

No sentence assumes an outcome. "Higher" and "lower" are said only where the paired interval leaves out 0 (a record
named by `paired_metric`) or, without one, where the two intervals do not touch; otherwise "no clear difference", and
why. What nobody measured is called not measured, never guessed.

Each section (`reliance`, `accuracy`, `contradiction`, `truth`, `faithfulness`) takes the records and returns its
paragraphs; `headline` is the shortest answer. ValueError if a method has two records of one number: this is the story
of one seed, and several seeds need another one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from lrt.comparing import (
    AWAY,
    HOME,
    MAIN,
    Measure,
    compare,
    compared,
    context,
    find,
    has_value,
    in_percent,
    percent,
    split_of,
)
from lrt.stats import Record, select
from lrt.style import METHODS
from lrt.words import capital, listed, name_of

LISTENER, PLAIN = "grpo_listener", "grpo"  # the two methods that the paper compares

FLIP = Measure(
    "flip_rate", "flip rate", "how often the answer changes when only the tint is swapped on the same scenes",
    "it relies on the tint more", "it relies on the tint less", "relies on the tint most",
)
ACCURACY = Measure(
    "accuracy", "accuracy", "how often the image with more votes is chosen",
    "it is right more often", "it is right less often",
)
DEPARTURE = Measure(
    "own_verdict_departure_sampled", "departure rate",
    "how often an answer, sampled as in training, is not the winner that its own trace names",
    "it contradicts itself more often", "it contradicts itself less often", "contradicts itself most often",
)
TRUTH = Measure(
    "truth", "truth", "the share of true statements among those that the traces make",
    "its statements are true more often", "its statements are true less often",
)
COVERAGE = Measure(
    "coverage", "coverage", "the share of the expected statements that were made at all",
    "it says more", "it says less",
)
FORMAT = Measure(
    "parsable", "format", "the share of completions that could be parsed; the others count as wrong",
    "it keeps the format more often", "it keeps the format less often",
)
ORDER = Measure(
    "same_answer", "consistency", "how often the same image is chosen when the two are shown in the other order",
    "the order sways it less", "the order sways it more",
)

JUDGES = {  # what a listener is; the first one that was asked is the one to quote: none of these took part in training
    "llava": "another architecture",
    "reasoner": "the frozen base itself, the paper's own choice",
    "weak": "one whose training was cut short",
    "blind": "one that sees no images",
    "shortcut": "one that learned the shortcut",
}
LIMITS = (
    "One seed is one draw: another may reverse the order of the methods. Every interval here is over prompts, with the "
    "trained models as they are. None covers what a second training run would do.",
    "Many comparisons stand on this page. At 95 %, one in twenty may look clear by chance alone.",
    "Contradiction heard by the listener of the training is circular, for the reward is built from it. Only listeners "
    "that took no part in the training can say something new.",
    "This is a tiny world of drawn shapes, with a reasoner of about 1.25 million parameters. The numbers are facts "
    "about it, and no evidence for or against the paper's numbers on photographs.",
)


# --- sentences on one measure ----------------------------------------------------------------------------------------


def values(records: list[Record], measure: Measure, split: str) -> str:
    """Every method's number with its interval, n, and what is missing."""
    found = {method: find(records, method, measure.metric, split) for method in METHODS}
    known = {method: record for method, record in found.items() if has_value(record)}
    empty = [name_of(method) for method, record in found.items() if record and method not in known]
    absent = [name_of(method) for method, record in found.items() if not record]
    title = f"{measure.name[0].upper()}{measure.name[1:]} ({measure.counts})"
    if not known:
        return f"{title}: {'does not apply' if empty else 'not measured'}."
    numbers = ", ".join(f"{name_of(method)} {percent(record)}" for method, record in known.items())
    said = f"{title}: {numbers} ({context(known.values())})."
    said += f" Does not apply to {listed(empty)}." if empty else ""
    return said + (f" Not measured for {listed(absent)}." if absent else "")


def against_base(records: list[Record], measure: Measure, split: str) -> str:
    """Every trained method against the base, grouped by what can be said: "" if there is nothing to compare."""
    results = {m: compared(records, measure, split, m, "base") for m in METHODS if m != "base"}
    groups: dict[str, list[str]] = {}
    for method, result in results.items():
        if result:
            groups.setdefault(result.word, []).append(f"{name_of(method)} ({result.detail})")
    leads = {"higher": "higher than base", "lower": "lower than base", "": "no clear difference from base"}
    parts = [f"{lead}: {listed(groups[word])}" for word, lead in leads.items() if word in groups]
    return f"{capital('; '.join(parts))}." if parts else ""


def against_plain(records: list[Record], measure: Measure, split: str) -> str:
    """The listener's method against plain GRPO, and what that means; "" if either has no value."""
    result = compared(records, measure, split, LISTENER, PLAIN)
    if not result:
        return ""
    meaning = {"higher": f": {measure.higher}", "lower": f": {measure.lower}", "": ""}[result.word]
    return f"{name_of(LISTENER)} against {name_of(PLAIN)}: {result}{meaning}."


def paragraph(records: list[Record], measure: Measure, split: str | None = None) -> str:
    """The numbers of a measure, and what can be said of them."""
    split = split or split_of(records, measure.metric)
    told = (tell(records, measure, split) for tell in (values, against_base, against_plain))
    return " ".join(sentence for sentence in told if sentence)


def most(records: list[Record], measure: Measure) -> str:
    """Which method has the highest number, and whether that is clear; not measured with fewer than two methods."""
    split = split_of(records, measure.metric)
    found = [r for method in METHODS if has_value(r := find(records, method, measure.metric, split))]
    if len(found) < 2:
        return values(records, measure, split)
    top = max(found, key=lambda record: record.value)
    others = [r for r in found if r is not top]
    rivals = [r for r in others if compared(records, measure, split, top.method, r.method).word != "higher"]
    named = f"{measure.name} ({measure.counts})"
    if len({r.value for r in found}) == 1:
        names = listed(name_of(record.method) for record in found)
        return f"The {named} is the same, {percent(top)}, for {names} ({context(found)})."
    if not rivals:
        return (f"{capital(name_of(top.method))} {measure.most}: its {named} is {percent(top)}, clear of every other "
                f"({context(found)}).")
    unclear = listed([f"{name_of(r.method)}, {percent(r)}" for r in rivals])
    return (f"It is not clear which method {measure.most}: the {named} is highest for {name_of(top.method)}, "
            f"{percent(top)}, with no clear difference from {unclear} ({context(found)}).")


def within(records: list[Record], metrics: tuple[str, str], splits: tuple[str, str], lead: str, where: str,
           if_higher: str, if_lower: str) -> str:
    """For each method its first number against its second, in one sentence: not measured if no method has both.
    `where` follows the word ("higher where they agree"), `if_higher` and `if_lower` say what it means."""
    told, used = [], []
    for method in METHODS:
        a, b = (find(records, method, *at) for at in zip(metrics, splits, strict=True))
        if has_value(a) and has_value(b):
            result = compare(a, b)
            meaning = {"higher": if_higher, "lower": if_lower, "": ""}[result.word]
            said = f"{result.word} {where}, {result.detail}: {meaning}" if meaning else str(result)
            told.append(f"{name_of(method)} {percent(a)} and {percent(b)} ({said})")
            used += [a, b]
    return f"{lead}: {'; '.join(told)} ({context(used)})." if told else f"{lead}: not measured."


# --- the sections ----------------------------------------------------------------------------------------------------


def headline(records: list[Record], training_listener: str = "reader") -> list[str]:
    """Which method relies on the shortcut, which contradicts itself, and what the listener changed."""
    heard = [heard_by(name, training_listener) for name in independent(records, training_listener)[:1]]
    told = [most(records, measure) for measure in (FLIP, DEPARTURE, *heard)]
    return [*told, listener_effect(records, training_listener)]


def reliance(records: list[Record]) -> list[str]:
    """Who relies on the tint: the flip rate, and accuracy where tint and content agree or conflict."""
    split = split_of(records, "accuracy_agree")
    cases = within(
        records, ("accuracy_agree", "accuracy_conflict"), (split, split),
        "The truly better image is chosen where tint and content agree, and where they conflict",
        "where they agree", "its answers go with the tint", "its answers go against the tint",
    )
    return [paragraph(records, FLIP), cases]


def accuracy(records: list[Record]) -> list[str]:
    """What training did to accuracy in distribution, and what is left when the tint says nothing or the opposite."""
    names = {HOME: "accuracy in distribution", MAIN: "accuracy with the tint uninformative",
             AWAY: "accuracy with the tint reversed"}
    told = [paragraph(records, replace(ACCURACY, name=name), split) for split, name in names.items()]
    told.append(within(
        records, ("accuracy", "accuracy"), (AWAY, HOME), "Accuracy with the tint reversed, and in distribution",
        "with the tint reversed", "turning the tint round helps it", "turning the tint round hurts it",
    ))
    return told + [paragraph(records, m) for m in (FORMAT, ORDER) if select(records, metric=m.metric)]


def contradiction(records: list[Record], training_listener: str = "reader") -> list[str]:
    """Who contradicts itself: against its own verdict, then as every listener hears it, verdict kept and removed.
    `training_listener` is the one whose reading was rewarded: its numbers are called circular."""
    told, asked = [paragraph(records, DEPARTURE)], judges(records, training_listener)
    measures = [heard_by(name, training_listener, kept) for name in asked for kept in (True, False)]
    told += [paragraph(records, m) for m in measures if select(records, metric=m.metric)]
    return told if asked else [*told, "Contradiction heard by a listener: not measured."]


def truth(records: list[Record]) -> list[str]:
    """Are the statements of the traces true, and how many were made."""
    return [paragraph(records, TRUTH), paragraph(records, COVERAGE)]


def faithfulness(records: list[Record]) -> list[str]:
    """Does the answer change with the trace, more often than after an edit that leaves the meaning as it is."""
    edits = {("changed/swapped", "changed/reordered"): "the two descriptions are swapped",
             ("changed/verdict_flipped", "changed/reordered_forced"): "only the verdict is flipped"}
    return [
        within(records, metrics, (split_of(records, metrics[0]),) * 2,
               f"The answer changes when {done}, and after an edit that keeps the meaning (the noise floor)",
               "than the floor", "the answer follows the trace", "the answer moves less than by an empty edit")
        for metrics, done in edits.items()
    ]


def listener_effect(records: list[Record], training_listener: str = "reader") -> str:
    """GRPO with the listener against plain GRPO on every main number, in one sentence."""
    judge = independent(records, training_listener)[:1]
    leads = {"higher": "higher", "lower": "lower", "": "no clear difference in", None: "not measured:"}
    said: dict[str | None, list[str]] = {word: [] for word in leads}
    used = []
    for measure in (ACCURACY, FLIP, DEPARTURE, *(heard_by(name) for name in judge), TRUTH):
        split = split_of(records, measure.metric)
        if result := compared(records, measure, split, LISTENER, PLAIN):
            a, b = (find(records, method, measure.metric, split) for method in (LISTENER, PLAIN))
            said[result.word].append(f"{measure.name} ({in_percent(a)} against {in_percent(b)})")
            used += [a, b]
        else:
            said[None].append(measure.name)
    lead = f"{name_of(LISTENER)} against {name_of(PLAIN)}"
    parts = "; ".join(f"{leads[word]} {listed(names)}" for word, names in said.items() if names)
    return f"{lead}: {parts} ({context(used)})." if used else f"{lead}: not measured."


@dataclass(frozen=True)
class Section:
    """A part of the story: an id, its question, its paragraphs."""

    key: str
    title: str
    paragraphs: tuple[str, ...]


def sections(records: list[Record], training_listener: str = "reader") -> list[Section]:
    """The whole story, in the order in which a page tells it."""
    told: list[tuple[str, str, Callable[[list[Record]], list[str]]]] = [
        ("reliance", "Which of them relies on the shortcut?", reliance),
        ("accuracy", "What did training do to accuracy?", accuracy),
        ("contradiction", "Which of them contradicts itself, and by how much?",
         lambda r: contradiction(r, training_listener)),
        ("truth", "Are the statements of the traces true?", truth),
        ("faithfulness", "Does the answer follow the trace?", faithfulness),
    ]
    return [Section(key, title, tuple(tell(records))) for key, title, tell in told]


# --- listeners -------------------------------------------------------------------------------------------------------


def judges(records: list[Record], training_listener: str = "reader") -> list[str]:
    """The listeners that measured contradiction: known ones in their order, others, last the one of the training."""
    asked = dict.fromkeys(r.metric.split("/", 1)[1] for r in records
                          if r.metric.startswith("contradiction/") and has_value(r))
    known = list(JUDGES)
    rank = {name: known.index(name) if name in known else len(known) for name in asked}
    return sorted(asked, key=lambda name: (name == training_listener, rank[name]))


def independent(records: list[Record], training_listener: str = "reader") -> list[str]:
    """The listeners that measured contradiction and took no part in the training; the first one is the one to quote."""
    return [name for name in judges(records, training_listener) if name != training_listener]


def heard_by(judge: str, training_listener: str = "reader", verdict_kept: bool = True) -> Measure:
    """Contradiction as one listener hears it."""
    what = "circular: its reading was rewarded" if judge == training_listener else JUDGES.get(judge, "a listener")
    verdict, prefix = ("kept", "contradiction") if verdict_kept else ("removed", "contradiction_no_verdict")
    return Measure(
        f"{prefix}/{judge}", f"contradiction heard by {judge}, verdict {verdict}",
        f"{what}; how often its choice, after the trace, is not the reasoner's answer",
        "its traces and answers part more often", "its traces and answers part less often",
        f"contradicts itself most often to the ear of {judge}",
    )
