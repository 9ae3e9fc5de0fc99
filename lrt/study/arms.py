"""What each method of the study is rewarded for, besides the format and the right answer.

    r = w_1 r_format + w_2 r_accuracy + w_3 r_added

| `reward` | r_added of a completion, in [0, 1] |
|---|---|
| none | nothing: plain GRPO |
| listener | p of the vote's side, by a listener that heard the trace (arXiv 2506.22832); the mean over several |
| rule | 1 if the trace's own verdict is the vote: a comparison of strings, no model |
| permuted | the listener's p, dealt out at random within the group: same mean and spread, no information |
| random, wrong_pair, binary | see `lrt.controls` |
| living, dead | the listener's p in the groups from which plain GRPO learns as well, or in all others: `SomeGroups` |
| log_p | 1 + log p / log 100, cut at 0: the listener of rational speech acts (Goodman and Frank 2016) pays log p |
| agreement | p of the *answer's* side instead of the vote's (the idea of REMuL: a speaker whom listeners can follow) |
| opinion | p of the answer's side without any trace: a teacher that does not see the tint |
| self_reading | 1 if the policy itself, shown its trace and no images, gives the vote (Vision-SR1, arXiv 2508.19652) |
| truth | the share of the trace's statements that are true: only a world whose scenes are known can pay for that |

Every function scores a completion that cannot be parsed 0.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from datasets import Dataset

from lrt.controls import Binary, Opinion, Permuted, RandomListener, WrongPair
from lrt.ensemble import MeanListener
from lrt.listener import Listener, LocalListener
from lrt.models import Loaded, load
from lrt.pairs import scenes_of
from lrt.prompts import parse, text_of, verdict_of
from lrt.rewards import ListenerReward, RewardFunction, accuracy_reward, format_reward, groups_of
from lrt.study.grid import Cell
from lrt.traces import share_true
from lrt.world import parse_prompt


def reward_functions(cell: Cell, policy: Loaded, pairs: Dataset, added: RewardFunction | None = None
                     ) -> tuple[list[RewardFunction], list[float]]:
    """(functions, weights) for `grpo.train_grpo`; `added` takes the place of the cell's own third part.

    ValueError for a reward or a listener that there is not."""
    added = added or added_reward(cell, policy, pairs)
    functions = [format_reward, accuracy_reward, *([added] if added else [])]
    if len(cell.weights) < len(functions):
        raise ValueError(f"{cell.method}: {len(cell.weights)} weights for {len(functions)} parts of the reward")
    return functions, list(cell.weights[: len(functions)])


def added_reward(cell: Cell, policy: Loaded, pairs: Dataset) -> RewardFunction | None:
    """The third part of a cell's reward; None for plain GRPO."""
    if cell.reward in ("none", "rule"):
        return verdict_reward if cell.reward == "rule" else None
    if cell.reward == "truth":
        return TruthReward(pairs)
    if cell.reward == "random":
        return ListenerReward(RandomListener(cell.seed))
    if cell.reward == "self_reading":
        return ListenerReward(Binary(LocalListener(replace(policy, sees=False))))
    ear = listener_of(cell)
    if cell.reward == "agreement":
        return AgreementReward(ear)
    if cell.reward == "opinion":
        return AgreementReward(Opinion(ear))
    if cell.reward == "log_p":
        return LogReward(ear)
    if cell.reward in ("living", "dead"):
        return SomeGroups(ear, cell.weights, cell.reward == "living")
    wrapped = {
        "listener": lambda: ear,
        "permuted": lambda: Permuted(ear, cell.seed),
        "wrong_pair": lambda: WrongPair(ear),
        "binary": lambda: Binary(ear),
    }
    if cell.reward not in wrapped:
        raise ValueError(f"{cell.method}: no reward {cell.reward!r}; see lrt.study.arms")
    return ListenerReward(wrapped[cell.reward]())


