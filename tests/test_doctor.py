"""`lrt doctor` on machines that are made up: which profile fits, and what to change where none does."""

import json
import re
import urllib.error
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lrt.cli import app
from lrt.machine import doctor, fitting
from lrt.machine.fitting import Card, Machine, fit, smaller
from lrt.machine.memory import grpo_memory
from lrt.models import data_dir
from lrt.profiles import COLAB_T4, REAL

T4 = Card("Tesla T4", 15.8, bf16=False)
A10 = Card("NVIDIA A10", 24.1, bf16=True)
A100 = Card("NVIDIA A100 80GB", 85.1, bf16=True)
COLAB = Machine((T4,), 12.0, 70.0)
SAMPLES = data_dir() / "samples" / "imagereward"
SAMPLE = ["--source", "imagereward", "--pairs", f"{SAMPLES / 'test.json'}", "--images", f"{SAMPLES / 'images'}"]


def machine(*cards, memory=64.0, disk=500.0):
    return Machine(cards, memory, disk)


@pytest.mark.parametrize(
    ("cards", "fitting_names"),
    [
        ((), []),
        ((T4,), ["colab-t4"]),
        ((A10,), ["colab-t4"]),
        ((A100,), ["colab-t4", "gpu"]),
        ((A100,) * 7, ["colab-t4", "gpu"]),
        ((A100,) * 8, ["colab-t4", "gpu", "gpu-many"]),
        ((A100,) * 16, ["colab-t4", "gpu", "gpu-many", "paper"]),
        ((T4,) * 8, ["colab-t4"]),
    ],
)
def test_which_profiles_fit(cards, fitting_names):
    here = machine(*cards)
    assert [name for name, settings in REAL.items() if fit(settings, here).ok] == fitting_names
    said = fitting.report(here)
    if fitting_names:
        assert f"Fits here: {', '.join(fitting_names)}." in said
        assert fitting.start(REAL[fitting_names[-1]]) in said
    else:
        assert "torch sees no GPU here" in said and "->" not in said


def test_a_card_that_is_too_small_is_told_what_to_change():
    found = fit(REAL["gpu"], COLAB)
    assert found.ok is False and "Qwen2.5-VL-7B in bf16: about 38 GB a card" in found.found
    assert "no bf16: use colab-t4, or --profile gpu --set weights=4bit --set precision=fp16" in found.advice
    found = fit(REAL["gpu"], machine(A10))
    assert "7B needs 38 GB, this card has 24: use colab-t4, or --profile gpu --set weights=4bit --set" in found.advice


@pytest.mark.parametrize("card", [T4, A10, Card("RTX", 20.0, True)])
def test_what_it_says_to_change_does_fit(card):
    for settings in (REAL["gpu"], REAL["colab-t4"]):
        changes = smaller(settings, machine(card))
        if changes:
            changed = replace(settings, **changes)
            assert grpo_memory(changed).peak_gb <= card.gb
            assert fit(changed, machine(card)).ok
    assert smaller(REAL["gpu"], machine(card))


def test_the_mildest_change_comes_first():
    assert smaller(REAL["gpu"], machine(Card("32 GB", 34.0, True))) == {"weights": "4bit"}
    assert set(smaller(REAL["gpu"], machine(T4))) > {"weights", "precision", "completions_per_pass"}
    assert smaller(REAL["gpu"], machine(Card("old", 4.0, True))) == {}
    assert "nothing here is small enough" in fit(REAL["colab-t4"], machine(Card("old", 4.0, False))).advice


def test_too_few_cards():
    said = fit(REAL["gpu-many"], machine(A100)).advice
    assert said == "it takes 4 cards to train, 2 to generate and 2 to listen, and here is 1: use gpu"
    assert "here are 2: use gpu" in fit(REAL["paper"], machine(A100, A100)).advice
    said = fit(REAL["paper"], machine(*[A100] * 8)).advice
    assert said == "it takes 8 cards to train, 4 to generate and 4 to listen, and here are 8: use gpu-many"


def test_it_says_how_a_run_is_started():
    """One card: a whole command. Several: the file at whose head the programs of such a run stand."""
    said = fitting.report(machine(A100))
    assert "`lrt train grpo --profile gpu --source hpdv2 --pairs FILE --images FOLDER`" in said
    said = fitting.report(machine(*[A100] * 8))
    assert "the commands stand at the head of data/configs/8-gpus.yaml" in said and "`lrt train" not in said


@pytest.mark.parametrize("card", [T4, A10])
def test_what_it_prints_can_be_typed(card):
    """The changes that it prints, given to the command, make the profile small enough."""
    advice = fit(REAL["gpu"], machine(card)).advice
    words = advice[advice.index("--profile"):].split(":")[0].split()
    result = CliRunner().invoke(app, ["doctor", *words])
    assert result.exit_code == 0, result.stderr
    peak = float(re.search(r"^peak.* ([\d.]+) GB", result.stdout, re.M)[1])
    assert peak <= card.gb and peak < grpo_memory(REAL["gpu"]).peak_gb


