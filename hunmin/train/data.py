"""From a data set to batches: which rows, in which order, for which process - and without padding.

The order follows from the seed and the epoch alone, and the random numbers of a collator from the seed and the place of its batch. So a run that
goes on at any step, with any number of workers, sees what the uninterrupted run would have seen.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hunmin.errors import InputError, say
from hunmin.model import PreTrainedModel
from hunmin.nn.where import Where
from hunmin.train.collators.basic import with_packing
from hunmin.train.items import Fill
from hunmin.train.rows import TASK_LABELS, Labels, without_padding

Batch = dict[str, Any]
# Columns that collators read although no model takes them.
FOR_COLLATORS = "label label_ids lengths word_ids special_tokens_mask offset_mapping attention_mask decoder_attention_mask".split()


def sized(dataset: Any) -> bool:
    """Whether rows can be taken by number."""
    return isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)


def order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of ``count`` rows; the one that Transformers takes with the same seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()


def by_length(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[int]:
    """A permutation with rows of similar length beside each other: fifty random batches at a time are sorted, the longest first."""
    rows = order(len(lengths), seed, epoch)
    parts = [sorted(rows[i : i + 50 * batch], key=lambda r: -lengths[r]) for i in range(0, len(rows), 50 * batch)]
    return [row for part in parts for row in part]


class Batches:
    """The batches of this process, epoch by epoch. ``len`` is their number in an epoch; a stream has none.

    Args:
        dataset: rows by number, or a stream.
        collate: rows to the keyword arguments of a model.
        size: rows of a batch in each process.
        rank, world: this process and their number; a batch of all is ``size * world`` rows, of which each takes a slice.
        lengths: of every row, to group rows of similar length.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Any,
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        pin: bool = False,
        rank: int = 0,
        world: int = 1,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.dataset, self.collate, self.size, self.seed, self.shuffle, self.drop_last = dataset, collate, size, seed, shuffle, drop_last
        self.workers, self.pin, self.rank, self.world, self.lengths = workers, pin, rank, world, lengths
        self.stream = not sized(dataset)

    @property
    def rows(self) -> int:
        """Rows of the data set. Raises TypeError for a stream."""
        return len(self.dataset)

    def __len__(self) -> int:
        whole = self.size * self.world
        return self.rows // whole if self.drop_last else -(-self.rows // whole)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first ``skip``."""
        if self.stream:
            yield from islice(self._streamed(number), skip, None)
            return
        places = list(self._places(number))
        loader = DataLoader(
            cast("Any", _Numbered(self.dataset)),
            batch_sampler=cast("Any", [[(number, i, row) for row in rows] or [(number, ~i, 0)] for i, rows in enumerate(places)][skip:]),
            collate_fn=_Seeded(self.collate, self.seed),
            num_workers=self.workers,
            pin_memory=self.pin and torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # else the loader would draw from everybody's numbers
        )
        yield from loader

    def _places(self, epoch: int) -> Iterator[list[int]]:
        """Row numbers of every batch of this process.

        All processes have as many; the last batch of all may have no row for some of them.
        """
        if self.lengths is not None:
            rows = by_length(self.lengths, self.size * self.world, self.seed, epoch)
        else:
            rows = order(self.rows, self.seed, epoch) if self.shuffle else list(range(self.rows))
        whole = self.size * self.world
        for i in range(len(self)):
            batch = rows[i * whole : (i + 1) * whole]
            yield self._share(batch)

    def _share(self, batch: list[Any]) -> list[Any]:
        """What this process computes of a batch of all."""
        share = -(-len(batch) // self.world)
        return batch[self.rank * share : (self.rank + 1) * share]

    def _streamed(self, epoch: int) -> Iterator[Batch]:
        """Batches of a stream: every process reads all of it and keeps its slice."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        rows, collate, number = iter(cast("Iterable[Any]", self.dataset)), _Seeded(self.collate, self.seed), 0
        while whole := list(islice(rows, self.size * self.world)):
            if len(whole) < self.size * self.world and self.drop_last:
                return
            yield collate([(epoch, number, row) for row in self._share(whole)] or [(epoch, ~number, whole[0])])
            number += 1


class _Numbered:
    """A data set whose rows come with the epoch and the number of their batch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[int, int, Any]:
        return place[0], place[1], self.dataset[place[2]]

    def __getitems__(self, places: list[tuple[int, int, int]]) -> list[tuple[int, int, Any]]:
        numbers = [row for _, _, row in places]
        rows = self.dataset.__getitems__(numbers) if hasattr(self.dataset, "__getitems__") else [self.dataset[row] for row in numbers]
        return [(epoch, number, row) for (epoch, number, _), row in zip(places, rows, strict=True)]


class _Seeded:
    """A collator whose random numbers follow from the seed, the epoch and the number of the batch.

    ``~number`` marks a batch of a process for which no rows are left: its row is there to be computed, not to count.
    """

    def __init__(self, collate: Any, seed: int) -> None:
        self.collate, self.seed = collate, seed

    def __call__(self, rows: list[tuple[int, int, Any]]) -> Batch:
        epoch, number, _ = rows[0]
        kept = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            seed = int(np.random.SeedSequence([self.seed, epoch, max(number, ~number)]).generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            try:
                batch = self.collate([row for _, _, row in rows])
                return Fill(batch) if number < 0 and isinstance(batch, Mapping) else batch
            finally:
                random.setstate(kept[0])
                np.random.set_state(kept[1])


class Collate:
    """A user's collator, giving batches without padding where the model can take them so."""

    def __init__(self, collator: Any, model: Any, padding_free: bool) -> None:
        before = len(getattr(model, "virtual", ()))  # virtual tokens stand before every row of its own
        model = getattr(model, "base_model", model)  # under adapters
        self.free = padding_free and isinstance(model, PreTrainedModel) and not before
        self.labels: Labels | None = TASK_LABELS.get(model.task) if self.free else None
        self.collator = with_packing(collator) if self.free else collator
        if hasattr(self.collator, "padding") and self.collator is not collator and getattr(self.collator, "model", None) is not None:
            self.collator = replace(self.collator, model=None)  # the model itself shifts a decoder's labels

    def __call__(self, rows: list[Any]) -> Batch:
        batch = self.collator(rows)
        if not self.free or not isinstance(batch, Mapping):
            return batch
        try:
            return without_padding(batch, self.labels)
        except InputError:  # a mask with holes: such a batch is computed as it is
            return dict(batch)


def columns_for(model: Any, label_names: Sequence[str]) -> set[str]:
    """Names that the model or a collator reads."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # what is under adapters
    return {*inspect.signature(base.forward).parameters, *label_names, *FOR_COLLATORS}


def without_unused(dataset: Any, model: Any, label_names: Sequence[str]) -> Any:
    """A data set of ``datasets`` without columns that nobody reads. Raises InputError when nothing is left."""
    names = getattr(dataset, "column_names", None)
    if not isinstance(names, list) or not hasattr(dataset, "remove_columns"):
        return dataset
    known = columns_for(model, label_names)
    if not known & set(names) - set(FOR_COLLATORS):
        raise InputError(
            say(
                f"The data set has no column that the model reads, only {', '.join(names)}. Tokenize it: dataset.map(...) must add input_ids.",
                f"모델이 읽는 열이 데이터셋에 없습니다(있는 열: {', '.join(names)}). dataset.map(...)으로 토큰화해 input_ids를 만드세요.",
            )
        )
    return dataset.remove_columns([name for name in names if name not in known])


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch, and the places in it, on ``device``."""
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor | Where) else batch
