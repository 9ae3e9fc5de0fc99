"""The three rewards of listener-rewarded GRPO, as TRL calls them: f(prompts, completions, **columns) -> list.

    r = r_format + 0.5 r_accuracy + 0.5 r_listener        (arXiv 2506.22832)

`GRPOTrainer(reward_funcs=[format_reward, accuracy_reward, ListenerReward(listener)], ...)` with
`GRPOConfig(reward_weights=list(WEIGHTS))`. A completion is a string or a list of messages. The data set's columns
arrive as lists, one entry a completion; used are `vote` and `pair_id`, and for the listener `images` and `pair_text`
(the prompt's text: TRL's own `prompt` column holds the messages).
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from lrt.prompts import heard, parse, text_of

if TYPE_CHECKING:  # rewards need no model, only something that answers as one
    from lrt.listener import Listener

RewardFunction = Callable[..., "list[float | None]"]  # as TRL calls it: see above
WEIGHTS = (1.0, 0.5, 0.5)  # of format, accuracy and listener
log = logging.getLogger(__name__)


def format_reward(completions, **_) -> list[float]:
    """1.0 for `<think>…</think><answer>1|2</answer>` and nothing else (`prompts.parse`), otherwise 0.0."""
    return [float(parse(text_of(completion)).ok) for completion in completions]


def accuracy_reward(completions, vote: Sequence[int], pair_id: Sequence[str] | None = None, **_) -> list[float]:
    """1.0 if the answer is the vote; 0.0 if not, or if there is no answer in the right format.

    Raises ValueError naming the pair for a vote other than 1 or 2: a tie has no right answer, so ties are to be dropped
    from the training data.
    """
    check_votes(vote, pair_id)
    return [float(parse(text_of(c)).answer == v) for c, v in zip(completions, vote, strict=True)]


class ListenerReward:
    """The listener's p on the side of the vote: p if it is 1, 1 - p if it is 2. Unparsable completions score 0.

    Rows are grouped by consecutive equal `pair_id`, so that a listener can run what a pair's completions share once. If
    a parsable completion of a pair cannot be scored (p is None), the pair's whole group gets None, on every process:
    TRL's `nansum` counts None as 0, and one completion alone would stand up to 0.5 below the others for no fault of its
    own. With None for all, the listener's part drops out of the group's comparison.

    Attributes, counted since the start: `unparsable` completions, `unscored_groups` and `seconds` spent here. Through
    TRL's `log_metric` also per call: `listener/unparsable` and `listener/unscored_groups` as shares, and
    `listener/seconds`.

    Raises ValueError for a vote other than 1 or 2, or a listener that returns the wrong number of scores.
    """

    def __init__(self, listener: Listener, verdict: bool = True):
        self.__name__ = "listener_reward"  # TRL's name for the column in its logs
        self.listener, self.verdict = listener, verdict
        self.unparsable, self.unscored_groups, self.seconds = 0, 0, 0.0

    def __call__(
        self,
        prompts=None,
        completions: Sequence = (),
        *,
        pair_text: Sequence[str],
        images: Sequence,
        vote: Sequence[int],
        pair_id: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_,
    ) -> list[float | None]:
        started = time.perf_counter()
        check_votes(vote, pair_id)
        asked = Asked.of(completions, pair_text, images, pair_id, self.verdict)
        p = asked.by_row(self.listener.p_first(*asked.groups), self.listener.name)
        unscored = on_all_processes(asked.unscored(p))
        self.count(asked, unscored, started, log_metric)
        return on_side(p, vote, pair_id, unscored)

    def count(self, asked: Asked, unscored: set[str], started: float, log_metric) -> None:
        """Add a call to the attributes, and tell TRL's log of it."""
        parsable, groups = sum(asked.ok), groups_of(asked.pair_id)
        dropped = sum(asked.pair_id[rows[0]] in unscored for rows in groups)
        seconds = time.perf_counter() - started
        if unscored:
            log.warning("no listener reward for %s: not every completion was scored", ", ".join(sorted(unscored)))
        if log_metric:
            log_metric("listener/unparsable", 1 - parsable / max(1, len(asked.ok)))
            log_metric("listener/unscored_groups", dropped / max(1, len(groups)))
            log_metric("listener/seconds", seconds)
        self.unparsable += len(asked.ok) - parsable
        self.unscored_groups += dropped
        self.seconds += seconds


