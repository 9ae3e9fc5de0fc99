"""The book: its executed copies are today's notebooks, its parts come from the records, its pages ask no other host."""

import base64
import hashlib
import io
import json
import re
import sys
import tarfile
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from lrt.book import assets as book_assets
from lrt.book import executed as book_executed
from lrt.book import lists as book_lists
from lrt.study.report import markdown
from lrt.style import GREY, METHODS, STUDY, _png, figure, look

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(BOOK.glob("*.md"))


# --- executed copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_executed_copy_has_the_cells_of_its_source(source):
    fault = book_executed.differing(source, BOOK / "executed" / source.name)
    assert not fault, f"{fault}: run `make executed`"


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_executed_copy_is_small_and_holds_nothing_of_a_machine(source):
    path = BOOK / "executed" / source.name
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert len(text.encode()) <= book_executed.LIMIT
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "lrt"}
    assert notebook.metadata.lrt.profile
    outputs = json.dumps([c.get("outputs", []) for c in notebook.cells])
    assert book_executed.WIDGETS not in outputs
    assert not re.search(r"/(home|root|Users|work|tmp|var)/\w", book_executed.PNG.sub("", outputs))
    for image in re.findall(r"<img\b[^>]*>", "".join(_html(notebook))):
        assert re.search(r"""\balt=["'][^"']*\w""", image), image[:80]


def _html(notebook):
    return ("".join(o.get("data", {}).get("text/html", "")) for c in notebook.cells for o in c.get("outputs", []))


def _figure(size=(80, 40)):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def _run(folder, source="x = 1", name="01_a.ipynb"):
    """{source notebook: the folder of its run}, as papermill leaves one, and the executed notebook."""
    cells = [new_markdown_cell("# One"), new_code_cell('profile = "laptop"', metadata={"tags": ["parameters"]}),
             new_code_cell(source)]
    notebooks, run = folder / "notebooks", folder / "run"
    for path in (notebooks, run / "notebooks"):
        path.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), notebooks / name)
    executed = nbformat.from_dict(new_notebook(cells=cells))
    injected = new_code_cell('profile = "ci"', metadata={"tags": ["injected-parameters"]}, execution_count=2)
    executed.cells.insert(2, injected)
    for i, cell in enumerate(executed.cells[1:], start=1):
        cell.execution_count = i
        cell.metadata["papermill"] = {"duration": 1.5}
    picture = f'<img src="data:image/png;base64,{_figure()}" alt="a figure">'
    executed.cells[-1].outputs = [
        new_output("stream", name="stdout", text=f"at {ROOT}/runs/x\n 1/2 steps\r 2/2 steps\n"),
        new_output("display_data", data={"text/html": picture, "text/plain": "<HTML>"}, metadata={"seen": 1}),
        new_output("display_data", data={book_executed.WIDGETS: {"model_id": "a"}}),
    ]
    executed.metadata = nbformat.from_dict({"papermill": {"parameters": {"profile": "ci"}}, "widgets": {"state": {}}})
    nbformat.write(executed, run / "notebooks" / name)
    return {notebooks / name: run}, run / "notebooks" / name


def test_copy_keeps_cells_and_outputs_and_drops_what_the_run_added(tmp_path):
    runs, _ = _run(tmp_path)
    (tmp_path / "executed").mkdir()
    (tmp_path / "executed" / "00_gone.ipynb").write_text("{}")
    [path] = book_executed.refresh(runs, tmp_path / "executed", report=lambda text: None)
    assert list((tmp_path / "executed").iterdir()) == [path]
    copy = nbformat.read(path, as_version=4)
    assert book_executed.differing(*runs, path) == ""
    assert [c.source for c in copy.cells] == ["# One", 'profile = "laptop"', "x = 1"]
    assert copy.metadata.lrt.profile == "ci" and "widgets" not in copy.metadata
    assert all("papermill" not in c.metadata for c in copy.cells)
    stream, figure = copy.cells[-1].outputs
    assert stream.text == "at runs/x\n 2/2 steps\n"
    [png] = book_executed.PNG.findall(figure.data["text/html"])
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        assert image.size == (80, 40) and len(image.convert("RGB").getcolors(99999)) <= 256
    assert 'alt="a figure"' in figure.data["text/html"]


