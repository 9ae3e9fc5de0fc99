"""The deck for one lecture: Markdown slides with figures and numbers of the records, as one page of reveal.js.

`book/teachers/deck.md.jinja` is the source. It is a template: `{{ figure("study_effects") }}` or `{{ one_seed("grpo",
"truth") }}` asks for what this module finds, so that no result is typed in. What that gives is Markdown:

    # or ##         a slide's title               ---    alone on a line: the next slide
    $ ... $         a formula                     Note:  alone on a line: what follows is for the speaker

`write` puts `teachers/deck.html` and its figures into the built site. It asks no other host for anything.
"""

import html
import re
import shutil
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from mdit_py_plugins.dollarmath import dollarmath_plugin
from PIL import Image

from lrt import comparing, stats
from lrt.book.lists import bullets
from lrt.real.published import PUBLISHED, WHOLE
from lrt.study import claims
from lrt.study import page as study_page
from lrt.study import plots as study_plots
from lrt.study import story as study_story
from lrt.study import tables as study_tables
from lrt.study.report import markdown as table
from lrt.style import look, save

SOURCE = "teachers/deck.md.jinja"
LAYOUT = "teachers/deck.html.jinja"
OUT = "teachers/deck.html"
FIGURES = "teachers/deck"  # of the site
IMAGE = re.compile(r'<img src="data:image/(png|webp);base64,([A-Za-z0-9+/=\s]+)" alt="([^"]*)"')


@dataclass(frozen=True)
class Slide:
    title: str  # plain text
    html: str
    notes: str  # HTML; "" without any


# --- Markdown to slides ----------------------------------------------------------------------------------------------


