"""Logits processors: functions ``(ids (R, N), scores (R, V)) -> scores`` that forbid or favour tokens, in the customary order.

R rows (a batch, times its beams), N tokens so far, V vocabulary. A score of minus infinity forbids a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.generate.config import GenerationConfig
from hunmin.generate.prompt import Prompt, end_ids

Processor = Callable[[Tensor, Tensor], Tensor]
NEVER = float("-inf")


class LogitsProcessor(ABC):
    """Base of user-written processors; any callable of the same form will do."""

    @abstractmethod
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores ``(R, V)`` of the next token, changed or not."""


class LogitsProcessorList(list[Processor]):
    """Processors that run one after another."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for process in self:
            scores = process(input_ids, scores)
        return scores


def build(
    config: GenerationConfig,
    prompt: Prompt,
    copies: int,
    own: Iterable[Processor] = (),
    allowed: Callable[[int, Tensor], list[int]] | None = None,
) -> LogitsProcessorList:
    """Everything that ``config`` asks for, for ``copies`` rows an input: :func:`constraints`, then :func:`shapers`."""
    return LogitsProcessorList([*constraints(config, prompt, copies, own, allowed), *shapers(config)])


def constraints(
    config: GenerationConfig,
    prompt: Prompt,
    copies: int,
    own: Iterable[Processor] = (),
    allowed: Callable[[int, Tensor], list[int]] | None = None,
) -> LogitsProcessorList:
    """What forbids and favours tokens, by what a row has written; ``max_length`` has to be final.

    ``own`` are the user's processors, which run last. ``allowed`` gives the ids that may follow a row, by its index in the batch and its
    ids.
    """
    c, out, eos = config, LogitsProcessorList(), end_ids(config)
    start, source = prompt.ids.shape[1], (prompt.source, prompt.real)
    padding = prompt.padding.repeat_interleave(copies) if prompt.padding is not None else None  # it is no repetition

    def add(wanted: Any, *processors: Processor) -> None:
        out.extend(processors if wanted else ())

    first = start + 1 if start == 1 and c.forced_bos_token_id is not None else start
    least = c.min_length if c.min_new_tokens is None else start + c.min_new_tokens
    add(c.sequence_bias, _biased(c.sequence_bias or ()))
    add(c.encoder_repetition_penalty != 1.0, _from_source(source, 1 / c.encoder_repetition_penalty))
    add(c.repetition_penalty != 1.0, _repetition(c.repetition_penalty, padding))
    add(c.no_repeat_ngram_size, _no_repeat(c.no_repeat_ngram_size, padding))
    add(c.encoder_no_repeat_ngram_size, _no_repeat(c.encoder_no_repeat_ngram_size, padding, source))
    add(c.bad_words_ids, *_banned([word for word in c.bad_words_ids or () if word not in [[i] for i in eos]]))
    add(eos and least, _When(lambda length: length < least, _Forbidden(eos)))
    add(allowed is not None, _prefix(allowed, copies, c.num_beams))
    add(c.forced_bos_token_id is not None, _When(lambda length: length == 1, _forced(c.forced_bos_token_id)))
    add(c.forced_eos_token_id is not None, _When(lambda length: length == c.max_length - 1, _forced(c.forced_eos_token_id)))
    add(c.remove_invalid_values, lambda ids, scores: scores.nan_to_num(0.0))
    add(c.exponential_decay_length_penalty and eos, _decay(c.exponential_decay_length_penalty or (0, 1.0), eos, start))
    add(c.suppress_tokens, _Forbidden(c.suppress_tokens or []))
    add(c.begin_suppress_tokens, _When(lambda length: length == first, _Forbidden(c.begin_suppress_tokens or [])))
    out.extend(own)
    return out


def shapers(config: GenerationConfig) -> LogitsProcessorList:
    """What shapes a distribution to sample from. These look at scores only: rows of any length can go through them together."""
    c, out = config, LogitsProcessorList()

    def add(wanted: Any, process: Processor) -> None:
        out.extend([process] if wanted else ())

    if c.do_sample:
        _shape(c, add, keep=len(end_ids(c) or [0]) + 1 if c.num_beams > 1 else 1)
    add(c.renormalize_logits, _renormalized)
    return out


def _shape(c: GenerationConfig, add: Callable[[Any, Processor], None], keep: int) -> None:
    """At least ``keep`` tokens stay possible."""
    add(c.temperature != 1.0, lambda ids, scores: scores / c.temperature)
    add(c.top_k, lambda ids, scores: _keep(scores, scores >= _largest(scores, max(c.top_k, keep))))
    add(c.top_p < 1.0, _top_p(c.top_p, keep))
    add(c.min_p is not None, _likely(lambda p: (c.min_p or 0.0) * p.amax(-1, keepdim=True), keep))
    add(c.typical_p < 1.0, _typical(c.typical_p, keep))
    add(0 < c.epsilon_cutoff < 1, _likely(lambda p: c.epsilon_cutoff, keep))

    def eta(p: Tensor) -> Tensor:
        entropy = -torch.special.xlogy(p, p).sum(-1, keepdim=True)
        return (c.eta_cutoff**0.5 * torch.exp(-entropy)).clamp(max=c.eta_cutoff)

    add(0 < c.eta_cutoff < 1, _likely(eta, keep))


# ------------------------------------------------------------------ what a search may know without running them


class _When:
    """A processor for texts of certain lengths."""

    def __init__(self, active: Callable[[int], bool], process: Processor) -> None:
        self.active, self.process = active, process

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return self.process(ids, scores) if self.active(ids.shape[1]) else scores


class _Forbidden:
    """No text goes on with these tokens. Those beyond the vocabulary are dropped, or where they are ``checked`` an InputError."""

    def __init__(self, tokens: Iterable[int], checked: bool = False) -> None:
        self.tokens, self.checked = list(tokens), checked
        self.row = _dense(dict.fromkeys(self.tokens, NEVER))

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.within(scores.shape[1])
        return scores + self.row(scores)

    def within(self, vocab: int) -> list[int]:
        if self.checked:
            _check(self.tokens, vocab)
        return [i for i in self.tokens if 0 <= i < vocab]


def _renormalized(ids: Tensor, scores: Tensor) -> Tensor:
    return scores.log_softmax(-1)


def forbidden(process: Iterable[Processor], length: int, vocab: int) -> tuple[list[int], bool] | None:
    """The tokens that ``process`` forbids to every text of ``length``, and whether the rest is normalized again; None where it does more.

    Raises InputError as the processors do."""
    tokens, again = set[int](), False
    for one in process:
        if isinstance(one, _When):
            if not one.active(length):
                continue
            one = one.process
        if isinstance(one, _Forbidden):
            tokens.update(one.within(vocab))
        elif one is _renormalized:
            again = True
        else:
            return None
    return sorted(tokens), again


# ------------------------------------------------------------------ constraints


def _dense(values: dict[int, float], rest: float = 0.0) -> Callable[[Tensor], Tensor]:
    """A row ``(V,)`` to add to scores, made once: ``values`` by token id, ``rest`` elsewhere. Ids beyond the vocabulary are dropped."""

    @cache
    def row(vocab: int, device: torch.device) -> Tensor:
        known = [i for i in values if i < vocab]
        out = torch.full((vocab,), rest, device=device)
        out[known] = torch.tensor([values[i] for i in known], device=device)
        return out

    return lambda scores: row(scores.shape[1], scores.device)


def _banned(words: list[list[int]]) -> list[Processor]:
    """What keeps ``words`` from being written: those of one token, and those of several."""
    single, several = [word[0] for word in words if len(word) == 1], [[word, NEVER] for word in words if len(word) > 1]
    return ([_Forbidden(single, checked=True)] if single else []) + ([_biased(several)] if several else [])


def _forced(token: int | list[int] | None) -> Processor:
    tokens = [token] if isinstance(token, int) else token or []
    row = _dense(dict.fromkeys(tokens, 0.0), rest=NEVER)

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        _check(tokens, scores.shape[1])
        return row(scores).expand(scores.shape)

    return process


def _check(tokens: Iterable[int], vocab: int) -> None:
    """Raise InputError when a token is not in the vocabulary."""
    if (largest := max(tokens, default=0)) >= vocab:
        raise InputError(
            say(
                f"Token {largest} was asked for, but the model's vocabulary has {vocab}.",
                f"토큰 {largest}을(를) 지정했지만 모델의 어휘는 {vocab}개입니다.",
            )
        )


def _biased(bias: Any) -> Processor:
    """Add a bias to the last token of a sequence wherever the rest of it was just written."""
    pairs: list[Any] = list(cast("Mapping[Any, Any]", bias).items() if isinstance(bias, Mapping) else bias)
    try:
        words = {tuple(int(i) for i in ids): float(value) for ids, value in pairs}
    except (TypeError, ValueError):
        raise InputError(
            say(
                "sequence_bias has to be {(id, ...): bias} or [[[id, ...], bias], ...].",
                "sequence_bias는 {(id, ...): 값} 또는 [[[id, ...], 값], ...] 모양이어야 합니다.",
            )
        ) from None
    row = _dense({word[0]: value for word, value in words.items() if len(word) == 1})
    longer = {word: value for word, value in words.items() if len(word) > 1}

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        _check((i for word in words for i in word), scores.shape[1])
        added = row(scores).expand(scores.shape)
        added = added.clone() if longer else added
        for word, value in longer.items():
            n = len(word) - 1
            if n <= ids.shape[1]:
                here = (ids[:, -n:] == torch.tensor(word[:-1], device=ids.device)).all(-1)
                added[:, word[-1]] += torch.where(here, value, 0.0)
        return scores + added

    return process


def _spread(ids: Tensor, scores: Tensor) -> Tensor:
    """``(R, V)``, True for every token that stands in ``ids``; those beyond the vocabulary are dropped."""
    found = scores.new_zeros(scores.shape[0], scores.shape[1] + 1, dtype=torch.bool)
    return found.scatter_(1, ids.clamp(max=scores.shape[1]), True)[:, :-1]


def _real(ids: Tensor, padding: Tensor | None) -> Tensor:
    """``ids`` with padding on the left replaced by an id that no vocabulary has."""
    if padding is None:
        return ids
    return ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) < padding[:, None], torch.iinfo(ids.dtype).max)


def _penalized(scores: Tensor, which: Tensor, penalty: float) -> Tensor:
    return torch.where(which, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _repetition(penalty: float, padding: Tensor | None) -> Processor:
    """CTRL's penalty on every token that a row already has (Keskar et al. 2019, section 4.1)."""
    return lambda ids, scores: _penalized(scores, _spread(_real(ids, padding), scores), penalty)


