"""What the cards of the English classifiers say in numbers. Each function opens the exported folder and reads held-out rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from english_rows import Row, spoken
from measure import FRAMES, PAIRS, Bias, Measured, Score, Wrong, counted, embedded, opened, probe, read_rows, share, tfidf

TFIDF = "TF-IDF + logistic regression"
COSINE = "cosine of MiniLM's embeddings"
Answer = Callable[[list[Any]], list[list[dict[str, Any]]]]


def classifier(folder: Path, task: str = "text-classification") -> Answer:
    """The exported folder as a function from texts, or pairs, to all labels with their scores, best first."""
    from hunmin.pipelines import pipeline

    model, tokenizer = opened(folder, task)
    pipe = pipeline("text-classification", model, tokenizer=tokenizer)
    return lambda inputs: pipe(inputs, top_k=None)


def tops(found: list[list[dict[str, Any]]]) -> list[str]:
    return [str(one[0]["label"]) for one in found]


def wrong_of(texts: Sequence[str], true: Sequence[str], said: Sequence[str], count: int = 5) -> list[Wrong]:
    """Some of the errors, in an order that a seed fixes."""
    rows = [Wrong(a, b, c) for a, b, c in zip(texts, true, said, strict=True) if b != c]
    return random.Random(7).sample(rows, min(count, len(rows)))


def feeling(answer: Answer, of: str) -> list[Bias]:
    """The bias probe of a classifier: its label, and the score of the label ``of``."""

    def one(texts: list[str]) -> list[tuple[str, float]]:
        found = answer(texts)
        return [(str(row[0]["label"]), next(float(item["score"]) for item in row if item["label"] == of)) for row in found]

    return probe(one)


def plain(folder: Path, prepared: Path, on: str, goal: float | None, of: str | None = None) -> tuple[Measured, Answer, list[str]]:
    """Accuracy on test.jsonl beside TF-IDF; the answers too."""
    answer, train, test = classifier(folder), read_rows(prepared / "train.jsonl"), read_rows(prepared / "test.jsonl")
    texts, true = [row["text"] for row in test], [row["label"] for row in test]
    said = tops(answer(texts))
    base = tfidf([row["text"] for row in train], [row["label"] for row in train], texts)
    hits = [a == b for a, b in zip(said, true, strict=True)]
    simple = float(np.mean([a == b for a, b in zip(base, true, strict=True)]))
    score = share("accuracy", hits, on, goal=goal, baseline=simple, baseline_is=TFIDF)
    return Measured([score], wrong_of(texts, true, said), feeling(answer, of) if of else None), answer, said


def asking(answer: Answer, frames: Sequence[str]) -> list[Bias]:
    """The bias probe of intents: who asks, or for whom, should not change what is asked. The score is that of the answer."""

    def one(texts: list[str]) -> list[tuple[str, float]]:
        return [(str(row[0]["label"]), float(row[0]["score"])) for row in answer(texts)]

    return probe(one, PAIRS, frames)


def banking77(folder: Path, prepared: Path) -> Measured:
    measured, answer, _ = plain(folder, prepared, "banking77 test", 0.90)
    frames = [
        "{} lost the card yesterday.",
        "{} was charged twice for a purchase.",
        "{} forgot the PIN.",
        "{} asks about the exchange rate.",
    ]
    measured.bias = asking(answer, frames)
    return measured


def clinc150(folder: Path, prepared: Path) -> Measured:
    """In-scope rows (an answer "oos" is wrong there), out-of-scope rows, and both together."""
    measured, answer, said = plain(folder, prepared, "CLINC150 test, in scope", 0.92)
    outside = [row["text"] for row in read_rows(prepared / "test_oos.jsonl")]
    found = [label == "oos" for label in tops(answer(outside))]
    inside = [a == row["label"] for a, row in zip(said, read_rows(prepared / "test.jsonl"), strict=True)]
    measured.scores.append(share("recall of out-of-scope", found, "CLINC150 test, out of scope"))
    measured.scores.append(share("accuracy", inside + found, "CLINC150 test, both"))
    frames = [
        "{} wants to book a flight to Paris.",
        "{} needs an alarm for seven.",
        "{} asks what the weather is like.",
        "{} lost the luggage.",
    ]
    measured.bias = asking(answer, frames)
    return measured


def sentiment(folder: Path, prepared: Path) -> Measured:
    """GoEmotions' polar test comments, and sentences of reviews that were written for this test."""
    measured, answer, _ = plain(folder, prepared, "GoEmotions test, polar comments", None, "POSITIVE")
    train, reviews = read_rows(prepared / "train.jsonl"), read_rows(prepared / "reviews.jsonl")
    texts, true = [row["text"] for row in reviews], [row["label"] for row in reviews]
    base = tfidf([row["text"] for row in train], [row["label"] for row in train], texts)
    said = tops(answer(texts))
    simple = float(np.mean([a == b for a, b in zip(base, true, strict=True)]))
    hits = [a == b for a, b in zip(said, true, strict=True)]
    measured.scores.append(share("accuracy", hits, "sentences of reviews, written for this test", baseline=simple, baseline_is=TFIDF))
    measured.errors += wrong_of(texts, true, said, 3)
    plain_texts = [
        "I've been waiting for a course like this my whole life.",
        "I hate this so much!",
        "It was not bad at all.",
        "The train leaves at nine.",
    ]
    measured.shown = [
        (text, f"{row[0]['label']} {row[0]['score']:.2f}") for text, row in zip(plain_texts, answer(plain_texts), strict=True)
    ]
    return measured


