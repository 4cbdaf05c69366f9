"""Rounding a model with the help of texts: layer after layer, each seeing what the rounded ones before it give."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.nn.layers import Transformer
from hunmin.quantize import awq, gptq
from hunmin.quantize.plan import Plan, settle
from hunmin.quantize.rounding import THOROUGH, fitted
from hunmin.quantize.tiles import GROUP, Kind, Tiles

Method = Literal["rtn", "gptq", "awq"]
SAMPLES = 2048  # inputs of a layer that AWQ compares products on


class _Seen(Exception):
    """The stack was reached: what follows is run a layer at a time."""


class Inputs:
    """What goes into one linear layer: the mean of x x^T ``(K, K)``, that of |x| ``(K,)``, and a sample of rows ``(S, K)``."""

    def __init__(self, width: int, products: bool) -> None:
        self.count, self.magnitude = 0, torch.zeros(width)
        self.products = torch.zeros(width, width) if products else None
        self.sample, self._kept = list[Tensor](), 0

    def add(self, x: Tensor) -> None:
        x = x.detach().flatten(0, -2).float().cpu()
        share = len(x) / (self.count + len(x))
        self.count += len(x)
        self.magnitude += share * (x.abs().mean(0) - self.magnitude)
        if self.products is not None:
            self.products += share * (x.T @ x / len(x) - self.products)
        elif self._kept < SAMPLES:
            self.sample.append(x[: SAMPLES - self._kept])
            self._kept += len(self.sample[-1])


@torch.no_grad()
def quantize(
    model: nn.Module,
    plan: Plan,
    method: Method = "rtn",
    texts: Sequence[Tensor] = (),
    *,
    act_order: bool = False,
    told: Callable[[str], None] | None = None,
) -> list[str]:
    """Round the matrices of a model in place; returns the names of their layers.

    Args:
        model: on the CPU, called as ``model(ids)``; without adapters.
        plan: which layers, and to what.
        method: "rtn" rounds to nearest. "gptq" lets columns make up for each other's errors (Frantar et al. 2023), "awq" first scales up
            columns with large inputs, where a norm or a layer before can take the inverse (Lin et al. 2024).
        texts: rows of token ids ``(1, N)`` that stand for the model's use. gptq and awq need some; rtn weights errors by them.
        act_order: GPTQ takes columns with large inputs first; this costs a permutation of the inputs.
        told: called with the name of every part when it is begun.

    Raises:
        InputError: a method without texts, an unknown one, one of them for NF4, or a model with adapters.
    """
    if problem := _problem(model, plan, method, texts):
        raise InputError(problem)
    kinds, names = plan.kinds(model), list[str]()
    for path, stack in [(n, m) for n, m in model.named_modules() if isinstance(m, Transformer)] if texts else []:
        runs = _reach(model, stack, texts)
        for index, layer in enumerate(stack.layers):
            if told is not None:
                told(f"{path}.layers.{index}")
            here: dict[str, Kind] = {n: k for n, k in kinds.items() if n.startswith(f"{path}.layers.{index}.")}
            uses = [use for use in range(stack.spec.layers) if stack.used(use) is stack.layers[index]]
            _layer(model, f"{path}.layers.{index}", layer, here, plan, method, act_order, partial(_run, stack, runs, uses))
            runs = [(out, rest) for out, (_, rest) in zip(_run(stack, runs, uses), runs, strict=True)]
            names += here
    for name, kind in kinds.items():
        if name not in names and name in dict(model.named_modules()):
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Linear | nn.Embedding):  # not one that has been rounded as another's twin
                settle(model, name, _nearest(layer.weight.detach(), kind, plan), plan)
            names.append(name)
    return names


def _problem(model: nn.Module, plan: Plan, method: str, texts: Sequence[Tensor]) -> str | None:
    if method not in ("rtn", "gptq", "awq"):
        return say(f"method {method!r} is unknown: rtn, gptq or awq.", f"method {method!r}을(를) 알 수 없습니다: rtn, gptq, awq.")
    if method != "rtn" and not texts:
        return say(f"{method} needs calibration texts.", f"{method}에는 보정용 텍스트가 필요합니다.")
    if method != "rtn" and plan.kind == "nf4":
        return say(f"{method} rounds to int8 or int4 weights.", f"{method}는 int8이나 int4 가중치에 쓸 수 있습니다.")
    hooked = (n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m._forward_hooks)  # pyright: ignore[reportPrivateUsage]
    if (name := next(hooked, None)) is not None:
        return say(
            f"{name} has an adapter. Quantize first, then add adapters.", f"{name}에 어댑터가 있습니다. 먼저 양자화하고 어댑터를 더하세요."
        )
    return None


Run = tuple[Tensor, tuple[Any, ...]]


def _reach(model: nn.Module, stack: Transformer, texts: Sequence[Tensor]) -> list[Run]:
    """The input of a stack for every text, ``(1, N, C)``, with what else its layers are given."""
    found = list[Run]()

    def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.append((args[0], args[1:]))
        raise _Seen

    handle = stack.register_forward_pre_hook(stop)
    try:
        for ids in texts:
            try:
                model(ids)
            except _Seen:
                continue
    finally:
        handle.remove()
    return found


def _run(stack: Transformer, runs: list[Run], uses: list[int]) -> list[Tensor]:
    """Through one layer, as often as the stack uses it."""
    outs = list[Tensor]()
    for x, (at, context) in runs:
        for use in uses:
            x = stack.used(use)(x, at, context, use, stack.bias)
        outs.append(x)
    return outs


@contextmanager
def _gathered(layers: dict[str, nn.Linear], products: bool) -> Generator[dict[str, Inputs]]:
    inputs = {name: Inputs(layer.in_features, products) for name, layer in layers.items()}

    def watched(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: inputs[name].add(args[0])

    handles = [layer.register_forward_pre_hook(watched(name)) for name, layer in layers.items()]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _layer(
    model: nn.Module,
    path: str,
    layer: nn.Module,
    kinds: dict[str, Kind],
    plan: Plan,
    method: Method,
    act_order: bool,
    run: Callable[[], object],
) -> None:
    """Round what is linear in one layer. ``run`` sends the texts through it."""
    linear = {name: m for name in kinds if isinstance(m := model.get_submodule(name), nn.Linear)}
    with _gathered(linear, method == "gptq") as inputs:
        run()
    if method == "awq":
        awq.scale(layer, {name.removeprefix(f"{path}."): found for name, found in inputs.items()}, plan.group or 32)
        with _gathered(linear, False) as inputs:
            run()
    for name, module in linear.items():
        weight, seen, kind = module.weight.detach(), inputs[name], kinds[name]
        if method == "gptq" and seen.products is not None and seen.count:
            group = plan.group or (GROUP if kind == "int8" else 32)
            bits = 8 if kind == "int8" else 4
            tiles = gptq.solve(weight, seen.products, bits, group, symmetric=bool(plan.symmetric), act_order=act_order)
        else:
            tiles = _nearest(weight, kind, plan, seen.magnitude.square() if seen.count else None)
        settle(model, name, tiles, plan)


def _nearest(weight: Tensor, kind: Kind, plan: Plan, importance: Tensor | None = None) -> Tiles:
    if kind != "int4":
        return plan.round(weight, kind)
    return fitted(weight, plan.group or 32, symmetric=plan.symmetric, shares=THOROUGH, importance=importance)
