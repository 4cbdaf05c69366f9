"""Smaller parts: scaling of activations, and whole layers that are trained beside the frozen one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.adapters.attach import Part, Weights, beside


class IA3(Part):
    """Multiplies a layer's output (attention keys and values) or its input (the second layer of a feed-forward) by a learned vector.

    Liu et al. 2022, section 3.3. The vector starts at one.
    """

    def __init__(self, layer: Any, feedforward: bool, init: bool = True) -> None:
        super().__init__()
        self.feedforward = feedforward
        size = layer.in_features if feedforward else layer.out_features
        values = torch.ones(size, **beside(layer))
        self.ia3_l = nn.Parameter(values if init else values.normal_())

    def before(self, x: Tensor) -> Tensor:
        return (x * self.ia3_l).to(x.dtype) if self.feedforward else x

    def after(self, layer: nn.Module, x: Tensor, base: Tensor, y: Tensor) -> Tensor:
        return y if self.feedforward else (y * self.ia3_l).to(y.dtype)

    def merged(self, layer: nn.Module, base: Weights, now: Weights) -> Weights:
        weight, bias = now
        if self.feedforward:
            return (weight * self.ia3_l).to(weight.dtype), bias
        return (weight * self.ia3_l[:, None]).to(weight.dtype), None if bias is None else (bias * self.ia3_l).to(bias.dtype)


class Copy(Part):
    """A trained copy of a whole layer in place of the frozen one: a classifier, an embedding, a norm."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(layer)
        for hooks in (self.module._forward_hooks, self.module._forward_pre_hooks):  # pyright: ignore[reportPrivateUsage]
            hooks.clear()  # those of other adapters stay with the frozen layer

    def after(self, layer: nn.Module, x: Tensor, base: Tensor, y: Tensor) -> Tensor:
        return self.module(x)

    def merged(self, layer: nn.Module, base: Weights, now: Weights) -> Weights:
        return self.module.weight.clone(), None if base[1] is None else self.module.bias.clone()  # type: ignore[operator,union-attr,return-value]
