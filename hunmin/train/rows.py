"""From rows to a batch, without padding. A row is what a tokenizer gives for one example: ``input_ids``, ``labels``, …

``flatten`` lays the rows of a batch one after another into a single row, and ``Where.packed`` tells the model where each of them begins.
Every token that is computed is then a token of the data; the loss is that of the padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.nn.losses import IGNORE
from hunmin.nn.where import Where
from hunmin.text.batch import plain

Row = dict[str, Any]
# What labels belong to: every token, the whole sequence, or the tokens of a decoder.
Labels = Literal["token", "sequence", "decoder"]
# The same by the task of a model; a classifier's may be a number, a list of numbers or one of several labels.
TASK_LABELS: dict[str, Labels] = {
    "CausalLM": "token",
    "MaskedLM": "token",
    "PreTraining": "token",
    "TokenClassification": "token",
    "Seq2SeqLM": "decoder",
    "SequenceClassification": "sequence",
    "NextSentencePrediction": "sequence",
}
POSITIONS = ("start_positions", "end_positions")
DECODER = ("labels", "decoder_input_ids", "decoder_attention_mask")
NOT_FOR_THE_MODEL = (
    "attention_mask",
    "decoder_attention_mask",
    "special_tokens_mask",
    "position_ids",
    "lengths",
    "word_ids",
    "offset_mapping",
)


def as_rows(features: Any) -> list[Row]:
    """Rows as dictionaries of lists and numbers, from a list of mappings or one mapping of columns.

    ``label`` and ``label_ids`` become ``labels``; texts and None are left out. Raises InputError without rows or without ``input_ids``.
    """
    if isinstance(features, Mapping):
        columns = {str(key): column for key, value in features.items() if isinstance(column := plain(value), list)}
        sizes = set(map(len, columns.values()))
        features = [{key: column[i] for key, column in columns.items()} for i in range(sizes.pop() if len(sizes) == 1 else 0)]
    rows = [_row(row) for row in features] if isinstance(features, Sequence) else []
    if not rows or any("input_ids" not in row for row in rows):
        found = ", ".join(rows[0])[:100] if rows else "nothing"
        raise InputError(
            say(
                f"A batch needs rows with input_ids, not {found}. Tokenize the data set first: dataset.map(lambda row: tokenizer(row['text'])).",
                f"배치의 각 행에 input_ids가 필요합니다(받은 것: {found}). dataset.map(lambda row: tokenizer(row['text']))로 먼저 토큰화하세요.",
            )
        )
    return rows


def _row(row: Any) -> Row:
    if not isinstance(row, Mapping):
        return {}
    values = {str(key): _lists(value) for key, value in row.items()}
    for old in ("label", "label_ids"):
        if values.get(old) is not None:
            values["labels"] = values.pop(old)
    return {key: value for key, value in values.items() if _numbers(value)}


def _lists(value: Any) -> Any:
    """Tensors and arrays as lists; the usual list of numbers as it is."""
    usual = isinstance(value, list) and value and isinstance(value[0], (int, float))
    return value if usual else plain(value)  # pyright: ignore[reportUnknownVariableType]


def texts(features: Any) -> list[list[int]]:
    """The ids of every row alone, without padding."""
    rows = [{key: row[key] for key in ("input_ids", "attention_mask") if key in row} for row in as_rows(features)]
    return [list(row["input_ids"]) for row in unpadded(rows)]


def _numbers(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = next((item for item in value if item is not None), None)  # pyright: ignore[reportUnknownVariableType]
    return isinstance(value, (int, float, list))


def labels_of(rows: Sequence[Row]) -> Labels | None:
    """What the labels of rows belong to, by their shape; None without labels.

    Numbers and lists of floats or of zeros and ones of one length belong to sequences, lists as long as ``input_ids`` to tokens, other
    lists to a decoder. Say it where you know it: a decoder's labels may happen to be as long as the input.
    """
    if any("decoder_input_ids" in row for row in rows):
        return "decoder"
    labels = [row["labels"] for row in rows if "labels" in row]
    if not labels:
        return None
    if not all(isinstance(value, list) for value in labels) or any(isinstance(item, float) for value in labels for item in value):
        return "sequence"
    if all(len(row["labels"]) == len(row["input_ids"]) for row in rows if "labels" in row):
        return "token"
    several = len({len(value) for value in labels}) == 1 and all(item in (0, 1) for value in labels for item in value)
    return "sequence" if several else "decoder"


def _checked(rows: Sequence[Row], labels: Labels | None) -> Labels | None:
    """What labels belong to. Raises InputError for rows that are none: nested ids, a mask of another length, no list of labels."""
    for row in rows:
        ids, mask = row["input_ids"], row.get("attention_mask")
        if not isinstance(ids, list) or (ids and not isinstance(ids[0], int)) or (mask is not None and _length(mask) != len(ids)):  # pyright: ignore[reportUnknownArgumentType]
            raise InputError(
                say(
                    "input_ids of a row must be a list of whole numbers, and attention_mask as long as it.",
                    "행의 input_ids는 정수 리스트여야 하고 attention_mask의 길이가 그와 같아야 합니다.",
                )
            )
        if labels in ("token", "decoder") and not isinstance(row.get("labels", []), list):
            raise InputError(
                say(
                    "labels are one number a row, and this objective needs a list: a label for every token, or the ids of a text.",
                    "labels가 행마다 숫자 하나입니다. 이 목적에는 토큰마다 하나이거나 텍스트의 id인 리스트가 필요합니다.",
                )
            )
    return labels or labels_of(rows)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else -1  # pyright: ignore[reportUnknownArgumentType]


def unpadded(rows: Sequence[Row], labels: Labels | None = None) -> list[Row]:
    """Rows without the padding that ``attention_mask`` marks on either side, with everything that goes token by token cut alike.

    The positions of answers move with padding on the left. A decoder's labels lose what is left out (-100) at their end.
    Raises InputError for a mask with a hole: without its padding the row would be another one.
    """
    labels = _checked(rows, labels)
    return [_unpadded_decoder(_unpadded(row, labels)) if labels == "decoder" else _unpadded(row, labels) for row in rows]


def _unpadded(row: Row, labels: Labels | None) -> Row:
    mask = row.get("attention_mask")
    if mask is None or all(mask):
        return dict(row)
    size, first = len(mask), next((i for i, real in enumerate(mask) if real), 0)
    last = size - next((i for i, real in enumerate(reversed(mask)) if real), size)
    if not all(mask[first:last]):
        raise InputError(
            say(
                "attention_mask has zeros between ones. Such a row cannot be laid out without padding.",
                "attention_mask의 1 사이에 0이 있습니다. 이런 행은 패딩 없이 배치할 수 없습니다.",
            )
        )
    out = {key: value[first:last] if per_token(key, value, size, labels) else value for key, value in row.items()}
    return out | {key: row[key] - first for key in POSITIONS if key in row}


def _unpadded_decoder(row: Row) -> Row:
    labels = row.get("labels", [])
    kept = next((len(labels) - i for i, label in enumerate(reversed(labels)) if label != IGNORE), 1)
    return {key: value[:kept] if labels and key in DECODER else value for key, value in row.items()}


def per_token(key: str, value: Any, size: int, labels: Labels | None) -> bool:
    """Whether a value has an entry for each of ``size`` tokens."""
    if key in DECODER and (key != "labels" or labels != "token"):
        return False
    return _length(value) == size


def flatten(rows: Sequence[Row], labels: Labels | None = None) -> dict[str, Any]:
    """One row ``(1, N)`` that holds all ``rows``, their padding left out, and ``where`` that says where each begins.

    Labels of tokens are ``(1, N)``, those of sequences ``(B,)`` or ``(B, L)``; those of a decoder ``(1, M)``, with ``decoder_where``.
    A row that was packed before has ``lengths``, and stays as many sequences. Rows without tokens are left out.

    Raises:
        InputError: rows without tokens whose labels would be lost, or nothing but such rows.
    """
    rows = as_rows(rows)
    labels = _checked(rows, labels)
    rows = unpadded(rows, labels)
    kept = [row for row in rows if row["input_ids"]]
    if not kept or (len(kept) < len(rows) and labels in ("sequence", "decoder")):
        raise InputError(
            say(
                "A row of the batch has no tokens. Leave such rows out: dataset.filter(lambda row: row['input_ids']).",
                "토큰이 없는 행이 있습니다. dataset.filter(lambda row: row['input_ids'])로 빼세요.",
            )
        )
    lengths = [n for row in kept for n in row.get("lengths") or [len(row["input_ids"])]]
    out: dict[str, Any] = {"where": Where.packed(lengths)}
    for key in kept[0]:
        values = [row[key] for row in kept if key in row]
        if key in NOT_FOR_THE_MODEL or len(values) < len(kept):
            continue
        whole = all(per_token(key, row[key], len(row["input_ids"]), labels) for row in kept)
        if whole or (labels == "decoder" and key in DECODER):
            out[key] = torch.tensor([[item for value in values for item in value]])
        else:
            out[key] = tensor(key, values)
        if labels == "decoder" and key in DECODER:
            out["decoder_where"] = Where.packed([len(value) for value in values])
    return out


def tensor(key: str, values: list[Any]) -> Tensor:
    """``values`` of a batch as a tensor ``(B, …)``. Raises InputError when they differ in length."""
    try:
        return torch.tensor(values)
    except (ValueError, TypeError) as error:
        raise InputError(
            say(
                f"{key} differs in length from row to row and is not one value a token. Remove that column.",
                f"{key}의 길이가 행마다 다르고 토큰마다 하나인 값도 아닙니다. 이 열을 빼세요.",
            )
        ) from error


def pad(
    rows: Sequence[Row], tokenizer: Any, labels: Labels | None = None, *, length: int | None = None, multiple: int | None = None
) -> dict[str, Any]:
    """Rows of one length ``(B, N)`` with ``attention_mask``: the longest row's or ``length``, rounded up to a ``multiple``.

    Labels are padded with -100. Raises InputError when padding is needed and the tokenizer has no padding token.
    """
    rows = as_rows(rows)
    labels = _checked(rows, labels)
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0), "special_tokens_mask": 1}
    right = tokenizer.padding_side == "right"

    def block(key: str, values: list[list[Any]], right: bool, length: int | None = None) -> Tensor:
        size = _rounded(max([length or 0, *map(len, values)]), multiple)
        value = IGNORE if key == "labels" else fill.get(key, 0)
        if value is None and any(len(row) < size for row in values):
            raise InputError(
                say(
                    "This tokenizer has no padding token: set tokenizer.pad_token = tokenizer.eos_token.",
                    "이 토크나이저에는 패딩 토큰이 없습니다: tokenizer.pad_token = tokenizer.eos_token으로 정하세요.",
                )
            )
        more = [[value] * (size - len(row)) for row in values]
        return torch.tensor([row + extra if right else extra + row for row, extra in zip(values, more, strict=True)])

    rows = [{**row, "attention_mask": row.get("attention_mask") or [1] * len(row["input_ids"])} for row in rows]
    out: dict[str, Any] = {}
    for key in rows[0]:
        values = [row[key] for row in rows if key in row]
        if len(values) < len(rows) or key in ("lengths", "word_ids", "offset_mapping"):
            continue
        if all(per_token(key, row[key], len(row["input_ids"]), labels) for row in rows):
            out[key] = block(key, values, right, length)
        elif labels == "decoder" and key in DECODER:
            out[key] = block(key, values, True)  # a decoder begins with its start token
        else:
            out[key] = tensor(key, values)
    if not right:  # what stands in front of a row moves the positions in it
        moved = out["input_ids"].shape[1] - torch.tensor([len(row["input_ids"]) for row in rows])
        out |= {key: out[key] + moved for key in POSITIONS if key in out}
    return out


def _rounded(length: int, multiple: int | None) -> int:
    return -(-length // multiple) * multiple if multiple else length


def without_padding(batch: Mapping[str, Any], labels: Labels | None = None) -> dict[str, Any]:
    """A padded batch of any collator as ``flatten`` would have made it; ``TASK_LABELS[model.task]`` says what its labels belong to.

    ``(B, K, N)`` of multiple choice become B * K sequences. A batch that cannot be flattened stays as it is: one without
    ``attention_mask``, or with inputs that are no tokens.
    """
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or {"where", "past_key_values", "inputs_embeds"} & batch.keys():
        return dict(batch)
    settings = {key: value for key, value in batch.items() if not isinstance(value, Tensor) or not value.ndim}
    if ids.ndim == 3:
        choices = {key: value.flatten(0, 1) for key, value in batch.items() if isinstance(value, Tensor) and value.ndim == 3}
        return flatten(as_rows(choices)) | settings | {key: batch[key] for key in ("labels",) if key in batch}
    return flatten(as_rows({key: value for key, value in batch.items() if key not in settings}), labels) | settings
