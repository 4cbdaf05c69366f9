"""Keys and values of many sequences in pages of one pool: a sequence takes pages as it grows, and shares those of a common beginning.

(Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention", sections 4.1 to 4.4.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.nn.attention import Attention
from hunmin.nn.layers import Transformer

SIZE = 32  # tokens of a page


class Pages:
    """Pages of all layers: ``keys[use]`` ``(pages, G, D, SIZE)`` and ``values[use]`` ``(pages, G, SIZE, D)``; page p belongs together in all.

    Keys stand transposed: the CPU kernel multiplies one dimension of many tokens at a time.

    ``shapes`` are (G, D) of every use of a layer. A page has owners, counted: it is free when the last one releases it. A page that has a
    name (the tokens up to its end) keeps its contents while it is free, and may be found again until its place is needed.

    The pool grows by doubling, up to ``limit`` pages. On a CPU its memory is only committed as it is written, so that a generous ``count``
    costs nothing. ``rounded`` keeps int8 numbers with a scale for each token and head in ``key_scales`` and ``value_scales``
    ``(pages, G, SIZE)``.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        *,
        count: int = 64,
        limit: int | None = None,
        rounded: bool = False,
    ) -> None:
        self.shapes, self.dtype, self.device = list(shapes), dtype, torch.device(device or "cpu")
        self.limit, self.rounded = limit, rounded
        self.count = max(1, count if limit is None else min(count, limit))
        self.keys, self.values = self._keys(self.count), self._values(self.count)
        self.key_scales, self.value_scales = (self._scales(self.count) for _ in range(2))
        self.owners = [0] * self.count
        self.taken = [0] * self.count  # how often each page was taken: a number that changes with its contents
        self._free = list(reversed(range(self.count)))  # the last one freed comes first: it is in the processor's caches
        self._named: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # free, but with contents that may be found again; the oldest first

    @classmethod
    def of(cls, stack: Transformer, dtype: torch.dtype, device: torch.device, **options: int | bool | None) -> Pages:
        """For the layers of a decoder, in the order in which they run."""
        uses = [stack.used(use).attn for use in range(stack.spec.layers)]
        shapes = [(a.k.out_features // a.dim, a.dim) for a in uses if isinstance(a, Attention)]
        return cls(shapes, dtype, device, **options)  # type: ignore[arg-type]

    def _values(self, count: int) -> list[Tensor]:
        dtype = torch.int8 if self.rounded else self.dtype
        return [torch.empty(count, g, SIZE, d, dtype=dtype, device=self.device) for g, d in self.shapes]

    def _keys(self, count: int) -> list[Tensor]:
        return [t.view(*t.shape[:2], -1, SIZE) for t in self._values(count)]

    def _scales(self, count: int) -> list[Tensor]:
        return [torch.empty(count, g, SIZE, device=self.device) for g, _ in self.shapes] if self.rounded else []

    @property
    def free(self) -> int:
        """Pages without an owner, in the pool as it is now."""
        return len(self._free) + len(self._idle)

    @property
    def token_bytes(self) -> int:
        """Memory of one token in all layers."""
        size = 1 if self.rounded else self.dtype.itemsize
        return sum(2 * g * (d * size + 4 * self.rounded) for g, d in self.shapes)

    # -------------------------------------------------------------- owners

    def take(self, count: int = 1) -> list[int]:
        """That many pages for one owner. Raises InputError when the pool may not grow so far."""
        while self.free < count:
            self._grow(count - self.free)
        out = list[int]()
        for _ in range(count):
            page = self._free.pop() if self._free else self._idle.popitem(last=False)[0]
            self._forget(page)
            self.owners[page] = 1
            self.taken[page] += 1
            out.append(page)
        return out

    def share(self, pages: Iterable[int]) -> None:
        """One more owner for each of ``pages``, which are in use or idle."""
        for page in pages:
            self._idle.pop(page, None)
            self.owners[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One owner less for each of ``pages``."""
        for page in pages:
            self.owners[page] -= 1
            if not self.owners[page]:
                if page in self._names:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def own(self, pages: Sequence[int]) -> list[int]:
        """For each of ``pages``, each given by one of its owners, a page with its contents that this owner may write to: itself if nobody
        else owns it, else a copy."""
        out, old, new = list(pages), list[int](), list[int]()
        for i, page in enumerate(pages):
            if self.owners[page] > 1:
                (out[i],) = self.take()
                self.release([page])
                old.append(page)
                new.append(out[i])
        if old:
            to, since = torch.tensor(new, device=self.device), torch.tensor(old, device=self.device)
            for pool in (*self.keys, *self.values, *self.key_scales, *self.value_scales):
                pool.index_copy_(0, to, pool.index_select(0, since))
        return out

    def _grow(self, more: int) -> None:
        if self.limit is not None and self.count + more > self.limit:
            raise InputError(
                say(
                    f"The key/value cache is full: {self.limit} pages of {SIZE} tokens. Allow more, or run fewer sequences at once.",
                    f"키/값 캐시가 가득 찼습니다: {SIZE}토큰 페이지 {self.limit}개. 한도를 늘리거나 동시에 처리하는 시퀀스를 줄이세요.",
                )
            )
        end = max(self.count + more, 2 * self.count)
        end = end if self.limit is None else min(end, self.limit)
        for pools, fresh in zip(self._pools(), (self._keys, self._values, self._scales, self._scales), strict=True):
            for i, larger in enumerate(fresh(end)):
                larger[: self.count] = pools[i]
                pools[i] = larger
        added = end - self.count
        self.owners += [0] * added
        self.taken += [0] * added
        self._free[:0] = reversed(range(self.count, end))
        self.count = end

    def _pools(self) -> tuple[list[Tensor], ...]:
        return self.keys, self.values, self.key_scales, self.value_scales

    # -------------------------------------------------------------- names

    def name(self, page: int, name: bytes) -> None:
        """Let a full page be found under ``name``; the first page of a name keeps it."""
        if self._named.setdefault(name, page) == page:
            self._names[page] = name

    def find(self, name: bytes) -> int | None:
        """The page of this name, in use or idle."""
        return self._named.get(name)

    def _forget(self, page: int) -> None:
        if (name := self._names.pop(page, None)) is not None:
            del self._named[name]

    # -------------------------------------------------------------- contents

    def places(self, use: int, tokens: Tensor) -> Tensor:
        """Rows of the flat pool ``(pages * G * SIZE, D)`` for ``tokens`` ``(…)``, page times SIZE plus slot -> ``(…, G)``."""
        heads = self.shapes[use][0]
        page, slot = tokens // SIZE, tokens % SIZE
        return ((page * heads)[..., None] + torch.arange(heads, device=tokens.device)) * SIZE + slot[..., None]

    def write(self, use: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """Put keys and values ``(…, G, D)`` at ``places`` ``(…, G)``."""
        at, width = places.flatten(), self.shapes[use][1]
        for pools, scales, new in ((self.keys, self.key_scales, k), (self.values, self.value_scales, v)):
            if self.rounded:
                new, scale = rounded(new)
                scales[use].view(-1)[at] = scale.flatten()
            new = new.reshape(-1, width).to(pools[use].dtype)
            if pools is self.keys:
                pools[use].view(-1, width, SIZE)[at // SIZE, :, at % SIZE] = new
            else:
                pools[use].view(-1, width)[at] = new

    def read(self, use: int, places: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values ``(…, G, D)`` at ``places`` ``(…, G)``."""
        at, width, out = places.flatten(), self.shapes[use][1], list[Tensor]()
        for pools, scales in ((self.keys, self.key_scales), (self.values, self.value_scales)):
            if pools is self.keys:
                found = pools[use].view(-1, width, SIZE)[at // SIZE, :, at % SIZE]
            else:
                found = pools[use].view(-1, width).index_select(0, at)
            if self.rounded:
                found = found * scales[use].view(-1)[at][:, None]
            out.append(found.to(dtype).view(*places.shape, width))
        return out[0], out[1]


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """x ``(…, D)`` as int8 numbers and their scale ``(…)`` fp32: x is about number times scale (absmax)."""
    scale = x.float().abs().amax(-1) / 127
    numbers = (x.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round()
    return numbers.to(torch.int8), scale
