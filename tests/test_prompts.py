"""Messages, strict parsing, what a listener may hear, and verdicts."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import traces, world
from lrt.prompts import (
    ENGLISH_WORDING,
    TINY_WORDING,
    flip_verdict,
    heard,
    listener_continuation,
    messages,
    parse,
    remove_verdict,
    text_of,
    verdict_of,
)

GOLD = (
    "image 1 : red circle top-left good , blue square top-right bad , clear . "
    "image 2 : red circle top-left good , missing , blurred . image 1 is better ."
)

# Words from which hypothesis builds completions that come close to the real ones, and to breaking them.
PIECES = (
    "<think> </think> <answer> </answer> <answer>1</answer> <answer>2</answer> <|im_end|> <|endoftext|> "
    "<|im_start|> < | > / <image> </s> <think </Think> 1 2 ONE TWO image picture first second the one other "
    "prompt is isn't not 's better best worse than wins loses prefer answer verdict winner choice so hence "
    "because since and or I think if in of with at on over lit . , : ; ! ? ** ( ) clear blurred circle red "
    "matches better: 1.5 2nd 1st image1"
).split(" ")
PIECES += ["\n", "\n\n", "  ", "image 1", "image 2", "the first", "the second image", "Image One"]
PIECES += ["image 1 is better", "image 2 wins", "I prefer", "is the better one", "matches the prompt better"]
PIECES += ["the answer is", "is not"]
pieces = st.lists(st.sampled_from(PIECES), max_size=40)
completions = st.one_of(st.text(), pieces.map(" ".join), pieces.map("".join))


# --- messages and completions


def test_messages_hold_two_images_between_texts():
    (turn,) = messages("red circle top-left", TINY_WORDING)
    assert turn["role"] == "user"
    assert [part["type"] for part in turn["content"]] == ["text", "image", "text", "image", "text"]
    assert [part["text"] for part in turn["content"] if part["type"] == "text"] == [
        "image 1 :",
        "image 2 :",
        "prompt : red circle top-left .",
    ]


def test_a_prompt_cannot_bring_in_image_tokens_or_format_fields():
    text = messages("a <|image_pad|> {name} {prompt} <image> <lora:x:1> cat", ENGLISH_WORDING)[0]["content"][
        -1
    ]["text"]
    assert "<|" not in text and "<image>" not in text
    assert "{name} {prompt}" in text and "<lora:x:1> cat" in text


def test_text_of_both_forms():
    assert text_of("abc") == "abc"
    assert text_of([{"role": "assistant", "content": "abc"}]) == "abc"
    assert text_of([{"role": "tool", "content": "x"}, {"role": "assistant", "content": None}]) == ""
    parts = [{"type": "text", "text": "ab"}, {"type": "image"}, {"type": "text", "text": "c"}]
    assert text_of([{"role": "assistant", "content": parts}]) == "abc"
    with pytest.raises(TypeError, match="list of messages"):
        text_of(["abc"])


# --- parsing


@pytest.mark.parametrize("answer", [1, 2])
@pytest.mark.parametrize(
    "form",
    [
        "<think> {t} </think> <answer> {a} </answer>",
        "<think>{t}</think><answer>{a}</answer>",
        "\n<think>\n{t}\n</think>\n\n<answer>\n{a}\n</answer>\n",
        "<think>{t}</think><answer>{a}</answer><|im_end|>",
        "<think>{t}</think><answer>{a}</answer> <|im_end|>\n<|endoftext|><|endoftext|>",
    ],
)
def test_well_formed_completions(form, answer):
    parsed = parse(form.format(t=GOLD, a=answer))
    assert (parsed.trace, parsed.answer, parsed.ok) == (GOLD, answer, True)


def test_empty_and_multiline_traces():
    assert parse("<think> </think> <answer> 2 </answer>").trace == ""
    assert parse("<think> </think> <answer> 2 </answer>").ok
    assert parse("<think>a\nb < c | d</think><answer>1</answer>").trace == "a\nb < c | d"


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "1",
        "<answer>1</answer>",
        "<think>t</think>",
        "<think>t</think><answer>3</answer>",
        "<think>t</think><answer>12</answer>",
        "<think>t</think><answer></answer>",
        "<think>t</think><answer>one</answer>",
        "<think>t</think><answer>\u0661</answer>",  # a digit, but not ours
        "<think>t</think><answer>1",
        "<think>t<answer>1</answer>",
        "t</think><answer>1</answer>",
        "so <think>t</think><answer>1</answer>",
        "<think>t</think> so <answer>1</answer>",
        "<think>t</think><answer>1</answer> done",
        "<think>t</think><answer>1</answer><answer>1</answer>",
        "<think>t</think><think>t</think><answer>1</answer>",
        "<think>t</think></think><answer>1</answer>",
        "<think><think>t</think><answer>1</answer>",
        "<think>t<answer>1</answer></think><answer>1</answer>",
        "<think>t <answer> </think><answer>1</answer>",
        "<think>t </answer> </think><answer>1</answer>",
        "<think>t <|im_end|> </think><answer>1</answer>",
        "<think>t <|anything|> </think><answer>1</answer>",
        "<think>t</think><|im_end|><answer>1</answer>",
        "<|im_end|><think>t</think><answer>1</answer>",
        "<think>t</think><answer>1</answer><|im_start|>",
        "<THINK>t</THINK><ANSWER>1</ANSWER>",
        "<answer>1</answer><think>t</think>",
    ],
)
def test_malformed_completions(completion):
    parsed = parse(completion)
    assert not parsed.ok and parsed.answer is None


@given(completions)
def test_parse_agrees_with_its_definition(completion):
    """The definition, spelt out without the parser's own patterns."""
    parsed = parse(completion)
    text = completion.strip()
    while text.endswith(("<|im_end|>", "<|endoftext|>")):
        text = text.removesuffix("<|im_end|>").removesuffix("<|endoftext|>").strip()
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    ok = once and text.startswith("<think>") and text.endswith("</answer>")
    if ok:
        trace, _, rest = text.removeprefix("<think>").partition("</think>")
        inside = rest.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
        ok = rest.strip().startswith("<answer>") and inside in ("1", "2")
        ok = ok and re.search(r"<\|[^|<>\s]*\|>", trace) is None
    assert parsed.ok == ok
    assert (parsed.answer in (1, 2)) if ok else (parsed.answer is None)
    assert parsed.trace == (trace.strip() if ok else heard(completion))


