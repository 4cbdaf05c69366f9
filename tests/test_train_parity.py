"""The same run in Transformers' Trainer: order of rows, losses, learning rates, norms and weights, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hunmin
from hunmin import default_data_collator
from tests.train_cases import make, padded, rows, trainer

pytestmark = pytest.mark.parity
OPTIONS: list[dict[str, Any]] = [
    {},
    # no accumulation: 5.23 sums the losses of models such as BERT there, which take no num_items_in_batch
    {"lr_scheduler_type": "cosine", "warmup_ratio": 0.25, "weight_decay": 0.1},
    {"max_steps": 7, "max_grad_norm": 0.1, "seed": 7},
    {"label_smoothing_factor": 0.1, "optim": "adafactor"},
    {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 2, "adam_beta2": 0.9},
]


@pytest.mark.parametrize("task", ["classes", "words", "masked", "seq2seq", "spans"])
@pytest.mark.parametrize("options", OPTIONS, ids=[",".join(o) or "as it is" for o in OPTIONS])
def test_equals_transformers(task: str, options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if "label_smoothing_factor" in options and task in (
        "classes",
        "spans",
        "seq2seq",
    ):  # theirs smooths tokens, and of a decoder it hides the labels
        options = {"optim": "sgd", "learning_rate": 0.1 if task != "seq2seq" else 0.01}
    if options.get("optim") == "adafactor":
        options = {**options, "optim": "adamw_torch"}  # theirs is another algorithm
    data = padded(rows(task)) if task != "spans" else rows(task, longest=4)  # there padding is a candidate for an answer, here not
    if task == "seq2seq":
        longest = max(len(row["labels"]) for row in data)
        data = [{**row, "labels": row["labels"] + [-100] * (longest - len(row["labels"]))} for row in data]
    make(task).save_pretrained(tmp_path / "start")
    own = trainer(make(task), tmp_path / "own", data, data_collator=default_data_collator, **options)
    head = {"classes": "SequenceClassification", "words": "TokenClassification", "masked": "MaskedLM", "seq2seq": "Seq2SeqLM"}.get(
        task, "QuestionAnswering"
    )
    model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(tmp_path / "start")
    settings: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "learning_rate": 1e-3, "save_strategy": "no"}
    settings |= {"report_to": "none", "num_train_epochs": 2, "optim": "adamw_torch"} | options
    if "warmup_ratio" in settings:
        settings["warmup_steps"] = settings.pop("warmup_ratio")  # the newest spelling
    peer = transformers.Trainer(model, transformers.TrainingArguments(str(tmp_path / "peer"), **settings), train_dataset=data)
    own.train()
    peer.train()
    logs = [[e for e in t.state.log_history if "loss" in e] for t in (own, peer)]
    assert len(logs[0]) == len(logs[1]) == own.state.max_steps
    loose = 2e-3 if task == "seq2seq" else 5e-4  # twelve steps of AdamW spread what fp32 rounds
    for a, b in zip(*logs, strict=True):
        assert a["epoch"] == pytest.approx(b["epoch"], abs=0.01)
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=loose)
        np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=20 * loose)
    rates = [[e["learning_rate"] for e in log] for log in logs]
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-6, atol=1e-12)
    peer.model.save_pretrained(tmp_path / "end")
    kind = getattr(hunmin, f"AutoModelFor{head}")
    for (name, p), q in zip(own.model.named_parameters(), kind.from_pretrained(tmp_path / "end").parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-3), name


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
                                  "cosine_with_min_lr", "warmup_stable_decay"])  # fmt: skip
def test_schedules(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    own: dict[str, Any] = {"cosine_with_min_lr": {"min_lr": 1e-5}, "warmup_stable_decay": {"num_decay_steps": 20}}.get(name, {})
    curves = []
    for module in (hunmin, transformers):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        scheduler = module.get_scheduler(name, optimizer, 10, 100, dict(own)) if module is hunmin else transformers.get_scheduler(
            name, optimizer, 10, 100, scheduler_specific_kwargs=dict(own)
        )  # fmt: skip
        rates = list[float]()
        for _ in range(100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        curves.append(rates)
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-6, atol=1e-12)
