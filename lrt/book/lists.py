"""Lists for the book: what notebooks, modules, profiles, benchmarks and commands there are, in their own words.

Each function returns Markdown, made of the things themselves when the book is built.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import nbformat

from lrt.course import progress
from lrt.study.report import markdown

# --- Markdown --------------------------------------------------------------------------------------------------------


def figure(path: Path, alt: str, caption: str) -> str:
    """A figure of `_generated/figures`, with its alternative text and a caption."""
    return f":::{{figure}} /_generated/figures/{path.name}\n:alt: {' '.join(alt.split())}\n\n{caption}\n:::\n"


def rubric(text: str) -> str:
    """A heading that a part may have wherever it is included."""
    return f"```{{rubric}} {text}\n```\n"


def bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


# --- notebooks -------------------------------------------------------------------------------------------------------


def exact(notebooks: Path) -> str:
    """The outputs that must be equal on every machine: the checked cells of the notebooks, as they are committed."""
    parts = []
    for path in sorted(notebooks.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
                text = "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)
                parts.append(f"In `{path.stem}`:\n\n```python\n{cell.source}\n```\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts) or "No cell's output is kept to compare with.\n"


def times(notebooks: Path) -> str:
    """Minutes that each notebook takes under the two profiles, from the table that `make tutorial` estimates with."""
    rows = []
    for path in sorted(notebooks.glob("*.ipynb")):
        known = [_minutes(profile, path.stem) for profile in ("laptop", "ci")]
        rows.append((f"`{path.stem}`", *known))
    return markdown(("notebook", "`laptop`, minutes", "`ci`, minutes"), rows)


def class_times(notebooks: Path) -> str:
    """Minutes of each notebook for a class: to read, as its first cell says, to run, and to run from recorded runs."""
    rows = []
    for path in sorted(notebooks.glob("*.ipynb")):
        first = " ".join(nbformat.read(path, as_version=4).cells[0].source.split())
        read = re.search(r"About (\d+) minutes to read", first)
        runs = [_minutes("laptop", path.stem, training) for training in (True, False)]
        rows.append((f"`{path.stem}`", read[1] if read else "not said", *runs))
    return markdown(("notebook", "to read, minutes", "to run, minutes", "from recorded runs, minutes"), rows)


def t4_cost() -> str:
    """What a run of the profile for a Colab T4 would take, by arithmetic."""
    from lrt.machine.run_cost import table as estimated
    from lrt.profiles import COLAB_T4

    return f"```text\n{estimated(COLAB_T4).rstrip()}\n```\n"


def _minutes(name: str, notebook: str, training: bool = True) -> str:
    """About how many minutes; the number of training steps is the profile's, or none without `training`."""
    from lrt import profiles
    from lrt.course import tutorial

    phases = progress.SECONDS.get(name, {}).get(notebook)
    if phases is None:
        return "not measured"
    trains = training and notebook in tutorial.TRAINS
    steps = getattr(profiles.profile(name), tutorial.TRAINS[notebook][1]) if trains else 0
    seconds = phases.before + phases.step * steps + phases.after
    return f"{max(1, round(seconds / 60))}"


def notebook_cards(executed: Path) -> str:
    """A card a notebook: its title, and what one can do by its end, from its own first cell."""
    cards, names = [], []
    for path in sorted(executed.glob("*.ipynb")):
        first = nbformat.read(path, as_version=4).cells[0].source
        title = re.search(r"^# (.+)$", first, re.M)
        aims = [" ".join(aim.split()) for aim in re.findall(r"^- (.+(?:\n  .+)*)", first, re.M)]
        names.append(f"executed/{path.stem}")
        cards.append(f":::{{grid-item-card}} {title[1] if title else path.stem}\n:link: /executed/{path.stem}\n"
                     f":link-type: doc\n:link-alt: {path.stem}\n\n{bullets(aims)}:::\n")
    toctree = "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    return "::::{grid} 1 1 2 2\n:gutter: 3\n\n" + "\n".join(cards) + "::::\n\n" + toctree


