"""Logs are read whole and checked; whatever does not fit names its file and line."""
import json
from dataclasses import asdict

import numpy as np
import pytest
from study_logs import cell, like_tint, lines, measurement, two, written
from tiny_runs import build

from lrt.listener import LocalListener
from lrt.study.cell import header, short
from lrt.study.logs import read_run, read_runs
from lrt.study.probe import Fixed, known, measure


def test_a_log_comes_back_whole(tmp_path):
    of = cell("rule", 3, reward="rule", weights=(1.0, 0.5, 0.5))
    run = read_run(written(tmp_path, of, lambda step, n: like_tint(n) if step == 2 else {}))
    assert run.cell == of and run.header["lrt"] == "0"
    assert run.steps.index.tolist() == [1, 2, 3, 4] and run.steps["reward"].tolist() == [2, 3, 4, 5]
    assert {step: len(table) for step, table in run.measures.items()} == {0: 12, 2: 8} and len(run.final) == 12
    assert run.measures[2]["answers"].tolist() == known(8)["warm"].tolist()
    assert run.final["sampled_p/llava"].tolist() == [0.9] * 12 and (run.final["true"] == 2).all()
    assert {step: len(table) for step, table in run.history().items()} == {0: 8, 2: 8, 4: 8}


def test_what_a_run_writes_can_be_read(tmp_path):
    of = cell(steps=1, measure_every=1, measured_pairs=2, final_pairs=4, judges=("reader",))
    policy = build()
    fixed = {4: Fixed.of(4, {"reader": LocalListener(build())}, 4)}
    log = [header(of), {"measured": 0, **measure(policy, fixed[4], 0)},
           short({"step": 1, "reward": 0.5, "kl": 0.0}), {"final": 1, **measure(policy, fixed[4], 0)}]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in log))
    run = read_run(path)
    assert run.cell == of and run.steps["reward"].tolist() == [0.5]
    assert run.final["prompt_id"].tolist() == known(4)["prompt_id"].tolist()


def test_a_folder_is_read_by_method_and_seed(tmp_path):
    assert read_runs(tmp_path) == [] == read_runs(tmp_path / "nowhere")
    for method, seed in (("rule", 10), ("rule", 2), ("a.s1", 0), ("grpo", 1)):
        written(tmp_path, cell(method, seed))
    (tmp_path / "grpo.s9.jsonl.part").write_text("unfinished")
    names = [run.cell.name for run in read_runs(tmp_path)]
    assert names == ["a.s1.s0", "grpo.s1", "rule.s2", "rule.s10"]
    assert [run.cell.name for run in read_runs(tmp_path, ["rule", "nobody"])] == ["rule.s2", "rule.s10"]


def test_a_log_of_another_name_is_refused(tmp_path):
    written(tmp_path, cell("rule", 2)).rename(tmp_path / "rule.s3.jsonl")
    with pytest.raises(ValueError, match=r"rule\.s3\.jsonl, line 1: this is the log of rule\.s2"):
        read_runs(tmp_path)


# What the lines of a log are: 1 the cell; 2 measured at 0; 3, 4 steps 1, 2; 5 measured at 2; 6, 7 steps 3, 4; 8 final.

SETTINGS = json.loads(json.dumps(asdict(cell())))
GOOD = measurement(8)


def ears(text: str) -> dict:
    return {"sampled_p": {"reader": text, "llava": two(0.5) * 8}}


