"""Linear layers of 8 or 4 bits a weight, frozen, to train adapters on (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.nn.linear import Linear

Kind = Literal["int8", "int4", "nf4"]
GROUP = 64  # weights that share a scale
# Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (Dettmers et al. 2023, section 3 and appendix E).
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip


@functools.cache
def levels(kind: Kind, device: torch.device) -> Tensor:
    """What each code stands for, in units of its group's scale: ``(16,)`` or ``(256,)``, ascending."""
    if kind == "nf4":
        return torch.tensor(NF4, device=device)
    top = 7 if kind == "int4" else 127
    return torch.arange(-top - 1, top + 1, device=device) / top


def pack(weight: Tensor, kind: Kind, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """Codes ``(out, bytes)`` and scales ``(out, groups)`` of a weight ``(out, in)``; every group keeps its largest magnitude (absmax)."""
    grouped = F.pad(weight.float(), (0, -weight.shape[1] % group)).unflatten(1, (-1, group))
    scales = grouped.abs().amax(-1)
    share = grouped / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    if kind == "nf4":
        table = levels(kind, weight.device)
        codes = torch.bucketize(share, (table[1:] + table[:-1]) / 2)
    else:
        top = 7 if kind == "int4" else 127
        codes = (share * top).round().long() + top + 1
    codes = codes.flatten(1).to(torch.uint8)
    return (codes if kind == "int8" else codes[:, ::2] | codes[:, 1::2] << 4), scales


def unpack(codes: Tensor, scales: Tensor, kind: Kind, width: int, dtype: torch.dtype) -> Tensor:
    """The weight ``(out, width)`` that codes and scales stand for; the inverse of :func:`pack` up to rounding."""
    if kind != "int8":
        codes = torch.stack([codes & 15, codes >> 4], -1).flatten(1)
    grouped = levels(kind, codes.device)[codes.int()].unflatten(1, (scales.shape[1], -1))
    return (grouped * scales[..., None]).flatten(1)[:, :width].to(dtype)


class _Product(torch.autograd.Function):
    """x W^T with W unpacked for the moment of use, forward and backward: what stays for the gradient is the packed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, kind: Kind, width: int) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.kind, ctx.width = kind, width
        return F.linear(x, unpack(codes, scales, kind, width, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        return grads[0] @ unpack(codes, scales, ctx.kind, ctx.width, grads[0].dtype), None, None, None, None


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is packed and not trained; it computes in the precision of its input, ``(…, in)`` -> ``(…, out)``."""

    codes: Tensor
    scales: Tensor
    kind: Kind

    def __init__(self, layer: nn.Linear, kind: Kind = "nf4", group: int = GROUP) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind, self.dtype = layer.in_features, layer.out_features, kind, layer.weight.dtype
        codes, scales = pack(layer.weight.detach(), kind, group)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False) if layer.bias is not None else None  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def weight(self) -> Tensor:
        """The weight, unpacked: ``(out, in)``."""
        return unpack(self.codes, self.scales, self.kind, self.in_features, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self.codes, self.scales, self.kind, self.in_features)  # type: ignore[assignment]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}"


@torch.no_grad()
def quantize_linears(model: nn.Module, bits: int = 4, kind: Kind | None = None, group: int = GROUP) -> list[str]:
    """Pack the linear layers of a model's stacks (not of its head) in place; returns their names. ``bits``: 4 means nf4, 8 int8.

    Raises InputError for an unknown kind, and when adapters are attached already.
    """
    found = kind or {4: "nf4", 8: "int8"}.get(bits)
    if found not in ("int8", "int4", "nf4") or group < 2 or group % 2:
        raise InputError(
            say(
                f"bits is 4 or 8, kind 'nf4', 'int4' or 'int8', group even; not {bits}, {kind!r}, {group}.",
                f"bits는 4나 8, kind는 'nf4', 'int4', 'int8', group은 짝수여야 합니다. 받은 값: {bits}, {kind!r}, {group}.",
            )
        )
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.startswith("head")}
    if adapted := [n for n, m in layers.items() if m._forward_hooks]:  # pyright: ignore[reportPrivateUsage]
        raise InputError(
            say(
                f"{adapted[0]} has an adapter. Quantize first, then add adapters.",
                f"{adapted[0]}에 어댑터가 있습니다. 먼저 양자화하고 어댑터를 더하세요.",
            )
        )
    for name, layer in layers.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, QuantizedLinear(layer, found, group))
    return list(layers)


@torch.no_grad()
def dequantize_linears(model: nn.Module) -> list[str]:
    """Turn packed layers into ordinary ones again, with the rounded weights, in place; returns their names. Adapters stay attached."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    for name, layer in layers.items():
        path, _, leaf = name.rpartition(".")
        plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = nn.Parameter(layer.weight, requires_grad=False)
        if layer.bias is not None:
            plain.bias = layer.bias
        plain._forward_hooks, plain._forward_pre_hooks = layer._forward_hooks, layer._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
        setattr(model.get_submodule(path), leaf, plain)
    return list(layers)
