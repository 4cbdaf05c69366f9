"""Folders in PEFT's own spelling give PEFT's logits, also where PEFT is not installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hunmin import PeftModel
from hunmin.auto import load
from tests.cases import difference, sample
from tests.peft_golden import ADAPTERS, FIRST, GOLDEN, logits, write_adapter
from tests.test_parity import write


@pytest.mark.parametrize("name", ADAPTERS)
def test_equals_golden(name: str, tmp_path: Path) -> None:
    model_type, task, _, _ = ADAPTERS[name]
    golden, case = json.loads(GOLDEN.read_text())[name], FIRST[model_type]
    write(case, task, tmp_path / "base")
    write_adapter(golden, tmp_path / "adapter")
    model = PeftModel.from_pretrained(load(tmp_path / "base", task), tmp_path / "adapter")
    want = torch.tensor(golden["logits"])
    assert difference(torch.tensor(sample(logits(model, case, task))), want) <= 5e-6
    with model.disable_adapter():
        assert "bias" in name or difference(torch.tensor(sample(logits(model, case, task))), want) > 1e-3
    model.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(load(tmp_path / "base", task), tmp_path / "again")
    assert difference(torch.tensor(sample(logits(again, case, task))), want) <= 5e-6
