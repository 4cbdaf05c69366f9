"""Processes and devices: who computes what, and how results come together."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.distributed as dist


def processes() -> int:
    """How many processes this run has: one, or what ``torchrun`` and ``accelerate launch`` say."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


@cache
def _state(use_cpu: bool) -> Any:
    from accelerate import PartialState

    return PartialState(cpu=use_cpu)


def device_of(use_cpu: bool = False) -> torch.device:
    """The device of this process; with several processes the first call lets them find each other."""
    if processes() > 1:
        return _state(use_cpu).device
    if use_cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def total(value: float, device: torch.device) -> float:
    """The sum of ``value`` over all processes."""
    if not dist.is_initialized():
        return value
    held = torch.tensor(value, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    dist.all_reduce(held)
    return held.item()


def gather(value: Any) -> list[Any]:
    """``value`` of every process, in their order."""
    if not dist.is_initialized():
        return [value]
    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def data_rank(arguments: Any) -> int:
    """Which share of every batch this process computes: those that split one model between them compute the same."""
    return rank() // arguments.tensor_parallel_size


def data_world(arguments: Any) -> int:
    return processes() // arguments.tensor_parallel_size


def wrap(model: Any, arguments: Any) -> Any:
    """The model as several processes train it."""
    if processes() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    device = device_of(arguments.use_cpu)
    unused = bool(arguments.ddp_find_unused_parameters)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=unused)


def unwrapped(model: Any) -> Any:
    """The model itself, without what was put around it."""
    return getattr(model, "module", getattr(model, "_orig_mod", model))


def no_sync(model: Any, more: bool) -> AbstractContextManager[Any]:
    """Leave the joining of gradients to a later batch of the same step."""
    return model.no_sync() if more and hasattr(model, "no_sync") else nullcontext()


def whole(tensor: Any) -> Any:
    """A tensor that is spread over processes in one piece."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
