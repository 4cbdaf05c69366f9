"""Policy-gradient losses against their definitions, written down a second time in another way."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hunmin.align import policy_losses as losses
from hunmin.errors import InputError

LENGTHS = [5, 1, 3]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_gae_is_the_discounted_sum_of_temporal_differences(gamma: float, lam: float) -> None:
    rewards, values, mask = draw(0, 3, 5), draw(1, 3, 5), losses.mask_of(LENGTHS)
    found = losses.gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            total = 0.0
            for k in range(length - t):
                following = float(values[row, t + k + 1]) if t + k + 1 < length else 0.0
                delta = float(rewards[row, t + k]) + gamma * following - float(values[row, t + k])
                total += (gamma * lam) ** k * delta
            assert math.isclose(float(found.advantages[row, t]), total, rel_tol=1e-5, abs_tol=1e-6)
            assert math.isclose(float(found.returns[row, t]), total + float(values[row, t]), rel_tol=1e-5, abs_tol=1e-6)
    assert float((found.returns * (1 - mask)).abs().sum()) == 0


def test_gae_with_lambda_one_is_the_return_less_the_value() -> None:
    rewards, values, mask = draw(0, 3, 5), draw(1, 3, 5), losses.mask_of(LENGTHS)
    found = losses.gae(rewards, values, mask, 1.0, 1.0)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(found.returns, to_go * mask)


def test_whitened_values_have_mean_zero_and_variance_one_over_the_mask() -> None:
    x, mask = 3 + 2 * draw(0, 3, 5), losses.mask_of(LENGTHS)
    for shift in (True, False):
        seen = losses.whiten(x, mask, shift=shift)[mask > 0]
        assert float(seen.std()) == pytest.approx(1, abs=1e-4)
        assert float(seen.mean()) == pytest.approx(0 if shift else float(x[mask > 0].mean()), abs=1e-5)


def test_kl_estimators_agree_with_the_divergence_in_the_mean() -> None:
    policy, reference = (draw(i, 6).log_softmax(-1) for i in (0, 1))
    p = policy.exp()
    exact = float((p * (policy - reference)).sum())
    assert float((p * losses.kl(policy, reference, "k1")).sum()) == pytest.approx(exact, rel=1e-5)
    assert float((p * losses.kl(policy, reference, "k3")).sum()) == pytest.approx(exact, rel=1e-5)
    assert bool((losses.kl(policy, reference, "k3") >= 0).all())
    close = policy + 1e-3 * draw(2, 6)
    torch.testing.assert_close(losses.kl(policy, close, "k2"), losses.kl(policy, close, "k3"), rtol=1e-2, atol=1e-9)
    torch.testing.assert_close(losses.kl(policy, reference, "abs"), (policy - reference).abs())


def test_the_score_stands_at_the_last_token() -> None:
    found = losses.token_rewards(torch.tensor([10.0, 20.0]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), losses.mask_of([3, 2]))
    assert found.tolist() == [[-1, -2, 7], [-4, 15, 0]]


def test_the_adaptive_coefficient_moves_towards_its_target() -> None:
    control = losses.AdaptiveKL(0.2, target=6.0, horizon=1000)
    control.update(12.0, 100)  # the error is cut at 0.2
    assert control.value == pytest.approx(0.2 * (1 + 0.2 * 0.1))
    control.update(0.0, 100)
    assert control.value == pytest.approx(0.2 * 1.02 * 0.98)
    control.update(6.3, 100)
    assert control.value == pytest.approx(0.2 * 1.02 * 0.98 * (1 + 0.05 * 0.1))
    fixed = losses.FixedKL(0.3)
    fixed.update(99.0, 100)
    assert fixed.value == 0.3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6))
def test_leaving_one_out_is_the_mean_of_the_others(values: list[float]) -> None:
    found = losses.rloo_advantages(torch.tensor(values), 3).tolist()
    for i, value in enumerate(values):
        others = [values[j] for j in range(i // 3 * 3, i // 3 * 3 + 3) if j != i]
        assert found[i] == pytest.approx(value - sum(others) / 2, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5, width=32), min_size=8, max_size=8))
def test_advantages_of_a_group_sum_to_zero(values: list[float]) -> None:
    for scale in ("group", "batch", "none"):
        found = losses.group_advantages(torch.tensor(values), 4, scale)  # type: ignore[arg-type]
        assert found.view(2, 4).sum(1).tolist() == pytest.approx([0, 0], abs=1e-2)


def test_group_advantages_divide_by_the_deviation_that_was_asked_for() -> None:
    rewards = torch.tensor([1.0, 3.0, 10.0, 20.0])
    centered = torch.tensor([-1.0, 1.0, -5.0, 5.0])
    apart = torch.tensor([rewards[:2].std(), rewards[:2].std(), rewards[2:].std(), rewards[2:].std()])
    torch.testing.assert_close(losses.group_advantages(rewards, 2, "none"), centered)
    torch.testing.assert_close(losses.group_advantages(rewards, 2, "group"), centered / (apart + 1e-4))
    torch.testing.assert_close(losses.group_advantages(rewards, 2, "batch"), centered / (rewards.std() + 1e-4))


def test_what_nobody_scored_counts_for_nobody() -> None:
    rewards = torch.tensor([1.0, math.nan, 3.0, math.nan, math.nan, 7.0])
    assert losses.group_advantages(rewards, 3, "none").tolist() == [-1, 0, 1, 0, 0, 0]
    assert losses.rloo_advantages(rewards, 3).tolist() == [-2, 0, 2, 0, 0, 0]


def test_groups_have_to_fill() -> None:
    for group in (1, 4):
        with pytest.raises(InputError, match="groups"):
            losses.group_advantages(torch.zeros(6), group)


@pytest.mark.parametrize(("advantage", "ratio", "alive"), [(1, 1.1, True), (1, 1.3, False), (1, 0.5, True), (-1, 0.9, True), (-1, 0.7, False), (-1, 1.5, True)])  # fmt: skip
def test_the_clip_stops_gradients_that_would_go_further(advantage: float, ratio: float, alive: bool) -> None:
    """A toy policy of one number: its gradient is that of the unclipped objective, or none (Schulman et al. 2017, figure 1)."""
    logprob = torch.tensor(math.log(ratio), requires_grad=True)
    found = losses.clipped_policy(logprob.exp(), torch.tensor(float(advantage)), 0.2)
    found.loss.backward()
    assert logprob.grad is not None
    assert float(logprob.grad) == pytest.approx(-advantage * ratio if alive else 0.0)
    assert bool(found.clipped) is not alive


def test_at_the_old_policy_the_gradient_is_that_of_the_policy_gradient_theorem() -> None:
    """E[-A d log p] of a softmax over three actions, summed over all actions by hand."""
    logits = draw(0, 3).requires_grad_()
    rewards, p = torch.tensor([1.0, -2.0, 0.5]), logits.detach().softmax(-1)
    advantages = rewards - (p * rewards).sum()
    logprobs = logits.log_softmax(-1)
    loss = (p * losses.clipped_policy((logprobs - logprobs.detach()).exp(), advantages, 0.2).loss).sum()
    (found,) = torch.autograd.grad(loss, logits)
    by_hand = [-sum(float(p[a] * advantages[a]) * ((a == j) - float(p[j])) for a in range(3)) for j in range(3)]
    torch.testing.assert_close(found, torch.tensor(by_hand))


def test_a_higher_clip_lets_good_tokens_go_further_and_a_ceiling_holds_bad_ones() -> None:
    ratio, good, bad = torch.tensor(1.25), torch.tensor(1.0), torch.tensor(-1.0)
    assert float(losses.clipped_policy(ratio, good, 0.2, 0.28).loss) == pytest.approx(-1.25)
    assert float(losses.clipped_policy(ratio, good, 0.2).loss) == pytest.approx(-1.2)
    assert float(losses.clipped_policy(torch.tensor(9.0), bad, 0.2, ceiling=4.0).loss) == pytest.approx(4.0)


def test_sequence_ratios_are_geometric_means() -> None:
    logprobs, old, mask = draw(0, 2, 3), draw(1, 2, 3), losses.mask_of([3, 2])
    found = losses.ratios(logprobs, old, mask, "sequence")
    for row, length in enumerate((3, 2)):
        product_ = math.prod(float((logprobs - old)[row, t].exp()) for t in range(length))
        assert float(found[row, 0]) == pytest.approx(product_ ** (1 / length), rel=1e-5)


@pytest.mark.parametrize(("value", "old", "goal"), list(product((0.0, 0.6), (0.0, 0.5), (-1.0, 1.0))))
def test_the_value_loss_is_the_larger_of_two(value: float, old: float, goal: float) -> None:
    found = losses.clipped_value(torch.tensor(value), torch.tensor(old), torch.tensor(goal), 0.2)
    near = min(max(value, old - 0.2), old + 0.2)
    assert float(found.loss) == pytest.approx(0.5 * max((value - goal) ** 2, (near - goal) ** 2), abs=1e-6)


def test_aggregates_by_hand() -> None:
    values, mask = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]]), losses.mask_of([3, 1])
    assert float(losses.aggregate(values, mask, "grpo", 8)) == pytest.approx((2 + 10) / 2)
    assert float(losses.aggregate(values, mask, "dapo", 8)) == pytest.approx(16 / 4)
    assert float(losses.aggregate(values, mask, "bnpo", 8)) == pytest.approx(16 / 4)
    assert float(losses.aggregate(values, mask, "dr_grpo", 8)) == pytest.approx(16 / 16)
    per_sequence = torch.tensor([[1.0], [3.0]])
    assert float(losses.aggregate(per_sequence, mask, "grpo", 8)) == pytest.approx(2)
