"""The page on which a reader edits a trace: its pairs, models and all that its scripts need, written by one command.

    lrt book browser    # book/_static/play: gallery.json, pairs/*.png, models/*.onnx, features/*.bin

What a browser computes as Python does comes from here as data: token ids of the chat, positions, the words of the
vocabulary, the patterns that cut a completion, and every prepared trace with its logits. The scripts beside it
(`book/_static/play/*.js`) hold no prompt and no list of words.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from datasets import Dataset

from lrt import prompts, world
from lrt.answer_slot import answer_token_ids
from lrt.book import browser
from lrt.course.play import EDITS, STYLE, article, better, editable, edits, shows, thoughts
from lrt.files import write_text
from lrt.listener import LocalListener, p_of
from lrt.models import Loaded, load, weights_digest
from lrt.pairs import png, swap_tints, tiny_pairs
from lrt.profiles import profile
from lrt.prompts import heard, listener_continuation

LISTENERS = {  # model -> what it is called, what it was made for
    "reader": ("the reader", "taught to judge from what a trace says; it teaches in notebook 04"),
    "reasoner": ("the frozen base", "the paper's own case: the model that the reasoner started from"),
    "shortcut": ("the shortcut", "learned from pairs in which the better image is nearly always warm"),
}
REASONERS = {
    "reasoner": "the base, before training",
    "reasoner-grpo": "after plain GRPO",
    "reasoner-grpo-listener": "after GRPO with the reader as listener",
}
SPLIT, PLAIN, CONFLICTS, LOOKED_AT = "tint_uninformative", 6, 6, 96
PICTURES = ("as they are", "with the two backgrounds exchanged")
RULE = (
    f"The pairs are chosen by a rule, not by hand. From the test split `{SPLIT}` (seed 0) come a skilled and a clumsy "
    "image of each prompt, in the split's order, where one is truly better and the base describes both. In the last "
    f"{CONFLICTS} the warm background is on the worse image, and the reader and the frozen base lean to different "
    f"sides after the base's trace: the first such pairs there are. The first {PLAIN} are the first of the others."
)
GROUPS = {
    "frame": ("image", "1", "2", ":", ",", "."),
    "colours": tuple(world.COLOURS), "shapes": world.SHAPES, "places": world.PLACES,
    "as asked?": ("good", "bad", "missing"), "quality": tuple(world.QUALITIES), "verdict": ("is", "better"),
}
PATTERNS = {"cut": prompts.CUT, "markup": prompts.MARKUP, "tag": prompts.TAG, "special": prompts.SPECIAL,
            "answer": prompts.ANSWER}
STOPS_AT = profile("laptop").max_new_tokens


def choose(base: Loaded, reader: LocalListener, frozen: LocalListener) -> tuple[Dataset, list[str]]:
    """The gallery's pairs by `RULE`, and what the base writes about each."""
    found = tiny_pairs(SPLIT, LOOKED_AT, of_each=(1,))  # of four images: the first skilled and the first clumsy one
    found = found.select(np.flatnonzero(np.array(found["utility_1"]) != np.array(found["utility_2"])))
    rows = list(found)
    texts = thoughts(base, rows, STOPS_AT)
    plain, conflicts = [], []
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        if not editable(text):
            continue
        asked = [row["prompt"]], [row["images"]], [[heard(text)]]
        sides = {ear.p_first(*asked)[0][0] > 0.5 for ear in (reader, frozen)}
        conflict = row[f"tint_{better(row)}"] == "cool"
        (conflicts if conflict and len(sides) == 2 else plain).append(i)
    kept = plain[:PLAIN] + conflicts[:CONFLICTS]
    return found.select(kept), [texts[i] for i in kept]


