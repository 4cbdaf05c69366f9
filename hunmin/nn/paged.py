"""Views of pages that attention takes for a cache: prompts being read, rows that grow by a token at a time, and a copy to keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hunmin.nn.cache import GROW, Cache
from hunmin.nn.pages import SIZE, Pages
from hunmin.nn.where import Where


def _tokens(pages: Sequence[int], start: int, end: int) -> Tensor:
    """Where the tokens ``start`` … ``end - 1`` of a sequence lie, page times SIZE plus slot."""
    position = torch.arange(start, end)
    return torch.tensor(list(pages))[position // SIZE] * SIZE + position % SIZE


def _use(site: str) -> int:
    return int(site.rpartition(".")[2])


class Reading(Cache):
    """Parts of prompts, packed in one row: of sequence i the tokens from ``starts[i]``, ``lengths[i]`` of them, whose pages are ``tables[i]``.

    What is appended goes into the pages. Attention gets the keys of every sequence from its beginning on.
    """

    def __init__(self, pages: Pages, tables: Sequence[Sequence[int]], starts: Sequence[int], lengths: Sequence[int]) -> None:
        super().__init__()
        self.pages, self.starts = pages, list(starts)
        self.ends = [s + n for s, n in zip(starts, lengths, strict=True)]
        spans = list(zip(tables, starts, self.ends, strict=True))
        self._new = torch.cat([_tokens(t, s, e) for t, s, e in spans]).to(pages.device)
        self._all = torch.cat([_tokens(t, 0, e) for t, _, e in spans]).to(pages.device) if any(starts) else self._new
        self._places: dict[int, tuple[Tensor, Tensor]] = {}
        self._keys_at: tuple[Where, Where] | None = None

    @property
    def where(self) -> Where:
        """Places of the new tokens; one sequence alone is a plain row."""
        lengths = [e - s for s, e in zip(self.starts, self.ends, strict=True)]
        if len(lengths) == 1:
            return Where.plain(1, lengths[0], self.starts[0], self.pages.device)
        return Where.packed(lengths, self.pages.device, self.starts)

    def append(self, site: str, k: Tensor, v: Tensor, at: Where) -> tuple[Tensor, Tensor, Where]:
        use, pages = _use(site), self.pages
        heads = pages.shapes[use][0]
        if heads not in self._places:  # the same in every layer with as many heads
            self._places[heads] = pages.places(use, self._new), pages.places(use, self._all)
        new, everything = self._places[heads]
        pages.write(use, new, k[0], v[0])
        if not any(self.starts):
            if pages.rounded:  # everybody sees the rounded numbers, however the prompt is cut
                k, v = (t[None] for t in pages.read(use, new, k.dtype))
            return k, v, at
        if self._keys_at is None or self._keys_at[0] is not at:
            one = len(self.ends) == 1
            self._keys_at = at, Where.plain(1, self.ends[0], device=pages.device) if one else Where.packed(self.ends, pages.device)
        k, v = (t[None] for t in pages.read(use, everything, k.dtype))
        return k, v, self._keys_at[1]


class Growing(Cache):
    """R rows side by side: their keys and values so far are copied out of the pages once, what is appended goes to both.

    ``table`` ``(R, P)`` has the pages of each row, ``lengths`` their tokens so far.
    """

    def __init__(self, pages: Pages, table: Tensor, lengths: Sequence[int]) -> None:
        super().__init__()
        self.pages = pages
        sizes = torch.tensor(list(lengths))[:, None]
        place = torch.arange(max(lengths))
        position = torch.minimum(place, sizes - 1)  # what lies behind the end of a row could be anything, even NaN
        tokens = (table.long().gather(1, position // SIZE) * SIZE + position % SIZE).to(pages.device)
        at = Where.padded(place < sizes).to(pages.device)
        room = max(GROW, len(place) // 2)
        places: dict[int, Tensor] = {}
        for use, (heads, width) in enumerate(pages.shapes):
            if heads not in places:
                places[heads] = pages.places(use, tokens)
            both = list[Tensor]()
            for found in pages.read(use, places[heads], pages.dtype):
                wide = found.new_empty(len(tokens), len(place) + room, heads, width)
                wide[:, : len(place)] = found
                both.append(wide)
            self._kv[f"self.{use}"], self._at[f"self.{use}"] = (both[0], both[1]), at
        self._slots: Tensor | None = None
        self._tokens = tokens[:, 0]
        self._places: dict[int, Tensor] = {}

    def goes_to(self, tokens: Tensor, slots: Tensor | None) -> None:
        """The next token of the rows ``slots`` (None: of all) is to be written at ``tokens`` ``(R,)``, page times SIZE plus slot."""
        self._tokens, self._slots, self._places = tokens.to(self.pages.device), slots, {}

    def append(self, site: str, k: Tensor, v: Tensor, at: Where) -> tuple[Tensor, Tensor, Where]:
        use, pages, slots = _use(site), self.pages, self._slots
        heads = pages.shapes[use][0]
        if heads not in self._places:
            self._places[heads] = pages.places(use, self._tokens)
        kept = (k[:, 0], v[:, 0]) if slots is None else (k[slots, 0], v[slots, 0])
        pages.write(use, self._places[heads], *kept)
        if pages.rounded:
            k, v = k.clone(), v.clone()
            index = slots if slots is not None else slice(None)
            k[index, 0], v[index, 0] = pages.read(use, self._places[heads], k.dtype)
        keys, values, keys_at = super().append(site, k.to(pages.dtype), v.to(pages.dtype), at)
        return keys.to(k.dtype), values.to(v.dtype), keys_at


class Aligned(Cache):
    """A copy of some rows that needs the pages no more: row i holds ``lengths[i]`` tokens after ``padding[i]`` columns of padding."""

    def __init__(self, pages: Pages, tables: Sequence[Sequence[int]], padding: Sequence[int], lengths: Sequence[int]) -> None:
        super().__init__()
        width = max(p + n for p, n in zip(padding, lengths, strict=True))
        tokens, real = torch.zeros(len(tables), width, dtype=torch.long), torch.zeros(len(tables), width, dtype=torch.bool)
        for i, (table, start, n) in enumerate(zip(tables, padding, lengths, strict=True)):
            tokens[i] = _tokens(table[:1], 0, 1)  # padding repeats a token: what was never written could be NaN
            tokens[i, start : start + n], real[i, start : start + n] = _tokens(table, 0, n), True
        at, places = Where.padded(real).to(pages.device), dict[int, Tensor]()
        for use, (heads, _) in enumerate(pages.shapes):
            if heads not in places:
                places[heads] = pages.places(use, tokens.to(pages.device))
            self._kv[f"self.{use}"], self._at[f"self.{use}"] = pages.read(use, places[heads], pages.dtype), at
