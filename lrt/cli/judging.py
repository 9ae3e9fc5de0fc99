"""`lrt judge`, `lrt evaluate`, `lrt score`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.options import (
    AnyProfile,
    AnyProfileName,
    Aspect,
    Changes,
    Images,
    Model,
    ProfilesModel,
    SkipBad,
    Source,
    brought,
    chosen_profile,
    known,
    load,
    plainly,
    progress,
    read_pairs,
    say,
    tell_left_out,
)


@plainly
def judge(
    image_1: Annotated[Path, typer.Argument(help="A file: PNG, JPEG, WebP, GIF or BMP.")],
    image_2: Annotated[Path, typer.Argument(help="Another.")],
    prompt: Annotated[str, typer.Option(help="The text that both images were made from.")],
    model: Model = "reasoner-grpo-listener",
    listener: Model = "reader",
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of a completion at most.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
):
    """Which of two images is better? In both orders: trace, answer, and what a listener makes of the trace.

    The tiny models know only their own small scenes and words, and refuse others.
    """
    from lrt.folder import read_image
    from lrt.judging import judge_pair, refuse_unknown, told

    images = [read_image(path) for path in (image_1, image_2)]
    loaded, ear = load(model), load(listener)
    for one in (loaded, ear):
        refuse_unknown(one, prompt, images)
    result = {"images": [str(image_1), str(image_2)], **judge_pair(loaded, ear, prompt, images, max_new_tokens)}
    if as_json:
        typer.echo(json.dumps(result, indent=1))  # ASCII, so nothing in it can steer a terminal
    else:
        say(told(result))


@plainly
def evaluate(
    model: ProfilesModel = None,
    profile: AnyProfile = AnyProfileName.laptop,
    changes: Changes = None,
    split: Annotated[list[str] | None, typer.Option(help="Repeat for several. Default: the profile's.")] = None,
    test_pairs: Annotated[int | None, typer.Option(min=1, help="Pairs a split, or of a benchmark. Default: the "
                                                               "profile's; of a tiny one a whole benchmark.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="A folder of your own pairs instead (lrt.folder), or a "
                                                    "benchmark's label file or shards.")] = None,
    source: Source = "folder",
    images: Images = None,
    aspect: Aspect = None,
    skip_bad: SkipBad = False,
    predictions: Annotated[Path | None, typer.Option(help="Of a benchmark: write the choices here, for `lrt score`.")]
    = None,
    out: Annotated[Path | None, typer.Option(help="Write the records to this JSON file.")] = None,
):
    """Judge test pairs greedily: accuracy by split, what the tint does, and records as JSON.

    Pairs that are brought are judged in both orders of their images; a benchmark's (--source) are scored by its own
    rule, beside a judge that always says "first" and the published numbers. One card, and from the beginning if it is
    stopped.
    """
    from lrt import evaluate as room
    from lrt.images import one_size
    from lrt.judging import is_tiny, refuse_unknown_pairs, tokens_for
    from lrt.methods import test_splits
    from lrt.pairs import tiny_pairs
    from lrt.stats import save_records

    chosen = chosen_profile(profile, changes)
    files, test = brought(pairs, source, images, aspect, skip_bad), None
    if chosen.size and files is None:
        raise ValueError(f"profile {chosen.name} judges real pairs: bring them with --pairs and --source")
    if predictions is not None and source == "folder":
        raise ValueError("--predictions is about a benchmark's files: name them with --source and --pairs")
    if files is not None and (split or (test_pairs and source == "folder")):
        raise ValueError("--pairs takes all pairs of the folder: leave out --split and --test-pairs")
    model = model or (chosen.reasoner if chosen.size else "reasoner-grpo-listener")
    known(model)
    # Files first: what is wrong with them is seen in seconds, and a model may take minutes.
    if files is not None and source != "folder":
        from lrt.real.judge import read_test

        test, problems = read_test(files, test_pairs or (chosen.test_pairs if chosen.size else None))
        tell_left_out(files, problems, len(test.pairs))
        splits = {source: one_size(test.pairs, chosen.image_side)}
    elif files is not None:
        splits = {source: one_size(read_pairs(files), chosen.image_side)}
    elif split or test_pairs:
        n = test_pairs or chosen.test_pairs
        splits = {name: tiny_pairs(name, n) for name in dict.fromkeys(split or chosen.splits)}
    else:
        splits = test_splits(chosen)
    loaded = load(model, chosen=chosen)
    if files is not None:
        refuse_unknown_pairs(loaded, splits[source])
    tokens = chosen.max_new_tokens if chosen.size or is_tiny(loaded) else tokens_for(loaded)
    options = {"max_new_tokens": tokens, "batch": chosen.listener_batch}
    if test is not None:
        records = _benchmark(loaded, model, test, splits[source], predictions, **options)
    elif files is not None:
        records = _own(loaded, model, splits[source], **options)
    else:
        records, _ = room.evaluate(loaded, splits, model, seed=None, progress=progress, max_new_tokens=tokens)
        say(room.format_table(records))
    if out is not None:
        save_records(records, out)
        say(f"\n{len(records)} records in {out}")


def _own(loaded, model: str, pairs, **options) -> list:
    """Judge a folder's pairs in both orders, and say what exchanging the images does; the records."""
    from lrt import evaluate as room
    from lrt.comparing import percent
    from lrt.metrics import both_orders

    forward, reverse = room.judge_both_orders(loaded, pairs, progress=progress, **options)
    records = room.split_records(forward, model, "folder", None)
    records += room.to_records(both_orders(forward, reverse), model, "folder", None)
    said = {record.metric: percent(record) for record in records if record.n}
    names = {"accuracy_reverse": "right, images exchanged", "accuracy_consistent": "right in both orders",
             "same_answer": "the same image in both", "first_share": 'answers "1"'}
    orders = "; ".join(f"{name} {said.get(metric, '-')}" for metric, name in names.items())
    say(f"{room.format_table(records)}\n\n{orders}")
    return records


