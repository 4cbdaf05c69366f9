"""Streaming decode: the pieces are the whole, and no piece ends within a character or a Hangul syllable."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hunmin.text import AutoTokenizer, StreamDecoder, Tokenizer
from tests import text_kinds as kinds

STREAMED = ["gpt2", "roberta", "fast", "bert", "t5", "xlm-roberta", "llama", "marian"]
TEXTS = st.one_of(
    st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=40),
    st.text(alphabet="훈민정음각힣가 🙂👨‍👩‍👧é\n.'", max_size=60),
    st.text(alphabet="훈민정음 각힣", max_size=40).map(lambda text: unicodedata.normalize("NFD", text)),
)
# An initial with its vowel, or a vowel or initial-vowel with its final: never on two sides of a boundary.
SPLIT = re.compile("([\u1100-\u115f])\0([\u1160-\u11a7])|([\u1160-\u11a7])\0([\u11a8-\u11ff])")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root: Path = tmp_path_factory.mktemp("stream")
    return {kind: AutoTokenizer.from_pretrained(kinds.KINDS[kind](root / kind)) for kind in STREAMED}


def pieces(tokenizer: Tokenizer, ids: list[int], **options: Any) -> list[str]:
    decoder = StreamDecoder(tokenizer, **options)
    return [*(decoder.put(index) for index in ids), decoder.end()]


@pytest.mark.parametrize("kind", STREAMED)
@pytest.mark.parametrize("skip", [True, False])
@given(text=TEXTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_the_whole(tokenizers: dict[str, Tokenizer], kind: str, skip: bool, text: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer(text)["input_ids"]
    out = pieces(tokenizer, ids, skip_special_tokens=skip)
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(out) == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in out)
    assert not SPLIT.search("\0".join(piece for piece in out if piece))


@pytest.mark.parametrize("kind", ["gpt2", "fast", "bert", "t5"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_ids(tokenizers: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=150))
    clean = data.draw(st.booleans())
    assert "".join(pieces(tokenizer, ids, clean_up_tokenization_spaces=clean)) == tokenizer.decode(ids, clean_up_tokenization_spaces=clean)


@pytest.mark.parametrize("kind", STREAMED)
def test_long_texts_stay_cheap(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer("훈민정음은 백성을 가르치는 바른 소리라는 뜻이다. Hello 🙂 world! " * 60, verbose=False)["input_ids"]
    decoder = StreamDecoder(tokenizer)
    out = ""
    for index in ids:
        out += decoder.put(index)
        assert len(decoder._ids) < 90
    assert out + decoder.end() == tokenizer.decode(ids)
    assert decoder.put(ids[:3]) + decoder.end() == tokenizer.decode(ids[:3])


def test_text_appears_as_soon_as_it_is_whole(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["gpt2"]
    ids = [index for char in "뷁🙂" for byte in char.encode() for index in [_byte(tokenizer, byte)]]
    assert pieces(tokenizer, ids) == ["", "", "뷁", "", "", "", "🙂", ""]
    assert pieces(tokenizer, ids[:5]) == ["", "", "뷁", "", "", "\ufffd"]


def _byte(tokenizer: Tokenizer, byte: int) -> int:
    from tokenizers import pre_tokenizers

    spelled = {tokenizer.decode([tokenizer.convert_tokens_to_ids(char)]): char for char in pre_tokenizers.ByteLevel.alphabet()}
    if byte < 128:
        return tokenizer.convert_tokens_to_ids(spelled[chr(byte)])
    table = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [value for value in range(256) if value not in table]
    return tokenizer.convert_tokens_to_ids(chr(byte) if byte in table else chr(256 + others.index(byte)))
