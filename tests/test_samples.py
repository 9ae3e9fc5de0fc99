"""Completions kept while a run trains: which pairs, that keeping changes nothing, and that bad files are refused."""

import json

import numpy as np
import pytest
import torch
from tiny_runs import assert_same_weights, build, saved, untimed, weights

from lrt import models, samples
from lrt.controls import RandomListener
from lrt.files import read_lines
from lrt.grpo import GRPOSettings, train_grpo
from lrt.metrics import labels, warm_side
from lrt.pairs import tiny_pairs
from lrt.prompts import text_of

PAIRS = tiny_pairs("train", 4)
SMALL = GRPOSettings(steps=4, pairs_per_step=2, num_generations=2, max_new_tokens=4, lr=1e-2, save_every=2)


def length_reward(completions, **_):
    return [len(text_of(c)) / 100 for c in completions]


class Killed:
    """A reward that breaks off at the n-th rollout, as a killed process would."""

    __name__ = "length_reward"

    def __init__(self, at):
        self.left = at

    def __call__(self, completions, **_):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return length_reward(completions)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("samples") / "base")


def run(base, out, keep=True, reward=length_reward):
    loaded = models.load(base, "cpu", torch.float32, trainable=True)
    kept = samples.Keeping(loaded, out, every=3, samples=1, max_new_tokens=4, pairs=PAIRS.select(range(2)))
    log = train_grpo(loaded, PAIRS, [reward], [1.0], SMALL, out, lambda *_: None, [kept] if keep else [])
    return weights(loaded.model), untimed(log)


def test_the_fixed_pairs_conflict_and_agree_in_turns():
    frame = samples.fixed_pairs().remove_columns("images").to_pandas()
    assert frame["prompt_id"].nunique() == 4
    assert np.all(np.abs(frame["utility_1"] - frame["utility_2"]) >= 1)
    assert (warm_side(frame) == labels(frame, "utility")).tolist() == [False, True, False, True]
    assert samples.fixed_pairs(2)["pair_id"][:] == frame["pair_id"][:2].tolist()
    with pytest.raises(ValueError, match="such pairs, not 99"):
        samples.fixed_pairs(99)


def test_keeping_changes_nothing_and_a_killed_run_keeps_the_same(base, tmp_path):
    whole = run(base, tmp_path / "whole")
    bare = run(base, tmp_path / "bare", keep=False)
    assert_same_weights(whole[0], bare[0])
    assert whole[1] == bare[1]
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "killed", reward=Killed(4))  # in step 4: step 3 was kept, the checkpoint is step 2's
    assert [line["step"] for line in read_lines(tmp_path / "killed" / samples.FILE)][-1] == 3
    assert_same_weights(run(base, tmp_path / "killed")[0], whole[0])
    kept = [samples.read_samples(tmp_path / name / samples.FILE) for name in ("whole", "killed")]
    assert kept[0] == kept[1]
    assert samples.steps_of(kept[0]) == [0, 3, 4]
    assert [(line["step"], line["pair_id"], line["sample"]) for line in kept[0]][:4] == [
        (0, PAIRS[i]["pair_id"], k) for i in (0, 1) for k in (0, 1)]


def test_samples_leave_model_and_generators_as_they_were():
    loaded, pairs = build(), PAIRS.select(range(2))
    loaded.model.train()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = samples.write_samples(loaded, pairs, 5, samples=2, max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), before) and loaded.model.training
    assert first == samples.write_samples(loaded, pairs, 5, samples=2, max_new_tokens=4)
    assert [line["sample"] for line in first] == [0, 1, 2] * 2 and {line["step"] for line in first} == {5}


def test_listeners_hear_each_step_and_pair_as_a_group_and_nothing_that_cannot_be_parsed():
    good = "<think> so </think> <answer> 1 </answer>"
    lines = [{"step": step, "pair_id": PAIRS[0]["pair_id"], "sample": k, "text": text, "p": {}}
             for step in (0, 2) for k, text in enumerate((good, "so"))]
    found = samples.heard_by(lines, PAIRS, {"random": RandomListener(0)})
    assert [line["p"]["random"] is None for line in found] == [False, True] * 2
    assert all(0 <= line["p"]["random"] <= 1 for line in found if line["p"]["random"] is not None)
    assert [{**line, "p": {}} for line in found] == lines
    with pytest.raises(ValueError, match="no pair 'far'"):
        samples.heard_by([lines[0] | {"pair_id": "far"}], PAIRS, {})


@pytest.mark.parametrize(("change", "said"), [
    ({"step": "0"}, "line 2, step: '0' does not fit"),
    ({"sample": True}, "line 2, sample: True"),
    ({"text": None}, "line 2, text"),
    ({"p": {"reader": 1.5}}, "line 2, p of reader: 1.5 is no probability"),
])
def test_a_line_that_does_not_fit_is_named(tmp_path, change, said):
    good = {"step": 0, "pair_id": "a", "sample": 0, "text": "t", "p": {"reader": None}}
    path = tmp_path / samples.FILE
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(ValueError, match=said):
        samples.read_samples(path)


def test_the_committed_records_are_whole_and_of_the_fixed_pairs():
    pairs = set(samples.fixed_pairs()["pair_id"][:])
    for name in samples.SHIPPED:
        lines = samples.read_samples(samples.records_folder() / f"{name}.jsonl")
        assert {line["pair_id"] for line in lines} == pairs and samples.steps_of(lines)[0] == 0
        assert all(set(line["p"]) == set(samples.EARS) for line in lines)
