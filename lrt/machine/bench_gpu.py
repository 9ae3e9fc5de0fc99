"""`lrt bench gpu`: what training costs at real scale, measured arm by arm into one file, from where it stopped.

Each arm of `lrt.machine.bench_arms` runs in a process of its own on a GPU, so that what one leaves in memory is not
another's peak. Each finished arm is one line of JSON; asked again, the command runs what is missing.
`lrt.machine.cost_table` reads the file, prints it and holds it against the goals.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from lrt import __version__
from lrt.files import read_lines, write_json, write_lines
from lrt.machine.bench_arms import ARMS
from lrt.machine.bench_model import GIB, SMALL, Bench, Geometry
from lrt.machine.shapes import SIZES, meta_model, parameters, qwen_config
from lrt.study.cell import git_commit, machine

SAME = ("size", "device", "geometry", "hardware", "commit")  # of all arms of a size in one file


def bench_gpu(
    size: str,
    out: str | Path,
    device: str = "cuda",
    commit: str | None = None,
    geometry: Geometry | None = None,
    report: Callable[[str], None] = print,
) -> list[dict]:
    """Measure the arms of `size` ("3B", "7B", "tiny") that `out` does not hold yet, and return all of its records.

    A record: `arm`, what it was measured on (`SAME`, `machine`, `date`), and `found`, what the arm returned. `commit`
    names the code where there is no git checkout. On a CPU ("tiny" only) the arms share this process.

    ValueError: no such size; no GPU, or one too small or without bfloat16; a file with measurements of something else
    under the same size; arms that failed, after the others were run.
    """
    check_machine(size, device)
    geometry = geometry or (SMALL if size == "tiny" else Geometry())
    bench, out = Bench(size, device, geometry), Path(out)
    call = {"size": size, "device": device, "geometry": asdict(geometry), "hardware": hardware(device),
            "commit": commit or git_commit("lrt")}
    records = read_lines(out)
    done = finished(records, call, out)
    failed = []
    for name in ARMS:
        if name in done:
            report(f"{name}: measured already")
            continue
        report(f"{name} ...")
        try:
            found = ARMS[name](bench) if device == "cpu" else in_own_process(name, bench)
        except ArmFailed as error:
            report(f"{name}: {error}")
            failed.append(name)
            continue
        today = datetime.now(UTC).date().isoformat()
        records.append({"arm": name, **call, "machine": machine(), "lrt": __version__, "date": today, "found": found})
        out.parent.mkdir(parents=True, exist_ok=True)
        write_lines(out, records)
    if failed:
        raise ValueError(f"not measured: {', '.join(failed)} (why stands above); asked again, only these are run")
    return records


# --- the machine ---------------------------------------------------------------------------------------------------


def check_machine(size: str, device: str) -> None:
    """ValueError, in one sentence, where this size cannot be measured on this device."""
    if size not in SIZES:
        raise ValueError(f"no shape {size!r}; there are {', '.join(SIZES)}")
    if device not in ("cuda", "cpu"):
        raise ValueError(f'the device is "cuda" or "cpu", not {device!r}')
    if device == "cpu":
        if size != "tiny":
            raise ValueError(f"{size} is measured on a GPU; on a CPU there is --size tiny, to see that it runs")
        return
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device here: run this on a machine with one, or see `--size tiny --device cpu`")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"{torch.cuda.get_device_name()} has no bfloat16, in which the cost table is measured")
    weights = 2 * parameters(meta_model(qwen_config(size))) / GIB
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    if total < 1.5 * weights:
        raise ValueError(f"{size} takes {weights:.0f} GiB for its weights and about half as much again for a step; "
                         f"{torch.cuda.get_device_name()} has {total:.0f} GiB")


def hardware(device: str) -> dict:
    if device == "cpu":
        return {"name": "CPU"}
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "gib": round(properties.total_memory / GIB), "cuda": torch.version.cuda}


def finished(records: list[dict], call: dict, out: Path) -> set[str]:
    """Arms of this call that a file holds. ValueError if it holds arms of the same size measured otherwise."""
    same_size = [record for record in records if record.get("size") == call["size"]]
    for record in same_size:
        if differ := [name for name in SAME if record.get(name) != call[name]]:
            raise ValueError(f"{out} holds {call['size']} measured with another {' and '.join(differ)}: "
                             "name another file with --out, or move that one away")
    return {record["arm"] for record in same_size}


# --- an arm in a process of its own --------------------------------------------------------------------------------


class ArmFailed(RuntimeError):
    """What the process of an arm said last."""


def in_own_process(name: str, bench: Bench) -> dict:
    """What the arm found. ArmFailed, with the last line of its errors, if the process did not end well."""
    # cuBLAS reads its variable when it starts; `runs.deterministic` would come too late for the first arm's products
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        child = subprocess.run(
            [sys.executable, "-m", "lrt.machine.bench_gpu", name, json.dumps(asdict(bench)), str(found)],
            env={**os.environ, **offline}, capture_output=True, text=True,
        )
        if child.returncode or not found.exists():
            lines = child.stderr.strip().splitlines() or [f"ended with status {child.returncode}"]
            raise ArmFailed(lines[-1])
        return json.loads(found.read_text())


def main(name: str, bench: str, found: str) -> None:
    """The process of an arm: arguments as `in_own_process` gives them."""
    given = json.loads(bench)
    write_json(Path(found), ARMS[name](Bench(given["size"], given["device"], Geometry(**given["geometry"]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
