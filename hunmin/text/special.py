"""The special tokens of a tokenizer: ``bos_token`` and its kin, settable by token or by id, and tokens that are added later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from hunmin.errors import InputError, say

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def content(token: Any) -> str:
    """The text of a token written as str, ``AddedToken`` or the dictionary of a ``tokenizer_config.json``.

    Raises:
        InputError: anything else.
    """
    if isinstance(token, str):
        return token
    found = token.get("content") if isinstance(token, Mapping) else getattr(token, "content", None)
    if not isinstance(found, str):
        raise InputError(say(f"A special token must be a string, got {token!r}.", f"특수 토큰은 문자열이어야 합니다: {token!r}"))
    return found


def added(token: Any, **defaults: bool) -> AddedToken:
    """The ``AddedToken`` of a str, an ``AddedToken`` or a dictionary; ``defaults`` fill flags that it does not state."""
    from tokenizers import AddedToken

    if isinstance(token, AddedToken):
        return token
    flags = {key: bool(token[key]) for key in _FLAGS if key in token} if isinstance(token, Mapping) else {}
    return AddedToken(content(token), **{**defaults, **flags})


class _Token:
    """``tokenizer.pad_token``: the token as text, or None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> _Token: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> str | None: ...
    def __get__(self, instance: SpecialTokens | None, owner: type) -> _Token | str | None:
        return self if instance is None else instance.special.get(self.name)

    def __set__(self, instance: SpecialTokens, value: Any) -> None:
        if value is None:
            instance.special.pop(self.name, None)
        else:
            instance.special[self.name] = content(value)


class _TokenId:
    """``tokenizer.pad_token_id``: the same token as an id."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    @overload
    def __get__(self, instance: None, owner: type) -> _TokenId: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> int | None: ...
    def __get__(self, instance: SpecialTokens | None, owner: type) -> _TokenId | int | None:
        if instance is None:
            return self
        token = instance.special.get(self.name)
        return None if token is None else instance.id_of(token)

    def __set__(self, instance: SpecialTokens, value: int | None) -> None:
        token = None if value is None else instance.backend_tokenizer.id_to_token(int(value))
        if value is not None and token is None:
            raise InputError(
                say(
                    f"{self.name}_id = {value}: the vocabulary has no such id (size {len(instance)}).",
                    f"{self.name}_id = {value}: 어휘 집합에 없는 번호입니다(크기 {len(instance)}).",
                )
            )
        setattr(instance, self.name, token)


class SpecialTokens:
    """The part of :class:`~hunmin.text.tokenizer.Tokenizer` that knows special and added tokens."""

    backend_tokenizer: Backend
    special: dict[str, str]
    extra: list[str]

    bos_token, eos_token, unk_token, sep_token = _Token(), _Token(), _Token(), _Token()
    pad_token, cls_token, mask_token = _Token(), _Token(), _Token()
    bos_token_id, eos_token_id, unk_token_id, sep_token_id = _TokenId(), _TokenId(), _TokenId(), _TokenId()
    pad_token_id, cls_token_id, mask_token_id = _TokenId(), _TokenId(), _TokenId()

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def id_of(self, token: str) -> int | None:
        """The id of a token; the id of ``unk_token``, or None, when the vocabulary lacks it."""
        found = self.backend_tokenizer.token_to_id(token)
        if found is None and (unk := self.special.get("unk_token")) is not None:
            found = self.backend_tokenizer.token_to_id(unk)
        return found

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Named special tokens that are set, such as ``{"pad_token": "[PAD]"}``."""
        return {name: self.special[name] for name in (*NAMES, *self.special) if name in self.special}

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, named ones first."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of ``all_special_tokens``."""
        return [found for token in self.all_special_tokens if (found := self.id_of(token)) is not None]

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a name of their own; ``extra_special_tokens`` is the same list."""
        return list(self.extra)

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Iterable[Any] | None) -> None:
        self.extra = [content(token) for token in value or ()]

    extra_special_tokens = additional_special_tokens

    @property
    def additional_special_tokens_ids(self) -> list[int | None]:
        """The ids of ``additional_special_tokens``."""
        return [self.id_of(token) for token in self.extra]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id to ``AddedToken`` for every token outside the model's own vocabulary and every special one."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token to id for the same tokens."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """The same as ``added_tokens_encoder``."""
        return self.added_tokens_encoder

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens (str, ``AddedToken`` or a list of them) to the end of the vocabulary.

        Returns:
            How many were new. Resize the model's embeddings to ``len(tokenizer)`` afterwards.

        Raises:
            InputError: a token that is neither str nor ``AddedToken``.
        """
        tokens: list[Any] = list(new_tokens) if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        wanted = [added(token, special=special_tokens, normalized=not special_tokens) for token in tokens if content(token)]
        add = self.backend_tokenizer.add_special_tokens if special_tokens else self.backend_tokenizer.add_tokens
        return add(wanted)

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True) -> int:
        """Set named special tokens and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: such as ``{"pad_token": "[PAD]", "additional_special_tokens": ["<ent>"]}``.
            replace_extra_special_tokens: False keeps the additional tokens that were there before.

        Returns:
            How many tokens were new.

        Raises:
            InputError: an unknown name, or a token that is not text.
        """
        count = 0
        for name, value in special_tokens_dict.items():
            if name in EXTRA:
                tokens = [content(token) for token in value]
                kept = [] if replace_extra_special_tokens else self.extra
                self.extra = list(dict.fromkeys([*kept, *tokens]))
                count += self.add_tokens(list(value), special_tokens=True)
            elif name in NAMES:
                count += self.add_tokens(value, special_tokens=True)
                self.special[name] = content(value)
            else:
                names = ", ".join((*NAMES, EXTRA[0]))
                raise InputError(
                    say(f"'{name}' is not a special token name: {names}.", f"'{name}'은(는) 특수 토큰 이름이 아닙니다: {names}")
                )
        return count
