"""The settings file of the study: what it asks for, and a sentence for everything in it that does not fit."""

import json
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrt.grpo import trl_config
from lrt.pairs import tiny_pairs
from lrt.study.cell import grpo_settings
from lrt.study.grid import CHOICES, REWARDS, UNHEARD, Cell, quick, read_grid, settings_file

GOOD = """
[defaults]
bases = ["base-a", "base-b"]
dial = 0.8

[tiers.first]
seeds = 2
methods = ["plain", "listened"]
why = "a test"

[tiers.second]
seeds = 3
methods = ["listened", "long"]

[methods.plain]
label = "nothing added"
weights = [1, 0.5]

[methods.listened]
reward = "listener"
listeners = ["reader"]

[methods.long]
label = "longer"
like = "listened_again"
steps = 900

[methods.listened_again]
label = "again"
like = "listened"
lr = 1e-3
steps = 300
"""


@pytest.fixture
def read(tmp_path):
    """A grid from its text."""

    def reading(text):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return read_grid(path)

    return reading


# --- the study's own file


@pytest.mark.parametrize("path", sorted(settings_file().parent.glob("*.toml")), ids=lambda path: path.name)
def test_the_projects_own_grids_can_be_read(path):
    if "tiers" not in path.read_text():
        with pytest.raises(ValueError, match=path.name):  # the claims are no grid
            read_grid(path)
        return
    grid = read_grid(path)
    cells = grid.cells()
    assert len({cell.name for cell in cells}) == len(cells) > 0
    assert {cell.method for cell in cells} == set(grid.changes)  # no method that nothing asks for
    assert len(set(grid.labels.values())) == len(grid.labels)  # they name curves and rows
    for cell in cells:
        assert cell.train_pairs >= cell.pairs_per_step and cell.steps > cell.measure_every
        assert cell.pairs_per_step % 2 == 0 or not cell.balance_votes
        assert len(cell.weights) == (2 if cell.reward == "none" else 3), cell.method


def test_tiers_that_share_a_method_ask_for_a_run_once():
    grid = read_grid()
    everything = {cell.name: cell for tier in grid.tiers for cell in grid.cells([tier.name])}
    assert everything == {cell.name: cell for cell in grid.cells()}


# --- what a file says


def test_defaults_changes_and_what_a_method_is_like(read):
    grid = read(GOOD)
    assert [(tier.name, tier.seeds, tier.why) for tier in grid.tiers] == [
        ("first", (0, 1), "a test"), ("second", (0, 1, 2), "")
    ]
    base = Cell("plain", 1, ("base-a", "base-b"), dial=0.8)
    assert grid.cell("plain", 1) == replace(base, weights=(1.0, 0.5))
    listened = replace(base, method="listened", reward="listener", listeners=("reader",))
    assert grid.cell("listened", 1) == listened
    assert grid.cell("long", 1) == replace(listened, method="long", lr=1e-3, steps=900)  # two methods away
    assert list(grid.labels.values()) == ["nothing added", "listened", "longer", "again"]


def test_a_label_is_not_handed_on(read):
    grid = read(GOOD.replace('label = "longer"\n', ""))
    assert grid.labels["long"] == "long"


def test_cells_come_seed_by_seed_and_once(read):
    grid = read(GOOD)
    assert [cell.name for cell in grid.cells()] == [
        "plain.s0", "listened.s0", "plain.s1", "listened.s1", "long.s0", "long.s1", "listened.s2", "long.s2",
    ]
    assert [cell.name for cell in grid.cells(["second"], ["long"])] == ["long.s0", "long.s1", "long.s2"]
    assert [cell.name for cell in grid.cells(["first"], seeds=[7])] == ["plain.s7", "listened.s7"]
    assert grid.cells(seeds=[]) == []


def test_the_seed_chooses_the_base(read):
    grid = read(GOOD)
    assert [grid.cell("plain", seed).base for seed in range(4)] == ["base-a", "base-b", "base-a", "base-b"]


