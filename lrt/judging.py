"""One pair judged and told in words, and what a tiny model is not asked: what `lrt judge` does."""

from collections.abc import Sequence

from datasets import Dataset
from PIL.Image import Image

from lrt.listener import LocalListener
from lrt.models import Loaded, generate
from lrt.prompts import TINY_WORDING, heard, parse
from lrt.world import CELL, parse_prompt

ORDERS = {
    "forward": "Shown as given",
    "reverse": 'Shown in the other order (what this trace calls "image 1" is image 2)',
}


def is_tiny(loaded: Loaded) -> bool:
    return loaded.wording == TINY_WORDING


def tokens_for(loaded: Loaded) -> int:
    """Enough for a completion: a gold trace of the tiny world has at most 43 tokens, English ones are longer."""
    return 64 if is_tiny(loaded) else 768


def refuse_unknown(loaded: Loaded, prompt: str, images: Sequence[Image]) -> None:
    """ValueError if a tiny model is asked about anything but its own world; other models are asked anything."""
    if not is_tiny(loaded):
        return
    only = f"{loaded.name} is a tiny model: it knows only the small scenes and words of its own world"
    try:
        parse_prompt(prompt)
    except ValueError as error:
        raise ValueError(f"{only}. This is {error}") from None
    for i, image in enumerate(images, start=1):
        if image.size != (2 * CELL, 2 * CELL):
            size, known = f"{image.width} x {image.height}", f"{2 * CELL} x {2 * CELL}"
            raise ValueError(f"{only}. Image {i} is {size} pixels, and its scenes are {known}.")


def refuse_unknown_pairs(loaded: Loaded, pairs: Dataset) -> None:
    """`refuse_unknown` for every pair of a data set; the error names the pair."""
    for row in pairs if is_tiny(loaded) else ():
        try:
            refuse_unknown(loaded, row["prompt"], row["images"])
        except ValueError as error:
            raise ValueError(f"pair {row['pair_id']!r}: {error}") from None


def judge_pair(loaded: Loaded, ear: Loaded, prompt: str, images: Sequence[Image],
               max_new_tokens: int | None = None) -> dict:
    """Both orders of a pair, greedily, as a dict for JSON.

    Keys: prompt, model, listener, forward, reverse, consistent, answer. An order has completion, parsable, trace,
    answer and listener_p_1, the listener's p that image 1 is better (None if there is nothing in the right format to
    hear). Answers and p are about the images as given, also in "reverse", whose trace speaks of them as shown.
    """
    shown = [tuple(images), tuple(images[::-1])]
    texts = generate(loaded, [prompt] * 2, shown, max_new_tokens or tokens_for(loaded))
    said = [parse(text) for text in texts]
    traces = [[heard(text)] if one.ok else [] for text, one in zip(texts, said, strict=True)]
    p = [row[0] if row else None for row in LocalListener(ear).p_first([prompt] * 2, shown, traces)]
    orders = {}
    for name, text, one, first in zip(ORDERS, texts, said, p, strict=True):
        turned = name == "reverse"
        orders[name] = {
            "completion": text,
            "parsable": one.ok,
            "trace": one.trace,
            "answer": 3 - one.answer if one.answer and turned else one.answer,
            "listener_p_1": 1 - first if first is not None and turned else first,
        }
    consistent = orders["forward"]["answer"] == orders["reverse"]["answer"] is not None
    answer = orders["forward"]["answer"] if consistent else None
    return {"prompt": prompt, "model": loaded.name, "listener": ear.name, **orders,
            "consistent": consistent, "answer": answer}


def told(result: dict) -> str:
    """What `judge_pair` returns, in words; with "images" in it (two names), they are named."""
    named = [f"image {i}: {name}" for i, name in enumerate(result.get("images", ()), start=1)]
    lines = [f"prompt:  {result['prompt']}", *named, ""]
    for name, title in ORDERS.items():
        order = result[name]
        answer = f"image {order['answer']}" if order["answer"] else "none that can be read"
        p = order["listener_p_1"]
        believes = "not asked" if p is None else f"p(image 1 is better) = {p:.2f}, p(image 2 is better) = {1 - p:.2f}"
        lines += [title, f"  trace     {order['trace'] or '(none)'}", f"  answer    {answer}"]
        lines += [f"  listener  {believes}", ""]
    if result["consistent"]:
        return "\n".join([*lines, f"In both orders image {result['answer']} is better, says {result['model']}."])
    return "\n".join([*lines, "The two orders do not agree on an answer."])
