"""Exercises and quizzes, read from the notebooks, which are the one place where they are written.

    lrt exercises ../mine       # a student's copy: notebooks without solutions, adapters.py to fill in, the tests
    python -m lrt.course.exercises     # notebooks/exercises/adapters.py again, after an exercise has changed

Each notebook has one cell with a section "Exercises". An exercise begins with a bold line,

    **2. Its title** (difficulty 1, 10 minutes, graded: `name`). Its text ...

then come folded parts, "Hint" and "Solution". A solution begins with Python code; that of a graded exercise defines
the function `name`, whose signature and docstring say all that its test asks. `adapters.py` has these functions with
their bodies taken out. Under "Check yourself" stand questions with lettered options and a folded "Answer".
"""

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

import lrt

HEAD = re.compile(r"^\*\*(\d+)\. (.+?)\*\* \(difficulty ([123]), (\d+) minutes(?:, graded: `(\w+)`)?\)\. ", re.M)
FOLDED = re.compile(r"<details><summary>(\w+)</summary>\n\n(.*?)\n\n</details>\n\n?", re.S)
QUESTION = re.compile(r"^\*\*Q(\d+)\.\*\* ([^\n]+)\n\n((?:- \([a-z]\) [^\n]+\n)+)\n"
                      r"<details><summary>Answer</summary>\n\n(.*?)\n\n</details>", re.M | re.S)
CODE = re.compile(r"```python\n(.*?)```", re.S)
TESTS = "exercises"  # the folder of adapters.py and its tests, beside the notebooks
FOR_AUTHORS = "**In the repository.**"  # begins what a student's copy leaves out of the README
INTRO = '''"""The graded exercises of the notebooks, to be filled in. Pytest on this file's folder says what is wrong.

Replace a `raise` by your own lines, and leave name, arguments and docstring as they are. An array's name ends in its
dimensions, as in the notebooks: B pairs or judgements, G completions of a group, N completions, T tokens.
(Made by `python -m lrt.course.exercises`; `lrt exercises FOLDER` copies the notebooks without their solutions, and
this.)
"""

import math  # noqa: F401 (what you may need is here, and you may import more)

import numpy as np  # noqa: F401
import torch  # noqa: F401

from lrt import stats  # noqa: F401
from lrt.prompts import parse, text_of, verdict_of  # noqa: F401
'''


@dataclass(frozen=True)
class Exercise:
    """An exercise as its notebook has it; `code` is the whole code of its solution, of which `function` is a part."""

    notebook: str  # file name without ending, such as 03_grpo
    number: int
    title: str
    difficulty: int  # 1 to 3
    minutes: int
    graded: str | None  # the function that is graded; None: tried in the notebook alone
    hint: str
    code: str

    @property
    def name(self) -> str:
        return f"{int(self.notebook[:2])}.{self.number}"

    @property
    def function(self) -> str:
        """Source of the graded function, solved."""
        node = self._node()
        return "\n".join(self.code.split("\n")[node.lineno - 1 : node.end_lineno])

    @property
    def stub(self) -> str:
        """Its signature and docstring, and a sentence instead of the rest."""
        node = self._node()
        if ast.get_docstring(node) is None:
            raise ValueError(f"{self.notebook}, exercise {self.number}: {self.graded} has no docstring")
        head = self.code.split("\n")[node.lineno - 1 : node.body[0].end_lineno]
        missing = f"exercise {self.name}, {self.graded}: not written yet"
        return "\n".join([*head, f'    raise NotImplementedError("{missing}")'])

    def _node(self) -> ast.FunctionDef:
        for node in ast.parse(self.code).body:
            if isinstance(node, ast.FunctionDef) and node.name == self.graded:
                return node
        raise ValueError(f"{self.notebook}, exercise {self.number}: the solution does not define {self.graded}")


@dataclass(frozen=True)
class Question:
    notebook: str
    number: int
    text: str
    options: tuple[str, ...]  # (a), (b), ... in order
    right: str  # a letter
    answer: str  # why it is right, and the others are not


def folder() -> Path:
    """`notebooks/` of the clone that this package is in. ValueError where there is none."""
    found = Path(lrt.__file__).resolve().parents[1] / "notebooks"
    if not (found / TESTS).is_dir():
        raise ValueError("the exercises are not here: run this in a clone of the repository, where notebooks/ is")
    return found


