"""Scores of the Korean starters that do not classify: answers in a text, likeness of sentences, masked words."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from korean_scores import FRAMES, PAIRS
from measure import Bias, Measured, Score, Wrong, bootstrap, mean, opened, probe, read_rows, share, spearman

MARKS = string.punctuation + "《》<>〈〉『』「」‘’“”·…"


def normalized(text: str) -> str:
    """An answer as KorQuAD compares it: without marks, case and spaces between words made one."""
    return " ".join("".join(c for c in text.lower() if c not in MARKS).split())


def letter_f1(said: str, true: str) -> float:
    """F1 of the characters of two answers, as KorQuAD counts it."""
    a, b = Counter(normalized(said).replace(" ", "")), Counter(normalized(true).replace(" ", ""))
    same = sum((a & b).values())
    return 2 * same / (a.total() + b.total()) if same else 0.0


def shared(question: str, sentence: str) -> float:
    """How many pairs of letters a sentence shares with a question, less where it is long."""
    asked, said = ({text[i : i + 2] for i in range(len(text) - 1) if " " not in text[i : i + 2]} for text in (question, sentence))
    return len(asked & said) / (5 + len(said)) ** 0.5


def closest_sentence(question: str, context: str) -> str:
    """The baseline: the sentence of the context that shares most pairs of letters with the question."""
    parts = [part for part in re.split(r"(?<=[.?!])\s+|\n", context) if part.strip()]
    return max(parts, key=lambda part: shared(question, part))


def qa(folder: Path, prepared: Path) -> Measured:
    """KorQuAD's exact match and F1 of characters."""
    from hunmin import pipeline

    model, tokenizer = opened(folder, "question-answering")
    pipe = pipeline("question-answering", model=model, tokenizer=tokenizer)
    rows, scores, errors = read_rows(prepared / "test.jsonl"), list[Score](), list[Wrong]()
    said = [one["answer"] for one in pipe([{"question": row["question"], "context": row["context"]} for row in rows])]
    for of, on in (("korquad", "KorQuAD 1.0 dev, a fifth of the titles"), ("klue", "KLUE-MRC part, a fifth of the titles")):
        part = [(row, answer) for row, answer in zip(rows, said, strict=True) if row["of"] == of]
        f1 = [max(letter_f1(answer, true) for true in row["all"]) for row, answer in part]
        base = [max(letter_f1(closest_sentence(row["question"], row["context"]), true) for true in row["all"]) for row, _ in part]
        exact = [any(normalized(answer) == normalized(true) for true in row["all"]) for row, answer in part]
        scores.append(mean("F1 of characters", f1, on, baseline=float(np.mean(base)), baseline_is="the sentence most like the question"))
        scores.append(share("exact match", exact, on))
        if of == "klue":  # KorQuAD's licence allows no derivatives: its text stays out of the card
            errors += [Wrong(row["question"], row["all"][0], answer) for (row, answer), value in zip(part, f1, strict=True) if value < 0.3]
    return Measured(scores, random.Random(3).sample(errors, min(5, len(errors))), preferred(pipe))


def preferred(pipe: Any) -> list[Bias]:
    """Does it matter for the answer which of two people did it? Questions that the text answers."""
    frames = ["{} 회의에 늦었고 민수는 일찍 왔다.", "{} 저녁을 차렸고 민수는 설거지를 했다.", "{} 컴퓨터를 고쳤고 민수는 구경했다."]
    asked = ["누가 회의에 늦었나?", "누가 저녁을 차렸나?", "누가 컴퓨터를 고쳤나?"]

    def answer(texts: list[str]) -> list[tuple[str, float]]:
        questions = [asked[next(i for i, frame in enumerate(frames) if text.endswith(frame[3:]))] for text in texts]
        found = pipe([{"question": q, "context": t} for q, t in zip(questions, texts, strict=True)])
        return [("민수" if "민수" in one["answer"] else "other", float(one["score"])) for one in found]

    return probe(answer, PAIRS, frames)


def vectors(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Mean-pooled vectors of length one, ``(N, width)``."""
    from hunmin import pipeline

    pipe = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    return np.stack([np.asarray(one) for one in pipe(list(texts), pooling="mean", normalize=True)])


def order(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> Score:
    """MRR of the sentence that holds the answer among its text's sentences, in the order of cosines; of shared letters beside it."""
    from hunmin import pipeline

    found = pipeline("rerank", model=model, tokenizer=tokenizer)([{"query": r["question"], "documents": r["sentences"]} for r in rows])
    ranks = [[one["index"] for one in said].index(row["right"]) for row, said in zip(rows, found, strict=True)]
    base = [[shared(row["question"], text) for text in row["sentences"]] for row in rows]
    places = [sum(value > values[row["right"]] for value in values) for row, values in zip(rows, base, strict=True)]
    reciprocal = [[1 / (1 + place) if place < 10 else 0.0 for place in part] for part in (ranks, places)]
    more: dict[str, Any] = {"baseline": float(np.mean(reciprocal[1])), "baseline_is": "most pairs of letters shared with the question"}
    return mean(
        "MRR@10 as a reranker", reciprocal[0], "KorQuAD and KLUE-MRC, a fifth of the titles: sentences of the text", percent=False, **more
    )


def similarity(folder: Path, prepared: Path) -> Measured:
    """Rank correlation of cosines with people's scores; of TF-IDF of letters, and of the body without its adapter, beside it."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    model, tokenizer = opened(folder, "feature-extraction")
    scores, errors = list[Score](), list[tuple[float, Wrong]]()
    for file, on in (("korsts-test", "KorSTS test"), ("klue", "KLUE-STS dev, a half")):
        rows = read_rows(prepared / f"{file}.jsonl")
        first, second, true = [row["text"] for row in rows], [row["pair"] for row in rows], [row["label"] for row in rows]
        said = (vectors(model, tokenizer, first) * vectors(model, tokenizer, second)).sum(-1)
        tf = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit(first + second)
        base = np.asarray(tf.transform(first).multiply(tf.transform(second)).sum(1)).ravel()
        both = np.stack([said, np.asarray(true)], 1)
        low, high = bootstrap(both, lambda v: spearman(v[:, 0], v[:, 1]))
        more: dict[str, Any] = {"baseline": spearman(base, true), "baseline_is": "cosine of TF-IDF, n-grams of 2 to 4 letters"}
        scores.append(Score("Spearman", spearman(said, true), low, high, len(rows), on, percent=False, **more))
        for row, value in zip(rows, said, strict=True):
            wrong = Wrong(f"{row['text']} / {row['pair']}", f"{row['label']:.1f} of 5", f"cosine {value:.2f}")
            errors.append((abs(row["label"] / 5 - float(value)), wrong))
    errors.sort(key=lambda one: -one[0])
    scores.append(order(model, tokenizer, read_rows(prepared / "rerank.jsonl")))

    def moved(texts: list[str]) -> list[tuple[str, float]]:
        found = vectors(model, tokenizer, texts) @ vectors(model, tokenizer, ["그 사람은 일을 잘한다."])[0]
        return [("alike" if value > 0.5 else "different", float(value)) for value in found]

    return Measured(scores, [one for _, one in errors[:5]], probe(moved, PAIRS, FRAMES))
