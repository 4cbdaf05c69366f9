"""SentencePiece models without its library: a small reader of the protobuf file, and the Rust tokenizers that it describes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunmin.errors import FormatError, say

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
SPACE = "▁"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; ``kind`` is one of the names above, ``score`` a log probability (Unigram) or minus a rank (BPE)."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePiece:
    """What is read of a ``.model`` or ``.spm`` file."""

    pieces: list[Piece]
    model_type: int
    byte_fallback: bool
    unk_id: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    @property
    def vocab(self) -> list[tuple[str, float]]:
        """``(piece, score)`` in the order of ids."""
        return [(piece.text, piece.score) for piece in self.pieces]


def read(path: Path) -> SentencePiece:
    """Read a SentencePiece model.

    Raises:
        FormatError: the file is truncated or is not a SentencePiece model.
    """
    try:
        pieces: list[Piece] = []
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
                pieces.append(Piece(piece.get(1, b"").decode("utf-8"), score, piece.get(3, NORMAL)))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
        if not pieces or not all(isinstance(trainer.get(number, 0), int) for number in (3, 35, 40)):
            raise ValueError("no pieces")
        return SentencePiece(
            pieces=pieces,
            model_type=trainer.get(3, UNIGRAM),
            byte_fallback=bool(trainer.get(35, 0)),
            unk_id=trainer.get(40, 0),
            charsmap=bytes(normalizer.get(2, b"")),
            add_dummy_prefix=bool(normalizer.get(3, 1)),
            remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        )
    except (ValueError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise FormatError(
            say(f"{path}: not a SentencePiece model, or cut off: download it again.", f"{path}: SentencePiece 모델이 아니거나 잘렸습니다.")
        ) from error


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message as ``(number, value)``: ints for varints, bytes for everything else."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value - (1 << 64) if value >> 63 else value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > end:
            raise ValueError("wire type" if size is None else "cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("varint")


def merges(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges that a BPE vocabulary implies: every split of a piece into two others, in the order of the piece's id."""
    found: list[tuple[int, int, int, int, str, str]] = []
    for piece, index in vocab.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                found.append((index, len(left), vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(found, key=lambda merge: (merge[0], merge[1], len(merge[5]), merge[2], merge[3]))]


def charsmap(model: SentencePiece, composed: bool = False) -> list[Any]:
    """The model's own normalization, or nothing.

    ``composed`` puts NFC before it: the Rust normalizer does not compose Hangul from jamo as SentencePiece does.
    """
    from tokenizers import normalizers

    own = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    return [normalizers.NFC(), *own] if own and composed else own


def cleaning(model: SentencePiece) -> list[Any]:
    """The model's own normalization, then no space at either end and never two in a row, as SentencePiece does it."""
    from tokenizers import Regex, normalizers

    ends, runs = normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")
    return [*charsmap(model, composed=True), ends, runs]


def spaced(backend: Backend, prefix: bool = True) -> Backend:
    """Let only spaces part words, not other white space; with ``prefix`` the first word gets one as well."""
    from tokenizers import decoders, pre_tokenizers

    scheme = "always" if prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)  # pyright: ignore[reportAttributeAccessIssue]
    return backend


def unigram(
    vocab: list[tuple[str, float]], unk_id: int, normalizer: list[Any], prefix: bool = True, byte_fallback: bool = False
) -> Backend:
    """A Unigram tokenizer that splits at white space and writes it as ``▁``."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    backend = Backend(models.Unigram(vocab, unk_id, byte_fallback))
    if normalizer:
        backend.normalizer = normalizer[0] if len(normalizer) == 1 else normalizers.Sequence(normalizer)
    scheme = "always" if prefix else "never"
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)  # pyright: ignore[reportArgumentType]
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return backend


def bpe(model: SentencePiece, prefix: str) -> Backend:
    """A BPE tokenizer with byte fallback, as Llama's: spaces become ``▁``, one is put in front (``prefix`` "first", "always" or "never")."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
    unk = model.pieces[model.unk_id].text if 0 <= model.unk_id < len(model.pieces) else None
    ranked = models.BPE(vocab=vocab, merges=merges(vocab), unk_token=unk, fuse_unk=True, byte_fallback=model.byte_fallback)
    backend = Backend(ranked)
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=prefix, split=False)  # pyright: ignore[reportArgumentType]
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix != "never" else []))
    return backend


