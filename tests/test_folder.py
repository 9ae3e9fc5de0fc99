"""A folder of one's own pairs: what is read, what is refused, and that nothing outside it is ever opened."""

import csv
import io
import json
import os
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lrt import folder, pairs
from lrt.folder import folder_pairs, readable_pairs


def png(colour="red", size=(56, 56)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path):
    """A folder with two images, and beside it (outside!) a third."""
    (tmp_path / "mine/sub").mkdir(parents=True)
    (tmp_path / "mine/a.png").write_bytes(png("red"))
    (tmp_path / "mine/sub/b.png").write_bytes(png("blue", (40, 30)))
    (tmp_path / "secret.png").write_bytes(png("green"))
    return tmp_path / "mine"


GOOD = {"prompt": "a cat", "image_1": "a.png", "image_2": "sub/b.png", "vote": "1"}


def write_csv(home, *rows, name="pairs.csv"):
    with open(home / name, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(home, *rows):
    (home / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def refusal(home, *rows, jsonl=False):
    """The message of the ValueError that these rows raise."""
    (write_jsonl if jsonl else write_csv)(home, *rows)
    with pytest.raises(ValueError) as caught:
        folder_pairs(home)
    return str(caught.value)


# ---- what is read ----


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_rows_have_the_schema_of_all_pairs_and_the_files_bytes(home, write):
    write(home, GOOD, GOOD | {"vote": "tie", "pair_id": "second", "prompt_id": "cats"})
    rows = folder_pairs(home)
    assert rows.features == pairs.FEATURES
    assert rows["pair_id"][:] == ["folder/1", "second"]
    assert rows["prompt_id"][:] == ["a cat", "cats"]
    assert rows["vote"][:] == [1, 0] and rows["share"][:] == [1.0, 0.5]
    first = rows[0]
    assert [image.size for image in first["images"]] == [(56, 56), (40, 30)]
    assert first["images"][0].getpixel((0, 0)) == (255, 0, 0)
    assert first["scene_1"] is None and first["utility_1"] is None and first["source"] == "folder"
    stored = rows.with_format("arrow")[:].to_pylist()[0]["images"]
    assert [image["path"] for image in stored] == [None, None]
    assert stored[1]["bytes"] == (home / "sub/b.png").read_bytes()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"vote": "2"}, (2, 0, 1, 0.0)),
        ({"vote": " TIE "}, (0, 0, 0, 0.5)),
        ({"votes_1": "3", "votes_2": "1"}, (1, 3, 1, 0.75)),
        ({"votes_1": "2", "votes_2": "2"}, (0, 2, 2, 0.5)),
        ({"vote": "2", "votes_1": "3", "votes_2": "1"}, (2, 3, 1, 0.75)),  # a drawn vote may be a minority's
    ],
)
def test_votes_and_counts(home, labels, expected):
    write_csv(home, {k: v for k, v in GOOD.items() if k != "vote"} | labels)
    (row,) = folder_pairs(home)
    assert (row["vote"], row["votes_1"], row["votes_2"], row["share"]) == expected


def test_numbers_of_json_are_votes_too(home):
    write_jsonl(home, GOOD | {"vote": 2}, {**GOOD, "vote": None, "votes_1": 1, "votes_2": 3})
    assert folder_pairs(home)["vote"][:] == [2, 2]


def test_a_byte_order_mark_blank_lines_and_other_columns_do_no_harm(home):
    text = "\ufeffprompt,image_1,image_2,vote,note\r\nein Kätzchen,a.png,a.png,1,x\r\n"
    (home / "pairs.csv").write_bytes(text.encode())
    assert folder_pairs(home)["prompt"][:] == ["ein Kätzchen"]
    (home / "pairs.csv").unlink()
    (home / "pairs.jsonl").write_text("\n" + json.dumps(GOOD) + "\n\n")
    assert len(folder_pairs(home)) == 1


def test_a_table_of_another_name_is_named(home):
    write_csv(home, GOOD, name="labels (2).csv")
    with pytest.raises(ValueError, match="no pairs.csv or pairs.jsonl"):
        folder_pairs(home)
    assert len(folder_pairs(home, labels="labels (2).csv")) == 1
    write_csv(home, GOOD)
    write_jsonl(home, GOOD)
    with pytest.raises(ValueError, match="both are there"):
        folder_pairs(home)
    assert len(folder_pairs(home, "pairs.jsonl")) == 1


