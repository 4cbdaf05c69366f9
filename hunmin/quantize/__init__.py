"""Linear layers of 8 or 4 bits a weight, frozen: to compute with, and to train adapters on (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.native import library
from hunmin.native.matrix import Matrix, multiply, unpack
from hunmin.nn.linear import Embedding, Linear
from hunmin.quantize.tiles import GROUP, Kind, Tiles, rounded

FEW = 32  # rows: up to here the weight is multiplied as it is stored, beyond it is unpacked for a matrix product


class _Packed(nn.Module):
    """What quantized layers share: a frozen matrix in tiles."""

    codes: Tensor
    scales: Tensor
    mins: Tensor | None

    def keep(self, tiles: Tiles, dtype: torch.dtype) -> None:
        self.dtype, self.form = dtype, (tiles.shape, tiles.zero, tiles.normal)
        for name in ("codes", "scales", "mins"):
            self.register_buffer(name, getattr(tiles, name))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves between devices; scales keep their precision, and what the layer computes in is said by ``dtype``."""
        scales = self.scales, self.mins
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        self.scales, self.mins = (t.to(self.codes.device) if t is not None else None for t in scales)  # type: ignore[assignment]
        return self

    @property
    def tiles(self) -> Tiles:
        return Tiles(self.codes, self.scales, self.mins, *self.form)

    @property
    def kind(self) -> Kind:
        return "nf4" if self.form[2] else "int8" if self.tiles.bits == 8 else "int4"

    @property
    def weight(self) -> Tensor:
        """The weight, unpacked: ``(out, in)``."""
        return self.unpacked(self.dtype)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        if dtype is torch.bfloat16 and self.codes.device.type == "cpu" and not self.form[2] and (kernels := library()) is not None:
            return unpack(kernels, self.tiles)
        return self.tiles.numbers(dtype)


class _Product(torch.autograd.Function):
    """x W^T with W unpacked for the moment of use, forward and backward: what stays for the gradient is the packed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] @ ctx.layer.unpacked(grads[0].dtype), None


class QuantizedLinear(_Packed):
    """A linear layer whose weight is packed and not trained; it computes in the precision of its input, ``(…, in)`` -> ``(…, out)``.

    With ``round_inputs`` few rows are multiplied by the CPU kernel, which rounds them to 8 bits (an error of about 0.5 %); where it is
    missing, where gradients are wanted, and for many rows the weight is unpacked.
    """

    def __init__(self, tiles: Tiles, bias: Tensor | None = None, dtype: torch.dtype = torch.float32, *, round_inputs: bool = False) -> None:
        super().__init__()
        self.round_inputs = round_inputs
        self.out_features, self.in_features = tiles.shape
        self.keep(tiles, dtype)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False) if bias is not None else None
        self._matrix: tuple[Tensor, Matrix] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.round_inputs and self._suits(x) and (kernels := library()) is not None:
            if self._matrix is None or self._matrix[0] is not self.codes:
                self._matrix = self.codes, Matrix.of(self.tiles, self.bias)
            return multiply(kernels, x.flatten(0, -2), self._matrix[1]).view(*x.shape[:-1], self.out_features).to(x.dtype)
        y: Tensor = _Product.apply(x, self)  # type: ignore[assignment]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _suits(self, x: Tensor) -> bool:
        few = x.numel() <= FEW * self.in_features
        return few and not torch.is_grad_enabled() and x.device.type == "cpu" and not self.form[2]

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}"


class QuantizedEmbedding(_Packed):
    """Rows of a packed matrix: ids ``(…)`` -> ``(…, width)``."""

    def __init__(self, tiles: Tiles, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = tiles.shape
        self.keep(tiles, dtype)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tiles.numbers(self.dtype, ids.flatten()).view(*ids.shape, -1)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.kind}"


@torch.no_grad()
def quantize_linears(model: nn.Module, bits: int = 4, kind: Kind | None = None, group: int = GROUP) -> list[str]:
    """Pack the linear layers of a model's stacks (not of its head) in place; returns their names. ``bits``: 4 means nf4, 8 int8.

    Raises InputError for an unknown kind, and when adapters are attached already.
    """
    found = kind or {4: "nf4", 8: "int8"}.get(bits)
    if found not in ("int8", "int4", "nf4") or group < 32 or group % 32:
        raise InputError(
            say(
                f"bits is 4 or 8, kind 'nf4', 'int4' or 'int8', group a multiple of 32; not {bits}, {kind!r}, {group}.",
                f"bits는 4나 8, kind는 'nf4', 'int4', 'int8', group은 32의 배수여야 합니다. 받은 값: {bits}, {kind!r}, {group}.",
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
        replace(model, name, QuantizedLinear(rounded(layer.weight.detach(), found, group), layer.bias, layer.weight.dtype))
    return list(layers)


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, layer)


@torch.no_grad()
def dequantize_linears(model: nn.Module) -> list[str]:
    """Turn packed layers into ordinary ones again, with the rounded weights, in place; returns their names. Adapters stay attached."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, _Packed)}
    for name, layer in layers.items():
        if isinstance(layer, QuantizedLinear):
            plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            if layer.bias is not None:
                plain.bias = layer.bias
        else:
            plain = Embedding(*layer.form[0], device="meta")
        plain.weight = nn.Parameter(layer.weight, requires_grad=False)
        plain._forward_hooks, plain._forward_pre_hooks = layer._forward_hooks, layer._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
        replace(model, name, plain)
    return list(layers)
