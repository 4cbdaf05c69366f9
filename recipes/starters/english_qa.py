"""Questions for the extractive starter: XQuAD's labelled ones, and SQuAD's questions whose answers a first model finds (self-training).

squad_qg holds real questions with the sentence that answers them, but not the answer. A teacher that learned from a few hundred questions
of XQuAD marks it; marks that it is sure of, and that fit the question word, become training rows.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from english_rows import Row, key, lines_of
from measure import write_rows

HELD_OUT = 0.4  # share of XQuAD's articles that nothing learns from
KEPT, WORDS = 0.45, 10  # share of marked answers that are kept, and their most words
NUMBER = re.compile(r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|hundred|thousand|million|billion|half|none|no|several)\b")
COUNTED = re.compile(r"\b(how (many|much|long|old|large|big|far|tall|high)|when|what (year|date|day|percent\w*|month)|(which|what) year)\b")


def articles(raw: Path) -> tuple[list[Row], list[Row]]:
    """XQuAD's questions in two parts with no article in common: (learned, held out)."""
    with gzip.open(raw / "xquad" / "xquad.en.json.gz", "rt", encoding="utf-8") as file:
        held: list[dict[str, Any]] = json.load(file)["data"]
    random.Random(7).shuffle(held)
    cut = round(len(held) * HELD_OUT)
    return list(_questions(held[cut:])), list(_questions(held[:cut]))


def _questions(parts: Sequence[dict[str, Any]]) -> Iterator[Row]:
    for article in parts:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                first = asked["answers"][0]
                answers = {"text": [first["text"]], "answer_start": [first["answer_start"]]}
                yield {"id": asked["id"], "question": asked["question"], "context": paragraph["context"], "answers": answers}


def sentences(text: str) -> list[tuple[int, int]]:
    """Places of a text's sentences; good enough for Wikipedia."""
    ends = [m.end() for m in re.finditer(r"[.!?][\"')\]]*(?=\s+[A-Z\"'(])", text)] + [len(text)]
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if text[start:end].strip()]


def short(row: Row) -> Row | None:
    """The same question over the one sentence that holds its answer, written as squad_qg writes: as the teacher will see others."""
    start, answer = row["answers"]["answer_start"][0], row["answers"]["text"][0]
    for a, b in sentences(row["context"]):
        if a <= start and start + len(answer) <= b:
            lead = len(row["context"][a:b]) - len(row["context"][a:b].lstrip())
            a += lead
            answers = {"text": [answer], "answer_start": [start - a]}
            return row | {"context": row["context"][a:b], "answers": answers}
    return None


def unmarked(raw: Path, forbidden: set[str]) -> list[Row]:
    """Questions of squad_qg's test file with their sentence and its neighbours, in the order of the file; none of XQuAD's."""
    cells = [line.split("\t") for line in list(lines_of(raw / "squad_qg" / "test.tsv.gz"))[1:]]
    rows = [(clean(s), clean(q)) for s, q in cells]
    order = list(dict.fromkeys(s for s, _ in rows))
    at = {sentence: i for i, sentence in enumerate(order)}
    out: list[Row] = []
    for sentence, question in rows:
        i = at[sentence]
        if key(question) not in forbidden and key(sentence) not in forbidden:
            out.append({"question": question, "sentence": sentence, "before": order[max(0, i - 1) : i], "after": order[i + 1 : i + 2]})
    return out


def clean(text: str) -> str:
    """Tokenized text as people write it, as far as a few rules go."""
    for old, new in (("-lrb- ", "("), (" -rrb-", ")"), ("`` ", '"'), (" ''", '"'), (" -- ", "–"), (" 's", "'s"), (" n't", "n't")):
        text = text.replace(old, new)
    return re.sub(r" ([,.;:?!%])", r"\1", text).strip()


def fits(question: str, answer: str) -> bool:
    """Whether an answer is of the kind that the question word asks for, and no echo of the question."""
    words = set(re.findall(r"\w+", answer.lower()))
    if not words or len(answer.split()) > WORDS or words <= set(re.findall(r"\w+", question.lower())):
        return False
    if COUNTED.search(question.lower()):
        return bool(NUMBER.search(answer.lower()))
    return not (re.search(r"\bwho\b", question.lower()) and re.search(r"\d", answer))


def asked(question: str) -> str:
    """The question word: what kind of answer is wanted."""
    found = re.search(r"\b(who|when|where|which|how (?:many|much)|how|why|what year|what)\b", question.lower())
    return found[1] if found else ""


Mark = Callable[[list[tuple[str, str]]], list[tuple[int, int, float]]]


