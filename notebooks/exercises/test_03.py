"""Notebook 03: advantages, means over tokens, the leash, the clip."""

import adapters
import numpy as np
import torch
from checking import same

from lrt import rewards


def batch(seed, N=6, T=9):
    """(log-probabilities, other ones, advantages, mask) of completions of different lengths."""
    torch.manual_seed(seed)
    logp_NT = -torch.rand(N, T, dtype=torch.float64)
    other_NT = logp_NT + 0.5 * torch.randn(N, T, dtype=torch.float64)
    length_N = torch.tensor([T, 1, 3, T - 1, 2, 5])[:N]
    mask_NT = (torch.arange(T) < length_N[:, None]).double()
    return logp_NT, other_NT, torch.randn(N, dtype=torch.float64), mask_NT


def test_group_advantages():
    groups = {"c": [1.5, 1.0, 0.0, 1.5, 1.5], "a": [1.0] * 4, "d": [0.7], "b": [0.0, 1.5], "e": [0.31, 0.3, 0.32]}
    padded = np.full((5, 5), np.nan)
    for row, own in zip(padded, groups.values(), strict=True):
        row[: len(own)] = own
    wanted = dict(zip(groups, rewards.advantages(padded), strict=True))
    places = [(name, i) for name, own in groups.items() for i in range(len(own))]
    places = [places[k] for k in np.random.default_rng(7).permutation(len(places))]
    got = adapters.group_advantages([groups[name][i] for name, i in places], [name for name, _ in places])
    same(got, [wanted[name][i] for name, i in places], "the group's own mean; the group's own standard deviation, with "
         "G - 1, plus 1e-4; groups are not in a row; equal rewards, or a completion alone, give 0")


def test_mean_over_tokens():
    value_NT, _, _, mask_NT = batch(8)
    rows = [[v for v, kept in zip(*row, strict=True) if kept]
            for row in zip(value_NT.tolist(), mask_NT.tolist(), strict=True)]
    wanted = {"dapo": np.mean(sum(rows, [])), "grpo": np.mean([np.mean(row) for row in rows])}
    for form in ("dapo", "grpo"):
        same(adapters.mean_over_tokens(value_NT, mask_NT, form), wanted[form],
             f"{form}: weigh all {'tokens' if form == 'dapo' else 'completions'} alike, and count real tokens only")


def test_kl_estimates():
    logp_NT, ref_NT, _, mask_NT = batch(9)
    terms = [(-(q - p), float(np.exp(q - p)) - (q - p) - 1)
             for p, q, kept in zip(*(x.flatten().tolist() for x in (logp_NT, ref_NT, mask_NT)), strict=True) if kept]
    got = adapters.kl_estimates(logp_NT, ref_NT, mask_NT)
    for name, value, wanted in zip(("k1", "k3"), got, np.mean(terms, axis=0), strict=True):
        same(value, wanted, f"{name}: d = reference - policy, one mean over all tokens that the mask keeps")


def test_clipped_objective():
    logp_NT, old_NT, A_N, _ = batch(10)
    ratio_NT = (logp_NT - old_NT).exp()
    for low, high in ((0.2, 0.28), (0.1, 0.4)):
        wanted = [[min(ratio * A, min(max(ratio, 1 - low), 1 + high) * A) for ratio in row]
                  for row, A in zip(ratio_NT.tolist(), A_N.tolist(), strict=True)]
        same(adapters.clipped_objective(ratio_NT, A_N, low, high), wanted,
             "the smaller of ratio times A and clipped ratio times A; the two ends are 1 - low and 1 + high")
    default = adapters.clipped_objective(torch.tensor([[1.26, 1.3]]), torch.tensor([1.0]))
    same(default, [[1.26, 1.28]], "unless told otherwise the upper end is 1.28")
