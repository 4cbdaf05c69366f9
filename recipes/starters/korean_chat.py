"""A reply to a Korean sentence: the rows that the body learns to write from, one word after the other, and the scores.

A row is ``[CLS] question [SEP] reply [SEP]``. A prompt becomes ``[CLS] prompt [SEP]``, as the body's tokenizer writes every text, so that
the reply comes next.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import korean_data as ko
import numpy as np
from korean_scores import FRAMES, PAIRS
from measure import Measured, Wrong, key, mean, opened, probe, read_rows, share, write_rows

TURN = "[SEP]"  # between a question and its reply
FIRST, TIMES = 80_000, 8  # sentences that are read first; times that a pair is learned
OTHERS, ORDER = 9, 5  # replies beside the right one; letters of the n-grams that the perplexity is compared with
Pair = dict[str, str]


def pairs(raw: Path, test: bool) -> list[Pair]:
    """Questions and replies of songys' chatbot; a tenth of the replies is held out with all its questions."""
    rows = [{"question": row["Q"].strip(), "reply": row["A"].strip()} for row in ko.table(raw / "songys_chatbot/ChatbotData.csv")]
    return [row for row in rows if ko.held(key(row["reply"]), 0.1) == test]


def chat(raw: Path, out: Path) -> None:
    """Sentences of many kinds first; then questions with replies, each ``TIMES`` times with another mark at its end, and some sentences more."""
    draw, test = random.Random(7), pairs(raw, True)
    asked = {key(row["question"]) for row in test}
    learned = [row for row in pairs(raw, False) if key(row["question"]) not in asked]
    seen = asked | {key(row["reply"]) for row in test}
    found = [text for name, texts in ko.sources(raw).items() if not name.startswith(("nsmc", "songys_chatbot")) for text in texts]
    found = [text for text in draw.sample(found, len(found)) if len(text) <= 100 and key(text) not in seen]
    turns = [row["question"].rstrip("?.!") + draw.choice(("", "", "?", ".")) + TURN + row["reply"] for row in learned for _ in range(TIMES)]
    last = turns + found[FIRST : FIRST + len(turns) // 8]
    draw.shuffle(last)
    write_rows(out / "train.jsonl", [{"text": text} for text in found[:FIRST] + last])
    write_rows(out / "replies.jsonl", [{"text": row["reply"]} for row in learned])
    write_rows(out / "test.jsonl", test)


def likelihoods(model: Any, tokenizer: Any, rows: Sequence[tuple[str, str]]) -> list[float]:
    """The log-likelihood (natural) of the reply and its end after the question, of every pair."""
    import torch

    out, order = [0.0] * len(rows), sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for first in range(0, len(order), 64):
        part = order[first : first + 64]
        texts = tokenizer([rows[i][0] + TURN + rows[i][1] for i in part], padding=True, return_tensors="pt")
        ids, mask = texts["input_ids"], texts["attention_mask"].bool()
        with torch.no_grad():
            chances = model(ids, attention_mask=mask.long()).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        for i, row, said, seen in zip(part, ids, chances, mask, strict=True):
            begin = int((row == tokenizer.sep_token_id).nonzero()[0])
            out[i] = float(said[begin:][seen[1:][begin:]].sum())
    return out


def letters(train: Sequence[str], test: Sequence[str]) -> list[float]:
    """Bits of every text by n-grams of letters, each order interpolated with the shorter one (Witten & Bell 1991)."""
    counts, kinds = Counter[str](), Counter[str]()
    for text in train:
        line = "\1" * (ORDER - 1) + text + "\2"
        for end in range(ORDER, len(line) + 1):
            for size in range(ORDER):
                gram = line[end - 1 - size : end]
                kinds[gram[:-1]] += counts[gram] == 0
                counts[gram] += 1
    totals = Counter[str]()
    for gram, count in counts.items():
        totals[gram[:-1]] += count

    def chance(gram: str) -> float:
        shorter = chance(gram[1:]) if len(gram) > 1 else 1 / 11172  # all syllables alike
        seen, many = totals[gram[:-1]], kinds[gram[:-1]]
        return (counts[gram] + many * shorter) / (seen + many) if seen else shorter

    out = list[float]()
    for text in test:
        line = "\1" * (ORDER - 1) + text + "\2"
        out.append(-sum(math.log2(chance(line[end - ORDER : end])) for end in range(ORDER, len(line) + 1)))
    return out


def measure(folder: Path, prepared: Path) -> Measured:
    """Bits for each letter of a reply; and which of ten replies belongs to a question, by likelihood beside that without a question."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from hunmin import pipeline

    model, tokenizer = opened(folder, "text-generation")
    rows, draw = read_rows(prepared / "test.jsonl"), random.Random(5)
    replies = sorted({row["reply"] for row in rows})
    choices = [[row["reply"], *draw.sample([text for text in replies if text != row["reply"]], OTHERS)] for row in rows]
    asked = [(row["question"], reply) for row, some in zip(rows, choices, strict=True) for reply in some]
    alone = dict(zip(replies, likelihoods(model, tokenizer, [("", text) for text in replies]), strict=True))
    said = np.asarray([value - alone[reply] for (_, reply), value in zip(asked, likelihoods(model, tokenizer, asked), strict=True)])
    best = said.reshape(-1, OTHERS + 1).argmax(1)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3)).fit([text for pair in asked for text in pair])
    likeness = np.asarray(vectors.transform([q for q, _ in asked]).multiply(vectors.transform([r for _, r in asked])).sum(1))
    base = float((likeness.reshape(-1, OTHERS + 1).argmax(1) == 0).mean())
    on = "songys chatbot, a tenth of the replies"
    chosen = share("right reply of ten", best == 0, on, baseline=base, baseline_is="the reply that shares most letters with the question")
    true = [(row["question"], row["reply"]) for row in rows]
    sizes = [len(reply) + 1 for _, reply in true]  # with its end
    bits = [-value / math.log(2) / size for value, size in zip(likelihoods(model, tokenizer, true), sizes, strict=True)]
    known = [row["text"] for row in read_rows(prepared / "replies.jsonl")]
    plain = [value / size for value, size in zip(letters(known, [reply for _, reply in true]), sizes, strict=True)]
    more: dict[str, Any] = {"baseline": float(np.mean(plain)), "baseline_is": f"n-grams of up to {ORDER} letters, trained on the replies"}
    scores = [mean("bits for each letter of a reply", bits, on, percent=False, down=True, **more), chosen]
    errors = [Wrong(row["question"], row["reply"], some[i]) for row, some, i in zip(rows, choices, best, strict=True) if i]
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, do_sample=False, max_new_tokens=24, return_full_text=False)

    def answer(texts: list[str]) -> list[tuple[str, float]]:
        found = [one[0]["generated_text"] for one in pipe(texts)]
        values = likelihoods(model, tokenizer, list(zip(texts, found, strict=True)))
        return [(text, math.exp(value)) for text, value in zip(found, values, strict=True)]

    shown = draw.sample(rows, 8)
    said_to = [(row["question"], text) for row, (text, _) in zip(shown, answer([row["question"] for row in shown]), strict=True)]
    return Measured(scores, draw.sample(errors, min(5, len(errors))), probe(answer, PAIRS, FRAMES), said_to)
