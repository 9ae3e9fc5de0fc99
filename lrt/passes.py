"""How a step is cut: over processes first, then into passes of what fits into memory."""

import os


def passes(whole: int, per_pass: int | None, what: str, processes: int | None = None) -> tuple[int, int]:
    """(rows of one pass of one process, passes a step) for a step of `whole` rows; `per_pass` None takes all at once.

    `processes` is what `accelerate launch` says (WORLD_SIZE), 1 without it. ValueError where they do not come out even.
    """
    processes = processes or int(os.environ.get("WORLD_SIZE", 1))
    rows = per_pass or whole // processes
    if not rows or whole % (rows * processes):
        raise ValueError(f"{whole} {what} a step cannot be shared out over {processes} processes, {rows} a pass: "
                         "change pairs_per_step, or how many go through at once")
    return rows, whole // (rows * processes)