def test_paths_of_the_machine_are_taken_out():
    scrubbed, temporary = book_executed.scrubbed, tempfile.gettempdir()
    assert scrubbed(f"{ROOT}/data/models and {Path.home()}/.cache") == "data/models and ~/.cache"
    assert scrubbed(f"{temporary}/tmpa1b2/pairs.csv, row 3") == "TEMPORARY/pairs.csv, row 3"
    assert scrubbed(f"{temporary}/ipykernel_76/166.py:25: RuntimeWarning") == "this cell:25: RuntimeWarning"
    assert scrubbed({"a": 1}) == {"a": 1}


def test_refresh_refuses_a_run_of_other_sources_and_writes_nothing(tmp_path):
    runs, _ = _run(tmp_path)
    others, _ = _run(tmp_path, name="02_b.ipynb")
    [source] = others
    changed = nbformat.read(source, as_version=4)
    changed.cells[2].source = "x = 2"
    nbformat.write(changed, source)
    with pytest.raises(ValueError, match="02_b.ipynb: cell 2 is not its source's"):
        book_executed.refresh(runs | others, tmp_path / "executed")
    assert not (tmp_path / "executed").exists()


def test_refresh_refuses_a_cell_that_did_not_run(tmp_path):
    runs, path = _run(tmp_path)
    broken = nbformat.read(path, as_version=4)
    broken.cells[-1].execution_count = None
    nbformat.write(broken, path)
    with pytest.raises(ValueError, match="was not run"):
        book_executed.refresh(runs, tmp_path / "executed")


def test_the_smallest_palette_keeps_the_colours_of_the_methods_apart():
    """A figure with every method in it, reduced as far as a copy may be: each colour stays the one it was."""
    ours = sorted({look(method)[1] for method in (*METHODS, *STUDY)} | {GREY})
    fig, [[ax]] = figure("all of them")
    for y, colour in enumerate(ours):
        ax.barh(y, 1, color=colour)
        ax.barh(y, -1, color=colour, alpha=0.3)  # lighter kin, and text, take places in the palette too
    data = f"data:image/png;base64,{base64.b64encode(_png(fig, 'bars')).decode()}"
    kind, colours = book_executed.PALETTES[-1]
    small = book_executed._reduced(book_executed.PNG.search(data), kind, colours)
    with Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ours:
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (abs(pixels - wanted).max(axis=1) <= 8).sum() > 500, colour


def test_palette_shrinks_until_the_copy_fits(tmp_path, monkeypatch):
    _, path = _run(tmp_path)
    whole = len(nbformat.writes(book_executed.copy_of(path)).encode())
    monkeypatch.setattr(book_executed, "LIMIT", whole - 500)
    smaller = nbformat.writes(book_executed.copy_of(path))
    assert len(smaller.encode()) < whole - 500
    monkeypatch.setattr(book_executed, "LIMIT", 100)
    with pytest.raises(ValueError, match="KB with 64 colours"):
        book_executed.copy_of(path)


# --- vendored files --------------------------------------------------------------------------------------------------


def _package(folder, files, keep, version="1.0.0", drop=""):
    """A package of npm in the folder, and its description."""
    folder.mkdir(exist_ok=True)
    path = folder / f"some-thing-{version}.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return book_assets.Package("@some/thing", version, digest, keep, "vendor/thing", drop)


def test_vendored_files_come_from_a_tarball_without_any_network(tmp_path):
    files = {"package/dist/a.js": "ask('https://far.example/x')", "package/dist/b.js.map": "map",
             "package/src/c.js": "no", "package/LICENSE": "free"}
    package = _package(tmp_path / "tar", files, ("dist/", "LICENSE"), drop="dist/")
    replaced = {"vendor/thing/a.js": {"https://far.example/x": "near"}}
    ask = {"vendor": tmp_path / "v", "tarballs": tmp_path / "tar", "packages": [package], "replaced": replaced}
    assert book_assets.ensure(**ask) and not book_assets.ensure(**ask)
    files = [path for path in (tmp_path / "v").rglob("*") if path.is_file()]
    there = {path.relative_to(tmp_path / "v").as_posix(): path.read_text() for path in files}
    assert there.pop(book_assets.STAMP)
    assert there == {"vendor/thing/a.js": "ask('near')", "vendor/thing/LICENSE": "free"}


