"""A whole encoder in one call of the native library: the same ``Stack``, without gradients, traces, hooks or a cache.

The weights stand in panels of their own, packed once, and again when a parameter was changed or replaced.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hunmin.native import ORDER, Library, address, library
from hunmin.native.matrix import KINDS

if TYPE_CHECKING:
    from hunmin.nn.attention import Context
    from hunmin.nn.layers import Layer, Transformer
    from hunmin.nn.spec import Stack
    from hunmin.nn.where import Where

U8 = 3
ACTS = ("gelu", "gelu_new", "quick_gelu", "relu", "silu", "sigmoid", "tanh")  # as encoder.h numbers them
ALIASES = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
SPAN = 32  # vectors of weights are filled up with zeros to a multiple of this

_Int, _Float, _Address = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class _Product(ctypes.Structure):
    _fields_ = [(n, _Int) for n in ("kind", "rows", "cols", "unused")]
    _fields_ += [(n, _Address) for n in ("codes", "bias", "scale", "sums", "smooth")]


class _Norm(ctypes.Structure):
    _fields_ = [("w", _Address), ("b", _Address)]


class _Layer(ctypes.Structure):
    _fields_ = [(n, _Product) for n in ("qkv", "o", "gate", "up", "down")] + [(n, _Norm) for n in ("attn_norm", "ffn_norm")]


class _Encoder(ctypes.Structure):
    _fields_ = [(n, _Int) for n in "kind width layers sets heads kv_heads dim ffn post rms act reach".split()]
    _fields_ += [("eps", _Float), ("scale", _Float), ("sets_of", ctypes.POINTER(_Layer)), ("norm", _Norm), ("bias", _Address)]


class _Sequences(ctypes.Structure):
    _fields_ = [("count", _Int), ("threads", _Int)] + [(n, _Address) for n in ("starts", "key_starts", "keys", "positions")]


class PackedEncoder:
    """The weights of a stack as the kernels want them. It does not hold the stack, and so does not keep it alive."""

    def __init__(self, stack: Transformer, kernels: Library) -> None:
        self.kernels, self.held = kernels, list[Tensor]()
        layers = cast("list[Layer]", list(stack.layers))
        attn = layers[0].attn
        self.spec, self.dtype, self.dim = stack.spec, attn.q.weight.dtype, attn.dim
        self.kind, self.act = KINDS[self.dtype], ACTS.index(ALIASES.get(stack.spec.ffn.act, stack.spec.ffn.act))
        self.heads = attn.q.out_features // self.dim, attn.k.out_features // self.dim
        self.scale = attn.spec.scale if attn.spec.scale is not None else self.dim**-0.5
        self.eight = stack.eight
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

    def _product(self, name: str, parts: Sequence[nn.Linear | None], norm: nn.Module | None = None) -> _Product:
        """One or several linear layers, one after another. ``norm`` is what their input comes out of."""
        layers = [part for part in parts if part is not None]
        if not layers:
            return _Product()
        weight = torch.cat([layer.weight.detach() for layer in layers])
        biases = [cast("Tensor | None", layer.bias) for layer in layers]
        bias = torch.cat(
            [b.detach().float() if b is not None else torch.zeros(len(layer.weight)) for b, layer in zip(biases, layers, strict=True)]
        )
        kind, more = self.kind, list[ctypes.c_void_p]()
        if name in self.eight:
            weight, scale, sums, smooth = _eight_bits(weight.float(), norm)
            kind, more = U8, [self._vector(scale), self._vector(sums), self._vector(smooth)]
        weight, (rows, cols), size = weight.to(torch.uint8 if kind == U8 else self.dtype).contiguous(), weight.shape, ctypes.c_int64()
        self.kernels.packed_size(kind, rows, cols, ctypes.byref(size))
        room = torch.zeros(size.value + 64, dtype=torch.uint8)
        codes = room[-room.data_ptr() % 64 :]  # whole cache lines
        self.kernels.pack(kind, rows, cols, address(weight), address(codes))
        return _Product(kind, rows, cols, 0, self._keep(codes), self._vector(bias), *more)

    def _norm(self, norm: Any) -> _Norm:
        if norm is None:
            return _Norm()
        bias = getattr(norm, "bias", None)
        return _Norm(self._vector(norm.weight + getattr(norm, "offset", 0.0)), self._vector(bias) if bias is not None else None)

    def _layer(self, layers: list[Layer], index: int) -> _Layer:
        layer, post = layers[index], self.spec.order == "post"
        a, f = layer.attn, layer.ffn
        above = (layers[index - 1].ffn_norm if index else None) if post else layer.attn_norm
        middle = layer.attn_norm if post else layer.ffn_norm
        products = [self._product("qkv", (a.q, a.k, a.v), above), self._product("o", (a.o,))]
        products += [self._product("up", (f.gate,), middle), self._product("up", (f.up,), middle), self._product("down", (f.down,))]
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
            spec.norm.kind == "rms", self.act, (table.shape[1] + 1) // 2, spec.norm.eps, self.scale, self.layers, self.norm,
            address(table if table.numel() else None),
        )  # fmt: skip
        x, out = x.contiguous(), torch.empty(x.shape, dtype=self.dtype)
        sequences = _Sequences(len(found[0]) - 1, torch.get_num_threads(), *map(address, found))
        self.kernels.encode(ctypes.byref(encoder), ctypes.byref(sequences), address(x), address(out))
        return out


def _eight_bits(weight: Tensor, norm: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A weight ``(out, in)`` as codes 1 … 255, a scale a row, the sums of ``code - 128``, and what columns of the input are multiplied by.

    Columns that a norm makes large are divided before they are rounded, and the weight is multiplied instead (SmoothQuant, Xiao et al.
    2023, eq. 4, with the norm's own weight and bias for the largest activations, so that no data is needed).
    """
    smooth = torch.ones(weight.shape[1])
    if norm is not None:
        size = 3 * (norm.weight.detach().float() + getattr(norm, "offset", 0.0)).abs()
        size = size + norm.bias.detach().float().abs() if getattr(norm, "bias", None) is not None else size
        smooth = (size.clamp(min=1e-5) ** 0.65 / weight.abs().amax(0).clamp(min=1e-5) ** 0.35).clamp(min=1e-4)
    weight = weight * smooth
    scale = weight.abs().amax(1).clamp(min=1e-30) / 127
    codes = (weight / scale[:, None]).round()
    return codes + 128, scale, codes.sum(1), 1 / smooth


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
    if packed is None or packed.kernels is not kernels or packed.eight != stack.eight or not packed.current():
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
    return None if dtype == torch.bfloat16 and (kernels.level != "avx512" or torch.cpu._is_amx_tile_supported()) else kernels  # pyright: ignore[reportPrivateUsage]


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
    from hunmin.nn.linear import Embedding, Linear
    from hunmin.nn.norm import RMSNorm
    from hunmin.nn.positions import RelativeBias

    known = {Transformer, nn.ModuleList, Layer, Attention, FeedForward, Linear, Embedding, RMSNorm, nn.LayerNorm, RelativeBias}
    fitting = all(type(p) is nn.Parameter and p.device.type == "cpu" and p.dtype in KINDS and p.is_contiguous() for p in stack.parameters())
    return fitting and all(type(m) in known for m in stack.modules())


def _cells(stack: Transformer) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Every place that holds a module or a parameter, and what it holds."""
    for module in stack.modules():
        for held in (module._modules, module._parameters):  # pyright: ignore[reportPrivateUsage]
            yield from ((held, name, value) for name, value in held.items())