def markdown() -> MarkdownIt:
    """CommonMark with tables and formulas; HTML in the source passes, for the source is ours."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, double_inline=True)
    parser.add_render_rule("math_inline", _formula)
    parser.add_render_rule("math_block", _formula)
    parser.add_render_rule("math_inline_double", _formula)
    return parser


def _formula(renderer, tokens, index, options, env) -> str:
    """For MathJax, in its own brackets."""
    token = tokens[index]
    left, right = ("\\(", "\\)") if token.type == "math_inline" else ("\\[", "\\]")
    return f'<span class="math">{left}{html.escape(token.content.strip())}{right}</span>'


def slides(text: str) -> list[Slide]:
    """The slides of a Markdown text. ValueError for one without a title, or two of one title: a reader of the list of
    slides could not tell them apart."""
    parser, found = markdown(), []
    for i, part in enumerate(re.split(r"^---\s*$", text, flags=re.M), start=1):
        body, _, notes = part.partition("\nNote:\n")
        made = parser.render(body.strip())
        title = re.search(r"<h[12]>(.*?)</h[12]>", made, re.S)
        if not title:
            raise ValueError(f"slide {i} has no title: begin it with `## ...`")
        plain = html.unescape(re.sub(r"<[^>]+>", "", title[1]))
        if plain in [slide.title for slide in found]:
            raise ValueError(f"slide {i}: {plain!r} is the title of another slide too")
        if re.search(r"<img(?![^>]*\balt=\"[^\"]*\w)", made):
            raise ValueError(f"slide {i}, {plain!r}: a figure without alternative text")
        found.append(Slide(plain, made, parser.render(notes.strip()) if notes.strip() else ""))
    return found


# --- what a slide may ask for ----------------------------------------------------------------------------------------


class Records:
    """The functions of the template, from the repository at `root`. Figures asked for are copied into `figures`, a
    folder of the site; those of the book's pages lie in `made`, by default where `make book` puts them."""

    def __init__(self, root: Path, figures: Path, made: Path | None = None):
        self.root, self.figures, self.made = root, figures, made or root / "book" / "_generated" / "figures"
        self.records = stats.load_records(root / "data" / "results" / "one_seed.json")
        self.study = study_page.whole()
        self.main = study_page.first_tier(*self.study[:2])

    def figure(self, name: str, caption: str = "") -> Markup:
        """A figure that the pages of the book have, by its name, with its own alternative text."""
        path = self.made / f"{name}.png"
        if not path.is_file():
            raise ValueError(f"no figure {name!r} among those of the book's pages")
        with Image.open(path) as image:
            alt = image.info.get("Description", "")
        shutil.copyfile(path, self.figures / path.name)
        return self._tag(path.name, alt, caption)

    def cell(self, notebook: str, cell: str, caption: str = "") -> Markup:
        """The first figure that a cell of an executed notebook shows, by the cell's id."""
        path = self.root / "book" / "executed" / f"{notebook}.ipynb"
        for one in nbformat.read(path, as_version=4).cells:
            shown = "".join(o.get("data", {}).get("text/html", "") for o in one.get("outputs", []))
            if one.get("id") == cell and (found := IMAGE.search(shown)):
                name = f"{notebook}-{cell}.{found[1]}"
                (self.figures / name).write_bytes(b64decode(found[2]))
                return self._tag(name, html.unescape(found[3]), caption)
        raise ValueError(f"{path}: no figure in a cell {cell!r}")

    def two_seeds(self, caption: str = "") -> Markup:
        """Two runs of the study that say the opposite; words where there are none."""
        differences = study_tables.differences(self.main, study_tables.measured(self.main))
        found = study_tables.two_stories(differences)
        alt = study_story.opposite(found, differences["seed"].nunique())
        if not found:
            return Markup(html.escape(alt))
        save(study_plots.one_comparison(found), self.figures / "two_seeds.png", alt)
        return self._tag("two_seeds.png", alt, caption)

    def _tag(self, name: str, alt: str, caption: str) -> Markup:
        with Image.open(self.figures / name) as image:
            width, height = image.size
        said = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        return Markup(f'<figure><img src="deck/{name}" alt="{html.escape(alt)}" width="{width}" height="{height}">'
                      f"{said}</figure>\n")

    def one_seed(self, method: str, metric: str, split: str = "tint_uninformative") -> str:
        """A number of the one committed run, with its interval: "76 % [74, 78]"."""
        record = comparing.find(self.records, method, metric, split)
        if record is None:
            raise ValueError(f"no {metric} of {method} on {split} in data/results/one_seed.json")
        return comparing.percent(record)

    def paper(self) -> dict[str, str]:
        """The published accuracy, and half the width of its plain 95 % interval, in points."""
        [one] = [p for p in PUBLISHED if p.model == "listener paper"]
        share, test = one.imagereward / 100, WHOLE["imagereward"]
        half = 100 * 1.96 * (share * (1 - share) / test.untied) ** 0.5
        return {"listener": f"{one.imagereward}", "note": one.note, "half_width": f"{half:.2f}",
                "pairs": f"{test.untied:,}", "prompts": f"{test.prompts}"}

    def present(self) -> str:
        """How much of the study is there."""
        return study_story.present(*self.study[:2])[0]

    def claims(self, kind: str) -> str:
        """The claims whose id begins with a letter, and the study's verdict on each, as a list."""
        runs, _, asked = self.study
        decided = [claims.decide(claim, runs) for claim in asked if claim.id.startswith(kind)]
        return bullets(f"{one.claim.text}: {one.in_words()}" for one in decided)

    def methods(self) -> str:
        """A table of the first tier's methods and what is added to each one's reward."""
        grid = self.study[1]
        rows = [(look(name)[0], grid.labels[name], sum(run.cell.method == name for run in self.main))
                for name in grid.tiers[0].methods]
        return table(("method", "what is rewarded beside format and accuracy", "seeds here"), rows)


# --- the page --------------------------------------------------------------------------------------------------------


def rendered(template: str, records: Records) -> list[Slide]:
    """The slides of a template."""
    names = ("figure", "cell", "two_seeds", "one_seed", "paper", "present", "claims", "methods")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # Markdown: escaping is not for it
    environment.globals.update({name: getattr(records, name) for name in names})
    return slides(environment.from_string(template).render())


def page(found: Sequence[Slide], layout: str) -> str:
    """The whole HTML page of the slides."""
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(layout).render(
        title=found[0].title,
        slides=[{"title": s.title, "html": Markup(s.html), "notes": Markup(s.notes)} for s in found])


def write(root: Path, site: Path, made: Path | None = None) -> Path:
    """Write the deck into a built site, from the repository at `root`; returns the page. `made` as for `Records`.
    ValueError names the slide or the figure that misses something."""
    from lrt.files import write_text

    book, figures = root / "book", site / FIGURES
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir(parents=True)
    found = rendered((book / SOURCE).read_text(encoding="utf-8"), Records(root, figures, made))
    write_text(site / OUT, page(found, (book / LAYOUT).read_text(encoding="utf-8")))
    return site / OUT
