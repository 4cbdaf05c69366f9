"""What an architecture file says: a configuration becomes blocks, and checkpoint names become ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hunmin.arch._rules import Config, Rules
from hunmin.errors import ConfigError, say
from hunmin.nn.model import Backbone


@dataclass(frozen=True)
class Head:
    """One task of an architecture.

    ``name`` is the class name in ``config.json``, with ``{}`` for the family; ``rules`` are the names of the head's own tensors, ``body``
    those that stand under the body's prefix although the head owns them here (a pooler). ``tied`` lists the embeddings that the output
    projection may share, in order of preference; ``encoder_only`` drops the decoder; ``prefix`` replaces the architecture's.
    """

    name: str
    build: Callable[[Config], nn.Module | None]
    rules: Rules | Callable[[Config], Rules] = field(default_factory=dict)
    body: Rules = field(default_factory=dict)
    tied: str | None = None
    prefix: str | None = None
    encoder_only: bool = False

    def named(self, c: Config) -> Rules:
        """The rules of the head's own tensors."""
        return self.rules(c) if callable(self.rules) else self.rules


@dataclass(frozen=True)
class Arch:
    """An architecture: configuration -> backbones, names -> names, and its heads by task."""

    prefix: str
    defaults: Mapping[str, Any]
    rules: Callable[[Config], Rules]
    heads: Mapping[str, Head]
    encoder: Callable[[Config], Backbone] | None = None
    decoder: Callable[[Config], Backbone] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)  # the field's usual config names -> this family's
    tied: Callable[[Config], Mapping[str, str]] = lambda c: {}  # parameters that are one, besides the head's
    wraps: bool = False  # the last label (a language code) starts the decoder, in place of decoder_start_token_id
    fp32: tuple[str, ...] = ()  # ends of module names that stay in fp32 when the model is loaded in fp16
    partial: tuple[str, ...] = ()  # config keys that only some of the tasks read
    std: Callable[[Config, str], float] = lambda c, name: float(c["initializer_range"])  # of fresh weights, by canonical name


def refuse(c: Config, **allowed: Any) -> None:
    """Raise ConfigError when a config key has a value that would need code which does not exist. A tuple lists several allowed values."""
    for key, good in allowed.items():
        value, good = c.get(key), good if isinstance(good, tuple) else (good,)
        if value is not None and value not in good:
            wanted = " or ".join(repr(g) for g in good)
            raise ConfigError(
                say(
                    f"config.json says {key}={value!r}, which Hunmin cannot compute for model_type {c.get('model_type')!r} (only {wanted}).",
                    f"config.json의 {key}={value!r}은(는) model_type {c.get('model_type')!r}에서 계산할 수 없습니다 (가능한 값: {wanted}).",
                )
            )
