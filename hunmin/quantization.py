"""What users ask for: ``quantization=`` and the configuration classes that Transformers taught, as a plan for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from hunmin.arch import architecture
from hunmin.errors import InputError, say, warn_once
from hunmin.native import library
from hunmin.quantize.calibrate import Method
from hunmin.quantize.plan import Plan
from hunmin.quantize.tiles import Kind

WORDS = ("int8", "int4", "nf4", "bf16", "auto")
OPTIONS = ("quantization", "quantization_config", "load_in_8bit", "load_in_4bit")
CALIBRATION = 16384  # tokens, in rows of ROW
ROW = 512


class _Taught:
    """Takes keyword arguments that mean nothing here, as taught code passes them."""

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(init=False)
class BitsAndBytesConfig(_Taught):
    """Linear layers outside the head in 8 or 4 bits, to train adapters on or to save memory.

    ``bnb_4bit_quant_type``: "nf4"; without it (and for "fp4", which is coarser) int4 in groups of 32, which the CPU kernels compute with.
    ``bnb_4bit_compute_dtype``: of all that is not quantized. Names in ``llm_int8_skip_modules`` stay. Everything else has no effect here:
    scales are small already, inputs are not split by magnitude.
    """

    load_in_8bit: bool
    load_in_4bit: bool
    bnb_4bit_quant_type: str | None
    bnb_4bit_compute_dtype: Any
    llm_int8_skip_modules: list[str] | None

    def __init__(
        self,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        *,
        bnb_4bit_quant_type: str | None = None,
        bnb_4bit_compute_dtype: Any = None,
        llm_int8_skip_modules: list[str] | None = None,
        **others: Any,
    ) -> None:
        """Raises InputError for both or neither of 8 and 4 bits, and for an unknown type of 4 bits."""
        known = ("llm_int8_", "bnb_4bit_", "quant_method", "_load_in_")
        if (load_in_8bit and load_in_4bit) or bnb_4bit_quant_type not in (None, "nf4", "fp4", "int4"):
            raise InputError(
                say(
                    "BitsAndBytesConfig: load_in_8bit or load_in_4bit, and bnb_4bit_quant_type 'nf4', 'int4' or 'fp4'.",
                    "BitsAndBytesConfig: load_in_8bit나 load_in_4bit 하나와 bnb_4bit_quant_type 'nf4', 'int4', 'fp4' 가운데 하나를 주세요.",
                )
            )
        if wrong := next((k for k in others if not k.startswith(known)), None):
            raise InputError(say(f"BitsAndBytesConfig has no {wrong!r}.", f"BitsAndBytesConfig에 {wrong!r} 항목이 없습니다."))
        self.load_in_8bit, self.load_in_4bit, self.bnb_4bit_quant_type = load_in_8bit, load_in_4bit, bnb_4bit_quant_type
        self.bnb_4bit_compute_dtype, self.llm_int8_skip_modules = bnb_4bit_compute_dtype, llm_int8_skip_modules


@dataclass
class GPTQConfig(_Taught):
    """Round with GPTQ while loading. ``dataset``: texts, or a text file; ``tokenizer``: an object or a source. A folder that is stored
    so needs no configuration."""

    bits: int = 4
    tokenizer: Any = None
    dataset: Any = None
    group_size: int = 128
    desc_act: bool = False
    sym: bool = True
    damp_percent: float = 0.01


@dataclass
class AwqConfig(_Taught):
    """The same with activation-aware scales (AWQ)."""

    bits: int = 4
    tokenizer: Any = None
    dataset: Any = None
    group_size: int = 128
    zero_point: bool = True
    version: str = "gemm"


@dataclass
class Request:
    """What loading does: round by ``plan``; then ``method`` with texts; ``dense``: unpack what is stored quantized, into bf16.

    ``dtype``: the one asked for, of everything else. ``skip``: a part of a name, the checkpoint's or ours, of layers that stay.
    """

    plan: Plan | None = None
    method: Method = "rtn"
    texts: Any = None
    tokenizer: Any = None
    act_order: bool = False
    dense: bool = False
    dtype: Any = None
    skip: tuple[str, ...] = ()


def choose(model_type: str, task: str, device: torch.device | None = None) -> tuple[str | None, str]:
    """What ``quantization="auto"`` is for a model: "int8", "bf16" or None (as it is stored), and why."""
    cpu = device is None or device.type == "cpu"
    arch, kernels = architecture(model_type), library()
    if cpu and kernels is not None and task in ("CausalLM", "Seq2SeqLM"):
        return "int8", say(
            "it generates on a CPU: a token costs one reading of the weights", "CPU에서 생성할 때 토큰마다 가중치를 한 번씩 읽기 때문"
        )
    if cpu and kernels is not None and kernels.many and arch.decoder is None:
        return "int8", say("this processor multiplies integers fastest", "이 프로세서는 정수 곱셈이 가장 빠르기 때문")
    if cpu and not fast_bfloat16():
        return None, say("this processor multiplies fp32 fastest", "이 프로세서는 fp32 곱셈이 가장 빠르기 때문")
    return "bf16", say("many rows are multiplied at once", "여러 행을 한꺼번에 곱하기 때문")


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than fp32."""
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))


