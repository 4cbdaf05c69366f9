"""PEFT folders: ``adapter_config.json`` and ``adapter_model.safetensors``, read and written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hunmin.adapters import IA3, Copy, LoRA, Part, Prefix, Prompt, Recipe, build_lora
from hunmin.errors import ConfigError, FormatError, SourceError, say
from hunmin.hub.files import Source
from hunmin.hub.guard import about, whole
from hunmin.hub.names import Names, Place
from hunmin.hub.tensors import Safetensors, TorchFile
from hunmin.hub.weights import check_numbers
from hunmin.model import PreTrainedModel
from hunmin.peft import build
from hunmin.peft.config import FILE, IA3Config, LoraConfig, PeftConfig, find, read
from hunmin.peft.names import LINEAR, Site, sites

if TYPE_CHECKING:
    from hunmin.peft.model import PeftModel

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
LORA = {".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "A", ".lora_embedding_B": "B", ".lora_magnitude_vector": "m",
        ".lora_magnitude_vector.weight": "m"}  # fmt: skip
ENDS = {**LORA, ".ia3_l": "l", ".base_layer.weight": "base"}
TWICE = re.compile(r"\.(original_module|modules_to_save)\.")  # what PEFT's wrappers hold, stored again under plain names


# -------------------------------------------------------------- writing


def save(peft: PeftModel, name: str, folder: Path) -> None:
    """Write the adapter ``name`` as a PEFT folder."""
    model, config = peft.base_model, peft.peft_config[name]
    parts, tensors = peft.adapters.at(name), dict[str, Tensor]()
    start = "base_model." if config.is_prompt_learning else "base_model.model."
    adapted, saved = list[Site](), list[Site]()
    for site in sites(model):
        mine = {n: parts[n] for n in site.ours if n in parts}
        if mine:
            (saved if any(isinstance(p, Copy) for p in mine.values()) else adapted).append(site)
            tensors.update({f"{start}{site.theirs}{end}": t for end, t in _stored(model, site, mine)})
    names = Names(model.config, model.task)
    inside = {f"{s.theirs}.bias": f"{s.theirs}.base_layer.bias" for s in adapted}  # where PEFT's wrapper has it
    for stored, place in names.stored(build.biases(model, config, parts)).items():
        tensors[start + inside.get(stored, stored)] = place.write([model.get_parameter(n) for n in place.names])
    virtual = dict(peft.virtual.items()).get(name)
    if isinstance(virtual, Prompt | Prefix):
        tensors["prompt_embeddings"] = virtual.table * _scale(model, virtual)
    with whole(folder / WEIGHTS) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, {"format": "pt"})
    _spelled(model, config, parts, adapted, saved).save_pretrained(folder)


def _scale(model: PreTrainedModel, virtual: Prompt | Prefix) -> float:
    """Prompts of a model that scales its embeddings: PEFT's stand after the scaling, ours before it."""
    backbone = model.encoder or model.decoder
    return backbone.embed.spec.scale if isinstance(virtual, Prompt) and backbone is not None else 1.0


def _stored(model: PreTrainedModel, site: Site, mine: dict[str, Part]) -> Iterator[tuple[str, Tensor]]:
    """(end of the stored name, tensor) for the parts at one site; our layers without a part are left as they are."""
    first = next(iter(mine.values()))
    layers: dict[str, Any] = {n: model.get_submodule(n) for n in site.ours}
    if isinstance(first, Copy):
        names = Names(model.config, model.task)
        for leaf in ("weight", "bias"):
            place = names.place(f"{site.theirs}.{leaf}")
            values = [getattr(part.module, leaf, None) for part in mine.values() if isinstance(part, Copy)]
            if place is not None and all(isinstance(v, Tensor) for v in values):
                yield f".{leaf}", place.write([v for v in values if v is not None])
    elif isinstance(first, IA3):
        inner = first.feedforward
        vectors = [p.ia3_l if isinstance(p := mine.get(n), IA3) else torch.ones(layers[n].out_features) for n in site.ours]
        yield ".ia3_l", vectors[0][None] if inner else torch.cat(vectors)[:, None]
    elif isinstance(first, LoRA):
        loras = [p if isinstance(p := mine.get(n), LoRA) else None for n in site.ours]
        a, b = first.lora_A, torch.cat([_rows(p, first, layers[n]) for n, p in zip(site.ours, loras, strict=True)])
        if first.start_A is not None:
            a = torch.cat([a, first.start_A])
        yield (".lora_embedding_A" if first.tokens else ".lora_A.weight"), a
        yield (".lora_embedding_B" if first.tokens else ".lora_B.weight"), b
        if first.magnitude is not None:
            norms: list[Tensor] = [
                p.magnitude if p is not None and p.magnitude is not None else torch.linalg.vector_norm(layers[n].weight, dim=1)
                for n, p in zip(site.ours, loras, strict=True)
            ]
            yield ".lora_magnitude_vector", torch.cat(norms)


