"""Measuring a policy on fixed pairs, small enough to keep: one line of text a measurement.

Each pair is shown with its tints as drawn and exchanged, so that every pair counts once where tint and content agree
and once where they conflict, and tells whether the tint alone changes the answer. A measurement is strings with one
or two characters a pair, in the order of `fixed_pairs`:

| field | one character a pair |
|---|---|
| answers, swapped, sampled | "1" or "2", "-" if not parsable: greedy, greedy with exchanged tints, sampled |
| verdicts, sampled_verdicts | the trace's own verdict, "-" if it names none |
| said, sampled_said | statements that can be checked, as a digit in base 36 |
| true, sampled_true | those that are true |
| sampled_p | {listener: p(image 1) in thousandths after the sampled trace, two digits in base 36; "--" if not heard} |

A judge that writes no text (`lrt.bradley_terry`) has answers and swapped alone; the others hold "-" in every place, and
what is measured on traces does not apply to it.

`measure` writes them, `table` reads them back into a data frame beside what is known of the pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from datasets import Dataset

from lrt.bradley_terry import Scorer
from lrt.contradiction import listen, own_verdicts
from lrt.evaluate import judge
from lrt.listener import Listener
from lrt.metrics import answers, labels, warm_side
from lrt.models import Loaded
from lrt.pairs import swap_tints, tiny_pairs
from lrt.truth import statements

SPLIT, OF_EACH = "tint_uninformative", (1, 4)
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
SIDES = ("answers", "verdicts", "swapped", "sampled", "sampled_verdicts")
COUNTS = ("said", "true", "sampled_said", "sampled_true")


def fixed_pairs(n: int) -> Dataset:
    """n pairs of the split whose tint says nothing, two a prompt: more prompts tell more than more pairs of one. The
    two show four images by generators of different skill, so few of them are ties. A larger n begins with the same."""
    return tiny_pairs(SPLIT, n, of_each=OF_EACH)


@dataclass(frozen=True)
class Fixed:
    """The pairs of a measurement with their tints exchanged, and the listeners that hear the traces, by name."""

    pairs: Dataset
    swapped: Dataset
    listeners: Mapping[str, Listener]
    max_new_tokens: int = 56

    @staticmethod
    def of(n: int, listeners: Mapping[str, Listener], max_new_tokens: int = 56) -> "Fixed":
        pairs = fixed_pairs(n)
        return Fixed(pairs, swap_tints(pairs), listeners, max_new_tokens)


def measure(policy: Loaded | Scorer, fixed: Fixed, seed: int) -> dict:
    """One measurement as strings (see above); `seed` is of the sampled completions. A judge that writes nothing has
    answers with both tints, and "-" in every other place."""
    if isinstance(policy, Scorer):
        return _without_text(policy, fixed)
    options = {"max_new_tokens": fixed.max_new_tokens, "batch": 96}
    greedy, swapped = (judge(policy, pairs, **options) for pairs in (fixed.pairs, fixed.swapped))
    sampled = judge(policy, fixed.pairs, temperature=1.0, seed=seed, **options)
    return {
        "n": len(fixed.pairs),
        **_written(greedy, ""),
        "swapped": _one(answers(swapped)),
        **_written(sampled, "sampled_"),
        "sampled_p": {name: _two(listen(sampled, ear, fixed.pairs)) for name, ear in fixed.listeners.items()},
    }


def _without_text(judge: Scorer, fixed: Fixed) -> dict:
    n, sides = len(fixed.pairs), (judge.choices(pairs, batch=96) for pairs in (fixed.pairs, fixed.swapped))
    chosen = dict(zip(("answers", "swapped"), map(_one, sides), strict=True))
    silent = {name: "-" * n for name in ("verdicts", "sampled", "sampled_verdicts", *COUNTS)}
    return {"n": n, **silent, **chosen, "sampled_p": {name: "--" * n for name in fixed.listeners}}


def _written(frame: pd.DataFrame, prefix: str) -> dict:
    known = statements(frame).dropna(subset="true")
    made = known.groupby("row")["true"].agg(["count", "sum"]).reindex(frame.index, fill_value=0).astype(int)
    return {
        prefix.rstrip("_") or "answers": _one(answers(frame)),
        f"{prefix}verdicts": _one(own_verdicts(frame)),
        f"{prefix}said": "".join(DIGITS[n] for n in made["count"]),
        f"{prefix}true": "".join(DIGITS[n] for n in made["sum"]),
    }


def _one(values: Sequence[float]) -> str:
    return "".join("-" if np.isnan(v) else str(int(v)) for v in values)


def _two(p_B: Sequence[float]) -> str:
    return "".join("--" if np.isnan(p) else "".join(DIGITS[d] for d in divmod(round(1000 * p), 36)) for p in p_B)


# --- reading back --------------------------------------------------------------------------------------------------


def numbers(text: str) -> np.ndarray:
    """(B,) from a string of one digit in base 36 a pair; NaN for "-" (of a side: none; of a count: no text at all)."""
    return np.array([np.nan if c == "-" else DIGITS.index(c) for c in text], dtype=float)


def probabilities(text: str) -> np.ndarray:
    """(B,) p from two digits in base 36 a pair; NaN for "--". ValueError for an odd number of characters."""
    if len(text) % 2:
        raise ValueError(f"a listener's p is written with two characters a pair, and these are {len(text)}: {text!r}")
    pairs = [text[i : i + 2] for i in range(0, len(text), 2)]
    return np.array([np.nan if c == "--" else int(c, 36) / 1000 for c in pairs])


@cache
def known(n: int) -> pd.DataFrame:
    """What is known of the first n fixed pairs: prompt_id; better and majority (1, 2; NaN for a tie); warm (the side of
    the warm image, as drawn)."""
    frame = fixed_pairs(n).remove_columns("images").to_pandas()
    return pd.DataFrame(
        {
            "prompt_id": frame["prompt_id"],
            "better": labels(frame, "utility"),
            "majority": labels(frame, "majority"),
            "warm": warm_side(frame),
        }
    )


def table(measured: Mapping) -> pd.DataFrame:
    """A measurement, one row a pair: what is known of the pair, and a column for each field; a listener's p is
    "sampled_p/<listener>". ValueError if a string does not have n pairs."""
    n = measured["n"]
    columns = {}
    for name, value in measured.items():
        if isinstance(value, Mapping):
            columns |= {f"{name}/{listener}": probabilities(text) for listener, text in value.items()}
        elif isinstance(value, str):
            columns[name] = numbers(value)
    if wrong := [name for name, values in columns.items() if len(values) != n]:
        raise ValueError(f"{wrong[0]} has {len(columns[wrong[0]])} pairs instead of {n}")
    return pd.concat([known(n), pd.DataFrame(columns)], axis=1)