# --- rooms and reference ---------------------------------------------------------------------------------------------

ROOMS = {
    "The world and its pairs": ("world", "pairs", "folder", "truth", "traces"),
    "Real data": ("real.sources", "real.ranked", "real.imagereward", "real.hpdv2", "real.rapidata", "real.pickapic",
                  "real.reading", "real.hub_files", "real.bring", "images", "real.datacheck", "real.overlap",
                  "real.samples"),
    "Words": ("prompts",),
    "Models": ("models", "checkpoints", "tiny", "pretrain", "cards", "profiles"),
    "Listeners and rewards": ("listener", "ensemble", "remote", "chat_protocol", "controls", "rewards",
                              "async_rewards", "study.arms"),
    "Training": ("sft", "grpo", "dpo", "bradley_terry", "study.baselines", "by_hand", "methods", "runs", "rows",
                 "files", "passes", "samples", "study.credit"),
    "Measuring": ("evaluate", "judging", "metrics", "contradiction", "faithfulness", "study.probe", "stats",
                  "study.seeds", "real.benchmarks", "real.scores", "real.predictions", "real.published",
                  "real.score_report", "real.judge"),
    "The study": ("study.grid", "study.cell", "study.pool", "study.logs", "study.outcomes", "study.pairing",
                  "study.effects", "study.claims", "study.report", "study.tables", "study.costs",
                  "study.story", "study.heard", "study.verdicts", "study.plots", "study.heard_plots", "study.page",
                  "study.beside", "study.fresh"),
    "Figures and pages": ("style", "plots", "diagrams", "machine.figures", "viewer", "words", "comparing", "story",
                          "course.page"),
    "Things to play with": ("widgets.fragment", "widgets.group", "widgets.dial", "widgets.learned", "widgets.steps"),
    "The course": ("course.tutorial", "course.jobs", "course.progress", "course.exercises", "course.classroom",
                   "course.archive", "course.assignment", "course.colab",
                   "course.badges", "book.build", "book.pages", "book.lists", "book.executed", "book.assets",
                   "book.browser", "book.gallery", "course.play", "book.deck"),
    "The machine": ("machine.doctor", "machine.fitting", "machine.memory", "machine.shapes", "machine.bench",
                    "machine.bench_gpu", "machine.bench_arms", "machine.bench_model", "machine.cost_table",
                    "machine.run_cost"),
}
OTHER = "Further modules"
NOT_SHOWN = "cli"  # the command line has a page of its own


def rooms_of(package: Path) -> dict[str, list[str]]:
    """Room -> its modules that are there; a module that no room names stands under `OTHER`."""
    files = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py")]
    there = {".".join(file.parts) for file in files if file.name != "__init__" and file.parts[0] != NOT_SHOWN}
    found = {room: [name for name in names if name in there] for room, names in ROOMS.items()}
    found[OTHER] = sorted(there - {name for names in ROOMS.values() for name in names})
    return {room: names for room, names in found.items() if names}


