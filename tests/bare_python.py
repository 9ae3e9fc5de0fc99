"""A Python of its own that sees the packages of this one, but not lrt: what Colab's is, without a download."""

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

OURS = re.compile(r"lrt(-|$)|_editable_impl_lrt|__editable__.*lrt|__pycache__$|.*\.pth$")


class BarePython:
    """A virtual environment below `folder`. `shared`: with links to all that is installed here but lrt."""

    def __init__(self, folder: Path, shared: bool = True):
        self.folder, self.home = folder / "venv", folder / "home"
        venv.create(self.folder, with_pip=False, symlinks=True)
        self.python = self.folder / "bin" / "python"
        self.packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(self.folder)}))
        self.home.mkdir()
        links = folder / "shared" / "site-packages"  # a name by which dill knows other people's modules
        links.mkdir(parents=True)
        found = [Path(place) for place in dict.fromkeys([sysconfig.get_path("purelib"), *site.getsitepackages()])]
        for path in (path for place in found if place.is_dir() for path in place.iterdir()):
            wanted = not OURS.match(path.name) if shared else re.match(r"(pip|packaging)(-|$)", path.name)
            if wanted and not (links / path.name).exists():
                (links / path.name).symlink_to(path)
        (self.packages / "shared.pth").write_text(f"{links}\n")

    def run(self, *arguments, cwd: Path, **environment) -> subprocess.CompletedProcess:
        """Run it with arguments, in `cwd`, with a home of its own and pip cut off from every index."""
        ours = ("PYTHON", "PIP_", "VIRTUAL_ENV", "JUPYTER", "IPYTHON", "COV_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        alone = {"HOME": str(self.home), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull,
                 "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
        return subprocess.run([self.python, *map(str, arguments)], cwd=cwd, env=kept | alone | environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def own(self) -> set[str]:
        """Names of the distributions that were installed into it."""
        return {path.name.partition("-")[0] for path in self.packages.glob("*.dist-info")}


def write_wheel(folder: Path, name: str, version: str, requires=(), code: str = "") -> Path:
    """A wheel with one module of that name; what pip needs and nothing more."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        f"{name}.py": code or f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for where, text in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(where, text)
    return path


def unpack(wheel: Path, into: Path) -> None:
    """Install a pure wheel without pip."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)


def build_wheel(root: Path, folder: Path) -> Path:
    """The project's own wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("lrt-*.whl")
    return wheel


def copy_project(root: Path, folder: Path) -> Path:
    """What `lrt.course.badges` reads and writes, copied."""
    folder.mkdir(exist_ok=True)
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        shutil.copy(root / name, folder)
    for name in ("notebooks", "data/study", "book/executed"):
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("logs", ".*", "exercises"))
    return folder
