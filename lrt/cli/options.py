"""What the commands share: their options, a mistake told in one sentence, and pairs and models as the options say.

What a user can get wrong (a name, a path, a row of a table) ends with a sentence on stderr and exit code 2.
"""

import functools
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lrt.profiles import PROFILES, REAL, changed
from lrt.profiles import profile as profile_named

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
Seed = Annotated[int, typer.Option(help="Of the order of pairs and of all sampling.")]


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


def known(*names: str) -> None:
    """Refuse a name that is no model's before anything else takes time; whether a hub id exists, loading says."""
    from lrt.models import find

    for name in names:
        find(name)


def progress(done: int, total: int) -> None:
    """On stderr: one line that counts in a terminal, nothing in a file."""
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {total} pairs", nl=done == total, err=True)


def chosen_profile(profile: AnyProfileName, changes: list[str] | None = None, lora_rank: int | None = None):
    """The profile, with what --set says and the rank asked for in place of its own."""
    from dataclasses import replace

    found = changed(profile_named(profile.value), changes or [])
    return found if lora_rank is None else replace(found, lora_rank=lora_rank)


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
    """On stderr: what was left out beside n pairs, where that was asked for. A problem may cost a row, a pair or, where
    rankings stay whole, a prompt."""
    if not files.skip_bad:
        return
    for problem in problems:
        typer.echo(f"left out: {printable(problem)}", err=True)
    typer.echo(f"{len(problems)} problem{'s' * (len(problems) != 1)} left out; {n} pairs stay", err=True)


def read_pairs(files, **how):
    """The pairs of `bring.Files`, and on stderr what was left out of them."""
    from lrt.real.bring import read

    pairs, problems = read(files, **how)
    tell_left_out(files, problems, len(pairs))
    return pairs
