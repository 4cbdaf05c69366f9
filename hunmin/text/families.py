"""What a tokenizer class or a model type stands for: special tokens that files leave out, and how to build from vocabulary files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunmin.errors import FormatError, say
from hunmin.text import languages
from hunmin.text import sentencepiece as spm
from hunmin.text.special import content

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Config = Mapping[str, Any]
_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_MASK = {"content": "<mask>", "lstrip": True}  # takes in the space before it, as the models were trained
_BOS_EOS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_FAIRSEQ = {**_BOS_EOS, "sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>", "mask_token": _MASK}
_GPT2 = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_ALBERT = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "cls_token": "[CLS]",
}
_GEMMA = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
_FOUR = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]  # where SentencePiece has <unk>, <s> and </s>
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@dataclass(frozen=True)
class Family:
    """A kind of tokenizer.

    Args:
        name: the tokenizer class that is written when it is saved.
        defaults: keys of ``tokenizer_config.json`` that the class implies.
        spm: builds the Rust tokenizer from a SentencePiece model.
    """

    name: str
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    spm: Callable[[spm.SentencePiece, Config], Backend] | None = None


def template(backend: Backend, single: str, pair: str, *tokens: str) -> None:
    """Give ``backend`` the post-processor that puts ``tokens`` around texts.

    Raises:
        FormatError: the vocabulary lacks one of them.
    """
    from tokenizers import processors

    ids = {token: backend.token_to_id(token) for token in tokens}
    if missing := [token for token, index in ids.items() if index is None]:
        raise FormatError(
            say(f"The vocabulary lacks the special token {missing[0]}.", f"어휘 집합에 특수 토큰 {missing[0]}이(가) 없습니다.")
        )
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(t, i or 0) for t, i in ids.items()])


def _t5(model: spm.SentencePiece, config: Config) -> Backend:
    count = int(config.get("extra_ids", 100))
    vocab = model.vocab + [(f"<extra_id_{i}>", 0.0) for i in range(count - 1, -1, -1)]
    backend = spm.unigram(vocab, model.unk_id, spm.charsmap(model))
    template(backend, "$A </s>", "$A </s> $B </s>", "</s>")
    return backend


def _xlm_roberta(model: spm.SentencePiece, config: Config) -> Backend:
    vocab = [*_FOUR, *model.vocab[3:], ("<mask>", 0.0)]
    backend = spm.unigram(vocab, 3, spm.charsmap(model))
    template(backend, "<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    return backend


def _camembert(model: spm.SentencePiece, config: Config) -> Backend:
    vocab = [
        ("<s>NOTUSED", 0.0),
        ("<pad>", 0.0),
        ("</s>NOTUSED", 0.0),
        ("<unk>", 0.0),
        ("<unk>NOTUSED", -100.0),
        *model.vocab[1:],
        ("<mask>", 0.0),
    ]
    backend = spm.unigram(vocab, 3, spm.charsmap(model))
    template(backend, "<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    return backend


def _albert(model: spm.SentencePiece, config: Config) -> Backend:
    from tokenizers import normalizers

    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not config.get("keep_accents"):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if config.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    backend = spm.unigram(model.vocab, model.unk_id, steps + spm.charsmap(model))
    template(backend, "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return backend


def _mbart(model: spm.SentencePiece, config: Config) -> Backend:
    return _fairseq(model, languages.MBART)


def _mbart50(model: spm.SentencePiece, config: Config) -> Backend:
    return _fairseq(model, languages.MBART50)


def _fairseq(model: spm.SentencePiece, codes: tuple[str, ...]) -> Backend:
    """Fairseq puts four tokens in place of SentencePiece's three, and the languages and the mask behind the pieces."""
    vocab = [*_FOUR, *model.vocab[3:], *((code, 0.0) for code in codes), ("<mask>", 0.0)]
    return spm.spaced(spm.unigram(vocab, 3, _cleaning(model)))


def _cleaning(model: spm.SentencePiece) -> list[Any]:
    """As :func:`hunmin.text.sentencepiece.cleaning`, in the steps of published files, which give spaces to the token after them."""
    from tokenizers import Regex, normalizers

    trim, runs = normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), spm.SPACE)
    return [*spm.charsmap(model, composed=True), trim, runs]


def _nllb(model: spm.SentencePiece, config: Config) -> Backend:
    """The languages follow the pieces and the mask follows them (eng_Latn is 256047 and <mask> 256203), unless the files say otherwise."""
    from tokenizers import AddedToken

    ids = {token: index for index, (token, _) in enumerate([*_FOUR, *model.vocab[3:]])}
    backend = spm.word_bpe(ids, model, "<unk>", _cleaning(model))
    if not config.get("added_tokens_decoder"):
        backend.add_special_tokens([AddedToken(code, normalized=False) for code in languages.NLLB])
    return backend