@pytest.mark.parametrize("number, line, message", [
    (1, {"lrt": "0"}, "line 1: a log begins with its cell"),
    (1, {"cell": SETTINGS | {"colour": "red"}}, "line 1: .*not the settings of a cell.*colour"),
    (1, {"cell": {"method": "grpo"}}, "line 1: .*not the settings"),
    (1, {"cell": SETTINGS | {"seed": "0"}}, "line 1, seed: '0' does not fit"),
    (1, {"cell": SETTINGS | {"steps": True}}, "line 1, steps: True"),
    (1, {"cell": SETTINGS | {"verdict": 1}}, "line 1, verdict: 1"),
    (1, {"cell": SETTINGS | {"judges": "reader"}}, "line 1, judges"),
    (1, {"cell": SETTINGS | {"judges": [["reader"]]}}, "line 1, judges"),
    (1, {"time_sample": "long"}, "line 1, time_sample: 'long' is no number"),
    (2, {"time_step": "long"}, "line 2, time_step: 'long' is no number"),
    (1, {"cell": SETTINGS | {"measure_every": 0}}, "line 1: steps and measure_every"),
    (1, {"cell": SETTINGS | {"measured_pairs": 6}}, "line 5: measured on 8 pairs instead of 6"),
    (1, {"cell": SETTINGS | {"final_pairs": 240}}, "line 2: measured on 12 pairs instead of 240"),
    (1, {"cell": SETTINGS | {"judges": ["reader"]}}, "line 2, sampled_p: expected the listeners reader"),
    (1, {"cell": SETTINGS | {"steps": 5}}, "line 8: neither a step, nor a measurement, nor the final one of step 5"),
    (3, {"step": 2}, "step 1 is missing, or not in its place"),
    (7, {"step": 5}, "step 4 is missing"),
    (5, {"measured": 0, **measurement(12)}, "measurement of step 2 is missing"),
    (5, {"measured": [2], **GOOD}, "measurement of step 2 is missing"),
    (2, {"measured": 0, **GOOD}, "line 2: measured on 8 pairs instead of 12"),
    (4, {"measured": 2, **GOOD}, "step 2 is missing"),
    (6, {"reward": 1.0}, "line 6: neither a step"),
    (6, [1, 2], "line 6: expected an object, found list"),
    (6, {"final": 4, **measurement(12)}, "line 7: nothing may follow"),
    (8, {"step": 5}, "line 8: the log ends without a final measurement"),
    (5, {"measured": 2, **GOOD, "n": None}, "line 5: measured on None pairs"),
    (5, {"measured": 2, **GOOD, "answers": "1" * 7}, "line 5, answers: expected 8 characters"),
    (5, {"measured": 2, **GOOD, "answers": "1111111x"}, "line 5, answers: expected 8 characters out of '12-'"),
    (5, {"measured": 2, **GOOD, "sampled": ["1"] * 8}, "line 5, sampled: expected 8"),
    (5, {"measured": 2, "n": 8, "answers": "1" * 8, **ears("--" * 8)}, "line 5, verdicts: expected 8"),
    (5, {"measured": 2, **GOOD, "said": "1" * 8}, "line 5, true: more statements are true than were said"),
    (5, {"measured": 2, **GOOD, "sampled_true": "z" * 8}, "line 5, sampled_true: more"),
    (5, {"measured": 2, **GOOD, **ears("p0" * 7)}, "line 5, sampled_p of reader: expected 16"),
    (5, {"measured": 2, **GOOD, **ears("zz" * 8)}, "line 5, sampled_p of reader: a probability"),
    (5, {"measured": 2, **GOOD, **ears("-1" * 8)}, "line 5, sampled_p of reader: a probability"),
    (5, {"measured": 2, **GOOD, **ears("1-" * 8)}, "line 5: invalid literal"),
    (5, {"measured": 2, **GOOD, "sampled_p": None}, "line 5, sampled_p: expected"),
])
def test_a_line_that_does_not_fit_is_named(tmp_path, number, line, message):
    path = tmp_path / "grpo.s0.jsonl"
    text = [json.dumps(x) for x in lines(cell())]
    text[number - 1] = json.dumps(line)
    path.write_text("\n".join(text) + "\n")
    with pytest.raises(ValueError, match=message) as error:
        read_run(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kept", [0, 1, 40, 0.4, 0.99, -1])
def test_a_torn_log_is_refused(tmp_path, kept):
    path = written(tmp_path, cell())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    if kept == -1:  # only the last end of line is lacking: nothing is lost
        assert len(read_run(path).final) == 12
        return
    with pytest.raises(ValueError, match=r"line \d: not a whole line of JSON"):
        read_run(path)


def test_a_log_cut_between_lines_and_one_with_other_bytes_are_refused(tmp_path):
    path = written(tmp_path, cell())
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="line 7: the log ends without"):
        read_run(path)
    path.write_bytes(whole.replace(b'"lrt": "0"', b'"lrt": "\xff"'))
    with pytest.raises(ValueError, match="line 1: not a whole line"):
        read_run(path)


def test_unparsable_and_unheard_are_nan(tmp_path):
    run = read_run(written(tmp_path, cell(), lambda step, n: {
        "answers": "-" + "2" * (n - 1), "sampled_p": {"reader": "--" + two(1) * (n - 1), "llava": two(0) * n}}))
    assert np.isnan(run.final["answers"][0]) and (run.final["answers"][1:] == 2).all()
    assert np.isnan(run.final["sampled_p/reader"][0]) and (run.final["sampled_p/reader"][1:] == 1).all()
    assert (run.final["sampled_p/llava"] == 0).all()
