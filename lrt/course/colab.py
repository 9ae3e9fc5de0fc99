"""Complete an installation inside a Python that is at work already, as Colab's is: only what is missing, never PyTorch.

The first code cell of every notebook installs this package alone (`pip install --no-deps`) and then calls `complete`,
which holds the package's own ranges against what is there. Two kinds of packages are never touched: PyTorch, whose
build belongs to the machine's GPU and driver, and what runs the notebook. Colab's page speaks the protocol of
ipywidgets 7 (googlecolab/colabtools, issues 3020 and 4525), and no Jupyter is replaced from within.

Only the standard library and `packaging` (which ipykernel brings) are imported here: nothing else may be there yet.
"""

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TORCH = ("torch", "torchvision", "torchaudio")  # built for each other: one alone may not change
RUNS = ("ipykernel", "ipywidgets", "jupyterlab", "nbclient", "papermill")  # notebooks; this one is running already
BUILT_AGAINST = ("numpy",)  # compiled packages expect the numpy that they were built for: it stays if it fits
Versions = Mapping[str, str]  # version of each installed distribution, by canonical name


class Stopped(RuntimeError):
    """The notebook cannot go on from here. A notebook shows what it says and no traceback, and runs no further cell."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


def complete(package: str = "lrt", say: Callable[[str], None] = print) -> None:
    """Install what a package requires and this Python lacks, and say what was done.

    Stopped says what to do if PyTorch is not here, if pip fails, or if packages were replaced that this process has
    already imported: it goes on with the old ones until it is restarted.
    """
    try:
        requirements = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        say(f"{package} runs from a folder and is not installed: nothing to complete.")
        return
    before = installed()
    if "torch" not in before:
        raise Stopped("PyTorch is not here, and which build of it is right depends on the machine. Install it as "
                      "pytorch.org/get-started says (without a GPU: the CPU build, about 200 MB), then run this cell "
                      "again.")
    wanted = missing(requirements, before)
    if wanted:
        say(f"Installing {', '.join(Requirement(line).name for line in wanted)} ...")
        pip_install(wanted, constraints(requirements, before))
    after = installed()
    stale = replaced(before, after, loaded_distributions()) if after != before else []  # reads every package's files
    if stale:
        raise Stopped(f"Restart needed: {', '.join(stale)} changed while in use. Choose Runtime > Restart session (in "
                      "Jupyter: Kernel > Restart), then run the notebook from the top; nothing is installed twice.")
    say(f"{package} {after[package]} is ready. PyTorch {after['torch']} stayed as it was.")
    for line in unfit(requirements, after):
        say(f"Note: {package} is written for {line}. If something fails, take a newer runtime.")


# --- what is missing -------------------------------------------------------------------------------------------------


def installed(path: list[str] | None = None) -> dict[str, str]:
    """What is installed on `path` (sys.path, if None); of two copies the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions(**({} if path is None else {"path": path})):
        try:
            name = (distribution.metadata or {}).get("Name")
        except OSError:  # importlib_metadata, which finds distributions too once it is imported, raises
            name = None
        if name:  # a half-removed distribution has none
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


def missing(requirements: Iterable[str], here: Versions) -> list[str]:
    """The requirements for pip: absent, or outside their range. Neither PyTorch nor what runs notebooks."""
    return [line for line, name in _applying(requirements) if name not in (*TORCH, *RUNS) and not _met(line, here)]


def unfit(requirements: Iterable[str], here: Versions) -> list[str]:
    """Those of PyTorch that are here outside their range, in words. They are left alone all the same."""
    return [f"{line}, and {here[name]} is here" for line, name in _applying(requirements)
            if name in TORCH and name in here and not _met(line, here)]


def constraints(requirements: Iterable[str], here: Versions) -> list[str]:
    """Pins that keep pip from replacing what stays, also where another package asks for it: PyTorch, what runs
    notebooks, and numpy where it is within our range."""
    met = [name for line, name in _applying(requirements) if name in BUILT_AGAINST and _met(line, here)]
    return [f"{name}=={here[name]}" for name in (*TORCH, *RUNS, *met) if name in here]


def _applying(requirements):
    """(requirement, canonical name) of those that hold on this machine; none of an extra."""
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield line, canonicalize_name(requirement.name)


def _met(line, here):
    requirement = Requirement(line)
    version = here.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def pip_install(wanted: list[str], pins: list[str]) -> None:
    """Install requirements under constraints. Stopped, with the end of what pip said, if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(pins) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-c", str(file), *wanted]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)  # one stream: why versions conflict is told in between
    importlib.invalidate_caches()
    if done.returncode:
        told = "\n".join(f"  {line}" for line in done.stdout.splitlines()[-12:] if line.strip())
        raise Stopped(f"pip could not install {', '.join(wanted)}:\n{told}\nRun this cell again; if pip says the same, "
                      "restart the runtime and begin with this cell.")


# --- whether to restart ----------------------------------------------------------------------------------------------


def replaced(before: Versions, after: Versions, loaded: Iterable[str]) -> list[str]:
    """Distributions in use whose version has changed or that are gone: this process still runs the old code."""
    return sorted(name for name in set(loaded) & set(before) if before[name] != after.get(name))


def loaded_distributions(modules: Iterable[str] | None = None) -> set[str]:
    """Canonical names of the distributions that have an imported module (of `modules`, or of this process)."""
    top = {name.partition(".")[0] for name in (list(sys.modules) if modules is None else modules)}
    owners = metadata.packages_distributions()
    return {canonicalize_name(owner) for name in top for owner in owners.get(name, ())}
