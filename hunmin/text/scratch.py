"""A tokenizer from nothing but texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hunmin.errors import InputError, say
from hunmin.text.families import template
from hunmin.text.special import added
from hunmin.text.tokenizer import Tokenizer

Vocabulary = Literal["wordpiece", "bpe", "byte-level-bpe", "unigram"]


@dataclass(frozen=True)
class Layout:
    """Special tokens of a family of models, in the order of their ids, and where they stand around texts."""

    tokens: dict[str, str]
    single: str
    pair: str
    typed: bool = False  # the second text has token type 1


_MASK = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
LAYOUTS = {
    "bert": Layout(
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"},
        "[CLS]:0 $A:0 [SEP]:0",
        "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        typed=True,
    ),
    "roberta": Layout({**_MASK, "mask_token": "<mask>"}, "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": Layout({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, "$A </s>", "$A </s> $B </s>"),
    "gpt": Layout(
        {"pad_token": "<|pad|>", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "unk_token": "<|unk|>"}, "$A", "$A $B"
    ),
}
SENTINELS = 100  # of T5, <extra_id_0> the last of the vocabulary
MODELS = {
    **dict.fromkeys(("bert", "distilbert", "electra", "albert", "deberta-v2"), "bert"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "bart", "mbart"), "roberta"),
    **dict.fromkeys(("t5", "mt5", "pegasus", "marian", "m2m_100"), "t5"),
}
UNTYPED = ("distilbert",)  # laid out like BERT, but its models take no token types


def train_tokenizer(
    texts: Iterable[str],
    kind: Vocabulary = "byte-level-bpe",
    vocab_size: int = 8000,
    *,
    model_type: str = "gpt2",
    min_frequency: int = 2,
    lowercase: bool = False,
    extra: Sequence[str] = (),
) -> Tokenizer:
    """A tokenizer learned from ``texts``, with the special tokens of ``model_type``.

    Args:
        kind: WordPiece (Schuster & Nakajima 2012), BPE (Sennrich et al. 2016) on letters or on bytes (Radford et al. 2019), or a unigram
            language model (Kudo 2018). Bytes have no unknown text.
        vocab_size: at most so many tokens, special ones included; but every letter that occurs is a token (not with bytes).
        min_frequency: pairs that are rarer are not merged (not for unigram).
        extra: further special tokens.

    Raises:
        InputError: an unknown kind, no texts, or a vocabulary that is too small for the special tokens.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    layout, typed = LAYOUTS[MODELS.get(model_type, "gpt")], model_type not in UNTYPED
    special = [*dict.fromkeys(layout.tokens.values()), *extra]
    special += [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))] if layout is LAYOUTS["t5"] else []
    if kind not in get_args(Vocabulary) or vocab_size <= len(special):
        listed = ", ".join(get_args(Vocabulary))
        raise InputError(
            say(
                f"A tokenizer is one of {listed} with vocab_size above {len(special)} (its special tokens), not {kind!r} with {vocab_size}.",
                f"토크나이저 종류는 {listed} 가운데 하나이고 vocab_size는 특수 토큰 수 {len(special)}보다 커야 합니다: {kind!r}, {vocab_size}.",
            )
        )
    unknown = layout.tokens["unk_token"]
    steps: list[Any] = [normalizers.NFC()] + ([normalizers.Lowercase()] if lowercase else [])
    if kind == "wordpiece":
        backend, split, decoder = Backend(models.WordPiece(unk_token=unknown)), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        steps.insert(0, normalizers.BertNormalizer(handle_chinese_chars=True, strip_accents=False, lowercase=False))
    elif kind == "byte-level-bpe":
        backend, split, decoder = Backend(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        model = models.BPE(unk_token=unknown, fuse_unk=True) if kind == "bpe" else models.Unigram()
        backend, split, decoder = Backend(model), pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizers.Sequence(steps), split, decoder
    backend = _trained(backend, kind, list(_some(texts)), vocab_size, min_frequency, special, unknown)
    template(backend, layout.single, layout.pair, *(token for token in dict.fromkeys(layout.tokens.values()) if token in layout.pair))
    names = ["input_ids", *(["token_type_ids"] if layout.typed and typed else []), "attention_mask"]
    listed = [token for token in special if token not in layout.tokens.values()]
    config: dict[str, Any] = {**layout.tokens, "model_input_names": names, "additional_special_tokens": listed}
    return Tokenizer(backend, **config)


def _trained(backend: Any, kind: Vocabulary, texts: list[str], size: int, frequency: int, special: list[str], unknown: str) -> Any:
    """``backend`` with a vocabulary. The same texts give the same one, although the library numbers some tokens in the order of a hash table."""
    from tokenizers import Tokenizer as Backend

    first: list[str] = []
    if kind == "wordpiece":  # letters inside of words: which pairs of equal count are merged first depends on their numbers
        backend.train_from_iterator(texts, _trainer(kind, 1, frequency, special, unknown))
        first = sorted(token for token in backend.get_vocab() if token.startswith("##"))
    backend.train_from_iterator(texts, _trainer(kind, size, frequency, [*special, *first], unknown))
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    if kind == "unigram":
        state["model"]["vocab"] = _ordered(state["model"]["vocab"], special)
        state["model"]["unk_id"] = special.index(unknown)
    return Backend.from_str(json.dumps(state))


def _ordered(vocab: list[tuple[str, float]], special: list[str]) -> list[tuple[str, float]]:
    """Pieces with their logarithms of probability: special ones first, then the likeliest, equal ones in the order of letters.

    Letters that no probability was estimated for stand 0.0001 apart from the lowest one on, in any order: here they get the lowest.
    """
    pieces = [(piece, round(score, 6)) for piece, score in vocab if piece not in special]
    lowest = min((score for _, score in pieces), default=0.0)
    steps = {i / 10000 for i in range(len(pieces))}
    pieces = [(p, lowest if len(p) == 1 and round(score - lowest, 6) in steps else score) for p, score in pieces]
    return [(token, 0.0) for token in special] + sorted(pieces, key=lambda piece: (-piece[1], piece[0]))


def _trainer(kind: Vocabulary, size: int, frequency: int, special: list[str], unknown: str) -> Any:
    from tokenizers import pre_tokenizers, trainers

    common: dict[str, Any] = {
        "vocab_size": size,
        "special_tokens": [added(token, special=True) for token in special],
        "show_progress": False,
    }
    if kind == "wordpiece":
        return trainers.WordPieceTrainer(min_frequency=frequency, **common)
    if kind == "unigram":
        return trainers.UnigramTrainer(unk_token=unknown, **common)
    letters = pre_tokenizers.ByteLevel.alphabet() if kind == "byte-level-bpe" else []
    return trainers.BpeTrainer(min_frequency=frequency, initial_alphabet=letters, **common)


def _some(texts: Iterable[str]) -> Iterable[str]:
    """The texts; raises InputError when there is none."""
    found = False
    for text in texts:
        found = found or bool(text.strip())
        yield text
    if not found:
        raise InputError(say("There are no texts to learn a vocabulary from.", "어휘를 학습할 텍스트가 없습니다."))