def request(options: dict[str, Any], model_type: str, task: str, device: torch.device | None, packed: bool) -> Request:
    """What is asked for in ``options``, whose own keys are taken out. ``packed``: the source is stored quantized.

    Raises InputError for unknown words, for two wishes at once, and for methods that lack their texts.
    """
    taken = {name: options.pop(name, None) for name in OPTIONS}
    given = {name: value for name, value in taken.items() if value is not None and value is not False}
    if not given:
        return Request()
    if len(given) > 1:
        raise InputError(say(f"Give one of {', '.join(given)}.", f"{', '.join(given)} 가운데 하나만 주세요."))
    config = given.get("quantization_config")
    if isinstance(config, Mapping):
        config = BitsAndBytesConfig(**config)
    if "load_in_8bit" in given or "load_in_4bit" in given:
        config = BitsAndBytesConfig(load_in_8bit="load_in_8bit" in given, load_in_4bit="load_in_4bit" in given)
    if isinstance(config, BitsAndBytesConfig):
        return _bits(config)
    if isinstance(config, GPTQConfig | AwqConfig):
        return Request() if packed else _calibrated(config)
    word = given.get("quantization", config)
    if word not in WORDS:
        raise InputError(
            say(
                f"quantization is one of {', '.join(WORDS)}, not {word!r}.",
                f"quantization은 {', '.join(WORDS)} 가운데 하나여야 합니다: {word!r}.",
            )
        )
    if word == "auto":
        word = None if packed else choose(model_type, task, device)[0]
    if word is None:
        return Request()
    if word == "bf16":
        return Request(dense=True, dtype=torch.bfloat16)
    encoder = architecture(model_type).decoder is None
    return Request(Plan(cast(Kind, word)), dtype=torch.bfloat16 if encoder and fast_bfloat16() else None)


def _bits(config: BitsAndBytesConfig) -> Request:
    if not config.load_in_8bit and not config.load_in_4bit:
        return Request()
    kind = "int8" if config.load_in_8bit else "nf4" if config.bnb_4bit_quant_type == "nf4" else "int4"
    skip = tuple(config.llm_int8_skip_modules or ())
    return Request(Plan(kind, whole=False), dtype=config.bnb_4bit_compute_dtype, skip=skip)


def _calibrated(config: GPTQConfig | AwqConfig) -> Request:
    if config.dataset is None or config.tokenizer is None or config.bits not in (4, 8):
        raise InputError(
            say(
                f"{type(config).__name__} needs bits=4 or 8, dataset= (texts, or a text file) and tokenizer= to round while loading.",
                f"{type(config).__name__}로 불러오면서 양자화하려면 bits=4나 8, dataset=(텍스트 목록이나 파일), tokenizer=가 필요합니다.",
            )
        )
    method: Method = "gptq" if isinstance(config, GPTQConfig) else "awq"
    symmetric = config.sym if isinstance(config, GPTQConfig) else not config.zero_point
    group = None if config.group_size == -1 else config.group_size
    plan = Plan("int8" if config.bits == 8 else "int4", group, symmetric=symmetric)
    act_order = isinstance(config, GPTQConfig) and config.desc_act
    return Request(plan, method, config.dataset, config.tokenizer, act_order)


def rows(texts: Any, tokenizer: Any, longest: int | None = None, tokens: int = CALIBRATION) -> list[Tensor]:
    """Rows of ids ``(1, N)`` from texts (a list, or the path of a text file), one after the other, cut into equal parts.

    Raises InputError for texts that are none, or too short to be of use.
    """
    from hunmin.text import AutoTokenizer

    if isinstance(texts, str | Path):
        try:
            texts = [Path(texts).read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(say(f"{texts} is no text file: {error}.", f"{texts}은(는) 텍스트 파일이 아닙니다: {error}.")) from None
    if isinstance(tokenizer, str | Path):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    length = min(ROW, longest or ROW)
    ids: list[int] = []
    for text in texts:
        if not isinstance(text, str):
            raise InputError(say("Calibration texts are strings.", "보정용 텍스트는 문자열이어야 합니다."))
        for start in range(0, len(text), 8 * ROW):  # in pieces: a file is longer than what a tokenizer likes to warn about
            ids += tokenizer(text[start : start + 8 * ROW], add_special_tokens=False)["input_ids"]
            if len(ids) >= tokens:
                break
    cut = [ids[i : i + length] for i in range(0, min(len(ids), tokens), length)]
    cut = [row for row in cut if len(row) == length] or [ids]
    if len(ids) < 2:
        raise InputError(say("The text has fewer than two tokens.", "텍스트가 두 토큰보다 짧습니다."))
    if len(ids) < min(tokens, 4 * ROW):
        warn_once(
            say(
                f"{len(ids)} tokens of text are few; some thousands say more.",
                f"텍스트가 {len(ids)}토큰뿐입니다. 수천 토큰 이상을 권합니다.",
            )
        )
    return [torch.tensor([row]) for row in cut]
