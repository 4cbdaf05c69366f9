"""Parts beside layers: an adapter is a set of them, one a layer, that act through forward hooks.

The layer keeps its class, its parameters and their names, so saving, tying and quantizing a model work as if no adapter were there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say

BASE = "__base__"  # in a mixed batch: the row that no adapter serves
Weights = tuple[Tensor, Tensor | None]  # of a layer: weight (out, in) and bias (out,)


def beside(layer: Any) -> dict[str, Any]:
    """Device and dtype of what stands beside a layer: fp32 where the layer itself has 16 bits, as small updates would be rounded away."""
    held = next(t for tensors in (layer.parameters(), layer.buffers()) for t in tensors)
    dtype: torch.dtype = layer.dtype if hasattr(layer, "dtype") else layer.weight.dtype  # a packed weight says what it computes in
    return {"device": held.device, "dtype": torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype}


class Part(nn.Module):
    """What one adapter does at one layer: to its input, to its output, and to its weights when it is merged."""

    def before(self, x: Tensor) -> Tensor:
        """The input that the layer gets, ``(B, …)`` as ``x``."""
        return x

    def after(self, layer: nn.Module, x: Tensor, base: Tensor, y: Tensor) -> Tensor:
        """The output; ``base`` is what the layer alone computes from ``x``, ``y`` what earlier parts made of it."""
        return y

    def merged(self, layer: nn.Module, base: Weights, now: Weights) -> Weights:
        """Weights that compute the same as the layer and this part; ``now`` are those that earlier parts made of ``base``."""
        raise InputError(
            say(f"{type(self).__name__} cannot be merged into a layer.", f"{type(self).__name__}은(는) 층에 병합할 수 없습니다.")
        )


@dataclass
class Switch:
    """Which adapters act: those in ``active`` on all rows, or one a row; none while ``off``."""

    active: tuple[str, ...] = ()
    rows: list[str] | None = None
    off: bool = False


@dataclass
class Site:
    """The parts at one layer."""

    path: str
    switch: Switch
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    handles: list[Any] = field(default_factory=list[Any])

    def hook(self, layer: nn.Module) -> None:
        self.handles = [layer.register_forward_pre_hook(self.before), layer.register_forward_hook(self.after)]

    def before(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.switch.off or not self.parts:
            return None
        x: Tensor = args[0]
        if self.switch.rows is not None and x.ndim == 2 and x.is_floating_point() and not self.path.startswith("head"):
            raise InputError(
                say(
                    f"{self.path} also projects distances, which are no rows of the batch: adapters there cannot be mixed.",
                    f"{self.path}은(는) 배치의 행이 아닌 거리 벡터도 투영하므로 어댑터를 섞어 쓸 수 없습니다.",
                )
            )
        return (self._each(x, lambda part, at, value: part.before(value)), *args[1:])

    def after(self, layer: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        if self.switch.off or not self.parts:
            return y
        x: Tensor = args[0]
        return self._each(y, lambda part, at, now: part.after(layer, x[at], y[at], now))

    def _each(self, value: Tensor, act: Callable[[Part, Any, Tensor], Tensor]) -> Tensor:
        """``value`` ``(B, …)`` after the parts of all active adapters, or each row after the part of its own."""
        rows = self.switch.rows
        if rows is None:
            for name in self.switch.active:
                if name in self.parts:
                    value = act(self.parts[name], slice(None), value)
            return value
        if len(rows) != len(value):
            raise InputError(
                say(
                    f"adapter_names has {len(rows)} names, the batch {len(value)} rows.",
                    f"adapter_names는 {len(rows)}개인데 배치는 {len(value)}행입니다.",
                )
            )
        out = value
        for name in dict.fromkeys(rows):
            if name in self.parts:
                at = torch.tensor([i for i, n in enumerate(rows) if n == name], device=value.device)
                out = out.index_copy(0, at, act(self.parts[name], at, value[at]).to(out.dtype))
        return out


class Adapters(nn.ModuleDict):
    """The adapters of one model, by name; each is a tree of parts under the names of the layers they stand beside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        hooks = [hook for m in model.modules() for hook in m._forward_hooks.values()]  # pyright: ignore[reportPrivateUsage]
        if any(isinstance(getattr(hook, "__self__", None), Site) for hook in hooks):
            raise InputError(
                say(
                    "This model has adapters already: add to them with add_adapter, or take them off with unload() first.",
                    "이 모델에는 이미 어댑터가 있습니다. add_adapter로 더하거나 먼저 unload()로 떼어 내세요.",
                )
            )
        self._model = (model,)  # in a tuple: a neighbour, not a child
        self.switch = Switch()
        self.sites: dict[str, Site] = {}
        self.merged: tuple[str, ...] = ()  # the adapters that are in the weights
        self._kept: dict[str, nn.Parameter] = {}  # what merging replaced, by name

    def at(self, name: str) -> dict[str, Part]:
        """The parts of an adapter by the path of their layer."""
        return {path: site.parts[name] for path, site in self.sites.items() if name in site.parts}

    def add(self, name: str, parts: Mapping[str, Part]) -> None:
        """A new adapter. Raises InputError for a name that is taken or cannot be one."""
        if not name or "." in name or name == BASE or hasattr(self, name):
            raise InputError(
                say(
                    f"An adapter cannot be called {name!r}: the name is taken, empty, or has a dot.",
                    f"어댑터 이름으로 {name!r}을(를) 쓸 수 없습니다. 이미 있거나, 비었거나, 점이 들어 있습니다.",
                )
            )
        self.unmerge()
        tree = nn.Module()
        for path, part in parts.items():
            _plant(tree, path, part)
            if path not in self.sites:
                self.sites[path] = Site(path, self.switch)
                self.sites[path].hook(self._model[0].get_submodule(path))
            self.sites[path].parts[name] = part
        self[name] = tree

    def remove(self, name: str) -> None:
        self.unmerge()
        del self[name]
        for path in self.at(name):
            site = self.sites[path]
            del site.parts[name]
            if not site.parts:
                for handle in self.sites.pop(path).handles:
                    handle.remove()
        self.switch.active = tuple(n for n in self.switch.active if n != name)

    def use(self, names: Iterable[str]) -> None:
        """Let these adapters act, on all rows and in this order."""
        self.unmerge()
        self.switch.active = tuple(names)

    @contextmanager
    def disabled(self) -> Generator[None]:
        """The base model alone."""
        self.unmerge()
        before, self.switch.off = self.switch.off, True
        try:
            yield
        finally:
            self.switch.off = before

    @contextmanager
    def mixed(self, rows: Sequence[str]) -> Generator[None]:
        """One adapter a row of the batch."""
        self.unmerge()
        before, self.switch.rows = self.switch.rows, list(rows)
        try:
            yield
        finally:
            self.switch.rows = before

    @torch.no_grad()
    def merge(self, names: Sequence[str]) -> None:
        """Fold the adapters into the layers' weights; the original parameters are kept, so that :meth:`unmerge` is exact.

        Raises InputError for a quantized layer, whose weights are no numbers to add to.
        """
        self.unmerge()
        found: dict[str, Weights] = {}
        for path, site in self.sites.items():
            layer = self._model[0].get_submodule(path)
            parts = [site.parts[name] for name in names if name in site.parts]
            if parts and not isinstance(getattr(layer, "weight", None), nn.Parameter):
                raise InputError(
                    say(
                        f"{path} is quantized, an adapter cannot be merged into it. Use dequantize_linears(model) first, or load unquantized.",
                        f"{path}은(는) 양자화되어 있어 어댑터를 병합할 수 없습니다. 먼저 dequantize_linears(model)을 부르거나 "
                        "양자화하지 않고 불러오세요.",
                    )
                )
            base: Weights = layer.weight, getattr(layer, "bias", None)  # type: ignore[assignment]
            now = base
            for part in parts:
                now = part.merged(layer, base, now)
            if parts:
                found[path] = now
        for path, now in found.items():
            layer = self._model[0].get_submodule(path)
            for leaf, value in zip(("weight", "bias"), now, strict=True):
                old = getattr(layer, leaf, None)
                if value is not None and isinstance(old, nn.Parameter):
                    self._kept[f"{path}.{leaf}"] = old  # replaced, not overwritten: what it is tied to stays as it is
                    setattr(layer, leaf, nn.Parameter(value.detach().to(old.dtype), requires_grad=False))
        self.merged, self.switch.off = tuple(names), True

    def unmerge(self) -> None:
        """Put the original parameters back, bit for bit."""
        for name, old in self._kept.items():
            path, _, leaf = name.rpartition(".")
            setattr(self._model[0].get_submodule(path), leaf, old)
        if self.merged:
            self.merged, self._kept, self.switch.off = (), {}, False

    @contextmanager
    def folded(self) -> Generator[None]:
        """The active adapters in the weights and no hook beside them, for the length of a ``with``: kernels can then run the model.

        Raises InputError, before anything changes, for a quantized layer.
        """
        active = self.switch.active
        self.merge(active)
        for site in self.sites.values():
            for handle in site.handles:
                handle.remove()
        try:
            yield
        finally:
            for path, site in self.sites.items():
                site.hook(self._model[0].get_submodule(path))
            self.unmerge()

    def detach(self, keep_merged: bool = False) -> None:
        """Take all hooks off the model, with the merged weights in it or as it was before."""
        if keep_merged:
            self.merged, self._kept, self.switch.off = (), {}, False
        for name in list(self):
            self.remove(name)


def _plant(root: nn.Module, path: str, part: Part) -> None:
    *parents, leaf = path.split(".")
    for step in parents:
        if step not in root._modules:  # pyright: ignore[reportPrivateUsage]
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(leaf, part)
