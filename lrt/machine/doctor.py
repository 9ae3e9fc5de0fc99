"""What this machine has, what fits on it, and what to do where something is missing: `lrt doctor`.

The tiny world needs no GPU. Which profile for real models fits is worked out in `lrt.machine.fitting`.
"""

import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
MEMORY_GB = 4  # free, for two training runs side by side
DISK_GB = 1  # for a run's notebooks, checkpoints and models
HUB_SECONDS = 3  # how long the hub may take to answer
CORES = 2  # the tutorial trains two methods side by side


@dataclass(frozen=True)
class Check:
    """One line of the report. `ok` is None where nothing is judged; `advice` says what to do where it is False."""

    name: str
    found: str
    ok: bool | None = None
    advice: str = ""


def checks(folder: str | Path = ".", ask_hub: Callable[[], bool] | None = None) -> list[Check]:
    """Everything that is looked at, for runs written below `folder`. What cannot be found out is said so.

    `ask_hub` says whether the hub answers; by default it is asked over the network, and not at all where
    HF_HUB_OFFLINE is set.
    """
    machine = [_cores(), _memory(), _disk(Path(folder)), _gpu(), _hub(ask_hub or hub_answers)]
    return [_python(), *map(_package, PACKAGES), *machine, _models()]


def fits(found: list[Check]) -> str:
    """One sentence on what can be run here."""
    wrong = [check.name for check in found if check.ok is False]
    if not wrong:
        return "The tutorial fits here: `lrt tutorial` runs it, under the profile laptop."
    if set(wrong) <= {"cores", "memory"}:
        return f"The tutorial may run here, slowly ({', '.join(wrong)}); `lrt train grpo --profile ci` is a short try."
    return f"Not ready: {', '.join(wrong)}. What to do stands beside each."


def report(found: list[Check]) -> str:
    """The checks as a table, and what fits."""
    mark = {True: "ok", False: "!!", None: "  "}
    width = max(len(check.name) for check in found)
    lines = []
    for check in found:
        lines.append(f"{mark[check.ok]}  {check.name:<{width}}  {check.found}")
        if check.ok is False and check.advice:
            lines.append(f"    {'':<{width}}  -> {check.advice}")
    return "\n".join([*lines, "", fits(found)])


def _python() -> Check:
    version = platform.python_version_tuple()
    ok = (int(version[0]), int(version[1])) >= (3, 11)
    return Check("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", ok,
                 "lrt needs Python 3.11 or later: make tutorial PYTHON=python3.12")


def _package(name: str) -> Check:
    """A package is judged by the range that lrt declares for it, where lrt itself is installed."""
    wanted = _declared().get(name)
    advice = f"in a clone run make once more; elsewhere pip install '{name}{wanted or ''}'"
    if name == "torch":
        advice = "in a clone run make once more; elsewhere take the build that pytorch.org names, or a newer runtime"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "not installed", False, advice)
    if wanted is None or wanted.contains(version, prereleases=True):
        return Check(name, version, True)
    return Check(name, f"{version}, but lrt is written for {wanted}", False, advice)


def _declared() -> dict:
    """name -> range of versions, as pyproject.toml says; empty where lrt runs from a folder without being installed."""
    try:
        from packaging.requirements import Requirement

        requirements = map(Requirement, metadata.requires("lrt") or [])
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    return {requirement.name: requirement.specifier for requirement in requirements}


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores() -> Check:
    n = cores()
    return Check("cores", str(n), n >= CORES, "the two GRPO runs of the tutorial will share one core: twice as long")


def memory_gb() -> float | None:
    """Memory that is free for use, in GB: Linux says it; elsewhere all that is built in; None where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 1e6
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (AttributeError, OSError, ValueError):
        return None


def _memory() -> Check:
    free = memory_gb()
    if free is None:
        return Check("memory", "not known")
    return Check("memory", f"{free:.1f} GB free", free >= MEMORY_GB,
                 f"two training runs side by side want about {MEMORY_GB} GB: close other programs")


def disk_gb(folder: Path) -> tuple[Path, float]:
    """(the folder or the nearest one above it that exists, GB free there)."""
    there = next(place for place in [folder.resolve(), *folder.resolve().parents] if place.exists())
    return there, shutil.disk_usage(there).free / 1e9


def _disk(folder: Path) -> Check:
    there, free = disk_gb(folder)
    if not os.access(there, os.W_OK):
        return Check("disk", f"{there} cannot be written to", False, "start lrt in a folder of your own")
    return Check("disk", f"{free:.1f} GB free", free >= DISK_GB, f"a run of the tutorial wants about {DISK_GB} GB")


def _gpu() -> Check:
    """Never needed in the tiny world, so never judged."""
    try:
        import torch
    except ImportError:
        return Check("gpu", "not known without torch")
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: use fp16"
        return Check("gpu", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {total:.0f} GB, {bf16}")
    if torch.backends.mps.is_available():
        return Check("gpu", "Apple's; the tiny models run on the CPU all the same")
    return Check("gpu", "none, and none is needed in the tiny world")


def hub_answers() -> bool:
    """Whether the model hub can be reached, within a few seconds."""
    from huggingface_hub.constants import ENDPOINT

    request = urllib.request.Request(ENDPOINT, method="HEAD", headers={"User-Agent": "lrt doctor"})
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError):
        return False


def _hub(ask: Callable[[], bool]) -> Check:
    """Never needed in the tiny world, so never judged."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check("hub", "not asked: HF_HUB_OFFLINE is set, and models come from the cache or a folder")
    if ask():
        return Check("hub", "answers: real models can be downloaded")
    return Check("hub", "does not answer; the tiny models need none, real ones then come from the cache or a folder")


def _models() -> Check:
    """Are the tiny models there that the profiles and the notebooks name?"""
    try:
        from lrt.methods import SHIPPED
        from lrt.models import data_dir, tiny_names
        from lrt.pretrain import RECIPES
        from lrt.profiles import PROFILES
    except ImportError as error:
        return Check("models", f"not known: {error}")
    wanted = set(SHIPPED.values())
    for profile in PROFILES.values():
        wanted |= {profile.reasoner, profile.listener, *profile.judges}
    there = set(tiny_names())
    if missing := sorted(wanted - there):
        again = [name for name in missing if name in RECIPES]
        advice = "take them from the repository" + (f", or make them: lrt pretrain {' '.join(again)}" if again else "")
        return Check("models", f"missing in {data_dir() / 'models'}: {', '.join(missing)}", False, advice)
    return Check("models", f"{len(there)}: {', '.join(sorted(there))}", True)
