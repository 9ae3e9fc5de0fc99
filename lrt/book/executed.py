"""Executed copies of the notebooks, small enough to be committed: the book shows them and never runs one.

A copy has the cells of its source in `notebooks/` and the outputs of one run. What a run adds for itself is taken out:
the cell of parameters that papermill injects (its profile stays, as metadata), times, widget state, the redrawn lines
of progress bars, the machine's paths. Figures keep their size and their alternative text; their colours are reduced to
a palette, the largest that keeps the file below `LIMIT`, as PNG or, where that is too large, as lossless WebP. None is
so small that methods would lose their colours.
"""

import base64
import io
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

import lrt
from lrt.files import write_text

LIMIT = 1_250_000  # bytes of a copy; the figures with a line or a dot a run are the largest
PALETTES = (("png", 256), ("webp", 256), ("webp", 128), ("webp", 64))  # in turn
INJECTED = "injected-parameters"
WIDGETS = "application/vnd.jupyter.widget-view+json"
PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


def sources(notebook: NotebookNode) -> list[tuple[str, str]]:
    """(kind, source) of every cell but the one that papermill injects."""
    return [(c.cell_type, c.source) for c in notebook.cells if INJECTED not in c.metadata.get("tags", [])]


def differing(source: Path, executed: Path) -> str:
    """What of an executed copy is not its source's, in words; "" where all cells are equal."""
    if not executed.is_file():
        return f"{executed.name}: no executed copy"
    ours, theirs = (sources(nbformat.read(path, as_version=4)) for path in (source, executed))
    if len(ours) != len(theirs):
        return f"{executed.name}: {len(theirs)} cells, its source has {len(ours)}"
    cells = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    return f"{executed.name}: cell {cells[0]} is not its source's" if cells else ""


def refresh(runs: Mapping[Path, Path], into: Path, report: Callable[[str], None] = print) -> list[Path]:
    """Take the copies out of finished run folders of `lrt.course.tutorial`, all or none; runs: source -> its run's
    folder.

    ValueError names a notebook that was not run to its end, or whose source has changed since. Copies of notebooks that
    are not among them are removed."""
    made = {}
    for source, run in runs.items():
        executed = run / "notebooks" / source.name
        if fault := differing(source, executed):
            raise ValueError(f"{run}: {fault}. Run `make tutorial` first, or name a run of today's notebooks")
        made[into / source.name] = nbformat.writes(copy_of(executed)) + "\n"
    into.mkdir(parents=True, exist_ok=True)
    for path, text in made.items():
        write_text(path, text)
        report(f"{path}: {len(text.encode()) / 1000:.0f} KB")
    for path in set(into.glob("*.ipynb")) - set(made):
        path.unlink()
    return list(made)


def copy_of(executed: Path) -> NotebookNode:
    """An executed notebook as it is committed. ValueError if a cell did not run, or it cannot be made small enough."""
    notebook = nbformat.read(executed, as_version=4)
    parameters = notebook.metadata.get("papermill", {}).get("parameters", {})
    notebook.cells = [c for c in notebook.cells if INJECTED not in c.metadata.get("tags", [])]
    for i, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            if cell.source.strip() and cell.execution_count is None:
                raise ValueError(f"{executed}: cell {i} was not run")
            cell.outputs = [_plain(output) for output in cell.outputs if WIDGETS not in output.get("data", {})]
    kept = {name: notebook.metadata[name] for name in ("kernelspec", "language_info") if name in notebook.metadata}
    about = {"profile": parameters.get("profile", "laptop"), "version": lrt.__version__}
    notebook.metadata = NotebookNode(kept | {"lrt": about})
    return _small(notebook, executed)


def _plain(output: NotebookNode) -> NotebookNode:
    """An output without the run's own traces."""
    output = NotebookNode({**output})
    if output.output_type == "stream":
        output.text = "\n".join(line.rpartition("\r")[2] for line in scrubbed(output.text).split("\n"))
    if "data" in output:
        output.metadata = NotebookNode()
        output.data = NotebookNode({kind: scrubbed(text) for kind, text in output.data.items()})
    return output


def scrubbed(text):
    """Text without the paths of this machine: the repository's are relative, the home folder is "~", and folders of
    temporary files, whose names are drawn anew in each run, are "TEMPORARY"."""
    if not isinstance(text, str):
        return text
    if "/ipykernel_" in text:  # on a figure's base64 the search would take minutes
        text = re.sub(r"[^\s\"']*/ipykernel_\d+/\d+\.py", "this cell", text)
    for path, instead in ((Path(lrt.__file__).resolve().parents[1], ""), (Path.cwd(), ""), (Path.home(), "~/")):
        text = text.replace(f"{path}/", instead)
    text = re.sub(rf"(?<![\w.-]){re.escape(tempfile.gettempdir())}/(tmp\w+/?)?", "TEMPORARY/", text)
    return text


def _small(notebook: NotebookNode, name: Path) -> NotebookNode:
    """The notebook with the largest palette that fits."""
    for kind, colours in PALETTES:
        fitted = with_palette(notebook, kind, colours)
        size = len(nbformat.writes(fitted).encode())
        if size < LIMIT:
            return fitted
    raise ValueError(f"{name}: {size / 1000:.0f} KB with {colours} colours a figure; the limit is {LIMIT // 1000}")


def with_palette(notebook: NotebookNode, kind: str, colours: int) -> NotebookNode:
    """The notebook with every PNG in the HTML of its outputs as "png" or "webp", in at most `colours` colours."""
    notebook = nbformat.from_dict(notebook)
    for data in (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])):
        if "text/html" in data:
            data["text/html"] = PNG.sub(lambda found: _reduced(found, kind, colours), data["text/html"])
    return notebook


def _reduced(found: re.Match, kind: str, colours: int) -> str:
    """A figure's data URI with a palette; the one that was there where that is not smaller."""
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        palette = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    if kind == "png":
        palette.save(buffer, "png", optimize=True)
    else:
        palette.convert("RGB").save(buffer, "webp", lossless=True)
    return min(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", found[0], key=len)
