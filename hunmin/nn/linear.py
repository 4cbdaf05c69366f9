"""Layers without initial values: those come from a file or from ``initialize``, and drawing them twice costs seconds."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Conv1d(nn.Conv1d):
    def reset_parameters(self) -> None:
        """Leave the memory as it is."""
