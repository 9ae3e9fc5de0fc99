"""Pretraining: recorded losses come back, a killed run goes on as if it had not been, examples are what they say."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from lrt import models, pretrain, tiny, traces, world
from lrt.pairs import bucket, scenes_of, tiny_pairs
from lrt.pretrain import RECIPES, Reading, Recipe, Stage
from lrt.prompts import parse

SMALL = Recipe(
    "small", shape=tiny.Shape(32, 1, 1, 32, 1, 1), see=Stage(4, 4), speak=Stage(2, 4), reading=Reading(Stage(2, 4))
)
SHIPPED = [n for n in RECIPES if (models.data_dir() / "models" / n / "recipe.json").exists()]


def quiet(_):
    pass


@pytest.mark.parametrize("name", ["reasoner", "reader", "llava"])
def test_the_first_steps_give_the_recorded_losses(name):
    recorded = json.loads((models.data_dir() / "models" / name / "recipe.json").read_text())["first_losses"]["see"]
    recipe = RECIPES[RECIPES[name].start or name]
    model, processor = pretrain.build(recipe)
    losses = pretrain.train_stage(model, processor, recipe, "see", recipe.see, stop=2, report=quiet)
    assert losses == pytest.approx(recorded[:2], abs=2e-3)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_was_made_by_the_recipe_of_its_name(name):
    recorded = json.loads((models.data_dir() / "models" / name / "recipe.json").read_text())["recipe"]
    assert recorded == json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))


def test_a_stage_that_was_killed_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    whole, processor = pretrain.build(SMALL)
    losses = pretrain.train_stage(whole, processor, SMALL, "see", SMALL.see, report=quiet)
    killed, processor = pretrain.build(SMALL)
    pretrain.train_stage(killed, processor, SMALL, "see", SMALL.see, tmp_path / "see.pt", stop=3, report=quiet)
    again, processor = pretrain.build(SMALL)
    resumed = pretrain.train_stage(again, processor, SMALL, "see", SMALL.see, tmp_path / "see.pt", report=quiet)
    assert resumed == losses
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_pretraining_draws_no_prompt_and_no_thing_of_another_split():
    r = world.rng("test pretraining")
    buckets, matching, things = set(), 0, 0
    for _ in range(200):
        example = pretrain.see_example(r)
        asked = world.parse_prompt(example.prompt)
        buckets.add(bucket(world.prompt_id(asked)))
        said = traces.read_trace(parse(example.completion + " <answer> 1 </answer>").trace)[0]
        slots = [s for d in said.images if d for s in d.slots if s]
        assert not world.is_held_out([s.thing for s in slots]) and not world.is_held_out(asked)
        matching += sum(s.mark == "good" for s in slots)
        things += len(slots)
    assert max(buckets) < 40  # the split "pretrain" and no other
    assert matching / things < 0.55, "the prompt must not predict the picture"


def test_the_weak_judge_departs_from_its_verdict_one_time_in_five():
    r = world.rng("test judge")
    parsed = [parse(pretrain.speak_example(r).completion) for _ in range(600)]
    assert all(p.ok for p in parsed)
    departs = np.mean([p.answer != traces.read_trace(p.trace)[0].verdict for p in parsed])
    assert abs(departs - 0.2) < 0.05


def test_a_reading_example_ends_in_the_vote_and_a_verdict_says_nothing_about_it():
    r, reading = world.rng("test reading"), Reading(corruption=(0.0,), empty=0.0)
    rows = [row for row in tiny_pairs("listener", 120) if row["utility_1"] != row["utility_2"]]
    named = []
    for row in rows * 3:
        parsed = parse(pretrain.read_example(row, reading, r).completion)
        trace, malformed = traces.read_trace(parsed.trace)
        assert parsed.answer == row["vote"] and malformed == 0
        assert all(s.true for s in traces.check_trace(parsed.trace, world.parse_prompt(row["prompt"]), scenes_of(row)))
        if trace.verdict:
            named.append(trace.verdict == (1 if row["utility_1"] > row["utility_2"] else 2))
    assert 0.4 < len(named) / (3 * len(rows)) < 0.6 and 0.4 < np.mean(named) < 0.6


@pytest.mark.parametrize("answer_only", [False, True])
def test_labels_are_the_completion_or_the_answer_alone(answer_only):
    processor = tiny.qwen_processor()
    r = world.rng("test labels")
    examples = [pretrain.speak_example(r) for _ in range(3)]
    batch = pretrain.make_batch(processor, examples, answer_only)
    for labels, example in zip(batch["labels"], examples, strict=True):
        text = processor.tokenizer.decode(labels[labels != -100])
        answer = str(parse(example.completion).answer)
        assert text == answer if answer_only else text == example.completion + " <|im_end|>"


def test_an_unknown_recipe_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="no recipe 'huge'; there are reasoner"):
        pretrain.pretrain("huge", tmp_path, tmp_path)
