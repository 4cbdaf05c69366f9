"""Multiple choice: one score a choice, packed or padded, in files that Transformers writes and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hunmin import AutoModelForMultipleChoice
from hunmin.hub.config import Config
from hunmin.train import DataCollatorForMultipleChoice, without_padding
from tests.cases import CASES, VOCAB, Case, difference
from tests.test_train_rows import tokenizer

FAMILIES = ("bert", "roberta", "camembert", "distilbert", "albert", "electra", "deberta-v2")
each = pytest.mark.parametrize("case", [case for case in CASES if case.name == "plain" and case.model_type in FAMILIES], ids=lambda c: c.id)


def rows() -> list[dict[str, Any]]:
    """Three questions with two choices of different lengths; no token is padding (id 1)."""
    return [{"input_ids": [torch.randint(3, VOCAB, (n,)).tolist() for n in (4 + i, 7 - i)], "label": i % 2} for i in range(3)]


def model_of(case: Case) -> Any:
    edited = {key: value for key, value in case.edit.items() if value is not None}
    model = AutoModelForMultipleChoice.from_config(Config(case.model_type, **{**case.config, **edited})).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def padder() -> Any:
    made = tokenizer()
    made.pad_token_id, made.pad_token_type_id = 1, 0
    return made


@each
def test_packed_and_padded_and_alone(case: Case) -> None:
    model, questions = model_of(case), rows()
    padded = DataCollatorForMultipleChoice(padder())(questions)
    flat = DataCollatorForMultipleChoice(padder(), packed=True)(questions)
    undone = without_padding(padded)
    assert undone["where"].lengths == flat["where"].lengths and set(undone) == set(flat)
    assert all(torch.equal(undone[key], flat[key]) for key in flat if key != "where")
    with torch.no_grad():
        want, got = model(**padded), model(**flat)
        assert want.logits.shape == got.logits.shape == (3, 2)
        torch.testing.assert_close(got.logits, want.logits)
        torch.testing.assert_close(got.loss, want.loss)
        torch.testing.assert_close(want.loss, torch.nn.functional.cross_entropy(want.logits, padded["labels"]))
        alone = [[model(torch.tensor([[choice]])).logits.item() for choice in row["input_ids"]] for row in questions]
        torch.testing.assert_close(torch.tensor(alone), want.logits)
        labels = flat.pop("labels")
        torch.testing.assert_close(model(**flat).logits, want.logits.reshape(1, 6))
        assert labels.tolist() == [0, 1, 0]


@each
def test_files_keep_the_head(case: Case, tmp_path: Path) -> None:
    model = model_of(case)
    model.save_pretrained(tmp_path)
    again = AutoModelForMultipleChoice.from_pretrained(tmp_path)
    assert again.architecture.endswith("ForMultipleChoice")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.usefixtures("pytorch")  # logits near zero: the last bits of the kernels, which have a tolerance of their own, would count
@pytest.mark.parity
@each
def test_equals_transformers(case: Case, tmp_path: Path) -> None:
    import transformers

    model_of(case).save_pretrained(tmp_path / "ours")
    reference = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path / "ours").eval()
    reference.save_pretrained(tmp_path / "theirs")
    batch = DataCollatorForMultipleChoice(padder())(rows())
    with torch.no_grad():
        want = reference(**batch)
        for folder in ("ours", "theirs"):
            got = AutoModelForMultipleChoice.from_pretrained(tmp_path / folder)(**batch)
            assert difference(got.logits, want.logits) <= 5e-6 and difference(got.loss, want.loss) <= 5e-6
