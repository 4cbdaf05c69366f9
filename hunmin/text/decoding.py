"""The way back: ids and tokens, tokens and text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hunmin.errors import InputError, say
from hunmin.text.batch import plain
from hunmin.text.special import SpecialTokens

_CLEAN = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"))
_CLEAN_VERBS = ((" 've", "'ve"), (" 're", "'re"))


class Decoding(SpecialTokens):
    """The part of :class:`~hunmin.text.tokenizer.Tokenizer` that looks tokens up and decodes."""

    clean_up_tokenization_spaces: bool

    @property
    def vocab_size(self) -> int:
        """Size of the model's own vocabulary, without added tokens; ``len(tokenizer)`` counts those as well."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        """The same as ``vocab``."""
        return self.vocab

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or the list of ids of several; a token outside the vocabulary gets the id of ``unk_token`` (or None)."""
        return self.id_of(tokens) if isinstance(tokens, str) else [self.id_of(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the list of tokens of several; None for an id that the vocabulary lacks.

        Raises:
            InputError: a negative id or something that is not an id.
        """
        ids = plain(ids)
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(_ids([ids])[0])
        skip = set(self.all_special_ids) if skip_special_tokens else ()
        return [self.backend_tokenizer.id_to_token(index) for index in _ids(ids) if index not in skip]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that a list of tokens spells."""
        decoder = self.backend_tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None, **_: Any) -> Any:
        """The text of ids (int, list, tensor of shape ``(N,)``), or the list of texts of nested ids ``(B, N)``.

        Ids past the vocabulary are left out: models pad their embeddings.

        Raises:
            InputError: a negative id (such as the -100 of labels) or something that is not an id.
        """
        if isinstance(token_ids, Mapping):
            token_ids = token_ids["input_ids"]
        ids = plain(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]  # pyright: ignore[reportUnknownVariableType]
        text = self.backend_tokenizer.decode(_ids([ids] if isinstance(ids, int) else ids), skip_special_tokens=skip_special_tokens)
        return self.clean_up_tokenization(text) if self.cleans_up(clean_up_tokenization_spaces) else text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None, **_: Any
    ) -> list[str]:
        """The texts of a batch of ids ``(B, N)``."""
        out = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return out if isinstance(out, list) else ([out] if len(plain(sequences)) else [])

    def cleans_up(self, wanted: bool | None = None) -> bool:
        """Whether decoding removes spaces before punctuation. Never for BPE, whose tokens hold their own spaces."""
        wanted = self.clean_up_tokenization_spaces if wanted is None else wanted
        return wanted and type(self.backend_tokenizer.model).__name__ != "BPE"

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """``text`` without the spaces that WordPiece leaves before English punctuation."""
        for old, new in (*_CLEAN, *_CLEAN_VERBS):
            text = text.replace(old, new)
        return text


def _ids(ids: Any) -> list[int]:
    """Checked ids.

    Raises:
        InputError: negative or too large for an id, or no integers.
    """
    try:
        out = [index.__index__() for index in ids]
    except (TypeError, AttributeError) as error:
        raise InputError(
            say(f"Token ids must be whole numbers, got {str(ids)[:60]}.", f"토큰 id는 정수여야 합니다: {str(ids)[:60]}")
        ) from error
    if out and not 0 <= min(out) <= max(out) < 1 << 32:
        bad = min(out) if min(out) < 0 else max(out)
        raise InputError(
            say(
                f"{bad} is not a token id. Labels use -100 for 'ignore': replace it by tokenizer.pad_token_id first.",
                f"{bad}은(는) 토큰 id가 아닙니다. 레이블의 -100은 먼저 tokenizer.pad_token_id로 바꾸세요.",
            )
        )
    return out
