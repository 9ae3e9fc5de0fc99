"""Pick-a-Pic: streamed from shards or from any iterable of rows, never more than was asked for."""

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset, load_dataset
from PIL import Image

from lrt import pairs
from lrt.real import bring, pickapic, sources
from lrt.real.reading import NoVote

SAMPLE = Path(__file__).resolve().parents[1] / "data/samples/pickapic"


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (56, 40), colour).save(buffer, format="JPEG")
    return buffer.getvalue()


ROW = {"caption": "a cat", "jpg_0": jpeg("red"), "jpg_1": jpeg("blue"), "label_0": 1.0, "label_1": 0.0,
       "has_label": True, "are_different": True, "image_0_url": "https://127.0.0.1:9/0.png"}


def test_labels_and_images_are_those_of_the_row():
    rows = [ROW, ROW | {"label_0": 0, "label_1": 1}, ROW | {"label_0": 0.5, "label_1": 0.5}]
    found = pickapic.take(rows, 10)
    assert found.features == pairs.FEATURES and found["vote"][:] == [1, 2, 0]
    assert list(zip(found["votes_1"][:], found["votes_2"][:], strict=True)) == [(1, 0), (0, 1), (0, 0)]
    assert found["share"][:] == [1.0, 0.0, 0.5] and found["prompt_id"][0] == found["prompt"][0] == "a cat"
    red, blue = found[0]["images"]
    assert red.getpixel((5, 5))[0] > 200 > 100 > blue.getpixel((5, 5))[0]
    assert found.with_format("arrow")[:1].to_pylist()[0]["images"][0] == {"bytes": ROW["jpg_0"], "path": None}


def test_no_more_is_read_than_asked_for():
    read = []

    def endless():
        while True:
            read.append(1)
            yield ROW

    assert len(pickapic.take(endless(), 3)) == 3 and len(read) == 3
    assert len(pickapic.take([ROW], 3)) == 1
    with pytest.raises(ValueError, match="at least 1: 0"):
        pickapic.take([ROW], 0)


def test_rows_without_a_label_are_passed_over_and_not_bad():
    rows = [ROW | {"has_label": False, "label_0": float("nan")}, ROW, ROW | {"are_different": False}]
    assert [row["pair_id"] for row in pickapic.rows(rows)] == ["pickapic/stream/2", "pickapic/stream/3"]
    bad = []
    assert len(list(pickapic.rows(rows, bad, only_different=True))) == 1
    assert [type(error) for error in bad] == [NoVote, NoVote]
    assert "row 3: the same image twice" in str(bad[1])


def test_a_stream_is_an_iterable_dataset_of_the_schema():
    found = pickapic.stream(SAMPLE)
    assert isinstance(found, IterableDataset) and found.features == pairs.FEATURES
    rows = list(found.shuffle(seed=0, buffer_size=2))
    assert len(rows) == 3 and {row["source"] for row in rows} == {"pickapic"}
    assert rows[0]["images"][0].size == (56, 56)


def test_what_datasets_streams_is_a_source():
    streamed = load_dataset("parquet", data_files=str(SAMPLE / "*.parquet"), split="train", streaming=True)
    by_stream, by_file = pickapic.take(streamed, 2), pickapic.take(SAMPLE, 2)
    assert by_stream["prompt"][:] == by_file["prompt"][:] and by_stream["vote"][:] == by_file["vote"][:]
    assert by_stream[1]["images"][0].tobytes() == by_file[1]["images"][0].tobytes()
    assert by_file["pair_id"][:] == ["pickapic/train/1", "pickapic/train/2"]


def test_labels_alone_need_no_images():
    found = list(pickapic.rows(SAMPLE, labels_only=True))
    assert [row["images"] for row in found] == [None] * 3
    assert found[0]["image_names"] == ("sample-0-0", "sample-0-1")


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"label_0": 0.7, "label_1": 0.3}, "row 2, columns label_0 and label_1: 0.7 and 0.3 are not"),
        ({"label_0": None}, "row 2, columns label_0 and label_1: None and 0.0 are not"),
        ({"label_0": float("nan")}, "row 2, columns label_0 and label_1: nan and 0.0 are not"),
        ({"caption": ""}, "row 2, column caption: empty"),
        ({"jpg_1": ROW["jpg_1"][:300]}, "row 2, column jpg_1: is .*cut short"),
        ({"jpg_1": None}, "row 2, column jpg_1: no image in it"),
        ({"jpg_0": "https://127.0.0.1:9/0.png"}, "row 2, column jpg_0: .* is an address"),
    ],
)
def test_a_bad_cell_is_named(cells, says):
    with pytest.raises(ValueError, match=says):
        pickapic.take([ROW, ROW | cells], 5)
    bad = []
    assert len(pickapic.take([ROW, ROW | cells, ROW], 5, bad=bad)) == 2 and len(bad) == 1


def test_a_shard_of_other_columns_is_named(tmp_path):
    pq.write_table(pa.table({"caption": ["a"], "label_0": [1.0]}), tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match="train-0.parquet, column label_1: missing; there are caption, label_0"):
        sources.pairs("pickapic", tmp_path)


def test_a_bad_row_of_a_shard_is_named_with_its_file(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "data")
    (file,) = (tmp_path / "data").glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    rows[1]["jpg_0"] = rows[1]["jpg_0"][:100]
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(ValueError, match="train-00000-of-00001.parquet, row 2, column jpg_0: is "):
        sources.pairs("pickapic", tmp_path / "data")
    assert len(bring.read(bring.Files("pickapic", tmp_path / "data", skip_bad=True))[0]) == 2
