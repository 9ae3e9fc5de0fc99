"""Lint of the notebooks: what papermill, nbval, GitHub's viewer and a reader who hears the page all need."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
CHECKED = "# NBVAL_CHECK_OUTPUT"


def parameter_faults(source):
    """Faults of the cell that papermill overrides: literals only, as derived values would go stale."""
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                try:
                    ast.literal_eval(statement.value)
                except (ValueError, TypeError):
                    yield f"parameter {name} is not a literal"
            case _:
                yield "the parameters cell may only assign to names"


def code_faults(source):
    """Faults of one code cell: every figure is shown by `plots.show(figure, alt="...")`."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        shown = ast.unparse(call.func)
        if shown in ("plt.show", "pyplot.show"):
            yield "plt.show() shows a figure without alternative text"
        if shown in ("plots.show", "show"):
            alt = [keyword.value for keyword in call.keywords if keyword.arg == "alt"]
            if not alt or (isinstance(alt[0], ast.Constant) and not str(alt[0].value or "").strip()):
                yield "plots.show() without alternative text"


def markdown_faults(source):
    if re.search(r"!\[\s*\]", source):
        yield "an image without alternative text"
    for tag in re.findall(r"<img\b[^>]*>", source, re.I):
        if not re.search(r"""\balt\s*=\s*("[^"]*\S[^"]*"|'[^']*\S[^']*')""", tag):
            yield "an <img> without alternative text"


def output_faults(cell):
    if cell.outputs and CHECKED not in cell.source:
        yield f"outputs are kept only on cells marked `{CHECKED}`"
    if CHECKED in cell.source and not cell.outputs:
        yield f"marked `{CHECKED}`, but there is no output to check against"
    if cell.outputs and cell.execution_count is None:
        yield "outputs without an execution count: nbval takes the cell for unrun and fails"
    for output in cell.outputs:
        if set(output.get("data", {})) - {"text/plain"} or len(json.dumps(output)) > 4000:
            yield "a stored output is small plain text"


def notebook_faults(notebook):
    """Everything wrong with a notebook, one sentence each."""
    python = TransformerManager().transform_cell  # `%magic` lines become Python
    if "widgets" in notebook.metadata:
        yield "metadata.widgets: state without which the page does not render"
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in notebook.cells]
    if sum(tagged) != 1:
        yield f"{sum(tagged)} cells are tagged `parameters`, not one"
    for number, (cell, has_parameters) in enumerate(zip(notebook.cells, tagged, strict=True), 1):
        faults = []
        if cell.cell_type == "code":
            faults += [*code_faults(python(cell.source)), *output_faults(cell)]
        elif cell.cell_type == "markdown":
            faults += markdown_faults(cell.source)
        if has_parameters:
            faults += parameter_faults(cell.source)
        yield from (f"cell {number}: {fault}" for fault in faults)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_lint(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert list(notebook_faults(notebook)) == []


def a_notebook(*extra):
    """A notebook without faults, and the cells given."""
    two = new_output("execute_result", {"text/plain": "2"}, execution_count=1)
    return new_notebook(cells=[
        new_code_cell('profile = "laptop"  # or "ci"\nseed: int = -1', metadata={"tags": ["parameters"]}),
        new_markdown_cell("![two bars, the left one higher](a.png)"),
        new_code_cell(f"{CHECKED}\n1 + 1", outputs=[two], execution_count=1),
        new_code_cell('%matplotlib inline\nplots.show(figure, alt=f"{n} bars")'),
        *extra,
    ])


def test_notebook_lint_passes_a_good_notebook():
    assert list(notebook_faults(a_notebook())) == []


@pytest.mark.parametrize("cell_type, source, metadata, fault", [
    ("code", "a = 1", {"tags": ["parameters"]}, "2 cells are tagged"),
    ("code", "steps = 2 * 3", {"tags": ["parameters"]}, "parameter steps is not a literal"),
    ("code", "import os", {"tags": ["parameters"]}, "may only assign"),
    ("code", "plt.show()", {}, "plt.show()"),
    ("code", "plots.show(figure)", {}, "plots.show() without"),
    ("code", 'plots.show(figure, alt=" ")', {}, "plots.show() without"),
    ("code", f"{CHECKED}\n1", {}, "no output to check"),
    ("markdown", "![](a.png)", {}, "image without"),
    ("markdown", "<img src='a.png' alt=''>", {}, "<img> without"),
])
def test_notebook_lint_finds(cell_type, source, metadata, fault):
    new_cell = new_code_cell if cell_type == "code" else new_markdown_cell
    assert any(fault in found for found in notebook_faults(a_notebook(new_cell(source, metadata=metadata))))


def test_notebook_lint_finds_stored_state():
    stored = new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})
    notebook = a_notebook(new_code_cell("figure", outputs=[stored]))
    notebook.metadata["widgets"] = {}
    found = " ".join(notebook_faults(notebook))
    for fault in ("metadata.widgets", "outputs are kept only", "small plain text", "without an execution count"):
        assert fault in found


def test_notebook_lint_wants_a_parameters_cell():
    notebook = a_notebook()
    notebook.cells = notebook.cells[1:]
    assert any(fault.startswith("0 cells are tagged") for fault in notebook_faults(notebook))
