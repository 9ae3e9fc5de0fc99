"""Let a reasoner judge pairs, and turn its judgements into records and a table.

A judgement table has one row a judgement and these columns:

| column | meaning |
|---|---|
| pair_id, prompt_id, prompt, vote, ... scene_2, split, source | as in `lrt.pairs`, without the images |
| completion | what the reasoner wrote |
| trace | what stands inside `<think>`; the best guess if the completion is not parsable |
| answer | 1 or 2, the chosen image of the *pair*; missing if not parsable |
| parsable | whether the completion has the strict format of `prompts.parse` |
| order | "forward"; "reverse": the images were shown exchanged (answer mapped back, trace as written) |

The metrics on such tables are in `lrt.metrics`.
"""

from collections.abc import Callable

import pandas as pd
from datasets import Dataset

from lrt.listener import scoring
from lrt.metrics import (
    REFERENCES,
    accuracy,
    agree_conflict,
    flip_unparsable,
    flips,
    majority,
    rate,
    reference,
)
from lrt.models import Loaded, generate
from lrt.pairs import FEATURES, swap_tints
from lrt.prompts import parse
from lrt.stats import Interval, Record

FLIP_SPLITS = ("tint_uninformative",)  # where agree / conflict and the flip rate are measured
Progress = Callable[[int, int], None]  # called with (pairs judged, pairs in all)


# --- judgements ---------------------------------------------------------------------------------------------


def judgements(pairs: Dataset, completions: list[str]) -> pd.DataFrame:
    """The judgement table of B pairs and B completions, wherever those come from. An empty dataset gives an
    empty table. ValueError if their numbers differ."""
    if len(pairs) != len(completions):
        raise ValueError(f"{len(pairs)} pairs, but {len(completions)} completions")
    table = pairs.select_columns([name for name in FEATURES if name != "images"]).to_pandas()
    parsed = [parse(completion) for completion in completions]
    return table.assign(
        completion=list(completions),
        trace=[p.trace for p in parsed],
        answer=pd.array([p.answer for p in parsed], dtype="Int64"),
        parsable=[bool(p.ok) for p in parsed],
        order="forward",
    ).astype({"parsable": bool})


def judge(loaded: Loaded, pairs: Dataset, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0,
          batch: int = 64, progress: Progress | None = None, turned: bool = False) -> pd.DataFrame:
    """One completion a pair: greedy at temperature 0, else sampled, the same for the same seed and batch. `turned`
    shows every pair's images exchanged; answers are then as written, about the images as shown."""
    completions: list[str] = []
    for start in range(0, len(pairs), batch):  # images are decoded a batch at a time
        chunk = pairs[start : start + batch]
        shown = [pair[::-1] for pair in chunk["images"]] if turned else chunk["images"]
        with scoring(loaded.model):  # also of a policy in training
            completions += generate(
                loaded, chunk["prompt"], shown, max_new_tokens=max_new_tokens,
                temperature=temperature, seed=seed * 1_000_003 + start, batch=batch,
            )
        if progress:
            progress(len(completions), len(pairs))
    return judgements(pairs, completions)


def judge_samples(loaded: Loaded, pairs: Dataset, n: int = 8, temperature: float = 1.0, seed: int = 0,
                  **options) -> list[pd.DataFrame]:
    """n sampled judgements of every pair, a table each (for `metrics.majority`)."""
    return [judge(loaded, pairs, temperature=temperature, seed=seed * n + i, **options) for i in range(n)]


