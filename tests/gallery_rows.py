"""What the tests of the page "Edit the trace" share: its committed files, its pairs drawn again, the models behind."""

import functools
import json
from pathlib import Path

from lrt.book import gallery
from lrt.listener import LocalListener
from lrt.models import load
from lrt.pairs import swap_tints, tiny_pairs

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "book" / "_static" / "play"
WRITTEN = json.loads((FOLDER / "gallery.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-4
BY_HAND = ["image 1 is better .", "red red red", "image 2 : missing , missing , blurred . a dog is better ."]


@functools.cache
def listener(name):
    return LocalListener(load(name))


@functools.cache
def rows():
    """The gallery's pairs, found again by their names, and the same with the two backgrounds exchanged."""
    found = tiny_pairs(gallery.SPLIT, gallery.LOOKED_AT, of_each=(1,))
    index = {pair_id: i for i, pair_id in enumerate(found["pair_id"])}
    found = found.select([index[pair["pair_id"]] for pair in WRITTEN["pairs"]])
    return list(found), list(swap_tints(found))
