"""Continuous batching: requests come and go while others run, so that every step of the model is shared by as many as fit.

(Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models", section 3.1.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hunmin.errors import HunminError, InputError, say
from hunmin.generate.budget import Budget
from hunmin.generate.config import GenerationConfig, unknown
from hunmin.generate.jobs import Job, Line
from hunmin.generate.loop import settings
from hunmin.generate.paged import Paged, served
from hunmin.generate.processors import Processor, shapers
from hunmin.generate.sampling import drawn, not_a_number, race, seeded
from hunmin.generate.stopping import Criterion
from hunmin.native.choose import Choice

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel
    from hunmin.text import Tokenizer


@dataclass
class Request:
    """A prompt, and settings of its own beside the engine's: options of :class:`hunmin.GenerationConfig`.

    One that failed before it was a request has an ``error``, which becomes its result.
    """

    ids: Iterable[int]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: HunminError | None = None


@dataclass
class Result:
    """What request ``index`` got: new ids for each returned sequence, with the end token; or the error that it ended with."""

    index: int
    new: list[list[int]]
    error: HunminError | None = None


class Engine:
    """Many requests through one model: a decoder without beams.

    Prompts are read together without padding, pages of a common beginning once; all running rows take each step together; a row that ends
    makes room for the next request. What a request draws depends on the seed and its place among the requests only.

    Args:
        generation_config: settings of all requests, over the model's; ``options`` count before them.
        rows: sequences that run at the same time at most; None: by the size of the vocabulary.
        prompt_tokens: tokens of prompts that are read between two steps; longer prompts are read in parts.
        cached_tokens: tokens in the key/value cache at most; None: by free memory. Each request reserves what it may need.
        share_prefixes: read full pages of tokens that were read before from the cache.
        logits_processor, stopping_criteria, prefix_allowed_tokens_fn: as in ``generate``; they see one row at a time, and the number of
            the request in place of the row's.

    Raises:
        InputError: beams, an encoder-decoder, or virtual tokens in front of the text, which ``generate`` serves.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        generation_config: GenerationConfig | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        rows: int | None = None,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        share_prefixes: bool = True,
        logits_processor: Iterable[Processor] | None = None,
        stopping_criteria: Iterable[Criterion] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        **options: Any,
    ) -> None:
        self.model, self.tokenizer, self.allowed = model, tokenizer, prefix_allowed_tokens_fn
        self.own, self.criteria = list(logits_processor or ()), list(stopping_criteria or ())
        self.config, self.told = settings(model, generation_config, options)
        self.check(self.config, options)
        self.rounded = self.config.cache_dtype == "int8"
        self.budget = Budget.of(model, rows, prompt_tokens, cached_tokens, self.rounded)
        self.paged = Paged(
            model,
            limit=self.budget.pages,
            rounded=self.rounded,
            sharing=share_prefixes,
            deterministic=self.config.deterministic,
            part=self.budget.prompt_tokens,
        )

    def check(self, config: GenerationConfig, rest: Mapping[str, Any]) -> None:
        """Raise InputError for settings that a request cannot have, and for the ``rest`` of its options, which are no settings."""
        if rest:
            raise unknown(next(iter(rest)))
        if not served(self.model) or config.num_beams > 1 or not config.use_cache:
            raise InputError(
                say(
                    "The engine serves decoders without beams, with a cache and without virtual tokens. Use model.generate.",
                    "엔진은 빔과 가상 토큰이 없고 캐시를 쓰는 디코더만 지원합니다. model.generate를 쓰세요.",
                )
            )
        if (config.cache_dtype, config.deterministic) != (self.config.cache_dtype, self.config.deterministic):
            raise InputError(
                say(
                    "cache_dtype and deterministic are settings of the engine, not of a request.",
                    "cache_dtype과 deterministic은 요청이 아니라 엔진의 설정입니다.",
                )
            )

    def run(
        self,
        requests: Iterable[Request | Iterable[int]],
        *,
        ordered: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        ahead: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        cancelled: Event | None = None,
    ) -> Generator[Result]:
        """Results as they are known: in the order of the requests, or with ``ordered=False`` as they end.

        Requests are taken as there is room for them, at most ``ahead`` (four times the rows) before the oldest without a result; those of
        an iterator with ``ready()`` are waited for only when nothing else is to be done.
        ``on_error="skip"`` gives a result with its ``error`` where a request can have no answer. An error that the iterator itself raises
        is raised in its place, after the results of the requests before it. ``cancelled`` ends the run after the current step.
        """
        base = seed if seed is not None and seeded(seed, None, self.model.device) is not None else drawn(generator)
        run = _Run(self, iter(requests), ahead or 4 * self.budget.rows, base, ordered)
        try:
            while run.goes_on() and not (cancelled is not None and cancelled.is_set()):
                for result in run.advance():
                    if result.error is not None and on_error == "raise":
                        raise result.error
                    yield result
        finally:
            run.close()


