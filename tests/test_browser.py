"""Every page of the built book in a browser: on a desktop and a phone, in light and dark, and as axe-core sees it."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from browser import chromium, served

from lrt.book import assets

BOOK = Path(__file__).resolve().parents[1] / "book"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
AXE = assets.Package(  # for the test alone: no part of the site
    "axe-core", "4.14.1", "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    ("axe.min.js", "LICENSE"), "vendor/axe")
# Faults that are not ours are put right in book/_templates, book/_static/book.css and book/_ext/reachable.py: none is
# let pass here.

RULES = """async () => (await axe.run(document, {
  preload: false, resultTypes: ['violations'],
  runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
  rules: {'color-contrast': {enabled: false}, region: {enabled: false}},
})).violations"""
# What axe takes longest over and says nothing of: formulas, which MathJax reads aloud itself, and the coloured letters
# of code after a page's first blocks.
SLIM = """() => {
  document.querySelectorAll('mjx-container').forEach((e) => e.remove());
  [...document.querySelectorAll('pre')].slice(4).forEach((e) => { e.textContent = e.textContent; });
}"""
# Contrast takes axe longer than all else, and depends on few things: one text of each kind is enough.
CONTRAST = """async (known) => {
  const seen = new Set(known), chosen = [], grounds = new Map();
  const above = (e) => e.parentElement || (e.getRootNode().host ?? null);
  const ground = (e) => {
    if (!e) return '';
    if (!grounds.has(e)) {
      const {backgroundColor, backgroundImage, opacity} = getComputedStyle(e), rest = ground(above(e));
      const clear = backgroundColor === 'rgba(0, 0, 0, 0)' && backgroundImage === 'none' && opacity === '1';
      grounds.set(e, clear ? rest : [backgroundColor, backgroundImage, opacity, rest].join('<'));
    }
    return grounds.get(e);
  };
  const look = (root) => {
    for (const e of root.querySelectorAll('*')) {
      if (e.shadowRoot) look(e.shadowRoot);
      if (![...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim())) continue;
      if (!e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
      const {color, fontSize, fontWeight} = getComputedStyle(e);
      const kind = [color, fontSize, fontWeight, ground(e)].join('|');
      if (!seen.has(kind)) { seen.add(kind); chosen.push(e); }
    }
  };
  look(document.body);
  const options = {preload: false, resultTypes: ['violations'], runOnly: {type: 'rule', values: ['color-contrast']}};
  const violations = chosen.length ? (await axe.run(chosen, options)).violations : [];
  return {kinds: [...seen], violations};
}"""
# An image may be silent only where a button, link or label that it decorates says in words what it is.
IMAGES = """() => {
  const all = (root) => [...root.querySelectorAll('*')].flatMap((e) => e.shadowRoot ? [e, ...all(e.shadowRoot)] : [e]);
  const named = (e) => e.hasAttribute('alt') && e.closest('button, a, label')?.innerText.trim();
  return all(document).filter((e) => e.tagName === 'IMG')
    .map((e) => [e.outerHTML.slice(0, 120), e.alt.trim() || named(e) || '']);
}"""
# The page is wider than the window: its widest parts that no box of their own scrolls.
SIDEWAYS = """() => {
  if (document.scrollingElement.scrollWidth <= innerWidth) return [];
  const scrolls = (e) => e && (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const wide = [...document.body.querySelectorAll('*')]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement))
    .map((e) => `${e.tagName.toLowerCase()}.${e.className} to ${Math.round(e.getBoundingClientRect().right)}`);
  return wide.length ? wide.slice(-3) : ['something outside the flow'];
}"""

# What scrolls within itself must be reached by the keyboard: be a stop of its own, or hold one.
UNREACHED = """() => [...document.body.querySelectorAll('*')].filter((e) => {
  const x = getComputedStyle(e).overflowX;
  return (x === 'auto' || x === 'scroll') && e.scrollWidth > e.clientWidth + 1 && e.checkVisibility()
    && e.tabIndex < 0 && !e.querySelector('a[href], button, input, select, textarea, summary, [tabindex="0"]');
}).map((e) => e.outerHTML.slice(0, 100))"""


@dataclass
class Visit:
    """What one page did when it was opened."""

    page: str
    asked: list = field(default_factory=list)  # addresses, in order; those of the site without its host
    errors: list = field(default_factory=list)  # of scripts and of the console
    images: list = field(default_factory=list)  # (start of its HTML, alternative text)
    sideways: list = field(default_factory=list)  # what makes the page wider than a phone
    unreached: list = field(default_factory=list)  # what scrolls there, and no key reaches it
    faults: list = field(default_factory=list)  # (theme, rule, selector, what axe says), serious and critical ones
    formulas: int = 0
    unread: int = 0  # formulas that MathJax could not read


@pytest.fixture(scope="module")
def axe():
    """axe-core's script; "" where it is not there and cannot be fetched."""
    folder = BOOK / "_build" / "axe"
    try:
        assets.ensure(folder, BOOK / "_tarballs", [AXE], {})
    except ValueError:
        return ""
    return (folder / AXE.into / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def visits(site, axe):
    """Page -> its visit, for every page of the site, whoever wrote it."""
    names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if "_static" not in path.parts)
    start, kinds = time.monotonic(), {"light": [], "dark": []}
    with chromium() as browser, served(site) as address:
        tab = browser.new_context(viewport=DESKTOP).new_page()
        found = {name: _visit(tab, address, name, axe, kinds) for name in names}
    print(f"{len(found)} pages in {time.monotonic() - start:.0f} s")
    return found


