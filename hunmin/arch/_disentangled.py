"""Disentangled attention (He et al. 2021) and what stands around it: an oddity of one family, kept out of ``nn``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hunmin.nn.attention import Attention, Context, attend, weigh
from hunmin.nn.dropout import drop
from hunmin.nn.embed import TokenEmbedding
from hunmin.nn.layers import Layer, activation
from hunmin.nn.linear import Conv1d, Linear
from hunmin.nn.norm import build_norm
from hunmin.nn.positions import RelativeBias
from hunmin.nn.spec import Attn, Buckets, Embed, Norm, Stack
from hunmin.nn.where import Where


class Distances(RelativeBias):
    """A vector for each distance, query minus key; shared by the layers. Far distances may share logarithmic buckets."""

    def __init__(self, spec: Buckets, width: int, norm: Norm | None, logarithmic: bool) -> None:
        super().__init__(spec, width, causal=False)
        self.norm, self.logarithmic = build_norm(norm, width) if norm else None, logarithmic

    def rows(self, gap: Tensor) -> Tensor:
        half, size = self.spec.count // 2, gap.abs()
        if self.logarithmic:
            near = half // 2
            ratio = torch.log(size.clamp(min=near) / near) / torch.log(torch.tensor(self.spec.max_distance / near))
            size = torch.where(size <= near, size, (torch.ceil(ratio * (near - 1)) + near).long())
        return (half + gap.sign() * size).clamp(0, 2 * half - 1)

    def used(self, at: Where) -> slice:
        """The rows that sequences of this length look at: few for a short one."""
        first, last = at.memo(("used", id(self)), lambda: [int(self.rows(torch.tensor(gap))) for gap in (1 - at.end, at.end - 1)])
        return slice(first, last + 1)

    def vectors(self, at: Where) -> Tensor:
        table = self.table.weight[self.used(at)]
        return self.norm(table) if self.norm is not None else table

    def _bias(self, q: Where, k: Where) -> Tensor:
        """The row that each pair looks at, ``(B or 1, 1, Q, K)``; limited, as a GPU may round a logarithm another way."""
        batch, used = slice(0, 1) if q.kind == "plain" else slice(None), self.used(q)
        gap = q.position[batch, None, :, None] - k.position[batch, None, None, :]
        return self.rows(gap).clamp(used.start, used.stop - 1)


def score(x: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Tokens ``(B, N, H, D)`` times those of the vectors ``(R, H, D)`` that rows ``(B or 1, 1, N, M)`` name: ``(B, H, N, M)``."""
    y = x.transpose(1, 2) @ vectors.permute(1, 2, 0)
    return y.gather(-1, rows.expand(*y.shape[:3], -1))


class Disentangled(Attention):
    """Self-attention with scores from content to position and from position to content (section 3.1) beside those of the contents."""

    def __init__(self, spec: Attn, width: int, kinds: set[str], shared: bool, dropout: float) -> None:
        super().__init__(spec, width)
        self.kinds, self.dropout = kinds, dropout
        self.pos_k = Linear(width, width) if "c2p" in kinds and not shared else None
        self.pos_q = Linear(width, width) if "p2c" in kinds and not shared else None

    def forward(self, x: Tensor, at: Where, context: Context, site: str, bias: RelativeBias | None = None) -> Tensor:
        q, k, v = (self._heads(project, x) for project in (self.q, self.k, self.v))
        far, sides = bias if isinstance(bias, Distances) and self.kinds else None, dict[str, Tensor]()
        if far is not None:
            table = drop(far.vectors(at), self.dropout, self.training)
            both = {"c2p": self.pos_k or self.k, "p2c": self.pos_q or self.q}
            sides = {kind: self._heads(both[kind], table) * (self.spec.scale or 1.0) for kind in self.kinds}

        def added(i: slice, a: Where) -> Tensor | None:
            """What distances add to the scores of columns ``i``, which are at ``a``: ``(B, H, N, N)``."""
            if far is None:
                return None
            rows = far(a, a) - far.used(at).start
            found = [score(q[:, i], sides["c2p"], rows)] if "c2p" in sides else []
            found += [score(k[:, i], sides["p2c"], rows.mT).mT] if "p2c" in sides else []
            return found[0] + found[1] if len(found) == 2 else found[0]

        dropout = self.spec.dropout if self.training else 0.0
        if context.trace is not None and context.trace.weights:
            y, weights = weigh(q, k, v, at, at, self.spec, added(slice(None), at), dropout)
            context.trace.attentions.append(weights)
        else:
            parts = at.parts() if at.kind == "packed" else [(slice(None), at)]
            y = torch.cat([attend(q[:, i], k[:, i], v[:, i], a, a, self.spec, added(i, a), dropout) for i, a in parts], 1)
        return self.o(y.flatten(2))


class Convolved(Layer):
    """A layer whose output takes in a convolution of its input, within each sequence."""

    def __init__(self, spec: Stack, kernel: int, groups: int, act: str) -> None:
        super().__init__(spec, 0)
        self.conv, self.act = Conv1d(spec.width, spec.width, kernel, stride=kernel, groups=groups), activation(act)
        self.conv_norm = build_norm(spec.norm, spec.width)

    def forward(self, x: Tensor, at: Where, context: Context, use: int, bias: RelativeBias | None) -> Tensor:
        size = self.conv.kernel_size[0]
        segments = F.pad(at.segment, (size // 2, size // 2), value=-1).unfold(1, size, 1)  # (B, N, size), of each token's neighbours
        near = F.pad(x, (0, 0, size // 2, size // 2)).unfold(1, size, 1)  # (B, N, C, size)
        near = near.masked_fill(((segments != at.segment[..., None]) | (segments < 0))[:, :, None], 0.0)
        y = self.conv(near.transpose(1, 2).flatten(2)).transpose(1, 2)
        y = self.act(drop(y, self.dropout, self.training))
        return self.conv_norm(super().forward(x, at, context, use, bias) + y)


class Narrow(TokenEmbedding):
    """An embedding narrower than the layers, widened without a bias and before the norm."""

    def __init__(self, spec: Embed, norm: Norm, width: int) -> None:
        super().__init__(spec)
        self.project, self.norm = Linear(spec.width, width, bias=False), build_norm(norm, width)

    def finish(self, x: Tensor) -> Tensor:
        return drop(self.norm(self.project(x)), self.spec.dropout, self.training)
