"""Quantized matrices: codes of 4 or 8 bits with a scale, and perhaps a minimum, a group of columns.

They stand in tiles of 16 rows by 32 columns, in the order in which ``native/src/matmul.h`` reads them; PyTorch reads the same memory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["int8", "int4", "nf4"]
ROWS, COLUMNS = 16, 32  # of a tile
GROUP = 64  # columns that share a scale, unless a caller says otherwise
# Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (Dettmers et al. 2023, section 3 and appendix E).
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip


@functools.cache
def nf4(device: torch.device) -> Tensor:
    return torch.tensor(NF4, device=device)


@dataclass(frozen=True, eq=False)
class Tiles:
    """A matrix ``(O, K)``: scales * (code - zero) + mins, or scales * NF4[code].

    ``codes`` uint8 ``(O / 16, K / 32, 4 or 8, 16, 4)``: bytes of four columns of sixteen rows. Of 4 bits a byte's lower half belongs to the
    first sixteen of the 32 columns, the upper half to the others. ``scales`` and ``mins`` fp16 ``(O / 16, K / group, 16)``; fp32 where
    half precision cannot hold them. Rows are filled up to whole tiles, columns to whole groups. ``order`` int64 ``(K,)``: which column of
    the matrix stands at each place, where they are not in their own order.
    """

    codes: Tensor
    scales: Tensor
    mins: Tensor | None
    shape: tuple[int, int]
    zero: int = 0
    normal: bool = False  # codes are NF4's
    order: Tensor | None = None

    @property
    def bits(self) -> int:
        return self.codes.shape[2]

    @property
    def columns(self) -> int:
        """K, filled up."""
        return self.codes.shape[1] * COLUMNS

    @property
    def group(self) -> int:
        return self.columns // self.scales.shape[1]

    @property
    def native(self) -> bool:
        """Whether the CPU kernels read it: evenly spaced numbers with scales of half precision."""
        return not self.normal and all(t is None or t.dtype is torch.float16 for t in (self.scales, self.mins))

    @classmethod
    def of(
        cls, codes: Tensor, scales: Tensor, mins: Tensor | None, bits: int, *, zero: int = 0, normal: bool = False, group: int | None = None
    ) -> Tiles:
        """From codes ``(O, K)`` below ``2 ** bits`` and scales and mins ``(O, ceil(K / group))``, one a group of columns.

        Unless it is told, the group is what remains of K when it is cut into that many parts: a multiple of 16, of 32 where K is none of
        the group.
        """
        rows, width = codes.shape
        groups = scales.shape[1]
        if group is None:
            group = -(-width // groups)
            group += -group % (16 if width % (16 * groups) == 0 and width % COLUMNS == 0 else COLUMNS)
        codes = F.pad(codes.to(torch.uint8), (0, groups * group - width, 0, -rows % ROWS))
        codes = codes.view(-1, ROWS, groups * group // COLUMNS, COLUMNS)
        if bits == 4:
            codes = codes[..., :16] | codes[..., 16:] << 4
        return cls(tiled(codes), fill(scales), fill(mins) if mins is not None else None, (rows, width), zero, normal)

    def numbers(self, dtype: torch.dtype, rows: Tensor | None = None) -> Tensor:
        """The matrix ``(O, K)``, or the given ``rows`` of it, computed in fp32."""
        codes, scales, mins = self.codes, self.scales, self.mins
        if rows is None:
            codes, (scales, mins) = codes.permute(0, 3, 1, 2, 4), (t.transpose(1, 2) if t is not None else None for t in (scales, mins))
        else:
            tile, lane = rows // ROWS, rows % ROWS
            codes, scales, mins = codes[tile, :, :, lane], scales[tile, :, lane], mins[tile, :, lane] if mins is not None else None
        codes = codes.reshape(-1, self.codes.shape[1], 4 * self.bits)
        codes = torch.cat([codes & 15, codes >> 4], -1) if self.bits == 4 else codes
        codes = codes.view(len(codes), -1, self.group)
        y = nf4(codes.device)[codes.int()] if self.normal else codes.float().sub_(self.zero)
        y = y.mul_(scales.reshape(len(codes), -1, 1))  # type: ignore[union-attr]
        y = y.add_(mins.reshape(len(codes), -1, 1)) if mins is not None else y
        y = y.view(len(codes), -1)[: self.shape[0] if rows is None else None, : self.shape[1]].to(dtype)
        return y if self.order is None else torch.empty_like(y).index_copy_(1, self.order, y)

    def to(self, device: torch.device) -> Tiles:
        moved = {name: t.to(device) for name in ("codes", "scales", "mins", "order") if (t := getattr(self, name)) is not None}
        return replace(self, **moved)


def tiled(codes: Tensor) -> Tensor:
    """Bytes ``(tiles, 16, blocks, bytes)``, those of a row together, in the order of ``Tiles.codes``."""
    words = codes.contiguous().view(torch.int32)
    return words.permute(0, 2, 3, 1).contiguous().view(torch.uint8).unflatten(-1, (ROWS, 4))


def held(values: Tensor) -> Tensor:
    """Scales or mins in half precision, or in fp32 where that would lose more of the largest than half precision's own rounding."""
    if values.dtype is torch.float16 or not values.numel():
        return values.to(torch.float16)
    half = values.to(torch.float16)
    most = values.abs().amax()
    lost = (half.float() - values.float()).abs().amax()  # infinite where it overflows
    return half if bool(lost <= most * 2**-10) else values.float()


def fill(values: Tensor) -> Tensor:
    """Scales ``(O, groups)`` as ``Tiles`` has them."""
    values = F.pad(held(values), (0, 0, 0, -len(values) % ROWS))
    return values.view(-1, ROWS, values.shape[1]).transpose(1, 2).contiguous()


def grouped(weight: Tensor, group: int) -> Tensor:
    """``(O, K)`` in fp32 as ``(O, ceil(K / group), group)``, with zeros at the end."""
    return F.pad(weight.float(), (0, -weight.shape[1] % group)).contiguous().unflatten(1, (-1, group))


def rounded(weight: Tensor, kind: Kind, group: int = GROUP) -> Tiles:
    """Round to the nearest of the numbers that a group's scale allows; its largest magnitude stays (absmax). ``weight`` is ``(O, K)``."""
    rows, width = weight.shape
    group = min(group, -(-width // COLUMNS) * COLUMNS)
    top = 127 if kind == "int8" else 7 if kind == "int4" else 1
    codes, scales = torch.empty(rows, width, dtype=torch.uint8, device=weight.device), list[Tensor]()
    for part, into in zip(strips(weight), strips(codes), strict=True):
        numbers = grouped(part, group)
        scales.append(held(numbers.abs().amax(-1) / top))
        share = numbers / scales[-1].float().clamp(min=torch.finfo(torch.float32).tiny)[..., None]
        if kind == "nf4":
            table = nf4(weight.device)
            found = torch.bucketize(share, (table[1:] + table[:-1]) / 2)
        else:
            found = share.round_().clamp_(-top, top).add_(top + 1)
        into.copy_(found.flatten(1)[:, :width])
    bits, zero = 8 if kind == "int8" else 4, 0 if kind == "nf4" else top + 1
    return Tiles.of(codes, torch.cat(scales), None, bits, zero=zero, normal=kind == "nf4", group=group)


def strips(weight: Tensor) -> Sequence[Tensor]:
    """Rows together that are worked on at a time, a million numbers: what is computed on the way stays small beside the matrix."""
    return weight.split(max(1, (1 << 20) // max(1, weight.shape[1])))
