"""Seconds until Hunmin is ready, and peak memory, each in a process of its own, beside the peers that are installed.

    python benchmarks/startup.py [--runs N] [--threads N] [--part imports|first|all] [--quick]

imports: CPU seconds (user plus system) of ``import`` and of ``hunmin --help``, which have limits. first: wall seconds from the start of the
process to the first embedding (MiniLM) and to the first generated token (SmolLM2 from its Q4_1 file; transformers also from safetensors in
bfloat16, since it takes long to read GGUF), then the peak of memory after 32 tokens (Linux). Files are in the cache of the system.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec

from common import MINILM, PROMPT, ROOT, SMOLLM2, Rates, fresh, gguf, machine, options, table

LIMITS = {"hunmin --help": 0.25, "from hunmin import pipeline": 0.15}
COMMAND = "import sys; from hunmin.cli import main; sys.exit(main())"  # the script that pip installs
PEER = "from transformers import pipeline"
NEW = 32

# What a child runs: it prints when its first answer was there, and its peak of memory in the end.
FRAME = """
import json, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
threads, prompt, new = {threads}, {prompt!r}, {new}
{work}
from common import memory
print(json.dumps({{"first": first, "peak": memory()}}))
"""
HUNMIN_EMBEDDING = """
import torch; torch.set_num_threads(threads)
from hunmin import pipeline
pipe = pipeline("feature-extraction", model="{source}"{loading})
pipe(prompt, pooling="mean")
first = time.perf_counter()
"""
TRANSFORMERS_EMBEDDING = """
import torch; torch.set_num_threads(threads)
from transformers import pipeline
pipe = pipeline("feature-extraction", model="{folder}", device="cpu")
pipe(prompt)
first = time.perf_counter()
"""
GENERATE = """
def tokens(count):
    model.generate(**ids, do_sample=False, max_new_tokens=count, pad_token_id=0)
model.generation_config.eos_token_id = None
tokens(1)
first = time.perf_counter()
tokens(new)
"""
HUNMIN_TOKEN = """
import torch; torch.set_num_threads(threads)
from hunmin import AutoModelForCausalLM, AutoTokenizer
ids = AutoTokenizer.from_pretrained("{source}")(prompt, return_tensors="pt")
model = AutoModelForCausalLM.from_pretrained("{source}"{loading})
"""
TRANSFORMERS_TOKEN = """
import torch; torch.set_num_threads(threads)
from transformers import AutoModelForCausalLM, AutoTokenizer
ids = AutoTokenizer.from_pretrained("{folder}"{gguf})(prompt, return_tensors="pt")
model = AutoModelForCausalLM.from_pretrained("{folder}", dtype=torch.bfloat16{gguf})
"""
LLAMA_TOKEN = """
from pathlib import Path
from llama import Llama
model = Llama(Path("{file}"), threads, 512)
ids = model.tokens(prompt)
model.generate([ids], 1)
first = time.perf_counter()
model.generate([ids], new)
"""


def cpu(command: list[str], runs: int) -> float:
    """Median of the CPU seconds of ``command``; raises CalledProcessError when it fails."""
    spent: list[float] = []
    for _ in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent[1:])


def imports(runs: int) -> int:
    """Print the table of imports; 1 when a limit is exceeded."""
    python = sys.executable
    seconds = {
        "python -c pass": cpu([python, "-c", "pass"], runs),
        "hunmin --help": cpu([python, "-c", COMMAND, "--help"], runs),
        "from hunmin import pipeline": cpu([python, "-c", "from hunmin import pipeline"], runs),
    }
    if find_spec("transformers"):
        seconds[PEER] = cpu([python, "-c", PEER], max(1, runs // 3))
    print(f"{'':34}{'CPU s':>7}  {'limit':>6}  {'transformers /':>14}")
    for name, value in seconds.items():
        limit = f"{LIMITS[name]:.2f}" if name in LIMITS else ""
        ratio = f"{seconds[PEER] / value:.0f}x" if PEER in seconds and name in LIMITS else ""
        print(f"{name:34}{value:7.3f}  {limit:>6}  {ratio:>14}")
    return int(any(seconds[name] > limit for name, limit in LIMITS.items()))


def first(runs: int, threads: int, quick: bool) -> None:
    """Print the tables of first answers and of peak memory; ``quick`` leaves out transformers from GGUF, which takes a minute."""
    import hunmin
    from hunmin.hub.files import resolve

    file = gguf()
    with tempfile.TemporaryDirectory() as folder:
        hunmin.AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype="bfloat16").save_pretrained(folder)
        hunmin.AutoTokenizer.from_pretrained(SMOLLM2).save_pretrained(folder)
        embedding = {"Hunmin": HUNMIN_EMBEDDING.format(source=MINILM, loading="")}
        token = {
            "Hunmin as loaded": HUNMIN_TOKEN.format(source=SMOLLM2, loading="") + GENERATE,
            "Hunmin bf16": HUNMIN_TOKEN.format(source=SMOLLM2, loading=', dtype="bfloat16"') + GENERATE,
        }
        if find_spec("llama_cpp"):
            token["llama.cpp"] = LLAMA_TOKEN.format(file=file)
        if find_spec("transformers"):
            embedding["transformers"] = TRANSFORMERS_EMBEDDING.format(folder=resolve(MINILM).root)
            named = f', gguf_file="{file.name}"'
            if not quick:
                token["transformers bf16, GGUF"] = TRANSFORMERS_TOKEN.format(folder=file.parent, gguf=named) + GENERATE
            token["transformers bf16, safetensors"] = TRANSFORMERS_TOKEN.format(folder=folder, gguf="") + GENERATE
        print(machine(threads))
        for title, works in (("To the first embedding", embedding), ("To the first token", token)):
            times, peaks = rounds(works, runs, threads)
            own = [name for name in works if name.startswith("Hunmin")]
            table(title, "s", times, own, less=True)
            table(f"{title}, peak memory", "MB", peaks, own, less=True)


def rounds(works: dict[str, str], runs: int, threads: int) -> tuple[Rates, Rates]:
    """Wall seconds to the first answer, and MB, of every program in turns; a round before them fills the file cache."""
    times: Rates = {name: [] for name in works}
    peaks: Rates = {name: [] for name in works}
    for i in range(runs + 1):
        for name in list(works)[:: -1 if i % 2 else 1]:
            code = FRAME.format(root=str(ROOT), threads=threads, prompt=PROMPT, new=NEW, work=works[name])
            found = fresh(["-c", code], threads)
            if i:
                times[name].append(found["first"] - found["start"])
                peaks[name].append(found["peak"])
    return times, peaks


def main() -> int:
    given = options(__doc__, {"part": ("imports", "first", "all")}, runs=(3, 1))
    failed = imports(3 * given.runs + 2) if given.part != "first" else 0
    if given.part != "imports":
        first(given.runs, given.threads, given.quick)
    return failed


if __name__ == "__main__":
    sys.exit(main())