def write(folder: str | Path, static: str | Path, report=print) -> dict:
    """Write the gallery into a folder and the page's static part into a file; returns what gallery.json holds. Models
    whose weights are those of the last call are left as they are. ValueError where two models read differently."""
    folder = Path(folder)
    for name in ("pairs", "models", "features"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    loaded = {name: load(name) for name in dict.fromkeys([*LISTENERS, *REASONERS])}
    ears = {name: LocalListener(loaded[name]) for name in LISTENERS}
    pairs, texts = choose(loaded["reasoner"], ears["reader"], ears["reasoner"])
    views = [list(pairs), list(swap_tints(pairs))]
    before = _read(folder / "gallery.json").get("models", {})
    models = {}
    for name, one in loaded.items():
        models[name] = {"file": f"models/{name}.onnx", "features": f"features/{name}.bin",
                        "width": one.model.config.text_config.hidden_size, "made_from": weights_digest(name)}
        if before.get(name) != models[name] or not (folder / models[name]["file"]).is_file():
            browser.export(one, folder / models[name]["file"])
            report(f"{name}: {(folder / models[name]['file']).stat().st_size / 1e6:.1f} MB")
        features = features_of(one, views)
        (folder / models[name]["features"]).write_bytes(features.astype("<f4").tobytes())
    gallery = described(loaded, models) | {"pairs": [
        _pair(b, [view[b] for view in views], texts[b], loaded, ears, folder) for b in range(len(texts))]}
    write_text(folder / "gallery.json", json.dumps(gallery, ensure_ascii=False) + "\n")
    write_text(Path(static), static_part(gallery, views[0], folder.name))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    report(f"{folder}: {len(texts)} pairs, {len(models)} models, {size / 1e6:.1f} MB")
    return gallery


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def features_of(loaded: Loaded, views) -> np.ndarray:
    """(pairs, pictures, N, H) float32: the image features of each pair, as it is and with backgrounds exchanged."""
    return np.stack([[browser.image_features(loaded, row["prompt"], row["images"]) for row in rows]
                     for rows in zip(*views, strict=True)])


def described(loaded: Mapping[str, Loaded], models: Mapping) -> dict:
    """What holds for all pairs: models, vocabulary, how a trace becomes tokens, how a completion is cut."""
    one = loaded["reader"]
    known = one.tokenizer.get_vocab()
    if any(other.tokenizer.get_vocab() != known for other in loaded.values()):
        raise ValueError("the models of the page do not share one vocabulary: tokens are written once for all")
    opened, closed = listener_continuation("image").split(" image ")
    ids = one.tokenizer
    return {
        "models": dict(models),
        "listeners": [{"model": m, "name": name, "made": made} for m, (name, made) in LISTENERS.items()],
        "reasoners": [{"model": m, "name": name} for m, name in REASONERS.items()],
        "edits": [{"name": name, "what": what} for name, what in EDITS.items()],
        "pictures": PICTURES,
        "shelves": [{"name": "as they come", "pairs": PLAIN},
                    {"name": "tint against content, reader against base", "pairs": CONFLICTS}],
        "words": sorted(known, key=known.get),
        "groups": GROUPS,
        "unknown": ids.unk_token_id,
        "skipped": sorted(ids.all_special_ids),  # not shown of a completion
        "stop": ids.eos_token_id,
        "never": [one.model.config.image_token_id],  # a completion has no image tokens
        "answers": list(answer_token_ids(one)),
        "listen": {"before": ids(opened)["input_ids"], "after": ids(closed)["input_ids"]},
        "max_new_tokens": STOPS_AT,
        "spaces": browser.SPACES,
        "patterns": {name: browser.javascript(pattern) for name, pattern in PATTERNS.items()},
    }


def _pair(b: int, views: list[dict], text: str, loaded, ears, folder: Path) -> dict:
    """One pair of gallery.json; its images are written beside it."""
    row, names = views[0], []
    for v, view in enumerate(views):
        names.append([f"pairs/{b + 1}-{i}{'' if v == 0 else '-exchanged'}.png" for i in (1, 2)])
        for name, image in zip(names[-1], view["images"], strict=True):
            (folder / name).write_bytes(png(np.asarray(image.convert("RGB"))))
    prepared = edits(row, text)
    asked = [row["prompt"]] * 2, [view["images"] for view in views], [list(prepared.values())] * 2
    before = {name: browser.prefix(one, row["prompt"], row["images"]) for name, one in loaded.items()}
    if len({json.dumps(asdict(p)) for p in before.values()}) != 1:
        raise ValueError("the models of the page do not read one chat: its tokens are written once for all")
    return {
        "pair_id": row["pair_id"], "prompt": row["prompt"], "better": better(row), "vote": row["vote"],
        "warm": 1 if row["tint_1"] == "warm" else 2, "shows": [shows(row, i) for i in (1, 2)], "images": names,
        "prefix": asdict(before["reader"]), "texts": prepared,
        "logits": {name: [_rounded(dict(zip(prepared, zs, strict=True))) for zs in ear.logits(*asked)]
                   for name, ear in ears.items()},
        "thoughts": {name: thoughts(loaded[name], views, STOPS_AT) for name in REASONERS},
    }


def _rounded(logits: Mapping[str, Iterable[float]]) -> dict[str, list[float]]:
    return {edit: [round(z, 6) for z in zs] for edit, zs in logits.items()}


# --- what stands on the page without any script ----------------------------------------------------------------------


def p_table(gallery: Mapping, b: int, picture: int = 0) -> dict[str, dict[str, float]]:
    """p of image 1 of a pair: listener's name -> edit -> p."""
    pair = gallery["pairs"][b]
    return {ear["name"]: {edit: p_of(zs) for edit, zs in pair["logits"][ear["model"]][picture].items()}
            for ear in gallery["listeners"]}


def moves(gallery: Mapping) -> dict[str, dict[str, float]]:
    """How far p moves from the reasoner's own trace, on average over the pairs: edit or picture -> listener -> |dp|."""
    tables = [[p_table(gallery, b, v) for v in range(len(PICTURES))] for b in range(len(gallery["pairs"]))]

    def mean(name: str, edit: str, picture: int) -> float:
        return float(np.mean([abs(own[0][name]["own"] - own[picture][name][edit]) for own in tables]))

    names = [ear["name"] for ear in gallery["listeners"]]
    found = {what: {name: mean(name, edit, 0) for name in names} for edit, what in EDITS.items()
             if edit in ("exchanged", "false", "flipped", "empty")}
    return found | {"the trace as it is, the two backgrounds exchanged": {name: mean(name, "own", 1) for name in names}}


def static_part(gallery: Mapping, rows: list[dict], folder: str) -> str:
    """The page without scripts: how far each edit moves each listener, and every pair's table. HTML."""
    found = moves(gallery)
    names = [ear["name"] for ear in gallery["listeners"]]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = "".join(f'<tr><th scope="row">{what}</th>{"".join(f"<td>{p[name]:.2f}</td>" for name in names)}</tr>'
                    for what, p in found.items())
    most = {name: max(found, key=lambda what: found[what][name]) for name in names}
    said = " ".join(f"<strong>{name.capitalize()}</strong> moves most with <em>{most[name]}</em>: by "
                    f"{found[most[name]][name]:.2f}." for name in names)
    rule = RULE.replace("`", "")
    articles = [article(row, gallery["pairs"][b]["texts"], p_table(gallery, b), open_=False,
                        picture=lambda i, b=b: f"_static/{folder}/{gallery['pairs'][b]['images'][0][i - 1]}")
                for b, row in enumerate(rows)]
    return (f'<section class="lrt-heard" aria-label="prepared traces">{STYLE}\n<p>How far p(image 1) moves, on average '
            f'over the {len(rows)} pairs, from where it is after the reasoner\'s own trace. {said}</p>\n'
            f'<div class="wide" tabindex="0" role="group" aria-label="table of moves"><table><thead><tr>'
            f'<th scope="col">edit</th>{head}</tr></thead><tbody>{lines}</tbody></table></div>\n'
            "<p>These pairs show what can happen; how often, the reading tests in the models' cards count.</p>\n"
            f"<p>{rule} Each pair by itself:</p>\n" + "\n".join(articles) + "</section>\n")
