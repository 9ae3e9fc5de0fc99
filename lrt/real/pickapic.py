"""Pick-a-Pic's preferences (Kirstain et al. 2023, arXiv 2305.01569), streamed: the sets hold 190 GB and more.

Columns read: `caption`, `jpg_0`, `jpg_1` (bytes), `label_0`, `label_1` (1 and 0, or 0.5 each for a tie), `has_label`
and `are_different`. Rows with `has_label` false were never judged and are passed over, as in PickScore's own code;
those with `are_different` false show the same image twice and are passed over if asked for.

A source is a shard, a folder of shards, or any iterable of rows, such as what the `datasets` library streams:

    from datasets import load_dataset
    rows = load_dataset("yuvalkirstain/pickapic_v1", split="train", streaming=True)
    pairs = pickapic.take(rows, 1000)   # in the schema of lrt.pairs; nothing more is fetched

There are no ids of prompts: `prompt_id` is the caption. The addresses of images in the rows are not used.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from datasets import Dataset, IterableDataset

from lrt.folder import text
from lrt.pairs import FEATURES
from lrt.real.reading import (
    Bad,
    Keep,
    NoVote,
    both_images,
    checked_row,
    embedded,
    left_out,
    name_of,
    parquet_columns,
    parquet_files,
    parquet_rows,
    split_of,
    stored,
    unwanted,
)

SOURCE = "pickapic"
LABELS = ("caption", "label_0", "label_1", "has_label")
IMAGES = ("jpg_0", "jpg_1")
Source = str | Path | Iterable[dict]


def rows(source: Source, bad: Bad = None, decode: bool = True, labels_only: bool = False,
         only_different: bool = False, keep: Keep = None) -> Iterator[dict]:
    """Pairs as rows of the schema, one at a time (`lrt.real.reading` says what is beside it).

    A row that cannot be read raises ValueError naming file, row and column, or with `bad`, a list, is left out and the
    error appended; a row without a label is passed over (a `NoVote` in `bad`).
    """
    for number, (where, split, row) in enumerate(_found(source, labels_only), start=1):
        if unwanted(row, "caption", keep):
            continue
        pair = None
        try:
            with left_out(bad):
                pair = _pair(row, where, decode, labels_only, only_different)
        except NoVote:
            continue
        if pair:
            yield pair | {"pair_id": f"{SOURCE}/{split}/{number}", "split": split, "source": SOURCE}


def stream(source: Source, **options) -> IterableDataset:
    """The same as a `datasets.IterableDataset` in the schema: it maps, shuffles in a buffer, is batched."""

    def examples() -> Iterator[dict]:
        for row in rows(source, **options):
            yield {name: row[name] for name in FEATURES}

    return IterableDataset.from_generator(examples, features=FEATURES)


def take(source: Source, n: int, cache_dir: str | Path | None = None, **options) -> Dataset:
    """The first n pairs, in a `Dataset` on disk (`lrt.real.reading.stored`); fewer if the source has no more."""
    if n < 1:
        raise ValueError(f"take a number of pairs, at least 1: {n}")
    return stored(islice(rows(source, **options), n), cache_dir)


def _found(source: Source, labels_only: bool) -> Iterator[tuple[str, str, dict]]:
    """(where, split, row)"""
    if not isinstance(source, str | Path):
        for number, row in enumerate(source, start=1):
            yield f"row {number}", "stream", row
        return
    for name, file in parquet_files(source):
        there = parquet_columns(file)
        checked_row(there, LABELS + (() if labels_only else IMAGES), name)
        wanted = [*LABELS, "are_different", *(("image_0_uid", "image_1_uid") if labels_only else IMAGES)]
        for where, row in parquet_rows(name, file, wanted):
            yield where, split_of(file), row


def _pair(row: dict, where: str, decode: bool, labels_only: bool, only_different: bool) -> dict:
    checked_row(row, LABELS + (() if labels_only else IMAGES), where)
    if not row["has_label"]:
        raise NoVote(f"{where}: nobody judged it (has_label is false)")
    if only_different and row.get("are_different") is False:
        raise NoVote(f"{where}: the same image twice (are_different is false)")
    caption, share = text(row, "caption", where), _share(row, where)
    vote = {1.0: 1, 0.0: 2, 0.5: 0}[share]
    pair = dict.fromkeys(FEATURES) | {
        "prompt_id": caption,
        "prompt": caption,
        "vote": vote,
        "votes_1": int(vote == 1),
        "votes_2": int(vote == 2),
        "share": share,
    }
    if labels_only:
        uids = row.get("image_0_uid"), row.get("image_1_uid")
        return pair | {"image_names": uids if all(isinstance(uid, str) and uid for uid in uids) else None}
    cells = both_images(lambda column: embedded(row[column], None, f"{where}, column {column}", decode), *IMAGES)
    return pair | {"images": cells, "image_names": tuple(map(name_of, cells))}


def _share(row: dict, where: str) -> float:
    labels = row["label_0"], row["label_1"]
    if labels not in ((1, 0), (0, 1), (0.5, 0.5)):
        raise ValueError(f"{where}, columns label_0 and label_1: {labels[0]!r} and {labels[1]!r} "
                         "are not 1 and 0, 0 and 1, or 0.5 and 0.5")
    return float(labels[0])
