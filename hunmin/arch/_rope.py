"""Rotary settings as config files write them: version 5 in ``rope_parameters``, version 4 in ``rope_theta`` and ``rope_scaling``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hunmin.arch._rules import Config
from hunmin.errors import ConfigError, say
from hunmin.nn.spec import Rope

KNOWN = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", "attention_factor", "short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "max_position_embeddings"}


def rope(c: Config, layer_type: str | None = None, theta: str = "rope_theta") -> Rope:
    """The rotation that config ``c`` describes, for one ``layer_type`` where kinds of layers differ.

    Raises ConfigError for a type or a setting that is not known: a rotation that is almost right gives text that is almost right.
    """
    old = {"rope_theta": c.get(theta, 10000.0), **(c.get("rope_scaling") or {})}  # read in any case: both spellings may stand in one file
    p: Mapping[str, Any] = c.get("rope_parameters") or old
    if layer_type is not None and isinstance(p.get(layer_type), Mapping):
        p = p[layer_type]
    kind = p.get("rope_type") or p.get("type") or "default"
    kind = "longrope" if kind == "su" else kind  # Phi-3's first name for it
    unknown = sorted(set(p) - ALWAYS - set(KNOWN.get(kind, ())))
    if kind not in KNOWN or unknown:
        what = f"rope_type {kind!r}" if kind not in KNOWN else f"{kind} rope setting {', '.join(unknown)}"
        known = ", ".join(KNOWN)
        raise ConfigError(
            say(
                f"config.json asks for {what}, which Hunmin does not know. Known types: {known}.",
                f"config.json의 {what}은(는) 지원하지 않습니다. 지원하는 rope_type: {known}.",
            )
        )
    limit = c.get("max_position_embeddings") or c.get("n_positions") or 0
    trained = p.get("original_max_position_embeddings") or c.get("original_max_position_embeddings") or limit
    if kind == "dynamic":
        trained = limit
    factor = p.get("factor") or (limit / trained if kind in ("yarn", "longrope") and trained else 1.0)
    by_wavelength = kind == "llama3"
    return Rope(
        theta=float(p["rope_theta"] if p.get("rope_theta") is not None else old["rope_theta"]),
        fraction=float(p.get("partial_rotary_factor") or c.get("partial_rotary_factor") or 1.0),
        kind="wavelength" if by_wavelength else kind,
        factor=float(factor),
        trained=int(trained),
        scale=_temper(kind, p, float(factor), trained),
        slow=float(p.get("low_freq_factor" if by_wavelength else "beta_slow") or 1.0),
        fast=float(p.get("high_freq_factor" if by_wavelength else "beta_fast") or 32.0),
        short=tuple(p.get("short_factor") or ()),
        long=tuple(p.get("long_factor") or ()),
        truncate=bool(p.get("truncate", True)),
    )


def _temper(kind: str, p: Mapping[str, Any], factor: float, trained: int) -> float:
    """What cos and sin are multiplied by: YaRN section 3.4, LongRoPE section 3.3."""
    if kind not in ("yarn", "longrope"):
        return 1.0
    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if factor <= 1.0:
        return 1.0
    if kind == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(trained))
    up, down = p.get("mscale"), p.get("mscale_all_dim")
    log = 0.1 * math.log(factor)
    return (up * log + 1.0) / (down * log + 1.0) if up and down else log + 1.0
