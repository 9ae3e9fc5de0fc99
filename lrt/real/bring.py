"""Pairs that a user brings on the command line: a benchmark's files, or a folder, as a `Dataset` of what is asked for.

What is not asked for is not copied: prompts outside a share are passed over before their images are read, and reading
ends with the last pair that is wanted. Of the processes of one `accelerate launch` on a machine one reads, and the
others map what it wrote.
"""

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from datasets import Dataset
from filelock import FileLock

from lrt.folder import folder_pairs, readable_pairs
from lrt.profiles import in_share
from lrt.real import sources
from lrt.real.reading import NoVote, scratch, stored

RANKINGS = ("imagereward", "hpdv2")  # rank the images of a prompt: their rules want all pairs of one


@dataclass(frozen=True)
class Files:
    """Where pairs are, and how they are read: the options --source, --pairs, --images, --aspect, --skip-bad."""

    source: str  # of `sources.READERS`
    path: Path
    images: Path | None = None
    aspect: str | None = None
    skip_bad: bool = False


def read(files: Files, share: float = 1.0, limit: int | None = None, whole: bool = False) -> tuple[Dataset, list[str]]:
    """(pairs, one message for each row left out): the first `limit` of those in the `share` of prompts (`in_share`).

    `whole`: no ranking is cut, so there may be fewer. ValueError naming file, row and column for what cannot be read,
    unless `skip_bad`; where images are in a folder and none is named; and where no pair is left.
    """
    if files.source == "folder":
        if files.images or files.aspect:
            raise ValueError("--images and --aspect are about a benchmark's files: say which with --source")
        pairs, problems = readable_pairs(files.path) if files.skip_bad else (folder_pairs(files.path), [])
        if share < 1:
            pairs = pairs.select([i for i, prompt in enumerate(pairs["prompt"]) if in_share(prompt, share)])
            if not len(pairs):
                raise ValueError(f"{files.path}: no pairs in it in a share of {share} of its prompts")
        return pairs.select(range(len(pairs) if limit is None else min(len(pairs), limit))), problems
    if files.source in sources.READERS and files.images is None and sources.needs_folder(files.source, files.path):
        raise ValueError(f"{files.path} only names its images: say where the images are (--images FOLDER)")
    folder, bad = _folder(files, share, limit, whole), [] if files.skip_bad else None
    how = {"cache_dir": folder} if files.source == "imagereward" else {}
    keep = partial(in_share, share=share) if share < 1 else None
    found = sources.rows(files.source, files.path, files.images, bad=bad, keep=keep, aspect=files.aspect, **how)
    found = whole_rankings(found, limit) if whole and limit else islice(found, limit)
    try:
        with FileLock(folder / "lock"):
            pairs = stored(found, folder, "pairs.arrow")
    except ValueError as error:
        if files.skip_bad:
            raise
        raise ValueError(f"{error} (--skip-bad leaves out what cannot be read)") from None
    problems = [str(error) for error in bad or () if not isinstance(error, NoVote)]
    if not len(pairs):
        why = f"; the first problem: {problems[0]}" if problems else ""
        raise ValueError(f"{files.path}: no pairs in it{f' in a share of {share} of its prompts' * (share < 1)}{why}")
    return pairs, problems


def whole_rankings(rows: Iterable[dict], most: int) -> Iterator[dict]:
    """The first rows, at most so many, without the rest of a ranking. ValueError where not even the first one fits."""
    n = 0
    for _, group in groupby(rows, key=lambda row: row["pair_id"].rpartition("/")[0]):
        pairs = list(islice(group, most - n + 1))
        if n + len(pairs) > most:
            if not n:
                raise ValueError(f"not even the pairs of the first prompt fit into {most}")
            return
        n += len(pairs)
        yield from pairs


def _folder(files: Files, *how) -> Path:
    """Where the pairs are written: a folder of this process, or one that the processes of a launch share.

    They share a parent, and what they ask for. The lock in it knows no time-out, unlike a barrier of the processes: to
    read a large set may take an hour. The first process of the machine removes the folder when it ends; what the others
    have mapped stays theirs.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))) < 2:
        return scratch()
    asked = repr((os.getppid(), os.environ.get("MASTER_PORT"), files, how))
    folder = Path(tempfile.gettempdir()) / f"lrt-pairs-{hashlib.sha256(asked.encode()).hexdigest()[:24]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
        raise ValueError(f"{folder} is another user's: remove it, or set TMPDIR")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