def test_names_that_are_not_in_the_grid(read):
    grid = read(GOOD)
    with pytest.raises(ValueError, match="no tier 'third' in the grid; there are first, second"):
        grid.cells(["third"])
    with pytest.raises(ValueError, match="no method 'other' in the grid; there are plain, listened"):
        grid.cells(methods=["other"])
    with pytest.raises(ValueError, match="no method 'other'"):
        grid.cell("other", 0)


@given(st.builds(
    Cell, st.text(), st.integers(0, 99), st.lists(st.text(), min_size=1).map(tuple),
    weights=st.lists(st.floats(0, 2)).map(tuple), dial=st.floats(0, 1), steps=st.integers(1, 999),
    verdict=st.booleans(), lr=st.floats(1e-6, 1), judges=st.lists(st.text()).map(tuple),
))
def test_a_cell_survives_being_written_down(cell):
    assert Cell.from_dict(json.loads(cell.to_json())) == cell


def test_a_cell_from_before_there_were_other_trainers():
    cell = Cell("plain", 1, ("base-a",))
    old = json.loads(cell.to_json())
    assert old.pop("trainer") == "grpo" and Cell.from_dict(old) == cell and cell.writes
    assert [name for name in CHOICES["trainer"] if not replace(cell, trainer=name).writes] == ["bradley_terry"]


def test_the_studys_baselines_share_what_they_can_with_plain_grpo():
    grid = read_grid()
    plain, shared = grid.cell("grpo", 2), ("bases", "dial", "train_pairs", "measured_pairs", "final_pairs", "judges")
    methods = next(tier.methods for tier in grid.tiers if tier.name == "supervised")
    for cell in grid.cells(["supervised"]):
        assert all(getattr(cell, name) == getattr(plain, name) for name in (*shared, "balance_votes", "measure_every"))
        assert cell.trainer != "grpo" and cell.seed in (0, 1, 2)
    views = {name: (cell := grid.cell(name, 0)).steps * cell.pairs_per_step for name in methods}
    equal = {name for name, n in views.items() if n == plain.steps * plain.pairs_per_step}
    assert {grid.cell(name, 0).trainer for name in equal} >= {"sft_answer", "sft_trace", "dpo"}


def test_a_tier_may_say_which_methods_answer_what(read):
    asked = {"For how long?": ("long",), "And heard?": ("listened", "plain")}
    text = "questions = {'For how long?' = ['long'], 'And heard?' = ['listened', 'plain']}"
    first, second = read(GOOD.replace('methods = ["listened", "long"]', text)).tiers
    assert second.questions == asked and second.methods == ("long", "listened", "plain") and first.questions == {}


def test_quick_is_the_same_run_in_short(read):
    grid = read(GOOD)
    for cell in grid.cells():
        short = quick(cell)
        kept = {f.name for f in fields(Cell) if getattr(short, f.name) == getattr(cell, f.name)}
        changed = {f.name for f in fields(Cell)} - kept
        assert changed <= {"steps", "train_pairs", "measure_every", "measured_pairs", "final_pairs"}
        assert short.steps * short.pairs_per_step <= cell.steps * cell.pairs_per_step
        assert short.steps % short.measure_every == 0 and short.measured_pairs <= short.final_pairs


# --- what does not fit