class _Run:
    """The state of one ``Engine.run``."""

    def __init__(self, engine: Engine, source: Iterator[Any], ahead: int, seed: int, ordered: bool) -> None:
        self.engine, self.source, self.ahead, self.seed, self.ordered = engine, source, ahead, seed, ordered
        self.waiting, self.lines, self.finished = deque[Job](), list[Line](), dict[int, Result]()
        self.taken = self.given = 0
        self.more = True
        self.failed: BaseException | None = None  # what the source raised, for when its place has come

    def goes_on(self) -> bool:
        if self.more or self.waiting or self.lines or self.finished:
            return True
        if self.failed is not None:
            raise self.failed
        return False

    def advance(self) -> list[Result]:
        """Take requests, read prompts, do one step; returns the results that are due."""
        self._take()
        with torch.inference_mode():
            if jobs := self._admitted():
                self._begin(jobs)
            elif self.lines:
                self._step()
        due = list[Result]()
        while (key := self.given if self.ordered else next(iter(self.finished), -1)) in self.finished:
            due.append(self.finished.pop(key))
            self.given += 1
        return due

    def close(self) -> None:
        """Give all pages back."""
        for line in self.lines:
            self.engine.paged.drop(line.row)
        self.lines = []

    # -------------------------------------------------------------- requests

    def _take(self) -> None:
        """Requests as long as there could be room for them."""
        room = self.engine.budget.rows - len(self.lines)
        ready = getattr(self.source, "ready", None)
        while self.more and self.taken - self.given < self.ahead and sum(job.copies for job in self.waiting) < room:
            if ready is not None and (self.waiting or self.lines or self.finished) and not ready():
                return
            try:
                request = next(self.source)
            except StopIteration:
                self.more = False
                return
            except BaseException as error:
                self.more, self.failed = False, error
                return
            index, self.taken = self.taken, self.taken + 1
            try:
                self.waiting.append(self._job(index, request if isinstance(request, Request) else Request(request)))
            except HunminError as error:
                self.finished[index] = Result(index, [], error)
                return

    def _job(self, index: int, request: Request) -> Job:
        """Raises InputError for a request that could never run."""
        engine, config, told = self.engine, self.engine.config, self.engine.told
        if request.error is not None:
            raise request.error
        if request.options:
            options = dict(request.options)
            config, own = settings(engine.model, config, options)
            engine.check(config, options)
            told = told or own
        job = Job.of(engine.model, index, request.ids, config, told)
        if job.pages > engine.budget.pages or job.copies > engine.budget.rows:
            raise engine.budget.refusal(len(job.ids), job.longest, job.copies)
        return job

    def _admitted(self) -> list[Job]:
        """The requests that begin now: in their order, within rows, prompt tokens and pages.

        When most rows are busy it is worth waiting until several can begin together.
        """
        budget, jobs = self.engine.budget, list[Job]()
        rows, tokens = len(self.lines), 0
        pages = sum({line.job.index: line.job.pages for line in self.lines}.values())
        if rows > budget.rows * 7 // 8:
            return jobs
        while self.waiting:
            job = self.waiting[0]
            rows, pages, tokens = rows + job.copies, pages + job.pages, tokens + len(job.ids)
            if rows > budget.rows or pages > budget.pages or (jobs and tokens > budget.prompt_tokens):
                break
            jobs.append(self.waiting.popleft())
        return jobs

    def _begin(self, jobs: list[Job]) -> None:
        """Read prompts, and choose the first token of each row."""
        engine, fresh, counts, fit = self.engine, list[Line](), list[int](), list[Job]()
        for job in jobs:
            try:
                job.start(engine.own, engine.criteria, engine.allowed, engine.tokenizer)
                fit.append(job)
            except HunminError as error:
                self.finished[job.index] = Result(job.index, [], error)
        if not fit:
            return
        rows, logits = engine.paged.read([job.ids for job in fit])
        for job, row in zip(fit, rows, strict=True):
            copies = [row, *(engine.paged.fork(row) for _ in range(job.copies - 1))]
            fresh += [Line(job, copy, self.seed, i) for i, copy in enumerate(copies)]
            counts.append(job.copies)
        self.lines = self.lines + fresh
        self._choose(fresh, logits.repeat_interleave(torch.tensor(counts, device=logits.device), 0))

    # -------------------------------------------------------------- tokens

    def _step(self) -> None:
        """The next token of every line. Where nothing but the largest logit counts, the others are not written."""
        lines, paged = self.lines, self.engine.paged
        rows, new = [line.row for line in lines], torch.tensor([line.new[-1] for line in lines], device=self.engine.model.device)
        if any(line.job.constraints or line.job.config.do_sample for line in lines):
            self._choose(lines, paged.step(rows, new))
        else:
            chosen = paged.choose(rows, new, Choice(1, sums=False))
            self._put(lines, chosen.ids[:, 0].tolist(), chosen.values[:, 0].isnan().tolist(), {})

    def _choose(self, lines: list[Line], logits: Tensor) -> None:
        """The next token of every line by ``logits`` ``(R, V)``."""
        scores, errors = self._constrained(lines, logits)
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, line in enumerate(lines):
            groups.setdefault((id(line.job.config), line.job.config.do_sample), []).append(i)
        tokens, broken = [0] * len(lines), [False] * len(lines)
        for (_, sample), members in groups.items():
            shape = shapers(lines[members[0]].job.config)
            part = scores if len(members) == len(lines) else scores[members]
            part = shape(part, part) if shape else part
            best, chosen = (race(part, [lines[i].dice for i in members]) if sample else part).max(-1)
            for i, token, bad in zip(members, chosen.tolist(), best.isnan().tolist(), strict=True):
                tokens[i], broken[i] = token, bad
        self._put(lines, tokens, broken, errors)

    def _put(self, lines: list[Line], tokens: list[int], broken: list[bool], errors: dict[int, HunminError]) -> None:
        """Write the token of every line, or what went wrong; lines that end leave."""
        for i, line in enumerate(lines):
            if line.job.error is None:
                line.job.error = errors.get(i) or (not_a_number() if broken[i] else None)
            if line.job.error is None:
                try:
                    line.put(tokens[i])
                except HunminError as error:
                    line.job.error = error
        self._leave()

    def _constrained(self, lines: list[Line], logits: Tensor) -> tuple[Tensor, dict[int, HunminError]]:
        """Scores ``(R, V)`` after what each line's own text forbids, and the lines for which that failed."""
        errors, scores = dict[int, HunminError](), logits
        for i, line in enumerate(lines):
            if line.job.constraints:
                scores = logits.clone() if scores is logits else scores
                try:
                    scores[i : i + 1] = line.job.constraints(line.text(), scores[i : i + 1])
                except HunminError as error:
                    errors[i] = error
        return scores, errors

    def _leave(self) -> None:
        """Lines that have ended give their pages back; a request whose lines have all ended has its result."""
        staying = list[Line]()
        for line in self.lines:
            job = line.job
            if job.error is None and not line.ended:
                staying.append(line)
                continue
            self.engine.paged.drop(line.row)
            job.ended[line.number] = line.new
            if len(job.ended) == job.copies:
                new = [job.ended[n] for n in range(job.copies)] if job.error is None else []
                self.finished[job.index] = Result(job.index, new, job.error)
        self.lines = staying
