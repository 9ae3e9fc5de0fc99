"""What `lrt score` says beside the numbers of `lrt.real.benchmarks`, and the tie threshold for PickScore's rule."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lrt.metrics import both_orders, rate
from lrt.real.benchmarks import Line, missing, tune_threshold
from lrt.real.predictions import Predictions, read
from lrt.real.published import beside
from lrt.real.ranked import Ranked
from lrt.real.scores import labels, orders, scores_of
from lrt.stats import Record


def report(
    benchmark: str, predictions: Predictions, ranked: list[Ranked], lines: list[Line], threshold: float | None
) -> str:
    """The numbers, what has to be known to read them, and the published ones."""
    return "\n\n".join(
        [table(lines), *remarks(benchmark, predictions, ranked, threshold), beside(benchmark, lines, ranked)]
    )


def threshold_for(
    benchmark: str, given: float | None, labels_path: str | Path | None, predictions_path: str | Path | None
) -> float | None:
    """PickScore's tie threshold: as given, or tuned on a validation split's two files; None where there is neither.

    ValueError for both at once, for one file of the two, and where the benchmark has no such threshold.
    """
    files = [path for path in (labels_path, predictions_path) if path is not None]
    if (given is not None or files) and benchmark != "pickapic":
        raise ValueError(f"a tie threshold is pickapic's; {benchmark} has none")
    if len(files) == 1 or (given is not None and files):
        raise ValueError("a tie threshold is given itself, or tuned on validation labels and validation predictions")
    if files:
        ranked = labels(benchmark, labels_path)
        made = read(predictions_path, ranked)
        if problem := missing(benchmark, made, ranked):
            raise ValueError(f"{predictions_path}: {problem}; a threshold is tuned on all of them")
        return tune_threshold(scores_of(made, ranked))
    if given is not None and not 0 <= given <= 1:
        raise ValueError(f"a tie threshold is a difference of two probabilities, between 0 and 1: {given}")
    return given


def remarks(benchmark: str, predictions: Predictions, ranked: Iterable[Ranked], threshold: float | None) -> list[str]:
    """What a reader of the numbers has to know: missing predictions, orders, an untuned threshold."""
    found, ranked, names = [], list(ranked), orders(predictions)
    if problem := missing(benchmark, predictions, ranked):
        found.append(f"{problem}: they are counted as wrong.")
    frames = [scores_of(predictions, ranked, order) for order in names]
    if names == ("any",):
        found.append("Scores of single images have no order: there is nothing to exchange.")
        if tied := int(((frames[0]["answer"] == 0) & (frames[0]["vote"] != 0)).sum()):
            found.append(f"{tied} untied pairs have two equal scores.")
        if benchmark == "pickapic" and threshold is None:
            found.append("The tie threshold is 0, untuned: PickScore's rule tunes it on a validation split.")
    elif names == ("given",):
        answer, first = frames[0]["answer"], frames[0]["first"]
        share = rate(frames[0], np.where(answer.isna() | (answer == 0), np.nan, answer == first)).value
        found.append(
            f"Each pair was judged in one order; the image shown first was chosen in {_percent(share)} of the "
            "choices. How much of the score is position, only both orders can say."
        )
    else:
        seen = both_orders(*frames, against="vote")
        found.append(
            f"Exchanging the two images leaves the choice in {_percent(seen['same_answer'].value)} of pairs; the "
            f"image shown first was chosen in {_percent(seen['first_share'].value)} of the choices."
        )
    return found


def _percent(share: float) -> str:
    return "- % (there are none)" if np.isnan(share) else f"{100 * share:.1f} %"


def to_records(lines: list[Line], method: str, benchmark: str) -> list[Record]:
    """A record a line, for `stats.save_records`; the metric is the rule, and the order after a bar."""
    return [Record(method, benchmark, f"{line.rule} | {line.order}", *line.interval, None) for line in lines]


def table(lines: list[Line]) -> str:
    """The lines as text, in per cent with 95 % intervals over prompts."""
    rows = [("rule", "order", "% [95 % interval]", "n", "always first %")]
    for line in lines:
        value, low, high, n = line.interval
        ends = "" if np.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
        shown, first = (f"{100 * v:.1f}" if not np.isnan(v) else "-" for v in (value, line.always_first))
        rows.append((line.rule, line.order, shown + ends, f"{n} {line.of}", first))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])
