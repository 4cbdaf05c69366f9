"""PPO as courses taught it before TRL 0.12: a loop of one's own over ``dataloader``, with ``generate`` and ``step``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hunmin.align import policy_losses as losses
from hunmin.align.monitor import means
from hunmin.align.online import OnlineTrainer
from hunmin.align.rewards import Worth
from hunmin.align.rollout import Rollout, Row, complete, ends_of
from hunmin.errors import InputError, say, short
from hunmin.generate import GenerationConfig
from hunmin.generate.sampling import drawn
from hunmin.train import parallel
from hunmin.train.checkpoint import Checkpoints
from hunmin.train.schedules import get_scheduler


class LengthSampler:
    """A whole number of at least ``min_value`` and below ``max_value``, another at every call."""

    def __init__(self, min_value: int, max_value: int) -> None:
        self.values = range(min_value, max_value)

    def __call__(self) -> int:
        return self.values[int(torch.randint(len(self.values), ()))]


class Stepwise(OnlineTrainer):
    """The part of :class:`PPOTrainer` that other people's loops call."""

    settings: Any
    loop_collator: Any
    seen: dict[str, Tensor]
    kl_control: Any
    _begun: bool = False

    # -------------------------------------------------------------- what loops read

    @property
    def config(self) -> Any:
        """The older name of ``args``."""
        return self.settings

    @property
    def current_device(self) -> torch.device:
        return self.args.device

    @property
    def accelerator(self) -> Any:
        """What loops ask an Accelerator for: ``device``, ``num_processes``, ``is_main_process``."""
        first = self.is_world_process_zero()
        return SimpleNamespace(device=self.args.device, num_processes=parallel.processes(), is_main_process=first)

    @property
    def dataloader(self) -> DataLoader[Any]:
        """Batches of ``batch_size`` rows in random order; without a collator a dictionary of lists."""
        if self.train_dataset is None:
            raise InputError(say("Give dataset= to have a dataloader.", "dataloader를 쓰려면 dataset=을 주세요."))

        def together(rows: list[Any]) -> dict[str, list[Any]]:
            return {key: [row[key] for row in rows] for key in rows[0]}

        size, collate = self.settings.batch_size, self.loop_collator or together
        return DataLoader(self.train_dataset, batch_size=size, shuffle=True, drop_last=True, collate_fn=collate)

    # -------------------------------------------------------------- generate

    def generate(
        self,
        query_tensor: Tensor | Sequence[Tensor],
        length_sampler: Callable[[], int] | None = None,
        batch_size: int = 4,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        **generation_kwargs: Any,
    ) -> Any:
        """A response to a query ``(N,)``, as ``(1, M)``; to a list of them, a list of ``(M,)``. Without padding, with the end token.

        ``length_sampler`` gives the number of new tokens; ``generate_ref_response`` adds responses of the reference. All queries run
        together: ``batch_size`` is accepted and has no meaning.
        """
        queries = [query_tensor] if isinstance(query_tensor, Tensor) else list(query_tensor)
        if any(query.ndim != 1 for query in queries):
            raise InputError(say("A query is a tensor (N,), or a list of such.", "질의는 (N,) 텐서나 그 목록이어야 합니다."))
        if length_sampler is not None:
            generation_kwargs["max_new_tokens"] = length_sampler()
        if generation_kwargs.get("min_length", 0) < 0:  # as tutorials switch it off
            generation_kwargs.pop("min_length")
        ends = generation_kwargs.pop("eos_token_id", None) or ends_of(self.policy, self.processing_class)
        generation_kwargs.setdefault("max_new_tokens", self.settings.max_completion_length)
        config = GenerationConfig(**{"top_k": 0, "eos_token_id": ends or None} | generation_kwargs)

        def respond(model: Any) -> Any:
            new = [
                torch.tensor(ids[0], device=self.args.device) for ids in complete(model, [q.tolist() for q in queries], config, drawn(None))
            ]
            whole = [torch.cat([q.to(n.device), n]) for q, n in zip(queries, new, strict=True)] if return_prompt else new
            return whole[0][None] if isinstance(query_tensor, Tensor) else whole

        parallel.place(self.model, self.args)
        responses = respond(self.policy)
        if not generate_ref_response:
            return responses
        assert self.reference is not None
        with self.reference.model() as reference:
            return responses, respond(reference)

    # -------------------------------------------------------------- step

    def step(self, queries: Sequence[Tensor], responses: Sequence[Tensor], scores: Sequence[Tensor]) -> dict[str, Any]:
        """Learn from ``responses`` to ``queries``, token ids ``(N,)`` each, and their ``scores``. Returns what happened, under TRL's names.

        Raises InputError when they are not ``batch_size``, or empty, or a score is no finite number.
        """
        rollout, worth = self._given(queries, responses, scores)
        self._prepare()
        noted, self._noted = self._noted, {}
        data = self.learn_from(rollout, worth)
        if self.monitor is not None:
            self.monitor.observe(rollout, float(worth.total.mean()))
        batches = self.batches_of(data, self.args.seed + self.state.global_step)
        while group := list(islice(batches, self.args.gradient_accumulation_steps)):
            self._step(group)
        self.state.global_step += 1
        found, self._noted = means([self._noted]), noted
        if self.monitor is not None:
            self.monitor.on_step_end(self.args, self.state, self.control)
        stats = self._stats(rollout, found)
        self.state.log_history.append({"step": self.state.global_step} | {k: v for k, v in stats.items() if isinstance(v, float)})
        return stats

    def log_stats(
        self, stats: dict[str, Any], batch: Any, rewards: Sequence[Any], columns_to_log: Sequence[str] = ("query", "response")
    ) -> None:
        """With ``log_with``: tell the tracker the numbers of a step and the mean of ``rewards``."""
        values = torch.tensor([float(r) for r in rewards])
        told = {name: float(value) for name, value in stats.items() if isinstance(value, int | float)}
        told |= {"env/reward_mean": float(values.mean()), "env/reward_std": float(losses.deviation(values, 0))}
        if self.settings.log_with is not None:
            self._call("on_log", logs=told)

    def save_pretrained(self, save_directory: str, **options: Any) -> None:
        """The policy, its critic and the tokenizer."""
        self.save_model(save_directory)

    def _given(self, queries: Sequence[Tensor], responses: Sequence[Tensor], scores: Sequence[Any]) -> tuple[Rollout, Worth]:
        wanted = self.settings.batch_size
        for name, values in (("queries", queries), ("responses", responses), ("scores", scores)):
            if len(values) != wanted:
                raise InputError(
                    say(
                        f"step got {len(values)} {name}, but batch_size is {wanted}.",
                        f"step이 {name} {len(values)}개를 받았지만 batch_size는 {wanted}입니다.",
                    )
                )
        for name, values in (("query", queries), ("response", responses)):
            if empty := [i for i, ids in enumerate(values) if not ids.numel()]:
                raise InputError(say(f"The {name} {empty[0]} is empty.", f"{empty[0]}번 {name}이(가) 비어 있습니다."))
        total = torch.tensor([float(score) for score in scores])
        if not bool(total.isfinite().all()):
            at = int((~total.isfinite()).nonzero()[0])
            raise InputError(say(f"The score of response {at} is {float(total[at])}.", f"{at}번 응답의 점수가 {float(total[at])}입니다."))
        prompts, answers = ([ids.flatten().tolist() for ids in values] for values in (queries, responses))
        ends, tokenizer = set(ends_of(self.policy, self.processing_class)), self.processing_class
        texts: list[Any] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers] if tokenizer is not None else answers
        rows: list[Row] = [{"input_ids": ids} for ids in prompts]
        return Rollout(rows, prompts, answers, [ids[-1] in ends for ids in answers], texts), Worth(total, total[:, None])

    def _prepare(self) -> None:
        """What :meth:`train` does before its loop: the model in its place, an optimizer, a rate that stays."""
        if self._begun:
            return
        if self.settings.world_size > 1:
            raise InputError(
                say(
                    f"step works in one process, not {short(self.settings.world_size)}: use train().",
                    "step은 한 프로세스에서만 됩니다. train()을 쓰세요.",
                )
            )
        parallel.place(self.model, self.args, fixed=self.optimizer is not None)
        self.model_wrapped = self.model
        self.create_optimizer()
        self.lr_scheduler = self.lr_scheduler or get_scheduler("constant", self.optimizer, 0, 1, None)
        self._scaler = torch.amp.GradScaler(self.args.device.type) if self.args.fp16 else None  # pyright: ignore[reportPrivateImportUsage]
        self.checkpoints = Checkpoints(self.args.output_dir, self.args.save_total_limit)
        self._losses, self._since_log, self._begun = 0.0, (0.0, 0), True

    def _stats(self, rollout: Rollout, noted: dict[str, float]) -> dict[str, Any]:
        seen, mask = self.seen, self.seen["mask"]
        apart = ((seen["logprobs"] - seen["reference"]) * mask).sum(-1)
        returns, values = (seen[name][mask > 0] for name in ("returns", "values"))
        lengths = torch.tensor(rollout.lengths, dtype=torch.float32)
        spread = float(returns.var(correction=0))
        stats: dict[str, Any] = {
            "objective/kl": noted["objective/kl"],
            "objective/kl_dist": apart,
            "objective/kl_coef": noted["objective/kl_coef"],
            "objective/entropy": noted["objective/entropy"],
            "objective/logprobs": seen["logprobs"],
            "objective/ref_logprobs": seen["reference"],
            "ppo/mean_non_score_reward": -float(losses.masked_mean(seen["penalties"], mask)),
            "ppo/mean_scores": float(seen["scores"].mean()),
            "ppo/std_scores": float(losses.deviation(seen["scores"], 0)),
            "ppo/loss/policy": noted["loss/policy_avg"],
            "ppo/loss/value": noted["loss/value_avg"],
            "ppo/loss/total": noted["loss/policy_avg"] + self.settings.vf_coef * noted["loss/value_avg"],
            "ppo/policy/entropy": noted["policy/entropy_avg"],
            "ppo/policy/approxkl": noted["policy/approxkl_avg"],
            "ppo/policy/clipfrac": noted["policy/clipfrac_avg"],
            "ppo/val/clipfrac": noted["val/clipfrac_avg"],
            "ppo/val/mean": float(values.mean()),
            "ppo/returns/mean": float(returns.mean()),
            "ppo/returns/var": spread,
            "ppo/val/error": float((returns - values).square().mean()),
            "ppo/val/var_explained": 1 - float((returns - values).square().mean()) / spread if spread else 0.0,
            "tokens/queries_len_mean": sum(map(len, rollout.prompts)) / len(rollout),
            "tokens/responses_len_mean": float(lengths.mean()),
            "tokens/responses_len_std": float(losses.deviation(lengths, 0)),
        }
        return stats
