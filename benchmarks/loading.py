"""Time and memory of loading SmolLM2-135M from GGUF and from safetensors, beside transformers.

    python benchmarks/loading.py [--runs N]

Every load is a fresh process; one round runs all of them, after a round that warms the file cache. Printed are medians over the rounds, and
of the ratios within each round. Other load does not cancel out of them: repeat the run, and give the range. Timed is
``from_pretrained`` alone, without imports; "1st" adds the first forward pass, which reads weights that were only mapped. Memory is the
peak beyond a process that has imported torch. Reads /proc, so it needs Linux.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

from common import SMOLLM2, memory

# what is loaded, with what, into what, and the row that it is compared with
CASES = (
    ("GGUF Q4_1 -> fp32", "hunmin", "float32", 2),
    ("GGUF Q4_1 -> bf16", "hunmin", "bfloat16", 3),
    ("GGUF Q4_1 -> fp32", "transformers", "float32", None),
    ("GGUF Q4_1 -> bf16", "transformers", "bfloat16", None),
    ("safetensors bf16", "hunmin", "bfloat16", 5),
    ("safetensors bf16", "transformers", "bfloat16", None),
)


def work(library: str, folder: str, gguf: str, dtype: str) -> None:
    """Load once and compute one token; print seconds, CPU seconds and MB of the load, seconds and MB of both, and MB of the weights."""
    import torch

    bare = memory("VmRSS")
    options = {"gguf_file": gguf} if gguf else {}
    if library == "hunmin":
        from hunmin import AutoModelForCausalLM
    else:
        import transformers
        from transformers import AutoModelForCausalLM

        transformers.utils.logging.disable_progress_bar()
        transformers.logging.set_verbosity_error()
    wall, cpu = time.perf_counter(), time.process_time()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **options)
    wall, cpu, peak = time.perf_counter() - wall, time.process_time() - cpu, memory("VmHWM") - bare
    start = time.perf_counter()
    with torch.inference_mode():
        model(torch.tensor([[1]]))
    first = wall + time.perf_counter() - start
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    print(json.dumps([wall, cpu, first, peak, memory("VmHWM") - bare, size]))


def measure(place: tuple[str, str], library: str, dtype: str) -> list[float]:
    done = subprocess.run([sys.executable, __file__, "--work", library, *place, dtype], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work(*given.work)
    from hunmin import AutoModelForCausalLM
    from hunmin.hub.files import resolve

    gguf = resolve(SMOLLM2).gguf
    assert gguf is not None
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype="bfloat16").save_pretrained(folder)
        rounds: list[list[list[float]]] = []
        for _ in range(given.runs + 1):
            places = [(str(gguf.parent), gguf.name) if "GGUF" in what else (folder, "") for what, *_ in CASES]
            rounds.append([measure(place, library, dtype) for place, (_, library, dtype, _) in zip(places, CASES, strict=True)])
    print(
        f"{'':20}{'':14}{'wall s':>8}{'CPU s':>8}{'1st s':>8}{'peak MB':>9}{'1st MB':>8}{'weights':>9}   transformers / Hunmin, as before"
    )
    for i, (what, library, _, peer) in enumerate(CASES):
        wall, cpu, first, peak, after, size = (statistics.median(one[i][k] for one in rounds[1:]) for k in range(6))
        ratios = [] if peer is None else [statistics.median(one[peer][k] / one[i][k] for one in rounds[1:]) for k in range(5)]
        row = f"{what:20}{library:14}{wall:8.2f}{cpu:8.2f}{first:8.2f}{peak:9.0f}{after:8.0f}{size:9.0f}   "
        print((row + "".join(f"{ratio:6.2f}" for ratio in ratios)).rstrip())


if __name__ == "__main__":
    main()
