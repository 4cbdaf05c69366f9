"""Rows of instructions and preferences, from one form into another. Nothing here needs torch.

Three kinds of rows feed the trainers: **sft** (``prompt`` and ``completion``, ``messages`` or ``text``), **preference** (``prompt``,
``chosen``, ``rejected``) and **unpaired** (``prompt``, ``completion``, ``label``); **prompts** have no answer yet. Prompts and answers are
texts or lists of messages ``{"role": …, "content": …}``. What public data sets look like instead is in ``hunmin.align.shapes``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple, cast

from hunmin.errors import InputError, say, short

Row = dict[str, Any]
Messages = list[dict[str, Any]]
Kind = Literal["sft", "preference", "unpaired", "prompts"]
Which = Literal["all", "best-worst", "best-random"]

_TASK = "Below is an instruction that describes a task, paired with an input that provides further context."
_TASK_ALONE = "Below is an instruction that describes a task."
_WRITE = "Write a response that appropriately completes the request."


class Template(NamedTuple):
    """The text around an instruction: up to the response, with an input and without, and what follows the response."""

    with_input: str
    alone: str
    end: str = ""


# Taori et al. 2023. The course prints the text of a row (listing 4.1) with a space before each line break, and the f-string that makes
# such a text (listing 4.2) with line breaks of its own; both are kept letter by letter, without the scan's stray "/" and ")".
TEMPLATES = {
    "listing-4.1": Template(
        f"{_TASK} {_WRITE} \n\n### Instruction: \n{{instruction}} \n\n### Input: \n{{input}} \n\n### Response: \n",
        f"{_TASK_ALONE} {_WRITE} \n\n### Instruction: \n{{instruction}} \n\n### Response: \n",
    ),
    "listing-4.2": Template(
        f"\n\n{_TASK}\n{_WRITE} \n\n \n### Instruction: \n{{instruction}}\n\n\n### Input: \n{{input}}\n\n \n### Response: \n",
        f"\n\n{_TASK_ALONE}\n{_WRITE} \n\n \n### Instruction: \n{{instruction}}\n\n\n### Response: \n",
        "\n\n",
    ),
    "alpaca": Template(
        f"{_TASK} {_WRITE}\n\n### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n### Response:\n",
        f"{_TASK_ALONE} {_WRITE}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n",
    ),
}


def as_numbers(values: Sequence[Any], count: int, name: str) -> list[float | None]:
    """What a function of the user's said of ``count`` texts. Raises InputError unless it is a number, or None, for each."""
    if len(values) != count:
        raise InputError(
            say(
                f"{name} gave {len(values)} numbers for {count} texts.",
                f"{name}이(가) 텍스트 {count}개에 수 {len(values)}개를 돌려주었습니다.",
            )
        )
    try:
        return [None if value is None else float(value) for value in values]
    except (TypeError, ValueError):
        wrong = next(value for value in values if value is not None and not isinstance(value, int | float))
        raise InputError(
            say(f"{name} gave {short(wrong)}, not a number.", f"{name}이(가) 수가 아닌 {short(wrong)}을(를) 돌려주었습니다.")
        ) from None


def alpaca(row: Mapping[str, Any], template: str = "listing-4.1") -> Row:
    """``{"prompt", "completion"}`` of a row with ``instruction``, ``input`` and ``output`` (or ``response``).

    An empty or missing ``input`` takes the template's wording for instructions alone.
    Raises InputError for an unknown template and a row without instruction or output.
    """
    if template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise InputError(
            say(f"There is no template {short(template)}; there are {known}.", f"{short(template)} 템플릿이 없습니다. 있는 것: {known}.")
        )
    instruction, output = row.get("instruction"), row.get("output", row.get("response"))
    if not isinstance(instruction, str) or not isinstance(output, str):
        listed = ", ".join(map(str, row))
        raise InputError(
            say(
                f"An instruction row needs the texts instruction and output (or response); this one has {listed or 'nothing'}.",
                f"지시 데이터 행에는 instruction과 output(또는 response) 텍스트가 필요합니다. 이 행에 있는 것: {listed or '없음'}.",
            )
        )
    chosen, given = TEMPLATES[template], str(row.get("input") or "")
    pattern = chosen.with_input if given.strip() else chosen.alone
    # one pass: an instruction that contains "{input}" stays as it is
    prompt = re.sub(r"\{(instruction|input)\}", lambda found: instruction if found[1] == "instruction" else given, pattern)
    return {"prompt": prompt, "completion": output + chosen.end}


