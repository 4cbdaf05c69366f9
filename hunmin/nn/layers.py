"""One layer for every order of norm and residual, and the stack of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hunmin.errors import ConfigError, say
from hunmin.native.encoder import encode
from hunmin.nn.attention import Attention, Context
from hunmin.nn.dropout import drop
from hunmin.nn.linear import Linear
from hunmin.nn.norm import build_norm
from hunmin.nn.positions import RelativeBias
from hunmin.nn.spec import FFN, Stack
from hunmin.nn.where import Where


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,  # the same formula under three names (Hendrycks & Gimpel 2016, eq. 2)
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Raises ConfigError for a name that is not in ``ACTS``."""
    if name not in ACTS:
        known = ", ".join(ACTS)
        raise ConfigError(
            say(f"Activation {name!r} is unknown. Known: {known}.", f"활성화 함수 {name!r}은(는) 지원하지 않습니다. 지원: {known}.")
        )
    return ACTS[name]


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when gated."""

    def __init__(self, spec: FFN, width: int) -> None:
        super().__init__()
        self.act, self.dropout = activation(spec.act), spec.dropout
        self.up = Linear(width, spec.width, bias=spec.bias)
        self.gate = Linear(width, spec.width, bias=spec.bias) if spec.gated else None
        self.down = Linear(spec.width, width, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.up(x)) if self.gate is None else self.act(self.gate(x)) * self.up(x)
        y = y.to(self.down.dtype)  # kept in fp32 where fp16 would overflow
        return self.down(drop(y, self.dropout, self.training))


class Layer(nn.Module):
    """Self-attention, cross-attention where there is an encoder, feed-forward; each with its norm and residual.

    ``post`` norms the sum (Vaswani et al. 2017), ``pre`` the input of each sublayer (Xiong et al. 2020), ``sandwich`` both ends of it.
    """

    def __init__(self, spec: Stack, index: int) -> None:
        super().__init__()
        self.order, self.dropout = spec.order, spec.dropout
        self.attn, self.attn_norm = Attention(spec.vary(index, spec.attn), spec.width), build_norm(spec.norm, spec.width)
        self.cross = Attention(spec.cross, spec.width) if spec.cross else None
        self.cross_norm = build_norm(spec.norm, spec.width) if spec.cross else None
        self.ffn, self.ffn_norm = FeedForward(spec.ffn, spec.width), build_norm(spec.norm, spec.width)
        sandwich = spec.order == "sandwich"
        self.attn_out_norm = build_norm(spec.norm, spec.width) if sandwich else None
        self.ffn_out_norm = build_norm(spec.norm, spec.width) if sandwich else None

    def _add(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: nn.Module, out_norm: nn.Module | None = None) -> Tensor:
        y = sublayer(x if self.order == "post" else norm(x))
        y = drop(out_norm(y) if out_norm else y, self.dropout, self.training)
        return norm(x + y) if self.order == "post" else x + y

    def forward(self, x: Tensor, at: Where, context: Context, use: int, bias: RelativeBias | None) -> Tensor:
        """x ``(B, N, C)``. ``use`` counts layers as they run: shared weights still have a cache entry a use."""
        x = self._add(x, lambda h: self.attn(h, at, context, f"self.{use}", bias), self.attn_norm, self.attn_out_norm)
        cross, cross_norm = self.cross, self.cross_norm
        if cross is not None and cross_norm is not None:
            x = self._add(x, lambda h: cross(h, at, context, f"cross.{use}"), cross_norm)
        return self._add(x, self.ffn, self.ffn_norm, self.ffn_out_norm)


class Transformer(nn.Module):
    """A stack of layers: an encoder or a decoder, as its spec says."""

    def __init__(self, spec: Stack) -> None:
        super().__init__()
        self.spec = spec
        self.recompute = False  # keep no activations inside of layers, compute them again for the gradients (Chen et al. 2016)
        self.layers = nn.ModuleList(Layer(spec, i) for i in range(spec.shared or spec.layers))
        self.bias = RelativeBias(spec.buckets, spec.attn.heads, spec.attn.causal) if spec.buckets else None
        self.norm = build_norm(spec.norm, spec.width) if spec.final_norm else None

    def used(self, use: int) -> nn.Module:
        """The layer that runs as number ``use``: layers with shared weights run several times."""
        return self.layers[use * len(self.layers) // self.spec.layers]

    def forward(self, x: Tensor, at: Where, context: Context) -> Tensor:
        """x ``(B, N, C)`` -> ``(B, N, C)``. A trace gets the input of every layer and the final output: ``layers + 1`` states."""
        if (fused := encode(self, x, at, context)) is not None:
            return fused
        hidden = context.trace.hidden if context.trace is not None else None
        for use in range(self.spec.layers):
            if hidden is not None:
                hidden.append(x)
            if self.training and self.spec.layer_drop and torch.rand(()).item() < self.spec.layer_drop:
                continue
            layer = self.used(use)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, at, context, use, self.bias, use_reentrant=False)
            else:
                x = layer(x, at, context, use, self.bias)
        x = self.norm(x) if self.norm is not None else x
        x = drop(x, self.spec.final_dropout, self.training)
        if hidden is not None:
            hidden.append(x)
        return x
