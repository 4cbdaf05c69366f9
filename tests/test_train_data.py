"""Packing and mixing: nothing is lost, nothing is mixed up, on lists, streams and data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hunmin.auto import AutoModelForCausalLM
from hunmin.errors import InputError
from hunmin.hub.config import Config
from hunmin.nn.losses import IGNORE
from hunmin.train import DataCollatorWithFlattening, group_texts, interleave, mixing_rates, pack
from hunmin.train.packing import best_fit, sequential

STRATEGIES = ["best_fit", "sequential", "wrapped"]


def texts(sizes: list[int]) -> list[dict[str, Any]]:
    """Rows of the given sizes in which no token occurs twice."""
    rows, at = [], 1
    for size in sizes:
        rows.append(
            {"input_ids": list(range(at, at + size)), "labels": [-index for index in range(at, at + size)], "attention_mask": [1] * size}
        )
        at += size
    return rows


# ---------------------------------------------------------------- packing


@given(st.lists(st.integers(0, 25), min_size=1, max_size=30), st.integers(1, 12), st.sampled_from(STRATEGIES), st.integers(1, 40))
def test_packing_loses_nothing(sizes: list[int], length: int, strategy: Any, buffer: int) -> None:
    """Every token stands once, with its label, next to its neighbours of the same text; boundaries are where texts end."""
    rows = texts(sizes)
    packed = list(pack(rows, length, strategy, buffer))
    assert all(set(row) == {"input_ids", "labels", "lengths"} for row in packed)
    assert all(sum(row["lengths"]) == len(row["input_ids"]) <= length and min(row["lengths"]) > 0 for row in packed)
    assert all(label == -index for row in packed for index, label in zip(row["input_ids"], row["labels"], strict=True))
    assert sorted(index for row in packed for index in row["input_ids"]) == list(range(1, sum(sizes) + 1))
    starts = {row["input_ids"][0] for row in rows if row["input_ids"]}
    pieces = []
    for row in packed:
        at = 0
        for n in row["lengths"]:
            pieces.append(row["input_ids"][at : at + n])
            at += n
    assert all(piece == list(range(piece[0], piece[0] + len(piece))) and not starts & set(piece[1:]) for piece in pieces)
    cut = {piece[0] for piece in pieces} - starts
    if strategy == "wrapped":
        blocks = -(-len(sizes) // buffer)
        assert sum(len(row["input_ids"]) < length for row in packed) <= blocks
    else:  # only what is longer than a row is cut, at its multiples
        assert all((index - max(start for start in starts if start <= index)) % length == 0 for index in cut)


@given(st.lists(st.integers(1, 20), max_size=40))
def test_best_fit_wastes_no_row(sizes: list[int]) -> None:
    """Each text goes where the least room is left that suffices; compared with trying every row."""
    rows: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fitting = [row for row in rows if sum(sizes[j] for j in row) + sizes[i] <= 20]
        if not fitting:
            rows.append(fitting := [])
            fitting = [rows[-1]]
        max(fitting, key=lambda row: sum(sizes[j] for j in row)).append(i)
    found = best_fit(sizes, 20)

    def fill(rows: list[list[int]]) -> list[int]:
        return sorted(sum(sizes[i] for i in row) for row in rows)

    assert fill(found) == fill(rows) and sorted(i for row in found for i in row) == list(range(len(sizes)))
    assert len(found) <= len(sequential(sizes, 20))


def test_packing_by_hand() -> None:
    rows = texts([3, 1, 5, 2])
    assert [row["lengths"] for row in pack(rows, 5)] == [[5], [3, 2], [1]]
    assert [row["lengths"] for row in pack(rows, 5, "sequential")] == [[3, 1], [5], [2]]
    assert [row["lengths"] for row in pack(rows, 5, "wrapped")] == [[3, 1, 1], [4, 1], [1]]
    padded = [{"input_ids": [0, 5, 6], "attention_mask": [0, 1, 1]}, {"input_ids": [7, 0], "attention_mask": [1, 0]}]
    assert list(pack(padded, 4)) == [{"input_ids": [5, 6, 7], "lengths": [2, 1]}]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_data_sets_stay_data_sets(strategy: Any) -> None:
    rows = texts([3, 1, 5, 2, 4, 4, 1])
    whole = Dataset.from_list([{**row, "text": "left out"} for row in rows])
    want = list(pack(rows, 6, strategy, 4))
    assert isinstance(pack(whole, 6, strategy, 4), Dataset) and pack(whole, 6, strategy, 4).to_list() == want
    stream = pack(whole.to_iterable_dataset(), 6, strategy, 4)
    assert isinstance(stream, IterableDataset) and list(stream) == want == list(stream)

    def generator() -> Iterator[dict[str, Any]]:
        yield from rows

    assert list(pack(IterableDataset.from_generator(generator), 6, strategy, 4)) == want
    assert list(pack(generator(), 6, strategy, 4)) == want


def test_a_stream_is_read_as_it_is_needed() -> None:
    read = []

    def endless() -> Iterator[dict[str, Any]]:
        while True:
            read.append(0)
            yield {"input_ids": [1, 2, 3]}

    first = list(islice(pack(endless(), 6, buffer=10), 2))
    assert [row["lengths"] for row in first] == [[3, 3]] * 2 and len(read) == 10


def test_packed_rows_train_as_their_texts_would() -> None:
    """The loss of packed batches is the mean over the predictions of every text alone."""
    config = Config("llama", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=99)
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = [{"input_ids": torch.randint(1, 99, (n,)).tolist()} for n in (5, 3, 7, 2)]
    loader = DataLoader(pack(rows, 9), batch_size=4, collate_fn=DataCollatorWithFlattening())
    (batch,) = loader
    assert sorted(batch["where"].lengths) == [2, 3, 5, 7]
    alone = [
        (model(ids, labels=ids).loss * (ids.shape[1] - 1), ids.shape[1] - 1)
        for row in rows
        if (ids := torch.tensor([row["input_ids"]])).numel()
    ]
    torch.testing.assert_close(model(**batch).loss, sum(loss for loss, _ in alone) / sum(n for _, n in alone))


def test_what_cannot_be_packed() -> None:
    rows = texts([2])
    for call in (
        lambda: pack(rows, 5, "worst_fit"),  # type: ignore[arg-type]
        lambda: pack(rows, 0),
        lambda: pack(rows, 5, buffer=0),
        lambda: list(pack([{"input_ids": [1], "label": 1}], 5)),
        lambda: list(pack([{"text": "a"}], 5)),
    ):
        with pytest.raises(InputError):
            call()


def test_groups_as_taught() -> None:
    examples = {"input_ids": [[1, 2, 3], [4], [5, 6, 7]], "attention_mask": [[1] * 3, [1], [1] * 3]}
    found = group_texts(examples, block_size=3)
    assert found["input_ids"] == found["labels"] == [[1, 2, 3], [4, 5, 6]] and found["attention_mask"] == [[1] * 3] * 2
    assert found["labels"][0] is not found["input_ids"][0]
    mapped = Dataset.from_dict(examples).map(group_texts, batched=True, fn_kwargs={"block_size": 2})
    assert mapped["labels"][:] == [[1, 2], [3, 4], [5, 6]]


# ---------------------------------------------------------------- mixing

A, B = [f"a{i}" for i in range(3)], [f"b{i}" for i in range(6)]


def test_data_sets_in_turn() -> None:
    assert list(interleave([A, B])) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert list(interleave([B, A])) == ["b0", "a0", "b1", "a1", "b2", "a2", "b3"]
    every = list(interleave([A, B], stopping="all_exhausted"))
    assert every[:8] == ["a0", "b0", "a1", "b1", "a2", "b2", "a0", "b3"] and set(every) == {*A, *B}
    assert list(interleave([iter(A), iter(B)])) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_data_sets_by_chance() -> None:
    many, few = [("many", i) for i in range(100_000)], [("few", i) for i in range(100_000)]
    mixed = interleave([many, few], [0.8, 0.2], seed=3)
    first = list(islice(mixed, 5000))
    assert first == list(islice(mixed, 5000)) and first != list(islice(interleave([many, few], [0.8, 0.2], seed=4), 5000))
    counts = Counter(name for name, _ in first)
    assert abs(counts["many"] / 5000 - 0.8) < 4 * (0.16 / 5000) ** 0.5
    assert [i for name, i in first if name == "few"] == list(range(counts["few"]))


def test_objects_of_datasets_are_mixed_by_their_own() -> None:
    sets = [Dataset.from_dict({"x": values}) for values in ([0, 1], [10, 11, 12])]
    assert isinstance(interleave(sets), Dataset) and interleave(sets)["x"][:] == [0, 10, 1, 11]
    streams = interleave([one.to_iterable_dataset() for one in sets], [0.5, 0.5], seed=1, stopping="all_exhausted")
    assert isinstance(streams, IterableDataset) and {row["x"] for row in streams} == {0, 1, 10, 11, 12}
    assert [row["x"] for row in interleave([sets[0], [{"x": 9}] * 9])] == [0, 9, 1, 9]


def test_rates_of_mixing() -> None:
    assert mixing_rates([10, 30]) == [0.25, 0.75]
    assert mixing_rates([10, 30, 90], limit=30) == pytest.approx([1 / 7, 3 / 7, 3 / 7])
    assert mixing_rates([1, 16], temperature=4.0) == pytest.approx([1 / 3, 2 / 3])


def test_what_cannot_be_mixed() -> None:
    for call in (
        lambda: interleave([]),
        lambda: interleave([A, B], [0.5]),
        lambda: interleave([A, B], [0.5, 0.6]),
        lambda: interleave([A, B], [1.0, 0.0]),
        lambda: interleave([A, B], stopping="never"),  # type: ignore[arg-type]
        lambda: list(interleave([[], B], stopping="all_exhausted")),
        lambda: list(interleave([iter(A), B], stopping="all_exhausted")),
        lambda: mixing_rates([]),
        lambda: mixing_rates([5, 0]),
        lambda: mixing_rates([5], temperature=0.0),
    ):
        with pytest.raises(InputError):
            call()


def test_labels_left_out_stay_left_out() -> None:
    (row,) = pack([{"input_ids": [1, 2], "labels": [IGNORE, 2]}, {"input_ids": [3], "labels": [3]}], 3)
    assert row == {"input_ids": [1, 2, 3], "labels": [IGNORE, 2, 3], "lengths": [2, 1]}
