"""Learning-rate schedules: the factor of the rate at a step, as pure functions, and as PyTorch schedulers under their taught names."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from hunmin.errors import InputError, say
from hunmin.train.arguments import CHOICES, bad
from hunmin.train.staged import slanted_triangular

PLATEAU = "reduce_lr_on_plateau"


def factor(
    step: int,
    name: str,
    warmup: int,
    total: int,
    *,
    num_cycles: float | None = None,
    power: float = 1.0,
    min_lr_rate: float = 0.0,
    lr_end: float = 0.0,
    timescale: int | None = None,
    num_decay_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
) -> float:
    """The learning rate at ``step`` as a share of its highest value.

    ``warmup`` steps rise linearly from zero; then ``name`` says how it falls until ``total``. ``num_cycles`` and ``min_lr_rate`` belong to
    the cosines and to "warmup_stable_decay", ``power`` and ``lr_end`` (a share of the highest rate) to "polynomial", ``timescale`` to
    "inverse_sqrt", ``num_decay_steps`` to "warmup_stable_decay".
    """
    if name == "constant":
        return 1.0
    if name == "slanted_triangular":
        return slanted_triangular(step, total, 1.0)
    if step < warmup:
        share = step / max(1, warmup)
        return share if warmup_type == "linear" else (1 - math.cos(math.pi * share)) / 2
    passed = (step - warmup) / max(1, total - warmup)
    if name == "constant_with_warmup":
        return 1.0
    if name == "inverse_sqrt":
        scale = timescale or warmup or 10_000
        return 1 / math.sqrt((step + scale - warmup) / scale)
    if name == "polynomial":
        return lr_end if step > total else (1 - lr_end) * (1 - passed) ** power + lr_end
    if name == "cosine_with_restarts":
        return 0.0 if passed >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * ((num_cycles or 1) * passed % 1))))
    if name in ("cosine", "cosine_with_min_lr"):
        wave = 0.5 * (1 + math.cos(math.pi * (num_cycles or 0.5) * 2 * passed))
        return max(0.0, wave * (1 - min_lr_rate) + min_lr_rate)
    if name == "warmup_stable_decay":
        decay = num_decay_steps or max(1, (total - warmup) // 5)
        left = min(1.0, max(0.0, (total - step) / decay))
        shape = left if decay_type == "linear" else 0.5 * (1 - math.cos(math.pi * left))
        return shape * (1 - min_lr_rate) + min_lr_rate
    return max(0.0, 1 - passed)  # linear


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = 0,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> LRScheduler:
    """The scheduler called ``name``. Raises InputError for an unknown name, options that it does not have, and missing steps."""
    name, options = str(getattr(name, "value", name)).lower(), dict(scheduler_specific_kwargs or {})
    if name not in CHOICES["lr_scheduler_type"]:
        raise bad("lr_scheduler_type", name, ", ".join(CHOICES["lr_scheduler_type"]))
    if name == PLATEAU:
        return ReduceLROnPlateau(optimizer, **options)
    if num_training_steps is None and name not in ("constant", "constant_with_warmup", "inverse_sqrt"):
        raise InputError(say(f"{name} needs num_training_steps.", f"{name}에 num_training_steps가 필요합니다."))
    highest = optimizer.param_groups[0]["lr"]
    if "min_lr_ratio" in options:
        options["min_lr_rate"] = options.pop("min_lr_ratio")
    if "min_lr" in options:
        options["min_lr_rate"] = options.pop("min_lr") / highest
    if name == "polynomial":
        options["lr_end"] = options.get("lr_end", 1e-7) / highest
    try:
        share = partial(factor, name=name, warmup=num_warmup_steps or 0, total=num_training_steps or 0, **options)
        share(0)
    except TypeError as error:
        raise InputError(
            say(f"lr_scheduler_kwargs do not fit {name}: {error}.", f"lr_scheduler_kwargs가 {name}에 맞지 않습니다: {error}.")
        ) from None
    return LambdaLR(optimizer, share)


def get_constant_schedule(optimizer: Optimizer) -> LRScheduler:
    return get_scheduler("constant", optimizer)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int) -> LRScheduler:
    return get_scheduler("constant_with_warmup", optimizer, num_warmup_steps)


def get_linear_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int) -> LRScheduler:
    return get_scheduler("linear", optimizer, num_warmup_steps, num_training_steps)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> LRScheduler:
    return get_scheduler("cosine", optimizer, num_warmup_steps, num_training_steps, {"num_cycles": num_cycles})
