"""Chat templates: messages to the text that a model was trained to read.

Templates come with models, so they are programs of strangers. They run in Jinja's immutable sandbox, see only plain JSON values, and loops
and strings are bounded, so that a bad template is an error and not a hang.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from hunmin.errors import InputError, say
from hunmin.text.special import SpecialTokens
from hunmin.text.tools import json_schema

if TYPE_CHECKING:
    import jinja2

    from hunmin.text.batch import BatchEncoding

_LOCK = threading.Lock()  # a compiled template counts its steps in its environment
_MAX_STEPS = 1_000_000  # rounds of all loops of one rendering together
_MAX_TEXT = 10_000_000  # characters of one string that the template builds
_MARK = "CONTINUE_FINAL_MESSAGE_TAG "  # its space tells whether the template strips messages


class ChatTemplates(SpecialTokens):
    """The part of :class:`~hunmin.text.tokenizer.Tokenizer` that renders conversations."""

    chat_template: str | dict[str, str] | None
    name_or_path: str

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """The template that would be used: the one given (text or name), else the model's own (``tool_use`` with ``tools``).

        Raises:
            InputError: the model has none, or several and no default.
        """
        own = self.chat_template
        if isinstance(own, dict):
            if chat_template is not None:
                return own.get(chat_template, chat_template)
            found = (own.get("tool_use") if tools is not None else None) or own.get("default")
        else:
            found = chat_template or own
        if not found:
            names = ", ".join(own) if isinstance(own, dict) else ""
            raise InputError(
                say(
                    f"{self.name_or_path or 'This tokenizer'} has no default chat template{f' ({names})' if names else ''}: "
                    "give chat_template=..., or a model made for chat.",
                    f"{self.name_or_path or '이 토크나이저'}에는 기본 대화 템플릿이 없습니다{f' ({names})' if names else ''}: "
                    "chat_template=...를 주거나 대화용 모델을 쓰세요.",
                )
            )
        return found

    def apply_chat_template(
        self,
        conversation: Any,
        tools: list[Any] | None = None,
        documents: list[dict[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: dict[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """Render messages with the model's chat template and encode them.

        Args:
            conversation: a list of messages ``{"role": ..., "content": ...}``, or a list of such lists.
            tools: functions (documented in Google style) or JSON schemas that the model may call.
            add_generation_prompt: end with what starts the assistant's turn.
            continue_final_message: leave the last message open, for the model to continue it.
            tokenize: False returns the text.
            return_dict: False returns the ids alone.
            return_assistant_tokens_mask: add ``assistant_masks``, 1 where the template marks ``{% generation %}``.
            variables: further names that the template may use, such as ``enable_thinking``.

        Returns:
            A :class:`BatchEncoding`, ids or text, of one conversation or of each.

        Raises:
            InputError: messages of another form, no template, or a template that refuses or fails.
        """
        template = self.get_chat_template(chat_template, tools)
        if continue_final_message:
            _only(
                "continue_final_message",
                add_generation_prompt=add_generation_prompt,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
            )
        many = isinstance(conversation, (list, tuple)) and bool(conversation) and isinstance(conversation[0], (list, tuple))  # pyright: ignore[reportUnknownArgumentType]
        chats = [_messages(chat) for chat in (conversation if many else [conversation])]
        schemas = None if tools is None else [tool if isinstance(tool, Mapping) else json_schema(tool) for tool in tools]
        names = {**self.special_tokens_map, "tools": schemas, "documents": documents, **variables}
        names["add_generation_prompt"] = add_generation_prompt
        rendered = [render(template, chat, names, continue_final_message) for chat in chats]
        texts = [text for text, _ in rendered]
        if not tokenize:
            return texts if many else texts[0]
        how = {"padding": padding, "truncation": truncation, "max_length": max_length, "return_tensors": return_tensors}
        call = cast("Callable[..., BatchEncoding]", self)
        out = call(texts if many else texts[0], add_special_tokens=False, **how, **(tokenizer_kwargs or {}))
        if return_assistant_tokens_mask:
            masks = [_mask(out, row, spans) for row, (_, spans) in enumerate(rendered)]
            out["assistant_masks"] = masks if many or return_tensors else masks[0]
            out.convert_to_tensors(return_tensors)
        return out if return_dict else out["input_ids"]


def render(
    template: str, messages: list[dict[str, Any]], names: Mapping[str, Any], unfinished: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """One conversation as text, and the characters ``(start, end)`` of its ``{% generation %}`` blocks.

    Raises:
        InputError: a template that is wrong, refuses the messages, or does not come to an end.
    """
    last = _leave_open(messages) if unfinished else ""
    try:
        compiled = _compile(template)
        environment = cast(Any, compiled.environment)
        with _LOCK:
            environment.begin()
            blocks: list[str] = environment.blocks
            for block in compiled.generate(messages=messages, **_plain(names)):
                blocks.append(block)
            text, spans = "".join(blocks), list(environment.spans)
    except RecursionError as error:
        raise InputError(say("The chat template calls itself without end.", "대화 템플릿이 끝없이 자신을 부릅니다.")) from error
    except Exception as error:  # whatever a stranger's program may raise
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(say(f"The chat template failed: {reason}", f"대화 템플릿을 적용할 수 없습니다: {reason}")) from error
    if unfinished:
        at = text.rfind(_MARK.strip())
        if at < 0 or last.strip() not in text:
            raise InputError(
                say(
                    "The template does not show the final message, so it cannot be continued.",
                    "템플릿에 마지막 메시지가 없어 이어 쓸 수 없습니다.",
                )
            )
        text = text[:at] if text[at:].startswith(_MARK) else text[:at].rstrip()
    return text, spans


def _only(option: str, **others: bool) -> None:
    """Raise InputError when another option is on that contradicts ``option``."""
    if on := next((name for name, value in others.items() if value), None):
        raise InputError(say(f"{option} cannot be used with {on}.", f"{option}은(는) {on}와 함께 쓸 수 없습니다."))


def _messages(chat: Any) -> list[dict[str, Any]]:
    """A copy of one conversation as plain values; keys without a value are left out, as templates expect."""
    chat = getattr(chat, "messages", chat)
    good = isinstance(chat, (list, tuple)) and bool(chat) and all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in chat)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not good:
        raise InputError(
            say(
                'A conversation is a list of messages such as {"role": "user", "content": "Hello"}.',
                '대화는 {"role": "user", "content": "안녕하세요"} 같은 메시지의 리스트입니다.',
            )
        )
    return [{str(key): _plain(value) for key, value in message.items() if value is not None} for message in chat]  # pyright: ignore[reportUnknownVariableType]


def _plain(value: Any) -> Any:
    """Only JSON values reach the template: other objects have methods that the sandbox does not know."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return f"<{type(value).__name__}>"


def _leave_open(messages: list[dict[str, Any]]) -> str:
    """Mark the end of the last message and return its text."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        messages[-1]["content"] = content + _MARK
        return content
    for part in reversed(content or []):
        if isinstance(part, dict) and "text" in part:
            text = str(part["text"])  # pyright: ignore[reportUnknownArgumentType]
            part["text"] = text + _MARK
            return text
    raise InputError(say("The final message has no text to continue.", "마지막 메시지에 이어 쓸 글이 없습니다."))


def _mask(out: BatchEncoding, row: int, spans: list[tuple[int, int]]) -> list[int]:
    """1 for the tokens of the spans, 0 for the others, of shape ``(N,)``."""
    offsets, special = (out.encodings or [])[row].offsets, (out.encodings or [])[row].special_tokens_mask
    return [int(not s and any(a < end and b > start for start, end in spans)) for (a, b), s in zip(offsets, special, strict=True)]


@lru_cache(maxsize=32)
def _compile(source: str) -> jinja2.Template:
    from hunmin.text.sandbox import Sandbox

    return Sandbox(_MAX_STEPS, _MAX_TEXT, raise_exception=_refuse, strftime_now=_now, tojson=_tojson).from_string(source)


def _refuse(message: str) -> None:
    raise InputError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
