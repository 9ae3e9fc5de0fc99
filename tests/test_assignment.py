"""The assignment: a seed a student, a report made of the logs, and whose numbers are whose."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt.course import assignment
from lrt.course.assignment import RUNS, cells, check, class_table, compared, seed_of
from lrt.study import outcomes
from lrt.study.logs import read_run

NAME = "Ada Lovelace"
SMALL = {"steps": 4, "measure_every": 4, "measured_pairs": 2, "final_pairs": 4, "pairs_per_step": 2, "train_pairs": 16,
         "judges": (), "max_new_tokens": 40}


@pytest.fixture(scope="module")
def ada(tmp_path_factory):
    """A submission of few steps, its prediction written, and what was said on the way."""
    patch, out, said = pytest.MonkeyPatch(), tmp_path_factory.mktemp("class") / "ada", []
    patch.setattr(assignment, "SHORT", SMALL)
    patch.setattr(assignment, "FIRST", 2)
    assert assignment.run(NAME, out, report=said.append) is None
    assert not list(out.glob("*.jsonl")) and "seed is 746055" in said[0]
    (out / "prediction.md").write_text("half of them, since nothing but the tint is easy to see")
    assert assignment.run(NAME, out, report=said.append) == out / "report.md"
    yield out
    patch.undo()


def test_a_quick_check_trains_the_first_steps_of_the_same_run(ada):
    """What `again` rests on: a shorter run begins with the same rows."""
    submitted = read_run(ada / "answers_tint.s746055.jsonl")
    first = assignment.again(submitted.cell, 2)
    assert list(first.steps.index) == [1, 2]
    assert first.steps["loss"].tolist() == submitted.steps["loss"].tolist()[:2]


@pytest.fixture
def copy(ada, tmp_path):
    return shutil.copytree(ada, tmp_path / "ada")


# ---- the seed ----


def test_the_seed_of_a_name_is_the_same_everywhere():
    assert seed_of(NAME) == 746055
    assert seed_of(NAME, "2027") != seed_of(NAME)
    assert seed_of("Zoë") == seed_of("Zoe\u0308") == seed_of("  ZOË ")
    with pytest.raises(ValueError, match="the name is empty"):
        seed_of(" \t")


@given(st.text(min_size=1).filter(str.strip), st.text())
def test_seeds_keep_clear_of_the_study_and_do_not_mind_spaces(name, course):
    seed = seed_of(name, course)
    assert 1000 <= seed < 1_000_000
    assert seed_of(f"  {name}\n", course) == seed


def test_a_class_has_seeds_of_its_own_and_all_bases():
    seeds = [seed_of(f"student {i}") for i in range(60)]
    assert len(set(seeds)) == 60 and {seed % 3 for seed in seeds} == {0, 1, 2}
    spread = np.bincount([seed // 250_000 for seed in seeds], minlength=4)
    assert spread.min() > 5


def test_the_runs_differ_in_the_data_or_in_the_lesson_alone():
    tint, even, traces = cells(5).values()
    assert replace(tint, method="", dial=0.5) == replace(even, method="")
    assert replace(tint, method="", trainer="sft_trace") == replace(traces, method="")
    assert {one.seed for one in (tint, even, traces)} == {5} and tint.dial == 0.9


# ---- the student ----


def test_a_submission_has_its_logs_and_a_table_made_of_them(ada):
    assert sorted(path.name for path in ada.glob("*.jsonl")) == [f"{name}.s746055.jsonl" for name in sorted(RUNS)]
    runs = assignment.logs(ada, 746055)
    text = (ada / "report.md").read_text()
    assert assignment.table_of(runs) in text and "What one seed cannot say" in text
    flips = 100 * outcomes.mean(runs["answers_tint"].final, "flip")
    row = next(line for line in text.splitlines() if line.startswith("| answers alone; the tint predicts"))
    expected = "does not apply" if np.isnan(flips) else f"{flips:.0f} ["
    assert row.split("|")[2].strip().startswith(expected)
    assert (ada / "runs" / "traces_tint.s746055" / "model" / "model.safetensors").is_file()


def test_called_again_it_trains_nothing_and_keeps_the_students_words(copy, monkeypatch):
    report = copy / "report.md"
    text = report.read_text().replace("## Three traces, read\n", "## Three traces, read\n\nMine say red.\n")
    report.write_text(text.replace("Tiny world", "tampered", 1))
    said = []
    assignment.run(NAME, copy, report=said.append)
    assert said == [] and "Mine say red." in report.read_text() and "tampered" not in report.read_text()
    with pytest.raises(ValueError, match="is the folder of 'Ada Lovelace'"):
        assignment.run("Bob", copy)


# ---- the teacher ----


def test_a_students_own_numbers_pass_and_are_the_same_when_trained_again(ada):
    whole = check(ada, rerun="answers_tint", whole=True)
    assert whole.fault == "" and whole.rerun.startswith("answers_tint: the losses of 4 steps are equal, digit by digit")
    assert "100% of the final answers" in whole.rerun
    told = class_table([check(ada)])
    assert "Ada Lovelace (seed 746055): flips: answers_tint" in told
    assert "The class, answers_even minus answers_tint: flips" in told and "(1 seed)" in told


def _edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(map(change, lines)) + "\n")


def _faster(line):
    record = json.loads(line)
    return json.dumps(record | {"loss": record["loss"] * 0.9}) if "step" in record else line


def _another_seed(line):
    record = json.loads(line)
    return json.dumps(record | {"cell": record["cell"] | {"seed": 9}}) if "cell" in record else line


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda f: _edit(f / "submission.json", lambda line: line.replace("746055", "746056")), "of 'Ada Lovelace' is"),
    (lambda f: _edit(f / "submission.json", lambda line: line.replace("Ada", "Eve")), "its seed is 746055"),
    (lambda f: (f / "answers_even.s746055.jsonl").unlink(), "there is no such log"),
    (lambda f: _edit(f / "answers_even.s746055.jsonl", _another_seed), "seed is 9, not 746055"),
    (lambda f: (f / "answers_even.s746055.jsonl").write_text("{}\n"), "a log begins with its cell"),
    (lambda f: _edit(f / "report.md", lambda line: line.replace("| answers alone; ", "| 99 ")), "that of the logs"),
    (lambda f: (f / "report.md").unlink(), "is not that of the logs"),
    (lambda f: _edit(f / "answers_tint.s746055.jsonl", _faster), "more than another machine explains"),
])
def test_numbers_that_are_not_the_seeds_are_found(copy, spoil, says):
    spoil(copy)
    found = check(copy, rerun="answers_tint")
    assert says in found.fault and "NOT ITS OWN" in class_table([found])
    assert "The class" not in class_table([found])


def test_what_is_no_submission_is_named(tmp_path, copy):
    with pytest.raises(ValueError, match="submission.json: not there"):
        check(tmp_path)
    with pytest.raises(ValueError, match="no run 'grpo'; there are answers_tint"):
        check(copy, rerun="grpo")
    (copy / "submission.json").write_text('{"name": 3, "course": "", "seed": 1}')
    with pytest.raises(ValueError, match="not what `lrt classroom run` writes"):
        check(copy)


def test_last_digits_are_another_machine_and_more_is_not(ada):
    run = read_run(ada / "answers_tint.s746055.jsonl")
    near, far = (replace(run, steps=run.steps.assign(loss=run.steps["loss"] * factor)) for factor in (1.002, 1.005))
    assert compared(near, run)[1] and not compared(far, run)[1]
    half = run.final.assign(answers=3 - run.final["answers"])
    answered = bool(run.final["answers"].notna().any())
    assert compared(replace(run, final=half), run)[1] is not answered
