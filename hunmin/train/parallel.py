"""Processes and devices: who computes what, and how results come together.

Every process is ``torchrun``'s, ``accelerate launch``'s or Ray's. Process ``d * T + t`` computes share ``d`` of every batch, and part ``t`` of ``T =
tensor_parallel_size`` of the model's matrices.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hunmin.errors import InputError, say


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
        return _state(use_cpu or not torch.cuda.is_available()).device
    if use_cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def start(arguments: Any) -> None:
    """Let the processes of this run find each other. Raises InputError for arguments that do not fit their number."""
    device_of(arguments.use_cpu)
    count, size = processes(), arguments.tensor_parallel_size
    if count % size:
        raise InputError(
            say(
                f"tensor_parallel_size={size} needs a multiple of {size} processes, this run has {count}: torchrun --nproc-per-node={size} …",
                f"tensor_parallel_size={size}에는 {size}의 배수인 프로세스가 필요한데 지금은 {count}개입니다: torchrun --nproc-per-node={size} …",
            )
        )
    if count > 1 and arguments.auto_find_batch_size:
        raise InputError(
            say(
                "auto_find_batch_size works in one process only: choose per_device_train_batch_size yourself.",
                "auto_find_batch_size는 프로세스 하나에서만 됩니다. per_device_train_batch_size를 직접 정하세요.",
            )
        )
    if sharded(arguments) and arguments.fp16:
        raise InputError(
            say(
                "fp16 does not go together with sharding='fsdp' or tensor_parallel_size: use bf16=True.",
                "fp16은 sharding='fsdp'나 tensor_parallel_size와 함께 쓸 수 없습니다. bf16=True를 쓰세요.",
            )
        )


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def data_rank(arguments: Any) -> int:
    """Which share of every batch this process computes: those that split one model between them compute the same."""
    return rank() // arguments.tensor_parallel_size


def data_world(arguments: Any) -> int:
    return processes() // arguments.tensor_parallel_size


# -------------------------------------------------------------- results


def total(value: float, arguments: Any) -> float:
    """The sum of ``value`` over all shares of the data."""
    if not dist.is_initialized():
        return value
    device = device_of(arguments.use_cpu)
    held = torch.tensor(value, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    dist.all_reduce(held)
    return held.item() / arguments.tensor_parallel_size


def gather(value: Any) -> list[Any]:
    """``value`` of every process, in their order."""
    if not dist.is_initialized():
        return [value]
    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def gather_shares(value: Any, arguments: Any) -> list[Any]:
    """``value`` of every share of the data, in their order."""
    return gather(value)[:: arguments.tensor_parallel_size]


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


# -------------------------------------------------------------- models


def sharded(arguments: Any) -> bool:
    """Whether a process holds only a part of the model."""
    return processes() > 1 and (arguments.sharding == "fsdp" or arguments.tensor_parallel_size > 1)


def place(model: Any, arguments: Any, *, fixed: bool = False) -> None:
    """Move the model to this process's device - or the part of it that this process is to hold.

    Raises InputError when the model cannot be cut, or would be cut under an optimizer that is ``fixed`` already.
    """
    if not sharded(arguments):
        model.to(device_of(arguments.use_cpu))
        return
    if fixed:
        raise InputError(
            say(
                "A model that is spread has other parameters than the optimizer in optimizers= knows: give optimizer_cls_and_kwargs=.",
                "모델을 나누면 파라미터가 optimizers=의 옵티마이저가 아는 것과 달라집니다. optimizer_cls_and_kwargs=를 쓰세요.",
            )
        )
    from hunmin.train.sharding import shard

    shard(model, arguments)


def wrap(model: Any, arguments: Any) -> Any:
    """A model that :func:`place` has placed, as several processes train it: gradients are averaged over the shares of the data."""
    if processes() == 1 or sharded(arguments):
        return model
    from torch.nn.parallel import DistributedDataParallel

    device, unused = device_of(arguments.use_cpu), arguments.ddp_find_unused_parameters
    unused = bool(unused) if unused is not None else skips_layers(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=unused)


def skips_layers(model: Any) -> bool:
    """Whether whole layers are left out at random in training: then processes differ in which parameters get gradients."""
    return any(getattr(getattr(module, "spec", None), "layer_drop", 0.0) for module in model.modules())


def unwrapped(model: Any) -> Any:
    """The model itself, without what was put around it."""
    return getattr(model, "module", getattr(model, "_orig_mod", model))


def no_sync(model: Any, more: bool) -> AbstractContextManager[Any]:
    """Leave the joining of gradients to a later batch of the same step."""
    if hasattr(model, "set_requires_gradient_sync"):  # of FSDP: it keeps this until told otherwise
        model.set_requires_gradient_sync(not more)
    return model.no_sync() if more and hasattr(model, "no_sync") else nullcontext()


def gathered(model: Any, arguments: Any) -> AbstractContextManager[Any]:
    """Each process may run the model as often as it likes, alone: for a while all hold it whole."""
    if not sharded(arguments):
        return nullcontext()
    from hunmin.train import sharding

    return sharding.gathered(model)


def clip(model: Any, arguments: Any) -> float | None:
    """The norm of all gradients, which are then at most ``max_grad_norm``; None where they have no limit."""
    held, limit = [p for p in model.parameters() if p.grad is not None], arguments.max_grad_norm
    if not sharded(arguments):
        if not limit:
            return None
        norm = get_total_norm([p.grad for p in held if p.grad is not None])
        if (size := norm.item()) + 1e-6 > limit:  # else they stay as they are, and nothing has to touch them
            clip_grads_with_norm_(held, limit, norm)
        return size
    from hunmin.train import sharding

    sharding.settle(held)
    return sharding.clip(held, limit) if limit else None


def whole(tensor: Any) -> Any:
    """A tensor that is spread over processes in one piece. All of them have to ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def like(full: Tensor, held: Tensor) -> Tensor:
    """``full``, which every process has, spread as ``held`` is."""
    if not hasattr(held, "full_tensor"):
        return full
    from torch.distributed.tensor import distribute_tensor

    there: Any = held
    return distribute_tensor(full.detach(), there.device_mesh, there.placements)
