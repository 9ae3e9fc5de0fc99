"""HPDv2's train.json and test.json: pairs, averaged ranks, annotators, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrt.real import benchmarks, bring, hpdv2, predictions, ranked, sources

SAMPLE = Path(__file__).resolve().parents[1] / "data/samples/hpdv2"


@pytest.fixture
def home(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "hpd")
    return tmp_path / "hpd"


def write(home, name, *rows):
    (home / name).write_text(json.dumps(list(rows)))
    return home / name


PAIR = {"prompt": "a cat", "file_path": ["00000.jpg", "00001.jpg"], "human_preference": [0, 1]}
RANKED = {"prompt": "a cat", "image_path": ["00000.jpg", "00001.jpg", "00002.jpg"], "rank": [2.5, 1.0, 2.5]}


def test_training_pairs_have_one_vote(home):
    tie = PAIR | {"human_preference": [1, 1]}
    path = write(home, "train.json", PAIR, PAIR | {"human_preference": [1, 0], "user_hash": "x"}, tie)
    found = sources.pairs("hpdv2", path, images=home / "images")
    assert found["vote"][:] == [2, 1, 0] and found["share"][:] == [0.0, 1.0, 0.5]
    assert found["votes_1"][:] == [0, 1, 0] and found["votes_2"][:] == [1, 0, 0]
    assert found["prompt_id"][:] == ["a cat"] * 3 and found["pair_id"][0] == "hpdv2/train/1"
    assert (found["split"][0], found["source"][0]) == ("train", "hpdv2")
    assert [image.size for image in found[0]["images"]] == [(56, 56)] * 2


def test_the_label_is_the_averaged_rank_and_the_votes_are_the_annotators(home):
    voters = [{"rank": [1, 2, 3], "user_hash": "a"}, {"rank": [3, 1, 2], "user_hash": "b"},
              {"rank": [2, 2, 1], "user_hash": "c"}]
    path = write(home, "test.json", RANKED | {"raw_annotations": voters})
    (one,) = hpdv2.labels(path)
    assert one.rank == (2.5, 1.0, 2.5) and one.votes == ((1, 2, 3), (3, 1, 2), (2, 2, 1))
    found = sources.pairs("hpdv2", path)
    assert found["vote"][:] == [2, 0, 1]  # by the averaged rank, where images 1 and 3 are level
    assert list(zip(found["votes_1"][:], found["votes_2"][:], strict=True)) == [(1, 1), (1, 2), (2, 1)]
    assert found["share"][0] == 0.5 and found["share"][1] == pytest.approx(1 / 3)


def test_without_annotators_the_average_is_the_vote(home):
    path = write(home, "test.json", RANKED)
    assert hpdv2.labels(path)[0].votes is None
    assert sources.pairs("hpdv2", path)["share"][:] == [0.0, 0.5, 1.0]


def test_all_pairs_of_a_prompt_are_given_with_their_images(home):
    found = sources.pairs("hpdv2", SAMPLE / "test.json", images=SAMPLE / "images")
    raw = json.loads((SAMPLE / "test.json").read_text())
    assert len(found) == sum(len(row["rank"]) * (len(row["rank"]) - 1) // 2 for row in raw) == 24
    stored = found.with_format("arrow")[:].to_pylist()
    assert [Path(cell["path"]).name for cell in stored[5]["images"]] == raw[0]["image_path"][2:4]
    assert ranked.table(hpdv2.labels(SAMPLE / "test.json"))["vote"].tolist() == found["vote"][:]


def test_a_prompt_listed_again_keeps_its_cluster_and_its_pairs_get_names_of_their_own(home):
    path = write(home, "test.json", RANKED, RANKED)
    labels = hpdv2.labels(path)
    assert [one.prompt_id for one in labels] == ["a cat", "a cat"]
    found = sources.pairs("hpdv2", path)
    assert set(found["prompt_id"]) == {"a cat"} and len(set(found["pair_id"])) == 6
    assert list(predictions.names_of(labels, "hpdv2")) == found["pair_id"][:]


def test_a_repeated_prompt_is_no_independent_cluster(home):
    """Of two prompts one stands there five times, always wrong: its rows are resampled together."""
    rows = [RANKED] * 5 + [RANKED | {"prompt": "a dog"}]
    labels = hpdv2.labels(write(home, "test.json", *rows))
    assert predictions.template(labels, home / "form.jsonl", "image") == 6  # each line once
    right = {("a dog", name): -rank for name, rank in zip(RANKED["image_path"], RANKED["rank"], strict=True)}
    wrong = {("a cat", name): rank for name, rank in zip(RANKED["image_path"], RANKED["rank"], strict=True)}
    (line,) = benchmarks.score("hpdv2", predictions.Predictions("image", right | wrong), labels)
    # 1/3 where only the tied pair counts as right: both prompts' values, not something between them
    assert (line.interval.low, line.interval.high) == (pytest.approx(1 / 3), 1.0)


def test_the_key_of_the_annotators_is_read_as_either_of_its_two_names(home):
    voters = [{"rank": [1, 2, 3]}, {"rank": [3, 1, 2]}]
    for key in ("raw_annotations", "raw_annotation"):
        (one,) = hpdv2.labels(write(home, "test.json", RANKED | {key: voters}))
        assert one.votes == ((1, 2, 3), (3, 1, 2))
    path = write(home, "test.json", RANKED | {"raw_annotation": 7})
    with pytest.raises(ValueError, match="row 1, column raw_annotation: expected a list"):
        hpdv2.labels(path)


def test_training_pairs_are_no_rankings():
    with pytest.raises(ValueError, match="train.json: pairs for training, not rankings"):
        hpdv2.labels(SAMPLE / "train.json")


def test_another_file_is_answered_with_its_columns(home):
    path = write(home, "train.json", {"prompt": "x", "pap_pref": [1, 0], "file_path": ["a", "b"]})
    with pytest.raises(ValueError, match="neither the columns of train.json .*; there are file_path, pap_pref, prompt"):
        sources.pairs("hpdv2", path)


@pytest.mark.parametrize(
    ("good", "cells", "column", "says"),
    [
        (PAIR, {"human_preference": [1]}, "human_preference", "is not [1, 0] or [0, 1]"),
        (PAIR, {"human_preference": [0.3, 0.7]}, "human_preference", "is not [1, 0]"),
        (PAIR, {"human_preference": "10"}, "human_preference", "is not [1, 0]"),
        (PAIR, {"file_path": ["00000.jpg"]}, "file_path", "expected 2 file names, found 1"),
        (PAIR, {"file_path": ["00000.jpg", "none.jpg"]}, "file_path", "no file 'none.jpg'"),
        (PAIR, {"file_path": ["00000.jpg", "../x.jpg"]}, "file_path", "leaves the folder"),
        (PAIR, {"prompt": None}, "prompt", "empty or missing"),
        (RANKED, {"rank": [1, 2]}, "rank", "2 ranks for 3 images"),
        (RANKED, {"rank": [1, 2, None]}, "rank", "None is not a rank"),
        (RANKED, {"image_path": "00000.jpg"}, "image_path", "expected a list of file names"),
        (RANKED, {"raw_annotations": 7}, "raw_annotations", "expected a list"),
        (RANKED, {"raw_annotations": [{"rank": [1, 2]}]}, "raw_annotations, entry 1, column rank", "2 ranks for 3"),
        (RANKED, {"raw_annotations": [{}]}, "raw_annotations, entry 1, column rank", "missing"),
    ],
)
def test_a_bad_cell_is_named(home, good, cells, column, says):
    path = write(home, "some.json", good, good | cells)
    with pytest.raises(ValueError) as caught:
        sources.pairs("hpdv2", path, images=home / "images")
    assert str(caught.value).startswith(f"some.json, row 2, column {column}: ") and says in str(caught.value)
    found, problems = bring.read(bring.Files("hpdv2", path, home / "images", skip_bad=True))
    assert len(found) == (1 if good is PAIR else 3) and problems == [str(caught.value)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["00000.jpg", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rank", "user_hash"]), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([PAIR, RANKED]), st.dictionaries(
    st.sampled_from(["prompt", "file_path", "human_preference", "image_path", "rank", "raw_annotations"]), JSON))
def test_whatever_a_row_says_it_is_read_or_refused(home, good, cells):
    path = write(home, "some.json", good, good | cells)
    try:
        found = list(hpdv2.rows(path, home / "images"))
    except ValueError as error:
        assert str(error).startswith("some.json, row 2, column ")
    else:
        images = (home / "images").resolve()
        assert all(Path(cell["path"]).is_relative_to(images) for row in found for cell in row["images"])


def test_a_damaged_image_is_looked_at_once_and_named(home):
    data = (home / "images/00001.jpg").read_bytes()
    (home / "images/00001.jpg").write_bytes(data[: len(data) // 2])
    path = write(home, "train.json", PAIR, PAIR)
    bad = []
    assert list(hpdv2.rows(path, home / "images", bad)) == []
    assert [str(error).split(":")[0] for error in bad] == [f"train.json, row {i}, column file_path" for i in (1, 2)]
    assert all("is truncated or damaged" in str(error) and error.name == "00001.jpg" for error in bad)
