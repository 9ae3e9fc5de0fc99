"""Edit a trace and watch listeners change their minds: the edits, a static page part, and a widget for Jupyter.

`listening_html` is a static page part without scripts (in a saved notebook, on the site); `listening` is the same
alive: choose a pair, write what the listeners hear, and every p follows. On the site the models themselves run in the
browser (`lrt.book.gallery`); both show the same numbers.
"""

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from lrt import traces, world
from lrt.models import Loaded, generate
from lrt.pairs import png, scenes_of
from lrt.prompts import flip_verdict, heard, remove_verdict

EDITS = {  # name -> what it is, in words
    "own": "the reasoner's own trace",
    "true": "every word true, no verdict",
    "exchanged": "the two descriptions exchanged",
    "false": "one word made false",
    "flipped": "the verdict turned round",
    "removed": "the verdict removed",
    "empty": "nothing said",
}
FALSE_WORDS = ("blurred", "noisy")


def thoughts(reasoner: Loaded, rows: Sequence[Mapping], max_new_tokens: int = 64) -> list[str]:
    """What a reasoner writes about each pair (rows of `pairs.FEATURES`), word by word the likeliest."""
    return generate(reasoner, [row["prompt"] for row in rows], [row["images"] for row in rows], max_new_tokens)


def to_edit(reasoner: Loaded, pairs: Iterable[Mapping], n: int, max_new_tokens: int = 64) -> tuple[list, list[str]]:
    """(rows, completions) of the first `n` pairs, one a prompt, that have a better image and that a reasoner describes
    in a trace which can be edited. ValueError where there is none among the first 4 n prompts."""
    with_better = (row for row in pairs if row["utility_1"] != row["utility_2"])
    rows = list({row["prompt_id"]: row for row in with_better}.values())[: 4 * n]
    texts = thoughts(reasoner, rows, max_new_tokens) if rows else []
    kept = [(row, text) for row, text in zip(rows, texts, strict=True) if editable(text)][:n]
    if not kept:
        raise ValueError(f"{reasoner.name}: of {len(rows)} prompts none got a trace that describes both images")
    return [row for row, _ in kept], [text for _, text in kept]


def editable(completion: str) -> bool:
    """Whether a completion's trace describes both images, in the tiny world's words and nothing else."""
    said, malformed = traces.read_trace(heard(completion))
    return None not in said.images and not malformed


def edits(row: Mapping, completion: str) -> dict[str, str]:
    """The traces of `EDITS` for one pair of the tiny world, made from what a reasoner wrote about it.

    The false word is the quality of the better image: "blurred", or "noisy" where blurred is true or said already.
    ValueError for a pair without a better image, and for a trace that does not describe both images.
    """
    own, scenes = heard(completion), scenes_of(row)
    said, _ = traces.read_trace(own)
    if not editable(completion):
        raise ValueError(f"pair {row['pair_id']!r}: this trace does not describe both images: {own!r}")
    return {
        "own": own,
        "true": str(traces.gold_trace(world.parse_prompt(row["prompt"]), scenes, None)),
        "exchanged": str(traces.swap_descriptions(said)),
        "false": one_false_word(said, better(row), scenes),
        "flipped": flip_verdict(own),
        "removed": remove_verdict(own),
        "empty": "",
    }


def better(row: Mapping) -> int:
    """1 or 2: the image that is truly better; ValueError where neither is."""
    if row["utility_1"] == row["utility_2"]:
        raise ValueError(f"pair {row['pair_id']!r}: neither image is better")
    return 1 if row["utility_1"] > row["utility_2"] else 2


def one_false_word(said: traces.Trace, image: int, scenes) -> str:
    """The trace with the quality of one image replaced by a word that is not true of it."""
    description = said.images[image - 1]
    word = next(w for w in FALSE_WORDS if w not in (description.quality, scenes[image - 1].quality))
    images = list(said.images)
    images[image - 1] = traces.Description(description.slots, word)
    return str(traces.Trace((images[0], images[1]), said.verdict))


# --- the static part -------------------------------------------------------------------------------------------------


