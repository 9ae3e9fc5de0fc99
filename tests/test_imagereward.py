"""ImageReward's label file and its own rows: what they give, what is refused, and that both give the same pairs."""

import json
import shutil
from itertools import combinations, islice, permutations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt import pairs
from lrt.real import bring, imagereward, ranked, reading, sources
from lrt.real.ranked import Ranked

SAMPLE = Path(__file__).resolve().parents[1] / "data/samples/imagereward"
REAL = Path(__file__).resolve().parents[2] / "shared/data/imagereward"
real = pytest.mark.skipif(not REAL.exists(), reason=f"the real files are not here ({REAL.name} in ../shared/data)")


@pytest.fixture
def home(tmp_path):
    """A copy of the sample: test.json and images."""
    shutil.copytree(SAMPLE, tmp_path / "ir")
    return tmp_path / "ir"


def changed(home, row, **cells):
    """test.json with cells of one row (counted from 1) replaced; None removes the column."""
    rows = json.loads((home / "test.json").read_text())
    rows[row - 1] |= cells
    rows[row - 1] = {key: value for key, value in rows[row - 1].items() if value is not None}
    (home / "test.json").write_text(json.dumps(rows))
    return home / "test.json"


# ---- rankings and their pairs ----


@given(st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, 7.0]), min_size=1, max_size=7))
def test_pairs_of_a_ranking_are_all_pairs_and_turn_with_it(rank):
    one = Ranked("p", "a cat", tuple(f"{i}.png" for i in range(len(rank))), tuple(rank))
    found = list(ranked.pairs_of(one))
    assert [(i, j) for i, j, _ in found] == list(combinations(range(len(rank)), 2))
    assert all((vote == 1) == (rank[i] < rank[j]) and (vote == 0) == (rank[i] == rank[j]) for i, j, vote in found)
    turned = Ranked("p", "a cat", one.images, tuple(-r for r in rank))
    assert [vote for *_, vote in ranked.pairs_of(turned)] == [(0, 2, 1)[vote] for *_, vote in found]
    for i, j, vote in found:
        assert ranked.counts_of(one, i, j) == ((1, 0, 1.0), (0, 1, 0.0), (0, 0, 0.5))[(vote - 1) % 3]


def test_annotators_are_counted_each():
    one = Ranked("p", "a cat", ("a", "b"), (1.4, 1.6), ((1, 2), (2, 1), (1, 1), (1, 2)))
    assert ranked.counts_of(one, 0, 1) == (2, 1, 2.5 / 4)
    assert list(ranked.pairs_of(one)) == [(0, 1, 1)]


@real
def test_the_first_120_rows_of_the_real_test_give_the_published_counts():
    labels = imagereward.labels(REAL / "test_first120.json")
    table = ranked.table(labels)
    assert len(labels) == 120 and sum(len(one.images) for one in labels) == 696
    votes = table["vote"].value_counts()
    assert (votes[1] + votes[2], votes[0]) == (1644, 205)
    assert round(100 * votes[1] / 1644, 1) == 60.1
    raw = json.loads((REAL / "test_first120.json").read_text())
    naive = [(r["generations"][i], r["generations"][j], (r["ranking"][i] > r["ranking"][j]) + 1)
             for r in raw for i, j in combinations(range(len(r["ranking"])), 2) if r["ranking"][i] != r["ranking"][j]]
    untied = table[table["vote"] != 0]
    assert list(zip(untied["image_1"], untied["image_2"], untied["vote"], strict=True)) == naive
    assert table["pair_id"].is_unique


@real
def test_the_real_example_images_are_read_as_the_data_set_reads_them(tmp_path):
    row = {"id": "x", "prompt": "a painting of an ocean", "generations": [f"{i}.webp" for i in (1, 2, 3, 4)],
           "ranking": [1, 2, 3, 4]}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    found = sources.pairs("imagereward", tmp_path / "test.json", images=REAL)
    assert len(found) == 6 and set(found["vote"]) == {1}
    assert min(found[0]["images"][0].size) >= 256


# ---- the label file with its images ----


