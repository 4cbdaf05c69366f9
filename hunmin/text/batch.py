"""What a tokenizer returns: a dictionary of lists or tensors that still knows which characters each token came from."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hunmin.errors import InputError, say

if TYPE_CHECKING:
    from tokenizers import Encoding

Span = tuple[int, int]


def plain(value: Any) -> Any:
    """Tensors, arrays and nested sequences of them as Python lists; anything else unchanged."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def as_tensor(name: str, value: Any, kind: str) -> Any:
    """``value`` as a ``torch`` tensor (``kind="pt"``) or a ``numpy`` array (``"np"``) of 64-bit integers.

    Raises:
        InputError: an unknown ``kind``, or rows of different lengths.
    """
    try:
        if kind == "np":
            import numpy as np

            return np.asarray(value)
        if kind == "pt":
            import torch

            return value if isinstance(value, torch.Tensor) else torch.tensor(plain(value))
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            say(
                f"'{name}' cannot become a tensor: its rows differ in length. Give padding=True and truncation=True to the tokenizer.",
                f"'{name}'의 행 길이가 서로 달라 텐서로 만들 수 없습니다. 토크나이저에 padding=True, truncation=True를 주세요.",
            )
        ) from error
    raise InputError(say(f"return_tensors='{kind}' is not known: use 'pt' or 'np'.", f"return_tensors='{kind}': 'pt'나 'np'를 쓰세요."))


class BatchEncoding(UserDict[str, Any]):
    """The output of a tokenizer.

    Keys are ``input_ids`` and, where they apply, ``token_type_ids``, ``attention_mask``, ``special_tokens_mask``, ``offset_mapping``,
    ``overflow_to_sample_mapping``, ``length`` and ``labels``. A batch of ``B`` texts has values of shape ``(B, N)``; a single text has ``(N,)``
    unless tensors were asked for. Keys are attributes as well, and ``batch[0]`` is the ``tokenizers.Encoding`` of the first row.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
    ) -> None:
        super().__init__(data or {})
        if encoding is not None and not isinstance(encoding, Sequence):
            encoding = [encoding]
        self._encodings = list(encoding) if encoding else None
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.data.items()}
        if self._encodings is None:
            raise KeyError(
                say("this batch has keys only: use batch['input_ids']", "이 배치는 batch['input_ids']처럼 키로만 쓸 수 있습니다")
            )
        return self._encodings[key]

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        if name == "shape" and "input_ids" in data:  # apply_chat_template once returned the ids alone: inputs.shape[1] still works
            return data["input_ids"].shape
        raise AttributeError(f"BatchEncoding has no attribute or key '{name}'; keys: {', '.join(data)}")

    def rows(self) -> list[BatchEncoding]:
        """A batch of lists, row by row."""
        encodings = self._encodings or [None] * len(self.data["input_ids"])
        return [BatchEncoding({name: value[i] for name, value in self.data.items()}, one) for i, one in enumerate(encodings)]

    @property
    def encodings(self) -> list[Encoding] | None:
        """The Rust encodings, one for each row; None when the batch was not made by a tokenizer call."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether characters and words can be looked up."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs."""
        return self._encodings[0].n_sequences if self._encodings else None

    def _row(self, index: int) -> Encoding:
        if not self._encodings:
            raise InputError(
                say(
                    "Tokens, words and characters can be looked up only in what tokenizer(...) returned.",
                    "토큰, 단어, 글자 위치는 tokenizer(...)가 돌려준 결과에서만 찾을 수 있습니다.",
                )
            )
        if not -len(self._encodings) <= index < len(self._encodings):
            raise InputError(
                say(
                    f"Row {index} does not exist: the batch has {len(self._encodings)}.",
                    f"{index}번째 행이 없습니다: 배치의 행은 {len(self._encodings)}개입니다.",
                )
            )
        return self._encodings[index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        return self._row(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 (first text), 1 (second text) or None (special token)."""
        return self._row(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the index of its word, or None for a special token."""
        return self._row(batch_index).word_ids

    def _at(self, row_or_index: int, index: int | None) -> tuple[Encoding, int]:
        row, index = (0, row_or_index) if index is None else (row_or_index, index)
        encoding = self._row(row)
        return encoding, index + len(encoding.ids) if index < 0 else index

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Which text (0 or 1) a token belongs to."""
        encoding, index = self._at(batch_or_token_index, token_index)
        return encoding.token_to_sequence(index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token belongs to."""
        encoding, index = self._at(batch_or_token_index, token_index)
        return encoding.token_to_word(index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> Span | None:
        """The characters ``(start, end)`` of a token, end exclusive; None for a special token."""
        encoding, index = self._at(batch_or_token_index, token_index)
        return encoding.token_to_chars(index)

    def word_to_tokens(self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0) -> Span | None:
        """The tokens ``(start, end)`` of a word."""
        row, word = (0, batch_or_word_index) if word_index is None else (batch_or_word_index, word_index)
        return self._row(row).word_to_tokens(word, sequence_index)

    def word_to_chars(self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0) -> Span | None:
        """The characters ``(start, end)`` of a word."""
        row, word = (0, batch_or_word_index) if word_index is None else (batch_or_word_index, word_index)
        return self._row(row).word_to_chars(word, sequence_index)

    def char_to_token(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The token that holds a character, or None where no token does (a space, a cut-off character)."""
        row, char = (0, batch_or_char_index) if char_index is None else (batch_or_char_index, char_index)
        return self._row(row).char_to_token(char, sequence_index)

    def char_to_word(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The word that holds a character."""
        row, char = (0, batch_or_char_index) if char_index is None else (batch_or_char_index, char_index)
        return self._row(row).char_to_word(char, sequence_index)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn every value into a tensor in place (``"pt"`` or ``"np"``).

        Raises:
            InputError: rows of different lengths, or an unknown kind.
        """
        if tensor_type is not None:
            kind = str(getattr(tensor_type, "value", tensor_type)).lower()
            for name, value in self.data.items():
                self.data[name] = as_tensor(name, [value] if prepend_batch_axis else value, kind)
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the torch tensors to ``device`` (``"cpu"``, ``"cuda:0"``, ``torch.device``, an index) in place."""
        import torch

        for name, value in self.data.items():
            if isinstance(value, torch.Tensor):
                self.data[name] = value.to(device, non_blocking=non_blocking)
        return self
