"""Layers without initial values: those come from a file or from ``initialize``, and drawing them twice costs seconds.

And one matrix product: in fp32 on a CPU with AVX-512 that of oneDNN, which torch keeps for 16 bits. The BLAS that torch takes for fp32 (MKL)
leaves half of such a CPU unused where it is not Intel's: 97 GFLOPS a core against 210 on an EPYC of 2024, from 16 rows on.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 16  # rows below which the product of torch is as fast or faster
ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x ``(…, I)``, weight ``(O, I)``, bias ``(O,)`` -> ``(…, O)``: ``F.linear``, by oneDNN where that is faster."""
    suits = ONEDNN and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel() >= FEW * weight.shape[1]
    known = suits and type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu"
    if not known or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
        return _Product.apply(x, weight, bias)  # pyright: ignore[reportReturnType]
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Either matrix may be transposed in memory; other strides are copied."""
    rows = x if x.ndim == 2 and x.t().is_contiguous() else x.contiguous()
    columns = weight if weight.t().is_contiguous() else weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(rows, columns, bias, "none", [], "")


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Both products are ``linear`` again: gradients have gradients."""
        (x, weight), grad = ctx.saved_tensors, grads[0]
        flat = grad.flatten(0, -2)
        return (
            linear(grad, weight.t()) if weight is not None else None,
            linear(flat.t(), x.flatten(0, -2).t()) if x is not None else None,
            flat.sum(0) if ctx.needs_input_grad[2] else None,
        )


class Linear(nn.Linear):
    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; layers that store their weight otherwise say so too."""
        return self.weight.dtype

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Conv1d(nn.Conv1d):
    def reset_parameters(self) -> None:
        """Leave the memory as it is."""
