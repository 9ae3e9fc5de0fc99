"""Intervals over prompts, paired tests, calibration, several seeds: numpy only, no state, no printing.

Pairs that share a prompt are alike, so an interval that treats them as independent is too narrow: the paper's
test of 6,399 pairs has 466 prompts. Intervals here resample *prompts* (clusters) with all their pairs.

Conventions: values are arrays or lists of B numbers, one a pair; NaN or None means "does not apply" and is
left out; `n` counts what was used. Nothing left is a legitimate outcome (a split without conflict pairs): NaN
with n = 0. Arrays of different lengths, or values that are not what they should be, raise ValueError.
"""
import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

NAN = float("nan")


class Interval(NamedTuple):
    """An estimate with the two ends of its interval and the number of values behind it; unknown ends: NaN."""
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Record:
    """One number of the evaluation: `Record(method, split, metric, *interval, seed)` from an Interval."""
    method: str         # base, sft, grpo, grpo_listener, ...
    split: str          # in_distribution, tint_reversed, ...
    metric: str         # accuracy, flip_rate, contradiction/<listener>, ...
    value: float        # NaN where it does not apply
    low: float          # lower end of the interval, NaN where unknown
    high: float
    n: int              # values used
    seed: int | None    # of the training run; None where several runs, or none, are behind the number


# ---------------------------------------------------------------- records on disk

def save_records(records, path):
    """Write records as a JSON list, NaN as null; the file is replaced in one step, never half written."""
    lines = [json.dumps({key: None if value != value else value for key, value in asdict(record).items()},
                        allow_nan=False, default=_plain) for record in records]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(lines) + "\n]\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _plain(scalar):
    """A numpy scalar as Python's own number, which is all that JSON knows."""
    return scalar.item()


def load_records(path):
    """The records that `save_records` wrote. ValueError names file, record and field of what does not fit."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of records, found {type(rows).__name__}")
    return [_record(row, f"{path}: record {i}") for i, row in enumerate(rows)]


def _record(row, where):
    names = [field.name for field in fields(Record)]
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"{where}: expected exactly the fields {', '.join(names)}")
    row = {**row, **{name: NAN for name in ("value", "low", "high") if row[name] is None}}
    number = (int, float)
    kinds = {"method": str, "split": str, "metric": str, "value": number, "low": number, "high": number,
             "n": int, "seed": (int, type(None))}
    for name, kind in kinds.items():
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise ValueError(f"{where}, field {name}: {row[name]!r} does not fit")
    return Record(**row)


def select(records, **wanted):
    """The records whose fields equal those named: `select(records, metric="accuracy", split="no_tint")`."""
    return [record for record in records
            if all(getattr(record, name) == value for name, value in wanted.items())]


# ---------------------------------------------------------------- intervals over prompts

def bootstrap(values, clusters, statistic=np.mean, n_boot=2000, seed=0, level=0.95):
    """Percentile bootstrap that resamples clusters with all their values.

    values: (B,) numbers, or (B, K) rows where a statistic needs several columns (a row with a NaN is left
    out); clusters: (B,) prompt ids; statistic: np.mean (fast), or any function of values to a float.
    Returns Interval; its ends are NaN with fewer than two clusters, where the spread between prompts cannot
    be seen. If all values are the same (no error at all), so is every resample, and the interval has no
    width: read it with `n`. For the macro mean, give `cluster_means(values, clusters)` a cluster each."""
    if statistic is np.mean and np.ndim(values) == 1:
        return bootstrap_ratio(values, np.ones(len(values)), clusters, n_boot, seed, level)
    (values,), index_B, n_clusters = _used([values], clusters)
    if not len(index_B):
        return Interval(NAN, NAN, NAN, 0)
    members = [np.flatnonzero(index_B == c) for c in range(n_clusters)]
    draws = [statistic(values[np.concatenate([members[c] for c in picks])])
             for block in _picks(n_clusters, n_boot, seed) for picks in block]
    return _interval(statistic(values), draws, len(index_B), n_clusters, level)


def bootstrap_ratio(numerators, denominators, clusters, n_boot=2000, seed=0, level=0.95):
    """Like `bootstrap`, for sum(numerators) / sum(denominators), both (B,): the precision of statements is
    true ones over made ones. A resample whose denominator is 0 is left out; n counts the pairs used."""
    (top_B, bottom_B), index_B, n_clusters = _used([numerators, denominators], clusters)
    if not len(index_B) or not bottom_B.sum():
        return Interval(NAN, NAN, NAN, 0)
    top_C, bottom_C = np.bincount(index_B, top_B), np.bincount(index_B, bottom_B)
    draws = []
    for picks in _picks(n_clusters, n_boot, seed):
        top, bottom = top_C[picks].sum(axis=1), bottom_C[picks].sum(axis=1)
        draws.append(top[bottom != 0] / bottom[bottom != 0])
    return _interval(top_B.sum() / bottom_B.sum(), np.concatenate(draws), len(index_B), n_clusters, level)


def paired_bootstrap(a, b, clusters, n_boot=2000, seed=0, level=0.95):
    """Interval of mean(a - b) on the same pairs, over clusters; a, b: (B,). A pair that one lacks is out."""
    a, b = _floats(a), _floats(b)
    _same_length(a, b)
    return bootstrap(a - b, clusters, n_boot=n_boot, seed=seed, level=level)


def cluster_means(values, clusters):
    """(C,) mean of the values of each cluster that has any, in the order of the sorted cluster ids."""
    (values,), index_B, _ = _used([values], clusters)
    return np.bincount(index_B, values) / np.bincount(index_B)


def several_seeds(values, level=0.95):
    """Mean and t-interval over training runs; values: one number a seed. One run has NaN ends: a spread over
    seeds cannot be seen in one seed. Seeds only: the spread over test prompts is `bootstrap`'s."""
    (values,), _, n = _used([values], np.arange(len(values)))
    if n < 2:
        return Interval(float(values[0]) if n else NAN, NAN, NAN, n)
    half = t_quantile(level, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half), n)