def test_rows_have_the_schema_and_the_files_images(home):
    found = sources.pairs("imagereward", home / "test.json", images=home / "images")
    assert found.features == pairs.FEATURES
    labels = json.loads((home / "test.json").read_text())
    assert len(found) == sum(len(row["ranking"]) * (len(row["ranking"]) - 1) // 2 for row in labels)
    first = found[0]
    assert first["pair_id"] == "imagereward/000000-0001/1-2" and first["prompt_id"] == labels[0]["id"]
    assert first["prompt"] == labels[0]["prompt"] and (first["split"], first["source"]) == ("test", "imagereward")
    assert [image.size for image in first["images"]] == [(56, 56), (56, 56)]
    stored = found.with_format("arrow")[:1].to_pylist()[0]["images"]
    assert [cell["bytes"] for cell in stored] == [None, None]  # they stay where they are
    assert Path(stored[1]["path"]) == (home / "images" / labels[0]["generations"][1]).resolve()
    assert all(row["share"] == {1: 1.0, 2: 0.0, 0: 0.5}[row["vote"]] for row in found.remove_columns("images"))


def test_without_images_there_are_the_same_pairs(home):
    with_, without = (sources.pairs("imagereward", home / "test.json", images=i) for i in (home / "images", None))
    assert without["pair_id"][:] == with_["pair_id"][:] and without["vote"][:] == with_["vote"][:]
    assert all(images is None for images in without["images"])


# ---- its own rows ----


def same_rankings(a, b):
    return [(one.prompt_id, one.prompt, one.rank) for one in a] == [(one.prompt_id, one.prompt, one.rank) for one in b]


def test_the_three_forms_say_the_same(home):
    of_labels = imagereward.labels(home / "test.json")
    assert same_rankings(imagereward.labels(home / "rows.parquet"), of_labels)
    assert imagereward.labels(home / "metadata.json") == of_labels
    by_label = sources.pairs("imagereward", home / "test.json", images=home / "images")
    for path, images in (("rows.parquet", None), ("metadata.json", home / "images")):
        found = sources.pairs("imagereward", home / path, images=images)
        for column in ("prompt_id", "prompt", "vote", "share"):
            assert found[column][:] == by_label[column][:]
        for i in range(0, len(found), 5):
            a, b = found[i]["images"], by_label[i]["images"]
            assert [x.tobytes() for x in a] == [x.tobytes() for x in b]


def test_rows_of_a_prompt_need_not_stand_together(home):
    table = pq.read_table(home / "rows.parquet")
    order = sorted(range(len(table)), key=lambda i: (i % 4, i))
    pq.write_table(table.take(order), home / "rows.parquet")
    assert same_rankings(imagereward.labels(home / "rows.parquet"), imagereward.labels(home / "test.json"))
    by_label = sources.pairs("imagereward", home / "test.json", images=home / "images")
    found = sources.pairs("imagereward", home / "rows.parquet")
    assert found[7]["images"][1].tobytes() == by_label[7]["images"][1].tobytes()


def test_bytes_are_written_once_an_image_and_not_once_a_pair(home, tmp_path):
    (row,) = islice(sources.rows("imagereward", home / "rows.parquet", cache_dir=tmp_path / "few"), 1)
    assert len(list((tmp_path / "few/images").iterdir())) == 2 and row["images"][0]["path"]  # no others were unpacked
    assert not list(sources.rows("imagereward", home / "rows.parquet", cache_dir=tmp_path / "no", keep=lambda p: False))
    assert not list((tmp_path / "no/images").iterdir())
    found = sources.pairs("imagereward", home / "rows.parquet", cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache/images").iterdir())) == 16 < 2 * len(found)


def test_metadata_in_parquet_names_files(home):
    rows = json.loads((home / "metadata.json").read_text())
    pq.write_table(pa.Table.from_pylist(rows), home / "metadata-train.parquet")
    (home / "metadata.json").unlink()
    found = sources.pairs("imagereward", home / "metadata-train.parquet", images=home / "images")
    assert len(found) == 24 and found[0]["split"] == "train"
    with pytest.raises(ValueError, match="row 1, column image_path: only names the file .* say where the images are"):
        sources.pairs("imagereward", home / "metadata-train.parquet")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rank": "first"}, "metadata.json, row 2, column rank: 'first' is not a rank"),
        ({"prompt": "another"}, "metadata.json, row 2, column prompt: the prompt_id '000000-0001' had another prompt"),
        ({"prompt_id": 7}, "metadata.json, row 2, column prompt_id: expected text"),
    ],
)
def test_a_bad_row_of_the_data_set_is_named(home, change, says):
    rows = json.loads((home / "metadata.json").read_text())
    rows[1] |= change
    (home / "metadata.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=says):
        imagereward.labels(home / "metadata.json")


def test_an_image_listed_twice_for_a_prompt_is_refused(home):
    rows = json.loads((home / "metadata.json").read_text())
    (home / "metadata.json").write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(ValueError, match="row 17, column image_path: .* is already there"):
        imagereward.labels(home / "metadata.json")


# ---- what is refused: file, row and column are named ----


@pytest.mark.parametrize(
    ("cells", "column", "says"),
    [
        ({"ranking": [1, 2, 3]}, "ranking", "3 ranks for 4 images"),
        ({"ranking": [1, 2, 3, "4"]}, "ranking", "'4' is not a rank"),
        ({"ranking": [1, 2, 3, True]}, "ranking", "True is not a rank"),
        ({"ranking": [1, 2, 3, float("nan")]}, "ranking", "nan is not a rank"),
        ({"ranking": [1, 2, 3, 10**400]}, "ranking", "is not a rank"),
        ({"ranking": "1234"}, "ranking", "expected a list"),
        ({"ranking": None}, "ranking", "missing; there are generations, id, prompt"),
        ({"generations": []}, "generations", "expected a list of file names"),
        ({"generations": ["a", "b", "c", 4]}, "generations", "expected a list of file names"),
        ({"generations": ["a", "b", "c", "a"]}, "generations", "'a' is named twice"),
        ({"generations": ["a", "b", "c", "d\0"]}, "generations", "a character that no file name has"),
        ({"prompt": " "}, "prompt", "empty"),
        ({"id": 7}, "id", "expected text"),
        ({"id": "000000-0001"}, "id", "is already the id of test.json, row 1"),
    ],
)
def test_a_bad_label_is_named(home, cells, column, says):
    path = changed(home, 2, **cells)
    with pytest.raises(ValueError) as caught:
        imagereward.labels(path)
    assert str(caught.value).startswith(f"test.json, row 2, column {column}: ") and says in str(caught.value)
    bad = []
    assert len(imagereward.labels(path, bad)) == 3 and [str(error) for error in bad] == [str(caught.value)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not JSON"),
        ('[{"id": "x", ', "not JSON .* was it downloaded whole"),
        ("[" * 100_000, "not JSON"),
        ('{"id": 1}', "expected a list of rows, found dict"),
        ("[]", "no rows in it"),
        ("[7]", "row 1: neither the columns of ImageReward's label file"),
    ],
)
def test_a_file_that_is_no_list_of_rows_gets_a_sentence(tmp_path, content, says):
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(ValueError, match=f"test.json.*{says}"):
        imagereward.labels(tmp_path / "test.json")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        imagereward.labels(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        sources.pairs("imagereward", SAMPLE / "test.json", images=tmp_path / "none")


def test_a_parquet_file_cut_short_is_named(home):
    data = (home / "rows.parquet").read_bytes()
    (home / "rows.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="rows.parquet: not a Parquet file, or not whole"):
        imagereward.labels(home / "rows.parquet")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.webp", "no file"),
        ("../../secret.png", "leaves the folder"),
        ("/etc/passwd", "absolute path"),
        ("http://example.org/cat.webp", "is an address"),
        ("part-000001", "is not a file"),
    ],
)
def test_images_are_files_of_the_folder_only(home, name, says):
    shutil.copy(home / "images/part-000000/images/0001/0-0.webp", home.parent / "secret.png")
    files = json.loads((home / "test.json").read_text())[1]["generations"]
    path = changed(home, 2, generations=[name, *files[1:]])
    with pytest.raises(ValueError) as caught:
        sources.pairs("imagereward", path, images=home / "images")
    assert str(caught.value).startswith("test.json, row 2, column generations: ") and says in str(caught.value)


