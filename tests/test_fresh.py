"""Fresh seeds against the prediction interval of the study's own."""

import pytest
from study_logs import cell, like_content, written

from lrt.study import report
from lrt.study.fresh import fresh_rows, held_against
from lrt.study.logs import read_runs


def logs(folder, rights, first=0):
    """Runs of plain GRPO that are right on so many of the pairs."""
    for seed, right in enumerate(rights, start=first):
        written(folder, cell("grpo", seed), lambda step, n, right=right: like_content(n, min(n, right)))
    return read_runs(folder)


def test_a_run_like_the_others_is_inside_and_another_is_not(tmp_path):
    runs = logs(tmp_path / "logs", [8, 9, 8, 9, 8, 9])
    found = held_against(runs, logs(tmp_path / "fresh", [8, 0], first=10), ["in_distribution"])
    assert [f.inside for f in found] == [True, False] and {f.runs for f in found} == {6}
    values = [f.value for f in held_against(runs[:5], [runs[5]], ["in_distribution"])]
    assert values[0] > found[1].value
    [row] = fresh_rows(found)
    assert row[:3] == ["GRPO", "right in distribution", "6"] and row[-1] == "1 of 2"


def test_one_run_expects_nothing(tmp_path):
    assert held_against(logs(tmp_path / "logs", [8]), logs(tmp_path / "fresh", [8], first=10), ["flip"]) == []


def test_what_does_not_apply_is_neither_inside_nor_outside(tmp_path):
    written(tmp_path / "fresh", cell("grpo", 10), lambda step, n: {"sampled_said": "0" * n, "sampled_true": "0" * n})
    found = held_against(logs(tmp_path / "logs", [8, 9]), read_runs(tmp_path / "fresh"), ["flip", "truth"])
    assert [f.measure for f in found] == ["flip"]


def test_intervals_of_shares_are_shown_within_0_and_100(tmp_path):
    found = held_against(logs(tmp_path / "logs", [0, 12]), logs(tmp_path / "fresh", [8], first=10), ["conflict"])
    assert found[0].low < 0 < 1 < found[0].high and fresh_rows(found)[0][3] == "[0.0, 100.0]"


def test_a_seed_of_the_study_is_not_fresh(tmp_path):
    runs = logs(tmp_path / "logs", [8, 9])
    with pytest.raises(ValueError, match="grpo.s0 is no fresh seed"):
        held_against(runs, runs[:1])


def test_a_run_of_other_settings_is_not_held_against_the_study(tmp_path):
    runs = logs(tmp_path / "logs", [8, 9])
    written(tmp_path / "fresh", cell("grpo", 10, lr=1.0), lambda step, n: like_content(n))
    with pytest.raises(ValueError, match="grpo.s10 was run with other settings"):
        held_against(runs, read_runs(tmp_path / "fresh"))


def test_the_tables_show_them_and_decide_nothing_with_them(tmp_path):
    logs(tmp_path / "logs", [8, 9, 8])
    before, _ = report.write(tmp_path)
    without = before.read_text()
    logs(tmp_path / "fresh", [0], first=10)
    report.write(tmp_path)
    text = before.read_text()
    assert "Fresh seeds" in text and text.startswith(without.rstrip())
