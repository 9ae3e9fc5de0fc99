"""`lrt bench` and `lrt doctor`: what this machine can do, and how long it takes."""

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.options import AnyProfileName, Changes, chosen_profile, plainly, say

app = typer.Typer(invoke_without_command=True)  # its help is that of `bench`


@app.callback()
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


@app.command("gpu")
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
        chosen = chosen_profile(profile, changes)
        say(f"{table(chosen)}\n\n{run_cost.table(chosen)}")
        return
    if changes:
        raise ValueError("--set changes a profile: name it with --profile")
    found = checks()
    say(f"{told(found)}\n\n{report(this_machine())}")
    raise typer.Exit(1 if any(check.ok is False for check in found) else 0)