def test_a_truncated_image_stops_the_reading_and_leaves_nothing_behind(home, tmp_path):
    file = home / "images/part-000001/images/0001/1-2.webp"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="row 2, column generations: '.*1-2.webp' is .*cut short"):
        sources.pairs("imagereward", home / "test.json", images=home / "images", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    found = sources.pairs("imagereward", home / "test.json", images=home / "images", decode=False)
    assert len(found) == 24  # only looked for


def test_bad_rows_can_be_left_out_and_each_is_told(home):
    (home / "images/part-000001/images/0001/1-2.webp").unlink()
    path = changed(home, 3, ranking=[1, 2])
    found, problems = bring.read(bring.Files("imagereward", path, home / "images", skip_bad=True))
    assert len(found) == 24 - 6 - 3  # a prompt's six pairs, and three with the missing image
    assert sum("column ranking: 2 ranks for 4 images" in problem for problem in problems) == 1
    assert sum("1-2.webp' in" in problem for problem in problems) == 3 and len(problems) == 4
    shutil.rmtree(home / "images")
    (home / "images").mkdir()
    with pytest.raises(ValueError, match="no pairs in it; the first problem: test.json, row 3, column ranking"):
        bring.read(bring.Files("imagereward", path, home / "images", skip_bad=True))


@given(st.permutations(range(4)))
def test_a_ranking_is_read_whatever_its_order(order):
    one = Ranked("p", "x", tuple("abcd"), tuple(float(i) for i in order))
    better = {(one.images[i], one.images[j]) for i, j, v in ranked.pairs_of(one) if v == 1}
    better |= {(one.images[j], one.images[i]) for i, j, v in ranked.pairs_of(one) if v == 2}
    rank = dict(zip(one.images, one.rank, strict=True))
    assert better == {(a, b) for a, b in permutations("abcd", 2) if rank[a] < rank[b]}


def test_scratch_files_are_one_arrow_file(tmp_path):
    found = reading.stored(imagereward.rows(SAMPLE / "test.json"), tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"] and len(found) == 24
