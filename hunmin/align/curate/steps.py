"""The steps of a curation recipe: each says of every text why it goes, or that it stays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hunmin.align.curate import language as languages
from hunmin.align.curate.minhash import near_duplicates
from hunmin.align.curate.quality import Classifier, held_out
from hunmin.align.files import read_rows
from hunmin.align.formats import Row, as_text, text_of
from hunmin.align.judge import JudgePart
from hunmin.errors import InputError, say
from hunmin.train.charts import number

Columns = str | list[str] | None


@dataclass
class Found:
    """Of every text why it goes (None: it stays), and what was measured of it; ``facts`` are about the step as a whole.

    What stands after a colon in a reason is about this text alone; what stands before it is counted.
    """

    reasons: list[str | None]
    scores: list[float | None]
    facts: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Step(ABC):
    """One step. Its fields are the keys of the recipe; ``text`` names the columns that it looks at, all texts of a row without."""

    text: Columns = field(default=None, kw_only=True)

    @abstractmethod
    def judge(self, rows: Sequence[Row], texts: Sequence[str]) -> Found:
        """What is to become of rows with these texts."""

    def of(self, row: Row, common: Columns = None) -> str:
        """The text of a row. Raises InputError for a column that it does not have."""
        columns = self.text if self.text is not None else common
        if columns is None:
            return text_of(row)
        names = [columns] if isinstance(columns, str) else columns
        if missing := [name for name in names if name not in row]:
            listed = ", ".join(map(str, row))
            raise InputError(
                say(f"There is no column {missing[0]!r}; a row has {listed}.", f"{missing[0]!r} 열이 없습니다. 행에 있는 열: {listed}.")
            )
        return "\n".join(text_of({name: row[name]}) for name in names)


@dataclass
class NearDuplicates(Step):
    """Leaves out texts that share most of their runs of characters with one that is kept."""

    threshold: float = 0.8  # share of runs that both have (Jaccard); 1 leaves out equal texts only
    size: int = 5  # characters of a run
    permutations: int = 128  # more find more of the pairs near the threshold
    keep: Literal["first", "longest"] = "first"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.size < 1 or not 8 <= self.permutations <= 4096:
            raise InputError(
                say(
                    "near_duplicates needs a threshold above 0 and at most 1, a size of 1 or more, and 8 to 4096 permutations.",
                    "near_duplicates에는 threshold(0 초과 1 이하), size(1 이상), permutations(8~4096)가 필요합니다.",
                )
            )

    def judge(self, rows: Sequence[Row], texts: Sequence[str]) -> Found:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place])) if self.keep == "longest" else None
        twins = near_duplicates(texts, self.threshold, size=self.size, permutations=self.permutations, order=order)
        like = say("like another row", "다른 행과 비슷함")
        reasons = [None if twin is None else f"{like}: {_start(texts[twin.place])}" for twin in twins]
        return Found(reasons, [None if twin is None else twin.similarity for twin in twins])


def _start(text: str, longest: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


@dataclass
class Language(Step):
    """Keeps texts in these languages. One whose language its letters do not tell stays where its script is that of a kept language."""

    keep: list[str]
    share: float = 0.5  # of the letters, in the script of the text's language

    def __post_init__(self) -> None:
        if unknown := [code for code in self.keep if code not in languages.KNOWN]:
            listed = ", ".join(sorted(languages.KNOWN))
            raise InputError(
                say(
                    f"language: {unknown[0]} cannot be told; these can: {listed}.",
                    f"language: {unknown[0]}은(는) 구분할 수 없습니다. 가능한 언어: {listed}.",
                )
            )
        if not self.keep:
            raise InputError(say("language: keep names at least one language.", "language: keep에 언어를 하나 이상 적으세요."))

    def judge(self, rows: Sequence[Row], texts: Sequence[str]) -> Found:
        guesses = [languages.guess(text) for text in texts]
        scripts = {languages.script_of(code) for code in self.keep}
        return Found([self._reason(guess, scripts) for guess in guesses], [guess.share for guess in guesses])

    def _reason(self, guess: languages.Guess, scripts: set[str | None]) -> str | None:
        if guess.script is None:
            return say("no letters", "글자 없음")
        if guess.language is not None and guess.language not in self.keep:
            return say(f"language {guess.language}", f"언어 {guess.language}")
        if guess.language is None and guess.script not in scripts:
            return say(f"script {guess.script}", f"문자 {guess.script}")
        return say("letters of several scripts", "여러 문자가 섞임") if guess.share < self.share else None


@dataclass
class Length(Step):
    """Keeps texts of a length in characters, words or tokens."""

    min_chars: int | None = None
    max_chars: int | None = None
    min_words: int | None = None
    max_words: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    tokenizer: str | None = None  # for tokens: a source of models

    def __post_init__(self) -> None:
        if (self.min_tokens is not None or self.max_tokens is not None) != (self.tokenizer is not None):
            raise InputError(
                say("length: tokens and tokenizer go together.", "length: min_tokens/max_tokens와 tokenizer는 함께 적어야 합니다.")
            )
        if not any(value is not None for key, value in vars(self).items() if key.startswith(("min_", "max_"))):
            raise InputError(say("length needs a limit, such as min_chars.", "length에는 min_chars 같은 한도가 필요합니다."))

    def judge(self, rows: Sequence[Row], texts: Sequence[str]) -> Found:
        units: dict[str, Callable[[str], int]] = {"chars": len, "words": lambda text: len(text.split())}
        if self.tokenizer is not None:
            from hunmin.text import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
            units["tokens"] = lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
        limited = {unit: count for unit, count in units.items() if any(self._limits(unit))}
        counted = [{unit: count(text) for unit, count in limited.items()} for text in texts]
        first = next(iter(limited))
        return Found([self._reason(counts) for counts in counted], [float(counts[first]) for counts in counted])

    def _limits(self, unit: str) -> tuple[int | None, int | None]:
        return getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")

    def _reason(self, counts: Mapping[str, int]) -> str | None:
        names = {"chars": say("characters", "글자"), "words": say("words", "단어"), "tokens": say("tokens", "토큰")}
        for unit, count in counts.items():
            least, most = self._limits(unit)
            if least is not None and count < least:
                return say(f"below {least} {names[unit]}", f"{names[unit]} {least} 미만")
            if most is not None and count > most:
                return say(f"above {most} {names[unit]}", f"{names[unit]} {most} 초과")
        return None


@dataclass
class Perplexity(Step):
    """Leaves out what a language model finds too strange (noise, broken text) or too plain (boilerplate)."""

    model: str  # a source of causal language models
    max: float | None = None
    min: float | None = None
    drop_share: float | None = None  # this share of the rows, those with the highest perplexity
    window: int = 512  # tokens that are read together; the rest of a longer text is read in further windows
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.max is None and self.min is None and self.drop_share is None:
            raise InputError(
                say("perplexity needs max, min or drop_share.", "perplexity에는 max, min, drop_share 가운데 하나가 필요합니다.")
            )
        if self.drop_share is not None and not 0 <= self.drop_share < 1:
            raise InputError(say("perplexity: drop_share is 0 or more and below 1.", "perplexity: drop_share는 0 이상 1 미만입니다."))

    def judge(self, rows: Sequence[Row], texts: Sequence[str]) -> Found:
        from hunmin import AutoModelForCausalLM, AutoTokenizer
        from hunmin.train.perplexity import text_perplexity

        tokenizer = AutoTokenizer.from_pretrained(self.model)
        model = AutoModelForCausalLM.from_pretrained(self.model, **({"dtype": self.dtype} if self.dtype else {}))
        longest = int(model.config.get("max_position_embeddings") or self.window)
        scores: list[float | None] = []
        for text in texts:
            ids = list(tokenizer(text)["input_ids"])
            known = len(ids) > 1
            scores.append(text_perplexity(model, ids, window=min(self.window, longest))["perplexity"] if known else None)
        limit = self._limit(scores)
        return Found([self._reason(score, limit) for score in scores], scores)

    def _limit(self, scores: Sequence[float | None]) -> float:
        """The highest perplexity that stays."""
        limit = self.max if self.max is not None else math.inf
        known = sorted(score for score in scores if score is not None)
        if self.drop_share is not None and known:
            limit = min(limit, known[max(0, len(known) - 1 - round(self.drop_share * len(known)))])
        return limit

    def _reason(self, score: float | None, limit: float) -> str | None:
        if score is None:
            return say("too short to predict", "예측하기에 너무 짧음")
        if score > limit:
            return say(f"perplexity above {number(limit)}", f"퍼플렉시티 {number(limit)} 초과")
        below = self.min is not None and score < self.min
        return say(f"perplexity below {number(self.min or 0)}", f"퍼플렉시티 {number(self.min or 0)} 미만") if below else None


@dataclass
class Quality(Step):
    """Keeps what is worth learning from: judged by a small classifier that learns from examples, a classification model, or a judge."""

    good: str | None = None  # files with examples of both kinds, for a classifier
    bad: str | None = None
    classifier: str | None = None  # a classifier that was saved
    save: str | None = None  # where to keep the one that was learned
    model: str | None = None  # a source of models: a sequence classifier
    label: str | None = None  # of the model; otherwise its last
    judge_by: JudgePart | None = field(default=None, metadata={"key": "judge"})
    question: str = "Would a student who wants to learn the basics learn something from this text?"  # which the judge is asked
    min: float | None = None  # a probability (0.5), a score of the model or a rating
    keep_share: float | None = None  # in its place: this share of the rows, the best ones

    def __post_init__(self) -> None:
        kinds = [self.good is not None or self.bad is not None, self.classifier, self.model, self.judge_by]
        if sum(map(bool, kinds)) != 1 or (self.good is None) != (self.bad is None):
            raise InputError(
                say(
                    "quality needs one of: good and bad (examples), classifier (a file), model, or judge.",
                    "quality에는 good과 bad(예시), classifier(파일), model, judge 가운데 하나가 필요합니다.",
                )
            )
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise InputError(say("quality: keep_share is above 0 and at most 1.", "quality: keep_share는 0 초과 1 이하입니다."))

    def judge(self, rows: Sequence[Row], texts: Sequence[str]) -> Found:
        facts: dict[str, str] = {}
        scores: list[float | None]
        if self.model is not None:
            scores = [*_classified(self.model, texts, self.label)]
        elif self.judge_by is not None:
            scores = self.judge_by.build().score([self.question] * len(texts), texts)
        else:
            scores = [*self._learned(facts).predict(texts)]
        limit = 0.5 if self.min is None and self.keep_share is None else -math.inf if self.min is None else self.min
        known = sorted((score for score in scores if score is not None), reverse=True)
        if self.keep_share is not None and known:
            limit = max(limit, known[max(1, round(self.keep_share * len(known))) - 1])
        low, unknown = say(f"below {number(limit)}", f"{number(limit)} 미만"), say("not judged", "판정 없음")
        return Found([unknown if score is None else low if score < limit else None for score in scores], scores, facts)

    def _learned(self, facts: dict[str, str]) -> Classifier:
        if self.classifier is not None:
            return Classifier.load(self.classifier)
        good, bad = ([self.of(row) for row in read_rows(str(path))] for path in (self.good, self.bad))
        area = held_out(good, bad)
        facts[say("examples", "예시")] = say(f"{len(good)} good, {len(bad)} bad", f"좋은 예 {len(good)}, 나쁜 예 {len(bad)}")
        if area is not None:
            facts[say("ROC AUC on a fifth held out", "떼어 둔 1/5에서 ROC AUC")] = f"{area:.3f}"
        made = Classifier.fit(good, bad)
        if self.save is not None:
            Path(self.save).parent.mkdir(parents=True, exist_ok=True)
            made.save(self.save)
        return made


def _classified(source: str, texts: Sequence[str], label: str | None) -> list[float]:
    """Of each text the probability of a label (without one: the last), or the value of a model with one label."""
    import torch

    from hunmin import AutoModelForSequenceClassification, AutoTokenizer
    from hunmin.train.rows import flatten

    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForSequenceClassification.from_pretrained(source)
    model.eval()
    names: Any = model.config.id2label
    wanted = len(names) - 1 if label is None else next((place for place, name in names.items() if name == label), None)
    if wanted is None:
        listed = ", ".join(map(str, names.values()))
        raise InputError(
            say(
                f"quality: {source} has no label {label}; it has {listed}.",
                f"quality: {source}에 라벨 {label}이(가) 없습니다. 있는 것: {listed}.",
            )
        )
    out: list[float] = []
    longest = min(tokenizer.model_max_length, int(model.config.get("max_position_embeddings") or 512))
    with torch.inference_mode():
        for start in range(0, len(texts), 16):
            ids = [list(tokenizer(as_text(text), truncation=True, max_length=longest)["input_ids"]) for text in texts[start : start + 16]]
            logits = model(**flatten([{"input_ids": row} for row in ids])).logits.float()
            out += (logits[:, 0] if len(names) == 1 else logits.softmax(-1)[:, wanted]).tolist()
    return out
