"""Tokens a second of reading a prompt with SmolLM2-135M, and seconds to the first token of a chat, beside llama.cpp and transformers.

    python benchmarks/prefill.py [--runs N] [--threads N] [--quick]

Reading is ``generate`` of one token after 512 and after 2,048 tokens. The chat is 1,000 tokens long, and its time is
counted from the messages:
the template and the tokenizer are in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from common import SMOLLM2, Work, calm, gather, gguf, ids_of, machine, options, passages, per_second, table, turns
from decode import greedy, hunmin_model, transformers_model

SPARE = 64  # tokens of room


def chat_of(length: int, tokenizer: Any) -> list[dict[str, str]]:
    """Messages that the chat template makes into about ``length`` tokens, and no more."""
    lines = passages(200, 2)
    messages = [{"role": "system", "content": "You answer in one sentence."}]
    while len(lines) > 2:
        turn = [{"role": "user", "content": lines.pop() + " What follows from this?"}, {"role": "assistant", "content": lines.pop()}]
        if len(rendered(tokenizer, [*messages, *turn, turn[0]])) > length:
            break
        messages += turn
    return [*messages, {"role": "user", "content": "What was the first thing that I said?"}]


def rendered(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The tokens of a chat, for a tokenizer of Hunmin or transformers."""
    return tokenizer(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), add_special_tokens=False)[
        "input_ids"
    ]


def main() -> None:
    given = options(__doc__, runs=(3, 1), short=(512, 64), long=(2048, 160), chat=(1000, 120))
    calm(given.threads)
    import hunmin

    own_words: Any = hunmin.AutoTokenizer.from_pretrained(SMOLLM2)
    messages, room = chat_of(given.chat, own_words), max(given.long, given.chat) + SPARE
    with tempfile.TemporaryDirectory() as folder:
        hunmin_model(dtype="bfloat16").save_pretrained(folder)
        own_words.save_pretrained(folder)
        models = gather(
            {
                "Hunmin as loaded": hunmin_model,
                "Hunmin bf16": lambda: hunmin_model(dtype="bfloat16"),
                "llama.cpp Q4_1": lambda: llama_of(given.threads, room),
                "transformers bf16": lambda: transformers_model(folder, "bfloat16"),
            }
        )
        their_words = transformers_words(folder) if "transformers bf16" in models else None
    print(machine(given.threads))
    for length in (given.short, given.long):
        ids = ids_of(" ".join(passages(100, 3)), length, own_words)
        rates = per_second(length, turns({name: reader(model, ids) for name, model in models.items()}, given.runs))
        table(f"Prefill, {length} tokens", "tokens/s", rates, ("Hunmin as loaded", "Hunmin bf16"))
    answers = {name: answer(model, messages, their_words if "transformers" in name else own_words) for name, model in models.items()}
    title = f"First token of a chat of {len(rendered(own_words, messages))} tokens"
    table(title, "s", turns(answers, given.runs), ("Hunmin as loaded", "Hunmin bf16"), less=True)


def llama_of(threads: int, room: int) -> Any:
    from llama import Llama

    return Llama(gguf(), threads, room)


def transformers_words(folder: str) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


def reader(model: Any, ids: list[int]) -> Work:
    """A function that reads a prompt and gives one token."""
    return partial(model.generate, [ids], 1) if hasattr(model, "tokens") else partial(greedy(model, ids), 1)


def answer(model: Any, messages: list[dict[str, str]], tokenizer: Any) -> Callable[[], Any]:
    """A function that renders a chat, reads it and gives the first token of the answer; llama.cpp tokenizes what
    Hunmin's template gives."""
    if hasattr(model, "tokens"):
        text = partial(tokenizer.apply_chat_template, messages, tokenize=False, add_generation_prompt=True)
        return lambda: model.generate([model.tokens(text())], 1)
    return lambda: greedy(model, rendered(tokenizer, messages))(1)


if __name__ == "__main__":
    main()
