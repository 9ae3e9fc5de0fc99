"""Completions over training: a slider moves through the steps, and one sees how the text of one pair changes.

It shows what a run kept (`lrt.samples`): per step and pair a greedy completion and a few sampled ones, with true and
false statements marked (`lrt.truth`), the words that were not there at the step before, answer, rewards, and what
listeners make of the trace. `lrt.viewer` shows single steps with more detail; this one is about the way.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset

from lrt.pairs import scenes_of
from lrt.prompts import parse, verdict_of
from lrt.rewards import accuracy_reward, format_reward
from lrt.samples import FILE, fixed_pairs, read_samples, records_folder, steps_of
from lrt.style import look
from lrt.truth import marked_statements
from lrt.viewer import SILENT
from lrt.widgets.fragment import fragment, paragraph, picture, table

TITLE = "Completions over training: move through the steps"
MARKS = {True: "t", False: "f", None: "-"}  # of a word: true, false, states nothing; "?": nobody can score it
NEW = str.maketrans("tf-?", "TF_!")  # the same marks of a word that the step before did not have there
LETTERS = [chr(c) for c in range(33, 127) if chr(c) not in "\"\\<>&"] + [chr(c) for c in range(0x100, 0x1000)]
MOST_STEPS = 7  # of a run: evenly spaced, with the first and the last


def recorded() -> dict[str, list[dict]]:
    """method -> the lines that the site shows of it, from data/results/samples. {} where there are none."""
    return {path.stem: read_samples(path) for path in sorted(records_folder().glob("*.jsonl"))}


def kept(run_dir: str | Path, method: str) -> dict[str, list[dict]]:
    """The same for a reader's own run: what it kept in run_dir/method; without any, the recorded run of this method,
    named so."""
    path = Path(run_dir) / method / FILE
    lines = read_samples(path) if path.exists() else []
    return {method: lines} if lines else {f"{look(method)[0]} (recorded)": recorded().get(method, [])}


def steps_html(runs: Mapping[str, Sequence[dict]], pairs: Dataset | None = None, samples: int = 3) -> str:
    """The thing to play with, as HTML. runs: method -> lines of `samples.read_samples`, all on the same pairs; `pairs`:
    those pairs, by default `samples.fixed_pairs()`; samples: how many are shown beside the greedy one, at most.

    ValueError without any lines, for a pair that is not there, or two lines with one step, pair and sample number.
    """
    runs = {name: own for name, lines in runs.items() if (own := [line for line in lines if line["sample"] <= samples])}
    if not runs:
        raise ValueError("no completions were kept: train with lrt.samples.Keeping among the callbacks")
    rows = {row["pair_id"]: row for row in (fixed_pairs() if pairs is None else pairs)}
    letters: dict[str, str] = {}
    shown = [_run(name, lines, rows, letters) for name, lines in runs.items()]
    data = {"runs": shown, "pairs": [_pair(row) for row in rows.values()],
            "words": {letter: word for word, letter in letters.items()}}
    return fragment("steps", TITLE, data, _static(shown, data["pairs"]))


def _run(name: str, lines: Sequence[dict], rows: Mapping[str, dict], letters: dict[str, str]) -> dict:
    """name, ears (the listeners), steps, and by step, pair and sample what is shown of a completion."""
    by_key = {(line["step"], line["pair_id"], line["sample"]): line for line in lines}
    if len(by_key) < len(lines):
        raise ValueError(f"{name}: two lines have one step, pair and sample number; make the samples again")
    if unknown := {pair for _, pair, _ in by_key} - rows.keys():
        raise ValueError(f"{name}: no pair {min(unknown)!r} among those given")
    steps, samples = thinned(steps_of(lines)), sorted({k for _, _, k in by_key})
    ears, before, shown = list(dict.fromkeys(ear for line in lines for ear in line["p"])), {}, []
    for step in steps:
        by_pair = []
        for pair_id, row in rows.items():
            own = [by_key[key] for k in samples if (key := (step, pair_id, k)) in by_key]
            by_pair.append([_completion(line, row, ears, before, letters) for line in own])
        shown.append(by_pair)
    return {"name": look(name)[0], "ears": ears, "steps": steps, "shown": shown}


def thinned(steps: Sequence[int], most: int = MOST_STEPS) -> list[int]:
    """At most so many of them, evenly spaced, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _completion(line: dict, row: dict, ears: Sequence[str], before: dict, letters: dict[str, str]) -> dict:
    """w: the trace, a letter a word; m: as many marks; s: verdict and answer (0 for none), and the reward for format
    and for accuracy; p: of each of the ears, in thousandths; x: the text as written, where it cannot be parsed."""
    said = parse(line["text"])
    marked = marked_statements({**row, "trace": said.trace})
    own, key = [word for word, _ in marked], (line["pair_id"], line["sample"])
    new = _new(before[key], own) if key in before else [False] * len(own)
    before[key] = own
    marks = [_mark(word, true).translate(NEW if fresh else {})
             for (word, true), fresh in zip(marked, new, strict=True)]
    p = [None if (value := line["p"].get(ear)) is None else round(1000 * value) for ear in ears]
    found = {"w": "".join(letters.setdefault(word, LETTERS[len(letters)]) for word in own), "m": "".join(marks),
             "s": [verdict_of(said.trace) or 0, said.answer or 0, int(format_reward([line["text"]])[0]),
                   int(accuracy_reward([line["text"]], [row["vote"]])[0])]} | ({"p": p} if p else {})
    return found if said.ok else found | {"x": line["text"]}