def marked(rows: Sequence[Row], mark: Mark, dice: random.Random) -> list[Row]:
    """Training rows from the answers that ``mark`` finds (first and last character, and how sure it is).

    For each question word the surest of those that fit are kept, or easy kinds (years) would be most of them.
    """
    found = mark([(row["question"], row["sentence"]) for row in rows])
    good = [(sure, row, a, b) for row, (a, b, sure) in zip(rows, found, strict=True) if fits(row["question"], row["sentence"][a:b])]
    good.sort(key=lambda item: -item[0])
    room = {word: round(count * KEPT) for word, count in Counter(asked(row["question"]) for row in rows).items()}
    out: list[Row] = []
    for _, row, a, b in good:
        word = asked(row["question"])
        if room[word] == 0:
            continue
        room[word] -= 1
        before, after = row["before"][dice.randint(0, 1) :], row["after"][: dice.randint(0, 1)]
        start = sum(len(text) + 1 for text in before) + a
        context = " ".join([*before, row["sentence"], *after])
        answers = {"text": [row["sentence"][a:b]], "answer_start": [start]}
        out.append({"question": row["question"], "context": context, "answers": answers})
    return out


def marker(folder: Path) -> Mark:
    """The trained teacher in ``folder`` as a function over pairs of question and sentence."""
    import torch

    from hunmin.auto import load
    from hunmin.text import AutoTokenizer

    model, tokenizer = load(str(folder), "QuestionAnswering", dtype="float32").eval(), AutoTokenizer.from_pretrained(str(folder))

    def mark(pairs: list[tuple[str, str]]) -> list[tuple[int, int, float]]:
        out: dict[int, tuple[int, int, float]] = {}
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        for first in range(0, len(order), 32):
            part = order[first : first + 32]
            texts = [pairs[i] for i in part]
            rows = tokenizer(
                [q for q, _ in texts], [s for _, s in texts], padding=True, truncation="only_second", max_length=256,
                return_tensors="pt", return_offsets_mapping=True,
            )  # fmt: skip
            inside = torch.tensor([[side == 1 for side in rows.sequence_ids(j)] for j in range(len(part))])
            fields = {name: rows[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
            with torch.no_grad():
                logits = model(**fields)
            spans = best(logits.start_logits, logits.end_logits, inside)
            for j, (i, (a, b, sure)) in enumerate(zip(part, spans, strict=True)):
                out[i] = (int(rows["offset_mapping"][j][a][0]), int(rows["offset_mapping"][j][b][1]), sure)
        return [out[i] for i in range(len(pairs))]

    return mark


def best(starts: Any, ends: Any, inside: Any, longest: int = 16) -> list[tuple[int, int, float]]:
    """The likeliest span of every row and its probability among all spans: logits ``(B, N)``, ``inside`` marks the sentence's tokens."""
    import torch

    n = starts.shape[1]
    hidden = torch.finfo(torch.float32).min
    scores = starts.float().masked_fill(~inside, hidden)[:, :, None] + ends.float().masked_fill(~inside, hidden)[:, None, :]
    allowed = torch.ones(n, n, dtype=torch.bool).triu() & ~torch.ones(n, n, dtype=torch.bool).triu(longest)
    flat = scores.masked_fill(~allowed, hidden).flatten(1).softmax(-1)
    sure, place = flat.max(-1)
    return [(p // n, p % n, s) for p, s in zip(place.tolist(), sure.tolist(), strict=True)]


def qa(raw: Path, out: Path, recipes: Path = Path(__file__).parent) -> None:
    """Teacher on XQuAD's learned articles, marks for squad_qg, and both as training rows; XQuAD's rows twice, as they are sure."""
    from hunmin.train.recipe import run

    learned, test = articles(raw)
    forbidden = {key(row["question"]) for row in (*learned, *test)} | {
        key(row["context"][a:b]) for row in test for a, b in sentences(row["context"])
    }
    small = [one for row in learned if (one := short(row)) is not None]
    write_rows(out / "teacher.jsonl", small)
    write_rows(out / "test.jsonl", test)
    run(recipes / "en-qa-teacher.yaml", ["overwrite=true"])
    dice = random.Random(7)
    rows = marked(unmarked(raw, forbidden), marker(Path("runs/starters/en/qa-teacher")), dice)
    write_rows(out / "marked.jsonl", rows)
    both = rows + [{name: row[name] for name in ("question", "context", "answers")} for row in learned] * 2
    dice.shuffle(both)
    write_rows(out / "train.jsonl", both)
