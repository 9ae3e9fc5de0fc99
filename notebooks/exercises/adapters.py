"""The graded exercises of the notebooks, to be filled in. Pytest on this file's folder says what is wrong.

Replace a `raise` by your own lines, and leave name, arguments and docstring as they are. An array's name ends in its
dimensions, as in the notebooks: B pairs or judgements, G completions of a group, N completions, T tokens.
(Made by `python -m lrt.course.exercises`; `lrt exercises FOLDER` copies the notebooks without their solutions, and
this.)
"""

import math  # noqa: F401 (what you may need is here, and you may import more)

import numpy as np  # noqa: F401
import torch  # noqa: F401

from lrt import stats  # noqa: F401
from lrt.prompts import parse, text_of, verdict_of  # noqa: F401

# --- 01_data ----------------------------------------------------------------------------------------------------------


def content_bound(gap_B, scale=1.5):
    """How often perfect sight agrees with one drawn vote, on average over pairs.

    gap_B: (B,) utility of image 1 minus utility of image 2, of either sign. Where it is 0, the judge tosses a coin.
    """
    raise NotImplementedError("exercise 1.1, content_bound: not written yet")


def accuracy_at_agreement(answer_B, share_B, threshold):
    """Accuracy on the pairs whose majority holds at least `threshold` of the votes.

    answer_B: (B,) 1 or 2, NaN for a completion that could not be parsed, which is wrong; share_B: (B,) share of the
    votes that went to image 1. Ties (one half) are left out. NaN if no pair is left.
    """
    raise NotImplementedError("exercise 1.2, accuracy_at_agreement: not written yet")


def right_in_both_orders(forward_B, reverse_B, better_B):
    """Share of the pairs on which a judge finds the better image in both orders.

    forward_B, reverse_B: (B,) the digit that it wrote, 1 or 2, NaN if it could not be read, which is not right. In the
    reverse order the images were exchanged: a "1" is the image that better_B calls 2. better_B: (B,) 1 or 2.
    """
    raise NotImplementedError("exercise 1.3, right_in_both_orders: not written yet")


def paired_interval(right_a_B, right_b_B, prompt_B, n_boot=2000, seed=0):
    """(low, high): 95 % interval of the mean of a - b over pairs, resampling whole prompts.

    right_a_B, right_b_B: (B,) 1 where a judge is right, 0 where not, on the same pairs; prompt_B: (B,) prompt ids. The
    ends are the 2.5 % and 97.5 % points of n_boot draws.
    """
    raise NotImplementedError("exercise 1.4, paired_interval: not written yet")


# --- 02_sft -----------------------------------------------------------------------------------------------------------


def completion_labels(ids_BT, prompt_B, end_B):
    """(B, T) labels: a token's own id where it is scored, -100 elsewhere. Nothing is shifted.

    ids_BT: (B, T) token ids, padded on the right; prompt_B, end_B: (B,) how many tokens of a row are its prompt, and
    how many it has before the padding. Scored is the completion, its end-of-turn token included. All are tensors.
    """
    raise NotImplementedError("exercise 2.1, completion_labels: not written yet")


def vote_floor(p_B, n_tokens):
    """The least mean loss, in nats a token, that the voters' disagreement allows.

    p_B: (B,) share of voters that prefers image 1, from 0 to 1, both included; n_tokens: scored tokens of a completion,
    of which one is the digit and the others can cost nothing.
    """
    raise NotImplementedError("exercise 2.2, vote_floor: not written yet")


def flip_rate(before_B, after_B):
    """Share of the pairs whose answer changes when the two tints are exchanged.

    before_B, after_B: (B,) answers, 1 or 2, to the same pairs in the same order; NaN where a completion could not be
    parsed: such a pair is left out. NaN if no pair is left.
    """
    raise NotImplementedError("exercise 2.3, flip_rate: not written yet")


# --- 03_grpo ----------------------------------------------------------------------------------------------------------


def group_advantages(reward_N, pair_N):
    """(N,) advantage of every completion within its group.

    reward_N: (N,) rewards; pair_N: (N,) the id of each completion's pair: groups in any order and of any size. The
    standard deviation divides by G - 1, and 1e-4 is added to it. A completion alone in its group has the advantage 0.
    """
    raise NotImplementedError("exercise 3.1, group_advantages: not written yet")


def mean_over_tokens(value_NT, mask_NT, form):
    """Mean of the values that the mask keeps: "dapo" weighs all tokens alike, "grpo" all completions alike.

    value_NT, mask_NT: (N, T) tensors, the mask 1 for a token and 0 behind the end; every completion has a token.
    """
    raise NotImplementedError("exercise 3.2, mean_over_tokens: not written yet")


def kl_estimates(logp_NT, ref_logp_NT, mask_NT):
    """(k1, k3): two estimates, in nats a token, of KL(policy || reference), mean over the tokens that the mask keeps.

    logp_NT, ref_logp_NT: (N, T) log-probabilities of the sampled tokens, by the policy that drew them and by the
    reference; mask_NT: (N, T). k1 = -d and k3 = exp(d) - d - 1 with d = reference - policy. All are tensors.
    """
    raise NotImplementedError("exercise 3.3, kl_estimates: not written yet")


