"""The benchmarks by name: what `lrt data` says of them, what sets share, and that the samples are what they claim."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from lrt import pairs
from lrt.cli import app
from lrt.profiles import in_share
from lrt.real import bring, datacheck, overlap, samples, sources

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "data/samples"
REAL = ROOT.parent / "shared/data/imagereward/test_first120.json"
FORMS = [  # name, path, folder of images, rows
    ("imagereward", "imagereward/test.json", "imagereward/images", 24),
    ("imagereward", "imagereward/metadata.json", "imagereward/images", 24),
    ("imagereward", "imagereward/rows.parquet", None, 24),
    ("hpdv2", "hpdv2/train.json", "hpdv2/images", 4),
    ("hpdv2", "hpdv2/test.json", "hpdv2/images", 24),
    ("rapidata", "rapidata/votes", None, 4),
    ("rapidata", "rapidata/weighted", None, 4),
    ("pickapic", "pickapic", None, 3),
]


def lrt(*arguments, code=0):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout if code != 2 else result.stderr


def number(said, what):
    """The number that stands behind a word of the report."""
    (found,) = re.findall(rf"^ *{re.escape(what)}:? +([\d.,]+)", said, re.M)
    return float(found.replace(",", ""))


# ---- one schema ----


@pytest.mark.parametrize(("name", "path", "images", "n"), FORMS)
def test_every_source_gives_the_one_schema(name, path, images, n):
    found = sources.pairs(name, SAMPLES / path, images and SAMPLES / images)
    assert found.features == pairs.FEATURES and len(found) == n
    assert len(set(found["pair_id"])) == n and set(found["source"]) == {name}
    for row in found.select(range(0, n, 7)):
        assert [image.size for image in row["images"]] == [(56, 56)] * 2
        assert row["vote"] in (0, 1, 2) and 0 <= row["share"] <= 1 and row["prompt"] and row["prompt_id"]
    assert len(sources.pairs(name, SAMPLES / path, images and SAMPLES / images, limit=2)) == 2


def test_a_folder_of_ones_own_is_a_source_too(tmp_path):
    shutil.copy(SAMPLES / "hpdv2/images/00000.jpg", tmp_path / "a.jpg")
    shutil.copy(SAMPLES / "hpdv2/images/00001.jpg", tmp_path / "b.jpg")
    lines = ["prompt,image_1,image_2,votes_1,votes_2", "cat,a.jpg,b.jpg,3,1", "dog,a.jpg,none.jpg,1,1"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    found, problems = bring.read(bring.Files("folder", tmp_path, skip_bad=True))
    assert len(found) == 1 and "column image_2: no file 'none.jpg'" in problems[0]
    said = lrt("check", "folder", tmp_path, code=1)
    assert number(said, "rows (pairs)") == 1 and "rows that cannot be read: 1" in said


def test_of_ones_own_folder_a_share_of_the_prompts_is_taken_and_then_the_first(tmp_path):
    shutil.copy(SAMPLES / "hpdv2/images/00000.jpg", tmp_path / "a.jpg")
    prompts = [f"prompt {i // 2}" for i in range(40)]
    (tmp_path / "pairs.csv").write_text("\n".join(["prompt,image_1,image_2,vote",
                                                   *(f"{prompt},a.jpg,a.jpg,1" for prompt in prompts)]))
    files = bring.Files("folder", tmp_path)
    kept = [prompt for prompt in prompts if in_share(prompt, 0.5)]  # whole prompts
    assert 0 < len(kept) < 40 and bring.read(files, share=0.5)[0]["prompt"][:] == kept
    assert bring.read(files, share=0.5, limit=3)[0]["prompt"][:] == kept[:3]
    assert len(bring.read(files)[0]) == 40 and len(bring.read(files, limit=0)[0]) == 0


def test_a_name_that_nobody_knows():
    with pytest.raises(ValueError, match="no reader 'hpdv3'; there are imagereward, hpdv2, rapidata, pickapic, folder"):
        sources.pairs("hpdv3", SAMPLES)


# ---- lrt data check ----


@pytest.mark.skipif(not REAL.exists(), reason="the real ImageReward labels are not here (../shared/data)")
def test_the_real_labels_without_their_images(tmp_path):
    said = lrt("check", "imagereward", REAL, "--picture", tmp_path / "x.png")
    assert number(said, "prompts") == 120 and number(said, "images") == 696
    assert number(said, "rows (pairs)") == 1849 and number(said, "untied") == 1644 and number(said, "tied") == 205
    assert number(said, "always first") == 60.1
    assert "no picture" in said and not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(("name", "path", "images", "n"), FORMS)
def test_check_counts_every_sample(name, path, images, n):
    where = ["--images", SAMPLES / images] if images else []
    said = lrt("check", name, SAMPLES / path, *where)
    assert number(said, "rows (pairs)") == n and number(said, "untied") + number(said, "tied") == n
    assert f"pairs with both images: {n} of {n}" in said and "images missing or broken: 0" in said
    assert number(lrt("check", name, SAMPLES / path, "--labels-only"), "rows (pairs)") == n


def test_check_draws_a_pair_of_each_prompt_even_where_there_are_no_counts(tmp_path):
    lrt("check", "rapidata", SAMPLES / "rapidata/weighted", "--picture", tmp_path / "pairs.png")
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.width > 500 and picture.text["Description"].startswith("4 example pairs of rapidata")
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.png"]


def test_missing_and_broken_images_are_counted_and_change_no_label(tmp_path):
    home = tmp_path / "hpd"
    shutil.copytree(SAMPLES / "hpdv2", home)
    whole = datacheck.check("hpdv2", home / "test.json", home / "images")
    (home / "images/00001.jpg").unlink()
    (home / "images/00006.jpg").write_bytes(b"not an image")
    said = lrt("check", "hpdv2", home / "test.json", "--images", home / "images", code=1)
    assert "images missing or broken: 2" in said and "no file '00001.jpg'" in said and "'00006.jpg' is not" in said
    assert "pairs with both images: 18 of 24" in said
    found = datacheck.check("hpdv2", home / "test.json", home / "images")
    assert (found.untied, found.tied, found.images) == (whole.untied, whole.tied, whole.images) == (23, 1, 16)
    assert found.always_first() == whole.always_first() and found.agreement == whole.agreement


@pytest.mark.parametrize(("source", "file", "images"), [
    ("hpdv2", "hpdv2/train.json", 8), ("hpdv2", "hpdv2/test.json", 16), ("imagereward", "imagereward/test.json", 16)])
def test_every_missing_image_is_counted_also_where_a_pair_lacks_both(tmp_path, source, file, images):
    found = datacheck.check(source, SAMPLES / file, tmp_path)
    assert found.images == len(found.bad_images) == images and found.whole_pairs == 0


def test_the_histogram_is_of_shares_where_several_voted():
    found = datacheck.check("rapidata", SAMPLES / "rapidata/votes", labels_only=True)
    raw = pq.read_table(SAMPLES / "rapidata/votes").to_pylist()
    shares = [max(row["votes_image1"], row["votes_image2"]) / 26 for row in raw]
    expected = np.histogram(shares, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])[0]
    assert [found.agreement[edge] for edge in datacheck.AGREEMENT] == expected.tolist()
    assert not datacheck.check("imagereward", SAMPLES / "imagereward/test.json").agreement
    assert found.always_first().value == np.mean([row["votes_image1"] > 13 for row in raw if row["votes_image1"] != 13])


def test_a_users_mistake_gets_a_sentence(tmp_path):
    assert "no reader 'hpd'" in lrt("check", "hpd", SAMPLES, code=2)
    assert "no file" in lrt("check", "hpdv2", tmp_path / "none.json", code=2)
    assert "neither the columns" in lrt("check", "hpdv2", SAMPLES / "imagereward/test.json", code=2)
    said = lrt("check", "imagereward", SAMPLES / "hpdv2/test.json", code=2)  # not sixteen bad rows
    assert "neither the columns of ImageReward's label file" in said and "there are image_path, prompt" in said


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path):
    row = {"id": "\x1b[2J", "prompt": "x", "generations": ["\x1b]0;a", "b"], "ranking": [1]}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    assert "\x1b" not in lrt("check", "imagereward", tmp_path / "test.json", code=1)


# ---- overlap ----


def drawn(seed, size=(96, 96)):
    """A picture with some structure: a random 6 x 6 mosaic, enlarged."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind, **how):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **how)
    return {"bytes": buffer.getvalue(), "path": None}


