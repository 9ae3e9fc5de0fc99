"""One run of the grid: its log, and that a kill at any moment does not change it."""

import json
import os
from dataclasses import fields, replace
from importlib.metadata import version

import pytest

from lrt.files import read_lines
from lrt.grpo import GRPOSettings, train_grpo
from lrt.models import load
from lrt.pairs import tiny_pairs
from lrt.study import cell as one
from lrt.study.arms import reward_functions
from lrt.study.cell import grpo_settings, in_order, run_cell, short
from lrt.study.costs import costs
from lrt.study.credit import PROPERTIES, CreditWatch
from lrt.study.grid import Cell, read_grid
from lrt.study.logs import differing, read_run, read_runs
from lrt.study.pool import check_unfinished, finished
from lrt.study.probe import Fixed
from lrt.study.report import rendered

SMALL = Cell(
    "rule", 1, ("nobody", "reasoner"), "rule", steps=3, pairs_per_step=2, num_generations=2, train_pairs=12,
    lr=1e-3, measure_every=2, measured_pairs=2, final_pairs=4, judges=("reader", "base"),
)


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The log of a small run that nothing interrupted."""
    home = tmp_path_factory.mktemp("cell")
    run_cell(SMALL, home / "run", home / "logs" / "whole.jsonl", quiet)
    return home / "logs" / "whole.jsonl"


# --- the log


def test_a_log_is_its_header_steps_and_measurements_in_order(log):
    lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    assert log.read_text().startswith('{"cell":{"method":"rule","seed":1,')
    kinds = [next(name for name in ("cell", "step", "measured", "final") if name in line) for line in lines]
    assert kinds == ["cell", "measured", "step", "step", "measured", "step", "final"]
    assert [line[kind] for line, kind in zip(lines[1:], kinds[1:], strict=True)] == [0, 1, 2, 2, 3, 3]
    assert [line["n"] for line in lines if "n" in line] == [4, 2, 4]  # the first and the last on all pairs
    assert [p.name for p in log.parent.iterdir()] == ["whole.jsonl"]
    assert lines[-1]["time_wall"] > 0


def test_a_log_begins_with_what_made_it(log):
    head = read_lines(log)[0]
    assert Cell.from_dict(head["cell"]) == SMALL and head["base"] == "reasoner"
    assert head["lrt"] == version("lrt") and head["torch"] == version("torch") and head["trl"] == version("trl")
    assert len(head["source"]) == 16 and head["cpu"] and head["python"].count(".") == 2


def test_the_steps_of_a_log_have_rewards_and_credit(log):
    for line in (line for line in read_lines(log) if "step" in line):
        expected = line["format"] + 0.5 * line["accuracy"] + 0.5 * line["added"]
        assert line["reward"] == pytest.approx(expected, abs=0.01)
        assert {"reward_std", "dead_groups", "length", "cut", "entropy", "grad_norm", "time_step"} <= set(line)
        assert {f"{kind}/answer" for kind in ("credit", "credit_added", "rollout")} <= set(line)
        assert {name.partition("/")[2] for name in line if "/" in name} <= set(PROPERTIES)


def test_the_policy_was_measured_as_it_was_at_each_step(log):
    before, _, after = (line for line in read_lines(log) if "n" in line)
    assert set(before["sampled_p"]) == set(after["sampled_p"]) == {"reader", "base"}
    written = ("answers", "swapped", "verdicts", "said", "true", "sampled", "sampled_verdicts")
    assert all(len(line[name]) == 4 for line in (before, after) for name in written)
    assert [before[name] for name in written] != [after[name] for name in written]  # the policy has moved


def test_the_analysis_reads_a_log(log, tmp_path):
    named = tmp_path / f"{SMALL.name}.jsonl"
    named.write_bytes(log.read_bytes())
    run = read_run(named)
    assert run.cell == SMALL and list(run.steps.index) == [1, 2, 3]
    assert set(run.measures) == {0, 2} and len(run.final) == 4


# --- killed


def test_killed_three_times_it_ends_with_the_same_log(log, tmp_path, monkeypatch):
    out, again = tmp_path / "run", tmp_path / "again.jsonl"

    def killed_at(last):
        def on_step(step, total, record):
            if step == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_cell(SMALL, out, again, on_step)
        assert not again.exists()

    killed_at(2)  # measured after step 2, before its checkpoint
    assert [line["measured"] for line in read_lines(out / "measures.jsonl")] == [0, 2]
    assert not list(out.glob("checkpoint-*"))
    with (out / "measures.jsonl").open("a") as file:
        file.write('{"measured": 3, "answ')  # and torn
    killed_at(3)
    assert [p.name for p in out.glob("checkpoint-*")] == ["checkpoint-2"]
    with monkeypatch.context() as patch:
        patch.setattr(one, "measure", lambda policy, fixed, seed: killed(fixed))
        with pytest.raises(KeyboardInterrupt):  # trained, and killed in the last measurement
            run_cell(SMALL, out, again, quiet)
    assert (out / "done.json").exists() and not again.exists()
    run_cell(SMALL, out, again, no_step)
    assert differing(again, log) == []
    assert [set(a) for a in read_lines(again)] == [set(a) for a in read_lines(log)]


def killed(fixed: Fixed):
    assert len(fixed.pairs) == 4
    raise KeyboardInterrupt


def no_step(*_):
    raise AssertionError("there was a step left to do")


def test_a_run_ends_when_whoever_started_it_is_gone(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "cell.json").write_text(replace(SMALL, judges=()).to_json())
    somebody_else = str(os.getpid())  # this process is not its own parent
    with pytest.raises(SystemExit, match="run: whoever started this run is gone"):
        one.main(str(out), str(tmp_path / "log.jsonl"), somebody_else)
    assert [line["step"] for line in read_lines(out / "log.jsonl")] == [1]  # at its first step
    assert not (tmp_path / "log.jsonl").exists()


# --- the parts of it


def test_every_setting_that_both_have_reaches_the_trainer():
    other = {"steps": 6, "pairs_per_step": 2, "num_generations": 3, "balance_votes": False, "max_new_tokens": 7,
             "lr": 0.5, "beta": 0.25, "entropy_coef": 0.125, "scale_rewards": "none",
             "aggregation": "normalize_then_sum", "seed": 9}  # fmt: skip
    shared = {f.name for f in fields(Cell)} & {f.name for f in fields(GRPOSettings)}
    assert shared == set(other)
    cell = replace(SMALL, **other, measure_every=3)
    settings = grpo_settings(cell)
    assert {name: getattr(settings, name) for name in shared} == other
    assert settings.save_every == 3 and settings.log_every == 1  # a checkpoint behind every measurement
    usual = grpo_settings(Cell("grpo", 0, ("reasoner",)))
    assert not any(getattr(usual, name) == value for name, value in other.items())


def test_short_keeps_what_is_named_in_three_digits():
    record = {
        "step": 7, "loss": 0.1, "learning_rate": 1e-4, "reward": 1.66666, "reward_std": 0.0123456, "entropy": 1234.5,
        "rewards/format_reward/mean": 1.0, "rewards/accuracy_reward/mean": 0.5, "rewards/format_reward/std": 0.3,
        "rewards/agreement_reward/mean": 0.77777, "rewards/agreement_reward/std": 0.3, "grad_norm": None,
        "dead_groups": 0.25, "credit/answer": -0.0123456, "credit_added/own": 1e-6, "rollout/tint": 2 / 3,
        "listener/unscored_groups": 0.0, "listener/seconds": 3.0, "time_step": 1.23456, "time_generate": 0.5,
    }  # fmt: skip
    assert short(record) == {
        "step": 7, "reward": 1.67, "reward_std": 0.0123, "format": 1.0, "accuracy": 0.5, "dead_groups": 0.25,
        "entropy": 1230.0, "grad_norm": None, "unscored_groups": 0.0, "time_step": 1.23, "added": 0.778,
        "credit/answer": -0.0123, "credit_added/own": 1e-6, "rollout/tint": 0.667,
    }  # fmt: skip
    assert "added" not in short({"step": 1, "rewards/format_reward/mean": 1.0})


def test_a_measurement_stands_behind_its_step():
    steps, measures = [{"step": i} for i in (1, 2, 3)], [{"measured": i} for i in (0, 2)]
    expected = [{"measured": 0}, {"step": 1}, {"step": 2}, {"measured": 2}, {"step": 3}]
    assert in_order(steps, measures) == expected == in_order(steps[::-1], measures[::-1])


def test_torn_lines_are_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n{"b": \n{"c": {"d": 2}}\n{"e": 3}')  # the last has no end of line yet
    assert read_lines(path) == [{"a": 1}, {"c": {"d": 2}}]


def test_measurements_after_the_checkpoint_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(one, "measure", lambda policy, fixed, seed: {"n": fixed, "policy": policy, "seed": seed})

    def begun(kept, at):
        (tmp_path / "measures.jsonl").write_text("".join(json.dumps({"measured": step}) + "\n" for step in kept))
        measuring = one.Measuring("policy", "whole", "fixed", 5, 3, tmp_path)
        state = type("State", (), {"global_step": at, "max_steps": 12})()
        measuring.on_train_begin(None, state, None)
        for state.global_step in range(at + 1, 13):
            measuring.on_step_end(None, state, None)
        return [(line["measured"], line.get("n")) for line in read_lines(tmp_path / "measures.jsonl")]

    assert begun([], at=0) == [(0, "whole"), (5, "fixed"), (10, "fixed")]
    assert begun([0, 5, 10], at=0) == [(0, None), (5, "fixed"), (10, "fixed")]
    assert begun([0, 5, 10], at=5) == [(0, None), (5, None), (10, "fixed")]
    assert begun([0, 5, 10], at=10) == [(0, None), (5, None), (10, None)]


# --- what was written before there were other trainers


def without_trainer(path, to):
    """A log as it was written then."""
    head, *lines = (json.loads(line) for line in path.read_text().split("\n")[:-1])
    del head["cell"]["trainer"], head["labels"]
    to.write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]))


def test_an_old_log_is_of_the_same_run(log, tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir(), old.mkdir()
    (new / f"{SMALL.name}.jsonl").write_bytes(log.read_bytes())
    without_trainer(log, old / f"{SMALL.name}.jsonl")
    assert finished(SMALL, old) and finished(SMALL, new)
    (a,), (b,) = read_runs(old), read_runs(new)
    assert a.cell == b.cell == SMALL and a.cell.trainer == "grpo"
    assert rendered([a], [], read_grid()) == rendered([b], [], read_grid())
    told, derived = costs([b]).iloc[0], costs([a]).iloc[0]
    assert told.drop("generated_tokens").equals(derived.drop("generated_tokens"))
    assert told["unique"] <= told["views"] == 6 and told["seconds"] > 0
    assert derived["generated_tokens"] == pytest.approx(told["generated_tokens"], rel=0.01)  # from rounded lengths


def test_an_unfinished_old_run_goes_on(tmp_path):
    old = json.loads(SMALL.to_json())
    del old["trainer"]
    (tmp_path / "cell.json").write_text(json.dumps(old))
    check_unfinished(SMALL, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        check_unfinished(replace(SMALL, reward="none", weights=(1.0, 0.5), trainer="sft_answer"), tmp_path)
    (tmp_path / "cell.json").write_text('{"method": ')
    with pytest.raises(ValueError, match="other settings"):
        check_unfinished(SMALL, tmp_path)


def test_grpo_is_trained_as_it_was_before_there_were_others(log, tmp_path):
    """The calls of a GRPO run as they were then, one after another; everything but times is equal to the bit."""
    policy = load(SMALL.base, trainable=True)
    pairs = tiny_pairs("train", SMALL.train_pairs, seed=SMALL.seed, shortcut=SMALL.dial)
    functions, weights = reward_functions(SMALL, policy, pairs)
    functions = CreditWatch(pairs, weights, SMALL.scale_rewards, SMALL.aggregation).watching(functions)
    records = train_grpo(policy, pairs, functions, weights, grpo_settings(SMALL), tmp_path, quiet)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["kind"] == "grpo" and not {"trainer", "method"} & set(settings)
    lines = read_lines(log)
    found = [{k: v for k, v in short(record).items() if k != "time_step"} for record in records]
    assert found == [{k: v for k, v in line.items() if k != "time_step"} for line in lines if "step" in line]
    whole = Fixed.of(SMALL.final_pairs, {}, SMALL.max_new_tokens)
    final = one.measure(policy, whole, SMALL.seed)
    assert {k: v for k, v in final.items() if k != "sampled_p"}.items() <= lines[-1].items()
