"""Which matrices of a model are rounded, and to what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hunmin.nn.heads import LMHead
from hunmin.quantize import Packed, QuantizedEmbedding, QuantizedLinear, replace
from hunmin.quantize.rounding import fitted
from hunmin.quantize.tiles import GROUP, Kind, Tiles, rounded


@dataclass(frozen=True)
class Plan:
    """``kind`` is for the linear layers outside the head. ``group`` None: 64 columns share a scale at 8 bits and as NF4, 32 at 4.

    ``whole``: of a language model with a decoder the token embeddings and the projection to the vocabulary as well, to 8 bits.
    ``skip``: layers whose canonical names contain one of these stay.
    ``symmetric`` None: four bits with or without minimums, whatever is closer.
    """

    kind: Kind = "int8"
    group: int | None = None
    whole: bool = True
    skip: tuple[str, ...] = ()
    symmetric: bool | None = None

    def kinds(self, model: nn.Module) -> dict[str, Kind]:
        """The layers of a model, also of one on the meta device, and what each is rounded to."""
        language = isinstance(getattr(model, "head", None), LMHead) and getattr(model, "decoder", None) is not None
        found = dict[str, Kind]()
        for name, layer in model.named_modules():
            if any(part in name for part in self.skip):
                continue
            if isinstance(layer, nn.Linear) and not name.startswith("head"):
                found[name] = self.kind
            elif self.whole and language and (name == "head.out" or name.endswith("embed.tokens")):
                found[name] = "int8"
        return found

    def round(self, weight: Tensor, kind: Kind) -> Tiles:
        """A matrix ``(O, K)`` as tiles, quickly: what happens while a file is read."""
        if kind == "int4":
            return fitted(weight, self.group or 32, symmetric=bool(self.symmetric))
        return rounded(weight, kind, self.group or GROUP)


def settle(model: nn.Module, name: str, tiles: Tiles, plan: Plan) -> Packed:
    """Put ``tiles`` in place of the layer ``name``; what is tied to it gets the same. Returns the new layer."""
    old = model.get_submodule(name)
    weight = getattr(old, "weight", None)
    assert isinstance(weight, Tensor)
    dtype = weight.dtype
    for other, layer in [*model.named_modules()]:
        if getattr(layer, "_parameters", {}).get("weight") is not weight:
            continue
        if isinstance(layer, nn.Embedding):
            replace(model, other, QuantizedEmbedding(tiles, dtype))
        else:
            packed = QuantizedLinear(tiles, getattr(layer, "bias", None), dtype, round_inputs=True)
            replace(model, other, packed)
    found = model.get_submodule(name)
    assert isinstance(found, Packed)
    return found


@torch.no_grad()
def describe(model: nn.Module) -> dict[str, object] | None:
    """What a model's packed layers are, for ``config.json``: see docs/quantization.md. None where there are none."""
    layers = [m for m in model.modules() if isinstance(m, Packed)]
    if not layers:
        return None
    inner = [m for m in layers if isinstance(m, QuantizedLinear)] or layers
    kinds = [m.kind for m in inner]
    kind = max(set(kinds), key=kinds.count)
    first = next(m for m in inner if m.kind == kind)
    return {
        "quant_method": "hunmin",
        "format": "tiles-1",
        "kind": kind,
        "bits": 8 if kind == "int8" else 4,
        "group_size": first.tiles.group,
        "round_inputs": any(isinstance(m, QuantizedLinear) and m.round_inputs for m in layers),
    }
