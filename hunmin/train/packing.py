"""Several texts in one row of a fixed length, with the boundaries kept: no token is padding, and no token sees another text.

A packed row has ``input_ids`` and ``lengths``, those of its texts; collators turn them into ``Where.packed``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, get_args

from torch.utils.data import IterableDataset

from hunmin.errors import InputError, say
from hunmin.train.rows import Row, as_rows, labels_of, per_token, unpadded

Strategy = Literal["best_fit", "sequential", "wrapped"]


def pack(dataset: Any, length: int, strategy: Strategy = "best_fit", buffer: int = 1000) -> Any:
    """Rows of at most ``length`` tokens, each of several rows of ``dataset``.

    Args:
        dataset: rows with ``input_ids`` and perhaps labels of tokens: an object of ``datasets`` (also a stream), or any iterable.
        strategy: "best_fit" fills rows best (best-fit decreasing, Ding et al. 2024): the longest text first, each into the fullest row
            that has room. "sequential" keeps the order and starts a new row where a text does not fit. "wrapped" fills every row but
            the last of a buffer, cutting texts at its end. The first two cut only texts that are longer than a row.
        buffer: how many rows are looked at together.

    Returns:
        An object of the same kind for ``datasets``; otherwise an iterable data set, which can be gone through once or, if ``dataset``
        can, many times.

    Raises:
        InputError: an unknown strategy, a length below one, or labels that belong to whole texts.
    """
    if strategy not in get_args(Strategy) or length < 1 or buffer < 1:
        raise InputError(
            say(
                f"pack needs a length and a buffer above 0 and a strategy of {', '.join(get_args(Strategy))}, not {strategy!r}.",
                f"pack에는 0보다 큰 length와 buffer, {', '.join(get_args(Strategy))} 가운데 strategy가 필요합니다. 받은 값: {strategy!r}.",
            )
        )
    if hasattr(dataset, "column_names") and hasattr(dataset, "map"):
        columns = dataset.column_names or list(next(iter(dataset), {}))

        def packed(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            rows = pack_rows(as_rows(batch), length, strategy)
            return {key: [row[key] for row in rows] for key in rows[0]} if rows else {"input_ids": [], "lengths": []}

        return dataset.map(packed, batched=True, batch_size=buffer, remove_columns=columns)
    return Packed(dataset, length, strategy, buffer)


class Packed(IterableDataset[Row]):
    """The rows of :func:`pack`, made while somebody goes through them."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], length: int, strategy: Strategy, buffer: int) -> None:
        self.rows, self.length, self.buffer = rows, length, buffer
        self.strategy: Strategy = strategy

    def __iter__(self) -> Iterator[Row]:
        rows = iter(self.rows)
        while block := list(islice(rows, self.buffer)):
            yield from pack_rows(as_rows(block), self.length, self.strategy)


def pack_rows(rows: Sequence[Row], length: int, strategy: Strategy = "best_fit") -> list[Row]:
    """:func:`pack` for a list of rows."""
    if labels_of(rows) not in (None, "token"):
        raise InputError(
            say(
                "Only rows whose labels go token by token can be packed. For labels of whole texts, batches need no packing beforehand.",
                "토큰마다 labels가 있는 행만 패킹할 수 있습니다. 텍스트마다 labels가 하나면 미리 패킹하지 않아도 됩니다.",
            )
        )
    rows = [{k: v for k, v in row.items() if k != "attention_mask"} for row in unpadded(rows)]
    keys = [key for key in rows[0] if all(per_token(key, row.get(key), len(row["input_ids"]), "token") for row in rows)] if rows else []
    pieces = [{key: row[key] for key in keys} for row in rows if row["input_ids"]]
    if strategy == "wrapped":
        return list(_wrapped(pieces, length))
    pieces = [{key: piece[key][i : i + length] for key in keys} for piece in pieces for i in range(0, len(piece["input_ids"]), length)]
    fit = best_fit if strategy == "best_fit" else sequential
    return [_joined([pieces[i] for i in members]) for members in fit([len(piece["input_ids"]) for piece in pieces], length)]


def _joined(pieces: Sequence[Row]) -> Row:
    out = {key: [item for piece in pieces for item in piece[key]] for key in pieces[0]}
    return {**out, "lengths": [len(piece["input_ids"]) for piece in pieces]}


def _wrapped(pieces: Sequence[Row], length: int) -> Iterator[Row]:
    held, room = list[Row](), length
    for piece in pieces:
        at, size = 0, len(piece["input_ids"])
        while at < size:
            held.append({key: value[at : at + room] for key, value in piece.items()})
            taken = len(held[-1]["input_ids"])
            at, room = at + taken, room - taken
            if not room:
                yield _joined(held)
                held, room = [], length
    if held:
        yield _joined(held)


def best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Which of ``sizes`` share a row of ``length``: the largest first, each into the row with the least room that suffices."""
    rows, room = list[list[int]](), list[tuple[int, int]]()  # (what is left, row), sorted
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        at = bisect_left(room, (sizes[i], -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = length, len(rows)
            rows.append([])
        rows[row].append(i)
        if left > sizes[i]:
            insort(room, (left - sizes[i], row))
    return rows


def sequential(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Which of ``sizes`` share a row of ``length``, in their order."""
    rows, left = list[list[int]](), 0
    for i, size in enumerate(sizes):
        if size > left:
            rows.append([])
            left = length
        rows[-1].append(i)
        left -= size
    return rows


def group_texts(examples: Mapping[str, Sequence[Sequence[Any]]], block_size: int = 1024) -> dict[str, list[list[Any]]]:
    """All texts one after another in blocks of ``block_size``, without boundaries, as taught: ``dataset.map(group_texts, batched=True)``.

    What is left at the end of a batch is dropped. ``labels`` are the ids.
    """
    whole = {key: [item for text in texts for item in text] for key, texts in examples.items()}
    end = min((len(items) for items in whole.values()), default=0) // block_size * block_size
    out = {key: [items[i : i + block_size] for i in range(0, end, block_size)] for key, items in whole.items()}
    return out | {"labels": [list(block) for block in out["input_ids"]]}
