"""When trace and answer part: contradiction with listeners and with the trace's own verdict.

A *contradiction* is a listener's choice, after reading the trace, that differs from the reasoner's answer;
*disagreement* is its continuous form, 1 - p(listener on the answer). Measured with the listener of the
training alone it is circular (the reward is built from it), so every number here names its listener.

All functions take a judgement table (`lrt.evaluate`) and give B values on its index or in its order, NaN
where a judgement does not apply: it is not parsable, or has no trace to listen to (SFT on answers: all NaN,
records with n = 0).
"""

from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
from datasets import Dataset

from lrt.evaluate import to_records
from lrt.listener import LocalListener
from lrt.metrics import answers, correct, labels, rate
from lrt.models import Loaded
from lrt.prompts import flip_verdict, heard, verdict_of
from lrt.stats import NAN, Interval, Record, ece, reliability

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


# --- listening ----------------------------------------------------------------------------------------------


def listen(frame: pd.DataFrame, listener, pairs: Dataset, verdict: bool = True, empty: bool = False,
           batch: int = 64) -> pd.Series:
    """(B,) p(image 1 is better) by a listener that read each trace; NaN where it had nothing to read or could
    not score.

    `verdict=False` removes the sentences that name a winner first. `empty`: also score empty traces. Several
    judgements of one pair (samples) go to the listener as one group, `batch` pairs at a time. ValueError for
    judgements of pairs that are not in `pairs`, or made with the images in reverse order (their traces call
    image 1 what is image 2).
    """
    if (frame["order"] == "reverse").any():
        raise ValueError("these judgements saw the images in reverse order: listen to the forward ones")
    row_of = {pair_id: i for i, pair_id in enumerate(pairs["pair_id"])}
    if unknown := set(frame["pair_id"]) - set(row_of):
        raise ValueError(f"judged pairs are not among those given: {len(unknown)}, such as {min(unknown)!r}")
    p_B = np.full(len(frame), NAN)
    reads = (frame["parsable"] & (frame["trace"].ne("") | empty)).to_numpy()
    at_of: dict[int, list[int]] = {}  # row of `pairs` -> its judgements
    for at in np.flatnonzero(reads):
        at_of.setdefault(row_of[frame["pair_id"].iloc[at]], []).append(at)
    groups = list(at_of.items())
    for start in range(0, len(groups), batch):
        rows, at_BG = zip(*groups[start : start + batch], strict=True)
        chunk = pairs[list(rows)]
        traces_BG = [[heard(frame["completion"].iloc[i], verdict) for i in at] for at in at_BG]
        images_B = [tuple(images) for images in chunk["images"]]
        scores_BG = listener.p_first(chunk["prompt"], images_B, traces_BG)
        for at, scores in zip(at_BG, scores_BG, strict=True):
            p_B[at] = [NAN if p is None else p for p in scores]
    return pd.Series(p_B, index=frame.index, name=listener.name)


def own_confidence(loaded: Loaded, frame: pd.DataFrame, pairs: Dataset) -> pd.Series:
    """(B,) the reasoner's own p(image 1) at the answer slot behind its own trace, verdict kept: itself as a
    listener. An empty trace counts. `disagreement(frame, p)` is then its doubt, 1 - p of its own answer."""
    return listen(frame, LocalListener(loaded), pairs, empty=True)


def leaning(frame: pd.DataFrame, listener, pairs: Dataset) -> pd.DataFrame:
    """What a verdict does to a listener: (B, 3), its p on the image that a trace's own verdict names, where it
    heard the trace as it is ("kept"), without the sentences that name a winner ("removed"), and with the other
    image named in them ("turned"). NaN where none is named, or `listen` says NaN."""
    changes = {"kept": str, "removed": partial(heard, verdict=False), "turned": flip_verdict}
    versions = [frame.assign(completion=frame["completion"].map(change)) for change in changes.values()]
    p_VB = listen(pd.concat(versions), listener, pairs).to_numpy().reshape(len(changes), -1)  # images are read once
    named_B = own_verdicts(frame)
    p_VB = np.where(np.isnan(named_B), np.nan, np.where(named_B == 1, p_VB, 1 - p_VB))
    return pd.DataFrame(p_VB.T, index=frame.index, columns=list(changes))


# --- contradiction and disagreement -------------------------------------------------------------------------


def contradictions(frame: pd.DataFrame, p) -> np.ndarray:
    """(B,) 1 where the listener's choice differs from the answer, 0 where it is the same, 0.5 at p = 0.5
    exactly."""
    p, answer = np.asarray(p, dtype=float), answers(frame)
    differs = np.where(p == 0.5, 0.5, np.where(p > 0.5, 1, 2) != answer)
    return np.where(np.isnan(p) | np.isnan(answer), np.nan, differs)