def _pegasus(model: spm.SentencePiece, config: Config) -> Backend:
    """``offset`` tokens for pretraining stand before <unk>: two masks and ``<unk_2>``, ``<unk_3>``, ... that no text contains."""
    offset, sentence = int(config.get("offset", 103)), config.get("mask_token_sent")
    masks = [content(token) for token in (sentence, config.get("mask_token") if offset else None) if token is not None]
    unused = [(f"<unk_{index}>", -100.0) for index in range(2, offset)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), *((mask, 0.0) for mask in masks), *unused, *model.vocab[2:]]
    backend = spm.unigram(vocab, model.unk_id + offset, _cleaning(model))
    template(backend, "$A </s>", "$A $B </s>", "</s>")
    return backend


def _deberta_v2(model: spm.SentencePiece, config: Config) -> Backend:
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

    steps: list[Any] = [normalizers.Lowercase()] if config.get("do_lower_case") else []
    steps += [normalizers.Strip(), *spm.charsmap(model, composed=True), normalizers.Replace(Regex(" {2,}"), " ")]
    backend = spm.spaced(spm.unigram(model.vocab, model.unk_id, steps), prefix=config.get("add_prefix_space") is not False)
    if config.get("split_by_punct"):
        split: list[Any] = [pre_tokenizers.Punctuation(), backend.pre_tokenizer]
        backend.pre_tokenizer = pre_tokenizers.Sequence(split)  # pyright: ignore[reportAttributeAccessIssue]
    # Found in normalized text, as in published files; the Rust library would spell it in small letters after lowercasing.
    backend.add_special_tokens([AddedToken(content(config["unk_token"]), normalized=not config.get("do_lower_case"))])
    template(backend, "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return backend


def _llama(model: spm.SentencePiece, config: Config) -> Backend:
    prefix = "never" if config.get("add_prefix_space") is False else ("always" if config.get("legacy") else "first")
    return spm.bpe(model, prefix)


def _gemma(model: spm.SentencePiece, config: Config) -> Backend:
    return spm.bpe(model, "never")


def generic(model: spm.SentencePiece, config: Config) -> Backend:
    """A SentencePiece model as it describes itself, for a tokenizer class without rules of its own."""
    if model.model_type == spm.BPE:
        return spm.bpe(model, "first" if model.add_dummy_prefix else "never")
    return spm.unigram(model.vocab, model.unk_id, spm.charsmap(model), model.add_dummy_prefix, model.byte_fallback)


FAMILIES = {
    "bert": Family("BertTokenizer", _BERT),
    "roberta": Family("RobertaTokenizer", _FAIRSEQ),
    "gpt2": Family("GPT2Tokenizer", _GPT2),
    "t5": Family("T5Tokenizer", _T5, _t5),
    "albert": Family("AlbertTokenizer", {**_ALBERT, "mask_token": {**_MASK, "content": "[MASK]"}}, _albert),
    "xlm-roberta": Family("XLMRobertaTokenizer", _FAIRSEQ, _xlm_roberta),
    "camembert": Family("CamembertTokenizer", _FAIRSEQ, _camembert),
    "llama": Family("LlamaTokenizer", {**_BOS_EOS, "add_bos_token": True, "padding_side": "left"}, _llama),
    "gemma": Family("GemmaTokenizer", {**_GEMMA, "add_bos_token": True, "padding_side": "left"}, _gemma),
    "marian": Family("MarianTokenizer", {**_T5, "model_max_length": 512}),
    "m2m100": Family("M2M100Tokenizer", {**_BOS_EOS, "sep_token": "</s>", "pad_token": "<pad>"}),
    "mbart": Family("MBartTokenizer", _FAIRSEQ, _mbart),
    "mbart50": Family("MBart50Tokenizer", {name: token for name, token in _FAIRSEQ.items() if name != "bos_token"}, _mbart50),
    "nllb": Family("NllbTokenizer", _FAIRSEQ, _nllb),
    "pegasus": Family("PegasusTokenizer", {**_T5, "mask_token": "<mask_2>", "mask_token_sent": "<mask_1>"}, _pegasus),
    "deberta-v2": Family("DebertaV2Tokenizer", {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]"}, _deberta_v2),
    "fast": Family("PreTrainedTokenizerFast", {}, generic),
}
# Tokenizer classes (without "Fast") and model types to families. A class that is not here takes everything from its files.
CLASSES = {family.name: key for key, family in FAMILIES.items()} | {
    **dict.fromkeys(("ElectraTokenizer", "DistilBertTokenizer", "MobileBertTokenizer", "ConvBertTokenizer", "LayoutLMTokenizer"), "bert"),
    **dict.fromkeys(("BartTokenizer", "LongformerTokenizer", "LEDTokenizer"), "roberta"),
}
MODEL_TYPES = {
    **dict.fromkeys(("bert", "electra", "distilbert", "mobilebert", "convbert", "layoutlm"), "bert"),
    **dict.fromkeys(("roberta", "bart", "longformer", "led"), "roberta"),
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "opt", "phi", "codegen"), "gpt2"),
    **dict.fromkeys(("t5", "mt5", "umt5", "switch_transformers"), "t5"),
    **dict.fromkeys(("llama", "mistral", "mixtral"), "llama"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "gemma"),
    **{name: name for name in ("albert", "xlm-roberta", "camembert", "marian", "mbart", "pegasus", "deberta-v2")},
    "m2m_100": "m2m100",
}
# The classes and model types whose models tell two texts apart by token_type_ids; all others take none.
_TYPED = (
    "Bert Electra Albert Deberta DebertaV2 MobileBert ConvBert LayoutLM LayoutLMv2 MarkupLM Tapas Canine FNet RemBert RoFormer Funnel XLNet"
)
TYPED_CLASSES = frozenset(f"{name}Tokenizer" for name in _TYPED.split())
TYPED_MODELS = frozenset(_TYPED.lower().replace("debertav2", "deberta-v2").split())


