"""Whether blocks can be computed as a configuration describes them, looked at before anything is allocated or run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from hunmin.nn.attention import Attention
from hunmin.nn.model import Backbone
from hunmin.nn.spec import Attn, Buckets, Rope

LARGEST = 1 << 31  # no count in a configuration is that large
MOST_LAYERS = 1024


def check_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError for more layers than any model has, for token ids that are none, and for unknown kinds of layers."""
    for key, value in values.items():
        if key.endswith(("layers", "layer", "groups")) and isinstance(value, int | float) and not value <= MOST_LAYERS:
            raise ValueError(f"{key} is {value}")
        ids = value if isinstance(value, list) else [value]
        if key.endswith("_token_id") and not all(i is None or (type(i) is int and abs(i) < LARGEST) for i in ids):
            raise ValueError(f"{key} is {value!r}"[:200])
    kinds = values.get("layer_types")
    if kinds and (len(kinds) != values["num_hidden_layers"] or not set(kinds) <= {"full_attention", "sliding_attention"}):
        raise ValueError(f"layer_types is {kinds!r}"[:200])


def check(*parts: nn.Module | None) -> None:
    """Raise ValueError (or TypeError) when the specs of these backbones and heads contradict themselves."""
    for module in (m for part in parts if part is not None for m in part.modules()):
        if isinstance(module, Backbone):
            embed, stack = module.embed.spec, module.stack.spec
            _kinds(embed)
            _kinds(stack)
            _ask(embed.vocab > 0 and embed.width > 0 and stack.shared != 0, "a vocabulary, a width and layers that are not empty")
            _ask((embed.project or embed.width) == stack.width, f"an embedding as wide as the layers, {stack.width}")
            if stack.buckets:
                _buckets(stack.buckets, stack.attn.causal)
        elif isinstance(module, Attention):
            _attention(module.spec, module.o.out_features, module.dim)
        dropout: Any = getattr(module, "dropout", 0.0)
        _ask(all(0.0 <= p <= 1.0 for p in (dropout if isinstance(dropout, tuple) else (dropout,))), "dropouts between 0 and 1")
        _ask(isinstance(getattr(module, "end", None), int | None), "one eos_token_id")
        softcap: Any = getattr(module, "softcap", None)
        _ask(softcap is None or (type(softcap) in (int, float) and 0 <= softcap < math.inf), "a softcap that is a number")


def _ask(fine: bool, wanted: str) -> None:
    if not fine:
        raise ValueError(f"it needs {wanted}")


def _kinds(spec: Any) -> None:
    """Counts are whole numbers that are not negative, factors are finite: for every field of a spec and of those inside it."""
    for field in fields(spec):
        value, kind = getattr(spec, field.name), str(field.type)
        if value is None:
            _ask("None" in kind, f"a value for {field.name}")
        elif is_dataclass(value):
            _kinds(value)
        elif kind.startswith("int"):
            _ask(type(value) is int and 0 <= value < LARGEST, f"a count for {field.name}, not {value!r}"[:120])
        elif kind.startswith(("float", "tuple")):
            numbers = value if isinstance(value, tuple) else (value,)
            _ask(all(type(x) in (int, float) and math.isfinite(x) for x in numbers), f"a number for {field.name}, not {value!r}"[:120])
            share = field.name in ("eps", "dropout", "final_dropout", "layer_drop")
            _ask(not share or all(0 <= x <= 1 for x in numbers), f"{field.name} from 0 to 1")


def _attention(spec: Attn, width: int, dim: int) -> None:
    _kinds(spec)
    heads, groups = spec.heads, spec.kv_heads or spec.heads
    _ask(
        heads > 0 and dim > 0 and (spec.head_dim is not None or heads * dim == width),
        f"a number of heads that divides {width}, not {heads}",
    )
    _ask(heads % groups == 0, f"key/value heads that divide the {heads} heads, not {groups}")
    _ask(spec.window is None or spec.window > 0, "a sliding window above 0")
    _ask(spec.softcap is None or spec.softcap > 0, "a softcap above 0")
    if spec.rope:
        _rope(spec.rope, dim)


def _rope(rope: Rope, dim: int) -> None:
    turned = int(dim * rope.fraction)
    _ask(0 < turned <= dim and turned % 2 == 0, f"an even number of rotated dimensions, not {turned} of {dim}")
    _ask(rope.theta > 1 and rope.factor > 0 and rope.slow > 0 and rope.fast > 0, "positive rope settings and rope_theta above 1")
    _ask(rope.kind in ("default", "linear") or rope.trained > 0, "original_max_position_embeddings")
    _ask(rope.kind != "wavelength" or rope.slow < rope.fast, "low_freq_factor below high_freq_factor")
    _ask(rope.kind != "dynamic" or turned > 2, "more than two rotated dimensions")
    if rope.kind == "longrope":
        good = all(len(f) == turned // 2 and min(f) > 0 for f in (rope.short, rope.long))
        _ask(good, f"{turned // 2} positive numbers in short_factor and in long_factor")


def _buckets(buckets: Buckets, causal: bool) -> None:
    exact = buckets.count // (2 if causal else 4)
    _ask(exact > 0 and buckets.max_distance > exact, "relative attention buckets for small distances and for large ones")
