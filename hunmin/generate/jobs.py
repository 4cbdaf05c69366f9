"""A request while it waits and runs, and each of its rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hunmin.errors import HunminError, InputError, say
from hunmin.generate.config import GenerationConfig
from hunmin.generate.paged import Row
from hunmin.generate.processors import LogitsProcessorList, Processor, constraints
from hunmin.generate.prompt import Prompt, end_ids, longest
from hunmin.generate.sampling import dice
from hunmin.generate.stopping import Criterion, StoppingCriteriaList, build
from hunmin.nn.pages import SIZE
from hunmin.nn.where import Where

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel
    from hunmin.text import Tokenizer


@dataclass
class Job:
    """Request ``index``: its prompt ``ids``, and how many tokens its ``copies`` rows may have in the end."""

    index: int
    ids: list[int]
    config: GenerationConfig
    longest: int
    ends: frozenset[int]
    device: torch.device
    constraints: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    stops: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)
    ended: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    error: HunminError | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, index: int, ids: Iterable[int], config: GenerationConfig, told: bool) -> Job:
        """Raises InputError for an empty prompt, ids outside of the vocabulary, and lengths that the model cannot reach."""
        try:
            prompt = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        except (TypeError, ValueError):
            prompt = []
        if not prompt:
            raise InputError(
                say(
                    f"Request {index} needs a list of whole-number ids with at least one. Is the text empty?",
                    f"{index}번 요청에는 하나 이상의 정수 id 목록이 필요합니다. 빈 텍스트인가요?",
                )
            )
        rows = model.get_input_embeddings().num_embeddings
        if min(prompt) < 0 or max(prompt) >= rows:
            wrong = min(prompt) if min(prompt) < 0 else max(prompt)
            raise InputError(
                say(
                    f"Request {index}: id {wrong} is outside of the embedding's {rows} rows. Do tokenizer and model belong together?",
                    f"{index}번 요청: id {wrong}이(가) 임베딩의 {rows}행 범위를 벗어났습니다. 토크나이저와 모델이 맞는지 확인하세요.",
                )
            )
        end = longest(model, config, len(prompt), told)
        return cls(index, prompt, config, end, frozenset(end_ids(config)), model.device)

    @property
    def copies(self) -> int:
        return self.config.num_return_sequences

    @property
    def pages(self) -> int:
        """How many pages its rows may need: the last token is written, not read."""
        return self.copies * -(-(self.longest - 1) // SIZE)

    def start(
        self,
        own: Iterable[Processor],
        criteria: Iterable[Criterion],
        allowed: Callable[[int, Tensor], list[int]] | None,
        tokenizer: Tokenizer | None,
    ) -> None:
        """Make what its rows are held to; time counts from now."""
        config = copy.deepcopy(self.config)
        config.max_length = self.longest
        ids = torch.tensor([self.ids], device=self.device)
        at = Where.plain(*ids.shape, device=self.device)
        mine = None if allowed is None else lambda _, text: allowed(self.index, text)  # type: ignore[misc]
        self.constraints = constraints(config, Prompt(ids, at, ids, torch.ones_like(ids, dtype=torch.bool)), 1, own, mine)
        self.stops = build(config, len(self.ids), criteria, tokenizer)


class Line:
    """One row of a request: its pages, what it has written, and its random numbers."""

    def __init__(self, job: Job, row: Row, seed: int, number: int) -> None:
        self.job, self.row, self.number = job, row, number
        self.new, self.ended = list[int](), False
        self.dice = dice(seed, [job.index * job.copies + number], job.device)[0] if job.config.do_sample else torch.default_generator
        self._text = torch.tensor([job.ids], device=job.device) if job.constraints or job.stops else None

    def text(self) -> Tensor:
        """The prompt and what was written, ``(1, N)``."""
        assert self._text is not None
        have = self._text.shape[1] - len(self.job.ids)
        if have < len(self.new):
            self._text = torch.cat([self._text, torch.tensor([self.new[have:]], device=self._text.device)], 1)
        return self._text

    def put(self, token: int) -> None:
        """Write a token, and see whether it was the last."""
        job = self.job
        self.new.append(token)
        self.ended = token in job.ends or len(job.ids) + len(self.new) >= job.longest
        if not self.ended and job.stops:
            self.ended = bool(job.stops(self.text(), None).any())
