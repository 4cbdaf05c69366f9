"""Greedy search and sampling: every row takes one token a step. Also the random numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hunmin.errors import FormatError, InputError, say
from hunmin.generate.stopping import StoppingCriteriaList
from hunmin.native.choose import Choice, Chosen


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's (where it is in use) and PyTorch's random numbers."""
    random.seed(seed)
    torch.manual_seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def seeded(seed: int | None, generator: torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """A generator for one call; None draws from PyTorch's global one. Raises InputError for a seed that is no whole number."""
    if seed is None:
        return generator
    if not isinstance(seed, int) or isinstance(seed, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(say(f"seed has to be a whole number, not {seed!r}.", f"seed는 정수여야 합니다: {seed!r}."))
    return torch.Generator(device).manual_seed(seed)


def drawn(generator: torch.Generator | None) -> int:
    """A seed from ``generator``, or from PyTorch's global random numbers."""
    return int(torch.randint(1 << 32, (), generator=generator, device=generator.device if generator is not None else None))


def dice(seed: int, rows: Iterable[int], device: torch.device) -> list[torch.Generator]:
    """A generator for each of ``rows``: what a row draws depends on its number only, not on the rows beside it. Row 0 has the seed."""
    return [torch.Generator(device).manual_seed((seed + row * 0x9E3779B1) % (1 << 32)) for row in rows]


def race(scores: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Turn scores into a race ``(R, V)``: the k largest entries of a row are k tokens drawn without replacement.

    Dividing probabilities by exponential noise draws what ``torch.multinomial`` draws, but never makes the CPU wait for a GPU.
    """
    p = scores.softmax(-1)
    noise = torch.empty_like(p)
    if isinstance(generator, list):
        for row, own in zip(noise, generator, strict=True):
            row.exponential_(1, generator=own)
        return p / noise
    return p / noise.exponential_(1, generator=generator)


@dataclass
class Rules:
    """What every way to search shares. ``prompt`` and ``longest`` are lengths in tokens, ``fill`` is what follows the end of a row."""

    prompt: int
    longest: int
    fill: int
    stops: StoppingCriteriaList
    sample: bool = False
    generator: torch.Generator | list[torch.Generator] | None = None  # one, or one a row


class Rows:
    """The state of a greedy or sampled decoding.

    ``ids`` is ``(R, longest)`` with ``length`` columns written; ``origin`` says which row of the step before each row continues (None:
    itself). ``live`` are the rows that still grow, ``alive`` is their number.
    """

    origin: Tensor | None = None
    alive: int

    def __init__(self, prompt: Tensor, rules: Rules) -> None:
        self.rules, self.length = rules, prompt.shape[1]
        self.ids = prompt.new_full((prompt.shape[0], rules.longest), rules.fill)
        self.ids[:, : self.length] = prompt
        self.finished = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)

    def normalized(self, logits: Tensor) -> Tensor:
        """What the processors work on."""
        return logits

    def advance(self, scores: Tensor, history: tuple[Tensor, ...] | None) -> bool:
        """Take one token a row by ``scores`` ``(R, V)``; returns whether to go on. Raises FormatError for scores that are no numbers."""
        best, tokens = (race(scores, self.rules.generator) if self.rules.sample else scores).max(-1)
        return self._write(best, tokens, history)

    def choice(self, never: tuple[int, ...], again: bool, vocab: int) -> Choice:
        """What :meth:`take` needs of a step, where no text goes on with a token of ``never``."""
        return Choice(1, never, sums=False)

    def take(self, chosen: Chosen) -> bool:
        """As :meth:`advance`, by the best of each row."""
        return self._write(chosen.values[:, 0], chosen.ids[:, 0], None)

    def _write(self, best: Tensor, tokens: Tensor, history: tuple[Tensor, ...] | None) -> bool:
        rules = self.rules
        self.ids[:, self.length] = torch.where(self.finished, rules.fill, tokens)
        self.length += 1
        self.finished = self.finished | rules.stops(self.text(), history)
        going = ~self.finished
        self.alive, broken = torch.stack([going.sum(), (best.isnan() & going).sum()]).tolist()  # the one wait for a GPU
        if broken:
            raise not_a_number()
        return self.alive > 0 and self.length < rules.longest

    def text(self) -> Tensor:
        """What is written, ``(R, length)``."""
        return self.ids[:, : self.length]

    @property
    def live(self) -> Tensor:
        return (~self.finished).nonzero()[:, 0]

    def result(self) -> tuple[Tensor, Tensor | None]:
        """The sequences, and scores of whole sequences where the search has them."""
        return self.text(), None


def not_a_number() -> FormatError:
    return FormatError(
        say(
            "The model's scores are NaN, or no token is allowed: broken weights, a dtype that overflows (load with dtype='float32'), "
            "or constraints that forbid everything.",
            "모델의 점수가 NaN이거나 허용된 토큰이 없습니다. 가중치가 손상되었거나, dtype이 넘쳤거나(dtype='float32'로 불러오세요), "
            "모든 토큰을 금지하는 조건입니다.",
        )
    )
