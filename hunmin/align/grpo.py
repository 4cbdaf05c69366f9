"""Learning from groups of completions: each is compared with the others of its prompt, so no critic is needed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hunmin.align import policy_losses as losses
from hunmin.align.logprobs import score
from hunmin.align.online import Gathered, OnlineTrainer, measured
from hunmin.align.online_config import GRPOConfig, OnlineConfig, RLOOConfig
from hunmin.align.rewards import Worth
from hunmin.align.rollout import Rollout


class GroupTrainer(OnlineTrainer):
    """What the two share: scores of a batch, and completions without an end that do not count."""

    args: Any  # of this trainer

    def scored(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L)`` under the policy as it learns, and their mask; notes entropy and distance."""
        scored = score(model, inputs, temperature=self.args.temperature, entropy=True)
        logprobs, mask = self.grids(scored)
        assert scored.entropy is not None
        entropy = float(scored.entropy.mean()) if len(scored.entropy) else 0.0
        self.note(entropy=entropy)
        self.watch(entropy=entropy)
        if "reference" in inputs:
            measured = ~inputs["reference"][:, 0].isnan()
            if bool(measured.any()):
                apart = (logprobs.detach() - inputs["reference"][:, : logprobs.shape[1]]).nan_to_num() * mask
                self.watch(kl=float(apart[measured].sum(-1).mean()))
        return logprobs, mask

    def clipped(self, ratio: Tensor, advantages: Tensor, mask: Tensor) -> None:
        """Note how many ratios lie outside of the clip where it matters, for tokens ``(B, L)`` or sequences ``(B, 1)``."""
        high = self.args.epsilon if self.args.epsilon_high is None else self.args.epsilon_high
        weight = mask if ratio.shape[1] == mask.shape[1] else torch.ones_like(ratio)
        below = losses.masked_mean(((ratio < 1 - self.args.epsilon) & (advantages < 0)).float(), weight)
        above = losses.masked_mean(((ratio > 1 + high) & (advantages > 0)).float(), weight)
        self.note(clip_ratio__low_mean=float(below), clip_ratio__high_mean=float(above), clip_ratio__region_mean=float(below + above))

    def groups(self, total: Tensor) -> None:
        """Note how many prompts teach nothing, as all their completions got the same reward."""
        apart = losses.deviation(total.view(-1, self.args.num_generations), 1)
        self.note(frac_reward_zero_std=float((apart < 1e-8).float().mean()))


class GRPOTrainer(GroupTrainer):
    """Group relative policy optimization (Shao et al. 2024, "DeepSeekMath", section 4.1), with Dr. GRPO and DAPO.

    The advantage of a completion is its reward less the group's mean, by the group's standard deviation; ``beta`` weighs the KL to the
    reference (k3) in the loss. Everything else is said in :class:`GRPOConfig` and :class:`OnlineTrainer`.
    """

    configuration: ClassVar[type[OnlineConfig]] = GRPOConfig

    @property
    def by_tokens(self) -> bool:
        return self.args.loss_type == "dapo"  # the mean over all tokens of a step; the others are means over completions

    def learn_from(self, rollout: Rollout, worth: Worth) -> Gathered:
        self.groups(worth.total)
        device = self.args.device
        advantages = losses.group_advantages(worth.total, self.args.num_generations, self.args.scale_rewards)
        values = {"advantages": advantages.to(device)}
        if not self.args.on_policy:
            values["old"] = self.policy_logprobs(rollout)[0]
        if self.reference is not None:
            among = None if self.args.beta else measured(len(rollout))
            values["reference"] = self.reference_logprobs(rollout, among)
        if self.args.mask_truncated_completions:
            values["counted"] = torch.tensor(rollout.ended, device=device)
        return Gathered(rollout, values)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        """The loss of a batch of completions, with their ``advantages`` ``(B,)`` and perhaps ``old`` and ``reference`` log-probabilities."""
        args = self.args
        logprobs, mask = self.scored(model, inputs)
        width, advantages = logprobs.shape[1], inputs["advantages"][:, None]
        old = inputs["old"][:, :width] if "old" in inputs else logprobs.detach()
        if "counted" in inputs:
            mask = mask * inputs["counted"][:, None]
        ratio = losses.ratios(logprobs, old, mask, args.importance_sampling_level)
        loss = losses.clipped_policy(ratio, advantages, args.epsilon, args.epsilon_high, args.delta).loss
        self.clipped(ratio.detach(), advantages, mask)
        if args.beta:
            apart = losses.kl(logprobs, inputs["reference"][:, :width], "k3")
            self.note(kl=float(losses.masked_mean(apart.detach(), mask)))
            loss = loss + args.beta * (apart * ratio if args.use_bias_correction_kl else apart)
        found = losses.aggregate(loss, mask, args.loss_type, args.max_completion_length)
        return (found, {"loss": found}) if return_outputs else found


class RLOOTrainer(GroupTrainer):
    """REINFORCE with the mean of a prompt's other completions as baseline (Ahmadian et al. 2024, "Back to basics", section 3.2).

    A whole completion is one action; ``beta`` times its KL to the reference is taken off its reward.
    """

    configuration: ClassVar[type[OnlineConfig]] = RLOOConfig

    @property
    def by_tokens(self) -> bool:
        return False

    def learn_from(self, rollout: Rollout, worth: Worth) -> Gathered:
        args, device = self.args, self.args.device
        self.groups(worth.total)
        old, _ = self.policy_logprobs(rollout)
        mask, rewards = losses.mask_of(rollout.lengths, device), worth.total.to(device)
        if args.reward_clip_range is not None:
            rewards = rewards.clamp(*args.reward_clip_range)
        values = {"old": (old * mask).sum(-1)}
        if self.reference is not None:
            reference = self.reference_logprobs(rollout)
            apart = (old - reference) * mask
            self.note(kl=float(losses.masked_mean(apart, mask)))
            rewards, values["reference"] = rewards - args.beta * apart.sum(-1), reference
        advantages = losses.rloo_advantages(rewards, args.num_generations)
        if args.normalize_advantages:
            known = ~rewards.isnan()
            spread = losses.deviation(advantages[known], 0) + losses.TINY
            advantages = ((advantages - advantages[known].mean()) / spread).masked_fill(~known, 0.0)
        if args.mask_truncated_completions:
            advantages = advantages * torch.tensor(rollout.ended, device=device)
        return Gathered(rollout, values | {"advantages": advantages})

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        """The mean over completions of the clipped objective; ``old`` and ``advantages`` are ``(B,)``."""
        logprobs, mask = self.scored(model, inputs)
        ratio = ((logprobs * mask).sum(-1) - inputs["old"]).exp()
        loss = losses.clipped_policy(ratio, inputs["advantages"], self.args.epsilon, self.args.epsilon_high).loss.mean()
        self.clipped(ratio.detach()[:, None], inputs["advantages"][:, None], mask)
        return (loss, {"loss": loss}) if return_outputs else loss
