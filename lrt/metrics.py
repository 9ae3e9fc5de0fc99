"""Metrics of judgement tables: from a table with one row a judgement (`lrt.evaluate.judgements`) to numbers.

Pure: no model, no images. What holds throughout:

- A value a judgement, B of them: 1 or 0, 0.5 where a coin would decide, NaN where the metric does not apply.
  A rate is their mean with an interval from `stats.bootstrap` over prompts; nothing that applies gives NaN
  with n = 0.
- A completion that cannot be parsed has no answer, and is wrong wherever being right is counted.
- What is right: `against="majority"`, the image with more votes (tied pairs are left out, the rule of
  ImageReward's own test; or get half credit, with `ties="half"`); `"vote"`, the one drawn vote that is the
  training label (0 is left out); `"utility"`, the truly better image (equal ones are left out).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from lrt.pairs import SPLITS
from lrt.stats import Interval, bootstrap, mcnemar, paired_bootstrap
from lrt.traces import read_trace, rule_verdict

AGAINST = ("majority", "vote", "utility")
REFERENCES = ("content_only", "tint_only", "stated_rule")


def answers(frame: pd.DataFrame) -> np.ndarray:
    """(B,) answers as floats: 1, 2, NaN where the completion could not be parsed."""
    return frame["answer"].astype("Float64").to_numpy(float, na_value=np.nan)


def labels(frame: pd.DataFrame, against: str = "majority") -> np.ndarray:
    """(B,) the right answer, 1 or 2; NaN for a tie, and where the source does not know."""
    if against == "vote":
        vote = frame["vote"].to_numpy(float)
        return np.where(vote == 0, np.nan, vote)
    if against == "majority":
        return _sign_to_side(frame["share"].to_numpy(float) - 0.5)
    if against == "utility":
        return _sign_to_side(frame["utility_1"].to_numpy(float) - frame["utility_2"].to_numpy(float))
    raise ValueError(f"against is one of {', '.join(AGAINST)}, not {against!r}")


def _sign_to_side(difference: np.ndarray) -> np.ndarray:
    """1 where image 1 has more, 2 where image 2 has, NaN where neither or unknown."""
    return np.where(difference > 0, 1.0, np.where(difference < 0, 2.0, np.nan))


def correct(frame: pd.DataFrame, against: str = "majority", ties: str = "out") -> np.ndarray:
    """(B,) 1 right, 0 wrong or unparsable, NaN left out. `ties="half"`: an answer to a tied pair counts
    0.5."""
    if ties not in ("out", "half"):
        raise ValueError(f"ties is 'out' or 'half', not {ties!r}")
    label, answer = labels(frame, against), answers(frame)
    right = np.where(np.isnan(label), np.nan, (answer == label).astype(float))
    if ties == "half":
        tied = np.isnan(label) & _known(frame, against)
        right = np.where(tied, np.where(np.isnan(answer), 0.0, 0.5), right)
    return right


def _known(frame: pd.DataFrame, against: str) -> np.ndarray:
    columns = {"vote": ["vote"], "majority": ["share"], "utility": ["utility_1", "utility_2"]}[against]
    return frame[columns].notna().all(axis=1).to_numpy()


def rate(frame: pd.DataFrame, values) -> Interval:
    """Mean of B values, one a row of the table, with its interval over prompts."""
    return bootstrap(np.asarray(values, dtype=float), frame["prompt_id"].to_numpy())


def accuracy(frame: pd.DataFrame, against: str = "majority", ties: str = "out") -> Interval:
    """Share of right answers over pairs (micro), the rule of ImageReward's own test."""
    return rate(frame, correct(frame, against, ties))


def by_agreement(frame: pd.DataFrame, thresholds=(0.5, 0.75, 1.0)) -> list[tuple[float, Interval]]:
    """(t, accuracy on the untied pairs whose majority holds a share of at least t of the votes), for each
    t."""
    share = frame["share"].to_numpy(float)
    agreed = np.maximum(share, 1 - share)
    right = correct(frame, "majority")  # 1e-6 below: shares are stored as float32, and 0.7 is then under 0.7
    return [(t, rate(frame, np.where(agreed >= t - 1e-6, right, np.nan))) for t in thresholds]


