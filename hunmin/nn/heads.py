"""Heads: from hidden states to what a task wants. All take ``(B, N, C)`` and the places of the tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.nn.dropout import drop
from hunmin.nn.layers import activation
from hunmin.nn.linear import Linear
from hunmin.nn.norm import build_norm
from hunmin.nn.spec import Norm
from hunmin.nn.where import Where


class LMHead(nn.Module):
    """Optional transform, then the projection to the vocabulary, usually tied to the embedding: ``(B, N, V)``."""

    def __init__(
        self,
        width: int,
        vocab: int,
        *,
        bias: bool = False,
        transform: tuple[int, str, Norm] | None = None,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.softcap = scale, softcap
        self.dense = self.norm = self.act = None
        if transform:
            inner, act, norm = transform
            self.dense, self.act, self.norm = Linear(width, inner), activation(act), build_norm(norm, inner)
            width = inner
        self.out = Linear(width, vocab, bias=bias)

    def forward(self, x: Tensor, at: Where, ids: Tensor | None = None) -> Tensor:
        if self.dense is not None and self.act is not None and self.norm is not None:
            x = self.norm(self.act(self.dense(x)))
        y = self.out(x * self.scale if self.scale != 1.0 else x)
        return self.softcap * torch.tanh(y / self.softcap) if self.softcap else y


class Classifier(nn.Module):
    """Choose tokens, optionally one hidden layer, project to the labels.

    ``pool``: ``first``, ``last`` or ``end`` (the last end-of-sequence token) give ``(B, labels)`` - a row a sequence when packed -;
    ``all`` gives ``(B, N, labels)``.
    """

    def __init__(
        self,
        width: int,
        labels: int,
        *,
        pool: Literal["first", "last", "end", "all"] = "first",
        hidden: str | None = None,
        bias: bool = True,
        dropout: tuple[float, float] = (0.0, 0.0),
        end: int | None = None,
    ) -> None:
        super().__init__()
        self.pool, self.dropout, self.end = pool, dropout, end
        self.dense = Linear(width, width) if hidden else None
        self.act = activation(hidden) if hidden else None
        self.out = Linear(width, labels, bias=bias)

    def forward(self, x: Tensor, at: Where, ids: Tensor | None = None) -> Tensor:
        """Dropouts: before the hidden layer, and after it."""
        x = drop(self._pooled(x, at, ids), self.dropout[0], self.training)
        if self.dense is not None and self.act is not None:
            x = drop(self.act(self.dense(x)), self.dropout[1], self.training)
        return self.out(x)

    def _pooled(self, x: Tensor, at: Where, ids: Tensor | None) -> Tensor:
        if self.pool == "all":
            return x
        if self.pool == "end":
            return x[self._ends(at, ids)]
        first, last = at.first_and_last()
        return x[first if self.pool == "first" else last]

    def _ends(self, at: Where, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """(row, column) of the last end-of-sequence token of every sequence."""
        if ids is not None and self.end is not None:
            column = torch.arange(ids.shape[1], device=ids.device).masked_fill(ids != self.end, -1)
            if at.kind == "packed":
                last = column.new_full((len(at.lengths),), -1).scatter_reduce(0, at.segment[0], column[0], "amax")
                rows = torch.zeros_like(last)
            else:
                last, rows = column.amax(-1), torch.arange(len(ids), device=ids.device)
            if bool((last >= 0).all()):
                return rows, last
        raise InputError(
            say(
                "This classifier reads the end-of-sequence token, and a sequence has none. Tokenize with add_special_tokens=True.",
                "이 분류기는 문장 끝 토큰을 읽는데, 끝 토큰이 없는 입력이 있습니다. add_special_tokens=True로 토큰화하세요.",
            )
        )


class Pooler(nn.Module):
    """tanh of a projection of the first token (Devlin et al. 2019): ``(B, C)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)

    def forward(self, x: Tensor, at: Where, ids: Tensor | None = None) -> Tensor:
        return torch.tanh(self.dense(x[at.first_and_last()[0]]))
