"""The largest of many logits, and the logarithm of the sum of their exponentials: all that greedy search and beams need of a step.

The kernel (``choose.h``) makes one pass over logits, or none at all: a decoding step chooses while they are in the processor's cache.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_int32, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hunmin.native import address, library

SCAN = 256  # as in choose.h


@dataclass(frozen=True)
class Choice:
    """What is wanted of a row: the ``k`` largest logits but for the ids in ``never`` (ascending, none twice); with ``sums`` their sum too,
    in which ``never`` counts where the sum is ``whole``."""

    k: int
    never: tuple[int, ...] = ()
    sums: bool = True
    whole: bool = True


@dataclass
class Chosen:
    """``values`` ``(R, k)`` fp32, the largest first, with ``ids`` ``(R, k)``; of equal logits the lowest id comes first. ``sums`` ``(R, 1)``:
    log of the sum of exponentials.

    A row with NaN has NaN values; its sum is NaN, as it is where the largest logit is not finite.
    """

    values: Tensor
    ids: Tensor
    sums: Tensor

    def logs(self) -> Tensor:
        """Log probabilities ``(R, k)``."""
        return self.values - self.sums

    def spread(self, rows: int, held: Tensor) -> Chosen:
        """As rows ``held`` of that many, zeros elsewhere."""
        parts = (t.new_zeros(rows, t.shape[1]).index_copy_(0, held, t) for t in (self.values, self.ids, self.sums))
        return Chosen(*parts)

    def repeat_interleave(self, times: int, dim: int) -> Chosen:
        return Chosen(*(t.repeat_interleave(times, dim) for t in (self.values, self.ids, self.sums)))


class Wanted(Structure):
    """``struct Choice`` of choose.h for R rows of V logits, with the tensors that it points into."""

    _fields_ = [(n, c_int32) for n in ("k", "count", "whole", "threads")]
    _fields_ += [(n, c_void_p) for n in ("never", "values", "ids", "sums", "pieces", "desks", "found", "places", "tally")]

    @classmethod
    def of(cls, choice: Choice, rows: int, vocab: int) -> Wanted:
        k, threads, pieces = choice.k, torch.get_num_threads(), -(-vocab // SCAN)
        never = torch.tensor(choice.never, dtype=torch.int32)
        values, ids, sums = torch.empty(rows, k), torch.empty(rows, k, dtype=torch.int32), torch.empty(rows, 1)
        work = [torch.empty(n * rows) for n in (pieces * 2, threads * SCAN, threads * k)]
        work += [torch.empty(n * rows, dtype=torch.int32) for n in (threads * k, threads)]
        made = cls(k, len(never), int(choice.whole), threads, *map(address, (never, values, ids, sums if choice.sums else None, *work)))
        made.kept = never, values, ids, sums, work
        return made

    def result(self) -> Chosen:
        _, values, ids, sums, _ = self.kept
        return Chosen(values, ids.long(), sums)

    kept: tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]


def choose(logits: Tensor, choice: Choice) -> Chosen:
    """Of logits ``(R, V)`` in fp32; k is at most V."""
    kernels: Any = library() if logits.device.type == "cpu" and logits.dtype is torch.float32 else None
    if kernels is None:
        return twin(logits, choice)
    wanted, logits = Wanted.of(choice, *logits.shape), logits.contiguous()
    kernels.choose(address(logits), *map(ctypes.c_int32, logits.shape), byref(wanted))
    return wanted.result()


def twin(logits: Tensor, choice: Choice) -> Chosen:
    """The same in PyTorch."""
    logits, k = logits.float(), choice.k
    forbidden = torch.tensor(choice.never, dtype=torch.long, device=logits.device)
    masked = logits.index_fill(1, forbidden, float("-inf")) if choice.never else logits
    counted = logits if choice.whole else masked
    top, sums = counted.amax(1, keepdim=True), logits.new_empty(len(logits), 1)
    if choice.sums:
        limit = torch.finfo(torch.float32).max
        sums = torch.where((top > -limit) & (top < limit), counted.logsumexp(1, keepdim=True), torch.nan)
    ids = masked.argmax(1, keepdim=True) if k == 1 else _largest(masked, k)
    broken = top.isnan()
    ids = torch.where(broken, torch.arange(k, device=logits.device), ids)
    return Chosen(torch.where(broken, torch.nan, masked.gather(1, ids)), ids, sums)


def _largest(x: Tensor, k: int) -> Tensor:
    """Ids ``(R, k)`` of the largest numbers of x ``(R, V)``, of equal ones the lowest first: ``topk`` leaves their order open.

    Where the last number that is taken has an equal that is not, and on a GPU, which should not wait to know, numbers and ids are compared as
    one integer."""
    count = x.shape[1]
    if x.device.type == "cpu" and k < count:
        values, ids = x.topk(k + 1)
        if bool((values[:, k - 1] > values[:, k]).all()):
            ids = ids[:, :k].sort(1).values
            return ids.gather(1, x.gather(1, ids).sort(dim=1, descending=True, stable=True).indices)
    bits = (x + 0.0).view(torch.int32)  # there is one zero
    order = (bits ^ (bits >> 31 & 0x7FFFFFFF)).long() << 32 | torch.arange(count - 1, -1, -1, device=x.device)
    return count - 1 - (order.topk(k).values & 0xFFFFFFFF)
