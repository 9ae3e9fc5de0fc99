"""A model's predictions on a benchmark: the file that `lrt score` reads, written by hand, by any model, or by ours.

JSON lines, one object a line, in one of two forms. Names are those of the label file: `lrt score --template FILE`
writes every line that is asked for, with null where the prediction goes.

A score for every image, higher is better; any scale, since a rule only compares the images of one prompt (PickScore's
rule alone reads the difference of two scores, as that of two logits):

    {"prompt_id": "005658-0040", "image": "part-005658/images/0040/45b0.webp", "score": 1.25}

Or a choice for every ordered pair, image_1 being the one that the judge saw first: 1 or 2, and 0 for a tie:

    {"prompt_id": "005658-0040", "image_1": "part-.../45b0.webp", "image_2": "part-.../7d4c.webp", "choice": 1}

Scores are free of order by their nature. Choices are not: a judge may lean to the image it sees first, so give each
pair in both orders, (a, b) and (b, a), two lines. With one order a pair (whichever you like) its one choice is scored.
As soon as one pair is there in both orders, all are expected in both.

null says that there is no prediction, and so does a line that is not there: refused by count, or counted as wrong when
asked for, never left out. Other keys are ignored.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from lrt.files import json_object, write_lines
from lrt.metrics import answers
from lrt.real.ranked import Pair, Ranked, pair_id, pairs_of

FORMS = {"image": ("prompt_id", "image", "score"), "pair": ("prompt_id", "image_1", "image_2", "choice")}
BIGGEST = 1 << 20  # characters of a line; a prediction has a few hundred


@dataclass(frozen=True)
class Predictions:
    """What a model said. A prediction that is not there has no entry in `values`."""

    form: str  # "image" or "pair"
    values: Mapping[tuple[str, ...], float]  # (prompt_id, image) to a score; (prompt_id, image_1, image_2) to 1, 2 or 0
    both: bool = field(default=False, compare=False)  # asked in both orders, whatever could be read of the answers
    unanswered: tuple[tuple[str, ...], ...] = field(default=(), compare=False)  # asked, and no prediction came


# --- the file -------------------------------------------------------------------------------------------------------


def read(path: str | Path, ranked: Iterable[Ranked]) -> Predictions:
    """The predictions of a file for these labels. ValueError naming file, line and column of what is not a prediction
    (an id that the labels do not have, a name twice, NaN), and FileNotFoundError where there is no file."""
    path, rows = Path(path), _rows(ranked)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    form, values, seen = None, {}, {}
    for where, line in _lines(path):
        own = _form(line, where)
        if own != (form := form or own):
            raise ValueError(f"{where}: a prediction by {own}, those before it are by {form}; a file has one form")
        key = _names(line, FORMS[form][:-1], rows, where)
        if key in seen:
            raise ValueError(f"{where}: {key[0]!r} with {', '.join(map(repr, key[1:]))} is already on {seen[key]}")
        seen[key] = where.rpartition(", ")[2]
        value = line[FORMS[form][-1]]
        if value is not None:
            values[key] = _score(value, where) if form == "image" else _choice(value, where)
    if form is None:
        raise ValueError(f"{path}: no predictions in it; `lrt score --template FILE` writes a file to fill")
    return Predictions(form, values, unanswered=tuple(key for key in seen if key not in values))


def _rows(ranked: Iterable[Ranked]) -> dict[str, dict[str, set[int]]]:
    """prompt_id to (image to the rows of the labels that it is in; several only where a source labels pairs)."""
    rows: dict[str, dict[str, set[int]]] = {}
    for number, row in enumerate(ranked):
        known = rows.setdefault(row.prompt_id, {})
        for image in row.images:
            if number in known.setdefault(image, set()):
                raise ValueError(f"labels, prompt {row.prompt_id!r}: {image!r} is the name of two of its images")
            known[image].add(number)
    return rows


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """(file and line in words, the object), read as needed."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            number = 0
            while text := file.readline(BIGGEST):
                number += 1
                where = f"{path.name}, line {number}"
                if len(text) == BIGGEST:
                    raise ValueError(f"{where}: too long for a prediction; is it JSON lines, one object a line?")
                if text.strip():
                    yield where, json_object(text, where, "; a file of predictions has one object a line",
                                             ', {"prompt_id": ...}')
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from None


def _form(line: dict, where: str) -> str:
    found = [form for form, keys in FORMS.items() if set(keys) <= set(line)]
    if len(found) != 1:
        kinds = " or ".join(", ".join(keys) for keys in FORMS.values())
        raise ValueError(f"{where}: expected the keys {kinds}; there are {', '.join(map(repr, line)) or 'none'}")
    return found[0]


