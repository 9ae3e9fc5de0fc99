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

from lrt.profiles import PROFILES

app = typer.Typer(
    name="lrt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(help="Train a reasoner: `lrt train sft` or `lrt train grpo`.", no_args_is_help=True)
study_app = typer.Typer(help="Many runs, and what they say of the claims: `lrt study run`.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(study_app, name="study")

Model = Annotated[str, typer.Option(help="A tiny model's name, a folder, or a hub id.")]
ProfileName = Enum("ProfileName", {name: name for name in PROFILES}, type=str)
ProfileOption = Annotated[ProfileName, typer.Option(help="How much is trained and measured.")]


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


def load(name: str, trainable: bool = False):
    """`models.load` without transformers' bar, which a tiny model does not need; a download keeps its own."""
    from transformers.utils import logging

    from lrt import models

    logging.disable_progress_bar()
    return models.load(name, trainable=trainable)


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


def own_pairs(folder: Path, skip_bad: bool = False):
    """The pairs of a user's folder; with `skip_bad`, what is left out is told on stderr."""
    from lrt.folder import folder_pairs, readable_pairs

    if not skip_bad:
        return folder_pairs(folder)
    pairs, problems = readable_pairs(folder)
    for problem in problems:
        typer.echo(f"left out: {printable(problem)}", err=True)
    typer.echo(f"left out {len(problems)} of {len(problems) + len(pairs)} rows", err=True)
    return pairs


# --- evaluating ----------------------------------------------------------------------------------------------------


@app.command()
@plainly
def evaluate(
    model: Model = "reasoner-grpo-listener",
    profile: ProfileOption = ProfileName.laptop,
    split: Annotated[list[str] | None, typer.Option(help="Repeat for several. Default: the profile's.")] = None,
    test_pairs: Annotated[int | None, typer.Option(min=1, help="Pairs a split. Default: the profile's.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="A folder of your own pairs instead (lrt.folder).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the records to this JSON file.")] = None,
):
    """Judge test pairs greedily: accuracy by split, what the tint does, and records as JSON."""
    from lrt import evaluate as room
    from lrt.judging import is_tiny, refuse_unknown_pairs, tokens_for
    from lrt.methods import test_splits
    from lrt.pairs import tiny_pairs
    from lrt.stats import save_records

    chosen, loaded = PROFILES[profile.value], load(model)
    if pairs is not None:
        if split or test_pairs:
            raise ValueError("--pairs takes all pairs of the folder: leave out --split and --test-pairs")
        splits = {"folder": own_pairs(pairs)}
        refuse_unknown_pairs(loaded, splits["folder"])
    elif split or test_pairs:
        n = test_pairs or chosen.test_pairs
        splits = {name: tiny_pairs(name, n) for name in dict.fromkeys(split or chosen.splits)}
    else:
        splits = test_splits(chosen)
    tokens = chosen.max_new_tokens if is_tiny(loaded) else tokens_for(loaded)
    records, _ = room.evaluate(loaded, splits, model, seed=None, progress=progress, max_new_tokens=tokens)
    say(room.format_table(records))
    if out is not None:
        save_records(records, out)
        say(f"\n{len(records)} records in {out}")


# --- training ------------------------------------------------------------------------------------------------------

Seed = Annotated[int, typer.Option(help="Of the order of pairs and of all sampling.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps. Default: the profile's.")]
OwnPairs = Annotated[Path | None, typer.Option(help="A folder of your own pairs (lrt.folder).")]
SkipBad = Annotated[bool, typer.Option(help="Leave out rows of --pairs that cannot be read, and say so.")]
Rank = Annotated[int, typer.Option(min=0, help="Rank of a LoRA adapter; 0 trains all weights.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder. Asked again with it, a run goes on.")]


@train_app.command("sft")
@plainly
def train_sft(
    model: Model = "reasoner",
    profile: ProfileOption = ProfileName.laptop,
    steps: Steps = None,
    seed: Seed = 0,
    lora_rank: Rank = 0,
    pairs: OwnPairs = None,
    skip_bad: SkipBad = False,
    out: Out = None,
):
    """Supervised fine-tuning on the votes, without traces."""
    from dataclasses import replace

    from lrt.checkpoints import with_adapter
    from lrt.methods import sft_settings
    from lrt.sft import train_sft as train

    chosen, loaded = PROFILES[profile.value], load(model, trainable=not lora_rank)
    how = sft_settings(chosen, seed)
    how = replace(how, steps=steps or how.steps, lora_rank=lora_rank)
    rows = _training_pairs(chosen, seed, pairs, skip_bad, loaded)
    out = out or Path("runs/sft")
    _done(train(with_adapter(loaded, lora_rank, seed), rows, how, out), out, "loss")


@train_app.command("grpo")
@plainly
def train_grpo(
    model: Model = "reasoner",
    listener: Annotated[str, typer.Option(
        help="Whose reading is rewarded: a model; 'adapter-off' for the base under the adapter; 'none' for plain GRPO."
    )] = "reader",
    profile: ProfileOption = ProfileName.laptop,
    steps: Steps = None,
    seed: Seed = 0,
    lora_rank: Rank = 0,
    pairs: OwnPairs = None,
    skip_bad: SkipBad = False,
    out: Out = None,
):
    """GRPO on r = r_format + 0.5 r_accuracy + 0.5 r_listener, or without the listener's part."""
    from dataclasses import replace

    from lrt.checkpoints import with_adapter
    from lrt.grpo import train_grpo as train
    from lrt.listener import AdapterOffListener, LocalListener
    from lrt.methods import grpo_settings, rewards

    chosen, loaded = PROFILES[profile.value], load(model, trainable=not lora_rank)
    how = grpo_settings(chosen, seed)
    how = replace(how, steps=steps or how.steps, lora_rank=lora_rank)
    reader = load(listener) if listener not in ("none", "adapter-off") else None
    rows = _training_pairs(chosen, seed, pairs, skip_bad, loaded, *([reader] if reader else []))
    loaded = with_adapter(loaded, lora_rank, seed)
    ear = AdapterOffListener(loaded) if listener == "adapter-off" else reader and LocalListener(reader)
    method = "grpo_listener" if ear else "grpo"
    out = out or Path("runs") / method
    _done(train(loaded, rows, *rewards(method, ear), how, out), out, "reward")


def _training_pairs(chosen, seed: int, folder: Path | None, skip_bad: bool, *models):
    """The profile's pairs, or the user's own where no model refuses them."""
    from lrt.judging import refuse_unknown_pairs
    from lrt.methods import training_pairs

    if folder is None:
        if skip_bad:
            raise ValueError("--skip-bad is about --pairs, and no folder is given")
        return training_pairs(chosen, seed)
    rows = own_pairs(folder, skip_bad)
    for loaded in models:
        refuse_unknown_pairs(loaded, rows)
    return rows


def _done(log: list[dict], out: Path, what: str) -> None:
    """First and last tenth of the run, and where the model is."""
    values = [record[what] for record in log if record.get(what) is not None]
    if values:
        n = max(1, len(values) // 10)
        first, last = sum(values[:n]) / n, sum(values[-n:]) / n
        say(f"{what} {first:.3f} at first, {last:.3f} at last (one seed; a mean of {n} step{'s' * (n != 1)} each)")
    say(f"model: {out / 'model'}\nlog:   {out / 'log.jsonl'}\nnext:  lrt evaluate --model {out / 'model'}")


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
    from lrt import grid
    from lrt import study as rooms

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
    from lrt import claims

    for path in claims.write(folder):
        say(str(path))


# --- the rest ------------------------------------------------------------------------------------------------------


@app.command()
@plainly
def tutorial(
    profile: ProfileOption = ProfileName.laptop,
    out: Annotated[Path, typer.Option(help="The run's folder; asked again, it goes on there.")] = Path("runs/tutorial"),
    seed: Seed = 0,
):
    """Run the notebooks and write one page of results: `make tutorial`."""
    from lrt.tutorial import NotebookFailed, run

    try:
        run(profile.value, out, seed=seed)
    except NotebookFailed as failed:
        typer.echo(f"lrt: {printable(str(failed))}", err=True)
        raise typer.Exit(1) from None


@app.command()
@plainly
def bench(
    steps: Annotated[int, typer.Option(min=2, help="Training steps a run; the first is not counted.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
):
    """Ratios measured in one run: listener scoring, a step with a listener, our step beside TRL's own."""
    from transformers.utils import logging

    from lrt.bench import bench as measure

    logging.disable_progress_bar()
    measure(steps=steps, repeats=repeats, report=say)


@app.command()
@plainly
def doctor():
    """What this machine has, what fits on it, and what to do where something is missing."""
    from lrt.doctor import checks, report

    found = checks()
    say(report(found))
    raise typer.Exit(1 if any(check.ok is False for check in found) else 0)


if __name__ == "__main__":
    app()
