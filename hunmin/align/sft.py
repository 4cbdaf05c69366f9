"""Supervised fine-tuning on instructions and conversations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hunmin.align.base import AlignTrainer, TokenRows
from hunmin.align.config import SFTConfig
from hunmin.align.logprobs import bare, pack, score
from hunmin.align.prompts import Row, formatted
from hunmin.errors import InputError, say, warn_once
from hunmin.model import PreTrainedModel
from hunmin.nn.losses import IGNORE
from hunmin.output import Output
from hunmin.train.packing import Packed, Strategy, pack_rows
from hunmin.train.rows import as_rows, unpadded

STRATEGIES: dict[str, Strategy] = {"bfd": "best_fit", "best_fit": "best_fit", "sequential": "sequential", "wrapped": "wrapped"}


class SFTTrainer(AlignTrainer):
    """Trains a language model on texts, conversations, or answers to prompts (:mod:`hunmin.align.prompts` says which rows).

    Args:
        formatting_func: makes the text of a row, or in taught code the list of texts of columns.

    Further arguments as in :class:`hunmin.align.base.AlignTrainer`. ``packing`` fills rows of ``max_length`` tokens with several texts;
    batches of models of Hunmin have no padding with or without it.
    """

    config = SFTConfig

    def __init__(self, model: Any = None, *args: Any, formatting_func: Callable[[Any], Any] | None = None, **options: Any) -> None:
        self.formatting_func = formatting_func
        super().__init__(model, *args, **options)

    def start(self) -> None:
        packing = self.args.packing or self.args.eval_packing
        if packing and not isinstance(bare(self.model), PreTrainedModel):
            raise InputError(say("packing is for models of Hunmin.", "packing은 훈민의 모델에만 쓸 수 있습니다."))
        if packing and self.prompts.max_length is None:
            raise InputError(say("packing needs max_length.", "packing에는 max_length가 필요합니다."))
        self.label_names = ["labels"]

    def encode(self, row: Any) -> Row | None:
        args = self.args
        if self.formatting_func is not None and "input_ids" not in row:
            row = {"text": formatted(row, self.formatting_func)}
            return self.prompts.learnt(row)
        return self.prompts.learnt(row, args.dataset_text_field, args.completion_only_loss, args.assistant_only_loss)

    def prepared(self, dataset: Any, *, train: bool = True) -> Any:
        rows, args = super().prepared(dataset, train=train), self.args
        packing = args.packing if train or args.eval_packing is None else args.eval_packing
        if rows is None or rows is dataset or not packing:
            return rows
        length, strategy = self.prompts.max_length or 0, STRATEGIES[args.packing_strategy]
        return TokenRows(pack_rows(rows, length, strategy)) if isinstance(rows, TokenRows) else Packed(rows, length, strategy, 1000)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        if self.args.loss_type == "nll":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        scored = score(model, inputs)
        loss = dft(scored.logprobs)
        return (loss, Output(loss=loss, logprobs=scored.logprobs)) if return_outputs else loss


def dft(logprobs: Tensor) -> Tensor:
    """Mean loss of tokens, each weighted by its own probability (DFT, Wu et al. 2025, equation 9), from ``log p`` ``(T,)``."""
    return -(logprobs.detach().exp() * logprobs).sum() / max(1, len(logprobs))


@dataclass
class DataCollatorForCompletionOnlyLM:
    """Labels only what follows ``response_template`` (up to the next ``instruction_template``, where turns alternate), as taught.

    Templates are texts or their ids. A row without the template is not learnt, with a warning. Gives padded rows, or with ``packed=True``
    one row without padding.
    """

    response_template: str | list[int]
    instruction_template: str | list[int] | None = None
    tokenizer: Any = None
    mlm: bool = False
    packed: bool = False

    def __post_init__(self) -> None:
        self.answer = self._ids(self.response_template)
        self.question = self._ids(self.instruction_template) if self.instruction_template is not None else None

    def _ids(self, template: str | list[int]) -> list[int]:
        if not isinstance(template, str):
            return list(template)
        if self.tokenizer is None:
            raise InputError(say("A template in text needs tokenizer=.", "글로 된 템플릿에는 tokenizer=가 필요합니다."))
        return list(self.tokenizer(template, add_special_tokens=False)["input_ids"])

    def __call__(self, features: Any) -> dict[str, Any]:
        rows = [{"input_ids": row["input_ids"], "labels": self._labels(row["input_ids"])} for row in unpadded(as_rows(features))]
        pad = getattr(self.tokenizer, "pad_token_id", None)
        return pack(rows, None if self.packed else object(), pad if pad is not None else 0)

    def _labels(self, ids: list[int]) -> list[int]:
        starts = [i + len(self.answer) for i in _places(ids, self.answer)]
        if not starts:
            warn_once(
                say(
                    f"response_template {self.response_template!r} was not found in a row, which is not learnt.",
                    f"response_template {self.response_template!r}이(가) 없는 행은 학습하지 않습니다.",
                )
            )
            return [IGNORE] * len(ids)
        if self.question is None:
            return [IGNORE] * starts[-1] + ids[starts[-1] :]
        ends, labels = [*_places(ids, self.question), len(ids)], [IGNORE] * len(ids)
        for start in starts:
            end = next(e for e in ends if e >= start)
            labels[start:end] = ids[start:end]
        return labels


def _places(ids: list[int], part: list[int]) -> list[int]:
    """Where ``part`` begins in ``ids``."""
    return [i for i in range(len(ids) - len(part) + 1) if ids[i : i + len(part)] == part]
