"""Our formulas against TRL's own trainer, on the batch that it sampled and scored itself."""

import pytest
import torch
from tiny_runs import DEVICES, saved

from lrt import by_hand, models
from lrt.grpo import GRPOSettings, build_trainer
from lrt.pairs import tiny_pairs
from lrt.prompts import text_of
from lrt.rewards import advantages as package_advantages


def varied_reward(completions, **_):
    """Something that differs within a group, whatever a random model writes."""
    return [sum(map(ord, text_of(c))) % 17 / 17 for c in completions]


def long_reward(completions, **_):
    return [len(text_of(c)) / 100 for c in completions]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("by_hand") / "base")


def trainer_for(base, out, device="cpu", **changes):
    settings = GRPOSettings(
        **{"steps": 2, "pairs_per_step": 3, "num_generations": 4, "max_new_tokens": 24, "save_every": 2, **changes}
    )
    loaded = models.load(base, device, torch.float32, trainable=True)
    rewards = [varied_reward, long_reward]
    return build_trainer(loaded, tiny_pairs("train", 6), rewards, [1.0, 0.5], settings, out)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def assert_same_gradients(mine, theirs):
    assert mine.keys() == theirs.keys()
    largest = max(g.abs().max() for g in theirs.values())
    assert largest > 1e-4  # a comparison of zeros would say nothing
    assert [n for n in theirs if not torch.allclose(mine[n], theirs[n], rtol=1e-3, atol=1e-5 * largest)] == []


def assert_equal_to_trl(trainer, batch, rewards_BG, loss_type, temperature=1.0):
    """Loss, and its gradient by our own derivative, against TRL's. Gives back the ratios."""
    model, old = trainer.model, batch.get("old_per_token_logps")
    logp_NT = by_hand.log_probs(model, batch, temperature)
    old_NT = logp_NT.detach() if old is None else old
    advantages_N = by_hand.advantages(rewards_BG).flatten().to(logp_NT.device)
    assert close(advantages_N, batch["advantages"])
    weights_NT = by_hand.token_weights(batch["completion_mask"], loss_type)
    loss = by_hand.loss(logp_NT, old_NT, advantages_N, weights_NT)
    gradient_NT = by_hand.loss_gradient(logp_NT, old_NT, advantages_N, weights_NT)
    gradients = by_hand.weight_gradients(model, logp_NT, gradient_NT)
    trl_loss, trl_gradients = by_hand.trl_loss_and_gradients(trainer, batch)
    assert loss.item() == pytest.approx(trl_loss.item(), rel=1e-4, abs=1e-6)
    assert_same_gradients(gradients, trl_gradients)
    mask_NT = batch["completion_mask"].bool()
    return (logp_NT - old_NT).exp().detach()[mask_NT], by_hand.clipped_away(
        (logp_NT - old_NT).exp().detach(), advantages_N
    )[mask_NT]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_first_update_is_trls(base, tmp_path, loss_type, device):
    trainer = trainer_for(base, tmp_path, device, loss_type=loss_type)
    batch, rewards_BG = by_hand.capture_batch(trainer)
    assert "old_per_token_logps" not in batch and rewards_BG.shape == (3, 4)
    assert len({int(n) for n in batch["completion_mask"].sum(1)}) > 1  # lengths differ, so the loss types do
    ratio, _ = assert_equal_to_trl(trainer, batch, rewards_BG, loss_type)
    assert torch.equal(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_second_clipped_update_is_trls(base, tmp_path, loss_type, device):
    trainer = trainer_for(base, tmp_path, device, loss_type=loss_type, num_iterations=2)
    batch, rewards_BG = by_hand.capture_batch(trainer)
    assert close(by_hand.log_probs(trainer.model, batch), batch["old_per_token_logps"])
    _, gradients = by_hand.trl_loss_and_gradients(trainer, batch)
    with torch.no_grad():  # a step far too long, so that the clip has something to hold
        for name, p in trainer.model.named_parameters():
            p -= 1.0 * gradients[name]
    ratio, clipped = assert_equal_to_trl(trainer, batch, rewards_BG, loss_type)
    assert (ratio - 1).abs().max() > 0.2
    assert 0 < clipped.sum() < len(clipped)
    logged = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    assert logged == pytest.approx(clipped.float().mean().item(), abs=1e-6)


def test_temperature_is_in_the_log_probabilities(base, tmp_path):
    trainer = trainer_for(base, tmp_path, temperature=0.7)
    batch, rewards_BG = by_hand.capture_batch(trainer)
    assert_equal_to_trl(trainer, batch, rewards_BG, "dapo", temperature=0.7)


def test_our_derivative_is_autograds():
    torch.manual_seed(0)
    logp = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    old, A = logp.detach() + 0.3 * torch.randn(5, 6), torch.randn(5)
    weights = by_hand.token_weights((torch.rand(5, 6) < 0.8).double(), "grpo")
    loss = by_hand.loss(logp, old, A, weights)
    [auto] = torch.autograd.grad(loss, logp)
    assert torch.allclose(by_hand.loss_gradient(logp, old, A, weights), auto)
    clipped = by_hand.clipped_away((logp - old).exp(), A)
    assert 0 < clipped.sum() < clipped.numel() and (auto[clipped] == 0).all()


def test_advantages_are_the_packages_and_trls(base, tmp_path):
    trainer = trainer_for(base, tmp_path)
    batch, rewards_BG = by_hand.capture_batch(trainer)
    assert close(by_hand.advantages(rewards_BG), torch.tensor(package_advantages(rewards_BG.numpy())).float())
    assert close(by_hand.advantages(rewards_BG).flatten(), batch["advantages"])


def test_token_weights_share_out_one_loss():
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    assert torch.allclose(by_hand.token_weights(mask, "dapo"), mask / 4)
    assert torch.allclose(by_hand.token_weights(mask, "grpo"), torch.tensor([[1 / 6] * 3 + [0], [1 / 2, 0, 0, 0]]))
