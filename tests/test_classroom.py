"""Classroom mode: a class replays recorded runs, and a file from somewhere writes nothing that it should not."""

import io
import json
import shutil
import stat
import zipfile
from dataclasses import replace

import pyarrow
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from safetensors.torch import load_file, save
from tiny_runs import saved

from lrt import methods, stats
from lrt.course import archive, classroom
from lrt.course.archive import MANIFEST, RUNS
from lrt.profiles import PROFILES
from lrt.runs import read_log


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with small models, the three finished runs of a small profile, and the file packed from them."""
    folder = tmp_path_factory.mktemp("class")
    mini = replace(
        PROFILES["ci"], name="mini", reasoner=saved(folder / "base"), listener=saved(folder / "ear", "llava"),
        train_pairs=8, sft_steps=3, sft_batch=2, grpo_steps=2, pairs_per_step=2, num_generations=2, max_new_tokens=4,
    )
    patch = pytest.MonkeyPatch()
    patch.setitem(PROFILES, "mini", mini)
    for run in RUNS:
        methods.train(run, mini, folder / "runs", 7, on_step=lambda *_: None)
    (folder / "runs" / "judgements" / "base").mkdir(parents=True)
    table = pyarrow.table({"pair_id": ["a", "b"], "answer": [1.0, None]})
    parquet.write_table(table, folder / "runs" / "judgements" / "base" / "tint_uninformative-swapped.parquet")
    (folder / "runs" / "records").mkdir()
    record = stats.Record("sft", "in_distribution", "accuracy", 0.5, 0.4, 0.6, 9, 7)
    stats.save_records([record], folder / "runs" / "records" / "02_sft.json")
    (folder / "runs" / "index.html").write_text("<script>1</script>")
    line = {"step": 0, "pair_id": "a/1", "sample": 0, "text": "<think> </think>", "p": {"reader": 0.5}}
    (folder / "runs" / "grpo" / "samples.jsonl").write_text(json.dumps(line) + "\n")
    classroom.pack(folder / "runs", folder / "class.zip")
    yield folder
    patch.undo()


def contents(file):
    with zipfile.ZipFile(file) as found:
        return {info.filename: found.read(info) for info in found.infolist()}


def zipped(path, files, listed=True):
    """A file with these contents; `listed`: its list says so too, as a forger would see to."""
    files = dict(files)
    if listed and MANIFEST in files:
        manifest = json.loads(files[MANIFEST])
        manifest["files"] = {name: {"bytes": len(data), "sha256": archive.digest(data)}
                             for name, data in files.items() if name != MANIFEST}
        files[MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return path


def refusal(file, into):
    """What `open` says of a file that it refuses; nothing may have been written."""
    with pytest.raises(ValueError) as caught:
        classroom.open_archive(file, into)
    assert not into.exists() or not [path for path in into.rglob("*") if path.is_file()]
    return str(caught.value)


# ---- what a class gets ----


def test_an_opened_run_is_replayed_with_its_weights_and_its_log(home, tmp_path, capsys):
    manifest = classroom.open_archive(home / "class.zip", tmp_path / "runs")
    assert manifest["seed"] == 7
    for run in RUNS:
        before = read_log(home / "runs" / run)
        capsys.readouterr()
        _, log = methods.train(run, PROFILES["mini"], tmp_path / "runs", 7, on_step=lambda *_: pytest.fail("trained"))
        assert f"A recorded run is replayed: {len(before)} steps" in capsys.readouterr().out
        assert log == before
        wanted = load_file(home / "runs" / run / "model" / "model.safetensors")
        found = load_file(tmp_path / "runs" / run / "model" / "model.safetensors")
        assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)
        assert methods.where(run, PROFILES["mini"], tmp_path / "runs") == (str(tmp_path / "runs" / run / "model"), True)
    assert (tmp_path / "runs" / "judgements" / "base" / "tint_uninformative-swapped.parquet").is_file()


def test_the_file_holds_what_the_notebooks_read_and_nothing_else(home):
    names = set(contents(home / "class.zip"))
    assert {name.rpartition(".")[2] for name in names} == {"json", "jsonl", "safetensors", "parquet"}
    assert len(names) == 1 + 3 * 4 + 2 + 2  # the list; runs; judgements and records; what GRPO wrote on its way
    again = home / "again.zip"
    classroom.pack(home / "runs", again)
    assert again.read_bytes() == (home / "class.zip").read_bytes()


def test_opened_twice_it_stays_and_another_run_of_the_name_is_left_alone(home, tmp_path):
    into = tmp_path / "runs"
    classroom.open_archive(home / "class.zip", into)
    there = {path: path.stat().st_mtime_ns for path in into.glob("*/model/*")}
    classroom.open_archive(home / "class.zip", into)
    assert there == {path: path.stat().st_mtime_ns for path in into.glob("*/model/*")}
    (into / "grpo" / "log.jsonl").write_text("{}\n")
    shutil.rmtree(into / "sft")
    with pytest.raises(ValueError, match="grpo is there already, and is another run"):
        classroom.open_archive(home / "class.zip", into)
    assert not (into / "sft").exists() and (into / "grpo" / "log.jsonl").read_text() == "{}\n"


def test_what_a_student_is_told_depends_on_profile_and_place(home, tmp_path, monkeypatch):
    manifest = json.loads(contents(home / "class.zip")[MANIFEST])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no 01_data.ipynb here"):
        classroom.runs_folder()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_data.ipynb").write_text("{}")
    assert classroom.runs_folder() == tmp_path / "notebooks" / "runs"
    told = classroom.told(manifest, classroom.runs_folder())
    assert 'profile = "mini", seed = 7' in told and "run_dir" not in told and "sft (3 steps)" in told
    told = classroom.told(manifest | {"profile": "laptop", "seed": 0}, tmp_path / "elsewhere")
    assert f'run_dir = "{tmp_path / "elsewhere"}"' in told and "profile =" not in told


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda runs: (runs / "sft" / "done.json").unlink(), "is not a finished run"),
    (lambda runs: shutil.rmtree(runs / "grpo"), "is not a finished run"),
    (lambda runs: (runs / "sft" / "model" / "model.safetensors").rename(runs / "sft" / "model" / "x.bin"), "no file"),
    (lambda runs: _set(runs / "grpo" / "settings.json", steps=5), "runs of no profile"),
    (lambda runs: _set(runs / "sft" / "settings.json", seed=8), "runs of no profile"),
    (lambda runs: (runs / "sft" / "log.jsonl").write_text('{"step": 1}\n'), "does not have the steps 1 to 3"),
])
def test_what_is_not_whole_is_not_packed(home, tmp_path, spoil, says):
    shutil.copytree(home / "runs", tmp_path / "runs")
    spoil(tmp_path / "runs")
    with pytest.raises(ValueError, match=says):
        classroom.pack(tmp_path / "runs", tmp_path / "class.zip")
    assert not (tmp_path / "class.zip").exists()


def _set(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---- what is refused ----


@pytest.mark.parametrize("name", [
    "../evil.json", "/etc/evil.json", "sft/../../evil.json", "..\\evil.json", "C:\\evil.json", "sft/model.pt",
    "sft/model/config.json", "sft/optimizer.safetensors", "index.html", "judgements/base/x.pkl", "records/../x.json",
    "judgements/other/a.parquet", "sft/model.safetensors/", "runs/", "records/02_sft.json\n", "SFT/log.jsonl",
])
def test_names_outside_the_list_are_refused(home, tmp_path, name):
    file = zipped(tmp_path / "bad.zip", contents(home / "class.zip") | {name: b""})
    assert "is no file that a class needs" in refusal(file, tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["bad.zip"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.from_regex(archive.NAME, fullmatch=True))
def test_no_name_leaves_the_folder(name):
    assert ".." not in name and not name.startswith("/") and "\\" not in name
    assert name.split("/")[0] in (*RUNS, "judgements", "records")


def test_what_a_run_wrote_on_its_way_comes_along_and_is_checked(home, tmp_path):
    classroom.open_archive(home / "class.zip", tmp_path / "runs")
    kept = (tmp_path / "runs/grpo/samples.jsonl").read_bytes()
    assert kept == (home / "runs/grpo/samples.jsonl").read_bytes()
    bad = contents(home / "class.zip") | {"grpo/samples.jsonl": kept.replace(b"0.5", b"2.5")}
    said = refusal(zipped(tmp_path / "bad.zip", bad), tmp_path / "others")
    assert "grpo/samples.jsonl" in said and "2.5 is no probability" in said


def test_a_link_is_refused(home, tmp_path):
    files = contents(home / "class.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as made:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            if name == "sft/log.jsonl":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            made.writestr(info, data)
    assert "sft/log.jsonl is a link" in refusal(tmp_path / "bad.zip", tmp_path / "runs")


def test_a_name_that_is_there_twice_is_refused(home, tmp_path):
    file = zipped(tmp_path / "bad.zip", contents(home / "class.zip"))
    with zipfile.ZipFile(file, "a") as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr("sft/log.jsonl", b"{}")
    assert "sft/log.jsonl is there twice" in refusal(file, tmp_path / "runs")


def test_sizes_have_limits_whatever_the_headers_say(home, tmp_path, monkeypatch):
    file = home / "class.zip"
    monkeypatch.setattr(archive, "MAX_BYTES", 10_000)
    assert "is larger than it says" in refusal(file, tmp_path / "runs")
    monkeypatch.setattr(archive, "MAX_TOTAL", 10_000)
    assert "unpacks to more than" in refusal(file, tmp_path / "runs")
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    assert "17 files, more than the 3" in refusal(file, tmp_path / "runs")


def test_a_damaged_file_is_refused(home, tmp_path):
    whole = (home / "class.zip").read_bytes()
    for i, data in enumerate((b"", b"PK not a zip", whole[: len(whole) // 2], b"\x80\x04\x95")):
        (tmp_path / f"{i}.zip").write_bytes(data)
        assert "not a whole zip file" in refusal(tmp_path / f"{i}.zip", tmp_path / "runs")
    files = contents(home / "class.zip")

    changed = files["sft/log.jsonl"].replace(b"1", b"2", 1)
    file = zipped(tmp_path / "b.zip", files | {"sft/log.jsonl": changed}, listed=False)
    assert "sft/log.jsonl is not what was packed" in refusal(file, tmp_path / "runs")
    del files["sft/log.jsonl"]
    file = zipped(tmp_path / "c.zip", files, listed=False)
    assert "sft/log.jsonl is in the file or in its list, not in both" in refusal(file, tmp_path / "runs")


@pytest.mark.parametrize(("change", "says"), [
    ({"format": 2}, "not of the form"), ({"lrt": "0.0.1"}, "packed with lrt 0.0.1"), ({"seed": "0"}, "not of the form"),
    ({"seed": 8}, "of other settings"), ({"profile": "nobody"}, "its profile 'nobody'"), ({"profile": []}, "profile"),
    ({"profile": None}, "its profile None"), ({"base": "0" * 64}, "another base model"), ({"files": []}, "not of the"),
    ({"files": {"sft/log.jsonl": {"bytes": -1, "sha256": ""}}}, "not of the form"), ({"files": {}}, "no sft/settings"),
])
def test_another_version_profile_seed_or_base_is_named(home, tmp_path, change, says):
    files = contents(home / "class.zip")
    files[MANIFEST] = json.dumps(json.loads(files[MANIFEST]) | change).encode()
    assert says in refusal(zipped(tmp_path / "a.zip", files, listed=False), tmp_path / "runs")


def test_a_file_without_a_list_or_with_a_broken_one_is_refused(home, tmp_path):
    files = contents(home / "class.zip")
    listless = {name: data for name, data in files.items() if name != MANIFEST}
    assert "no classroom.json" in refusal(zipped(tmp_path / "a.zip", listless), tmp_path / "runs")
    for i, data in enumerate((b"[]", b"{", b"\xff", b"[" * 100_000)):
        file = zipped(tmp_path / f"b{i}.zip", files | {MANIFEST: data}, listed=False)
        assert "classroom.json: " in refusal(file, tmp_path / "runs")


def test_parts_that_are_not_what_their_names_say_are_refused(home, tmp_path):
    files = contents(home / "class.zip")
    table = "judgements/base/tint_uninformative-swapped.parquet"

    def said(**change):
        changed = files | {name.replace("__", "/"): data for name, data in change.items()}
        return refusal(zipped(tmp_path / "a.zip", changed), tmp_path / "runs")

    assert "not JSON" in said(**{"sft/settings.json": b"\x80\x04"})
    assert "does not have the steps" in said(**{"sft/log.jsonl": b'{"step": 1}\n{"step": 3}\n{"step": 2}\n'})
    assert "line 1: not JSON" in said(**{"grpo/log.jsonl": b"import os\n"})
    assert "not a Parquet table" in said(**{table: b"PAR1"})
    assert "not a table of judgements" in said(**{table: _parquet([[1], [2]])})
    assert "records/02_sft.json" in said(**{"records/02_sft.json": b'[{"method": 3}]'})
    weights = load_file(home / "runs" / "sft" / "model" / "model.safetensors")
    name = sorted(weights)[0]
    for own, says in (
        (b"\x80\x04\x95pickled", "not a whole file of safetensors"),
        (save({key: value for key, value in weights.items() if key != name}), f"{name} is a weight of"),
        (save(weights | {name: weights[name][:1].clone()}), f"{name} is not torch.float32 of shape"),
        (save(weights | {name: weights[name].half()}), f"{name} is not torch.float32"),
        (save(weights | {name: weights[name] * float("nan")}), "finite numbers"),
    ):
        assert says in said(**{"sft/model.safetensors": own})


def _parquet(values):
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"a": values}), buffer)
    return buffer.getvalue()
