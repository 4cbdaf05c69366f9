"""GPTQ (Frantar et al. 2023): columns are rounded one after another, and those still to come make up for each one's error."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.quantize.rounding import THOROUGH, encode, grid
from hunmin.quantize.tiles import COLUMNS, Tiles, held

TOP8 = 127
BLOCK = 128  # columns at least, whole groups, whose errors reach the rest of the matrix together (section 3.3, "lazy batch updates")


def inverse(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of H ``(K, K)`` (section 3.3, step 3), damped by a share of its mean diagonal.

    Raises InputError when no damping makes H positive definite: it holds numbers that are not finite.
    """
    hessian = hessian.double()
    mean = hessian.diagonal().mean()
    for _ in range(6):
        damped = hessian + torch.eye(len(hessian), dtype=torch.float64) * (mean * damping).clamp(min=1e-12)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if not failed:
                return factor.float()
        damping *= 10
    raise InputError(
        say(
            "GPTQ: the inputs that were gathered from the calibration text are not finite.",
            "GPTQ: 보정 텍스트에서 모은 입력에 유한하지 않은 값이 있습니다.",
        )
    )


@torch.no_grad()
def solve(
    weight: Tensor,
    hessian: Tensor,
    bits: int = 4,
    group: int = 32,
    *,
    symmetric: bool = False,
    act_order: bool = False,
    damping: float = 0.01,
) -> Tiles:
    """Tiles of a weight ``(O, K)`` whose product with the inputs behind ``hessian`` stays closest.

    Args:
        weight: of the layer, or of several that have the same input, one under the other: rows do not depend on each other.
        hessian: mean of x x^T over the inputs, ``(K, K)``.
        bits: 4 or 8; 8 is always symmetric.
        group: columns that share a scale, searched from what the weights are when their turn comes.
        symmetric: without minimums.
        act_order: columns of large inputs first; the columns of the tiles then stand in that order.
        damping: share of the mean diagonal of H that is added to it.
    """
    rows, width = weight.shape
    group = min(group, -(-width // COLUMNS) * COLUMNS)
    left, hessian = weight.float().clone(), hessian.float().clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1.0
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else None
    if order is not None:
        left, hessian = left[:, order], hessian[order][:, order]
    importance, factor = hessian.diagonal(), inverse(hessian, damping)
    codes = torch.empty(rows, width, dtype=torch.uint8)
    scales, leasts, block = list[Tensor](), list[Tensor](), group * max(1, BLOCK // group)
    for start in range(0, width, block):
        end = min(start + block, width)
        errors = torch.zeros(rows, end - start)
        for j in range(start, end):
            if j % group == 0:
                scale, least = _lines(left[:, j : j + group], bits, symmetric, importance[j : j + group])
                scales.append(scale)
                leasts.append(least)
            column = left[:, j]
            code = _code(column, scales[-1], leasts[-1], bits)
            codes[:, j] = code
            error = (column - (code * scales[-1] + leasts[-1])) / factor[j, j]
            left[:, j + 1 : end] -= error[:, None] * factor[j, j + 1 : end]
            errors[:, j - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    scale, even = torch.stack(scales, 1), symmetric or bits == 8
    least, zero = (None, 1 << (bits - 1)) if even else (torch.stack(leasts, 1), 0)
    return replace(Tiles.of(codes, scale, least, bits, zero=zero, group=group), order=order)


def _lines(numbers: Tensor, bits: int, symmetric: bool, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and least ``(O,)`` of a group of columns ``(O, group)``."""
    if bits == 8:
        scale = held(numbers.abs().amax(-1) / TOP8).float()
        return scale, scale * -(TOP8 + 1)
    scale, least, _ = grid(numbers, symmetric, THOROUGH, importance)
    return scale, least


def _code(column: Tensor, scale: Tensor, least: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return (column / torch.where(scale == 0, 1.0, scale)).round_().clamp_(-TOP8, TOP8).add_(TOP8 + 1)
    return encode(column[:, None], scale, least)[:, 0]
