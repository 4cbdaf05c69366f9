"""What all methods share that learn from completions of their own: prompts -> completions -> rewards -> batches that the Trainer steps on.

A rollout is made when its first batch is asked for, and so by the weights of that moment. Everything random in it follows from the seed, the
epoch and the number of the rollout: a run that goes on draws what the uninterrupted run would have drawn.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hunmin.align import policy_losses as losses
from hunmin.align.base import loaded, tokenizer_of, with_adapter
from hunmin.align.logprobs import Scored, pack
from hunmin.align.monitor import Monitor, means, measures, refusal_pattern
from hunmin.align.online_config import OnlineConfig
from hunmin.align.reference import Reference
from hunmin.align.rewards import Rewards, Worth
from hunmin.align.rollout import Rollout, Row, ends_of, on, parts, plain, prompt_of, rescore, roll
from hunmin.errors import InputError, say
from hunmin.train import parallel
from hunmin.train.arguments import TrainingArguments
from hunmin.train.callbacks import TrainerCallback
from hunmin.train.data import Batch, Batches, sized
from hunmin.train.state import TrainerControl, TrainerState
from hunmin.train.trainer import Trainer

MEASURED = 4, 16  # at least and at most so many completions, else a quarter, have their distance measured where no loss needs it
EVALUATED = 64  # prompts that are evaluated together


class Gathered(NamedTuple):
    """A rollout and what is learned from it: ``values`` of completions ``(B,)`` or of their tokens ``(B, L)``.

    A value ``counted`` ``(B,)`` says which completions are learned at all.
    """

    rollout: Rollout
    values: dict[str, Tensor]


class Experience:
    """Rollouts as ``each`` batches to learn from, epoch by epoch. ``make(rows, epoch, number)`` makes those of a rollout."""

    def __init__(self, prompts: Batches, each: int, make: Callable[[list[Row], int, int], Iterator[Batch]]) -> None:
        self.prompts, self.each, self.make, self.stream = prompts, each, make, prompts.stream

    def __len__(self) -> int:
        return len(self.prompts) * self.each

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first ``skip``; of a rollout that was used in part, the prompts are answered anew."""
        begun, within = divmod(skip, self.each)
        for i, rows in enumerate(self.prompts.epoch(number, begun), begun):
            yield from islice(self.make(rows, number, i), within, None)  # type: ignore[arg-type]
            within = 0


