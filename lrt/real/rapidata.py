"""Rapidata's preference sets: Parquet shards of pairs, with how many people, or what share, preferred each image.

The sets differ in their columns (the schema of `Rapidata/human-style-preferences-images` itself is not documented).
Known, beside `prompt`, `image1` and `image2`:

| columns | meaning | seen in |
|---|---|---|
| votes_image1, votes_image2 | number of votes | 700k_Human_Preference_Dataset_..., 117k_human_preferences_... |
| weighted_results_image1_ASPECT, weighted_results_image2_ASPECT | share of votes, weighted by how far each voter is \
trusted; ASPECT is preference, coherence or alignment | the sets of 2025, such as Imagen-4-ultra-24-7-25_t2i_... |

Which of them a shard has is seen by its columns. The label is the majority's, 0 where there is none; with shares
alone `votes_1` and `votes_2` are null. There are no ids of prompts: `prompt_id` is the prompt. Images are bytes in the
shard; where a cell only names a file, that is read from the folder of images; addresses are never fetched.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from lrt.folder import text
from lrt.pairs import FEATURES
from lrt.real.reading import (
    Bad,
    Images,
    Keep,
    both_images,
    embedded,
    left_out,
    name_of,
    parquet_columns,
    parquet_files,
    parquet_rows,
    shown,
    split_of,
    unwanted,
)

SOURCE = "rapidata"
NEEDED = ("prompt", "image1", "image2")
COUNTS = ("votes_image1", "votes_image2")
WEIGHTED = re.compile(r"weighted_results_image1_(\w+)")


def label_columns(there, name: str, aspect: str | None = None) -> tuple[str, str]:
    """The two columns that hold the judgement, out of the columns that are there.

    Counts of votes come first; else the shares of `aspect`, by default of preference, or of the one there is.
    ValueError listing the columns found when none of the known sets fits.
    """
    there = set(there)
    aspects = sorted(m[1] for c in there if (m := WEIGHTED.fullmatch(c)) and _weighted(m[1])[1] in there)
    if missing := [column for column in NEEDED if column not in there]:
        raise ValueError(f"{name}, column {missing[0]}: missing; the columns found are {shown(there)}")
    if aspect is None and set(COUNTS) <= there:
        return COUNTS
    chosen = aspect or ("preference" if "preference" in aspects else aspects[0] if len(aspects) == 1 else None)
    if chosen in aspects:
        return _weighted(chosen)
    if aspects:
        raise ValueError(f"{name}: say which aspect was judged (--aspect); there are {', '.join(aspects)}")
    known = f"{' and '.join(COUNTS)}, or weighted_results_image1_preference and its like"
    raise ValueError(f"{name}: no known columns of votes ({known}); the columns found are {shown(there)}")


def rows(path: str | Path, images: str | Path | None = None, bad: Bad = None, decode: bool = True,
         labels_only: bool = False, aspect: str | None = None, keep: Keep = None) -> Iterator[dict]:
    """All pairs of a shard or a folder of shards as rows of the schema (`lrt.real.reading` says what is beside it)."""
    files = Images(images, decode) if images is not None and not labels_only else None
    for name, file in parquet_files(path):
        there = parquet_columns(file)
        columns = label_columns(there, name, aspect)
        wanted = ["prompt", *columns, *(("image1_path", "image2_path") if labels_only else NEEDED[1:])]
        for i, (where, row) in enumerate(parquet_rows(name, file, wanted), start=1):
            if unwanted(row, "prompt", keep):
                continue
            pair = None
            with left_out(bad):
                label = _label(row, columns, where)
                pair = label | (_named(row) if labels_only else _images(row, files, where, decode))
            if pair:
                pair_id = f"{SOURCE}/{name.removesuffix('.parquet')}/{i}"
                yield pair | {"pair_id": pair_id, "split": split_of(file), "source": SOURCE}


def _weighted(aspect: str) -> tuple[str, str]:
    return f"weighted_results_image1_{aspect}", f"weighted_results_image2_{aspect}"


def _label(row: dict, columns: tuple[str, str], where: str) -> dict:
    prompt = text(row, "prompt", where)
    first, second = (_number(row[column], f"{where}, column {column}", columns == COUNTS) for column in columns)
    if not first + second:
        raise ValueError(f"{where}, column {columns[0]}: nobody voted ({columns[0]} and {columns[1]} are 0)")
    votes = (int(first), int(second)) if columns == COUNTS else (None, None)
    return dict.fromkeys(FEATURES) | {
        "prompt_id": prompt,
        "prompt": prompt,
        "vote": 0 if first == second else 1 if first > second else 2,
        "votes_1": votes[0],
        "votes_2": votes[1],
        "share": first / (first + second),
    }


def _number(value, where: str, whole: bool) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value < 1e9 or (whole and value != int(value)):
        raise ValueError(f"{where}: {value!r:.80} is not a {'number of votes' if whole else 'share of votes'}")
    return value


def _named(row: dict) -> dict:
    names = row.get("image1_path"), row.get("image2_path")
    return {"images": None, "image_names": names if all(isinstance(n, str) and n for n in names) else None}


def _images(row: dict, files: Images | None, where: str, decode: bool) -> dict:
    cells = both_images(lambda column: embedded(row[column], files, f"{where}, column {column}", decode), *NEEDED[1:])
    return {"images": cells, "image_names": tuple(map(name_of, cells))}
