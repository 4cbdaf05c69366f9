"""The shapes in which instruction and preference data is published, told apart by their columns and read as what trainers take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from hunmin.align.formats import (
    Kind,
    Messages,
    Row,
    alpaca,
    alpaca_messages,
    as_chat,
    as_conversation,
    as_messages,
    is_messages,
    pair,
    problem_of,
    prompt_of,
    ranking_pairs,
    score_pairs,
    sft_of,
    thumb,
    unpaired_of,
)
from hunmin.errors import InputError, logger, say, short

Reader = Callable[[Sequence[Row]], list[Row]]
KINDS: tuple[Kind, ...] = ("preference", "unpaired", "sft", "prompts")  # each can be made of those before it
ANSWERS = ("answers", "responses", "completions")


def _each(read: Callable[[Row], Iterable[Row]]) -> Reader:
    """A reader of one row at a time."""
    return lambda rows: [made for row in rows for made in read(row)]


# ---------------------------------------------------------------- shapes of conversations


def hh_messages(text: str) -> Messages:
    """The turns of a transcript of Bai et al. 2022: ``"\\n\\nHuman: …\\n\\nAssistant: …"``. Raises InputError for a text without turns."""
    marks = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
    messages: Messages = []
    rest = text if text.startswith("\n\n") else f"\n\n{text.lstrip()}"
    while rest:
        mark = next((mark for mark in marks if rest.startswith(mark)), None)
        if mark is None:
            raise InputError(
                say(f"A transcript has turns Human: and Assistant:, not {short(text)}.",
                    f"Human:과 Assistant:로 시작하는 대화가 아닙니다: {short(text)}.")
            )  # fmt: skip
        found = [place for other in marks if (place := rest.find(other, len(mark))) >= 0]
        end = min(found, default=len(rest))
        messages.append({"role": marks[mark], "content": rest[len(mark) : end].strip()})
        rest = rest[end:]
    return messages


def hh_rlhf(row: Row) -> list[Row]:
    """Two transcripts that part at some answer: what they share is the prompt, and the answers after it the pair.

    A pair whose transcripts part before an answer, or go on after it, is left out: it compares more than two answers.
    """
    chosen, rejected = hh_messages(str(row["chosen"])), hh_messages(str(row["rejected"]))
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    ends = chosen[shared:], rejected[shared:]
    if not shared or any(len(end) != 1 or end[0]["role"] != "assistant" for end in ends):
        return []
    return [pair(chosen[:shared], *ends)]


_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}


def sharegpt(row: Row) -> list[Row]:
    """``conversations`` of ``{"from", "value"}`` as messages, ``system`` first, ``tools`` kept. Raises InputError for other speakers."""
    messages: Messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for turn in cast("list[Row]", row["conversations"]):
        speaker = str(turn.get("from", turn.get("role")))
        if speaker not in _SHAREGPT:
            known = ", ".join(_SHAREGPT)
            raise InputError(
                say(f"Nobody is called {short(speaker)}; there are {known}.", f"{short(speaker)} 화자를 모릅니다. 있는 것: {known}.")
            )
        messages.append({"role": _SHAREGPT[speaker], "content": str(turn.get("value", turn.get("content")))})
    return [{"messages": messages, **({"tools": row["tools"]} if row.get("tools") else {})}]


def _oasst_children(node: Row, role: str) -> list[Row]:
    """The replies that may be used, ranked ones first and best first (Köpf et al. 2023)."""
    replies = [reply for reply in cast("list[Row]", node.get("replies") or []) if reply.get("role") == role]
    usable = [reply for reply in replies if not reply.get("deleted") and reply.get("review_result", True) is not False]
    return sorted(usable, key=lambda reply: float("inf") if reply.get("rank") is None else reply["rank"])


def oasst_threads(row: Row) -> list[Row]:
    """Every thread of a tree along the best answers, as messages: a conversation for each question that ends one."""

    def walk(node: Row, before: Messages) -> list[Row]:
        asked = [*before, {"role": "user", "content": node["text"]}]
        best = next(iter(_oasst_children(node, "assistant")), None)
        if best is None:
            return [{"messages": before}] if before else []
        answered = [*asked, {"role": "assistant", "content": best["text"]}]
        further = _oasst_children(best, "prompter")
        return [row for question in further for row in walk(question, answered)] if further else [{"messages": answered}]

    threads = walk(cast("Row", row["prompt"]), [])
    return [thread for place, thread in enumerate(threads) if thread not in threads[:place]]


def oasst_pairs(row: Row) -> list[Row]:
    """At every question of a tree, every pair of ranked answers, after the messages that lead there."""

    def walk(node: Row, before: Messages) -> list[Row]:
        asked = [*before, {"role": "user", "content": node["text"]}]
        answers = _oasst_children(node, "assistant")
        ranked = [answer for answer in answers if answer.get("rank") is not None]
        made = ranking_pairs(asked, [answer["text"] for answer in ranked], list(range(len(ranked))))
        for answer in answers:
            for question in _oasst_children(answer, "prompter"):
                made += walk(question, [*asked, {"role": "assistant", "content": answer["text"]}])
        return made

    return walk(cast("Row", row["prompt"]), [])


# ---------------------------------------------------------------- shapes of preferences


def ultrafeedback(row: Row, place: int = 0) -> list[Row]:
    """Answers of several models with the score of a judge: the best against one other (Cui et al. 2023; Tunstall et al. 2023)."""
    answers = cast("list[Row]", row["completions"])
    scores = [answer.get("overall_score", answer.get("fine-grained_score", answer.get("score"))) for answer in answers]
    return score_pairs(
        row["instruction"], [answer["response"] for answer in answers], [_number(s) for s in scores], "best-random", seed=place
    )


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def binarized(row: Row) -> list[Row]:
    """``chosen`` and ``rejected`` as whole conversations that begin alike, with or without ``prompt`` as a text of its own."""
    chosen, rejected = as_messages(row["chosen"], "assistant"), as_messages(row["rejected"], "assistant")
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    prompt = chosen[:shared] or as_messages(row.get("prompt"))
    more = {key: row[key] for key in ("score_chosen", "score_rejected", "margin") if row.get(key) is not None}
    return [pair(prompt, chosen[shared:], rejected[shared:], **more)]


def implicit(row: Row) -> list[Row]:
    """Two texts that begin alike: what they share, to the last white space, is the prompt."""
    chosen, rejected = str(row["chosen"]), str(row["rejected"])
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    return [pair(chosen[:shared], chosen[shared:], rejected[shared:])]


def orca(row: Row) -> list[Row]:
    """``system``, ``question``, ``chosen`` and ``rejected`` of orca_dpo_pairs, as messages."""
    system: Messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [pair([*system, *as_messages(row["question"])], row["chosen"], row["rejected"])]


def square(rows: Sequence[Row]) -> list[Row]:
    """Every acceptable answer to a question against every one that is not (SQuARe, Lee et al. 2023)."""
    asked: dict[str, tuple[list[str], list[str]]] = {}
    for row in rows:
        asked.setdefault(str(row["question"]), ([], []))[int(not row["acceptable?"])].append(str(row["response"]))
    return [pair(question, good, bad) for question, (goods, bads) in asked.items() for good in goods for bad in bads]


def _answers(row: Mapping[str, Any]) -> Any:
    return next(row[key] for key in ANSWERS if row.get(key) is not None)


def _asked(row: Mapping[str, Any]) -> Any:
    return row["prompt"] if row.get("prompt") is not None else row["instruction"]


def rankings(row: Row) -> list[Row]:
    """``ranking`` ("A > C > B", or the answers' places, best first) of ``answers``."""
    return ranking_pairs(_asked(row), _answers(row), row["ranking"])


def scores(row: Row) -> list[Row]:
    """``scores`` of ``answers``."""
    return score_pairs(_asked(row), _answers(row), [_number(score) for score in row["scores"]])


def self_instruct(row: Row) -> list[Row]:
    """A task with its instances (Wang et al. 2023), a row for each."""
    return [alpaca({"instruction": row["instruction"], **instance}) for instance in cast("list[Row]", row["instances"])]


# ---------------------------------------------------------------- the shapes, told apart


@dataclass(frozen=True)
class Shape:
    """How rows of a data set look, and what they can be read as."""

    name: str
    columns: tuple[str, ...]  # "a|b": one of these
    reads: Mapping[Kind, Reader]
    test: Callable[[Row], bool] = lambda row: True
    chat: Reader | None = None  # examples as messages, where these are not the prompt and completion with roles

    def lacks(self, row: Row) -> list[str]:
        """The columns that a row does not have."""
        return [name for name in self.columns if all(row.get(key) is None for key in name.split("|"))]

    def fits(self, row: Row) -> bool:
        """Whether a row looks like this."""
        return not self.lacks(row) and self.test(row)


def _same(row: Row) -> list[Row]:
    return [row]


def _pick(row: Row, **names: str) -> list[Row]:
    return [{new: row[old] for new, old in names.items()}]


def _whole(row: Row) -> bool:
    """Whether chosen and rejected are conversations rather than answers."""
    return all(is_messages(row[side]) and len(row[side]) > 1 for side in ("chosen", "rejected"))


_TURNS = "\n\nHuman:"
# The first that fits is taken: those that ask for more stand above those that ask for less.
SHAPES = (
    Shape("oasst", ("prompt",), {"preference": _each(oasst_pairs), "sft": _each(oasst_threads)},
          lambda row: isinstance(row["prompt"], Mapping) and "text" in row["prompt"]),
    Shape("sharegpt", ("conversations",), {"sft": _each(sharegpt)}),
    Shape("ultrafeedback", ("instruction", "completions"),
          {"preference": lambda rows: [made for place, row in enumerate(rows) for made in ultrafeedback(row, place)]},
          lambda row: isinstance(row["completions"], list) and all(isinstance(x, Mapping) and "response" in x for x in row["completions"])),
    Shape("orca", ("question", "chosen", "rejected"), {"preference": _each(orca)}),
    Shape("hh-rlhf", ("chosen", "rejected"), {"preference": _each(hh_rlhf)},
          lambda row: not row.get("prompt") and str(row["chosen"]).startswith(_TURNS) and str(row["rejected"]).startswith(_TURNS)),
    Shape("binarized", ("chosen", "rejected"), {"preference": _each(binarized)}, _whole),
    Shape("preference", ("prompt", "chosen", "rejected"), {"preference": _each(_same)}),
    Shape("implicit-prompt", ("chosen", "rejected"), {"preference": _each(implicit)},
          lambda row: isinstance(row["chosen"], str) and isinstance(row["rejected"], str)),
    Shape("square", ("question", "response", "acceptable?"), {"preference": square,
          "unpaired": _each(lambda row: [{"prompt": row["question"], "completion": row["response"], "label": bool(row["acceptable?"])}])}),
    Shape("ranking", ("prompt|instruction", "|".join(ANSWERS), "ranking"), {"preference": _each(rankings)}),
    Shape("scores", ("prompt|instruction", "|".join(ANSWERS), "scores"), {"preference": _each(scores)}),
    Shape("unpaired", ("prompt", "completion", "label"),
          {"unpaired": _each(lambda row: [{**row, "label": thumb(row["label"])}])}),
    Shape("thumbs", ("prompt", "completion|response|answer", "thumb|feedback|thumbs"), {"unpaired": _each(lambda row: [{
          "prompt": row["prompt"], "completion": next(row[key] for key in ("completion", "response", "answer") if row.get(key) is not None),
          "label": thumb(next(row[key] for key in ("thumb", "feedback", "thumbs") if row.get(key) is not None))}])}),
    Shape("self-instruct", ("instruction", "instances"), {"sft": _each(self_instruct)},
          chat=_each(lambda row: [alpaca_messages({"instruction": row["instruction"], **instance}) for instance in row["instances"]])),
    Shape("alpaca", ("instruction", "output|response"), {"sft": _each(lambda row: [alpaca(row)])},
          chat=_each(lambda row: [alpaca_messages(row)])),
    Shape("messages", ("messages",), {"sft": _each(_same)}, lambda row: is_messages(row["messages"])),
    Shape("prompt-completion", ("prompt", "completion"), {"sft": _each(_same)}),
    Shape("question-answer", ("Q", "A"), {"sft": _each(partial(_pick, prompt="Q", completion="A"))}),
    Shape("question-answer", ("question", "answer"), {"sft": _each(partial(_pick, prompt="question", completion="answer"))},
          lambda row: isinstance(row["answer"], str)),
    Shape("text", ("text",), {"sft": _each(_same)}, lambda row: isinstance(row["text"], str)),
    Shape("prompts", ("prompt",), {"prompts": _each(_same)}, lambda row: isinstance(row["prompt"], str) or is_messages(row["prompt"])),
)  # fmt: skip


def detect(rows: Sequence[Row]) -> Shape:
    """The shape of rows, by the first of them that has a value.

    Raises InputError for no rows and for a shape that is unknown, with the columns that the nearest shapes lack.
    """
    row = next((row for row in rows if any(value is not None for value in row.values())), None)
    if row is None:
        raise InputError(say("There is no row in this data.", "데이터에 행이 없습니다."))
    if found := next((shape for shape in SHAPES if shape.fits(row)), None):
        return found
    near = sorted((shape for shape in SHAPES if shape.columns), key=lambda shape: len(shape.lacks(row)) / len(shape.columns))[:3]
    hints = "; ".join(f"{shape.name}: {', '.join(name.replace('|', '/') for name in shape.lacks(row) or shape.columns)}" for shape in near)
    listed = ", ".join(map(str, row))[:150]
    raise InputError(
        say(
            f"Rows with the columns {listed} have no known form. The nearest lack (form: columns) {hints}. See docs/alignment/data.md.",
            f"열이 {listed}인 행의 형식을 모릅니다. 가까운 형식에 없는 열: {hints}. 모든 형식은 docs/alignment/data.md에 있습니다.",
        )
    )


def convert(rows: Sequence[Row], kind: Kind, *, chat: bool = False) -> list[Row]:
    """Rows of any known shape as rows of a ``kind``. Pairs can be read as unpaired rows, these as examples, and all as prompts.

    Rows from which nothing can be learned (an empty answer, the same answer twice) are left out, with a warning that counts them.

    Args:
        chat: prompts and answers as messages: an instruction becomes a question to an assistant rather than a text with headings.

    Raises InputError for an unknown shape, rows that do not go on as they begin, and a kind that they cannot be read as.
    """
    shape = detect(rows)
    made = _read(shape, rows, kind, chat)
    if chat:
        made = [as_conversation(row) if kind == "sft" and "text" not in row else as_chat(row) for row in made]
    problems = Counter(problem for row in made if (problem := problem_of(row)))
    if problems:
        listed = ", ".join(f"{count} × {problem}" for problem, count in problems.most_common())
        logger.warning(say(f"Left out of {len(made)} rows: {listed}.", f"{len(made)}행 가운데 제외: {listed}."))
        made = [row for row in made if problem_of(row) is None]
    if not made:
        raise InputError(
            say(
                f"None of {len(rows)} rows ({shape.name}) gives a row of the kind {kind}.",
                f"{len(rows)}행({shape.name})에서 {kind} 행이 하나도 나오지 않습니다.",
            )
        )
    return made


def _read(shape: Shape, rows: Sequence[Row], kind: Kind, chat: bool) -> list[Row]:
    able: list[Kind] = [known for known in KINDS[: KINDS.index(kind) + 1] if known in shape.reads]
    source = able[-1] if able else None
    if source is None:
        listed = ", ".join(KINDS[min(map(KINDS.index, shape.reads)) :])
        raise InputError(
            say(
                f"Rows of the form {shape.name} can be read as {listed}, not as {kind}. hunmin.align.synthetic makes pairs of prompts.",
                f"{shape.name} 형식은 {listed}(으)로 읽을 수 있고 {kind}(으)로는 읽을 수 없습니다. hunmin.align.synthetic이 프롬프트로 쌍을 만듭니다.",
            )
        )
    for place, row in enumerate(rows, 1):
        if lacks := shape.lacks(row):
            name = lacks[0].replace("|", "/")
            raise InputError(
                say(
                    f"Row {place} has no {name}, which the rows of this data ({shape.name}) have.",
                    f"{place}번째 행에 이 데이터({shape.name})의 다른 행에 있는 {name}이(가) 없습니다.",
                )
            )
    reader = shape.chat if chat and shape.chat is not None else shape.reads[source]
    made = reader(rows)
    steps: dict[str, Callable[[Row], list[Row]]] = {"unpaired": unpaired_of, "sft": sft_of, "prompts": prompt_of}
    for step in KINDS[KINDS.index(source) + 1 : KINDS.index(kind) + 1]:
        made = [row for item in made for row in steps[step](item)]
    return made
