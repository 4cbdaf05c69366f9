"""Rejection sampling: draw, score, keep the best, learn them, and again (Touvron et al. 2023, "Llama 2", section 3.2.3)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hunmin.align import policy_losses as losses
from hunmin.align.logprobs import score
from hunmin.align.online import Gathered, OnlineTrainer, measured
from hunmin.align.online_config import OnlineConfig, RejectionConfig
from hunmin.align.rewards import Worth
from hunmin.align.rollout import Rollout


class RejectionSamplingTrainer(OnlineTrainer):
    """Supervised fine-tuning on the best of the policy's own completions, which it draws anew for every rollout.

    Of each prompt's ``num_generations`` completions the best ``keep`` are learned, ``num_iterations`` times; their loss is the mean negative
    log-probability of their tokens. Completions below ``min_reward`` are never learned. The arguments are those of :class:`OnlineTrainer`.
    """

    configuration: ClassVar[type[OnlineConfig]] = RejectionConfig
    settings: RejectionConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def learn_from(self, rollout: Rollout, worth: Worth) -> Gathered:
        how, total = self.settings, worth.total.nan_to_num(nan=-torch.inf)
        best = total.view(-1, how.num_generations).topk(how.keep, 1).indices
        chosen = (best + torch.arange(len(best))[:, None] * how.num_generations).flatten().tolist()
        kept = rollout.among(chosen)
        scores = total[chosen]
        wanted = scores.isfinite() if how.min_reward is None else scores >= how.min_reward
        known = scores[scores.isfinite()]
        self.note(kept__reward=float(known.mean()) if len(known) else 0.0, kept__share=float(wanted.sum()) / len(rollout))
        values = {"counted": wanted.to(self.args.device)}
        if self.reference is not None:
            self._distance(rollout)
        return Gathered(kept, values)

    def _distance(self, rollout: Rollout) -> None:
        """Tell the monitor how far some completions, the bad ones too, are from the reference."""
        some = rollout.among(measured(len(rollout)))
        logprobs, entropy = self.policy_logprobs(some)
        mask = losses.mask_of(some.lengths, logprobs.device)
        apart = ((logprobs - self.reference_logprobs(some)) * mask).sum(-1)
        self.note(kl=float(apart.mean()), entropy=float(losses.masked_mean(entropy, mask)))
        self.watch(kl=float(apart.mean()), entropy=float(losses.masked_mean(entropy, mask)))

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        """The mean negative log-probability of the tokens of completions that are ``counted`` ``(B,)``."""
        logprobs, mask = self.grids(score(model, inputs))
        loss = -losses.masked_mean(logprobs, mask * inputs["counted"][:, None])
        return (loss, {"loss": loss}) if return_outputs else loss
