"""HPDv2's preferences (Wu et al. 2023, arXiv 2306.09341; data ymhao/HPDv2, Apache-2.0), from its own two files.

**train.json**: a list of pairs, {"prompt": "...", "file_path": ["a.jpg", "b.jpg"], "human_preference": [1, 0]}, 1 on
the side that was preferred; two equal numbers are read as a tie. The reader of HPSv2's own code (`PreferenceDataset`)
asks for a key `pap_pref` that the released file does not have; its `HPDDataset` reads `human_preference`, as here.

**test.json**: a list of prompts, {"prompt": "...", "image_path": [n files], "rank": [n numbers], "raw_annotations":
[{"rank": [n numbers], "user_hash": "..."}, ...]}. `rank` is averaged over the annotators and lower is better; all
n (n - 1) / 2 pairs of a prompt are given. The label of a pair is by the averaged rank, as in the benchmark; its votes
are the annotators' own, where `raw_annotations` is there, and need not agree with the label. (HPSv2's README calls the
key `raw_annotation`; either is read.)

The file has no ids of prompts: `prompt_id` is the prompt. A prompt that test.json lists again keeps it, so that its
pairs stay in one cluster; their names (`pair_id`) have " #2" behind the prompt. Which of the two files it is, is seen
by its columns. The data set's loading script is not needed (`datasets` no longer runs such scripts): unpack its
archives, and name the folder that holds the image files.
"""

from collections.abc import Iterator
from pathlib import Path

from lrt.folder import text
from lrt.pairs import FEATURES
from lrt.real.ranked import Ranked, ranks, rows_of
from lrt.real.reading import (
    Bad,
    Images,
    Keep,
    both_images,
    checked_row,
    json_rows,
    left_out,
    names,
    shown,
    split_of,
    unwanted,
)

SOURCE = "hpdv2"
ANNOTATIONS = ("raw_annotations", "raw_annotation")  # the data set's files, and HPSv2's README
TRAIN, TEST = ("prompt", "file_path", "human_preference"), ("prompt", "image_path", "rank")


def labels(path: str | Path, bad: Bad = None) -> list[Ranked]:
    """The rankings of test.json, without images, with each annotator's own as `votes`.

    ValueError naming file, row and column for what cannot be read, and for train.json, which ranks nothing; with
    `bad`, a list, the row is left out and the error appended to it.
    """
    listed = json_rows(path)
    if _is_train(listed, path):
        raise ValueError(f"{path}: pairs for training, not rankings: take HPDv2's test.json")
    return [one for _, one in _rankings(listed, Path(path).name, bad)]


def rows(path: str | Path, images: str | Path | None = None, bad: Bad = None, decode: bool = True,
         keep: Keep = None) -> Iterator[dict]:
    """All pairs of train.json or test.json as rows of the schema (`lrt.real.reading` says what is beside it).

    `images` is the folder that file names are relative to; without it rows have no images.
    """
    listed, name = json_rows(path), Path(path).name
    files = Images(images, decode) if images is not None else None
    same = {"split": split_of(path), "source": SOURCE}
    if _is_train(listed, path):
        for i, row in enumerate(listed, start=1):
            if unwanted(row, "prompt", keep):
                continue
            pair = None
            with left_out(bad):
                pair = _pair(row, f"{name}, row {i}", i, files) | same
            if pair:
                yield pair
        return
    for where, one in _rankings(listed, name, bad):
        if keep and not keep(one.prompt):
            continue
        column = f"{where}, column image_path"
        cell = files and (lambda i, one=one, column=column: files.cell(one.images[i], column))
        yield from rows_of(one, cell, bad, **same)


def _is_train(listed: list, path: str | Path) -> bool:
    there = listed[0] if isinstance(listed[0], dict) else {}
    if set(TRAIN) <= set(there):
        return True
    if set(TEST) <= set(there):
        return False
    raise ValueError(f"{path}, row 1: neither the columns of train.json ({', '.join(TRAIN)}) nor those of test.json "
                     f"({', '.join(TEST)}); there are {shown(there)}")


# --- train.json ----------------------------------------------------------------------------------------------------


def _pair(row: dict, where: str, number: int, files: Images | None) -> dict:
    checked_row(row, TRAIN, where)
    prompt = text(row, "prompt", where)
    listed = names(row["file_path"], where, "file_path", n=2)
    vote, share = _preferred(row["human_preference"], where)
    column = f"{where}, column file_path"
    return dict.fromkeys(FEATURES) | {
        "pair_id": f"{SOURCE}/train/{number}",
        "prompt_id": prompt,
        "prompt": prompt,
        "images": both_images(lambda name: files.cell(name, column), *listed) if files else None,
        "vote": vote,
        "votes_1": int(vote == 1),
        "votes_2": int(vote == 2),
        "share": share,
        "image_names": listed,
    }


def _preferred(values, where: str) -> tuple[int, float]:
    """(vote, share) from [1, 0], [0, 1], or a tie."""
    known = isinstance(values, list) and len(values) == 2
    if not known or any(isinstance(v, bool) or v not in (0, 1) for v in values):
        raise ValueError(f"{where}, column human_preference: {values!r:.80} is not [1, 0] or [0, 1] (or a tie)")
    vote = 0 if values[0] == values[1] else 1 if values[0] else 2
    return vote, {1: 1.0, 2: 0.0, 0: 0.5}[vote]


# --- test.json -----------------------------------------------------------------------------------------------------


def _rankings(listed: list, name: str, bad: Bad) -> list[tuple[str, Ranked]]:
    found, times = [], {}
    for i, row in enumerate(listed, start=1):
        where = f"{name}, row {i}"
        with left_out(bad):
            checked_row(row, TEST, where)
            prompt = text(row, "prompt", where)
            images = names(row["image_path"], where, "image_path")
            rank = ranks(row["rank"], len(images), where, "rank")
            votes = _annotations(row, len(images), where)
            times[prompt] = times.get(prompt, 0) + 1
            row_id = "" if times[prompt] == 1 else f"{prompt} #{times[prompt]}"
            found.append((where, Ranked(prompt, prompt, images, rank, votes, row_id)))
    return found


def _annotations(row: dict, n: int, where: str) -> tuple[tuple[float, ...], ...] | None:
    column = next((name for name in ANNOTATIONS if row.get(name)), None)
    if column is None:
        return None
    listed = row[column]
    if not isinstance(listed, list):
        raise ValueError(f"{where}, column {column}: expected a list, found {type(listed).__name__}")
    votes = []
    for k, one in enumerate(listed, start=1):
        own = f"{where}, column {column}, entry {k}"
        checked_row(one, ("rank",), own)
        votes.append(ranks(one["rank"], n, own, "rank"))
    return tuple(votes)
