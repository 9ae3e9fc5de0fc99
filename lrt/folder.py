"""Your own pairs: a folder of images and one table that names them, in the schema of `lrt.pairs`.

    my-pairs/
      pairs.csv        or pairs.jsonl, one JSON object a line
      a.png  b.jpg  ...

| column | meaning |
|---|---|
| prompt | the text that both images were made from |
| image_1, image_2 | file names, relative to the folder; PNG, JPEG, WebP, GIF or BMP |
| vote | 1, 2 or tie ... |
| votes_1, votes_2 | ... or how many voters preferred each image; with both, `vote` is the training label |
| pair_id | optional: unique name of the pair; by default folder/ and the row |
| prompt_id | optional: pairs that share it are clustered; by default the prompt's text |

Other columns are ignored. A table is not trusted: an image is read as bytes from a file under the folder,
never from a path or an address elsewhere that a row names, and is decoded once before it is let in.
"""

import csv
import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath

from datasets import Dataset, concatenate_datasets
from PIL import Image

from lrt.files import json_object
from lrt.pairs import FEATURES

TABLES = ("pairs.csv", "pairs.jsonl")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # PIL's other decoders have no business here
BLOCK = 256  # rows turned into a table at a time, so that the bytes of few images are held twice
MAX_BYTES = 50_000_000  # of one image file
MAX_PIXELS = 50_000_000  # of one image: a small file can unpack to gigabytes
MAX_ASPECT = 200  # longer side over shorter: Qwen2.5-VL's processor takes no more


def folder_pairs(path: str | Path, labels: str | None = None) -> Dataset:
    """All pairs of a folder, in the table's order; `labels` names the table if it is not one of `TABLES`.

    `split` and `source` are "folder". Of counts alone the label is the majority's, and 0 (a tie) where there
    is none; of a vote alone the counts are that one vote. A bad row raises ValueError naming file, row and
    column, and nothing is returned; FileNotFoundError when there is no such folder. The images are held as the
    files' bytes, not decoded.
    """
    return _dataset(Path(path), labels, None)


def readable_pairs(path: str | Path, labels: str | None = None) -> tuple[Dataset, list[str]]:
    """As `folder_pairs`, but leaving out bad rows: (the others, one message for each left out).

    ValueError when no row is left, or when the table itself cannot be read.
    """
    problems: list[str] = []
    return _dataset(Path(path), labels, problems), problems


def _dataset(root: Path, labels: str | None, problems: list[str] | None) -> Dataset:
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r}")
    table = _table(root, labels)
    parts, rows, first_row = [], [], {}
    for number, where, raw in _lines(table):
        try:
            row = _row(root, where, raw, f"folder/{number}")
            if (other := first_row.setdefault(row["pair_id"], where)) != where:
                name = row["pair_id"]
                raise ValueError(f"{where}, column pair_id: {name!r} is already the name of {other}")
        except ValueError as error:
            if problems is None:
                raise
            problems.append(str(error))
            continue
        rows.append(row)
        if len(rows) == BLOCK:
            parts.append(Dataset.from_list(rows, features=FEATURES))
            rows = []
    if rows:
        parts.append(Dataset.from_list(rows, features=FEATURES))
    if not parts:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise ValueError(f"{table}: no pairs in it{first}")
    return concatenate_datasets(parts)


# --- the table -----------------------------------------------------------------------------------------------------


def _table(root: Path, labels: str | None) -> Path:
    if labels is not None:
        return inside(root, labels, f"table {labels!r}")
    found = [name for name in TABLES if (root / name).is_file()]
    if len(found) != 1:
        problem = "both are there: name one (labels)" if found else f"no {' or '.join(TABLES)} in it"
        raise ValueError(f"{root}: {problem}")
    return inside(root, found[0], f"table {found[0]!r}")


