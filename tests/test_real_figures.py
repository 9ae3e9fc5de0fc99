"""Notebook 07's figures show the numbers that `lrt.machine.memory` and `lrt.machine.run_cost` work out."""

import pytest

from lrt.machine.figures import hours_bars, in_words, memory_bars, memory_parts
from lrt.machine.memory import grpo_memory
from lrt.machine.run_cost import run_cost
from lrt.profiles import REAL


@pytest.mark.parametrize("name", REAL)
def test_the_parts_of_a_card_add_up_to_its_peak(name):
    assert sum(memory_parts(REAL[name]).values()) == pytest.approx(grpo_memory(REAL[name]).peak_gb)


def test_bars_are_as_long_as_their_numbers():
    profiles = list(REAL.values())
    for fig, wanted in ((memory_bars(profiles), [grpo_memory(p).peak_gb for p in profiles]),
                        (hours_bars(profiles), [sum(run_cost(p).hours.values()) for p in profiles])):
        ends = [0.0] * len(profiles)
        for bar in fig.axes[0].patches:
            row = round(bar.get_y() + bar.get_height() / 2)
            ends[row] = max(ends[row], bar.get_x() + bar.get_width())
        assert ends == pytest.approx(wanted)
        assert "estimate" in fig.get_suptitle()


def test_the_words_name_the_largest_part():
    assert in_words({"a": {"x": 1.0, "y": 2.5}}, "GB") == "a: 3.5 GB, most for y (2.5)."