ERRORS = {  # what is replaced, by what, what the error must name
    "no toml": ("[methods.plain]", "[methods.plain", "not a TOML file"),
    "unknown table": ("[methods.plain]", "[method.plain]", "unknown setting 'method'; there are defaults, me"),
    "key outside any table": ("\n[defaults]", "steps = 3\n[defaults]", "unknown setting 'steps'"),
    "defaults no table": ('[defaults]\nbases = ["base-a", "base-b"]\ndial = 0.8', "defaults = 3", "defaults: a table"),
    "a method no table": ("[methods.long]", "[methods]\nother = 3\n[methods.long]", "method other: a table"),
    "a tier no table": ("[tiers.first]", "[tiers]\nother = 3\n[tiers.first]", "tier other: a table"),
    "unknown setting": ("steps = 900", "stpes = 900", "method long: unknown setting 'stpes'"),
    "unknown default": ("dial = 0.8", "dail = 0.8", "method plain: unknown setting 'dail'"),
    "the method's own name": ("steps = 900", 'method = "x"', "unknown setting 'method'"),
    "a seed": ("steps = 900", "seed = 1", "unknown setting 'seed'"),
    "text for a number": ("steps = 900", 'steps = "900"', "method long, steps: '900' does not fit"),
    "a fraction for a whole number": ("steps = 900", "steps = 90.5", "method long, steps: 90.5"),
    "a truth value for a whole number": ("steps = 900", "steps = true", "method long, steps: True"),
    "a truth value for a number": ("dial = 0.8", "dial = true", "method plain, dial: True"),
    "a number for a truth value": ("steps = 900", "verdict = 1", "method long, verdict: 1"),
    "no steps": ("steps = 900", "steps = 0", "method long, steps: 0"),
    "a negative number of pairs": ("steps = 900", "final_pairs = -1", "method long, final_pairs: -1"),
    "a number for a list": ("weights = [1, 0.5]", "weights = 1", "method plain, weights: 1"),
    "text among numbers": ("weights = [1, 0.5]", 'weights = [1, "0.5"]', "method plain, weights: "),
    "a truth value among numbers": ("weights = [1, 0.5]", "weights = [true, 0.5]", "method plain, weights: "),
    "a number among names": ('listeners = ["reader"]', "listeners = [1]", r"method listened, listeners: \[1\]"),
    "a list among names": ('["base-a", "base-b"]', '["base-a", ["base-b"]]', "method plain, bases: "),
    "a name for a list": ('listeners = ["reader"]', 'listeners = "reader"', "method listened, listeners: 'reader'"),
    "a number as label": ('label = "longer"', "label = 3", "method long, label: 3"),
    "no base": ('bases = ["base-a", "base-b"]', "", "method plain: bases must name at least one"),
    "an empty list of bases": ('["base-a", "base-b"]', "[]", "method plain: bases must name at least one"),
    "an unknown scaling": ("steps = 900", 'scale_rewards = "rows"', "long, scale_rewards: one of group, batch, none"),
    "a scaling of no type": ("steps = 900", "scale_rewards = false", "method long, scale_rewards: False"),
    "an unknown aggregation": ("steps = 900", 'aggregation = "sum"', "long, aggregation: one of sum_then_normalize, "),
    "an unknown reward": ("steps = 900", 'reward = "listner"', "long, reward: one of none, rule, .*not 'listner'"),
    "a reward without a listener": ('listeners = ["reader"]', "", "listened, listeners: reward 'listener' needs"),
    "a dial beyond 1": ("dial = 0.8", "dial = 7", "method plain, dial: a share from 0 to 1, not 7"),
    "a weight too few": ("steps = 900", "weights = [1, 0.5]", "long, weights: 2 are fewer than the parts"),
    "odd pairs": ("steps = 900", "pairs_per_step = 7", "long, pairs_per_step: an even number .* not 7"),
    "an unknown trainer": ("steps = 900", 'trainer = "ppo"', "long, trainer: one of grpo, sft_answer, sft_trace, brad"),
    "a baseline with a reward": ("steps = 900", 'trainer = "dpo"', "long, reward: 'listener' is for GRPO; dpo learns"),
    "DPO without beta": ("weights = [1, 0.5]", 'trainer = "dpo"', "method plain: DPO needs beta > 0"),
    "DPO of one completion": ("weights = [1, 0.5]", 'trainer = "dpo"\nbeta = 0.1\nnum_generations = 1',
                              "method plain: DPO needs .* num_generations of at least 2"),
    "more pairs than at the end": ("steps = 900", "measured_pairs = 9\nfinal_pairs = 8", "measured_pairs: 9 .* the 8"),
    "fewer pairs at the end": ("dial = 0.8", "final_pairs = 1", "method plain, measured_pairs: .* more than the 1 of"),
    "like nobody": ('like = "listened"', 'like = "someone"', "method long: like = 'someone' names no other method"),
    "like oneself": ('like = "listened"', 'like = "listened_again"', "like = 'listened_again' names no other"),
    "like in a circle": ("lr = 1e-3", "lr = 1e-3\n[methods.listened2]\nlike = 'listened3'\n[methods.listened3]\n"
                         "like = 'listened2'", "method listened2: like = 'listened2' names no other"),
    "like a number": ('like = "listened"', "like = 1", "method listened_again, like: 1"),
    "a tier without methods": ('methods = ["listened", "long"]', "", "tier second, methods: a list"),
    "a tier of no methods": ('methods = ["listened", "long"]', "methods = []", "tier second, methods: a list"),
    "a tier of one method's name": ('methods = ["listened", "long"]', 'methods = "long"', "tier second, methods: a li"),
    "methods besides questions": ("seeds = 3", 'seeds = 3\nquestions = {"How?" = ["long"]}', "methods, or questions"),
    "questions without methods": ('methods = ["listened", "long"]', 'questions = {"How?" = []}', "second, methods: "),
    "a method in two questions": ('methods = ["listened", "long"]',
                                  'questions = {"How?" = ["long"], "Why?" = ["long"]}', "second: a method .* twice"),
    "a question with one name": ('methods = ["listened", "long"]', 'questions = {"How?" = "long"}', "list of .* 'How?"),
    "questions no table": ('methods = ["listened", "long"]', 'questions = ["long"]', "tier second, questions: a table"),
    "a tier of an unknown method": ('"listened", "long"]', '"listened", "lnog"]', "tier second: no method 'lnog'"),
    "a tier without seeds": ("seeds = 3", "", "tier second: seeds is how many there are, at least 1, not None"),
    "no seed": ("seeds = 3", "seeds = 0", "tier second: seeds .* not 0"),
    "a truth value of seeds": ("seeds = 3", "seeds = true", "tier second: seeds .* not True"),
    "a list of seeds": ("seeds = 3", "seeds = [1, 2, 3]", "tier second: seeds .* not "),
    "an unknown key of a tier": ("seeds = 3", "seed = 3", "tier second: unknown setting 'seed'"),
    "a reason that is no text": ('why = "a test"', "why = 3", "tier first, why: 3"),
}


