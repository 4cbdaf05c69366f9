"""Padding rows that were encoded earlier, as data collators do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hunmin.errors import InputError, say
from hunmin.text.batch import BatchEncoding, plain
from hunmin.text.options import Options


def pad_rows(encoded: Any, how: Options, *, pad_id: int, pad_type_id: int, mask: bool, tensors: Any) -> BatchEncoding:
    """Pad ``input_ids`` and what goes with it to ``how``; see :meth:`hunmin.text.tokenizer.Tokenizer.pad`."""
    if isinstance(encoded, (list, tuple)) and encoded and isinstance(encoded[0], Mapping):
        rows: list[Mapping[str, Any]] = list(encoded)  # pyright: ignore[reportUnknownArgumentType]
        encoded = {key: [row[key] for row in rows] for key in rows[0]}
    if not isinstance(encoded, Mapping) or "input_ids" not in encoded:
        raise InputError(
            say(
                "pad() needs input_ids: a dictionary of lists, or a list of dictionaries as tokenizer(...) returns them.",
                "pad()에는 input_ids가 필요합니다: 토크나이저가 돌려준 사전이나 그 리스트를 주세요.",
            )
        )
    if tensors is None and (found := _kind(encoded["input_ids"])):
        tensors = found
    data: dict[str, list[Any]] = {str(key): plain(value) for key, value in encoded.items()}
    ids = data["input_ids"]
    single = bool(ids) and not isinstance(ids[0], list)
    if single:
        data = {key: [value] for key, value in data.items()}
        ids = data["input_ids"]
    if mask and "attention_mask" not in data:
        data["attention_mask"] = [[1] * len(row) for row in ids]
    if how.padding != "do_not_pad" and ids:
        length = how.max_length if how.padding == "max_length" and how.max_length is not None else max(len(row) for row in ids)
        if how.multiple:
            length = -(-length // how.multiple) * how.multiple
        lengths = [len(row) for row in ids]
        fill = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": pad_type_id, "special_tokens_mask": 1}
        for key in fill.keys() & data.keys():
            extra = [[fill[key]] * max(0, length - n) for n in lengths]
            data[key] = [row + more if how.side == "right" else more + row for row, more in zip(data[key], extra, strict=True)]
    return BatchEncoding({key: value[0] for key, value in data.items()} if single else data, tensor_type=tensors)


def _kind(ids: Any) -> str | None:
    """``"pt"`` or ``"np"`` for tensors, arrays and lists of them, else None."""
    first = ids[0] if isinstance(ids, (list, tuple)) and ids else ids  # pyright: ignore[reportUnknownVariableType]
    return {"torch": "pt", "numpy": "np"}.get(type(first).__module__.split(".")[0])  # pyright: ignore[reportUnknownArgumentType]