def test_more_rows_than_one_block(home, monkeypatch):
    monkeypatch.setattr(folder, "BLOCK", 3)
    write_csv(home, *[GOOD | {"pair_id": f"p{i}"} for i in range(8)])
    assert folder_pairs(home)["pair_id"][:] == [f"p{i}" for i in range(8)]


# ---- what is refused: file, row and column are named ----


@pytest.mark.parametrize("jsonl", [False, True])
@pytest.mark.parametrize(
    ("change", "column", "says"),
    [
        ({"prompt": "  "}, "prompt", "empty"),
        ({"prompt": ""}, "prompt", "empty or missing"),
        ({"vote": "3"}, "vote", "'3' is not 1, 2 or tie"),
        ({"vote": "left"}, "vote", "'left' is not"),
        ({"vote": ""}, "vote", "empty or missing"),
        ({"vote": "1", "votes_1": "0", "votes_2": "4"}, "vote", "votes_1 is 0"),
        ({"vote": "", "votes_1": "0", "votes_2": "0"}, "votes_1", "nobody voted"),
        ({"votes_1": "3"}, "votes_2", "empty or missing"),
        ({"votes_1": "-1", "votes_2": "2"}, "votes_1", "not a number of votes"),
        ({"votes_1": "1", "votes_2": "9999999999"}, "votes_2", "not a number of votes"),
        ({"votes_1": "1.5", "votes_2": "2"}, "votes_1", "not a number of votes"),
        ({"image_2": "none.png"}, "image_2", "no file 'none.png'"),
        ({"image_2": "sub"}, "image_2", "is not a file"),
        ({"image_1": "/etc/passwd"}, "image_1", "absolute path"),
        ({"image_1": "C:\\cat.png"}, "image_1", "absolute path"),
        ({"image_1": "\\\\host\\cat.png"}, "image_1", "absolute path"),
        ({"image_1": "../secret.png"}, "image_1", "leaves the folder"),
        ({"image_1": "sub/../../secret.png"}, "image_1", "leaves the folder"),
        ({"image_1": "..\\secret.png"}, "image_1", "leaves the folder"),
        ({"image_1": "http://example.org/cat.png"}, "image_1", "is an address"),
        ({"image_1": "file:///etc/passwd"}, "image_1", "is an address"),
        ({"image_1": "data:image/png;base64,AAAA"}, "image_1", "is an address"),
    ],
)
def test_a_bad_cell_is_named_and_nothing_is_read(home, change, column, says, jsonl):
    message = refusal(home, GOOD, GOOD | change, jsonl=jsonl)
    table, line = ("pairs.jsonl", 2) if jsonl else ("pairs.csv", 3)
    assert message.startswith(f"{table}, row 2 (line {line}), column {column}: ")
    assert says in message


@pytest.mark.parametrize("value", [True, 1.5, [1], {"a": 1}])
def test_a_vote_of_another_type_is_refused(home, value):
    assert "column vote" in refusal(home, GOOD | {"vote": value}, jsonl=True)
    assert "column prompt: expected text" in refusal(home, GOOD | {"prompt": value}, jsonl=True)


@pytest.mark.parametrize("column", ["prompt", "image_1", "image_2", "vote"])
def test_a_missing_column_is_named(home, column):
    row = {k: v for k, v in GOOD.items() if k != column}
    assert f"pairs.csv, header: no column {column}" in refusal(home, row)
    (home / "pairs.csv").unlink()
    assert f"pairs.jsonl, row 1 (line 1), column {column}: empty or missing" in refusal(home, row, jsonl=True)


def test_a_name_used_twice_is_refused(home):
    where, other = refusal(home, GOOD | {"pair_id": "x"}, GOOD | {"pair_id": "x"}).split(": ")
    assert where == "pairs.csv, row 2 (line 3), column pair_id"
    assert other == "'x' is already the name of pairs.csv, row 1 (line 2)"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "header: no column prompt, image_1, image_2, vote"),
        (b"prompt,prompt,image_1,image_2,vote\n", "a column is named twice"),
        (b"prompt,image_1,image_2,vote\n", "no pairs in it"),
        (b"prompt,image_1,image_2,vote\na, cat,a.png,a.png,1\n", "row 1 (line 2): more cells than columns"),
        (b"prompt,image_1,image_2,vote\ncat,a.png\n", "row 1 (line 2), column vote: empty"),
        (b'prompt,image_1,image_2,vote\n"cat,a.png,a.png,1\n', "not a CSV file"),
        (b"prompt,image_1,image_2,vote\n\xff\xfe,a.png,a.png,1\n", "not text in UTF-8"),
        (b"prompt,image_1,image_2,vote\n" + b"x" * 200_000 + b",a.png,a.png,1\n", "not a CSV file"),
    ],
)
def test_a_broken_csv_gets_a_sentence(home, content, says):
    (home / "pairs.csv").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        folder_pairs(home)
    assert "pairs.csv" in str(caught.value) and says in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "expected an object"),
        ("[" * 100_000, "not JSON"),
        ('{"prompt": "\\ud800", "image_1": "a.png", "image_2": "a.png", "vote": 1}', "column prompt"),
        ('{"prompt": "cat", "image_1": "a\\u0000.png", "image_2": "a.png", "vote": 1}', "column image_1"),
    ],
)
def test_a_broken_line_of_json_is_named(home, line, says):
    (home / "pairs.jsonl").write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(ValueError) as caught:
        folder_pairs(home)
    assert str(caught.value).startswith("pairs.jsonl, row 2 (line 2)") and says in str(caught.value)


