"""Attention. ``attend`` is the only place in the library that chooses an attention kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hunmin.nn.cache import Cache
from hunmin.nn.dropout import drop
from hunmin.nn.linear import Linear
from hunmin.nn.norm import build_norm
from hunmin.nn.positions import RelativeBias, rotate
from hunmin.nn.spec import Attn
from hunmin.nn.where import BRIEF, Where, additive


@dataclass
class Trace:
    """What a forward pass leaves behind on request. ``attentions`` and ``cross`` hold ``(B, H, Q, K)`` weights, ``hidden`` ``(B, N, C)``."""

    weights: bool = False
    hidden: list[Tensor] = field(default_factory=list[Tensor])
    attentions: list[Tensor] = field(default_factory=list[Tensor])
    cross: list[Tensor] = field(default_factory=list[Tensor])


@dataclass
class Context:
    """What every layer of one forward pass shares, besides the tokens themselves."""

    cache: Cache | None = None
    memory: tuple[Tensor, Where] | None = None  # encoder output (B, M, C) and its places
    trace: Trace | None = None


def attend(
    q: Tensor, k: Tensor, v: Tensor, at: Where, keys_at: Where, spec: Attn, bias: RelativeBias | Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1): q ``(B, Q, H, D)``, k and v ``(B, K, G, D)`` -> ``(B, Q, H, D)``.

    ``bias`` is added to the scores: one that follows from the places, or ``(B or 1, H, Q, K)`` that follows from the tokens.
    """
    # Sequences of about one length together: hardly any work is spent on pairs that cannot see each other.
    if at.kind == keys_at.kind == "packed" and not isinstance(bias, Tensor):
        blocks = at.blocks(keys_at)
        q, k, v = (t[0].index_select(0, columns) for t, columns in ((q, blocks.queries), (k, blocks.keys), (v, blocks.keys)))
        queries, keys = zip(*blocks.pairs, strict=True)
        parts = (_cut(q, queries), _cut(k, keys), _cut(v, keys), queries, keys)
        out = [attend(*part, spec, bias, dropout).flatten(0, 1) for part in zip(*parts, strict=True)]
        return torch.cat(out).index_select(0, blocks.back)[None]
    if spec.softcap is not None or _brief(q, k) or (dropout and q.device.type == "cpu"):  # whose fused kernel knows no dropout
        return weigh(q, k, v, at, keys_at, spec, bias, dropout)[0]
    causal = spec.causal and at is keys_at and at.kind == "plain" and bias is None and (spec.window is None or spec.window >= at.end)
    mask = None if causal else scores_mask(at, keys_at, spec, bias, q.dtype)
    if q.shape[1] == 1 and bias is None and q.shape[2] != k.shape[2]:  # a step: the heads that share keys stand like queries of one head,
        q = q[:, 0].unflatten(1, (k.shape[2], -1))  # four times as fast in bfloat16 on a CPU
        y = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, dropout_p=dropout, scale=spec.scale)
        return y.flatten(1, 2)[:, None]
    y = F.scaled_dot_product_attention(
        *(t.transpose(1, 2) for t in (q, k, v)),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and q.shape[1] > 1,
        scale=spec.scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return y.transpose(1, 2)


def _cut(x: Tensor, places: Sequence[Where]) -> list[Tensor]:
    """x ``(N, H, D)`` in pieces ``(B, M, H, D)`` as ``places`` ``(B, M)`` lie one after another in it."""
    return [part.unflatten(0, at.shape) for part, at in zip(x.split([at.shape.numel() for at in places]), places, strict=True)]


def _brief(q: Tensor, k: Tensor) -> bool:
    """Whether rows are so short that two batched products beat the fused kernel: bfloat16 on a CPU, about twice as fast up to 64 tokens."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and 1 < q.shape[1] <= BRIEF and k.shape[1] <= BRIEF


def scores_mask(at: Where, keys_at: Where, spec: Attn, bias: RelativeBias | Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the scores, ``(B, 1 or H, Q, K)``: the mask, the relative bias, or both."""
    mask = additive(at, keys_at, spec.causal, spec.window, dtype)
    if bias is None:
        return mask
    if isinstance(bias, Tensor):
        return bias if mask is None else mask + bias
    table = bias(at, keys_at).to(dtype)
    return table if mask is None else at.memo(("biased", id(bias), id(keys_at)), lambda: (mask + table, keys_at))[0]


def weigh(
    q: Tensor, k: Tensor, v: Tensor, at: Where, keys_at: Where, spec: Attn, bias: RelativeBias | Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """Attention step by step, for soft-capped scores and for whoever wants to see the weights ``(B, H, Q, K)``."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (spec.scale if spec.scale is not None else q.shape[-1] ** -0.5)
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    mask = scores_mask(at, keys_at, spec, bias, q.dtype)
    weights = (scores if mask is None else scores + mask).softmax(-1)  # sums in fp32, whatever the dtype
    return (drop(weights, dropout) @ v).transpose(1, 2), weights


class Attention(nn.Module):
    """Self- or cross-attention: four projections around ``attend``."""

    def __init__(self, spec: Attn, width: int) -> None:
        super().__init__()
        self.spec, self.dim = spec, spec.head_dim or width // spec.heads
        kv = (spec.kv_heads or spec.heads) * self.dim
        self.q = Linear(width, spec.heads * self.dim, bias="q" in spec.bias)
        self.k = Linear(width, kv, bias="k" in spec.bias)
        self.v = Linear(width, kv, bias="v" in spec.bias)
        self.o = Linear(spec.heads * self.dim, width, bias="o" in spec.bias)
        self.q_norm = build_norm(spec.qk_norm, self.dim) if spec.qk_norm else None
        self.k_norm = build_norm(spec.qk_norm, self.dim) if spec.qk_norm else None

    def forward(self, x: Tensor, at: Where, context: Context, site: str, bias: RelativeBias | None = None) -> Tensor:
        """x ``(B, N, C)`` -> ``(B, N, C)``. ``site`` names the cache entry; those that start with ``cross`` look at the memory."""
        cross, cache, spec = site.startswith("cross"), context.cache, self.spec
        q = self._heads(self.q, x, self.q_norm)
        if cross and cache is not None and site in cache:
            k, v, keys_at = cache.get(site)
        else:
            source, keys_at = (context.memory or (x, at)) if cross else (x, at)
            k, v = self.keys(source)
            if spec.rope:
                k = rotate(k, keys_at, spec.rope)
            if cache is not None:
                k, v, keys_at = cache.append(site, k, v, keys_at)
        if spec.rope:
            q = rotate(q, at, spec.rope)
        dropout = spec.dropout if self.training else 0.0
        if context.trace is not None and context.trace.weights:
            y, weights = weigh(q, k, v, at, keys_at, spec, bias, dropout)
            (context.trace.cross if cross else context.trace.attentions).append(weights)
        else:
            y = attend(q, k, v, at, keys_at, spec, bias, dropout)
        return self.o(y.flatten(2))

    def keys(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, before their rotation, and values of ``source`` ``(B, N, C)``: ``(B, N, G, D)`` both."""
        return self._heads(self.k, source, self.k_norm), self._heads(self.v, source)

    def _heads(self, project: nn.Linear, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        y = project(x).unflatten(-1, (-1, self.dim))  # the number of heads follows from the weight: a shard just works
        return y if norm is None else norm(y)
