"""A tiny run for the tests of what surrounds the Trainer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from hunmin import AutoConfig, AutoModelForSequenceClassification, DataCollatorWithFlattening, Trainer, TrainingArguments

SIZES: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
OWN = ("train_dataset", "eval_dataset", "compute_metrics", "processing_class", "callbacks", "model_init")


def tiny() -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", num_labels=3, **SIZES))


def rows(count: int = 16, seed: int = 0) -> list[dict[str, Any]]:
    """Rows whose second token tells their label."""
    draw = random.Random(seed)
    return [
        {"input_ids": [1, 10 + i % 3, *(draw.randrange(20, 100) for _ in range(draw.randrange(2, 8)))], "label": i % 3}
        for i in range(count)
    ]


def accuracy(predictions: Any) -> dict[str, float]:
    return {"accuracy": float((predictions.predictions.argmax(-1) == predictions.label_ids).mean())}


def trainer(folder: Path, **options: Any) -> Trainer:
    """Two steps an epoch, two epochs, a log each step, an evaluation each epoch."""
    own: dict[str, Any] = {"train_dataset": rows(), "eval_dataset": rows(8, 1), "compute_metrics": accuracy}
    own |= {name: options.pop(name) for name in OWN if name in options}
    if "model_init" not in own:
        own["model"] = tiny()
    settings: dict[str, Any] = {"num_train_epochs": 2, "logging_steps": 1, "eval_strategy": "epoch", "save_strategy": "no"}
    settings |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "learning_rate": 1e-3}
    return Trainer(args=TrainingArguments(folder, **settings | options), data_collator=DataCollatorWithFlattening(), **own)