def _names(line: dict, columns: tuple[str, ...], rows: dict[str, dict[str, set[int]]], where: str) -> tuple[str, ...]:
    """Prompt and images of a prediction, known to be those of one row of the labels."""
    key = tuple(line[column] for column in columns)
    for column, value in zip(columns, key, strict=True):
        if not isinstance(value, str):
            raise ValueError(f"{where}, column {column}: expected text, found {value!r:.80}")
    key = (key[0].strip(), *key[1:])  # as the readers take it: a prompt may be its own id, spaces at its ends and all
    images = rows.get(key[0])
    if images is None:
        raise ValueError(f"{where}, column prompt_id: {key[0]!r:.200} is not in the labels")
    for column, image in zip(columns[1:], key[1:], strict=True):
        if image not in images:
            raise ValueError(f"{where}, column {column}: {image!r:.200} is no image of prompt {key[0]!r}")
    if len(key) == 3 and key[1] == key[2]:
        raise ValueError(f"{where}, column image_2: the same image as image_1")
    if not set.intersection(*(images[image] for image in key[1:])):
        raise ValueError(f"{where}, column image_2: the labels do not compare {key[2]!r} with {key[1]!r}")
    return key


def _score(value: object, where: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond all floats
        pass
    raise ValueError(f"{where}, column score: {value!r:.80} is not a finite number (null where there is none)")


def _choice(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in (0, 1, 2):
        raise ValueError(f"{where}, column choice: {value!r:.80} is not 1, 2 or 0 for a tie (null where there is none)")
    return value


def write(predictions: Predictions, path: str | Path) -> None:
    """The file of these predictions, null for what was asked and not answered; whole or not at all."""
    _write(path, predictions.form, [*predictions.values.items(), *((key, None) for key in predictions.unanswered)])


def template(ranked: Iterable[Ranked], path: str | Path, form: str) -> int:
    """Write the file to fill, null for every prediction, a pair in both orders; returns the number of lines.

    Pairs that the labels call a tie are among them, so the file tells nothing of the labels. ValueError for another
    form, and where a file is already there: it may be filled.
    """
    if form not in FORMS:
        raise ValueError(f"a file of predictions is by {' or '.join(FORMS)}, not by {form!r}")
    if Path(path).exists():
        raise ValueError(f"{str(path)!r} is already there: name another file, or delete it first")
    keys = []
    for row in ranked:
        names = [(image,) for image in row.images]
        if form == "pair":
            names = [name for a, b in combinations(row.images, 2) for name in ((a, b), (b, a))]
        keys += [(row.prompt_id, *name) for name in names]
    keys = list(dict.fromkeys(keys))  # a prompt may be listed twice with the same images
    _write(path, form, ((key, None) for key in keys))
    return len(keys)


def _write(path: str | Path, form: str, items: Iterable[tuple[tuple[str, ...], object]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_lines(Path(path), (dict(zip(FORMS[form], (*key, value), strict=True)) for key, value in items))


# --- from our own judgements ----------------------------------------------------------------------------------------


def from_judgements(
    forward: pd.DataFrame,
    reverse: pd.DataFrame | None = None,
    names: Mapping[str, tuple[str, str]] | None = None,
) -> Predictions:
    """The judgement tables of `lrt.evaluate` (`judge`, or both of `judge_both_orders`) as choices of ordered pairs.

    `names` gives the two images of a pair_id as the label file calls them (`names_of`); without it they are the pair's
    id with /1 and /2, as in `scores.ranked_of`. A completion that could not be parsed is unanswered. KeyError for a
    pair_id that `names` lacks.
    """
    values, unanswered = {}, []
    for frame, turned in ((forward, False), (reverse, True)):
        if frame is None:
            continue
        for pair, prompt_id, answer in zip(frame["pair_id"], frame["prompt_id"], answers(frame), strict=True):
            first, second = names[pair] if names is not None else own_names(pair)
            # a reverse table counts in the pair's own numbering: back to what the judge saw
            key = (prompt_id, second, first) if turned else (prompt_id, first, second)
            if np.isnan(answer):
                unanswered.append(key)
            else:
                values[key] = 3 - int(answer) if turned else int(answer)
    return Predictions("pair", values, reverse is not None, tuple(unanswered))


def names_of(ranked: Iterable[Ranked], source: str) -> dict[str, tuple[str, str]]:
    """pair_id, as the readers of a source give it ("imagereward/005658-0040/1-2"), to the names of its two images.

    Where a source labels pairs (`ranked.Pair`) the pair_id is the label's own row_id.
    """
    return {name: (row.images[i], row.images[j]) for row in ranked for name, i, j in pair_ids(row, source)}


def pair_ids(row: Ranked, source: str) -> Iterator[tuple[str, int, int]]:
    """(pair_id as the readers give it, i, j) of every pair of a row of the labels."""
    for i, j, _ in pairs_of(row):
        yield row.row_id if isinstance(row, Pair) else f"{source}/{pair_id(row, i, j)}", i, j


def own_names(pair_id: str) -> tuple[str, str]:
    """What the two images of a pair are called where the source gives them no names."""
    return f"{pair_id}/1", f"{pair_id}/2"
