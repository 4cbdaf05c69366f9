"""Configurations of adapters, under PEFT's names; ``adapter_config.json`` holds one."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hunmin.auto import SOURCE_OPTIONS
from hunmin.errors import ConfigError, InputError, say
from hunmin.hub.config import read_json
from hunmin.hub.files import Source, resolve
from hunmin.hub.guard import about, whole

FILE = "adapter_config.json"
# Keys of PEFT's files that change no result here: bookkeeping, and settings of features that other keys switch on.
HARMLESS = {"auto_mapping", "peft_version", "runtime_config", "megatron_core", "qalora_group_size", "fan_in_fan_out", "ensure_weight_tying",
            "prefix_projection", "encoder_hidden_size", "init_weights", "tokenizer_kwargs", "inference_mode"}  # fmt: skip
MEMORY = ("torch_device", "low_cpu_mem_usage", "autocast_adapter_dtype", "ephemeral_gpu_offload")
T = TypeVar("T")


class TaskType(StrEnum):
    """What a model is trained for; decides which head is trained with the adapter, and how labels meet virtual tokens."""

    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


class PeftType(StrEnum):
    LORA = "LORA"
    IA3 = "IA3"
    PROMPT_TUNING = "PROMPT_TUNING"
    PREFIX_TUNING = "PREFIX_TUNING"


class PromptTuningInit(StrEnum):
    """What a prompt starts from: noise, tokens of the vocabulary, or a text."""

    RANDOM = "RANDOM"
    SAMPLE_VOCAB = "SAMPLE_VOCAB"
    TEXT = "TEXT"


TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "None": (type(None),),
                                      "list": (list, tuple, set), "dict": (dict,), "TaskType": (TaskType,)}  # fmt: skip


def _is(value: Any, kind: str) -> bool:
    """Whether a value is of the annotated type, down to the items of a list and the values of a dict."""
    outer, _, inner = kind.partition("[")
    if not isinstance(value, TYPES[outer]) or (isinstance(value, bool) and outer != "bool"):
        return False
    items: Any = value.values() if isinstance(value, dict) else value
    return not inner or all(_is(item, inner.rstrip("]").rpartition(", ")[2]) for item in items)


def checked(cls: type[T]) -> type[T]:
    """Unknown options are errors that name the known ones, and so are values of another type than the annotated."""
    build: Callable[..., None] = cls.__init__
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(build)
    def init(self: Any, *args: Any, **options: Any) -> None:
        if wrong := [name for name in options if name not in known]:
            raise InputError(
                say(
                    f"{cls.__name__} has no option {wrong[0]!r}. It has: {', '.join(known)}.",
                    f"{cls.__name__}에 {wrong[0]!r} 옵션이 없습니다. 있는 옵션: {', '.join(known)}.",
                )
            )
        build(self, *args, **options)
        for f in dataclasses.fields(self):
            value, kinds = getattr(self, f.name), str(f.type).split(" | ")
            if not any(_is(value, kind) for kind in kinds):
                raise InputError(
                    say(
                        f"{cls.__name__}: {f.name} is {' or '.join(kinds)}, not {str(value)[:60]!r}.",
                        f"{cls.__name__}: {f.name}의 형식은 {' 또는 '.join(kinds)}이어야 합니다. 받은 값: {str(value)[:60]!r}.",
                    )
                )

    cls.__init__ = init
    return cls


def find(source: Any, options: dict[str, Any]) -> Source:
    """The folder that ``source`` names. Raises InputError for options that are not about places; PEFT's about memory change nothing."""
    given = {k: v for k, v in options.items() if k not in MEMORY}
    if wrong := [k for k in given if k not in SOURCE_OPTIONS]:
        known = ", ".join(SOURCE_OPTIONS)
        raise InputError(
            say(
                f"from_pretrained has no option {wrong[0]!r}. It has: {known}.",
                f"from_pretrained에 {wrong[0]!r} 옵션이 없습니다. 있는 옵션: {known}.",
            )
        )
    return resolve(source, **given)


