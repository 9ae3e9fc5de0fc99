"""A model on a benchmark's files by `lrt evaluate`, and what is read of files that are brought."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from lrt import cli, evaluate, models, pretrain, tiny, traces
from lrt.pairs import tiny_pairs
from lrt.profiles import in_share
from lrt.real import benchmarks, bring, judge, reading, sources
from lrt.real.bring import Files
from lrt.real.predictions import Predictions, read
from lrt.real.scores import labels
from lrt.stats import load_records

SAMPLES = Path(__file__).resolve().parents[1] / "data/samples"
FOUR = [  # source, path, images
    ("imagereward", "imagereward/test.json", "imagereward/images"),
    ("hpdv2", "hpdv2/test.json", "hpdv2/images"),
    ("rapidata", "rapidata/votes", None),
    ("pickapic", "pickapic", None),
]
IMAGEREWARD = Files("imagereward", SAMPLES / "imagereward/test.json", SAMPLES / "imagereward/images")
HPDV2 = Files("hpdv2", SAMPLES / "hpdv2/test.json", SAMPLES / "hpdv2/images")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained tiny model on disk."""
    folder = tmp_path_factory.mktemp("models") / "untrained"
    shape = tiny.Shape(text=32, layers=1, heads=2, vision=32, vision_layers=1, vision_heads=2)
    recipe = pretrain.Recipe("untrained", shape=shape)
    pretrain.save(*pretrain.build(recipe), recipe, {"see": [4.0]}, folder)
    return str(folder)


def says(monkeypatch, choose):
    """Let any model write choose(the two images as shown)."""

    def generate(loaded, prompts, images, **_):
        return [traces.write_completion("image 1 is better .", choose(pair)) for pair in images]

    monkeypatch.setattr(evaluate, "generate", generate)


def darker(pair):
    light = [image.convert("L").resize((1, 1)).getpixel((0, 0)) for image in pair]
    return 1 if light[0] <= light[1] else 2


def lrt(*arguments, code=0):
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout if code == 0 else result.stderr


def where(source, path, images):
    return ["--source", source, "--pairs", SAMPLES / path, *(["--images", SAMPLES / images] if images else [])]


# ---- lrt evaluate on a benchmark ----


@pytest.mark.parametrize(("source", "path", "images"), FOUR)
def test_every_source_leads_to_its_own_number(source, path, images, model, monkeypatch, tmp_path):
    says(monkeypatch, lambda pair: 1)
    made, out = tmp_path / "made.jsonl", tmp_path / "records.json"
    said = lrt("evaluate", "--model", model, *where(source, path, images), "--predictions", made, "--out", out)
    assert "always first %" in said and "forward" in said and "consistent" in said
    assert "image shown first was chosen in 100.0 % of the choices" in said
    found = read(made, ranked := labels(source, SAMPLES / path))
    lines = benchmarks.score(source, found, ranked)  # nothing is missing, in either order
    assert [line.interval.value for line in lines if line.order == "forward"] == [
        line.always_first for line in lines if line.order == "forward"]
    assert [r.value for r in load_records(out)] == pytest.approx([line.interval.value for line in lines], nan_ok=True)
    assert load_records(out)[0].method == model and list(benchmarks.rules(source))[0] in said


def test_a_judge_of_the_images_chooses_the_same_in_both_orders(model, monkeypatch, tmp_path):
    says(monkeypatch, darker)
    said = lrt("evaluate", "--model", model, *where(*FOUR[0]), "--test-pairs", 13)
    assert "12 pairs of imagereward, each in both orders" in said and "leaves the choice in 100.0 % of pairs" in said
    assert "2 of 466 prompts: not comparable" in said


def test_what_cannot_be_parsed_is_wrong_in_both_orders(model, monkeypatch):
    monkeypatch.setattr(evaluate, "generate", lambda loaded, prompts, images, **_: ["no idea"] * len(prompts))
    said = lrt("evaluate", "--model", model, *where(*FOUR[0]))
    assert "consistent  0.0" in said and "38 of 38 choices of ordered pairs are missing" in said and "nan" not in said


def test_bad_rows_are_left_out_by_prompt_when_asked_for(model, monkeypatch, tmp_path):
    says(monkeypatch, lambda pair: 1)
    home = shutil.copytree(SAMPLES / "hpdv2", tmp_path / "hpd")
    (home / "images/00001.jpg").unlink()
    asked = ["evaluate", "--model", model, "--source", "hpdv2", "--pairs", home / "test.json", "--images",
             home / "images"]
    assert "no file '00001.jpg'" in lrt(*asked, code=2)
    result = CliRunner().invoke(cli.app, [*map(str, asked), "--skip-bad"])
    assert result.exit_code == 0, result.output
    assert "18 pairs of hpdv2" in result.stdout and "missing" not in result.stdout
    assert "3 further pairs, of prompts of which others are left out" in result.stderr
    assert "--skip-bad is about --pairs" in lrt("evaluate", "--model", model, "--skip-bad", code=2)


