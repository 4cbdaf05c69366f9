"""What each precision of SmolLM2-135M costs in accuracy: perplexity on an excerpt of a text, the file size, and seconds.

    python benchmarks/accuracy.py TEXT [--tokens N] [--window N] [--threads N] [--quick]

TEXT is a file, plain or .gz; docs/performance.md uses the validation part of WikiText-2 as pytorch/examples keeps it, in
word_language_model/data/wikitext-2/valid.txt. Numbers compare only for the same text, tokens and window. All rows
start from the same Q4_1 file,
so that fp32 is what the others lose against; int8, int4 and auto quantize its weights again.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

from common import SMOLLM2, calm, gather, machine, options, weights_of

LOADING: dict[str, dict[str, str]] = {
    "fp32": {"dtype": "float32"},
    "as loaded": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "auto": {"quantization": "auto"},
}


def read(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def main() -> None:
    given = options(__doc__, files=("text",), tokens=(16384, 1024), window=(512, 256))
    calm(given.threads)
    import hunmin
    from hunmin.train.perplexity import text_perplexity

    tokenizer: Any = hunmin.AutoTokenizer.from_pretrained(SMOLLM2)
    ids: list[int] = tokenizer(read(given.text)[: given.tokens * 8])["input_ids"][: given.tokens]
    print(machine(given.threads))
    print(f"{len(ids)} tokens of {given.text.name}, windows of {given.window}\n")
    print(f"{'SmolLM2-135M':20}{'perplexity':>12}{'over fp32':>12}{'MB':>8}{'s':>8}")
    base = 0.0
    for name, loading in LOADING.items():
        found = gather({name: lambda loading=loading: hunmin.AutoModelForCausalLM.from_pretrained(SMOLLM2, **loading)})
        if name not in found:
            continue
        model = found.pop(name)
        start = time.perf_counter()
        value = text_perplexity(model, ids, window=given.window)["perplexity"]
        base = base or value
        taken = time.perf_counter() - start
        print(f"  {name:18}{value:12.3f}{value / base - 1:+12.2%}{weights_of(model) / 1e6:8.0f}{taken:8.1f}", flush=True)


if __name__ == "__main__":
    main()