def _rows(part: LoRA | None, first: LoRA, layer: Any) -> Tensor:
    """B of one of our layers, ``(out, r)``: zeros where there is no update; twice as wide where it is counted from its start."""
    b = part.lora_B if part is not None else first.lora_B.new_zeros(layer.out_features, first.lora_B.shape[1])
    if first.start_B is None:
        return b
    return torch.cat([b, -part.start_B if part is not None and part.start_B is not None else torch.zeros_like(b)], 1)


def _spelled(model: PreTrainedModel, config: Any, parts: dict[str, Part], adapted: list[Site], saved: list[Site]) -> PeftConfig:
    """The configuration in Hugging Face's names, with the ranks that the parts have."""
    changes: dict[str, Any] = {"inference_mode": True}
    if saved:
        changes["modules_to_save"] = sorted({_container(s.theirs) for s in saved})
    if hasattr(config, "target_modules"):
        changes |= {"target_modules": _smallest(model, config.target_modules, adapted), "exclude_modules": None}
    if isinstance(config, IA3Config):
        changes["target_modules"] = [s.theirs for s in adapted]  # PEFT looks for the next among these strings
        inner = [s for s in adapted if any(isinstance(p := parts.get(n), IA3) and p.feedforward for n in s.ours)]
        changes["feedforward_modules"] = [s.theirs for s in inner]
    if hasattr(config, "fan_in_fan_out"):
        names = Names(model.config, model.task)
        changes["fan_in_fan_out"] = any((place := names.place(f"{s.theirs}.weight")) is not None and place.flipped for s in adapted)
    if isinstance(config, LoraConfig):
        ranks = {s.theirs: _rank(next(p for n in s.ours if isinstance(p := parts.get(n), LoRA)), config) for s in adapted}
        (r, alpha), _ = Counter(ranks.values()).most_common(1)[0] if ranks else ((config.r, config.lora_alpha), 0)
        changes |= {
            "r": r,
            "lora_alpha": alpha,
            "rank_pattern": {n: own for n, (own, _) in ranks.items() if own != r},
            "alpha_pattern": {n: own for n, (_, own) in ranks.items() if own != alpha},
            "layers_to_transform": None,
            "init_lora_weights": True,
        }
    return replace(config, **changes)


def _rank(part: LoRA, config: LoraConfig) -> tuple[int, float]:
    """Rank and alpha as they are stored; an update that is counted from its start has twice the rank."""
    r = len(part.lora_A) * (1 if part.start_A is None else 2)
    alpha = part.scale * (r**0.5 if config.use_rslora else r)
    return r, int(alpha) if alpha == int(alpha) else alpha


def _container(name: str) -> str:
    """A classifier of several layers is one module to PEFT."""
    words = name.split(".")
    return ".".join(words[: next((i + 1 for i, word in enumerate(words) if word in build.HEADS), len(words))])


def _smallest(model: PreTrainedModel, asked: Any, chosen: list[Site]) -> list[str]:
    """The shortest way to name exactly these layers to PEFT: as asked, by last words, or by whole names."""
    wanted, known = {s.theirs for s in chosen}, [s.theirs for s in sites(model)]
    for names in (asked, sorted({name.rpartition(".")[2] for name in wanted})):
        if isinstance(names, list | set | tuple):
            ends = tuple(f".{name}" for name in names)
            if {name for name in known if f".{name}".endswith(ends)} == wanted:
                return sorted(names)
    return sorted(wanted)


# -------------------------------------------------------------- reading


def load(model: PreTrainedModel, source: Any, trainable: bool, options: dict[str, Any]) -> build.Made:
    """The adapter at ``source``, for ``model``. Raises FormatError when it was made for another model."""
    place = find(source, options)
    with about(place.name):
        return _Reader(model, replace(read(place), inference_mode=not trainable), place).made()


