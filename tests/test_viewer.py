"""The completions viewer: what it says of a completion, that it escapes everything, and that it works unstyled."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrt import pairs, traces, viewer, world
from lrt.rewards import reward_parts
from lrt.viewer import completions_html, completions_widget, shown_rows

VOID = {"img", "br"}


class Page(HTMLParser):
    """Tags with their attributes and the text inside them; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, []))

    def handle_endtag(self, tag):
        opened, text = self.open.pop()
        assert opened == tag
        self.texts.append((tag, "".join(text)))

    def handle_data(self, data):
        for _, text in self.open:
            text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def pair():
    return pairs.tiny_pairs("tint_uninformative", 1)[0]


def gold(pair, verdict=1):
    return traces.gold_trace(world.parse_prompt(pair["prompt"]), pairs.scenes_of(pair), verdict)


def row(pair, **changes):
    text = traces.write_completion(gold(pair), 1)
    return {**pair, "vote": 1, "text": text, "step": 100, "listeners": {"reader": 0.8}, **changes}


def test_a_true_trace_is_marked_true_word_by_word(pair):
    page = Page(completions_html([row(pair)]))
    checked = traces.check_trace(str(gold(pair)), world.parse_prompt(pair["prompt"]), pairs.scenes_of(pair))
    said = [statement.said for statement in checked]
    assert page.text("u") == ["true", *said]  # the first stands in the legend
    assert len(page.text("mark")) == 1
    (trace,) = [text for text in page.text("p") if text.startswith("image 1 :")]
    assert trace.replace(".", ". ").split() == str(gold(pair)).split()


def test_a_false_word_is_marked_with_more_than_colour(pair):
    text = traces.write_completion(str(gold(pair)).replace("clear", "noisy").replace("faded", "noisy"), 1)
    marks = Page(completions_html([row(pair, text=text)])).text("mark")[1:]
    assert marks and set(marks) == {"noisy✗"}
    assert "underline wavy" in viewer.STYLE and "underline dotted" in viewer.STYLE


def test_what_cannot_be_scored_is_marked_so(pair):
    striped = world.Scene(pairs.scenes_of(pair)[0].things, "striped").to_json()
    text = f"<think> image 1 : {gold(pair).images[0]} . purple noise . </think> <answer> 1 </answer>"
    text = re.sub(r"clear|blurred|noisy|faded", "noisy", text)
    page = Page(completions_html([row(pair, text=text, scene_1=striped)]))
    spans = [text for tag, text in page.texts if tag == "span" and text.endswith("?")]
    assert spans == ["not to be scored?", "noisy?", "purple?", "noise?"]


def test_without_scenes_the_trace_stands_as_it_is(pair):
    text = "<think>I like the\nfirst & its <b>light</b>.</think><answer>1</answer>"
    page = Page(completions_html([row(pair, text=text, scene_1=None, scene_2=None)]))
    assert "I like the\nfirst & its <b>light</b>." in page.text("p")
    assert page.all("b") == []
    assert page.all("img")[0]["alt"] == "image 1 of the pair"


def test_answer_verdict_and_vote_are_compared(pair):
    def conclusion(**changes):
        (text,) = [t for t in Page(completions_html([row(pair, **changes)])).text("p") if "verdict" in t]
        return text

    assert conclusion() == "verdict: image 1 · answer: image 1 (as voted ✓)"
    other = traces.write_completion(gold(pair, verdict=1), 2)
    assert conclusion(text=other).endswith("answer: image 2 (not as voted ✗) · the answer departs from the verdict ≠")
    assert conclusion(vote=0).endswith("answer: image 1 (a tie)")
    assert conclusion(text=traces.write_completion("", 1)).startswith("no verdict · answer: image 1")
    assert "no answer that can be read" in conclusion(text="<think> image 1 is better .")


def test_listeners_are_bars_with_their_number(pair):
    listeners = {"reader": 0.8, "llava": 0.3, "even": 0.5, "deaf": None}
    page = Page(completions_html([row(pair, listeners=listeners)]))
    rows = [text for text in page.text("tr") if any(text.startswith(name) for name in listeners)]
    assert rows == ["reader0.80", "llava0.30contradicts the answer ≠", "even0.50", "deafnot scored"]
    bars = [a["style"] for a in page.all("span") if a.get("class") == "bar"]
    assert bars == ["left:20.0%;width:30.0%", "left:50.0%;width:20.0%", "left:50.0%;width:0.0%"]


def test_rewards_come_with_their_parts(pair):
    parts = {"format": 1.0, "accuracy": 0.0, "listener": None, "total": 1.25, "advantage": -0.5}
    page = Page(completions_html([row(pair, **parts)]))
    assert ["1.00", "0.00", "not scored", "1.25", "-0.50"] == page.text("td")[-5:]
    assert 'class="rewards"' not in completions_html([row(pair)])


