"""A tiny model folder with a tokenizer, and rows of every form, for the tests of alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

import hunmin
from hunmin.hub.config import Config
from hunmin.model import PreTrainedModel
from tests.cases import weight
from tests.text_kinds import KINDS

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0,
}  # fmt: skip
PAIRS = [
    {"prompt": "Who jumps over the lazy dog?", "chosen": " The quick brown fox.", "rejected": " Nobody does, I'm sure."},
    {"prompt": "훈민정음은", "chosen": " 백성을 가르치는 바른 소리라는 뜻이다.", "rejected": " 문장이다."},
    {"prompt": "Hello", "chosen": " world!", "rejected": " English sentences are mixed here"},
    {"prompt": "첫 번째 문장은", "chosen": " 짧다.", "rejected": " 첫 번째 문장보다 더 길다. 길다."},
]
CHATS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        **{side: [{"role": "assistant", "content": row[side].strip()}] for side in ("chosen", "rejected")},
    }
    for row in PAIRS
]
ANSWERS = [
    {"prompt": row["prompt"], "completion": row["chosen" if i % 3 else "rejected"], "label": bool(i % 3)} for i, row in enumerate(PAIRS)
]
TEXTS = [{"text": row["prompt"] + row["chosen"]} for row in PAIRS]
STEPS = [
    {"prompt": "Hello world!", "completions": ["The quick", "brown fox jumps", "over"], "labels": [True, False, True]},
    {"prompt": "나라의 말이", "completions": ["중국과 달라", "서로 통하지"], "labels": [True, True]},
]
ALPACA = [
    {"instruction": "Name the animal.", "input": "It is quick and brown.", "output": "A fox."},
    {"instruction": "Say hello.", "input": "", "output": "Hello world!"},
]


def folder(place: Path, task: str = "CausalLM", salt: str = "", **settings: Any) -> Path:
    """A model folder whose weights follow from ``salt`` and their names; the same in every library that reads it."""
    made = Config("llama", **{**CONFIG, **settings})
    model = PreTrainedModel(made, task)
    model.save_pretrained(place)
    held = load_file(place / "model.safetensors")
    save_file(
        {name: weight(salt + name, tuple(value.shape)) for name, value in held.items()}, place / "model.safetensors", {"format": "pt"}
    )
    tokenizer = hunmin.AutoTokenizer.from_pretrained(KINDS["gpt2"](place.with_name(place.name + "-tokenizer")))
    tokenizer.chat_template, tokenizer.pad_token = CHATML, "<|endoftext|>"
    tokenizer.save_pretrained(place)
    return place
