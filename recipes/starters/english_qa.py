"""Questions for the extractive starter: XQuAD's labelled ones, and SQuAD's questions whose answers a first model finds (self-training).

squad_qg holds real questions with the sentence that answers them, but not the answer. Two teachers that learned from a few hundred questions
of XQuAD mark it together; marks that they are sure of, and that fit the question word, teach a third, its marks a fourth, which reads
paragraphs, and its marks a fifth. On sentences of held-out articles the third finds F1 60, the fourth and fifth together 66. Where a reader
of another kind, SmolLM2 with its adapter for answers (61 alone), says the same words, they are right with F1 86: those teach the starter.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from english_rows import Row, lines_of
from measure import key, write_rows

HELD_OUT = 0.4  # share of XQuAD's articles that nothing learns from
KEPT, AGAIN, WORDS = 0.45, 0.7, 10  # shares of marked answers that are kept, by the first teachers and by the others; their most words
ASKED, ALIKE = 0.78, 0.6  # share of the rows that SmolLM2 is asked about, and F1 of the words of both answers from which they count as one
NEAR = 4  # sentences on each side that may stand around the one with the answer
LONG = ("data.max_length=384", "training.warmup_ratio=0.06")  # what differs where whole paragraphs are read
FIELDS = ("question", "context", "answers")
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


def unmarked(raw: Path, learned: Sequence[Row], test: Sequence[Row]) -> list[Row]:
    """squad_qg's questions with their sentence and its neighbours: its test file, and of its dev file what surely belongs to learned articles.

    The dev file holds XQuAD's articles, in the order of SQuAD: rows lie in a learned article where XQuAD's questions nearest before and
    after them do. No row has a question of XQuAD or a sentence of a held-out paragraph.
    """
    forbidden = {key(row["question"]) for row in (*learned, *test)}
    held = {key(row["context"][a:b]) for row in test for a, b in sentences(row["context"])}
    rows = [*_pairs(raw, "test"), *_within(_pairs(raw, "dev"), learned, test)]
    order = list(dict.fromkeys(sentence for sentence, _ in rows))
    at = {sentence: i for i, sentence in enumerate(order)}
    out: list[Row] = []
    for sentence, question in rows:
        i = at[sentence]
        if key(question) not in forbidden and key(sentence) not in held:
            out.append(
                {"question": question, "sentence": sentence, "before": order[max(0, i - NEAR) : i], "after": order[i + 1 : i + 1 + NEAR]}
            )
    return out


def _pairs(raw: Path, split: str) -> list[tuple[str, str]]:
    """Sentences and questions of a file of squad_qg, in its order."""
    cells = [line.split("\t") for line in list(lines_of(raw / "squad_qg" / f"{split}.tsv.gz"))[1:]]
    return [(clean(sentence), clean(question)) for sentence, question in cells]


def _within(rows: Sequence[tuple[str, str]], learned: Sequence[Row], test: Sequence[Row]) -> list[tuple[str, str]]:
    """The rows between two questions of learned articles."""
    of = {_letters(row["question"]): part for part, held in ((True, learned), (False, test)) for row in held}
    known = [(i, of[_letters(question)]) for i, (_, question) in enumerate(rows) if _letters(question) in of]
    places, parts = [i for i, _ in known], [True, *(part for _, part in known), True]
    at = set(places)
    return [row for i, row in enumerate(rows) if parts[bisect(places, i)] and parts[bisect(places, i) + (i not in at)]]


def _letters(text: str) -> str:
    """A question as it is found again in tokenized text."""
    return re.sub(r"\W", "", text.lower())


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


def marked(rows: Sequence[Row], mark: Mark, kept: float) -> list[Row]:
    """Rows over their sentence alone with the answers that ``mark`` finds (first and last character, and how sure it is), a share ``kept``.

    For each question word the surest of those that fit are kept, or easy kinds (years) would be most of them.
    """
    found = mark([(row["question"], row["sentence"]) for row in rows])
    good = [(sure, row, a, b) for row, (a, b, sure) in zip(rows, found, strict=True) if fits(row["question"], row["sentence"][a:b])]
    good.sort(key=lambda item: -item[0])
    room = {word: round(count * kept) for word, count in Counter(asked(row["question"]) for row in rows).items()}
    out: list[Row] = []
    for _, row, a, b in good:
        word = asked(row["question"])
        if room[word] == 0:
            continue
        room[word] -= 1
        out.append(answered(row, a, b))
    return out


def answered(row: Row, a: int, b: int) -> Row:
    """A row over its sentence alone, with the characters from ``a`` to ``b`` (excluded) as the answer."""
    return row | {"context": row["sentence"], "answers": {"text": [row["sentence"][a:b]], "answer_start": [a]}}


def confirmed(rows: Sequence[Row], mark: Mark) -> list[Row]:
    """Rows over their sentence alone with the answers of ``mark`` that SmolLM2 with the adapter ``en/answers`` gives too."""
    from hunmin import pipeline

    found = mark([(row["question"], row["sentence"]) for row in rows])
    good = [(sure, row, a, b) for row, (a, b, sure) in zip(rows, found, strict=True) if fits(row["question"], row["sentence"][a:b])]
    good = sorted(good, key=lambda item: -item[0])[: round(ASKED * len(rows))]
    pipe = pipeline("question-answering", model="starter-en/answers")
    said = pipe([{"question": row["question"], "context": row["sentence"]} for _, row, _, _ in good])
    return [
        answered(row, a, b) for (_, row, a, b), one in zip(good, said, strict=True) if alike(row["sentence"][a:b], one["answer"]) >= ALIKE
    ]


def alike(one: str, other: str) -> float:
    """F1 of the words of two answers, as SQuAD counts it, between 0 and 1."""
    from hunmin.train.metrics import squad

    return squad([one], [[other]])["f1"] / 100


def surrounded(row: Row, dice: random.Random) -> Row:
    """A marked row over its sentence among some of its neighbours."""
    before, after = row["before"][dice.randint(0, NEAR) :], row["after"][: dice.randint(0, NEAR)]
    start = sum(len(text) + 1 for text in before) + row["answers"]["answer_start"][0]
    return row | {"context": " ".join([*before, row["context"], *after]), "answers": row["answers"] | {"answer_start": [start]}}


def marker(folders: Sequence[Path]) -> Mark:
    """The trained teachers in ``folders`` as one function over pairs of question and sentence: the mean of their logits decides."""
    import torch

    from hunmin.auto import load
    from hunmin.text import AutoTokenizer

    models = [load(str(folder), "QuestionAnswering", dtype="float32").eval() for folder in folders]
    tokenizer = AutoTokenizer.from_pretrained(str(folders[0]))

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
                said = [model(**fields) for model in models]
            starts, ends = (torch.stack([getattr(one, name) for one in said]).mean(0) for name in ("start_logits", "end_logits"))
            spans = best(starts, ends, inside)
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
    """Teachers, the answers that they mark, and the training rows: XQuAD's rows twice, as they are sure, and the marked ones."""
    learned, test = articles(raw)
    write_rows(out / "test.jsonl", test)
    small = [{name: row[name] for name in FIELDS} for one in learned if (row := short(one)) is not None]
    rows = unmarked(raw, learned, test)
    teachers = [taught(recipes, out, small, name, [f"seed={seed}"]) for name, seed in (("first", 7), ("second", 8))]
    found = [{name: row[name] for name in FIELDS} for row in marked(rows, marker(teachers), KEPT)]
    third = taught(recipes, out, [*small * 3, *found], "third", ["training.num_train_epochs=2", "training.learning_rate=1e-3"])
    readers = [third]
    for name in ("fourth", "fifth"):
        found = marked(rows, marker(readers[-1:]), AGAIN)
        how = [*LONG, "training.num_train_epochs=2", "training.learning_rate=1e-3"]
        readers.append(taught(recipes, out, together(found, learned), name, how))
    found = confirmed(rows, marker(readers[1:]))
    write_rows(out / "marked.jsonl", found)
    write_rows(out / "train.jsonl", together(found, learned))


def together(found: Sequence[Row], learned: Sequence[Row]) -> list[Row]:
    """Marked rows among their neighbours and labelled ones, these twice, as they are sure."""
    dice = random.Random(7)
    rows = [{name: row[name] for name in FIELDS} for row in (*(surrounded(row, dice) for row in found), *learned, *learned)]
    dice.shuffle(rows)
    return rows


def taught(recipes: Path, out: Path, rows: list[Row], name: str, changes: list[str]) -> Path:
    """A teacher that the recipe makes from ``rows``. Returns its folder."""
    from hunmin.train.recipe import run

    folder = Path("runs/starters/en/qa-teacher") / name
    write_rows(out / "teacher.jsonl", rows)
    run(recipes / "en-qa-teacher.yaml", ["overwrite=true", f"output={folder}", *changes])
    return folder
