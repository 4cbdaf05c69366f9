"""AWQ (Lin et al. 2024): columns of a weight that meet large inputs are scaled up before rounding, and so lose less.

The inverse goes where it costs nothing: into the norm before the layer, or into the rows of the linear layer whose output it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from hunmin.nn.attention import Attention
from hunmin.nn.layers import Layer
from hunmin.quantize.rounding import QUICK, fitted

STEPS = 10  # exponents from 0 to 1 that are tried (section 3.2, eq. 5)


class Seen(Protocol):
    """Inputs of a layer: mean magnitudes ``(K,)`` and rows ``(S, K)``."""

    magnitude: Tensor
    sample: list[Tensor]


def scale(layer: nn.Module, inputs: Mapping[str, Seen], group: int) -> None:
    """Scale the linear layers of one transformer layer in place, where the inverse can be folded; what it computes stays the same.

    Folded are: norm into q, k, v and into gate, up (not where the normed states go on as the residual); v into o; up into down where
    nothing but the gate or a ReLU stands between. ``inputs``: of the linear layers, by their names within this one.
    """
    if type(layer) is not Layer:
        return
    normed = layer.order != "post"
    if type(layer.attn) is Attention:
        if normed:
            _fold(layer, ["attn.q", "attn.k", "attn.v"], inputs, group, _norm(layer.attn_norm))
        _through_heads(layer, "attn", inputs, group)
    if layer.cross is not None and type(layer.cross) is Attention:
        if normed:
            _fold(layer, ["cross.q"], inputs, group, _norm(layer.cross_norm))
        _through_heads(layer, "cross", inputs, group)
    gate = layer.ffn.gate is not None
    if normed:
        _fold(layer, ["ffn.gate", "ffn.up"] if gate else ["ffn.up"], inputs, group, _norm(layer.ffn_norm))
    if gate or layer.ffn.act is torch.nn.functional.relu:
        _fold(layer, ["ffn.down"], inputs, group, _rows(layer.ffn.up))


def _norm(norm: nn.Module | None) -> Callable[[Tensor], None]:
    """Divide what a norm puts out."""
    assert norm is not None
    parts, offset = dict(norm.named_parameters()), getattr(norm, "offset", 0.0)

    def divide(by: Tensor) -> None:
        parts["weight"].copy_((parts["weight"].float() + offset) / by - offset)
        if "bias" in parts:
            parts["bias"].copy_(parts["bias"].float() / by)

    return divide


def _rows(before: nn.Linear) -> Callable[[Tensor], None]:
    def divide(by: Tensor) -> None:
        before.weight.copy_(before.weight.float() / by[:, None])
        if before.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            before.bias.copy_(before.bias.float() / by)

    return divide


def _through_heads(layer: Layer, site: str, inputs: Mapping[str, Seen], group: int) -> None:
    """v into o. A head of v that several queries share has one scale for all of them."""
    attn: Attention = getattr(layer, site)
    groups, dim = attn.spec.kv_heads or attn.spec.heads, attn.dim
    shared = attn.spec.heads // groups

    def spread(by: Tensor) -> Tensor:
        return by.view(groups, 1, dim).expand(-1, shared, -1).flatten()

    def gather(magnitude: Tensor) -> Tensor:
        return magnitude.view(groups, shared, dim).mean(1).flatten()

    _fold(layer, [f"{site}.o"], inputs, group, _rows(attn.v), gather, spread)


def _same(values: Tensor) -> Tensor:
    return values


def _fold(
    layer: Layer,
    names: list[str],
    inputs: Mapping[str, Seen],
    group: int,
    divide: Callable[[Tensor], None],
    gather: Callable[[Tensor], Tensor] = _same,
    spread: Callable[[Tensor], Tensor] = _same,
) -> None:
    """Scale the columns of the named layers, with one input, by the power of its magnitudes whose rounded products are closest."""
    linear = [layer.get_submodule(name) for name in names]
    if not all(name in inputs and inputs[name].sample and isinstance(m, nn.Linear) for name, m in zip(names, linear, strict=True)):
        return  # a layer that stays as it is would not expect another input
    weights = [m.weight.detach().float() for m in linear if isinstance(m, nn.Linear)]
    x, magnitude = torch.cat(inputs[names[0]].sample), gather(inputs[names[0]].magnitude).clamp(min=1e-6)
    products = x.T @ x  # |x (W - W')^T|^2 is the trace of (W - W') x^T x (W - W')^T: cheaper than the products of every row
    best, chosen = float("inf"), torch.ones_like(magnitude)
    for step in range(STEPS):
        by = (magnitude / magnitude.mean()) ** (step / STEPS)
        by = by / (by.max() * by.min()).sqrt()
        wide, error = spread(by), 0.0
        for weight in weights:
            away = fitted(weight * wide, group, symmetric=False, shares=QUICK[:1]).numbers(torch.float32) / wide - weight
            error += ((away @ products) * away).sum().item()
        if error < best:
            best, chosen = error, by
    for m, weight in zip(linear, weights, strict=True):
        m.get_parameter("weight").copy_(weight * spread(chosen))
    divide(chosen)