def row(prompt, *cells):
    return {"prompt": prompt, "images": list(cells)}


@given(st.text(max_size=20), st.sampled_from([" ", "\t", "\n ", "\u00a0"]))
def test_prompts_are_compared_by_what_they_say(text, space):
    assert overlap.normalised(f"{space}{text}  {text}") == overlap.normalised(f"{text}{space}{text} ")
    assert overlap.normalised(overlap.normalised(text)) == overlap.normalised(text)
    assert overlap.normalised("ＡＢＣ  Straße\n") == overlap.normalised("abc strasse")


def test_the_same_file_a_copy_encoded_anew_and_another_picture_are_told_apart():
    train = overlap.prints([row("A Cat", encoded(drawn(0), "PNG"), encoded(drawn(1), "PNG"))])
    test = overlap.prints([
        row("a  cat", encoded(drawn(0), "PNG"), encoded(drawn(1).resize((64, 80)), "JPEG", quality=60)),
        row("a dog", encoded(drawn(2), "PNG"), encoded(Image.new("RGB", (96, 96), "white"), "PNG")),
    ])
    found = overlap.overlap(train, test)
    assert found.prompts == ["a  cat"]
    assert len(found.images) == 1 and found.images[0][0] == found.images[0][1]
    assert len(found.near) == 1 and found.near[0][2] <= overlap.NEAR
    said = overlap.told(found)
    assert "in training: 1 of 2" in said and "byte for byte: 1 of 4" in said and "too plain" in said


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_survives_encoding_and_differs_between_pictures(seed):
    picture, other = drawn(seed), drawn(seed + 100)
    own = overlap.difference_hash(picture)
    again = Image.open(io.BytesIO(encoded(picture.resize((70, 50)), "WEBP", quality=50)["bytes"]))
    assert (own ^ overlap.difference_hash(again)).bit_count() <= overlap.NEAR
    assert (own ^ overlap.difference_hash(other)).bit_count() > 2 * overlap.NEAR
    assert overlap.difference_hash(Image.new("RGB", (50, 50), (seed, 9, 9))) is None