def who_listens(functions: Sequence[Callable]) -> list[dict]:
    """The listeners behind reward functions, by name (which says if the verdict is removed), and how they combine: for
    a run's record. [] where none is."""
    heard = [(f, getattr(f, "listeners", [f.listener])) for f in functions if isinstance(f, ListenerReward)]
    return [{"reward": f.__name__ + ("" if f.verdict else ", verdict removed"),
             "listeners": [ear.name for ear in ears], "combine": getattr(f, "how", None)} for f, ears in heard]


@dataclass(frozen=True)
class Asked:
    """What a listener is asked about the completions of one call, and whose answer is whose."""

    ok: list[bool]  # whether a completion can be parsed; the others are not heard
    pair_id: Sequence[str]  # of each completion
    rows: list[list[int]]  # the completions of each group that is heard
    groups: tuple[list, list, list]  # prompts_B, images_B, traces_BG: the arguments of `Listener.p_first`

    @classmethod
    def of(cls, completions: Sequence, pair_text, images, pair_id, verdict: bool = True) -> Asked:
        """All arguments have one entry a completion. A run of equal `pair_id` is one group."""
        texts = [text_of(completion) for completion in completions]
        ok = [parse(text).ok for text in texts]
        rows = [kept for group in groups_of(pair_id) if (kept := [i for i in group if ok[i]])]
        traces_BG = [[heard(texts[i], verdict) for i in group] for group in rows]
        firsts = [group[0] for group in rows]
        return cls(ok, pair_id, rows, ([pair_text[i] for i in firsts], [images[i] for i in firsts], traces_BG))

    def by_row(self, p_BG: Sequence[Sequence[float | None]], name: str) -> list[float | None]:
        """A listener's p for each completion; None if it was not heard or could not be scored."""
        if [len(p_G) for p_G in p_BG] != [len(group) for group in self.rows]:
            raise ValueError(f"listener {name!r} did not return one score for each trace of each pair")
        p: list[float | None] = [None] * len(self.ok)
        for group, p_G in zip(self.rows, p_BG, strict=True):
            for i, value in zip(group, p_G, strict=True):
                p[i] = None if value is None or math.isnan(value) else float(value)
        return p

    def unscored(self, p: Sequence[float | None]) -> set[str]:
        """Pairs with a completion that should have been scored and was not."""
        rows = zip(p, self.ok, self.pair_id, strict=True)
        return {name for value, parsable, name in rows if parsable and value is None}


def on_side(
    p: Sequence[float | None], vote: Sequence[int], pair_id: Sequence[str], unscored: set[str]
) -> list[float | None]:
    """p on the side of the vote; 0 for what was not heard; None for every row of the `unscored` pairs."""
    rows = zip(p, vote, pair_id, strict=True)
    return [
        None if name in unscored else 0.0 if value is None else value if v == 1 else 1.0 - value
        for value, v, name in rows
    ]


def groups_of(pair_id: Sequence[str]) -> list[list[int]]:
    """Row numbers by runs of equal `pair_id`."""
    return [list(rows) for _, rows in groupby(range(len(pair_id)), key=lambda i: pair_id[i])]


def check_votes(vote: Sequence[int], pair_id: Sequence[str] | None) -> None:
    for i, v in enumerate(vote):
        if v not in (1, 2):
            name = repr(pair_id[i]) if pair_id is not None else f"in row {i}"
            raise ValueError(f"pair {name}: vote is {v}, not 1 or 2; drop ties before training")


