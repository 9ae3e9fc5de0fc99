"""Rapidata's shards: which columns are there, shares of votes, images inside, and that addresses stay addresses."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt import pairs
from lrt.real import bring, rapidata, sources

SAMPLE = Path(__file__).resolve().parents[1] / "data/samples/rapidata"
IMAGE = {"bytes": pairs.png(np.zeros((28, 28, 3), "uint8")), "path": None}
ROW = {"prompt": "a cat", "image1": IMAGE, "image2": IMAGE}


def shard(folder, *rows, name="train-00000-of-00001.parquet", **how):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / name, **how)
    return folder


def test_counts_of_votes_are_kept(tmp_path):
    rows = [ROW | {"votes_image1": a, "votes_image2": b} for a, b in ((20, 6), (13, 13), (0, 26))]
    found = sources.pairs("rapidata", shard(tmp_path, *rows))
    assert found["vote"][:] == [1, 0, 2]
    assert found["votes_1"][:] == [20, 13, 0] and found["votes_2"][:] == [6, 13, 26]
    assert found["share"][0] == pytest.approx(20 / 26) and found["prompt_id"][0] == "a cat"
    assert found["pair_id"][:] == [f"rapidata/train-00000-of-00001/{i}" for i in (1, 2, 3)]
    assert found[0]["images"][1].size == (28, 28) and found["split"][0] == "train"


def test_weighted_shares_have_no_counts():
    found = sources.pairs("rapidata", SAMPLE / "weighted")
    raw = pq.read_table(SAMPLE / "weighted").to_pylist()
    assert found["share"][:] == pytest.approx([row["weighted_results_image1_preference"] for row in raw])
    assert set(found["votes_1"]) == set(found["votes_2"]) == {None}
    other = sources.pairs("rapidata", SAMPLE / "weighted", aspect="coherence")
    assert other["share"][:] == pytest.approx([row["weighted_results_image1_coherence"] for row in raw], abs=1e-6)
    assert other["share"][:] != found["share"][:]


@given(st.sets(st.sampled_from(["preference", "coherence", "alignment", "style"])), st.booleans())
def test_the_set_of_columns_is_recognised(aspects, counted):
    there = {*rapidata.NEEDED, "model1", *(f"weighted_results_image{i}_{a}" for a in aspects for i in (1, 2))}
    there |= set(rapidata.COUNTS) if counted else set()
    if counted:
        assert rapidata.label_columns(there, "x") == rapidata.COUNTS
    elif "preference" in aspects:
        assert rapidata.label_columns(there, "x")[0] == "weighted_results_image1_preference"
    elif len(aspects) == 1:
        assert rapidata.label_columns(there, "x")[1] == f"weighted_results_image2_{min(aspects)}"
    else:
        with pytest.raises(ValueError, match="which aspect|no known columns of votes .* found are image1, image2"):
            rapidata.label_columns(there, "x")


def test_unknown_columns_are_listed(tmp_path):
    unknown = {"prompt": "a", "image1": IMAGE, "image2": IMAGE, "style_votes": 3}
    with pytest.raises(ValueError, match="no known columns of votes .*found are image1, image2, prompt, style_votes"):
        sources.pairs("rapidata", shard(tmp_path / "a", unknown))
    with pytest.raises(ValueError, match="column image2: missing; the columns found are image1, prompt"):
        sources.pairs("rapidata", shard(tmp_path / "b", {"prompt": "a", "image1": IMAGE}))
    with pytest.raises(ValueError, match="say which aspect was judged .* alignment, coherence, preference"):
        sources.pairs("rapidata", SAMPLE / "weighted", aspect="taste")


VOTED = ROW | {"votes_image1": 3, "votes_image2": 1}


@pytest.mark.parametrize(
    ("cells", "column", "says"),
    [
        ({"votes_image1": -1}, "votes_image1", "-1 is not a number of votes"),
        ({"votes_image2": None}, "votes_image2", "None is not a number of votes"),
        ({"votes_image1": 0, "votes_image2": 0}, "votes_image1", "nobody voted"),
        ({"prompt": None}, "prompt", "empty or missing"),
        ({"image1": {"bytes": IMAGE["bytes"][:60], "path": None}}, "image1", "truncated or damaged"),
        ({"image1": {"bytes": b"<svg/>", "path": "x.png"}}, "image1", "is not an image"),
        ({"image2": {"bytes": None, "path": None}}, "image2", "no image in it"),
        ({"image2": {"bytes": None, "path": "https://example.org/a.png"}}, "image2", "are never fetched: download"),
        ({"image2": {"bytes": None, "path": "a.png"}}, "image2", "say where the images are"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, cells, column, says):
    folder = shard(tmp_path, VOTED, VOTED | cells)
    with pytest.raises(ValueError) as caught:
        sources.pairs("rapidata", folder)
    assert str(caught.value).startswith(f"train-00000-of-00001.parquet, row 2, column {column}: ")
    assert says in str(caught.value)
    found, problems = bring.read(bring.Files("rapidata", folder, skip_bad=True))
    assert len(found) == 1 and problems == [str(caught.value)]


def test_columns_of_addresses_are_never_fetched(tmp_path):
    urls = VOTED | {"image1": "https://127.0.0.1:9/1.png", "image2": "https://127.0.0.1:9/2.png"}
    with pytest.raises(ValueError, match="column image1: 'https://127.0.0.1:9/1.png' is an address"):
        sources.pairs("rapidata", shard(tmp_path, urls))
    assert len(sources.pairs("rapidata", tmp_path, labels_only=True)) == 1


def test_names_of_files_are_read_from_the_folder_of_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(IMAGE["bytes"])
    folder = shard(tmp_path / "shards", VOTED | {"image1": "a.png", "image2": "a.png"})
    assert sources.pairs("rapidata", folder, images=tmp_path / "images")[0]["images"][0].size == (28, 28)
    shard(tmp_path / "shards", VOTED | {"image1": "a.png", "image2": "../shards/x.png"})
    with pytest.raises(ValueError, match="column image2: '../shards/x.png' leaves the folder"):
        sources.pairs("rapidata", folder, images=tmp_path / "images")


def test_shards_are_read_one_after_another_and_only_as_needed(tmp_path):
    shard(tmp_path / "data", VOTED, name="train-00000-of-00002.parquet")
    (tmp_path / "data/train-00001-of-00002.parquet").write_bytes(b"PAR1 cut short")
    found = rapidata.rows(tmp_path)
    assert next(found)["pair_id"] == "rapidata/data/train-00000-of-00002/1"
    with pytest.raises(ValueError, match="train-00001-of-00002.parquet: not a Parquet file, or not whole"):
        next(found)
    with pytest.raises(ValueError, match="no .parquet file in it"):
        next(rapidata.rows(SAMPLE.parent / "hpdv2"))


def test_the_images_of_a_set_are_never_all_in_memory(tmp_path):
    rows = [ROW | {"votes_image1": 1, "votes_image2": 2} | {
        name: {"bytes": os.urandom(50_000), "path": None} for name in ("image1", "image2")} for _ in range(100)]
    folder, total = shard(tmp_path, *rows, row_group_size=10), 100 * 2 * 50_000
    del rows
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), 0
    tracemalloc.start()
    for _ in rapidata.rows(folder, decode=False):
        peak = max(peak, pool.bytes_allocated() - before)
    of_python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < total / 2 and of_python < total / 2
    found = sources.pairs("rapidata", folder, decode=False)
    assert pool.bytes_allocated() - before < total / 2 and len(found) == 100  # mapped from disk
