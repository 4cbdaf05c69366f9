"""ULMFiT (Howard & Ruder 2018): learning rates that fall with depth, layers that thaw one by one, a rate that rises and falls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from hunmin.errors import InputError, say


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Names of a model's parameters from input to output: embeddings, each layer (of encoder, then decoder), then head and the rest.

    Raises InputError for a model without ``encoder.stack`` or ``decoder.stack``.
    """
    stacks = [f"{side}.stack" for side in ("encoder", "decoder") if hasattr(getattr(model, side, None), "stack")]
    if not stacks:
        raise InputError(
            say(
                f"A {type(model).__name__} has no encoder.stack or decoder.stack to take layers from.",
                f"{type(model).__name__}에는 층을 나눌 encoder.stack이나 decoder.stack이 없습니다.",
            )
        )
    names = [name for name, _ in model.named_parameters()]
    starts = [f"{stack}.layers.{i}." for stack in stacks for i in range(len(list(model.get_submodule(f"{stack}.layers").children())))]
    layers = [[name for name in names if name.startswith(start)] for start in starts]
    embeddings = [name for name in names if ".embed." in name]
    placed = {*embeddings, *(name for layer in layers for name in layer)}
    return [embeddings, *layers, [name for name in names if name not in placed]]


def layerwise_parameters(model: nn.Module, lr: float, decay: float = 1 / 2.6, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: the head learns with ``lr``, each group below with ``decay`` times the one above (section 3.2).

    Biases and norms (parameters of one dimension) get no weight decay. Frozen parameters are left out.
    """
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for depth, names in enumerate(reversed(layer_groups(model))):
        trained = [parameters[name] for name in names if parameters[name].requires_grad]
        for matrix in (True, False):
            members = [p for p in trained if (p.ndim > 1) is matrix]
            if members:
                groups.append({"params": members, "lr": lr * decay**depth, "weight_decay": weight_decay if matrix else 0.0})
    return groups


def freeze_to(model: nn.Module, groups: int) -> int:
    """Let the last ``groups`` of :func:`layer_groups` learn and freeze those below. Returns how many parameters learn."""
    parameters, order = dict(model.named_parameters()), layer_groups(model)
    for i, names in enumerate(order):
        for name in names:
            parameters[name].requires_grad_(i >= len(order) - groups)
    return sum(p.numel() for p in parameters.values() if p.requires_grad)


def gradual_unfreezing(model: nn.Module) -> Iterator[int]:
    """Thaw one group more at each step, from the head down (section 3.3): ``for trained in gradual_unfreezing(model): …one epoch…``."""
    for groups in range(1, len(layer_groups(model)) + 1):
        yield freeze_to(model, groups)


def slanted_triangular(step: int, steps: int, lr: float, cut: float = 0.1, ratio: float = 32.0) -> float:
    """The learning rate at ``step`` of ``steps``: a short linear rise to ``lr``, then a long fall to ``lr / ratio`` (eq. 3).

    ``cut`` is the fraction of steps that rise.
    """
    top = max(1, int(steps * cut))
    p = step / top if step < top else 1 - (step - top) / (top * (1 / cut - 1))
    return lr * (1 + max(p, 0.0) * (ratio - 1)) / ratio
