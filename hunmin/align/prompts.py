"""From rows as people write them to tokens, with labels on what is to be learnt.

A row has ``text``, ``messages``, ``prompt`` and ``completion``, or Alpaca's ``instruction``, ``input`` and ``output``; pairs have ``chosen``
and ``rejected`` with or without ``prompt``. Prompts and answers are strings or lists of messages. Rows of tokens pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hunmin.align.formats import TEMPLATES
from hunmin.errors import InputError, say, short, warn_once
from hunmin.nn.losses import IGNORE

Row = dict[str, Any]
REASONS = {
    "no answer": say("the answer is empty", "답이 비어 있음"),
    "too long": say(
        "the prompt leaves no room for the answer (max_length, max_prompt_length)",
        "프롬프트가 길어 답이 들어갈 자리가 없음(max_length, max_prompt_length)",
    ),
    "equal": say("chosen and rejected are identical", "chosen과 rejected가 같음"),
    "too long to judge": say("a text is longer than max_length", "텍스트가 max_length보다 김"),
}


class Split(NamedTuple):
    """Tokens of a prompt and of its answer."""

    prompt: list[int]
    answer: list[int]

    def row(self, learn_prompt: bool = False) -> Row:
        """``input_ids`` and ``labels``, -100 on the prompt."""
        ids = [*self.prompt, *self.answer]
        return {"input_ids": ids, "labels": ids if learn_prompt else [IGNORE] * len(self.prompt) + self.answer}


@dataclass
class LeftOut:
    """Rows that cannot be learnt from, by reason, and the number of all."""

    rows: int = 0
    found: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def add(self, reason: str) -> None:
        self.found.setdefault(reason, []).append(self.rows - 1)

    def tell(self) -> None:
        """Warn of what was left out. Raises InputError when nothing is left."""
        count = sum(map(len, self.found.values()))
        if not count:
            return
        parts = [f"{len(rows)} ({REASONS[reason]}; {say('first', '처음')}: {rows[0]})" for reason, rows in self.found.items()]
        listed = ", ".join(parts)
        if count == self.rows:
            raise InputError(
                say(f"No row of the data can be learnt from: {listed}.", f"학습할 수 있는 행이 데이터에 하나도 없습니다: {listed}.")
            )
        warn_once(say(f"{count} of {self.rows} rows were left out: {listed}.", f"{self.rows}행 가운데 {count}행을 뺐습니다: {listed}."))


@dataclass
class Prompts:
    """Rows to tokens with one tokenizer.

    Args:
        tokenizer: of Hunmin, or any that gives ``input_ids`` and ``apply_chat_template``.
        max_length: of prompt and answer together, in tokens; None: no limit.
        max_prompt_length: longer prompts lose their beginning.
        max_completion_length: longer answers lose their end.
        keep_end: what is too long loses its beginning.
        end: the token that ends an answer; by default the tokenizer's.
        template: a chat template in place of the tokenizer's.
    """

    tokenizer: Any
    max_length: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    keep_end: bool = False
    end: str | None = None
    template: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut)

    # -------------------------------------------------------------- text to tokens

    @property
    def end_id(self) -> int | None:
        """The id of the token that ends an answer. Raises InputError when the tokenizer does not have it."""
        if self.end is None:
            return self.tokenizer.eos_token_id
        found = self.tokenizer.convert_tokens_to_ids(self.end)
        if found is None or (found == self.tokenizer.unk_token_id and self.end != self.tokenizer.unk_token):
            raise InputError(say(f"eos_token {self.end!r} is no token here.", f"eos_token {self.end!r}이(가) 토크나이저에 없습니다."))
        return found

    def ids(self, text: Any, *, prompt: bool = False, tools: Any = None) -> list[int]:
        """Tokens of a string, or of messages through the chat template; a ``prompt`` ends with what begins the assistant's turn."""
        if isinstance(text, str):
            ids = list(self.tokenizer(text)["input_ids"])
            return ids[:-1] if prompt and len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and text else ids
        open_turn = prompt and text[-1]["role"] != "assistant"
        how = {"add_generation_prompt": open_turn, "continue_final_message": prompt and not open_turn, "tools": tools}
        found = self.tokenizer.apply_chat_template(text, **self._named(), **how, return_dict=True)
        return list(found["input_ids"])

    def _named(self) -> dict[str, Any]:
        return {"chat_template": self.template} if self.template is not None else {}

    def ended(self, ids: list[int]) -> list[int]:
        """With the token that ends an answer."""
        end = self.end_id
        return ids if end is None or (ids and ids[-1] == end) else [*ids, end]

    def split(self, prompt: Any, answer: Any, tools: Any = None) -> Split:
        """Tokens of a prompt and its answer. They are read as one text, and the answer begins where that differs from the prompt alone.

        Raises InputError where one is a string and the other is not.
        """
        if isinstance(prompt, str) and isinstance(answer, str):
            whole = self.ids(prompt + answer)
            whole = self.ended(whole) if answer else whole
        elif _messages(prompt) and isinstance(answer, str | Sequence):
            said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
            answer = said and "".join(str(m.get("content") or m.get("tool_calls") or "") for m in said)
            whole = self.ids([*prompt, *said], tools=tools)
        else:
            raise _not_a_row({"prompt": prompt, "completion": answer})
        before = self.ids(prompt, prompt=True, tools=tools) if prompt else []
        same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole)))
        return Split(whole[:same], whole[same:] if answer else [])

    def fit(self, both: Split) -> Split | None:
        """Cut to the limits; None where no token of the answer is left, which is noted."""
        if not both.answer:
            self.left_out.add("no answer")
            return None
        prompt, answer = both
        prompt = prompt[-self.max_prompt_length :] if self.max_prompt_length else prompt
        answer = answer[: self.max_completion_length] if self.max_completion_length else answer
        if self.max_length is not None and len(prompt) + len(answer) > self.max_length:
            if self.keep_end:
                answer = answer[-self.max_length :]
                room = self.max_length - len(answer)
                prompt = prompt[len(prompt) - room :]
            else:
                prompt, answer = prompt[: self.max_length], answer[: max(0, self.max_length - len(prompt))]
        if not answer or (self.keep_end and not prompt and both.prompt):
            self.left_out.add("too long")
            return None
        return Split(prompt, answer)

    # -------------------------------------------------------------- rows

    def learnt(
        self, row: Mapping[str, Any], field: str = "text", completion_only: bool | None = None, assistant: bool = False
    ) -> Row | None:
        """A row for supervised learning: ``input_ids`` and ``labels``; None, noted, where nothing is left to learn.

        Args:
            field: the column of plain texts.
            completion_only: learn answers only; None: where a row has a prompt and an answer.
            assistant: learn only what the assistant says.
        """
        self.left_out.rows += 1
        if "input_ids" in row:
            return self._tokens(row)
        prompt, answer = row.get("prompt"), row.get("completion")
        said = row.get("messages", row.get(field) if _messages(row.get(field)) else None)
        if prompt is not None and answer is not None and assistant and _messages(prompt) and not isinstance(answer, str):
            said = [*prompt, *answer]
        if said is not None and (prompt is None or assistant):
            return self._conversation(said, assistant, row.get("tools"))
        if prompt is None and isinstance(row.get(field), str):
            return self._text(row[field])
        if prompt is None and "instruction" in row:
            prompt, answer = TEMPLATES["alpaca"][not row.get("input")].format(**{"input": "", **row}), row.get("output")
        if prompt is None or answer is None:
            raise _not_a_row(row)
        both = self.fit(self.split(prompt, answer, row.get("tools")))
        return both.row(completion_only is False) if both is not None else None

    def _text(self, text: str) -> Row | None:
        ids = self.ended(self.ids(text)) if text else []
        both = self.fit(Split([], ids))
        return both.row() if both is not None else None

    def _tokens(self, row: Mapping[str, Any]) -> Row | None:
        """A row that has its tokens: with labels, or masks of what is learnt, or neither."""
        ids, labels = list(row["input_ids"]), row.get("labels")
        for name in ("completion_mask", "assistant_masks") if labels is None else ():
            if row.get(name) is not None:
                labels = [i if m else IGNORE for i, m in zip(labels or ids, row[name], strict=True)]
        labels = list(labels) if labels is not None else ids
        at = slice(None) if self.max_length is None else slice(-self.max_length, None) if self.keep_end else slice(self.max_length)
        if all(label == IGNORE for label in labels[at]):
            self.left_out.add("no answer" if all(label == IGNORE for label in labels) else "too long")
            return None
        return {"input_ids": ids[at], "labels": labels[at]}

    def _conversation(self, messages: Any, assistant: bool, tools: Any) -> Row | None:
        if not _messages(messages):
            raise _not_a_row({"messages": messages})
        if not assistant:
            both = self.fit(Split([], self.ids(messages, tools=tools)))
            return both.row() if both is not None else None
        ids, mask = self.assistant_tokens(messages, tools)
        return self._tokens({"input_ids": ids, "assistant_masks": mask})

    def assistant_tokens(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> tuple[list[int], list[int]]:
        """Tokens of a conversation, and 1 for those that the assistant says, the end of its turn included.

        Templates say so with ``{% generation %}``; of others the turns are found by rendering the conversation message by message.
        Raises InputError for a template that shows earlier messages differently when later ones follow.
        """
        if "{% generation" in (template := str(self.template or self.tokenizer.get_chat_template())) or "{%- generation" in template:
            how: Any = {"return_assistant_tokens_mask": True, "return_dict": True, "tools": tools}
            found = self.tokenizer.apply_chat_template(list(messages), **self._named(), **how)
            return list(found["input_ids"]), list(found["assistant_masks"])

        def render(upto: int, add: bool) -> str:
            part = list(messages[:upto])
            return self.tokenizer.apply_chat_template(part, **self._named(), tokenize=False, add_generation_prompt=add, tools=tools)

        whole, spans = render(len(messages), False), list[tuple[int, int]]()
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before, after = render(i, True) if i else "", render(i + 1, False).rstrip()
                if not whole.startswith(before) or not whole.startswith(after):
                    raise InputError(
                        say(
                            "This chat template does not say what the assistant speaks: mark it with {% generation %} in chat_template_path.",
                            "이 대화 템플릿으로는 어시스턴트의 말을 구별할 수 없습니다. chat_template_path의 템플릿에 {% generation %}을 쓰세요.",
                        )
                    )
                spans.append((len(before), len(after)))
        out = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        mask = [int(any(a < end and b > start for start, end in spans)) for a, b in out["offset_mapping"]]
        return list(out["input_ids"]), mask

    def pair(self, row: Mapping[str, Any], judged: bool = False) -> dict[str, Split] | None:
        """Chosen and rejected answers with their prompt; None, noted, for what cannot be compared.

        ``judged`` pairs are read by a reward model: what is too long is left out, not cut, and no prompt is needed.
        """
        self.left_out.rows += 1
        chosen, rejected, prompt = row.get("chosen"), row.get("rejected"), row.get("prompt")
        if chosen is None or rejected is None:
            raise _not_a_row(row)
        if prompt is None:
            prompt, chosen, rejected = implicit(chosen, rejected)
        if chosen == rejected:
            self.left_out.add("equal")
            return None
        both = {name: self.split(prompt, answer, row.get("tools")) for name, answer in (("chosen", chosen), ("rejected", rejected))}
        if judged:
            if any(not split.answer for split in both.values()):
                self.left_out.add("no answer")
            elif self.max_length is not None and any(len(p) + len(a) > self.max_length for p, a in both.values()):
                self.left_out.add("too long to judge")
            else:
                return both
            return None
        good = self.fit(both["chosen"])
        bad = self.fit(both["rejected"]) if good is not None else None
        if good is None or bad is None:
            return None
        if good == bad:
            self.left_out.add("equal")
            return None
        return {"chosen": good, "rejected": bad}

    def single(self, row: Mapping[str, Any]) -> Split | None:
        """A prompt and its answer; None, noted, where none of the answer is left."""
        self.left_out.rows += 1
        if row.get("prompt") is None or row.get("completion") is None:
            raise _not_a_row(row)
        return self.fit(self.split(row["prompt"], row["completion"], row.get("tools")))


def implicit(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """The common beginning of two conversations or texts as their prompt, and what is left of each."""
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    if isinstance(chosen, str):  # a text is divided between words, and the space belongs to the answer
        while same and not chosen[same - 1].isspace():
            same -= 1
        same -= chosen[same - 1 : same] == " "
    return chosen[:same], chosen[same:], rejected[same:]


def _messages(value: Any) -> bool:
    """Whether this is a list of messages."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(m, Mapping) and "role" in m for m in value)  # pyright: ignore[reportUnknownVariableType]


def _not_a_row(row: Mapping[str, Any]) -> InputError:
    return InputError(
        say(
            f"Rows need text, messages, prompt and completion, or prompt, chosen and rejected (strings or messages); this one: {short(dict(row))}.",
            f"행에는 text, messages, prompt와 completion, 또는 prompt·chosen·rejected(문자열이나 메시지)가 필요합니다. 받은 행: {short(dict(row))}.",
        )
    )


def formatted(row: Mapping[str, Any], function: Callable[[Any], Any]) -> str:
    """What a user's ``formatting_func`` makes of a row. Functions of earlier years take columns and return a list of texts.

    Raises InputError for anything but a text.
    """
    try:
        found = function(row)
    except (TypeError, IndexError, KeyError):
        found = None
    if not isinstance(found, str):
        found = function({key: [value] for key, value in row.items()})
        found = found[0] if isinstance(found, list | tuple) and len(found) == 1 else found  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not isinstance(found, str):
        raise InputError(
            say(f"formatting_func returned {short(found)}, not a text.", f"formatting_func의 결과가 글이 아닙니다: {short(found)}.")
        )
    return found


def template_of(place: str | None) -> str | None:
    """A chat template from a file, or from a folder with ``chat_template.jinja`` or a tokenizer."""
    if place is None:
        return None
    path = Path(place)
    path = path / "chat_template.jinja" if path.is_dir() and (path / "chat_template.jinja").is_file() else path
    if path.is_file():
        return path.read_text(encoding="utf-8")
    from hunmin.text import AutoTokenizer

    return AutoTokenizer.from_pretrained(place).get_chat_template()
