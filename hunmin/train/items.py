"""What a batch's loss is the mean of, so that losses of several batches can be joined exactly; and labels that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.model import PreTrainedModel
from hunmin.nn.heads import LMHead
from hunmin.nn.losses import IGNORE
from hunmin.train import losses


def task_of(model: Any) -> str:
    """The task of one of Hunmin's models, also under adapters; "" for any other."""
    return str(getattr(model, "task", ""))


class Fill(dict[str, Any]):
    """A batch that a process gets because there are no rows left for it: computed, as the others wait for its part, and counted as nothing."""


def rows_of(batch: Any) -> int:
    """Sequences of a batch, packed or padded."""
    if isinstance(batch, Fill):
        return 0
    if not isinstance(batch, Mapping):
        return len(batch)
    where = batch.get("where")
    if where is not None and where.lengths:
        return len(where.lengths)
    first = next((value for value in batch.values() if isinstance(value, Tensor)), None)
    return len(first) if first is not None else 1


def tokens_of(batch: Any) -> int:
    """Real tokens of a batch, of an encoder and a decoder together; 0 where it has none."""
    total = 0
    for side in ("", "decoder_") if isinstance(batch, Mapping) and not isinstance(batch, Fill) else ():
        where, mask, ids = batch.get(f"{side}where"), batch.get(f"{side}attention_mask"), batch.get(f"{side}input_ids")
        if where is not None and where.lengths:
            total += sum(where.lengths)
        elif isinstance(ids, Tensor):
            total += int(mask.sum()) if isinstance(mask, Tensor) and mask.shape == ids.shape else ids.numel()
    return total


def count_items(batch: Any, model: Any) -> float:
    """What the model's loss of this batch is a mean over: predicted tokens, real tokens, or rows."""
    if isinstance(batch, Fill):
        return 0.0
    if not isinstance(batch, Mapping):
        return float(rows_of(batch))
    labels, task = batch.get("labels"), task_of(model)
    if (
        not isinstance(labels, Tensor)
        or labels.ndim < 2
        or task not in ("CausalLM", "MaskedLM", "TokenClassification", "Seq2SeqLM", "PreTraining")
    ):
        return float(rows_of(batch))
    where, mask = batch.get("where"), batch.get("attention_mask")
    if task == "PreTraining":
        return float(labels.numel() if mask is None or where is not None else int(mask.sum()))
    known = labels != IGNORE
    if task == "CausalLM":  # the first token of a sequence is predicted from nothing
        known = known[:, 1:] if where is None else known[:, 1:] & (where.segment[:, 1:] == where.segment[:, :-1]).to(labels.device)
    return float(known.sum())


def loss_alone(model: Any) -> bool:
    """Whether a language model can give its loss without its logits: one of ours, whole in this process, its head without adapters."""
    base = getattr(model, "base_model", model)
    if not isinstance(base, PreTrainedModel) or not isinstance(base.head, LMHead) or len(getattr(model, "virtual", ())):
        return False
    hooked = any(module._forward_hooks for module in base.head.modules())  # pyright: ignore[reportPrivateUsage]
    return not hooked and all(type(p) is nn.Parameter for p in base.head.parameters())


def mean_loss(outputs: Any, batch: Mapping[str, Any], model: Any, smoothing: float) -> Tensor:
    """The loss that the model returned, or with ``smoothing`` the smoothed one. Raises InputError when there is none."""
    labels = batch.get("labels")
    if smoothing and isinstance(labels, Tensor):
        where, causal = batch.get("where"), task_of(model) == "CausalLM"
        return losses.smoothed(outputs["logits"], labels, smoothing, where.segment if where is not None and causal else None, causal)
    loss = (
        outputs.get("loss")
        if isinstance(outputs, Mapping)
        else getattr(outputs, "loss", outputs[0] if isinstance(outputs, tuple) else None)
    )
    if not isinstance(loss, Tensor):
        listed = ", ".join(batch)
        raise InputError(
            say(
                f"The model returned no loss: the batch has {listed}, but no labels. Name the data set's column of labels 'label' or 'labels'.",
                f"손실이 없습니다. 배치에 {listed}만 있고 labels가 없습니다. 데이터셋의 라벨 열 이름을 'label'이나 'labels'로 하세요.",
            )
        )
    return loss


def no_loss(outputs: Any, device: torch.device) -> Tensor:
    """A loss of zero from a batch with nothing to learn: its gradients, all zero, are what other processes wait for."""
    values = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, tuple | list) else (outputs,)
    learnt = [value for value in values if isinstance(value, Tensor) and value.requires_grad and value.ndim]
    return sum((value.sum() * 0 for value in learnt), torch.zeros((), device=device))


def check_labels(batch: Mapping[str, Any], model: Any) -> None:
    """Raises InputError for classes that the model does not have and for labels that are no numbers."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or not isinstance(getattr(model, "base_model", model), PreTrainedModel):
        return
    if labels.is_floating_point():
        if not bool(torch.isfinite(labels).all()):
            raise InputError(say("labels hold a NaN or an infinity.", "labels에 NaN이나 무한대가 있습니다."))
        return
    count, config = 0, model.config
    if task_of(model) in ("SequenceClassification", "TokenClassification") and config.num_labels > 1:
        count = 0 if config.problem_type in ("regression", "multi_label_classification") else config.num_labels
    known = labels[labels != IGNORE]
    if count and len(known) and not (int(known.min()) >= 0 and int(known.max()) < count):
        wrong = int(known.max()) if int(known.max()) >= count else int(known.min())
        raise InputError(
            say(
                f"labels hold {wrong}, but the model has {count} classes (0 to {count - 1}): load it with num_labels=.",
                f"labels에 {wrong}이(가) 있지만 모델의 클래스는 {count}개(0~{count - 1})입니다. num_labels=로 다시 불러오세요.",
            )
        )