def alpaca_text(row: Mapping[str, Any], template: str = "listing-4.1") -> str:
    """The row as one text, which the course calls its ``text``. Raises as :func:`alpaca`."""
    made = alpaca(row, template)
    return made["prompt"] + made["completion"]


def alpaca_messages(row: Mapping[str, Any]) -> Row:
    """The same row as ``{"messages": …}``: the instruction and, after an empty line, its input; then the response."""
    answer = str(alpaca(row)["completion"])
    given = str(row.get("input") or "").strip()
    asked = f"{row['instruction']}\n\n{given}" if given else str(row["instruction"])
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


# ---------------------------------------------------------------- texts and messages


def is_messages(value: Any) -> bool:
    """Whether ``value`` is a list of messages, each with a role."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(
        isinstance(item, Mapping) and isinstance(cast("Mapping[str, Any]", item).get("role"), str) for item in cast("list[Any]", value)
    )


def as_messages(value: Any, role: str = "user") -> Messages:
    """A text as one message of ``role``; messages as they are. Raises InputError for anything else."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if is_messages(value):
        return [dict(message) for message in value]
    raise InputError(
        say(
            f"A prompt or an answer is a text or a list of messages with role and content, not {short(value)}.",
            f"프롬프트와 답은 텍스트이거나 role과 content가 있는 메시지 목록이어야 합니다: {short(value)}.",
        )
    )


def as_text(value: Any) -> str:
    """What people would read: a text as it is, messages with their roles in front, a single one without. Raises as :func:`as_messages`."""
    if isinstance(value, str):
        return value
    messages = as_messages(value)
    if len(messages) == 1 and messages[0]["role"] in ("user", "assistant"):
        return str(messages[0].get("content") or "")
    return "\n\n".join(f"{message['role'].capitalize()}: {message.get('content') or ''}" for message in messages)


