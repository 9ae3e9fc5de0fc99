"""Published accuracies on ImageReward's and HPDv2's tests, and when one's own number may stand beside them."""

from dataclasses import dataclass

from lrt.real.benchmarks import Line
from lrt.real.ranked import Ranked, pairs_of

NOT_STATED = "rule not stated"
WARNING = (
    "Published numbers of the same model move 0.2 to 1.3 points between papers: a smaller difference says nothing,\n"
    "nor does one between numbers by two rules. They are single numbers without intervals."
)


@dataclass(frozen=True)
class Published:
    """One model's accuracies in per cent, on ImageReward's and HPDv2's tests; None where there is none."""

    model: str
    imagereward: float | None
    hpdv2: float | None
    source: str  # where the numbers were found, as far as known
    year: int | None
    rule_imagereward: str = NOT_STATED
    rule_hpdv2: str = NOT_STATED
    note: str = ""


HPSV2 = "table in HPSv2's repository (arXiv 2306.09341)"
UNKNOWN = "source not stated"

# HPSv2's repository names the command of its own code beside its own row; the other rows of its table have no rule.
PUBLISHED = (
    Published("CLIP ViT-H", 57.1, 65.1, UNKNOWN, None),
    Published("Aesthetic", 57.4, 76.8, HPSV2, 2023),
    Published("PickScore", 61.6, 79.8, UNKNOWN, None, note="62.9 on ImageReward in HPSv2's repository"),
    Published("ImageReward", 65.1, 74.0, HPSV2, 2023),
    Published("one human", 65.3, 78.1, HPSV2, 2023),
    Published("HPSv2", 65.7, 83.3, HPSV2, 2023, "macro (HPSv2's code)", "inversions (HPSv2's code)"),
    Published("HPSv2.1", 66.8, 84.1, UNKNOWN, None),
    Published("HPSv3", 66.8, 85.4, UNKNOWN, None),
    Published("MPS", 67.5, 83.5, UNKNOWN, None),
    Published("listener paper", 67.4, None, "arXiv 2506.22832", 2025, note="one run; about 67.2 without the listener"),
)


@dataclass(frozen=True)
class Whole:
    """What the whole test is, so that a part of it is not taken for it; None where that is not known."""

    prompts: int
    untied: int | None = None
    tied: int | None = None


WHOLE = {
    "imagereward": Whole(466, 6399, 831),  # THUDM/ImageReward, data/test.json
    "hpdv2": Whole(400),  # HPSv2's repository: 400 images of each generator that is in the test set alone
}


def not_comparable(benchmark: str, ranked: list[Ranked]) -> str | None:
    """Why a number on these labels may not stand beside the published ones; None where it may."""
    whole = WHOLE.get(benchmark)
    if whole is None:
        return "no published numbers for it are known here"
    if len(ranked) != whole.prompts:
        return f"your file has {len(ranked)} of {whole.prompts} prompts: not comparable"
    votes = [vote for row in ranked for _, _, vote in pairs_of(row)]
    counts = len(votes) - votes.count(0), votes.count(0)
    if whole.untied is not None and counts != (whole.untied, whole.tied):
        return (
            f"your file has {counts[0]} untied and {counts[1]} tied pairs, the published test {whole.untied} and "
            f"{whole.tied}: not comparable"
        )
    return None


def beside(benchmark: str, lines: list[Line], ranked: list[Ranked]) -> str:
    """The published numbers as text, lines of one's own among them where the labels are the whole test."""
    if benchmark not in WHOLE:
        return "There are no published numbers to print beside these."
    found = [
        (getattr(p, benchmark), p.model, getattr(p, f"rule_{benchmark}"), _source(p))
        for p in PUBLISHED
        if getattr(p, benchmark) is not None
    ]
    reason = not_comparable(benchmark, ranked)
    if reason is None:
        shown = [line for line in lines if line.order in ("any", "given", "both")]
        found += [(100 * line.interval.value, "> this file", line.rule, f"order: {line.order}") for line in shown]
    found.sort(key=lambda row: row[0])
    head = f"Published on {benchmark}'s test, for reference only ({reason}):" if reason else f"On {benchmark}'s test:"
    widths = [max(len(row[k]) for row in found) for k in (1, 2)]
    rows = [f"{value:6.1f}  {name:<{widths[0]}}  {rule:<{widths[1]}}  {source}" for value, name, rule, source in found]
    return "\n".join([head, "", *rows, "", WARNING])


def _source(published: Published) -> str:
    year = f", {published.year}" if published.year else ""
    return f"{published.source}{year}" + (f"; {published.note}" if published.note else "")
