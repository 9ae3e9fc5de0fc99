"""Several listeners at once: as one listener, or as one reward.

| how | reward of a completion, from r_1 ... r_K, each listener's p on the side of the vote |
|---|---|
| mean | their mean |
| minimum | the least of them: the trace must convince every listener |
| majority | the share of listeners whose choice is the vote: r > 0.5 counts 1, r = 0.5 a half |

They combine as rewards, not as p: a listener does not know the vote, and the least p on the side of the vote is the
smallest p(image 1) for one vote and the largest for the other. The mean is the same number either way.

A listener that could not score some completion of a pair is left out for the whole group
(`async_rewards.AsyncListenerReward`), so that the completions of a group are compared by the same listeners; with none
left, the group has no listener's part at all.
"""

from collections.abc import Sequence

import numpy as np

from lrt.listener import Listener

COMBINE = ("mean", "minimum", "majority")


class MeanListener:
    """Several listeners as one: the mean of their p; None where any of them could not score."""

    def __init__(self, listeners: Sequence[Listener]):
        self.listeners, self.name = list(listeners), "mean of " + ", ".join(ear.name for ear in listeners)

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        """See `listener.Listener.p_first`."""
        each = [ear.p_first(prompts_B, images_B, traces_BG) for ear in self.listeners]
        return [
            [None if None in ps else float(np.mean(ps)) for ps in zip(*group, strict=True)]
            for group in zip(*each, strict=True)
        ]


def combine(rewards: Sequence[float], how: str = "mean") -> float:
    """One reward in [0, 1] from those of one or more listeners; see the table above. ValueError for another `how`."""
    if how == "mean":
        return float(np.mean(rewards))
    if how == "minimum":
        return float(min(rewards))
    if how == "majority":
        return float(np.mean([((r > 0.5) + (r >= 0.5)) / 2 for r in rewards]))
    raise ValueError(f"listeners combine by {', '.join(COMBINE)}, not {how!r}")


def combined(rewards_KN: Sequence[Sequence[float | None]], how: str = "mean") -> list[float | None]:
    """The rewards of K listeners for N completions as one each; where a listener has None it is left out, and where
    all have, so does the result. That whole groups have None together is the caller's part (`rewards.on_side`)."""
    heard_N = [[r for r in rewards_K if r is not None] for rewards_K in zip(*rewards_KN, strict=True)]
    return [combine(heard, how) if heard else None for heard in heard_N]