def _from_source(source: tuple[Tensor, Tensor], penalty: float) -> Processor:
    """The same on the tokens of the input."""
    ids = source[0].masked_fill(~source[1], torch.iinfo(torch.long).max)
    return lambda _, scores: _penalized(scores, _spread(ids.repeat_interleave(len(scores) // len(ids), 0), scores), penalty)


def _no_repeat(n: int, padding: Tensor | None, source: tuple[Tensor, Tensor] | None = None) -> Processor:
    """Forbid the tokens that would write an n-gram again, one of the row itself or one of the source."""
    given = source[0].masked_fill(~source[1], torch.iinfo(torch.long).max) if source is not None else None

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        ids = _real(ids, padding)
        text = ids if given is None else given.repeat_interleave(len(ids) // len(given), 0)
        if ids.shape[1] < n - 1 or text.shape[1] < n:
            return scores
        grams = text.unfold(1, n, 1)
        same = (grams[..., :-1] == ids[:, None, ids.shape[1] + 1 - n :]).all(-1)
        return scores.masked_fill(_spread(torch.where(same, grams[..., -1], torch.iinfo(torch.long).max), scores), NEVER)

    return process


def _prefix(allowed: Callable[[int, Tensor], list[int]] | None, copies: int, beams: int) -> Processor:
    def process(ids: Tensor, scores: Tensor) -> Tensor:
        mask = torch.full_like(scores, NEVER)
        for row, sequence in enumerate(ids):
            tokens = allowed(row // copies, sequence) if allowed is not None else []
            if not len(tokens):
                raise InputError(
                    say(
                        f"prefix_allowed_tokens_fn allows nothing for row {row // copies} of the batch.",
                        f"prefix_allowed_tokens_fn이 배치의 {row // copies}번 행에 아무 토큰도 허용하지 않습니다.",
                    )
                )
            mask[row, tokens] = 0.0
        kept = scores + mask
        stuck = kept.amax(-1).isneginf().view(-1, beams).all(-1).repeat_interleave(beams)  # other constraints forbid all that is allowed
        return torch.where(stuck[:, None], mask, kept)

    return process


def _decay(setting: tuple[int, float], eos: list[int], prompt: int) -> Processor:
    """Raise the end token's score more and more from a given length on."""
    start, factor = setting[0] + prompt, setting[1]

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        if (late := ids.shape[1] - start) <= 0:
            return scores
        end = scores[:, eos]
        raised = torch.where(end.isfinite(), end + end.abs() * (factor**late - 1), end)
        return scores.index_copy(1, torch.tensor(eos, device=scores.device), raised)

    return process


# ------------------------------------------------------------------ distributions to sample from


def _largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest score of each row, ``(R, 1)``."""
    return scores.topk(min(k, scores.shape[-1])).values[:, -1:]


def _keep(scores: Tensor, which: Tensor) -> Tensor:
    return scores.masked_fill(~which, NEVER)


def _likely(limit: Callable[[Tensor], Tensor | float], keep: int) -> Processor:
    """Keep the tokens whose probability reaches a limit that depends on the distribution."""

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        p = scores.softmax(-1)
        return _keep(scores, (p >= limit(p)) | (scores >= _largest(scores, keep)))

    return process


def _top_p(mass: float, keep: int) -> Processor:
    """Nucleus sampling (Holtzman et al. 2020): the smallest set of tokens that holds the probability ``mass``."""

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        ordered, order = scores.sort()
        stays = ordered.softmax(-1).cumsum(-1) > 1 - mass
        stays[:, -keep:] = True
        return _keep(scores, stays.scatter(1, order, stays))

    return process


def _typical(mass: float, keep: int) -> Processor:
    """Typical sampling (Meister et al. 2023): the tokens whose surprise is nearest to the expected one."""

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        logp = scores.log_softmax(-1)
        entropy = -(logp * logp.exp()).nansum(-1, keepdim=True)
        far, order = (-logp - entropy).abs().sort()
        last = (scores.gather(1, order).softmax(-1).cumsum(-1) < mass).sum(-1, keepdim=True).clamp(max=scores.shape[1] - 1)
        stays = far <= far.gather(1, last)
        stays[:, :keep] = True
        return _keep(scores, stays.scatter(1, order, stays))

    return process