def test_files_are_looked_at_before_a_model_is_loaded(monkeypatch, tmp_path):
    def load(*_, **__):
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(cli.judging, "load", load)
    for command in (["evaluate"], ["train", "sft"], ["train", "grpo"]):
        asked = [*command, "--model", "owner/large", "--source", "imagereward"]
        no_images = lrt(*asked, "--pairs", IMAGEREWARD.path, code=2)
        assert "say where the images are (--images FOLDER)" in no_images
        assert "no file" in lrt(*asked, "--pairs", tmp_path / "none.json", "--images", tmp_path, code=2)
    assert "--predictions is about a benchmark" in lrt("evaluate", "--predictions", tmp_path / "x", code=2)
    assert "--images is about --pairs" in lrt("train", "sft", "--images", tmp_path, code=2)
    assert "take HPDv2's test.json" in lrt("evaluate", *where("hpdv2", "hpdv2/train.json", "hpdv2/images"), code=2)


def test_an_aspect_is_named_where_several_were_judged(model, monkeypatch, tmp_path):
    import pyarrow.parquet as pq

    says(monkeypatch, lambda pair: 1)
    table = pq.read_table(SAMPLES / "rapidata/weighted")
    names = [name for name in table.column_names if name.startswith("weighted")]
    kept = table.drop_columns([n for n in names if n.endswith("preference")])
    for side, values in ((1, [0.9] * 4), (2, [0.1] * 4)):
        for aspect, turned in (("coherence", False), ("alignment", True)):
            name = f"weighted_results_image{side}_{aspect}"
            kept = kept.drop_columns([name]) if name in kept.column_names else kept
            kept = kept.append_column(name, [[1 - v for v in values] if turned else values])
    pq.write_table(kept, tmp_path / "test.parquet")
    asked = ["evaluate", "--model", model, "--source", "rapidata", "--pairs", tmp_path / "test.parquet"]
    assert "say which aspect was judged (--aspect); there are alignment, coherence" in lrt(*asked, code=2)
    assert "forward     100.0" in lrt(*asked, "--aspect", "coherence")
    assert "forward     0.0" in lrt(*asked, "--aspect", "alignment")
    found = lrt("data", "check", "rapidata", tmp_path / "test.parquet", "--aspect", "alignment")
    assert "always first         0.0 %" in found
    both = ["rapidata", tmp_path / "test.parquet"] * 2
    assert "4 of 4" in lrt("data", "overlap", *both, "--train-aspect", "coherence", "--test-aspect", "alignment")
    form = tmp_path / "form.jsonl"
    scored = ["score", "--benchmark", "rapidata", "--labels", tmp_path / "test.parquet", "--aspect", "coherence"]
    assert "8 lines" in lrt(*scored, "--template", form, "--form", "pair")
    assert "an aspect is rapidata's" in lrt("data", "check", "hpdv2", HPDV2.path, "--aspect", "coherence", code=2)


def test_a_prompt_listed_again_is_judged_too_and_is_one_cluster(monkeypatch, tmp_path, model):
    says(monkeypatch, lambda pair: 1)
    rows = json.loads(HPDV2.path.read_text())
    again = rows[1] | {"prompt": rows[0]["prompt"]}
    (tmp_path / "test.json").write_text(json.dumps([rows[0], again, rows[2]]))
    files = Files("hpdv2", tmp_path / "test.json", HPDV2.images)
    test, _ = judge.read_test(files)
    made = judge.choices(models.load(model), test)
    assert len(made.values) == 2 * len(test.pairs) == 36
    (line,) = [line for line in judge.numbers(test, made)[0] if line.order == "forward"]
    assert line.interval.n == 3 and len({row.prompt_id for row in test.ranked}) == 2


# ---- what is read ----


def test_no_ranking_is_cut_and_reading_ends_there():
    def rows():
        for i, n in enumerate((6, 3, 6)):
            yield from ({"pair_id": f"x/a/{i}/{k}"} for k in range(n))
        raise AssertionError("read on")

    found = [len(list(bring.whole_rankings(rows(), most))) for most in (6, 8, 9, 14)]
    assert found == [6, 6, 9, 9]
    with pytest.raises(ValueError, match="not even the pairs of the first prompt fit into 5"):
        list(bring.whole_rankings(rows(), 5))