# --- the tint -----------------------------------------------------------------------------------------------


def warm_side(frame: pd.DataFrame) -> np.ndarray:
    """(B,) 1 or 2, the image with the warm background; NaN where the two tints do not differ in that."""
    warm_1, warm_2 = ((frame[tint] == "warm").to_numpy() for tint in ("tint_1", "tint_2"))
    return _sign_to_side(warm_1.astype(float) - warm_2)


def agree_conflict(frame: pd.DataFrame) -> tuple[Interval, Interval]:
    """Accuracy against the utility where the warm image is the better one, and where it is the worse one."""
    better, warm, right = labels(frame, "utility"), warm_side(frame), correct(frame, "utility")
    apart = np.isnan(better) | np.isnan(warm)
    agree, conflict = (np.where(apart | (better != side), np.nan, right) for side in (warm, 3 - warm))
    return rate(frame, agree), rate(frame, conflict)


def mixture(agree: float, conflict: float) -> dict[str, float]:
    """Accuracy that two numbers imply for every split with a tint: d * agree + (1 - d) * conflict, where the
    better image is warm with probability d. In distribution 0.9 a + 0.1 c, uninformative 0.5 a + 0.5 c,
    reversed 0.1 a + 0.9 c. It holds as far as the splits differ in the tint alone (`unseen_*` differ in
    more)."""
    names = ("in_distribution", "tint_uninformative", "tint_reversed")
    dials = {name: SPLITS[name].shortcut for name in names}
    return {name: dial * agree + (1 - dial) * conflict for name, dial in dials.items()}


def flips(frame: pd.DataFrame, swapped: pd.DataFrame) -> np.ndarray:
    """(B,) 1 if the answer changes when only the tints of a pair are exchanged, else 0. NaN for a pair
    without two different tints, and where one of the two completions could not be parsed (`flip_unparsable`
    counts those)."""
    before, after = answers(frame), answers(aligned(frame, swapped))
    out = np.isnan(warm_side(frame)) | np.isnan(before) | np.isnan(after)
    return np.where(out, np.nan, (before != after).astype(float))


def flip_unparsable(frame: pd.DataFrame, swapped: pd.DataFrame) -> np.ndarray:
    """(B,) 1 where at least one of the two completions of a tinted pair could not be parsed, else 0."""
    unread = np.isnan(answers(frame)) | np.isnan(answers(aligned(frame, swapped)))
    return np.where(np.isnan(warm_side(frame)), np.nan, unread.astype(float))


# --- both orders, several samples, two methods --------------------------------------------------------------


