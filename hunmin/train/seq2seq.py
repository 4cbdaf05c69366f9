"""``Seq2SeqTrainer``: evaluation by generated text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.train import parallel
from hunmin.train.data import Batches, Collate
from hunmin.train.trainer import Trainer


class Seq2SeqTrainer(Trainer):
    """A Trainer whose ``evaluate`` and ``predict`` generate when ``predict_with_generate`` is set: predictions are token ids ``(rows, N)``.

    ``max_length``, ``num_beams`` and other settings of generation may be given to both.
    """

    _generation: dict[str, Any]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval", **generation: Any
    ) -> dict[str, float]:
        self._generation = self._settings(generation)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test", **generation: Any) -> Any:
        self._generation = self._settings(generation)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def _settings(self, generation: dict[str, Any]) -> dict[str, Any]:
        given = {"max_length": self.args.generation_max_length, "num_beams": self.args.generation_num_beams} | generation
        if given.get("max_new_tokens") is not None:
            given.pop("max_length")
        return {name: value for name, value in given.items() if value is not None}

    def batches(self, dataset: Any, size: int, *, train: bool) -> Batches:
        out = super().batches(dataset, size, train=train)
        if not train and self.args.predict_with_generate:
            out.collate = Collate(self.data_collator, self.model, False)  # generation reads padded rows
        return out

    @torch.no_grad()
    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if "input_ids" not in inputs:
            raise InputError(say("Generation needs input_ids.", "생성에는 input_ids가 필요합니다."))
        inputs = self._prepare_inputs(inputs)
        with self.autocast():
            loss = self.compute_loss(model, inputs) if "labels" in inputs else None
            with parallel.gathered(self.model, self.args):  # processes generate texts of different lengths
                ids = self.model.generate(inputs["input_ids"], attention_mask=inputs.get("attention_mask"), **self._generation)
        return loss, ids, inputs.get("labels")
