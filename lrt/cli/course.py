"""`lrt tutorial`, `lrt exercises`, and for classes `lrt classroom`."""

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.options import ProfileName, ProfileOption, Seed, plainly, printable, say

app = typer.Typer(help="For teachers and classes: recorded runs, and an assignment with a seed a student.",
                  no_args_is_help=True)

Course = Annotated[str, typer.Option(help="A word that goes into every seed: another one in another year.")]


@app.command("pack")
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


@app.command("open")
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


@app.command("seed")
@plainly
def classroom_seed(name: Annotated[str, typer.Argument(help="A name, or an id.")], course: Course = ""):
    """The seed of a name: the same everywhere, whatever the case and the spaces."""
    from lrt.course.assignment import seed_of

    say(str(seed_of(name, course)))


@app.command("run")
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


@app.command("check")
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


@plainly
def exercises(out: Annotated[Path, typer.Argument(help="A folder outside the clone.")]):
    """A copy of the notebooks to work in: no solutions, and the graded exercises in OUT/exercises."""
    from lrt.course.exercises import TESTS, student_copy

    written = student_copy(out)
    say(f"{len(written)} files in {out}. Fill in {out / TESTS / 'adapters.py'}, then: pytest {out / TESTS}")
