"""What differs from one training run to the next, together with what differs between test prompts: numpy only.

`stats.bootstrap` sees the spread over prompts of one run, and `stats.several_seeds` the spread over runs alone. A
comparison of two methods, run with the same seeds and measured on the same pairs, has both.
"""

import math
from collections.abc import Sequence

import numpy as np

from lrt.stats import NAN, Interval, several_seeds, t_quantile

BLOCK = 1000  # draws at a time, so that they fit into a processor's cache: several times as fast as all at once


def hierarchical(d_SB, clusters_B, n_boot: int = 2000, seed: int = 0, level: float = 0.95,
                 student: bool = True) -> tuple[Interval, float]:
    """(interval, p) of the mean over pairs, averaged over seeds: a bootstrap over seeds and clusters, crossed.

    d_SB: (S, B) differences, NaN where one does not apply; clusters_B: (B,) prompt ids, the same for every seed. Both
    seeds and clusters are drawn with replacement, every drawn seed on the same drawn clusters (the "pigeonhole
    bootstrap" of Owen 2007, doi 10.1214/07-AOAS122). With m = the estimate, a draw is

        m + k (mean of the drawn seeds, all clusters - m) + (the same seeds, drawn clusters - the same, all clusters)

    k = sqrt(S / (S - 1)) makes up for the spread that S values understate as seen from their own mean; it is divided by
    sqrt(c / (S - 1)), c drawn from chi-square with S - 1 degrees of freedom, anew for every draw: that the spread is
    itself a guess from S values, as in Student's t. `student=False` leaves that out: 3 seeds then give intervals that
    are too narrow.

    The interval holds the middle `level` of the draws; p is twice the smaller tail at 0, at least 2 / n_boot. n counts
    the values. Seeds and clusters without any value are left out; ends and p are NaN with fewer than two of either.
    ValueError if the shapes do not fit, or a value is infinite.
    """
    sums_SC, counts_SC = _by_cluster(d_SB, clusters_B)
    (S, C), n = sums_SC.shape, int(counts_SC.sum())
    if not 0 < level < 1 or n_boot < 1:
        raise ValueError(f"level must lie between 0 and 1, and n_boot be at least 1: {level}, {n_boot}")
    if not n:
        return Interval(NAN, NAN, NAN, 0), NAN
    means_S = sums_SC.sum(1) / counts_SC.sum(1)
    value = float(means_S.mean())
    if S < 2 or C < 2:
        return Interval(value, NAN, NAN, n), NAN
    rng = np.random.default_rng(seed)
    sizes = [min(BLOCK, n_boot - done) for done in range(0, n_boot, BLOCK)]
    draws_R = np.concatenate([_draws(sums_SC, counts_SC, size, rng, student) for size in sizes])
    draws_R = np.round(value + draws_R, 12)  # so that 0 is 0 on every machine
    tail = min((draws_R <= 0).mean(), (draws_R >= 0).mean())
    low, high = np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n), float(min(1.0, 2 * max(tail, 1 / n_boot)))


def _draws(sums_SC, counts_SC, n: int, rng: np.random.Generator, student: bool) -> np.ndarray:
    """(n,) draws of `hierarchical`, less the estimate; sums_SC, counts_SC: of the values, by seed and cluster."""
    (S, C), means_S = sums_SC.shape, sums_SC.sum(1) / counts_SC.sum(1)
    drawn_RC, drawn_RS = rng.integers(C, size=(n, C), dtype=np.int32), rng.integers(S, size=(n, S))
    cells = (drawn_RC + C * np.arange(n, dtype=np.int32)[:, None]).ravel()
    times_RC = np.bincount(cells, minlength=n * C).reshape(n, C).astype(float)  # of each cluster
    tops_RS, bottoms_RS = times_RC @ sums_SC.T, times_RC @ counts_SC.T
    redrawn_RS = np.divide(tops_RS, bottoms_RS, out=np.full(tops_RS.shape, NAN), where=bottoms_RS > 0)
    # both for the same drawn seeds; a seed whose values are all in clusters that were not drawn is out of both
    both_RS = np.take_along_axis(redrawn_RS, drawn_RS, axis=1)
    seeds_R, used_RS = means_S[drawn_RS].mean(1), ~np.isnan(both_RS)
    rest_RS = np.where(used_RS, both_RS - means_S[drawn_RS], 0)
    k = math.sqrt(S / (S - 1)) / (np.sqrt(rng.chisquare(S - 1, n) / (S - 1)) if student else 1)
    return k * (seeds_R - means_S.mean()) + rest_RS.sum(1) / np.maximum(used_RS.sum(1), 1)


