"""Near-duplicates among many texts without comparing each with each: MinHash and banding (Broder 1997; Leskovec et al. 2020, chapter 3)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_AT_ONCE = 8192  # shingles that are permuted together: 8 MB


class Twin(NamedTuple):
    """The text that another one repeats, and the share of shingles that both have (Jaccard)."""

    place: int
    similarity: float


def normal(text: str) -> str:
    """What must differ for two texts to differ: letters and digits, whatever their case, width or spacing."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def shingles(text: str, size: int = 5) -> Hashes:
    """Distinct 64-bit hashes of the runs of ``size`` characters of the normalized text, sorted; a shorter text is one run."""
    codes = np.frombuffer(normal(text).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if not len(codes):
        return np.zeros(0, np.uint64)
    size = min(size, len(codes))
    runs = np.zeros(len(codes) - size + 1, np.uint64)
    for place in range(size):  # a polynomial of the characters, modulo 2 ** 64
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + len(runs)] + np.uint64(1)
    return np.unique(_mixed(runs))


def _mixed(values: Hashes) -> Hashes:
    """The finalizer of splitmix64 (Steele et al. 2014): every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def signature(hashes: Hashes, permutations: int = 128, seed: int = 0) -> NDArray[np.uint32]:
    """``(permutations,)``: the least of the hashes under each function. Two sets agree in a place with their Jaccard similarity."""
    factors, terms = _functions(permutations, seed)
    least = np.full(permutations, 2**32 - 1, np.uint32)
    for start in range(0, len(hashes), _AT_ONCE):
        found = (factors[:, None] * hashes[None, start : start + _AT_ONCE] + terms[:, None]) >> np.uint64(32)
        least = np.minimum(least, found.min(1).astype(np.uint32))
    return least


@lru_cache(maxsize=4)
def _functions(permutations: int, seed: int) -> tuple[Hashes, Hashes]:
    """Factors and terms of multiply-shift functions (Dietzfelbinger et al. 1997)."""
    draw = np.random.default_rng(seed)
    drawn = draw.integers(0, 2**64, (2, permutations), np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


@lru_cache(maxsize=32)
def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """How many bands of how many rows: a pair at the threshold or above should be met in a band; a few others are compared in vain.

    What is met falsely costs time only, since every candidate is compared, so a pair that is missed weighs nine times as much.
    """
    similar = np.linspace(0, 1, 201)
    best, chosen = float("inf"), (permutations, 1)
    for rows in range(1, permutations + 1):
        count = permutations // rows
        met = 1 - (1 - similar**rows) ** count
        cost = 0.1 * met[similar < threshold].sum() + 0.9 * (1 - met[similar >= threshold]).sum()
        if cost < best:
            best, chosen = float(cost), (count, rows)
    return chosen


def near_duplicates(
    texts: Sequence[str],
    threshold: float = 0.8,
    *,
    size: int = 5,
    permutations: int = 128,
    seed: int = 0,
    order: Iterable[int] | None = None,
) -> list[Twin | None]:
    """For each text the one that it repeats, None for those to keep: no two of them have a similarity of ``threshold`` that was met.

    Texts are looked at in ``order``, and a text is only ever a repetition of one that is kept. Texts without letters and digits are kept.
    """
    count, rows = bands(threshold, permutations)
    buckets: list[dict[bytes, list[int]]] = [{} for _ in range(count)]
    found: list[Twin | None] = [None] * len(texts)

    @lru_cache(maxsize=4096)
    def hashes_of(place: int) -> Hashes:
        return shingles(texts[place], size)

    for place in order if order is not None else range(len(texts)):
        own = hashes_of(place)
        if not len(own):
            continue
        signed = signature(own, permutations, seed)
        keys = [signed[band * rows : (band + 1) * rows].tobytes() for band in range(count)]
        others = dict.fromkeys(other for band, key in zip(buckets, keys, strict=True) for other in band.get(key, ()))
        twins = (Twin(other, jaccard(own, hashes_of(other))) for other in others)
        found[place] = next((twin for twin in twins if twin.similarity >= threshold), None)
        if found[place] is None:
            for band, key in zip(buckets, keys, strict=True):
                band.setdefault(key, []).append(place)
    return found


def jaccard(one: Hashes, other: Hashes) -> float:
    """The share of the elements of either sorted set that are in both; 1 for two empty sets."""
    both: Any = np.intersect1d(one, other, assume_unique=True)
    either = len(one) + len(other) - len(both)
    return len(both) / either if either else 1.0
