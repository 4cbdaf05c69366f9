"""``hunmin tasks``: what ``hunmin run`` and ``pipeline`` can do."""

from __future__ import annotations

import typer

from hunmin.cli.table import table
from hunmin.errors import say
from hunmin.pipelines import ALIASES, CHAT, TASKS, TAUGHT

HELP = say("List the tasks, their other names and their models.", "작업과 다른 이름, 기본 모델을 보여 줍니다.")
EXAMPLES = "\b\n" + say("Examples:", "예:") + '\n  hunmin tasks\n  hunmin run sentiment-analysis "I love this." --model ./my-bert'
OTHER_NAMES = {task: alias for alias, task in ALIASES.items()} | {"translation": "translation_XX_to_YY"}


def tasks() -> None:
    """Print every task with its other name, the model that is taken where none is named, and the package where that one cannot be had."""
    rows = [(say("TASK", "작업"), say("ALSO", "다른 이름"), say("MODEL", "기본 모델"), say("ELSE", "구할 수 없을 때"))]
    for task in sorted(TASKS):
        models = [model for model in (TAUGHT.get(task, ("",))[0], TASKS[task][3]) if model] + ["-", "-"]
        rows.append((task, OTHER_NAMES.get(task, "-"), models[0], models[1]))
    typer.echo(table(rows))
    chat = ", ".join(CHAT)
    typer.echo(say(f"A chat model (--model) also does {chat}.", f"대화 모델(--model)로도 되는 작업: {chat}."))
