"""Small models and rows for the tests of training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

import hunmin
from hunmin import AutoConfig, DataCollatorWithFlattening, Trainer, TrainingArguments

SIZE: dict[str, Any] = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
STILL: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LLAMA: dict[str, Any] = SIZE | {"num_key_value_heads": 2, "max_position_embeddings": 64}
T5: dict[str, Any] = {
    "vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
    "dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
# task: (model type, Auto class, configuration)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "classes": ("bert", "SequenceClassification", SIZE | STILL | {"num_labels": 3}),
    "words": ("bert", "TokenClassification", SIZE | STILL | {"num_labels": 3}),
    "masked": ("bert", "MaskedLM", SIZE | STILL),
    "causal": ("llama", "CausalLM", LLAMA),
    "seq2seq": ("t5", "Seq2SeqLM", T5),
    "spans": ("bert", "QuestionAnswering", SIZE | STILL),
}


def make(task: str, seed: int = 0, **settings: Any) -> Any:
    """A fresh model, the same for the same seed."""
    kind, head, config = MODELS[task]
    torch.manual_seed(seed)
    return getattr(hunmin, f"AutoModelFor{head}").from_config(AutoConfig.for_model(kind, **config | settings))


def rows(task: str, count: int = 48, seed: int = 0, longest: int = 14) -> list[dict[str, Any]]:
    """Rows of mixed length whose labels follow from the tokens."""
    draw, out = random.Random(seed), list[dict[str, Any]]()
    for _ in range(count):
        ids = [1, *(draw.randrange(6, 60) for _ in range(draw.randrange(3, longest))), 2]
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        match task:
            case "classes":
                row["label"] = draw.randrange(3)
                ids[1] = 3 + row["label"]
            case "words":
                row["labels"] = [-100, *(i % 3 for i in ids[1:-1]), -100]
            case "masked":
                row["labels"] = [i if draw.random() < 0.3 else -100 for i in ids[:-1]] + [2]
            case "causal":
                row["labels"] = list(ids)
            case "seq2seq":
                row["labels"] = ids[1 : 2 + len(ids) // 2]
            case _:
                row |= {"start_positions": draw.randrange(1, len(ids) - 1), "end_positions": len(ids) - 1}
        out.append(row)
    return out


def padded(rows: list[dict[str, Any]], length: int = 32) -> list[dict[str, Any]]:
    """The rows as a user's ``map(padding="max_length")`` leaves them."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    out = list[dict[str, Any]]()
    for row in rows:
        size = len(row["input_ids"])
        out.append({k: v + [fill[k]] * (length - size) if isinstance(v, list) and len(v) == size else v for k, v in row.items()})
    return out


def trainer(model: Any, folder: Path | str, data: Any, **options: Any) -> Trainer:
    """A quiet Trainer on the CPU that logs every step."""
    own = {k: options.pop(k) for k in ("callbacks", "eval_dataset", "compute_metrics", "data_collator", "processing_class", "optimizers",
                                       "compute_loss_func", "model_init", "preprocess_logits_for_metrics") if k in options}  # fmt: skip
    kind = options.pop("kind", Trainer)
    settings: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "learning_rate": 1e-3, "save_strategy": "no"}
    settings |= {"report_to": "none", "html_report": False, "num_train_epochs": 2}
    own.setdefault("data_collator", DataCollatorWithFlattening())
    return kind(model, TrainingArguments(str(folder), **settings | options), train_dataset=data, **own)


def losses(trained: Trainer) -> list[float]:
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
