"""``hunmin curate``: data without duplicates, noise and what teaches nothing, and what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hunmin.cli.table import table
from hunmin.errors import say

if TYPE_CHECKING:
    from hunmin.align.curate.run import Done, Sample

HELP = say(
    "Leave out of DATA what RECIPE (a YAML file) says: duplicates, languages, lengths, perplexity, quality.",
    "RECIPE(YAML 파일)대로 DATA에서 중복, 언어, 길이, 퍼플렉시티, 품질을 걸러 냅니다.",
)
EXAMPLES = (
    "\b\n"
    + say("Examples:", "예:")
    + '\n  hunmin curate chats.jsonl recipe.yaml\n  hunmin curate "data/*.jsonl" recipe.yaml --set output=clean.jsonl --samples 10'
)


def curate(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA... RECIPE", help=say("Files or patterns, then a YAML file.", "파일이나 패턴, 그다음 YAML 파일.")),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help=say("Replace a value; repeatable.", "값을 바꿉니다. 여러 번 쓸 수 있습니다.")),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help=say("Examples shown of each step.", "단계마다 보여 줄 예의 수."))] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=say("Write nothing.", "아무것도 쓰지 않습니다."))] = False,
) -> None:
    """Carry out a recipe on data, and print what each step left out."""
    from hunmin.align.curate import run

    *sources, recipe = data
    made = run(Path(recipe), sources or None, settings or [], write=not dry_run)
    for step in made.steps:
        typer.echo(_step(step, samples) + "\n")
    left = f"{len(made.rows):,}"
    typer.echo(say(f"{left} of {made.before:,} rows are left.", f"{made.before:,}행 중 {left}행이 남았습니다."))
    if not dry_run:
        typer.echo(
            say(f"saved in {made.recipe.output}; report: {made.report}", f"{made.recipe.output}에 저장했습니다. 보고서: {made.report}")
        )


def _step(step: Done, samples: int) -> str:
    """A step's result as text."""
    gone = step.before - step.after
    seconds = f"{step.seconds:.1f} s"
    head = say(
        f"{step.name}: {gone:,} of {step.before:,} rows left out ({seconds})",
        f"{step.name}: {step.before:,}행 중 {gone:,}행 제외({seconds})",
    )
    facts = [f"  {name}: {value}" for name, value in step.facts.items()]
    reasons = (
        "\n".join(f"  {line}" for line in table([(f"{count:,}", reason) for reason, count in step.reasons.most_common()]).split("\n"))
        if step.reasons
        else ""
    )
    return "\n".join(filter(None, [head, *facts, reasons, *(_sample(sample) for sample in step.samples[:samples])]))


def _sample(sample: Sample) -> str:
    text = " ".join(sample.text.split())
    score = f" ({sample.score:.3g})" if sample.score is not None else ""
    return f"    - [{sample.reason}{score}] {text[:110]}{'…' if len(text) > 110 else ''}"
