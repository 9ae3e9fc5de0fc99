"""Classroom mode: one file of recorded runs, from which thirty students run every notebook without training.

    make tutorial                                  # the teacher, once
    lrt classroom pack runs/tutorial class.zip
    lrt classroom open class.zip                   # every student, where the notebooks are

The notebooks ask `lrt.methods.train` for their runs, and a run that is finished is only read: its model and its log. So
the file holds what such a run consists of, and nothing else:

    classroom.json                  version, profile, seed, the base's digest; size and SHA-256 of every other file
    METHOD/settings.json, done.json, log.jsonl, model.safetensors       METHOD: sft, grpo, grpo_listener
    METHOD/samples.jsonl                                                what GRPO wrote on its way, if it was kept
    judgements/METHOD/SPLIT.parquet, records/NOTEBOOK.json

It is not trusted. Names outside this list, links, sizes over the limits, weights that do not fit the base and settings
that the notebooks would not ask for are refused before anything is written. Configurations and tokenizers are not in
it: they come from the base that is shipped with the code. No pickle, no optimiser state, no HTML.
"""

import json
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import lrt
from lrt.course.archive import (
    FORMAT,
    MANIFEST,
    NAME,
    PARTS,
    RUNS,
    asked,
    base_digest,
    check_part,
    check_weights,
    differing,
    digest,
    read,
)
from lrt.files import json_object
from lrt.profiles import PROFILES, Profile

NOTEBOOK = "01_data.ipynb"  # where it lies, the others do


# --- packing ---------------------------------------------------------------------------------------------------------


