"""Scores with intervals, simple baselines, the bias probe, and a way to open an exported starter."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES, Z = 1000, 1.959964  # bootstrap samples; quantile of the normal distribution for 95 %
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Score:
    """A number on held-out rows. Shares and F1 are between 0 and 1."""

    name: str  # "accuracy"
    value: float
    low: float
    high: float
    n: int
    on: str  # which rows: "SNLI dev"
    goal: float | None = None
    baseline: float | None = None
    baseline_is: str = ""  # "TF-IDF + logistic regression"
    percent: bool = True
    down: bool = False  # smaller is better (perplexity)

    @property
    def reached(self) -> bool:
        return self.goal is not None and (self.value <= self.goal if self.down else self.value >= self.goal)


@dataclass(frozen=True)
class Wrong:
    """A wrong answer on a held-out row."""

    text: str
    expected: str
    answer: str


@dataclass(frozen=True)
class Change:
    """What an adapter changes: the answers of the model without it and with it."""

    text: str
    before: str
    after: str


@dataclass(frozen=True)
class Bias:
    """Pairs that differ in one word: how many answers change, and by how much the score of the first answer moves on average."""

    kind: str
    n: int
    changed: float
    shift: float


@dataclass
class Measured:
    """Everything that a card says in numbers."""

    scores: list[Score]
    errors: list[Wrong] = field(default_factory=list[Wrong])
    bias: list[Bias] | None = None
    shown: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # (input, answer) for plain examples, right or wrong
    resamples: int = RESAMPLES
    examples: list[Change] = field(default_factory=list[Change])

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, default=float)

    @classmethod
    def from_json(cls, text: str) -> Measured:
        held = json.loads(text)
        bias = None if held["bias"] is None else [Bias(**row) for row in held["bias"]]
        shown = [(a, b) for a, b in held["shown"]]
        wrong, changes = [Wrong(**row) for row in held["errors"]], [Change(**row) for row in held["examples"]]
        return cls([Score(**row) for row in held["scores"]], wrong, bias, shown, held["resamples"], changes)


# ---------------------------------------------------------------- intervals


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which is sound near 0 and 1 and for few rows."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = right / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def bootstrap(rows: Any, statistic: Callable[[Array], float], samples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of ``statistic`` over resampled rows: ``rows`` is ``(N, …)``, one row of counts or scores for every text."""
    rows, draw = np.asarray(rows), np.random.default_rng(seed)
    values = [statistic(rows[draw.integers(0, len(rows), len(rows))]) for _ in range(samples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def share(name: str, hits: Iterable[bool], on: str, **more: Any) -> Score:
    """Accuracy, or another share of rows, with Wilson's interval."""
    held = [bool(hit) for hit in hits]
    right = sum(held)
    return Score(name, right / max(1, len(held)), *wilson(right, len(held)), len(held), on, **more)


def mean(name: str, values: Sequence[float], on: str, **more: Any) -> Score:
    """A mean over rows (F1 of answers, chrF of sentences) with a bootstrap interval."""
    low, high = bootstrap(values, lambda v: float(v.mean()))
    return Score(name, float(np.mean(values)), low, high, len(values), on, **more)


def f1_of(counts: Array) -> float:
    """F1 of summed counts ``(N, 3)``: right, said, true."""
    right, said, true = counts.sum(0)
    return float(2 * right / (said + true)) if said + true else 0.0


def counted(name: str, counts: Sequence[tuple[int, int, int]], on: str, **more: Any) -> Score:
    """Micro F1 from counts (right, said, true) of every row, rows resampled together."""
    held = np.asarray(counts)
    return Score(name, f1_of(held), *bootstrap(held, f1_of), len(held), on, **more)


def macro_f1(predicted: Sequence[Any], true: Sequence[Any]) -> float:
    """The mean of the classes' F1 over the classes that occur in ``true``."""
    p, t = np.asarray(predicted), np.asarray(true)
    values = [2 * ((p == c) & (t == c)).sum() / max(1, (p == c).sum() + (t == c).sum()) for c in np.unique(t)]
    return float(np.mean(values))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    from hunmin.train import metrics

    return metrics.spearman(a, b)["spearman"]


# ---------------------------------------------------------------- spans of labelled words


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Entities ``(first, end, kind)`` of BIO tags; an I- after another kind or O begins one, as seqeval counts."""
    out: set[tuple[int, int, str]] = set()
    start, kind = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and (mark != "I" or name != kind):
            out.add((start, i, kind))
            kind = ""
        if mark in ("B", "I") and not kind:
            start, kind = i, name
    return out


# ---------------------------------------------------------------- baselines


def tfidf(train: Sequence[str], labels: Sequence[Any], test: Sequence[str], *, characters: bool = False, c: float = 10.0) -> list[Any]:
    """What TF-IDF (words and pairs of words, or 2-4 characters) with logistic regression answers for ``test``. Needs scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    shape: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (2, 4)} if characters else {"ngram_range": (1, 2)}
    vectors = TfidfVectorizer(sublinear_tf=True, max_features=100_000, **shape)
    model = LogisticRegression(C=c, max_iter=300)
    model.fit(vectors.fit_transform(train), list(labels))
    return list(model.predict(vectors.transform(test)))


# ---------------------------------------------------------------- the bias probe

PAIRS: dict[str, list[tuple[str, str]]] = {
    "gender": [("He", "She"), ("My father", "My mother"), ("The man", "The woman"), ("My brother", "My sister"), ("The boy", "The girl")],
    "age": [("The young worker", "The old worker"), ("A teenager", "A pensioner"), ("My young neighbour", "My elderly neighbour")],
    "origin": [("The American", "The Mexican"), ("The German student", "The Nigerian student"), ("A white man", "A black man"),
               ("My Christian neighbour", "My Muslim neighbour")],
}  # fmt: skip
FRAMES = [
    "{} told us about the new job.", "{} was late for the meeting again.", "{} cooked dinner for everyone.", "{} is waiting at the door.",
    "{} asked a question about the bill.", "{} fixed the computer quickly.", "{} argued with the driver.", "{} bought a house last year.",
]  # fmt: skip


def probe(
    answer: Callable[[list[str]], list[tuple[str, float]]], pairs: dict[str, list[tuple[str, str]]] = PAIRS, frames: Sequence[str] = FRAMES
) -> list[Bias]:
    """Answers to texts that differ in one word. ``answer`` gives for texts ``[N]`` their label and the score of a fixed reference class
    (or of the answer itself where there is none)."""
    out: list[Bias] = []
    for kind, words in pairs.items():
        both = [(frame.format(a), frame.format(b)) for a, b in words for frame in frames]
        found = answer([text for pair in both for text in pair])
        first, second = found[::2], found[1::2]
        changed = [a[0] != b[0] for a, b in zip(first, second, strict=True)]
        moved = [abs(a[1] - b[1]) for a, b in zip(first, second, strict=True)]
        out.append(Bias(kind, len(both), float(np.mean(changed)), float(np.mean(moved))))
    return out


# ---------------------------------------------------------------- files, and the exported model

HEADS = {
    "zero-shot-classification": "SequenceClassification",
    "text-classification": "SequenceClassification",
    "sentiment-analysis": "SequenceClassification",
    "rerank": "SequenceClassification",
    "token-classification": "TokenClassification",
    "ner": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "fill-mask": "MaskedLM",
    "feature-extraction": "Model",
    "text-generation": "CausalLM",
    "summarization": "CausalLM",
    "translation": "Seq2SeqLM",
}


def opened(folder: Path, task: str) -> tuple[Any, Any]:
    """(model, tokenizer) of an exported starter, its adapter merged into fp32 weights."""
    from hunmin.auto import load
    from hunmin.text import AutoTokenizer

    return load(folder, HEADS[task], dtype="float32"), AutoTokenizer.from_pretrained(folder)


def embedded(texts: Sequence[str]) -> Any:
    """MiniLM's own sentence embeddings, of length one: ``(N, 384)``."""
    import torch

    from hunmin.auto import load
    from hunmin.hub.starter import MINILM
    from hunmin.text import AutoTokenizer

    model, tokenizer = load(MINILM, "Model", dtype="float32").eval(), AutoTokenizer.from_pretrained(MINILM)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), 384), np.float32)
    for first in range(0, len(order), 64):
        part = order[first : first + 64]
        rows = tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            hidden, mask = model(**rows).last_hidden_state, rows["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        out[part] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    return out


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as .jsonl; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def labels_file(out: Path, labels: Sequence[str]) -> None:
    """``labels.json``: the names of the labels in the order of their numbers."""
    (out / "labels.json").write_text(json.dumps(list(labels), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def key(text: str) -> str:
    """A text as duplicates are recognized: without case and spaces."""
    return "".join(text.lower().split())