@given(pieces.map(" ".join), st.sampled_from("12"))
def test_what_is_written_in_form_is_read_back(trace, answer):
    trace = re.sub(r"<[^>]*>?", "", trace).strip()
    parsed = parse(f"<think>{trace}</think><answer>{answer}</answer>")
    assert (parsed.trace, parsed.answer, parsed.ok) == (trace, int(answer), True)


@pytest.mark.parametrize("seed", range(20))
def test_gold_traces_of_the_tiny_world_round_trip(seed):
    r = world.rng("test_prompts", seed)
    asked = world.all_prompts()[r.integers(len(world.all_prompts()))]
    scenes = tuple(world.draw_scene(asked, world.CLUMSY, r, allow_held_out=True) for _ in range(2))
    for winner in (1, 2):
        gold = traces.gold_trace(asked, scenes, winner)
        completion = traces.write_completion(gold, winner)
        parsed = parse(completion)
        assert (parsed.trace, parsed.answer, parsed.ok) == (str(gold), winner, True)
        assert heard(completion) == str(gold)
        assert verdict_of(parsed.trace) == winner
        assert flip_verdict(parsed.trace) == str(traces.flip_verdict(gold))
        assert remove_verdict(parsed.trace) == str(traces.gold_trace(asked, scenes, None))
        assert completion == f"{listener_continuation(heard(completion))} {winner} </answer>"


# --- what the listener hears


@given(completions)
def test_the_answer_never_reaches_the_listener(completion):
    swap = {"1": "2", "2": "1"}
    swapped = re.sub(
        r"<answer>.*?(?:</answer>|\Z)",
        lambda answer: re.sub("[12]", lambda digit: swap[digit[0]], answer[0]),
        completion,
        flags=re.DOTALL,
    )
    for verdict in (True, False):
        assert heard(completion, verdict) == heard(swapped, verdict)


