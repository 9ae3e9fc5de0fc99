"""The page: one file that asks nothing of the network, escapes what it is given, and follows the numbers."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lrt import plots, story
from lrt.course import page
from lrt.stats import Record

NAN = float("nan")
SPLITS = ("in_distribution", "tint_uninformative", "tint_reversed")


def a_run(turned=False):
    levels = {"base": 0.2, "sft": 0.8, "grpo": 0.6, "grpo_listener": 0.4}
    rows = [Record(m, split, metric, v, v - 0.04, v + 0.04, 40 + i, 0)
            for i, metric in enumerate(("accuracy", "flip_rate", "truth", "accuracy_agree", "accuracy_conflict",
                                        "contradiction/llava"))
            for split in SPLITS for m, v in levels.items()]
    rows += [Record("sft", "tint_uninformative", "own_verdict_departure_sampled", NAN, NAN, NAN, 0, 0),
             Record("grpo", "tint_uninformative", "own_verdict_departure_sampled", 0.333, 0.25, 0.4, 57, 0),
             Record("content_only", "in_distribution", "accuracy", 0.987, 0.9, 1.0, 40, None)]
    if turned:
        rows = [Record(r.method, r.split, r.metric, 1 - r.value, 1 - r.high, 1 - r.low, r.n, r.seed) for r in rows]
    return rows


def figures(folder, **alts):
    folder.mkdir(exist_ok=True)
    for name, alt in alts.items():
        plots.save(plots.clip_objective(), folder / f"{name}.png", alt)
    return folder


class Page(HTMLParser):
    """Elements in their order, the text of the page, and nesting that adds up."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def written(tmp_path, records=None, **options):
    records = a_run() if records is None else records
    out = page.write_page(records, tmp_path / "figures", tmp_path / "index.html", **options)
    return Page(out.read_text(encoding="utf-8"))


def plain(text):
    return re.sub(r"\s+", " ", text)


def test_nothing_is_asked_of_the_network(tmp_path):
    figures(tmp_path / "figures", flip_rates="a b", odd="c d")
    found = written(tmp_path)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in found.elements}
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.all("img"))
    source = (tmp_path / "index.html").read_text()
    assert "@import" not in source and "url(" not in source and "@font-face" not in source
    [policy] = [m["content"] for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert [a["href"] for a in found.all("a") if ":" in a["href"]] == ["https://arxiv.org/abs/2506.22832"]
    assert not list(tmp_path.glob(".*")), "no draft stays behind"


def test_the_whole_story_is_on_it(tmp_path):
    text = written(tmp_path).text
    told = [paragraph for section in story.sections(a_run()) for paragraph in section.paragraphs]
    for sentence in [*story.headline(a_run()), *told, *story.LIMITS]:
        assert plain(sentence) in text
    assert "A tiny world, one seed (seed 0)" in text and "What one seed cannot say" in text


def test_opposite_results_another_page(tmp_path):
    one, other = (written(tmp_path, a_run(turned)).text for turned in (False, True))
    assert "SFT relies on the tint most" in one and "Base relies on the tint most" in other
    assert "SFT relies on the tint most" not in other and "it relies on the tint less" in one
    assert "it relies on the tint more" in other


def test_headings_and_table_can_be_heard(tmp_path):
    figures(tmp_path / "figures", flip_rates="the flip rates of four methods", odd='5 < 6 & "so on" — naïve')
    found = written(tmp_path)
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False)), "no level is skipped"
    assert len(found.all("caption")) == len(found.all("table")) == 1
    assert {cell.get("scope") for cell in found.all("th")} == {"col", "row", "rowgroup"}
    assert {image["alt"] for image in found.all("img")} == {"the flip rates of four methods", '5 < 6 & "so on" — naïve'}
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes["aria-labelledby"] for _, attributes in found.elements if "aria-labelledby" in attributes}
    assert labelled <= set(ids)
    assert ("html", {"lang": "en"}) in found.elements


def test_what_records_say_is_text_and_never_markup(tmp_path):
    evil = '<script>alert(1)</script>"><b onclick=x>'
    rows = [*a_run(), Record("grpo", "tint_uninformative", f"contradiction/{evil}", 0.2, 0.1, 0.3, 9, 0),
            Record("base", evil, "accuracy", 0.2, 0.1, 0.3, 9, 0)]
    figures(tmp_path / "figures", odd=evil)
    found = written(tmp_path, rows, notebooks=[tmp_path / "notebooks" / 'a b"><i>.ipynb'])
    assert not found.all("script") and not any("onclick" in attributes for _, attributes in found.elements)
    assert "<script>alert(1)</script>" in found.text, "it is shown as it is"
    assert [a["href"] for a in found.all("a") if "notebooks" in a["href"]] == ["notebooks/a%20b%22%3E%3Ci%3E.ipynb"]


