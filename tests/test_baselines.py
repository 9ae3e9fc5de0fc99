"""The study's supervised baselines: logs like those of the others, resumed like the others, in the same tables."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from lrt.files import read_lines
from lrt.study.baselines import settings_of
from lrt.study.cell import run_cell
from lrt.study.costs import cost_table, costs
from lrt.study.grid import Cell, read_grid
from lrt.study.logs import differing, read_run, read_runs
from lrt.study.outcomes import MEASURES, mean
from lrt.study.report import rendered

BASELINES = {
    "sft_answer": {"balance_votes": False},
    "sft_trace": {},
    "bradley_terry": {},
    "dpo": {"beta": 0.1, "train_pairs": 8, "num_generations": 4, "lr": 1e-4},
}
SMALL = Cell(
    "grpo", 1, ("nobody", "reasoner"), weights=(1.0, 0.5), steps=2, pairs_per_step=2, num_generations=2,
    train_pairs=12, lr=1e-3, measure_every=1, measured_pairs=2, final_pairs=3, judges=("llava",),
)


def quiet(*_):
    pass


def baseline(name) -> Cell:
    return replace(SMALL, method=name, trainer=name, **BASELINES[name])


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """The folder of their logs."""
    home = tmp_path_factory.mktemp("baselines")
    for name in BASELINES:
        run_cell(baseline(name), home / name, home / "logs" / f"{baseline(name).name}.jsonl", quiet)
    return home / "logs"


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_writes_a_log_like_the_others(baselines, name):
    run = read_run(baselines / f"{baseline(name).name}.jsonl")
    assert run.cell == baseline(name) and run.header["base"] == "reasoner"
    assert list(run.steps.index) == [1, 2] and run.steps["loss"].notna().all()
    assert not {"reward", "added", "dead_groups", "format", "length"} & set(run.steps)
    assert {"loss", "grad_norm", "time_step"} < set(run.steps)
    assert set(run.measures) == {0, 1} and len(run.final) == 3
    labels = run.header["labels"]
    assert 1 <= labels["unique"] <= labels["views"] == 4 and run.seconds > 0
    assert (labels["generated_tokens"] > 0) == (name == "dpo") == ("time_sample" in run.header)


@pytest.mark.parametrize("name", BASELINES)
def test_a_killed_baseline_ends_with_the_same_log(baselines, tmp_path, name):
    cell, out, again = baseline(name), tmp_path / "run", tmp_path / "again.jsonl"

    def kill(step, total, record):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, out, again, kill)
    assert [p.name for p in out.glob("checkpoint-*")] == ["checkpoint-1"] and not again.exists()
    steps = []
    run_cell(cell, out, again, lambda step, *_: steps.append(step))
    assert steps == [2]
    assert differing(baselines / f"{cell.name}.jsonl", again) == []


def test_all_begin_from_the_same_base_and_go_their_own_way(baselines):
    runs = {run.cell.method: run for run in read_runs(baselines)}
    first = runs["sft_answer"].measures[0]
    for name in ("sft_trace", "dpo"):
        assert runs[name].measures[0].equals(first)
    ends = [run.final[["answers", "sampled", "sampled_said"]] for run in runs.values()]
    assert not any(a.equals(b) for a, b in combinations(ends, 2))


OF_ANSWERS = {"agree", "conflict", "in_distribution", "uninformative", "reversed", "flip", "parsable", "first"}


def test_a_judge_without_text_has_answers_and_nothing_else(baselines):
    run = read_run(baselines / f"{baseline('bradley_terry').name}.jsonl")
    for measured in (run.measures[0], run.measures[1], run.final):
        assert mean(measured, "parsable") == 1 and set(measured["answers"]) | set(measured["swapped"]) <= {1.0, 2.0}
        for name in ("conflict", "in_distribution", "flip", "first"):
            assert 0 <= mean(measured, name) <= 1
        for family in MEASURES:
            name = family.replace("<listener>", "llava")
            if name not in OF_ANSWERS:
                assert np.isnan(mean(measured, name)), name


def test_the_tables_stand_beside_them(baselines, tmp_path):
    for path in baselines.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    head, *lines = read_lines(baselines / f"{baseline('sft_trace').name}.jsonl")  # as if GRPO had given these answers
    head = {"cell": json.loads(SMALL.to_json()), "base": head["base"]}
    lines = [{**line, "length": 40.0} if "step" in line else line for line in lines]
    (tmp_path / f"{SMALL.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]))
    runs = read_runs(tmp_path)
    page, records = rendered(runs, [], read_grid())
    effects = json.loads(records)["effects"]
    assert {(e["method"], e["reference"]) for e in effects} == {(name, "grpo") for name in BASELINES}
    known = {(e["method"], e["measure"]) for e in effects if e["effect"] is not None}
    silent = {(e["method"], e["measure"]) for e in effects} - known
    assert {name for name in silent if name[1] == "truth"} == {("bradley_terry", "truth"), ("sft_answer", "truth")}
    assert ("bradley_terry", "flip") in known and page.count("| Bradley-Terry head | GRPO |") == 2

    cost = costs(runs)
    assert list(cost["method"]) == ["bradley_terry", "dpo", "grpo", "sft_answer", "sft_trace"]
    shown = cost_table(cost, {"dpo": "DPO"})
    assert list(shown.index) == ["GRPO", "bradley terry", "DPO", "sft answer", "sft trace"]
    assert shown.loc["sft answer"].tolist()[:5] == ["1", "4", "4", "0", "2"]
    assert int(shown.loc["DPO", "tokens generated"].replace(",", "")) > 8 * 4 * 10  # of eight pairs' four completions
    assert shown.loc["GRPO", "tokens generated"] == str(2 * 2 * 2 * 40)


def test_a_baseline_takes_no_reward(tmp_path):
    with pytest.raises(ValueError, match="dpo learns from the votes alone"):
        run_cell(baseline("dpo"), tmp_path, tmp_path / "log.jsonl", quiet, added=lambda **_: [])
    with pytest.raises(ValueError, match="'grpo' is no baseline"):
        settings_of(SMALL)


@pytest.mark.parametrize("name", BASELINES)
def test_every_setting_of_a_baseline_reaches_its_trainer(name):
    cell = replace(baseline(name), steps=6, pairs_per_step=10, lr=0.5, beta=0.25, sft_weight=0.5, num_generations=3,
                   max_new_tokens=7, seed=9, measure_every=3, balance_votes=True)  # fmt: skip
    settings = vars(settings_of(cell))
    expected = {"steps": 6, "pairs_per_step": 10, "lr": 0.5, "seed": 9, "save_every": 3, "balance_votes": True}
    if name == "dpo":
        expected |= {"beta": 0.25, "sft_weight": 0.5, "samples": 3, "max_new_tokens": 7}
    assert {k: settings[k] for k in expected} == expected
