"""What Sphinx needs to be told of this project: docstrings are Markdown, executed notebooks say how they were run."""

import copy
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils import new_document
from sphinx.addnodes import pending_xref
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

NOTES = {
    "ci": "The outputs on this page are of the profile `ci`: a few training steps on a few pairs, so that they can be "
          "made anew in minutes. They show what each cell gives back. **Their numbers say nothing about the methods**; "
          "[Controls and results](/results.md) and [My numbers differ](/numbers.md) have those that do.",
    "laptop": "The outputs on this page are of the profile `laptop`: one run, one seed, in the tiny world.",
}


class Markdown(SphinxDirective):
    """A docstring: Markdown with tables and lists, without HTML. `names` in it that have an entry become links."""

    has_content = True

    def run(self):
        parser = markdown_parser()
        settings = copy.copy(self.state.document.settings)  # a document without an environment of Sphinx
        settings.env = None
        document = new_document("docstring", settings)
        parser.options["document"] = document
        parser.render("\n".join(self.content))
        children = list(document.children)
        for child in children:
            for literal in list(child.findall(nodes.literal)):
                self._link(literal)
        return children

    def _link(self, literal):
        name = literal.astext().removesuffix("()")
        target = documented(name, self.env.ref_context.get("py:module", ""))
        if target:
            ref = pending_xref("", literal.deepcopy(), refdomain="py", reftype="obj", reftarget=target,
                               refdoc=self.env.docname, refexplicit=True, refwarn=False)
            literal.replace_self(ref)


@functools.cache
def markdown_parser():
    """One for all docstrings: to make one takes longer than to use it."""
    from myst_parser.config.main import MdParserConfig
    from myst_parser.mdit_to_docutils.base import DocutilsRenderer
    from myst_parser.parsers.mdit import create_md_parser

    parser = create_md_parser(MdParserConfig(suppress_warnings=["myst"]), DocutilsRenderer)
    return parser.disable(["html_inline", "html_block", "myst_target", "myst_line_comment", "myst_block_break",
                           "myst_role", "heading", "lheading", "linkify"], ignoreInvalid=True)


@functools.cache
def documented(name: str, module: str) -> str:
    """The full name of what a docstring calls `name`, where the reference has an entry for it; else ""."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
        return ""
    for full in (name, f"lrt.{name}", f"{module}.{name}"):
        parts = full.split(".")
        if parts[0] != "lrt" or len(parts) < 2 or any(part.startswith("_") for part in parts) or parts[1] == "cli":
            continue
        owner, rest = importlib.import_module("lrt"), parts[1:]
        while rest and importlib.util.find_spec(f"{owner.__name__}.{rest[0]}"):
            owner, rest = importlib.import_module(f"{owner.__name__}.{rest[0]}"), rest[1:]
            if not hasattr(owner, "__path__"):
                break
        found = getattr(owner, rest[0], None) if len(rest) == 1 else None
        defined = (inspect.isfunction(found) or inspect.isclass(found)) and found.__module__ == owner.__name__
        if owner.__name__ != "lrt" and (not rest and not hasattr(owner, "__path__") or defined and found.__doc__):
            return full
    return ""


def as_markdown(app, what, name, obj, options, lines):
    """Wrap a docstring, and name a settings class' fields with their comments."""
    if what == "class":
        lines += ["", *field_lines(obj)]
    if any(line.strip() for line in lines):
        lines[:] = ["", ".. docstring::", "", *(f"   {line}" for line in lines), ""]


def field_lines(cls) -> list[str]:
    """A list item a field of a dataclass or named tuple that has a comment on its line."""
    if not (dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")):
        return []
    found = []
    for line in inspect.getsource(cls).splitlines():
        match = re.match(r"    (\w+): [^#]*#\s*(.+)$", line)
        if match and not match[1].startswith("_"):
            found.append(f"- `{match[1]}`: {match[2]}")
    return found


def skipped(app, what, name, obj, skip, options):
    """A named tuple's own attributes say nothing."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def read_notebook(app, docname, source):
    """Say how an executed notebook was run, and let links to files of the repository lead to them."""
    if not docname.startswith("executed/"):
        return
    notebook = json.loads(source[0])
    profile = notebook["metadata"].get("lrt", {}).get("profile", "laptop")
    note = NOTES.get(profile, f"The outputs on this page are of the profile `{profile}`: one run, one seed.")
    link = f"Its source, to run: `notebooks/{Path(docname).name}.ipynb`."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            text = text.replace("](../data/study/PLAN.md", "](/plan.md")
            text = re.sub(r"!\[([^\]]*)\]\(https?://[^)]*\)", r"\1", text)  # a badge would ask another host
            cell["source"] = re.sub(r"\]\(\.\./(?=[\w.])", "](../../", text)
    text = f":::{{admonition}} How this page was run\n:class: note\n\n{note} {link}\n:::"
    notebook["cells"].insert(1, {"cell_type": "markdown", "metadata": {}, "id": "how-it-was-run", "source": text})
    source[0] = json.dumps(notebook)


def only_our_sources(app):
    """Let autodoc not parse the sources of other packages, which it does for every class that inherits from one: a
    fifth of the time of a build, for comments that nobody asked for."""
    for name in list(sys.modules):
        if name.partition(".")[0] != "lrt":
            ModuleAnalyzer.cache["module", name] = PycodeError(f"{name} is not ours")


def setup(app):
    app.add_directive("docstring", Markdown)
    app.connect("autodoc-process-docstring", as_markdown)
    app.connect("autodoc-skip-member", skipped)
    app.connect("source-read", read_notebook)
    app.connect("builder-inited", only_our_sources)
    return {"version": "1", "parallel_read_safe": True}
