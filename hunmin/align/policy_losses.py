"""Policy-gradient methods as pure functions of log-probabilities, values and rewards.

Everything of tokens is ``(B, L)``: B completions of at most L tokens, with ``mask`` ``(B, L)`` 1 where there is one. Rewards and advantages of
whole completions are ``(B,)``. Nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hunmin.errors import InputError, say

Estimator = Literal["k1", "k2", "k3", "abs"]
Scale = Literal["group", "batch", "none"]
Aggregate = Literal["grpo", "dr_grpo", "dapo", "bnpo"]
TINY = 1e-4  # what a standard deviation is divided by besides itself, as in the reference


def grid(values: Sequence[Tensor]) -> Tensor:
    """Sequences ``(L_i, …)`` side by side, ``(B, L, …)``, with zeros after the shorter ones."""
    return pad_sequence(list(values), batch_first=True)


def mask_of(lengths: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """1.0 for every token of completions of these lengths, ``(B, L)``."""
    return (torch.arange(max(lengths, default=0)) < torch.tensor(lengths)[:, None]).to(device, torch.float32)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``x`` where ``mask`` is 1; 0 where it never is."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor, *, shift: bool = True) -> Tensor:
    """``x`` with variance 1 and, with ``shift``, mean 0 over the tokens of ``mask``; without it the mean stays. 0 elsewhere."""
    mean, count = masked_mean(x, mask), mask.sum()
    variance = ((x - mean).square() * mask).sum() / (count - 1).clamp(min=1)
    scaled = (x - mean) * (variance + 1e-8).rsqrt()
    return (scaled if shift else scaled + mean) * mask


# -------------------------------------------------------------- distance from the reference


def kl(logprobs: Tensor, reference: Tensor, estimator: Estimator = "k1") -> Tensor:
    """KL(policy, reference) estimated for each token from what the policy drew (Schulman 2020, "Approximating KL divergence").

    ``k1`` = log p/q has no bias and the highest variance; ``k2`` = (log p/q)² / 2 a low one of each; ``k3`` = q/p - 1 - log q/p no bias, a low
    variance, and is never negative; ``abs`` is the size of k1.
    """
    difference = logprobs - reference
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return torch.expm1(-difference) + difference
        case "abs":
            return difference.abs()


def token_rewards(scores: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """Minus the penalty of every token, and the score ``(B,)`` at the last one: ``(B, L)`` (Ziegler et al. 2019, equation 2)."""
    last = mask.sum(-1).long() - 1
    return (-penalties * mask).scatter_add(1, last[:, None], scores[:, None].to(penalties.dtype))


class AdaptiveKL:
    """A coefficient that grows while the KL of a completion is above ``target``, and falls below it (Ziegler et al. 2019, section 2.2)."""

    def __init__(self, value: float, target: float, horizon: float) -> None:
        self.value, self.target, self.horizon = value, target, horizon

    def update(self, measured: float, completions: int) -> None:
        """``measured``: mean KL in nats over ``completions``, which count towards the ``horizon``."""
        error = min(max(measured / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * completions / self.horizon


class FixedKL:
    """A coefficient that stays."""

    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, measured: float, completions: int) -> None:
        """Nothing."""


# -------------------------------------------------------------- advantages


class Advantages(NamedTuple):
    """``advantages`` and the ``returns`` that values learn, ``(B, L)``."""

    advantages: Tensor
    returns: Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Advantages:
    """Generalized advantage estimation (Schulman et al. 2016, equation 16): A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} - V_t.

    All ``(B, L)``. After the last token of a completion nothing follows: its V is 0 there.
    """
    rewards, values = rewards * mask, values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    delta = rewards + gamma * following - values
    found, later = list[Tensor](), torch.zeros_like(delta[:, 0])
    for step in reversed(range(delta.shape[1])):
        later = delta[:, step] + gamma * lam * later
        found.append(later)
    advantages = torch.stack(found[::-1], 1)
    return Advantages(advantages, (advantages + values) * mask)


def rloo_advantages(rewards: Tensor, group: int) -> Tensor:
    """Each reward ``(B,)`` less the mean of the others of its ``group`` of completions (Ahmadian et al. 2024, equation 6).

    A reward of NaN is of a completion that nobody scored: it counts for nobody, and its advantage is 0.
    """
    grouped = _grouped(rewards, group)
    known = grouped.isfinite()
    others = known.sum(1, keepdim=True) - 1
    baseline = (grouped.nansum(1, keepdim=True) - grouped) / others
    advantages = (grouped - baseline).masked_fill(others < 1, 0.0)
    return advantages.nan_to_num(nan=0.0).flatten()


def group_advantages(rewards: Tensor, group: int, scale: Scale = "group") -> Tensor:
    """Each reward ``(B,)`` against the others of its ``group`` of completions.

    ``group``: divided by the group's standard deviation (Shao et al. 2024, section 4.1.2); ``batch``: by that of all rewards; ``none``: not at
    all, so that easy and hard prompts weigh the same (Liu et al. 2025, "Dr. GRPO", section 3.2). NaN counts for nobody, with advantage 0.
    """
    grouped = _grouped(rewards, group)
    centered = grouped - grouped.nanmean(1, keepdim=True)
    if scale == "group":
        centered = centered / (deviation(grouped, 1) + TINY)
    elif scale == "batch":
        centered = centered / (deviation(grouped.flatten(), 0) + TINY)
    return centered.nan_to_num(nan=0.0).flatten()


def deviation(x: Tensor, dim: int) -> Tensor:
    """Standard deviation of a sample along ``dim``, which stays; NaN is left out, and of fewer than two numbers it is 0."""
    known = x.isfinite().sum(dim, keepdim=True)
    squares = (x - x.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (known - 1).clamp(min=1)).sqrt().masked_fill(known < 2, 0.0)


def _grouped(rewards: Tensor, group: int) -> Tensor:
    if group < 2 or len(rewards) % group:
        raise InputError(
            say(
                f"{len(rewards)} rewards are no groups of {group}: a group is of two or more completions of one prompt.",
                f"보상 {len(rewards)}개를 {group}개씩 묶을 수 없습니다. 한 프롬프트의 완성 둘 이상이 한 묶음입니다.",
            )
        )
    return rewards.view(-1, group)


# -------------------------------------------------------------- losses


class Clipped(NamedTuple):
    """``loss`` of each token and whether the clip decided it, both ``(B, L)``; or of each sequence, ``(B, 1)``."""

    loss: Tensor
    clipped: Tensor


def ratios(logprobs: Tensor, old: Tensor, mask: Tensor, level: Literal["token", "sequence"] = "token") -> Tensor:
    """p / p_old of each token ``(B, L)``; or their geometric mean over each sequence, ``(B, 1)`` (Zheng et al. 2025, "GSPO", equation 7)."""
    difference = logprobs - old
    if level == "sequence":
        difference = (difference * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return difference.exp()


def clipped_policy(ratio: Tensor, advantages: Tensor, low: float, high: float | None = None, ceiling: float | None = None) -> Clipped:
    """-min(ρ A, clip(ρ, 1 - low, 1 + high) A) (Schulman et al. 2017, equation 7); ``high`` above ``low`` is DAPO's clip-higher.

    ``ceiling`` bounds the ratio of tokens with negative advantage, which nothing else bounds (Ye et al. 2020, dual-clip).
    """
    bounded = ratio.clamp(1 - low, 1 + (low if high is None else high))
    free = ratio if ceiling is None else ratio.clamp(max=ceiling)
    loss, other = -free * advantages, -bounded * advantages
    return Clipped(torch.maximum(loss, other), other > loss)


def clipped_value(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Clipped:
    """Half the squared error of ``values``, or of what they are within ``clip`` of the ``old`` ones where that is larger.

    (Schulman et al. 2017 as published code has it: Huang et al. 2022, "The 37 implementation details of PPO", detail 9.)
    """
    near = old + (values - old).clamp(-clip, clip)
    free, bounded = (values - returns).square(), (near - returns).square()
    return Clipped(torch.maximum(free, bounded) / 2, bounded > free)


def aggregate(losses: Tensor, mask: Tensor, kind: Aggregate, longest: int) -> Tensor:
    """One loss from losses of tokens ``(B, L)``, or of sequences ``(B, 1)``.

    ``grpo``: the mean over sequences of their means (long answers count no more than short ones); ``dapo`` and ``bnpo``: the mean over tokens
    (of all batches of a step, or of each); ``dr_grpo``: the sum by B times ``longest``, a constant (Liu et al. 2025, section 3.2).
    """
    masked = losses * mask
    match kind:
        case "grpo":
            return (masked.sum(-1) / mask.sum(-1).clamp(min=1)).mean()
        case "dr_grpo":
            return masked.sum() / (len(mask) * longest)
        case "dapo" | "bnpo":
            return masked.sum() / mask.sum().clamp(min=1)