def _benchmark(loaded, model: str, test, pairs, predictions: Path | None, **options) -> list:
    """Judge a benchmark in both orders, write the choices, say the numbers by its own rules; their records."""
    from lrt.real import judge, score_report
    from lrt.real.predictions import write

    made = judge.choices(loaded, test, pairs, progress, **options)
    if predictions is not None:
        write(made, predictions)
    lines, report = judge.numbers(test, made)
    say(f"{model}: {len(pairs)} pairs of {test.source}, each in both orders\n\n{report}")
    if predictions is not None:
        say(f"\n{len(made.values)} choices in {predictions}")
    return score_report.to_records(lines, model, test.source)


@plainly
def score(
    benchmark: Annotated[str, typer.Option(help="imagereward, hpdv2, pickapic or rapidata.")],
    labels: Annotated[Path, typer.Option(help="The benchmark's own label file: ImageReward's and HPDv2's test.json.")],
    predictions: Annotated[Path | None, typer.Option(help="JSON lines, as described above.")] = None,
    template: Annotated[Path | None, typer.Option(help="Write the file to fill here, and stop.")] = None,
    form: Annotated[str, typer.Option(help="Of the template: image (a score each) or pair (a choice each).")] = "image",
    aspect: Aspect = None,
    allow_missing: Annotated[bool, typer.Option(help="Count predictions that are not there as wrong.")] = False,
    validation_labels: Annotated[Path | None, typer.Option(help="pickapic: tune the tie threshold here ...")] = None,
    validation_predictions: Annotated[Path | None, typer.Option(help="... with the model's scores on it.")] = None,
    tie_threshold: Annotated[float | None, typer.Option(help="pickapic: or the threshold itself.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file too.")] = None,
):
    """Score any model's predictions by a benchmark's own rules; no GPU, no images.

    A line of predictions is a score for an image: {"prompt_id": "...", "image": "...", "score": 1.25}. Or it is the
    choice for two images in the order shown (1, 2; 0 for a tie), better in both orders of each pair, two lines:
    {"prompt_id": "...", "image_1": "...", "image_2": "...", "choice": 1}. Names are those of the label file; --template
    writes them all, with null to be filled in. More is said in lrt/real/predictions.py.
    """
    from lrt.real import benchmarks, score_report, scores
    from lrt.real import predictions as files
    from lrt.stats import save_records

    if (predictions is None) == (template is None):
        raise ValueError("name either --predictions, the file to score, or --template, the file to write")
    ranked = scores.labels(benchmark, labels, aspect=aspect)
    if template is not None:
        n = files.template(ranked, template, form)
        say(f"{n} lines in {template}: put a {'score' if form == 'image' else 'choice'} in place of each null")
        return
    made = files.read(predictions, ranked)
    threshold = score_report.threshold_for(benchmark, tie_threshold, validation_labels, validation_predictions)
    try:
        lines = benchmarks.score(benchmark, made, ranked, threshold or 0.0, allow_missing)
    except ValueError as error:
        raise ValueError(f"{predictions}: {error}") from None
    say(score_report.report(benchmark, made, ranked, lines, threshold))
    if out is not None:
        save_records(score_report.to_records(lines, predictions.stem, benchmark), out)
        say(f"\n{len(lines)} records in {out}")
