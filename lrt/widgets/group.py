"""A group of completions whose rewards can be dragged, and the advantages that follow: what GRPO and its relatives do.

| choice | advantage of completion i of G | source |
|---|---|---|
| n_1 | (r - mean) / (s + ε), s with G - 1 | TRL's `GRPOTrainer`, `lrt.rewards.advantages` |
| n | the same, s with G | other code; the paper of GRPO (arXiv 2402.03300) does not say which |
| batch | (r - mean of the group) / (s of the whole batch + ε) | TRL, `scale_rewards="batch"` |
| none | r - mean | Dr. GRPO (arXiv 2503.20783), TRL's `scale_rewards="none"` |
| others | r - mean of the other G - 1 | leave one out: TRL's `RLOOTrainer` |
"""

import math
from collections.abc import Sequence

import numpy as np

from lrt.rewards import advantages
from lrt.widgets.fragment import fragment, paragraph, table

MOST = 2.0  # the largest total reward: 1 for the format, 0.5 for the answer, 0.5 for the listener
EPS = (1e-4, 1e-8)  # TRL's, and one that protects against division by zero alone
TITLE = "A group of completions: drag the rewards, watch the advantages"
SCALES = {  # key -> (name in the list, what it is)
    "n_1": ("group's deviation, n - 1 (TRL)",
            "(r - mean) / (s + ε), s the standard deviation of the group with n - 1: what this course trains with."),
    "n": ("group's deviation, n",
          "(r - mean) / (s + ε), s with n: the same proportions, each a little larger."),
    "batch": ("the batch's deviation",
              "(r - mean of the group) / (s + ε), s over all groups of the batch: a settled group stays quiet."),
    "none": ("not scaled (Dr. GRPO)",
             "r - mean. Dr. GRPO also gives up dividing by a completion's length in the loss, which is not seen here."),
    "others": ("leave one out (RLOO)",
               "r - mean of the others: the unscaled advantage times n / (n - 1)."),
}
REST = ((1.5, 1.5, 1.0, 1.5, 1.0, 1.5, 1.5, 1.0), (1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0),
        (1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5))  # three more groups of a batch: mixed, nearly all wrong, all right
SAMPLED = (1.5, 1.0, 1.5, 1.5, 1.0, 1.5, 0.0, 1.5)  # an example: five right, two wrong, one that cannot be read


def presets(rewards: Sequence[float]) -> list[dict]:
    """name and rewards of the groups worth a look; the first is the one given."""
    n = len(rewards)
    listener = [1.95 + 0.03 * (i / (n - 1) - 0.5) for i in range(n)]
    named = {
        "as at first": rewards,
        "one right": [1.5] + [1.0] * (n - 1),
        "one wrong": [1.5] * (n - 1) + [1.0],
        "all right": [1.5] * n,
        "all right, one by 0.001 more": [1.501] + [1.5] * (n - 1),
        "all right, a listener spreads 0.03": [round(r, 3) for r in listener],
    }
    return [{"name": name, "rewards": [float(r) for r in own]} for name, own in named.items()]


def group_advantages(rewards_G: Sequence[float], scale: str = "n_1", eps: float = EPS[0], rest=REST) -> np.ndarray:
    """(G,) advantages by one of `SCALES`; `rest`: the rewards of the batch's other groups, for "batch".

    ValueError for an unknown choice.
    """
    r_G = np.asarray(rewards_G, dtype=float)
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, not {scale!r}")
    if scale == "others":
        return r_G - (r_G.sum() - r_G) / (len(r_G) - 1)
    if scale == "batch":
        widest = max(len(r_G), *map(len, rest)) if rest else len(r_G)
        batch_BG = np.full((1 + len(rest), widest), np.nan)
        for b, own in enumerate((r_G, *rest)):
            batch_BG[b, : len(own)] = own
        return advantages(batch_BG, "batch", eps=eps)[0, : len(r_G)]
    return advantages(r_G[None], "none" if scale == "none" else "group", ddof=0 if scale == "n" else 1, eps=eps)[0]


def group_html(rewards: Sequence[float] | None = None) -> str:
    """The thing to play with, beginning from a group's total rewards (2 to 16 of them, each from 0 to 2; by default an
    example), as HTML for a notebook or a page. ValueError for other rewards."""
    rewards = [float(r) for r in (SAMPLED if rewards is None else rewards)]
    if not 2 <= len(rewards) <= 16:
        raise ValueError(f"a group has 2 to 16 completions here, not {len(rewards)}")
    if wrong := [r for r in rewards if not math.isfinite(r) or not 0 <= r <= MOST]:
        raise ValueError(f"a total reward lies between 0 and {MOST:g}, and this one is {wrong[0]}")
    shown = presets(rewards)
    data = {"presets": shown, "most": MOST, "eps": list(EPS), "rest": [list(own) for own in REST],
            "scales": [{"key": key, "name": name, "note": note} for key, (name, note) in SCALES.items()]}
    return fragment("group", TITLE, data, _static(rewards))


def _static(rewards: list[float]) -> str:
    """The group as a table, and what its corners do, in words."""
    head = ("completion", *(str(i + 1) for i in range(len(rewards))))
    rows = [("reward", *(f"{r:.2f}" for r in rewards))]
    rows += [(name, *(f"{a:+.2f}" for a in group_advantages(rewards, key))) for key, (name, _) in SCALES.items()]
    n = len(rewards)
    near = [1.501] + [1.5] * (n - 1)
    with_eps, without = (group_advantages(near, eps=eps)[0] for eps in EPS)
    lone = group_advantages([1.5] + [1.0] * (n - 1))[0]
    words = (
        f"If all {n} rewards are equal, every advantage is 0: the group is dead. If one of {n} is right, its advantage "
        f"is {lone:+.2f}; if one is better by 0.001 alone, it is {with_eps:+.2f} with ε = 0.0001, and {without:+.2f} "
        "with ε = 0.00000001: divided by the group's deviation, a difference of almost nothing counts nearly as much "
        "as one that matters."
    )
    return table(head, rows, "Rewards of one group, and its advantages by the choice of scaling") + paragraph(words)
