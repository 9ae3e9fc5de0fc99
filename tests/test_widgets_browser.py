"""Things to play with in a browser: they answer to a drag and to keys, say so, keep to themselves, and fail softly."""

import pytest
from browser import chromium, served

from lrt.pairs import tiny_pairs
from lrt.rewards import advantages
from lrt.widgets import dial, fragment, group, learned, steps

EVIL = "<img src=x onerror=\"document.title='run'\"></script><b>b</b>"
LOUD = "<style>td, button, p { display: none !important; color: #fff !important }</style>"  # what a page might bring


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a folder with a page for each, and one for what must not run."""
    folder = tmp_path_factory.mktemp("site")
    [pair] = tiny_pairs("tint_uninformative", 1)
    said = [{"step": step, "pair_id": pair["pair_id"], "sample": k, "text": text, "p": {"reader": 0.25}}
            for step, k, text in ((0, 0, "<think> so </think> <answer> 1 </answer>"), (0, 1, EVIL),
                                  (7, 0, "<think> so it is </think> <answer> 2 </answer>"))]
    own = steps.steps_html({"grpo": said}, tiny_pairs("tint_uninformative", 1))
    pages = {"group": group.group_html([1.5, 1.0, 1.5, 1.0]) * 2, "dial": dial.dial_html(tiny_pairs("train", 12)),
             "learned": learned.learned_html([]), "steps": own,
             "broken": fragment.fragment("group", "Broken", {"presets": []}, fragment.paragraph("what is left"))}
    for name, text in pages.items():
        head = f"<!doctype html><html lang=en><meta charset=utf-8><title>t</title><link rel=icon href=data:,>{LOUD}"
        (folder / f"{name}.html").write_text(f"{head}<body><main>{text}</main></body></html>", encoding="utf-8")
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def look(browser, site):
    """look(name) -> the opened page; afterwards no error, and nothing asked for but the page itself."""
    page, errors, asked = browser.new_page(viewport={"width": 390, "height": 844}), [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))

    def opened(name):
        page.goto(f"{site}{name}.html")
        return page

    yield opened
    assert errors == [] and [url for url in asked if not url.startswith(("data:", site))] == []
    assert len([url for url in asked if url.startswith(site)]) == 1
    page.close()


def shown(page, k=0):
    """The advantages that stand under the bars of the k-th group."""
    return [float(text) for text in page.locator(".lrt-widget").nth(k).locator(".column b").all_inner_texts()]


def test_a_bar_follows_the_pointer_and_the_advantages_follow_the_bar(look):
    page = look("group")
    bar = page.get_by_label("reward of completion 2").first
    before = shown(page)
    assert before == pytest.approx(advantages([[1.5, 1.0, 1.5, 1.0]])[0], abs=0.006)
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"]
    page.mouse.move(x, y - 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(x, y - 0.2 * box["height"], steps=4)
    page.mouse.move(x, y - 0.1 * box["height"], steps=4)
    page.mouse.up()
    value = float(bar.input_value())
    assert value == pytest.approx(0.2, abs=0.03)  # a tenth of 2: the bar ends where the pointer is
    assert shown(page) == pytest.approx(advantages([[1.5, value, 1.5, 1.0]])[0], abs=0.006)
    assert shown(page, 1) == before  # the other one on the page is another one


def test_a_bar_answers_to_keys_and_says_what_it_is(look):
    page = look("group")
    bar = page.get_by_label("reward of completion 1").first
    bar.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowDown")
    assert bar.input_value() == "1.549"
    page.keyboard.press("Home")
    assert bar.input_value() == "0"
    page.keyboard.press("ArrowDown")
    assert bar.input_value() == "0"
    expected = advantages([[0.0, 1.0, 1.5, 1.0]])[0]
    assert bar.get_attribute("aria-valuetext") == f"reward 0.000, advantage {expected[0]:+.3f}"
    assert shown(page) == pytest.approx(expected, abs=0.006)


def test_scalings_presets_and_epsilon_change_what_is_told(look):
    page = look("group")
    live = page.locator("[aria-live]").first
    page.get_by_role("button", name="all right", exact=True).first.click()
    assert "dead group" in live.inner_text() and shown(page) == [0, 0, 0, 0]
    page.get_by_role("button", name="all right, one by 0.001 more").first.click()
    assert shown(page)[0] == pytest.approx(advantages([[1.501, 1.5, 1.5, 1.5]])[0][0], abs=0.006)
    page.get_by_role("combobox", name="ε").first.select_option("1e-8")
    assert shown(page)[0] == 1.5
    page.get_by_role("combobox", name="Scaling").first.select_option("none")
    assert shown(page) == [0, 0, 0, 0] and "Nothing is divided" in live.inner_text()


def test_a_pages_styles_stay_outside(look):
    page = look("group")
    button = page.get_by_role("button", name="one right").first
    assert button.is_visible() and page.locator("p").last.is_hidden()


def test_without_scripts_the_table_is_there(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}dial.html")
    assert page.get_by_role("table").is_visible() and "What the warm background says" in page.content()
    context.close()


def test_what_cannot_be_drawn_leaves_the_static_part(look):
    page = look("broken")
    assert page.locator(".lrt-widget").evaluate("e => e.shadowRoot.children.length") == 1
    assert "what is left" in page.locator(".lrt-widget").text_content()


def test_the_dial_turns_pairs_and_lines(look):
    page = look("dial")
    dial_ = page.get_by_role("slider", name="dial d")
    dial_.focus()
    page.keyboard.press("End")
    page.wait_for_function("document.querySelector('.lrt-widget').shadowRoot.querySelectorAll('.better').length > 0")
    assert dial_.get_attribute("aria-valuetext") == "1: the better image is warm in 10 of 10"
    captions = page.locator("figcaption.better").all_inner_texts()
    assert captions and set(captions) == {"warm, better"}
    page.keyboard.press("Home")
    assert set(page.locator("figcaption.better").all_inner_texts()) == {"cool, better"}
    assert "agree in 0" in page.locator("[aria-live]").inner_text()
    alts = [image.get_attribute("alt") for image in page.locator("img").all()]
    assert len(alts) == 2 * dial.SHOWN and all("background" in alt for alt in alts)


def test_where_nothing_was_run_it_says_so_and_draws_nothing(look):
    page = look("learned")
    page.get_by_role("button", name="0.5 (not run yet)").click()
    assert "nothing was run yet" in page.locator("[aria-live]").inner_text()
    assert "Planned, and not run yet: GRPO, reader as listener" in page.locator(".small").last.inner_text()
    assert page.locator("table").first.is_hidden()


def test_steps_move_and_what_a_model_wrote_is_text(look):
    page = look("steps")
    slider = page.get_by_role("slider", name="step")
    assert slider.get_attribute("aria-valuetext") == "7 of 7"
    assert page.locator(".trace").first.inner_text().strip() == "so? it? is" and page.locator("ins").count() >= 2
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "0 of 7"
    assert page.locator(".trace").first.inner_text().strip() == "so?"
    page.get_by_text("sampled completions: 1").click()
    assert page.locator("code").inner_text() == EVIL
    assert page.title() == "t" and page.locator("b", has_text="b").count() == 0


@pytest.mark.parametrize("name", ["group", "dial", "learned", "steps"])
def test_a_phone_does_not_scroll_sideways(look, name):
    page = look(name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 + 8  # the page's own margin
