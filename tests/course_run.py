"""One run of the main job for all tests that look at one: with the folded solutions of 01 to 03 behind their cells."""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lrt.course import exercises, tutorial

SOLVED = ("01_data", "02_sft", "03_grpo")  # the others' solutions are run by their tests, on names of their own


@dataclass(frozen=True)
class CourseRun:
    """The folder of a run under the profile `ci`, and the notebooks that were run."""

    out: Path
    notebooks: list[list[Path]]

    def executed(self, name: str):
        return nbformat.read(self.out / "notebooks" / f"{name}.ipynb", as_version=4)

    def told(self, name: str) -> str:
        """All that a notebook put out, its solutions included."""
        return "".join(map(said, self.executed(name).cells))

    def answers(self, name: str) -> list[str]:
        """What each of a notebook's solutions put out."""
        return [said(cell) for cell in self.executed(name).cells if cell.metadata.get("solution")]

    def figures_of(self, name: str) -> tuple[set[str], set[str]]:
        """The figures that a notebook's cells name, and those of them that were drawn."""
        code = "".join(cell.source for cell in self.executed(name).cells if cell.cell_type == "code")
        named = set(re.findall(r'show\([^"]*"(\w+)", alt=', code))
        return named, named & {path.stem for path in (self.out / "figures").glob("*.png")}


def said(cell) -> str:
    out = cell.get("outputs", [])
    return "".join(o.get("text", "") + "".join(map(str, o.get("data", {}).values())) for o in out)


def solved(path: Path, into: Path) -> Path:
    """A copy of a notebook with its folded solutions as cells at its end."""
    notebook = nbformat.read(path, as_version=4)
    for code in (one.code for one in exercises.exercises() if one.notebook == path.stem):
        notebook.cells.append(nbformat.v4.new_code_cell(code, metadata={"solution": True}))
    nbformat.write(notebook, into / path.name)
    return into / path.name


def run(folder: Path) -> CourseRun:
    """Run the main job under the profile `ci`."""
    groups = [[solved(path, folder) if path.stem in SOLVED else path for path in group]
              for group in tutorial.default_notebooks()]
    tutorial.run("ci", folder / "out", groups)
    return CourseRun(folder / "out", groups)