def aligned(frame: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """`other` in the order of `frame`'s pairs. ValueError unless both judge the same pairs, once each."""
    for table in (frame, other):
        if repeated := table["pair_id"][table["pair_id"].duplicated()].tolist():
            raise ValueError(f"pair {repeated[0]!r} is judged more than once in one table")
    if odd := set(frame["pair_id"]) ^ set(other["pair_id"]):
        raise ValueError(f"the tables judge different pairs: {len(odd)} are in one only, like {min(odd)!r}")
    return other.set_index("pair_id", drop=False).loc[frame["pair_id"]].reset_index(drop=True)


def both_orders(forward: pd.DataFrame, reverse: pd.DataFrame,
                against: str = "majority") -> dict[str, Interval]:
    """What exchanging the two images does, from the two tables of `evaluate.judge_both_orders`.

    accuracy_forward, accuracy_reverse: in each order. accuracy_consistent: right in both. same_answer: the
    same image chosen in both, of the pairs parsable in both. first_share: share of completions that answer
    "1", of the parsable ones of both orders that choose (0, a tie, chooses neither); an unbiased judge is near
    0.5. The names serve as metrics of records (`evaluate.to_records`).
    """
    reverse = aligned(forward, reverse)
    right_1, right_2 = correct(forward, against), correct(reverse, against)
    answer_1, answer_2 = answers(forward), answers(reverse)
    unread = np.isnan(answer_1) | np.isnan(answer_2)
    both = pd.concat([forward, reverse])
    written = np.concatenate([answer_1, 3 - answer_2])
    return {
        "accuracy_forward": rate(forward, right_1),
        "accuracy_reverse": rate(forward, right_2),
        "accuracy_consistent": rate(forward, right_1 * right_2),
        "same_answer": rate(forward, np.where(unread, np.nan, answer_1 == answer_2)),
        "first_share": rate(both, np.where(np.isin(written, (1, 2)), written == 1, np.nan)),
    }


def majority(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """One table from several samples of the same pairs: the answer that most parsable samples give.

    A tie takes the answer of the first parsable sample (samples are exchangeable, so that is a fair coin);
    without any the pair stays unparsable. Completion and trace are those of the first sample with that
    answer.
    """
    if not frames:
        raise ValueError("a majority needs at least one table of judgements")
    frames = [aligned(frames[0], frame) for frame in frames]
    answers_SB = np.stack([answers(frame) for frame in frames])
    ones, twos = (answers_SB == 1).sum(axis=0), (answers_SB == 2).sum(axis=0)
    pairs = np.arange(answers_SB.shape[1])
    first = answers_SB[np.argmax(~np.isnan(answers_SB), axis=0), pairs]
    winner = np.where(ones == twos, first, np.where(ones > twos, 1.0, 2.0))
    sample = np.argmax(answers_SB == winner, axis=0)
    return pd.concat(frames, ignore_index=True).iloc[sample * len(pairs) + pairs].reset_index(drop=True)


class Comparison(NamedTuple):
    """Two methods on the same pairs. `difference` is accuracy of a minus b, with a paired interval over
    prompts; `only_a` and `only_b` are pairs that one alone has right, and `p` the exact McNemar test on those
    two counts."""

    difference: Interval
    only_a: int
    only_b: int
    p: float


def compare(frame_a: pd.DataFrame, frame_b: pd.DataFrame, against: str = "majority") -> Comparison:
    """Is a better than b? McNemar takes pairs as independent, which pairs of one prompt are not: the interval
    is the safer reading. ValueError unless both judge the same pairs."""
    a, b = correct(frame_a, against), correct(aligned(frame_a, frame_b), against)
    only_b, only_a, p = mcnemar(a, b)
    return Comparison(paired_bootstrap(a, b, frame_a["prompt_id"].to_numpy()), only_a, only_b, p)


# --- reference lines ----------------------------------------------------------------------------------------


def reference(frame: pd.DataFrame, name: str, against: str = "majority") -> Interval:
    """Accuracy of a judge that is a rule, on the pairs of a table.

    content_only: the image with the higher utility; against votes this is as far as content goes, the rest is
    noise. tint_only: the warm image. stated_rule: the world's own utility applied to what the table's traces
    say (`traces.rule_verdict`), good or bad as their statements may be. Where the rule cannot choose (equal
    utilities, no tint, statements tied or unreadable) a coin would: half credit. Outside the tiny world
    nothing applies: n = 0.
    """
    label = labels(frame, against)
    chosen, applies = _chosen(frame, name)
    credit = np.where(np.isnan(chosen), 0.5, chosen == label)
    return rate(frame, np.where(applies & ~np.isnan(label), credit, np.nan))


def _chosen(frame: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(B,) the rule's choice, NaN where it has none, and (B,) whether the rule applies to the pair at all."""
    if name == "content_only":
        return labels(frame, "utility"), frame["utility_1"].notna().to_numpy()
    if name == "tint_only":
        return warm_side(frame), frame["tint_1"].notna().to_numpy()
    if name == "stated_rule":
        verdicts = [rule_verdict(read_trace(trace)[0]) for trace in frame["trace"]]
        return np.array(verdicts, dtype=float), frame["scene_1"].notna().to_numpy()
    raise ValueError(f"the reference lines are {', '.join(REFERENCES)}, not {name!r}")
