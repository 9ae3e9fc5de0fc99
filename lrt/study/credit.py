r"""Where the gradient lands: which properties of a completion a step's advantages pay for, and which part of the reward
pays.

GRPO gives every token of a completion the same advantage A. So a step does not say "this word was good": it makes
every property of the completions that earned more more likely. To first order, log-probabilities that move by eta A,
which is where the policy gradient pulls them, change the expected value of a property x of completions by

    eta * E[A x],   and   E[A x] = Cov(A, x) within the group, since mean A = 0.

(The same covariance as in Price's equation, and in REINFORCE: grad E[x] = E[x grad log pi]. A network that shares its
weights between completions follows the pull only in part.) `credit` is that covariance. It is linear in A, and A is
linear in the reward's parts once the group's deviation is fixed:

    A = (r - mean r) / s = sum_k w_k (r_k - mean r_k) / s        =>        credit(x) = sum_k credit_k(x)

so the share of the listener is measured, not estimated. Properties: by segment, statements (share that are true),
verdict and answer (1 if it names the truly better image); tint (1 if the answer is the warm image); own (1 if the
answer is the trace's own verdict).
"""

from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset

from lrt.pairs import scenes_of
from lrt.prompts import parse, text_of, verdict_of
from lrt.traces import share_true
from lrt.world import parse_prompt

CREDITED = {  # properties of a completion, in the words of figures and sentences
    "statements": "true statements",
    "verdict": "right verdict",
    "answer": "right answer",
    "tint": "answer = warm image",
    "own": "answer = own verdict",
}
PROPERTIES = tuple(CREDITED)


def credit(advantages_N: np.ndarray, x_N: np.ndarray, group_N: Sequence) -> float:
    """mean over completions of A (x - its group's mean of x); NaN in x is left out, NaN if nothing is left.

    advantages_N, x_N: (N,); group_N: (N,) which pair each completion belongs to.
    """
    products = []
    for name in dict.fromkeys(group_N):
        own = np.array([g == name for g in group_N]) & ~np.isnan(x_N)
        products += list(advantages_N[own] * (x_N[own] - x_N[own].mean())) if own.any() else []
    return float(np.mean(products)) if products else float("nan")


def shares_of_advantage(parts_KN: np.ndarray, weights: Sequence[float], group_N: Sequence, scale: str = "group",
                        eps: float = 1e-4, aggregation: str = "sum_then_normalize") -> np.ndarray:
    """(K, N): what each of K reward parts contributes to the advantage; their sum over K is the advantage.

    NaN in a part counts as 0, as in TRL's `nansum`. `scale` is TRL's `scale_rewards`, and `aggregation` its
    `multi_objective_aggregation`: "normalize_then_sum" divides each part by its own deviation in the group, and their
    sum by that of the batch, whatever `scale` says.
    """
    parts_KN, weights_K1 = np.array(parts_KN, dtype=float), np.asarray(weights, dtype=float)[:, None]
    groups = [np.array([g == name for g in group_N]) for name in dict.fromkeys(group_N)]
    if aggregation == "normalize_then_sum":
        for own in groups:
            heard = ~np.isnan(parts_KN) & own
            for part, used in zip(parts_KN, heard, strict=True):
                part[used] = (part[used] - part[used].mean()) / (_deviation(part[used]) + eps) if used.any() else 0.0
        groups, scale = [np.full(parts_KN.shape[1], True)], "batch"
    parts_KN = np.nan_to_num(parts_KN) * weights_K1
    total_N = parts_KN.sum(axis=0)
    shares_KN = np.zeros_like(parts_KN)
    for own in groups:
        s = {"group": _deviation(total_N[own]) + eps, "batch": _deviation(total_N) + eps}.get(scale, 1.0)
        shares_KN[:, own] = (parts_KN[:, own] - parts_KN[:, own].mean(axis=1, keepdims=True)) / s
    return shares_KN


