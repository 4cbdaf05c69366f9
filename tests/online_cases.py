"""Tiny tasks for the tests of methods that learn from completions of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hunmin.align.online import OnlineTrainer
from tests.train_cases import make

GOOD = range(10, 20)  # tokens that the task wants
QUIET: dict[str, Any] = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 5, "save_strategy": "no"}
QUIET |= {"html_report": False, "monitor_samples": 0, "lr_scheduler_type": "constant", "max_completion_length": 4}
PROMPTS = [{"input_ids": [1, 21 + i]} for i in range(8)]


def share(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The share of tokens that are good: 1 at best, a sixth of it for a fresh model."""
    return [sum(i in GOOD for i in ids) / len(ids) for ids in completion_ids]


def policy(**settings: Any) -> Any:
    return make("causal", **settings)


def settings(config: Any, folder: Path | str, **options: Any) -> Any:
    return config(str(folder), **QUIET | options)


def reward_of(trainer: OnlineTrainer, prompts: Any = None) -> float:
    """The mean reward of fresh completions."""
    return trainer.evaluate(prompts or PROMPTS * 8)["eval_reward"]


def next_token(model: Any, prompt: list[int]) -> torch.Tensor:
    """Log-probabilities of what follows a prompt, ``(V,)``."""
    with torch.no_grad():
        return model.eval()(torch.tensor([prompt])).logits[0, -1].float().log_softmax(-1)
