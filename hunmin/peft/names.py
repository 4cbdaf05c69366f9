"""Layers by either name: canonical, or as Hugging Face's checkpoints and PEFT's folders call them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hunmin.errors import InputError, say
from hunmin.hub.names import Names
from hunmin.model import PreTrainedModel
from hunmin.quantize import QuantizedLinear

ALL = "all-linear"
LINEAR = (nn.Linear, QuantizedLinear)


@dataclass(frozen=True)
class Site:
    """One layer of the checkpoint: its name there, and the layers that it is here (a fused projection is several of ours)."""

    theirs: str
    ours: tuple[str, ...]

    def named(self, target: str) -> list[str]:
        """Our layers that ``target`` means: a whole name or the end of one, as theirs or as ours."""
        if _ends(self.theirs, target):
            return list(self.ours)
        return [name for name in self.ours if _ends(name, target)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def sites(model: PreTrainedModel) -> list[Site]:
    """Every layer with a weight."""
    names, found = Names(model.config, model.task), dict[str, Site]()
    for path, layer in model.named_modules():
        if not isinstance(layer, QuantizedLinear) and not hasattr(layer, "weight"):  # asking a packed layer would unpack it
            continue
        theirs = names.theirs(f"{path}.weight").removesuffix(".weight")
        place = names.place(f"{theirs}.weight")
        whole = tuple(n.removesuffix(".weight") for n in place.names) if place is not None else ()
        found.setdefault(theirs if path in whole else path, Site(theirs, whole) if path in whole else Site(path, (path,)))
    return list(found.values())


def pick(model: PreTrainedModel, targets: Any, option: str, layers: tuple[type, ...], exclude: Any = None) -> list[Site]:
    """The layers that ``targets`` name, each site with those of ours that are meant.

    ``targets``: a list of names or ends of names, a regular expression over whole names, or "all-linear" (all but the output layer).
    Raises InputError for one that names nothing, listing what is there, and for a layer that cannot be adapted.
    """
    known, chosen = sites(model), dict[Site, set[str]]()
    if targets == ALL:
        for site in known:
            chosen[site] = {n for n in site.ours if n != "head.out" and isinstance(model.get_submodule(n), LINEAR)}
    elif isinstance(targets, str):
        _search(known, targets, option, chosen)
    else:
        for target in _strings(targets, option):
            hits = {site: set(site.named(target)) for site in known if site.named(target)}
            if not hits:
                raise unknown(model, target, option, layers, known)
            for site, names in hits.items():
                chosen.setdefault(site, set()).update(names)
    if exclude is not None:
        out = dict[Site, set[str]]()
        _search(known, exclude, "exclude_modules", out) if isinstance(exclude, str) else None
        for site in chosen:
            dropped = out.get(site, set()).union(*(site.named(t) for t in exclude if not isinstance(exclude, str)))
            chosen[site] -= dropped
    picked = [Site(s.theirs, tuple(n for n in s.ours if n in names)) for s, names in chosen.items() if names]
    if not picked:
        raise unknown(model, str(targets), option, layers, known)
    for site in picked:
        if not isinstance(layer := model.get_submodule(site.ours[0]), layers):
            raise InputError(
                say(
                    f"{option}: {site.theirs} is a {type(layer).__name__}, which this adapter cannot change.",
                    f"{option}: {site.theirs}은(는) {type(layer).__name__}이라 이 어댑터로 바꿀 수 없습니다.",
                )
            )
    return picked


def _search(known: Iterable[Site], pattern: str, option: str, into: dict[Site, set[str]]) -> None:
    expression = _compiled(pattern, option)
    for site in known:
        hits = site.ours if expression.fullmatch(site.theirs) else [n for n in site.ours if expression.fullmatch(n)]
        if hits:
            into.setdefault(site, set()).update(hits)


def _compiled(pattern: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(
            say(f"{option}: {pattern!r} is not a regular expression: {error}.", f"{option}: {pattern!r}은(는) 정규식이 아닙니다: {error}.")
        ) from None


def _strings(targets: Any, option: str) -> list[str]:
    if not isinstance(targets, Sequence | set | frozenset) or not targets or not all(isinstance(t, str) and t for t in targets):
        raise InputError(
            say(
                f"{option} is a list of layer names, a regular expression or 'all-linear', not {targets!r}.",
                f"{option}는 층 이름의 목록, 정규식 또는 'all-linear'여야 합니다. 받은 값: {targets!r}.",
            )
        )
    return list(targets)


def unknown(model: PreTrainedModel, target: str, option: str, layers: tuple[type, ...], known: Sequence[Site]) -> InputError:
    """What to say when nothing is called ``target``: the ends of the names that there are, theirs and ours."""
    fit = [s for s in known if isinstance(model.get_submodule(s.ours[0]), layers)]
    theirs = sorted({_end(s.theirs) for s in fit})
    ours = sorted({_end(n) for s in fit for n in s.ours} - set(theirs))
    listed = ", ".join(theirs) + (f" (or {', '.join(ours)})" if ours else "")
    return InputError(
        say(
            f"{option}: this {model.config.model_type} model has no layer {target[:80]!r}. It has: {listed}.",
            f"{option}: 이 {model.config.model_type} 모델에는 {target[:80]!r} 층이 없습니다. 있는 층: {listed}.",
        )
    )


def _end(name: str) -> str:
    """The last word of a name, with the one before it where the last alone says little."""
    words = name.split(".")
    return ".".join(words[-2:]) if words[-1] in ("dense", "out", "0") and len(words) > 1 else words[-1]


def layer_index(name: str) -> int | None:
    """The number of the layer that a canonical name stands in."""
    match = re.search(r"\.layers\.(\d+)\.", name)
    return int(match[1]) if match else None


def pattern_value(patterns: dict[str, Any], site: Site, default: Any) -> Any:
    """The value of the first pattern that ends the site's name, as PEFT reads ``rank_pattern``: a regular expression."""
    for key, value in patterns.items():
        expression = _compiled(rf"(.*\.)?({key})", "rank_pattern, alpha_pattern")
        if any(expression.fullmatch(name) for name in (site.theirs, *site.ours)):
            return value
    return default
