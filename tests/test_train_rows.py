"""Batches without padding: the loss and the gradients of the padded batch, for every architecture and every head."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hunmin.nn.losses
from hunmin.errors import InputError
from hunmin.nn.heads import LMHead
from hunmin.nn.losses import IGNORE
from hunmin.nn.where import Where
from hunmin.train import flatten, unpadded, without_padding
from hunmin.train.rows import TASK_LABELS, labels_of, pad
from tests.cases import CASES, EOS, MASK, PAIR_IDS, PAIRS, ROWS, Case, inputs
from tests.test_parity import ours, write

TOKENS = ("MaskedLM", "CausalLM", "TokenClassification", "PreTraining")


def padded(case: Case, task: str) -> dict[str, torch.Tensor]:
    """A padded batch with labels for a head."""
    batch = inputs(case, task)
    batch.pop("decoder_input_ids", None)
    if task == "QuestionAnswering":
        return batch | {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    if task == "Seq2SeqLM":
        return batch | {"labels": torch.tensor([[4, 50, 7, 31, EOS], [9, 61, EOS, IGNORE, IGNORE]])}
    if task in TOKENS:
        limit = {"TokenClassification": 2, "PreTraining": 2}.get(task, 99)
        return batch | {"labels": (ROWS % limit).masked_fill(MASK == 0, IGNORE)}
    return batch | {"labels": torch.tensor([1, 0])}


@pytest.mark.parametrize(("case", "task"), PAIRS, ids=PAIR_IDS)
def test_loss_and_gradients_of_the_padded_batch(case: Case, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if task in ("Model", "TextEncoding"):
        return
    write(case, task, tmp_path)
    model = ours(tmp_path, task)
    whole = padded(case, task)
    flat = without_padding(whole, TASK_LABELS.get(task))
    assert flat["input_ids"].shape == (1, int(MASK.sum())) and flat["where"].lengths == MASK.sum(-1).tolist()

    def run(batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    want, wanted = run(whole)
    largest = max(float(g.abs().max()) for g in wanted.values())
    # also a language model's loss without its logits, three tokens at a time
    monkeypatch.setattr(hunmin.nn.losses, "CHUNK", 3)
    for batch in (flat, flat | {"loss_only": True}, whole | {"loss_only": True}):
        loss, grads = run(batch)
        torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-7)
        assert set(grads) == set(wanted) and grads
        for name, grad in grads.items():
            torch.testing.assert_close(
                grad, wanted[name], rtol=1e-5, atol=1e-5 * max(largest, 1e-3), msg=lambda text, name=name: f"{name}: {text}"
            )
    assert any("logits" in key for key in model(**whole, loss_only=True)) is (not isinstance(model.head, LMHead))


def tokenizer(side: str = "right") -> Any:
    """What padding needs of a tokenizer."""
    return SimpleNamespace(pad_token_id=0, pad_token_type_id=3, padding_side=side)


TOKEN = st.integers(1, 50)


@st.composite
def batches(draw: Any) -> tuple[str, list[dict[str, Any]]]:
    """(kind of labels, rows)"""
    kind = draw(st.sampled_from(["token", "sequence", "several", "score", "decoder", "span"]))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        ids = draw(st.lists(TOKEN, min_size=1, max_size=6))
        same = {"min_size": len(ids), "max_size": len(ids)}
        row = {"input_ids": ids, "token_type_ids": draw(st.lists(st.integers(0, 1), **same))}
        labels = {
            "token": st.lists(st.integers(0, 4) | st.just(IGNORE), **same),
            "sequence": st.integers(0, 4),
            "several": st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3),
            "score": st.floats(-1, 1, width=32),
            "decoder": st.lists(TOKEN, min_size=1, max_size=5),
        }
        if kind == "span":
            row |= {"start_positions": draw(st.integers(0, len(ids) - 1)), "end_positions": len(ids) - 1}
        else:
            row["labels"] = draw(labels[kind])
        rows.append(row)
    return kind, rows


@given(batches(), st.sampled_from(["left", "right"]), st.sampled_from([None, 8]))
def test_padding_is_undone(batch: tuple[str, list[dict[str, Any]]], side: str, length: int | None) -> None:
    """A padded batch without its padding is what the rows give at once, and every row can be found in it."""
    kind, rows = batch
    labels = {"decoder": "decoder", "token": "token"}.get(kind)
    flat = flatten(rows, labels)
    undone = without_padding(pad(rows, tokenizer(side), labels, length=length), labels)
    assert set(flat) == set(undone)
    for key, value in flat.items():
        if isinstance(value, Where):
            assert value.lengths == undone[key].lengths and value.kind == "packed"
        else:
            assert torch.equal(value, undone[key]), key
    assert flat["where"].lengths == [len(row["input_ids"]) for row in rows]
    assert flat["input_ids"].tolist() == [[index for row in rows for index in row["input_ids"]]]
    if kind in ("sequence", "several", "score"):
        assert flat["labels"].tolist() == [row["labels"] for row in rows]
    elif kind == "span":
        assert flat["start_positions"].tolist() == [row["start_positions"] for row in rows]
    else:
        assert flat["labels"].tolist() == [[label for row in rows for label in row["labels"]]]


def test_padding_by_hand() -> None:
    rows = [{"input_ids": [5, 6], "label": 1, "text": "left out"}, {"input_ids": [7, 8, 9], "label": 0, "text": "too"}]
    right, left = pad(rows, tokenizer(), multiple=4), pad(rows, tokenizer("left"))
    assert right["input_ids"].tolist() == [[5, 6, 0, 0], [7, 8, 9, 0]] and right["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert left["input_ids"].tolist() == [[0, 5, 6], [7, 8, 9]] and left["labels"].tolist() == [1, 0]
    assert set(left) == {"input_ids", "attention_mask", "labels"}


def test_what_the_user_padded_is_cut() -> None:
    """``padding="max_length"`` in a map costs nothing: on either side, with what goes token by token."""
    row = {"input_ids": [0, 0, 5, 6, 7, 0], "attention_mask": [0, 0, 1, 1, 1, 0], "token_type_ids": [0, 0, 1, 2, 3, 0]}
    (cut,) = unpadded([{**row, "labels": [9, 9, 1, 2, 3, 9], "start_positions": 3, "end_positions": 4}])
    assert cut["input_ids"] == [5, 6, 7] and cut["token_type_ids"] == [1, 2, 3] and cut["labels"] == [1, 2, 3]
    assert (cut["start_positions"], cut["end_positions"]) == (1, 2)
    several = [float(i) for i in range(6)]  # as many labels as tokens, but they belong to the whole text
    assert unpadded([{**row, "labels": several}])[0]["labels"] == several
    target = {**row, "labels": [4, IGNORE, 5, IGNORE, IGNORE, IGNORE]}
    assert unpadded([target], "decoder")[0]["labels"] == [4, IGNORE, 5]


def test_labels_are_told_apart_by_shape() -> None:
    def kind(*labels: Any) -> Any:
        return labels_of([{"input_ids": [1, 2, 3], "labels": label} for label in labels])

    assert kind(1, 0) == kind(0.5) == kind([0.0, 1.0, 1.0]) == kind([0, 1, 0, 1], [1, 1, 1, 1]) == "sequence"
    assert kind([4, 5, 6]) == "token" and kind([4, 5, 6], [1, 2]) == kind([7, 8, 9, 10]) == "decoder"
    assert labels_of([{"input_ids": [1]}]) is None


def test_rows_packed_before_stay_apart(tmp_path: Path) -> None:
    batch = flatten(
        [{"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "lengths": [2, 3]}, {"input_ids": [4], "labels": [4], "lengths": [1]}]
    )
    assert batch["where"].lengths == [2, 3, 1] and batch["where"].position.tolist() == [[0, 1, 0, 1, 2, 0]]


def test_rows_that_cannot_be_flattened() -> None:
    ids = {"input_ids": [1, 2, 3]}
    for rows, said in (
        ([], "input_ids, not nothing"),
        ("text", "input_ids"),
        ([{"text": "a", "label": 1}], "input_ids, not labels"),
        ([{**ids, "attention_mask": [1, 0, 1]}], "zeros between ones"),
        ([{**ids, "label": 1}, {"input_ids": [], "label": 0}], "no tokens"),
        ([{"input_ids": []}], "no tokens"),
        ([{**ids, "extra": [1, 2]}, {**ids, "extra": [1]}], "extra differs in length"),
        ([{"input_ids": [[1, 2]]}], "list of whole numbers"),
        ([{"input_ids": 5}], "list of whole numbers"),
        ([{**ids, "attention_mask": [1, 1]}], "as long as it"),
        ({"input_ids": [[1], [2]], "labels": [0]}, "input_ids"),
    ):
        with pytest.raises(InputError, match=said):
            flatten(rows)  # type: ignore[arg-type]
    assert flatten([ids, {"input_ids": []}])["where"].lengths == [3]
    with pytest.raises(InputError, match="no padding token"):
        pad([ids, {"input_ids": [1]}], SimpleNamespace(pad_token_id=None, padding_side="right"))


def test_batches_that_stay_as_they_are() -> None:
    flat = flatten([{"input_ids": [1, 2]}])
    embeds = {"inputs_embeds": torch.zeros(1, 2, 3), "attention_mask": torch.ones(1, 2)}
    plain = {"input_ids": torch.ones(1, 2, dtype=torch.long)}
    for batch in (flat, embeds, plain):
        assert without_padding(batch) == batch
    scores = {**plain, "attention_mask": torch.tensor([[1, 0]]), "labels": torch.tensor([[0.5, 9.0]])}
    assert without_padding(scores, "token")["labels"].tolist() == [[0.5]] and without_padding(scores)["labels"].shape == (1, 2)
    kept = without_padding({**plain, "attention_mask": torch.ones(1, 2), "use_cache": False})
    assert kept["use_cache"] is False and kept["where"].lengths == [2]


def test_places_move_to_a_device() -> None:
    moved = Where.packed([2, 3]).to("meta")
    assert moved.segment.device.type == moved.position.device.type == "meta"
    assert (moved.kind, moved.end, moved.lengths) == ("packed", 3, [2, 3])


def test_a_packed_encoder_needs_a_packed_decoder(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.id == "bart-plain")
    write(case, "Seq2SeqLM", tmp_path)
    model, ids = ours(tmp_path, "Seq2SeqLM"), torch.tensor([[5, 6, 7]])
    for decoder in (None, Where.packed([1, 1, 1])):
        with pytest.raises(InputError, match="decoder_where"):
            model(ids, where=Where.packed([1, 2]), labels=ids, decoder_where=decoder)
    write(case, "SequenceClassification", tmp_path)
    model = ours(tmp_path, "SequenceClassification")
    with pytest.raises(InputError, match="end-of-sequence"):
        model(torch.tensor([[5, EOS, 7]]), where=Where.packed([2, 1]))
