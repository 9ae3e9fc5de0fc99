"""The page "Edit the trace" in a browser: it computes what PyTorch does, and answers to typing, keys and buttons."""

import re
import shutil
from pathlib import Path

import browser
import numpy as np
import pytest
from gallery_rows import BY_HAND, FOLDER, ROOT, TOLERANCE, WRITTEN, listener, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import prompts
from lrt.book import assets, gallery
from lrt.listener import p_of
from lrt.prompts import heard, listener_continuation

PAGE = ROOT / "book" / "play_listener.md"
text_alike = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "< / THINK", "<|im_end|>", "<image>", "<th",
                     "ink>", " ", "\n", "\u00a0", "\u2028", "\x1c", "\ufeff", "1", "2", "red", "image", ".", "dog",
                     "\u0130", "<", "|>", "\u017f", "<An\u017fwer>"]) | st.text(max_size=3), max_size=12).map("".join)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the page's own lines of HTML, its scripts and the runtime, as on the site, and its address."""
    folder = tmp_path_factory.mktemp("site")
    [package] = [p for p in assets.PACKAGES if p.name == "onnxruntime-web"]
    vendored = ROOT / "book" / "_vendor"
    if not all((vendored / package.into / Path(name).name).is_file() for name in package.keep):
        try:
            assets.ensure(folder / "_vendor", ROOT / "book" / "_tarballs", [package], {})
        except ValueError as missing:
            pytest.skip(str(missing))
        vendored = folder / "_vendor"
    shutil.copytree(vendored / package.into, folder / "_static" / package.into)
    shutil.copytree(FOLDER, folder / "_static" / "play")
    [own] = re.findall(r"```\{raw\} html\n(<link.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    head = '<title>t</title><link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">'
    whole = f'<!doctype html><html lang="en">{head}{own}'
    (folder / "page.html").write_text(whole, encoding="utf-8")
    with browser.served(folder) as address:
        yield f"{address}page.html", folder / "page.html"


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(site, chromium):
    """The page with its models loaded; no script error, and no request to another host."""
    tab, faults = chromium.new_page(viewport={"width": 1280, "height": 900}), []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(site[0][:-9]) else None)
    tab.goto(site[0])
    tab.wait_for_selector('.lrt-play[data-state="ready"]', timeout=120_000)
    yield tab
    assert faults == []


def ask(page, script, given=None):
    return page.evaluate(f"async (given) => {{ const it = document.querySelector('.lrt-play').page; {script} }}", given)


def shown(page):
    """Listener -> the p that the page shows, once it has drawn its last answer."""
    page.wait_for_function("(() => { const it = document.querySelector('.lrt-play'); "
                           "return it.dataset.drawn === String(it.page.asked); })()")
    lines = page.query_selector_all("tr[data-listener]")
    return {line.get_attribute("data-listener"): float(line.get_attribute("data-p")) for line in lines}


def test_p_in_the_browser_is_pytorch_s_for_every_pair_and_for_edited_traces(page):
    questions = [(name, b, picture, text) for name in gallery.LISTENERS for b, pair in enumerate(WRITTEN["pairs"])
                 for picture, text in ((0, pair["texts"]["own"]), (1, pair["texts"]["exchanged"]),
                                       (0, BY_HAND[b % len(BY_HAND)]))]
    found = ask(page, "const out = []; for (const q of given) out.push(await it.models.listen(...q)); return out;",
                questions)
    wanted = []
    for name in gallery.LISTENERS:
        own = [(rows()[picture][b], text) for asked, b, picture, text in questions if asked == name]
        wanted += listener(name).logits([row["prompt"] for row, _ in own], [row["images"] for row, _ in own],
                                        [[text] for _, text in own])
    for [(one, two)], answer in zip(wanted, found, strict=True):
        assert abs(answer["one"] - one) < TOLERANCE and abs(answer["two"] - two) < TOLERANCE
        assert abs(answer["p"] - p_of((one, two))) < TOLERANCE


def test_the_browser_s_greedy_completions_are_python_s(page):
    questions = [(name, b, picture) for name in gallery.REASONERS for b, picture in ((0, 0), (5, 1))]
    found = ask(page, "const out = []; for (const q of given) out.push(await it.models.think(...q)); return out;",
                questions)
    for (name, b, picture), text in zip(questions, found, strict=True):  # tests/test_gallery.py: written by Python
        assert text == WRITTEN["pairs"][b]["thoughts"][name][picture]