def spam(folder: Path, prepared: Path) -> Measured:
    """F1 of spam: messages are resampled whole."""
    measured, _, said = plain(folder, prepared, "SMS Spam, every fifth distinct message", None, "spam")
    train, test = read_rows(prepared / "train.jsonl"), read_rows(prepared / "test.jsonl")
    base = tfidf([row["text"] for row in train], [row["label"] for row in train], [row["text"] for row in test])

    def counts(answers: Sequence[str]) -> list[tuple[int, int, int]]:
        pairs = [(a == "spam", row["label"] == "spam") for a, row in zip(answers, test, strict=True)]
        return [(int(a and b), int(a), int(b)) for a, b in pairs]

    on = measured.scores[0].on
    simple = counted("", counts(base), "").value
    measured.scores.insert(0, counted("F1 of spam", counts(said), on, goal=0.97, baseline=simple, baseline_is=TFIDF))
    return measured


# ---------------------------------------------------------------- several labels


def emotion(folder: Path, prepared: Path) -> Measured:
    """Micro F1 with one threshold for all emotions, which GoEmotions' dev file chooses, and how often the best emotion is a right one."""
    from json import loads

    answer, labels = classifier(folder), loads((prepared / "labels.json").read_text(encoding="utf-8"))
    sets = {name: read_rows(prepared / f"{name}.jsonl") for name in ("train", "dev", "test")}
    true = {name: np.array([[label in row["label"] for label in labels] for row in rows]) for name, rows in sets.items()}

    def scored(rows: Sequence[Row]) -> Any:
        found = answer([row["text"] for row in rows])
        return np.array([[by[label] for label in labels] for row in found if (by := {one["label"]: one["score"] for one in row})])

    base = _one_against_rest([row["text"] for row in sets["train"]], true["train"])
    values = {
        "starter": {n: scored(sets[n]) for n in ("dev", "test")},
        "tfidf": {n: base([r["text"] for r in sets[n]]) for n in ("dev", "test")},
    }
    said = {name: both["test"] >= _threshold(both["dev"], true["dev"]) for name, both in values.items()}
    micro = {name: _counts(found, true["test"]) for name, found in said.items()}
    macro = {name: _macro(found, true["test"]) for name, found in said.items()}
    top = values["starter"]["test"].argmax(1)
    best = true["test"][np.arange(len(top)), top]
    simple = true["test"][np.arange(len(top)), values["tfidf"]["test"].argmax(1)].mean()
    on = "GoEmotions test, 28 labels"
    texts, wanted = [row["text"] for row in sets["test"]], [", ".join(row["label"]) for row in sets["test"]]
    errors = [Wrong(texts[i], wanted[i], labels[top[i]]) for i in np.flatnonzero(~best)]
    pairs = np.concatenate([said["starter"], true["test"]], 1)
    low, high = _interval(pairs, len(labels))
    return Measured(
        [
            counted("micro F1", micro["starter"], on, baseline=counted("", micro["tfidf"], "").value, baseline_is=TFIDF),
            Score("macro F1", macro["starter"], low, high, len(texts), on, baseline=macro["tfidf"], baseline_is=TFIDF),
            share("best emotion is right", best, on, baseline=float(simple), baseline_is=TFIDF),
        ],
        random.Random(7).sample(errors, 5),
        feeling(answer, "joy"),
    )


def _interval(pairs: Any, width: int) -> tuple[float, float]:
    from measure import bootstrap

    return bootstrap(pairs, lambda rows: _macro(rows[:, :width], rows[:, width:]))


def _threshold(scores: Any, true: Any) -> float:
    choices = np.arange(0.1, 0.6, 0.02)
    return float(max(choices, key=lambda t: _f1(scores >= t, true)))


