"""The deck: slides with titles, notes and described figures, no result typed in, and nothing asked of another host."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lrt import stats
from lrt.book import deck, pages

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
TEMPLATE = (BOOK / deck.SOURCE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of the deck alone, made from the committed records."""
    home = tmp_path_factory.mktemp("deck")
    made = home / "_generated" / "figures"
    made.mkdir(parents=True)
    shutil.copy(BOOK / "figures" / "study_effects.png", made)  # as committed: to draw it again takes long
    pages.one_seed(stats.load_records(ROOT / "data" / "results" / "one_seed.json"), made)
    deck.write(ROOT, home / "html", made)
    return home / "html"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


# ---- Markdown to slides ----


def test_slides_have_a_title_a_body_and_notes():
    one, two = deck.slides("# First *one*\n\ntext $a_1 < b$\n\nNote:\nsay *this*\n\n---\n## Second\n\n$$x$$\n")
    assert (one.title, two.title) == ("First one", "Second")
    assert '<span class="math">\\(a_1 &lt; b\\)</span>' in one.html and "say" not in one.html
    assert one.notes == "<p>say <em>this</em></p>\n" and two.notes == ""
    assert '<span class="math">\\[x\\]</span>' in two.html


def test_a_rule_inside_a_slide_is_no_new_slide_and_a_table_is_a_table():
    [one] = deck.slides("## A\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    assert "<td>2</td>" in one.html


@pytest.mark.parametrize(("text", "says"), [
    ("## A\n---\ntext", "slide 2 has no title"),
    ("## A\n---\n## A", "slide 2: 'A' is the title of another"),
    ('## A\n\n<img src="a.png">', "a figure without alternative text"),
    ('## A\n\n<img src="a.png" alt=" ">', "a figure without alternative text"),
])
def test_a_slide_that_some_could_not_read_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        deck.slides(text)


# ---- what it is made of ----


def test_no_result_is_typed_in():
    typed = re.sub(r"95 % interval|\{\{.*?\}\}|\{%.*?%\}", "", TEMPLATE, flags=re.S)
    assert not re.findall(r"\d[\d.,]*\s*(?:%|points|per cent)", typed)


def test_numbers_and_figures_come_from_the_records(site, tmp_path):
    records = deck.Records(ROOT, tmp_path, site.parent / "_generated" / "figures")
    text = (site / deck.OUT).read_text(encoding="utf-8")
    assert records.one_seed("sft", "flip_rate") in text and re.fullmatch(r"\d+ % \[\d+, \d+\]",
                                                                          records.one_seed("grpo", "truth"))
    assert records.paper()["half_width"] == "1.15" and "6,399" in text
    tag = records.figure("flip_rates")
    with Image.open(site.parent / "_generated" / "figures" / "flip_rates.png") as image:
        assert f'width="{image.size[0]}"' in tag and image.info["Description"].split("<")[0][:60] in tag
    for ask, says in ((lambda: records.figure("nothing"), "no figure 'nothing'"),
                      (lambda: records.cell("01_data", "nothing"), "no figure in a cell"),
                      (lambda: records.one_seed("sft", "nothing"), "no nothing of sft")):
        with pytest.raises(ValueError, match=says):
            ask()


def test_a_name_that_the_template_does_not_have_stops_the_book(tmp_path):
    with pytest.raises(Exception, match="undefined"):
        deck.rendered("## A\n\n{{ fig('x') }}", deck.Records(ROOT, tmp_path))


# ---- the page ----


def test_the_lecture_has_about_twenty_slides_each_with_notes(site):
    tags = Tags((site / deck.OUT).read_text(encoding="utf-8")).found
    titles = [attrs["aria-label"] for tag, attrs in tags if tag == "section"]
    notes = [attrs for tag, attrs in tags if tag == "aside"]
    assert 18 <= len(titles) <= 25 and len(set(titles)) == len(titles) == len(notes)


def test_every_figure_is_there_and_described(site):
    images = [attrs for tag, attrs in Tags((site / deck.OUT).read_text(encoding="utf-8")).found if tag == "img"]
    assert len(images) >= 8
    for attrs in images:
        assert len(attrs["alt"]) > 20 and (site / "teachers" / attrs["src"]).is_file()


def test_the_page_asks_no_other_host_and_for_nothing_that_is_not_kept(site):
    tags = Tags((site / deck.OUT).read_text(encoding="utf-8")).found
    asked = [attrs[name] for tag, attrs in tags for name in ("src", "href") if name in attrs and tag != "a"]
    assert asked and not [one for one in asked if "//" in one]
    vendored = "".join(f"{package.into}/{keep} " for package in deck_packages() for keep in package.keep)
    for one in (one for one in asked if one.startswith("../_static/")):
        name = one.removeprefix("../_static/")
        assert (BOOK / "_static" / name).is_file() or name.removeprefix("vendor/") in vendored.replace("vendor/", "")
    style = (BOOK / "_static" / "deck.css").read_text() + (BOOK / "_static" / "deck.js").read_text()
    assert "http" not in style


def deck_packages():
    from lrt.book.assets import PACKAGES

    return PACKAGES


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_words_can_be_read_on_both_grounds():
    css = (BOOK / "_static" / "deck.css").read_text()
    themes = re.findall(r"\{ (--deck-ground[^}]*) \}", css)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--deck-(\w+): (#\w{6})", theme))
        for ground in ("ground", "soft"):
            for name in ("text", "accent") + (("muted",) if ground == "ground" else ()):
                one, other = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (other + 0.05) / (one + 0.05) >= 4.5, (name, ground, colours)
