"""What a tiny model can do, measured and written beside its weights: `card.json` for tests, `README.md` for readers.

A reasoner's card says how many of the words that it writes about images are true. A listener's card holds the reading
test: does it answer from the statements of a trace, or does it only repeat the verdict?
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from lrt import stats, traces, world
from lrt.listener import LocalListener
from lrt.models import Loaded, find, generate, load
from lrt.pairs import scenes_of, swap_order, tiny_pairs
from lrt.prompts import parse


@dataclass(frozen=True)
class Needed:
    """What a listener must do to earn its place in training."""

    right_from_statements: float = 0.85  # at least: true statements, verdict removed
    right_when_swapped: float = 0.30  # at most: the two descriptions exchanged, verdict removed


def card_pairs(n_pairs: int = 240) -> Dataset:
    """The pairs that every card is measured on: validation prompts, tint uninformative, one image truly better."""
    pairs = tiny_pairs("validation", n_pairs, seed=7, shortcut=0.5)
    gap = np.array(pairs["utility_1"]) - np.array(pairs["utility_2"])
    return pairs.select(np.flatnonzero(gap))


def reasoner_card(loaded: Loaded, pairs: Dataset, max_new_tokens: int = 64) -> dict:
    """Greedy completions on `pairs`: share of true words per attribute, of strict format, of right answers, and of
    answers that differ from the trace's own verdict."""
    rows = list(pairs)
    texts = generate(loaded, [r["prompt"] for r in rows], [r["images"] for r in rows], max_new_tokens)
    parsed = [parse(t) for t in texts]
    checked = [
        s
        for row, p in zip(rows, parsed, strict=True)
        for s in traces.check_trace(p.trace, world.parse_prompt(row["prompt"]), scenes_of(row))
    ]
    attributes = ("colour", "shape", "place", "mark", "missing", "quality")
    true = {a: _share(s.true for s in checked if s.attribute == a) for a in attributes}
    pairs_said = [(p.answer, traces.read_trace(p.trace)[0].verdict) for p in parsed if p.ok]
    return {
        "n_pairs": len(rows),
        "format": _share(p.ok for p in parsed),
        "true_words": true | {"all": _share(s.true for s in checked)},
        "accuracy_utility": _share(p.answer == _better(r) for p, r in zip(parsed, rows, strict=True)),
        "departs_from_own_verdict": _share(a != v for a, v in pairs_said if v is not None),
    }


def reading_test(listener, pairs: Dataset) -> dict:
    """The reading test on pairs with one truly better image; every number is a share or a probability in [0, 1].

    `listener` is anything with `p_first(prompts_B, images_B, traces_BG)`. "Right" means: the better image gets more
    than half. `moved_by_*` are mean absolute changes of p. Position bias is the
    mean p of image 1 over both orders, less a half.
    """
    rows = list(pairs)
    gold = [traces.gold_trace(world.parse_prompt(r["prompt"]), scenes_of(r), None) for r in rows]
    variants = {
        "true": [str(g) for g in gold],
        "swapped": [str(traces.swap_descriptions(g)) for g in gold],
        "right_verdict": [_with_verdict(g, _better(r)) for g, r in zip(gold, rows, strict=True)],
        "wrong_verdict": [_with_verdict(g, 3 - _better(r)) for g, r in zip(gold, rows, strict=True)],
        "empty": ["" for _ in gold],
    }
    p_BG = np.array(_listen(listener, rows, [list(v) for v in zip(*variants.values(), strict=True)]), dtype=float)
    p = dict(zip(variants, p_BG.T, strict=True))
    better_first = np.array([_better(r) == 1 for r in rows])
    right = {name: float(np.mean((v > 0.5) == better_first)) for name, v in p.items()}
    turned = list(swap_order(pairs))
    turned_traces = [str(traces.swap_descriptions(g)) for g in gold]
    p_turned = np.array(_listen(listener, turned, [[t] for t in turned_traces]), dtype=float)[:, 0]
    vote_first = np.array([r["vote"] == 1 for r in rows])
    confidence = np.maximum(p["true"], 1 - p["true"])
    return {
        "n_pairs": len(rows),
        "right_from_statements": right["true"],
        "right_when_swapped": right["swapped"],
        "right_with_right_verdict": right["right_verdict"],
        "right_against_wrong_verdict": right["wrong_verdict"],
        "right_without_trace": right["empty"],
        "moved_by_statements": float(np.mean(np.abs(p["true"] - p["swapped"]))),
        "moved_by_verdict": float(np.mean(np.abs(p["right_verdict"] - p["wrong_verdict"]))),
        "ece_votes": float(stats.ece(confidence, (p["true"] > 0.5) == vote_first)),
        "position_bias": float((p["true"].mean() + p_turned.mean()) / 2 - 0.5),
    }


