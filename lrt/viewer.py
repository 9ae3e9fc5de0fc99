"""Completions to look at: images, trace with what is true and false in it, answer, listeners, rewards.

`completions_html` is a static page part without scripts: it lives in an executed notebook, on a page and in a
mail, is read by keyboard (the training steps unfold) and by screen readers, and marks nothing by colour alone.
`completions_widget` shows the same, one pair and step at a time, where a kernel is alive.

Whatever a model or a data set wrote is escaped.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from PIL import Image

from lrt.pairs import scenes_of
from lrt.prompts import parse, verdict_of
from lrt.truth import marked_statements

WIDTH = 168  # of an image on the page, in pixels: three times the tiny world's
SILENT = frozenset({"image", "1", "2", ":", ",", ".", "is", "better"})  # words that state nothing about an image


@dataclass(frozen=True)
class Shown:
    """One completion as it is shown. A row is a dict with these keys (others are ignored), such as
    `{**pair, **part, "step": 100}` with a row of pairs and a dict of `rewards.reward_parts`."""

    pair_id: str
    prompt: str
    images: Sequence[Image.Image]  # image 1 and image 2
    vote: int  # the training label; 0 for a tie
    text: str  # what the reasoner wrote, whole
    step: int | str = ""  # of training, or a method's name
    scene_1: str | None = None  # what image 1 truly shows, as JSON (`world.Scene`); None: nothing can be checked
    scene_2: str | None = None
    listeners: dict[str, float | None] = field(default_factory=dict)  # name -> p that image 1 is better
    format: float | None = None  # the parts of the reward, before their weights; None: not scored
    accuracy: float | None = None
    listener: float | None = None
    total: float | None = None  # their weighted sum
    advantage: float | None = None


REWARDS = ("format", "accuracy", "listener", "total", "advantage")


def shown_rows(pairs: Iterable[dict], parts: Iterable[dict], step: int | str, listeners=None) -> list[dict]:
    """Rows for the viewer: pairs (rows of `pairs.FEATURES`) joined with the dicts of `rewards.reward_parts`.

    `listeners`: name -> one p a dict of `parts`; without it, the p in `parts` as "listener". ValueError for a part
    whose pair is not there, and for a listener with another number of p.
    """
    parts, by_id = list(parts), {pair["pair_id"]: pair for pair in pairs}
    if unknown := {part["pair_id"] for part in parts} - by_id.keys():
        raise ValueError(f"no pair {min(unknown)!r} among those given")
    listeners = listeners or {"listener": [part["p_first"] for part in parts]}
    if uneven := [name for name, p in listeners.items() if len(p) != len(parts)]:
        raise ValueError(f"listener {uneven[0]!r} has {len(listeners[uneven[0]])} p for {len(parts)} completions")
    heard = [{name: p[i] for name, p in listeners.items()} for i in range(len(parts))]
    return [
        {**by_id[part["pair_id"]], **part, "step": step, "listeners": p}
        for part, p in zip(parts, heard, strict=True)
    ]


def _read(rows: Iterable[dict]) -> list[Shown]:
    known, needed, shown = [f.name for f in fields(Shown)], ("pair_id", "prompt", "images", "vote", "text"), []
    for i, row in enumerate(rows):
        if missing := [name for name in needed if row.get(name) is None]:
            raise ValueError(f"row {i}: no {', '.join(missing)}; a row has the keys of viewer.Shown")
        shown.append(Shown(**{name: row[name] for name in known if name in row}))
    if not shown:
        raise ValueError("no completions to show")
    return shown


def _grouped(shown: list[Shown]) -> dict[str, dict[int | str, list[Shown]]]:
    """pair_id -> step -> completions, each in the order in which it first comes."""
    groups: dict = {}
    for one in shown:
        groups.setdefault(one.pair_id, {}).setdefault(one.step, []).append(one)
    return groups


# --- the page part -------------------------------------------------------------------------------------------------


def completions_html(rows: Iterable[dict]) -> str:
    """Static HTML of completions (dicts, see `Shown`): an article a pair, in it the steps, the last one unfolded.

    ValueError naming row and key for a row that lacks something, and for no rows.
    """
    articles = [_article(i, steps) for i, steps in enumerate(_grouped(_read(rows)).values(), start=1)]
    return f'<section class="lrt-viewer" aria-label="completions">{STYLE}{LEGEND}{"".join(articles)}</section>'


def completions_widget(rows: Iterable[dict]):
    """The same with a slider for the pair and a list of its steps: an ipywidgets.VBox of slider, list and page part.

    It needs a live kernel: `completions_html` is what stays in a saved notebook.
    """
    import ipywidgets

    groups = list(_grouped(_read(rows)).values())
    pair = ipywidgets.IntSlider(value=1, min=1, max=len(groups), description="pair")
    step = ipywidgets.Dropdown(description="step")
    page = ipywidgets.HTML()

    def draw(_=None):
        if step.value is not None:
            article = _article(pair.value, {step.value: groups[pair.value - 1][step.value]})
            page.value = f'<section class="lrt-viewer">{STYLE}{LEGEND}{article}</section>'

    def choose_pair(_=None):
        steps, before = list(groups[pair.value - 1]), step.value
        step.options = [(str(s), s) for s in steps]
        step.value = before if before in steps else steps[-1]
        draw()

    choose_pair()
    pair.observe(choose_pair, "value")
    step.observe(draw, "value")
    return ipywidgets.VBox([pair, step, page])


def _article(number: int, steps: dict[int | str, list[Shown]]) -> str:
    first, last = next(iter(steps.values()))[0], list(steps)[-1]
    pictures = "".join(_picture(first, i) for i in (1, 2))
    voted = f"voted better: image {first.vote}" if first.vote else "voted: a tie"
    unfolding = [_step(step, several, open_=step == last) for step, several in steps.items()]
    return (
        f'<article><h4>Pair {number}: {_e(first.prompt)}</h4><div class="pictures">{pictures}</div>'
        f"<p>{voted}</p>{''.join(unfolding)}</article>"
    )


def _step(step: int | str, completions: list[Shown], open_: bool) -> str:
    name = f"step {step}" if isinstance(step, int) else str(step) or "completions"
    right = sum(parse(one.text).answer == one.vote for one in completions)
    told = f"{right} of {len(completions)} as voted"
    inside = "".join(map(_completion, completions))
    return f"<details{' open' if open_ else ''}><summary>{_e(name)} ({told})</summary>{inside}</details>"


def _completion(one: Shown) -> str:
    said = parse(one.text)
    trace = _trace(one, said.trace) or "<em>no trace</em>"
    raw = "" if said.ok else f"<p>Not in the strict format. As written:</p><pre>{_e(one.text)}</pre>"
    return (
        f'<div class="completion"><p class="trace">{trace}</p>{raw}<p class="said">{_conclusion(one, said)}</p>'
        f"{_listeners(one, said.answer)}{_rewards(one)}</div>"
    )


def _conclusion(one: Shown, said) -> str:
    verdict = verdict_of(said.trace)
    parts = [f"verdict: image {verdict}" if verdict else "no verdict"]
    if said.answer is None:
        return f"{parts[0]} · <strong>no answer that can be read ✗</strong>"
    as_voted = "as voted ✓" if said.answer == one.vote else "a tie" if not one.vote else "not as voted ✗"
    parts.append(f"<strong>answer: image {said.answer}</strong> ({as_voted})")
    if verdict and verdict != said.answer:
        parts.append("<strong>the answer departs from the verdict ≠</strong>")
    return " · ".join(parts)


# --- its parts -----------------------------------------------------------------------------------------------------


def _trace(one: Shown, trace: str) -> str:
    """The trace with every word marked that is true or false, or that states something nobody can score."""
    if one.scene_1 is None or one.scene_2 is None:
        return _e(trace)
    words = marked_statements({**vars(one), "trace": trace})
    marked = " ".join(_word(word, true) for word, true in words)
    return marked.replace(" . ", " .<br>")


def _word(word: str, true: bool | None) -> str:
    if true is None:
        stated = word not in SILENT
        return f'<span class="unscorable">{_e(word)}<sup>?</sup></span>' if stated else _e(word)
    return f'<u class="true">{_e(word)}</u>' if true else f'<mark class="false">{_e(word)}<sup>✗</sup></mark>'


def _picture(one: Shown, number: int) -> str:
    shown = f"image {number} of the pair"
    scene = one.scene_1 if number == 1 else one.scene_2
    if scene is not None:
        truth = scenes_of({"pair_id": one.pair_id, "scene_1": scene, "scene_2": scene})[0]
        shown += f": {', '.join(map(str, truth.things)) or 'nothing'}; {truth.quality}"
    picture = one.images[number - 1]
    height = max(1, round(WIDTH * picture.height / picture.width))
    return (
        f'<figure><img src="{_data_uri(picture)}" alt="{_e(shown)}" width="{WIDTH}" height="{height}">'
        f"<figcaption>image {number}</figcaption></figure>"
    )


def _data_uri(picture: Image.Image) -> str:
    """A PNG inside the page; a picture of more than twice the width shown is made smaller first."""
    picture = picture.convert("RGB")
    if picture.width > 2 * WIDTH:
        picture = picture.resize((2 * WIDTH, max(1, round(2 * WIDTH * picture.height / picture.width))))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _listeners(one: Shown, answer: int | None) -> str:
    """A bar a listener: from the middle (undecided) to the left for image 1, to the right for image 2."""
    if not one.listeners:
        return ""
    head = "<tr><th>listener</th><th>image 1 &nbsp;|&nbsp; image 2</th><th>p(image 1)</th><th></th></tr>"
    bars = "".join(_bar(name, p, answer) for name, p in one.listeners.items())
    return f'<table class="listeners">{head}{bars}</table>'


def _bar(name: str, p: float | None, answer: int | None) -> str:
    if p is None or p != p:
        return f'<tr><th scope="row">{_e(name)}</th><td></td><td>not scored</td><td></td></tr>'
    left, width = 100 * min(0.5, 1 - p), 100 * abs(p - 0.5)
    contradicts = answer is not None and p != 0.5 and (1 if p > 0.5 else 2) != answer
    return (
        f'<tr><th scope="row">{_e(name)}</th><td aria-hidden="true"><span class="track">'
        f'<span class="bar" style="left:{left:.1f}%;width:{width:.1f}%"></span></span></td>'
        f"<td>{p:.2f}</td><td>{'contradicts the answer ≠' if contradicts else ''}</td></tr>"
    )


def _rewards(one: Shown) -> str:
    values = {name: getattr(one, name) for name in REWARDS}
    if all(value is None for value in values.values()):
        return ""
    head = "".join(f"<th>{name}</th>" for name in values)
    cells = "".join(
        "<td>not scored</td>" if v is None else f"<td>{v:{'+' if name == 'advantage' else ''}.2f}</td>"
        for name, v in values.items()
    )
    return f'<table class="rewards"><tr>{head}</tr><tr>{cells}</tr></table>'


def _e(text) -> str:
    return html.escape(str(text))


LEGEND = (
    '<p class="legend">In a trace: <u class="true">true</u>, <mark class="false">false<sup>✗</sup></mark>, '
    '<span class="unscorable">not to be scored<sup>?</sup></span>, and plain what states nothing about an image.</p>'
)

# Every rule begins with .lrt-viewer, because the part may stand on anybody's page; without the style (a site that
# removes it) underlines, marks and unfolding steps are still there: they are HTML's own.
STYLE = """<style>
.lrt-viewer { color: #111; background: #fff; font: 15px/1.5 system-ui, sans-serif; max-width: 48rem; padding: 0.5rem; }
.lrt-viewer article { border: 1px solid #bbb; border-radius: 6px; padding: 0.3rem 1rem 0.8rem; margin: 1rem 0; }
.lrt-viewer h4 { margin: 0.5rem 0; font-size: 1rem; }
.lrt-viewer p { margin: 0.4rem 0; }
.lrt-viewer .pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
.lrt-viewer figure { margin: 0; text-align: center; }
.lrt-viewer img { image-rendering: pixelated; border: 1px solid #bbb; display: block; margin: 0; max-width: 100%; }
.lrt-viewer summary { cursor: pointer; padding: 0.25rem 0; font-weight: 600; }
.lrt-viewer summary:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px; }
.lrt-viewer .completion { border-left: 4px solid #ddd; padding-left: 0.8rem; margin: 0.4rem 0 1.1rem; }
.lrt-viewer .trace { line-height: 1.9; }
.lrt-viewer sup { font-size: 0.7em; line-height: 0; }
.lrt-viewer .true { text-decoration: underline solid #0072b2 2px; text-underline-offset: 3px; }
.lrt-viewer .false { background: #fbe3d5; color: inherit; text-decoration: underline wavy #b34700 1.5px;
  text-underline-offset: 3px; padding: 0 2px; }
.lrt-viewer .unscorable { text-decoration: underline dotted #555 2px; text-underline-offset: 3px; }
.lrt-viewer pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f3f3f3; color: inherit; }
.lrt-viewer table { border-collapse: collapse; margin: 0.4rem 0; font-size: 0.87rem; width: auto; }
.lrt-viewer th, .lrt-viewer td { padding: 0.1rem 0.6rem 0.1rem 0; text-align: left; background: #fff; color: #111; }
.lrt-viewer th { font-weight: 600; }
.lrt-viewer .track { display: inline-block; position: relative; width: 140px; height: 12px;
  background: linear-gradient(to right, #eee 49.5%, #555 49.5% 50.5%, #eee 50.5%); vertical-align: middle; }
.lrt-viewer .bar { position: absolute; top: 2px; height: 8px; background: #0072b2; }
</style>"""
