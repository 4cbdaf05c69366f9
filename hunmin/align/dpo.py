"""Direct preference optimization and its relatives: pairs of answers, without a reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hunmin.align.base import PairTrainer, TokenRows, loaded
from hunmin.align.config import CPOConfig, DPOConfig, ORPOConfig
from hunmin.align.logprobs import Scored, pack, score
from hunmin.align.losses import KINDS, WITHOUT_REFERENCE, Pairs
from hunmin.align.prompts import Row, Split
from hunmin.align.reference import Reference
from hunmin.errors import InputError, say
from hunmin.nn.losses import IGNORE
from hunmin.output import Output
from hunmin.train.callbacks import TrainerCallback
from hunmin.train.data import to_device


class PreferenceTrainer(PairTrainer):
    """What methods with a reference policy share. ``ref_model`` is a model, the name of one, or None: the model as it is now."""

    reference: Reference | None
    reference_values: Callable[[Mapping[str, Any]], Mapping[str, Tensor]]  # from the batch where they were computed before

    def __init__(self, model: Any = None, ref_model: Any = None, *args: Any, **options: Any) -> None:
        self.given_reference = ref_model
        super().__init__(model, *args, **options)

    def needs_reference(self) -> bool:
        """Whether the loss looks at the reference at all."""
        return True

    def start(self) -> None:
        args, self.reference = self.args, None
        if not self.needs_reference():
            return
        if args.sync_ref_model and args.precompute_ref_log_probs:
            raise InputError(
                say("A reference that moves cannot be precomputed.", "움직이는 참조 모델(sync_ref_model)은 미리 계산할 수 없습니다.")
            )
        given = self.given_reference
        given = loaded(given, self.task, args.ref_model_init_kwargs) if given is not None else None
        cache = (args.ref_logps_cache or f"{args.output_dir}/ref_logps") if args.precompute_ref_log_probs else None
        self.reference = Reference(self.model, given, cache, copied=not args.precompute_ref_log_probs)
        if args.sync_ref_model:
            self.reference.sync(0.0)  # says at once if it cannot
            self.add_callback(_Follow(self.reference))

    def prepared(self, dataset: Any, *, train: bool = True) -> Any:
        rows, args = super().prepared(dataset, train=train), self.args
        if rows is dataset or self.reference is None or not args.precompute_ref_log_probs or not isinstance(rows, TokenRows):
            return rows
        found = self.reference.cached(rows, self._reference_values, args.per_device_eval_batch_size, f"{args.bf16} {args.fp16}")
        for name, values in found.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                row[name] = value
        return rows

    def _reference_values(self, rows: Sequence[Row]) -> Mapping[str, Tensor]:
        batch = to_device(self.data_collator(list(rows)), next(self.model.parameters()).device)
        with self.autocast():
            return self.reference_values(batch)

    def _train(self, *args: Any, **options: Any) -> Any:
        if self.reference is not None:
            self.reference.moved = True
        return super()._train(*args, **options)


class _Follow(TrainerCallback):
    """Moves the reference towards the policy every so many steps."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % args.ref_model_sync_steps == 0:
            self.reference.sync(args.ref_model_mixup_alpha)