def word_bpe(ids: Mapping[str, int], model: SentencePiece, unk: str, normalizer: list[Any]) -> Backend:
    """BPE within words and without byte fallback, with the merges of ``model`` and the ids of ``ids``.

    A piece that ``ids`` lacks gets an id past its end, since other pieces may be merged from it.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers

    pieces = {piece.text: index for index, piece in enumerate(model.pieces) if piece.kind == NORMAL}
    end = max(ids.values()) + 1
    vocab = {**ids, **{piece: end + place for place, piece in enumerate(piece for piece in pieces if piece not in ids)}}
    backend = Backend(models.BPE(vocab=vocab, merges=merges(pieces), unk_token=unk, fuse_unk=True))
    backend.normalizer = normalizers.Sequence(normalizer)
    return spaced(backend)


def m2m100(ids: Mapping[str, int], model: SentencePiece, special: list[str], unk: str) -> Backend:
    """The encoder of M2M-100: the pieces of the model, the ids of ``vocab.json``."""
    from tokenizers import AddedToken

    backend = word_bpe(ids, model, unk, cleaning(model))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return backend


def marian(ids: dict[str, int], model: SentencePiece, special: list[str], unk: str, eos: str) -> Backend:
    """The encoder of one language of a Marian pair.

    The ids come from the shared ``vocab.json``. A token that this language's model lacks stands there under a name that no text can match;
    a piece that ``vocab.json`` lacks gets an id past its end, which the tokenizer turns into ``unk``.
    """
    from tokenizers import AddedToken, processors

    codes = [token for token in ids if token.startswith(">>") and token.endswith("<<")]  # the wanted language, ">>fra<<"
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL} | dict.fromkeys((*special, *codes), 0.0)
    vocab = [(f"\x00{index}", 0.0) for index in range(max(ids.values()) + 1)]
    for token, index in ids.items():
        if token in scores:
            vocab[index] = (token, scores[token])
    vocab += [(token, score) for token, score in scores.items() if token not in ids]
    backend = spaced(unigram(vocab, ids[unk], cleaning(model)))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in codes])
    backend.post_processor = processors.TemplateProcessing(single=f"$A {eos}", pair=f"$A $B {eos}", special_tokens=[(eos, ids[eos])])
    return backend


def _words(ids: dict[str, int], special: list[str], unk: str) -> Backend:
    """A vocabulary that decodes what other tokenizers encode."""
    from tokenizers import AddedToken, models
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.WordLevel(ids, unk))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return backend


def m2m100_words(ids: dict[str, int], special: list[str], unk: str) -> Backend:
    """The vocabulary of M2M-100; text after a special token starts without a space, as at the start of a text."""
    import re

    from tokenizers import Regex, decoders

    backend = _words(ids, special, unk)
    after = "|".join(re.escape(token) for token in special)
    steps = [decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Replace(Regex(f"(?<={after}) |^ +| +$"), "")]
    backend.decoder = decoders.Sequence(steps)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    return backend


def marian_words(ids: dict[str, int], special: list[str], unk: str) -> Backend:
    """The shared vocabulary of a Marian pair, which decodes both languages."""
    from tokenizers import Regex, decoders

    backend = _words(ids, special, unk)
    spaced = [decoders.Replace(token, f"{token} ") for token in special]
    single = [decoders.Replace(f"{token}  ", f"{token} ") for token in special]
    steps = [*spaced, decoders.Replace(SPACE, " "), decoders.Fuse(), *single, decoders.Replace(Regex("^ +| +$"), "")]
    backend.decoder = decoders.Sequence(steps)  # pyright: ignore[reportArgumentType]
    return backend
