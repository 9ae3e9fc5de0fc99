"""The reader's run beside the study's: numbers that are known, and what is said of them."""

import math

import pandas as pd
import pytest
from study_logs import cell, like_content, like_tint, written

from lrt.stats import Record
from lrt.study import beside


def yours(metric, value, method="grpo", seed=0, split="tint_uninformative"):
    return Record(method, split, metric, value, value - 0.05, value + 0.05, 240, seed)


def tinted(step, n):
    return like_tint(n)


def looking(step, n):
    return like_content(n)


def test_the_table_holds_both_the_studys_runs_and_the_readers(tmp_path):
    written(tmp_path, cell("grpo", 0), tinted)
    written(tmp_path, cell("grpo", 1), looking)
    written(tmp_path, cell("rule", 0), looking)  # asked of nobody
    records = [yours("flip_rate", 0.25), yours("flip_rate", 0.75, split="tint_reversed")]
    table = beside.beside(records, ["grpo"], ["flip", "agree"], tmp_path).set_index(["measure", "whose", "seed"])
    assert table["value"].to_dict() == {
        ("flip", "study", 0): 1.0, ("agree", "study", 0): 1.0, ("flip", "study", 1): 0.0, ("agree", "study", 1): 1.0,
        ("flip", "yours", 0): 0.25,
    }
    assert set(table["method"]) == {"grpo"}


def test_methods_go_by_the_notebooks_names(tmp_path):
    written(tmp_path, cell("listener_reader", 3), tinted)
    table = beside.beside([], ["grpo", "grpo_listener"], ["flip"], tmp_path)
    assert table[["method", "seed", "value"]].to_numpy().tolist() == [["grpo_listener", 3, 1.0]]


def test_what_no_trace_can_have_is_left_out(tmp_path):
    records = [yours("truth", float("nan"), "sft"), yours("flip_rate", 1.0, "sft")]
    assert list(beside.beside(records, ["sft"], ["flip", "greedy_truth"], tmp_path)["measure"]) == ["flip"]


COLUMNS = ["measure", "method", "seed", "value", "whose", "low", "high", "steps", "pairs"]


def many_and(value, silent=0):
    many = [("flip", "grpo", seed, 0.4 + 0.05 * seed, "study", math.nan, math.nan, 300, 8) for seed in range(5)]
    many += [("flip", "grpo", 5 + i, math.nan, "study", math.nan, math.nan, 300, 8) for i in range(silent)]
    mine = ("flip", "grpo", 0, value, "yours", value - 0.1, value + 0.1, math.nan, math.nan)
    return pd.DataFrame([*many, mine], columns=COLUMNS)


@pytest.mark.parametrize("value, where", [(0.5, "inside"), (0.8, "outside")])
def test_a_run_is_held_against_what_single_runs_do(value, where):
    what, sentence = beside.told(many_and(value))
    assert what.startswith("The study's runs: GRPO, seeds 0 to 4, 300 steps of 8 pairs, ")
    # mean 0.5, sd 0.0791, t = 2.776: half a width of 0.098 for the mean, of 0.240 for a new run
    assert f"this run {100 * value:.0f} % [{100 * value - 10:.0f}, {100 * value + 10:.0f}]; " in sentence
    assert "the study's 5 seeds 40 to 60 %, in the mean 50 % [40, 60]" in sentence
    assert "[26, 74]" in sentence and sentence.endswith(f"lies {where}.")


def test_runs_without_a_value_are_counted():
    assert "the study's 5 of 7 seeds (in the others it applies to nothing) 40 to" in beside.told(many_and(0.5, 2))[1]


def test_few_seeds_promise_nothing(tmp_path):
    [sentence] = beside.told(beside.beside([yours("flip_rate", 0.1)], ["grpo"], ["flip"], tmp_path))
    assert "this run 10 %" in sentence and "has no such run yet" in sentence
    written(tmp_path, cell("grpo", 0), tinted)
    _, sentence = beside.told(beside.beside([], ["grpo"], ["flip"], tmp_path))
    assert "not measured in this run" in sentence and "one seed so far 100 %: too few" in sentence


def test_the_studys_own_comparison_is_paired_by_seed(tmp_path):
    [nothing] = beside.listener_against_plain(["flip"], tmp_path)
    assert nothing == "The study has no seed yet that both methods have run."
    for seed in range(5):
        written(tmp_path, cell("grpo", seed), tinted)
        written(tmp_path, cell("listener_reader", seed), looking)
    [sentence] = beside.listener_against_plain(["flip"], tmp_path)
    assert sentence.startswith("reader as listener, answers that flip: -100.0 points") and "better" in sentence


def test_the_picture_has_a_panel_a_measure_and_a_star_for_the_reader(tmp_path):
    for seed in range(3):
        written(tmp_path, cell("grpo", seed), tinted if seed else looking)
    table = beside.beside([yours("flip_rate", 0.25)], ["grpo"], ["flip", "conflict"], tmp_path)
    fig = beside.picture(table)
    assert [ax.get_title() for ax in fig.axes] == ["answers that flip", "right, tint\nconflicts"]
    assert "3 seeds" in fig.get_suptitle()
    stars = [line for line in fig.axes[0].lines if line.get_marker() == "*"]
    assert [line.get_xdata().tolist() for line in stars] == [[0.25]]
    with pytest.raises(ValueError, match="no runs"):
        beside.picture(table.iloc[:0])
