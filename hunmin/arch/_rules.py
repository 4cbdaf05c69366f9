"""Rules: how names in a checkpoint and ours correspond, in both directions.

A rule maps a module path of the checkpoint to ours; the leaf (``weight``, ``bias``, …) passes through, and ``*`` is a layer index. A path may
also name a bare parameter. Where several names of the checkpoint mean one of ours, the first is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Flip:
    """The stored weight is ``(in, out)``, the transpose of a linear layer's."""

    to: str


@dataclass(frozen=True)
class Split:
    """One stored tensor holds several of ours, one after another along the outputs. ``flip`` as in ``Flip``."""

    to: tuple[str, ...]
    flip: bool = False


@dataclass(frozen=True)
class Row:
    """The stored tensor has a leading dimension of one that ours lacks."""

    to: str


class Derived:
    """A stored tensor that follows from the configuration, like a causal mask or rotary frequencies: not read, not written."""


DERIVED = Derived()
Rule = str | Flip | Row | Split | Derived
Rules = Mapping[str, Rule]
Config = Mapping[str, Any]


def under(theirs: str, ours: str, rules: Rules) -> Rules:
    """The same rules one level down on both sides, so one layer table serves every stack."""

    def lower(rule: Rule) -> Rule:
        match rule:
            case str():
                return f"{ours}.{rule}"
            case Flip() | Row():
                return replace(rule, to=f"{ours}.{rule.to}")
            case Split():
                return replace(rule, to=tuple(f"{ours}.{to}" for to in rule.to))
            case _:
                return rule

    return {f"{theirs}.{name}": lower(rule) for name, rule in rules.items()}
