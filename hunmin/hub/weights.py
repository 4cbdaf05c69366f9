"""Building a model from a configuration, filling it from files, and writing it back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hunmin.arch import architecture
from hunmin.errors import ConfigError, FormatError, InputError, say, warn_once
from hunmin.hub.check import check, check_values
from hunmin.hub.config import Config
from hunmin.hub.gguf import GGUF
from hunmin.hub.names import Names
from hunmin.hub.tensors import TensorFile
from hunmin.nn.model import Backbone
from hunmin.quantize import QuantizedEmbedding, QuantizedLinear, replace
from hunmin.quantize.tiles import Tiles

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
        if not isinstance(model.get_submodule(source.rpartition(".")[0]), QuantizedEmbedding):  # tied when it was loaded
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
) -> tuple[dict[str, nn.Parameter], Report]:
    """Read every stored tensor into its parameters; returns those that were filled. ``packed`` leaves quantized matrices as they are."""
    wanted = dict(model.named_parameters(remove_duplicate=False))
    filled, report = dict[str, nn.Parameter](), Report()
    for stored in tensors.names():
        place = names.place(stored)
        if place is not None and not place.names:
            continue  # derived: follows from the config
        if place is None or any(n not in wanted for n in place.names):
            dropped = names.head.encoder_only and place is not None and place.names[0].startswith("decoder.")
            if not dropped and not (place is None and names.elsewhere(stored)):
                report.unexpected.append(stored)  # nobody's, or a layer or a bias that this config has no room for
            continue
        if packed and isinstance(tensors, GGUF) and (parts := tensors.tiles(stored, len(place.names))) is not None:
            if all(part.shape == wanted[name].shape for name, part in zip(place.names, parts, strict=True)):
                for name, part in zip(place.names, parts, strict=True):
                    check_numbers(part.scales, stored, where)
                    report.tiles[name] = part
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
        name, found, built = report.mismatched[0]
        raise FormatError(
            say(
                f"{where}: {names.theirs(name)} has shape {tuple(found)}, config.json asks for {tuple(built)}."
                " For a head of another size pass ignore_mismatched_sizes=True.",
                f"{where}: {names.theirs(name)}의 모양은 {tuple(found)}인데 config.json은 {tuple(built)}을(를) 요구합니다."
                " 헤드 크기만 다르면 ignore_mismatched_sizes=True를 쓰세요.",
            )
        )
    if dtype is None:
        _unify(filled, names.arch.fp32)
    return filled, report


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
) -> Report:
    """Fill ``model``, built on the meta device, from ``tensors``, one tensor at a time. ``packed``: matrices stay quantized.

    A head's weights may be missing: they start fresh. Raises FormatError when the body's are, when shapes differ, or at a NaN.
    """
    names, tied = Names(config, task), ties(config, task)
    filled, report = _fill(model, tensors, names, where, dtype, device, ignore_mismatched_sizes, packed)
    for alias, source in tied.items():  # a file may hold only the alias of a tied pair
        if alias in filled:
            filled.setdefault(source, filled[alias])
    resized = {name for name, _, _ in report.mismatched}
    _pack(model, report.tiles, filled, tied, dtype or torch.float32)
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
    stored = next((t.dtype for t in filled.values() if t.is_floating_point()), torch.float32)
    for name in fresh:
        filled[name] = nn.Parameter(torch.empty(everything[name].shape, dtype=dtype or stored, device=device or "cpu"))
    for name, value in filled.items():
        put(model, name, value)
    tied = {alias: source for alias, source in tied.items() if source not in report.tiles}
    _tie_loaded(model, tied, filled, names, where)
    initialize(model, config, fresh)
    report.missing = [n for n in fresh if n not in resized]
    return report


def _pack(model: nn.Module, packed: dict[str, Tiles], filled: dict[str, nn.Parameter], tied: dict[str, str], dtype: torch.dtype) -> None:
    """Put quantized layers where the matrices of ordinary ones would go, and where those that are tied to them are."""
    for alias, source in tied.items():
        if source in packed and alias not in filled:
            packed.setdefault(alias, packed[source])
    for name, tiles in packed.items():
        path = name.rpartition(".")[0]
        if isinstance(model.get_submodule(path), nn.Embedding):
            replace(model, path, QuantizedEmbedding(tiles, dtype))
        else:
            replace(model, path, QuantizedLinear(tiles, filled.get(f"{path}.bias"), dtype, round_inputs=True))


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
    for stored, place in Names(config, task).stored(parameters).items():
        yield stored, place.write([_together(parameters[n].detach()) for n in place.names])


def _together(t: Tensor) -> Tensor:
    return t.full_tensor() if hasattr(t, "full_tensor") else t  # pyright: ignore[reportAttributeAccessIssue]