def t_quantile(level, df):
    """t with P(|T| <= t) = level, Student's t with df = 1, 2, ... degrees of freedom: 12.706 for (0.95, 1).
    Abramowitz and Stegun 26.7.3-4, finite sums in theta = atan(t / sqrt(df)), inverted by bisection."""
    def inside(theta):
        cos2, odd = math.cos(theta) ** 2, df % 2
        term = math.cos(theta) if odd else 1.0
        total = term if df > 1 else 0.0
        for k in range(2 if odd else 1, df - 2, 2):
            term *= cos2 * k / (k + 1)
            total += term
        return (theta + math.sin(theta) * total) * 2 / math.pi if odd else math.sin(theta) * total
    _check_level(level)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return math.tan(low) * math.sqrt(df)


# ---------------------------------------------------------------- paired tests

def mcnemar(a_correct, b_correct):
    """Exact two-sided McNemar test on the same pairs; a_correct, b_correct: (B,) of 0 / 1.

    Returns (b01, b10, p): pairs that only b has right, pairs that only a has right, and the chance of so
    uneven a division or worse if each were a coin toss. It takes pairs as independent, which pairs of one
    prompt are not: the interval of `paired_bootstrap` is the safer reading."""
    a, b = _zero_one(a_correct, "a_correct"), _zero_one(b_correct, "b_correct")
    _same_length(a, b)
    b01, b10 = int(((a == 0) & (b == 1)).sum()), int(((a == 1) & (b == 0)).sum())
    tail = sum(math.comb(b01 + b10, k) for k in range(min(b01, b10) + 1))
    return b01, b10, min(1.0, 2 * tail / 2 ** (b01 + b10))


def holm(pvalues):
    """Holm's step-down adjustment: (M,) p-values to (M,) adjusted ones, in the same order, to be held against
    the level directly; the chance of any false claim among the M is then at most the level."""
    p = _floats(pvalues)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1]: {pvalues}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


# ---------------------------------------------------------------- calibration

def reliability(p, hit, bins=10):
    """Calibration in equal bins of [0, 1]; p: (B,) stated probabilities, hit: (B,) 0 / 1, did it come true.

    Either p(image 1) against "image 1 is better", or the choice's own p against "the choice is right".
    Returns a list of dicts low, high, n, confidence (mean p), accuracy (mean hit); an empty bin has NaN for
    both. A bin holds low <= p < high, the last one also p = 1."""
    (p, hit), _, _ = _used([p, _zero_one(hit, "hit")], np.arange(len(p)))
    if len(p) and (p.min() < 0 or p.max() > 1):
        raise ValueError(f"probabilities must lie in [0, 1], found {p.min()} to {p.max()}")
    edges = np.linspace(0, 1, bins + 1)
    index_B = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    rows = []
    for i in range(bins):
        own = index_B == i
        confidence, accuracy = (float(p[own].mean()), float(hit[own].mean())) if own.any() else (NAN, NAN)
        rows.append({"low": float(edges[i]), "high": float(edges[i + 1]), "n": int(own.sum()),
                     "confidence": confidence, "accuracy": accuracy})
    return rows


def ece(p, hit, bins=10):
    """Expected calibration error: |accuracy - confidence| averaged over the bins of `reliability` by their
    counts (Naeini et al. 2015). NaN if nothing applies. Biased upwards in small samples."""
    rows = [row for row in reliability(p, hit, bins) if row["n"]]
    n = sum(row["n"] for row in rows)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / n if n else NAN


# ---------------------------------------------------------------- shared

def _floats(values):
    """Array of floats, None becoming NaN."""
    array = np.asarray(values, dtype=float)
    if np.isinf(array).any():
        raise ValueError(f"infinite value at position {int(np.argmax(np.isinf(array).reshape(-1)))}")
    return array


def _zero_one(values, name):
    array = _floats(values)
    if not np.isin(array[~np.isnan(array)], (0, 1)).all():
        raise ValueError(f"{name} must be 0 / 1 (or NaN for a pair that does not apply)")
    return array


def _same_length(*arrays):
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"arrays of different lengths: {', '.join(str(len(array)) for array in arrays)}")


def _used(arrays, clusters):
    """The arrays without rows that hold a NaN, the cluster number of each row left, and their number."""
    arrays, clusters = [_floats(array) for array in arrays], np.asarray(clusters)
    _same_length(*arrays, clusters)
    missing = [np.isnan(array).any(axis=tuple(range(1, array.ndim))) for array in arrays]
    keep_B = ~np.logical_or.reduce(missing)
    ids, index_B = np.unique(clusters[keep_B], return_inverse=True)
    return [array[keep_B] for array in arrays], index_B, len(ids)


def _picks(n_clusters, n_boot, seed):
    """Yield (R, C) cluster numbers drawn with replacement, n_boot rows in all, in small blocks."""
    if n_boot < 1:
        raise ValueError(f"n_boot must be at least 1: {n_boot}")
    rng, block = np.random.default_rng(seed), max(1, 2_000_000 // n_clusters)
    for start in range(0, n_boot, block):
        yield rng.integers(n_clusters, size=(min(block, n_boot - start), n_clusters))


def _interval(value, draws, n, n_clusters, level):
    _check_level(level)
    if n_clusters < 2 or not len(draws):
        return Interval(float(value), NAN, NAN, n)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), n)


def _check_level(level):
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1: {level}")