def contradiction_rate(frame: pd.DataFrame, p) -> Interval:
    return rate(frame, contradictions(frame, p))


def disagreement(frame: pd.DataFrame, p) -> np.ndarray:
    """(B,) 1 - p(listener on the reasoner's answer), in [0, 1]."""
    p, answer = np.asarray(p, dtype=float), answers(frame)
    return np.where(np.isnan(answer), np.nan, np.where(answer == 1, 1 - p, p))


def own_verdicts(frame: pd.DataFrame) -> np.ndarray:
    """(B,) the winner that each trace itself names, 1 or 2; NaN where it names none."""
    return np.array([verdict_of(trace) for trace in frame["trace"]], dtype=float)


def own_verdict_departures(frame: pd.DataFrame) -> np.ndarray:
    """(B,) 1 where the answer is not the winner that the trace itself names, else 0; NaN where it names
    none."""
    verdict, answer = own_verdicts(frame), answers(frame)
    return np.where(np.isnan(verdict) | np.isnan(answer), np.nan, verdict != answer)


def own_verdict_departure(frame: pd.DataFrame) -> Interval:
    """How often the answer departs from the trace's own verdict: a contradiction that needs no listener."""
    return rate(frame, own_verdict_departures(frame))


def disagreement_bins(frame: pd.DataFrame, p, edges=EDGES, against: str = "majority") -> list[dict]:
    """Accuracy by bin of disagreement: a dict a bin of low, high, accuracy, lo, hi (interval over prompts),
    n.

    With p from `own_confidence` the bins are of the reasoner's own doubt: a listener says something new only
    where its bins separate right from wrong better than those. A bin holds low <= d < high, the last one also
    its upper edge. ValueError unless the edges ascend from 0 to 1.
    """
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"edges of bins ascend from 0 to 1: {tuple(edges)}")
    d, right, rows = disagreement(frame, p), correct(frame, against), []
    for low, high in pairwise(edges):
        inside = (d >= low) & ((d < high) | (high == 1))
        found = rate(frame, np.where(inside, right, np.nan))
        rows.append({"low": low, "high": high, "accuracy": found.value, "lo": found.low, "hi": found.high,
                     "n": found.n})
    return rows


def calibration(frame: pd.DataFrame, p, against: str = "majority",
                bins: int = 10) -> tuple[list[dict], float]:
    """(bins of `stats.reliability`, expected calibration error) of p(image 1) against "image 1 is better";
    ties and unscored judgements are left out."""
    label = labels(frame, against)
    first = np.where(np.isnan(label), np.nan, label == 1)
    return reliability(p, first, bins), ece(p, first, bins)


# --- records ------------------------------------------------------------------------------------------------


def contradiction_records(frame: pd.DataFrame, listeners, pairs: Dataset, method: str, split: str,
                          seed: int | None) -> tuple[list[Record], pd.DataFrame]:
    """Every listener on every trace, verdict kept and removed: the records, and a table of p on the index of
    `frame` with the columns "<listener>" and "<listener>/no_verdict".

    Metrics: own_verdict_departure; and for each listener contradiction/<name>,
    contradiction_no_verdict/<name>, disagreement/<name>, listener_accuracy/<name> (against votes, p = 0.5 is
    half right) and ece/<name> (without an interval: resampling biases it upwards)."""
    p = pd.DataFrame(index=frame.index)
    intervals = {"own_verdict_departure": own_verdict_departure(frame)}
    for listener in listeners:
        name = listener.name
        p[name] = listen(frame, listener, pairs)
        p[f"{name}/no_verdict"] = listen(frame, listener, pairs, verdict=False)
        scored = int((p[name].notna().to_numpy() & ~np.isnan(labels(frame))).sum())
        intervals |= {
            f"contradiction/{name}": contradiction_rate(frame, p[name]),
            f"contradiction_no_verdict/{name}": contradiction_rate(frame, p[f"{name}/no_verdict"]),
            f"disagreement/{name}": rate(frame, disagreement(frame, p[name])),
            f"listener_accuracy/{name}": rate(frame, listener_correct(frame, p[name])),
            f"ece/{name}": Interval(calibration(frame, p[name])[1], NAN, NAN, scored),
        }
    return to_records(intervals, method, split, seed), p


def listener_correct(frame: pd.DataFrame, p, against: str = "majority") -> np.ndarray:
    """(B,) 1 where the listener's own choice is right, 0 where wrong, 0.5 at p = 0.5; ties are left out."""
    p, label = np.asarray(p, dtype=float), labels(frame, against)
    right = np.where(p == 0.5, 0.5, np.where(p > 0.5, 1, 2) == label)
    return np.where(np.isnan(p) | np.isnan(label), np.nan, right)