def section(path: Path) -> str:
    """The text from "## Exercises" to "## Recap" of a notebook, "" without exercises. ValueError unless one cell has
    both headings."""
    cells = nbformat.read(path, as_version=4).cells
    found = [c.source for c in cells if c.cell_type == "markdown" and re.search("^## Exercises$", c.source, re.M)]
    if not found:
        return ""
    if len(found) > 1 or "\n## Recap" not in found[0]:
        raise ValueError(f"{path}: expected one cell with the headings Exercises and Recap, found {len(found)}")
    return found[0].partition("## Exercises")[2].partition("\n## Recap")[0]


def exercises(notebooks: Path | None = None) -> list[Exercise]:
    """All exercises of the form above, in order. ValueError names the notebook and the exercise that misses a part."""
    return [one for path in sorted((notebooks or folder()).glob("*.ipynb")) for one in _of(path)]


def _of(path: Path) -> Iterable[Exercise]:
    text = section(path).partition("\n### Check yourself")[0]
    heads = list(HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=False):
        body = text[head.end() : end]
        parts = dict(FOLDED.findall(body))
        code = CODE.match(parts.get("Solution", ""))
        if set(parts) != {"Hint", "Solution"} or not code:
            raise ValueError(f"{path}, exercise {head[1]}: expected a folded Hint, and a Solution: code first")
        number, title, difficulty, minutes, graded = head.groups()
        yield Exercise(path.stem, int(number), title, int(difficulty), int(minutes), graded, parts["Hint"], code[1])


def questions(notebooks: Path | None = None) -> list[Question]:
    """All questions, in order. ValueError where an answer does not begin with its option, such as **(b)**."""
    found = []
    for path in sorted((notebooks or folder()).glob("*.ipynb")):
        for number, text, options, answer in QUESTION.findall(section(path)):
            if not (right := re.match(r"\*\*\(([a-z])\)\*\* ", answer)):
                raise ValueError(f"{path}, question {number}: the answer begins with the right option, like **(b)**")
            listed = tuple(line[6:] for line in options.splitlines())
            found.append(Question(path.stem, int(number), text, listed, right[1], answer))
    return found


# --- what is made of them --------------------------------------------------------------------------------------------


def adapters(found: Sequence[Exercise], solved: bool = False) -> str:
    """Text of adapters.py: the graded functions to be filled in, or as the notebooks solve them."""
    parts, last = [INTRO], None
    for one in (one for one in found if one.graded):
        if one.notebook != last:
            parts.append(f"{'' if last is None else chr(10)}# --- {one.notebook} {'-' * (113 - len(one.notebook))}\n")
        parts.append(f"\n{one.function if solved else one.stub}\n")
        last = one.notebook
    return "\n".join(parts)


def without_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of a notebook whose folded solutions are taken out, with the paths of a student's copy; hints, and the
    answers to questions, stay."""
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = FOLDED.sub(lambda part: "" if part[1] == "Solution" else part[0], cell.source)
            cell.source = text.replace(f"notebooks/{TESTS}", TESTS)
    return notebook


def readme(text: str) -> str:
    """The README of the exercises as a student's copy has it: its paths, and nothing about how they are made."""
    return text.partition(FOR_AUTHORS)[0].replace(f"notebooks/{TESTS}", TESTS).rstrip() + "\n"


def student_copy(out: str | Path, notebooks: Path | None = None) -> list[Path]:
    """Write notebooks without solutions, and exercises/ with adapters.py to fill in and its tests, as a new folder.

    ValueError unless the folder is new or empty: nobody's work is overwritten.
    """
    out, notebooks = Path(out), notebooks or folder()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} is there already: name a new folder, so that nobody's work is overwritten")
    texts = {path.name: nbformat.writes(without_solutions(nbformat.read(path, as_version=4))) + "\n"
             for path in sorted(notebooks.glob("*.ipynb"))}
    texts |= {f"{TESTS}/{path.name}": path.read_text(encoding="utf-8")
              for path in sorted((notebooks / TESTS).iterdir()) if path.suffix in (".py", ".md")}
    texts[f"{TESTS}/adapters.py"] = adapters(exercises(notebooks))
    texts[f"{TESTS}/README.md"] = readme(texts[f"{TESTS}/README.md"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as draft:  # whole, or not at all
        whole = Path(draft) / "whole"
        (whole / TESTS).mkdir(parents=True)
        for name, text in texts.items():
            (whole / name).write_text(text, encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        whole.rename(out)
    return [out / name for name in texts]


if __name__ == "__main__":
    (folder() / TESTS / "adapters.py").write_text(adapters(exercises()), encoding="utf-8")