@pytest.mark.parametrize("old, new, named", ERRORS.values(), ids=ERRORS.keys())
def test_what_does_not_fit_is_named_with_its_file(read, old, new, named):
    assert GOOD.count(old) >= 1
    with pytest.raises(ValueError, match=rf"study\.toml.*{named}"):
        read(GOOD.replace(old, new, 1))


def test_a_grid_without_tiers_asks_for_nothing(read):
    with pytest.raises(ValueError, match=r"study\.toml: there is no \[tiers.NAME\]"):
        read('[methods.plain]\nbases = ["base-a"]')


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"study\.toml: not a TOML file"):
        read_grid(tmp_path / "study.toml")


def test_every_reward_that_the_grid_knows_can_be_built():
    from lrt.models import load
    from lrt.study.arms import added_reward

    reader = load("reader")
    for name in REWARDS:
        cell = replace(read_grid().cell("listener_reader", 0), reward=name)
        made = added_reward(cell, reader, tiny_pairs("train", 2))
        assert (made is None) == (name == "none")
        if name not in UNHEARD:
            with pytest.raises(ValueError, match="needs a listener"):
                added_reward(replace(cell, listeners=()), reader, tiny_pairs("train", 2))


SCALINGS = [(name, value) for name, values in CHOICES.items() if name in ("scale_rewards", "aggregation")
            for value in values]


@pytest.mark.parametrize("name, value", SCALINGS)
def test_every_choice_is_one_that_the_trainer_knows(read, name, value, tmp_path):
    settings = grpo_settings(read(GOOD.replace("steps = 900", f'{name} = "{value}"')).cell("long", 0))
    config = trl_config(settings, [1.0, 0.5], tmp_path, torch.device("cpu"))
    assert value in (config.scale_rewards, config.multi_objective_aggregation)
