"""The file that a class gets, read without trust: what may be in it, how large, and that it fits what is installed.

`lrt.course.classroom` writes such files and puts their runs in place. Names that are not listed there, links, sizes
over the limits, another version, profile or base, settings that the notebooks would not ask for, and weights that do
not fit the base are refused, each with a sentence; nothing is unpacked before all of it was checked.
"""

import hashlib
import io
import json
import re
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lrt
from lrt.files import json_object
from lrt.profiles import PROFILES, Profile

FORMAT = 1
MANIFEST = "classroom.json"
RUNS = ("sft", "grpo", "grpo_listener")
PARTS = ("settings.json", "done.json", "log.jsonl", "model.safetensors")  # of a run, in the file
SPLIT = r"[a-z][a-z_]{0,40}(?:-swapped)?"
NAME = re.compile(rf"(?:{'|'.join(RUNS)})/(?:{'|'.join(map(re.escape, PARTS))})"
                  rf"|grpo(?:_listener)?/samples\.jsonl"  # completions kept on the way, where a run has them
                  rf"|judgements/(?:base|{'|'.join(RUNS)})/{SPLIT}\.parquet|records/0\d_[a-z_]{{1,40}}\.json")
MAX_FILES = 200
MAX_BYTES = 64_000_000  # of one file, unpacked
MAX_TOTAL = 256_000_000  # of all of them
MAX_MANIFEST = 200_000
MAX_ROWS = 20_000  # of a table of judgements


# --- reading ---------------------------------------------------------------------------------------------------------


def read(file: str | Path) -> tuple[dict, dict[str, bytes]]:
    """(manifest, contents by name) of a file that `pack` wrote, every check made that needs no model. ValueError."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = _members(file, archive)
            manifest = _manifest(file, _bytes(file, archive, infos[MANIFEST], MAX_MANIFEST))
            listed = manifest["files"]
            if odd := sorted(set(listed) ^ (set(infos) - {MANIFEST})):
                raise ValueError(f"{file}: {odd[0]} is in the file or in its list, not in both: it was changed")
            files = {name: _bytes(file, archive, infos[name], of["bytes"]) for name, of in listed.items()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zipfile.zlib.error) as error:
        raise ValueError(f"{file}: not a whole zip file ({error}); copy it again") from None
    for name, data in files.items():
        if len(data) != listed[name]["bytes"] or digest(data) != listed[name]["sha256"]:
            raise ValueError(f"{file}: {name} is not what was packed; copy the file again")
        check_part(f"{file}, {name}", data)
    settings, seed = PROFILES[manifest["profile"]], manifest["seed"]
    for run in RUNS:
        if faults := differing(run, json_object(files[f"{run}/settings.json"], f"{file}, {run}"), settings, seed):
            raise ValueError(f"{file}: {run} is a run of other settings than {settings.name}'s: "
                             f"{'; '.join(faults[:3])}")
        steps = [json.loads(line).get("step") for line in files[f"{run}/log.jsonl"].splitlines()]
        wanted = asked(run, settings, seed)["steps"]
        if steps != list(range(1, wanted + 1)):
            raise ValueError(f"{file}: the log of {run} does not have the steps 1 to {wanted}, each once and in order")
    return manifest, files


def _members(file, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, each of them allowed. Nothing is unpacked yet."""
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise ValueError(f"{file}: {len(infos)} files, more than the {MAX_FILES} that a class needs")
    if sum(info.file_size for info in infos) > MAX_TOTAL:
        raise ValueError(f"{file}: unpacks to more than {MAX_TOTAL // 1_000_000} MB")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename
        if name != MANIFEST and not NAME.fullmatch(name):
            raise ValueError(f"{file}: {name!r} is no file that a class needs; only what `lrt classroom pack` writes "
                             "is opened")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or info.is_dir():
            raise ValueError(f"{file}: {name} is a link or a folder, not a file")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{file}: {name} is encrypted, or packed in an unusual way")
        if name in found:
            raise ValueError(f"{file}: {name} is there twice")
        found[name] = info
    if MANIFEST not in found:
        raise ValueError(f"{file}: no {MANIFEST} in it; `lrt classroom pack` writes files for a class")
    return found


