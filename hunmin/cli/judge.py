"""``hunmin judge``: answers rated, or pairs of answers compared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hunmin.cli.table import table
from hunmin.errors import InputError, say

if TYPE_CHECKING:
    from hunmin.align.formats import Row
    from hunmin.align.judge import Judge

HELP = say(
    "Rate the answers in DATA, or compare its pairs: by a model behind a URL, a reward model, or a function.",
    "DATA의 답에 점수를 매기거나 쌍을 비교합니다: URL의 모델, 보상 모델, 함수.",
)
EXAMPLES = (
    "\b\n"
    + say("Examples:", "예:")
    + (
        "\n  hunmin judge answers.jsonl --reward runs/reward"
        "\n  hunmin judge pairs.jsonl --url http://localhost:8000/v1 --model qwen3"
        "\n  hunmin judge answers.jsonl --function mine.py:score --output rated.jsonl"
    )
)


def judge(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help=say("Rows with prompt and completion, or pairs.", "prompt와 completion이 있는 행, 또는 쌍.")),
    ],
    url: Annotated[str | None, typer.Option(help=say("An OpenAI-compatible server.", "OpenAI 호환 서버."))] = None,
    model: Annotated[str | None, typer.Option(help=say("The model's name there.", "그 서버의 모델 이름."))] = None,
    reward: Annotated[
        str | None, typer.Option(help=say("A reward model: folder, Hub id, pypi:…", "보상 모델: 폴더, 허브 이름, pypi:…"))
    ] = None,
    function: Annotated[str | None, typer.Option(help="file.py:name, module:name")] = None,
    criteria: Annotated[str | None, typer.Option(help=say("What makes an answer good.", "좋은 답의 기준."))] = None,
    one_order: Annotated[
        bool, typer.Option("--one-order", help=say("Ask once, not in both orders.", "두 순서가 아니라 한 번만 묻습니다."))
    ] = False,
    output: Annotated[Path | None, typer.Option(help=say("Rows with the verdicts.", "판정을 더한 행."))] = None,
    workers: Annotated[int, typer.Option(min=1, help=say("Questions at the same time.", "동시에 묻는 수."))] = 4,
    key_env: Annotated[str, typer.Option(help=say("Environment variable with the key.", "키가 든 환경 변수."))] = "OPENAI_API_KEY",
) -> None:
    """Judge ``data``, write the verdicts, and print what they come to."""
    from hunmin.align.files import read_rows, write_rows
    from hunmin.align.judge import JudgePart

    source = Path(data)
    target = output if output is not None else Path(f"{source.name.partition('.')[0]}.judged.jsonl")
    part = JudgePart(
        url=url,
        model=model,
        reward=reward,
        function=function,
        criteria=criteria,
        both_orders=not one_order,
        workers=workers,
        key_env=key_env,
    )
    made, rows = part.build(target.with_suffix(".kept.jsonl")), read_rows(data)
    paired = bool(rows) and "rejected" in rows[0]
    judged, facts = (_compared if paired else _rated)(made, rows)
    write_rows(target, judged)
    typer.echo(table(facts))
    typer.echo(say(f"saved in {target}", f"{target}에 저장했습니다"))


def _rated(judge: Judge, rows: list[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    from hunmin.align.formats import as_messages, prompt_of
    from hunmin.align.shapes import convert

    if any({"answers", "scores"} <= row.keys() for row in rows):
        raise InputError(say("These answers have scores already.", "이미 점수가 있는 답입니다."))
    examples = convert(rows, "unpaired" if rows and "label" in rows[0] else "sft")
    asked: list[tuple[Any, Any]] = []
    for row in examples:
        if "messages" in row:
            prompt, last = prompt_of(row), as_messages(row["messages"])[-1]
            asked.append((prompt[0]["prompt"] if prompt else [], last.get("content") or ""))
        elif "prompt" in row:
            asked.append((row["prompt"], row["completion"]))
        else:
            asked.append(("", row["text"]))
    scores = judge.score([prompt for prompt, _ in asked], [answer for _, answer in asked])
    known = sorted(score for score in scores if score is not None)
    facts = [(say("answers", "답"), f"{len(scores):,}"), (say("rated", "점수 있음"), f"{len(known):,}")]
    if known:
        middle = known[len(known) // 2]
        facts += [(say("mean", "평균"), f"{sum(known) / len(known):.4f}"), (say("median", "중앙값"), f"{middle:.4f}")]
        facts += [(say("lowest, highest", "최저, 최고"), f"{known[0]:.4f}, {known[-1]:.4f}")]
    return [{**row, "score": score} for row, score in zip(examples, scores, strict=True)], facts


def _compared(judge: Judge, rows: list[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    from hunmin.align.shapes import convert

    pairs = convert(rows, "preference")
    verdicts = judge.compare(*([row[name] for row in pairs] for name in ("prompt", "chosen", "rejected")))
    counted = Counter(verdict.winner for verdict in verdicts)
    names = {
        "first": say("chosen is better", "chosen이 나음"),
        "second": say("rejected is better", "rejected가 나음"),
        "tie": say("tie", "비김"),
    }
    facts = [(say("pairs", "쌍"), f"{len(pairs):,}")]
    facts += [(name, f"{counted[winner]:,} ({counted[winner] / len(pairs):.1%})") for winner, name in names.items()]  # type: ignore[index]
    facts += [(say("not judged", "판정 없음"), f"{counted[None]:,}")] if counted[None] else []
    facts += [(say("differed by order", "순서에 따라 달랐음"), f"{sum(not verdict.consistent for verdict in verdicts):,}")]
    sides = {"first": "chosen", "second": "rejected", "tie": "tie", None: None}
    judged = [{**row, "winner": sides[v.winner], "consistent": v.consistent} for row, v in zip(pairs, verdicts, strict=True)]
    return judged, facts
