"""Matrices and norms as the kernels read them, and the product with some rows."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hunmin.native import Library, address
from hunmin.nn.norm import RMSNorm

if TYPE_CHECKING:
    from hunmin.quantize.tiles import Tiles

KINDS = {torch.float32: 0, torch.bfloat16: 1}  # as matmul.h numbers them


class Matrix(ctypes.Structure):
    """``struct Matrix`` of matmul.h. It points into tensors, which it keeps."""

    _fields_ = [(name, ctypes.c_int32) for name in ("kind", "rows", "cols", "group", "zero", "unused")] + [
        (name, ctypes.c_void_p) for name in ("codes", "scales", "mins", "bias")
    ]

    @classmethod
    def of(cls, weight: Tensor | Tiles, bias: Tensor | None = None) -> Matrix:
        """Of a contiguous weight ``(O, K)`` in fp32 or bfloat16, or of tiles; ``bias`` ``(O,)``."""
        bias = bias.detach().float().contiguous() if bias is not None else None
        if isinstance(weight, Tensor):
            plain = weight.detach().contiguous()
            found = cls(KINDS[plain.dtype], *plain.shape, 32, 0, 0, address(plain), None, None, address(bias))
            found._kept = (plain, bias)
        else:
            kind, codes = 3 if weight.bits == 8 else 2, weight.codes
            parts = (address(t) for t in (codes, weight.scales, weight.mins, bias))
            found = cls(kind, weight.shape[0], weight.columns, weight.group, weight.zero, 0, *parts)
            found._kept = (weight, bias)
        return found

    @property
    def width(self) -> int:
        """Columns that rows have to have: whole blocks of 32 for quantized weights."""
        return int(self.cols)


class Norm(ctypes.Structure):
    """``struct Norm`` of norm.h. It points into tensors, which it keeps."""

    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_float), ("kind", ctypes.c_int32)]

    @classmethod
    def of(cls, norm: Any) -> Norm:
        """Of a norm, or of None."""
        if norm is None:
            return cls()
        weight = (norm.weight.detach().float() + getattr(norm, "offset", 0.0)).contiguous()
        bias = getattr(norm, "bias", None)
        bias = bias.detach().float().contiguous() if bias is not None else None
        found = cls(address(weight), address(bias), norm.eps, 2 if isinstance(norm, RMSNorm) else 1)
        found._kept = (weight, bias)
        return found


class Rows(ctypes.Structure):
    """``struct Rows`` of matmul.h: rows ``(R, width)`` in fp32, and room for their quantized or rounded copies."""

    _fields_ = [("count", ctypes.c_int), ("width", ctypes.c_int)] + [
        (n, ctypes.c_void_p) for n in ("x", "q", "s", "sums", "halves", "ends", "half")
    ]

    @classmethod
    def of(cls, x: Tensor) -> Rows:
        count, width = x.shape
        room = torch.empty(count * width * 4, dtype=torch.uint8)
        blocks = count * -(-width // 32)
        parts = torch.empty(5 * blocks).split([blocks, blocks, 2 * blocks, blocks])
        half = ctypes.c_void_p(room.data_ptr() + count * width)
        found = cls(count, width, address(x), address(room), *map(address, parts), half)
        found._kept = (x, room, parts)
        return found


def multiply(library: Library, x: Tensor, weight: Matrix) -> Tensor:
    """x ``(R, K)`` times the weight's transpose, plus its bias: fp32 ``(R, O)``."""
    x = x.float()
    if x.shape[1] < weight.width:
        x = torch.nn.functional.pad(x, (0, weight.width - x.shape[1]))
    rows, y = Rows.of(x.contiguous()), torch.empty(len(x), weight.rows)
    library.multiply(ctypes.byref(weight), ctypes.byref(rows), address(y))
    return y


def unpack(library: Library, tiles: Tiles) -> Tensor:
    """The numbers of tiles in bfloat16, ``(O, K)``."""
    out = torch.empty(tiles.shape[0], tiles.columns, dtype=torch.bfloat16)
    library.unpack(ctypes.byref(Matrix.of(tiles)), address(out))
    return out[:, : tiles.shape[1]]
