"""Where the repository is to be found, and everything that says so: badges, install cells, links, the citation.

The address stands in pyproject.toml, `[project.urls] Repository`, and nowhere else by hand; the version in
`lrt/__init__.py`. After a change of either,

    python -m lrt.course.badges

writes them again: the head and the install cell of each notebook (and of its executed copy, so that a new address needs
no new run), notebooks' links to other files, README.md and CITATION.cff. A notebook opened from a badge is that of the
release's tag and installs that tag: the two always fit.
"""

import re
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import lrt
from lrt.files import write_text

ROOT = Path(lrt.__file__).resolve().parents[1]
PLACEHOLDER = "OWNER"  # of an address that does not exist yet
INSTALL = "install"  # id and tag of the cell
OPEN = "[Open in Colab]("  # begins the line of badges
START, END = "<!-- cloud: made by `python -m lrt.course.badges` -->", "<!-- end of cloud -->"
FILE_LINK = re.compile(r"\]\((?:\.\./|https://github\.com/[^)\s/]+/[^)\s/]+/blob/v[^)\s/]+/)([^)\s#]+)")

CELL = '''\
# In Colab, or any other Python with PyTorch and without lrt: installs lrt from its release, then only those packages
# that are missing. PyTorch stays as it is. Where everything is there already, this cell changes nothing.
import subprocess
import sys
from importlib.util import find_spec

if not find_spec("lrt"):
    release = "lrt @ git+{address}@{tag}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", release], check=True)

from lrt.course import colab

colab.complete()  # says what it does, and whether to restart'''


def address(root: Path = ROOT) -> str:
    """The repository's address. ValueError unless it is one on github.com: Colab opens notebooks from nowhere else."""
    file = root / "pyproject.toml"
    urls = tomllib.loads(file.read_text(encoding="utf-8"))["project"].get("urls", {})
    found = urls.get("Repository", "")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", found):
        raise ValueError(f"{file}: [project.urls] Repository is {found!r}, not https://github.com/OWNER/NAME")
    return found


def is_placeholder(where: str) -> bool:
    return where.split("/")[-2] == PLACEHOLDER


def tag() -> str:
    """The tag of this version's release."""
    return f"v{lrt.__version__}"


# --- the parts -------------------------------------------------------------------------------------------------------


def colab_url(where: str, notebook: str) -> str:
    name = where.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{name}/blob/{tag()}/notebooks/{notebook}.ipynb"


def codespace_url(where: str) -> str:
    return f"https://codespaces.new/{where.removeprefix('https://github.com/')}"


def badges(where: str, notebook: str) -> str:
    """The line in a notebook's head. Words, not pictures: a page that shows it asks no other host for anything."""
    return (f"{OPEN}{colab_url(where, notebook)}) · [open in Codespaces]({codespace_url(where)}) · "
            "or `make lab` in a clone")


def install_cell(where: str) -> NotebookNode:
    """The first code cell of every notebook: whole in itself, as lrt is not there yet."""
    cell = nbformat.v4.new_code_cell(CELL.format(address=where, tag=tag()), id=INSTALL)
    cell.metadata = NotebookNode({"tags": [INSTALL, "hide-cell"]})  # the book folds it
    return cell


def with_links(text: str, where: str, root: Path = ROOT) -> str:
    """Links to files of the repository, as they lead somewhere in Colab too: absolute, of this version's tag. While
    there is no address they stay relative, for then only a clone has those files."""
    start = "../" if is_placeholder(where) else f"{where}/blob/{tag()}/"
    return FILE_LINK.sub(lambda m: f"]({start}{m[1]}" if (root / m[1]).exists() else m[0], text)


def rewrite(notebook: NotebookNode, name: str, where: str, root: Path = ROOT) -> NotebookNode:
    """The notebook with its badges, install cell and links; whatever else it holds stays. ValueError if the first cell
    is no Markdown with a title in its first line."""
    head = notebook.cells[0]
    lines = head.source.split("\n")
    if head.cell_type != "markdown" or not lines[0].startswith("# "):
        raise ValueError(f"{name}: the first cell has to be Markdown, and its first line the title")
    at = [i for i, line in enumerate(lines) if line.startswith(OPEN)]
    lines[at[0] if at else 1: at[0] + 1 if at else 1] = [badges(where, name)] if at else ["", badges(where, name)]
    head.source = "\n".join(lines)
    ours = install_cell(where)
    there = next((cell for cell in notebook.cells if INSTALL in cell.metadata.get("tags", [])), None)
    if there is None:
        notebook.cells.insert(1, ours)
    else:
        there.source = ours.source
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_links(cell.source, where, root)
    return notebook


def readme_lines(names: list[str], where: str) -> str:
    """What the README says about running without installing anything."""
    open_in = " · ".join(f"[{name}]({colab_url(where, name)})" for name in names)
    return f"""{START}
**In Colab**: {open_in}. The first cell installs lrt and says what it does; PyTorch stays as it is.

**In Codespaces**: [open the repository]({codespace_url(where)}). Its container sets up the CPU path;
both commands above work there.
{END}"""


# --- writing ---------------------------------------------------------------------------------------------------------


def write(root: Path = ROOT) -> list[Path]:
    """Write all of it again, and return the files that changed. ValueError names a file without a place for it."""
    where, names, new = address(root), [], {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        names.append(path.stem)
        for file in (path, root / "book" / "executed" / path.name):
            if file.is_file():
                notebook = nbformat.read(file, as_version=4)
                has = any(INSTALL in cell.metadata.get("tags", []) for cell in notebook.cells)
                if file == path or has:  # a copy made before the notebook had the cell is made anew by a run
                    new[file] = nbformat.writes(rewrite(notebook, path.stem, where, root)) + "\n"
    readme, citation = root / "README.md", root / "CITATION.cff"
    new[readme] = _one(rf"{re.escape(START)}.*?{re.escape(END)}", readme_lines(names, where), readme)
    new[citation] = _one(r"^repository-code: .*?$", f'repository-code: "{where}"', citation)
    changed = [path for path, text in new.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_text(path, new[path])
    return changed


def _one(pattern, text, path):
    """The file's text with the one place that matches replaced."""
    old = path.read_text(encoding="utf-8")
    new, n = re.subn(pattern, lambda _: text, old, flags=re.M | re.S)
    if n != 1:
        raise ValueError(f"{path}: {n} places match {pattern!r}, not one")
    return new


if __name__ == "__main__":
    for path in write():
        print(f"wrote {path.relative_to(ROOT)}")
    if is_placeholder(address()):
        print(f"The address is a placeholder: {address()}")
