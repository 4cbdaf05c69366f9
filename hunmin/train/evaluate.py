"""Evaluation and prediction of the Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.train import parallel
from hunmin.train.items import Fill, count_items, rows_of
from hunmin.train.state import EvalPrediction, PredictionOutput

if TYPE_CHECKING:
    from hunmin.train.arguments import TrainingArguments
    from hunmin.train.data import Batches
    from hunmin.train.extras import MovingAverage

Array = np.ndarray[Any, Any]
INNER = ("loss", "past_key_values", "hidden_states", "attentions", "cross_attentions") + tuple(
    f"{side}_{name}" for side in ("encoder", "decoder") for name in ("last_hidden_state", "hidden_states", "attentions")
)
FILL = -100


class Evaluation:
    """``evaluate`` and ``predict``, for a Trainer with these attributes."""

    args: TrainingArguments
    model: Any
    optimizer: Any
    eval_dataset: Any
    label_names: list[str]
    compute_metrics: Callable[[Any], dict[str, float]] | None
    preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None
    batches: Callable[..., Batches]
    autocast: Callable[[], AbstractContextManager[Any]]
    compute_loss: Callable[..., Any]
    log: Callable[[dict[str, float]], None]
    _prepare_inputs: Callable[[Any], Any]
    _call: Callable[..., None]
    _average: MovingAverage | None

    def evaluate(self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Loss, metrics and speed on a data set (or on each of a dictionary of them), under names with the prefix."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if isinstance(dataset, Mapping) and not hasattr(dataset, "column_names"):
            found: dict[str, float] = {}
            for name, part in dataset.items():  # pyright: ignore[reportUnknownVariableType]
                found |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return found
        if dataset is None:
            raise InputError(say("evaluate needs eval_dataset=.", "evaluate에 eval_dataset=이 필요합니다."))
        only = self.args.prediction_loss_only or self.compute_metrics is None
        _, _, metrics = self._over(dataset, metric_key_prefix, only, ignore_keys)
        self.log(dict(metrics))
        self._call("on_evaluate", metrics=metrics)
        return metrics

    def predict(self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Outputs for every row, the labels if there are any, and the metrics."""
        predictions, labels, metrics = self._over(test_dataset, metric_key_prefix, False, ignore_keys)
        self._call("on_predict", metrics=metrics)
        return PredictionOutput(predictions, labels, metrics)

    def _over(self, dataset: Any, prefix: str, loss_only: bool, ignore_keys: list[str] | None) -> tuple[Any, Any, dict[str, float]]:
        """All batches of a data set: outputs, labels, metrics."""
        batches, started = self.batches(dataset, self.args.per_device_eval_batch_size, train=False), time.perf_counter()
        parallel.place(self.model, self.args)
        self.model.eval()
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # schedule-free optimizers keep two sets of weights
        found: list[tuple[list[Any], list[Any]]] = []
        summed = np.zeros(3)  # losses, what they are means of, rows
        with self._average.applied() if self._average is not None else nullcontext():
            for batch in batches.epoch(0):
                loss, logits, labels = self.prediction_step(self.model, batch, loss_only, ignore_keys)
                items = self.items_in(batch) if loss is not None else 0.0
                summed += (loss.item() * items if loss is not None and items else 0.0, items, rows_of(batch))
                if not isinstance(batch, Fill):
                    found.append((by_row(logits, batch), by_row(labels, batch)) if not loss_only else ([], []))
                self._call("on_prediction_step", eval_dataloader=batches)
        total, items, count = np.sum(parallel.gather_shares(summed, self.args), 0)
        shares = parallel.gather_shares(found, self.args)
        whole = [step for parts in zip_longest(*shares) for step in parts if step is not None]  # batch by batch, process by process
        predictions, labels = (joined([row for step in whole for row in step[side]]) for side in (0, 1))
        metrics: dict[str, float] = {"loss": float(total / items)} if items else {}
        if self.compute_metrics is not None and predictions is not None and labels is not None:
            metrics |= self.compute_metrics(EvalPrediction(predictions, labels))
        seconds = time.perf_counter() - started
        metrics |= {"runtime": seconds, "samples_per_second": float(count) / seconds, "steps_per_second": len(shares[0]) / seconds}
        return predictions, labels, {f"{prefix}_{k}" if not k.startswith(f"{prefix}_") else k: plain(v) for k, v in metrics.items()}

    def items_in(self, batch: Any) -> float:
        """What the loss of a batch is a mean over. Override it together with ``compute_loss``."""
        return count_items(batch, self.model)

    @torch.no_grad()  # not inference mode: FSDP keeps the tensors that it gathers
    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """Loss, outputs and labels of one batch; None for what there is not."""
        labelled = all(name in inputs for name in self.label_names)
        inputs = self._prepare_inputs(inputs)
        with self.autocast():
            if labelled and prediction_loss_only:
                return self.compute_loss(model, inputs), None, None  # a language model's without its logits
            if labelled:
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            else:
                outputs, loss = model(**inputs), None
        if prediction_loss_only:
            return loss, None, None
        left_out = {*INNER, *(ignore_keys or ())}
        named = outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs[1:] if labelled else outputs)
        values = tuple(value for name, value in named if name not in left_out and isinstance(value, Tensor))
        logits = values[0] if len(values) == 1 else values
        labels = tuple(inputs[name] for name in self.label_names) if labelled else None
        labels = labels[0] if labels is not None and len(labels) == 1 else labels
        if self.preprocess_logits_for_metrics is not None:
            logits = self.preprocess_logits_for_metrics(logits, labels)
        return loss, logits, labels


def by_row(value: Any, batch: Any) -> list[Any]:
    """A batch's outputs as an array for each row (a tuple of them for several outputs): packed rows are taken apart."""
    if value is None:
        return []
    if isinstance(value, tuple):
        return list(zip(*(by_row(part, batch) for part in value), strict=True))  # pyright: ignore[reportUnknownArgumentType]
    held = value.detach().float() if value.is_floating_point() else value.detach()
    for name in ("where", "decoder_where"):
        where = batch.get(name) if isinstance(batch, Mapping) else None
        if where is not None and where.lengths and held.shape[:2] == where.shape and held.ndim > 1:
            return [part.cpu().numpy() for part in held[0].split(where.lengths)]
    return list(held.cpu().numpy())


def joined(rows: list[Any]) -> Any:
    """The rows of all batches in one array, filled with -100 where they differ in length; None without rows."""
    if not rows:
        return None
    if isinstance(rows[0], tuple):
        return tuple(joined(list(part)) for part in zip(*rows, strict=True))
    longest = max(row.shape[0] for row in rows) if np.ndim(rows[0]) else 0
    if np.ndim(rows[0]) and any(row.shape[0] < longest for row in rows):
        rows = [np.pad(row, [(0, longest - row.shape[0]), *[(0, 0)] * (row.ndim - 1)], constant_values=FILL) for row in rows]
    return np.stack(rows)


def plain(value: Any) -> Any:
    """A metric as a plain number."""
    return value.item() if hasattr(value, "item") else value