@given(completions, completions)
def test_nothing_after_the_first_end_of_thinking_is_heard(before, after):
    for verdict in (True, False):
        assert heard(f"{before}</think>{after}", verdict) == heard(f"{before}</think>", verdict)
        assert heard(f"{before}<answer>{after}", verdict) == heard(f"{before}</answer>", verdict)


@given(completions)
def test_heard_text_has_no_tags_and_single_spaces(completion):
    for text in (heard(completion), heard(completion, verdict=False)):
        assert re.search(r"</?(think|answer|image|s)>|<\|\w*\|>", text) is None
        assert text == " ".join(text.split())
        assert heard(text) == text


def test_heard_examples():
    gold = f"<think> {GOLD} </think> <answer> 1 </answer>"
    assert heard(gold) == GOLD
    assert heard(gold, verdict=False) == GOLD.removesuffix(" image 1 is better .")
    assert heard("no tags\nat all") == "no tags at all"
    assert heard("chatter <think> a <think> b") == "a b"
    assert heard("<answer>1</answer> <think> a </think>") == ""
    assert heard("<think> a < /Answer 2") == "a"
    assert heard("<think> a <|image_pad|> b <image> c </s>") == "a b c"
    assert heard("<think> a <im<|x|>age> <|im_<b>end|>") == "a <im age> <|im_ end|>"
    assert (
        heard("<think> it is sharp, and the\nbetter image is\nimage 1 </think>", verdict=False)
        == "it is sharp"
    )


def test_listener_continuation_is_the_completion_up_to_the_answer():
    assert f"{listener_continuation(GOLD)} 1 </answer>" == f"<think> {GOLD} </think> <answer> 1 </answer>"
    assert listener_continuation("") == "<think> </think> <answer>"


# --- verdicts

REMOVED = {  # sentence: (the winner it names, what is left of it)
    "image 1 is better .": (1, ""),
    "so image 2 wins": (2, ""),
    "I prefer the first": (1, ""),
    "Therefore, the second image is better.": (2, ""),
    "overall image 1 is the stronger one": (1, ""),
    "image 2 matches the prompt better": (2, ""),
    "the answer is 1": (1, ""),
    "Final answer: 2": (2, ""),
    "**Verdict:** Image 2.": (2, ""),
    "**Image 2** is better.": (2, ""),
    "The better image is image 1.": (1, ""),
    "In conclusion, the first one is clearly the better choice.": (1, ""),
    "Image 1 is a better match for the prompt.": (1, ""),
    "Overall, I'd say that the 2nd picture better follows the prompt.": (2, ""),
    "I would choose the second one over the first one.": (2, ""),
    "My preference goes to image 2": (2, ""),
    "I prefer image 1, not image 2.": (1, ""),
    "Image one beats image two!": (1, ""),
    "image 1 is better than image 2 in every respect": (1, ""),
    "Image 2 is more faithful to the description.": (2, ""),
    "Image 1 loses to image 2.": (2, ""),
    "image 1 is worse than image 2": (2, ""),
    "image 2 is not better": (None, ""),
    "I do not think image 1 is better.": (None, ""),
    "If image 1 is better, so be it": (None, "so be it"),
    "The colours are right, so image 2 wins": (2, "The colours are right"),
    "The colours are right, so image 2 wins.": (2, "The colours are right."),
    "Image 2 wins because image 1 is blurred.": (2, "because image 1 is blurred."),
    "image 1 : red circle good , clear image 1 is better .": (1, "image 1 : red circle good , clear ."),
    "It is dark, so image 2 wins, but image 1 is sharp.": (2, "It is dark . but image 1 is sharp."),
    "image 1 is better image 2 is better": (2, ""),
    "Image 1 is the more accurate image, since the circle is red.": (1, "since the circle is red."),
}
KEPT = [
    "image 1 is blurred",
    "the circle in the first image is bigger",
    "The circle in image 1 is better.",
    "image 1 is better lit",
    "image 2 is better at the edges",
    "Image 1 has better contrast than image 2.",
    "image 1's colours are better",
    "I prefer image 1's colours",
    "The first circle is better placed.",
    "I see the first circle",
    "Image 2 is brighter than image 1.",
    "image 1 is the brighter one",
    "Image 1 loses the blue square.",
    "Image 2 matches the prompt.",
    "Both images match the prompt.",
    "image 1 is as good as image 2",
    "Which is better: image 1 or image 2?",
    "Image A is better",
    "The answer is hard to give.",
    "Colours correct: 2.",
    "image 1 : red circle top-left good , missing , clear .",
    "There are 2 circles, and the second is a square.",
]


