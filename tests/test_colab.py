"""Colab and other clouds: what is installed and what stays, one address everywhere, a notebook from the wheel alone."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from bare_python import BarePython, build_wheel, copy_project, unpack, write_wheel
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import lrt
from lrt.course import badges, colab

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What a version of this package asks for, and a Colab of some day: torch for its GPU, another numpy, an old ipywidgets.
NEEDS = [
    "accelerate>=1.10,<2", "datasets>=4.7,<6", "ipykernel>=6.17", "ipywidgets>=8.1,<9", "jupyterlab>=4.2,<5",
    "nbclient>=0.10", "numpy>=2", "pandas>=2.2", "papermill>=2.6", "tokenizers>=0.22", "torch>=2.8,<3",
    "transformers>=5.23,<6", "trl>=1.16,<2", "typer>=0.15", "hatchling>=1.27; extra == 'dev'",
]
COLAB = {
    "accelerate": "1.12.0", "datasets": "4.0.0", "ipykernel": "6.17.1", "ipywidgets": "7.7.1", "numpy": "2.0.2",
    "pandas": "2.2.2", "tokenizers": "0.22.1", "torch": "2.9.0+cu126", "torchvision": "0.24.0+cu126",
    "transformers": "4.57.3", "typer": "0.20.0",
}


def names(lines):
    return {Requirement(line).name for line in lines}


# --- what is missing, and what stays ---------------------------------------------------------------------------------


def test_on_colab_only_what_is_missing_is_asked_for():
    assert names(colab.missing(NEEDS, COLAB)) == {"datasets", "transformers", "trl"}


def test_of_our_own_requirements_the_same_are_left_alone():
    asked = names(colab.missing(PROJECT["dependencies"], {}))
    assert {"numpy", "transformers", "trl"} <= asked
    assert names(PROJECT["dependencies"]) - asked == {"torch", *colab.RUNS}


def test_where_all_is_there_nothing_is_asked_for():
    assert colab.missing(PROJECT["dependencies"], colab.installed()) == []


@pytest.mark.parametrize("torch", ["2.8.0", "2.9.0+cu126", "2.10.0a0+git1234", "1.13.1", "4.0"])
def test_torch_is_never_asked_for_and_always_held(torch):
    here = COLAB | {"torch": torch}
    assert not names(colab.missing(NEEDS, here)) & {"torch", "torchvision"}
    assert f"torch=={torch}" in colab.constraints(NEEDS, here)
    assert "torchvision==0.24.0+cu126" in colab.constraints(NEEDS, here), "the two are built for each other"
    told = colab.unfit(NEEDS, here)
    assert bool(told) == (torch in ("1.13.1", "4.0")) and all(torch in line for line in told)


@pytest.mark.parametrize("numpy, asked", [("2.0.2", False), ("2.4.1", False), ("1.26.4", True), (None, True)])
def test_another_numpy_stays_if_it_fits(numpy, asked):
    here = {name: version for name, version in COLAB.items() if name != "numpy"} | ({"numpy": numpy} if numpy else {})
    assert ("numpy" in names(colab.missing(NEEDS, here))) == asked
    assert (f"numpy=={numpy}" in colab.constraints(NEEDS, here)) == (not asked)


def test_what_runs_the_notebook_stays_even_where_it_is_old_or_absent():
    assert COLAB["ipywidgets"] == "7.7.1" and "jupyterlab" not in COLAB
    assert not names(colab.missing(NEEDS, COLAB)) & set(colab.RUNS)
    assert {"ipykernel==6.17.1", "ipywidgets==7.7.1"} <= set(colab.constraints(NEEDS, COLAB))


def test_extras_and_other_machines_requirements_are_left_out():
    lines = ["a>=2; extra == 'dev'", "b; sys_platform == 'no such'", "c>=1; python_version >= '3'", "D_d>=1"]
    assert colab.missing(lines, {"d-d": "1.0"}) == ["c>=1; python_version >= '3'"]


@pytest.mark.parametrize("finder", ["standard library", "importlib_metadata"])
def test_versions_are_read_from_the_folders_of_the_path(tmp_path, finder):
    if finder != "standard library":
        importlib.import_module(finder)  # from then on it answers for the standard library as well
    for place, version in (("first", "1.5"), ("second", "1.4")):
        (tmp_path / place).mkdir()
        unpack(write_wheel(tmp_path, "Some_Package", version), tmp_path / place)
    (tmp_path / "second" / "torn-1.0.dist-info").mkdir()  # what a broken removal leaves
    assert colab.installed([str(tmp_path / "first"), str(tmp_path / "second")]) == {"some-package": "1.5"}


def test_restart_is_for_what_changed_while_in_use():
    before = {"numpy": "1.26.4", "pillow": "11.3.0", "transformers": "4.57.3", "typer": "0.15"}
    after = before | {"numpy": "2.3.0", "transformers": "5.23.0", "trl": "1.16.0"}
    assert colab.replaced(before, after, ["numpy", "pillow"]) == ["numpy"], "transformers was not imported yet"
    assert colab.replaced(before, after, ["pillow", "trl"]) == [], "what is new was not in use before"
    assert colab.replaced(before, {"numpy": "1.26.4"}, ["typer"]) == ["typer"], "gone"


def test_modules_are_known_by_the_distributions_they_come_from():
    assert {"pyyaml", "pillow"} <= colab.loaded_distributions(["yaml.nodes", "PIL.Image", "no_such_module"])
    assert "nbformat" in colab.loaded_distributions(), "imported above"


# --- with a real pip, in an environment of few packages --------------------------------------------------------------

COMPLETE = """
import sys
sys.path.insert(0, {root!r})
{first}
from lrt.course import colab
try:
    colab.complete("course")