def dead_groups(parts_KN, weights: Sequence[float], group_N: Sequence) -> float:
    """The share of groups whose completions all earn the same. TRL's `frac_reward_zero_std` is that only where rewards
    are scaled by group: else it is 0 or 1 for the whole batch."""
    total_N = np.nan_to_num(np.array(parts_KN, dtype=float)).T @ np.asarray(weights, dtype=float)
    of = {name: [total for total, own in zip(total_N, group_N, strict=True) if own == name] for name in group_N}
    return float(np.mean([np.isclose(_deviation(np.array(own)), 0) for own in of.values()]))


def _deviation(values: np.ndarray) -> float:
    """The sample's standard deviation; 0 for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


class CreditWatch:
    """Watches reward functions at work and logs, once a step, the credit of every property, and the part of it that the
    last function pays ("added"), through TRL's `log_metric`: credit/<property>, credit_added/<property>; besides them
    rollout/<property>, the property's mean, and dead_groups.

    `pairs`: the training pairs, with scenes and tints; `scale`, `aggregation`: as for `shares_of_advantage`.
    """

    def __init__(self, pairs: Dataset, weights: Sequence[float], scale: str = "group",
                 aggregation: str = "sum_then_normalize"):
        self.weights, self.parts = list(weights), []
        self.scaled = {"scale": scale, "aggregation": aggregation}
        self.rows = {row["pair_id"]: row for row in pairs.remove_columns("images")}

    def watching(self, functions: Sequence[Callable]) -> list[Callable]:
        """The functions, each remembering what it returned; the last one reports."""
        return [self._watched(function, last=i == len(functions) - 1) for i, function in enumerate(functions)]

    def _watched(self, function: Callable, last: bool) -> Callable:
        def watched(prompts=None, completions=(), *, log_metric=None, **columns):
            values = function(prompts=prompts, completions=completions, log_metric=log_metric, **columns)
            self.parts.append(values)
            if last:
                parts, self.parts = self.parts, []
                for name, value in self.report(parts, completions, columns["pair_id"]).items():
                    log_metric(name, value)
            return values

        watched.__name__ = function.__name__
        return watched

    def report(self, parts, completions, pair_id: Sequence[str]) -> dict[str, float]:
        """The numbers of one step; a property that no completion has is left out."""
        parts_KN = np.array(parts, dtype=float)
        shares_KN = shares_of_advantage(parts_KN, self.weights[: len(parts)], pair_id, **self.scaled)
        found = self.properties([text_of(c) for c in completions], pair_id)
        numbers = {"dead_groups": dead_groups(parts_KN, self.weights[: len(parts)], pair_id)}
        for name, x_N in found.items():
            if np.isnan(x_N).all():
                continue
            numbers[f"credit/{name}"] = credit(shares_KN.sum(axis=0), x_N, pair_id)
            if len(parts) > 2:
                numbers[f"credit_added/{name}"] = credit(shares_KN[-1], x_N, pair_id)
            numbers[f"rollout/{name}"] = float(np.nanmean(x_N))
        return numbers

    def properties(self, completions: Sequence[str], pair_id: Sequence[str]) -> dict[str, np.ndarray]:
        """(N,) of each property; NaN where it does not apply (unparsable, no verdict, equally good images)."""
        rows = [self._of(completion, self.rows[name]) for completion, name in zip(completions, pair_id, strict=True)]
        return {name: np.array([row[i] for row in rows], dtype=float) for i, name in enumerate(PROPERTIES)}

    @staticmethod
    def _of(completion: str, row: dict) -> tuple[float, ...]:
        nan, said = float("nan"), parse(completion)
        if not said.ok:
            return (nan,) * len(PROPERTIES)
        true = share_true(said.trace, parse_prompt(row["prompt"]), scenes_of(row))
        gap = row["utility_1"] - row["utility_2"]
        better, verdict = (1 if gap > 0 else 2) if gap else None, verdict_of(said.trace)
        warm = {"warm": 1, "cool": 2}.get(row["tint_1"])
        return (
            nan if true is None else true,
            float(verdict == better) if verdict and better else nan,
            float(said.answer == better) if better else nan,
            float(said.answer == warm) if warm else nan,
            float(said.answer == verdict) if verdict else nan,
        )