def test_table_has_the_trained_methods_and_says_why_a_number_is_missing(tmp_path):
    text = written(tmp_path).text
    assert "content only" not in text.lower() and "99 %" not in text, "reference lines are no methods"
    [(title, rows), *_] = groups = page.table(a_run())
    assert title == "Accuracy against the votes"
    assert [label for label, _ in rows] == ["in distribution", "tint uninformative", "tint reversed"]
    assert [cell["value"] for cell in rows[0][1]] == ["20 %", "80 %", "60 %", "40 %"]
    others = {label: cells for title, rows in groups[1:] for label, cells in rows}
    departs = others["sampled answer departs from own verdict"]
    assert [cell["why"] for cell in departs] == ["not measured", "does not apply", "", "not measured"]
    assert (departs[2]["value"], departs[2]["ends"], departs[2]["n"]) == ("33 %", "[25, 40]", 57)
    assert "parsable completions" not in others, "a row without any number is left out"


def test_bars_stand_where_the_numbers_are():
    shown = page.number(Record("grpo", "s", "m", 0.25, 0.1, 0.5, 9, 0))
    assert (shown["left"], shown["width"], shown["point"]) == (10.0, 40.0, 25.0)
    wild = page.number(Record("grpo", "s", "m", 1.5, -1.0, 2.0, 9, 0))
    assert (wild["left"], wild["width"], wild["point"]) == (0.0, 100.0, 100.0)
    bare = page.number(Record("grpo", "s", "m", 0.25, NAN, NAN, 9, 0))
    assert (bare["width"], bare["ends"]) == (0.0, "")


def test_figures_stand_in_their_section_and_the_others_at_the_end(tmp_path):
    alts = {"odd": "the odd one", "agree_conflict": "agree", "flip_rates": "flips", "accuracy_by_split": "accuracy"}
    figures(tmp_path / "figures", **alts)
    found = written(tmp_path)
    order = [attributes.get("alt") or attributes["id"] for tag, attributes in found.elements
             if tag == "img" or tag == "h2"]
    assert order[order.index("reliance"):][:3] == ["reliance", "flips", "agree"]
    assert order[order.index("accuracy", order.index("agree")) + 1] == "accuracy"
    assert order[-2:] == ["figures", "the odd one"]


def test_a_figure_without_alternative_text_is_named(tmp_path):
    from PIL import Image

    figures(tmp_path / "figures")
    Image.new("RGB", (3, 3)).save(tmp_path / "figures" / "bare.png")
    with pytest.raises(ValueError, match=r"bare\.png: a figure without alternative text"):
        written(tmp_path)


def test_nothing_measured_still_gives_a_page(tmp_path):
    found = written(tmp_path, [], notebooks=[])
    assert "not measured" in found.text and not found.all("img") and "(seed" not in found.text


def test_links_to_the_executed_notebooks_beside_it(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("01_data", "02_sft"):
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    links = [a["href"] for a in written(tmp_path).all("a")]
    assert [link for link in links if link.endswith("ipynb")] == ["notebooks/01_data.ipynb", "notebooks/02_sft.ipynb"]


def test_lines_do_not_break_within_a_number():
    assert page.keep_together("at 61 % [55, 67], n = 9 now") == "at 61\u00a0%\u00a0[55,\u00a067], n\u00a0=\u00a09 now"
    assert page.keep_together(7) == 7


def test_overview_draws_what_was_measured_and_says_it(tmp_path):
    log = [{"step": i, "reward": 1.0 + i / 10} for i in range(1, 21)]
    page.draw_overview(a_run(), {"grpo": log, "grpo_listener": []}, tmp_path)
    drawn = page.load_figures(tmp_path)
    assert list(drawn) == ["accuracy_by_split", "agree_conflict", "flip_rates", "learning_curves"]
    assert "base 20 % [16, 24]" in drawn["flip_rates"].alt
    assert "GRPO: 20 steps, reward 1.15 at first and 2.95 at the end" in drawn["learning_curves"].alt
    page.draw_overview([r for r in a_run() if r.metric == "accuracy"], {}, tmp_path / "less")
    assert list(page.load_figures(tmp_path / "less")) == ["accuracy_by_split"]


def test_the_template_goes_with_the_package():
    assert (Path(page.__file__).parent / "page.html.jinja").is_file()


def contrast(one, other):
    """WCAG 2's contrast of two colours, 1 to 21."""
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_both_schemes():
    source = (Path(page.__file__).parent / "page.html.jinja").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", source, re.S)]
    assert len(schemes) == 2
    for colours in schemes:
        for ground in ("paper", "card"):
            for text in ("ink", "soft", "link"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
            for mark in ("base", "sft", "grpo", "grpo_listener"):
                assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)
