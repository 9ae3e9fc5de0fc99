"""Measures against a naive form and against judges whose numbers are known; comparisons of runs made up for it."""
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_logs import cell, like_content, like_tint, measurement, sides, two, written

from lrt.metrics import agree_conflict, mixture
from lrt.study.logs import read_run
from lrt.study.outcomes import MEASURES, mean, measure, trajectory, values
from lrt.study.pairing import at_best, at_matched, best_by_validation, matched_steps, paired
from lrt.study.probe import known, table

NAN = float("nan")


def measured(n=12, **fields) -> pd.DataFrame:
    return table(measurement(n, **fields))


# --- measures --------------------------------------------------------------------------------------------------------


def unread(n: int) -> dict:
    return {name: "-" * n for name in ("answers", "swapped", "sampled")}


@pytest.mark.parametrize("judge, expected", [
    (like_tint, {"agree": 1, "conflict": 0, "flip": 1, "in_distribution": 0.9, "uninformative": 0.5, "reversed": 0.1}),
    (like_content, {"agree": 1, "conflict": 1, "flip": 0, "in_distribution": 1, "reversed": 1, "sampled_right": 1}),
    (unread, {"agree": 0, "conflict": 0, "reversed": 0, "sampled_right": 0, "parsable": 0, "sampled_parsable": 0}),
    (unread, {"flip": NAN, "departs": NAN, "first": NAN, "contradiction/reader": NAN, "disagreement/llava": NAN}),
    (lambda n: {}, {"parsable": 1, "first": 1, "truth": 2 / 3, "coverage": 3 / 18, "departs": 0, "flip": 0,
                    "contradiction/llava": 0, "followed/llava": 1, "disagreement/llava": 0.1}),
])
def test_judges_whose_numbers_are_known(judge, expected):
    found = measured(**judge(12))
    assert {name: mean(found, name) for name in expected} == pytest.approx(expected, nan_ok=True)


def naive(row, name, ear="reader"):
    """A measure of one pair, by its definition."""
    def sure(*values):
        return not any(math.isnan(v) for v in values)

    def right(answer):
        return NAN if math.isnan(row["better"]) else 1.0 if answer == row["better"] else 0.0

    p = row[f"sampled_p/{ear}"]
    choice = NAN if math.isnan(p) else 1 if p > 0.5 else 2
    warm_better = row["warm"] == row["better"]
    agree = right(row["answers"] if warm_better else row["swapped"])
    conflict = right(row["swapped"] if warm_better else row["answers"])

    def off(side):
        return NAN if not sure(choice, side) else 0.5 if p == 0.5 else float(choice != side)

    def doubt(side):
        return NAN if not sure(p, side) else 1 - p if side == 1 else p

    said, true = row["sampled_said"], row["sampled_true"]
    return {
        "agree": agree,
        "conflict": conflict,
        "in_distribution": 0.9 * agree + 0.1 * conflict,
        "uninformative": 0.5 * agree + 0.5 * conflict,
        "reversed": 0.1 * agree + 0.9 * conflict,
        "flip": float(row["answers"] != row["swapped"]) if sure(row["answers"], row["swapped"]) else NAN,
        "parsable": float(sure(row["answers"])),
        "sampled_parsable": float(sure(row["sampled"])),
        "first": float(row["answers"] == 1) if sure(row["answers"]) else NAN,
        "sampled_right": right(row["sampled"]),
        "departs": float(row["sampled"] != row["sampled_verdicts"])
        if sure(row["sampled"], row["sampled_verdicts"]) else NAN,
        "truth": true / said if said else NAN,
        "greedy_truth": row["true"] / row["said"] if row["said"] else NAN,
        "told": true / 18,
        "coverage": said / 18,
        "contradiction/reader": off(row["sampled"]),
        "followed/reader": 1 - off(row["sampled"]),
        "verdict_contradiction/reader": off(row["sampled_verdicts"]),
        "disagreement/reader": doubt(row["sampled"]),
        "listener_right/reader": 1 - off(row["better"]),
        "listener_p/reader": 1 - doubt(row["better"]),
    }[name]


def of(alphabet: str, n: int):
    return st.lists(st.sampled_from(alphabet), min_size=n, max_size=n).map("".join)


