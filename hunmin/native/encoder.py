"""A whole encoder in one call of the native library: the same ``Stack``, without gradients, traces, hooks or a cache.

The weights stand in panels of their own, packed once, and again when a parameter was changed or replaced.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hunmin.native import ORDER, Library, address, library
from hunmin.native.matrix import KINDS, Matrix, Norm
from hunmin.nn.linear import Linear
from hunmin.nn.norm import RMSNorm
from hunmin.quantize import QuantizedLinear

if TYPE_CHECKING:
    from hunmin.nn.attention import Context
    from hunmin.nn.layers import Layer, Transformer
    from hunmin.nn.spec import Stack
    from hunmin.nn.where import Where

ACTS = ("gelu", "gelu_new", "quick_gelu", "relu", "silu", "sigmoid", "tanh")  # as encoder.h numbers them
ALIASES = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
SPAN = 32  # vectors of weights are filled up with zeros to a multiple of this

_Int, _Float, _Address = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class _Product(ctypes.Structure):
    _fields_ = [(n, _Int) for n in ("kind", "rows", "cols", "count")] + [(n, _Address) for n in ("codes", "bias", "tiles")]


class _Layer(ctypes.Structure):
    _fields_ = [(n, _Product) for n in ("qkv", "o", "gate", "up", "down")] + [(n, Norm) for n in ("attn_norm", "ffn_norm")]


class _Encoder(ctypes.Structure):
    _fields_ = [(n, _Int) for n in "kind width layers sets heads kv_heads dim ffn post act reach".split()]
    _fields_ += [("scale", _Float), ("sets_of", ctypes.POINTER(_Layer)), ("norm", Norm), ("bias", _Address)]


class _Sequences(ctypes.Structure):
    _fields_ = [("count", _Int), ("threads", _Int)] + [(n, _Address) for n in ("starts", "key_starts", "keys", "positions")]


class PackedEncoder:
    """The weights of a stack as the kernels want them. It does not hold the stack, and so does not keep it alive."""

    def __init__(self, stack: Transformer, kernels: Library) -> None:
        self.kernels, self.held = kernels, list[Any]()
        layers = cast("list[Layer]", list(stack.layers))
        attn = layers[0].attn
        self.spec, self.dtype, self.dim = stack.spec, attn.q.dtype, attn.dim
        self.kind, self.act = KINDS[self.dtype], ACTS.index(ALIASES.get(stack.spec.ffn.act, stack.spec.ffn.act))
        self.heads = attn.q.out_features // self.dim, attn.k.out_features // self.dim
        self.scale = attn.spec.scale if attn.spec.scale is not None else self.dim**-0.5
        self.layers = (_Layer * len(layers))(*(self._layer(layers, i) for i in range(len(layers))))
        self.norm, self.distances = self._norm(stack.norm), stack.bias
        self.table = torch.empty(self.heads[0], 0)
        self.cells, self.modules, self.parameters = list(_cells(stack)), list(stack.modules())[1:], list(stack.parameters())
        self.state = self._state()

    # -------------------------------------------------------------- packing

    def _keep(self, t: Tensor) -> ctypes.c_void_p:
        self.held.append(t)
        return address(t)

    def _vector(self, t: Tensor) -> ctypes.c_void_p:
        """As floats, filled up with zeros."""
        return self._keep(torch.cat([t.detach().float(), torch.zeros(-len(t) % SPAN)]))

    def _product(self, *parts: Linear | QuantizedLinear | None) -> _Product:
        """One or several linear layers, one below the other."""
        layers = [part for part in parts if part is not None]
        packed = [layer for layer in layers if isinstance(layer, QuantizedLinear)]
        if not layers:
            return _Product()
        rows, cols = sum(layer.out_features for layer in layers), layers[0].in_features
        if packed:
            matrices = [Matrix.of(layer.tiles, layer.bias) for layer in packed]
            tiles = (Matrix * len(packed))(*matrices)
            self.held += [matrices, tiles]  # an array copies structures, not what they keep
            return _Product(tiles[0].kind, rows, cols, len(packed), None, None, ctypes.cast(tiles, _Address))
        plain = cast("list[Linear]", layers)
        weight = torch.cat([layer.weight.detach() for layer in plain]).contiguous()
        size = ctypes.c_int64()
        self.kernels.packed_size(self.kind, rows, cols, ctypes.byref(size))
        room = torch.zeros(size.value + 64, dtype=torch.uint8)
        codes = room[-room.data_ptr() % 64 :]  # whole cache lines
        self.kernels.pack(self.kind, rows, cols, address(weight), address(codes))
        biases = [cast("Tensor | None", layer.bias) for layer in plain]
        filled = [b.detach() if b is not None else weight.new_zeros(layer.out_features) for b, layer in zip(biases, plain, strict=True)]
        return _Product(self.kind, rows, cols, 0, self._keep(codes), self._vector(torch.cat(filled)), None)

    def _norm(self, norm: Any) -> Norm:
        self.held.append(found := Norm.of(norm))
        return found

    def _layer(self, layers: list[Layer], index: int) -> _Layer:
        layer = layers[index]
        a, f = layer.attn, layer.ffn
        products = [self._product(*parts) for parts in ((a.q, a.k, a.v), (a.o,), (f.gate,), (f.up,), (f.down,))]  # type: ignore[arg-type]
        return _Layer(*products, self._norm(layer.attn_norm), self._norm(layer.ffn_norm))

    # -------------------------------------------------------------- whether it still holds

    def _state(self) -> bytes:
        """A fingerprint of every parameter. Versions would be cheaper, but writing through ``.data`` changes none."""
        count = len(self.parameters)
        parts = (ctypes.c_void_p * count)(*(p.data_ptr() for p in self.parameters))
        found = (ctypes.c_uint64 * count)()
        sizes = (ctypes.c_int64 * count)(*(p.nbytes for p in self.parameters))
        self.kernels.fingerprint(parts, sizes, count, found)
        return bytes(found)

    def current(self) -> bool:
        """Whether the stack still has the same modules and parameters, unchanged."""
        return all(held.get(name) is value for held, name, value in self.cells) and self._state() == self.state

    def open(self) -> bool:
        """Whether nothing is dropped, and nobody looks at what passes between the parts."""
        return not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in self.modules)  # pyright: ignore[reportPrivateUsage]

    # -------------------------------------------------------------- running

    def _biases(self, reach: int) -> Tensor:
        """Relative biases of every distance below ``reach``, or below more, ``(heads, 2 * reach - 1)``; empty without."""
        if self.distances is not None and self.table.shape[1] < 2 * reach - 1:
            reach = max(reach, self.table.shape[1])
            self.table = self.distances.by_gap(torch.arange(1 - reach, reach)).detach().T.float().contiguous()
        return self.table

    def __call__(self, x: Tensor, at: Where) -> Tensor | None:
        """x ``(B, N, C)`` -> ``(B, N, C)``; None where a row has no token at all, or holds more than one sequence and padding."""
        found = at.memo("sequences", lambda: _sequences(at))
        if found is None:
            return None
        spec, table = self.spec, self._biases(at.end)
        encoder = _Encoder(
            self.kind, spec.width, spec.layers, len(self.layers), *self.heads, self.dim, spec.ffn.width, spec.order == "post",
            self.act, (table.shape[1] + 1) // 2, self.scale, self.layers, self.norm, address(table if table.numel() else None),
        )  # fmt: skip
        x, out = x.contiguous(), torch.empty(x.shape, dtype=self.dtype)
        sequences = _Sequences(len(found[0]) - 1, torch.get_num_threads(), *map(address, found))
        self.kernels.encode(ctypes.byref(encoder), ctypes.byref(sequences), address(x), address(out))
        return out


PACKED: WeakKeyDictionary[nn.Module, PackedEncoder] = WeakKeyDictionary()


def encode(stack: Transformer, x: Tensor, at: Where, context: Context) -> Tensor | None:
    """What ``stack`` computes of x ``(B, N, C)`` on a CPU, or None where its PyTorch twin has to: the one place that chooses.

    The twin computes gradients, traces and caches, runs hooks, and serves what the kernels do not have.
    """
    if x.device.type != "cpu" or x.dtype not in KINDS or torch.is_grad_enabled() or stack.training or not _has(stack.spec):
        return None
    if context.cache is not None or context.trace is not None or (kernels := _kernels(x.dtype)) is None or _watched():
        return None
    packed = PACKED.get(stack)
    if packed is None or packed.kernels is not kernels or not packed.current():
        if not _of_blocks(stack):
            return None
        packed = PACKED[stack] = PackedEncoder(stack, kernels)
    return packed(x, at) if packed.dtype == x.dtype and packed.open() else None


def _kernels(dtype: torch.dtype) -> Library | None:
    """The library, where it is faster than PyTorch: not where AMX multiplies bfloat16, nor without instructions for it."""
    kernels = library()
    forced = os.environ.get("HUNMIN_NATIVE") in ORDER
    if kernels is None or forced:
        return kernels
    return None if dtype == torch.bfloat16 and not kernels.many else kernels


def _watched() -> bool:
    """Whether something stands between the modules and what they compute: mixed precision, a compiler, hooks of all modules."""
    from torch.nn.modules import module

    hooks = module._global_forward_hooks or module._global_forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or tracing or bool(hooks)


@functools.lru_cache(maxsize=64)
def _has(spec: Stack) -> bool:
    """Whether the kernels have everything in ``spec``."""
    attn = spec.attn
    exotic = attn.causal or attn.window or attn.softcap is not None or attn.rope or attn.qk_norm or spec.cross
    same = all(spec.vary(i, attn) == attn for i in range(spec.layers))
    return not exotic and same and spec.order != "sandwich" and spec.layers > 0 and ALIASES.get(spec.ffn.act, spec.ffn.act) in ACTS


def _sequences(at: Where) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Where sequences begin, where their keys do, the rows of their keys, and the position of every row, all int32."""
    rows, width = at.shape
    position = at.position.flatten().int()
    if at.kind == "padded":
        real = at.segment >= 0
        counts = real.sum(1)
        if int(at.segment.max()) > 0 or int(counts.min()) == 0:
            return None
        key_starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        return torch.arange(rows + 1, dtype=torch.int32) * width, key_starts, real.flatten().nonzero()[:, 0].int(), position
    lengths = at.lengths if at.kind == "packed" else [width] * rows
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return starts, starts, torch.arange(rows * width, dtype=torch.int32), position


