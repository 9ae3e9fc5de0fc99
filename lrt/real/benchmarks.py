"""The benchmarks' own rules: from predictions beside labels (`scores.scores_of`) to the number that each reports.

| rule | what it computes | as in |
|---|---|---|
| `imagereward` | share right of all untied pairs (micro); a predicted tie is wrong | ImageReward, test.py, `acc` |
| `hpsv2_macro` | the same pairs, averaged per prompt (macro) | HPSv2, training/train.py, `calc_ImageReward` |
| `inversions` | per prompt 1 - inversions / (n (n - 1) / 2) | HPSv2, training/train.py, `inversion_score` |
| `pickscore` | half credit when exactly one side is a tie | PickScore, eval_preference_predictor.py, `calc_acc` |
| by agreement | share right where enough voters agree | `metrics.by_agreement` |

Numbers by two rules are not to be compared. Every interval is a bootstrap over prompts. What all rules share: a
prediction that is not there is wrong, on tied pairs too, so leaving something out never helps.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from lrt.metrics import by_agreement, correct, rate
from lrt.real.predictions import Predictions
from lrt.real.ranked import Ranked
from lrt.real.scores import BENCHMARKS, orders, scores_of
from lrt.stats import Interval, bootstrap, cluster_means

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # PickScore's own grid
AGREEMENT = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Line:
    """One number of a report."""

    rule: str  # in words, whose rule it is
    order: str  # any (scores), given, forward, reverse, both (mean of the two), consistent (right in both)
    interval: Interval
    of: str  # what the interval's n counts: pairs or prompts
    always_first: float  # the same rule on a judge that always names the image shown first (for scores: listed first)


# --- the rules: a frame of pairs to an interval ---------------------------------------------------------------------


def imagereward(frame: pd.DataFrame) -> Interval:
    """Right answers over untied pairs, pooled over prompts (micro); equal scores are wrong. n counts pairs."""
    return rate(frame, correct(frame, "vote"))


def hpsv2_macro(frame: pd.DataFrame) -> Interval:
    """ImageReward's pairs, but the mean over prompts of each prompt's share right (macro). n counts prompts.

    HPSv2's code divides by zero on a prompt whose images are all tied; here such a prompt is left out.
    """
    return _over_rows(frame, correct(frame, "vote"))


def inversions(frame: pd.DataFrame) -> Interval:
    """Mean over prompts of 1 - inversions / (n (n - 1) / 2), against the averaged rank. n counts prompts.

    HPSv2's code ranks the images by their scores (argsort) and counts the pairs that this ranking and the annotators'
    averaged rank put in opposite order; a pair that the labels tie is never one of them, so it counts as correct. Its
    ranking has no ties: equal scores come in whatever order argsort leaves them. Here they count half an inversion,
    which is what a random order gives on average. Choices of pairs, which need not form a ranking, count pair by pair.
    """
    vote, answer = frame["vote"].to_numpy(), frame["answer"].to_numpy()
    credit = np.where(answer == 0, 0.5, answer == vote)
    credit = np.where(vote == 0, 1.0, credit)
    return _over_rows(frame, np.where(np.isnan(answer), 0.0, credit))


def pickscore(frame: pd.DataFrame, threshold: float = 0.0) -> Interval:
    """PickScore's accuracy over all pairs, ties among them. n counts pairs.

    For scores the prediction is a tie where |p1 - p2| <= threshold, p the softmax of the two scores as logits; a choice
    of 0 is a tie as it is. Full credit when label and prediction agree, half when exactly one of them is a tie.
    """
    return rate(frame, _pickscore_credit(frame, threshold))


def _pickscore_credit(frame: pd.DataFrame, threshold: float) -> np.ndarray:
    vote, answer, margin = (frame[name].to_numpy(float) for name in ("vote", "answer", "margin"))
    answer = np.where(np.abs(margin) <= threshold, 0.0, answer)  # never where there is no margin: NaN compares False
    credit = np.where(answer == vote, 1.0, np.where((answer == 0) | (vote == 0), 0.5, 0.0))
    return np.where(np.isnan(answer), 0.0, credit)


def tune_threshold(frame: pd.DataFrame, thresholds: Iterable[float] = THRESHOLDS) -> float:
    """The threshold with the highest `pickscore` on these pairs, the first of equals: as PickScore's code chooses it,
    on a validation split. ValueError when there are no pairs."""
    if not len(frame):
        raise ValueError("no pairs to tune the tie threshold on")
    thresholds = list(thresholds)
    return thresholds[int(np.argmax([_pickscore_credit(frame, t).mean() for t in thresholds]))]


def _over_rows(frame: pd.DataFrame, credit: np.ndarray) -> Interval:
    """Mean over the labels' rows of each row's mean credit, NaN left out; rows of one prompt_id resampled together."""
    rows = frame["row"].to_numpy()
    means = cluster_means(credit, rows)  # in the order of the rows, those without any left out
    prompts = frame[~np.isnan(credit)].groupby("row")["prompt_id"].first()
    return bootstrap(means, prompts.to_numpy())


# --- a report -------------------------------------------------------------------------------------------------------


def rules(benchmark: str, threshold: float = 0.0) -> dict[str, tuple[str, Callable]]:
    """Name in words to (what n counts, rule) for a benchmark of `BENCHMARKS`; the first is its own."""
    if benchmark == "imagereward":
        return {
            "ImageReward's own (micro, predicted ties wrong)": ("pairs", imagereward),
            "HPSv2's reading of ImageReward (macro)": ("prompts", hpsv2_macro),
        }
    if benchmark == "hpdv2":
        return {"HPSv2's own for HPDv2 (inversions)": ("prompts", inversions)}
    if benchmark == "pickapic":
        rule = partial(pickscore, threshold=threshold)
        return {f"PickScore's own (ties half; tie threshold {threshold:g})": ("pairs", rule)}
    if benchmark == "rapidata":
        return {
            f"accuracy where >= {100 * t:.0f} % of votes agree": ("pairs", partial(_agreeing, threshold=t))
            for t in AGREEMENT
        }
    raise ValueError(f"no benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")


def _agreeing(frame: pd.DataFrame, threshold: float) -> Interval:
    return by_agreement(frame, (threshold,))[0][1]


def score(
    benchmark: str,
    predictions: Predictions,
    ranked: Iterable[Ranked],
    threshold: float = 0.0,
    allow_missing: bool = False,
) -> list[Line]:
    """All that a benchmark's rules say of these predictions, rule by rule and order by order.

    Of choices in both orders: each order alone; both, the mean of the two; and consistent, which takes the worse of a
    pair's two answers, so that right means right in both. ValueError when predictions are missing, unless
    `allow_missing`, and then they are wrong.
    """
    ranked, named = list(ranked), rules(benchmark, threshold)
    if not allow_missing and (problem := missing(benchmark, predictions, ranked)):
        raise ValueError(f"{problem}; fill them in, or count them as wrong (--allow-missing)")
    frames = {order: scores_of(predictions, ranked, order) for order in orders(predictions)}
    shown = {order: frame.assign(answer=frame["first"].astype(float), margin=np.nan) for order, frame in frames.items()}
    for tables in (frames, shown) if "reverse" in frames else ():
        forward, reverse = tables["forward"], tables["reverse"]
        tables["both"] = pd.concat([forward, reverse], ignore_index=True)
        tables["consistent"] = forward.assign(answer=_worse(forward, reverse))
    lines = []
    for name, (of, rule) in named.items():
        for order, frame in frames.items():
            interval = rule(frame)
            if order == "both" and of == "pairs":
                interval = interval._replace(n=interval.n // 2)  # each pair stands there twice
            lines.append(Line(name, order, interval, of, rule(shown[order]).value))
    return lines


def _worse(forward: pd.DataFrame, reverse: pd.DataFrame) -> np.ndarray:
    """(B,) of each pair's answers in the two orders the one that every rule credits less, or the same."""
    credits = [np.where(table["answer"].isna(), -1.0, _pickscore_credit(table, 0.0)) for table in (forward, reverse)]
    return np.where(credits[0] <= credits[1], forward["answer"], reverse["answer"])


def missing(benchmark: str, predictions: Predictions, ranked: Iterable[Ranked]) -> str | None:
    """How many predictions are not there that a rule asks for, and the first few; None where all are.

    ImageReward's two rules never look at pairs that the labels tie, so those may be missing.
    """
    absent, asked, ranked = {}, {}, list(ranked)
    for order in orders(predictions):
        frame = scores_of(predictions, ranked, order)
        frame = frame[frame["vote"] != 0] if benchmark == "imagereward" else frame
        for row in frame.itertuples():
            a, b = (row.image_2, row.image_1) if order == "reverse" else (row.image_1, row.image_2)
            keys = [(row.prompt_id, a), (row.prompt_id, b)] if order == "any" else [(row.prompt_id, a, b)]
            asked.update(dict.fromkeys(keys))
            if np.isnan(row.answer):
                absent.update(dict.fromkeys(key for key in keys if key not in predictions.values))
    if not absent:
        return None
    what = "scores of images" if predictions.form == "image" else "choices of ordered pairs"
    some = "; ".join(f"prompt {prompt!r}, {' and '.join(map(repr, images))}" for prompt, *images in list(absent)[:3])
    return f"{len(absent)} of {len(asked)} {what} are missing, the first: {some}"