@st.composite
def measurements(draw, n=12):
    fields = {name: draw(of("12-", n)) for name in ("answers", "swapped", "sampled", "verdicts", "sampled_verdicts")}
    for prefix in ("", "sampled_"):
        said = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
        fields[f"{prefix}said"] = "".join(map(str, said))
        fields[f"{prefix}true"] = "".join(str(draw(st.integers(0, k))) for k in said)
    p = draw(st.lists(st.sampled_from([0, 0.001, 0.499, 0.5, 0.501, 1, None]), min_size=n, max_size=n))
    return measured(n, sampled_p={"reader": "".join("--" if x is None else two(x) for x in p)}, **fields)


@settings(max_examples=20, deadline=None)
@given(measurements())
def test_measures_against_their_definitions(found):
    for name in (key.replace("<listener>", "reader") for key in MEASURES):
        expected = [naive(row, name) for row in found.to_dict("records")]
        assert values(found, name) == pytest.approx(np.array(expected), nan_ok=True), name


def test_accuracy_by_tint_is_that_of_the_metrics():
    """Both ways of showing a pair as rows of one table of judgements, as `lrt.metrics` reads them."""
    rng = np.random.default_rng(0)
    answers, swapped = (rng.choice([1.0, 2.0, NAN], 40) for _ in "ab")
    found = measured(40, answers=sides(answers), swapped=sides(swapped))
    seen = known(40)
    warm = np.concatenate([seen["warm"], 3 - seen["warm"]])
    frame = pd.DataFrame({
        "prompt_id": [*seen["prompt_id"]] * 2, "answer": np.concatenate([answers, swapped]),
        "utility_1": [*(seen["better"] == 1).astype(float)] * 2,
        "utility_2": [*(seen["better"] == 2).astype(float)] * 2,
        "tint_1": np.where(warm == 1, "warm", "cool"), "tint_2": np.where(warm == 2, "warm", "cool"),
    })
    agree, conflict = (interval.value for interval in agree_conflict(frame))
    assert [mean(found, "agree"), mean(found, "conflict")] == pytest.approx([agree, conflict])
    assert mean(found, "reversed") == pytest.approx(mixture(agree, conflict)["tint_reversed"])


def test_a_measure_says_what_it_is():
    assert measure("contradiction/llava").label == "contradicts llava" and measure("flip").better == "lower"
    for name in MEASURES:
        found = measure(name.replace("<listener>", "reader"))
        assert found.label and found.about.endswith(".") and found.better in ("higher", "lower", None)
        assert ("reader" in found.label) == ("reader" in found.about) == ("<" in name)


@pytest.mark.parametrize("name", ["nonsense", "flip/reader", "contradiction", "contradiction/", "", "/"])
def test_an_unknown_measure_is_named_and_the_known_listed(name):
    with pytest.raises(ValueError, match="no measure '.*; there are agree, conflict, .*contradiction/<listener>"):
        values(measured(), name)


def test_an_unknown_listener_is_named():
    with pytest.raises(ValueError, match="'base' did not hear the traces; reader, llava did"):
        values(measured(), "contradiction/base")


def test_nothing_that_applies_is_nan_without_a_warning(recwarn):
    assert math.isnan(mean(measured(sampled_said="0" * 12, sampled_true="0" * 12), "truth"))
    assert not recwarn.list


# --- runs ------------------------------------------------------------------------------------------------------------


def run(tmp_path, method="grpo", seed=0, at=lambda step, n: {}, **changes):
    return read_run(written(tmp_path, cell(method, seed, **changes), at))


def test_trajectory_is_on_the_same_pairs_at_every_step(tmp_path):
    """Right for all at first, for the first 8 then: the last step's other pairs do not count."""
    runs = [run(tmp_path, seed=s, at=lambda step, n: like_content(n, 8 if step else 0)) for s in (0, 1)]
    found = trajectory(runs, "conflict")
    assert found.columns.tolist() == ["method", "seed", "step", "value"]
    assert found["seed"].tolist() == [0, 0, 0, 1, 1, 1] and found["step"].tolist() == [0, 2, 4] * 2
    assert found["value"].tolist() == [0, 1, 1] * 2 and set(found["method"]) == {"grpo"}
    assert mean(runs[0].final, "conflict") < 1
    assert trajectory([], "flip").empty


