"""Positions: rotary angles with their stretchings, relative bias buckets, sinusoids."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from hunmin.nn.linear import Embedding
from hunmin.nn.spec import Buckets, Rope
from hunmin.nn.where import Where


@lru_cache(maxsize=256)
def frequencies(rope: Rope, dim: int, device: torch.device) -> Tensor:
    """Angle per position of each of the ``dim / 2`` pairs, ``(dim / 2,)`` fp32, for kinds that do not depend on the length.

    Sources: linear (Chen et al. 2023), YaRN (Peng et al. 2023, section 3), wavelength (Dubey et al. 2024 and its reference code).
    """
    exponent = torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim
    freq = 1.0 / rope.theta**exponent
    if rope.kind == "linear":
        return freq / rope.factor
    if rope.kind == "wavelength":
        wave = 2 * math.pi / freq
        keep = ((rope.trained / wave - rope.slow) / (rope.fast - rope.slow)).clamp(0, 1)
        return (1 - keep) * freq / rope.factor + keep * freq
    if rope.kind == "yarn":

        def at(turns: float) -> float:  # the dimension that makes this many turns over the trained length
            return dim * math.log(rope.trained / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

        low, high = at(rope.fast), at(rope.slow)
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = ((torch.arange(dim // 2, device=device).float() - low) / max(high - low, 0.001)).clamp(0, 1)
        return freq / rope.factor * ramp + freq * (1 - ramp)
    return freq


def stretched(rope: Rope, dim: int, extent: Tensor) -> Tensor:
    """Frequencies ``(B, N, dim / 2)`` for kinds that depend on the sequence length ``extent`` ``(B, N)``.

    Sources: dynamic NTK (bloc97 and emozilla 2023), LongRoPE (Ding et al. 2024).
    """
    exponent = torch.arange(0, dim, 2, dtype=torch.int64, device=extent.device).float() / dim
    if rope.kind == "longrope":
        short, long = (torch.tensor(f, device=extent.device) for f in (rope.short, rope.long))
        return 1.0 / (torch.where((extent > rope.trained)[..., None], long, short) * rope.theta**exponent)
    stretch = rope.factor * extent.clamp(min=rope.trained).float() / rope.trained - (rope.factor - 1)
    return 1.0 / (rope.theta * stretch ** (dim / (dim - 2)))[..., None] ** exponent


def rotate(x: Tensor, at: Where, rope: Rope) -> Tensor:
    """Turn the first ``rope.fraction`` of every head of x ``(B, N, H, D)``, halves convention."""
    dim = int(x.shape[-1] * rope.fraction)

    def angles() -> tuple[Tensor, Tensor]:
        freq = stretched(rope, dim, at.extent()) if rope.by_length else frequencies(rope, dim, x.device)
        angle = (at.position[..., None].float() * freq)[:, :, None]  # (B, N, 1, dim / 2)
        return (angle.cos() * rope.scale).to(x.dtype), (angle.sin() * rope.scale).to(x.dtype)

    cos, sin = at.memo(("rope", rope, dim, x.dtype), angles)
    a, b = x[..., : dim // 2], x[..., dim // 2 : dim]
    turned = (a * cos - b * sin, b * cos + a * sin)
    return torch.cat(turned if dim == x.shape[-1] else (*turned, x[..., dim:]), -1)


def sinusoids(position: Tensor, width: int, tradition: str) -> Tensor:
    """Sines in the first half of ``width``, cosines in the second, ``(B, N, width)`` fp32. Computed in fp64 like the reference tables.

    Wavelengths grow from 2 pi up to, but excluding, 10000 * 2 pi ("halves"), or including it ("fairseq").
    """
    half = (width + 1) // 2
    steps = half if tradition == "halves" else width // 2 - 1
    rate = 10000.0 ** (
        -torch.arange(half, dtype=torch.float64, device=position.device) * (2 * half / width if tradition == "halves" else 1) / steps
    )
    angle = position[..., None].double() * rate
    return torch.cat([angle.sin(), angle.cos()[..., : width // 2]], -1).float()


class RelativeBias(nn.Module):
    """A learned bias per head and bucket of relative distance, shared by the layers of a stack."""

    def __init__(self, spec: Buckets, heads: int, causal: bool) -> None:
        super().__init__()
        self.spec, self.causal = spec, causal
        self.table = Embedding(spec.count, heads)

    def forward(self, q: Where, k: Where) -> Tensor:
        """``(B or 1, H, Q, K)``, computed once per pair of places; plain rows share one."""
        return q.memo(("bias", id(self), id(k)), lambda: (self._bias(q, k), k))[0]

    def _bias(self, q: Where, k: Where) -> Tensor:
        rows = slice(0, 1) if q.kind == k.kind == "plain" else slice(None)
        return self.by_gap(k.position[rows, None, :] - q.position[rows, :, None]).permute(0, 3, 1, 2)

    def by_gap(self, gap: Tensor) -> Tensor:
        """The bias of each head at the distances ``gap`` ``(…)``, key minus query: ``(…, H)``."""
        count, base = self.spec.count, torch.zeros_like(gap)
        if not self.causal:  # half of the buckets look ahead
            count //= 2
            base = (gap > 0).long() * count
        gap = (-gap).clamp(min=0) if self.causal else gap.abs()
        exact = count // 2  # small distances have a bucket each, large ones share logarithmic buckets
        ratio = torch.log(gap.clamp(min=1).float() / exact) / math.log(self.spec.max_distance / exact)
        far = (exact + (ratio * (count - exact)).long()).clamp(max=count - 1)
        return self.table(base + torch.where(gap < exact, gap, far))
