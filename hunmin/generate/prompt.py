"""What generation starts from: ids on the model's device, where they are, and how long the result may become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hunmin.errors import InputError, say, warn_once
from hunmin.generate.config import GenerationConfig
from hunmin.nn.attention import Context
from hunmin.nn.model import Tokens
from hunmin.nn.where import Where

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel


@dataclass
class Prompt:
    """``ids`` ``(B, N)`` stand at ``where`` and are continued; ``memory`` ``(B, M, C)`` at ``memory_where`` is an encoder's output.

    ``source`` is the input of the whole model ``(B, M)`` and ``real`` its mask.
    """

    ids: Tensor
    where: Where
    source: Tensor
    real: Tensor
    memory: Tensor | None = None
    memory_where: Where | None = None

    @property
    def padding(self) -> Tensor | None:
        """How many tokens of padding each row has on its left, ``(B,)``; None when there is none."""
        return None if self.where.kind == "plain" else (self.where.segment >= 0).long().argmax(-1)

    @property
    def dense(self) -> bool:
        """Whether all that hides tokens is padding on the left, not holes in the mask."""
        return self.where.kind == "plain" or bool(((self.where.segment >= 0).long().diff(dim=-1) >= 0).all())


def prepare(model: PreTrainedModel, inputs: Any, config: GenerationConfig, options: dict[str, Any]) -> Prompt:
    """The prompt from what the user passed; takes its own names out of ``options``. Raises InputError for what cannot be continued."""
    given = options.pop("input_ids", None)
    if inputs is not None and given is not None:
        raise InputError(
            say("generate: inputs and input_ids are the same; pass one.", "generate: inputs와 input_ids는 같은 것입니다. 하나만 주세요.")
        )
    inputs = inputs if inputs is not None else given
    mask, outputs = options.pop("attention_mask", None), options.pop("encoder_outputs", None)
    started = options.pop("decoder_input_ids", None)
    if not model.both:
        if inputs is None:
            inputs = torch.tensor([[_needed(config.bos_token_id, "bos_token_id")]])
        source = _ids(inputs, model.device)
        source, real = _aligned(source, _mask(source, mask, config))
        return Prompt(source, _where(real), source, real)
    memory = None
    if outputs is not None:
        memory = outputs if isinstance(outputs, Tensor) else outputs["last_hidden_state" if isinstance(outputs, Mapping) else 0]
        memory = memory.to(model.device)
    elif inputs is None:
        raise InputError(say("generate needs input_ids: the text to read.", "generate에 읽을 텍스트의 input_ids가 필요합니다."))
    if memory is not None and inputs is None:
        source = torch.zeros(memory.shape[:2], dtype=torch.long, device=model.device)
    else:
        source = _ids(inputs, model.device)
    real = _mask(source, mask, config, infer=inputs is not None)
    at = _where(real)
    if memory is None:
        assert model.encoder is not None
        memory = model.encoder(Tokens(at, source), Context())
    start = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
    ids = torch.full((len(source), 1), _needed(start, "decoder_start_token_id"), device=model.device)
    if started is not None:
        started = _ids(started, model.device)
        ids = started if bool((started[:, :1] == ids).any()) else torch.cat([ids, started], 1)
    real = real if inputs is not None else torch.zeros_like(real)  # nothing is known about the tokens behind an encoder's output
    return Prompt(ids, Where.plain(*ids.shape, device=ids.device), source, real, memory, at)


def _needed(token: int | None, name: str) -> int:
    if token is None:
        raise InputError(
            say(
                f"generate has nothing to start from: pass input_ids, or set {name}.",
                f"시작할 토큰이 없습니다. input_ids를 주거나 {name}를 정하세요.",
            )
        )
    return token


def _ids(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Mapping):
        raise InputError(say("Pass the tokenizer's output as generate(**inputs).", "토크나이저의 출력은 generate(**inputs)로 넘기세요."))
    try:
        ids = torch.as_tensor(value)
    except (TypeError, ValueError):
        ids = torch.empty(0)
    if ids.ndim != 2 or not ids.numel() or ids.is_floating_point() or ids.dtype == torch.bool:
        shape, kind = tuple(ids.shape), str(ids.dtype).removeprefix("torch.")
        raise InputError(
            say(
                f"generate needs whole-number ids of shape (batch, tokens) with at least one token, not {kind} {shape}. Is the text empty?",
                f"generate에는 토큰이 하나 이상인 (batch, tokens) 모양의 정수 id가 필요합니다. 받은 것: {kind} {shape}. 빈 텍스트인가요?",
            )
        )
    return ids.to(device, torch.long)


def _mask(ids: Tensor, mask: Any, config: GenerationConfig, infer: bool = True) -> Tensor:
    """Which tokens are real, ``(B, N)``: as told, else all but padding where padding is not also the end of a sequence."""
    if mask is not None:
        real = torch.as_tensor(mask, device=ids.device).bool()
        if real.shape != ids.shape:
            raise InputError(
                say(
                    f"attention_mask has shape {tuple(real.shape)}, the input {tuple(ids.shape)}.",
                    f"attention_mask의 모양 {tuple(real.shape)}이(가) 입력 {tuple(ids.shape)}과(와) 맞지 않습니다.",
                )
            )
    elif infer and config.pad_token_id is not None and config.pad_token_id not in end_ids(config):
        real = ids != config.pad_token_id
        real = torch.where(real.any(-1, keepdim=True), real, True)  # a prompt of nothing but padding is the start token of some models
    else:
        real = torch.ones_like(ids, dtype=torch.bool)
    if not bool(real.any(-1).all()):
        row = int((~real.any(-1)).long().argmax())
        raise InputError(say(f"Row {row} of the input is empty: all padding.", f"입력의 {row}번 행이 비어 있습니다(모두 패딩)."))
    return real


def _aligned(ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Rows padded on the right, turned until their padding is on the left: what follows has to stand beside the text."""
    behind = real.flip(-1).long().argmax(-1, keepdim=True)
    if not bool(behind.any()):
        return ids, real
    index = (torch.arange(ids.shape[1], device=ids.device) - behind) % ids.shape[1]
    return ids.gather(1, index), real.gather(1, index)


