"""Quantized blocks of GGUF as tiles: the numbers stay as they are in the file, only bytes move."""

from __future__ import annotations

import torch
from torch import Tensor

from hunmin.quantize.tiles import COLUMNS, ROWS, Tiles, fill, tiled

KEPT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


def _half(blocks: Tensor, at: int) -> Tensor:
    return blocks[..., at : at + 2].contiguous().view(torch.float16)[..., 0]


def _nibbles(packed: Tensor) -> Tensor:
    return torch.cat([packed & 15, packed >> 4], -1)


def _bits(packed: Tensor) -> Tensor:
    """The eight bits of every byte ``(…, n)``, as ``(…, 8n)``."""
    return (packed[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(-2)


def _scales(b: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum ``(…, 8)`` of the groups of a Q4_K or Q5_K block: 6 bits each in 12 bytes, the last four pairs split in two."""
    low, high, rest = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    scale = torch.cat((low & 63, rest & 15 | low >> 2 & 48), -1).float() * _half(b, 0)[..., None].float()
    least = torch.cat((high & 63, rest >> 4 | high >> 2 & 48), -1).float() * _half(b, 2)[..., None].float()
    return scale, -least


def tiles(raw: Tensor, kind: str, shape: tuple[int, ...]) -> Tiles:
    """Tiles of stored blocks ``raw``, uint8 ``(O, bytes)``, of the type ``kind``, which hold a matrix of ``shape`` ``(O, K)``.

    Q4_0, Q4_1 and Q4_K stay at 4 bits, the others take 8; scales of K types are rounded to fp16 (by at most one part in 2,048).
    """
    rows, width = shape
    if kind in ("Q4_0", "Q4_1", "Q8_0"):
        head = 4 if kind == "Q4_1" else 2
        b = raw.view(rows, width // COLUMNS, -1)
        codes = torch.nn.functional.pad(b[..., head:], (0, 0, 0, 0, 0, -rows % ROWS)).view(-1, ROWS, *b[0, :, head:].shape)
        order = tiled(codes.bitwise_xor_(128) if kind == "Q8_0" else codes)
        return Tiles(
            order, fill(_half(b, 0)), fill(_half(b, 2)) if kind == "Q4_1" else None, (rows, width), {"Q4_0": 8, "Q8_0": 128}.get(kind, 0)
        )
    if kind in ("Q5_0", "Q5_1"):
        head = 4 if kind == "Q5_1" else 2
        b = raw.view(rows, width // 32, -1)
        codes = _nibbles(b[..., head + 4 :]) | _bits(b[..., head : head + 4]) << 4
        return Tiles.of(codes.flatten(1), _half(b, 0), _half(b, 2) if kind == "Q5_1" else None, 8, zero=0 if kind == "Q5_1" else 16)
    b = raw.view(rows, width // 256, -1)
    if kind == "Q6_K":
        high = b[..., 128:192].unflatten(-1, (2, 1, 32)) >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None] & 3
        codes = _nibbles(b[..., :128].unflatten(-1, (2, 64))).flatten(-2) | (high << 4).flatten(-3)
        scales = b[..., 192:208].contiguous().view(torch.int8).float() * _half(b, 208)[..., None].float()
        return Tiles.of(codes.flatten(1), scales.flatten(1), None, 8, zero=32)
    scale, least = _scales(b)
    codes = _nibbles(b[..., -128:].unflatten(-1, (4, 32))).flatten(-2)
    if kind == "Q5_K":
        fifth = b[..., None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
        codes = codes | (fifth << 4).flatten(-2)
    return Tiles.of(codes.flatten(1), scale.flatten(1), least.flatten(1), 4 if kind == "Q4_K" else 8)
