"""Where each token sits: one idea behind padding, packing, causality, sliding windows, cross-attention and caches.

A token has a segment (which sequence it belongs to; -1 is padding) and a position in it. Whether a query sees a key follows from these
two numbers alone, so no cache and no batch layout needs mask code of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from hunmin.errors import InputError, say

BRIEF = 64  # tokens
SPARE = 1024  # pairs of a query and a key: computing so many for nothing costs less than another batch
T = TypeVar("T")
Kind = Literal["plain", "padded", "packed"]


class Where:
    """Segment and position of every token, both ``(B, N)``.

    ``kind`` is known on the host, so that no GPU is read to choose a kernel: ``plain`` rows are whole sequences at consecutive positions,
    ``padded`` rows hold one sequence and padding, a ``packed`` row holds several sequences one after another.
    ``end`` is one more than the largest position, also known on the host. ``lengths`` and ``starts`` are of a packed row: how many tokens
    of each sequence it holds, and the position of the first of them.

    A packed row whose sequences share what they begin with (:meth:`shared`) holds of each what is new. ``whole`` then are the sequences as
    queries look at them: ``lengths`` are the full ones, and ``columns`` ``(sum(lengths),)``, on the host, say which column of the row holds
    each of their tokens.
    """

    kind: Kind

    def __init__(
        self,
        segment: Tensor,
        position: Tensor,
        kind: Kind,
        end: int,
        lengths: Sequence[int] = (),
        starts: Sequence[int] = (),
        columns: Tensor | None = None,
    ) -> None:
        self.segment, self.position, self.kind, self.end, self.lengths = segment, position, kind, end, list(lengths)
        self.starts, self.columns = list(starts) or [0] * len(self.lengths), columns
        self.whole: Where | None = None
        self._memo: dict[Any, Any] = {}

    @classmethod
    def plain(cls, batch: int, length: int, start: int = 0, device: torch.device | str | None = None) -> Where:
        """``batch`` rows of ``length`` tokens at positions ``start``, ``start + 1``, …"""
        position = torch.arange(start, start + length, device=device).expand(batch, length)
        return cls(torch.zeros_like(position), position, "plain", start + length)

    @classmethod
    def padded(cls, mask: Tensor) -> Where:
        """From an attention mask ``(B, N)`` of ones and zeros; padding may stand on either side.

        Positions count from the first real token, so padding on the left moves nothing.
        """
        real = mask.to(torch.bool)
        if mask.device.type == "cpu" and bool(real.all()):
            return cls.plain(mask.shape[0], mask.shape[1])
        first = real.long().argmax(-1, keepdim=True)
        position = (torch.arange(mask.shape[1], device=mask.device) - first).clamp(min=0)
        segment = torch.where(real, 0, -1)
        return cls(segment, position, "padded", mask.shape[1])

    @classmethod
    def packed(cls, lengths: Sequence[int], device: torch.device | str | None = None, starts: Sequence[int] = ()) -> Where:
        """One row ``(1, sum(lengths))`` that holds a sequence of each length, with no padding between them.

        ``starts`` are positions to begin at, where earlier tokens of the sequences lie in a cache; without them all begin at 0.
        """
        starts = list(starts) or [0] * len(lengths)
        segment = torch.cat([torch.full((n,), i, device=device) for i, n in enumerate(lengths)])
        position = torch.cat([torch.arange(s, s + n, device=device) for s, n in zip(starts, lengths, strict=True)])
        return cls(segment[None], position[None], "packed", max(s + n for s, n in zip(starts, lengths, strict=True)), lengths, starts)

    @property
    def shape(self) -> torch.Size:
        return self.position.shape

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Where:
        """The same places on another device, as loops over batches move everything."""
        segment, position = (t.to(device, non_blocking=non_blocking) for t in (self.segment, self.position))
        moved = Where(segment, position, self.kind, self.end, self.lengths, self.starts, self.columns)
        moved.whole = self.whole.to(device, non_blocking) if self.whole is not None else None
        return moved

    def shared(self, ids: Tensor) -> tuple[Where, Tensor]:
        """This packed row of ``ids`` ``(1, N)`` with what its sequences begin alike with held once, and the M columns of it that are left.

        For decoders that see what is before a token and nothing else: there equal beginnings are computed alike. A sequence that holds nothing
        new has no token of its own. ``whole.columns`` of the places say for each of the N tokens which of the M it is.
        """
        tokens, known = iter(ids[0].tolist()), dict[tuple[int, int], int]()
        columns, kept, new = list[int](), list[int](), list[int]()
        for n in self.lengths:
            before, first = -1, len(known)
            for token in islice(tokens, n):
                if (before, token) not in known:  # a column is known by the one before it and its token
                    known[before, token] = len(known)
                    kept.append(len(columns))
                before = known[before, token]
                columns.append(before)
            new.append(len(known) - first)
        device = self.position.device
        found = Where.packed(new, device, [n - own for n, own in zip(self.lengths, new, strict=True)])
        found.whole = Where(self.segment, self.position, "packed", self.end, self.lengths, columns=torch.tensor(columns))
        return found, torch.tensor(kept, device=device)

    def memo(self, key: Any, make: Callable[[], T]) -> T:
        """``make()``, once for this object: masks, rotations and biases are the same in every layer of a forward pass."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def last(self, n: int) -> Where:
        """The last ``n`` columns: the new tokens of a row whose earlier ones lie in a cache."""
        if self.kind == "plain":
            return Where.plain(self.shape[0], n, self.end - n, self.position.device)
        return Where(self.segment[:, -n:], self.position[:, -n:], self.kind, self.end)

    def after(self, n: int) -> Where:
        """Places of the next ``n`` tokens of every row; padding on the right of a row stays where it is, between its tokens."""
        if self.kind == "plain":
            return Where.plain(self.shape[0], n, self.end, self.position.device)
        newest = torch.where(self.segment >= 0, self.position, -1).amax(-1, keepdim=True)
        position = newest + 1 + torch.arange(n, device=newest.device)
        return Where(torch.zeros_like(position), position, "padded", self.end + n)

    def join(self, new: Where) -> Where:
        """The keys of a cache after ``new`` tokens were appended to these."""
        kind: Kind = "plain" if self.kind == new.kind == "plain" and new.end - new.shape[1] == self.end else "padded"
        return Where(torch.cat([self.segment, new.segment], 1), torch.cat([self.position, new.position], 1), kind, max(self.end, new.end))

    def pick(self, rows: Tensor) -> Where:
        """The given rows: beams that survive, finished sequences that leave."""
        return Where(self.segment[rows], self.position[rows], self.kind, self.end)

    def parts(self) -> list[tuple[slice, Where]]:
        """The sequences of a packed row, each as a plain row of its own."""

        def cut() -> list[tuple[slice, Where]]:
            out, column = list[tuple[slice, Where]](), 0
            for n, start in zip(self.lengths, self.starts, strict=True):
                out.append((slice(column, column + n), Where.plain(1, n, start, self.position.device)))
                column += n
            return out

        return self.memo("parts", cut)

    def blocks(self, keys: Where) -> Blocks:
        """The sequences of two packed rows, these and ``keys``, in batches of about one length.

        Short sequences share a batch up to the next multiple of eight: for a row of a hundred headlines six products instead of a hundred.
        """
        keys = keys.whole or keys
        # `keys` is part of the value, so that its id cannot be reused while the entry lives
        return self.memo(("blocks", id(keys)), lambda: (_blocks(self, keys), keys))[0]

    def extent(self) -> Tensor:
        """Length of the sequence that each token belongs to, ``(B, N)``; needed by rotations that depend on it."""

        def measure() -> Tensor:
            if self.kind == "packed":
                ends = [start + n for start, n in zip(self.starts, self.lengths, strict=True)]
                return torch.tensor(ends, device=self.position.device)[self.segment]
            return torch.where(self.segment >= 0, self.position, 0).amax(-1, keepdim=True).expand(self.shape) + 1

        return self.memo("extent", measure)

    def first_and_last(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(row, column) of the first and of the last token of every sequence: ``(B,)`` each, or ``(segments,)`` when packed."""
        device = self.position.device
        if self.kind == "packed":
            row = self.whole or self
            lengths = torch.tensor(row.lengths)
            last = lengths.cumsum(0) - 1
            first = last + 1 - lengths
            if row.columns is not None:
                first, last = row.columns[first], row.columns[last]
            rows = torch.zeros_like(last, device=device)
            return (rows, first.to(device)), (rows, last.to(device))
        rows, real = torch.arange(self.shape[0], device=device), (self.segment >= 0).long()
        return (rows, real.argmax(-1)), (rows, self.shape[1] - 1 - real.flip(-1).argmax(-1))


def kept(values: Tensor, mask: Tensor) -> Tensor:
    """What ``values`` ``(B, N, …)`` have where ``mask`` ``(B, N)`` is True, as one row ``(1, K, …)``."""
    if mask.dtype != torch.bool or values.shape[:2] != mask.shape:
        raise InputError(
            say(
                f"A mask of tokens is bool and shaped {tuple(values.shape[:2])}, not {mask.dtype} and {tuple(mask.shape)}.",
                f"토큰 마스크는 bool이고 모양이 {tuple(values.shape[:2])}여야 합니다. 받은 것: {mask.dtype}, {tuple(mask.shape)}.",
            )
        )
    return values[mask.to(values.device)][None]


@dataclass
class Blocks:
    """Packed sequences as batches. Places beyond the end of a sequence repeat its last token, and nobody looks at them.

    ``pairs`` are the places ``(B, N)`` of queries and keys of each batch. ``queries`` and ``keys`` say, for all batches one after another,
    which column of the row stands there; ``back`` says for every column of the queries' row where it is then.
    """

    pairs: list[tuple[Where, Where]]
    queries: Tensor
    keys: Tensor
    back: Tensor


def _blocks(queries: Where, keys: Where) -> Blocks:
    device, begun = queries.position.device, 0
    pairs, columns, key_columns = list[tuple[Where, Where]](), list[Tensor](), list[Tensor]()
    back = torch.empty(queries.shape[1], dtype=torch.long)
    for members in _alike(queries, keys):  # on the host, which knows all lengths
        at, places = _batch(queries, members)
        key_at, key_places = (at, places) if keys is queries else _batch(keys, members)
        if at.kind == key_at.kind == "plain" and at.shape == key_at.shape:  # the same places, which kernels are chosen by
            key_at = at
        real = (at.segment >= 0).flatten()
        back[places.flatten()[real]] = begun + real.nonzero()[:, 0]
        begun += len(real)
        query = at.to(device)
        pairs.append((query, query if key_at is at else key_at.to(device)))
        columns.append(places.flatten())
        key_columns.append(key_places.flatten())
    taken = torch.cat(columns).to(device)
    return Blocks(pairs, taken, taken if keys is queries else torch.cat(key_columns).to(device), back.to(device))


def _alike(queries: Where, keys: Where) -> list[list[int]]:
    """Numbers of sequences whose lengths are about the same, the shortest first."""
    groups: dict[tuple[int, int], list[int]] = {}
    coarse = any(queries.starts)  # queries that continue keys need a mask anyway: a few more hidden keys cost less than another product
    for i, sizes in enumerate(zip(queries.lengths, keys.lengths, strict=True)):
        if not sizes[0]:  # all of it is in the row already
            continue
        n, m = (-(-size // 8) * 8 if size <= BRIEF or coarse else size for size in sizes)
        groups.setdefault((n, m), []).append(i)
    out, last = list[list[int]](), (0, 0)
    for size, members in sorted(groups.items()):
        width = max(size[0], last[0]), max(size[1], last[1])
        more = [(len(out[-1]), last), (len(members), size)] if out else []
        if out and sum(count * (width[0] * width[1] - n * m) for count, (n, m) in more) <= SPARE:
            out[-1] += members
            last = width
        else:
            out.append(members)
            last = size
    return out


def _batch(row: Where, members: Sequence[int]) -> tuple[Where, Tensor]:
    """Places of some sequences of a packed row as a batch ``(B, N)``, and the columns of the row."""
    sizes, starts = (torch.tensor([values[i] for i in members])[:, None] for values in (row.lengths, row.starts))
    ends = torch.tensor(list(accumulate(row.lengths)))[list(members), None]
    place = torch.arange(int(sizes.max()))
    at = Where.padded(place < sizes)
    if bool(starts.any()):
        at = Where(at.segment, at.position + starts, "padded", at.end + int(starts.max()))
    places = ends - sizes + torch.minimum(place, sizes - 1)
    return at, places if row.columns is None else row.columns[places]


def visible(q: Where, k: Where, causal: bool, window: int | None) -> Tensor:
    """``(B, 1, Q, K)``, True where a query may look at a key.

    A padding query sees every real key of its row: its output is not used, but a softmax over nothing would be NaN.
    """
    gap = q.position[:, :, None] - k.position[:, None, :]
    own, other = q.segment[:, :, None], k.segment[:, None, :]
    ok = ((own == other) | (own < 0)) & (other >= 0)
    if causal:
        ok = ok & (gap >= 0)
    if window is not None:
        ok = ok & (gap < window)
    return ok[:, None]


def additive(q: Where, k: Where, causal: bool, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """The mask to add to attention scores ``(B, 1, Q, K)``, or None when every query sees every key.

    Hidden keys get the smallest finite number, not minus infinity, so that even a query that sees nothing gives numbers.
    """
    window = None if window is not None and window >= max(q.end, k.end) else window
    if q.kind == k.kind == "plain" and window is None and (not causal or q.shape[1] == 1):
        return None

    def build() -> Tensor:
        hidden = ~visible(q, k, causal, window)
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)

    # `k` is part of the value, not only its id, so that the id cannot be reused while the entry lives
    return q.memo(("mask", id(k), causal, window, dtype), lambda: (build(), k))[0]
