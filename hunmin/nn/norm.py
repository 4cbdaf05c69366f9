"""Normalization over the last dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hunmin.nn.spec import Norm


class RMSNorm(nn.Module):
    """x / rms(x) * (weight + offset), computed in fp32 (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, width: int, eps: float, offset: float) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = nn.Parameter(torch.full((width,), 1.0 - offset)), eps, offset

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float() + self.offset if self.offset else self.weight.float()
        return F.rms_norm(x.float(), weight.shape, weight, self.eps).to(self.weight.dtype)


def build_norm(spec: Norm, width: int) -> nn.Module:
    return nn.LayerNorm(width, spec.eps) if spec.kind == "layer" else RMSNorm(width, spec.eps, spec.offset)