def _where(real: Tensor) -> Where:
    return Where.plain(*real.shape, device=real.device) if bool(real.all()) else Where.padded(real)


def end_ids(config: GenerationConfig) -> list[int]:
    """The ids that end a sequence."""
    eos = config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def longest(model: PreTrainedModel, config: GenerationConfig, prompt: int, told: bool) -> int:
    """How many tokens a row may have in the end; ``told``: the user set a length in this call.

    Raises InputError when the prompt leaves no room, or when the model's learned positions end before.
    """
    hard, soft = limits(model)
    room = hard + 1 if hard is not None else None  # the last token is written, not read
    if hard is not None and prompt > hard:
        raise InputError(
            say(
                f"The prompt has {prompt} tokens, the model at most {hard}. Shorten it.",
                f"프롬프트가 {prompt}토큰인데 모델은 최대 {hard}토큰까지 받습니다. 줄여 주세요.",
            )
        )
    if config.max_new_tokens is not None:
        total = prompt + config.max_new_tokens
    elif "max_length" in config.given:
        total = config.max_length
    else:
        total = prompt + config.max_length
        total = min(total, soft) if soft is not None and prompt < soft else total
        warn_once(
            say(
                f"No length was set: generating up to {config.max_length} tokens. Set max_new_tokens.",
                f"길이를 정하지 않아 최대 {config.max_length}토큰을 생성합니다. max_new_tokens를 정하세요.",
            )
        )
    if total <= prompt:
        raise InputError(
            say(
                f"The prompt has {prompt} tokens and max_length is {total}: nothing can follow. Set max_new_tokens.",
                f"프롬프트가 {prompt}토큰인데 max_length가 {total}이라 생성할 수 없습니다. max_new_tokens를 정하세요.",
            )
        )
    if room is not None and total > room and told:
        new = total - prompt
        raise InputError(
            say(
                f"Prompt ({prompt}) and new tokens ({new}) go beyond the model's {hard} positions. Set {room - prompt} or less.",
                f"프롬프트({prompt})와 새 토큰({new})이 모델의 위치 {hard}개를 넘습니다. max_new_tokens를 {room - prompt} 이하로 정하세요.",
            )
        )
    return total if room is None else min(total, room)


def limits(model: PreTrainedModel) -> tuple[int | None, int | None]:
    """The number of learned positions, which cannot be passed, and the length that the model was made for."""
    assert model.decoder is not None
    embed = model.decoder.embed.spec
    return (None if embed.sinusoid else embed.positions), model.config.get("max_position_embeddings")