def _tensors(place: Source) -> dict[str, Tensor]:
    for name, kind in ((WEIGHTS, Safetensors), (PICKLE, TorchFile)):
        if path := place.file(name):
            file = kind([path])
            found = {key: file.tensor(key, None) for key in file.names()}
            for key, t in found.items():
                check_numbers(t, key, name)
            return found
    raise SourceError(say(f"{place.name} has no {WEIGHTS}.", f"{place.name}에 {WEIGHTS} 파일이 없습니다."))


class _Reader:
    """One PEFT folder read for one model. Whatever does not fit is collected, and told in one message."""

    def __init__(self, model: PreTrainedModel, config: PeftConfig, place: Source) -> None:
        self.model, self.config, self.tensors = model, config, _tensors(place)
        self.names, self.layers = Names(model.config, model.task), dict(model.named_modules())
        self.parameters = dict(model.named_parameters())
        self.wrong: list[str] = []
        self.changed: list[tuple[Tensor, Tensor]] = []  # of the base, once everything is known to fit

    def made(self) -> build.Made:
        parts = dict[str, Part]()
        for (theirs, ours), held in self._sites().items():
            if "A" in held or "B" in held:
                self._lora(theirs, ours, held, parts)
            elif "l" in held:
                self._ia3(theirs, ours, held["l"], parts)
            else:
                self._whole(theirs, ours, held, parts)
        made = build.Made(self.config, parts)
        if self.config.is_prompt_learning:
            made = self._virtual(parts)
        if self.wrong or not self.tensors:
            self._refuse()
        for old, new in self.changed:
            old.data.copy_(new)
        return made

    def _sites(self) -> dict[tuple[str, tuple[str, ...]], dict[str, Tensor]]:
        """The tensors by the layers that they belong to: (stored name, ours)."""
        out = dict[tuple[str, tuple[str, ...]], dict[str, Tensor]]()
        trained = isinstance(self.config, LoraConfig) and self.config.bias != "none"
        for key, t in self.tensors.items():
            if key == "prompt_embeddings" or TWICE.search(key):
                continue
            if trained and key.endswith(".bias") and f"{key.removesuffix('.bias')}.weight" not in self.tensors:
                self._bias(key, t)
                continue
            end = next((e for e in ENDS if key.endswith(e)), f".{key.rpartition('.')[2]}")
            for prefix in ("base_model.model.", "base_model.", ""):
                theirs = key.removesuffix(end).removeprefix(prefix)
                place = self.names.place(f"{theirs}.weight") if key.startswith(prefix) else None
                ours = tuple(n.removesuffix(".weight") for n in place.names) if place is not None else ()
                if ours and all(n in self.layers for n in ours):
                    out.setdefault((theirs, ours), {})[ENDS.get(end, end[1:])] = t
                    break
            else:
                self.wrong.append(key)
        return out

    def _bias(self, key: str, t: Tensor) -> None:
        """A bias of the base that was trained in place."""
        place = self.names.place(key.replace(".base_layer.", ".").removeprefix("base_model.model."))
        if place is None or any(name not in self.parameters for name in place.names):
            self.wrong.append(key)
            return
        for name, piece in zip(place.names, place.read(t), strict=True):
            if self._fits(key, piece, tuple(self.parameters[name].shape)):
                self.changed.append((self.parameters[name], piece))

    def _fits(self, key: str, t: Tensor, shape: tuple[int, ...]) -> bool:
        if tuple(t.shape) != shape:
            self.wrong.append(f"{key} {tuple(t.shape)} ≠ {shape}")
        return tuple(t.shape) == shape

    def _lora(self, theirs: str, ours: tuple[str, ...], held: dict[str, Tensor], parts: dict[str, Part]) -> None:
        layers: list[Any] = [self.layers[n] for n in ours]
        config, first = self.config, layers[0]
        if not isinstance(config, LoraConfig) or not isinstance(first, build.ADAPTABLE) or not {"A", "B"} <= set(held):
            self.wrong.append(theirs)
            return
        tokens = isinstance(first, nn.Embedding)
        width = first.num_embeddings if tokens else first.in_features
        outs = [layer.embedding_dim if tokens else layer.out_features for layer in layers]
        a, b, m = held["A"], held["B"], held.get("m")
        r = len(a) if a.ndim == 2 and len(a) else -1
        if (
            not self._fits(theirs, a, (r, width))
            or not self._fits(theirs, b, (sum(outs), r))
            or (m is not None and not self._fits(theirs, m, (sum(outs),)))
        ):
            return
        made = build_lora(layers, replace(self._recipe(config, Site(theirs, ours)), r=r, dora=m is not None))
        made[0].lora_A.data.copy_(a)
        for i, (part, piece) in enumerate(zip(made, b.split(outs), strict=True)):
            part.lora_B.data.copy_(piece)
            if m is not None and part.magnitude is not None:
                part.magnitude.data.copy_(m.split(outs)[i])
        parts.update(zip(ours, made, strict=True))
        if "base" in held and self._fits(theirs, held["base"], tuple(first.weight.shape)):
            self.changed.append((first.weight, held["base"]))  # PEFT stores an adapted embedding's own weight, too

    def _recipe(self, config: LoraConfig, site: Site) -> Recipe:
        """Initial values are overwritten, but some of them are what an update is counted from."""
        init = config.init_lora_weights
        if isinstance(init, str) and init not in ("gaussian", "pissa", "olora", "eva", "orthogonal"):
            raise ConfigError(
                say(
                    f"{FILE} says init_lora_weights={init!r}, which also changed the base model. Convert the adapter to plain LoRA with PEFT.",
                    f"{FILE}의 init_lora_weights={init!r}은(는) 원본 모델도 바꾸는 방식입니다. PEFT에서 일반 LoRA로 변환하세요.",
                )
            )
        return build.recipe(replace(config, init_lora_weights=init if init in ("pissa", "olora") else True), site)

    def _ia3(self, theirs: str, ours: tuple[str, ...], vector: Tensor, parts: dict[str, Part]) -> None:
        layers: list[Any] = [self.layers[n] for n in ours]
        if not isinstance(layers[0], LINEAR):
            self.wrong.append(theirs)
            return
        inner = vector.ndim == 2 and vector.shape[0] == 1 and vector.shape[1] == layers[0].in_features
        outs = [layer.in_features if inner else layer.out_features for layer in layers]
        if self._fits(theirs, vector.flatten(), (sum(outs),)):
            for name, layer, piece in zip(ours, layers, vector.flatten().split(outs), strict=True):
                part = IA3(layer, inner)
                part.ia3_l.data.copy_(piece)
                parts[name] = part

    def _whole(self, theirs: str, ours: tuple[str, ...], held: dict[str, Tensor], parts: dict[str, Part]) -> None:
        """A layer that was trained whole."""
        copies = [Copy(self.layers[n]) for n in ours]
        for leaf, t in held.items():
            place: Place | None = self.names.place(f"{theirs}.{leaf}")
            values = place.read(t) if place is not None else [t]
            for copy, value in zip(copies, values, strict=True):
                old: Any = getattr(copy.module, leaf, None)
                if not isinstance(old, Tensor):
                    self.wrong.append(f"{theirs}.{leaf}")
                elif self._fits(f"{theirs}.{leaf}", value, tuple(old.shape)):
                    old.data.copy_(value)
        parts.update(zip(ours, copies, strict=True))

    def _virtual(self, parts: dict[str, Part]) -> build.Made:
        table = self.tensors.get("prompt_embeddings")
        config: Any = self.config
        config, parts, made = build.virtual(
            self.model, replace(config, prompt_tuning_init="RANDOM") if hasattr(config, "prompt_tuning_init") else config, parts
        )
        if table is None or table.ndim != 2:
            self.wrong.append("prompt_embeddings")
        else:
            rows = table[: made.count]  # PEFT has rows for the decoder, too, and does not use them
            if self._fits("prompt_embeddings", rows, tuple(made.table.shape)):
                made.table.data.copy_(rows / _scale(self.model, made))
        return build.Made(config, parts, made)

    def _refuse(self) -> None:
        made_for, few = self.config.base_model_name_or_path or "?", "; ".join(self.wrong[:2])
        kind, count = self.model.config.model_type, f"{len(self.wrong)}/{len(self.tensors)}"
        raise FormatError(
            say(
                f"This adapter was made for another model ({made_for}): {count} of its tensors do not fit this {kind} model, such as {few}.",
                f"다른 모델({made_for})용 어댑터입니다. 텐서 {count}개가 이 {kind} 모델에 맞지 않습니다. 예: {few}.",
            )
        )
