"""What DPO's loss leaves likely: the numbers of the logs, one picture, one sentence a method."""

import json

import numpy as np
import pytest
import study_runs

from lrt.study import displaced, logs

LABELS = {"grpo": "DPO", "rule": "DPO with a leash"}  # any two methods will do: what a run logs is what counts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two methods of two seeds whose steps log what DPO logs, and one that does not."""
    folder = study_runs.written(tmp_path_factory.mktemp("displaced"), ("grpo", "rule", "permuted"), [0, 1])
    for path in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in (line for line in lines if "step" in line and not path.name.startswith("permuted")):
            fall = line["step"] if path.name.startswith("grpo") else 0
            line |= {"logp_chosen": -4.0 - fall, "logp_rejected": -4.0 - 2 * fall, "loss": 0.7 - 0.01 * fall}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return logs.read_runs(folder)


def test_means_are_of_the_steps_since_the_measurement_before(runs):
    table = displaced.displacement(runs)
    assert set(table["method"]) == {"grpo", "rule"}
    own = table[(table["method"] == "grpo") & (table["seed"] == 0)].set_index("step")
    assert list(own.index) == [0, 2, 4, 6, 8]  # measured every two of eight steps
    assert list(own["chosen"]) == pytest.approx([-5, -5.5, -7.5, -9.5, -11.5])
    assert list(own["rejected"]) == pytest.approx([-6, -7, -11, -15, -19])
    assert own["loss"].iloc[-1] == pytest.approx(0.625) and own["parsable"].eq(1).all()


def test_words_and_lines_are_those_of_the_runs(runs):
    table = displaced.displacement(runs)
    fall, leash = displaced.told(table, LABELS)
    assert fall.startswith("GRPO (2 seeds)") and "less likely than at first in 2 of 2" in fall and "0 of 2" in leash
    assert "log p of the chosen from -5.0 to -11.5" in fall and "run by run: 100 %, 100 %" in fall
    assert "log p of the chosen from -4.0 to -4.0" in leash and "the loss from 0.70 to 0.70" in leash
    top, _, bottom, _ = displaced.picture(table, LABELS).axes
    assert len(top.lines) == 4 and len(bottom.lines) == 2  # two runs, of each two completions
    assert np.allclose(top.lines[1].get_ydata(), table[table["method"] == "grpo"]["chosen"].iloc[:5])


def test_without_dpo_there_is_nothing(runs):
    none = displaced.displacement([run for run in runs if run.cell.method == "permuted"])
    assert not len(none) and displaced.told(none, {}) == []
    with pytest.raises(ValueError, match="no runs that log both completions to draw"):
        displaced.picture(none, {})