def test_links_may_stay_inside_and_not_leave(home):
    os.symlink(home / "a.png", home / "inside.png")
    os.symlink(home.parent / "secret.png", home / "outside.png")
    os.symlink(home.parent, home / "up")
    os.symlink(home / "circle.png", home / "circle.png")
    write_csv(home, GOOD | {"image_1": "inside.png"})
    assert len(folder_pairs(home)) == 1
    assert "is a link that leaves the folder" in refusal(home, GOOD | {"image_1": "outside.png"})
    assert "is a link that leaves the folder" in refusal(home, GOOD | {"image_1": "up/secret.png"})
    assert "no file 'circle.png'" in refusal(home, GOOD | {"image_1": "circle.png"})
    (home / "pairs.csv").unlink()
    (home.parent / "their.csv").write_text("prompt,image_1,image_2,vote\nx,a.png,a.png,1\n")
    os.symlink(home.parent / "their.csv", home / "pairs.csv")
    with pytest.raises(ValueError, match="leaves the folder"):
        folder_pairs(home)


def test_a_pipe_in_the_folder_does_not_hang(home):
    os.mkfifo(home / "pipe.png")
    assert "is not a file" in refusal(home, GOOD | {"image_1": "pipe.png"})


def unpacks_to(width, height):
    """A PNG of a hundred bytes that claims these many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def flipped_byte(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not an image"),
        (b"<svg/>", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (png(size=(300, 300))[:200], "is truncated or damaged"),
        (flipped_byte(png(), 60), "is truncated or damaged"),
        (unpacks_to(20_000, 8_000), "too many pixels"),
        (unpacks_to(60_000, 60_000), "too many pixels"),
        (png(size=(2000, 3)), "too narrow"),
    ],
)
def test_a_file_that_is_no_usable_image_is_refused(home, data, says):
    (home / "bad.png").write_bytes(data)
    message = refusal(home, GOOD | {"image_2": "bad.png"})
    assert message.startswith("pairs.csv, row 1 (line 2), column image_2: 'bad.png' ")
    assert says in message


def test_a_file_too_large_is_refused_before_it_is_decoded(home, monkeypatch):
    monkeypatch.setattr(folder, "MAX_BYTES", 50)
    assert "is larger than" in refusal(home, GOOD)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        folder_pairs(tmp_path / "none")


# ---- bad rows left out, and counted ----


def test_bad_rows_can_be_left_out_with_a_message_each(home):
    write_csv(home, GOOD, GOOD | {"vote": "9"}, GOOD | {"image_1": "none.png"}, GOOD | {"vote": "2"})
    rows, problems = readable_pairs(home)
    assert rows["pair_id"][:] == ["folder/1", "folder/4"]
    assert [problem.split(":")[0] for problem in problems] == [
        "pairs.csv, row 2 (line 3), column vote",
        "pairs.csv, row 3 (line 4), column image_1",
    ]
    write_csv(home, GOOD | {"vote": "9"})
    with pytest.raises(ValueError, match="no pairs in it; the first problem: .* column vote"):
        readable_pairs(home)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=5) | st.integers() | st.none())
def test_whatever_a_row_says_it_is_read_or_refused_and_the_secret_stays_out(home, name, prompt, vote):
    write_jsonl(home, {"prompt": prompt, "image_1": name, "image_2": "a.png", "vote": vote})
    secret = (home.parent / "secret.png").read_bytes()
    try:
        stored = folder_pairs(home).with_format("arrow")[:].to_pylist()
    except ValueError as error:
        assert str(error).startswith("pairs.jsonl, row 1 (line 1), column ")
    else:
        assert stored[0]["images"][0]["bytes"] != secret