def _visit(tab, address, name, axe, kinds):
    visit = Visit(name)
    heard = {
        "request": lambda request: visit.asked.append(request.url.removeprefix(address)),
        "websocket": lambda socket: visit.asked.append(socket.url),
        "pageerror": lambda error: visit.errors.append(str(error)),
        "console": lambda message: visit.errors.append(message.text) if message.type == "error" else None,
    }
    for event, handler in heard.items():
        tab.on(event, handler)
    tab.set_viewport_size(PHONE)
    _theme(tab, "light")
    tab.goto(address + name)
    tab.wait_for_load_state("networkidle")
    tab.evaluate("window.MathJax?.startup?.promise.then(() => 0)")
    visit.formulas = tab.locator("mjx-container").count()
    visit.unread = tab.locator("mjx-merror, [data-mjx-error]").count()
    visit.images = tab.evaluate(IMAGES)
    visit.sideways, visit.unreached = tab.evaluate(SIDEWAYS), tab.evaluate(UNREACHED)
    tab.set_viewport_size(DESKTOP)
    if axe:
        _ask_axe(tab, axe, visit, kinds)
    for event, handler in heard.items():
        tab.remove_listener(event, handler)
    return visit


def _ask_axe(tab, axe, visit, kinds):
    tab.evaluate(axe)
    tab.evaluate(SLIM)
    for theme in kinds:
        _theme(tab, theme)
        contrast = tab.evaluate(CONTRAST, kinds[theme])
        kinds[theme] = contrast["kinds"]
        _note(visit, theme, contrast["violations"])
    _note(visit, "any theme", tab.evaluate(RULES))


def _theme(tab, theme):
    """As a reader's machine asks for it, and as the button of the page sets it."""
    tab.emulate_media(color_scheme=theme, reduced_motion="reduce")
    tab.evaluate("(it) => { if (document.documentElement.dataset.theme) document.documentElement.dataset.theme = it; }",
                 theme)


def _note(visit, theme, violations):
    for violation in violations:
        if violation["impact"] in ("serious", "critical"):
            for node in violation["nodes"]:
                reasons = [check["message"] for part in ("any", "all", "none") for check in node[part]]
                selector = " ".join(map(str, node["target"]))
                visit.faults.append((theme, violation["id"], selector, reasons[0] if reasons else ""))


WRONG = """<!doctype html><html lang="en" data-theme="light"><title>wrong</title><link rel="icon" href="data:,">
<style>p { color: #777 } html[data-theme="dark"] p { color: #444; background: #222 }</style>
<main><h1>Wrong</h1><p>pale on white</p><img src="data:," ><button><img src="data:," alt="">named</button>
<div style="width: 600px">wide</div><div style="overflow-x: auto"><div style="width: 900px">far</div></div>
<input><script>fetch("http://elsewhere.example/x").catch(() => 0); console.error("said"); throw Error("thrown")</script>
"""


def test_a_page_that_is_wrong_in_every_way_is_found_out(tmp_path, axe):
    (tmp_path / "wrong.html").write_text(WRONG, encoding="utf-8")
    with chromium() as browser, served(tmp_path) as address:
        tab = browser.new_context(viewport=DESKTOP).new_page()
        visit = _visit(tab, address, "wrong.html", axe, {"light": [], "dark": []})
    assert visit.asked[0] == "wrong.html" and "http://elsewhere.example/x" in visit.asked
    assert "said" in visit.errors and any("thrown" in error for error in visit.errors)
    assert [alt for _, alt in visit.images] == ["", "named"]
    assert visit.sideways == ["div. to 608"] and len(visit.unreached) == 1
    if axe:
        found = {(theme, rule) for theme, rule, *_ in visit.faults}
        assert {("light", "color-contrast"), ("dark", "color-contrast"), ("any theme", "image-alt"),
                ("any theme", "label")} <= found


# --- what is expected of every page ----------------------------------------------------------------------------------


def test_every_page_is_visited(site, visits):
    assert {"index.html", "search.html", "genindex.html", "executed/03_grpo.html"} <= set(visits)
    assert {f"{path.stem}.html" for path in BOOK.glob("*.md")} <= set(visits)


def test_no_request_leaves_the_machine(visits):
    assert [(visit.page, url) for visit in visits.values() for url in visit.asked
            if "://" in url and not url.startswith(("data:", "blob:"))] == []


def test_formulas_are_set_with_the_site_s_own_fonts(visits):
    asked = visits["executed/03_grpo.html"].asked
    assert any(re.search(r"^_static/vendor/mathjax/tex-chtml\.js", url) for url in asked)
    assert any(re.search(r"^_static/vendor/mathjax/fonts/.*\.woff2$", url) for url in asked)
    assert visits["executed/03_grpo.html"].formulas > 20 and visits["why.html"].formulas > 3
    assert [(visit.page, visit.unread) for visit in visits.values() if visit.unread] == []


def test_no_script_fails(visits):
    assert [(visit.page, error) for visit in visits.values() for error in visit.errors] == []


def test_every_image_has_alternative_text_once_scripts_have_run(visits):
    assert [(visit.page, html) for visit in visits.values() for html, alt in visit.images if not alt] == []
    assert sum(len(visit.images) for visit in visits.values()) > 30


def test_no_page_scrolls_sideways_on_a_phone(visits):
    assert {visit.page: visit.sideways for visit in visits.values() if visit.sideways} == {}


def test_what_scrolls_on_a_phone_is_reached_by_the_keyboard(visits):
    assert {visit.page: visit.unreached for visit in visits.values() if visit.unreached} == {}


def test_axe_finds_nothing_serious(axe, visits):
    if not axe:
        pytest.skip(f"axe-core is not here: install npm, or put {AXE.tarball} (`npm pack {AXE.name}@{AXE.version}`) "
                    "into book/_tarballs")
    assert [(visit.page, *fault) for visit in visits.values() for fault in visit.faults] == []
