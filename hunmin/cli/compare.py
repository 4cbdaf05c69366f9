"""``hunmin chat --compare A B``: two models answer side by side, a person chooses, and the choices become preference pairs."""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hunmin.cli.table import width
from hunmin.errors import HunminError, SourceError, say

if TYPE_CHECKING:
    from hunmin.cli.chat import Conversation

CHOICES = {"1": 0, "2": 1, "=": None, "s": None}
GAP = " │ "


@dataclass
class Comparison:
    """Two models under one conversation. Which stands on the left is drawn anew for every question, and their names are not shown."""

    models: tuple[Conversation, Conversation]
    names: tuple[str, str]
    path: Path
    draw: random.Random = field(default_factory=random.Random)
    wins: list[int] = field(default_factory=lambda: [0, 0, 0])  # of the first, of the second, and neither

    def ask(self, text: str) -> None:
        """Show both answers to ``text``, take the choice, and go on with the better one. Without a choice nothing is remembered."""
        before = list(self.models[0].messages)
        order = [0, 1] if self.draw.random() < 0.5 else [1, 0]
        try:
            answers = [self.models[place].reply(text) for place in order]
            typer.echo(side_by_side(answers[0], answers[1]))
            same = answers[0].strip() == answers[1].strip()
            if same:
                typer.echo(say("(the same answer: nothing to choose)", "(같은 답이라 고를 것이 없습니다)"))
            choice = None if same else choose()
        except BaseException:
            self._remember(before)
            raise
        better = self.draw.randrange(2) if choice is None else choice
        if choice is None:
            self.wins[2] += 1
        else:
            self._write(before, text, answers, order, choice)
            self.wins[order[choice]] += 1
        user, said = {"role": "user", "content": text}, {"role": "assistant", "content": answers[better]}
        self._remember([*before, user, said])

    def _remember(self, messages: list[dict[str, str]]) -> None:
        for talk in self.models:
            talk.messages = list(messages)

    def _write(self, before: list[dict[str, str]], text: str, answers: list[str], order: list[int], choice: int) -> None:
        """Add a row that DPOTrainer reads; it is on disk before the next question."""
        row: dict[str, Any] = {"prompt": [*before, {"role": "user", "content": text}]}
        for name, place in (("chosen", choice), ("rejected", 1 - choice)):
            row[name] = [{"role": "assistant", "content": answers[place]}]
            row[f"model_{name}"] = self.names[order[place]]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror}") from error

    def summary(self) -> str:
        """Who won how often."""
        first, second, neither = self.wins
        told = f"{self.names[0]}: {first}, {self.names[1]}: {second}, " + say(f"neither: {neither}", f"무승부: {neither}")
        return told + (say(f". Pairs are in {self.path}.", f". 쌍은 {self.path}에 있습니다.") if first + second else "")


def choose() -> int | None:
    """0 for the left answer, 1 for the right one, None for neither. Asks until it is said. Raises EOFError at the end of the input."""
    question = say("better: 1 (left), 2 (right), = (equal), s (skip)? ", "더 나은 답: 1(왼쪽), 2(오른쪽), =(같음), s(넘김)? ")
    while True:
        said = input(question).strip().lower()
        if said in CHOICES:
            return CHOICES[said]


def side_by_side(left: str, right: str, cells: int | None = None) -> str:
    """Two texts as two columns of a terminal ``cells`` wide."""
    room = max(20, ((cells or shutil.get_terminal_size().columns) - len(GAP)) // 2)
    columns = [_wrapped(f"[{number}]\n{text.strip() or '–'}", room) for number, text in ((1, left), (2, right))]
    height = max(map(len, columns))
    padded = [column + [""] * (height - len(column)) for column in columns]
    return "\n".join(f"{a}{' ' * (room - width(a))}{GAP}{b}".rstrip() for a, b in zip(*padded, strict=True))


def _wrapped(text: str, room: int) -> list[str]:
    """Lines of at most ``room`` cells, broken at spaces where there are any."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.expandtabs(4).split(" "):
            joined = f"{line} {word}" if line else word
            if width(joined) > room and line:
                lines.append(line)
                joined = word
            while width(joined) > room:  # a word, or Korean without spaces, that no line holds
                head = _head(joined, room)
                lines.append(head)
                joined = joined[len(head) :]
            line = joined
        lines.append(line)
    return lines


def _head(word: str, room: int) -> str:
    """The longest beginning of a word of at most ``room`` cells, one character at least."""
    end = 1
    while end < len(word) and width(word[: end + 1]) <= room:
        end += 1
    return word[:end]


def compare(comparison: Comparison, prompt: str | None = None) -> None:
    """Ask ``prompt`` alone, or until /quit or the end of the input; from a pipe, lines are questions and choices in turn."""
    names = " / ".join(comparison.names)
    if sys.stdin.isatty() and prompt is None:
        typer.echo(
            say(
                f"{names}, in an order that changes. /quit ends, /reset starts over.",
                f"{names}, 순서는 매번 바뀝니다. /quit 끝내기, /reset 새로 시작.",
            )
        )
    try:
        if prompt is not None:
            comparison.ask(prompt)
        while prompt is None:
            line = input("> ").strip()
            if line in ("/quit", "/exit"):
                break
            if line == "/reset":
                for talk in comparison.models:
                    talk.reset(talk.system)
            elif line:
                try:
                    comparison.ask(line)
                except KeyboardInterrupt:
                    typer.echo()
                except HunminError as error:
                    typer.echo(f"{say('error', '오류')}: {error}", err=True)
    except (EOFError, KeyboardInterrupt):
        typer.echo()
    typer.echo(comparison.summary())