@dataclass
class PeftConfig:
    """What all adapters share; :meth:`from_pretrained` reads any kind."""

    peft_type: ClassVar[PeftType]
    task_type: TaskType | str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        if self.task_type is not None and self.task_type not in list(TaskType):
            raise InputError(
                say(
                    f"task_type {self.task_type!r} is unknown; use one of {', '.join(TaskType)}.",
                    f"task_type {self.task_type!r}을(를) 알 수 없습니다. 가능한 값: {', '.join(TaskType)}.",
                )
            )
        self.task_type = TaskType(self.task_type) if self.task_type is not None else None

    @property
    def is_prompt_learning(self) -> bool:
        return self.peft_type in (PeftType.PROMPT_TUNING, PeftType.PREFIX_TUNING)

    def to_dict(self) -> dict[str, Any]:
        return {"peft_type": str(self.peft_type), **dataclasses.asdict(self)}

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``adapter_config.json``."""
        values = {k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in self.to_dict().items()}  # pyright: ignore
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        with whole(Path(save_directory) / FILE) as part:
            part.write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> PeftConfig:
        """The configuration in a PEFT folder. Raises SourceError, FormatError, or ConfigError for what cannot be computed."""
        place = find(pretrained_model_name_or_path, options)
        with about(place.name):
            return read(place)


@checked
@dataclass
class LoraConfig(PeftConfig):
    """LoRA (Hu et al. 2021); ``use_rslora`` (Kalajdzievski 2023), ``use_dora`` (Liu et al. 2024), ``init_lora_weights`` "pissa" and "olora".

    ``target_modules``: names or ends of names, Hugging Face's or canonical, a regular expression, or "all-linear"; default: q and v.
    """

    peft_type: ClassVar[PeftType] = PeftType.LORA
    r: int = 8
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False  # read and ignored: our layers know how they are stored
    bias: str = "none"
    use_rslora: bool = False
    init_lora_weights: bool | str = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None  # read and ignored: canonical names say what a layer is
    rank_pattern: dict[str, int] = field(default_factory=dict[str, int])
    alpha_pattern: dict[str, float] = field(default_factory=dict[str, float])
    use_dora: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bias not in ("none", "all", "lora_only"):
            raise InputError(
                say(
                    f"bias is 'none', 'all' or 'lora_only', not {self.bias!r}.",
                    f"bias는 'none', 'all', 'lora_only' 중 하나입니다: {self.bias!r}.",
                )
            )


@checked
@dataclass
class IA3Config(PeftConfig):
    """(IA)^3 (Liu et al. 2022). Default: keys and values, and the second layer of the feed-forward, which scales its input."""

    peft_type: ClassVar[PeftType] = PeftType.IA3
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    feedforward_modules: list[str] | str | None = None
    fan_in_fan_out: bool = False  # as above
    init_ia3_weights: bool = True


@dataclass
class VirtualConfig(PeftConfig):
    """Virtual tokens. The numbers that follow from the model are filled in when the adapter is made."""

    num_virtual_tokens: int = 20
    token_dim: int | None = None
    num_transformer_submodules: int | None = None
    num_attention_heads: int | None = None
    num_layers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.num_virtual_tokens, int) and self.num_virtual_tokens < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                say(
                    f"num_virtual_tokens is one or more, not {self.num_virtual_tokens}.",
                    f"num_virtual_tokens는 1 이상이어야 합니다: {self.num_virtual_tokens}.",
                )
            )


@checked
@dataclass
class PromptTuningConfig(VirtualConfig):
    """Prompt tuning (Lester et al. 2021). ``prompt_tuning_init``: RANDOM, SAMPLE_VOCAB, or TEXT with its text and tokenizer."""

    peft_type: ClassVar[PeftType] = PeftType.PROMPT_TUNING
    prompt_tuning_init: str = PromptTuningInit.RANDOM
    prompt_tuning_init_text: str | None = None
    tokenizer_name_or_path: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_tuning_init not in list(PromptTuningInit):
            raise InputError(
                say(
                    f"prompt_tuning_init is one of {', '.join(PromptTuningInit)}, not {self.prompt_tuning_init!r}.",
                    f"prompt_tuning_init은 {', '.join(PromptTuningInit)} 중 하나입니다: {self.prompt_tuning_init!r}.",
                )
            )
        if self.prompt_tuning_init == "TEXT" and not (self.prompt_tuning_init_text and self.tokenizer_name_or_path):
            raise InputError(
                say(
                    "prompt_tuning_init='TEXT' needs prompt_tuning_init_text and tokenizer_name_or_path.",
                    "prompt_tuning_init='TEXT'에는 prompt_tuning_init_text와 tokenizer_name_or_path가 필요합니다.",
                )
            )


@checked
@dataclass
class PrefixTuningConfig(VirtualConfig):
    """Prefix tuning (Li & Liang 2021), without the projection that only training uses."""

    peft_type: ClassVar[PeftType] = PeftType.PREFIX_TUNING


KINDS: dict[str, type[PeftConfig]] = {str(kind.peft_type): kind for kind in (LoraConfig, IA3Config, PromptTuningConfig, PrefixTuningConfig)}


def read(place: Source) -> PeftConfig:
    """The configuration in ``place``."""
    values = read_json(place.require(FILE))
    kind = KINDS.get(str(values.pop("peft_type", None)))
    if kind is None:
        raise ConfigError(
            say(
                f"{FILE} has a peft_type that Hunmin does not have. It has: {', '.join(KINDS)}.",
                f"{FILE}의 peft_type을 지원하지 않습니다. 지원: {', '.join(KINDS)}.",
            )
        )
    known = {f.name for f in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in known and key not in HARMLESS and value not in (None, False, {}, [], ""):
            raise ConfigError(
                say(
                    f"{FILE} says {key}={str(value)[:60]}, which Hunmin cannot compute.",
                    f"{FILE}의 {key}={str(value)[:60]}은(는) 계산할 수 없습니다.",
                )
            )
    return kind(**{k: v for k, v in values.items() if k in known})
