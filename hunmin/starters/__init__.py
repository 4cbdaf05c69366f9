"""Starters: a small model for every text task, in English and in Korean, for machines that reach no model hub.

Most were trained by this project (``recipes/starters``) and lie beside this file: one shared encoder a language, and for every task an adapter with
its head. Encoder, generator and translator that others trained come as packages. ``index.json`` says what each is and how well it does.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache

from hunmin.errors import SourceError, say
from hunmin.hub.starter import HERE, MINILM, SMOLLM2

# Starters that others trained, from packages: name -> task, how good in English and in Korean.
OTHERS = {
    "en/body": ("feature-extraction", "all-MiniLM-L6-v2: vectors of 384 numbers.", "all-MiniLM-L6-v2: 숫자 384개의 벡터입니다."),
    "en/chat": (
        "text-generation",
        "SmolLM2-135M-Instruct, a very small chat model: it writes fluently and is often wrong.",
        "SmolLM2-135M-Instruct, 아주 작은 영어 대화 모델: 문장은 자연스럽지만 자주 틀립니다.",
    ),
    "en/en-fr": (
        "translation",
        "opus-mt-en-fr, a Marian model of 75 million parameters.",
        "opus-mt-en-fr, 7,500만 매개변수의 Marian 모델입니다.",
    ),
}
# task -> language of the text -> starter. Translation has one for each direction.
DEFAULTS: dict[str, dict[str, str]] = {
    "feature-extraction": {"en": "en/body", "ko": "ko/similarity"},
    "fill-mask": {"en": "en/fill-mask", "ko": "ko/body"},
    "question-answering": {"en": "en/qa", "ko": "ko/qa"},
    "rerank": {"en": "en/rerank", "ko": "ko/similarity"},
    "sentence-similarity": {"en": "en/body", "ko": "ko/similarity"},
    "summarization": {"en": "en/summarization", "ko": "koen/text2text"},
    "text-classification": {"en": "en/sentiment", "ko": "ko/sentiment"},
    "text-generation": {"en": "en/chat", "ko": "ko/chat"},
    "text2text-generation": {"en": "en/chat", "ko": "ko/chat"},
    "token-classification": {"en": "en/ner", "ko": "ko/ner"},
    "translation": {"en": "en/en-fr", "ko": "koen/text2text"},
    "translation_en_to_fr": {"en": "en/en-fr"},
    "translation_en_to_ko": {"en": "koen/text2text"},
    "translation_ko_to_en": {"ko": "koen/text2text"},
    "zero-shot-classification": {"en": "en/nli", "ko": "ko/nli"},
}
__all__ = ["DEFAULTS", "HERE", "MINILM", "SMOLLM2", "Starter", "language_of", "starters", "wanted"]
_HANGUL, _LATIN = re.compile("[가-힣ㄱ-ㅎㅏ-ㅣ]"), re.compile("[A-Za-z]")


@dataclass(frozen=True)
class Starter:
    """One of the table: ``model=starter.source`` takes it."""

    name: str  # "en/sentiment"
    task: str
    scores: tuple[str, str]  # how well it does on texts that it was not trained on, in English and in Korean

    @property
    def source(self) -> str:
        return "starter-" + self.name

    @property
    def score(self) -> str:
        return say(*self.scores)


@cache
def starters() -> dict[str, Starter]:
    """All starters by name."""
    made = json.loads((HERE / "index.json").read_text(encoding="utf-8"))
    rows = {name: Starter(name, row["task"], (row["line"]["en"], row["line"]["ko"])) for name, row in made.items()}
    rows |= {name: Starter(name, task, (en, ko)) for name, (task, en, ko) in OTHERS.items()}
    return dict(sorted(rows.items()))


def wanted(model: object, task: str | None) -> dict[str, Starter] | None:
    """The starters that ``model`` ("starter", "starter-en", "starter-ko", "starter-en/NAME") means for a task, by language; None: another model.

    Raises SourceError for a name, or a language and a task, that there is none for.
    """
    match = re.fullmatch(r"starter(?:-(en|ko|koen)(/[\w-]+)?)?", model) if isinstance(model, str) else None
    if match is None:
        return None
    spoken, name = match[1], (match[1] or "") + (match[2] or "")
    if match[2]:
        found = {spoken: starters()[name]} if name in starters() else {}
    else:
        found = {tongue: starters()[name] for tongue, name in DEFAULTS.get(task or "", {}).items() if spoken in (None, tongue)}
    if not found:
        there = ", ".join(s.source for s in starters().values() if task is None or task.startswith(s.task)) or "-"
        raise SourceError(
            say(
                f"There is no {model} for {task or 'an unnamed task'} (there is: {there}). Pass model=: a folder, a Hub id or a package.",
                f"{task or '이름 없는 작업'}에 쓸 {model}이(가) 없습니다(있는 것: {there}). model=에 폴더, 허브 이름, 패키지 가운데 하나를 주세요.",
            )
        )
    return found


def language_of(text: str) -> str:
    """ "ko" for text of which a third of the letters or more are Hangul, else "en"."""
    hangul = 0 if text.isascii() else len(_HANGUL.findall(text))
    return "ko" if hangul and 2 * hangul >= len(_LATIN.findall(text)) else "en"