def test_a_changed_tarball_a_missing_file_and_a_path_upwards_are_refused(tmp_path):
    good = _package(tmp_path / "tar", {"package/a.js": "1", "package/../../evil.js": "2"}, ("a.js", "../"))
    with pytest.raises(ValueError, match="has no ../"):
        book_assets.ensure(tmp_path / "v", tmp_path / "tar", [good], {})
    assert not (tmp_path / "v").exists() and not list(tmp_path.rglob("evil.js"))
    (tmp_path / "tar" / good.tarball).write_bytes(b"other")
    with pytest.raises(ValueError, match="not @some/thing 1.0.0; remove the file"):
        book_assets.ensure(tmp_path / "v", tmp_path / "tar", [good], {})


def test_without_npm_or_network_a_sentence_says_what_to_do(tmp_path, monkeypatch):
    package = _package(tmp_path / "elsewhere", {"package/a.js": "1"}, ("a.js",))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"npm is not installed\)\. Run `make book` where.*some-thing-1.0.0.tgz"):
        book_assets.ensure(tmp_path / "v", tmp_path / "none", [package], {})
    npm = tmp_path / "npm"
    npm.write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    npm.chmod(0o755)
    with pytest.raises(ValueError, match="npm could not get it"):
        book_assets.ensure(tmp_path / "v", tmp_path / "none", [package], {})


def test_committed_packages_are_pinned_and_the_vendored_folder_is_ignored():
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", p.version) and len(base64.b64decode(p.sha512)) == 64
               for p in book_assets.PACKAGES)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"book/_vendor/", "book/_tarballs/", "book/_generated/", "book/_build/", "book/reference/"} <= set(ignored)


# --- parts and pages -------------------------------------------------------------------------------------------------


def test_every_module_stands_in_one_room_and_has_a_first_sentence(tmp_path):
    files = [path.relative_to(ROOT / "lrt").with_suffix("") for path in (ROOT / "lrt").rglob("*.py")]
    there = {".".join(f.parts) for f in files if f.name != "__init__" and f.parts[0] != book_lists.NOT_SHOWN}
    named = [name for names in book_lists.rooms_of(ROOT / "lrt").values() for name in names]
    assert sorted(named) == sorted(there)
    assert [name for name in named if not book_lists.about(ROOT / "lrt" / f"{name.replace('.', '/')}.py")] == []
    (tmp_path / "new_one.py").write_text('"""A thing. With more."""\n')
    assert book_lists.rooms_of(tmp_path) == {book_lists.OTHER: ["new_one"]}
    assert book_lists.about(tmp_path / "new_one.py") == "A thing."


def test_a_table_holds_what_it_is_given():
    assert markdown(("a", "b"), [(1, "x|y")]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n"


def test_the_checked_outputs_are_those_of_the_notebooks():
    first = nbformat.read(ROOT / "notebooks" / "01_data.ipynb", as_version=4)
    [kept] = [c.outputs[0]["text"] for c in first.cells if c.cell_type == "code" and "NBVAL_CHECK" in c.source]
    assert kept.strip() in book_lists.exact(ROOT / "notebooks")


def test_citation_names_every_author_of_the_paper():
    text = book_lists.bibtex(ROOT / "CITATION.cff")
    assert text.count(" and ") == 7 and "Gambashidze, Alexander" in text and "2506.22832" in text


def test_every_arxiv_number_of_notebooks_and_docstrings_is_in_the_bibliography():
    texts = [path.read_text(encoding="utf-8") for path in [*NOTEBOOKS, *(ROOT / "lrt").rglob("*.py")]]
    cited = {number for text in texts for number in re.findall(r"arXiv[: ]+(\d{4}\.\d{4,5})", text)}
    known = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", (BOOK / "references.bib").read_text()))
    assert cited - known == set()


def test_every_arm_named_among_the_neighbours_is_in_the_grid():
    from lrt.study.grid import read_grid

    text = (BOOK / "neighbours.md").read_text()
    rows = [line.split("|")[3] for line in text.splitlines() if line.startswith("| ") and "nearest arm" not in line]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(rows) >= 10 and named <= set(read_grid().changes)


# --- the site --------------------------------------------------------------------------------------------------------


NAMING = ("canonical", "next", "prev", "search", "index", "author", "copyright")  # rel of links that load nothing


class Page(HTMLParser):
    """What a page loads, where it leads, and what can be led to."""

    LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
             "embed": "src", "object": "data", "input": "src"}

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.images, self.styles = [], [], {""}, [], []
        self.inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs, self.inside = dict(attrs), tag
        if attrs.get("id"):
            self.ids.add(attrs["id"])
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag == "img":
            self.images.append(attrs)
        if tag == "link" and attrs.get("rel") not in NAMING:
            self.loads.append(attrs.get("href", ""))
        if self.LOADS.get(tag) in attrs:
            self.loads.append(attrs[self.LOADS[tag]])
        self.styles.append(attrs.get("style") or "")

    def handle_data(self, data):
        if self.inside == "style":
            self.styles.append(data)


