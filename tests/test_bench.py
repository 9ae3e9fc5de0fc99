"""The bench: its arithmetic by hand, and one whole round on an untrained model of a few thousand weights."""

import pytest

from lrt import pretrain, tiny
from lrt.machine import bench

SMALL = tiny.Shape(text=32, layers=1, heads=2, vision=32, vision_layers=1, vision_heads=2)


def test_a_ratio_is_of_medians_and_its_ends_are_of_single_repeats():
    found = bench.ratio("a / b", [[2.0], [2.0, 4.0], [9.0]], [[1.0], [1.0], [2.0]])
    assert (found.value, found.low, found.high) == (3.0, 2.0, 4.5)
    assert found.meets is None and "goal" not in bench.line(found)


@pytest.mark.parametrize(("limits", "meets"), [
    ({"at_least": 3.0}, True),
    ({"at_least": 3.1}, False),
    ({"at_most": 3.0}, True),
    ({"at_most": 2.9}, False),
])
def test_goals_are_met_or_missed(limits, meets):
    found = bench.ratio("x", [[3.0]], [[1.0]], **limits)
    assert found.meets is meets
    assert ("met" if meets else "missed") in bench.line(found)


def test_arms_take_turns_and_turn_round():
    order = []
    arms = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    assert bench.in_turns(arms, 2) == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}
    assert "".join(order) == "abccba"


def test_a_step_is_from_end_to_end_and_the_first_is_left_out(monkeypatch):
    clock, now = bench.Clock(), iter([10.0, 11.0, 14.0, 15.5])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(now))
    for _ in range(4):
        clock.on_step_end(None, None, None)
    assert clock.steps() == [1.0, 3.0, 1.5]


def test_one_whole_round(tmp_path):
    recipe = pretrain.Recipe("untrained", shape=SMALL)
    pretrain.save(*pretrain.build(recipe), recipe, {"see": [4.0]}, tmp_path / "model")
    name, told = str(tmp_path / "model"), []
    found = bench.bench(2, 1, (2,), 2, 2, reasoner=name, listener=name, report=told.append)
    assert [one.name.split(":")[0] for one in found] == [
        "listener, G = 2", "GRPO step", "listener's share of a step", "GRPO step",
    ]
    assert all(one.value > 0 and one.low <= one.value <= one.high for one in found)
    assert 0 < found[2].value < 1
    assert len(told) == 5 and "2 pairs x 2 completions a step" in told[0]
    with pytest.raises(ValueError, match="at least 2 steps"):
        bench.bench(steps=1)