def _bytes(file, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """A member, read no further than `limit`, whatever its header says."""
    with archive.open(info) as member:
        data = member.read(min(limit, MAX_BYTES) + 1)
    if len(data) > min(limit, MAX_BYTES):
        raise ValueError(f"{file}: {info.filename} is larger than it says, or than {MAX_BYTES // 1_000_000} MB")
    return data


def _manifest(file, data: bytes) -> dict:
    """The first file, checked: form, version, profile, base."""
    said = json_object(data, f"{file}, {MANIFEST}")
    listed = said.get("files")
    whole = isinstance(listed, dict) and all(
        isinstance(of, dict) and type(of.get("bytes")) is int and of["bytes"] >= 0 and isinstance(of.get("sha256"), str)
        for of in listed.values())
    if said.get("format") != FORMAT or not whole or type(said.get("seed")) is not int:
        raise ValueError(f"{file}, {MANIFEST}: not of the form that this version of lrt reads ({FORMAT})")
    if said.get("lrt") != lrt.__version__:
        raise ValueError(f"{file} was packed with lrt {said.get('lrt')}, and this is {lrt.__version__}: install that "
                         "version, or ask for a file packed with this one")
    name = said.get("profile")
    if not isinstance(name, str) or name not in PROFILES:
        raise ValueError(f"{file}: its profile {name!r} is none of this installation's: {', '.join(PROFILES)}")
    if said.get("base") != base_digest(PROFILES[name]):
        raise ValueError(f"{file}: its runs began from another base model than the one that is installed here")
    if missing := [f"{run}/{part}" for run in RUNS for part in PARTS if f"{run}/{part}" not in listed]:
        raise ValueError(f"{file}: no {missing[0]} in its list")
    return said


# --- what the notebooks will ask for ---------------------------------------------------------------------------------


def asked(run: str, settings: Profile, seed: int) -> dict[str, Any]:
    """What a run's settings.json must say for the notebooks to find it finished under a profile and seed; the pairs and
    the listener's name are checked when the notebook asks."""
    from lrt import methods

    if run == "sft":
        said = asdict(methods.sft_settings(settings, seed)) | {"kind": "sft", "target": "answer"}
    else:
        said = asdict(methods.grpo_settings(settings, seed)) | {"kind": "grpo"}
    return json.loads(json.dumps(said | {"model": settings.reasoner}))


def differing(run: str, found: Mapping, settings: Profile, seed: int) -> list[str]:
    """The settings of a recorded run that are not those that the notebooks will ask for: "steps: 4, not 150"."""
    from lrt import runs

    wanted = asked(run, settings, seed)
    known = {name: value for name, value in found.items() if name in wanted}
    return [f"{name}: {found.get(name)!r}, not {wanted[name]!r}" for name in runs.differing(known, wanted)]


def base_digest(settings: Profile) -> str:
    """SHA-256 of the weights that the profile's runs begin from."""
    from lrt.models import weights_digest

    return weights_digest(settings.reasoner)


# --- what the parts must be ------------------------------------------------------------------------------------------


def check_part(name: str, data: bytes) -> None:
    """ValueError unless a file of this name is what it says: JSON objects, whole JSON lines, a small plain table."""
    from lrt.samples import read_samples
    from lrt.stats import load_records

    if name.endswith("samples.jsonl"):
        _check_in_a_file(name, data, read_samples)
    elif name.endswith(".jsonl"):
        for i, line in enumerate(data.splitlines(), start=1):
            json_object(line, f"{name}, line {i}")
    elif name.endswith(".parquet"):
        _check_table(name, data)
    elif "records/" in name:
        _check_in_a_file(name, data, load_records)
    elif name.endswith(".json"):
        json_object(data, name)


def _check_table(name: str, data: bytes) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.ParquetFile(io.BytesIO(data))
        meta, schema = found.metadata, found.schema_arrow
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name}: not a Parquet table ({str(error).splitlines()[0]})") from None
    plain = all(pyarrow.types.is_primitive(kind) or pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
                for kind in schema.types)
    unpacked = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    if not plain or meta.num_rows > MAX_ROWS or unpacked > MAX_BYTES:
        raise ValueError(f"{name}: not a table of judgements: numbers and text, at most {MAX_ROWS} rows")


def _check_in_a_file(name: str, data: bytes, reader: Callable[[Path], object]) -> None:
    """What the reader of such files says of these bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(data)
        try:
            reader(path)
        except ValueError as error:
            raise ValueError(f"{name}: {str(error).replace(str(path), path.name)}") from None


def check_weights(name: str, data: bytes, base: Path) -> None:
    """ValueError unless the weights are safetensors with the names, shapes and precision of the file `base`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        found = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: not a whole file of safetensors ({error})") from None
    wanted = load_file(base)
    if odd := sorted(set(found) ^ set(wanted)):
        raise ValueError(f"{name}: {odd[0]} is a weight of this model or of the base, not of both")
    for key, value in wanted.items():
        own = found[key]
        if own.shape != value.shape or own.dtype != value.dtype or not torch.isfinite(own).all():
            raise ValueError(f"{name}: {key} is not {value.dtype} of shape {tuple(value.shape)} with finite numbers")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
