"""Beam search: the same step as greedy search, with another choice."""

from __future__ import annotations

import torch
from torch import Tensor

from hunmin.generate.config import GenerationConfig
from hunmin.generate.sampling import Rules, not_a_number, race
from hunmin.native.choose import Choice, Chosen

LOW = -1e9  # "not a candidate": finite, so that it can be added and compared


def _take(t: Tensor, index: Tensor) -> Tensor:
    """Rows of ``t`` ``(B, K, …)`` by ``index`` ``(B, n)`` -> ``(B, n, …)``."""
    return t.take_along_dim(index.view(*index.shape, *(1,) * (t.ndim - 2)), 1)


class Beams:
    """K running sequences for each of B inputs, and the K best finished ones.

    A step looks at the best candidates of all beams of an input, twice as many as beams or more, so that K of them go on even when others
    end. The score of a finished sequence is its log probability divided by ``length ** length_penalty`` (Wu et al. 2016, simplified).

    ``early_stopping``: True ends an input when it has K finished sequences; "never" when no running one can still become better;
    False when none would be if it ended now.
    """

    def __init__(self, prompt: Tensor, rules: Rules, config: GenerationConfig, ends: int) -> None:
        self.rules, self.config, self.length = rules, config, prompt.shape[1]
        self.beams = config.num_beams
        self.wide = max(2, 1 + ends) * self.beams
        items = prompt.shape[0] // self.beams
        self.running = prompt.new_full((items, self.beams, rules.longest), rules.fill)
        self.running[:, :, : self.length] = prompt.view(items, self.beams, -1)
        self.scores = torch.zeros(items, self.beams, device=prompt.device)
        self.scores[:, 1:] = LOW  # at first the beams of an input are equal: only one may speak
        self.best, self.best_scores = self.running.clone(), torch.full_like(self.scores, LOW)
        self.best_lengths = torch.full_like(self.scores, self.length, dtype=torch.long)
        self.full = torch.zeros_like(self.scores, dtype=torch.bool)  # which places among the best are taken
        self.open = torch.ones(items, 1, dtype=torch.bool, device=prompt.device)  # whether the best may still change
        self.offset = torch.arange(items, device=prompt.device)[:, None] * self.beams
        self.origin: Tensor | None = None
        self.alive = prompt.shape[0]

    def normalized(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)

    @property
    def ids(self) -> Tensor:
        return self.running.flatten(0, 1)

    def text(self) -> Tensor:
        return self.ids[:, : self.length]

    def advance(self, scores: Tensor, history: tuple[Tensor, ...] | None) -> bool:
        """Choose the next beams by ``scores`` ``(B * K, V)``; returns whether to go on."""
        vocab, items = scores.shape[1], len(self.scores)
        total = (scores.view(items, self.beams, vocab) + self.scores[..., None]).view(items, -1)
        if self.rules.sample:
            drawn, chosen = race(total, self.rules.generator).topk(self.wide)
            top = total.gather(1, chosen)
        else:
            top, chosen = total.topk(self.wide)
            drawn = top
        return self._write(drawn, top, chosen // vocab, chosen % vocab, history)

    def choice(self, never: tuple[int, ...], again: bool, vocab: int) -> Choice:
        """What :meth:`take` needs of a step: as many candidates of each beam as may all be of one. Tokens of ``never`` have no probability,
        or none is left for them where the rest is normalized ``again``."""
        return Choice(min(self.wide, vocab), never, whole=not again)

    def take(self, chosen: Chosen) -> bool:
        """As :meth:`advance`, by the best of each row."""
        items, k = len(self.scores), chosen.ids.shape[1]
        total = (chosen.logs().view(items, self.beams, k) + self.scores[..., None]).view(items, -1)
        top, which = total.sort(descending=True, stable=True)
        top, which = top[:, : self.wide], which[:, : self.wide]
        return self._write(top, top, which // k, chosen.ids.view(items, -1).gather(1, which), None)

    def _write(self, drawn: Tensor, top: Tensor, parent: Tensor, tokens: Tensor, history: tuple[Tensor, ...] | None) -> bool:
        """Go on with ``tokens`` ``(B, wide)`` after the beams ``parent``, whose scores are ``top``, the best first."""
        candidates = _take(self.running, parent)
        candidates[..., self.length] = tokens
        self.length += 1
        ends = self.rules.stops(candidates.flatten(0, 1)[:, : self.length], history).view(top.shape)
        ends = ends | (self.length >= self.rules.longest)

        self.scores, kept = (top + ends * LOW).topk(self.beams)
        self.running = _take(candidates, kept)
        self.origin = (_take(parent, kept) + self.offset).flatten()
        self._collect(candidates, top, ends)
        self.open = self.open & self._improvable()
        going, onward, broken = torch.stack([(~self._done()).sum(), (~ends).sum(), drawn.isnan().sum()]).tolist()  # the one wait for a GPU
        if broken:
            raise not_a_number()
        self.alive = going * self.beams
        return going > 0 and onward > 0

    def _collect(self, candidates: Tensor, top: Tensor, ends: Tensor) -> None:
        """Put finished candidates among the best; those behind the first K were only looked at for the sake of running on."""
        finished = ends.clone()
        finished[:, self.beams :] = False
        score = top / self._long(self.length)
        score = score + self._closed() * LOW + ~self.open * LOW + ~finished * LOW
        merged = torch.cat([self.best_scores, score], 1)
        self.best_scores, which = merged.topk(self.beams)
        self.best = _take(torch.cat([self.best, candidates], 1), which)
        self.full = _take(torch.cat([self.full, finished], 1), which)
        self.best_lengths = _take(torch.cat([self.best_lengths, torch.full_like(top, self.length, dtype=torch.long)], 1), which)

    def _long(self, length: int) -> float:
        return (length - self.rules.prompt) ** self.config.length_penalty

    def _closed(self) -> Tensor:
        """Inputs ``(B, 1)`` that early stopping has ended."""
        return self.full.all(1, keepdim=True) & (self.config.early_stopping is True)

    def _improvable(self) -> Tensor:
        """Whether the best running beam could enter the best, ``(B, 1)``."""
        hopeful = self.config.early_stopping == "never" and self.config.length_penalty > 0
        reachable = self.scores[:, :1] / self._long(self.rules.longest if hopeful else self.length)
        worst = torch.where(self.full, self.best_scores.amin(1, keepdim=True), LOW)
        return (reachable > worst).any(1, keepdim=True)

    def _done(self) -> Tensor:
        return ~self.open | self._closed()

    @property
    def live(self) -> Tensor:
        """Rows ``(R,)`` of the inputs that still go on."""
        return (~self._done().expand(self.scores.shape)).flatten().nonzero()[:, 0]

    def result(self) -> tuple[Tensor, Tensor | None]:
        """The best sequences ``(B * num_return_sequences, N)``, best first, and their scores."""
        n = self.config.num_return_sequences
        length = int(self.best_lengths[:, :n].max())
        return self.best[:, :n].flatten(0, 1)[:, :length], self.best_scores[:, :n].flatten()