def text_of(row: Mapping[str, Any]) -> str:
    """Every text of a row, a line for each: what filters look at."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif is_messages(value):
            found.extend(str(message.get("content") or "") for message in value)
        elif isinstance(value, Mapping):
            for item in cast("Mapping[str, Any]", value).values():
                walk(item)
        elif isinstance(value, list | tuple):
            for item in cast("list[Any]", value):
                walk(item)

    walk(row)
    return "\n".join(text for text in found if text)


# ---------------------------------------------------------------- pairs


def pair(prompt: Any, chosen: Any, rejected: Any, **more: Any) -> Row:
    """A preference row; answers to a list of messages become messages."""
    if is_messages(prompt):
        chosen, rejected = as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def order_of(ranking: str | Sequence[str | int], labels: Sequence[str]) -> list[list[int]]:
    """Places in ``labels``, best first, equals together: ``"A > C = B"``, ``["A", "C", "B"]`` or ``[0, 2, 1]``.

    Raises InputError for a label that is unknown, missing or there twice.
    """
    if isinstance(ranking, str):
        groups = [[part.strip() for part in group.split("=")] for group in ranking.split(">")]
    else:
        groups = [[labels[item] if isinstance(item, int) and 0 <= item < len(labels) else str(item)] for item in ranking]
    named = [label for group in groups for label in group]
    if sorted(named) != sorted(labels):
        known = ", ".join(labels)
        raise InputError(
            say(
                f"The ranking {short(ranking)} must name each of {known} once, such as {' > '.join(labels)}.",
                f"순위 {short(ranking)}에는 {known}이(가) 한 번씩 있어야 합니다. 예: {' > '.join(labels)}.",
            )
        )
    return [[labels.index(label) for label in group] for group in groups]


def ranking_pairs(prompt: Any, answers: Mapping[str, Any] | Sequence[Any], ranking: str | Sequence[str | int]) -> list[Row]:
    """A ranking of K answers as its K (K - 1) / 2 pairs, those of equals left out (Ouyang et al. 2022, section 3.5).

    ``answers`` are named by their keys, or A, B, C, … in order. Raises InputError for a ranking of other answers.
    """
    named: dict[str, Any] = (
        dict(answers) if isinstance(answers, Mapping) else {_letter(place): answer for place, answer in enumerate(answers)}
    )
    values, order = list(named.values()), order_of(ranking, list(named))
    return [pair(prompt, values[better], values[worse]) for above, below in combinations(order, 2) for better in above for worse in below]


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place)


def score_pairs(
    prompt: Any, answers: Sequence[Any], scores: Sequence[float | None], which: Which = "all", *, least: float = 0.0, seed: int | str = 0
) -> list[Row]:
    """Answers with scores as pairs, with ``score_chosen``, ``score_rejected`` and their difference as ``margin``.

    Args:
        which: every pair; the best against the worst; or the best against one of the others (Tunstall et al. 2023, section 3.2).
        least: pairs whose scores differ by this or less are left out.
        seed: of the draw of the other answer.

    An answer without a score (None, NaN) is left out. Raises InputError unless there is a score for each answer.
    """
    if len(answers) != len(scores):
        raise InputError(
            say(f"{len(answers)} answers have {len(scores)} scores.", f"답은 {len(answers)}개인데 점수는 {len(scores)}개입니다.")
        )
    scored = [(float(score), place) for place, score in enumerate(scores) if score is not None and score == score]
    ranked = sorted(scored, key=lambda item: (-item[0], item[1]))
    chosen = {"all": list(combinations(ranked, 2)), "best-worst": [(ranked[0], ranked[-1])] if len(ranked) > 1 else []}
    if which == "best-random":
        others = [item for item in ranked[1:] if ranked[0][0] - item[0] > least]
        pairs = [(ranked[0], random.Random(seed).choice(others))] if others else []
    else:
        pairs = chosen[which]
    return [
        pair(prompt, answers[a], answers[b], score_chosen=best, score_rejected=worst, margin=best - worst)
        for (best, a), (worst, b) in pairs
        if best - worst > least
    ]


UP = ("up", "thumbs_up", "thumbsup", "like", "good", "yes", "true", "1", "+1", "👍")
DOWN = ("down", "thumbs_down", "thumbsdown", "dislike", "bad", "no", "false", "0", "-1", "👎")


def thumb(value: Any) -> bool:
    """Up or down: a bool, 1 and 0 or -1, "up", "down", 👍, 👎 and the like. Raises InputError for anything else."""
    word = str(int(value) if isinstance(value, int | float) and value in (1, 0, -1) else value).strip().casefold()
    word = word.rstrip("\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")  # a thumb may have a colour
    if word in UP or word in DOWN:
        return word in UP
    raise InputError(
        say(f"{short(value)} is neither a thumb up (true, 1, up) nor down (false, 0, -1, down).",
            f"{short(value)}은(는) 좋아요(true, 1, up)도 싫어요(false, 0, -1, down)도 아닙니다.")
    )  # fmt: skip


# ---------------------------------------------------------------- from one kind to the next


def unpaired_of(row: Mapping[str, Any]) -> list[Row]:
    """The two unpaired rows of a preference row, for KTO."""
    return [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for side in ("chosen", "rejected")]


def sft_of(row: Mapping[str, Any]) -> list[Row]:
    """What a preference or unpaired row shows to imitate: nothing, where the answer is a bad one."""
    if "chosen" in row:
        return [{"prompt": row["prompt"], "completion": row["chosen"]}]
    return [{"prompt": row["prompt"], "completion": row["completion"]}] if row["label"] else []


def prompt_of(row: Mapping[str, Any]) -> list[Row]:
    """The prompt without answers, other columns kept; of messages those before the last answer."""
    if "prompt" in row:
        answers = ("completion", "chosen", "rejected", "label", "score_chosen", "score_rejected", "margin")
        return [{key: value for key, value in row.items() if key not in answers}]
    messages = cast("Messages", row.get("messages") or [])
    last = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
    return [{"prompt": messages[:last]}] if messages[:last] else []


def as_conversation(row: Mapping[str, Any]) -> Row:
    """An sft row as ``{"messages": …}``."""
    if "messages" in row:
        return {**row}
    return {"messages": [*as_messages(row["prompt"]), *as_messages(row["completion"], "assistant")]}


def as_chat(row: Mapping[str, Any]) -> Row:
    """A row whose prompt and answers are messages, which a chat template puts into form; one with messages or a text stays as it is."""
    roles = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}
    return {key: as_messages(value, roles[key]) if key in roles else value for key, value in row.items()}


def problem_of(row: Mapping[str, Any]) -> str | None:
    """Why nothing can be learned from a row; None where something can."""

    def empty(value: Any) -> bool:
        return not (value if isinstance(value, str) else text_of({"": value})).strip()

    if "chosen" in row:
        if empty(row["chosen"]) or empty(row["rejected"]):
            return say("an empty answer", "빈 답")
        if row["chosen"] == row["rejected"]:
            return say("chosen and rejected are the same", "chosen과 rejected가 같음")
    for key in ("completion", "text", "prompt"):
        if key in row and empty(row[key]):
            return say(f"an empty {key}", f"빈 {key}")
    return None
