"""Proximal policy optimization of a language model (Ziegler et al. 2019; Schulman et al. 2017; Ouyang et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hunmin.align import policy_losses as losses
from hunmin.align.logprobs import pack
from hunmin.align.online import Gathered, OnlineTrainer
from hunmin.align.online_config import OnlineConfig, PPOConfig
from hunmin.align.ppo_steps import Stepwise
from hunmin.align.rewards import Worth
from hunmin.align.rollout import Rollout, on, parts
from hunmin.align.value import ActorCritic, detached, with_values
from hunmin.errors import logger, say
from hunmin.train import parallel
from hunmin.train.data import Batch

KEPT = "ppo"  # coefficient and moments of scores, in ``state.callbacks`` and so in checkpoints


class PPOTrainer(Stepwise, OnlineTrainer):
    """PPO against the reward of whole completions and the KL of every token to the reference.

    The reward of a token is minus ``kl_coef`` times its log-ratio to the reference, that of the last one has the score added. Advantages are
    GAE, whitened; policy and values are learned in one loss, both clipped.

    Args:
        args: a :class:`PPOConfig`; ``config`` is its older name.
        model: the policy; with a value head of its own (:class:`AutoModelForCausalLMWithValueHead`) or without. ``policy`` is an older name.
        value_model: a separate critic: a causal classification model with one label. Without it a value head is put on the policy.
        reward_model: a classification model with one label; ``reward_funcs`` are functions beside it or in its place.
        ref_model: see :class:`OnlineTrainer`; ``ref_policy`` is an older name.

    Both taught ways work: ``PPOTrainer(args=…, processing_class=…, model=…, …).train()``, and as before TRL 0.12
    ``PPOTrainer(config, model, ref_model, tokenizer, dataset)`` with ``generate`` and ``step`` in a loop of one's own.
    """

    configuration: ClassVar[type[OnlineConfig]] = PPOConfig
    settings: PPOConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        args: PPOConfig | None = None,
        processing_class: Any = None,
        model: Any = None,
        ref_model: Any = None,
        reward_model: Any = None,
        train_dataset: Any = None,
        value_model: Any = None,
        data_collator: Any = None,
        eval_dataset: Any = None,
        optimizers: tuple[Any, Any] = (None, None),
        callbacks: list[Any] | None = None,
        peft_config: Any = None,
        *,
        reward_funcs: Any = None,
        **older: Any,
    ) -> None:
        if isinstance(processing_class, nn.Module):  # the order of before: config, model, ref_model, tokenizer, dataset
            older = {"dataset": reward_model, "tokenizer": ref_model} | older
            processing_class, model, ref_model, reward_model = None, processing_class, model, None
        settings: PPOConfig = older.pop("config", None) or args or PPOConfig()
        model = model if model is not None else older.pop("policy", None)
        ref_model = ref_model if ref_model is not None else older.pop("ref_policy", None)
        train_dataset = train_dataset if train_dataset is not None else older.pop("dataset", None)
        optimizers = (older.pop("optimizer", None) or optimizers[0], older.pop("lr_scheduler", None) or optimizers[1])
        for name in ("dataset", "num_shared_layers", "training_data_collator"):
            older.pop(name, None)
        listed = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        listed = [r for r in (*(reward_model if isinstance(reward_model, list | tuple) else [reward_model]), *listed) if r is not None]
        self.value_model, self.loop_collator = value_model, data_collator
        own = getattr(ref_model, "pretrained_model", ref_model)
        super().__init__(
            model,
            listed or None,
            settings,
            train_dataset,
            eval_dataset,
            processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
            ref_model=own,
            **older,
        )
        control = (
            losses.AdaptiveKL(settings.kl_coef, settings.target, settings.horizon)
            if settings.adap_kl_ctrl
            else losses.FixedKL(settings.kl_coef)
        )
        self.kl_control: losses.AdaptiveKL | losses.FixedKL = control
        self._far = False

    def wrapped(self, model: Any) -> ActorCritic:
        return with_values(model, self.value_model)

    @property
    def policy(self) -> Any:
        return self.model.pretrained_model

    # -------------------------------------------------------------- rollouts

    def get_train_dataloader(self) -> Any:
        data, args = super().get_train_dataloader(), self.settings
        if args.total_episodes is not None and args.max_steps <= 0:
            assert args.batch_size is not None
            args.max_steps = -(-args.total_episodes // args.batch_size) * args.num_ppo_epochs * args.num_mini_batches
        return data

    def learn_from(self, rollout: Rollout, worth: Worth) -> Gathered:
        """Log-probabilities and values as they were, advantages and returns, all ``(B, L)``."""
        args, held = self.settings, self.state.callbacks.setdefault(KEPT, {})
        self.kl_control.value = held.get("kl_coef", args.kl_coef)
        logprobs, entropy, values = self._estimates(rollout)
        mask = losses.mask_of(rollout.lengths, logprobs.device)
        scores = self._scores(rollout, worth.total.to(logprobs.device), held)
        reference = self.reference_logprobs(rollout) if self.reference is not None else logprobs
        penalties = self.kl_control.value * losses.kl(logprobs, reference, args.kl_estimator)  # type: ignore[arg-type]
        rewards = losses.token_rewards(scores, penalties, mask)
        whole = losses.whiten(rewards, mask, shift=False) if args.whiten_rewards else rewards
        advantages, returns = losses.gae(whole, values, mask, args.gamma, args.lam)
        apart = float(((logprobs - reference) * mask).sum(-1).mean())
        extra = -float((penalties * mask).sum(-1).mean())
        self.note(
            objective__kl=apart,
            objective__kl_coef=self.kl_control.value,
            objective__entropy=-float((logprobs * mask).sum(-1).mean()),
            objective__non_score_reward=extra,
            objective__scores=float(scores.mean()),
            objective__rlhf_reward=float(scores.mean()) + extra,
            val__num_eos_tokens=float(sum(rollout.ended)),
        )
        self.watch(kl=apart, entropy=float(losses.masked_mean(entropy, mask)))
        self.seen = {"logprobs": logprobs, "reference": reference, "rewards": rewards, "mask": mask, "scores": scores, "returns": returns}
        self.seen |= {"values": values, "penalties": penalties}
        self.kl_control.update(
            parallel.total(apart, self.args) / parallel.data_world(self.args), len(rollout) * parallel.data_world(self.args)
        )
        held["kl_coef"] = self.kl_control.value
        return Gathered(rollout, {"old": logprobs, "values": values, "returns": returns, "advantages": losses.whiten(advantages, mask)})

    @torch.no_grad()
    def _estimates(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values of all completions, ``(B, L)``, without dropout."""
        found: tuple[list[Tensor], ...] = ([], [], [])
        learning = self.model.training
        self.model.eval()
        try:
            for part in parts(len(rollout), self.scored_together):
                batch = on(pack(rollout.labelled(part), self.policy), self.args.device)
                with self.autocast():
                    valued = self.model.evaluate(batch, temperature=self.settings.temperature, entropy=True)
                for kept, new in zip(found, detached(valued), strict=True):
                    kept += new
        finally:
            self.model.train(learning)
        logprobs, entropy, values = (losses.grid(each) for each in found)
        return logprobs, entropy, values

    def _scores(self, rollout: Rollout, scores: Tensor, held: dict[str, Any]) -> Tensor:
        """Scores ``(B,)`` as they are learned from. One that nobody gave is the mean of the others."""
        args = self.settings
        scores = torch.where(scores.isnan(), scores.nanmean().nan_to_num(), scores)
        if args.missing_eos_penalty is not None:
            scores = scores - args.missing_eos_penalty * ~torch.tensor(rollout.ended, device=scores.device)
        if args.use_score_scaling:
            count, mean, squares = held.get("scores", (0, 0.0, 0.0))
            for value in scores.tolist():  # Welford's running variance
                count, step = count + 1, value - mean
                mean += step / count
                squares += step * (value - mean)
            held["scores"] = [count, mean, squares]
            spread = (squares / max(1, count - 1)) ** 0.5 + 1e-8
            scores = (scores - mean if args.use_score_norm else scores) / spread
        return scores.clamp(-args.score_clip, args.score_clip) if args.score_clip is not None else scores

    def batches_of(self, data: Gathered, seed: int) -> Iterator[Batch]:
        """As always; with ``early_stopping`` no more once the policy has moved half again as far as ``target_kl``."""
        self._far = False
        for batch in super().batches_of(data, seed):
            if self._far:
                return
            yield batch

    # -------------------------------------------------------------- loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        """Clipped policy loss plus ``vf_coef`` times clipped value loss, means over the batch's tokens."""
        args = self.settings
        valued = model(valued=inputs, temperature=args.temperature, entropy=True)
        logprobs, mask = self.grids(valued.scored)
        values = losses.grid(valued.scored.split(valued.values))
        ratio = losses.ratios(logprobs, inputs["old"], mask)
        policy = losses.clipped_policy(ratio, inputs["advantages"], args.cliprange)
        value = losses.clipped_value(values, inputs["values"], inputs["returns"], args.cliprange_value)
        first, second = losses.masked_mean(policy.loss, mask), losses.masked_mean(value.loss, mask)
        loss = first + args.vf_coef * second
        self._noted_of(
            inputs, logprobs.detach(), ratio.detach(), mask, {"policy": policy, "value": value, "entropy": valued.scored.entropy}
        )
        if (mean := float(losses.masked_mean(ratio.detach(), mask))) > args.ratio_threshold:
            logger.warning(
                say(
                    f"The policy's mean ratio to that of the rollout is {mean:.3g}, above ratio_threshold: this batch is skipped.",
                    f"롤아웃 때 정책과의 평균 비율이 {mean:.3g}로 ratio_threshold를 넘어 이 배치를 건너뜁니다.",
                )
            )
            loss = loss * 0.0
        return (loss, {"loss": loss}) if return_outputs else loss

    def _noted_of(self, inputs: Mapping[str, Any], logprobs: Tensor, ratio: Tensor, mask: Tensor, parts_: Mapping[str, Any]) -> None:
        """What a batch says about how far the policy has gone."""
        moved = logprobs - inputs["old"]
        mean = losses.masked_mean(ratio, mask)
        if self.settings.early_stopping and float(losses.masked_mean(-moved, mask)) > 1.5 * self.settings.target_kl:
            self._far = True
        policy, value = parts_["policy"], parts_["value"]
        self.note(
            loss__policy_avg=float(losses.masked_mean(policy.loss.detach(), mask)),
            loss__value_avg=float(losses.masked_mean(value.loss.detach(), mask)),
            policy__approxkl_avg=0.5 * float(losses.masked_mean(moved.square(), mask)),
            policy__clipfrac_avg=float(losses.masked_mean(policy.clipped.float(), mask)),
            policy__entropy_avg=float(parts_["entropy"].mean()),
            val__clipfrac_avg=float(losses.masked_mean(value.clipped.float(), mask)),
            val__ratio=float(mean),
            val__ratio_var=float(losses.masked_mean((ratio - mean).square(), mask)),
        )

    # -------------------------------------------------------------- files

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """The policy in a folder that ``from_pretrained`` reads, and its critic beside it."""
        joint, folder = self.model, Path(output_dir if output_dir is not None else self.args.output_dir)
        self.model = joint.pretrained_model
        try:
            super().save_model(folder, _internal_call)
        finally:
            self.model = joint
        if self.is_world_process_zero():
            joint.save_critic(folder)