def about(module: Path) -> str:
    """The first sentence of a module's docstring."""
    text = (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return re.split(r"(?<=[.?!]) (?=[A-Z\[])", " ".join(text.split()))[0]


def rooms(package: Path) -> str:
    """A table of modules a room, each with the first sentence of its docstring and a link to its reference."""
    parts = []
    for room, names in rooms_of(package).items():
        rows = [(f"{{py:mod}}`lrt.{name}`", about(package / f"{name.replace('.', '/')}.py")) for name in names]
        parts.append(f"{rubric(room)}\n{markdown(('module', 'what it is'), rows)}")
    return "\n".join(parts)


def reference(package: Path, into: Path) -> None:
    """A page for each room below `into`, for autodoc, and an index of all. A room's modules share a page: every page
    of the site carries the list of all pages, so that many small ones take minutes to write."""
    into.mkdir(parents=True)
    index = ["# API reference\n", "What the notebooks import, from its docstrings. Capital letters that end a name are "
             "an array's axes: `B` pairs, `G` completions a pair, `T` tokens, `V` words, `S` seeds.\n"]
    pages = []
    for room, names in rooms_of(package).items():
        pages.append(re.sub(r"\W+", "-", room.lower()))
        links = ", ".join(f"{{py:mod}}`lrt.{name}`" for name in names)
        index.append(f"**[{room}]({pages[-1]}.md)**: {links}\n")
        parts = [f"## lrt.{name}\n\n```{{eval-rst}}\n.. automodule:: lrt.{name}\n   :members:\n"
                 "   :member-order: bysource\n```\n" for name in names]
        (into / f"{pages[-1]}.md").write_text("\n".join([f"# {room}\n", *parts]), encoding="utf-8")
    index.append("```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n")
    (into / "index.md").write_text("\n".join(index), encoding="utf-8")


# --- the real scale --------------------------------------------------------------------------------------------------


def published() -> str:
    """Published accuracies beside which a number of one's own is printed."""
    from lrt.real.published import PUBLISHED, WARNING

    rows = []
    for p in PUBLISHED:
        rules = dict.fromkeys((p.rule_imagereward, p.rule_hpdv2))
        source = f"{p.source}; {p.note}" if p.note else p.source
        rows.append((p.model, p.imagereward or "-", p.hpdv2 or "-", " / ".join(rules), source))
    head = ("judge", "ImageReward test, %", "HPDv2 test, %", "rule", "source")
    return f"{markdown(head, rows)}\n{' '.join(WARNING.split())}\n"


def profiles_table() -> str:
    """The fields of the profiles for real models side by side; one that is empty in all of them is left out."""
    from lrt.profiles import REAL

    rows = [(f"`{f.name}`", *(_short(getattr(one, f.name)) for one in REAL.values()))
            for f in fields(next(iter(REAL.values()))) if f.name != "name"]
    return markdown(("field", *(f"`{name}`" for name in REAL)), [row for row in rows if any(row[1:])])


def _short(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else "" if value is None else f"{value}"


def memory_tables() -> str:
    """What each of them takes of a card's memory, by the arithmetic of `lrt.machine.memory`."""
    from lrt.machine.memory import table as worked_out
    from lrt.profiles import REAL

    return "\n".join(f"{rubric(name)}\n```text\n{worked_out(one).rstrip()}\n```\n" for name, one in REAL.items())


def run_costs() -> str:
    """What a run of each would cost, by the arithmetic of `lrt.machine.run_cost` and its assumptions."""
    from lrt.machine.run_cost import table as estimated
    from lrt.profiles import REAL

    return "\n".join(f"{rubric(name)}\n```text\n{estimated(one).rstrip()}\n```\n" for name, one in REAL.items())


def costs() -> str:
    """The cost table, or that nothing was measured."""
    from lrt.machine.cost_table import cost_table

    return cost_table()


def commands() -> str:
    """The command line: every command with the first line of its help."""
    import typer

    from lrt.cli import app

    rows = []

    def walk(command, name):
        children = getattr(command, "commands", {})
        if not children or getattr(command, "invoke_without_command", False):
            rows.append((f"`{name}`", " ".join((command.help or "").split("\n\n")[0].split())))
        for child in children:
            walk(children[child], f"{name} {child}")

    walk(typer.main.get_command(app), "lrt")
    return markdown(("command", "what it does"), rows)


def bibtex(cff: Path) -> str:
    """The preferred citation of CITATION.cff, as BibTeX."""
    import yaml

    cited = yaml.safe_load(cff.read_text(encoding="utf-8"))["preferred-citation"]
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in cited["authors"])
    entries = {"title": cited["title"], "author": authors} | {key: cited[key] for key in ("journal", "year", "url")}
    lines = ",\n".join(f"  {key} = {{{value}}}" for key, value in entries.items())
    return f"@article{{gambashidze{cited['year']}listener,\n{lines}\n}}\n"
