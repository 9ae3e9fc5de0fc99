"""One GRPO step by hand, in the order of notebook 03, and TRL's own numbers to hold it against.

Shapes: B pairs, G completions a pair, N = B * G rows (the completions of a pair stand together), T tokens a completion.
"""

from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

SEEN = ("pixel_values", "image_grid_thw", "image_sizes", "mm_token_type_ids")  # what a model gets beside the tokens


def capture_batch(trainer: GRPOTrainer, seed: int = 0) -> tuple[dict[str, Any], Tensor]:
    """(batch, rewards_BG): what the trainer samples and scores for its first step, as it enters its loss.

    The batch has the trainer's own `advantages` too. It is for a trainer that makes one pass a step.
    """
    args = trainer.args
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    trainer.model.train()
    torch.manual_seed(seed)
    rows = next(iter(trainer.get_train_dataloader()))
    batch = trainer._generate_and_score_completions(rows)
    parts = torch.tensor([list(trainer._logs["rewards"][name]) for name in trainer.reward_func_names])
    rewards_N = (parts * trainer.reward_weights[:, None]).nansum(0)
    return batch, rewards_N.view(-1, args.num_generations)


def advantages(rewards_BG: Tensor) -> Tensor:
    """How much better a completion is than its siblings, in standard deviations (n - 1) of its group."""
    centred_BG = rewards_BG - rewards_BG.mean(1, keepdim=True)
    return centred_BG / (rewards_BG.std(1, keepdim=True) + 1e-4)


def log_probs(model: Any, batch: dict[str, Any], temperature: float = 1.0) -> Tensor:
    """(N, T) log-probability of each sampled token given everything before it; 0 where a completion has ended."""
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    seen = {name: batch[name] for name in SEEN if name in batch}
    logits = model(input_ids=tokens, attention_mask=mask, **seen).logits / temperature
    T = batch["completion_ids"].shape[1]
    before_NTV = logits[:, -T - 1 : -1]  # the logits at a place speak of the next token
    sampled_NT = before_NTV.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    return sampled_NT * batch["completion_mask"]


def token_weights(mask_NT: Tensor, loss_type: str = "dapo") -> Tensor:
    """(N, T) share of each token in the loss: all tokens alike ("dapo"), or all completions alike ("grpo")."""
    if loss_type == "dapo":
        return mask_NT / mask_NT.sum()
    return mask_NT / mask_NT.sum(1, keepdim=True) / len(mask_NT)


def loss(logp_NT: Tensor, old_logp_NT: Tensor, advantages_N: Tensor, weights_NT: Tensor, epsilon: float = 0.2):
    """- sum of weight * min(ratio * A, clip(ratio) * A): the clipped objective of PPO with GRPO's advantages."""
    ratio_NT = (logp_NT - old_logp_NT).exp()
    clipped_NT = ratio_NT.clamp(1 - epsilon, 1 + epsilon)
    A = advantages_N[:, None]
    return -(weights_NT * torch.minimum(ratio_NT * A, clipped_NT * A)).sum()


def clipped_away(ratio_NT: Tensor, advantages_N: Tensor, epsilon: float = 0.2) -> Tensor:
    """Tokens that moved far enough the way they should: their gradient is zero. The other way there is no limit."""
    A = advantages_N[:, None]
    return ((A > 0) & (ratio_NT > 1 + epsilon)) | ((A < 0) & (ratio_NT < 1 - epsilon))


def loss_gradient(logp_NT: Tensor, old_logp_NT: Tensor, advantages_N: Tensor, weights_NT: Tensor, epsilon: float = 0.2):
    """(N, T) d loss / d log-probability, without autograd: - weight * A * ratio, and 0 where the clip holds."""
    ratio_NT = (logp_NT - old_logp_NT).exp().detach()
    gradient_NT = -weights_NT * advantages_N[:, None] * ratio_NT
    return gradient_NT.masked_fill(clipped_away(ratio_NT, advantages_N, epsilon), 0.0)


def weight_gradients(model: Any, logp_NT: Tensor, gradient_NT: Tensor) -> dict[str, Tensor]:
    """The chain rule's other half: sum over tokens of (d loss / d logp) * (d logp / d weights), by weight."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(logp_NT, [p for _, p in named], grad_outputs=gradient_NT, retain_graph=True)
    return dict(zip([name for name, _ in named], found, strict=True))


def trl_loss_and_gradients(trainer: GRPOTrainer, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """TRL's own loss on the batch, and the gradient that it leaves on the weights."""
    trainer.model.train()
    trainer.model.zero_grad()
    value = trainer.compute_loss(trainer.model, batch)
    value.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.model.zero_grad()
    return value.detach(), gradients