@pytest.fixture(scope="module")
def pages(site):
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(site).as_posix(): Page(path) for path in files}


def test_tables_in_outputs_are_tables(site):
    """Notebook 06 shows its claims as Markdown; an output's Markdown once had no tables on the site."""
    for page in site.glob("executed/*.html"):
        text = re.sub(r"<(script|pre)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
        assert "| --- |" not in text, f"{page.name}: a table stands there as text"
    claims = (site / "executed" / "06_controls.html").read_text(encoding="utf-8")
    assert re.search(r"<th[^>]*>\s*<p>claim</p>\s*</th>", claims)


def test_the_site_has_every_written_page_and_every_notebook(site, pages):
    wanted = {f"{path.stem}.html" for path in PAGES} | {f"executed/{path.stem}.html" for path in NOTEBOOKS}
    assert wanted <= set(pages)


def _elsewhere(address):
    return urlsplit(address).scheme not in ("", "data") or address.startswith("//")


def test_nothing_is_loaded_from_another_host(site, pages):
    found = [(name, address) for name, page in pages.items() for address in page.loads if _elsewhere(address)]
    css = re.compile(r"""@import\s+(?:url\()?["']?([^"')\s;]+)|url\(\s*["']?([^"')]+)""")
    styles = {name: "\n".join(page.styles) for name, page in pages.items()}
    styles |= {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.css")}
    for name, text in styles.items():
        found += [(name, a or b) for a, b in css.findall(text) if _elsewhere(a or b)]
    assert found == []
    assert "fonts.googleapis.com" not in (site / "_static/vendor/html-manager/embed.js").read_text("utf-8")


def test_what_is_loaded_is_there(site, pages):
    missing = [(name, address) for name, page in pages.items() for address in page.loads
               if not address.startswith("data:") and not _file(site, name, address).is_file()]
    assert missing == []
    config = (site / "executed" / "03_grpo.html").read_text("utf-8")
    assert '"fonts": "[mathjax]/fonts"' in config
    assert (site / "_static/vendor/mathjax/fonts/mathjax-newcm-font/chtml/woff2").is_dir()


def _file(site, name, address):
    path = unquote(urlsplit(address).path)
    return (site / Path(name).parent / path).resolve() if path else site / name


def test_every_internal_link_leads_somewhere(site, pages):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            target = _file(site, name, link)
            known = pages.get(target.relative_to(site).as_posix()) if target.is_relative_to(site) else None
            fragment = unquote(urlsplit(link).fragment)
            if not target.is_file() or (known and fragment not in known.ids):
                broken.append((name, link))
    assert broken == []


def test_every_image_has_alternative_text(pages):
    assert [(name, image.get("src", "")[:60]) for name, page in pages.items() for image in page.images
            if not (image.get("alt") or "").strip()] == []
    assert sum(len(page.images) for page in pages.values()) > 30


def test_numbers_on_the_site_are_those_of_the_records(site):
    from lrt import comparing
    from lrt.stats import load_records

    records = load_records(ROOT / "data/results/one_seed.json")
    flips = comparing.find(records, "sft", "flip_rate", comparing.MAIN)
    text = re.sub(r"<[^>]+>", " ", (site / "numbers.html").read_text("utf-8"))
    assert f"{100 * flips.value:.0f} % [{100 * flips.low:.0f}, {100 * flips.high:.0f}]" in text
    claims = {row["id"] for row in json.loads((ROOT / "data/study/claims.json").read_text())["claims"]}
    shown = (site / "results.html").read_text("utf-8")
    assert all(f"<strong>{claim}</strong>" in shown for claim in claims)


def test_docstrings_are_read_as_markdown_and_lead_to_one_another(site):
    page = (site / "reference" / "listeners-and-rewards.html").read_text("utf-8")
    assert re.search(r"<table.*self_reading", page, re.S)  # the table in the docstring of lrt.study.arms
    assert re.search(r'href="#module-lrt.controls"[^>]*><code[^>]*>[^a-z]*<span class="pre">lrt.controls', page)
