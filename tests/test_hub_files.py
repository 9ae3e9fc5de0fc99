"""A part of ImageRewardDB, from files in the layout of the hub's: what is unpacked, what is read, what is refused."""

import json
import zipfile
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrt.models import data_dir
from lrt.real import datacheck, sources
from lrt.real.hub_files import imagereward_part

SAMPLE = data_dir() / "samples" / "imagereward"


@pytest.fixture
def hub(tmp_path):
    """A function that gives a file of the data set: two parts, the second of which has no archive."""
    folder = tmp_path / "hub"
    (folder / "images/train").mkdir(parents=True)
    rows, files = json.loads((SAMPLE / "metadata.json").read_text()), {}
    for i, row in enumerate(rows):
        files[f"{i:04}.webp"] = SAMPLE / "images" / row["image_path"]
        row["image_path"] = f"images/train/train_1/{i:04}.webp"
    other = [{**row, "prompt_id": "other", "image_path": f"images/train/train_2/{i}.webp"}
             for i, row in enumerate(rows[:2])]
    pq.write_table(pa.Table.from_pylist(rows + other), folder / "metadata-train.parquet")
    with zipfile.ZipFile(folder / "images/train/train_1.zip", "w") as held:
        for name, path in files.items():
            held.write(path, name)
        held.writestr("train_1.json", "[]")
        held.writestr("../../outside.webp", b"not where it says")
        held.writestr("run.py", "raise SystemExit")
    asked = []

    def get(name):
        asked.append(name)
        if not (folder / name).exists():
            raise ValueError(f"{name} cannot be had")
        return folder / name

    get.asked, get.folder, get.images = asked, folder, len(files)
    return get


def test_a_part_is_read_as_the_whole_set_would_be(hub, tmp_path):
    labels, images = imagereward_part(tmp_path / "here", "train", 1, hub)
    found = datacheck.check("imagereward", labels, images)
    assert found.pairs == found.whole_pairs > 0 and not found.bad_rows
    pairs = sources.pairs("imagereward", labels, images)
    whole = sources.pairs("imagereward", SAMPLE / "metadata.json", SAMPLE / "images")
    assert pairs["prompt"][:] == whole["prompt"][:] and pairs["vote"][:] == whole["vote"][:]
    assert [[i.tobytes() for i in two] for two in pairs["images"]] == [
        [i.tobytes() for i in two] for two in whole["images"]]


def test_only_images_are_unpacked_and_only_into_their_folder(hub, tmp_path):
    imagereward_part(tmp_path / "here", "train", 1, hub)
    written = {path.relative_to(tmp_path / "here").as_posix() for path in (tmp_path / "here").rglob("*.*")}
    assert "train_1.parquet" in written and "images/train/train_1/outside.webp" in written
    assert len(written) == 1 + hub.images + 1 and not list(tmp_path.glob("*.webp"))


def test_called_again_it_asks_for_nothing(hub, tmp_path):
    first = imagereward_part(tmp_path / "here", "train", 1, hub)
    hub.asked.clear()
    assert imagereward_part(tmp_path / "here", "train", 1, hub) == first and hub.asked == []


def test_what_cannot_be_had_leaves_no_label_file(hub, tmp_path):
    for part, said in ((2, "images/train/train_2.zip cannot be had"), (7, "metadata-train.parquet knows no part 7")):
        with pytest.raises(ValueError, match=said):
            imagereward_part(tmp_path / "here", "train", part, hub)
    (hub.folder / "images/train/train_2.zip").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="train_2.zip: no archive that can be read .*: download it again"):
        imagereward_part(tmp_path / "here", "train", 2, hub)
    assert not list((tmp_path / "here").glob("*.parquet*"))


def test_without_a_hub_it_says_what_to_do(monkeypatch):
    def gone(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    with pytest.raises(ValueError, match="metadata-test.parquet of THUDM/ImageRewardDB is neither in the cache nor "
                                         "reachable .*HF_HOME"):
        imagereward_part(Path("nowhere"), "test")
