"""A model on a benchmark, from its files to the benchmark's own number: what `lrt evaluate --source ...` does.

Both orders of every pair are judged, greedily; the choices are a file that `lrt score` reads again, and the numbers are
by `lrt.real.benchmarks`. A completion that cannot be parsed chooses nothing and is wrong.
"""

from dataclasses import dataclass

from datasets import Dataset

from lrt import evaluate
from lrt.evaluate import Progress
from lrt.models import Loaded
from lrt.real import benchmarks, score_report, scores
from lrt.real.benchmarks import Line
from lrt.real.bring import RANKINGS, Files, read
from lrt.real.predictions import Predictions, from_judgements, names_of, pair_ids
from lrt.real.ranked import Ranked


@dataclass(frozen=True)
class Labelled:
    """A benchmark's pairs beside their labels: `ranked` holds just the rows that all pairs are there of."""

    source: str
    pairs: Dataset
    ranked: list[Ranked]


def read_test(files: Files, most: int | None = None) -> tuple[Labelled, list[str]]:
    """(the first pairs, at most so many, and no ranking cut; a message for each row left out).

    With `skip_bad` a ranking of which a pair cannot be read is left out whole, and so is nothing that a model could
    have got wrong. ValueError as in `bring.read`, and for files that are no test.
    """
    labels = scores.labels(files.source, files.path, [] if files.skip_bad else None, files.aspect)
    pairs, problems = read(files, limit=most, whole=files.source in RANKINGS)
    there, ranked, judged = set(pairs["pair_id"]), [], set()
    for row in labels:
        own = {name for name, *_ in pair_ids(row, files.source)}
        if own and own <= there:
            ranked.append(row)
            judged |= own
    if not ranked:
        raise ValueError(f"{files.path}: of no prompt can all pairs be read; the first problem: {problems[0]}")
    if judged != there:
        problems = [*problems, f"{len(there - judged)} further pairs, of prompts of which others are left out"]
        pairs = pairs.select([i for i, name in enumerate(pairs["pair_id"]) if name in judged])
    return Labelled(files.source, pairs, ranked), problems


def choices(loaded: Loaded, test: Labelled, pairs: Dataset | None = None, progress: Progress | None = None,
            **options) -> Predictions:
    """A model's choices in both orders, under the label file's names. `pairs` are the test's own with other images
    (`images.one_size`); `options` go to `evaluate.judge`."""
    pairs = test.pairs if pairs is None else pairs
    forward, reverse = evaluate.judge_both_orders(loaded, pairs, progress=progress, **options)
    return from_judgements(forward, reverse, names_of(test.ranked, test.source))


def numbers(test: Labelled, made: Predictions) -> tuple[list[Line], str]:
    """(the numbers by the benchmark's rules, the report on them)"""
    lines = benchmarks.score(test.source, made, test.ranked, allow_missing=True)
    return lines, score_report.report(test.source, made, test.ranked, lines, None)
