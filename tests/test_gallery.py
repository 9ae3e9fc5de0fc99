"""The files of the page "Edit the trace" are today's models and pairs; its edits are what they say, also in Jupyter."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from gallery_rows import BY_HAND, FOLDER, ROOT, TOLERANCE, WRITTEN, listener, rows

from lrt import tiny, world
from lrt.book import browser, gallery
from lrt.course import play
from lrt.listener import LocalListener, p_of
from lrt.models import Loaded, load, weights_digest
from lrt.pairs import scenes_of, tiny_pairs
from lrt.prompts import TINY_WORDING, heard, listener_continuation
from lrt.traces import check_trace, read_trace

# --- the files -------------------------------------------------------------------------------------------------------


def exported(name):
    """The committed file as a function: (pair, picture, tokens after the chat) -> logits."""
    model = browser.Exported(FOLDER / WRITTEN["models"][name]["file"])
    stored = np.frombuffer((FOLDER / WRITTEN["models"][name]["features"]).read_bytes(), dtype="<f4")
    features = stored.reshape(len(WRITTEN["pairs"]), len(gallery.PICTURES), -1, WRITTEN["models"][name]["width"])

    def logits(b, picture, after):
        before = browser.Prefix(**WRITTEN["pairs"][b]["prefix"])
        return model.logits(before, after, features[b, picture])

    return logits


@pytest.mark.parametrize("name", WRITTEN["models"])
def test_the_files_are_made_from_today_s_weights(name):
    assert WRITTEN["models"][name]["made_from"] == weights_digest(name), "run `lrt book browser`"


@pytest.mark.parametrize("name", gallery.LISTENERS)
def test_committed_listeners_give_pytorch_s_logits(name):
    ear, logits = listener(name), exported(name)
    for b, pictures in ((0, (0, 1)), (len(WRITTEN["pairs"]) - 1, (0,))):
        for picture in pictures:
            row = rows()[picture][b]
            texts = [*WRITTEN["pairs"][b]["texts"].values(), *BY_HAND]
            [wanted] = ear.logits([row["prompt"]], [row["images"]], [texts])
            ids = [ear.loaded.tokenizer(listener_continuation(heard(text)))["input_ids"] for text in texts]
            found = [logits(b, picture, after)[WRITTEN["answers"]] for after in ids]
            assert np.abs(np.array(found) - wanted).max() < TOLERANCE
            assert max(abs(p_of(f) - p_of(w)) for f, w in zip(found, wanted, strict=True)) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in gallery.REASONERS if name not in gallery.LISTENERS])
def test_committed_reasoners_give_pytorch_s_logits_of_every_word(name):
    loaded, logits = load(name), exported(name)
    row, written = rows()[1][0], WRITTEN["pairs"][0]["thoughts"][name][1]
    assert play.thoughts(loaded, [row], gallery.STOPS_AT) == [written]
    ids = loaded.tokenizer(written)["input_ids"]
    inputs = loaded.processor(text=[loaded.chat(row["prompt"]) + written], images=[row["images"]], return_tensors="pt")
    with torch.no_grad():
        wanted = loaded.model(**inputs, logits_to_keep=len(ids) + 1).logits[0].numpy()
    for n in (0, 7, len(ids)):
        assert np.abs(logits(0, 1, ids[:n]) - wanted[n]).max() < TOLERANCE


def test_the_gallery_says_what_python_computes_today():
    loaded = {name: listener(name).loaded for name in gallery.LISTENERS}
    told = json.loads(json.dumps(gallery.described(loaded, WRITTEN["models"])))
    assert {key: WRITTEN[key] for key in told} == told, "run `lrt book browser`"
    for row, pair in zip(rows()[0], WRITTEN["pairs"], strict=True):
        assert pair["prompt"] == row["prompt"] and pair["better"] == play.better(row)
        assert pair["texts"] == play.edits(row, pair["thoughts"]["reasoner"][0])
        assert pair["prefix"] == asdict(browser.prefix(loaded["reader"], row["prompt"], row["images"]))


@pytest.mark.parametrize("name", gallery.LISTENERS)
def test_the_gallery_s_numbers_are_those_of_today(name):
    for picture, view in enumerate(rows()):
        texts = [list(pair["texts"].values()) for pair in WRITTEN["pairs"]]
        wanted = listener(name).logits([row["prompt"] for row in view], [row["images"] for row in view], texts)
        told = [list(pair["logits"][name][picture].values()) for pair in WRITTEN["pairs"]]
        assert np.abs(np.array(told) - wanted).max() < TOLERANCE


def test_the_gallery_is_chosen_by_its_rule():
    sides = []
    for b, pair in enumerate(WRITTEN["pairs"]):
        p = {name: p_of(zs) for name, zs in ((n, pair["logits"][n][0]["own"]) for n in ("reader", "reasoner"))}
        sides.append((pair["warm"] != pair["better"], (p["reader"] > 0.5) != (p["reasoner"] > 0.5)))
        assert rows()[0][b]["split"] == gallery.SPLIT
    assert sides[gallery.PLAIN :] == [(True, True)] * gallery.CONFLICTS
    assert (True, True) not in sides[: gallery.PLAIN] and len(sides) == gallery.PLAIN + gallery.CONFLICTS
    ids = [pair["pair_id"] for pair in WRITTEN["pairs"]]
    assert len(set(ids)) == len({pair["prompt"] for pair in WRITTEN["pairs"]}) == len(ids)


def test_the_static_part_is_written_from_the_gallery():
    committed = (ROOT / "book" / "play_listener_pairs.html").read_text(encoding="utf-8")
    assert committed == gallery.static_part(WRITTEN, rows()[0], FOLDER.name), "run `lrt book browser`"
    assert committed.count("<details") == len(WRITTEN["pairs"]) and "<script" not in committed
    assert all((ROOT / "book" / src).is_file() for src in re.findall(r'src="([^"]+)"', committed))


def test_committed_files_are_small_and_hold_no_path_of_a_machine():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    for path in files:
        assert not re.search(rb"/(home|root|Users|work|tmp)/|site-packages", path.read_bytes()), path


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_export_is_the_model_and_refuses_another_architecture(tmp_path):
    torch.manual_seed(0)
    processor = tiny.qwen_processor()
    shape = tiny.Shape(text=64, layers=1, heads=2, vision=32, vision_layers=1, vision_heads=1)
    model = tiny.build_qwen(shape, processor)
    loaded = Loaded("new", model.half().float().eval(), processor, TINY_WORDING)
    path = browser.export(loaded, tmp_path / "new.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["new.onnx"]
    row = tiny_pairs("validation", 1)[0]
    before = browser.prefix(loaded, row["prompt"], row["images"])
    features = browser.image_features(loaded, row["prompt"], row["images"])
    [[wanted]] = LocalListener(loaded).logits([row["prompt"]], [row["images"]], [["image 1 is better ."]])
    after = processor.tokenizer(listener_continuation("image 1 is better ."))["input_ids"]
    answers = processor.tokenizer(["1", "2"])["input_ids"]
    found = browser.Exported(path).logits(before, after, features)[[ids[0] for ids in answers]]
    assert np.abs(found - wanted).max() < TOLERANCE
    with pytest.raises(ValueError, match="llava: only Qwen2.5-VL"):
        browser.export(load("llava"), tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_patterns_that_may_mean_something_else_in_javascript_are_refused():
    for pattern in (r"(?<=a)b", r"\bword", r"(?i:a)"):
        with pytest.raises(ValueError, match="JavaScript"):
            browser.javascript(re.compile(pattern))
    assert browser.javascript(re.compile(r"[^|\s]*+\|", re.I)) == {"source": rf"[^|{browser.SPACES}]*\|", "flags": "iu"}


# --- edits and the part for notebooks --------------------------------------------------------------------------------


def test_each_edit_changes_what_it_says_and_nothing_else():
    for b, row in enumerate(rows()[0]):
        texts, asked = WRITTEN["pairs"][b]["texts"], world.parse_prompt(row["prompt"])
        own, said = texts["own"], {name: read_trace(text)[0] for name, text in texts.items()}
        assert said["exchanged"].images == said["own"].images[::-1] and said["exchanged"].verdict == said["own"].verdict
        assert said["flipped"].images == said["own"].images and said["flipped"].verdict == 3 - said["own"].verdict
        assert said["removed"].images == said["own"].images and said["removed"].verdict is None
        assert all(s.true for s in check_trace(texts["true"], asked, scenes_of(row)))
        changed = [(a, z) for a, z in zip(own.split(), texts["false"].split(), strict=True) if a != z]
        assert len(changed) == 1 and changed[0][1] in play.FALSE_WORDS
        false = [s for s in check_trace(texts["false"], asked, scenes_of(row)) if s.attribute == "quality"]
        assert false[play.better(row) - 1].true is False


def test_a_trace_that_describes_one_image_cannot_be_edited():
    with pytest.raises(ValueError, match="does not describe both images"):
        play.edits(rows()[0][0], "<think> image 1 : missing , missing , clear . </think> <answer> 1 </answer>")


def test_the_part_for_notebooks_says_p_in_words_and_escapes_what_it_is_given():
    row, completion = rows()[0][0], WRITTEN["pairs"][0]["thoughts"]["reasoner"][0]
    shown = play.listening_html([row], [completion], {"<b>reader": listener("reader")})
    p = [p_of(zs) for zs in WRITTEN["pairs"][0]["logits"]["reader"][0].values()]
    assert re.findall(r"<td>(\d\.\d\d)<", shown) == [f"{v:.2f}" for v in p]
    assert "&lt;b&gt;reader" in shown and "<b>" not in shown and "<script" not in shown
    assert all(re.search(r'alt="image \d: \w', image) for image in re.findall("<img[^>]*>", shown))


def test_the_widget_follows_the_pair_the_edit_and_every_word():
    chosen, completions = rows()[0][:2], [pair["thoughts"]["reasoner"][0] for pair in WRITTEN["pairs"][:2]]
    pair, pictures, edit, trace, bars = play.listening(chosen, completions, {"reader": listener("reader")}).children
    shown = lambda: re.search(r"<td>(\d\.\d\d)<", bars.value)[1]  # noqa: E731
    wanted = lambda b, name: f"{p_of(WRITTEN['pairs'][b]['logits']['reader'][0][name]):.2f}"  # noqa: E731
    assert trace.value == WRITTEN["pairs"][0]["texts"]["own"] and shown() == wanted(0, "own")
    edit.value = "exchanged"
    assert shown() == wanted(0, "exchanged")
    pair.value = 1
    assert shown() == wanted(1, "exchanged") and play.shows(chosen[1], 1) in pictures.value
    trace.value = "a <i>dog</i>"
    [[p]] = listener("reader").p_first([chosen[1]["prompt"]], [chosen[1]["images"]], [["a <i>dog</i>"]])
    assert shown() == f"{p:.2f}" and "no word for a, dog:" in bars.value and "<i>" not in bars.value