def judge_both_orders(loaded: Loaded, pairs: Dataset, **options) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(forward, reverse): as given, and with the two images exchanged. The answers of `reverse` are mapped
    back to the pair's own numbering; its completions and traces are left as written, and speak of the images
    as shown. Images are exchanged as they are read: there is no second copy, and a transform of the data set holds."""
    forward = judge(loaded, pairs, **options)
    turned = judge(loaded, pairs, turned=True, **options)
    seen = turned[["completion", "trace", "parsable"]]
    return forward, forward.assign(**seen, answer=3 - turned["answer"], order="reverse")


def judge_swapped_tints(loaded: Loaded, pairs: Dataset, **options) -> pd.DataFrame:
    """The same scenes and render noise, tints exchanged. Tiny world only: ValueError for other pairs."""
    return judge(loaded, swap_tints(pairs), **options)


# --- records ------------------------------------------------------------------------------------------------


def split_records(frame: pd.DataFrame, method: str, split: str, seed: int | None) -> list[Record]:
    """Accuracy against the majority of votes ("accuracy"), against the one drawn vote and against the
    utility; and the share of completions that could be parsed."""
    intervals = {
        "accuracy": accuracy(frame, "majority"),
        "accuracy_vote": accuracy(frame, "vote"),
        "accuracy_utility": accuracy(frame, "utility"),
        "parsable": rate(frame, frame["parsable"]),
    }
    return to_records(intervals, method, split, seed)


def tint_records(frame: pd.DataFrame, swapped: pd.DataFrame, method: str, split: str,
                 seed: int | None) -> list[Record]:
    """Reliance on the tint: accuracy (utility) where tint and content agree or conflict; the flip rate."""
    agree, conflict = agree_conflict(frame)
    intervals = {
        "accuracy_agree": agree,
        "accuracy_conflict": conflict,
        "flip_rate": rate(frame, flips(frame, swapped)),
        "flip_unparsable": rate(frame, flip_unparsable(frame, swapped)),
    }
    return to_records(intervals, method, split, seed)


def reference_records(base: pd.DataFrame, split: str, samples: list[pd.DataFrame] | None = None,
                      against: str = "majority") -> list[Record]:
    """The reference lines (`metrics.reference`) on the pairs of the base's own judgements, as methods without
    a seed; with `samples` of the base also the majority of them ("majority_of_8")."""
    lines = {name: reference(base, name, against) for name in REFERENCES}
    if samples:
        lines[f"majority_of_{len(samples)}"] = accuracy(majority(samples), against)
    metric = "accuracy" if against == "majority" else f"accuracy_{against}"
    return [Record(name, split, metric, *interval, None) for name, interval in lines.items()]


def to_records(intervals: dict[str, Interval], method: str, split: str, seed: int | None) -> list[Record]:
    """A record for each named interval."""
    return [Record(method, split, metric, *interval, seed) for metric, interval in intervals.items()]


def evaluate(loaded: Loaded, splits: dict[str, Dataset], method: str, seed: int | None,
             flip_splits: tuple[str, ...] = FLIP_SPLITS, progress: Progress | None = None,
             **options) -> tuple[list[Record], dict[str, pd.DataFrame]]:
    """Judge every split once, greedily, and those of `flip_splits` again with the tints exchanged.

    `seed` is the training run's, and only named in the records; `options` go to `judge`. Returns the records,
    and the tables by the split's name; a table with exchanged tints is called "<split>/swapped".
    """
    jobs = [(split, judge, pairs) for split, pairs in splits.items()]
    jobs += [(f"{s}/swapped", judge_swapped_tints, pairs) for s, pairs in splits.items() if s in flip_splits]
    total, done, frames = sum(len(pairs) for _, _, pairs in jobs), 0, {}
    for name, run, pairs in jobs:
        ahead = progress and (lambda n, _, done=done: progress(done + n, total))
        frames[name] = run(loaded, pairs, progress=ahead, **options)
        done += len(pairs)
    records = []
    for split in splits:
        records += split_records(frames[split], method, split, seed)
        if f"{split}/swapped" in frames:
            records += tint_records(frames[split], frames[f"{split}/swapped"], method, split, seed)
    return records, frames


# --- for the terminal ---------------------------------------------------------------------------------------


def format_table(records: list[Record], metric: str = "accuracy") -> str:
    """Methods x splits of one metric, in per cent with the interval's ends; below it, for each split where it
    was measured, what the tint does. A row a method and training seed, in the order of the records."""
    columns = {r.split: (r.split, metric) for r in records if r.metric == metric}
    tables = [_grid(records, columns, f"{metric} %")]
    for split in dict.fromkeys(r.split for r in records if r.metric == "flip_rate"):
        columns = {m: (split, m) for m in ("accuracy_agree", "accuracy_conflict", "flip_rate")}
        tables.append(_grid(records, columns, f"{split} %"))
    return "\n\n".join(tables)


def _grid(records: list[Record], columns: dict[str, tuple[str, str]], corner: str) -> str:
    """Rows are runs; `columns` are named (split, metric). Column names break at their first underscore."""
    found = {(r.method, r.seed, r.split, r.metric): r for r in records}
    wanted = set(columns.values())
    runs = dict.fromkeys((r.method, r.seed) for r in records if (r.split, r.metric) in wanted)
    names = [name.partition("_")[::2] for name in columns]
    lines = [[corner, *(first for first, _ in names)], ["", *(rest.replace("_", " ") for _, rest in names)]]
    for method, seed in runs:
        cells = [_cell(found.get((method, seed, *column))) for column in columns.values()]
        lines.append([method if seed is None else f"{method}, seed {seed}", *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([*rows[:2], "-" * max(map(len, rows)), *rows[2:]])


def _cell(record: Record | None) -> str:
    if record is None or record.n == 0:
        return "-"
    ends = "" if record.low != record.low else f" [{100 * record.low:.0f}, {100 * record.high:.0f}]"
    return f"{100 * record.value:.0f}{ends}"