except colab.Stopped as stopped:
    print("STOPPED", stopped)
"""


@pytest.fixture
def few(tmp_path):
    """(bare Python with course 1, torch and helper 1; folder of wheels that pip may take): course wants helper 2."""
    bare, wheels = BarePython(tmp_path, shared=False), tmp_path / "wheels"
    wheels.mkdir()
    for name, version, requires in (("course", "1.0", ["helper>=2", "torch>=2"]), ("helper", "1.0", []),
                                    ("torch", "2.5+cu126", [])):
        unpack(write_wheel(tmp_path, name, version, requires), bare.packages)
    return bare, wheels


def complete(few, tmp_path, first=""):
    bare, wheels = few
    done = bare.run("-c", COMPLETE.format(root=str(ROOT), first=first), cwd=tmp_path, PIP_FIND_LINKS=str(wheels))
    assert done.returncode == 0, done.stderr
    return done.stdout


def version_of(bare, name):
    return colab.installed([str(bare.packages)]).get(name)


def test_complete_installs_what_is_missing_and_then_nothing(few, tmp_path):
    bare, wheels = few
    write_wheel(wheels, "helper", "2.1", ["torch"])
    write_wheel(wheels, "torch", "2.6")  # newer, and not asked for
    said = complete(few, tmp_path)
    assert said == "Installing helper ...\ncourse 1.0 is ready. PyTorch 2.5+cu126 stayed as it was.\n"
    assert version_of(bare, "helper") == "2.1" and version_of(bare, "torch") == "2.5+cu126"
    assert complete(few, tmp_path) == "course 1.0 is ready. PyTorch 2.5+cu126 stayed as it was.\n"


def test_complete_asks_for_a_restart_where_an_imported_package_changed(few, tmp_path):
    write_wheel(few[1], "helper", "2.1")
    said = complete(few, tmp_path, first="import helper")
    assert "STOPPED Restart needed: helper changed while in use. Choose Runtime > Restart session" in said
    assert "STOPPED" not in complete(few, tmp_path, first="import helper"), "after the restart all is well"


def test_complete_does_not_trade_torch_for_a_package(few, tmp_path):
    bare, wheels = few
    write_wheel(wheels, "helper", "2.1", ["torch>=3"])
    write_wheel(wheels, "torch", "3.0")
    said = complete(few, tmp_path)
    assert "STOPPED pip could not install helper>=2:" in said and "torch>=3" in said.split("STOPPED")[1]
    assert version_of(bare, "torch") == "2.5+cu126" and version_of(bare, "helper") == "1.0"


def test_complete_without_torch_says_where_to_get_it(few, tmp_path):
    bare, _ = few
    for path in bare.packages.glob("torch*"):
        path.rename(bare.home / path.name)
    said = complete(few, tmp_path)
    assert said.startswith("STOPPED PyTorch is not here") and version_of(bare, "helper") == "1.0"


def test_a_notebook_shows_the_sentence_and_no_traceback():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    with capture_output() as seen:
        source = "from lrt.course.colab import Stopped\nraise Stopped('Restart needed: numpy')"
        result = InteractiveShell().run_cell(source)
    assert isinstance(result.error_in_exec, colab.Stopped), "so that no further cell is run"
    assert "Restart needed: numpy" in seen.stdout and "Traceback" not in seen.stdout


# --- the cell, and one address everywhere ----------------------------------------------------------------------------


def read(path):
    return nbformat.read(path, as_version=4)


def installs(notebook):
    return [cell for cell in notebook.cells if badges.INSTALL in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_begins_with_the_badges_and_the_same_cell(path):
    cells, where = read(path).cells, badges.address()
    assert badges.badges(where, path.stem) in cells[0].source.split("\n")
    assert next(cell for cell in cells if cell.cell_type == "code") is cells[1]
    assert cells[1].source == badges.install_cell(where).source and len(installs(read(path))) == 1


def test_the_cell_is_short_whole_in_itself_and_takes_no_lock():
    cell = badges.install_cell("https://github.com/some/lrt").source
    assert len(cell.splitlines()) < 15 and max(map(len, cell.splitlines())) <= 120
    top = [node for node in ast.parse(cell).body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    assert imported | {node.module for node in top if isinstance(node, ast.ImportFrom)} <= sys.stdlib_module_names | {
        "importlib.util", "lrt.course"}  # the last one after lrt was installed
    release = Requirement(re.search(r'"(lrt @ [^"]+)"', cell)[1])  # as pip reads it
    assert release.url == f"git+https://github.com/some/lrt@v{lrt.__version__}" and "--no-deps" in cell
    assert "torch==" not in cell and "requirements.lock" not in cell


def test_where_all_is_there_the_cell_says_so_and_does_nothing(capfd, monkeypatch):
    monkeypatch.setattr(colab, "pip_install", lambda *asked: pytest.fail(f"installs {asked}"))
    exec(badges.install_cell(badges.address()).source, {})
    said = capfd.readouterr()
    assert re.fullmatch(r"lrt \S+ is ready. PyTorch \S+ stayed as it was.\n", said.out) and said.err == ""


def test_a_package_that_only_lies_in_a_folder_is_left_alone(capsys):
    colab.complete("no-such-package")
    assert "is not installed: nothing to complete" in capsys.readouterr().out


def test_lrt_colab_needs_nothing_but_packaging():
    """It is imported when nothing else may be there yet."""
    code = ("import sys; from lrt.course import colab; top = {name.partition('.')[0] for name in sys.modules};"
            "print(sorted(top - sys.stdlib_module_names - {'lrt', 'packaging', '__main__', '__mp_main__'}))")
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {code}"],
                          capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_nothing_names_another_address():
    """Whatever in the repository looks like the repository's address is the one of pyproject.toml."""
    where = badges.address()
    name = where.rsplit("/", 1)[1]
    texts = [*NOTEBOOKS, *(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.py"), *ROOT.glob("*.md"),
             *(ROOT / "lrt").rglob("*.py"), *(ROOT / ".devcontainer").iterdir(), ROOT / "CITATION.cff",
             *(path for path in (ROOT / "book/executed").glob("*.ipynb") if installs(read(path)))]
    found = {}
    for path in texts:
        for address in re.findall(rf"(?:github\.com|codespaces\.new|/github)/([\w.-]+/{name})\b", path.read_text()):
            found.setdefault(address, []).append(path.name)
    assert set(found) == {where.removeprefix("https://github.com/")}
    assert {"README.md", "CITATION.cff", *(path.name for path in NOTEBOOKS)} <= set(*found.values())


def test_nothing_is_left_to_write(tmp_path):
    """`python -m lrt.course.badges` was called after the last change of address, version or notebooks."""
    changed = badges.write(copy_project(ROOT, tmp_path))
    assert [path.name for path in changed if "executed" not in path.parts] == []


@pytest.fixture
def moved(tmp_path):
    """A copy of the project with a real address, written everywhere; beside it, `before`, as it was."""
    root = copy_project(ROOT, tmp_path / "now")
    shutil.copytree(root, tmp_path / "before")
    file = root / "pyproject.toml"
    file.write_text(file.read_text().replace(badges.address(), "https://github.com/someone/course"))
    badges.write(root)
    return root


def test_a_new_address_is_written_everywhere_and_nothing_else_is_touched(moved):
    assert badges.write(moved) == [], "asked again there is nothing to do"
    for path in NOTEBOOKS:
        old, new = (read(root / "notebooks" / path.name) for root in (moved.parent / "before", moved))
        assert [(cell.id, cell.cell_type, cell.metadata) for cell in old.cells] == [
            (cell.id, cell.cell_type, cell.metadata) for cell in new.cells]
        changed = [b for a, b in zip(old.cells, new.cells, strict=True) if a.source != b.source]
        assert changed[:2] == new.cells[:2] and all("someone/course" in cell.source for cell in changed)
        assert "OWNER" not in json.dumps(new), path.name
    assert "someone/course" in (moved / "README.md").read_text() and "/OWNER/" not in (moved / "README.md").read_text()
    assert 'repository-code: "https://github.com/someone/course"' in (moved / "CITATION.cff").read_text()


def test_links_to_files_are_absolute_as_soon_as_there_is_an_address(moved):
    relative = [link for path in NOTEBOOKS for link in re.findall(r"\]\(\.\./([^)\s#]+)", path.read_text())]
    assert relative, "notebook 06 links to the study's plan"
    assert all((ROOT / link).exists() for link in relative)
    texts = "".join((moved / "notebooks" / path.name).read_text() for path in NOTEBOOKS)
    assert "](../" not in texts
    for link in relative:
        assert f"](https://github.com/someone/course/blob/{badges.tag()}/{link})" in texts


def test_links_follow_a_new_version_and_leave_other_links_alone(tmp_path):
    (tmp_path / "a.md").touch()
    where = "https://github.com/someone/course"
    text = ("[a](../a.md#top) [a](https://github.com/x/y/blob/v0.0.1/a.md) [b](../gone.md) "
            "[c](https://github.com/x/y/blob/v1/else.py) [d](https://arxiv.org/abs/2506.22832)")
    new = badges.with_links(text, where, tmp_path)
    ours = f"{where}/blob/{badges.tag()}/a.md"
    assert new == text.replace("../a.md", ours).replace("https://github.com/x/y/blob/v0.0.1/a.md", ours)
    assert badges.with_links(new, where, tmp_path) == new


@pytest.mark.parametrize("line", ["", 'Repository = "git@github.com:a/b"', 'Repository = "https://example.org/a/b"',
                                  'Repository = "https://github.com/a/b/tree/main"'])
def test_an_address_that_colab_cannot_open_is_refused(tmp_path, line):
    (tmp_path / "pyproject.toml").write_text(f"[project]\nname = 'x'\n[project.urls]\n{line}\n")
    with pytest.raises(ValueError, match="pyproject.toml: .*Repository"):
        badges.address(tmp_path)


def test_a_file_without_a_place_for_the_address_changes_nothing(moved):
    readme = moved / "README.md"
    readme.write_text(readme.read_text().replace(badges.END, ""))
    file = moved / "pyproject.toml"
    file.write_text(file.read_text().replace("someone/course", "other/course"))
    before = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="README.md: 0 places"):
        badges.write(moved)
    assert before == {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}


