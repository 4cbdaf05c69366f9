"""A small classifier that tells texts worth learning from by examples of both kinds: TF-IDF and logistic regression, in numpy.

"Textbooks Are All You Need" (Gunasekar et al. 2023, section 2.1) filtered The Stack so, with a random forest on embeddings.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hunmin.errors import FormatError, InputError, say

Floats = NDArray[np.float64]
BUCKETS = 1 << 18
FORM = 1  # of saved files


@dataclass
class Sparse:
    """A sparse matrix ``(count, width)``: ``values`` in ``columns``, row after row; ``rows`` says which row each belongs to."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: Floats
    count: int
    width: int = BUCKETS

    def times(self, weights: Floats) -> Floats:
        """The product with ``(width,)``: ``(count,)``."""
        return np.bincount(self.rows, self.values * weights[self.columns], minlength=self.count).astype(np.float64)

    def transposed_times(self, weights: Floats) -> Floats:
        """The product of the transpose with ``(count,)``: ``(width,)``."""
        return np.bincount(self.columns, self.values * weights[self.rows], minlength=self.width).astype(np.float64)


def features(text: str) -> Iterator[str]:
    """Words, signs and pairs of neighbours: enough for prose and for code."""
    words = re.findall(r"\w+|[^\w\s]", text.casefold())
    yield from words
    yield from (f"{one} {other}" for one, other in pairwise(words))


def counts(texts: Sequence[str]) -> Sparse:
    """1 + log(count) of the hashed features of each text."""
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    values: list[Floats] = []
    for place, text in enumerate(texts):
        hashed = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) % BUCKETS for word in features(text)], np.int64)
        found, times = np.unique(hashed, return_counts=True)
        rows.append(np.full(len(found), place, np.int64))
        columns.append(found)
        values.append(1 + np.log(times))
    empty: Any = [np.zeros(0, np.int64)]
    return Sparse(
        np.concatenate(rows or empty), np.concatenate(columns or empty), np.concatenate(values or empty).astype(np.float64), len(texts)
    )


class Classifier:
    """The probability that a text is like the good examples. ``weights`` ``(BUCKETS,)``, ``bias``, and the ``idf`` of each bucket."""

    def __init__(self, weights: Floats, bias: float, idf: Floats) -> None:
        self.weights, self.bias, self.idf = weights, bias, idf

    @classmethod
    def fit(cls, good: Sequence[str], bad: Sequence[str], *, decay: float = 1e-4, steps: int = 300) -> Classifier:
        """Learn from examples; both kinds weigh the same, however many there are.

        Minimizes the mean logistic loss and ``decay / 2`` times the squared weights by Nesterov's accelerated gradient, whose step follows
        from the curvature: rows have length one and weigh one together, so it is at most 1/4, as much again for the bias, and ``decay``.
        Raises InputError without two examples of each kind.
        """
        if len(good) < 2 or len(bad) < 2:
            raise InputError(
                say(
                    f"A classifier needs two good and two bad examples or more, not {len(good)} and {len(bad)}.",
                    f"분류기에는 좋은 예와 나쁜 예가 둘 이상씩 필요합니다: {len(good)}개, {len(bad)}개.",
                )
            )
        matrix, wanted = counts([*good, *bad]), np.repeat([1.0, 0.0], [len(good), len(bad)])
        met = np.bincount(matrix.columns, minlength=BUCKETS)
        idf = np.log((1 + matrix.count) / (1 + met)) + 1
        _scale(matrix, idf)
        used, columns = np.unique(matrix.columns, return_inverse=True)  # features that no example has keep the weight 0
        matrix.columns, matrix.width = columns, len(used)
        share = np.repeat([0.5 / len(good), 0.5 / len(bad)], [len(good), len(bad)])
        largest = 0.5 + decay
        momentum = (1 - np.sqrt(decay / largest)) / (1 + np.sqrt(decay / largest))
        old = ahead = np.zeros(len(used))
        old_bias = ahead_bias = 0.0
        for _ in range(steps):
            error = share * (_sigmoid(matrix.times(ahead) + ahead_bias) - wanted)
            weights = ahead - (matrix.transposed_times(error) + decay * ahead) / largest
            bias = ahead_bias - float(error.sum()) / largest
            ahead, ahead_bias = weights + momentum * (weights - old), bias + momentum * (bias - old_bias)
            old, old_bias = weights, bias
        whole = np.zeros(BUCKETS)
        whole[used] = old
        return cls(whole, old_bias, idf)

    def predict(self, texts: Sequence[str]) -> list[float]:
        """The probability of each text, 0 to 1."""
        matrix = counts(texts)
        _scale(matrix, self.idf)
        return _sigmoid(matrix.times(self.weights) + self.bias).tolist()

    def save(self, path: str | Path) -> None:
        """Write a .npz file."""
        np.savez_compressed(path, form=FORM, weights=self.weights.astype(np.float32), bias=self.bias, idf=self.idf.astype(np.float32))

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """Read what ``save`` wrote. Raises FormatError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as held:
                if int(held["form"]) != FORM or held["weights"].shape != (BUCKETS,) or held["idf"].shape != (BUCKETS,):
                    raise ValueError("form")
                return cls(held["weights"].astype(np.float64), float(held["bias"]), held["idf"].astype(np.float64))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise FormatError(
                say(f"{path} is no classifier that curation saved.", f"{path}은(는) 큐레이션이 저장한 분류기가 아닙니다.")
            ) from error


def _scale(matrix: Sparse, idf: Floats) -> None:
    """TF-IDF, each row of length one; in place."""
    matrix.values *= idf[matrix.columns]
    lengths = np.sqrt(np.bincount(matrix.rows, matrix.values**2, minlength=matrix.count))
    matrix.values /= np.maximum(lengths, 1e-12)[matrix.rows]


def _sigmoid(values: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * values))


def held_out(good: Sequence[str], bad: Sequence[str], *, share: float = 0.2, seed: int = 0) -> float | None:
    """The area under the ROC curve on a ``share`` of the examples that another classifier has not seen; None with too few of them.

    It is the probability that a good example gets a higher value than a bad one.
    """
    draw = np.random.default_rng(seed)
    sides: list[tuple[list[str], list[str]]] = []
    for texts in (list(good), list(bad)):
        order, cut = draw.permutation(len(texts)), round(share * len(texts))
        sides.append(([texts[i] for i in order[cut:]], [texts[i] for i in order[:cut]]))
    (seen_good, new_good), (seen_bad, new_bad) = sides
    if min(len(seen_good), len(seen_bad)) < 2 or not new_good or not new_bad:
        return None
    made = Classifier.fit(seen_good, seen_bad)
    high, low = np.array(made.predict(new_good)), np.array(made.predict(new_bad))
    above = (high[:, None] > low[None]).mean() + 0.5 * (high[:, None] == low[None]).mean()
    return float(above)