def listening_html(rows: Sequence[Mapping], completions: Sequence[str], listeners: Mapping) -> str:
    """Static HTML: for each pair its images, the traces of `EDITS`, and the p of each listener (name -> something with
    `p_first`, as `lrt.listener.Listener`). The first pair is unfolded. ValueError as for `edits`."""
    texts_B = [edits(row, text) for row, text in zip(rows, completions, strict=True)]
    asked = [row["prompt"] for row in rows], [row["images"] for row in rows], [[*t.values()] for t in texts_B]
    p = {name: listener.p_first(*asked) for name, listener in listeners.items()}
    parts = [article(row, texts, {name: dict(zip(texts, p[name][b], strict=True)) for name in p}, open_=b == 0)
             for b, (row, texts) in enumerate(zip(rows, texts_B, strict=True))]
    return f'<section class="lrt-heard" aria-label="edited traces">{STYLE}{"".join(parts)}</section>'


def article(row: Mapping, texts: Mapping[str, str], p: Mapping[str, Mapping[str, float | None]], open_: bool = False,
            picture: Callable[[int], str] | None = None) -> str:
    """A pair, its edited traces, and p that image 1 is better: listener -> edit -> p. `picture(1)` is the address of
    image 1; without it the images are inside the page."""
    picture = picture or (lambda i: data_uri(row["images"][i - 1]))
    known = f"Image {better(row)} is truly better; image {1 if row['tint_1'] == 'warm' else 2} has the warm background."
    images = "".join(
        f'<figure><img src="{_e(picture(i))}" alt="{_e(shows(row, i))}" width="112" height="112">'
        f"<figcaption>image {i}</figcaption></figure>" for i in (1, 2))
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name in p)
    lines = "".join(
        f'<tr><th scope="row">{_e(EDITS[edit])}<small>{_e(text) or "(nothing)"}</small></th>'
        f'{"".join(cell(p[name][edit]) for name in p)}</tr>' for edit, text in texts.items())
    return (f"<details{' open' if open_ else ''}><summary>{_e(row['prompt'])}</summary>"
            f'<div class="pictures">{images}</div><p>{known} Numbers are p(image 1); a bar to the left speaks for '
            f'image 1, to the right for image 2.</p><div class="wide" tabindex="0" role="group" '
            f'aria-label="table of p"><table><thead><tr><th scope="col">trace</th>{head}</tr></thead>'
            f"<tbody>{lines}</tbody></table></div></details>")


def shows(row: Mapping, number: int) -> str:
    """What an image of a pair shows, in words."""
    scene = scenes_of(row)[number - 1]
    return f"image {number}: {', '.join(map(str, scene.things)) or 'nothing'}; {scene.quality}"


def data_uri(image) -> str:
    """A small picture, as the address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(png(np.asarray(image.convert("RGB")))).decode()


def cell(p: float | None) -> str:
    """A table's cell: p in numbers and as a bar from the middle (undecided)."""
    if p is None:
        return "<td>not scored</td>"
    left, width = 100 * min(0.5, 1 - p), 100 * abs(p - 0.5)
    bar = f'<span class="bar" style="left:{left:.1f}%;width:{width:.1f}%"></span>'
    return f'<td>{p:.2f}<span class="track" aria-hidden="true">{bar}</span></td>'


def _e(text) -> str:
    return html.escape(str(text))


# --- alive -----------------------------------------------------------------------------------------------------------


