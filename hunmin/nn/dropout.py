"""Dropout (Srivastava et al. 2014), whose random numbers are what it costs on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16  # probabilities are multiples of its inverse


def drop(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x with each number zero with probability ``p``, the others larger by what keeps the mean.

    On a CPU a number takes 16 bits of torch's generator; ``F.dropout`` takes 64 and makes a floating-point number of them.
    """
    if not training or not p:
        return x
    dropped = round(p * LEVELS)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < LEVELS:
        return F.dropout(x, p)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = words.view(torch.int16)[: x.numel()].view(x.shape).ge_(dropped - LEVELS // 2)  # in place: an int16 is one or zero then
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