class DPOTrainer(PreferenceTrainer):
    """Makes chosen answers likelier and rejected ones less likely, measured against a reference (Rafailov et al. 2023).

    Rows have ``chosen`` and ``rejected`` with or without ``prompt``. ``args.loss_type`` names one of :data:`hunmin.align.losses.KINDS` or
    several; ``label_smoothing`` with "sigmoid" is cDPO. SimPO, CPO and ORPO need no reference, nor does ``reference_free``.
    """

    config = DPOConfig

    def needs_reference(self) -> bool:
        return not self.args.reference_free and bool(set(self.args.kinds) - WITHOUT_REFERENCE)

    # -------------------------------------------------------------- rows

    def encode(self, row: Any) -> Row | None:
        if "chosen_ids" in row:  # with prompt_ids: as TRL calls tokens
            prompt: list[int] = list(row.get("prompt_ids") or [])
            both = {side: Split(prompt, list(row[f"{side}_ids"])) for side in ("chosen", "rejected")}
        else:
            both = self.prompts.pair(row)
        return {side: split.row() for side, split in both.items()} if both is not None else None

    def collator(self) -> Any:
        return self._collate

    def _collate(self, rows: list[Row]) -> dict[str, Any]:
        """Chosen texts, then rejected ones. ORPO learns the prompts of chosen texts too."""
        texts = [row["chosen"] for row in rows] + [row["rejected"] for row in rows]
        batch = pack(texts, self.shape, self.pad_id) | {"rows": len(rows)}
        if "orpo" in self.args.kinds:
            whole = [{**row["chosen"], "labels": row["chosen"]["input_ids"]} for row in rows] + [row["rejected"] for row in rows]
            batch["text_labels"] = pack(whole, self.shape, self.pad_id)["labels"]
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if all(name in row for row in rows):
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    # -------------------------------------------------------------- loss

    def reference_values(self, batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        names = ("ref_chosen_logps", "ref_rejected_logps")
        if self.reference is None:
            return dict.fromkeys(names, torch.zeros(batch["rows"], device=batch["input_ids"].device))
        if all(name in batch for name in names):
            return {name: batch[name] for name in names}
        return dict(zip(names, self.reference.score(batch).sums().chunk(2), strict=True))

    def pairs(self, model: Any, batch: Mapping[str, Any]) -> Pairs:
        """The log-probabilities of a batch under policy and reference."""
        args, refs = self.args, self.reference_values(batch)
        scored, text = score(model, {**batch, "labels": batch.get("text_labels", batch["labels"])}), None
        if "text_labels" in batch:
            text = -scored.logprobs[scored.row < batch["rows"]].mean()
            scored = _answers(scored, batch)
        chosen, rejected = scored.sums().chunk(2)
        lengths = scored.counts.chunk(2)
        return Pairs(
            chosen,
            rejected,
            refs["ref_chosen_logps"],
            refs["ref_rejected_logps"],
            args.beta,
            chosen_length=lengths[0],
            rejected_length=lengths[1],
            smoothing=args.label_smoothing,
            gamma=args.simpo_gamma,
            alpha=args.cpo_alpha,
            tau=args.discopop_tau,
            text=text,
            divergence=args.f_divergence_type,
            power=args.f_alpha_divergence_coef,
        )

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        pairs, kinds = self.pairs(model, inputs), self.args.kinds
        each = torch.stack([weight * KINDS[kind](pairs) for kind, weight in kinds.items()]).sum(0)
        loss = each.mean()
        if {"cpo", "orpo", "sft"} & kinds.keys():
            self.note(nll_loss=pairs.text if pairs.text is not None else pairs.nll())
        shown = pairs.each_token() if {"simpo", "orpo"} & kinds.keys() else pairs
        chosen, rejected = (self.args.beta * ratio for ratio in shown.ratios)
        self.note(rewards_chosen=chosen, rewards_rejected=rejected, rewards_margins=chosen - rejected)
        self.note(rewards_accuracies=(chosen > rejected).float(), logps_chosen=shown.chosen, logps_rejected=shown.rejected)
        return (loss, Output(loss=loss, chosen_logps=pairs.chosen, rejected_logps=pairs.rejected)) if return_outputs else loss

    # -------------------------------------------------------------- what it did

    @torch.no_grad()
    def table(self, dataset: Any = None) -> list[dict[str, Any]]:
        """For every pair of ``dataset`` (by default the one of evaluation, else of training) what policy and reference make of it.

        Columns: ``prompt``, ``chosen``, ``rejected`` (texts, where there is a tokenizer); the answers' ``…_logps`` and ``…_probability``,
        the geometric mean of their tokens' probabilities, with ``ref_`` those of the reference; ``rewards/chosen``, ``rewards/rejected``,
        ``rewards/margins``; ``correct``, whether the margin is above 0.
        """
        rows = self.prepared(next((d for d in (dataset, self.eval_dataset, self.train_dataset) if d is not None), None), train=False)
        if not isinstance(rows, TokenRows):
            raise InputError(say("table needs a data set whose rows have numbers.", "table에는 번호로 읽을 수 있는 데이터셋이 필요합니다."))
        training, out, size = self.model.training, list[dict[str, Any]](), self.args.per_device_eval_batch_size
        self.model.eval()
        for i in range(0, len(rows), size):
            part = list(rows[i : i + size])
            batch = to_device(self.data_collator(part), next(self.model.parameters()).device)
            with self.autocast():
                out += [{**self._texts(row), **found} for row, found in zip(part, facts(self.pairs(self.model, batch)), strict=True)]
        self.model.train(training)
        return out

    def _texts(self, row: Row) -> dict[str, str]:
        if self.processing_class is None:
            return {}
        answers = {side: [i for i in row[side]["labels"] if i != IGNORE] for side in ("chosen", "rejected")}
        prompt = row["chosen"]["input_ids"][: -len(answers["chosen"])]
        return {name: self.processing_class.decode(ids) for name, ids in {"prompt": prompt, **answers}.items()}


def facts(pairs: Pairs) -> list[dict[str, Any]]:
    """Numbers of every pair: log-probabilities, probabilities of a token, implied rewards."""
    mean, (chosen, rejected) = pairs.each_token(), (pairs.beta * ratio for ratio in pairs.ratios)
    columns: dict[str, Tensor] = {}
    for side in ("chosen", "rejected"):
        for ref in ("", "ref_"):
            columns[f"{ref}{side}_logps"] = getattr(pairs, f"{ref}{side}")
            columns[f"{ref}{side}_probability"] = getattr(mean, f"{ref}{side}").exp()
    columns |= {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected, "correct": chosen > rejected}
    values = {name: column.tolist() for name, column in columns.items()}
    return [{name: column[i] for name, column in values.items()} for i in range(len(pairs.chosen))]


def _answers(scored: Scored, batch: Mapping[str, Any]) -> Scored:
    """Of tokens scored by ``text_labels`` those that ``labels`` has too."""
    whole, own = batch["text_labels"][:, 1:], batch["labels"][:, 1:]
    at = batch.get("where")
    if at is not None:  # what begins a sequence was not scored
        whole = whole.masked_fill(at.segment[:, 1:] != at.segment[:, :-1], IGNORE)
    kept = (own != IGNORE)[whole != IGNORE]
    return Scored(scored.logprobs[kept], None, scored.row[kept], scored.rows)


class CPOTrainer(DPOTrainer):
    """DPOTrainer with CPO's names of arguments."""

    config = CPOConfig

    def __init__(self, model: Any = None, *args: Any, **options: Any) -> None:
        super().__init__(model, None, *args, **options)


class ORPOTrainer(CPOTrainer):
    """DPOTrainer with ORPO's loss."""

    config = ORPOConfig
