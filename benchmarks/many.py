"""New tokens a second of SmolLM2-135M over 64 prompts of mixed length, beside transformers' padded batches and llama.cpp's sequences.

    python benchmarks/many.py [--runs N] [--prompts N] [--new N] [--threads N] [--quick]

Every prompt gets the same number of new greedy tokens, without an end token. Hunmin is called with all prompts at
once: ``generate`` with one
padded batch, ``pipeline`` with a list. Transformers pads batches of 16, in the order of the list; llama.cpp holds
every prompt as a sequence
and takes one token of each a step. Reading the prompts is counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from common import SMOLLM2, calm, gather, gguf, machine, options, passages, per_second, seconds, table, turns
from decode import hunmin_model, transformers_model

BATCH = 16
Generate = Callable[[int], Any]  # from the first so many prompts


def batch(rows: list[list[int]]) -> dict[str, Any]:
    """Rows as tensors ``(B, N)``, padded on the left."""
    import torch

    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :], mask[i, width - len(row) :] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def padded(model: Any, rows: list[list[int]], new: int, size: int) -> Generate:
    def run(count: int) -> None:
        for i in range(0, count, size):
            model.generate(**batch(rows[i : min(i + size, count)]), do_sample=False, max_new_tokens=new, pad_token_id=0)

    return run


def pipeline(texts: list[str], new: int, **loading: Any) -> Generate:
    import hunmin

    pipe = hunmin.pipeline("text-generation", model=hunmin_model(**loading), tokenizer=hunmin.AutoTokenizer.from_pretrained(SMOLLM2))
    return lambda count: pipe(texts[:count], do_sample=False, max_new_tokens=new)


def llama(rows: list[list[int]], new: int, threads: int) -> Generate:
    from llama import Llama

    room = -(-(max(map(len, rows)) + new) // 256) * 256  # llama.cpp gives every sequence a multiple of 256
    held = Llama(gguf(), threads, room, len(rows))
    return lambda count: held.generate(rows[:count], new)


def main() -> None:
    given = options(__doc__, runs=(2, 1), prompts=(64, 8), new=(64, 6))
    calm(given.threads)
    import hunmin

    tokenizer = hunmin.AutoTokenizer.from_pretrained(SMOLLM2)
    texts = passages(given.prompts, 8)
    rows: list[list[int]] = [tokenizer(text)["input_ids"] for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        hunmin_model(dtype="bfloat16").save_pretrained(folder)
        works: dict[str, Generate] = gather(
            {
                "Hunmin generate, as loaded": lambda: padded(hunmin_model(), rows, given.new, len(rows)),
                "Hunmin generate, bf16": lambda: padded(hunmin_model(dtype="bfloat16"), rows, given.new, len(rows)),
                "Hunmin pipeline, as loaded": lambda: pipeline(texts, given.new),
                "Hunmin pipeline, bf16": lambda: pipeline(texts, given.new, dtype="bfloat16"),
                f"llama.cpp Q4_1, {len(rows)} sequences": lambda: llama(rows, given.new, given.threads),
                f"transformers bf16, batches of {BATCH}": lambda: padded(transformers_model(folder, "bfloat16"), rows, given.new, BATCH),
            }
        )
    lengths = sorted(map(len, rows))
    print(machine(given.threads))
    print(
        f"{len(rows)} prompts of {lengths[0]} to {lengths[-1]} tokens, {sum(lengths)} in all; "
        f"{given.new} new tokens each, {given.runs} rounds"
    )
    found = turns(works, given.runs, lambda work: seconds(lambda: work(len(rows))), lambda work: work(4))
    rates = per_second(given.new * len(rows), found)
    table("SmolLM2-135M, many prompts", "new tok/s", rates, [name for name in rates if name.startswith("Hunmin")])


if __name__ == "__main__":
    main()