def _lines(table: Path) -> Iterator[tuple[int, str, dict | str]]:
    """(row, counted from 1 without the header; where it stands, in words; cells of a CSV row or text of a
    JSONL line), read as needed."""
    reader = {".csv": _csv_lines, ".jsonl": _json_lines}.get(table.suffix.lower())
    if reader is None:
        raise ValueError(f"{table}: a table of pairs ends in .csv or .jsonl")
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            yield from reader(file, table.name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise ValueError(f"{table}: not a CSV file ({error})") from None


def _csv_lines(file, name: str) -> Iterator[tuple[int, str, dict]]:
    reader = csv.DictReader(file, strict=True)
    header = reader.fieldnames or []
    if len(set(header)) < len(header):
        raise ValueError(f"{name}, header: a column is named twice ({', '.join(header)})")
    has_label = "vote" in header or {"votes_1", "votes_2"} <= set(header)
    missing = [c for c in ("prompt", "image_1", "image_2") if c not in header]
    if missing := missing + ([] if has_label else ["vote (or votes_1 and votes_2)"]):
        there = ", ".join(header) or "none"
        raise ValueError(f"{name}, header: no column {', '.join(missing)}; there are {there}")
    for i, cells in enumerate(reader, start=1):
        yield i, f"{name}, row {i} (line {reader.line_num})", cells


def _json_lines(file, name: str) -> Iterator[tuple[int, str, str]]:
    texts = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    for i, (number, line) in enumerate(texts, start=1):
        yield i, f"{name}, row {i} (line {number})", line


# --- a row ---------------------------------------------------------------------------------------------------------


def _row(root: Path, where: str, raw: dict | str, name: str) -> dict:
    cells = _cells(where, raw)
    prompt = text(cells, "prompt", where)
    vote, votes_1, votes_2 = _votes(cells, where)
    voters = votes_1 + votes_2
    return dict.fromkeys(FEATURES) | {
        "pair_id": text(cells, "pair_id", where, default=name),
        "prompt_id": text(cells, "prompt_id", where, default=prompt),
        "prompt": prompt,
        "images": [{"bytes": _image(root, cells, f"image_{i}", where), "path": None} for i in (1, 2)],
        "vote": vote,
        "votes_1": votes_1,
        "votes_2": votes_2,
        "share": votes_1 / voters if voters else 0.5,
        "split": "folder",
        "source": "folder",
    }


def _cells(where: str, raw: dict | str) -> dict:
    if isinstance(raw, str):
        raw = json_object(raw, where, like=' with the columns as keys, {"prompt": ...}')
    if None in raw:
        raise ValueError(f"{where}: more cells than columns (a comma in a cell needs the cell in quotes)")
    return {key: value for key, value in raw.items() if value is not None and value != ""}


def text(cells: dict, column: str, where: str, default: str | None = None) -> str:
    value = cells.get(column, default)
    if value is None:
        raise ValueError(f"{where}, column {column}: empty or missing")
    if not isinstance(value, str):
        raise ValueError(f"{where}, column {column}: expected text, found {value!r}")
    value = value.strip()
    if not value:
        raise ValueError(f"{where}, column {column}: empty")
    if re.search("[\0\ud800-\udfff]", value):
        raise ValueError(f"{where}, column {column}: holds a character that no text has: {value!r}")
    return value


def _votes(cells: dict, where: str) -> tuple[int, int, int]:
    """(training label: 1, 2 or 0 for a tie; votes for image 1; votes for image 2)"""
    vote = _vote(cells, where)
    counts = [_count(cells, f"votes_{i}", where) for i in (1, 2)]
    if counts == [None, None]:
        if vote is None:
            raise ValueError(f"{where}, column vote: empty or missing, and so are votes_1 and votes_2")
        return vote, int(vote == 1), int(vote == 2)
    if None in counts:
        column = f"votes_{counts.index(None) + 1}"
        raise ValueError(f"{where}, column {column}: empty or missing; the other is there")
    if not any(counts):
        raise ValueError(f"{where}, column votes_1: nobody voted (votes_1 and votes_2 are 0)")
    if vote and not counts[vote - 1]:
        raise ValueError(f"{where}, column vote: {vote}, but votes_{vote} is 0")
    majority = 0 if counts[0] == counts[1] else 1 if counts[0] > counts[1] else 2
    return majority if vote is None else vote, *counts


def _vote(cells: dict, where: str) -> int | None:
    if "vote" not in cells:
        return None
    said = cells["vote"]
    known = {"1": 1, "2": 2, "tie": 0}
    if isinstance(said, bool) or str(said).strip().lower() not in known:
        raise ValueError(f"{where}, column vote: {said!r} is not 1, 2 or tie")
    return known[str(said).strip().lower()]


def _count(cells: dict, column: str, where: str) -> int | None:
    if column not in cells:
        return None
    said = cells[column]
    if isinstance(said, bool) or not re.fullmatch(r"[0-9]{1,9}", str(said).strip()):
        raise ValueError(f"{where}, column {column}: {said!r} is not a number of votes")
    return int(said)


# --- an image ------------------------------------------------------------------------------------------------------


def inside(root: Path, name: str, where: str) -> Path:
    """The file under `root` that `name` means, links followed; ValueError for any other."""
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if re.match(r"[A-Za-z][\w+.-]*://|data:", name):
        raise ValueError(f"{where}: {name!r} is an address; images are files of the folder")
    if posix.is_absolute() or windows.drive or windows.root:
        raise ValueError(f"{where}: {name!r} is an absolute path; name it relative to the folder")
    if ".." in windows.parts:
        raise ValueError(f"{where}: {name!r} leaves the folder")
    try:
        path, top = (root / name).resolve(strict=True), root.resolve()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        raise ValueError(f"{where}: no file {name!r} in {root}") from None
    if not path.is_relative_to(top):
        raise ValueError(f"{where}: {name!r} is a link that leaves the folder")
    if not path.is_file():
        raise ValueError(f"{where}: {name!r} is not a file")
    return path


def _image(root: Path, cells: dict, column: str, where: str) -> bytes:
    name = text(cells, column, where)
    where = f"{where}, column {column}"
    return image_bytes(inside(root, name, where), f"{where}: {name!r}")


def read_image(path: str | Path) -> Image.Image:
    """An image file that the user names, wherever it is, in RGB. ValueError for what is no usable image."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file {str(path)!r}")
    return decoded(image_bytes(path, repr(str(path)))).convert("RGB")


def image_bytes(path: Path, where: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{where} cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{where} is larger than {MAX_BYTES // 1_000_000} MB")
    if problem := image_problem(data):
        raise ValueError(f"{where} {problem}")
    return data


def decoded(data: bytes) -> Image.Image:
    """As a row of the data set will be decoded."""
    return FEATURES["images"].feature.decode_example({"bytes": data, "path": None})


def image_problem(data: bytes) -> str | None:
    """What is wrong with the bytes of an image file; None when it decodes. Size is judged first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's own limit warns, ours refuses
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            return "has too many pixels"
        except Exception:  # a decoder may raise anything on bytes that are not what they claim
            return f"is not an image of a known format ({', '.join(FORMATS)}), or is cut short"
        width, height = image.size
        if width * height > MAX_PIXELS:
            return f"has too many pixels: {width} x {height}"
        if max(width, height) > MAX_ASPECT * min(width, height):
            return f"is too narrow: {width} x {height}"
        try:
            image.verify()  # checksums, where the format has them; the image cannot be used after it
            decoded(data)
        except Exception as error:
            return f"is truncated or damaged ({error})"
    return None