def listening(rows: Sequence[Mapping], completions: Sequence[str], listeners: Mapping):
    """The same alive, an ipywidgets.VBox: a list of pairs, a list of edits, a field to write in, and a bar a listener.

    It needs a live kernel: `listening_html` is what stays in a saved notebook. ValueError as for `edits`.
    """
    import ipywidgets as w

    texts_B = [edits(row, text) for row, text in zip(rows, completions, strict=True)]
    wide = w.Layout(width="100%", max_width="48rem")
    named = [(f"{b + 1}: {row['prompt']}", b) for b, row in enumerate(rows)]
    pair = w.Dropdown(options=named, description="pair", layout=wide)
    edit = w.Dropdown(options=[(what, name) for name, what in EDITS.items()], description="start from", layout=wide)
    trace = w.Textarea(description="trace", rows=4, continuous_update=True, layout=wide)
    pictures, bars = w.HTML(), w.HTML()

    def listen(_=None):
        row = rows[pair.value]
        p = {name: ear.p_first([row["prompt"]], [row["images"]], [[trace.value]])[0][0]
             for name, ear in listeners.items()}
        bars.value = bars_html(p, unknown_words(trace.value, listeners))

    def choose(_=None):
        row = rows[pair.value]
        images = "".join(f'<img src="{data_uri(row["images"][i])}" alt="{_e(shows(row, i + 1))}" width="112"> '
                         for i in (0, 1))
        pictures.value = f"{images}<br>Image {better(row)} is truly better."
        text = texts_B[pair.value][edit.value]
        if trace.value == text:
            listen()
        trace.value = text

    trace.observe(listen, "value")
    for chooser in (pair, edit):
        chooser.observe(choose, "value")
    choose()
    return w.VBox([pair, pictures, edit, trace, bars])


def bars_html(p: Mapping[str, float | None], unknown: Mapping[str, Sequence[str]]) -> str:
    """A line a listener: its p, a bar, and the words that it does not know."""
    lines = "".join(f'<tr><th scope="row">{_e(name)}</th>{cell(value)}<td>{_e(told(unknown.get(name, ())))}</td></tr>'
                    for name, value in p.items())
    head = '<tr><th scope="col">listener</th><th scope="col">p(image 1)</th><th scope="col"></th></tr>'
    return f'<section class="lrt-heard">{STYLE}<table>{head}{lines}</table></section>'


def unknown_words(text: str, listeners: Mapping) -> dict[str, list[str]]:
    """For each listener with a tokenizer: the words of a trace that it has no token for, once each."""
    found = {}
    for name, ear in listeners.items():
        if loaded := getattr(ear, "loaded", None):
            known = loaded.tokenizer.get_vocab()
            found[name] = [word for word in dict.fromkeys(heard(text).split()) if word not in known]
    return found


def told(words: Sequence[str]) -> str:
    """A sentence about words that a listener does not know; nothing where it knows all."""
    return f"It has no word for {', '.join(words)}: there it hears a gap." if words else ""


# Every rule begins with .lrt-heard, because the part may stand on anybody's page, light or dark.
STYLE = """<style>
.lrt-heard { --line: var(--pst-color-border, var(--jp-border-color1, #bbb)); --bar: var(--lrt-bar, #0072b2);
  color: var(--pst-color-text-base, var(--jp-content-font-color1, inherit)); font-size: 0.95rem; max-width: 48rem; }
.lrt-heard details { border: 1px solid var(--line); border-radius: 6px; padding: 0.3rem 0.8rem; margin: 0.5rem 0; }
.lrt-heard summary { cursor: pointer; font-weight: 600; padding: 0.2rem 0; }
.lrt-heard summary:focus-visible { outline: 3px solid var(--bar); outline-offset: 2px; }
.lrt-heard .pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0.5rem 0; }
.lrt-heard figure { margin: 0; text-align: center; }
.lrt-heard img { image-rendering: pixelated; border: 1px solid var(--line); display: block; margin: 0; }
.lrt-heard .wide { overflow-x: auto; }
.lrt-heard table { border-collapse: collapse; width: 100%; margin: 0.4rem 0; }
.lrt-heard th, .lrt-heard td { padding: 0.25rem 0.6rem 0.25rem 0; text-align: left; vertical-align: top;
  background: none; color: inherit; border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.lrt-heard th { font-weight: 600; }
.lrt-heard small { display: block; font-weight: 400; min-width: 14rem; }
.lrt-heard .track { display: block; position: relative; width: 80px; height: 10px; margin-top: 3px;
  background: linear-gradient(to right, transparent 48.5%, currentColor 48.5% 51.5%, transparent 51.5%);
  outline: 1px solid var(--line); }
.lrt-heard .bar { position: absolute; top: 1px; height: 8px; background: var(--bar); }
</style>"""
