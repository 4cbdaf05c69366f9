"""Building a model from a configuration, filling it from files, and writing it back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.arch import architecture
from hunmin.errors import ConfigError, FormatError, InputError, say, warn_once
from hunmin.hub.check import check, check_values
from hunmin.hub.config import Config
from hunmin.hub.gguf import GGUF
from hunmin.hub.names import Names, Place
from hunmin.hub.stored import OWN, Stored, read
from hunmin.hub.tensors import TensorFile
from hunmin.nn.model import Backbone
from hunmin.quantize import PARTS, Packed, QuantizedEmbedding, QuantizedLinear, replace
from hunmin.quantize.plan import Plan
from hunmin.quantize.tiles import Kind, Tiles

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


TRAIN = "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and inference."


@dataclass
class Report:
    """What did not fit: our names of parameters left fresh, stored names that nothing took, and shapes that differ."""

    missing: list[str] = field(default_factory=list[str])
    unexpected: list[str] = field(default_factory=list[str])
    mismatched: list[tuple[str, torch.Size, torch.Size]] = field(default_factory=list[tuple[str, torch.Size, torch.Size]])
    tiles: dict[str, Tiles] = field(default_factory=dict[str, Tiles])  # weights that stay quantized


def parts(config: Config, task: str) -> tuple[Backbone | None, Backbone | None, nn.Module | None]:
    """Encoder, decoder and head of a model on the current default device. Raises ConfigError when the config does not describe one."""
    arch = architecture(config["model_type"])
    if task not in arch.heads:
        has = ", ".join(f"AutoModelFor{t}" if t != "Model" else "AutoModel" for t in arch.heads)
        raise ConfigError(
            say(
                f"{config['model_type']} has no {task} head. It has: {has}.",
                f"{config['model_type']}에는 {task} 헤드가 없습니다. 사용 가능: {has}.",
            )
        )
    head = arch.heads[task]
    try:
        check_values(config.to_dict())
        for key in arch.partial:
            config.get(key)
        encoder = arch.encoder(config) if arch.encoder else None
        decoder = arch.decoder(config) if arch.decoder and not head.encoder_only else None
        if encoder is not None and encoder.stack.spec.attn.causal:  # BERT as a decoder
            encoder, decoder = None, encoder
        built = encoder, decoder, head.build(config)
        check(*built)
        return built
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError) as error:
        if isinstance(error, ConfigError):
            raise
        cause = " ".join(f"{error}".split())[:200]
        raise ConfigError(
            say(
                f"config.json does not describe a {config['model_type']} model that can be built: {cause}",
                f"config.json의 내용으로는 {config['model_type']} 모델을 만들 수 없습니다: {cause}",
            )
        ) from error


def ties(config: Config, task: str) -> dict[str, str]:
    """Parameters that are one tensor: alias -> the one that is stored."""
    arch = architecture(config["model_type"])
    head = arch.heads[task]
    out = {} if head.encoder_only else dict(arch.tied(config))
    if head.tied and config["tie_word_embeddings"]:
        out["head.out.weight"] = head.tied
    return out


def put(model: nn.Module, name: str, value: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, value)


def tie(model: nn.Module, tied: dict[str, str]) -> None:
    for alias, source in tied.items():
        ends = (model.get_submodule(name.rpartition(".")[0]) for name in (alias, source))
        if not any(isinstance(layer, Packed) for layer in ends):  # those were tied when they were made
            put(model, alias, model.get_parameter(source))


def _std(config: Config, name: str) -> float:
    """The standard deviation of fresh values. Raises ConfigError when the configuration gives none."""
    try:
        std = architecture(config["model_type"]).std(config, name)
        if 0.0 <= std < math.inf:
            return std
        cause = f"{std}"
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, ConfigError):
            raise
        cause = f"{error}"
    raise ConfigError(
        say(
            f"config.json gives no width for the fresh values of {name}: {cause}",
            f"config.json으로 {name}의 초깃값을 정할 수 없습니다: {cause}",
        )
    )


@torch.no_grad()
def initialize(model: nn.Module, config: Config, names: list[str] | None = None) -> None:
    """Fresh values for the named parameters (default: all): normal weights as the architecture asks, zero biases, neutral norms."""
    wanted = set(names) if names is not None else None
    for path, module in model.named_modules():
        for leaf, p in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}"
            if wanted is not None and name not in wanted:
                continue
            if leaf == "bias":
                p.zero_()
            elif p.ndim > 1:
                p.normal_(0.0, _std(config, name))
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    p[module.padding_idx].zero_()
            else:
                p.fill_(1.0 - getattr(module, "offset", 0.0))


def _fill(
    model: nn.Module,
    tensors: TensorFile,
    names: Names,
    where: str,
    dtype: torch.dtype | None,
    device: torch.device | None,
    loose: bool,
    packed: bool,
    plan: Plan | None,
    found: Stored,
) -> tuple[dict[str, nn.Parameter], Report]:
    """Read every stored tensor into its parameters; returns those that were filled.

    ``packed`` leaves quantized matrices of GGUF as they are, ``plan`` rounds matrices, each as it comes; ``found`` are those that were
    stored quantized.
    """
    wanted = dict(model.named_parameters(remove_duplicate=False))
    filled, report = dict[str, nn.Parameter](), Report()
    kinds: dict[str, Kind] = plan.kinds(model) if plan is not None else {}
    _keep(report, {name: tiles for name, tiles in found.tiles.items() if name in wanted}, wanted, where, device)
    for stored in tensors.names():
        if stored in found.used:
            continue
        place = Place((stored.removeprefix(OWN),), stored.removeprefix(OWN)) if stored.startswith(OWN) else names.place(stored)
        if place is not None and not place.names:
            continue  # derived: follows from the config
        if place is None or any(n not in wanted for n in place.names):
            dropped = names.head.encoder_only and place is not None and place.names[0].startswith("decoder.")
            if not dropped and not (place is None and names.elsewhere(stored)):
                report.unexpected.append(stored)  # nobody's, or a layer or a bias that this config has no room for
            continue
        if packed and isinstance(tensors, GGUF) and (parts := tensors.tiles(stored, len(place.names))) is not None:
            made = dict(zip(place.names, parts, strict=True))
            if all(tiles.shape == tuple(wanted[name].shape) for name, tiles in made.items()):
                _keep(report, made, wanted, where, device)
                continue
        rounding: list[Kind | None] = [kinds.get(n.removesuffix(".weight")) if n.endswith(".weight") else None for n in place.names]
        if plan is not None and all(rounding):
            for name, kind, t in zip(place.names, rounding, place.read(tensors.tensor(stored, None)), strict=True):
                check_numbers(t, stored, where)
                if kind is not None and t.ndim == 2:
                    _keep(report, {name: plan.round(t, kind)}, wanted, where, device)
                else:
                    report.mismatched.append((name, t.shape, wanted[name].shape))
            continue
        exact = dtype is torch.float16 and place.names[0].rpartition(".")[0].endswith(names.arch.fp32)
        kept = torch.float32 if exact else dtype
        for name, t in zip(place.names, place.read(tensors.tensor(stored, kept)), strict=True):
            if t.shape != wanted[name].shape:
                report.mismatched.append((name, t.shape, wanted[name].shape))
                continue
            check_numbers(t, stored, where)
            filled[name] = nn.Parameter(t.to(device) if device is not None else t.contiguous())
    if report.mismatched and not loose:
        raise _misfit(report, names, where)
    if dtype is None:
        _unify(filled, names.arch.fp32)
    return filled, report


def _keep(report: Report, made: dict[str, Tiles], wanted: dict[str, nn.Parameter], where: str, device: torch.device | None) -> None:
    """Note tiles that fit the parameters in whose place they stand, and the shapes of those that do not."""
    for name, tiles in made.items():
        if tiles.shape != tuple(wanted[name].shape):
            report.mismatched.append((name, torch.Size(tiles.shape), wanted[name].shape))
            continue
        check_numbers(tiles.scales if tiles.mins is None else torch.stack((tiles.scales, tiles.mins)), name, where)
        report.tiles[name] = tiles.to(device) if device is not None else tiles


def _misfit(report: Report, names: Names, where: str) -> FormatError:
    name, found, built = report.mismatched[0]
    return FormatError(
        say(
            f"{where}: {names.theirs(name)} has shape {tuple(found)}, config.json asks for {tuple(built)}."
            " For a head of another size pass ignore_mismatched_sizes=True.",
            f"{where}: {names.theirs(name)}의 모양은 {tuple(found)}인데 config.json은 {tuple(built)}을(를) 요구합니다."
            " 헤드 크기만 다르면 ignore_mismatched_sizes=True를 쓰세요.",
        )
    )


def _unify(filled: dict[str, nn.Parameter], exact: tuple[str, ...]) -> None:
    """Layers compute in one dtype: where a file holds several, the one of most numbers; what is kept ``exact`` may stay in fp32."""
    kinds = Counter[torch.dtype]()
    for p in filled.values():
        kinds[p.dtype] += p.numel()
    main = max(kinds, key=lambda kind: kinds[kind], default=torch.float32)
    for name, p in filled.items():
        if p.dtype != main and not (p.dtype == torch.float32 and name.rpartition(".")[0].endswith(exact)):
            filled[name] = nn.Parameter(p.detach().to(main))


def load(
    model: nn.Module,
    tensors: TensorFile,
    config: Config,
    task: str,
    where: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    ignore_mismatched_sizes: bool = False,
    packed: bool = False,
    plan: Plan | None = None,
) -> Report:
    """Fill ``model``, built on the meta device, from ``tensors``, one tensor at a time.

    ``packed``: matrices of GGUF stay quantized. ``plan``: matrices are rounded. What a folder keeps quantized
    stays so. A head's weights may be missing: they start fresh. Raises FormatError when the body's are, when shapes differ, or at a NaN.
    """
    names, tied = Names(config, task), ties(config, task)
    settings = config.get("quantization_config")
    found = read(settings, tensors, names, where) if settings else Stored()
    filled, report = _fill(model, tensors, names, where, dtype, device, ignore_mismatched_sizes, packed, plan, found)
    for alias, source in tied.items():  # a file may hold only the alias of a tied pair
        if alias in filled:
            filled.setdefault(source, filled[alias])
    resized = {name for name, _, _ in report.mismatched}
    main = dtype or next((t.dtype for t in filled.values() if t.is_floating_point()), torch.float32)
    told: Mapping[str, Any] = settings if isinstance(settings, Mapping) else {}
    _pack(model, report.tiles, filled, tied, main, bool(told.get("round_inputs", True)))
    everything = dict(model.named_parameters(remove_duplicate=False))
    fresh = [n for n in everything if n not in filled and tied.get(n) not in everything]
    if gone := [n for n in fresh if not n.startswith("head.") and n not in resized]:
        listed = ", ".join(names.theirs(n) for n in gone[:3])
        raise FormatError(
            say(
                f"{where} lacks {len(gone)} weights of the model that its config.json describes ({listed}, …)."
                " The file is incomplete, or not of this model.",
                f"{where}에 config.json이 말하는 모델의 가중치 {len(gone)}개가 없습니다 ({listed}, …). 파일이 불완전하거나 다른 모델의 것입니다.",
            )
        )
    for name in fresh:
        filled[name] = nn.Parameter(torch.empty(everything[name].shape, dtype=main, device=device or "cpu"))
    for name, value in filled.items():
        put(model, name, value)
    tied = {alias: source for alias, source in tied.items() if not {alias, source} & report.tiles.keys()}
    _tie_loaded(model, tied, filled, names, where)
    initialize(model, config, fresh)
    report.missing = [n for n in fresh if n not in resized]
    return report


def _pack(
    model: nn.Module,
    packed: dict[str, Tiles],
    filled: dict[str, nn.Parameter],
    tied: dict[str, str],
    dtype: torch.dtype,
    round_inputs: bool,
) -> None:
    """Put quantized layers where the matrices of ordinary ones would go, and where those that are tied to them are."""
    for alias, source in tied.items():
        if alias in packed and source not in filled:  # a file may hold only the alias
            packed.setdefault(source, packed[alias])
        if source in packed and alias not in filled:
            own, other = packed.setdefault(alias, packed[source]), packed[source]
            if all(torch.equal(getattr(own, part), getattr(other, part)) for part in ("codes", "scales")):
                packed[alias] = other
    for name, tiles in packed.items():
        path = name.rpartition(".")[0]
        if isinstance(model.get_submodule(path), nn.Embedding):
            replace(model, path, QuantizedEmbedding(tiles, dtype))
        else:
            replace(model, path, QuantizedLinear(tiles, filled.get(f"{path}.bias"), dtype, round_inputs=round_inputs))


def _tie_loaded(model: nn.Module, tied: dict[str, str], filled: dict[str, nn.Parameter], names: Names, where: str) -> None:
    """Tie what the config ties, unless the file holds two different tensors: then the file is right."""
    for alias, source in tied.items():
        if alias in filled and source in filled and not torch.equal(filled[alias], filled[source]):
            warn_once(
                say(
                    f"{where}: config.json ties {names.theirs(alias)} to {names.theirs(source)}, but the stored tensors differ; both are kept.",
                    f"{where}: config.json은 {names.theirs(alias)}와(과) {names.theirs(source)}를 묶지만 저장된 값이 달라 따로 둡니다.",
                )
            )
        elif source in filled:
            put(model, alias, model.get_parameter(source))


def check_numbers(t: Tensor, name: str, where: str) -> None:
    """Raise FormatError when ``t`` holds a NaN or an infinity. One pass without a copy: the extremes of a tensor carry its NaNs."""
    if t.dtype not in FLOATS:
        raise FormatError(
            say(
                f"{where}: {name} holds {str(t.dtype).removeprefix('torch.')}, not floating-point numbers that a layer computes with.",
                f"{where}: {name}에 층이 계산에 쓰는 실수가 아니라 {str(t.dtype).removeprefix('torch.')} 값이 들어 있습니다.",
            )
        )
    if t.numel() and not all(bool(x.isfinite()) for x in t.aminmax()):
        raise FormatError(
            say(
                f"{where}: {name} holds a NaN or an infinity. The file is damaged; fetch it again.",
                f"{where}: {name}에 NaN이나 무한대가 있습니다. 손상된 파일이니 다시 받으세요.",
            )
        )


def warn_report(report: Report, names: Names, where: str) -> None:
    """The warnings that the field teaches, word for word, each once."""
    if report.unexpected:
        warn_once(
            f"Some weights of the model checkpoint at {where} were not used when initializing {names.class_name}: {sorted(report.unexpected)}"
        )
    if report.mismatched:
        lines = "\n".join(
            f"- {names.theirs(n)}: found shape {found} in the checkpoint and {built} in the model instantiated"
            for n, found, built in report.mismatched
        )
        warn_once(
            f"Some weights of {names.class_name} were not initialized from the model checkpoint at {where} and are newly initialized because the "
            f"shapes did not match:\n{lines}\n{TRAIN}"
        )
    if report.missing:
        fresh = sorted(names.theirs(n) for n in report.missing)
        warn_once(
            f"Some weights of {names.class_name} were not initialized from the model checkpoint at {where} and are newly initialized: "
            f"{fresh}\n{TRAIN}"
        )


def export(model: nn.Module, config: Config, task: str) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors under the checkpoint's names; tied ones once. The inverse of ``load``.

    Of a model that is spread over processes each tensor is brought together when its turn comes: all of them have to export.
    """
    parameters = dict(model.named_parameters())
    if foreign := [n for n, p in parameters.items() if p.is_meta]:
        raise InputError(
            say(f"{foreign[0]} has no values: the model is on the meta device.", f"{foreign[0]}에 값이 없습니다: meta 장치의 모델입니다.")
        )
    packed = [f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, Packed)]
    tied = ties(config, task)
    for stored, place in Names(config, task).stored([*parameters, *(n for n in packed if n not in tied)]).items():
        if all(n in parameters for n in place.names):
            yield stored, place.write([_together(parameters[n].detach()) for n in place.names])
        else:  # the others of what a checkpoint stores as one tensor are quantized
            yield from ((OWN + n, _together(parameters[n].detach())) for n in place.names if n in parameters)
    yield from _packed_parts(model, tied)


def _packed_parts(model: nn.Module, tied: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of quantized layers under our names; those of a tied pair once."""
    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, Packed)}
    for name, layer in layers.items():
        twin = layers.get(tied.get(name, ""))
        if twin is not None and twin.codes.data_ptr() == layer.codes.data_ptr():
            continue
        for part in (*PARTS, "layout"):
            if (t := getattr(layer, part)) is not None:
                yield f"{OWN}{name.removesuffix('.weight')}.{part}", t


def _together(t: Tensor) -> Tensor:
    return t.full_tensor() if hasattr(t, "full_tensor") else t  # pyright: ignore[reportAttributeAccessIssue]
