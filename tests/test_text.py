"""The tokenizer's behaviour without any other library to compare with: goldens, options, errors, broken files."""

from __future__ import annotations

import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hunmin.errors import ConfigError, FormatError, HunminError, InputError, SourceError
from hunmin.text import AutoTokenizer, BatchEncoding, Tokenizer
from tests import text_kinds as kinds

GOLDEN = kinds.GOLDEN


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return AutoTokenizer.from_pretrained(kinds.wordpiece(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return AutoTokenizer.from_pretrained(kinds.byte_level(tmp_path_factory.mktemp("gpt2"), "gpt2"))


@pytest.mark.parametrize("golden", sorted(set(GOLDEN.glob("*.json")) - set(GOLDEN.glob("real-*"))), ids=lambda path: path.stem)
def test_goldens(golden: Path, tmp_path: Path) -> None:
    folder, texts = kinds.unpack(golden.stem, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, expected in texts:
        out = tokenizer(text, return_offsets_mapping="offset_mapping" in expected)
        if "offset_mapping" in out:
            out["offset_mapping"] = [list(span) for span in out["offset_mapping"]]
        assert dict(out) == {key: value for key, value in expected.items() if key not in ("text", "target")}, text
        assert tokenizer.decode(out["input_ids"], skip_special_tokens=True) == expected["text"]
        if "target" in expected:
            assert tokenizer(text_target=text)["input_ids"] == expected["target"]


@pytest.mark.weights
def test_the_real_marian_vocabulary() -> None:
    """Helsinki-NLP/opus-mt-en-fr: ids of both languages and decoding, as MarianTokenizer of transformers 5.23 gave them."""
    from hunmin.hub.opus import opus_mt_en_fr

    tokenizer = AutoTokenizer.from_pretrained(opus_mt_en_fr())
    for text, source, target, decoded in json.loads((GOLDEN / "real-opus-mt-en-fr.json").read_text(encoding="utf-8")):
        assert tokenizer(text, text_target=text)["input_ids"] == source
        assert tokenizer(text_target=text)["input_ids"] == target
        assert tokenizer.decode(source) == decoded


def test_shapes_of_input(bert: Tokenizer) -> None:
    one = bert("한국어 문장")["input_ids"]
    assert bert(["한국어 문장"])["input_ids"] == [one]
    assert bert(("한국어 문장", "Hello"))["input_ids"] == [one, bert("Hello")["input_ids"]]
    assert bert(np.array(["한국어 문장"]))["input_ids"] == [one]
    pair = bert([["한국어 문장", "Hello"]])
    assert pair["input_ids"] == [bert("한국어 문장", "Hello")["input_ids"]] == bert([("한국어 문장", "Hello")])["input_ids"]
    assert set(pair["token_type_ids"][0]) == {0, 1}
    assert dict(bert([])) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    assert bert("", return_tensors="pt")["input_ids"].shape == (1, 2)
    words = bert(["한국어", "문장"], is_split_into_words=True)
    assert words["input_ids"] == one
    assert max(i for i in words.word_ids() if i is not None) == 1
    assert bert(text_target="Hello")["input_ids"] == bert("Hello")["input_ids"] == bert("a", text_target="Hello")["labels"]


def test_type_ids_only_where_the_model_has_them(bert: Tokenizer, gpt2: Tokenizer, tmp_path: Path) -> None:
    assert "token_type_ids" in bert("a")
    assert "token_type_ids" not in gpt2("a")
    assert "token_type_ids" in gpt2("a", return_token_type_ids=True)
    for model_type, class_name, expected in (
        ("roberta", "BertTokenizer", True),  # klue/roberta-base
        ("distilbert", None, False),
        ("bert", "PreTrainedTokenizerFast", True),
        ("llama", "PreTrainedTokenizerFast", False),
        ("electra", None, True),
        ("roberta", "DistilBertTokenizerFast", False),
    ):
        folder = kinds.wordpiece(tmp_path / f"{model_type}-{class_name}")
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name} if class_name else {}))
        if class_name == "PreTrainedTokenizerFast":
            bert.save_pretrained(tmp_path / "saved")
            (folder / "tokenizer.json").write_bytes((tmp_path / "saved" / "tokenizer.json").read_bytes())
        assert ("token_type_ids" in AutoTokenizer.from_pretrained(folder)("a")) == expected, (model_type, class_name)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_input_names": ["input_ids", "attention_mask"]}))
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(folder)("a")


