"""The model as a function from the newest tokens to the logits of the next, with what it has to remember.

A decoder alone, without beams, works on pages (``PagedSteps``): no padding is computed, common beginnings are read once, rows that have
ended cost nothing; so do beams and encoder-decoders where the CPU kernel steps. The rest works on rows of one length (``Steps``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.generate.config import GenerationConfig
from hunmin.generate.paged import Memory, Paged, Row, served, stepped
from hunmin.generate.prompt import Prompt
from hunmin.native.choose import Choice, Chosen, choose
from hunmin.nn.cache import Cache
from hunmin.nn.paged import Aligned
from hunmin.nn.pages import SIZE
from hunmin.nn.where import Where

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel


def build(model: PreTrainedModel, prompt: Prompt, config: GenerationConfig, cache: Cache | None, copies: int) -> Steps | PagedSteps:
    """What generates from ``prompt``. Raises InputError for options that only work on pages."""
    if config.use_cache and cache is None and prompt.dense:
        more = not config.return_dict_in_generate and config.cache_dtype is None and stepped(model)
        if (config.num_beams == 1 and served(model)) or more:
            return PagedSteps(model, prompt, config, copies)
    if config.cache_dtype is not None or (config.deterministic and len(prompt.ids) * copies > 1):
        option = "cache_dtype" if config.cache_dtype is not None else "deterministic"
        raise InputError(
            say(
                f"{option} is for decoders without beams and without past_key_values. Leave it out"
                + (", or generate for one input at a time." if option == "deterministic" else "."),
                f"{option}은(는) 빔과 past_key_values가 없는 디코더 모델에서만 쓸 수 있습니다. 빼고 실행하세요"
                + ("(또는 입력을 하나씩 주세요)." if option == "deterministic" else "."),
            )
        )
    return Steps(model, prompt, cache if cache is not None else Cache() if config.use_cache else None, copies)


class Steps:
    """Rows of one length, side by side. The prompt of an input is read once, then its keys and values are copied for its beams."""

    def __init__(self, model: PreTrainedModel, prompt: Prompt, cache: Cache | None, copies: int) -> None:
        self.model, self.prompt, self.cache, self.copies = model, prompt, cache, copies
        self.where = prompt.where
        self.held = torch.arange(len(prompt.ids) * copies, device=model.device)  # the rows that are in the batch, in their order
        self.count = len(self.held)  # the same on the host

    def first(self) -> Tensor:
        """Logits after the prompt of each input, ``(B, V)``."""
        ids, where, past = self.prompt.ids, self.where, self.cache.length if self.cache is not None else 0
        if past >= ids.shape[1]:
            raise InputError(
                say(
                    f"past_key_values holds {past} tokens, the prompt only {ids.shape[1]}: pass all of it, then new tokens.",
                    f"past_key_values에 {past}토큰이 있는데 프롬프트는 {ids.shape[1]}토큰뿐입니다. 새 토큰까지 전체 프롬프트를 주세요.",
                )
            )
        logits = self._run(ids[:, past:], where.last(ids.shape[1] - past) if past else where)
        if self.copies > 1:
            self._pick(self.held // self.copies)
        return logits

    def next(self, ids: Tensor, origin: Tensor | None, live: Tensor | None, choice: Choice | None) -> Tensor | Chosen:
        """Logits after ``ids`` ``(R, N)``, whose rows continue the rows ``origin``, or a ``choice`` among them. Only ``live`` rows are computed,
        others get zeros."""
        rows = len(ids)
        if origin is not None or live is not None:
            slot = torch.empty(rows, dtype=torch.long, device=ids.device)
            slot[self.held] = torch.arange(len(self.held), device=ids.device)
            self.held = live if live is not None else self.held
            self.count = len(self.held)
            self._pick(slot[self.held if origin is None else origin[self.held]], cross=live is not None)
        new = ids if self.count == rows else ids[self.held]
        step = self.where.after(1)
        if self.cache is None:
            self.where = self.where.join(step)
            logits = self._run(new, self.where)
        else:
            self.where = step
            logits = self._run(new[:, -1:], step)
        found = logits if choice is None else choose(logits, choice)
        return found if self.count == rows else _spread(found, rows, self.held)

    def drops(self, alive: int) -> bool:
        """Whether rows that have ended should leave now that ``alive`` go on: leaving costs a copy of the cache."""
        return alive * 4 <= self.count * 3

    def _run(self, ids: Tensor, where: Where) -> Tensor:
        prompt = self.prompt
        if prompt.memory is None:
            out = self.model(ids, where=where, past_key_values=self.cache, use_cache=self.cache is not None, logits_to_keep=1)
        else:
            out = self.model(
                encoder_outputs=prompt.memory,
                where=prompt.memory_where,
                decoder_input_ids=ids,
                decoder_where=where,
                past_key_values=self.cache,
                use_cache=self.cache is not None,
                logits_to_keep=1,
            )
        return out.logits[:, -1].float()

    def _pick(self, rows: Tensor, *, cross: bool = True) -> None:
        self.where = self.where.pick(rows)
        if self.cache is not None:
            self.cache.pick(rows, cross=cross)
        elif self.prompt.memory is not None and self.prompt.memory_where is not None:  # with a cache its keys and values are in there
            self.prompt = replace(self.prompt, memory=self.prompt.memory[rows], memory_where=self.prompt.memory_where.pick(rows))


class PagedSteps:
    """Rows of different lengths in pages; ``copies`` of an input share those of its prompt."""

    def __init__(self, model: PreTrainedModel, prompt: Prompt, config: GenerationConfig, copies: int) -> None:
        self.model, self.prompt, self.copies = model, prompt, copies
        self.count = len(prompt.ids) * copies
        self.keeps = config.return_dict_in_generate  # the cache is an answer too: it holds what ended rows have read
        pages = self.count * -(-config.max_length // SIZE)
        self.paged = Paged(model, count=pages, rounded=config.cache_dtype == "int8", deterministic=config.deterministic)
        self.rows: list[Row] = []
        self.held = list(range(self.count))

    def first(self) -> Tensor:
        """Logits after the prompts, ``(B, V)``."""
        prompt = self.prompt
        ids, padding = prompt.ids.tolist(), [0] * len(prompt.ids) if prompt.padding is None else prompt.padding.tolist()
        if prompt.memory is not None and prompt.memory_where is not None:
            self.paged.memory = Memory.write(self.model, prompt.memory, prompt.memory_where)
        read, logits = self.paged.read([row[n:] for row, n in zip(ids, padding, strict=True)])
        for row in read:
            self.rows += [row, *(self.paged.fork(row) for _ in range(self.copies - 1))]
        return logits

    def next(self, ids: Tensor, origin: Tensor | None, live: Tensor | None, choice: Choice | None) -> Tensor | Chosen:
        """As :meth:`Steps.next`; the last column of ``ids`` is new."""
        if live is not None:
            going = set(live.tolist())
            for i in self.held:
                if i not in going and not self.keeps:
                    self.paged.drop(self.rows[i])
            self.held = [i for i in self.held if i in going]
            self.count = len(self.held)
        if origin is not None:
            held = set(self.held)
            moved = {i: self.paged.fork(self.rows[j]) for i, j in enumerate(origin.tolist()) if i in held}
            for row in self.rows:
                self.paged.drop(row)
            self.rows = [moved.get(i, row) for i, row in enumerate(self.rows)]
        rows, new = [self.rows[i] for i in self.held], ids[:, -1]
        held = torch.tensor(self.held, device=ids.device)
        new = new if self.count == len(ids) else new[held]
        found = self.paged.step(rows, new) if choice is None else self.paged.choose(rows, new, choice)
        return found if self.count == len(ids) else _spread(found, len(ids), held)

    def drops(self, alive: int) -> bool:
        """Whether rows that have ended should leave now that ``alive`` go on: it costs nothing."""
        return alive < self.count

    @property
    def cache(self) -> Cache:
        """Keys and values of all rows, padded on the left like the sequences."""
        padding = [0] * len(self.prompt.ids) if self.prompt.padding is None else self.prompt.padding.tolist()
        padding = [n for n in padding for _ in range(self.copies)]
        return Aligned(self.paged.pages, [row.pages for row in self.rows], padding, [row.length for row in self.rows])


def _spread(found: Tensor | Chosen, rows: int, held: Tensor) -> Tensor | Chosen:
    """What rows ``held`` got as rows of that many, zeros elsewhere."""
    return found.spread(rows, held) if isinstance(found, Chosen) else found.new_zeros(rows, found.shape[1]).index_copy_(0, held, found)
