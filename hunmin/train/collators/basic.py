"""Collators that only bring rows together. The names and the order of their arguments are those of Transformers.

All of them give padded tensors ``(B, N)``, or with ``packed=True`` one row ``(1, N)`` and ``where`` (:func:`hunmin.train.rows.flatten`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hunmin.errors import InputError, say
from hunmin.nn.losses import IGNORE
from hunmin.train.rows import Labels, Row, as_rows, flatten, pad, tensor, unpadded


def default_data_collator(features: Any, return_tensors: str = "pt") -> dict[str, Any]:
    """Stack rows of one length; ``label`` and ``label_ids`` become ``labels``, texts are left out. Packed rows are flattened.

    Raises InputError for rows of different lengths.
    """
    _torch_only(return_tensors)
    rows = as_rows(features)
    if "lengths" in rows[0]:
        return flatten(rows)
    return {key: tensor(key, [row[key] for row in rows]) for key in rows[0] if all(key in row for row in rows)}


def _torch_only(return_tensors: str) -> None:
    if return_tensors != "pt":
        raise InputError(
            say(f"return_tensors={return_tensors!r}: collators give 'pt'.", f"return_tensors={return_tensors!r}: 'pt'만 됩니다.")
        )


@dataclass
class DataCollatorWithPadding:
    """Rows padded to the longest of the batch (or to ``max_length`` with ``padding="max_length"``).

    Args:
        tokenizer: knows the padding token and side.
        padding: True or "longest", "max_length", or False when the rows have one length already.
        pad_to_multiple_of: round the length up.
        packed: one row without padding instead.
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    packed: bool = False

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        return finish(self, as_rows(features))


@dataclass
class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """Rows with a label for every token; labels are padded too."""

    label_pad_token_id: int = IGNORE

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        rows = as_rows(features)
        for row in rows:
            if isinstance(row.get("labels"), list) and len(row["labels"]) != len(row["input_ids"]):
                raise InputError(
                    say(
                        f"A row has {len(row['input_ids'])} tokens and {len(row['labels'])} labels: align words with tokens by word_ids().",
                        f"토큰은 {len(row['input_ids'])}개인데 labels는 {len(row['labels'])}개입니다. word_ids()로 맞추세요.",
                    )
                )
        return finish(self, rows, "token", self.label_pad_token_id)


@dataclass
class DataCollatorForSeq2Seq:
    """Rows whose ``labels`` are a decoder's text. With ``model`` the batch has ``decoder_input_ids``, the labels shifted by one."""

    tokenizer: Any
    model: Any = None
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORE
    return_tensors: str = "pt"
    packed: bool = False

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        batch = finish(self, as_rows(features), "decoder", self.label_pad_token_id)
        if self.model is not None and "labels" in batch and "decoder_input_ids" not in batch:
            labels = batch["labels"].masked_fill(batch["labels"] == self.label_pad_token_id, IGNORE)
            batch["decoder_input_ids"] = self.model.shift_right(labels, batch.get("decoder_where"))
        return batch


@dataclass
class DataCollatorForMultipleChoice(DataCollatorWithPadding):
    """Rows with K texts each: ``input_ids`` and what goes with it are lists of K lists. Gives ``(B, K, N)``, or B * K packed sequences."""

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        rows = as_rows(features)
        counts = {len(row["input_ids"]) if _nested(row["input_ids"]) else 0 for row in rows}
        if len(counts) > 1 or 0 in counts:
            raise InputError(
                say(
                    f"Every row needs the same number of choices, each a list of token ids; found {sorted(counts)}.",
                    f"모든 행의 선택지(토큰 id 리스트) 수가 같아야 합니다. 받은 수: {sorted(counts)}.",
                )
            )
        choices = [{k: v[i] for k, v in row.items() if _nested(v)} for row in rows for i in range(len(row["input_ids"]))]
        batch = finish(self, choices)
        if not self.packed:
            batch = {key: value.unflatten(0, (len(rows), -1)) for key, value in batch.items()}
        if all("labels" in row for row in rows):
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch


def _nested(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, list) for item in value)  # pyright: ignore[reportUnknownVariableType]


@dataclass
class DataCollatorWithFlattening:
    """All rows in one, without padding and without a tokenizer. Causal language models learn from ``input_ids`` where there are no labels."""

    def __call__(self, features: Any, return_tensors: str = "pt") -> dict[str, Any]:
        rows = as_rows(features)
        if not any("labels" in row or "start_positions" in row for row in rows):
            rows = [{**row, "labels": row["input_ids"]} for row in unpadded(rows)]
        return flatten(rows)


def finish(collator: Any, rows: Sequence[Row], labels: Labels | None = None, label_pad: int = IGNORE) -> dict[str, Any]:
    """The batch that ``collator`` (with ``tokenizer``, ``packed`` and perhaps options of padding) was asked for.

    Rows that were packed before have no padded form and are flattened.
    """
    _torch_only(getattr(collator, "return_tensors", "pt"))
    if collator.packed or any("lengths" in row for row in rows):
        if label_pad != IGNORE:
            rows = [{**row, "labels": [IGNORE if v == label_pad else v for v in row["labels"]]} if "labels" in row else row for row in rows]
        return flatten(rows, labels)
    padding = getattr(collator, "padding", True)
    length = getattr(collator, "max_length", None) if padding == "max_length" else None
    if padding is False or padding == "do_not_pad":
        return default_data_collator(rows)
    batch = pad(rows, collator.tokenizer, labels, length=length, multiple=getattr(collator, "pad_to_multiple_of", None))
    if label_pad != IGNORE and "labels" in batch:
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == IGNORE, label_pad)
    return batch


def with_packing(collator: Any) -> Any:
    """The same collator, giving packed rows; one that has no such form as it is."""
    return replace(collator, packed=True) if hasattr(collator, "packed") else collator
