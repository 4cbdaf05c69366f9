"""Layers without initial values: those come from a file or from ``initialize``, and drawing them twice costs seconds."""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Linear):
    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; layers that store their weight otherwise say so too."""
        return self.weight.dtype

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Conv1d(nn.Conv1d):
    def reset_parameters(self) -> None:
        """Leave the memory as it is."""
