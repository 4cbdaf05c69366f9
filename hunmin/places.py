"""The door of a model: from what users pass to where the tokens are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.nn.cache import Cache
from hunmin.nn.where import Where


def check_packing(encoder: Where | None, decoder: Where) -> None:
    """Raises InputError unless both rows are packed with as many sequences, or neither is packed, or there is no encoder."""
    if encoder is not None and (encoder.kind == "packed" or decoder.kind == "packed") and len(encoder.lengths) != len(decoder.lengths):
        raise InputError(
            say(
                "A packed encoder input needs decoder_where with as many sequences, and the other way round.",
                "패킹된 인코더 입력에는 같은 수의 시퀀스를 담은 decoder_where가 필요하고, 그 반대도 같습니다.",
            )
        )


def memory_of(encoder_outputs: Any) -> Tensor | None:
    """The encoder's last hidden state ``(B, M, C)`` from what users pass: an Output, a tuple, a dict or the tensor itself."""
    if encoder_outputs is None or isinstance(encoder_outputs, Tensor):
        return encoder_outputs
    return encoder_outputs["last_hidden_state"] if isinstance(encoder_outputs, Mapping) else encoder_outputs[0]


def placed(
    ids: Tensor | None, embeds: Tensor | None, mask: Tensor | None, positions: Tensor | None, cache: Cache | None, at: Where | None
) -> Where:
    """Where the tokens are, from what users pass; ``at`` if that is given. With a cache these tokens follow those in it."""
    given = ids if ids is not None else embeds
    if ids is not None and ids.dtype not in (torch.int64, torch.int32):
        raise InputError(say(f"Token ids are whole numbers, not {ids.dtype}.", f"토큰 id는 정수여야 합니다. 받은 형식: {ids.dtype}."))
    if given is None or given.ndim != (2 if ids is not None else 3) or not given.shape[0] or not given.shape[1]:
        shape = None if given is None else tuple(given.shape)
        raise InputError(
            say(
                f"The model needs token ids of shape (batch, tokens) with at least one token, not {shape}.",
                f"토큰이 하나 이상인 (batch, tokens) 모양의 id가 필요합니다. 받은 모양: {shape}.",
            )
        )
    rows, new = given.shape[:2]
    if at is not None:
        if at.shape != given.shape[:2] or (at.lengths and at.whole is None and min(at.lengths) < 1):
            raise InputError(
                say(
                    f"where is for rows of shape {tuple(at.shape)} without empty sequences, the input has {(rows, new)}.",
                    f"where의 모양 {tuple(at.shape)}이(가) 입력 {(rows, new)}과(와) 맞지 않거나 빈 시퀀스가 있습니다.",
                )
            )
        return at.to(given.device)  # a new object: what it remembers, such as biases that are learned, is of one forward pass
    past = cache.length if cache is not None else 0
    if mask is not None and (mask.ndim != 2 or tuple(mask.shape) not in ((rows, new), (rows, past + new))):
        raise InputError(
            say(
                f"attention_mask has shape {tuple(mask.shape)}, the input {(rows, new)}.",
                f"attention_mask의 모양 {tuple(mask.shape)}이(가) 입력 {(rows, new)}과(와) 맞지 않습니다.",
            )
        )
    if positions is not None:
        if tuple(positions.shape) not in ((rows, new), (1, new), (new,)) or int(positions.min()) < 0:
            raise InputError(
                say(
                    f"position_ids of shape {tuple(positions.shape)} have to fit the input {(rows, new)} and must not be negative.",
                    f"position_ids(모양 {tuple(positions.shape)})는 입력 {(rows, new)}에 맞고 음수가 아니어야 합니다.",
                )
            )
        positions = positions.expand(rows, new)
        starts = positions.diff(dim=-1, prepend=positions[:, :1] - 1) != 1  # sequences packed in a row restart their positions
        segment = starts.long().cumsum(-1) if mask is None else torch.where(mask[:, -new:].bool(), 0, -1)
        return Where(segment, positions, "padded", int(positions.max()) + 1)
    if mask is not None and mask.shape[1] == past + new:
        whole = Where.padded(mask)
        return whole.last(new) if past else whole
    before = cache.at if cache is not None else None
    if mask is not None and before is None:
        return Where.padded(mask)
    return before.after(new) if before is not None else Where.plain(rows, new, device=given.device)