def test_disk_and_cpu_memory_count_too():
    assert "of disk without the data, and 10 GB are free" in fit(REAL["gpu"], machine(A100, disk=10.0)).advice
    assert fit(REAL["colab-t4"], replace(COLAB, disk_gb=10.0)).ok
    assert "6 GB of CPU memory, and 2.0 GB are free" in fit(REAL["gpu"], machine(A100, memory=2.0)).advice
    assert fit(REAL["gpu"], machine(A100, memory=None)).ok


def test_models_may_lie_on_another_disk_than_runs():
    card = Card("T4", 15.8, False)
    roomy = Machine((card,), 12.0, disk_gb=9.0, models_gb=70.0)  # Drive, and the machine's own
    assert fit(COLAB_T4, roomy).ok and not fit(COLAB_T4, replace(roomy, models_gb=None)).ok
    full = fit(COLAB_T4, replace(roomy, models_gb=5.0))
    assert not full.ok and "the model takes" in full.found + full.advice and "HF_HOME" in full.found + full.advice
    no_room = fit(COLAB_T4, replace(roomy, disk_gb=1.0))
    assert not no_room.ok and "another folder" in no_room.found + no_room.advice


def test_this_machine_is_looked_at(tmp_path):
    here = fitting.this_machine(tmp_path / "not yet there")
    assert here.disk_gb > 0 and (here.memory_gb is None or here.memory_gb > 0)
    assert all(card.gb > 0 and card.name for card in here.cards)


# ---- the hub ----


def test_the_hub_is_not_asked_where_the_user_says_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = []
    found = doctor._hub(lambda: asked.append(1))
    assert not asked and "not asked" in found.found and found.ok is None


@pytest.mark.parametrize(("answer", "said"), [(True, "answers"), (False, "does not answer")])
def test_what_the_hub_answers(monkeypatch, tmp_path, answer, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (found,) = [check for check in doctor.checks(tmp_path, ask_hub=lambda: answer) if check.name == "hub"]
    assert found.found.startswith(said) and found.ok is None  # the tiny world needs none


@pytest.mark.parametrize(
    ("outcome", "reached"),
    [
        (None, True),
        (urllib.error.HTTPError("", 503, "busy", None, None), True),
        (urllib.error.URLError("no route"), False),
        (TimeoutError(), False),
    ],
)
def test_the_hub_is_asked_shortly(monkeypatch, outcome, reached):
    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    def urlopen(request, timeout):
        assert request.method == "HEAD" and timeout <= 5
        if outcome is not None:
            raise outcome
        return Answer()

    monkeypatch.setattr(doctor.urllib.request, "urlopen", urlopen)
    assert doctor.hub_answers() is reached


# ---- the command ----


def test_the_command_tells_both(monkeypatch):
    monkeypatch.setattr(fitting, "this_machine", lambda: COLAB)
    said = CliRunner().invoke(app, ["doctor"]).stdout
    assert "Fits here: colab-t4." in said and "hub" in said and "estimates, not measured" in said
    assert "no bf16: use colab-t4" in said


def test_the_command_adds_a_profile_up():
    result = CliRunner().invoke(app, ["doctor", "--profile", "paper"])
    assert result.exit_code == 0
    for words in ("Qwen2.5-VL-7B, 8 cards", "(4 more generate, 4 listen)", "on 16 cards", "GPU hours",
                  "gathered layers", "An estimate by arithmetic"):
        assert words in result.stdout
    result = CliRunner().invoke(app, ["doctor", "--set", "weights=4bit"])
    assert result.exit_code == 2 and "--set changes a profile: name it with --profile" in result.stderr
    result = CliRunner().invoke(app, ["doctor", "--profile", "ci"])
    assert result.exit_code == 2 and "ci is a profile of the tiny world" in result.stderr


def test_a_real_profile_refuses_what_it_cannot_do():
    for command, said in [
        (["evaluate", "--profile", "colab-t4"], "judges real pairs: bring them with --pairs and --source"),
        (["evaluate", "--profile", "colab-t4", *SAMPLE], "is for a GPU, and torch sees none"),
        (["train", "grpo", "--profile", "gpu", *SAMPLE], "is for a GPU, and torch sees none"),
        (["train", "grpo", "--set", "weights=int3"], "weights is fp32 or bf16 or fp16 or 4bit, not 'int3'"),
        (["train", "sft", "--set", "rank=3"], "'rank=3' is no field=value of a profile; fields are reasoner,"),
        (["evaluate", "--set", "max_new_tokens=-1"], "max_new_tokens is a whole number of at least 0, not '-1'"),
    ]:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2 and said in result.stderr, json.dumps(command)
