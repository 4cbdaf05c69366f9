"""Decoding while tokens arrive, without ever showing half a character."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hunmin.text.batch import plain

if TYPE_CHECKING:
    from hunmin.text.tokenizer import Tokenizer

# A Hangul syllable that is still being written in conjoining jamo: an initial, perhaps a vowel, perhaps a final.
_OPEN_SYLLABLE = re.compile("[\u1100-\u115f\ua960-\ua97c]+[\u1160-\u11a7\ud7b0-\ud7c6]*[\u11a8-\u11ff\ud7cb-\ud7fb]*$")
_CONTEXT = 64  # tokens kept before old ones are forgotten: the cost of a token does not grow with the length of the text
_CLEAN_UP = 24  # characters within which clean_up_tokenization_spaces may still change what came before


class StreamDecoder:
    """Turns token ids into text piece by piece: ``put`` returns what is certain so far, ``end`` returns the rest.

    The pieces joined are ``tokenizer.decode`` of all ids. A piece never ends within a character of several bytes (no U+FFFD that a later
    token would repair) nor within a Hangul syllable.

    Args:
        tokenizer: whose ids arrive.
        skip_special_tokens: leave special tokens out.
        decode_options: passed to ``tokenizer.decode``.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = False, **decode_options: Any) -> None:
        self._tokenizer = tokenizer
        self._options = {**decode_options, "skip_special_tokens": skip_special_tokens}
        self._cleans = tokenizer.cleans_up(decode_options.get("clean_up_tokenization_spaces"))
        self._ids: list[int] = []
        self._sent = 0

    def put(self, token_ids: Any) -> str:
        """Take more ids (int, list or tensor of shape ``(N,)``); return the text that is now certain, often a few tokens late.

        Raises:
            InputError: a negative id.
        """
        ids = plain(token_ids)
        self._ids += ids if isinstance(ids, list) else [ids]
        text = self._text(self._ids)
        safe = text.rstrip("\ufffd")
        safe = _OPEN_SYLLABLE.sub("", safe)
        if self._cleans:
            safe = safe[: max(0, len(safe) - _CLEAN_UP)]
        if len(safe) <= self._sent:
            return ""
        piece, self._sent = safe[self._sent :], len(safe)
        if len(safe) == len(text) and len(self._ids) > _CONTEXT:
            self._forget(text)
        return piece

    def end(self) -> str:
        """The text that was held back. The decoder is then ready for another sequence."""
        piece = self._text(self._ids)[self._sent :]
        self._ids, self._sent = [], 0
        return piece

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, **self._options) if ids else ""

    def _forget(self, text: str) -> None:
        """Keep only the last tokens as context: those that alone spell the end of the text, broken characters excluded."""
        for count in (8, 16, 32):
            tail = self._text(self._ids[-count:])
            if tail.strip() and "\ufffd" not in tail and text.endswith(tail):
                self._ids, self._sent = self._ids[-count:], len(tail)
                return