@pytest.mark.parametrize("sentence", REMOVED)
def test_verdicts_are_found_and_removed(sentence):
    winner, left = REMOVED[sentence]
    assert verdict_of(sentence) == winner
    assert remove_verdict(sentence) == left
    assert remove_verdict(f"The circle is red. {sentence}") == f"The circle is red. {left}".strip()


@pytest.mark.parametrize("sentence", KEPT)
def test_evidence_stays(sentence):
    assert verdict_of(sentence) is None
    assert remove_verdict(sentence) == sentence
    assert flip_verdict(sentence) == sentence


@pytest.mark.parametrize("sentence", REMOVED)
def test_flipping_names_the_other_image(sentence):
    winner, left = REMOVED[sentence]
    flipped = flip_verdict(sentence)
    assert flipped != sentence
    assert verdict_of(flipped) == (winner and 3 - winner)
    assert remove_verdict(flipped) == left  # the evidence is untouched
    assert flip_verdict(flipped) == sentence


def test_flipping_changes_only_the_verdict():
    assert flip_verdict(GOLD) == GOLD.replace("image 1 is better", "image 2 is better")
    both = "Image 1 is blurred, so Image 2 is better than Image 1. THE FIRST IMAGE LOSES."
    assert (
        flip_verdict(both) == "Image 1 is blurred, so Image 1 is better than Image 2. THE SECOND IMAGE LOSES."
    )


def test_the_last_verdict_counts():
    assert verdict_of("Image 1 wins. No, wait: image 2 is better. It is not that image 1 is better.") == 2
    assert verdict_of("") is None


@given(st.sampled_from(sorted(REMOVED)), completions)
def test_removed_verdicts_are_gone(sentence, around):
    text = remove_verdict(f"{around}. {sentence}\n\n{around}")
    assert verdict_of(text) is None
    assert remove_verdict(text) == text


@settings(max_examples=500)
@given(completions)
def test_no_text_raises_and_the_laws_hold(text):
    without = remove_verdict(text)
    assert remove_verdict(without) == without
    assert verdict_of(without) is None
    assert verdict_of(heard(text, verdict=False)) is None
    flipped = flip_verdict(text)
    assert flip_verdict(flipped) == text
    assert verdict_of(flipped) == {1: 2, 2: 1, None: None}[verdict_of(text)]


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<|",
        "< ",
        " ",
        "\n",
        "<think>",
        "</think>",
        "<|im_end|>",
        "the ",
        "the first ",
        "so ",
        "image 1 ",
        "image 1 is ",
        "image 1 is better ",
        "image 1 is better at ",
        "I prefer ",
        "the answer is 1 ",
        "better : ",
        "image 1 , , , , is not ",
        "image 1 loses the ",
        "*",
        "a",
        ".",
        "no ",
        "image ",
        "first ",
        "1.",
        "'s ",
        "choice is 1 than ",
        "in favour of image 1 ",
        "image 1 is better image",
    ],
)
def test_hostile_text_takes_linear_time(piece):
    text = piece * (50_000 // len(piece))
    start = time.perf_counter()
    for completion in (text, f"<think>{text}", f"<think>a</think><answer>1</answer>{text}x"):
        parse(completion)
        heard(completion)
    heard(text, verdict=False)
    flip_verdict(text)
    # Linear is under a second or two even on a busy machine; anything quadratic takes minutes.
    assert time.perf_counter() - start < 10
