"""Tokenizers of translation models with many languages, and the others that come as a SentencePiece model alone (goldens: test_text.py)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hunmin import AutoConfig, AutoModelForSeq2SeqLM, pipeline
from hunmin.errors import FormatError, InputError
from hunmin.text import AutoTokenizer, Tokenizer, languages
from tests import text_kinds as kinds

TRANSLATING = {"m2m100": ("fr", "ko"), "mbart": ("fr_XX", "ko_KR"), "mbart50": ("fr_XX", "ko_KR"), "nllb": ("fra_Latn", "kor_Hang")}
ALL = [*TRANSLATING, "pegasus", "deberta-v2", "deberta-v2-punct"]
each = pytest.mark.parametrize("kind", list(TRANSLATING))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Tokenizer]:
    return lambda kind, **options: AutoTokenizer.from_pretrained(kinds.unpack(kind, tmp_path / kind)[0], **options)


@pytest.mark.parametrize("kind", ALL)
def test_saving_keeps_everything(kind: str, load: Callable[..., Tokenizer], tmp_path: Path) -> None:
    tokenizer = load(kind)
    if kind in TRANSLATING:
        tokenizer.src_lang, tokenizer.tgt_lang = TRANSLATING[kind]
    ids = [(tokenizer(text)["input_ids"], tokenizer(text_target=text)["input_ids"]) for text in kinds.NASTY]  # the last call marks a target
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [(again(text)["input_ids"], again(text_target=text)["input_ids"]) for text in kinds.NASTY] == ids
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert again.additional_special_tokens == tokenizer.additional_special_tokens
    assert (again.src_lang, again.tgt_lang) == (tokenizer.src_lang, tokenizer.tgt_lang)
    assert again.num_special_tokens_to_add() == tokenizer.num_special_tokens_to_add()


@each
def test_the_language_is_a_setting(kind: str, load: Callable[..., Tokenizer]) -> None:
    first, second = TRANSLATING[kind]
    tokenizer = load(kind, src_lang=first, tgt_lang=second)
    plain = tokenizer("나라의 말", add_special_tokens=False)["input_ids"]
    one, two, end = tokenizer.get_lang_id(first), tokenizer.get_lang_id(second), tokenizer.eos_token_id
    assert tokenizer.lang_code_to_id[first] == one != two

    def marked(code: int) -> list[int]:
        return [*plain, end, code] if kind == "mbart" else [code, *plain, end]

    both = tokenizer("나라의 말", text_target="나라의 말")
    assert both["input_ids"] == marked(one) and both["labels"] == marked(two)
    assert tokenizer("나라의 말")["input_ids"] == marked(one)
    tokenizer.src_lang = second
    assert tokenizer("나라의 말")["input_ids"] == marked(two)
    assert tokenizer.decode(marked(two), skip_special_tokens=True) == "나라의 말"
    tokenizer.tgt_lang = None
    assert tokenizer(text_target="나라의 말")["input_ids"] == marked(two)


@each
def test_an_unknown_language_is_told(kind: str, load: Callable[..., Tokenizer]) -> None:
    with pytest.raises(InputError, match="no language 'klingon'"):
        load(kind, src_lang="klingon")
    tokenizer = load(kind)
    for name in ("src_lang", "tgt_lang"):
        with pytest.raises(InputError, match="no language 'klingon'; it has a"):
            setattr(tokenizer, name, "klingon")
    assert tokenizer.src_lang == TRANSLATING[kind][1]


def test_a_tokenizer_of_one_language_marks_none(load: Callable[..., Tokenizer]) -> None:
    tokenizer = load("pegasus")
    assert tokenizer.src_lang is tokenizer.tgt_lang is None and tokenizer.lang_code_to_id == {}
    with pytest.raises(InputError, match="no language 'en'"):
        tokenizer.src_lang = "en"


def test_ids_of_the_published_models() -> None:
    """facebook/m2m100_418M, mbart-large-cc25, mbart-large-50 and nllb-200: how many pieces come first, and where languages are."""
    places = {"m2m100": (128004, "fr", 128028), "mbart": (250001, "en_XX", 250004), "mbart50": (250001, "sl_SI", 250052)}
    for kind, (start, code, index) in {**places, "nllb": (256001, "eng_Latn", 256047)}.items():
        name = {"m2m100": "M2M100", "mbart": "MBart", "mbart50": "MBart50", "nllb": "Nllb"}[kind]
        assert start + languages.LAYOUTS[f"{name}Tokenizer"].codes.index(code) == index
    assert len(languages.NLLB) == 256203 - 256001 == len(set(languages.NLLB))


@pytest.mark.parametrize("kind", ["mbart", "mbart50", "nllb"])
def test_languages_and_then_the_mask_follow_the_pieces(kind: str, load: Callable[..., Tokenizer]) -> None:
    tokenizer = load(kind)
    codes = list(tokenizer.lang_code_to_id.values())
    assert codes == list(range(codes[0], codes[0] + len(codes)))
    assert tokenizer.mask_token_id == codes[-1] + 1 == len(tokenizer) - 1
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]


def test_ids_that_files_state_go_before(load: Callable[..., Tokenizer], tmp_path: Path) -> None:
    size = len(load("nllb"))
    first = size - len(languages.NLLB) - 1
    listed = {first: "<mask>", first + 1: "kor_Hang", first + 2: "eng_Latn"}
    config = json.loads((tmp_path / "nllb" / "tokenizer_config.json").read_text())
    config |= {"added_tokens_decoder": {str(i): {"content": token, "special": True} for i, token in listed.items()}}
    (tmp_path / "nllb" / "tokenizer_config.json").write_text(json.dumps(config | {"additional_special_tokens": ["kor_Hang", "eng_Latn"]}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "nllb", tgt_lang="eng_Latn")
    assert {tokenizer.convert_tokens_to_ids(token): token for token in listed.values()} == listed
    assert tokenizer.lang_code_to_id == {"eng_Latn": first + 2, "kor_Hang": first + 1}


def test_nllb_of_old(load: Callable[..., Tokenizer]) -> None:
    tokenizer = load("nllb", legacy_behaviour=True)
    assert tokenizer("나라")["input_ids"][-2:] == [tokenizer.eos_token_id, tokenizer.get_lang_id("kor_Hang")]


def test_wmt21_has_eight_languages(load: Callable[..., Tokenizer]) -> None:
    whole, small = load("m2m100"), load("m2m100", language_codes="wmt21", src_lang="en", tgt_lang="de")
    assert list(small.lang_code_to_id) == ["en", "ha", "is", "ja", "cs", "ru", "zh", "de"]
    assert small.get_lang_id("en") == whole.get_lang_id("af")


def test_m2m100_takes_no_new_tokens(load: Callable[..., Tokenizer]) -> None:
    tokenizer = load("m2m100")
    assert tokenizer.add_special_tokens({"pad_token": "<pad>"}) == 0
    with pytest.raises(InputError, match="no new tokens"):
        tokenizer.add_tokens(["훈민"])
    assert len(tokenizer) == len(json.loads((Path(tokenizer.name_or_path) / "vocab.json").read_text(encoding="utf-8"))) + 100


@pytest.mark.parametrize(("vocab", "message"), [({}, "must map"), ({"a": 0}, "lacks <unk>"), ({"<unk>": 0, "</s>": "x"}, "must map")])
def test_broken_vocabularies(vocab: dict[str, Any], message: str, load: Callable[..., Tokenizer], tmp_path: Path) -> None:
    load("m2m100")
    (tmp_path / "m2m100" / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(FormatError, match=message):
        AutoTokenizer.from_pretrained(tmp_path / "m2m100")


@pytest.mark.parametrize("kind", ALL)
def test_the_class_follows_from_the_model(kind: str, load: Callable[..., Tokenizer], tmp_path: Path) -> None:
    """Where tokenizer_config.json names no class, as that of microsoft/deberta-v3-base."""
    expected = load(kind)
    shutil.copytree(tmp_path / kind, tmp_path / "bare")
    config = json.loads((tmp_path / kind / "tokenizer_config.json").read_text())
    config.pop("tokenizer_class", None)
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(config))
    if kind in ("mbart50", "nllb"):
        (tmp_path / "bare" / "config.json").write_text(json.dumps({"tokenizer_class": expected.init_kwargs["tokenizer_class"]}))
    assert AutoTokenizer.from_pretrained(tmp_path / "bare")("나라의 말")["input_ids"] == expected("나라의 말")["input_ids"]


def test_translation_with_m2m100(load: Callable[..., Tokenizer]) -> None:
    """ "en" is a piece of an ordinary word in its vocabulary: the language's token is ``__en__``."""
    tokenizer = load("m2m100")
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 1)
    config = AutoConfig.for_model(
        "m2m_100", vocab_size=len(tokenizer) + 8, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes, decoder_start_token_id=2
    )
    model = AutoModelForSeq2SeqLM.from_config(config)
    translate = pipeline("translation", model=model, tokenizer=tokenizer, src_lang="en", tgt_lang="fr", max_new_tokens=3)
    assert "en" in tokenizer.get_vocab()
    answer = translate("Hello world!", return_tensors=True)[0]["translation_token_ids"]
    assert list(answer)[:2] == [2, tokenizer.get_lang_id("fr")]
    tokenizer.src_lang = "en"
    assert translate.encode("", "Hello world!")["input_ids"] == tokenizer("Hello world!")["input_ids"]