def test_the_nearest_is_found_in_blocks_as_without(monkeypatch):
    train = overlap.prints([row(str(i), encoded(drawn(i), "PNG")) for i in range(12)])
    test = overlap.prints([row(str(i), encoded(drawn(i), "JPEG", quality=70)) for i in range(6, 18)])
    whole = overlap.overlap(train, test)
    assert len(whole.near) == 6 and len(whole.prompts) == 6
    monkeypatch.setattr(overlap, "BLOCK", 30)
    assert overlap.overlap(train, test).near == whole.near
    naive = [min((a ^ b).bit_count() for b in train.hashes.values()) for a in test.hashes.values()]
    assert [bits for *_, bits in whole.near] == [bits for bits in naive if bits <= overlap.NEAR]


def test_overlap_of_two_samples_by_command(tmp_path):
    where = ["hpdv2", SAMPLES / "hpdv2/test.json", "imagereward", SAMPLES / "imagereward/test.json"]
    said = lrt("overlap", *where)
    assert "prompts of the test set that are in training: 4 of 4" in said and "were not compared" in said
    said = lrt("overlap", *where, "--train-images", SAMPLES / "hpdv2/images",
               "--test-images", SAMPLES / "imagereward/images")
    assert "byte for byte: 0 of 16" in said and re.search(r"to be looked at\): 1[0-6]\n", said)
    (tmp_path / "images").mkdir()
    there = CliRunner().invoke(app, ["data", "overlap", *map(str, where), "--train-images", str(tmp_path / "images"),
                                     "--test-images", str(SAMPLES / "imagereward/images")])
    assert there.exit_code == 0 and "left out 24 pairs or rows; the first: test.json, row 1" in there.stderr
    same = ["rapidata", SAMPLES / "rapidata/votes"] * 2
    assert "byte for byte: 8 of 8" in lrt("overlap", *same)


# ---- the samples ----


def same_pictures(a, b):
    """Equal but for what another release of an encoder may do."""
    one, two = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int) for data in (a, b))
    return one.shape == two.shape and np.abs(one - two).mean() < 2


def same_cells(a, b):
    if isinstance(a, dict) and "bytes" in a:
        return a["path"] == b["path"] and same_pictures(a["bytes"], b["bytes"])
    return same_pictures(a, b) if isinstance(a, bytes) else a == b


def test_the_samples_are_what_the_command_writes(tmp_path):
    lrt("sample", "--out", tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {path.relative_to(SAMPLES) for path in SAMPLES.rglob("*") if path.is_file()}
    for path in made:
        old, new = SAMPLES / path, tmp_path / path
        if path.suffix in (".json", ".md"):
            assert old.read_bytes() == new.read_bytes(), path
        elif path.suffix == ".parquet":
            a, b = pq.read_table(old), pq.read_table(new)
            assert a.schema.equals(b.schema, check_metadata=False)
            pairs_of_rows = zip(a.to_pylist(), b.to_pylist(), strict=True)
            assert all(same_cells(x[key], y[key]) for x, y in pairs_of_rows for key in x), path
        else:
            assert same_pictures(old.read_bytes(), new.read_bytes()), path


def test_the_samples_are_small_and_say_what_they_are():
    files = [path for path in SAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 150_000
    said = (SAMPLES / "README.md").read_text()
    assert said == samples.README and "drawn by this project's\ntiny world in the format of each benchmark" in said