def listener_of(cell: Cell) -> Listener:
    """The listener that a cell names, or the mean of several. ValueError if it names none."""
    if not cell.listeners:
        raise ValueError(f"{cell.method}: reward {cell.reward!r} needs a listener")
    ears = [
        LocalListener(load(cell.base if name == "base" else name), verdict=cell.verdict) for name in cell.listeners
    ]
    return ears[0] if len(ears) == 1 else MeanListener(ears)


def verdict_reward(completions, vote: Sequence[int], **_) -> list[float]:
    """1.0 if the trace itself names the vote as the winner; 0.0 if it names the other, or none."""
    read = [parse(text_of(c)) for c in completions]
    return [float(said.ok and verdict_of(said.trace) == v) for said, v in zip(read, vote, strict=True)]


class TruthReward:
    """The share of a trace's statements that are true in the scenes of its pair (`traces.share_true`).

    `pairs` are the training pairs, with their scenes. A trace that states nothing earns 0. ValueError for a pair that
    is not among them.
    """

    def __init__(self, pairs: Dataset):
        self.__name__ = "truth_reward"
        rows = pairs.select_columns(["pair_id", "prompt", "scene_1", "scene_2"])
        self.world = {row["pair_id"]: (parse_prompt(row["prompt"]), scenes_of(row)) for row in rows}

    def __call__(self, completions, pair_id: Sequence[str], **_) -> list[float]:
        return [self.share(text_of(c), name) for c, name in zip(completions, pair_id, strict=True)]

    def share(self, completion: str, pair_id: str) -> float:
        said = parse(completion)
        if not said.ok:
            return 0.0
        if pair_id not in self.world:
            raise ValueError(f"pair {pair_id!r} is not among the training pairs, so its scenes are not known")
        return share_true(said.trace, *self.world[pair_id]) or 0.0


class AgreementReward(ListenerReward):
    """p of the side that the completion itself answers, not of the vote: what the listener is led to is what counts,
    right or wrong."""

    def __init__(self, listener: Listener):
        super().__init__(listener)
        self.__name__ = "agreement_reward"

    def __call__(self, prompts=None, completions: Sequence = (), *, vote: Sequence[int], **columns):
        answers = [parse(text_of(c)).answer for c in completions]
        # an unparsable completion is not heard and scores 0 either way: any side will do
        return super().__call__(prompts, completions, vote=[a or v for a, v in zip(answers, vote, strict=True)],
                                **columns)


class LogReward(ListenerReward):
    """1 + log p / log 100 of the vote's side, cut at 0 (p = 0.01): p = 1 earns 1, p = 0.1 a half."""

    def __init__(self, listener: Listener):
        super().__init__(listener)
        self.__name__ = "log_listener_reward"

    def __call__(self, *args, **columns):
        return [None if p is None else 1 + math.log(max(p, 0.01)) / math.log(100)
                for p in super().__call__(*args, **columns)]


class SomeGroups(ListenerReward):
    """The listener's reward in the groups that are `living` without it, or in those that are not; 0 for all in the
    others, so that the part drops out there.

    A group lives if format and answer alone (`weights`) pay its completions differently. Taken apart like this the
    listener's part shows what it does where plain GRPO learns anyway, and what where plain GRPO is blind.
    """

    def __init__(self, listener: Listener, weights: Sequence[float], living: bool):
        super().__init__(listener)
        self.__name__ = f"{'living' if living else 'dead'}_groups_reward"
        self.weights, self.living = weights, living

    def __call__(self, prompts=None, completions: Sequence = (), *, vote: Sequence[int], pair_id: Sequence[str],
                 **columns):
        paid = super().__call__(prompts, completions, vote=vote, pair_id=pair_id, **columns)
        parts = zip(format_reward(completions), accuracy_reward(completions, vote), strict=True)
        plain = [self.weights[0] * f + self.weights[1] * a for f, a in parts]
        for rows in groups_of(pair_id):
            if (len({plain[i] for i in rows}) > 1) != self.living:
                for i in rows:
                    paid[i] = 0.0
        return paid
