"""What each precision of all-MiniLM-L6-v2 costs on a labelled task: a linear classifier of sentence vectors, trained and tested in that precision.

    python benchmarks/tasks.py TRAIN TEST [--rows N] [--threads N] [--quick]

TRAIN and TEST are .csv files with the columns text and category; docs/performance.md uses banking77 (77 intents). One
classifier is trained on the vectors of fp32 and tested on those of every precision, as a deployed model would be when it is quantized; another
is trained on vectors of the precision itself.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from common import MINILM, calm, gather, machine, options

LOADING: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "float32"},
    "bf16": {"quantization": "bf16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "auto": {"quantization": "auto"},
}


def read(path: Path, most: int) -> tuple[list[str], list[str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    rows = rows[:: max(1, len(rows) // most)] if most < len(rows) else rows
    return [row["text"] for row in rows], [row["category"] for row in rows]


def fitted(vectors: Any, classes: Any, count: int) -> Any:
    """Softmax regression by L-BFGS, from zero: there is one answer, whatever the machine."""
    import torch
    from torch import nn

    layer = nn.Linear(vectors.shape[1], count)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(layer(vectors), classes) + 1e-6 * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return layer.requires_grad_(False)


def main() -> None:
    given = options(__doc__, files=("train", "test"), rows=(100_000, 400))
    calm(given.threads)
    import torch

    import hunmin

    texts, labels = read(given.train, given.rows)
    names = sorted(set(labels))
    held, wanted = read(given.test, given.rows)
    target, right = (
        torch.tensor([names.index(label) for label in some]) for some in (labels, [w if w in names else names[0] for w in wanted])
    )
    print(machine(given.threads))
    print(f"{len(texts)} rows to train, {len(held)} to test, {len(names)} classes\n")
    print(f"{'MiniLM':12}{'accuracy, fp32 classifier':>28}{'own classifier':>18}{'texts/s':>10}")
    first: Any = None
    for name, loading in LOADING.items():
        found = gather({name: lambda loading=loading: hunmin.pipeline("feature-extraction", model=MINILM, **loading)})
        if name not in found:
            continue
        pipe, start = found[name], time.perf_counter()
        vectors, test = (torch.tensor(pipe(some, pooling="mean", normalize=True)) for some in (texts, held))
        rate = (len(texts) + len(held)) / (time.perf_counter() - start)
        own = fitted(vectors, target, len(names))
        first = first if first is not None else own
        scores = [(layer(test).argmax(-1) == right).float().mean().item() for layer in (first, own)]
        print(f"  {name:10}{scores[0]:28.4f}{scores[1]:18.4f}{rate:10.0f}", flush=True)


if __name__ == "__main__":
    main()