def clipped_objective(ratio_NT, A_N, low=0.2, high=0.28):
    """(N, T) objective of every token: min(ratio A, clip(ratio, 1 - low, 1 + high) A).

    ratio_NT: (N, T) and A_N: (N,), tensors: the ratio of every token, the advantage of every completion.
    """
    raise NotImplementedError("exercise 3.4, clipped_objective: not written yet")


# --- 04_listener_rewards ----------------------------------------------------------------------------------------------


def listener_rewards(logits_BTV, mask_BT, ids, vote_B):
    """(B,) the listener's probability on the side of the vote: a softmax over the logits of "1" and "2" alone.

    logits_BTV: (B, T, V) logits, where the position t speaks of the token t + 1; mask_BT: (B, T) 1 for a token, 0 for
    padding, which is on the left or on the right; ids: two integers, the tokens of "1" and "2"; vote_B: (B,) 1 or 2.
    numpy arrays.
    """
    raise NotImplementedError("exercise 4.1, listener_rewards: not written yet")


def listener_parts(p_N, parsable_N, vote_N, pair_N):
    """The listener's part of each completion's reward: a list of N floats and None.

    p_N: p(image 1), or None where there is none; parsable_N: whether a completion could be parsed; vote_N: 1 or 2;
    pair_N: the ids of the pairs. If one that can be parsed was not scored, every completion of its pair gets None,
    also one that cannot be parsed. In other pairs a completion that cannot be parsed earns 0.
    """
    raise NotImplementedError("exercise 4.2, listener_parts: not written yet")


def trace_positions(mask_BL, n_new):
    """(B, n_new) position of each of the last n_new tokens of a row: how many real tokens stand before it.

    mask_BL: (B, L) array, 1 for a token and 0 for padding, of the cached part and the new part together. What is
    returned for padding is not looked at.
    """
    raise NotImplementedError("exercise 4.3, trace_positions: not written yet")


# --- 05_contradictions ------------------------------------------------------------------------------------------------


def two_listeners(answer_B, p_one_B, p_two_B):
    """(share of the answers that both listeners contradict, share that at least one of them does).

    answer_B: (B,) 1, 2 or NaN; p_one_B, p_two_B: (B,) each listener's p(image 1), NaN where it did not score, never
    exactly one half. Where any of the three is NaN, the judgement is left out of both shares; NaN if none is left.
    """
    raise NotImplementedError("exercise 5.1, two_listeners: not written yet")


def accuracy_by_disagreement(answer_B, p_B, share_B, edges):
    """[(accuracy, n)] for each bin of disagreement, 1 - p of the listener on the answer.

    answer_B: (B,) 1, 2 or NaN; p_B: (B,) the listener's p(image 1) or NaN; share_B: (B,) share of votes for image 1,
    whose majority is right. Ties and whatever has a NaN are left out. edges: from 0 to 1; an edge belongs to the bin
    above it, 1 to the last bin. The accuracy of an empty bin is NaN.
    """
    raise NotImplementedError("exercise 5.2, accuracy_by_disagreement: not written yet")


def truth_of(said):
    """(share of all statements that are true, mean over traces of each trace's own share).

    said: for each trace a list of True, False and None. None, where no word could be true, is not counted. A trace in
    which nothing counts has no share: it is left out of the mean. NaN for both where nothing counts at all.
    """
    raise NotImplementedError("exercise 5.3, truth_of: not written yet")


# --- 06_controls ------------------------------------------------------------------------------------------------------


def consistency_reward(completions, vote=None, **columns):
    """A list: 1.0 for each completion that is well formed and answers what its trace's own verdict says, 0.0 otherwise.

    completions: strings, or lists of messages, as TRL passes them. The vote does not matter.
    """
    raise NotImplementedError("exercise 6.1, consistency_reward: not written yet")


def seeds_needed(sd, effect):
    """The fewest seeds, at least 2, whose 95 % t-interval of the mean reaches no further than `effect` to either side.

    sd: standard deviation over seeds, in the unit of effect. `stats.t_quantile(0.95, df)` is the point of Student's t.
    """
    raise NotImplementedError("exercise 6.2, seeds_needed: not written yet")


def permuted(p_N, pair_N, seed):
    """(N,) the same values, dealt out at random within each group, for each group on its own.

    p_N: (N,) values, which are not changed; pair_N: (N,) ids of the groups, in any order. The same seed deals alike.
    """
    raise NotImplementedError("exercise 6.3, permuted: not written yet")


def hierarchical_interval(d_SP, n_boot=2000, seed=0):
    """(low, high): 95 % interval of the mean of d_SP where both seeds and prompts are drawn anew.

    d_SP: (S, P) difference of two methods for each seed and prompt. In each of n_boot draws, S seeds and P prompts are
    drawn with replacement, the same prompts for all of the seeds; the ends are the 2.5 % and 97.5 % points.
    """
    raise NotImplementedError("exercise 6.4, hierarchical_interval: not written yet")


def credits_of_parts(parts_KG, weights_K, x_G):
    """(K,) the credit that each part of the reward gives to a property, within one group.

    parts_KG: (K, G) parts of the reward, weights_K: (K,) their weights; x_G: (G,) the property, NaN for a completion
    that does not have it. A part's share of the advantage is w (part - its mean) / (s + 1e-4), with s the standard
    deviation (G - 1) of the total reward, over the whole group. The credit is the mean of share times (x - mean x),
    both means over the completions that have the property (at least one has).
    """
    raise NotImplementedError("exercise 6.5, credits_of_parts: not written yet")
