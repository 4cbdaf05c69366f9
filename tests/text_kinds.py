"""Small tokenizers of every kind, written as the files of a model folder. Shared by the tests of `hunmin.text`."""

from __future__ import annotations

import contextlib
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hunmin.text.languages import M2M100

GOLDEN = Path(__file__).parent / "golden" / "text"
CORPUS = [
    "훈민정음은 백성을 가르치는 바른 소리라는 뜻이다.",
    "나라의 말이 중국과 달라 문자와 서로 통하지 아니하므로",
    "토크나이저는 텍스트를 토큰 단위로 나눈다.",
    "한국어 문장과 English sentences are mixed here, aren't they?",
    "The quick brown fox jumps over the lazy dog. Hello world!",
    "첫 번째 문장은 짧다. 두 번째 문장은 첫 번째 문장보다 더 길다.",
] * 4
NASTY = [
    "Hello world!",
    "",
    " ",
    "   many   spaces  ",
    "한국어 문장입니다.",
    unicodedata.normalize("NFD", "한국어 훈민정음"),
    "각ᆨ 힣 ㅋㅋㅋ ㅏ",
    "👨‍👩‍👧‍👦 ❤️ 🇰🇷 emoji",
    "שלום עולם مرحبا",
    "a\x00b\u200bc\td\ne\r\nf\x7f",
    "naïve café ﬁ ① ㎏ Ⅷ",
    "中文字符測試 日本語テスト",
    "I'm sure they don't . ? ! ' s",
    "x" * 300,
    "the [MASK] and <mask> and </s> and [SEP]",
    "나라의 말이 the [UNK] 뜻 <unk>  <pad>x __fr__ en_XX Hello eng_Latn <mask_1><unk_5>",
    "…‘’“”— ﷺ \ufeff",
    "훈민정음 " * 40,
]
SPECIALS = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "gpt2": ["<|endoftext|>"],
}