def passes(card: dict, needed: Needed = Needed()) -> bool:
    """Whether a reading test earns a listener its place in training."""
    return (
        card["right_from_statements"] >= needed.right_from_statements
        and card["right_when_swapped"] <= needed.right_when_swapped
        and card["moved_by_verdict"] < card["moved_by_statements"]
    )


TITLES = {
    "reasoner": "The base: sees, keeps the format, judges poorly and departs from its own verdict. As a listener: the "
    "paper's own case, the frozen base.",
    "reader": "The listener of the training: another seed and width than the reasoner, taught to read evidence.",
    "llava": "A listener of another architecture (LLaVA's classes), with a tokenizer and chat format of its own.",
    "weak": "A listener whose reading was cut short.",
    "blind": "A listener that is given no images: it can only believe the trace.",
    "shortcut": "A listener that learned from pairs in which the better image is nearly always warm.",
    "base-b": "A second base for the study, pretrained apart from `reasoner`.",
    "base-c": "A third base for the study, pretrained apart from the two others.",
    "base-consistent": "`base-b` with another last stage: its answer never departs from its verdict.",
    "base-clueless": "`base-b` with another last stage: its verdict knows nothing of the images.",
    "reasoner-sft": "The base after supervised fine-tuning on votes.",
    "reasoner-grpo": "The base after plain GRPO.",
    "reasoner-grpo-listener": "The base after GRPO with the listener `reader`.",
}


def card_for(name: str, report=print) -> dict:
    """Measure a shipped model and write its card: a trained reasoner is looked at, a listener takes the reading test,
    the base does both."""
    loaded, pairs = load(name), card_pairs()
    sections = {}
    if name.startswith(("reasoner", "base-")):
        sections["seeing"] = reasoner_card(loaded, pairs)
    if not name.startswith("reasoner-"):
        sections["reading test"] = reading_test(LocalListener(loaded), pairs)
    folder = Path(find(name))
    write_card(folder, TITLES[name], sections)
    report(f"{folder / 'card.json'}: {json.dumps(_rounded(sections))}")
    return sections


def write_card(folder: Path, title: str, sections: dict[str, dict]) -> None:
    """`card.json` and `README.md` in a model's folder, from what was measured and from its `recipe.json`."""
    recipe_file = folder / "recipe.json"
    made = json.loads(recipe_file.read_text()) if recipe_file.exists() else {}
    (folder / "card.json").write_text(json.dumps(_rounded(sections), indent=1) + "\n")
    lines = [f"# {folder.name}", "", title, "", "All numbers are from the tiny world.", ""]
    for name, content in [*sections.items(), *([("recipe", made)] if made else [])]:
        lines += [f"## {name}", "", "| | |", "|---|---|"]
        lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in _flat(_rounded(content))] + [""]
    (folder / "README.md").write_text("\n".join(lines))


def _better(row: dict) -> int:
    return 1 if row["utility_1"] > row["utility_2"] else 2


def _with_verdict(gold: traces.Trace, verdict: int) -> str:
    return str(traces.Trace(gold.images, verdict))


def _listen(listener, rows: list[dict], traces_BG: list[list[str]]) -> Sequence[Sequence[float]]:
    return listener.p_first([r["prompt"] for r in rows], [r["images"] for r in rows], traces_BG)


def _share(values) -> float | None:
    values = [bool(v) for v in values if v is not None]
    return float(np.mean(values)) if values else None


def _rounded(value):
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _flat(record: dict, prefix: str = ""):
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}: ")
        else:
            yield prefix + key, value
