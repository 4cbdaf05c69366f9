"""Four bits by round-to-nearest: for every group of columns the scale and the minimum of the smallest error are searched."""

from __future__ import annotations

import torch
from torch import Tensor

from hunmin.quantize.tiles import COLUMNS, Tiles, grouped, held, strips

TOP, ZERO = 15, 8  # of a code; the code that stands for 0 where a group has no minimum
QUICK = (1.0, 0.9, 0.8)  # shares of a group's range that are tried: what lies outside is clipped
THOROUGH = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def grid(
    numbers: Tensor, symmetric: bool, shares: tuple[float, ...] = QUICK, importance: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers that sixteen codes stand for in every group, scale * code + least.

    Each share of the range is tried, then the line through the codes of the best is fitted by least squares, as llama.cpp does.

    Args:
        numbers: fp32 ``(…, group)``.
        symmetric: least is -8 * scale; the largest magnitude then falls on code 0, so the scale may be negative.
        shares: of the range.
        importance: weights of the squared errors, ``(…, group)`` or what spreads to it.

    Returns:
        Scale and least ``(…)``, rounded as tiles hold them, and the squared error of every group.
    """
    low, high = numbers.aminmax(dim=-1)
    largest = torch.where(high > -low, high, low)
    middle, reach = (low + high) / 2, (high - low) / 2
    best: list[Tensor] = []
    for share in shares:
        scale, least = (largest * (-share / ZERO), None) if symmetric else (reach * (2 * share / TOP), middle - share * reach)
        best = _better(best, _tried(numbers, scale, least, importance))
    codes = encode(numbers, best[0], best[1])
    return tuple(_better(best, _tried(numbers, *_line(codes, numbers, symmetric, importance), importance)))  # type: ignore[return-value]


def encode(numbers: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    """The nearest codes of numbers ``(…, group)``, in fp32."""
    safe = torch.where(scale == 0, 1.0, scale)
    return ((numbers - least[..., None]) / safe[..., None]).round_().clamp_(0, TOP)


def _tried(numbers: Tensor, scale: Tensor, least: Tensor | None, importance: Tensor | None) -> list[Tensor]:
    scale = held(scale).float()
    least = scale * -ZERO if least is None else held(least).float()
    error = (encode(numbers, scale, least).mul_(scale[..., None]).add_(least[..., None])).sub_(numbers).square_()
    return [scale, least, (error if importance is None else error.mul_(importance)).sum(-1)]


def _better(best: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    return [torch.where(other[2] < best[2], new, old) for old, new in zip(best, other, strict=True)] if best else other


def _line(codes: Tensor, numbers: Tensor, symmetric: bool, importance: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Scale and least that bring the given codes closest to the numbers."""
    weight = torch.ones_like(numbers) if importance is None else importance.expand_as(numbers)
    tiny = torch.finfo(torch.float32).tiny
    if symmetric:
        codes = codes - ZERO
        return (weight * codes * numbers).sum(-1) / (weight * codes * codes).sum(-1).clamp(min=tiny), None
    total = weight.sum(-1, keepdim=True).clamp(min=tiny)
    centre, mean = (weight * codes).sum(-1, keepdim=True) / total, (weight * numbers).sum(-1, keepdim=True) / total
    away = codes - centre
    scale = (weight * away * (numbers - mean)).sum(-1) / (weight * away * away).sum(-1).clamp(min=tiny)
    return scale, mean[..., 0] - scale * centre[..., 0]


def fitted(
    weight: Tensor, group: int = 32, *, symmetric: bool | None = None, shares: tuple[float, ...] = QUICK, importance: Tensor | None = None
) -> Tiles:
    """Four-bit tiles of a matrix ``(O, K)``. ``symmetric`` None: with minimums where they lower the error, which costs half a bit a weight
    at groups of 32. ``importance`` ``(K,)`` weights the squared error of every column."""
    width = weight.shape[1]
    group = min(group, -(-width // COLUMNS) * COLUMNS)
    counts = None if importance is None else grouped(importance[None], group)
    forms = (True, False) if symmetric is None else (symmetric,)
    found: dict[bool, list[list[Tensor]]] = {form: [] for form in forms}
    for part in strips(weight):
        numbers = grouped(part, group)
        for form in forms:
            found[form].append(list(grid(numbers, form, shares, counts)))
    made = {form: [torch.cat(column) for column in zip(*parts, strict=True)] for form, parts in found.items()}
    best = min(made, key=lambda form: made[form][2].sum().item())
    return encoded(weight, made[best][0], made[best][1], best, group)


def encoded(weight: Tensor, scale: Tensor, least: Tensor, symmetric: bool, group: int) -> Tiles:
    """Tiles of a matrix ``(O, K)`` whose groups have the given scale and least ``(O, groups)``."""
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    strip = len(strips(weight)[0])
    for part, into, *line in zip(*(t.split(strip) for t in (weight, codes, scale, least)), strict=True):
        into.copy_(encode(grouped(part, group), line[0], line[1]).flatten(1)[:, : weight.shape[1]])
    if symmetric:
        return Tiles.of(codes, scale, None, 4, zero=ZERO, group=group)
    return Tiles.of(codes, scale, least, 4, group=group)
