"""Are the statements of traces true? The tiny world's traces, word by word, against the scenes that were
drawn.

Two numbers that belong together: *precision*, the share of true statements among those made, and *coverage*,
the share of the statements expected that were made at all. A trace can be precise by saying little.

Every trace counts, also that of a completion that is otherwise not parsable: what it says is true or not all
the same.
"""

import numpy as np
import pandas as pd

from lrt.evaluate import to_records
from lrt.pairs import scenes_of
from lrt.stats import Interval, Record, bootstrap_ratio
from lrt.traces import Statement, check_trace, read_trace
from lrt.world import parse_prompt

ATTRIBUTES = ("colour", "shape", "place", "mark", "missing", "quality")
UNITS = 3  # of an image: two slots and a quality


def statements_of(row) -> list[Statement]:
    """The checked statements of one judgement's trace. `row`: a row of a judgement table (a Series or a
    dict)."""
    return check_trace(row["trace"], parse_prompt(row["prompt"]), scenes_of(row))


def statements(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a statement: row (the judgement's index), pair_id, prompt_id, image, attribute, said, true, slot.

    `true` is missing where the vocabulary has no word for what is there (an unseen flaw). Judgements without
    known scenes (outside the tiny world) have no rows.
    """
    one_row_each(frame)
    rows = [
        {"row": index, "pair_id": row["pair_id"], "prompt_id": row["prompt_id"], **vars(statement)}
        for index, row in frame[frame["scene_1"].notna()].iterrows()
        for statement in statements_of(row)
    ]
    columns = ["row", "pair_id", "prompt_id", "image", "attribute", "said", "true", "slot"]
    return pd.DataFrame(rows, columns=columns).astype({"true": "boolean"})


def one_row_each(frame: pd.DataFrame) -> None:
    """ValueError if two rows share an index label, as in joined tables: nothing could tell them apart."""
    if not frame.index.is_unique:
        raise ValueError("two rows of the table share an index label: join tables with ignore_index=True")


def precision(frame: pd.DataFrame, said: pd.DataFrame | None = None, attribute: str | None = None) -> Interval:
    """True statements over those made that can be scored, pooled, with an interval over prompts.

    `said`: the table of `statements`, if it is at hand; `attribute`: only colour, shape, place, mark, missing
    or quality. n counts the judgements with such a statement."""
    said = statements(frame) if said is None else said
    if attribute is not None and attribute not in ATTRIBUTES:
        raise ValueError(f"attribute is one of {', '.join(ATTRIBUTES)}, not {attribute!r}")
    chosen = said[said["true"].notna() & (said["attribute"].eq(attribute) if attribute else True)]
    by_row = chosen.groupby("row")["true"].agg(["sum", "count"]).astype(float)
    by_row = by_row.reindex(frame.index)  # NaN for a judgement without such a statement
    return bootstrap_ratio(by_row["sum"], by_row["count"], frame["prompt_id"].to_numpy())


def trace_counts(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a judgement, on the table's index: units (statements of the expected `2 * UNITS` that were made,
    a slot counted once) and malformed (sentences outside the grammar)."""
    read = [read_trace(trace) for trace in frame["trace"]]
    counts = {
        "units": [UNITS * sum(image is not None for image in trace.images) for trace, _ in read],
        "malformed": [malformed for _, malformed in read],
    }
    return pd.DataFrame(counts, index=frame.index, dtype=float)


def truth_records(frame: pd.DataFrame, method: str, split: str, seed: int | None) -> list[Record]:
    """truth (precision), truth/<attribute>, coverage, malformed (sentences a trace), unscorable (share of the
    statements made that no word could have made true).

    Judgements without known scenes do not count. If every trace is empty (SFT on answers) nothing applies:
    NaN with n = 0. An empty trace among others has coverage 0."""
    said, clusters = statements(frame), frame["prompt_id"].to_numpy()
    counts = trace_counts(frame)
    applies = (frame["scene_1"].notna() & frame["trace"].str.strip().ne("").any()).to_numpy()
    once = np.where(applies, 1.0, np.nan)
    made = said.groupby("row")["true"].agg(["size", "count"]).astype(float).reindex(frame.index)
    intervals = {
        "truth": precision(frame, said),
        **{f"truth/{a}": precision(frame, said, a) for a in ATTRIBUTES},
        "coverage": bootstrap_ratio(counts["units"], 2 * UNITS * once, clusters),
        "malformed": bootstrap_ratio(counts["malformed"], once, clusters),
        "unscorable": bootstrap_ratio(made["size"] - made["count"], made["size"], clusters),
    }
    return to_records(intervals, method, split, seed)


def marked_statements(row) -> list[tuple[str, bool | None]]:
    """For a viewer: the words of a trace in order, each with True or False if it is a checked statement.

    None stands for punctuation, verdicts, malformed sentences, what cannot be scored, and every word where
    the scenes are not known. `row`: one judgement."""
    if pd.isna(row["scene_1"]):
        return [(word, None) for word in row["trace"].split()]
    checked = statements_of(row)
    marked: list[tuple[str, bool | None]] = []
    seen: set[int] = set()
    sentences = row["trace"].split(" .")
    for k, sentence in enumerate(sentences):
        words = sentence.split()
        described = [i for i, image in enumerate(read_trace(sentence)[0].images, start=1) if image]
        if described and described[0] not in seen:
            seen.add(described[0])
            own = iter([s for s in checked if s.image == described[0]])  # in the order of the words
            marked += [(word, None if word in ("image", ":", ",") or i == 1 else next(own).true)
                       for i, word in enumerate(words)]
        else:
            marked += [(word, None) for word in words]
        if k < len(sentences) - 1:
            marked.append((".", None))
    return marked
