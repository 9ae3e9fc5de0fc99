"""ImageReward's preferences (Xu et al. 2023, arXiv 2304.05977; data THUDM/ImageRewardDB, Apache-2.0), in both forms.

**The label file** of its code repository, `test.json`: a list of 466 objects

    {"id": "005658-0040", "prompt": "...", "generations": ["part-005658/images/...webp", ...], "ranking": [1, 2, 5, 3]}

whose images lie in a folder beside it; ranking: 1 = best, equal numbers are ties. This file is the published test:
6,399 untied and 831 tied pairs.

**The data set's own rows**, one an image: `image` (or `image_path`), `prompt_id`, `prompt`, `rank`, and the ratings
`overall_rating`, `image_text_alignment_rating`, `fidelity_rating`, which are not read here. They come as Parquet
(`metadata-train.parquet` names files; converted shards hold the bytes) and as JSON lists (in each archive of images).
Rows of a prompt need not stand together; their order is the order of its images.

Behind each label stands one ranking, so a pair has one vote, or none where the two ranks are equal.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lrt.folder import text
from lrt.real.ranked import Ranked, ranks, rows_of
from lrt.real.reading import (
    Bad,
    BadImage,
    Images,
    Keep,
    checked_row,
    embedded,
    empty,
    json_rows,
    left_out,
    named,
    names,
    parquet_columns,
    parquet_files,
    parquet_rows,
    scratch,
    shown,
    split_of,
)

SOURCE = "imagereward"
LABELS = ("id", "prompt", "generations", "ranking")
ROW = ("prompt_id", "prompt", "rank")


@dataclass
class _Prompt:
    """A prompt and its images, as they are found; `where` has one entry an image."""

    prompt_id: str
    prompt: str
    images: list[str] = field(default_factory=list)
    rank: list[float] = field(default_factory=list)
    where: list[str] = field(default_factory=list)

    def ranked(self) -> Ranked:
        return Ranked(self.prompt_id, self.prompt, tuple(self.images), tuple(self.rank))


def labels(path: str | Path, bad: Bad = None) -> list[Ranked]:
    """The rankings of a label file or of the data set's own rows, without images.

    ValueError naming file, row and column for what cannot be read; with `bad`, a list, the row is left out and the
    error appended to it.
    """
    return [found.ranked() for found in _prompts(Path(path), bad)]


def rows(path: str | Path, images: str | Path | None = None, bad: Bad = None, decode: bool = True,
         labels_only: bool = False, cache_dir: str | Path | None = None, keep: Keep = None) -> Iterator[dict]:
    """All pairs as rows of the schema (`lrt.real.reading` says what is beside it).

    `images` is the folder that file names are relative to. JSON without it, or `labels_only`, gives rows without
    images. Images that a Parquet file holds as bytes are written once to a file each, in `cache_dir` or a temporary
    folder, since each is in several pairs.
    """
    path = Path(path)
    files = Images(images, decode) if images is not None and not labels_only else None
    found = [one for one in _prompts(path, bad) if not keep or keep(one.prompt)]
    if labels_only or (_is_json(path) and files is None):
        cell_at = None
    elif _is_json(path):
        cell_at = files.cell
    else:
        wanted = {where for one in found for where in one.where}
        cell_at = _Unpacked(path, files, decode, Path(cache_dir) if cache_dir else scratch(), wanted).cell
    first = path if _is_json(path) else parquet_files(path)[0][1]
    same = {"split": split_of(first), "source": SOURCE}
    for one in found:
        cell = cell_at and (lambda i, one=one: cell_at(one.images[i], one.where[i]))
        yield from rows_of(one.ranked(), cell, bad, **same)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _prompts(path: Path, bad: Bad) -> list[_Prompt]:
    if not _is_json(path):
        return _grouped(_parquet(path), bad)
    listed = json_rows(path)
    numbered = ((f"{path.name}, row {i}", row) for i, row in enumerate(listed, start=1))
    return _grouped(numbered, bad) if _one_an_image(listed, path) else _label_file(numbered, bad)


def _one_an_image(listed: list, path: Path) -> bool:
    """Which of the two forms it is, seen by the first row; ValueError for a file of another benchmark."""
    there = listed[0] if isinstance(listed[0], dict) else {}
    if set(there) & {"generations", "ranking"}:
        return False
    if {"prompt_id", "rank"} <= set(there):
        return True
    raise ValueError(f"{path}, row 1: neither the columns of ImageReward's label file ({', '.join(LABELS)}) nor those "
                     f"of its rows ({', '.join(ROW)}); there are {shown(there)}")


# --- the label file ------------------------------------------------------------------------------------------------


def _label_file(numbered: Iterator[tuple[str, dict]], bad: Bad) -> list[_Prompt]:
    found, first = [], {}
    for where, row in numbered:
        with left_out(bad):
            checked_row(row, LABELS, where)
            name = text(row, "id", where)
            if name in first:
                raise ValueError(f"{where}, column id: {name!r} is already the id of {first[name]}")
            first[name] = where
            images = names(row["generations"], where, "generations")
            rank = ranks(row["ranking"], len(images), where, "ranking")
            column = f"{where}, column generations"
            found.append(_Prompt(name, text(row, "prompt", where), list(images), list(rank), [column] * len(images)))
    return found


# --- the data set's own rows ---------------------------------------------------------------------------------------


def _parquet(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, row without the bytes of its image) of all Parquet files."""
    for name, file in parquet_files(path):
        there = parquet_columns(file)
        checked_row(there, ROW, name)
        if not {"image", "image_path"} & set(there):
            raise ValueError(f"{name}: no column image or image_path; there are {shown(there)}")
        yield from parquet_rows(name, file, [*ROW, "image_path", *named(there, "image")])


