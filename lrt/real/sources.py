"""The benchmarks by name, their files as a `Dataset` of pairs.

    pairs("hpdv2", "HPDv2/train.json", images="HPDv2/train")

| name | path | images |
|---|---|---|
| imagereward | the label file, or rows as JSON or Parquet | folder of the file names; in Parquet they may be inside |
| hpdv2 | train.json or test.json | folder of the file names |
| rapidata | a Parquet shard, or a folder of them | inside; folder of the file names where cells only name files |
| pickapic | a Parquet shard, or a folder of them | inside |
| folder | a folder of your own (`lrt.folder`) | inside it |
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from datasets import Dataset

from lrt.folder import folder_pairs, readable_pairs
from lrt.real import hpdv2, imagereward, pickapic, rapidata
from lrt.real.reading import Bad, Keep, name_of, stored, unwanted


def _own(path, bad: Bad = None, labels_only: bool = False, keep: Keep = None, **_) -> Iterator[dict]:
    """The user's own folder, row by row in the form of the other readers."""
    found, problems = (folder_pairs(path), []) if bad is None else readable_pairs(path)
    if bad is not None:
        bad.extend(map(ValueError, problems))
    for batch in found.with_format("arrow").iter(16):
        for row in batch.to_pylist():
            if unwanted(row, "prompt", keep):
                continue
            names = tuple(map(name_of, row["images"]))
            yield row | {"image_names": names} | ({"images": None} if labels_only else {})


READERS: dict[str, Callable[..., Iterator[dict]]] = {
    "imagereward": imagereward.rows,
    "hpdv2": lambda path, images=None, labels_only=False, **how: hpdv2.rows(
        path, None if labels_only else images, **how
    ),
    "rapidata": rapidata.rows,
    "pickapic": lambda path, images=None, **how: pickapic.rows(path, **how),
    "folder": _own,
}


def rows(name: str, path: str | Path, images: str | Path | None = None, **how) -> Iterator[dict]:
    """The rows of a benchmark by its name, one at a time: `lrt.real.reading` says what a row is.

    how: bad (a list that collects what is left out), decode (False: images are looked for and not decoded),
    labels_only, keep (of a prompt: whether its pairs are wanted; asked before images are read), aspect (what was
    judged; rapidata alone), and whatever else the reader takes.
    """
    if name not in READERS:
        raise ValueError(f"no reader {name!r}; there are {', '.join(READERS)}")
    if how.get("aspect") is not None and name != "rapidata":
        raise ValueError(f"an aspect is rapidata's; {name} has none")
    how = {key: value for key, value in how.items() if key != "aspect" or value is not None}
    return READERS[name](path, images=images, **how)


def pairs(name: str, path: str | Path, images: str | Path | None = None, cache_dir: str | Path | None = None,
          limit: int | None = None, **how) -> Dataset:
    """All pairs, or the first `limit`, in the schema of `lrt.pairs`, in the file's order.

    On disk, in `cache_dir` or a temporary folder that goes when the process ends. A bad row raises ValueError naming
    file, row and column, and nothing is left behind.
    """
    if name == "imagereward" and cache_dir is not None:
        how["cache_dir"] = cache_dir
    return stored(islice(rows(name, path, images, **how), limit), cache_dir)


def needs_folder(name: str, path: str | Path) -> bool:
    """Can images be read only from a folder of their own, since the file at `path` just names them?"""
    return name == "hpdv2" or (name == "imagereward" and Path(path).suffix.lower() == ".json")