def _write(folder: Path, name: str, value: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def wordpiece(folder: Path, **config: Any) -> Path:
    """``vocab.txt`` of BERT."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=config.get("do_lower_case", True))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIALS["bert"], show_progress=False))
    vocab = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 64, **config})
    _write(folder, "config.json", {"model_type": "bert"})
    (folder / "vocab.txt").write_text("".join(token + "\n" for token, _ in vocab), encoding="utf-8")
    return folder


def byte_level(folder: Path, kind: str, **config: Any) -> Path:
    """``vocab.json`` and ``merges.txt`` of GPT-2 or RoBERTa."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS[kind], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    state = json.loads(backend.to_str())["model"]
    _write(folder, "vocab.json", state["vocab"])
    _write(folder, "config.json", {"model_type": kind})
    _write(folder, "tokenizer_config.json", {"model_max_length": 64, **config})
    merges = "".join(f"{a} {b}\n" for a, b in state["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    return folder


def fast(folder: Path, **config: Any) -> Path:
    """``tokenizer.json`` of byte-level BPE with a template, padding and truncation baked in."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    backend.enable_padding(pad_id=2, pad_token="<pad>", direction="left")
    backend.enable_truncation(16)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    _write(folder, "tokenizer_config.json", {**names, **config})
    return folder


def _field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & (1 << 64) - 1)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def spm_bytes(pieces: list[tuple[str, float, int]], model_type: int, byte_fallback: bool = False, unk_id: int = 0) -> bytes:
    """A SentencePiece file, written by hand."""
    body = b"".join(_field(1, _field(1, t.encode()) + _field(2, s) + _field(3, k)) for t, s, k in pieces)
    trainer = _field(3, model_type) + _field(35, int(byte_fallback)) + _field(40, unk_id) + _field(41, 1) + _field(42, 2) + _field(43, -1)
    return body + _field(2, trainer) + _field(3, _field(1, b"identity") + _field(3, 1) + _field(4, 1))


def unigram_pieces(special: list[str]) -> list[tuple[str, float, int]]:
    """A Unigram vocabulary learned from the corpus, with ``special`` in front (the one named <unk> is the unknown piece)."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    kinds = {token: 2 if token == "<unk>" else 3 for token in special}
    return [(token, float(score), kinds.get(token, 1)) for token, score in vocab]


def sentencepiece(folder: Path, model_type: str, file: str, special: list[str], **config: Any) -> Path:
    """A Unigram ``.model`` of T5, ALBERT, XLM-RoBERTa or CamemBERT."""
    pieces = unigram_pieces(special)
    _write(folder, "config.json", {"model_type": model_type})
    _write(folder, "tokenizer_config.json", {"model_max_length": 64, **config})
    (folder / file).write_bytes(spm_bytes(pieces, 1, unk_id=special.index("<unk>")))
    return folder


def llama(folder: Path, **config: Any) -> Path:
    """A BPE ``tokenizer.model`` with byte fallback."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *[(f"<0x{i:02X}>", 0.0, 6) for i in range(256)]]
    learned = sorted(backend.get_vocab().items(), key=lambda item: (len(item[0]) == 1, item[1]))
    pieces += [(token, float(-index), 1) for index, (token, _) in enumerate(learned)]
    _write(folder, "config.json", {"model_type": "llama"})
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **config})
    (folder / "tokenizer.model").write_bytes(spm_bytes(pieces, 2, byte_fallback=True))
    return folder


def marian(folder: Path) -> Path:
    """Marian's pair: two Unigram models that share ``vocab.json``, each knowing pieces that the other lacks."""
    pieces = unigram_pieces(["<unk>", "<s>", "</s>"])
    normal = [piece for piece in pieces if piece[2] == 1]
    sides = {"source": normal[::3] + normal[1::3], "target": normal[1::3] + normal[2::3]}
    letters = {token for token, *_ in normal if len(token) == 1}
    vocab = dict.fromkeys(["</s>", "<unk>", *[token for token, *_ in normal[:-4]], ">>kor<<", "<pad>"])
    for side, part in sides.items():
        lonely = [piece for piece in normal if piece[0] in letters and piece not in part][::2]
        (folder).mkdir(parents=True, exist_ok=True)
        (folder / f"{side}.spm").write_bytes(spm_bytes([("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *part, *lonely], 1))
    _write(folder, "vocab.json", {token: index for index, token in enumerate(vocab)})
    _write(folder, "config.json", {"model_type": "marian"})
    _write(folder, "tokenizer_config.json", {"source_lang": "en", "target_lang": "ko"})
    return folder


def charsmap_rules(path: Path) -> Path:
    """Rules for SentencePiece's trainer: what NMT_NFKC does to the characters of these tests, since the whole of it takes 240 kB."""
    text = "".join(CORPUS + NASTY)
    rules = {char: unicodedata.normalize("NFKC", char) for char in text}
    rules |= {unicodedata.normalize("NFD", char): char for char in text if "가" <= char <= "힣"}
    rules |= dict.fromkeys("\t\n\r\u200b\u200d\ufeff", " ") | {"\x7f": ""}
    lines = ["\t".join(" ".join(f"{ord(c):X}" for c in side) for side in rule) for rule in sorted(rules.items()) if rule[0] != rule[1]]
    path.write_text("".join(line + "\n" for line in lines if not line.startswith("0\t")))
    return path


def train(folder: Path, file: str, algorithm: str, special: dict[str, str], **config: Any) -> Path:
    """A model that SentencePiece trains (extra ``parity``). ``special`` names its first pieces in order: ``{"unk": "<unk>", "bos": "<s>"}``."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("unk", "bos", "eos", "pad")
    places = {f"{kind}_id": list(special).index(kind) if kind in special else -1 for kind in kinds}
    names = {f"{kind}_piece": special[kind] for kind in kinds if kind in special}
    rules = charsmap_rules(folder / "rules.tsv")
    with open(folder / file, "wb") as out, contextlib.chdir(folder):  # the model keeps the path of its rules
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=out,
            model_type=algorithm,
            vocab_size=220,
            normalization_rule_tsv=rules.name,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
            **places,
            **names,
        )
    rules.unlink()
    _write(folder, "tokenizer_config.json", {"model_max_length": 64, **config})
    return folder


def m2m100(folder: Path, **config: Any) -> Path:
    """M2M-100: a BPE model, and ``vocab.json`` in another order that lacks some of its pieces and has others."""
    from hunmin.text.sentencepiece import read

    train(folder, "sentencepiece.bpe.model", "bpe", FAIRSEQ, tokenizer_class="M2M100Tokenizer", **config)
    _write(folder, "config.json", {"model_type": "m2m_100"})
    pieces = [piece.text for piece in read(folder / "sentencepiece.bpe.model").pieces[3:]]
    vocab = ["<s>", "<pad>", "</s>", "<unk>", *pieces[::2], "en", *pieces[1::6], *pieces[3::6], "▁xylophone"]
    _write(folder, "vocab.json", {token: index for index, token in enumerate(dict.fromkeys(vocab))})
    _write(folder, "special_tokens_map.json", {"additional_special_tokens": [f"__{code}__" for code in M2M100]})
    return folder


def fairseq(folder: Path, name: str, model_type: str, algorithm: str = "unigram", **config: Any) -> Path:
    """mBART, mBART-50 and NLLB: the codes of languages follow the pieces."""
    train(folder, "sentencepiece.bpe.model", algorithm, FAIRSEQ, tokenizer_class=f"{name}Tokenizer", **config)
    _write(folder, "config.json", {"model_type": model_type})
    return folder


def pegasus(folder: Path, **config: Any) -> Path:
    """PEGASUS: 103 tokens between </s> and the pieces."""
    train(folder, "spiece.model", "unigram", {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}, **config)
    _write(folder, "config.json", {"model_type": "pegasus"})
    return folder


def deberta(folder: Path, **config: Any) -> Path:
    """DeBERTa-v2 and v3, whose tokenizer_config.json names no class."""
    special = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    train(folder, "spm.model", "unigram", special, vocab_type="spm", **config)
    _write(folder, "config.json", {"model_type": "deberta-v2"})
    return folder


def unpack(kind: str, folder: Path) -> tuple[Path, list[Any]]:
    """The model folder of a golden, and what transformers made of texts: ``[text, outputs]`` each (tests/golden/text/make.py)."""
    case = json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in case["files"].items():
        data = bytes.fromhex(value["hex"]) if isinstance(value, dict) and "hex" in value else value
        (folder / name).write_bytes(data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode())
    return folder, case["texts"]


XLMR = ["<unk>", "<s>", "</s>"]
FAIRSEQ = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}
KINDS: dict[str, Any] = {
    "bert": wordpiece,
    "bert-cased": lambda f: wordpiece(f, do_lower_case=False, strip_accents=False, tokenize_chinese_chars=False),
    "gpt2": lambda f: byte_level(f, "gpt2", pad_token="<|endoftext|>"),
    "roberta": lambda f: byte_level(f, "roberta"),
    "roberta-prefix": lambda f: byte_level(f, "roberta", add_prefix_space=True),
    "fast": fast,
    "t5": lambda f: sentencepiece(f, "t5", "spiece.model", ["<pad>", "</s>", "<unk>"]),
    "albert": lambda f: sentencepiece(f, "albert", "spiece.model", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    "xlm-roberta": lambda f: sentencepiece(f, "xlm-roberta", "sentencepiece.bpe.model", XLMR),
    "camembert": lambda f: sentencepiece(f, "camembert", "sentencepiece.bpe.model", XLMR),
    "llama": lambda f: llama(f, pad_token="</s>"),
    "marian": marian,
    "m2m100": lambda f: m2m100(f, src_lang="ko", tgt_lang="fr"),
    "mbart": lambda f: fairseq(f, "MBart", "mbart", src_lang="ko_KR", tgt_lang="fr_XX"),
    "mbart50": lambda f: fairseq(f, "MBart50", "mbart", src_lang="ko_KR", tgt_lang="fr_XX"),
    "nllb": lambda f: fairseq(f, "Nllb", "m2m_100", "bpe", src_lang="kor_Hang", tgt_lang="fra_Latn"),
    "pegasus": pegasus,
    "deberta-v2": lambda f: deberta(f, do_lower_case=False),
    "deberta-v2-punct": lambda f: deberta(f, do_lower_case=True, split_by_punct=True),
}
