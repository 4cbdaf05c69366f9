"""Text while it is generated. A streamer gets the prompt's ids, then one token a step, and never shows half a character."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from queue import Queue
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hunmin.errors import InputError, say
from hunmin.text.stream import StreamDecoder

if TYPE_CHECKING:
    from hunmin.text import Tokenizer


class BaseStreamer(ABC):
    """What ``generate(streamer=…)`` calls."""

    @abstractmethod
    def put(self, value: Tensor) -> None:
        """New ids on the CPU: the prompt ``(1, N)`` first, then ``(1,)`` at a time."""

    @abstractmethod
    def end(self) -> None:
        """Generation is over."""

    def error(self, error: BaseException) -> None:  # noqa: B027  a streamer need not care
        """Generation failed; ``generate`` raises ``error`` after this."""


class TextStreamer(BaseStreamer):
    """Prints the text as soon as it is certain. ``decode_kwargs`` go to ``tokenizer.decode`` (``skip_special_tokens=True``)."""

    def __init__(self, tokenizer: Tokenizer, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer, self.skip_prompt = tokenizer, skip_prompt
        self.decoder = StreamDecoder(tokenizer, **decode_kwargs)
        self.prompt_next = True

    def put(self, value: Tensor) -> None:
        if value.ndim > 1 and value.shape[0] > 1:
            raise InputError(
                say(
                    f"A text streamer shows one sequence; this batch has {value.shape[0]}.",
                    f"텍스트 스트리머는 시퀀스 하나만 보여 줍니다. 배치 크기: {value.shape[0]}.",
                )
            )
        skip, self.prompt_next = self.prompt_next and self.skip_prompt, False
        if not skip:
            self.on_finalized_text(self.decoder.put(value.flatten()))

    def end(self) -> None:
        self.prompt_next = True
        self.on_finalized_text(self.decoder.end(), stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with each piece of text; override it to send the text elsewhere."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """Iterates over pieces of text while ``generate`` runs in another thread.

    When generation fails, the iteration raises its error instead of waiting for ever. ``timeout`` is the longest wait for a piece, in
    seconds; after it the iteration raises ``queue.Empty``.
    """

    def __init__(self, tokenizer: Tokenizer, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self.text_queue: Queue[str | BaseException | None] = Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(None)

    def error(self, error: BaseException) -> None:
        self.text_queue.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self.text_queue.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        if isinstance(piece, BaseException):
            raise piece
        return piece
