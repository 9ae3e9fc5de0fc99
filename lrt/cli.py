"""The command line, `lrt`. Whatever is heavy is imported inside the command that needs it, so that help is quick.

What a user can get wrong (a name, a path, a row of a table) ends with a sentence on stderr and exit code 2.
"""

import functools
import json
import os
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lrt.profiles import PROFILES, REAL, changed
from lrt.profiles import profile as profile_named

app = typer.Typer(
    name="lrt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(help="Train a reasoner: `lrt train sft` or `lrt train grpo`.", no_args_is_help=True)
study_app = typer.Typer(help="Many runs, and what they say of the claims: `lrt study run`.", no_args_is_help=True)
bench_app = typer.Typer(invoke_without_command=True)  # its help is that of `bench`
app.add_typer(train_app, name="train")
app.add_typer(study_app, name="study")
app.add_typer(bench_app, name="bench")

Model = Annotated[str, typer.Option(help="A tiny model's name, a folder, or a hub id.")]
ProfileName = Enum("ProfileName", {name: name for name in PROFILES}, type=str)
ProfileOption = Annotated[ProfileName, typer.Option(help="How much is trained and measured.")]
AnyProfileName = Enum("AnyProfileName", {name: name for name in (*PROFILES, *REAL)}, type=str)
AnyProfile = Annotated[AnyProfileName, typer.Option(help="How much, with which model, on which machine: lrt doctor.")]
ProfilesModel = Annotated[str | None, typer.Option(help="A tiny model's name, a folder, or a hub id. Default: the "
                                                        "profile's.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="A field of the profile, as weights=4bit; may be "
                                                                "repeated (lrt.profiles).")]
Source = Annotated[str, typer.Option(help="What --pairs is: folder, imagereward, hpdv2, rapidata, pickapic.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images that --pairs names, where they lie apart.")]
Aspect = Annotated[str | None, typer.Option(help="rapidata with several: preference, coherence, alignment.")]
SkipBad = Annotated[bool, typer.Option(help="Leave out rows of --pairs that cannot be read, and say so.")]


@app.callback()
def whole(traceback: Annotated[bool, typer.Option(help="Show where an error came from.")] = False):
    """Listener-rewarded thinking for image preferences, taught and measured in a tiny world."""
    os.environ["LRT_TRACEBACK"] = "1" if traceback else ""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # other packages' plans are no news to a user


def plainly(command):
    """A user's mistake as one sentence, exit code 2. `lrt --traceback ...` lets the error through."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            if os.environ["LRT_TRACEBACK"] or isinstance(error, BrokenPipeError):
                raise
            fresh_line = "\r\033[K" if sys.stderr.isatty() else ""  # a progress bar may stand there
            typer.echo(f"{fresh_line}lrt: {printable(str(error))}", err=True)
            raise typer.Exit(2) from None

    return wrapped


def printable(text: str) -> str:
    """Text for a terminal: a model's words may hold control sequences, and a terminal would obey them."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def say(text: str) -> None:
    typer.echo(printable(text))


def load(name: str, trainable: bool = False, chosen=None):
    """`models.load` without transformers' bar, which a tiny model does not need; a download keeps its own. As the
    profile `chosen` wants it, where one is given."""
    from transformers.utils import logging

    from lrt import methods, models

    logging.disable_progress_bar()
    return models.load(name, trainable=trainable) if chosen is None else methods.load_as(chosen, name, trainable)


def _known(*names: str) -> None:
    """Refuse a name that is no model's before anything else takes time; whether a hub id exists, loading says."""
    from lrt.models import find

    for name in names:
        find(name)


def progress(done: int, total: int) -> None:
    """On stderr: one line that counts in a terminal, nothing in a file."""
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {total} pairs", nl=done == total, err=True)


# --- judging -------------------------------------------------------------------------------------------------------


@app.command()
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


def brought(pairs: Path | None, source: str, images: Path | None, aspect: str | None, skip_bad: bool):
    """What the options say of pairs that are brought, as `bring.Files`; None where there are none."""
    from lrt.real.bring import Files

    if pairs is not None:
        return Files(source, pairs, images, aspect, skip_bad)
    for name, given in (("source", source != "folder"), ("images", images), ("aspect", aspect), ("skip-bad", skip_bad)):
        if given:
            raise ValueError(f"--{name} is about --pairs, and none are given")
    return None


def tell_left_out(files, problems: list[str], n: int) -> None:
    """On stderr: what was left out beside n pairs, where that was asked for."""
    if not files.skip_bad:
        return
    for problem in problems:
        typer.echo(f"left out: {printable(problem)}", err=True)
    typer.echo(f"left out {len(problems)} of {len(problems) + n} rows", err=True)


# --- evaluating ----------------------------------------------------------------------------------------------------


@app.command()
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

    Of a benchmark's files (--source) every pair is judged in both orders and scored by the benchmark's own rule, beside
    a judge that always says "first" and the published numbers.
    """
    from lrt import evaluate as room
    from lrt.images import one_size
    from lrt.judging import is_tiny, refuse_unknown_pairs, tokens_for
    from lrt.methods import test_splits
    from lrt.pairs import tiny_pairs
    from lrt.stats import save_records

    chosen = _chosen(profile, changes)
    files, test = brought(pairs, source, images, aspect, skip_bad), None
    if chosen.size and files is None:
        raise ValueError(f"profile {chosen.name} judges real pairs: bring them with --pairs and --source")
    if predictions is not None and source == "folder":
        raise ValueError("--predictions is about a benchmark's files: name them with --source and --pairs")
    if files is not None and (split or (test_pairs and source == "folder")):
        raise ValueError("--pairs takes all pairs of the folder: leave out --split and --test-pairs")
    model = model or (chosen.reasoner if chosen.size else "reasoner-grpo-listener")
    _known(model)
    # Files first: what is wrong with them is seen in seconds, and a model may take minutes.
    if files is not None and source != "folder":
        from lrt.real.judge import read_test

        test, problems = read_test(files, test_pairs or (chosen.test_pairs if chosen.size else None))
        tell_left_out(files, problems, len(test.pairs))
        splits = {source: one_size(test.pairs, chosen.image_side)}
    elif files is not None:
        splits = {source: one_size(_read(files), chosen.image_side)}
    elif split or test_pairs:
        n = test_pairs or chosen.test_pairs
        splits = {name: tiny_pairs(name, n) for name in dict.fromkeys(split or chosen.splits)}
    else:
        splits = test_splits(chosen)
    loaded = load(model, chosen=chosen)
    if files is not None:
        refuse_unknown_pairs(loaded, splits[source])
    tokens = chosen.max_new_tokens if chosen.size or is_tiny(loaded) else tokens_for(loaded)
    if test is not None:
        records = _benchmark(loaded, model, test, splits[source], predictions, max_new_tokens=tokens,
                             batch=chosen.listener_batch)
    else:
        records, _ = room.evaluate(loaded, splits, model, seed=None, progress=progress, max_new_tokens=tokens)
        say(room.format_table(records))
    if out is not None:
        save_records(records, out)
        say(f"\n{len(records)} records in {out}")


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


def _read(files, **how):
    from lrt.real.bring import read

    pairs, problems = read(files, **how)
    tell_left_out(files, problems, len(pairs))
    return pairs


@app.command()
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
    lines = benchmarks.score(benchmark, made, ranked, threshold or 0.0, allow_missing)
    say(score_report.report(benchmark, made, ranked, lines, threshold))
    if out is not None:
        save_records(score_report.to_records(lines, predictions.stem, benchmark), out)
        say(f"\n{len(lines)} records in {out}")


# --- training ------------------------------------------------------------------------------------------------------

Seed = Annotated[int, typer.Option(help="Of the order of pairs and of all sampling.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps. Default: the profile's.")]
OwnPairs = Annotated[Path | None, typer.Option(help="A folder of your own pairs (lrt.folder), or what --source says.")]
Rank = Annotated[int | None, typer.Option(min=0, help="Rank of a LoRA adapter; 0 trains all weights. Default: the "
                                                      "profile's.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder. Asked again with it, a run goes on.")]


@train_app.command("sft")
@plainly
def train_sft(
    model: ProfilesModel = None,
    profile: AnyProfile = AnyProfileName.laptop,
    changes: Changes = None,
    steps: Steps = None,
    seed: Seed = 0,
    lora_rank: Rank = None,
    pairs: OwnPairs = None,
    source: Source = "folder",
    images: Images = None,
    aspect: Aspect = None,
    skip_bad: SkipBad = False,
    out: Out = None,
):
    """Supervised fine-tuning on the votes, without traces."""
    from dataclasses import replace

    from lrt.checkpoints import with_adapter
    from lrt.methods import sft_settings
    from lrt.sft import train_sft as train

    chosen = _chosen(profile, changes, lora_rank)
    how = sft_settings(chosen, seed)
    how = replace(how, steps=steps or how.steps)
    files = brought(pairs, source, images, aspect, skip_bad)
    _known(model or chosen.reasoner)
    rows = _training_pairs(chosen, seed, files)
    loaded = load(model or chosen.reasoner, not chosen.lora_rank, chosen)
    _refuse(rows, files, loaded)
    out = out or Path("runs/sft")
    log = train(with_adapter(loaded, chosen.lora_rank, seed), rows, how, out)
    _done(log, out, "loss", _to_evaluate(profile, changes, files))


@train_app.command("grpo")
@plainly
def train_grpo(
    model: ProfilesModel = None,
    listener: Annotated[list[str] | None, typer.Option(
        help="Whose reading is rewarded: a model; 'adapter-off' for the base under the adapter; a server's address and "
             "model, http://host:8000/v1#owner/model; 'none' for plain GRPO. May be repeated. Default: the profile's."
    )] = None,
    combine: Annotated[str, typer.Option(help="Several listeners: mean, minimum or majority (lrt.ensemble).")] = "mean",
    profile: AnyProfile = AnyProfileName.laptop,
    changes: Changes = None,
    steps: Steps = None,
    seed: Seed = 0,
    lora_rank: Rank = None,
    pairs: OwnPairs = None,
    source: Source = "folder",
    images: Images = None,
    aspect: Aspect = None,
    skip_bad: SkipBad = False,
    out: Out = None,
):
    """GRPO on r = r_format + 0.5 r_accuracy + 0.5 r_listener, or without the listener's part."""
    from dataclasses import replace

    from lrt.checkpoints import with_adapter
    from lrt.grpo import train_grpo as train
    from lrt.images import one_size
    from lrt.methods import grpo_settings

    chosen = _chosen(profile, changes, lora_rank)
    names = listener or [chosen.listener]
    how = grpo_settings(chosen, seed)
    how = replace(how, steps=steps or how.steps)
    files = brought(pairs, source, images, aspect, skip_bad)
    elsewhere = [name for name in names if name in ("none", "adapter-off") or "://" in name]
    _known(model or chosen.reasoner, *(name for name in names if name not in elsewhere))
    rows = _training_pairs(chosen, seed, files)
    loaded = load(model or chosen.reasoner, not chosen.lora_rank, chosen)
    readers = {name: load(name, chosen=chosen) for name in names if name not in elsewhere}
    _refuse(rows, files, loaded, *readers.values())
    loaded = with_adapter(loaded, chosen.lora_rank, seed)
    functions, weights = _rewards(names, combine, readers, loaded, chosen)
    out = out or Path("runs") / ("grpo" if names == ["none"] else "grpo_listener")
    if not (out / "done.json").exists():  # a finished run only loads its model
        _refuse_the_silent(functions, one_size(rows.select(range(min(1, len(rows)))), chosen.image_side))
    _done(train(loaded, rows, functions, weights, how, out), out, "reward", _to_evaluate(profile, changes, files))


def _rewards(names: list[str], combine: str, readers: dict, policy, chosen):
    """(functions, weights) of GRPO with the listeners that are named; `readers` are those that were loaded."""
    from lrt.async_rewards import listener_reward
    from lrt.listener import LocalListener
    from lrt.methods import listener_for
    from lrt.rewards import WEIGHTS, accuracy_reward, format_reward

    if "none" in names:
        if len(names) > 1:
            raise ValueError("--listener none is plain GRPO, and stands alone")
        return [format_reward, accuracy_reward], list(WEIGHTS[:2])
    ears = [LocalListener(readers[name], batch=chosen.listener_batch) if name in readers
            else listener_for(chosen, policy, name) for name in names]
    return [format_reward, accuracy_reward, listener_reward(ears, combine)], list(WEIGHTS)


def _chosen(profile: AnyProfileName, changes: list[str] | None = None, lora_rank: int | None = None):
    """The profile, with what --set says and the rank asked for in place of its own."""
    from dataclasses import replace

    found = changed(profile_named(profile.value), changes or [])
    return found if lora_rank is None else replace(found, lora_rank=lora_rank)


def _training_pairs(chosen, seed: int, files):
    """The profile's pairs, or what it uses of those brought: of a benchmark no other is copied."""
    from lrt.methods import chosen_pairs, training_pairs

    if files is None:
        return training_pairs(chosen, seed)
    if not chosen.size:
        return _read(files)
    if files.source == "folder":
        return chosen_pairs(_read(files), chosen)
    return _read(files, share=chosen.share, limit=chosen.train_pairs)


def _refuse(rows, files, *models) -> None:
    """A tiny model among the models, and pairs brought that are not of its world."""
    from lrt.judging import refuse_unknown_pairs

    for loaded in models if files is not None else ():
        refuse_unknown_pairs(loaded, rows)


def _refuse_the_silent(functions, rows) -> None:
    """Ask every listener elsewhere about one pair: training would go on without it, and take hours to say so."""
    from lrt.remote import RemoteListener, check_answer

    for ear in [ear for f in functions for ear in getattr(f, "listeners", ())]:
        if isinstance(ear, RemoteListener) and len(rows):
            check_answer(ear, rows[0]["prompt"], rows[0]["images"])


def _to_evaluate(profile, changes: list[str] | None, files) -> str:
    """The options with which `lrt evaluate` judges as the run was trained; test pairs are the user's to name."""
    said = "" if profile.value == "laptop" else f" --profile {profile.value}"
    said += "".join(f" --set {change}" for change in changes or ())
    if files is None:
        return said
    if files.source == "folder":
        return f"{said} --pairs TEST_FOLDER"
    said += f" --source {files.source} --pairs TEST_FILES"
    return said + (" --images FOLDER" if files.images else "") + (f" --aspect {files.aspect}" if files.aspect else "")


def _done(log: list[dict], out: Path, what: str, options: str = "") -> None:
    """First and last tenth of the run, how much of it a listener missed, where the model is, and what comes next."""
    values = [record[what] for record in log if record.get(what) is not None]
    if values:
        n = max(1, len(values) // 10)
        first, last = sum(values[:n]) / n, sum(values[-n:]) / n
        say(f"{what} {first:.3f} at first, {last:.3f} at last (one seed; a mean of {n} step{'s' * (n != 1)} each)")
    missed = [record[key] for record in log if (key := "listener/unscored_groups") in record]
    if missed:
        say(f"groups that the listener did not score: {100 * sum(missed) / len(missed):.1f} %")
    say(f"model: {out / 'model'}\nlog:   {out / 'log.jsonl'}\nnext:  lrt evaluate --model {out / 'model'}{options}")


@app.command()
@plainly
def pretrain(
    names: Annotated[list[str] | None, typer.Argument(help="Tiny models. Default: all that have a recipe.")] = None,
    runs: Annotated[Path, typer.Option(help="Where finished stages are kept, to go on from.")] = Path("runs/pretrain"),
):
    """Make the tiny models of data/models again, each with its card. About ten minutes a model on one core."""
    from lrt import cards
    from lrt import pretrain as rooms
    from lrt.models import data_dir

    shipped = [name for name in rooms.RECIPES if not name.endswith("-base")]
    if unknown := [name for name in names or [] if name not in rooms.RECIPES]:
        raise ValueError(f"no recipe {unknown[0]!r}; there are {', '.join(shipped)}")
    for name in names or shipped:
        rooms.pretrain(name, data_dir() / "models", runs, report=say)
        if name in shipped:
            cards.card_for(name, report=say)


# --- the study -----------------------------------------------------------------------------------------------------


@study_app.command("run")
@plainly
def study_run(
    settings: Annotated[Path | None, typer.Option(help="The grid. Default: data/study/study.toml.")] = None,
    tier: Annotated[list[str] | None, typer.Option(help="Only these tiers; may be given again.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods; may be given again.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="These seeds instead of the tier's own.")] = None,
    logs: Annotated[Path | None, typer.Option(help="Where the logs are. Default: data/study/logs.")] = None,
    runs: Annotated[Path, typer.Option(help="Unfinished runs, to go on from.")] = Path("runs/study"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side. Default: the cores.")] = None,
    quick: Annotated[bool, typer.Option(help="Its shape in minutes: the first tier, two seeds, 20 steps.")] = False,
):
    """Run what is not finished; killed at any moment and asked again, it goes on."""
    from lrt.study import grid
    from lrt.study import pool as rooms

    asked = grid.read_grid(settings)
    if quick:
        cells = [grid.quick(c) for c in asked.cells(tier or [asked.tiers[0].name], method, seed or [0, 1])]
        runs, logs = runs / "quick", logs or runs / "quick" / "logs"
    else:
        cells = asked.cells(tier, method, seed)
    logs = logs or rooms.logs_folder()
    waiting = [cell for cell in cells if not rooms.finished(cell, logs)]
    say(f"{len(cells)} runs, {len(waiting)} to do; logs in {logs}")
    try:
        rooms.run_study(cells, runs, logs, jobs)
    except RuntimeError as failed:
        typer.echo(f"lrt: {printable(str(failed))}", err=True)
        raise typer.Exit(1) from None


@study_app.command("claims")
@plainly
def study_claims(
    folder: Annotated[Path | None, typer.Option(help="Holds logs/; the tables go there. Default: data/study.")] = None,
):
    """Hold the logs against the claims: writes claims.md and claims.json."""
    from lrt.study import claims

    for path in claims.write(folder):
        say(str(path))


# --- the benchmarks' files -----------------------------------------------------------------------------------------

data_app = typer.Typer(help="The benchmarks' own files: `lrt data check NAME PATH`.", no_args_is_help=True)
app.add_typer(data_app, name="data")

DATA = "imagereward, hpdv2, rapidata, pickapic or folder."


@data_app.command("check")
@plainly
def data_check(
    name: Annotated[str, typer.Argument(help=DATA)],
    path: Annotated[Path, typer.Argument(help="A label file, a Parquet shard, or a folder of shards.")],
    images: Annotated[Path | None, typer.Option(help="The folder that the labels' file names start from.")] = None,
    labels_only: Annotated[bool, typer.Option(help="Do not look at images, even where they are inside.")] = False,
    decode: Annotated[bool, typer.Option(help="Decode each image, or only look whether it is there.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    aspect: Aspect = None,
    picture: Annotated[Path | None, typer.Option(help="Draw a few pairs to this PNG file.")] = None,
):
    """What is there: prompts, images, pairs, ties, what is missing or broken, and how well "always 1" does.

    Exit code 1 if an image or a row cannot be read, or nothing is there.
    """
    from lrt.real import datacheck

    found = datacheck.check(name, path, images, labels_only, decode, limit, aspect=aspect)
    say(datacheck.told(found))
    if picture is not None:
        if found.examples:
            datacheck.draw(found, picture)
            say(f"picture: {picture}")
        else:
            say("no picture: no images were read")
    raise typer.Exit(0 if found.clean else 1)


@data_app.command("overlap")
@plainly
def data_overlap(
    train: Annotated[str, typer.Argument(help=DATA)],
    train_path: Annotated[Path, typer.Argument(help="What is trained on.")],
    test: Annotated[str, typer.Argument(help=DATA)],
    test_path: Annotated[Path, typer.Argument(help="What is tested on.")],
    train_images: Annotated[Path | None, typer.Option(help="The folder of the training set's images.")] = None,
    test_images: Annotated[Path | None, typer.Option(help="The folder of the test set's images.")] = None,
    train_aspect: Aspect = None,
    test_aspect: Aspect = None,
    prompts_only: Annotated[bool, typer.Option(help="Compare prompts, not images.")] = False,
):
    """Which prompts and images of a test set are in a training set: the same, and images that look the same."""
    from lrt.real import overlap, sources

    found, bad = [], []
    sets = ((train, train_path, train_images, train_aspect), (test, test_path, test_images, test_aspect))
    for name, path, images, aspect in sets:
        rows = sources.rows(name, path, images, labels_only=prompts_only, decode=False, bad=bad, aspect=aspect)
        found.append(overlap.prints(rows))
    say(overlap.told(overlap.overlap(*found)))
    if bad:
        typer.echo(f"left out {len(bad)} pairs or rows; the first: {printable(str(bad[0]))}", err=True)


@data_app.command("sample")
@plainly
def data_sample(
    out: Annotated[Path | None, typer.Option(help="The folder. Default: data/samples.")] = None,
):
    """Write a tiny sample in each benchmark's format, drawn by the tiny world."""
    from lrt.real.samples import write_samples

    written = write_samples(out)
    say(f"{len(written)} files, {sum(path.stat().st_size for path in written):,} bytes")


# --- the book ------------------------------------------------------------------------------------------------------

book_app = typer.Typer(help="The site: `lrt book build`, and the notebooks it shows.", no_args_is_help=True)
app.add_typer(book_app, name="book")


@book_app.command("build")
@plainly
def book_build(out: Annotated[Path | None, typer.Option(help="Default: book/_build/html.")] = None):
    """Build the site from written pages, executed notebooks and committed records; nothing is run."""
    from lrt.book.build import build

    build(out, report=say)


@book_app.command("refresh")
@plainly
def book_refresh(
    run: Annotated[Path | None, typer.Option(help="A finished run folder of `make tutorial`.")] = None,
    profile: Annotated[ProfileName, typer.Option(help="Without --run: how the notebooks are run.")] = ProfileName.ci,
):
    """Make the executed notebooks of the site again, from a run folder or by running them."""
    from lrt.book.build import refresh
    from lrt.course.tutorial import NotebookFailed

    try:
        refresh(run, profile.value, report=say)
    except NotebookFailed as failed:
        typer.echo(f"lrt: {printable(str(failed))}", err=True)
        raise typer.Exit(1) from None


@book_app.command("browser")
@plainly
def book_browser():
    """Write the tiny models and the pairs of the page on which a reader edits a trace: book/_static/play."""
    from transformers.utils import logging

    from lrt.book.build import repository
    from lrt.book.gallery import write

    logging.disable_progress_bar()
    book = repository() / "book"
    write(book / "_static" / "play", book / "play_listener_pairs.html", report=say)


# --- a class -------------------------------------------------------------------------------------------------------

classroom_app = typer.Typer(help="For teachers and classes: recorded runs, and an assignment with a seed a student.",
                            no_args_is_help=True)
app.add_typer(classroom_app, name="classroom")

Course = Annotated[str, typer.Option(help="A word that goes into every seed: another one in another year.")]


@classroom_app.command("pack")
@plainly
def classroom_pack(
    folder: Annotated[Path, typer.Argument(help="A finished run folder of `make tutorial`.")],
    file: Annotated[Path, typer.Argument(help="The file for the class, such as class.zip.")],
):
    """Collect finished runs in one file, with which every notebook runs without training."""
    from lrt.course import classroom

    found = classroom.pack(folder, file)
    parts = ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in found.items() if kind != "file")
    say(f"{file}: {found['file'] / 1e6:.1f} MB ({parts}). A student: lrt classroom open {file.name}")


@classroom_app.command("open")
@plainly
def classroom_open(
    file: Annotated[Path, typer.Argument(help="What `lrt classroom pack` wrote.")],
    into: Annotated[Path | None, typer.Option(help="The notebooks' folder of runs. Default: beside them.")] = None,
):
    """Put the recorded runs where the notebooks look for them, everything in the file checked first."""
    from transformers.utils import logging

    from lrt.course import classroom

    logging.disable_progress_bar()
    into = into or classroom.runs_folder()
    said = classroom.open_archive(file, into)
    say(classroom.told(said, into))


@classroom_app.command("seed")
@plainly
def classroom_seed(name: Annotated[str, typer.Argument(help="A name, or an id.")], course: Course = ""):
    """The seed of a name: the same everywhere, whatever the case and the spaces."""
    from lrt.course.assignment import seed_of

    say(str(seed_of(name, course)))


@classroom_app.command("run")
@plainly
def classroom_run(
    name: Annotated[str, typer.Argument(help="A name, or an id.")],
    out: Annotated[Path, typer.Argument(help="The submission's folder; asked again with it, a run goes on.")],
    course: Course = "",
):
    """The assignment: asks for a prediction, makes the three runs of the name's seed, and begins the report."""
    from transformers.utils import logging

    from lrt.course import assignment

    logging.disable_progress_bar()
    if (path := assignment.run(name, out, course, say)) is not None:
        say(f"The table and the headings: {path}. Hand in the folder without {out / 'runs'}")


@classroom_app.command("check")
@plainly
def classroom_check(
    folders: Annotated[list[Path], typer.Argument(help="Submissions.")],
    rerun: Annotated[str | None, typer.Option(help="Train one of the runs again: answers_tint, answers_even or "
                                                   "traces_tint.")] = None,
    whole: Annotated[bool, typer.Option(help="With --rerun: all of it, not its first steps.")] = False,
):
    """Whose numbers are their own: seed, settings, table, and with --rerun the training; then the class together.

    Exit code 1 if one is not.
    """
    from transformers.utils import logging

    from lrt.course import assignment

    logging.disable_progress_bar()
    found = [assignment.check(folder, rerun, whole) for folder in folders]
    say(assignment.class_table(found))
    raise typer.Exit(1 if any(one.fault for one in found) else 0)


# --- the rest ------------------------------------------------------------------------------------------------------


@app.command()
@plainly
def tutorial(
    profile: ProfileOption = ProfileName.laptop,
    out: Annotated[Path, typer.Option(help="The run's folder; asked again, it goes on there.")] = Path("runs/tutorial"),
    seed: Seed = 0,
):
    """Run the notebooks and write one page of results: `make tutorial`."""
    from lrt.course.tutorial import NotebookFailed, run

    try:
        run(profile.value, out, seed=seed)
    except NotebookFailed as failed:
        typer.echo(f"lrt: {printable(str(failed))}", err=True)
        raise typer.Exit(1) from None


@app.command()
@plainly
def exercises(out: Annotated[Path, typer.Argument(help="A folder outside the clone.")]):
    """A copy of the notebooks to work in: no solutions, and the graded exercises in OUT/exercises."""
    from lrt.course.exercises import TESTS, student_copy

    written = student_copy(out)
    say(f"{len(written)} files in {out}. Fill in {out / TESTS / 'adapters.py'}, then: pytest {out / TESTS}")


@bench_app.callback()
@plainly
def bench(
    context: typer.Context,
    steps: Annotated[int, typer.Option(min=2, help="Training steps a run; the first is not counted.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
):
    """Ratios measured in one run: listener scoring, a step with a listener, our step beside TRL's own."""
    if context.invoked_subcommand:
        return
    from transformers.utils import logging

    from lrt.machine.bench import bench as measure

    logging.disable_progress_bar()
    measure(steps=steps, repeats=repeats, report=say)


@bench_app.command("gpu")
@plainly
def bench_gpu(
    size: Annotated[str, typer.Option(help="Shape of Qwen2.5-VL: 3B or 7B; tiny to see that it runs.")] = "7B",
    out: Annotated[Path, typer.Option(help="Asked again with this file, it goes on.")] = Path("runs/gpu_cost.jsonl"),
    device: Annotated[str, typer.Option(help="cuda, or cpu for the size tiny.")] = "cuda",
    commit: Annotated[str | None, typer.Option(help="Names the code where there is no git checkout.")] = None,
):
    """What steps cost at real scale, with random weights: seconds, memory, share of the arithmetic limit."""
    from transformers.utils import logging

    from lrt.machine.bench_gpu import bench_gpu as measure
    from lrt.machine.cost_table import cost_table

    logging.disable_progress_bar()
    measure(size, out, device, commit, report=say)
    say(f"\n{cost_table(out)}\n{out}")


@app.command()
@plainly
def doctor(
    profile: Annotated[AnyProfileName | None, typer.Option(help="Only a real profile's memory and cost.")] = None,
    changes: Changes = None,
):
    """What this machine has, which profiles fit on it, and what to do where something is missing."""
    from lrt.machine import run_cost
    from lrt.machine.doctor import checks
    from lrt.machine.doctor import report as told
    from lrt.machine.fitting import report, this_machine
    from lrt.machine.memory import table

    if profile:
        chosen = _chosen(profile, changes)
        say(f"{table(chosen)}\n\n{run_cost.table(chosen)}")
        return
    if changes:
        raise ValueError("--set changes a profile: name it with --profile")
    found = checks()
    say(f"{told(found)}\n\n{report(this_machine())}")
    raise typer.Exit(1 if any(check.ok is False for check in found) else 0)


if __name__ == "__main__":
    app()
