"""From token ids to vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.nn.dropout import drop
from hunmin.nn.linear import Embedding, Linear
from hunmin.nn.norm import build_norm
from hunmin.nn.positions import sinusoids
from hunmin.nn.spec import Embed
from hunmin.nn.where import Where


class TokenEmbedding(nn.Module):
    """Sum of token, position and segment-type embeddings; then norm, dropout and projection as the spec has them."""

    def __init__(self, spec: Embed) -> None:
        super().__init__()
        self.spec = spec
        pad = spec.pad if spec.pad is not None and 0 <= spec.pad < spec.vocab else None
        self.tokens = Embedding(spec.vocab, spec.width, padding_idx=pad)
        table = spec.positions if spec.positions and not spec.sinusoid else None
        self.positions = Embedding(table + spec.offset, spec.width) if table else None
        self.types = Embedding(spec.types, spec.width) if spec.types else None
        self.norm = build_norm(spec.norm, spec.width) if spec.norm else None
        self.project = Linear(spec.width, spec.project) if spec.project else None

    def forward(self, ids: Tensor | None, at: Where, types: Tensor | None = None, embeds: Tensor | None = None) -> Tensor:
        """ids ``(B, N)``, or their embeddings ``embeds`` ``(B, N, C)`` -> ``(B, N, C)``. Raises InputError past the last position."""
        spec = self.spec
        if spec.positions and at.end > spec.positions and not spec.sinusoid:
            raise InputError(
                say(
                    f"The input has {at.end} tokens, the model at most {spec.positions}. Shorten it, or tokenize with truncation=True.",
                    f"입력이 {at.end}토큰인데 이 모델은 최대 {spec.positions}토큰까지 받습니다. 입력을 줄이거나 truncation=True로 토큰화하세요.",
                )
            )
        x = embeds if embeds is not None else self.look_up(ids)
        if spec.scale != 1.0:
            x = x * torch.tensor(spec.scale, dtype=x.dtype)  # rounded to the working precision, as the reference does
        if self.types is not None:
            x = x + self.types(self.check(types, spec.types or 0) if types is not None else torch.zeros_like(at.position))
        if self.positions is not None:
            x = x + self.positions(at.position + spec.offset)
        elif spec.sinusoid:
            x = x + sinusoids(at.position + spec.offset, spec.width, spec.sinusoid).to(x.dtype)
        return self.finish(x)

    def look_up(self, ids: Tensor | None) -> Tensor:
        """The rows of the token table, ``(B, N, C)``, before anything is added. Raises InputError for ids outside of it."""
        return self.tokens(self.check(ids))

    def finish(self, x: Tensor) -> Tensor:
        """What follows the sum of the embeddings."""
        x = self.norm(x) if self.norm is not None else x
        x = drop(x, self.spec.dropout, self.training)
        return self.project(x) if self.project is not None else x

    def check(self, ids: Tensor | None, rows: int | None = None) -> Tensor:
        """The ids; raises InputError for one outside of ``rows`` (None: the vocabulary). A GPU would crash for good; on a CPU looking is cheap."""
        rows = self.spec.vocab if rows is None else rows
        if ids is None:
            raise InputError(say("The model needs input_ids or inputs_embeds.", "모델에 input_ids나 inputs_embeds가 필요합니다."))
        if ids.device.type == "cpu" and ids.numel():
            low, high = (int(t) for t in ids.aminmax())
            if low < 0 or high >= rows:
                wrong = low if low < 0 else high
                raise InputError(
                    say(
                        f"Id {wrong} is outside of the embedding's {rows} rows. Do tokenizer and model belong together?",
                        f"id {wrong}이(가) 임베딩의 {rows}행 범위를 벗어났습니다. 토크나이저와 모델이 서로 맞는지 확인하세요.",
                    )
                )
        return ids
