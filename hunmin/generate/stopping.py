"""When a row is finished."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.generate.config import GenerationConfig
from hunmin.generate.prompt import end_ids

if TYPE_CHECKING:
    from hunmin.text import Tokenizer

Criterion = Callable[[Tensor, Any], Any]


class StoppingCriteria(ABC):
    """Base of user-written criteria: ``(ids (R, N), scores) -> bool`` for all rows, or a bool tensor ``(R,)``. Any callable will do."""

    @abstractmethod
    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Whether all rows, or each of them, are finished."""


class StoppingCriteriaList(list[Criterion]):
    """Criteria of which one is enough."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        stop = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for criterion in self:
            stop = stop | torch.as_tensor(criterion(input_ids, scores, **kwargs), device=input_ids.device)
        return stop


def build(
    config: GenerationConfig,
    start: int,
    own: Iterable[Criterion] = (),
    tokenizer: Tokenizer | None = None,
    device: torch.device | None = None,
) -> StoppingCriteriaList:
    """What ends a row of ``start`` prompt tokens, besides its length; its end tokens too where a ``device`` is given. Time counts from now."""
    stops = StoppingCriteriaList([ends_with(eos, device)] if device is not None and (eos := end_ids(config)) else [])
    stops += [after(config.max_time)] if config.max_time is not None else []
    stops += [says(config.stop_strings, tokenizer, start)] if config.stop_strings else []
    stops += own
    return stops


def ends_with(eos: list[int], device: torch.device) -> Criterion:
    """An end-of-sequence token was written."""
    ids = torch.tensor(eos, device=device)
    return lambda rows, scores: torch.isin(rows[:, -1], ids)


def after(seconds: float) -> Criterion:
    """Time is over."""
    end = time.monotonic() + seconds
    return lambda rows, scores: time.monotonic() >= end


def says(strings: str | Iterable[str], tokenizer: Tokenizer | None, prompt: int) -> Criterion:
    """One of ``strings`` stands in the new text: text is decoded, so it does not matter how tokens cut it.

    Only the end of a row is decoded, as much as the longest string can cover (a token spells at least a byte, with a few exceptions).
    """
    if tokenizer is None:
        raise InputError(
            say(
                "stop_strings needs the tokenizer: generate(..., tokenizer=tokenizer).",
                "stop_strings에는 generate(..., tokenizer=tokenizer)가 필요합니다.",
            )
        )
    wanted: list[Any] = [strings] if isinstance(strings, str) else list(strings)
    if not all(isinstance(s, str) and s for s in wanted):
        raise InputError(
            say(f"stop_strings has to be text, not {strings!r}.", f"stop_strings는 빈 문자열이 아닌 텍스트여야 합니다: {strings!r}.")
        )
    window = max(len(s.encode()) for s in wanted) + 16

    def stop(rows: Tensor, scores: Any) -> Tensor:
        ends = rows[:, max(prompt, rows.shape[1] - window) :].tolist()
        texts = [tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) for ids in ends]
        return torch.tensor([any(s in text for s in wanted) for text in texts], device=rows.device)

    return stop
