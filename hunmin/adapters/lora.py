"""Low-rank adaptation (Hu et al. 2021) of linear layers and embeddings, with rsLoRA, DoRA, PiSSA and OLoRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hunmin.adapters.attach import Part, Weights, beside
from hunmin.errors import InputError, say
from hunmin.nn.dropout import drop
from hunmin.nn.linear import linear

INITS = (True, False, "gaussian", "pissa", "olora")


@dataclass(frozen=True)
class Recipe:
    """How a low-rank update is made. ``init``: True starts at zero, False does not (for tests); else a name of ``INITS``."""

    r: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    init: bool | str = True

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r <= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(say(f"r is a whole number above zero, not {self.r!r}.", f"r은 0보다 큰 정수여야 합니다. 받은 값: {self.r!r}."))
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(
                say(f"lora_dropout is between 0 and 1, not {self.dropout!r}.", f"lora_dropout은 0과 1 사이여야 합니다: {self.dropout!r}.")
            )
        if self.init not in INITS:
            raise InputError(
                say(
                    f"init_lora_weights {self.init!r} is unknown; use one of {', '.join(map(str, INITS))}.",
                    f"init_lora_weights {self.init!r}을(를) 알 수 없습니다. 가능한 값: {', '.join(map(str, INITS))}.",
                )
            )

    @property
    def scale(self) -> float:
        """alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023, eq. 2), which keeps the update's size as r grows."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


class LoRA(Part):
    """Adds ``scale * B A`` to a layer's weight ``(out, in)``: A is ``(r, in)``, B ``(out, r)``. An embedding counts ids as inputs.

    With ``start`` (A0, B0), the values that A and B began with, the update is ``scale * (B A - B0 A0)``: zero at first, whatever they were.
    With ``magnitude`` m the weight is ``m (W + scale B A) / ||W + scale B A||``, row by row of ``(out, in)`` (DoRA, Liu et al. 2024, eq. 5);
    the norm is a constant to the gradient (section 4.3).
    """

    def __init__(self, layer: nn.Module, a: nn.Parameter, b: Tensor, recipe: Recipe, start: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.recipe, self.scale, self.tokens = recipe, recipe.scale, isinstance(layer, nn.Embedding)
        self.lora_A, self.lora_B = a, nn.Parameter(b)
        self.start_A: Tensor | None
        self.start_B: Tensor | None
        self.register_buffer("start_A", start[0] if start else None, persistent=False)
        self.register_buffer("start_B", start[1] if start else None, persistent=False)
        if recipe.dora and self.tokens:
            raise InputError(say("use_dora needs linear layers, not embeddings.", "use_dora는 임베딩이 아닌 선형 층에만 쓸 수 있습니다."))
        self.magnitude = nn.Parameter(self._norm(layer).clone()) if recipe.dora else None

    def delta(self) -> Tensor:
        """The update of the weight, in its shape."""
        full = self.lora_B @ self.lora_A
        if self.start_A is not None and self.start_B is not None:
            full = full - self.start_B @ self.start_A
        return self.scale * (full.T if self.tokens else full)

    def after(self, layer: Any, x: Tensor, base: Tensor, y: Tensor) -> Tensor:
        change = self._product(x, self.lora_A, self.lora_B)
        if self.start_A is not None and self.start_B is not None:
            change = change - self._product(x, self.start_A, self.start_B)
        change = change * self.scale
        if self.magnitude is None:
            return y + change.to(y.dtype)
        ratio = self.magnitude / self._norm(layer)
        plain = base if layer.bias is None else base - layer.bias
        return y + ((ratio - 1) * plain.to(ratio.dtype) + ratio * change).to(y.dtype)

    def _product(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if self.tokens:
            return F.embedding(x, a.T) @ b.T
        return linear(linear(drop(x.to(a.dtype), self.recipe.dropout, self.training), a), b)

    @torch.no_grad()
    def _norm(self, layer: Any) -> Tensor:
        return torch.linalg.vector_norm(layer.weight.to(self.lora_A.dtype) + self.delta(), dim=1)

    def merged(self, layer: nn.Module, base: Weights, now: Weights) -> Weights:
        delta = self.delta()
        if self.magnitude is not None:
            ratio = (self.magnitude / self._norm(layer))[:, None]
            delta = (ratio - 1) * base[0].to(delta.dtype) + ratio * delta
        return (now[0].to(delta.dtype) + delta).to(now[0].dtype), now[1]

    def extra_repr(self) -> str:
        return f"r={len(self.lora_A)}, scale={self.scale:g}{', dora' if self.magnitude is not None else ''}"


def build_lora(layers: Sequence[Any], recipe: Recipe) -> list[LoRA]:
    """One update over layers that read the same input; A is shared, B is cut along their outputs.

    Several layers are one stored tensor in some checkpoints (a fused projection), where an adapter has one A for all of them.
    """
    first = layers[0]
    tokens = isinstance(first, nn.Embedding)
    width = first.num_embeddings if tokens else first.in_features
    outs = [layer.embedding_dim if tokens else layer.out_features for layer in layers]
    place = beside(first)
    if recipe.init in ("pissa", "olora"):
        if tokens:
            raise InputError(
                say(
                    f"{recipe.init} starts from linear layers, not embeddings.",
                    f"{recipe.init}는 임베딩이 아닌 선형 층에만 쓸 수 있습니다.",
                )
            )
        a, b = _decomposed(torch.cat([layer.weight.detach() for layer in layers]).to(torch.float32), recipe)
        a, b = a.to(**place), b.to(**place)
        starts = [(a.clone(), part.clone()) for part in b.split(outs)]
    else:
        a, b = _drawn(width, sum(outs), recipe, tokens, place)
        starts = [None] * len(layers)
    shared = nn.Parameter(a)
    return [
        LoRA(layer, shared, part.contiguous().clone(), recipe, start)
        for layer, part, start in zip(layers, b.split(outs), starts, strict=True)
    ]


def _drawn(width: int, out: int, recipe: Recipe, tokens: bool, place: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Random A (B of an embedding) and zeros for the other."""
    a, b = torch.zeros(recipe.r, width, **place), torch.zeros(out, recipe.r, **place)
    drawn, bound = (b, 1.0) if tokens else (a, 1.0 / math.sqrt(width))
    if recipe.init == "gaussian":
        drawn.normal_(0.0, 1.0 / recipe.r)
    elif tokens:
        drawn.normal_()
    else:
        drawn.uniform_(-bound, bound)
    if recipe.init is False:
        (a if tokens else b).uniform_(-1.0 / math.sqrt(recipe.r), 1.0 / math.sqrt(recipe.r))
    return a, b


def _decomposed(weight: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """A and B whose product is the weight's principal part (PiSSA, Meng et al. 2024, eq. 2-3) or of its QR (OLoRA, Büyükakyüz 2024)."""
    if recipe.r > min(weight.shape):
        raise InputError(
            say(
                f"r={recipe.r} is above the rank of a weight of shape {tuple(weight.shape)}.",
                f"r={recipe.r}이(가) 모양 {tuple(weight.shape)}인 가중치의 계수보다 큽니다.",
            )
        )
    if recipe.init == "pissa":
        u, s, v = torch.linalg.svd(weight / recipe.scale, full_matrices=False)
        root = s[: recipe.r].sqrt()
        return root[:, None] * v[: recipe.r], u[:, : recipe.r] * root
    q, r = torch.linalg.qr(weight)
    return r[: recipe.r], q[:, : recipe.r]