def test_paired_by_seed_and_pair(tmp_path):
    a = [run(tmp_path, "rule", s, lambda step, n: like_content(n)) for s in (2, 0, 1)]
    b = [run(tmp_path, "grpo", s, lambda step, n: like_tint(n)) for s in (1, 2, 5)]
    seeds, d_SB, prompts_B, level = paired(a, b, "flip")
    assert level == 1
    assert seeds == (1, 2) and d_SB.tolist() == [[-1.0] * 12] * 2
    assert prompts_B.tolist() == known(12)["prompt_id"].tolist()
    conflict = paired(a, b, "conflict").d_SB
    assert np.isnan(conflict[0]).tolist() == known(12)["better"].isna().tolist() and np.nanmean(conflict) == 1
    assert np.array_equal(paired(b, a, "conflict").d_SB, -conflict, equal_nan=True)


def test_a_pair_that_one_of_the_two_cannot_answer_is_nan(tmp_path):
    a = run(tmp_path, "rule", 0, lambda step, n: {"answers": "-" + "1" * (n - 1)})
    b = run(tmp_path, "grpo", 0, lambda step, n: {"swapped": "1-" + "2" * (n - 2)})
    assert np.isnan(paired([a], [b], "flip").d_SB[0]).tolist() == [True, True] + [False] * 10


def test_the_level_is_that_of_the_pairs_that_are_compared(tmp_path):
    silent = {"sampled_said": "0" * 6 + "9" * 6, "sampled_true": "0" * 6 + "3" * 6}
    a = [run(tmp_path, "rule", s, lambda step, n: silent if step == 4 else {}) for s in (0, 1)]
    b = [run(tmp_path, "grpo", s, lambda step, n: {"sampled_said": "9" * n, "sampled_true": "9" * 6 + "3" * (n - 6)})
         for s in (0, 1)]
    found = paired(a, b, "truth")
    assert found.level == pytest.approx(1 / 3) and np.nanmean(found.d_SB) == 0
    assert np.isnan(paired([], b, "truth").level)


def test_the_base_is_step_0(tmp_path):
    runs = [run(tmp_path, seed=s, at=lambda step, n: like_tint(n) if step else {}) for s in (0, 1)]
    seeds, d_SB, prompts_B, level = paired(runs, "base", "flip")
    assert level == 0 and seeds == (0, 1) and d_SB.tolist() == [[1.0] * 12] * 2 and len(prompts_B) == 12


def test_runs_measured_on_fewer_pairs_are_compared_on_those(tmp_path):
    a, b = run(tmp_path, "rule", final_pairs=10), run(tmp_path, "grpo")
    assert paired([a], [b], "truth").d_SB.tolist() == [[0.0] * 10]


def test_nothing_in_common_and_a_seed_twice(tmp_path):
    a, b = run(tmp_path, "rule", 0), run(tmp_path, "grpo", 1)
    for found in (paired([a], [b], "flip"), paired([], [b], "flip"), at_matched([a], [b], "flip")):
        assert found.seeds == () and found.d_SB.size == 0 and len(found.prompt_id_B) == 0
    with pytest.raises(ValueError, match=r"two runs with seed 0: rule\.s0 and grpo\.s0"):
        paired([a, run(tmp_path, "grpo", 0)], [b], "flip")
    with pytest.raises(ValueError, match=r"rule\.s0 and rule\.s3 are of different settings: dial"):
        paired([a, run(tmp_path, "rule", 3, dial=0.5)], [b], "flip")
    with pytest.raises(ValueError, match="no measure 'nonsense'"):
        paired([], [], "nonsense")


# --- at matched accuracy ---------------------------------------------------------------------------------------------


def course(tmp_path, method, right, seed=0):
    """A run that is right about the first right[i] pairs at its i-th measurement, and stays at the last; the number of
    the measurement stands in what its traces state (3 + i, of which 2 are true)."""
    def at(step, n):
        i = step // 2
        return {**like_content(n, right[i]), "sampled_said": str(3 + i) * n}

    return run(tmp_path, method, seed, at, steps=2 * (len(right) - 1))


def level(run, step):
    return mean(run.history()[step], "in_distribution")


