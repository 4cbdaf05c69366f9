"""Experiment trackers that other packages bring: TensorBoard, Weights & Biases, MLflow, CodeCarbon."""

from __future__ import annotations

from typing import Any

from hunmin.train.arguments import TrainingArguments


def trackers(arguments: TrainingArguments) -> list[Any]:
    return []
