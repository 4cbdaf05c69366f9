"""Tokenizers from nothing but texts: every kind, for every family of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from hunmin import AutoTokenizer
from hunmin.errors import InputError
from hunmin.text import train_tokenizer
from hunmin.text.scratch import LAYOUTS, MODELS, Vocabulary

TEXTS = ["The quick brown fox jumps over the lazy dog.", "훈민정음은 백성을 가르치는 바른 소리라는 뜻이다.", "lazy dogs, brown foxes!"] * 3
KINDS: tuple[Any, ...] = get_args(Vocabulary)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["bert", "roberta", "t5", "gpt2", "distilbert"])
def test_texts_come_back_from_their_ids_also_from_files(kind: Any, model_type: str, tmp_path: Path) -> None:
    made = train_tokenizer(TEXTS, kind, 400, model_type=model_type)
    layout = LAYOUTS[MODELS.get(model_type, "gpt")]
    for name, token in layout.tokens.items():
        assert getattr(made, name) == token and made.convert_tokens_to_ids(token) < len(layout.tokens)
    encoded = made(TEXTS[:3])
    assert all(made.unk_token_id not in ids for ids in encoded["input_ids"])
    for text, ids in zip(TEXTS, encoded["input_ids"], strict=False):
        back = made.decode(ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.replace(" ", "") and (kind == "wordpiece" or back == text)
    assert ("token_type_ids" in encoded) == (model_type == "bert")
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert dict(again(TEXTS[0], TEXTS[1])) == dict(made(TEXTS[0], TEXTS[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_vocabulary(kind: Any) -> None:
    first, second = (train_tokenizer(iter(TEXTS), kind, 300, min_frequency=1).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_options() -> None:
    made = train_tokenizer(TEXTS, "wordpiece", 300, model_type="bert", lowercase=True, extra=["<user>"])
    assert made.tokenize("THE fox <user>")[-1] == "<user>" and made.tokenize("THE")[0] == made.tokenize("the")[0]
    rare, often = (len(train_tokenizer(TEXTS, "bpe", 1000, min_frequency=n)) for n in (1, 100))
    assert often < rare <= 1000
    t5 = train_tokenizer(TEXTS, "unigram", 300, model_type="t5").get_vocab()
    assert t5["<extra_id_0>"] == t5["<extra_id_99>"] + 99


@pytest.mark.parametrize(
    ("texts", "kind", "size", "message"),
    [
        ([], "bpe", 300, "no texts"),
        ([" ", ""], "unigram", 300, "no texts"),
        (TEXTS, "words", 300, "A tokenizer is one of wordpiece, bpe, byte-level-bpe, unigram"),
        (TEXTS, "bpe", 3, "vocab_size above 3"),
    ],
)
def test_what_cannot_be_learned(texts: list[str], kind: Any, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_tokenizer(texts, kind, size)