def test_matched_where_both_first_reach_the_highest_common_level(tmp_path):
    fast, slow = course(tmp_path, "fast", [0, 4, 8, 8, 8]), course(tmp_path, "slow", [0, 0, 2, 4, 4])
    seeds, d_SB, prompts_B, level_B = at_matched([fast], [slow], "coverage")
    assert level_B == pytest.approx(6 / 18)
    row = matched_steps([fast], [slow]).to_dict("records")[0]
    assert (row["seed"], row["step_a"], row["step_b"]) == (0, 2, 6)
    assert row["level"] == pytest.approx(level(slow, 8)) == pytest.approx(level(fast, 2))
    assert seeds == (0,) and d_SB == pytest.approx(np.full((1, 8), (4 - 6) / 18)) and len(prompts_B) == 8
    assert at_matched([slow], [fast], "coverage").d_SB == pytest.approx(-d_SB)
    assert matched_steps([slow], [fast])["step_a"].tolist() == [6]


def test_one_lucky_measurement_reaches_nothing(tmp_path):
    lucky, steady = course(tmp_path, "lucky", [0, 8, 0, 4, 4]), course(tmp_path, "steady", [0, 4, 4, 4, 4])
    frame = matched_steps([lucky], [steady])
    assert frame[["step_a", "step_b"]].to_numpy().tolist() == [[4, 2]]  # medians 0, 0, 4, 4, 4 and 0, 4, 4, 4, 4


def test_a_run_that_never_gets_above_the_base_is_matched_there(tmp_path):
    worse, better = course(tmp_path, "worse", [4, 2, 2, 0]), course(tmp_path, "better", [4, 8, 8, 8])
    found = at_matched([worse], [better], "truth")
    assert matched_steps([worse], [better])[["step_a", "step_b"]].to_numpy().tolist() == [[0, 0]]
    assert found.seeds == () and found.d_SB.size == 0, "two bases: no comparison of the runs"
    of_a_better_base = course(tmp_path, "elsewhere", [8, 8, 8, 8])
    assert matched_steps([better], [of_a_better_base])[["step_a", "step_b"]].to_numpy().tolist() == [[2, 0]]
    assert at_matched([better], [of_a_better_base], "truth").seeds == (), "trained against untrained"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=6))
def test_matched_level_is_reached_by_both_and_is_the_highest(tmp_path_factory, rights):
    folder = tmp_path_factory.mktemp("runs")
    a, b = (course(folder, name, right) for name, right in zip("ab", zip(*rights, strict=True), strict=True))
    row = matched_steps([a], [b]).iloc[0]
    best = []
    for run, step in ((a, row["step_a"]), (b, row["step_b"])):
        raw = trajectory([run], "in_distribution")["value"].tolist()
        smooth = [raw[0], *(sorted(raw[i - 1 : i + 2])[1] for i in range(1, len(raw) - 1)), raw[-1]]
        at = int(step) // 2
        assert max(smooth[: at + 1]) >= row["level"] and all(value < row["level"] for value in smooth[:at])
        best.append(max(smooth))
    assert row["level"] == min(best)


# --- the best checkpoint ---------------------------------------------------------------------------------------------


def test_best_checkpoint_is_chosen_on_half_of_the_prompts_and_judged_on_the_other(tmp_path):
    found = best_by_validation(course(tmp_path, "grpo", [0, 2, 8, 4, 4]))  # the first half, 4 pairs, is right from 4 on
    first, other = known(8)["prompt_id"][:4], known(8)["prompt_id"][4:]
    assert set(first).isdisjoint(other)
    assert found.step == 4  # of equals the earliest
    assert found.table["prompt_id"].tolist() == other.tolist() and mean(found.table, "conflict") == 1
    assert found.table["sampled_said"].tolist() == [5] * 4
    assert found.last["prompt_id"].tolist() == other.tolist() and mean(found.last, "conflict") == 0


def test_what_stopping_early_gains_is_the_best_step_less_the_last(tmp_path):
    runs = [course(tmp_path, "grpo", [0, 2, 8, 4, 4]), course(tmp_path / "other", "grpo", [0, 1, 2, 2, 8], seed=1)]
    found = at_best(runs, "conflict")
    assert found.seeds == (0, 1) and found.d_SB.tolist() == [[1] * 4, [0] * 4]
    assert at_best([], "conflict").d_SB.size == 0


def test_the_last_step_can_be_the_best(tmp_path):
    assert best_by_validation(course(tmp_path, "grpo", [0, 1, 2, 8])).step == 6
