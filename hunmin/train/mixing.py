"""One stream of rows out of several data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import IterableDataset

from hunmin.errors import InputError, say

Stopping = Literal["first_exhausted", "all_exhausted"]
STOPPING = ("first_exhausted", "all_exhausted")


def interleave(
    datasets: Sequence[Any], probabilities: Sequence[float] | None = None, seed: int | None = None, stopping: Stopping = "first_exhausted"
) -> Any:
    """Rows of several data sets in turn, or drawn with ``probabilities``.

    Args:
        datasets: objects of ``datasets`` (their own ``interleave_datasets`` does the work then), or any iterables.
        probabilities: one for each, adding up to one; None takes them in turn.
        seed: of the drawing.
        stopping: "first_exhausted" ends with the first data set that ends; "all_exhausted" begins ended ones again until all have ended.

    Raises:
        InputError: no data sets, probabilities that do not fit, or an unknown ``stopping``.
    """
    fits = probabilities is None or (len(probabilities) == len(datasets) and min(probabilities) > 0 and abs(sum(probabilities) - 1) < 1e-6)
    if not len(datasets) or not fits or stopping not in STOPPING:
        raise InputError(
            say(
                f"interleave needs data sets, a probability for each that add up to 1, and stopping of {', '.join(STOPPING)}.",
                f"interleave에는 데이터셋들, 합이 1인 각각의 확률, {', '.join(STOPPING)} 가운데 stopping이 필요합니다.",
            )
        )
    if all(type(dataset).__module__.split(".")[0] == "datasets" for dataset in datasets):
        from datasets import interleave_datasets

        chances = None if probabilities is None else list(probabilities)
        return interleave_datasets(list(datasets), probabilities=chances, seed=seed, stopping_strategy=stopping)
    return Interleaved(datasets, probabilities, seed, stopping)


class Interleaved(IterableDataset[Any]):
    """The rows of :func:`interleave`, drawn while somebody goes through them. With a seed every pass is the same."""

    def __init__(
        self, datasets: Sequence[Iterable[Any]], probabilities: Sequence[float] | None, seed: int | None, stopping: Stopping
    ) -> None:
        self.datasets, self.probabilities, self.seed = list(datasets), probabilities, seed
        self.stopping: Stopping = stopping

    def __iter__(self) -> Iterator[Any]:
        streams, ended = [iter(dataset) for dataset in self.datasets], set[int]()
        for i in self._order():
            row = next(streams[i], END)
            if row is END:
                ended.add(i)
                if self.stopping == "first_exhausted" or len(ended) == len(streams):
                    return
                streams[i] = iter(self.datasets[i])
                row = next(streams[i], END)
                if row is END:
                    raise InputError(
                        say(
                            f"Data set {i} is empty, or a generator that cannot begin again: use stopping='first_exhausted'.",
                            f"{i}번째 데이터셋이 비었거나 다시 시작할 수 없습니다: stopping='first_exhausted'를 쓰세요.",
                        )
                    )
            yield row

    def _order(self) -> Iterator[int]:
        chance, count = np.random.default_rng(self.seed), len(self.datasets)
        while True:
            yield from range(count) if self.probabilities is None else chance.choice(count, 1000, p=self.probabilities).tolist()


END = object()


def mixing_rates(sizes: Sequence[int], temperature: float = 1.0, limit: int | None = None) -> list[float]:
    """Probabilities in proportion to ``min(size, limit) ** (1 / temperature)`` (Raffel et al. 2020, section 3.5.2).

    Temperature 1 draws in proportion to the sizes; the higher it is, the more alike the data sets.
    """
    if not sizes or min(sizes) < 1 or temperature <= 0:
        raise InputError(
            say("mixing_rates needs sizes and a temperature above 0.", "mixing_rates에는 0보다 큰 크기와 temperature가 필요합니다.")
        )
    weights = [min(size, limit or size) ** (1 / temperature) for size in sizes]
    return [weight / sum(weights) for weight in weights]
