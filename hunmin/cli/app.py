"""The commands put together, and what happens when one fails."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import hunmin
from hunmin.cli import align, chat, curate, info, judge, models, quantize, run, tasks, train
from hunmin.errors import HunminError, say

app = typer.Typer(
    name="hunmin",
    help=say("Run, read and understand transformer models.", "트랜스포머 모델을 실행하고 살펴봅니다."),
    epilog="\b\n"
    + say("Examples:", "예:")
    + '\n  hunmin chat "What is the capital of Japan?"\n  hunmin run text-generation "Once upon a time"\n  hunmin tasks\n  hunmin run --help\n\n\b\n'
    + say(
        "Exit codes: 0 done, 1 the command failed, 2 wrong usage, 130 interrupted.",
        "종료 코드: 0 정상, 1 실패, 2 잘못된 사용법, 130 사용자 중단.",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # main() prints one line instead
    rich_markup_mode=None,  # plain help: rich costs a fifth of the start-up budget
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hunmin {hunmin.__version__}")
        raise typer.Exit


@app.callback()
def _options(  # pyright: ignore[reportUnusedFunction]
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", envvar="HUNMIN_DEBUG", help=say("Show the traceback of an error.", "오류가 나면 트레이스백을 보여 줍니다.")
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help=say("Show the version.", "버전을 보여 줍니다."))
    ] = False,
) -> None:
    os.environ["HUNMIN_DEBUG"] = "1" if debug else ""


app.command("run", help=run.HELP, epilog=run.EXAMPLES)(run.run)
app.command("chat", help=chat.HELP, epilog=chat.EXAMPLES)(chat.chat)
app.command("train", help=train.HELP, epilog=train.EXAMPLES)(train.train)
app.command("align", help=align.HELP, epilog=align.EXAMPLES)(align.align)
app.command("curate", help=curate.HELP, epilog=curate.EXAMPLES)(curate.curate)
app.command("judge", help=judge.HELP, epilog=judge.EXAMPLES)(judge.judge)
app.command("quantize", help=quantize.HELP, epilog=quantize.EXAMPLES)(quantize.quantize)
app.command("tasks", help=tasks.HELP, epilog=tasks.EXAMPLES)(tasks.tasks)
app.add_typer(models.app, name="models")
app.command("names", help=info.NAMES_HELP, epilog=info.NAMES_EXAMPLES)(info.names)
app.command("info", help=info.INFO_HELP, epilog=info.INFO_EXAMPLES)(info.info)
app.command("env", help=info.ENV_HELP)(info.env)


def main() -> None:
    """Entry point of the ``hunmin`` command. Prints errors in one line, without a traceback unless ``--debug`` asks for it."""
    try:
        try:
            app(prog_name="hunmin")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has gone: not an error, and nothing may be written any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("HUNMIN_DEBUG"):
            raise
        print(_message(error), file=sys.stderr)
        sys.exit(1)


def _message(error: Exception) -> str:
    word = say("error", "오류")
    if isinstance(error, HunminError):
        return f"{word}: {error}"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{word}: {what[:300]}\n" + say(
        "rerun as `hunmin --debug ...` to see where", "자세한 위치는 `hunmin --debug ...`로 다시 실행해 확인하십시오"
    )