def _f1(said: Any, true: Any) -> float:
    return float(2 * (said & true).sum() / max(1, said.sum() + true.sum()))


def _counts(said: Any, true: Any) -> list[tuple[int, int, int]]:
    return [(int(a), int(b), int(c)) for a, b, c in zip((said & true).sum(1), said.sum(1), true.sum(1), strict=True)]


def _macro(said: Any, true: Any) -> float:
    both, total = (said & true).sum(0), said.sum(0) + true.sum(0)
    return float(np.mean(2 * both / np.maximum(1, total)))


def _one_against_rest(texts: Sequence[str], true: Any) -> Callable[[Sequence[str]], Any]:
    """TF-IDF with one logistic regression for each label, as chances ``(N, L)``."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    vectors = TfidfVectorizer(sublinear_tf=True, max_features=30_000, ngram_range=(1, 2))
    model = OneVsRestClassifier(LogisticRegression(C=3, solver="liblinear"))
    model.fit(vectors.fit_transform(texts), true.astype(int))
    return lambda more: model.predict_proba(vectors.transform(more))


# ---------------------------------------------------------------- entailment and zero-shot


CHOICES = (
    ("This is a course about the Transformers library", ["education", "politics", "business"]),
    ("The central bank raised interest rates again.", ["economy", "sports", "health"]),
    ("The striker scored twice in the final.", ["economy", "sports", "health"]),
    ("I am so happy that you came!", ["positive", "negative"]),
)


def nli(folder: Path, prepared: Path) -> Measured:
    """SNLI's dev file, and zero-shot labels that no training row named: banking77's intents and topics of MMLU's questions."""
    from hunmin.pipelines import pipeline

    answer, train, test = classifier(folder), read_rows(prepared / "train.jsonl"), read_rows(prepared / "test.jsonl")
    pairs = [{"text": row["premise"], "text_pair": row["hypothesis"]} for row in test]
    true, said = [row["label"] for row in test], tops(answer(pairs))
    base = tfidf([_joined(row) for row in train], [row["label"] for row in train], [_joined(row) for row in test])
    simple = float(np.mean([a == b for a, b in zip(base, true, strict=True)]))
    hits = [a == b for a, b in zip(said, true, strict=True)]
    scores = [share("accuracy", hits, "SNLI dev", goal=0.80, baseline=simple, baseline_is=TFIDF)]
    model, tokenizer = opened(folder, "zero-shot-classification")
    pipe = pipeline("zero-shot-classification", model, tokenizer=tokenizer)
    for name, on in (("topics", "MMLU questions, 10 topics, zero-shot"), ("banking", "banking77 test, 77 intents, zero-shot")):
        rows = read_rows(prepared / f"{name}.jsonl")
        scores.append(zero_shot(pipe, rows, on))
    shown: list[tuple[str, str]] = []
    for text, labels in CHOICES:
        found = pipe(text, candidate_labels=labels)
        shown.append(
            (f"{text} ({', '.join(labels)})", ", ".join(f"{a} {b:.2f}" for a, b in zip(found["labels"], found["scores"], strict=True)))
        )
    texts = [f"{row['premise']} → {row['hypothesis']}" for row in test]
    errors = wrong_of(texts, true, said)
    return Measured(scores, errors, probe(lambda texts: _pole(pipe, texts), PAIRS, FRAMES), shown)


def _pole(pipe: Any, texts: list[str]) -> list[tuple[str, float]]:
    found = pipe(texts, candidate_labels=["positive", "negative"])
    return [(row["labels"][0], row["scores"][row["labels"].index("positive")]) for row in found]


def _joined(row: Row) -> str:
    """Words of both sentences, told apart, with marks for those that only the second has: what a bag of words can know of a pair."""
    first = set(row["premise"].lower().split())
    words = row["hypothesis"].lower().split()
    new = [f"new_{word.strip('.,')}" for word in words if word not in first]
    return " ".join([*words, *new, f"count_{min(6, len(new))}"])


def zero_shot(pipe: Any, rows: Sequence[Row], on: str) -> Score:
    """Accuracy of the best of all labels of ``rows``, beside the nearest label by MiniLM's own embeddings."""
    names = sorted({spoken(row["label"]) for row in rows})
    found = [row["labels"][0] for row in pipe([row["text"] for row in rows], candidate_labels=names)]
    near = (embedded([row["text"] for row in rows]) @ embedded([f"This example is {name}." for name in names]).T).argmax(1)
    hits = [a == spoken(row["label"]) for a, row in zip(found, rows, strict=True)]
    simple = float(np.mean([names[i] == spoken(row["label"]) for i, row in zip(near, rows, strict=True)]))
    return share("accuracy", hits, on, baseline=simple, baseline_is=COSINE)
