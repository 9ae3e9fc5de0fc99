"""Predictions beside labels, a row a pair: what the benchmarks' rules (`lrt.real.benchmarks`) are computed from."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from lrt.real.predictions import Predictions, own_names
from lrt.real.ranked import Pair, Ranked, counts_of, pairs_of
from lrt.real.reading import Bad

BENCHMARKS = ("imagereward", "hpdv2", "pickapic", "rapidata")

# --- labels ---------------------------------------------------------------------------------------------------------


def labels(benchmark: str, path: str | Path, bad: Bad = None, aspect: str | None = None) -> list[Ranked]:
    """The labels of a benchmark's own file, without its images. ValueError naming what cannot be read; with `bad`, a
    list, such rows are left out and the errors appended to it. `aspect` is what was judged, for rapidata alone."""
    if aspect is not None and benchmark != "rapidata":
        raise ValueError(f"an aspect is rapidata's; {benchmark} has none")
    if benchmark == "imagereward":
        from lrt.real import imagereward

        found = imagereward.labels(path, bad)
    elif benchmark == "hpdv2":
        from lrt.real import hpdv2

        found = hpdv2.labels(path, bad)
    elif benchmark == "pickapic":
        from lrt.real import pickapic

        found = ranked_of(pickapic.rows(path, bad, labels_only=True))
    elif benchmark == "rapidata":
        from lrt.real import rapidata

        found = ranked_of(rapidata.rows(path, bad=bad, labels_only=True, aspect=aspect))
    else:
        raise ValueError(f"no benchmark {benchmark!r}; there are {', '.join(BENCHMARKS)}")
    if not found:
        raise ValueError(f"{path}: no labels in it")
    return found


def ranked_of(pairs: Iterable[Mapping]) -> list[Ranked]:
    """Rows in the schema of `lrt.pairs` (their images are not looked at) as labels of two images each.

    The label is the vote; where a row has no single vote (0) but a share of votes, it is the majority's. The images are
    called `image_names` where a row has them, else by `own_names`. Of a `Dataset` give one without its images
    (`remove_columns("images")`), so that none is decoded.
    """
    found = []
    for row in pairs:
        share = 0.5 if row["share"] is None else float(row["share"])
        side = row["vote"] or (1 if share > 0.5 else 2 if share < 0.5 else 0)
        rank = ((1.5, 1.5), (1.0, 2.0), (2.0, 1.0))[side]
        images = tuple(row.get("image_names") or own_names(row["pair_id"]))
        found.append(Pair(row["prompt_id"], row["prompt"], images, rank, row_id=row["pair_id"], share=share))
    return found


# --- predictions -----------------------------------------------------------------------------------------------------


def orders(predictions: Predictions) -> tuple[str, ...]:
    """("any",) for scores, which have none; ("forward", "reverse") where a pair is there in both; else ("given",)."""
    if predictions.form == "image":
        return ("any",)
    asked = {*predictions.values, *predictions.unanswered}
    both = predictions.both or any((prompt, b, a) in asked for prompt, a, b in asked)
    return ("forward", "reverse") if both else ("given",)


def scores_of(predictions: Predictions, ranked: Iterable[Ranked], order: str | None = None) -> pd.DataFrame:
    """Predictions beside labels, a row for each of the B pairs of the labels, in their order (i < j of `pairs_of`):

    row (of the labels), prompt_id, image_1, image_2; vote, the label (1, 2, 0 = tie); share, of its voters for image 1;
    answer, the prediction (1, 2, 0 = tie, NaN = none), in the pair's own numbering whatever the order shown; margin,
    p(1) - p(2) for two scores taken as logits, NaN for a choice; first, the image shown first (1 or 2; 1 for scores).

    `order` is one of `orders`, by default the first of them.
    """
    order = order or orders(predictions)[0]
    rows = []
    for number, row in enumerate(ranked):
        for i, j, vote in pairs_of(row):
            a, b = row.images[i], row.images[j]
            answer, margin, first = _predicted(predictions, row.prompt_id, a, b, order)
            share = row.share if isinstance(row, Pair) else counts_of(row, i, j)[2]
            rows.append((number, row.prompt_id, f"{number}/{i}-{j}", a, b, vote, share, answer, margin, first))
    columns = ["row", "prompt_id", "pair_id", "image_1", "image_2", "vote", "share", "answer", "margin", "first"]
    return pd.DataFrame(rows, columns=columns).astype({"answer": float, "margin": float})


def _predicted(predictions: Predictions, prompt: str, a: str, b: str, order: str) -> tuple[float, float, int]:
    """(answer, margin, which of the two was shown first)"""
    values = predictions.values
    if predictions.form == "image":
        if (prompt, a) not in values or (prompt, b) not in values:
            return math.nan, math.nan, 1
        s, t = values[prompt, a], values[prompt, b]
        return (1 if s > t else 2 if t > s else 0), math.tanh((s - t) / 2), 1
    turned = order == "reverse" or (order == "given" and (prompt, b, a) in values)
    choice = values.get((prompt, b, a) if turned else (prompt, a, b))
    if choice is None:
        return math.nan, math.nan, 2 if turned else 1
    return (3 - choice if turned and choice else choice), math.nan, 2 if turned else 1
