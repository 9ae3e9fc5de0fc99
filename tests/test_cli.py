"""The command line: what it prints, what it writes, and that a user's mistake gets a sentence."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import study_logs
from listener_server import says, serving
from typer.testing import CliRunner

from lrt import judging, models, pairs, pretrain, tiny, traces
from lrt.cli import app, options, training
from lrt.cli.options import printable
from lrt.machine import doctor
from lrt.stats import load_records

ROOT = Path(__file__).resolve().parents[1]
SMALL = tiny.Shape(text=32, layers=1, heads=2, vision=32, vision_layers=1, vision_heads=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained tiny model on disk: quick, and it writes nonsense."""
    folder = tmp_path_factory.mktemp("models") / "untrained"
    recipe = pretrain.Recipe("untrained", shape=SMALL)
    pretrain.save(*pretrain.build(recipe), recipe, {"see": [4.0]}, folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight pairs of the tiny world as a user's own: images and a table; the last row cannot be read."""
    home = tmp_path_factory.mktemp("mine")
    lines = []
    for i, row in enumerate(pairs.tiny_pairs("train", 8)):
        for k in (0, 1):
            row["images"][k].save(home / f"{i}-{k}.png")
        line = {"prompt": row["prompt"], "image_1": f"{i}-0.png", "image_2": f"{i}-1.png", "vote": row["vote"]}
        lines.append(json.dumps(line if i < 7 else {**line, "vote": 5}) + "\n")
    (home / "pairs.jsonl").write_text("".join(lines))
    return home


def lrt(*arguments, code=0):
    """Run the command line in this process; the result, which must have this exit code."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def refusal(*arguments):
    """What a mistake is answered with: one message, no traceback, nothing on stdout."""
    result = lrt(*arguments, code=2)
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.startswith("lrt: ")
    return result.stderr


# ---- help ----


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys, lrt.cli; print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert printed.stdout == "[]\n", printed.stderr


def test_help_names_every_command():
    said = lrt("--help").stdout
    for command in ("judge", "evaluate", "train", "pretrain", "tutorial", "bench", "doctor"):
        assert f"  {command} " in said
        assert "--help" in lrt(command, "--help").stdout
    for method in ("sft", "grpo"):
        assert "--pairs" in lrt("train", method, "--help").stdout


# ---- judge ----


@pytest.fixture
def judged(folder, model):
    """Arguments of `lrt judge` about the first pair."""
    prompt = json.loads((folder / "pairs.jsonl").read_text().splitlines()[0])["prompt"]
    return ["judge", folder / "0-0.png", folder / "0-1.png", "--model", model, "--listener", model, "--prompt", prompt]


def writes(monkeypatch, *completions):
    monkeypatch.setattr(judging, "generate", lambda loaded, prompts, images, tokens: list(completions))


def test_judge_says_when_nothing_can_be_read(judged):
    said = lrt(*judged).stdout
    assert said.count("answer    none that can be read") == 2
    assert said.count("listener  not asked") == 2
    assert "The two orders do not agree on an answer." in said


def test_judge_maps_the_other_order_back(judged, monkeypatch):
    trace = "image 1 : missing , missing , clear . image 1 is better ."
    writes(monkeypatch, traces.write_completion(trace, 1), traces.write_completion("image 2 is better .", 2))
    found = json.loads(lrt(*judged, "--json").stdout)
    assert (found["forward"]["answer"], found["reverse"]["answer"]) == (1, 1)
    assert (found["consistent"], found["answer"]) == (True, 1)
    assert found["forward"]["trace"] == trace and found["reverse"]["trace"] == "image 2 is better ."
    assert found["images"] == [str(judged[1]), str(judged[2])] and found["prompt"] == judged[-1]
    assert "In both orders image 1 is better" in lrt(*judged).stdout
    assert all(0 < found[order]["listener_p_1"] < 1 for order in ("forward", "reverse"))


def test_judge_turns_the_listeners_p_with_the_images(judged, monkeypatch):
    class Leans:
        """Believes in whatever is shown first."""

        def __init__(self, loaded):
            self.loaded = loaded

        def p_first(self, prompts_B, images_B, traces_BG):
            return [[0.9] * len(t) for t in traces_BG]

    monkeypatch.setattr(judging, "LocalListener", Leans)
    writes(monkeypatch, *[traces.write_completion("image 1 is better .", 1)] * 2)
    found = json.loads(lrt(*judged, "--json").stdout)
    assert found["forward"]["listener_p_1"] == 0.9 and found["reverse"]["listener_p_1"] == pytest.approx(0.1)
    assert (found["forward"]["answer"], found["reverse"]["answer"]) == (1, 2)
    assert (found["consistent"], found["answer"]) == (False, None)


def test_a_tiny_model_refuses_what_it_cannot_know(judged, folder, tmp_path):
    from PIL import Image

    message = refusal(*judged[:-1], "a cat on a sofa")
    assert "knows only the small scenes and words of its own world" in message and "'a cat on a sofa'" in message
    Image.new("RGB", (512, 256)).save(tmp_path / "large.png")
    message = refusal("judge", folder / "0-0.png", tmp_path / "large.png", *judged[3:])
    assert "Image 2 is 512 x 256 pixels, and its scenes are 56 x 56" in message


def test_judge_refuses_files_that_are_no_images(judged, folder, tmp_path):
    assert "no file" in refusal("judge", tmp_path / "none.png", folder / "0-1.png", *judged[3:])
    assert "is not an image" in refusal("judge", folder / "pairs.jsonl", folder / "0-1.png", *judged[3:])


def test_an_unknown_model_is_answered_with_the_known_ones(judged):
    message = refusal(*judged[:3], "--model", "resoner", *judged[5:])
    assert "no model 'resoner'" in message and "reader" in message


def test_a_traceback_only_on_request(judged):
    result = CliRunner().invoke(app, ["--traceback", *map(str, judged[:-1]), "a cat"])
    assert isinstance(result.exception, ValueError)


def test_control_sequences_do_not_reach_the_terminal():
    assert printable("\x1b[2Jred\ncircle\x07é") == "\ufffd[2Jred\ncircle\ufffdé"


# ---- evaluate ----


def test_evaluate_prints_a_table_and_writes_records(model, tmp_path):
    out = tmp_path / "new/records.json"
    result = lrt("evaluate", "--model", model, "--split", "no_tint", "--test-pairs", 6, "--profile", "ci", "--out", out)
    records = load_records(out)
    assert {r.split for r in records} == {"no_tint"} and {r.method for r in records} == {model}
    assert {"accuracy", "parsable"} <= {r.metric for r in records}
    assert "accuracy %" in result.stdout and str(out) in result.stdout


def test_evaluate_takes_a_folder(model, folder, tmp_path):
    start = ["evaluate", "--model", model]
    assert "pairs.jsonl, row 8 (line 8), column vote: 5 is not" in refusal(*start, "--pairs", folder)
    assert "leave out" in refusal(*start, "--pairs", folder, "--split", "no_tint")
    assert "no folder" in refusal(*start, "--pairs", tmp_path / "none")
    assert "unknown split 'test'" in refusal(*start, "--split", "test")
    own = tmp_path / "own"
    own.mkdir()
    for name in ("0-0.png", "0-1.png"):
        (own / name).write_bytes((folder / name).read_bytes())
    line = json.loads((folder / "pairs.jsonl").read_text().splitlines()[0])
    (own / "pairs.jsonl").write_text(json.dumps(line) + "\n")
    said = lrt(*start, "--pairs", own, "--out", tmp_path / "records.json").stdout
    assert "folder" in said and "right, images exchanged" in said and 'answers "1"' in said
    of = {record.metric: record for record in load_records(tmp_path / "records.json")}
    assert {"accuracy", "parsable", "accuracy_reverse", "accuracy_consistent", "same_answer"} <= set(of)
    assert of["accuracy"].value == of["accuracy_forward"].value and of["accuracy"].n == 1
    (own / "pairs.jsonl").write_text(json.dumps({**line, "prompt": "a cat"}) + "\n")
    assert "pair 'folder/1': " in refusal(*start, "--pairs", own)


# ---- train ----


def test_sft_on_own_pairs_leaves_a_model(model, folder, tmp_path):
    arguments = ["train", "sft", "--model", model, "--profile", "ci", "--steps", 1, "--pairs", folder]
    assert "row 8" in refusal(*arguments, "--out", tmp_path / "a")
    few = lrt(*arguments, "--skip-bad", "--out", tmp_path / "b", code=2)
    assert "1 problem left out; 7 pairs stay" in few.stderr
    assert "lrt: 7 pairs with a vote are fewer than the 8" in few.stderr
    (tmp_path / "own").mkdir()
    for file in folder.iterdir():
        (tmp_path / "own" / file.name).write_bytes(file.read_bytes())
    table = tmp_path / "own/pairs.jsonl"
    table.write_text(table.read_text() + table.read_text().splitlines()[0] + "\n")
    result = lrt(*arguments[:-1], tmp_path / "own", "--skip-bad", "--out", tmp_path / "run")
    assert "1 problem left out; 8 pairs stay" in result.stderr
    assert "one seed" in result.stdout and f"model: {tmp_path / 'run/model'}" in result.stdout
    assert models.load(str(tmp_path / "run/model")).name == str(tmp_path / "run/model")


def test_grpo_with_and_without_a_listener(model, tmp_path):
    arguments = ["train", "grpo", "--model", model, "--profile", "ci", "--steps", 1]
    for listener, parts in [(model, 3), ("none", 2)]:
        out = tmp_path / f"with {parts}"
        assert "reward" in lrt(*arguments, "--listener", listener, "--out", out).stdout
        (record,) = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert len([name for name in record if name.startswith("rewards/") and name.endswith("/mean")]) == parts
    assert "no adapter" in refusal(*arguments, "--listener", "adapter-off", "--out", tmp_path / "no")
    assert "reward" in lrt(*arguments, "--listener", "adapter-off", "--lora-rank", 2, "--out", tmp_path / "lora").stdout
    assert (tmp_path / "lora/model/adapter_config.json").exists()


def test_a_listener_that_does_not_answer_is_refused_before_training(model, tmp_path, monkeypatch):
    from lrt import remote

    quick = remote.RemoteSettings(retries=0, budget=5.0)
    monkeypatch.setattr(remote, "RemoteSettings", lambda: quick)
    arguments = ["train", "grpo", "--model", model, "--profile", "ci", "--steps", 1]
    out = tmp_path / "dead"
    message = refusal(*arguments, "--listener", "http://127.0.0.1:9/v1#m", "--out", out)
    assert "listener m at 127.0.0.1:9 does not score a pair (connection): is its server up" in message
    assert not out.exists()

    def answers(body):
        return says(lambda trace: 0.75)(body) if body["model"] == "m" else [("the", -0.1), ("a", -3.0)]

    with serving(answers) as server:
        assert "(no answer token)" in refusal(*arguments, "--listener", f"{server.url}#other", "--out", out)
        said = lrt(*arguments, "--listener", f"{server.url}#m", "--out", tmp_path / "run").stdout
    assert "groups that the listener did not score: 0.0 %" in said
    # the run is finished: it is loaded, and needs no listener any more
    assert "model: " in lrt(*arguments, "--listener", f"{server.url}#m", "--out", tmp_path / "run").stdout


def test_the_summary_says_what_the_listener_missed_and_how_to_go_on(capsys):
    log = [{"reward": 1.0, "listener/unscored_groups": share} for share in (0.0, 0.5)]
    files = options.brought(Path("train.json"), "hpdv2", Path("images"), None, False)
    asked = training._to_evaluate(options.AnyProfileName["colab-t4"], ["weights=4bit"], files)
    training._done(log, Path("runs/x"), "reward", asked)
    said = capsys.readouterr().out
    assert "groups that the listener did not score: 25.0 %" in said
    model = Path("runs/x/model")
    assert (f"next:  lrt evaluate --model {model} --profile colab-t4 --set weights=4bit --source hpdv2 "
            "--pairs TEST_FILES --images FOLDER\n") in said
    training._done([{"reward": 1.0}], Path("runs/x"), "reward")
    said = capsys.readouterr().out
    assert "listener" not in said and said.endswith(f"lrt evaluate --model {model}\n")


def test_mistakes_of_training_get_a_sentence(model, folder, tmp_path):
    assert "--skip-bad is about --pairs" in refusal("train", "sft", "--model", model, "--skip-bad")
    message = refusal("train", "grpo", "--model", model, "--listener", "nobody", "--out", tmp_path / "x")
    assert "no model 'nobody'" in message and not (tmp_path / "x").exists()
    assert lrt("train", "sft", "--profile", "huge", code=2).stderr
    assert lrt("train", "sft", "--steps", 0, code=2).stderr


# ---- pretrain ----


def test_pretrain_makes_each_model_and_its_card(monkeypatch, tmp_path):
    from lrt import cards

    made = []
    monkeypatch.setattr(pretrain, "pretrain", lambda name, out, runs, report: made.append((name, out, runs)))
    monkeypatch.setattr(cards, "card_for", lambda name, report: made.append(name))
    lrt("pretrain", "weak", "--runs", tmp_path)
    assert made == [("weak", models.data_dir() / "models", tmp_path), "weak"]
    made.clear()
    lrt("pretrain")
    names = [one for one in made if isinstance(one, str)]
    assert "reasoner" in names and "reader-base" not in names
    assert "no recipe 'resoner'; there are reasoner" in refusal("pretrain", "weak", "resoner")


# ---- doctor ----


def test_doctor_looks_at_this_machine():
    result = CliRunner().invoke(app, ["doctor"])
    found = doctor.checks(ROOT)
    assert [check.name for check in found][:2] == ["python", "torch"]
    for name in ("python", "torch", "cores", "memory", "disk", "gpu", "models"):
        assert name in result.stdout
    assert result.exit_code == any(check.ok is False for check in found)
    assert next(check for check in found if check.name == "trl").ok


def test_doctor_says_what_to_do():
    good, slow = doctor.Check("python", "3.12", True), doctor.Check("cores", "1", False, "expect twice the time")
    missing = doctor.Check("models", "missing: reader", False, "lrt pretrain reader")
    assert "The tutorial fits here" in doctor.fits([good])
    assert "slowly (cores)" in doctor.fits([good, slow])
    assert "Not ready: cores, models" in doctor.fits([good, slow, missing])
    assert "-> lrt pretrain reader" in doctor.report([good, missing])
    assert "twice" not in doctor.report([good, doctor.Check("cores", "4", True, "expect twice the time")])


def test_doctor_finds_what_is_missing(monkeypatch, tmp_path):
    assert doctor._package("no-such-package").ok is False
    monkeypatch.setattr(models, "data_dir", lambda: tmp_path)
    found = doctor._models()
    assert found.ok is False and "reader" in found.advice
    for free, ok in [(0.5e9, False), (5e9, True)]:
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert doctor._disk(tmp_path / "not/yet/there").ok is ok
    for free, ok in [(1.0, False), (16.0, True), (None, None)]:
        monkeypatch.setattr(doctor, "memory_gb", lambda free=free: free)
        assert doctor._memory().ok is ok


# ---- tutorial ----


def test_a_notebook_that_fails_is_told_and_ends_with_1(monkeypatch, tmp_path):
    from lrt.course import tutorial

    called = {}

    def fails(profile, out, **parameters):
        called.update(profile=profile, out=out, **parameters)
        raise tutorial.NotebookFailed("03_grpo stopped in cell 7")

    monkeypatch.setattr(tutorial, "run", fails)
    result = lrt("tutorial", "--profile", "ci", "--out", tmp_path, "--seed", 3, code=1)
    assert called == {"profile": "ci", "out": tmp_path, "seed": 3}
    assert "lrt: 03_grpo stopped in cell 7" in result.stderr and "Traceback" not in result.stderr


def test_logs_of_one_run_killed_and_not_killed_are_compared(tmp_path):
    a, b, c = (study_logs.written(tmp_path / name, study_logs.cell()) for name in "abc")
    b.write_text(b.read_text().replace('"time_step": 0.5', '"time_step": 9'))
    c.write_text(c.read_text().replace('"reward": 3.0', '"reward": 3.5'))
    assert a.read_text() != b.read_text() and "the same but for times: 4 steps" in lrt("study", "compare", a, b).stdout
    different = lrt("study", "compare", a, c, code=1)
    assert "line 4, reward: 3.0 and 3.5" in different.stdout and "differ in 1 values" in different.stderr
    b.write_text(b.read_text()[:200])
    assert "b/grpo.s0.jsonl, line" in refusal("study", "compare", a, b)