def _of_blocks(stack: Transformer) -> bool:
    """Whether all parts compute what their specs say: ordinary layers on a CPU, of a type that the kernels have."""
    from hunmin.nn.attention import Attention
    from hunmin.nn.layers import FeedForward, Layer, Transformer
    from hunmin.nn.linear import Embedding
    from hunmin.nn.positions import RelativeBias

    known = {
        Transformer,
        nn.ModuleList,
        Layer,
        Attention,
        FeedForward,
        Linear,
        QuantizedLinear,
        Embedding,
        RMSNorm,
        nn.LayerNorm,
        RelativeBias,
    }
    fitting = all(type(p) is nn.Parameter and p.device.type == "cpu" and p.dtype in KINDS and p.is_contiguous() for p in stack.parameters())
    packed = [m for m in stack.modules() if isinstance(m, QuantizedLinear)]
    linears = sum(isinstance(m, Linear) for m in stack.modules())
    whole = not packed or (not linears and all(_fills(m) for m in packed))
    return fitting and whole and all(type(m) in known for m in stack.modules())


def _fills(layer: QuantizedLinear) -> bool:
    """Whether a quantized layer rounds its inputs too, and has whole tiles and groups."""
    whole = layer.out_features % 16 == 0 and layer.tiles.columns == layer.in_features
    return layer.round_inputs and layer.native and layer.order is None and layer.codes.device.type == "cpu" and whole


def _cells(stack: Transformer) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Every place that holds a module, a parameter or a buffer, and what it holds."""
    for module in stack.modules():
        for held in (module._modules, module._parameters, module._buffers):  # pyright: ignore[reportPrivateUsage]
            yield from ((held, name, value) for name, value in held.items())