class OnlineTrainer(Trainer, ABC):
    """Draws completions, asks what they are worth, and learns from that. A subclass says how.

    Args:
        model: a causal language model of Hunmin, with adapters or without, or the name of one.
        reward_funcs: functions with TRL's protocol, classification models with one label, or paths to such; see :class:`Rewards`.
        train_dataset: rows with ``prompt`` (text or messages); all other columns are handed to reward functions.
        eval_dataset: prompts to evaluate on: reward, KL and side metrics under the names ``eval_…``.
        processing_class: the tokenizer; ``tokenizer`` is its older name. Without one prompts and completions are ids.
        ref_model: what the KL is measured to; by default the policy as it is now, or with adapters the model without them.
        peft_config: an adapter to train in place of the whole model.
        side_metrics: what else is measured of every rollout; see :class:`~hunmin.align.Monitor`.
    """

    configuration: ClassVar[type[OnlineConfig]] = OnlineConfig

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: OnlineConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        *,
        ref_model: Any = None,
        tokenizer: Any = None,
        side_metrics: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.settings = args if args is not None else self.configuration()
        if not isinstance(self.settings, self.configuration):
            wanted, given = self.configuration.__name__, type(self.settings).__name__
            raise InputError(
                say(f"{type(self).__name__} needs args={wanted}(…), not {given}.", f"args에는 {given}이(가) 아니라 {wanted}가 필요합니다.")
            )
        if parallel.sharded(self.settings):
            raise InputError(
                say(
                    "Completions are drawn from a whole model in every process: use sharding='ddp' and tensor_parallel_size=1.",
                    "완성은 프로세스마다 모델 전체로 뽑습니다. sharding='ddp', tensor_parallel_size=1을 쓰세요.",
                )
            )
        policy = with_adapter(loaded(model, "CausalLM", self.settings.model_init_kwargs), peft_config)
        processing_class = processing_class or tokenizer or tokenizer_of(policy)
        super().__init__(
            self.wrapped(policy),
            self.settings,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            **options,
        )
        self.scored_together = self.settings.local_rollout_forward_batch_size or self.settings.per_device_train_batch_size
        self.rewards = self._judges(reward_funcs, reward_processing_classes) if reward_funcs is not None else None
        self.reference: Reference | None = None
        if self.settings.beta or self.settings.monitor:
            self.reference = Reference(self.policy, ref_model)
        self.monitor: Monitor | None = None
        if self.settings.monitor:
            how = self.settings
            self.monitor = Monitor(side_metrics, how.stop_on, how.refusals, how.monitor_samples, how.monitor_every)  # type: ignore[arg-type]
            self.callback_handler.items.insert(0, self.monitor)  # before the report, which shows what it has seen
        if self.settings.sync_ref_model and self.reference is not None:
            self.add_callback(SyncReference(self.reference, self.settings.ref_model_mixup_alpha, self.settings.ref_model_sync_steps))
        self._noted: dict[str, list[float]] = {}

    def _judges(self, funcs: Any, tokenizers: Any) -> Rewards:
        """The rewards as one, models on this process's device."""
        found = Rewards(funcs, self.settings.reward_weights, tokenizers, self.processing_class, self.scored_together)
        for function in found.funcs:
            if isinstance(model := getattr(function, "model", None), nn.Module):
                model.to(self.args.device)
        return found

    # -------------------------------------------------------------- what a method is

    @abstractmethod
    def learn_from(self, rollout: Rollout, worth: Worth) -> Gathered:
        """What a rollout teaches: advantages and whatever else :meth:`compute_loss` wants to find in its batches."""

    def wrapped(self, model: Any) -> Any:
        """The policy with what else is trained."""
        return model

    @property
    def policy(self) -> Any:
        """The language model that is trained."""
        return self.model

    @property
    def by_tokens(self) -> bool:
        """Whether the loss of a batch is a mean over its tokens, and not over its completions."""
        return True

    # -------------------------------------------------------------- rollouts

    def get_train_dataloader(self) -> Any:
        if self.train_dataset is None:
            raise InputError(
                say(
                    "Trainer.train needs train_dataset=: rows with a prompt.",
                    "Trainer.train에는 프롬프트가 있는 train_dataset=이 필요합니다.",
                )
            )
        if self.rewards is None:
            raise InputError(say("Trainer.train needs a reward.", "Trainer.train에는 보상이 필요합니다."))
        args, size = self.args, self.settings.prompts_per_rollout
        seed = args.data_seed if args.data_seed is not None else args.seed
        prompts = Batches(
            self.train_dataset,
            list,
            size,
            seed=seed,
            shuffle=True,
            drop_last=True,
            workers=args.dataloader_num_workers,
            rank=parallel.data_rank(args),
            world=parallel.data_world(args),
        )
        if not prompts.stream and not len(prompts):
            raise InputError(
                say(
                    f"The data set has {len(self.train_dataset)} prompts, a rollout takes {size * prompts.world}. Repeat the rows, or lower"
                    " per_device_train_batch_size or gradient_accumulation_steps.",
                    f"데이터셋의 프롬프트는 {len(self.train_dataset)}개인데 한 번에 {size * prompts.world}개가 필요합니다. 행을 반복하거나"
                    " per_device_train_batch_size나 gradient_accumulation_steps를 줄이세요.",
                )
            )
        return Experience(prompts, self.settings.batches_per_rollout, self.experience)

    def experience(self, rows: list[Row], epoch: int, number: int) -> Iterator[Batch]:
        """The batches of one rollout."""
        seed = int(np.random.SeedSequence([self.args.seed, epoch, number, parallel.data_rank(self.args)]).generate_state(1)[0])
        assert self.rewards is not None
        rollout = self.roll(rows, seed)
        worth = self.rewards(rollout)
        self._describe(rollout, worth)
        yield from self.batches_of(self.learn_from(rollout, worth), seed)

    def roll(self, rows: Sequence[Row], seed: int, *, sample: bool = True, copies: int | None = None) -> Rollout:
        """Completions of the prompts in ``rows``."""
        how = self.settings
        config = how.generation(ends_of(self.policy, self.processing_class), sample=sample, copies=copies)
        return roll(
            self.policy,
            rows,
            config,
            tokenizer=self.processing_class,
            seed=seed,
            longest_prompt=how.max_prompt_length,
            template=how.chat_template_kwargs,
        )

    def answers(self, rows: Sequence[Row]) -> Rollout:
        """The most likely completions, as the monitor keeps them."""
        return self.roll(rows, 0, sample=False)

    def batches_of(self, data: Gathered, seed: int) -> Iterator[Batch]:
        """A rollout in random batches, as often as it is to be used."""
        draw, size = torch.Generator().manual_seed(seed), self.settings.per_device_train_batch_size
        for _ in range(self.settings.num_iterations):
            for part in torch.randperm(len(data.rollout), generator=draw).split(size):
                yield self.batch_of(data, part.tolist())

    def batch_of(self, data: Gathered, part: Sequence[int]) -> Batch:
        """Some completions, packed, with their values, and the ``items`` that the batch's loss is a mean over."""
        batch = pack(data.rollout.labelled(part), self.policy)
        lengths, counted = [data.rollout.lengths[i] for i in part], data.values.get("counted")
        kept = counted[list(part)].tolist() if counted is not None else [True] * len(part)
        batch["items"] = float(sum(n for n, k in zip(lengths, kept, strict=True) if k) if self.by_tokens else len(part))
        rows, longest = torch.tensor(part), max(lengths)
        for name, value in data.values.items():
            value = value[rows.to(value.device)]
            batch[name] = value[:, :longest] if value.ndim > 1 else value
        return batch

    def items_in(self, batch: Any) -> float:
        return float(batch["items"])

    def grids(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L)`` and their mask."""
        counts = scored.counts.tolist()
        return losses.grid(scored.split()), losses.mask_of(counts, scored.logprobs.device)

    def reference_logprobs(self, rollout: Rollout, among: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities of completions (of those in ``among``) under the reference, ``(B, L)``; NaN for the others."""
        assert self.reference is not None
        every = range(len(rollout)) if among is None else among
        found = torch.full((len(rollout), max(rollout.lengths)), math.nan, device=self.args.device)
        for part in parts(len(every), self.scored_together):
            chosen = [every[i] for i in part]
            batch = on(pack(rollout.labelled(chosen), self.policy), self.args.device)
            with self.autocast():
                scored = self.reference.score(batch, temperature=self.settings.temperature)
            for i, values in zip(chosen, scored.split(), strict=True):
                found[i] = 0.0
                found[i, : len(values)] = values
        return found

    def policy_logprobs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of completions under the policy as it is, ``(B, L)``."""
        with self.autocast():
            found, entropy = rescore(self.policy, rollout, self.scored_together, temperature=self.settings.temperature, entropy=True)
        assert entropy is not None
        return found, entropy

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: float | None = None, share: float = 1.0) -> Tensor:
        if self.settings.disable_dropout:
            model.eval()
        return super().training_step(model, inputs, num_items_in_batch, share)

    # -------------------------------------------------------------- numbers

    def note(self, **values: float) -> None:
        """Numbers for the next log; of several of a name the mean counts. Underscores stand for slashes where two follow each other."""
        for name, value in values.items():
            self._noted.setdefault(name.replace("__", "/"), []).append(value)

    def watch(self, **values: float) -> None:
        """Numbers for the monitor."""
        if self.monitor is not None:
            self.monitor.note(**values)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to the history and tell the callbacks; with what was noted since the last training log."""
        if "loss" in logs:
            logs |= means(parallel.gather_shares(self._noted, self.args))
            self._noted = {}
        super().log(logs, start_time)

    def _describe(self, rollout: Rollout, worth: Worth) -> None:
        """Note lengths and rewards of a rollout, and let the monitor see it."""
        assert self.rewards is not None
        lengths, ended = rollout.lengths, [n for n, end in zip(rollout.lengths, rollout.ended, strict=True) if end]
        self.note(
            completions__mean_length=sum(lengths) / len(lengths),
            completions__min_length=float(min(lengths)),
            completions__max_length=float(max(lengths)),
            completions__clipped_ratio=1 - len(ended) / len(lengths),
            completions__mean_terminated_length=sum(ended) / len(ended) if ended else 0.0,
        )
        for name, values in zip(self.rewards.names, worth.each.T, strict=True):
            known = values[~values.isnan()]
            if len(known):
                self.note(**{f"rewards/{name}/mean": float(known.mean()), f"rewards/{name}/std": float(losses.deviation(known, 0))})
        known = worth.total[~worth.total.isnan()]
        reward = float(known.mean()) if len(known) else 0.0
        self.note(reward=reward, reward_std=float(losses.deviation(known, 0)) if len(known) else 0.0)
        if self.monitor is not None:
            self.monitor.observe(rollout, reward)
        if self.settings.log_completions:
            self._print(rollout, worth)

    def _print(self, rollout: Rollout, worth: Worth) -> None:
        """Prompts, completions and rewards, for people."""
        for i in range(min(len(rollout), self.settings.num_completions_to_print or len(rollout))):
            print(f"[{float(worth.total[i]):.4g}] {plain(prompt_of(rollout.rows[i]))} -> {plain(rollout.texts[i])}")

    # -------------------------------------------------------------- evaluation

    def _over(self, dataset: Any, prefix: str, loss_only: bool, ignore_keys: Any) -> tuple[None, None, dict[str, float]]:
        """Rewards and what the monitor measures, of one completion of each prompt; drawn alike in every evaluation."""
        begun, sums, count = time.perf_counter(), dict[str, float](), 0
        rows = [dataset[i] for i in range(len(dataset))] if sized(dataset) else list(dataset)
        if not rows:
            raise InputError(say("The data set is empty.", "데이터셋이 비어 있습니다."))
        parallel.place(self.model, self.args)
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # schedule-free optimizers keep two sets of weights
        with self._average.applied() if self._average is not None else nullcontext():
            for part in parts(len(rows), EVALUATED):
                rollout = self.roll([rows[i] for i in part], self.args.seed + part.start, copies=1)
                for name, value in self._evaluated(rollout).items():
                    sums[name] = sums.get(name, 0.0) + value * len(rollout)
                count += len(rollout)
                self._call("on_prediction_step")
        seconds = time.perf_counter() - begun
        found = {f"{prefix}_{name}": value / count for name, value in sums.items()}
        return None, None, {**found, f"{prefix}_runtime": seconds, f"{prefix}_samples_per_second": count / seconds}

    def _evaluated(self, rollout: Rollout) -> dict[str, float]:
        pattern = self.monitor.pattern if self.monitor is not None else refusal_pattern(self.settings.refusals)
        found = measures(rollout, pattern)
        if self.rewards is not None:
            worth = self.rewards(rollout)
            found["reward"] = float(worth.total.nanmean().nan_to_num())
            found |= {f"rewards/{n}": float(v.nanmean().nan_to_num()) for n, v in zip(self.rewards.names, worth.each.T, strict=True)}
        logprobs, entropy = self.policy_logprobs(rollout)
        mask = losses.mask_of(rollout.lengths, logprobs.device)
        found["entropy"] = float(losses.masked_mean(entropy, mask))
        if self.reference is not None:
            found["kl"] = float(((logprobs - self.reference_logprobs(rollout)) * mask).sum(-1).mean())
        return found | (self.monitor.ask(rollout) if self.monitor is not None else {})


def measured(count: int) -> range:
    """Which of so many completions have their distance to the reference measured where no loss needs it."""
    return range(0, count, max(1, -(-count // min(max(MEASURED[0], count // 4), MEASURED[1]))))


class SyncReference(TrainerCallback):
    """Moves the reference a share of the way to the policy every few steps."""

    def __init__(self, reference: Reference, share: float, steps: int) -> None:
        self.reference, self.share, self.steps = reference, share, steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.steps == 0:
            self.reference.sync(self.share)
