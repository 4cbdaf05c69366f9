"""Models that are spread over processes: FSDP2, tensor parallelism, and both.

The engines are PyTorch's (``fully_shard``, ``parallelize_module``). Which matrix is cut where follows from canonical names alone, so one plan serves
every architecture. Embeddings and heads are not cut: every process of a tensor-parallel group holds them whole.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, SequenceParallel, parallelize_module

from hunmin.errors import InputError, say
from hunmin.model import PreTrainedModel
from hunmin.nn.layers import Transformer
from hunmin.train import parallel

COLUMNS = re.compile(r"(attn|cross)\.(q|k|v|pos_q|pos_k)|ffn\.(up|gate)")  # cut by outputs: heads, or columns of the feed-forward network
ROWS = re.compile(r"(attn|cross)\.o|ffn\.down")  # cut by inputs: results are added up over the processes
PER_HEAD = re.compile(r"(attn|cross)\.(q_norm|k_norm)")  # one weight for every head: its gradient is the sum over all of them


def stacks(model: nn.Module) -> list[tuple[str, Transformer]]:
    """The columns of layers in a model, also under adapters, by name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Transformer)]


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())


def shard(model: nn.Module, arguments: Any) -> None:
    """Keep only this process's part of ``model``, in place. What process 0 holds is what counts; a model that is spread already stays as it is.

    Raises InputError for a model that cannot be cut so.
    """
    if is_sharded(model):
        return
    if parallel.skips_layers(model):
        raise InputError(
            say(
                "This model leaves out layers at random, which processes that share layers cannot do: load it with encoder_layerdrop=0.0,"
                " decoder_layerdrop=0.0, or use sharding='ddp'.",
                "이 모델은 층을 무작위로 건너뛰므로 층을 나눠 가질 수 없습니다. encoder_layerdrop=0.0, decoder_layerdrop=0.0으로 불러오거나"
                " sharding='ddp'를 쓰세요.",
            )
        )
    device, size, data = parallel.device_of(arguments.use_cpu), arguments.tensor_parallel_size, parallel.data_world(arguments)
    if size > 1:
        check_split(model, size)
    equalize(model, device)
    # Data parallelism without shards is the case of shards over groups of one process.
    mesh = grid(device.type, (1, data, size) if arguments.sharding == "fsdp" else (data, 1, size))
    if size > 1:
        split(model, mesh["tensor"])
    if data > 1:
        own = mesh["replicate", "shard"] if arguments.sharding == "ddp" else mesh["shard"]
        for _, stack in stacks(model):
            for layer in stack.layers:
                fully_shard(layer, mesh=own)
        fully_shard(model, mesh=own, reshard_after_forward=True)  # else a forward pass without gradients would leave it gathered
    model.to(device)


@cache
def grid(device: str, sizes: tuple[int, int, int]) -> DeviceMesh:
    """The processes by what they do. Neighbours share a model's matrices: they talk most."""
    return init_device_mesh(device, sizes, mesh_dim_names=("replicate", "shard", "tensor"))


@torch.no_grad()
def equalize(model: nn.Module, device: torch.device) -> None:
    """Give every process the weights of process 0: fresh heads were drawn by each for itself."""
    for held in (*model.parameters(), *model.buffers()):
        sent = held.detach().to(device)
        dist.broadcast(sent, 0)
        if sent.data_ptr() != held.data_ptr():
            held.copy_(sent)


# -------------------------------------------------------------- tensor parallelism


def check_split(model: nn.Module, size: int) -> None:
    """Raises InputError when the matrices of ``model`` cannot be cut into ``size`` equal parts."""
    if not isinstance(model, PreTrainedModel):
        raise _cannot(type(model).__name__, "is none of Hunmin's plain models", "Hunmin의 기본 모델이 아니어서")
    for name, stack in stacks(model):
        spec = stack.spec
        counts = {"heads": spec.attn.heads, "key/value heads": spec.attn.kv_heads or spec.attn.heads, "feed-forward width": spec.ffn.width}
        if spec.cross is not None:
            counts |= {"heads of cross-attention": spec.cross.heads}
        for what, count in counts.items():
            if count % size:
                raise _cannot(name, f"has {count} {what}, not a multiple of {size}", f"{what} {count}개가 {size}의 배수가 아니어서")
        for path, module in stack.named_modules():
            leaf = path.split(".", 2)[-1]
            if (COLUMNS.fullmatch(leaf) or ROWS.fullmatch(leaf)) and not isinstance(module, nn.Linear):
                kind = type(module).__name__
                raise _cannot(f"{name}.{path}", f"is a {kind}, not a plain linear layer", f"{kind}이고 일반 선형층이 아니어서")


def _cannot(what: str, why: str, why_korean: str) -> InputError:
    return InputError(
        say(
            f"tensor_parallel_size: {what} {why}. Choose another size, or sharding='fsdp'.",
            f"tensor_parallel_size: {what}은(는) {why_korean} 나눌 수 없습니다. 다른 값이나 sharding='fsdp'를 쓰세요.",
        )
    )


def plan_of(stack: Transformer) -> dict[str, ParallelStyle]:
    """How each module of a stack is cut (Shoeybi et al. 2019, section 3), by its path in it."""
    plan: dict[str, ParallelStyle] = {}
    for path, _ in stack.named_modules():
        leaf = path.split(".", 2)[-1]
        if COLUMNS.fullmatch(leaf):
            plan[path] = ColwiseParallel()
        elif ROWS.fullmatch(leaf):
            plan[path] = RowwiseParallel()
        elif PER_HEAD.fullmatch(leaf):
            plan[path] = SequenceParallel(sequence_dim=2, use_local_output=True)
    if stack.bias is not None and stack.bias.table.embedding_dim == stack.spec.attn.heads:
        plan["bias.table"] = ColwiseParallel()  # a column for each head; other tables hold vectors that all heads read
    return plan


def split(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut the matrices of every layer over the processes of ``mesh``, in place."""
    for _, stack in stacks(model):
        parallelize_module(stack, mesh, plan_of(stack))


# -------------------------------------------------------------- weights and gradients


@contextmanager
def gathered(model: nn.Module) -> Generator[None]:
    """Every process holds the whole of what FSDP spreads, so that each may run the model as often as it likes, for example to generate."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def settle(parameters: Iterable[nn.Parameter]) -> None:
    """Add up gradients of which processes still hold a part each (weights that serve all heads)."""
    for p in parameters:
        if isinstance(p.grad, DTensor) and any(isinstance(placed, Partial) for placed in p.grad.placements):
            p.grad = p.grad.redistribute(placements=p.placements)  # type: ignore[attr-defined]


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """The norm of all gradients, however they are spread, which are then scaled to at most ``limit``. As PyTorch's for one process."""
    local = list[Tensor]()
    squares = dict[tuple[Any, ...], Tensor]()  # by the groups of processes that hold other parts
    for grad in (p.grad for p in parameters if p.grad is not None):
        groups = tuple[Any, ...]()
        if isinstance(grad, DTensor):
            groups = tuple(grad.device_mesh.get_group(i) for i, placed in enumerate(grad.placements) if not placed.is_replicate())
            grad = grad.to_local()
        local.append(grad)
        squares[groups] = squares.get(groups, torch.zeros((), device=grad.device)) + grad.float().square().sum()
    for groups, square in squares.items():
        for group in groups:
            dist.all_reduce(square, group=group)
    norm = sum(squares.values(), torch.zeros(())).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for grad in local:
        grad.mul_(scale.to(grad.device))
    return norm.item()
