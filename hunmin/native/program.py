"""A decoder as the C++ kernel wants it: the values of its specs and where its weights are. One call then decodes a token in many rows."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_void_p
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.native import Library, address, library
from hunmin.native.choose import Choice, Chosen, Wanted
from hunmin.native.encoder import ACTS, ALIASES
from hunmin.native.matrix import KINDS, Matrix, Norm, Rows
from hunmin.nn.attention import Attention
from hunmin.nn.heads import LMHead
from hunmin.nn.layers import Layer
from hunmin.nn.model import Backbone, Model
from hunmin.nn.pages import SIZE, Pages
from hunmin.nn.positions import frequencies, sinusoids
from hunmin.nn.where import Where
from hunmin.quantize import QuantizedEmbedding, QuantizedLinear

REACH = 256  # positions that tables of angles start with
QUERIES = 32  # as in attention.h
QUANTIZED = 2  # the kind of all quantized weights, as far as their inputs are concerned: `U4` of matmul.h


class _Site(Structure):
    _fields_ = [(n, Matrix) for n in "qkvo"] + [(n, Norm) for n in ("q_norm", "k_norm")] + [(n, c_void_p) for n in ("cos", "sin", "bias")]
    _fields_ += [(n, c_int32) for n in ("heads", "kv_heads", "dim", "turned", "window", "far")] + [("scale", c_float), ("softcap", c_float)]


class _Layer(Structure):
    _fields_ = [("self", _Site), ("cross", _Site)] + [(n, Matrix) for n in ("gate", "up", "down")]
    _fields_ += [(n, Norm) for n in ("attn_norm", "attn_out_norm", "cross_norm", "ffn_norm", "ffn_out_norm")]
    _fields_ += [(n, c_int32) for n in ("act", "gated", "crossed", "store")]


class _Pool(Structure):
    _fields_ = [(n, c_void_p) for n in ("keys", "values", "table", "lengths")] + [("width", c_int32), ("kind", c_int32)]


class _Program(Structure):
    _fields_ = [("layers", POINTER(_Layer)), ("embed", Matrix), ("head", Matrix), ("positions", c_void_p)]
    _fields_ += [(n, Norm) for n in ("embed_norm", "norm")] + [(n, c_int32) for n in ("count", "width", "post", "kinds")]
    _fields_ += [(n, c_float) for n in ("scale", "head_scale", "head_softcap")] + [("widest", c_int32)]


class _Room(Structure):
    _fields_ = [("rows", c_int32), ("desk", c_int32)] + [(n, c_void_p) for n in ("x", "y", "wide", "far", "desks", "blocks", "memories")]
    _fields_ += [("in", Rows)]


class Program:
    """The decoder and the head of a model, to be run a token at a time. It points at the model's weights: they may change, not move."""

    def __init__(self, model: Model, kernels: Library) -> None:
        assert model.decoder is not None and isinstance(model.head, LMHead)
        self._kernels, self._kept = kernels, list[Any]()
        self._stack, self._head, self._embed = model.decoder.stack, model.head, model.decoder.embed
        self._kinds, self._reach = 0, 0
        self._pools = dict[int, tuple[Pages, Tensor, list[Any], int]]()
        self._angles: list[tuple[_Site, Attention]] = []
        self._room: tuple[int, int, Any] = (0, 0, None)
        self._struct = self._whole()

    @classmethod
    def of(cls, model: Model) -> Program | None:
        """A program, or None where PyTorch has to serve: other devices and dtypes, hooks (adapters), training, parts that C++ lacks."""
        kernels = library()
        return cls(model, kernels) if kernels is not None and cls.suits(model) else None

    @staticmethod
    def suits(model: Model) -> bool:
        return library() is not None and _suits(model)

    def reads(self, tokens: int) -> bool:
        """Whether steps read a prompt of so many tokens faster than the forward pass of PyTorch."""
        return tokens <= 16 or self._kernels.many

    @torch.no_grad()
    def step(
        self,
        ids: Tensor,
        table: Tensor,
        lengths: Tensor,
        pages: Pages,
        memory: tuple[Tensor, Tensor, Pages] | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """One token in every row. Rows may share pages: the tokens of a prompt are rows of growing length, each sees those before it.

        Args:
            ids: the new tokens, int64 ``(R,)``.
            table: pages of each row, int32 ``(R, P)``.
            lengths: tokens before the new one, int32 ``(R,)``.
            pages: where keys and values are, and where those of the new tokens go.
            memory: table, lengths and pages of the encoder's keys and values, for models with cross-attention.
            wanted: the rows whose logits are wanted, int32 ``(W,)``; None: all.

        Returns:
            Logits ``(W, V)``, fp32. Raises InputError for ids outside of the vocabulary.
        """
        wanted = torch.arange(len(ids), dtype=torch.int32) if wanted is None else wanted.to(torch.int32).contiguous()
        logits = torch.empty(len(wanted), self._struct.head.rows)
        self._run(ids, table, lengths, pages, memory, wanted, address(logits), None)
        return logits

    @torch.no_grad()
    def choose(
        self, ids: Tensor, table: Tensor, lengths: Tensor, pages: Pages, choice: Choice, memory: tuple[Tensor, Tensor, Pages] | None = None
    ) -> Chosen:
        """The same for all rows, of whose logits only a choice is kept."""
        found = Wanted.of(choice, len(ids), self._struct.head.rows)
        self._run(ids, table, lengths, pages, memory, torch.arange(len(ids), dtype=torch.int32), None, byref(found))
        return found.result()

    def _run(
        self,
        ids: Tensor,
        table: Tensor,
        lengths: Tensor,
        pages: Pages,
        memory: tuple[Tensor, Tensor, Pages] | None,
        wanted: Tensor,
        logits: Any,
        choice: Any,
    ) -> None:
        self._stretch(int(lengths.max()) + 1)
        room = self._space(len(ids))
        self._embed.check(ids)
        ids, kept = ids.to(torch.int64).contiguous(), list[Any]()
        pools = self._pool(table, lengths, pages, kept), self._pool(*memory, kept) if memory is not None else None
        cross = byref(pools[1]) if pools[1] is not None else None
        self._kernels.decode(
            byref(self._struct), byref(room), address(ids), byref(pools[0]), cross, address(wanted), len(wanted), logits, choice
        )

    def _pool(self, table: Tensor, lengths: Tensor, pages: Pages, kept: list[Any]) -> _Pool:
        known = self._pools.get(id(pages))
        if known is None or known[0] is not pages or known[1] is not pages.keys[0]:  # they move when they grow
            arrays = [(c_void_p * len(side))(*(t.data_ptr() for t in side)) for side in (pages.keys, pages.values)]
            known = self._pools[id(pages)] = pages, pages.keys[0], arrays, KINDS[pages.keys[0].dtype]
        table, lengths = table.to(torch.int32).contiguous(), lengths.to(torch.int32).contiguous()
        kept += [table, lengths]
        keys, values = (ctypes.cast(array, c_void_p) for array in known[2])
        return _Pool(keys, values, address(table), address(lengths), table.shape[1], known[3])

    def _space(self, rows: int) -> Any:
        """Room for a step of so many rows; used again as long as it is large enough."""
        threads = torch.get_num_threads()
        if self._room[0] < rows or self._room[1] != threads:
            widest, width, desk = self._struct.widest, self._struct.width, QUERIES * (3 * self._dim + SIZE)
            sizes = {"x": width, "y": width, "wide": widest, "far": widest, "blocks": 2, "memories": 2}
            kept = {name: torch.empty(rows * size) for name, size in sizes.items()} | {"desks": torch.empty(threads * desk)}
            room = _Room(desk=desk, **{name: t.data_ptr() for name, t in kept.items()})
            inputs = Rows.of(torch.zeros(rows, widest))
            setattr(room, "in", inputs)
            self._room = rows, threads, (room, kept, inputs)
        room = self._room[2][0]
        room.rows = rows
        getattr(room, "in").count = rows
        return room

    def _stretch(self, tokens: int) -> None:
        """Tables of angles and positions for so many tokens."""
        if tokens <= self._reach:
            return
        self._reach = max(2 * tokens, REACH)
        at = torch.arange(self._reach)
        tables = dict[Any, tuple[Tensor, Tensor]]()
        for site, attn in self._angles:
            rope = attn.spec.rope
            assert rope is not None
            if (rope, site.turned) not in tables:
                angle = at[:, None].float() * frequencies(rope, site.turned, at.device)
                tables[rope, site.turned] = (angle.cos() * rope.scale, angle.sin() * rope.scale)
            site.cos, site.sin = (t.data_ptr() for t in tables[rope, site.turned])
        self._tables, embed = tables, self._embed.spec
        if embed.sinusoid:
            self._places = sinusoids((at + embed.offset)[None], embed.width, embed.sinusoid)[0].contiguous()
            self._struct.positions = self._places.data_ptr()

    def _whole(self) -> _Program:
        spec, embed, stack = self._stack.spec, self._embed, self._stack
        self._layers = (_Layer * spec.layers)()
        for use in range(spec.layers):
            layer = stack.used(use)
            assert isinstance(layer, Layer)
            self._fill(self._layers[use], layer, use)
        whole = _Program(
            self._layers, self._matrix(embed.tokens), self._matrix(self._head.out), None, self._norm(embed.norm), self._norm(stack.norm),
            spec.layers, spec.width, int(spec.order == "post"), self._kinds, embed.spec.scale, self._head.scale, self._head.softcap or 0.0,
        )  # fmt: skip
        if embed.positions is not None:
            table = embed.positions.weight.detach().float()[embed.spec.offset :].contiguous()
            self._kept.append(table)
            whole.positions = table.data_ptr()
        sites = [layer.attn for layer in stack.layers] + [layer.cross for layer in stack.layers if layer.cross is not None]  # type: ignore[union-attr]
        self._dim = max(s.dim for s in sites)  # type: ignore[union-attr]
        spans = [s.dim * (s.spec.heads + 2 * (s.spec.kv_heads or s.spec.heads)) for s in sites]  # type: ignore[union-attr]
        whole.widest = -(-max([spec.width, spec.ffn.width, *spans]) // 32) * 32
        return whole

    def _fill(self, to: _Layer, layer: Layer, use: int) -> None:
        spec, ffn = self._stack.spec, layer.ffn
        self._site(to.self, layer.attn, True)
        if layer.cross is not None:
            self._site(to.cross, layer.cross, False)
        to.up, to.down, to.gated = self._matrix(ffn.up), self._matrix(ffn.down), int(ffn.gate is not None)
        if ffn.gate is not None:
            to.gate = self._matrix(ffn.gate)
        for name in ("attn_norm", "attn_out_norm", "cross_norm", "ffn_norm", "ffn_out_norm"):
            setattr(to, name, self._norm(getattr(layer, name)))
        to.act, to.crossed, to.store = ACTS.index(ALIASES.get(spec.ffn.act, spec.ffn.act)), int(layer.cross is not None), use

    def _site(self, to: _Site, attn: Attention, own: bool) -> None:
        spec = attn.spec
        for name in "qkvo":
            setattr(to, name, self._matrix(getattr(attn, name)))
        to.q_norm, to.k_norm = self._norm(attn.q_norm), self._norm(attn.k_norm)
        to.heads, to.kv_heads, to.dim = spec.heads, spec.kv_heads or spec.heads, attn.dim
        to.window, to.scale, to.softcap = spec.window or 0, attn.dim**-0.5 if spec.scale is None else spec.scale, spec.softcap or 0.0
        if spec.rope:
            to.turned = int(attn.dim * spec.rope.fraction)
            self._angles.append((to, attn))
        if own and self._stack.bias is not None:
            buckets = self._stack.spec.buckets
            assert buckets is not None
            to.far = buckets.max_distance + 1
            table = self._stack.bias(Where.plain(1, 1, to.far - 1), Where.plain(1, to.far))[0, :, 0].flip(-1).float().contiguous()
            self._kept.append(table)
            to.bias = table.data_ptr()

    def _matrix(self, layer: nn.Module) -> Matrix:
        packed = isinstance(layer, QuantizedLinear | QuantizedEmbedding)
        found = Matrix.of(layer.tiles if packed else layer.weight, getattr(layer, "bias", None))  # type: ignore[arg-type]
        self._kinds |= 1 << min(found.kind, QUANTIZED)
        self._kept.append(found)
        return found

    def _norm(self, norm: Any) -> Norm:
        self._kept.append(found := Norm.of(norm))
        return found


def _suits(model: Model) -> bool:
    """Whether the C++ step computes what this model does."""
    decoder, head = model.decoder, model.head
    if model.training or decoder is None or not isinstance(head, LMHead) or head.dense is not None:
        return False
    spec, embed = decoder.stack.spec, decoder.embed.spec
    if embed.types or embed.project or ALIASES.get(spec.ffn.act, spec.ffn.act) not in ACTS or type(decoder) is not Backbone:
        return False
    if any(type(layer) is not Layer for layer in decoder.stack.layers):
        return False
    for module in (*decoder.modules(), *head.modules()):
        if module._forward_hooks or module._forward_pre_hooks:  # pyright: ignore[reportPrivateUsage]
            return False
        if isinstance(module, Attention) and (type(module) is not Attention or (module.spec.rope and module.spec.rope.by_length)):
            return False
        if isinstance(module, QuantizedLinear | QuantizedEmbedding) and (not module.native or module.order is not None):
            return False
        if isinstance(module, QuantizedLinear) and not module.round_inputs:
            return False
    parameters = [*decoder.parameters(), *head.parameters()]
    buffers = [*decoder.buffers(), *head.buffers()]
    return all(t.device.type == "cpu" for t in parameters + buffers) and all(p.dtype in KINDS for p in parameters)
