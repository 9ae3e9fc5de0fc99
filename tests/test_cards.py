"""The reading test tells listeners apart, and the numbers on the shipped cards are those that the models give."""

import json

import pytest

from lrt import cards, models
from lrt.listener import LocalListener
from lrt.prompts import verdict_of
from lrt.traces import read_trace, rule_verdict

FOLDER = models.data_dir() / "models"
CARDS = {p.parent.name: json.loads(p.read_text()) for p in sorted(FOLDER.glob("*/card.json"))}
TRAINING_LISTENER = "reader"


class Rule:
    """A listener that answers from the words of a trace alone: `read` gives 1, 2 or None (no opinion)."""

    name = "rule"

    def __init__(self, read):
        self.read = read

    def p_first(self, prompts_B, images_B, traces_BG):
        return [[{1: 0.9, 2: 0.1, None: 0.5}[self.read(t)] for t in traces_G] for traces_G in traces_BG]


def reads_evidence(trace):
    return rule_verdict(read_trace(trace)[0])


@pytest.fixture(scope="module")
def pairs():
    return cards.card_pairs(60)


def test_a_listener_that_reads_the_evidence_passes(pairs):
    card = cards.reading_test(Rule(reads_evidence), pairs)
    assert card["right_from_statements"] == 1.0 and card["right_when_swapped"] == 0.0
    assert card["right_against_wrong_verdict"] == 1.0 and card["moved_by_verdict"] == 0.0
    assert card["moved_by_statements"] == pytest.approx(0.8)
    assert abs(card["position_bias"]) < 1e-9
    assert cards.passes(card)


def test_a_listener_that_reads_only_the_verdict_fails(pairs):
    card = cards.reading_test(Rule(verdict_of), pairs)
    assert card["right_with_right_verdict"] == 1.0 and card["right_against_wrong_verdict"] == 0.0
    assert card["moved_by_verdict"] == pytest.approx(0.8) and card["moved_by_statements"] == 0.0
    assert not cards.passes(card)


def test_an_always_first_listener_has_position_bias(pairs):
    card = cards.reading_test(Rule(lambda trace: 1), pairs)
    assert card["position_bias"] == pytest.approx(0.4) and not cards.passes(card)


def test_card_pairs_have_one_truly_better_image_each(pairs):
    assert all(a != b for a, b in zip(pairs["utility_1"], pairs["utility_2"], strict=True))


def test_every_shipped_model_has_a_card():
    assert set(CARDS) == set(models.tiny_names())


@pytest.mark.parametrize("name", [n for n, card in CARDS.items() if "reading test" in card])
def test_the_card_says_what_the_listener_does(name):
    measured = cards.reading_test(LocalListener(models.load(name)), cards.card_pairs())
    assert measured == pytest.approx(CARDS[name]["reading test"], abs=0.02)


@pytest.mark.parametrize("name", [n for n, card in CARDS.items() if "seeing" in card])
def test_the_card_says_what_the_reasoner_sees(name):
    measured = cards.reasoner_card(models.load(name), cards.card_pairs())
    recorded = CARDS[name]["seeing"]
    assert measured.pop("true_words") == pytest.approx(recorded["true_words"], abs=0.02, nan_ok=True)
    assert measured == pytest.approx({k: v for k, v in recorded.items() if k != "true_words"}, abs=0.02, nan_ok=True)


def test_the_training_listener_earned_its_place_and_the_frozen_base_did_not():
    assert cards.passes(CARDS[TRAINING_LISTENER]["reading test"])
    assert not cards.passes(CARDS["reasoner"]["reading test"])


def test_the_shipped_models_stay_small():
    size = sum(p.stat().st_size for p in FOLDER.rglob("*.safetensors"))
    assert size <= 30e6
