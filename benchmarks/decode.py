"""Tokens a second of SmolLM2-135M, one sequence, from one Q4_1 GGUF file, beside llama.cpp and transformers.

    python benchmarks/decode.py [--runs N] [--new N] [--threads N] [--quick]

A measurement is the time of N + 1 greedy tokens less the time of 1, of the same prompt, with no end token: reading the prompt is not in it.
Bandwidth is the fastest of the ways in which PyTorch reads 1 GB here; the share of it that a row reaches is bytes of
its weights and its cache,
times tokens a second. Transformers reads the same weights from safetensors, where they are bfloat16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from common import PROMPT, SMOLLM2, calm, endless, gather, gguf, machine, options, per_second, seconds, table, turns, weights_of

Greedy = Callable[[int], Any]


def bandwidth(runs: int) -> float:
    """Bytes a second: the best of several ways to read 1 GB, each the best of ``runs``."""
    import torch

    data = torch.ones(1 << 28)
    half = data.view(2, -1)
    ways = (lambda: data.sum(), lambda: torch.dot(data, data), lambda: torch.dot(half[0], half[1]), lambda: data.amax())
    return data.numel() * 4 / min(seconds(way) for way in ways for _ in range(runs + 1))


def hunmin_model(**loading: Any) -> Any:
    import hunmin

    return endless(hunmin.AutoModelForCausalLM.from_pretrained(SMOLLM2, **loading))


def transformers_model(folder: str, dtype: str) -> Any:
    import torch
    import transformers

    return endless(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)))


def greedy(model: Any, ids: list[int]) -> Greedy:
    """A function that generates some tokens with a model of Hunmin or transformers."""
    import torch

    inputs = torch.tensor([ids])
    given = {"attention_mask": torch.ones_like(inputs), "do_sample": False, "pad_token_id": 0}
    return lambda new: model.generate(input_ids=inputs, max_new_tokens=new, **given)


def llama(ids: list[int], threads: int, context: int) -> Greedy:
    from llama import Llama

    return partial(Llama(gguf(), threads, context).generate, [ids])


def cache_bytes(model: Any, tokens: int, element: int) -> float:
    """Bytes of the keys and values of ``tokens`` tokens."""
    c = model.config
    heads, width = c.num_key_value_heads, c.hidden_size // c.num_attention_heads
    return 2 * c.num_hidden_layers * heads * width * tokens * element


def main() -> None:
    given = options(__doc__, runs=(5, 2), new=(128, 16))
    calm(given.threads)
    import hunmin

    ids: list[int] = hunmin.AutoTokenizer.from_pretrained(SMOLLM2)(PROMPT)["input_ids"]
    models: dict[str, Any] = {}

    def keep(name: str, model: Any) -> Greedy:
        models[name] = model
        return greedy(model, ids)

    with tempfile.TemporaryDirectory() as folder:
        hunmin_model(dtype="bfloat16").save_pretrained(folder)
        makers: dict[str, Callable[[], Greedy]] = {
            "Hunmin as loaded": lambda: keep("Hunmin as loaded", hunmin_model()),
            "Hunmin bf16": lambda: keep("Hunmin bf16", hunmin_model(dtype="bfloat16")),
            "Hunmin int8": lambda: keep("Hunmin int8", hunmin_model(quantization="int8")),
            "llama.cpp Q4_1": lambda: llama(ids, given.threads, len(ids) + given.new + 8),
            "transformers bf16": lambda: keep("transformers bf16", transformers_model(folder, "bfloat16")),
            "transformers fp32": lambda: keep("transformers fp32", transformers_model(folder, "float32")),
        }
        works = gather(makers)
        found = turns(works, given.runs, lambda work: seconds(partial(work, given.new + 1)) - seconds(partial(work, 1)))
    rates, most = per_second(given.new, found), bandwidth(given.runs)
    print(machine(given.threads))
    print(
        f"one sequence, a prompt of {len(ids)} tokens, {given.new} new ones, {given.runs} rounds; memory is read at {most / 1e9:.1f} GB/s"
    )
    notes: dict[str, str] = {}
    for name, model in models.items():
        moved = weights_of(model) + cache_bytes(model, len(ids) + given.new // 2, 2 if model.dtype.itemsize == 2 else 4)
        notes[name] = f"{moved / 1e6:.0f} MB a token, {moved * median(rates[name]) / most:.0%} of the bandwidth"
    if "llama.cpp Q4_1" in rates:
        moved = gguf().stat().st_size + cache_bytes(models["Hunmin as loaded"], len(ids) + given.new // 2, 2)
        notes["llama.cpp Q4_1"] = f"{moved / 1e6:.0f} MB a token, {moved * median(rates['llama.cpp Q4_1']) / most:.0%} of the bandwidth"
    table("SmolLM2-135M, decode", "tokens/s", rates, ("Hunmin as loaded", "Hunmin bf16", "Hunmin int8"), notes)


if __name__ == "__main__":
    main()
