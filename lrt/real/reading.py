"""What the readers of the benchmarks' files share: tables from outside, images that stay where they are, bad rows.

A reader is a generator of rows of the schema of `lrt.pairs` (`imagereward.rows`, `hpdv2.rows`, ...); `lrt.real.sources`
knows them by name and makes a `Dataset` of their rows. Never are all images in memory: a row holds the path of a file
that was found inside the folder of images, or the bytes of its own two images. Such rows go through `stored` to an
Arrow file on disk, which the `Dataset` maps.

Beside the schema's columns a row carries `image_names`: what its two images are called in the source, or None.

Files are not trusted. Addresses in them are never fetched, paths may not leave the folder of images, and every image
is decoded once before it is let in (with `decode=False` it is only looked for).
"""

import atexit
import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from lrt.folder import MAX_BYTES, image_bytes, image_problem, inside
from lrt.pairs import FEATURES, dataset_of

BATCH = 16  # rows of a Parquet file made into Python objects at a time
BUFFER = 1 << 20  # bytes of a column read at a time, where its pages are smaller than its row group
BLOCK_ROWS, BLOCK_BYTES = 1000, 8_000_000  # of the Arrow file written at a time, whichever is reached first
Bad = list[ValueError] | None  # collects what is left out; None: the first bad row is an error


Keep = Callable[[str], bool] | None  # of a prompt: whether its pairs are wanted; None: all are


class BadImage(ValueError):
    """An image that is missing, broken or refused; `name` is what the source calls it. Where both images of a pair are,
    the second is in `also`."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name, self.also = name, ()


class NoVote(ValueError):
    """A row that is not bad but says of itself that nobody judged it."""


@contextmanager
def left_out(bad: Bad) -> Iterator[None]:
    """A bad row raises, or is noted in `bad` and the generator goes on to the next."""
    try:
        yield
    except ValueError as error:
        if bad is None:
            raise
        bad.append(error)


def unwanted(row, column: str, keep: Keep) -> bool:
    """Is this a row of a prompt that `keep` does not want? Asked before its images are read, and before it is known to
    be a row at all: what is none is left to the reader, which says why."""
    prompt = row.get(column) if keep is not None and isinstance(row, dict) else None
    return isinstance(prompt, str) and not keep(prompt.strip())


# --- tables --------------------------------------------------------------------------------------------------------


def json_rows(path: str | Path) -> list:
    """The list that a JSON file holds, whole in memory: labels are small beside images."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); was it downloaded whole?") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of rows, found {type(rows).__name__}")
    if not rows:
        raise ValueError(f"{path}: no rows in it")
    return rows


def checked_row(row, columns: Iterable[str], where: str) -> dict:
    """A row of a JSON list, if it is an object with these columns."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with the columns as keys, found {type(row).__name__}")
    if missing := [column for column in columns if column not in row]:
        raise ValueError(f"{where}, column {missing[0]}: missing; there are {shown(row)}")
    return row


def shown(columns: Iterable) -> str:
    """Column names for a message."""
    return ", ".join(sorted(map(str, columns))) or "none"


def names(values, where: str, column: str, n: int | None = None) -> tuple[str, ...]:
    """A cell that lists n images by name."""
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
        raise ValueError(f"{where}, column {column}: expected a list of file names, found {values!r:.80}")
    if n is not None and len(values) != n:
        raise ValueError(f"{where}, column {column}: expected {n} file names, found {len(values)}")
    if odd := [v for v in values if re.search("[\0\ud800-\udfff]", v)]:
        raise ValueError(f"{where}, column {column}: {odd[0]!r} holds a character that no file name has")
    if len(set(values)) < len(values):
        twice = next(v for v in values if values.count(v) > 1)
        raise ValueError(f"{where}, column {column}: {twice!r} is named twice")
    return tuple(values)


def parquet_files(path: str | Path) -> list[tuple[str, Path]]:
    """(name for messages, file) of one Parquet file, or of all in a folder and below it, in the order of names."""
    path = Path(path)
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise FileNotFoundError(f"no file or folder {str(path)!r}")
    found = sorted(p for p in path.rglob("*.parquet") if p.is_file())
    if not found:
        raise ValueError(f"{path}: no .parquet file in it")
    return [(str(p.relative_to(path)), p) for p in found]


def parquet_columns(file: Path) -> dict[str, pa.DataType]:
    """The columns of a Parquet file: name -> type."""
    with _understood(file):
        schema = pq.read_schema(file)
    return dict(zip(schema.names, schema.types, strict=True))


def named(columns: dict[str, pa.DataType], column: str) -> list[str]:
    """What to ask for to learn the names of the images in a column, and not their bytes; [] if it has none."""
    kind = columns.get(column)
    if kind is not None and pa.types.is_struct(kind):
        return [f"{column}.path"]
    return [column] if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)) else []


def parquet_rows(name: str, file: Path, columns: list[str]) -> Iterator[tuple[str, dict]]:
    """(where it stands, in words; row) of a Parquet file; in memory at a time is one row group at most.

    Of a struct one field can be asked for: "image.path" gives {"image": {"path": ...}} without reading the bytes.
    """
    number = 0
    with _understood(file):
        opened = pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
    with opened:
        batches = opened.iter_batches(BATCH, columns=columns)
        while True:
            with _understood(file):
                batch = next(batches, None)
                rows = batch.to_pylist() if batch is not None else []
            if batch is None:
                return
            for row in rows:
                number += 1
                yield f"{name}, row {number}", row


@contextmanager
def _understood(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: not a Parquet file, or not whole ({said})") from None


def split_of(file: str | Path) -> str:
    """The split that a file's name speaks of: train-00003-of-00053.parquet and metadata-train.parquet are of train."""
    return Path(file).stem.removeprefix("metadata-").split("-")[0]