def test_a_notebook_without_a_title_is_refused():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    with pytest.raises(ValueError, match="07_new: the first cell has to be Markdown"):
        badges.rewrite(notebook, "07_new", "https://github.com/a/b")


# --- the container ---------------------------------------------------------------------------------------------------


def test_the_container_sets_up_what_make_wants():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    image = re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:(\d+\.\d+)-\w+", container["image"])
    assert SpecifierSet(PROJECT["requires-python"]).contains(image[1])
    setup = ROOT / container["postCreateCommand"]
    assert os.access(setup, os.X_OK)
    assert subprocess.run(["bash", "-n", setup]).returncode == 0
    lines = setup.read_text().splitlines()
    assert lines[-1] == "make .venv/.ready", "as everywhere, so that `make tutorial` and `make test` work"
    (line,) = (line for line in lines if line.startswith("torch="))
    torch = subprocess.run(["bash", "-c", f'{line}; echo "$torch"'], cwd=ROOT, capture_output=True, text=True).stdout
    (pin,) = (line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("torch=="))
    assert torch.strip() == pin
    version = str(next(iter(Requirement(pin).specifier)).version)
    assert Requirement(pin).specifier.contains(f"{version}+cpu"), "make then finds its PyTorch there"
    assert any("--torch-backend cpu" in line and '"$torch"' in line for line in lines)
    dry = subprocess.run(["make", "--dry-run", ".venv/.ready"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


# --- notebook 01, from the wheel, in an empty folder -----------------------------------------------------------------

AFTERWARDS = """
import json, sys
import lrt
from lrt import models
from lrt.study import pool as study
print(json.dumps([sys.prefix, lrt.__file__, str(models.data_dir()), len(list(study.logs_folder().glob("*.jsonl")))]))
"""


@pytest.mark.notebooks
def test_notebook_01_runs_from_the_wheel_in_an_empty_folder(tmp_path):
    """A Python with everything but lrt, as far as Colab goes without a network: the notebook's own first cell installs
    the wheel (its address alone is exchanged), and all that is written lies in run_dir."""
    wheel, bare = build_wheel(ROOT, tmp_path / "dist"), BarePython(tmp_path)
    empty = tmp_path / "content"
    empty.mkdir()
    notebook = read(NOTEBOOKS[0])
    install = notebook.cells[1]
    release = re.search(r"git\+\S+@v[\d.]+", install.source)[0]
    install.source = install.source.replace(release, wheel.as_uri())
    notebook.cells.append(nbformat.v4.new_code_cell(AFTERWARDS))
    nbformat.write(notebook, tmp_path / "in.ipynb")
    assert bare.run("-c", "import lrt", cwd=empty).returncode != 0, "lrt is not there yet"
    given = {"profile": "ci", "run_dir": "run"}
    done = bare.run("-m", "papermill", tmp_path / "in.ipynb", tmp_path / "out.ipynb", "-k", "python3",
                    "--no-progress-bar", "-y", json.dumps(given), cwd=empty)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = read(tmp_path / "out.ipynb").cells
    said = "".join(output.text for output in cells[1].outputs if output.output_type == "stream")
    assert re.fullmatch(rf"lrt {lrt.__version__} is ready. PyTorch \S+ stayed as it was.\n", said)
    prefix, package, data, logs = json.loads(cells[-1].outputs[0].text)
    assert Path(prefix) == bare.folder and Path(package).is_relative_to(bare.folder)
    assert Path(data).is_relative_to(bare.folder)
    assert logs == len(list((ROOT / "data/study/logs").glob("*.jsonl"))), "the study's logs are in the wheel"
    assert bare.own() == {"lrt"}, "nothing else was installed"
    assert [path.name for path in empty.iterdir()] == ["run"]
    assert (empty / "run/records/01_data.json").is_file() and any((empty / "run/figures").glob("*.png"))