def _grouped(numbered: Iterator[tuple[str, dict]], bad: Bad) -> list[_Prompt]:
    found: dict[str, _Prompt] = {}
    for where, row in numbered:
        with left_out(bad):
            checked_row(row, ROW, where)
            prompt_id, prompt = text(row, "prompt_id", where), text(row, "prompt", where)
            rank = ranks([row["rank"]], 1, where, "rank")
            one = found.setdefault(prompt_id, _Prompt(prompt_id, prompt))
            if one.prompt != prompt:
                raise ValueError(f"{where}, column prompt: the prompt_id {prompt_id!r} had another prompt before")
            name = _image_name(row, f"{prompt_id}/{len(one.images) + 1}")
            if name in one.images:
                raise ValueError(f"{where}, column image_path: {name!r} is already there for this prompt")
            one.images.append(name)
            one.rank.extend(rank)
            one.where.append(_place(where, row))
    return list(found.values())


def _place(where: str, row: dict) -> str:
    """Where a row's image stands: by this it is found again when the images are unpacked."""
    return f"{where}, column {'image_path' if row.get('image_path') else 'image'}"


def _image_name(row: dict, default: str) -> str:
    image = row.get("image")
    name = row.get("image_path") or (image.get("path") if isinstance(image, dict) else image)
    return name if isinstance(name, str) and name else default


class _Unpacked:
    """The images of Parquet files, each written once to a file named by its hash: those that are wanted, and the files
    are read no further than to the last one that is asked for."""

    def __init__(self, path: Path, files: Images | None, decode: bool, folder: Path, wanted: set[str]):
        self.cells: dict[str, dict | BadImage] = {}
        self.files, self.decode, self.folder = files, decode, folder / "images"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rest = ((where, row) for where, row in self._rows(path) if where in wanted)

    @staticmethod
    def _rows(path: Path) -> Iterator[tuple[str, dict]]:
        for name, file in parquet_files(path):
            there = parquet_columns(file)
            for where, row in parquet_rows(name, file, [c for c in ("image", "image_path") if c in there]):
                yield _place(where, row), row

    def cell(self, name: str, asked: str) -> dict:
        while asked not in self.cells:
            where, row = next(self.rest)
            try:
                value = row.get("image_path") if empty(row.get("image")) else row["image"]
                self.cells[where] = _written(embedded(value, self.files, where, self.decode), self.folder)
            except BadImage as error:
                self.cells[where] = error
        cell = self.cells[asked]
        if isinstance(cell, BadImage):
            raise cell
        return cell


def _written(cell: dict, folder: Path) -> dict:
    if cell["bytes"] is None:
        return cell
    path = folder / hashlib.sha256(cell["bytes"]).hexdigest()
    if not path.exists():
        part = path.with_name(path.name + ".part")
        part.write_bytes(cell["bytes"])
        part.replace(path)
    return {"bytes": None, "path": str(path.resolve())}