def pack(folder: str | Path, file: str | Path) -> dict[str, int]:
    """Collect the finished runs of a folder of `make tutorial` in one file; the sizes in bytes of what it holds, by
    kind, and of the `file`.

    ValueError if a run is missing or not finished, or was made with settings of no profile: nothing is written then.
    """
    folder, file = Path(folder), Path(file)
    if not folder.is_dir():
        raise ValueError(f"no folder {str(folder)!r}: name the run folder of `make tutorial`, as runs/tutorial")
    for run in RUNS:
        if not (folder / run / "done.json").is_file():
            raise ValueError(f"{folder / run} is not a finished run: `make tutorial` makes or finishes it")
    settings, seed = profile_of(folder)
    files = {name: path.read_bytes() for name, path in sorted(_sources(folder).items())}
    for name, data in files.items():
        check_part(name, data)
    manifest = {
        "format": FORMAT, "lrt": lrt.__version__, "profile": settings.name, "seed": seed,
        "base": base_digest(settings),
        "files": {name: {"bytes": len(data), "sha256": digest(data)} for name, data in files.items()},
    }
    part = file.with_name(f"{file.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in {MANIFEST: json.dumps(manifest, indent=1).encode(), **files}.items():
            info = zipfile.ZipInfo(name)  # a fixed date: the same runs give the same file
            info.external_attr, info.compress_type = (stat.S_IFREG | 0o644) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    read(part)  # as a student will: what could not be opened is not handed out
    os.replace(part, file)
    return sizes(manifest) | {"file": file.stat().st_size}


def _sources(folder: Path) -> dict[str, Path]:
    """Name in the file -> where it lies in a run folder. ValueError for a run whose weights are no safetensors."""
    found = {}
    for run in RUNS:
        for part in PARTS:
            path = folder / _place(run, part)
            if not path.is_file():
                raise ValueError(f"no file {path}: a finished run has it. Move {folder / run} away, and `make "
                                 "tutorial` makes it again")
            found[f"{run}/{part}"] = path
    for path in [*folder.glob("*/samples.jsonl"), *folder.glob("judgements/*/*.parquet"),
                 *folder.glob("records/*.json")]:
        name = path.relative_to(folder).as_posix()
        if NAME.fullmatch(name):
            found[name] = path
    return found


def _place(run: str, part: str) -> Path:
    """Where a part of a run lies in a run folder."""
    return Path(run) / ("model/model.safetensors" if part == "model.safetensors" else part)


def sizes(manifest: Mapping) -> dict[str, int]:
    """Bytes, unpacked, of a manifest's files: weights, logs (with settings), judgements, records."""
    kinds = {"weights": 0, "logs": 0, "judgements": 0, "records": 0}
    for name, of in manifest["files"].items():
        top = name.partition("/")[0]
        kinds["weights" if name.endswith(".safetensors") else top if top in kinds else "logs"] += of["bytes"]
    return kinds


def profile_of(folder: Path) -> tuple[Profile, int]:
    """(profile, seed) that the three runs of a folder were made with. ValueError if they are of no profile."""
    found = {run: json_object((folder / run / "settings.json").read_bytes(), f"{folder / run}/settings.json")
             for run in RUNS}
    seed = found["sft"].get("seed")
    for settings in PROFILES.values():
        if isinstance(seed, int) and not any(differing(run, found[run], settings, seed) for run in RUNS):
            return settings, seed
    nearest = PROFILES["laptop"]
    faults = [f"{run}: {fault}" for run in RUNS for fault in differing(run, found[run], nearest, seed)]
    raise ValueError(f"{folder}: these are the runs of no profile ({', '.join(PROFILES)}), so the notebooks would not "
                     f"take them; against {nearest.name}: {'; '.join(faults[:3])}. Make them with `lrt tutorial`")


# --- opening ---------------------------------------------------------------------------------------------------------


def runs_folder() -> Path:
    """Where the notebooks keep their runs: `runs` beside them. ValueError where there are none."""
    for folder in (Path.cwd(), Path.cwd() / "notebooks"):
        if (folder / NOTEBOOK).is_file():
            return folder / "runs"
    raise ValueError(f"no {NOTEBOOK} here: go to the folder of the notebooks, or name their folder of runs with --into")


def open_archive(file: str | Path, into: str | Path) -> dict:
    """Check a file that `pack` wrote and put its runs below the folder `into`; returns its manifest.

    ValueError, with nothing written, for a file that is not one, is of another version, profile or base, or holds what
    it should not; and where `into` has another run of the same name already. Opened twice, it stays as it is.
    """
    from lrt.checkpoints import save_model
    from lrt.models import load

    into = Path(into)
    manifest, files = read(file)
    settings = PROFILES[manifest["profile"]]
    new = [run for run in RUNS if not _is_there(run, files, into)]
    into.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=into, prefix=".classroom.") as draft:
        draft = Path(draft)
        if new:
            save_model(load(settings.reasoner), draft / "base")
        for run in new:
            check_weights(f"{file}, {run}/model.safetensors", files[f"{run}/model.safetensors"],
                          draft / "base" / "model.safetensors")
        for name, data in files.items():
            run, _, part = name.partition("/")
            if run not in RUNS or run in new:
                path = draft / _place(run, part) if run in RUNS else draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        for run in new:
            for path in (draft / "base").iterdir():
                if path.name != "model.safetensors":
                    (draft / run / "model" / path.name).write_bytes(path.read_bytes())
        for path in sorted(path for top in ("judgements", "records") for path in draft.glob(f"{top}/**/*.*")):
            target = into / path.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        for run in new:  # last, and each in one step: what has a done.json is whole
            os.rename(draft / run, into / run)
    return manifest


def told(manifest: Mapping, into: Path) -> str:
    """What a student is told after opening: what there is, and what has to stand in the notebooks."""
    steps = {run: asked(run, PROFILES[manifest["profile"]], manifest["seed"])["steps"] for run in RUNS}
    lines = [f"{', '.join(f'{run} ({n} steps)' for run, n in steps.items())}: recorded, now in {into}",
             "Each notebook's training cell will say that a recorded run is replayed."]
    name, seed = manifest["profile"], manifest["seed"]
    if name != "laptop" or seed != 0:
        lines.append(f'In the notebooks\' parameters cell write: profile = "{name}", seed = {seed}')
    if into.name != "runs" or not (into.parent / NOTEBOOK).is_file():
        lines.append(f'and run_dir = "{into.resolve()}"' if len(lines) > 2 else
                     f'In the notebooks\' parameters cell write: run_dir = "{into.resolve()}"')
    return "\n".join(lines)


def _is_there(run: str, files: Mapping[str, bytes], into: Path) -> bool:
    """Whether `into` has this very run. ValueError for another one of its name."""
    if not (into / run).exists():
        return False
    for part in PARTS:
        path = into / _place(run, part)
        if not path.is_file() or path.read_bytes() != files[f"{run}/{part}"]:
            raise ValueError(f"{into / run} is there already, and is another run: move it away, or name another folder "
                             "with --into and give it to the notebooks as run_dir")
    return True