def test_padding(bert: Tokenizer) -> None:
    texts = ["짧다", "첫 번째 문장보다 더 길다"]
    rows = bert(texts)["input_ids"]
    width = max(map(len, rows))
    for value in (True, "longest", "Longest", "LONGEST"):
        out = bert(texts, padding=value)
        assert out["input_ids"] == [row + [0] * (width - len(row)) for row in rows]
        assert out["attention_mask"] == [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    assert bert(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"].shape == (2, 64)
    assert bert(texts, padding=True, padding_side="Left")["input_ids"][0][-1] == bert.sep_token_id
    assert {len(r) for r in bert(texts, padding=True, pad_to_multiple_of=16)["input_ids"]} == {-(-width // 16) * 16}
    assert bert(texts)["input_ids"] == rows  # settings of one call do not stay


def test_pad_collates(bert: Tokenizer) -> None:
    texts = ["짧다", "첫 번째 문장보다 더 길다"]
    expected = bert(texts, padding=True, return_tensors="pt")
    rows = [dict(bert(text)) for text in texts]
    for given in (rows, {key: [row[key] for row in rows] for key in rows[0]}, BatchEncoding(bert(texts))):
        out = bert.pad(given, return_tensors="pt")
        assert all(torch.equal(out[key], expected[key]) for key in expected)
    tensors = bert.pad([{"input_ids": torch.tensor(row["input_ids"])} for row in rows])
    assert torch.equal(tensors["input_ids"], expected["input_ids"])
    assert torch.equal(tensors["attention_mask"], expected["attention_mask"])
    assert bert.pad({"input_ids": [2, 3]}, padding="max_length", max_length=4)["input_ids"] == [2, 3, 0, 0]
    assert bert.pad([{"input_ids": [2], "label": 7}, {"input_ids": [2, 3], "label": 8}])["label"] == [7, 8]


def test_truncation_and_overflow(bert: Tokenizer) -> None:
    long = " ".join(["문장"] * 30)
    assert len(bert(long, truncation=True, max_length=10)["input_ids"]) == 10
    assert len(bert(long, max_length=10)["input_ids"]) == 10
    assert len(bert(long, truncation=False, max_length=10)["input_ids"]) > 10
    out = bert([long, "짧다"], truncation=True, max_length=12, stride=4, return_overflowing_tokens=True, return_offsets_mapping=True)
    assert out["overflow_to_sample_mapping"] == [0] * (len(out["input_ids"]) - 1) + [1]
    assert all(len(row) <= 12 for row in out["input_ids"])
    assert out["offset_mapping"][1][1] == out["offset_mapping"][0][-5]
    pair = bert("문장", long, truncation="only_second", max_length=9)
    assert pair.sequence_ids().count(0) == len(bert.tokenize("문장"))


def test_long_text_warns_once(bert: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    bert._warned = False
    with caplog.at_level(logging.WARNING, logger="hunmin"):
        for _ in range(3):
            bert("문장 " * 100)
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"A text has \d+ tokens, the model takes 64: give truncation=True\.", message)


def test_batch_encoding(bert: Tokenizer) -> None:
    text = "Hello 한국어 문장"
    out = bert([text, "world"], padding=True, return_tensors="pt")
    assert out.input_ids is out["input_ids"]
    assert out["input_ids"][0].shape == out.shape[1:]
    assert set({**out}) == {"input_ids", "token_type_ids", "attention_mask"}
    assert out.to("cpu")["input_ids"].device.type == "cpu"
    assert out.tokens(0)[0] == "[CLS]"
    assert out.encodings is not None
    assert out[0].ids == out["input_ids"][0].tolist()
    assert out[:1]["input_ids"].shape[0] == 1
    first = out.char_to_token(0, text.index("한"))
    assert first is not None
    span = out.token_to_chars(0, first)
    assert span is not None
    assert text[span[0]] == "한"
    assert out.word_to_chars(0, 1) == (6, 9)
    assert out.token_to_word(0, first) == 1
    assert out.char_to_token(0, 5) is None
    assert bert(text)["attention_mask"] == bert(text).attention_mask
    with pytest.raises(InputError, match="Row 7"):
        out.tokens(7)
    with pytest.raises(AttributeError, match="keys: input_ids"):
        out.missing  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "longst"}, "use True, False, 'longest', 'max_length', 'do_not_pad'"),
        ({"truncation": "first"}, "'longest_first', 'only_first', 'only_second'"),
        ({"padding_side": "top"}, "'right', 'left'"),
        ({"return_tensors": "tf"}, "use 'pt' or 'np'"),
        ({"max_length": -1, "truncation": True}, "max_length=-1 must be a whole number"),
        ({"max_length": 3, "truncation": True, "stride": 5}, "cannot be encoded"),
        ({"max_length": 9, "truncation": True, "padding": True, "pad_to_multiple_of": 8}, "not a multiple"),
    ],
)
def test_unknown_options_name_the_valid_ones(bert: Tokenizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bert("Hello world", **options)


@pytest.mark.parametrize("text", [None, 3, [None], ["a", 3.5], [["a", "b", "c"]], {"a": "b"}, "\ud800", ["a", ["b"]]], ids=repr)
def test_what_is_not_text(bert: Tokenizer, text: Any) -> None:
    with pytest.raises(InputError) as error:
        bert(text)
    assert len(str(error.value).splitlines()) == 1


def test_padding_needs_a_padding_token(gpt2: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"tokenizer.pad_token = tokenizer.eos_token"):
        gpt2(["a", "b c"], padding=True)
    with pytest.raises(InputError, match="differ in length"):
        gpt2(["a", "a longer one"], return_tensors="pt")
    gpt2.pad_token = gpt2.eos_token
    assert gpt2.pad_token_id == gpt2.eos_token_id == 0
    assert gpt2(["a", "b c d"], padding=True, return_tensors="np")["attention_mask"].sum() > 0
    gpt2.pad_token = None
    assert gpt2.pad_token_id is None
    gpt2.pad_token_id = 5
    assert gpt2.pad_token == gpt2.convert_ids_to_tokens(5)
    with pytest.raises(InputError, match="no such id"):
        gpt2.pad_token_id = 10**6
    gpt2.pad_token = None


def test_decoding(tmp_path: Path) -> None:
    bert = AutoTokenizer.from_pretrained(kinds.KINDS["bert-cased"](tmp_path))
    ids = bert("토크나이저는 텍스트를 나눈다")["input_ids"]
    text = "토크나이저는 텍스트를 나눈다"
    assert bert.decode(ids) == f"[CLS] {text} [SEP]"
    for given in (ids, torch.tensor(ids), np.array(ids)):
        assert bert.decode(given, skip_special_tokens=True) == text
    assert bert.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == [text, text] == bert.decode([ids, ids], True)
    assert bert.decode(ids[1]) == bert.decode([ids[1]])
    assert bert.decode([]) == ""
    assert bert.batch_decode([]) == []
    assert bert.decode([*ids, 999_999]) == bert.decode(ids)
    assert bert.convert_ids_to_tokens(999_999) is None
    assert bert.convert_ids_to_tokens(torch.tensor(ids), skip_special_tokens=True) == bert.tokenize(text)
    assert bert.convert_tokens_to_string(bert.tokenize(text)) == text
    for bad in ([-100, 5], [1 << 40], [1.5], "abc"):
        with pytest.raises(InputError):
            bert.decode(bad)


def test_special_masks(bert: Tokenizer) -> None:
    plain = bert("한국어 문장", add_special_tokens=False)["input_ids"]
    whole = bert("한국어 문장")["input_ids"]
    assert bert.build_inputs_with_special_tokens(plain) == whole
    assert bert.build_inputs_with_special_tokens(plain, plain) == bert("한국어 문장", "한국어 문장")["input_ids"]
    assert bert.get_special_tokens_mask(whole, already_has_special_tokens=True) == bert.get_special_tokens_mask(plain)
    assert bert.max_len_single_sentence == 62


def test_a_tokenizer_of_your_own(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    backend = Backend(models.WordLevel({"나는": 0, "파리": 1, "[UNK]": 2, "[PAD]": 3}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ours = Tokenizer(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", padding_side="left")
    assert ours(["나는 파리 여행", "파리"], padding=True)["input_ids"] == [[0, 1, 2], [3, 3, 1]]
    ours.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(["나는 파리", "파리"], padding=True)["input_ids"] == [[0, 1], [3, 1]]
    assert Tokenizer(tokenizer_file=tmp_path / "tokenizer.json")("파리")["input_ids"] == [1]


def test_pickles_and_threads(bert: Tokenizer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    again = pickle.loads(pickle.dumps(bert))
    expected = [again("문장 " * n, truncation=True, max_length=5 + n % 3, padding="max_length")["input_ids"] for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        calls = pool.map(lambda n: bert("문장 " * n, truncation=True, max_length=5 + n % 3, padding="max_length")["input_ids"], range(40))
    assert list(calls) == expected


def test_bos_and_eos_can_be_asked_for(tmp_path: Path) -> None:
    folder = kinds.llama(tmp_path)
    base = AutoTokenizer.from_pretrained(folder)
    ids = base("Hello")["input_ids"]
    assert ids[0] == base.bos_token_id
    both = AutoTokenizer.from_pretrained(folder, add_bos_token=False, add_eos_token=True)("Hello")["input_ids"]
    assert both == [*ids[1:], base.eos_token_id]


def test_overrides(tmp_path: Path) -> None:
    folder = kinds.byte_level(tmp_path / "a", "roberta")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "b")
    for place in (folder, tmp_path / "b"):
        spaced = AutoTokenizer.from_pretrained(place, add_prefix_space=True, padding_side="left", use_fast=True, trust_remote_code=True)
        assert spaced("Hello")["input_ids"] == AutoTokenizer.from_pretrained(place)(" Hello")["input_ids"]
        assert spaced.padding_side == "left"


def test_chat_template_errors(bert: Tokenizer, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "안녕"}]
    with pytest.raises(InputError, match="no default chat template"):
        bert.apply_chat_template(chat)
    for bad in ([], "안녕", [{"content": "안녕"}], ["안녕"], {"role": "user", "content": "안녕"}, None):
        with pytest.raises(InputError, match="list of messages"):
            bert.apply_chat_template(bad, chat_template="x")
    for template, message in (
        ("{% for m in messages %}", "failed"),
        ("{{ messages[0].content.missing.deeper }}", "failed"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "failed"),
        ("{{ ''.__class__ }}{{ cycler.__init__.__globals__ }}", "failed"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "loop rounds"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without end"),
        ("{{ 'x' * 999999999 }}", "elements"),
        ("{{ 9 ** 999999999 }}", "too large"),
        ("{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "characters"),
        ("{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "elements"),
        ("{{ messages.append(1) }}", "failed"),
    ):
        with pytest.raises(InputError, match=message):
            bert.apply_chat_template(chat, chat_template=template)
    with pytest.raises(InputError, match="docstring"):
        bert.apply_chat_template(chat, tools=[lambda x: x], chat_template="x")
    assert chat == [{"role": "user", "content": "안녕"}]


def test_several_chat_templates(bert: Tokenizer, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    chat = [{"role": "user", "content": "안녕"}]
    for again in range(2):
        both = AutoTokenizer.from_pretrained(tmp_path / ("again" if again else ""))
        assert both.apply_chat_template(chat, tokenize=False) == "plain"
        assert both.apply_chat_template(chat, tools=[{"type": "function"}], tokenize=False) == "tools"
        assert both.apply_chat_template(chat, chat_template="tool_use", tokenize=False) == "tools"
        both.save_pretrained(tmp_path / "again")
    (tmp_path / "chat_template.jinja").write_text("the file wins")
    assert AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(chat, tokenize=False) == "the file wins"


def _damage(name: str, content: str | bytes) -> Any:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return act


BROKEN: list[tuple[str, Any, str]] = [
    ("bert", _damage("vocab.txt", "a\nb\n"), "lacks"),
    ("bert", _damage("vocab.txt", b"\xff\xfe[CLS]"), "broken"),
    ("bert", _damage("tokenizer_config.json", "{"), "tokenizer_config.json"),
    ("bert", _damage("tokenizer_config.json", "[]"), "tokenizer_config.json"),
    ("bert", _damage("config.json", '{"model_type": "bert"'), "config.json"),
    ("bert", _damage("tokenizer_config.json", '{"model_max_length": "many"}'), "broken"),
    ("bert", _damage("tokenizer_config.json", '{"cls_token": 3}'), "special token"),
    ("bert", _damage("tokenizer_config.json", '{"chat_template": [1]}'), "broken"),
    ("fast", _damage("tokenizer.json", '{"version": "1.0", "model"'), "tokenizer.json"),
    ("fast", _damage("tokenizer.json", "{}"), "tokenizer.json"),
    ("fast", _damage("tokenizer.json", b"\x80\x02pickle"), "tokenizer.json"),
    ("gpt2", _damage("merges.txt", "a b c\n"), "broken|merges"),
    ("gpt2", _damage("merges.txt", "qqq zzz\n"), "broken|merges"),
    ("gpt2", _damage("merges.txt", b"\xff\xfe\n"), "broken"),
    ("gpt2", _damage("vocab.json", '["a"]'), "vocab.json"),
    ("gpt2", _damage("vocab.json", '{"a": "b"}'), "broken"),
    ("gpt2", lambda folder: (folder / "vocab.json").unlink(), "vocab.json"),
    ("roberta", _damage("vocab.json", '{"a": 1}'), "lacks|broken"),
    ("t5", _damage("spiece.model", b"\x0a\xff\xff\xff\xff\xff"), "SentencePiece"),
    ("t5", _damage("spiece.model", b""), "SentencePiece"),
    ("t5", _damage("spiece.model", b"IQ== 0\nIg== 1\n"), "SentencePiece"),
    ("marian", _damage("vocab.json", '{"</s>": 0}'), "<unk>"),
    ("marian", _damage("vocab.json", '{"</s>": "0", "<unk>": 1}'), "vocab.json"),
    ("marian", lambda folder: (folder / "target.spm").unlink(), "target.spm"),
]


@pytest.mark.parametrize(("kind", "act", "message"), BROKEN)
def test_broken_files(kind: str, act: Any, message: str, tmp_path: Path) -> None:
    folder = kinds.KINDS[kind](tmp_path / "model")
    act(folder)
    with pytest.raises(HunminError, match=message) as error:
        AutoTokenizer.from_pretrained(folder)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize("kind", ["t5", "llama", "marian"])
def test_cut_off_sentencepiece(kind: str, tmp_path: Path) -> None:
    folder = kinds.KINDS[kind](tmp_path / "model")
    path = next(path for path in folder.iterdir() if path.suffix in (".model", ".spm"))
    data, refused = path.read_bytes(), 0
    for size in [*range(0, 64, 7), len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        try:
            AutoTokenizer.from_pretrained(folder)
        except FormatError:
            refused += 1
    assert refused >= 8  # a cut between two fields leaves a shorter file that is well formed


def test_no_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"tokenizer\.json, vocab\.txt"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_vocabulary_files_of_an_unknown_class_are_refused(tmp_path: Path) -> None:
    folder = kinds.byte_level(tmp_path, "gpt2", tokenizer_class="CLIPTokenizer")
    with pytest.raises(ConfigError, match=r"CLIPTokenizer .*tokenizer\.json"):
        AutoTokenizer.from_pretrained(folder)


def test_korean_messages(bert: Tokenizer, korean: None) -> None:
    with pytest.raises(InputError, match="중에서 고르세요"):
        bert("a", padding="x")


def test_importing_is_light() -> None:
    heavy = "{'torch', 'tokenizers', 'jinja2', 'numpy', 'huggingface_hub', 'transformers'}"
    code = f"import sys, hunmin.text; from hunmin.text import Tokenizer, AutoTokenizer, BatchEncoding; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