@pytest.mark.parametrize(("source", "path", "images"), [*FOUR, ("hpdv2", "hpdv2/train.json", "hpdv2/images")])
def test_a_share_is_taken_before_images_are_read(source, path, images, monkeypatch):
    files = Files(source, SAMPLES / path, images and SAMPLES / images)
    whole, _ = bring.read(files)
    share = 0.5
    kept = [row for row in whole.remove_columns("images") if in_share(row["prompt"], share)]
    assert 0 < len(kept) < len(whole)
    looked = []
    for name in ("image_bytes", "image_problem"):
        old = getattr(reading, name)
        monkeypatch.setattr(reading, name, lambda *args, old=old: looked.append(args) or old(*args))
    found, _ = bring.read(files, share=share)
    assert found["pair_id"][:] == [row["pair_id"] for row in kept]
    images = {cell["path"] or cell["bytes"] for row in found.with_format("arrow")[:].to_pylist()
              for cell in row["images"]}
    assert len(looked) <= max(len(images), 2 * len(found))
    first, _ = bring.read(files, limit=1)
    assert first["pair_id"][:] == whole["pair_id"][:1]


def test_a_stream_is_not_read_beyond_what_is_wanted(monkeypatch):
    old, read_rows = sources.rows, []
    monkeypatch.setattr(sources, "rows", lambda *a, **k: (read_rows.append(r) or r for r in old(*a, **k)))
    found, _ = bring.read(Files("pickapic", SAMPLES / "pickapic"), limit=2)
    assert len(found) == len(read_rows) == 2


def test_of_several_processes_one_reads_and_the_others_map(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", str(os.getpid()))
    folders, old = [], bring._folder
    monkeypatch.setattr(bring, "_folder", lambda *how: folders.append(old(*how)) or folders[-1])
    monkeypatch.setenv("LOCAL_RANK", "1")
    first, _ = bring.read(IMAGEREWARD, limit=5)
    monkeypatch.setattr(sources, "rows", lambda *_, **__: iter(()))  # another reading would find nothing
    second, _ = bring.read(IMAGEREWARD, limit=5)
    assert second["pair_id"][:] == first["pair_id"][:] and len(second) == 5
    assert second[0]["images"][0].size == (56, 56)
    assert folders[0] == folders[1] and [p.name for p in folders[0].glob("*.arrow")] == ["pairs.arrow"]
    with pytest.raises(ValueError, match="no pairs in it"):
        bring.read(IMAGEREWARD, limit=4)  # another question has another folder
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


# ---- both orders ----


def test_the_second_order_copies_no_image_and_keeps_a_transform(model, monkeypatch):
    from lrt.images import one_size

    shown = []

    def generate(loaded, prompts, images, **_):
        shown.extend([image.size for image in pair] for pair in images)
        return [traces.write_completion("image 1 is better .", 1)] * len(prompts)

    monkeypatch.setattr(evaluate, "generate", generate)
    pairs = one_size(tiny_pairs("train", 3), 84)
    forward, reverse = evaluate.judge_both_orders(models.load(model), pairs, batch=2)
    assert shown == [[(84, 84)] * 2] * 6
    assert forward["answer"].tolist() == [1, 1, 1] and reverse["answer"].tolist() == [2, 2, 2]


def test_predictions_of_both_orders_stay_so_when_nothing_could_be_read(tmp_path):
    """Also through the file: the judge's turned answers are not words, and `lrt score` has to count them as wrong."""
    from lrt.real.predictions import from_judgements, own_names, write
    from lrt.real.scores import orders, ranked_of

    frame = pd.DataFrame({"pair_id": ["a", "b"], "prompt_id": ["p", "q"], "answer": pd.array([1, 1], dtype="Int64")})
    made = from_judgements(frame, frame.assign(answer=pd.array([None, None], dtype="Int64")))
    labels = ranked_of({"pair_id": name, "prompt_id": prompt, "prompt": "", "vote": 1, "share": 1.0,
                        "image_names": own_names(name)} for name, prompt in (("a", "p"), ("b", "q")))
    write(made, tmp_path / "made.jsonl")
    for one in (made, read(tmp_path / "made.jsonl", labels)):
        lines = benchmarks.score("imagereward", one, labels, allow_missing=True)
        by_order = {line.order: line.interval.value for line in lines if "own" in line.rule}
        assert by_order == {"forward": 1.0, "reverse": 0.0, "both": 0.5, "consistent": 0.0}

    assert orders(Predictions("pair", {}, both=True)) == ("forward", "reverse")
    assert orders(Predictions("pair", {})) == ("given",)
