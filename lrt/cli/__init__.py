"""The command line, `lrt`. Whatever is heavy is imported inside the command that needs it, so that help is quick."""

import os
import warnings
from typing import Annotated

import typer

from lrt.cli import book, course, data, judging, machine, study, training

app = typer.Typer(
    name="lrt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (judging.judge, judging.evaluate, judging.score, training.pretrain, course.tutorial, course.exercises,
                machine.doctor):
    app.command()(command)
for group, name in ((training, "train"), (study, "study"), (machine, "bench"), (data, "data"), (book, "book"),
                    (course, "classroom")):
    app.add_typer(group.app, name=name)


@app.callback()
def whole(traceback: Annotated[bool, typer.Option(help="Show where an error came from.")] = False):
    """Listener-rewarded thinking for image preferences, taught and measured in a tiny world."""
    os.environ["LRT_TRACEBACK"] = "1" if traceback else ""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # other packages' plans are no news to a user