def test_images_are_in_the_page_whole_and_with_alternative_text(pair):
    first, second = Page(completions_html([row(pair)])).all("img")
    data = base64.b64decode(first["src"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).tobytes() == pair["images"][0].convert("RGB").tobytes()
    scene = pairs.scenes_of(pair)[1]
    assert second["alt"] == f"image 2 of the pair: {', '.join(map(str, scene.things))}; {scene.quality}"
    assert first["width"] == str(viewer.WIDTH) and "pixelated" in viewer.STYLE
    large = Image.new("RGBA", (2000, 1000))
    shrunk = Page(completions_html([row(pair, images=[large, large])])).all("img")[0]
    assert (int(shrunk["width"]), int(shrunk["height"])) == (viewer.WIDTH, viewer.WIDTH // 2)
    assert len(shrunk["src"]) < 10_000


def test_pairs_steps_and_completions_nest_and_the_last_step_is_open(pair):
    rows = [row(pair, step=s, text=t) for s in (0, 200) for t in (row(pair)["text"], "nothing")]
    rows += [row(pair, pair_id="another", step="grpo")]
    page = Page(completions_html(rows))
    assert len(page.all("article")) == 2
    assert ["open" in attributes for attributes in page.all("details")] == [False, True, True]
    assert page.text("summary") == ["step 0 (1 of 2 as voted)", "step 200 (1 of 2 as voted)", "grpo (1 of 1 as voted)"]
    assert len(page.all("img")) == 4  # once a pair


def test_no_scripts_and_nothing_from_elsewhere(pair):
    text = completions_html([row(pair)])
    assert not re.search(r"<script|<iframe|\bon\w+=|https?:|url\(|@import", text, re.IGNORECASE)
    outside = [line for line in viewer.STYLE.splitlines()[1:-1] if "{" in line and not line.startswith(".lrt-viewer")]
    assert outside == []


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(["<script>x</script>", '"><img src=x onerror=y>', "</section>", "&lt;"]))
def test_whatever_is_written_is_escaped(pair, said):
    changes = {"text": said, "prompt": said, "step": said, "listeners": {said: 0.2}, "pair_id": said}
    page = Page(completions_html([row(pair, scene_1=None, scene_2=None, **changes)]))
    assert {tag for tag, _ in page.tags} <= {
        *("section", "style", "p", "u", "mark", "sup", "span", "article", "h4", "div", "figure", "figcaption", "img"),
        *("details", "summary", "em", "pre", "strong", "table", "tr", "th", "td", "br"),
    }
    assert len(page.all("img")) == 2
    assert said in page.text("pre") or not page.text("pre")
    Page(completions_html([row(pair, text=said)]))  # with scenes: whatever is said, it is held against them


@pytest.mark.parametrize("missing", ["pair_id", "prompt", "images", "vote", "text"])
def test_a_row_that_lacks_something_is_named(pair, missing):
    rows = [row(pair), {key: value for key, value in row(pair).items() if key != missing}]
    with pytest.raises(ValueError, match=f"row 1: no {missing}"):
        completions_html(rows)
    with pytest.raises(ValueError, match="no completions"):
        completions_html([])


class Constant:
    name = "constant"

    def p_first(self, prompts_B, images_B, traces_BG):
        return [[0.75] * len(traces) for traces in traces_BG]


def test_rows_are_joined_from_pairs_and_reward_parts(pair):
    completions = [[traces.write_completion(gold(pair), a) for a in (1, 2)]]
    parts = reward_parts([pair], completions, Constant())
    rows = shown_rows([pair], parts, step=7)
    assert [r["listeners"] for r in rows] == [{"listener": 0.75}, {"listener": 0.75}]
    text = completions_html(rows)
    assert "step 7 (1 of 2 as voted)" in text and "+0." in text
    rows = shown_rows([pair], parts, 7, {"a": [0.1, 0.2], "b": [0.3, None]})
    assert rows[1]["listeners"] == {"a": 0.2, "b": None}
    with pytest.raises(ValueError, match="listener 'a' has 1 p for 2 completions"):
        shown_rows([pair], parts, 7, {"a": [0.1]})
    with pytest.raises(ValueError, match="no pair"):
        shown_rows([], parts, 7)


def test_the_widget_draws_the_pair_and_step_that_are_chosen(pair):
    rows = [row(pair, step=s) for s in (0, 50)]
    rows += [row(pairs.tiny_pairs("no_tint", 1)[0], text="said of the second", step=s) for s in (50, 90)]
    slider, steps, page = completions_widget(rows).children
    assert (slider.min, slider.max) == (1, 2)
    assert "step 50" in page.value and "step 0" not in page.value
    steps.value = 0
    assert "step 0" in page.value
    slider.value = 2
    assert "said of the second" in page.value and [v for _, v in steps.options] == [50, 90]
    steps.value = 50
    slider.value = 1
    assert steps.value == 50 and "step 50" in page.value  # kept where the pair has it
    Page(page.value)