def _mark(word: str, true: bool | None) -> str:
    return "?" if true is None and word not in SILENT else MARKS[true]


def _new(before: Sequence[str], after: Sequence[str]) -> list[bool]:
    """True for each word of `after` that an edit of `before` puts in."""
    new = [False] * len(after)
    for kind, _, _, start, stop in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind in ("replace", "insert"):
            new[start:stop] = [True] * (stop - start)
    return new


def _pair(row: dict) -> dict:
    scenes = scenes_of(row)
    better = 0 if row["utility_1"] == row["utility_2"] else 1 if row["utility_1"] > row["utility_2"] else 2
    return {
        "prompt": row["prompt"], "vote": row["vote"], "better": better, "tints": [row["tint_1"], row["tint_2"]],
        "images": [picture(image) for image in row["images"]],
        "alts": [f"{', '.join(map(str, scene.things)) or 'nothing'}; {scene.quality}" for scene in scenes],
    }


# --- static content --------------------------------------------------------------------------------------------------


def _static(runs: list[dict], pairs: list[dict]) -> str:
    """A table a run: by step, how many statements are true, and how many completions answer the vote."""
    parts = []
    for run in runs:
        rows = [(step, *_counts(by_pair)) for step, by_pair in zip(run["steps"], run["shown"], strict=True)]
        said = (f"{run['name']}: completions at each step: {sum(map(len, run['shown'][0]))} (one seed: no interval)")
        parts.append(table(("step", "true statements", "as voted", "answer departs from its verdict"), rows, said))
    parts.append(paragraph("The script shows each completion, with its true and false statements marked."))
    return "".join(parts)


def _counts(by_pair: list[list[dict]]) -> tuple[str, str, str]:
    completions = [one for own in by_pair for one in own]
    marks = "".join(one["m"] for one in completions).lower()
    true, stated = marks.count("t"), marks.count("t") + marks.count("f")
    verdicts = [one["s"][:2] for one in completions if one["s"][0] and one["s"][1]]
    share = f"{true} of {stated} ({100 * true / stated:.0f} %)" if stated else "none"
    return (share, f"{sum(one['s'][3] for one in completions)} of {len(completions)}",
            f"{sum(verdict != answer for verdict, answer in verdicts)} of {len(completions)}")
