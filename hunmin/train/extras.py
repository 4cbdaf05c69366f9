"""What may be added to a run: noise on embeddings, a moving average of the weights, memory that stays, compiled parts."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.nn.layers import FeedForward
from hunmin.nn.where import Where
from hunmin.train.arguments import TrainingArguments


@contextmanager
def noisy_embeddings(model: Any, alpha: float | None) -> Generator[None]:
    """NEFTune (Jain et al. 2023, algorithm 1): uniform noise of ``alpha / sqrt(N C)`` on embedded tokens while the model trains.

    ``N`` is a sequence's own number of tokens, also in a packed row.
    """
    if not alpha:
        yield
        return
    lengths: list[Tensor] = []

    def places(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        at = kwargs.get("where")
        lengths[:] = [at.extent()[..., None]] if isinstance(at, Where) else []

    def noise(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        count = lengths[0].to(embedded.device) if lengths and lengths[0].shape[:2] == embedded.shape[:2] else embedded.shape[1]
        size = alpha / (count * embedded.shape[-1]) ** 0.5
        return embedded + (torch.rand_like(embedded) * 2 - 1) * size

    hooks = [model.register_forward_pre_hook(places, with_kwargs=True), model.get_input_embeddings().register_forward_hook(noise)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class MovingAverage:
    """An exponential moving average of the parameters that learn: ``average = decay * average + (1 - decay) * weights``.

    The first steps take a smaller decay, ``(1 + n) / (10 + n)``, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, weight in zip(self.average, self.weights, strict=True):
            average.lerp_(weight.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Generator[None]:
        """The model has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average."""
        for p, average in zip(self.weights, self.average, strict=True):
            kept = p.detach().clone()
            p.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for held, read in zip(self.average, state["average"], strict=True):
            held.copy_(read)


# Of glibc's malloc.h: a parameter, its value during a run, and its usual value.
MALLOC = ((-4, 0, 65536), (-1, 2**31 - 1, 128 * 1024))  # M_MMAP_MAX, M_TRIM_THRESHOLD


@contextmanager
def memory_kept() -> Generator[None]:
    """Memory that a step frees serves the next one, where the C library is glibc.

    Otherwise gradients and activations are mapped, cleared and unmapped by the system at every step, a fifth of the time of a small model's.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):  # musl has neither
        yield
        return
    for parameter, value, _ in MALLOC:
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, _, value in MALLOC:
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("not enough memory", "can't allocate memory", "out of memory"))
    )


def compiled(model: Any, arguments: TrainingArguments) -> Any:
    """``torch.compile`` as the arguments ask. Of Hunmin's models the feed-forward parts, in place and for any number of tokens.

    Attention depends on where every sequence of a packed row begins; compiled, it would be compiled again for every batch.
    """
    how: dict[str, Any] = {"backend": arguments.torch_compile_backend or "inductor", "mode": arguments.torch_compile_mode}
    parts = [module for module in model.modules() if isinstance(module, FeedForward)]
    for part in parts:
        part.compile(dynamic=True, **how)
    return model if parts else torch.compile(model, **how)


def uncompiled(model: nn.Module) -> None:
    """Undo :func:`compiled`, so that the model can be saved and copied."""
    for module in model.modules():
        module._compiled_call_impl = None  # what nn.Module.compile sets  # pyright: ignore[reportPrivateUsage]
