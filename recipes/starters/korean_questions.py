"""Korean questions made by rules from sentences. From them a reader learns to find the sentence that a question is about, and the place in
it that is asked for (Lewis et al. 2019, "Unsupervised Question Answering by Cloze Translation"; rules stand for the translation here).

A question is the sentence without the words of the answer and some others, without some particles, in a form that asks. Before those come
easier rows: find a word again (``found``), find what is missing among words (``gaps``). Without them a small encoder learns nothing from the
others: its loss stays where it begins.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import korean_data as ko

Row = dict[str, Any]
Span = tuple[int, int, str]  # first and last character (exclusive) of an answer, and its kind
PARTICLES = "에게서 에서는 으로는 에서 에게 으로 까지 부터 라고 이라고 라는 이라는 은 는 이 가 을 를 에 의 와 과 도 로 만".split()
PARTICLE = re.compile(f"(?<=[가-힣0-9A-Za-z)])({'|'.join(PARTICLES)})$")
# What asks for an answer of a kind: at the end of the question, or in the place of the answer.
ENDINGS = {
    "PS": ("사람은?", "사람은 누구인가?", "인물은?", "사람의 이름은?", "인물은 누구인가?"),
    "LC": ("곳은?", "곳은 어디인가?", "장소는?", "지역은?", "도시는?", "나라는?"),
    "OG": ("곳은?", "단체는?", "기관은?", "회사는?", "곳의 이름은?", "조직은 무엇인가?"),
    "DT": ("때는?", "것은 언제인가?", "날은?", "해는?", "연도는?", "시기는 언제인가?"),
    "TI": ("시각은?", "것은 몇 시인가?", "때는 언제인가?"),
    "QT": ("수는?", "것은 몇{unit}인가?", "수는 몇{unit}인가?", "것은 얼마인가?"),
    "": ("것은?", "것은 무엇인가?", "것의 이름은?", "이것은 무엇인가?"),
}
INSIDE = {"PS": "누가", "LC": "어디에서", "OG": "어느 곳이", "DT": "언제", "TI": "몇 시에", "QT": "몇{unit}", "": "무엇을"}
KINDS = {"PER": "PS", "ORG": "OG", "LOC": "LC", "DAT": "DT", "NOH": "QT", "POH": ""}  # KLUE-RE's names
DATE = re.compile(r"\d{1,4}년(?: \d{1,2}월)?(?: \d{1,2}일)?|\d{1,2}월 \d{1,2}일")
COUNT = re.compile(r"\d[\d,.]*(?:만|억|천|조)?\s?(?:명|개|원|달러|번|회|대|위|점|세|살|km|m|%|퍼센트|가지|권|편|척|마리|시간|분)")
QUOTED = re.compile(r"[《〈『「'‘\"“]([^》〉』」'’\"”]{2,20})[》〉』」'’\"”]")
VERB = (("였다", "인"), ("하였다", "한"), ("했다", "한"), ("한다", "하는"), ("됐다", "된"), ("되었다", "된"), ("된다", "되는"), ("이다", "인"),
        ("있다", "있는"), ("었다", "은"), ("았다", "은"))  # fmt: skip


def entities(data: Path) -> Iterator[tuple[str, list[Span]]]:
    """Sentences with answers of known kinds: the training rows of KLUE-NER, and KLUE-RE."""
    for text, tags in ko.ner(data, test=False):
        starts = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
        spans = [(i, next((j for j in range(i + 1, len(tags)) if not tags[j].startswith("I-")), len(tags))) for i in starts]
        yield text, [(a, b, tags[a][2:]) for a, b in spans]
    for row in ko.table(data / "klue_re_dev/dev.tsv.gz"):
        found = [(row["sentence"].find(row[part]), row[part], KINDS.get(row[f"{part}_type"], "")) for part in ("subject", "object")]
        yield row["sentence"], [(at, at + len(word), kind) for at, word, kind in found if at >= 0]


def guessed(text: str, draw: random.Random) -> list[Span]:
    """Answers in a sentence of which nothing is known: dates, numbers with a unit, what stands in quotation marks, and one noun."""
    spans = [(*m.span(), "DT") for m in DATE.finditer(text)]
    spans += [(*m.span(), "QT") for m in COUNT.finditer(text) if not any(a <= m.start() < b for a, b, _ in spans)]
    spans += [(*m.span(1), "") for m in QUOTED.finditer(text)]
    nouns = [m for m in re.finditer(r"\S+", text) if (p := PARTICLE.search(m[0])) and p[1] in "은는이가을를" and len(m[0]) > 2]
    if nouns:
        word = draw.choice(nouns)
        spans.append((word.start(), word.end() - 1, ""))
    return spans


def asked(text: str, span: Span, draw: random.Random) -> str | None:
    """A question about ``span``, or None where too little would be left of the sentence."""
    first, last, kind = span
    unit = re.sub(r"[\d,.\s]", "", text[first:last]) if kind == "QT" else ""
    words, place = list[str](), None
    for m in re.finditer(r"\S+", text):
        if m.start() < last and m.end() > first:  # a word of the answer, with its particle
            place = len(words) if place is None else place
        elif draw.random() > 0.25:
            words.append(PARTICLE.sub("", m[0]) if draw.random() < 0.4 and len(m[0]) > 2 else m[0])
        if place is not None and m.start() >= last and len(words) > place + 8:
            break  # questions ask for what stands near
    at = len(words) if place is None else place
    words, at = words[max(0, at - 8) :], min(at, 8)
    if len(words) < 3:
        return None
    end = words[-1].rstrip(".,")
    if draw.random() < 0.35:
        words[-1] = end.removesuffix("다") + ("는가?" if end.endswith("다") else "?")
        words.insert(min(at, len(words) - 1), INSIDE[kind].format(unit=f" {unit}" if unit else ""))
        return " ".join(words)
    stem = next((end.removesuffix(old) + new for old, new in VERB if end.endswith(old)), end)
    return " ".join([*words[:-1], stem, draw.choice(ENDINGS[kind]).format(unit=f" {unit}" if unit else "")])


def among(sentences: Sequence[tuple[str, list[Span]]], draw: random.Random) -> Iterator[Row]:
    """A question about every answer of every sentence, over that sentence among one to five others."""
    for text, spans in sentences:
        for span in draw.sample(spans, min(2, len(spans))):
            if (question := asked(text, span, draw)) is not None:
                parts = [sentences[draw.randrange(len(sentences))][0] for _ in range(draw.randint(1, 5))]
                parts.insert(at := draw.randint(0, len(parts)), text)
                start = sum(len(part) + 1 for part in parts[:at]) + span[0]
                yield _row(question, " ".join(parts), text[span[0] : span[1]], start)


def found(sentences: Sequence[tuple[str, list[Span]]], count: int, draw: random.Random) -> Iterator[Row]:
    """``count`` rows that ask for a word itself."""
    for _ in range(count):
        context = " ".join(draw.choice(sentences)[0] for _ in range(draw.randint(1, 3)))
        word = draw.choice(list(re.finditer(r"\S+", context)))
        answer = PARTICLE.sub("", word[0]) if draw.random() < 0.5 else word[0]
        yield _row(answer, context, answer, word.start())


def gaps(sentences: Sequence[tuple[str, list[Span]]], count: int, draw: random.Random) -> Iterator[Row]:
    """``count`` rows that ask for some words in a row: all of them, or those that are missing among them."""
    for _ in range(count):
        context = " ".join(draw.choice(sentences)[0] for _ in range(draw.randint(1, 3)))
        words, size = list(re.finditer(r"\S+", context)), draw.randint(3, 8)
        first = draw.randrange(max(1, len(words) - size))
        last = min(len(words), first + size) - 1
        asked, a, b = [m[0] for m in words[first : last + 1]], first, last
        if last - first > 1 and draw.random() < 0.6:
            a = draw.randint(first + 1, last - 1)
            b = min(last - 1, a + draw.randint(0, 1))
            asked[a - first : b - first + 1] = ["무엇"]
        yield _row(" ".join(asked), context, context[words[a].start() : words[b].end()], words[a].start())


def within(contexts: Sequence[str], each: int, draw: random.Random) -> Iterator[Row]:
    """``each`` questions about sentences of a text, over the whole text."""
    for context in contexts:
        places = [m for m in re.finditer(r"[^.?!\n]+(?:[.?!]|$)", context) if len(m[0].split()) > 4]
        for m in draw.sample(places, min(each, len(places))):
            spans = guessed(m[0], draw)
            if spans and (question := asked(m[0], span := draw.choice(spans), draw)) is not None:
                yield _row(question, context, m[0][span[0] : span[1]], m.start() + span[0])


def _row(question: str, context: str, answer: str, start: int) -> Row:
    return {"question": question, "context": context, "answers": {"text": [answer], "answer_start": [start]}}