# --- images --------------------------------------------------------------------------------------------------------


class Images:
    """The image files under one folder, each looked at once however many pairs it is in."""

    def __init__(self, root: str | Path, decode: bool = True):
        self.root, self.decode = Path(root), decode
        self.seen: dict[str, str | None] = {}  # name -> path, or None after a problem
        self.problems: dict[str, str] = {}
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder of images {str(self.root)!r}")

    def cell(self, name: str, where: str) -> dict:
        """The file of this name as a cell of the column `images`; BadImage if it cannot be used."""
        if name not in self.seen:
            try:
                path = inside(self.root, name, "")
                if self.decode:
                    image_bytes(path, f": {name!r}")
                self.seen[name] = str(path)
            except ValueError as error:
                self.seen[name], self.problems[name] = None, str(error).removeprefix(": ")
        if self.seen[name] is None:
            raise BadImage(f"{where}: {self.problems[name]}", name)
        return {"bytes": None, "path": self.seen[name]}


def embedded(value, images: Images | None, where: str, decode: bool = True) -> dict:
    """A cell of a Parquet table that holds an image (its bytes, or a struct of bytes and path) as one of `images`.

    A cell that only names a file is read from the folder of images, if there is one; an address is refused.
    """
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, str):
        data, path = None, data
    if isinstance(data, bytes):
        name = hashlib.sha256(data).hexdigest()
        if len(data) > MAX_BYTES:
            raise BadImage(f"{where}: larger than {MAX_BYTES // 1_000_000} MB", name)
        if decode and (problem := image_problem(data)):
            raise BadImage(f"{where}: {problem}", name)
        return {"bytes": data, "path": None}
    if not isinstance(path, str) or not path:
        raise BadImage(f"{where}: no image in it", where)
    if "://" in path:
        raise BadImage(f"{where}: {path[:200]!r} is an address, and addresses in data are never fetched: "
                       "download the images first, or take the files that hold them", path)
    if images is None:
        raise BadImage(f"{where}: only names the file {path[:200]!r}: say where the images are (images)", path)
    return images.cell(path, where)


def both_images(cell: Callable[..., dict], *asked) -> list[dict]:
    """`cell` of each that is asked for. BadImage only once all were looked at, so that every bad one is known."""
    cells, bad = [], []
    for one in asked:
        try:
            cells.append(cell(one))
        except BadImage as error:
            bad.append(error)
    if bad:
        bad[0].also = tuple(bad[1:])
        raise bad[0]
    return cells


def empty(value) -> bool:
    """Is there neither an image nor the name of one in this cell of a table?"""
    return not (any(value.get(key) for key in ("bytes", "path")) if isinstance(value, dict) else value)


def name_of(cell: dict) -> str:
    """What tells an image from others: its path, or the hash of its bytes."""
    return cell["path"] or hashlib.sha256(cell["bytes"]).hexdigest()


# --- to a Dataset --------------------------------------------------------------------------------------------------


def stored(rows: Iterable[dict], cache_dir: str | Path | None = None, name: str | None = None) -> Dataset:
    """Rows as a `Dataset` that is mapped from an Arrow file, written a few rows at a time.

    The file lies in `cache_dir`, or in a temporary folder that is removed when the process ends. If a row is bad the
    error passes and no file is left. A file of this `name` that is already there is mapped, and no row is read.
    """
    folder = Path(cache_dir) if cache_dir is not None else scratch()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"pairs-{uuid.uuid4().hex}.arrow")
    if path.exists():
        return Dataset.from_file(str(path))
    part = path.with_name(path.name + ".part")
    schema, n = FEATURES.arrow_schema, 0
    try:
        with pa.OSFile(str(part), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for block in _blocks(rows):
                writer.write_batch(pa.RecordBatch.from_pylist(block, schema=schema))
                n += len(block)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    if not n:
        path.unlink()
        return dataset_of([])
    return Dataset.from_file(str(path))


def _blocks(rows: Iterable[dict]) -> Iterator[list[dict]]:
    block, size = [], 0
    for row in rows:
        block.append(row)
        size += sum(len(cell["bytes"] or b"") for cell in row["images"] or ())
        if len(block) == BLOCK_ROWS or size > BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def scratch() -> Path:
    """A temporary folder that goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="lrt-pairs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
