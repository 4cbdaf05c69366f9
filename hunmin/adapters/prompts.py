"""Virtual tokens in front of the text: vectors for the embedding (prompt tuning) or keys and values for every layer (prefix tuning).

They stand at positions 0 … P - 1 of every row, and the text counts on from P; so no row depends on its neighbours' padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.nn.attention import Attention
from hunmin.nn.cache import Cache
from hunmin.nn.model import Backbone
from hunmin.nn.where import Where


def moved(at: Where, n: int) -> Where:
    """The same tokens, ``n`` positions later. Raises InputError for packed rows: they have one start for several sequences."""
    if at.kind == "packed":
        raise InputError(
            say(
                "Virtual tokens need one sequence a row: pass padded rows, not packed ones.",
                "가상 토큰은 한 행에 시퀀스가 하나일 때만 쓸 수 있습니다. 패킹 대신 패딩한 행을 주세요.",
            )
        )
    if at.kind == "plain":
        return Where.plain(*at.shape, start=at.end - at.shape[1] + n, device=at.position.device)
    return Where(at.segment, at.position + n, at.kind, at.end + n)


class Prompt(nn.Module):
    """P learned rows beside the embedding table (Lester et al. 2021): ``table`` is ``(P, C)``."""

    def __init__(self, count: int, embedding: nn.Embedding, ids: Sequence[int] | None = None) -> None:
        """Random values, or the embeddings of ``ids``, repeated or cut to ``count``."""
        super().__init__()
        known = embedding.weight.detach()
        values = torch.empty(count, known.shape[1], device=known.device, dtype=torch.float32)
        if ids is None:
            values.normal_()
        else:
            values.copy_(known[torch.tensor([ids[i % len(ids)] for i in range(count)], device=known.device)])
        self.table = nn.Parameter(values)

    @property
    def count(self) -> int:
        return len(self.table)

    def before(self, embeds: Tensor, at: Where) -> tuple[Tensor, Where]:
        """Embeddings ``(B, N, C)`` at ``at`` -> the same after the prompt, ``(B, P + N, C)``."""
        rows = self.table.to(embeds.dtype).expand(len(embeds), -1, -1)
        start = Where.plain(len(embeds), self.count, device=embeds.device)
        return torch.cat([rows, embeds], 1), start.join(moved(at, self.count))


class Prefix(nn.Module):
    """P learned keys and values in front of every self-attention (Li & Liang 2021): ``table`` is ``(P, layers * 2 * G * D)``.

    ``blocks`` says which pair of the table a layer reads, where that is not simply its own.
    """

    def __init__(self, count: int, backbone: Backbone, layers: int | None = None, blocks: Sequence[int] | None = None) -> None:
        super().__init__()
        spec = backbone.stack.spec
        first = next(m for m in backbone.modules() if isinstance(m, Attention))
        if type(first) is not Attention:
            raise InputError(
                say(
                    "Prefix tuning needs attention that reads keys from a cache; this model's scores follow from distances. Use LoRA.",
                    "프리픽스 튜닝은 캐시의 키를 읽는 어텐션이 필요합니다. 이 모델은 거리로 점수를 계산하므로 LoRA를 쓰세요.",
                )
            )
        self.dim, self.heads = first.dim, spec.attn.kv_heads or spec.attn.heads
        self.blocks = list(blocks if blocks is not None else range(spec.layers))
        self.layers = layers or spec.layers
        device = next(backbone.parameters()).device
        self.table = nn.Parameter(torch.randn(count, self.layers * 2 * self.heads * self.dim, device=device))

    @property
    def count(self) -> int:
        return len(self.table)

    def fill(self, cache: Cache, rows: int, dtype: torch.dtype) -> None:
        """Put the keys and values ``(rows, P, G, D)`` of every layer into an empty cache."""
        pairs = self.table.to(dtype).view(self.count, self.layers, 2, self.heads, self.dim)
        at = Where.plain(rows, self.count, device=self.table.device)
        for use, block in enumerate(self.blocks):
            k, v = pairs[:, block].unbind(1)
            cache.append(f"self.{use}", k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1), at)
