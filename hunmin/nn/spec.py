"""The vocabulary of transformers as frozen dataclasses: an architecture is a value of these, and ``layers.py`` builds it.

Every field serves at least two architectures; an oddity of one belongs into that architecture's own file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


def _same(index: int, attn: Attn) -> Attn:
    return attn


@dataclass(frozen=True)
class Norm:
    """Layer norm (Ba et al. 2016) or RMS norm (Zhang & Sennrich 2019)."""

    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-5
    offset: float = 0.0  # some checkpoints store the weight minus one


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021, eq. 34) and the ways to stretch them past the trained length."""

    theta: float = 10000.0
    fraction: float = 1.0  # the share of the head that turns
    kind: Literal["default", "linear", "dynamic", "yarn", "longrope", "wavelength"] = "default"
    factor: float = 1.0
    trained: int = 0  # positions seen in training before the stretching
    scale: float = 1.0  # multiplies cos and sin (YaRN and LongRoPE temper attention)
    slow: float = 1.0  # turns over the trained length below which a pair is stretched in full
    fast: float = 32.0  # … and above which it is left alone
    short: tuple[float, ...] = ()  # longrope factors up to `trained` positions
    long: tuple[float, ...] = ()  # longrope factors beyond
    truncate: bool = True  # yarn: round the correction range to whole dimensions

    @property
    def by_length(self) -> bool:
        """Whether the angles of a token depend on how long its sequence is. Cached keys keep the angles they got, as in the reference."""
        return self.kind in ("dynamic", "longrope")


@dataclass(frozen=True)
class Buckets:
    """Relative position buckets (Raffel et al. 2020, section 2.1): one learned bias a head and a distance class."""

    count: int
    max_distance: int


@dataclass(frozen=True)
class Attn:
    """One attention: MHA, GQA or MQA by the number of key/value heads."""

    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    bias: str = "qkvo"  # which of the four projections carry a bias
    causal: bool = False
    window: int | None = None  # a query sees this many keys at most, itself included
    scale: float | None = None  # None: head_dim ** -0.5
    softcap: float | None = None
    rope: Rope | None = None
    qk_norm: Norm | None = None  # over each head's width, before the rotation
    dropout: float = 0.0


@dataclass(frozen=True)
class FFN:
    """Feed-forward network, gated (GLU, Shazeer 2020) or plain."""

    width: int
    act: str = "gelu"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0  # between the two projections


@dataclass(frozen=True)
class Stack:
    """A column of layers: an encoder or a decoder without its embedding."""

    width: int
    layers: int
    attn: Attn
    ffn: FFN
    norm: Norm
    order: Literal["pre", "post", "sandwich"] = "pre"
    cross: Attn | None = None
    final_norm: bool = True
    buckets: Buckets | None = None  # owned by the stack, shared by its layers
    shared: int | None = None  # this many sets of weights serve all layers
    vary: Callable[[int, Attn], Attn] = _same  # the attention of layer i, where layers differ
    dropout: float = 0.0  # on each sublayer's output
    final_dropout: float = 0.0
    layer_drop: float = 0.0  # skip a whole layer this often in training (Fan et al. 2019)


@dataclass(frozen=True)
class Embed:
    """Token embedding with optional positions, segment types, norm and projection."""

    vocab: int
    width: int
    positions: int | None = None
    offset: int = 0  # rows of the position table before position 0
    sinusoid: Literal["halves", "fairseq"] | None = None  # positions are computed (Vaswani et al. 2017, section 3.5), in two traditions
    types: int | None = None
    norm: Norm | None = None
    project: int | None = None
    scale: float = 1.0
    dropout: float = 0.0
    pad: int | None = None  # this row starts at zero and receives no gradient
