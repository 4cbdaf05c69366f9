"""Linear layers of 8 or 4 bits a weight, frozen: to compute with, and to train adapters on (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace as changed
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.native import library
from hunmin.native.matrix import Matrix, multiply, unpack
from hunmin.nn.linear import Embedding, Linear
from hunmin.quantize.tiles import GROUP, Kind, Tiles, rounded

REACH = 32  # rows up to which the weight is multiplied as it is stored, where its kernel is not the fastest anyway; beyond it is unpacked
PARTS = ("codes", "scales", "mins", "order")


class Packed(nn.Module):
    """What quantized layers share: a frozen matrix in tiles. ``layout``: rows, columns, zero and whether the codes are NF4's."""

    codes: Tensor
    scales: Tensor
    mins: Tensor | None
    order: Tensor | None
    layout: Tensor

    def keep(self, tiles: Tiles, dtype: torch.dtype) -> None:
        self.dtype, self.form, self.native = dtype, (tiles.shape, tiles.zero, tiles.normal), tiles.native
        for name in PARTS:
            self.register_buffer(name, getattr(tiles, name))
        self.register_buffer("layout", torch.tensor([*tiles.shape, tiles.zero, int(tiles.normal)], device="cpu"))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves between devices; scales keep their precision, and what the layer computes in is said by ``dtype``."""
        scales = self.scales, self.mins
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        self.scales, self.mins = (t.to(self.codes.device) if t is not None else None for t in scales)  # type: ignore[assignment]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **more: Any) -> None:
        """Takes what an equally quantized layer gave. Raises InputError for plain weights, and for those quantized otherwise."""
        own = {name: getattr(self, name) for name in PARTS}
        given = {name: state_dict.get(prefix + name) for name in PARTS}
        if prefix + "weight" in state_dict:
            raise InputError(
                say(
                    f"{prefix}weight is a plain weight, the layer is quantized. Load it into the model first, then quantize.",
                    f"{prefix}weight는 일반 가중치인데 이 층은 양자화되어 있습니다. 먼저 불러온 다음 양자화하세요.",
                )
            )
        alike = all(
            (a is None) == (b is None) and (a is None or b is None or (a.shape, a.dtype) == (b.shape, b.dtype))
            for a, b in zip(own.values(), given.values(), strict=True)
        )
        if given["codes"] is not None and not alike:
            raise InputError(
                say(
                    f"{prefix[:-1]} is quantized otherwise in the state dict (bits, group or minimums). Quantize the model alike first.",
                    f"{prefix[:-1]}: 상태 사전의 양자화 방식(비트, 묶음, 최솟값)이 다릅니다. 모델을 같은 방식으로 양자화하세요.",
                )
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **more)
        rows, columns, zero, normal = self.layout.tolist()
        self.form = (rows, columns), zero, bool(normal)

    @property
    def tiles(self) -> Tiles:
        return Tiles(self.codes, self.scales, self.mins, *self.form, self.order)

    @property
    def kind(self) -> Kind:
        return "nf4" if self.form[2] else "int8" if self.tiles.bits == 8 else "int4"

    @property
    def weight(self) -> Tensor:
        """The weight, unpacked: ``(out, in)``."""
        return self.tiles.numbers(self.dtype)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight with its columns as they are stored: see ``order``."""
        tiles = changed(self.tiles, order=None)
        if dtype is torch.bfloat16 and self.codes.device.type == "cpu" and self.native and (kernels := library()) is not None:
            return unpack(kernels, tiles)
        return tiles.numbers(dtype)


class _Product(torch.autograd.Function):
    """x W^T with W unpacked for the moment of use, forward and backward: what stays for the gradient is the packed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] @ ctx.layer.unpacked(grads[0].dtype), None


class QuantizedLinear(Packed):
    """A linear layer whose weight is packed and not trained; it computes in the precision of its input, ``(…, in)`` -> ``(…, out)``.

    With ``round_inputs`` few rows are multiplied by the CPU kernel, which rounds them to 8 bits (an error of about 0.5 %); where it is
    missing, where gradients are wanted, and for many rows on processors without instructions for it, the weight is unpacked.
    """

    def __init__(self, tiles: Tiles, bias: Tensor | None = None, dtype: torch.dtype = torch.float32, *, round_inputs: bool = False) -> None:
        super().__init__()
        self.round_inputs = round_inputs
        self.out_features, self.in_features = tiles.shape
        self.keep(tiles, dtype)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False) if bias is not None else None
        self._matrix: tuple[Tensor, Matrix] | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.order is None else x.index_select(-1, self.order)
        plain = torch.is_grad_enabled() or x.device.type != "cpu" or not x.numel()
        kernels = library() if self.round_inputs and self.native and not plain else None
        if kernels is not None and (kernels.many or x.numel() <= REACH * self.in_features):
            if self._matrix is None or self._matrix[0] is not self.codes:
                self._matrix = self.codes, Matrix.of(changed(self.tiles, order=None), self.bias)
            return multiply(kernels, x.flatten(0, -2), self._matrix[1]).view(*x.shape[:-1], self.out_features).to(x.dtype)
        y: Tensor = _Product.apply(x, self)  # type: ignore[assignment]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **more: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **more)
        self._matrix = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without the kernel's pointers into this layer's memory."""
        return {**self.__dict__, "_matrix": None}

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}"


class QuantizedEmbedding(Packed):
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
def dequantize_linears(model: nn.Module, only: Collection[str] | None = None) -> list[str]:
    """Turn packed layers (or ``only`` those named) into ordinary ones again, with the rounded weights, in place; returns their names.

    Adapters stay attached."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Packed) and (only is None or n in only)}
    made = dict[int, nn.Parameter]()  # layers that share codes share the weight
    for name, layer in layers.items():
        if isinstance(layer, QuantizedLinear):
            plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            if layer.bias is not None:
                plain.bias = layer.bias
        else:
            plain = Embedding(*layer.form[0], device="meta")
        if (place := layer.codes.data_ptr()) not in made:
            made[place] = nn.Parameter(layer.weight, requires_grad=False)
        plain.weight = made[place]
        plain._forward_hooks, plain._forward_pre_hooks = layer._forward_hooks, layer._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
        replace(model, name, plain)
    return list(layers)