def false_alarms(d_SB, clusters_B, n_seeds: int, times: int = 200, n_boot: int = 500, seed: int = 0) -> float:
    """How often the interval of `hierarchical` leaves out 0 where there is nothing: a check of it on noise that was
    found, not invented. Of `times` studies each has n_seeds of the S rows of d_SB (none twice), less the mean over all,
    each turned over by a coin, and prompts drawn with replacement: so the true mean is 0, and seeds and prompts vary as
    the study's own.
    ValueError for more seeds than there are rows."""
    d_SB, rng = np.asarray(d_SB, dtype=float), np.random.default_rng(seed)
    d_SB = d_SB[~np.isnan(d_SB).all(axis=1)]
    if n_seeds > len(d_SB):
        raise ValueError(f"{n_seeds} seeds asked for, {len(d_SB)} have values")
    centred_SB = d_SB - np.nanmean(d_SB, axis=1).mean()
    pairs = [np.flatnonzero(np.asarray(clusters_B) == name) for name in dict.fromkeys(clusters_B)]
    alarms = 0
    for i in range(times):
        own, coin = rng.permutation(len(d_SB))[:n_seeds], rng.choice([-1, 1], size=n_seeds)
        drawn = [pairs[k] for k in rng.integers(len(pairs), size=len(pairs))]
        ids_B = np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])  # a prompt drawn twice is two prompts
        _, low, high, _ = hierarchical(centred_SB[own][:, np.concatenate(drawn)] * coin[:, None], ids_B, n_boot, i)[0]
        alarms += low > 0 or high < 0
    return alarms / times


def _by_cluster(d_SB, clusters_B) -> tuple[np.ndarray, np.ndarray]:
    """(sums_SC, counts_SC) of the seeds and the clusters that have any value."""
    d_SB, clusters_B = np.asarray(d_SB, dtype=float), np.asarray(clusters_B)
    if d_SB.ndim != 2 or clusters_B.shape != d_SB.shape[1:]:
        raise ValueError(f"(S, B) differences and (B,) clusters do not fit: {d_SB.shape}, {clusters_B.shape}")
    if np.isinf(d_SB).any():
        raise ValueError(f"infinite difference, seed {int(np.isinf(d_SB).any(axis=1).argmax())} (counted from 0)")
    known_SB = ~np.isnan(d_SB)
    seeds, pairs = known_SB.any(axis=1), known_SB.any(axis=0)
    ids, index_B = np.unique(clusters_B[pairs], return_inverse=True)
    member_BC = (index_B[:, None] == np.arange(len(ids))).astype(float)
    d_SB, known_SB = d_SB[seeds][:, pairs], known_SB[seeds][:, pairs]
    return np.nan_to_num(d_SB) @ member_BC, known_SB @ member_BC


def prediction(values: Sequence[float], level: float = 0.95) -> Interval:
    """Where one new run would lie: mean and t-interval with sd * sqrt(1 + 1 / S); values: (S,), one number a seed.

    `several_seeds` says how well the mean is known, this how much to expect of a single run. Exact for values from a
    normal distribution. NaN ends with fewer than two values; NaN values are left out.
    """
    mean, _, _, n = several_seeds(values, level)
    if n < 2:
        return Interval(mean, NAN, NAN, n)
    half = t_quantile(level, n - 1) * np.nanstd(np.asarray(values, dtype=float), ddof=1) * math.sqrt(1 + 1 / n)
    return Interval(mean, float(mean - half), float(mean + half), n)
