"""A part of ImageRewardDB from the hub, laid out as `lrt.real.imagereward` reads it: enough to try a profile.

    labels, images = imagereward_part("downloads", "train")     # about 500 prompts, 1.4 GB
    pairs = sources.pairs("imagereward", labels, images)

The data set THUDM/ImageRewardDB (Apache-2.0) holds a table for each split, `metadata-train.parquet`, whose `image_path`
is "images/train/train_1/<name>.webp", and archives of about 500 prompts' images, `images/train/train_1.zip`. Nothing of
it is run, and of an archive nothing but images is unpacked, each under its own bare name. This was never run against
the hub, which this project cannot reach; it is tested with files in that layout.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pyarrow.compute as pc
import pyarrow.parquet as pq

from lrt.real.reading import MAX_BYTES

DATASET = "THUDM/ImageRewardDB"
SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")


def from_hub(name: str) -> Path:
    """The local path of a file of the data set, downloaded once. ValueError, saying what to do, where it cannot be."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(DATASET, name, repo_type="dataset"))
    except OSError as error:
        raise ValueError(f"{name} of {DATASET} is neither in the cache nor reachable ({type(error).__name__}): name "
                         "files that are here, or set HF_HOME to a cache that holds it") from error


def imagereward_part(
    folder: str | Path, split: str = "train", part: int = 1, get: Callable[[str], Path] = from_hub
) -> tuple[Path, Path]:
    """(label file, folder of images) of one part of a split ("train", "validation" or "test"), below `folder`.

    Called again it only looks whether all is there. `get` gives the local path of a file of the data set. ValueError
    for a file that cannot be had, an archive that cannot be read, and a part that the table does not know.
    """
    root, inside = Path(folder), f"images/{split}/{split}_{part}"
    labels = root / f"{split}_{part}.parquet"
    if labels.exists():  # written last
        return labels, root
    table = pq.read_table(get(f"metadata-{split}.parquet"))
    if "image_path" not in table.column_names:
        raise ValueError(f"metadata-{split}.parquet: no column image_path; there are {', '.join(table.column_names)}")
    rows = table.filter(pc.starts_with(table["image_path"], f"{inside}/"))
    if not len(rows):
        raise ValueError(f"metadata-{split}.parquet knows no part {part} of {split}")
    _unpack(get(f"{inside}.zip"), root / inside)
    unfinished = labels.with_name(labels.name + ".part")
    pq.write_table(rows, unfinished)
    unfinished.rename(labels)
    return labels, root


def _unpack(archive: Path, target: Path) -> None:
    """The images of an archive as files of `target`, whatever folders they lie in; what is there already is kept."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as held:
            for member in held.infolist():
                name = PurePosixPath(member.filename).name
                file = target / name
                if member.is_dir() or not name.lower().endswith(SUFFIXES) or file.exists():
                    continue
                if member.file_size > MAX_BYTES:
                    raise ValueError(f"{archive.name}, {name!r}: larger than {MAX_BYTES // 1_000_000} MB")
                unfinished = target / f"{name}.part"
                unfinished.write_bytes(held.read(member))
                unfinished.rename(file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: no archive that can be read ({error}): download it again") from error
