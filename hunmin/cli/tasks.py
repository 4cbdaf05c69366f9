"""``hunmin tasks``: what ``hunmin run`` and ``pipeline`` can do."""

from __future__ import annotations

import typer

from hunmin.cli.table import table
from hunmin.errors import say
from hunmin.pipelines import ALIASES, CHAT, TASKS, TAUGHT
from hunmin.starters import DEFAULTS, starters

HELP = say("List the tasks, their other names and their models.", "작업과 다른 이름, 기본 모델을 보여 줍니다.")
EXAMPLES = "\b\n" + say("Examples:", "예:") + '\n  hunmin tasks\n  hunmin run sentiment-analysis "I love this." --model starter'
OTHER_NAMES = {task: alias for alias, task in ALIASES.items()} | {"translation": "translation_XX_to_YY"}


def tasks() -> None:
    """Print every task with the checkpoint that it was taught with and its starters, then every starter and how good it is."""
    head = (
        say("TASK", "작업"),
        say("ALSO", "다른 이름"),
        say("TAUGHT WITH", "강의의 모델"),
        say("ENGLISH", "영어"),
        say("KOREAN", "한국어"),
    )
    rows = list[tuple[str, ...]]([head])
    for task in sorted({*TASKS, *DEFAULTS}):
        chosen = DEFAULTS.get(task, {})
        mine = [f"starter-{chosen[language]}" if language in chosen else "-" for language in ("en", "ko")]
        rows.append((task, OTHER_NAMES.get(task, "-"), TAUGHT.get(task, ("-",))[0], *mine))
    typer.echo(table(rows))
    typer.echo()
    typer.echo(table([(say("STARTER", "스타터"), say("HOW GOOD", "성능")), *((s.source, s.score) for s in starters().values())]))
    chat = ", ".join(CHAT)
    typer.echo()
    typer.echo(say(f"A chat model (--model) also does {chat}.", f"대화 모델(--model)로도 되는 작업: {chat}."))
