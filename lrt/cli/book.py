"""`lrt book build`, `lrt book refresh`, `lrt book browser`."""

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.options import ProfileName, plainly, printable, say

app = typer.Typer(help="The site: `lrt book build`, and the notebooks it shows.", no_args_is_help=True)


@app.command("build")
@plainly
def book_build(out: Annotated[Path | None, typer.Option(help="Default: book/_build/html.")] = None):
    """Build the site from written pages, executed notebooks and committed records; nothing is run."""
    from lrt.book.build import build

    build(out, report=say)


@app.command("refresh")
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


@app.command("browser")
@plainly
def book_browser():
    """Write the tiny models and the pairs of the page on which a reader edits a trace: book/_static/play."""
    from transformers.utils import logging

    from lrt.book.build import repository
    from lrt.book.gallery import write

    logging.disable_progress_bar()
    book = repository() / "book"
    write(book / "_static" / "play", book / "play_listener_pairs.html", report=say)