def wordpiece(path: Path, config: Config) -> Backend:
    """BERT's tokenizer from ``vocab.txt``, one token a line.

    Raises:
        FormatError: the vocabulary lacks [CLS] or [SEP].
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocab = {line.rstrip("\r\n"): index for index, line in enumerate(path.read_text(encoding="utf-8").split("\n"))}
    if path.read_bytes().endswith(b"\n"):
        vocab.pop("", None)
    special = {name: content(config[name]) for name in _BERT}
    backend = Backend(models.WordPiece(vocab, unk_token=special["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    cls, sep = special["cls_token"], special["sep_token"]
    template(backend, f"{cls}:0 $A:0 {sep}:0", f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1", cls, sep)
    return backend


def byte_level(vocab: dict[str, int], lines: list[str], config: Config, roberta: bool) -> Backend:
    """GPT-2's or RoBERTa's tokenizer from the contents of ``vocab.json`` and ``merges.txt``.

    Raises:
        FormatError: a merge that is not two tokens, or RoBERTa's special tokens are missing.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors

    ranked = [tuple(line.rstrip("\r").split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    prefix = bool(config.get("add_prefix_space"))
    backend = Backend(models.BPE(vocab, ranked, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))  # pyright: ignore[reportArgumentType]
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    if roberta:
        cls, sep = content(config["cls_token"]), content(config["sep_token"])
        ids = backend.token_to_id(cls), backend.token_to_id(sep)
        if ids[0] is None or ids[1] is None:
            raise FormatError(say(f"vocab.json lacks {cls} or {sep}.", f"vocab.json에 {cls}이나 {sep}이 없습니다."))
        trim = bool(config.get("trim_offsets", True))
        backend.post_processor = processors.RobertaProcessing((sep, ids[1]), (cls, ids[0]), trim, prefix)
    else:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def with_bos_eos(backend: Backend, bos: str | None, eos: str | None) -> None:
    """Give ``backend`` the post-processor that starts texts with ``bos`` and ends them with ``eos`` (None leaves one out)."""
    start = [f"{bos}:0 ", f"{bos}:1 "] if bos else ["", ""]
    end = [f" {eos}:0", f" {eos}:1"] if eos else ["", ""]
    single = f"{start[0]}$A:0{end[0]}"
    template(backend, single, f"{single} {start[1]}$B:1{end[1]}", *[token for token in (bos, eos) if token])


_BERT_KEYS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}


def may_patch(text: str, config: Config, family: str) -> bool:
    """Whether :func:`patch` could change a ``tokenizer.json``: a quick look, since some hold hundreds of thousands of tokens."""
    spaced = isinstance(config.get("add_prefix_space"), bool) and '"ByteLevel"' in text
    return spaced or (family == "bert" and '"BertNormalizer"' in text and any(key in config for key in _BERT_KEYS))


def patch(state: dict[str, Any], config: Config, family: str) -> bool:
    """Give the contents of a ``tokenizer.json`` what the configuration says otherwise; returns whether anything changed.

    That is ``add_prefix_space`` of byte-level BPE, and for BERT letter case, accents and Chinese characters.
    """
    changed = False
    if isinstance(prefix := config.get("add_prefix_space"), bool):
        for name in ("pre_tokenizer", "post_processor"):
            changed |= _set(state.get(name), ("ByteLevel", "RobertaProcessing"), {"add_prefix_space": prefix})
    if family == "bert":
        values = {new: config[old] for old, new in _BERT_KEYS.items() if old in config}
        changed |= _set(state.get("normalizer"), ("BertNormalizer",), values)
    return changed


def _set(part: Any, kinds: tuple[str, ...], values: dict[str, Any]) -> bool:
    """Set ``values`` in every part of one of the kinds, however deep in sequences; returns whether anything changed."""
    if isinstance(part, list):
        return sum(_set(item, kinds, values) for item in part) > 0  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(part, dict):
        return False
    new = {key: value for key, value in values.items() if part.get("type") in kinds and key in part and part[key] != value}
    part.update(new)
    return bool(new) + sum(_set(item, kinds, values) for item in list(part.values())) > 0  # pyright: ignore[reportUnknownVariableType]
