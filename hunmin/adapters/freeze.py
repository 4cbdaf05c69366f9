"""Which parameters are trained: freezing by pattern, biases alone, and learning rates by role."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from hunmin.errors import InputError, say


def _switch(model: nn.Module, patterns: str | Sequence[str], on: bool) -> list[str]:
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    named = dict(model.named_parameters())
    changed: dict[str, None] = {}
    for pattern in wanted:
        try:
            found = [name for name in named if re.search(pattern, name)]
        except re.error as error:
            raise InputError(
                say(f"{pattern!r} is not a regular expression: {error}.", f"{pattern!r}은(는) 정규식이 아닙니다: {error}.")
            ) from None
        if not found:
            some = ", ".join(list(named)[:: max(1, len(named) // 4)][:4])
            raise InputError(
                say(f"{pattern!r} matches no parameter. There are: {some}, …", f"{pattern!r}에 맞는 매개변수가 없습니다. 예: {some}, …")
            )
        changed.update(dict.fromkeys(found))
    for name in changed:
        named[name].requires_grad_(on)
    return list(changed)


def freeze(model: nn.Module, patterns: str | Sequence[str] = "") -> list[str]:
    """Stop training the parameters whose canonical name a regular expression is found in (default: all); returns their names.

    ``freeze(model, r"embed|layers\\.[0-5]\\.")``. Raises InputError for a pattern that matches nothing.
    """
    return _switch(model, patterns, False)


def unfreeze(model: nn.Module, patterns: str | Sequence[str] = "") -> list[str]:
    """The opposite of :func:`freeze`."""
    return _switch(model, patterns, True)


def bitfit(model: nn.Module, also: str | Sequence[str] = ()) -> list[str]:
    """Train biases alone (BitFit, Ben Zaken et al. 2022), and what ``also`` names, such as ``"^head"``; returns the trained names."""
    freeze(model)
    return unfreeze(model, [r"\bbias$", *([also] if isinstance(also, str) else also)])


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Optimizer groups that train B ``ratio`` times faster than A (LoRA+, Hayou et al. 2024, section 4): ``AdamW(lora_plus_groups(m, 1e-4))``.

    Raises InputError when the model has no low-rank adapter to train.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fast = [p for name, p in trained.items() if name.endswith(".lora_B")]
    slow = [p for name, p in trained.items() if not name.endswith(".lora_B")]
    if not fast:
        raise InputError(say("LoRA+ needs a LoRA adapter that is trained.", "LoRA+에는 학습 중인 LoRA 어댑터가 필요합니다."))
    return [{"params": slow, "lr": lr, "weight_decay": weight_decay}, {"params": fast, "lr": lr * ratio, "weight_decay": weight_decay}]
