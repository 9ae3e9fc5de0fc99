"""`lrt study run`, `lrt study claims`."""

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.options import plainly, printable, say

app = typer.Typer(help="Many runs, and what they say of the claims: `lrt study run`.", no_args_is_help=True)


@app.command("run")
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


@app.command("compare")
@plainly
def study_compare(a: Path, b: Path):
    """Are two logs the same but for times? So they must be if one run was killed and went on."""
    from lrt.study.logs import differing, read_run

    steps = read_run(a).cell.steps
    if found := differing(a, b):
        say("\n".join(found[:10]))
        typer.echo(f"lrt: the logs differ in {len(found)} values", err=True)
        raise typer.Exit(1)
    say(f"the same but for times: {steps} steps, and every measurement")


@app.command("claims")
@plainly
def study_claims(
    folder: Annotated[Path | None, typer.Option(help="Holds logs/; the tables go there. Default: data/study.")] = None,
):
    """Hold the logs against the claims: writes claims.md and claims.json."""
    from lrt.study.report import write

    for path in write(folder):
        say(str(path))
