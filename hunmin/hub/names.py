"""An architecture's rules applied: checkpoint names to ours and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hunmin.arch import FAMILIES, architecture
from hunmin.arch._rules import Config, Derived, Flip, Row, Rule, Rules, Split

LEGACY = {"gamma": "weight", "beta": "bias"}  # TensorFlow checkpoints of 2018 call a norm's parameters so


def targets(rule: Rule) -> tuple[str, ...]:
    match rule:
        case str():
            return (rule,)
        case Split():
            return rule.to
        case Flip() | Row():
            return (rule.to,)
        case _:
            return ()


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\*", r"(\d+)"))


def _fill(template: str, ids: Iterable[str]) -> str:
    for i in ids:
        template = template.replace("*", i, 1)
    return template


@dataclass(frozen=True)
class Place:
    """Where a stored tensor goes: our full parameter names, and how to cut and turn it."""

    names: tuple[str, ...]
    rule: Rule

    def read(self, t: Tensor) -> list[Tensor]:
        """The stored tensor as ours, one for each name."""
        t = t.T if self.flipped and t.ndim == 2 else t
        t = t.flatten() if isinstance(self.rule, Row) else t
        return list(t.tensor_split(len(self.names))) if isinstance(self.rule, Split) and t.ndim else [t] * len(self.names)

    def write(self, parts: list[Tensor]) -> Tensor:
        """Ours as the stored tensor; the inverse of ``read``."""
        t = torch.cat(parts) if isinstance(self.rule, Split) else parts[0]
        t = t[None] if isinstance(self.rule, Row) else t
        return t.T if self.flipped and t.ndim == 2 else t

    @property
    def flipped(self) -> bool:
        return isinstance(self.rule, Flip) or (isinstance(self.rule, Split) and self.rule.flip)


class Names:
    """The names of one model: an architecture, a configuration and a task."""

    def __init__(self, config: Config, task: str) -> None:
        model_type = config["model_type"]
        self.arch = architecture(model_type)
        self.head = self.arch.heads[task]
        stem = FAMILIES[model_type][1]
        self.class_name = self.head.name.format(stem)
        self.prefix = self.arch.prefix if self.head.prefix is None else self.head.prefix
        self._body_prefix = "" if task == "Model" else self.prefix  # the bare body is saved without its prefix
        body: Rules = {**self.arch.rules(config), **self.head.body}
        self._own = [(self._body_prefix, name, rule) for name, rule in body.items()]
        self._own += [("", name, rule) for name, rule in self.head.named(config).items()]
        self._compiled = [(_pattern(name), rule) for _, name, rule in self._own]
        others = {name: rule for head in self.arch.heads.values() for name, rule in {**head.body, **head.named(config)}.items()}
        self._elsewhere = [(_pattern(name), rule) for name, rule in others.items()]

    def _candidates(self, name: str) -> Iterator[tuple[str, str]]:
        """(path, leaf) readings of a stored name: with and without prefix, as a module's leaf and as a bare parameter."""
        for prefix in dict.fromkeys(("", self.prefix, self.arch.prefix)):
            if name.startswith(prefix):
                path = name[len(prefix) :]
                module, _, leaf = path.rpartition(".")
                yield path, ""
                yield module, LEGACY.get(leaf, leaf)

    def _find(self, name: str, table: list[tuple[re.Pattern[str], Rule]]) -> Place | None:
        for path, leaf in self._candidates(name):
            for pattern, rule in table:
                if match := pattern.fullmatch(path):
                    ends = f".{leaf}" if leaf else ""
                    return Place(tuple(_fill(to, match.groups()) + ends for to in targets(rule)), rule)
        return None

    def place(self, name: str) -> Place | None:
        """Where the stored tensor ``name`` goes; a Place without names for one that is derived; None when no rule knows it."""
        return self._find(name, self._compiled)

    def elsewhere(self, name: str) -> bool:
        """Whether ``name`` belongs to another head of this architecture."""
        return self._find(name, self._elsewhere) is not None

    def stored(self, parameters: Iterable[str]) -> dict[str, Place]:
        """The checkpoint's name for our ``parameters``, and how to make its tensor: the same table read backwards."""
        left, out = dict.fromkeys(parameters), dict[str, Place]()
        for prefix, theirs, rule in self._own:
            if isinstance(rule, Derived):
                continue
            first = _pattern(targets(rule)[0])
            for name in list(left):
                module, _, leaf = name.rpartition(".")
                match = first.fullmatch(module) or first.fullmatch(name)
                if name not in left or match is None:
                    continue
                ends = f".{leaf}" if match.string == module else ""
                ours = tuple(_fill(to, match.groups()) + ends for to in targets(rule))
                for n in ours:
                    left.pop(n, None)
                out[prefix + _fill(theirs, match.groups()) + ends] = Place(ours, rule)
        assert not left, f"no rule writes {sorted(left)}"
        return out

    def theirs(self, name: str) -> str:
        """The checkpoint's name of one of our parameters, for messages."""
        module, _, leaf = name.rpartition(".")
        for prefix, theirs, rule in self._own:
            for ours in map(_pattern, targets(rule)):
                if match := ours.fullmatch(module):
                    return f"{prefix}{_fill(theirs, match.groups())}.{leaf}"
                if match := ours.fullmatch(name):
                    return prefix + _fill(theirs, match.groups())
        return name


def table(config: Mapping[str, Any], task: str) -> list[tuple[str, str]]:
    """(checkpoint path, our path or "derived") of every rule, for people."""
    names = Names(config, task)
    return [(prefix + theirs, ", ".join(targets(rule)) or "(derived)") for prefix, theirs, rule in names._own]  # pyright: ignore[reportPrivateUsage]
