"""The set-up holds together: pins, environment, wheel, Makefile, continuous integration, citation, README."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import lrt

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK_LINES = (ROOT / "requirements.lock").read_text().splitlines()
CHOSEN_BY_TORCH = re.compile(r"cuda-|nvidia-|triton")  # differ between its CPU and CUDA builds


def pins():
    """{name: [Requirement, ...]}; more than one only where markers tell them apart."""
    found = {}
    for line in LOCK_LINES:
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def declared():
    """Every requirement that pyproject.toml names: to run, to develop, to build."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    lists = [project["dependencies"], *extras, PROJECT["build-system"]["requires"]]
    return [Requirement(line) for lines in lists for line in lines]


def version_of(pin):
    return Version(next(iter(pin.specifier)).version)


# ---- the lock ----


def test_lock_is_exact_pins_that_any_machine_can_install():
    for line in LOCK_LINES:
        requirement = Requirement(line)  # raises on options, hashes and comments
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, line
        assert Version(specifier.version).local is None, f"{line}: a local version exists on one index only"
        assert requirement.url is None, f"{line}: names a place"
        assert not CHOSEN_BY_TORCH.match(requirement.name), f"{line}: torch's own choice, by build"
    assert "torchvision" not in pins(), "no torchvision wheel goes with a CPU build of this torch"


def test_lock_pins_torch_once_and_everywhere():
    (torch,) = pins()["torch"]  # the Makefile reads this line
    assert torch.marker is None


def test_two_pins_of_one_package_never_apply_together():
    pythons = ("3.11.0", "3.11.4", "3.11.5", "3.12.0", "3.13.1")
    for name, several in pins().items():
        for python in pythons if len(several) > 1 else ():
            applying = [pin for pin in several if pin.marker.evaluate({"python_full_version": python})]
            assert len(applying) == 1, (name, python)


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_declared_range_contains_the_locked_version(requirement):
    several = pins().get(canonicalize_name(requirement.name))
    assert several, f"requirements.lock lacks {requirement.name}: run `make lock`"
    assert all(requirement.specifier.contains(version_of(pin)) for pin in several)
    operators = {specifier.operator for specifier in requirement.specifier}
    assert not operators & {"==", "==="}, "exact pins belong in the lock"


def test_lock_is_closed():
    """Whatever an installed package of the closure requires here is pinned too: pip chooses nothing."""
    waiting, seen, missing = declared(), set(), []
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, *sorted(requirement.extras))
        if key in seen or CHOSEN_BY_TORCH.match(name):
            continue
        seen.add(key)
        if not any(pin.marker is None or pin.marker.evaluate() for pin in pins().get(name, [])):
            missing.append(name)
            continue
        for line in metadata.distribution(name).requires or []:
            child = Requirement(line)
            extras = ("", *requirement.extras)
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(child)
    assert not missing
    assert len(seen) > 100  # the walk did walk


# ---- environment.yml ----


@pytest.fixture
def environment():
    """(conda's lines, pip's lines) of environment.yml"""
    *conda, last = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert list(last) == ["pip"] and "pip" in conda
    return conda, last["pip"]


def test_environment_yml_holds_the_pins_of_the_lock(environment):
    _, pip = environment
    assert list(map(Requirement, pip)) == list(map(Requirement, LOCK_LINES)), "run `make lock`"


def test_environment_yml_asks_conda_for_a_python_that_the_project_takes(environment):
    conda, _ = environment
    for line in conda:  # the part of conda's match specifications used here: name, or name=version
        assert re.fullmatch(r"[a-z0-9_][a-z0-9_.-]*(={1,2}\d+(\.\d+)*)?", line), line
    (python,) = (line.split("=", 1)[1] for line in conda if line.startswith("python="))
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(python)


# ---- the wheel ----


def test_wheel_contains_the_models(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", ROOT]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("lrt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    files = [path for path in (ROOT / "data/models").rglob("*") if path.is_file()]
    models = {f"lrt/_data/{path.relative_to(ROOT / 'data').as_posix()}" for path in files}
    assert models and models <= names
    package = [path for path in (ROOT / "lrt").rglob("*.*") if "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in package} <= names  # templates too
    assert "lrt = lrt.cli:app" in entry_points


# ---- make, continuous integration, documents ----


def make(*arguments, cwd=ROOT):
    """Run make as a shell would, also when this test itself runs under make."""
    outer = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PYTHON", "PYTEST_ARGS", "TORCH_ARGS"}
    shell = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=cwd, env=shell, capture_output=True, text=True)


@pytest.fixture
def bare_copy(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_every_make_command_of_the_readme_exists():
    code = re.findall(r"```sh.*?```|`make [^`]*`", (ROOT / "README.md").read_text(), re.DOTALL)
    targets = set(re.findall(r"\bmake ([a-z]+)", " ".join(code)))
    assert {"tutorial", "test", "lab", "help"} <= targets
    for target in targets:
        dry = make("--dry-run", target)
        assert dry.returncode == 0, dry.stderr


def test_make_on_a_bare_machine_installs_torch_exactly_and_first(bare_copy):
    (torch,) = pins()["torch"]
    planned = make("--dry-run", "tutorial", "TORCH_ARGS=--some-option", cwd=bare_copy).stdout
    first, second, third = (line for line in planned.splitlines() if re.search(r"-m pip .*install ", line))
    assert first.endswith(f" {torch} --some-option")
    assert "-r requirements.lock" in second and "--some-option" not in second
    assert "--no-deps --no-build-isolation --editable ." in third


def test_a_second_make_installs_nothing_until_the_pins_change(bare_copy):
    ready = bare_copy / ".venv/.ready"
    ready.parent.mkdir()
    ready.touch()
    pinning = [bare_copy / "requirements.lock", bare_copy / "pyproject.toml"]
    for path, time in zip([*pinning, ready], (1, 1, 2), strict=True):
        os.utime(path, (time, time))
    assert "pip" not in make("--dry-run", "tutorial", cwd=bare_copy).stdout
    for path in pinning:
        os.utime(path, (3, 3))
        assert "-r requirements.lock" in make("--dry-run", "tutorial", cwd=bare_copy).stdout
        os.utime(path, (1, 1))


@pytest.mark.parametrize("python", ["false", "no-such-python"])  # `false` answers as an older Python does
def test_make_says_so_when_python_is_too_old_or_missing(bare_copy, python):
    refused = make("tutorial", f"PYTHON={python}", cwd=bare_copy)
    assert refused.returncode != 0
    assert f"lrt needs Python 3.11 or later, and '{python}' is older or missing." in refused.stdout
    assert not (bare_copy / ".venv").exists()


def test_workflow_calls_the_one_ci_script():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.M)
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    takes = SpecifierSet(PROJECT["project"]["requires-python"])
    assert all(takes.contains(python) for python in job["strategy"]["matrix"]["python"])


def test_citation_names_the_paper_and_us():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == lrt.__version__
    assert "2506.22832" in citation["preferred-citation"]["url"]


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