@settings(deadline=None, max_examples=5)
@given(st.lists(text_alike, min_size=150, max_size=150))
def test_the_browser_cuts_and_reads_any_text_as_python_does(page, texts):
    found = ask(page, "return given.map((t) => [it.reading.heard(t), it.reading.parse(t), it.reading.listened(t)]);",
                texts)
    tokenizer = listener("reader").loaded.tokenizer
    for text, (cut, parsed, ids) in zip(texts, found, strict=True):
        wanted = prompts.parse(text)
        assert cut == heard(text)
        assert parsed == {"trace": wanted.trace, "answer": wanted.answer}
        assert ids == tokenizer(listener_continuation(heard(text)))["input_ids"]


def test_typing_changes_p_and_names_unknown_words(page):
    before = shown(page)
    page.fill("textarea", WRITTEN["pairs"][0]["texts"]["exchanged"] + " dog")
    after = shown(page)
    assert abs(after["reader"] - before["reader"]) > 0.01
    assert "“dog”" in page.inner_text(".strangers") and "no word for" in page.inner_text(".strangers")
    page.fill("textarea", "")
    page.type("textarea", "image 1 is better .")
    assert shown(page)["reasoner"] > 0.6 and page.inner_text(".strangers") == ""
    page.click("summary")
    page.click("button.word >> text=blurred")
    assert page.input_value("textarea") == "image 1 is better . blurred "
    page.click('button[data-edit="own"]')
    wanted = {name: p_of(pair[0]["own"]) for name, pair in WRITTEN["pairs"][0]["logits"].items()}
    assert shown(page) == pytest.approx(wanted, abs=TOLERANCE)


def test_another_pair_and_other_backgrounds_by_keyboard(page):
    page.focus("input[name=lrt-pair]:checked")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".prompt").endswith(WRITTEN["pairs"][1]["prompt"])
    page.check("input[type=checkbox]")
    wanted = {name: p_of(views[1]["own"]) for name, views in WRITTEN["pairs"][1]["logits"].items()}
    assert shown(page) == pytest.approx(wanted, abs=TOLERANCE)
    assert "exchanged" in page.get_attribute(".shown img", "src")
    page.uncheck("input[type=checkbox]")


def test_the_reasoner_thinks_aloud_and_a_seed_repeats(page):
    page.click("button.go")
    page.wait_for_function("document.querySelector('.lrt-play .verdict').textContent.startsWith('Its answer')")
    assert page.inner_text(".thought") == WRITTEN["pairs"][1]["thoughts"]["reasoner"][0]
    assert page.input_value("textarea") == WRITTEN["pairs"][1]["texts"]["own"]
    sample = ("const { randomFrom } = await import(new URL('_static/play/reading.js', location.href)); "
              "const out = []; for (const s of given) "
              "out.push(await it.models.think('reasoner', 1, 0, randomFrom(s))); return out;")
    first, again, *others = ask(page, sample, [1, 1, 2, 3, 4])
    assert first == again and len({first, *others}) > 1


def test_drawn_words_have_the_probabilities_of_the_softmax(page):
    logits = [0.0, 1.0, 2.0, -1.0, 0.5, 9.0]  # the fifth id is an image token: never drawn
    draws = ask(page, "const { randomFrom } = await import(new URL('_static/play/reading.js', location.href)); "
                      "const r = randomFrom(7), n = new Array(6).fill(0); "
                      "for (let i = 0; i < 20000; i++) n[it.reading.next(given, r)]++; return n;", logits)
    weights = np.exp(logits) * (np.arange(6) != WRITTEN["never"][0])
    assert draws[WRITTEN["never"][0]] == 0
    assert np.abs(np.array(draws) / 20000 - weights / weights.sum()).max() < 0.02


def test_opened_as_a_file_the_page_says_that_it_needs_a_server(site, chromium):
    tab = chromium.new_page()
    tab.goto(site[1].as_uri())
    assert "python -m http.server" in tab.inner_text(".lrt-play") and tab.query_selector("textarea") is None
    tab.close()


def test_prepared_traces_have_their_numbers_before_any_model(site, chromium):
    tab = chromium.new_page(viewport={"width": 390, "height": 800})
    tab.route("**/*.wasm", lambda route: route.abort())
    tab.goto(site[0])
    tab.wait_for_function("document.querySelector('.state')?.textContent.includes('could not be started')")
    tab.click('button[data-edit="flipped"]')
    wanted = {name: p_of(views[0]["flipped"]) for name, views in WRITTEN["pairs"][0]["logits"].items()}
    assert shown(tab) == pytest.approx(wanted, abs=TOLERANCE)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()