def on_all_processes(names: set[Hashable]) -> set[Hashable]:
    """The union over processes, since a group may be spread over several. Every process must call it, equally often and
    in the same order, and does: TRL calls each reward function once a step on each."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return names
    everyone = [set()] * distributed.get_world_size()
    with own_gpu():
        distributed.all_gather_object(everyone, names)
    return set().union(*everyone)


def own_gpu() -> AbstractContextManager:
    """This process's GPU as the current one, in whatever thread: a new thread starts on the first GPU of the machine,
    where NCCL would meet the first process."""
    import torch
    from accelerate import PartialState
    from accelerate.state import is_initialized

    on_gpu = torch.cuda.is_available() and is_initialized() and PartialState().device.type == "cuda"
    return torch.cuda.device(PartialState().device) if on_gpu else nullcontext()


# --- from rewards to advantages ------------------------------------------------------------------------------------


def total(parts: Sequence[float | None], weights: Sequence[float] = WEIGHTS) -> float:
    """The weighted sum of the parts; None counts as 0, as in TRL's `nansum`."""
    return float(sum(w * part for w, part in zip(weights, parts, strict=True) if part is not None))


def advantages(rewards_BG, scale: str = "group", ddof: int = 1, eps: float = 1e-4) -> np.ndarray:
    """(B, G) rewards -> (B, G) advantages: (r - mean of its group) / (standard deviation + eps), as TRL computes them.

    `scale` is TRL's `scale_rewards`: the deviation of the "group", of the whole "batch", or "none". NaN marks places
    that are no completion (ragged groups) or have no reward: they are left out and get 0. A deviation of a single
    reward is undefined: 0 for G = 1, and otherwise, as in TRL, an advantage of 0.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f'scale is "group", "batch" or "none": {scale!r}')
    r_BG = np.asarray(rewards_BG, dtype=float)
    if r_BG.ndim != 2:
        raise ValueError(f"rewards are an array of (pairs, completions), not of shape {r_BG.shape}")
    axis = 1 if scale == "group" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, about groups of one or nothing: nan, hence 0
        centred_BG = r_BG - np.nanmean(r_BG, axis=1, keepdims=True)
        if scale == "none":
            return np.nan_to_num(centred_BG)
        deviation = np.nanstd(r_BG, axis=axis, ddof=ddof, keepdims=True)
        return np.nan_to_num(centred_BG / (deviation + eps))


def reward_parts(
    pairs: Iterable[dict],
    completions_BG: Sequence[Sequence],
    listener: Listener | None = None,
    weights: Sequence[float] = WEIGHTS,
    scale: str = "group",
    verdict: bool = True,
) -> list[dict]:
    """One dict a completion, from the functions that training uses, for tables and the completions viewer.

    Keys: pair_id, completion (its number in the group), text, trace, answer (None if unparsable), vote, p_first (the
    listener's, None if not scored), format, accuracy, listener (the three parts), total, advantage. `pairs` are rows
    with the columns of `pairs.FEATURES`; groups may be ragged. Without a listener its part is None and counts 0.
    """
    rows = [(row, text_of(c)) for row, group in zip(pairs, completions_BG, strict=True) for c in group]
    texts = [text for _, text in rows]
    vote, pair_id, prompt, images = ([row[n] for row, _ in rows] for n in ("vote", "pair_id", "prompt", "images"))
    parsed = [parse(text) for text in texts]
    p, listener_part = [None] * len(rows), [None] * len(rows)
    if listener is not None:
        asked = Asked.of(texts, prompt, images, pair_id, verdict)
        p = asked.by_row(listener.p_first(*asked.groups), listener.name)
        listener_part = on_side(p, vote, pair_id, asked.unscored(p))
    parts = list(zip(format_reward(texts), accuracy_reward(texts, vote, pair_id), listener_part, strict=True))
    totals = [total(three, weights) for three in parts]

    number = [g for group in completions_BG for g in range(len(group))]
    pair = [b for b, group in enumerate(completions_BG) for _ in group]
    rewards_BG = np.full((len(completions_BG), 1 + max(number, default=0)), np.nan)
    rewards_BG[pair, number] = totals
    advantage = advantages(rewards_BG, scale)[pair, number]
    return [
        {
            "pair_id": pair_id[i],
            "completion": number[i],
            "text": texts[i],
            "trace": parsed[i].trace,
            "answer": parsed[i].answer,
            "vote": vote[i],
            "p_first": p[i],
            "format": parts[i][0],
            "accuracy": parts[i][1],
            "listener": parts[i][2],
            "total": totals[i],
            "advantage": float(advantage[i]),
        }
        for i in range(len(rows))
    ]
