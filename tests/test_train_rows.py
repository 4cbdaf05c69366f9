"""Batches without padding: the loss and the gradients of the padded batch, for every architecture and every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hunmin.errors import InputError
from hunmin.nn.losses import IGNORE
from hunmin.nn.where import Where
from hunmin.train import flatten, unpadded, without_padding
from hunmin.train.rows import as_rows, labels_of
from tests.cases import EOS, ENCODER_DECODERS, MASK, PAIR_IDS, PAIRS, ROWS, TYPES, Case
from tests.test_parity import golden, inputs, ours, write

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
def test_loss_and_gradients_of_the_padded_batch(case: Case, task: str, tmp_path: Path) -> None:
    if task in ("Model", "TextEncoding"):
        return
    write(case, task, tmp_path)
    model = ours(tmp_path, task)
    whole = padded(case, task)
    flat = without_padding(whole, decoder=task == "Seq2SeqLM")
    assert flat["input_ids"].shape == (1, int(MASK.sum())) and flat["where"].lengths == MASK.sum(-1).tolist()

    def run(batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    (loss, grads), (want, wanted) = run(flat), run(whole)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-7)
    assert set(grads) == set(wanted) and grads
    largest = max(float(g.abs().max()) for g in wanted.values())
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad, wanted[name], rtol=1e-5, atol=1e-5 * max(largest, 1e-3), msg=lambda text, name=name: f"{name}: {text}"
        )
