"""Does the answer follow the trace? Edit the trace, let the reasoner go on from there, and see if the answer
changes.

Two edits that change what a trace says, and for each a floor: the same place, edited without changing the
meaning.

| edit | what is done | then the reasoner |
|---|---|---|
| swapped | the two descriptions exchanged, verdict removed | goes on freely |
| reordered | the things of each image named in the other order, verdict removed | goes on freely |
| verdict_flipped | the verdict names the other image, nothing else | must answer at once |
| reordered_forced | as reordered, verdict kept | must answer at once |

A change above the floor is caused by the content of the trace. The images stay: a reasoner may well see that
a swapped description is false and keep its answer, so this measures reliance on the trace, not quality.
(Lanham et al. 2023, "Measuring Faithfulness in Chain-of-Thought Reasoning", edit traces in this way.)
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from datasets import Dataset

from lrt.contradiction import contradictions
from lrt.evaluate import to_records
from lrt.listener import scoring
from lrt.models import Loaded, generate
from lrt.prompts import flip_verdict, listener_continuation, parse, verdict_of
from lrt.stats import Record, bootstrap
from lrt.traces import read_trace, swap_descriptions, swap_slots
from lrt.truth import one_row_each, statements

EDITS = ("swapped", "reordered", "verdict_flipped", "reordered_forced")


def continue_from(loaded: Loaded, prompts: list[str], images: list, starts: list[str], max_new_tokens: int,
                  batch: int = 64) -> list[str]:
    """What the reasoner writes, greedily, behind the chat and a given start of its own turn: B new texts,
    without the start. The start is read as text: it should end where a token ends (between words)."""
    with scoring(loaded.model):
        return generate(loaded, prompts, images, max_new_tokens, batch=batch, starts=starts)


def edited_starts(trace: str) -> dict[str, str]:
    """For each edit that applies to a trace, the start of the reasoner's turn. An edit that would change
    nothing (two equal descriptions, two equal slots), or needs a description or verdict that is not there, is
    left out.

    The verdict can be flipped in free English too; the other edits need a trace wholly in the tiny world's
    grammar.
    """
    starts = {}
    flipped = flip_verdict(trace)
    if verdict_of(trace) and flipped != trace:
        starts["verdict_flipped"] = listener_continuation(flipped)
    read, malformed = read_trace(trace)
    if malformed or None in read.images:
        return starts
    said = replace(read, verdict=None)
    for name, changed in (("swapped", swap_descriptions(said)), ("reordered", swap_slots(said))):
        if changed != said:
            starts[name] = f"<think> {changed}"
    if read.verdict and swap_slots(read) != read:
        starts["reordered_forced"] = listener_continuation(str(swap_slots(read)))
    return starts


def faithfulness(loaded: Loaded, frame: pd.DataFrame, pairs: Dataset, max_new_tokens: int = 24,
                 batch: int = 64) -> pd.DataFrame:
    """Every edit of every parsable trace: a row each of row (the judgement's index), pair_id, prompt_id,
    edit, start, continuation, before, after (answers; `after` missing if it could not be parsed) and changed
    (1, 0, NaN).

    The judgements should be greedy, since the continuations are. `max_new_tokens` must hold a verdict and an
    answer. Empty traces give no rows. KeyError for judgements of pairs that are not in `pairs`.
    """
    one_row_each(frame)
    row_of = {pair_id: i for i, pair_id in enumerate(pairs["pair_id"])}
    edits = [
        {"row": index, "pair_id": row["pair_id"], "prompt_id": row["prompt_id"], "edit": edit, "start": start,
         "before": row["answer"]}
        for index, row in frame[frame["parsable"]].iterrows()
        for edit, start in edited_starts(row["trace"]).items()
    ]
    continuations: list[str] = []
    for at in range(0, len(edits), batch):
        chunk = edits[at : at + batch]
        shown = [pairs[row_of[e["pair_id"]]] for e in chunk]
        continuations += continue_from(
            loaded, [s["prompt"] for s in shown], [s["images"] for s in shown], [e["start"] for e in chunk],
            max_new_tokens, batch,
        )
    names = ["row", "pair_id", "prompt_id", "edit", "start", "before"]
    table = pd.DataFrame(edits, columns=names).astype({"before": "Int64"})
    after = [parse(f"{e['start']} {c}").answer for e, c in zip(edits, continuations, strict=True)]
    table["continuation"], table["after"] = continuations, pd.array(after, dtype="Int64")
    table["changed"] = (table["before"] != table["after"]).astype("Float64").to_numpy(float, na_value=np.nan)
    return table


def faithfulness_records(edits: pd.DataFrame, method: str, split: str, seed: int | None) -> list[Record]:
    """For each edit changed/<edit>, the rate of changed answers of those that could be parsed, and
    changed_unparsable/<edit>, the share that could not. No trace to edit: NaN with n = 0."""
    intervals = {}
    for edit in EDITS:
        own = edits[edits["edit"] == edit]
        prompts = own["prompt_id"].to_numpy()
        intervals[f"changed/{edit}"] = bootstrap(own["changed"].to_numpy(float), prompts)
        intervals[f"changed_unparsable/{edit}"] = bootstrap(own["after"].isna().to_numpy(float), prompts)
    return to_records(intervals, method, split, seed)


def aspects(frame: pd.DataFrame, p, edits: pd.DataFrame) -> pd.DataFrame:
    """Three things that a good trace is, which need not go together; a row a judgement, on the table's index.

    persuasive: the listener with p (B,) chooses what the reasoner answered (1, 0; take p with the verdict
    removed, or the verdict alone persuades). true: the share of the trace's statements that are true.
    faithful: the answer changes when the descriptions are swapped (1, 0). NaN where a judgement does not
    apply.
    """
    said = statements(frame)
    swapped = edits[edits["edit"] == "swapped"].set_index("row")["changed"]
    columns = {
        "persuasive": 1 - contradictions(frame, p),
        "true": said["true"].astype("Float64").groupby(said["row"]).mean().reindex(frame.index).to_numpy(
            float, na_value=np.nan
        ),
        "faithful": swapped.reindex(frame.index).to_numpy(float),
    }
    return pd.DataFrame(columns, index=frame.index)
