"""``hunmin align``: a method of alignment, carried out as a recipe says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hunmin.cli.table import table
from hunmin.errors import say

HELP = say(
    "Align a model as RECIPE (a YAML file) says, by METHOD: sft, reward, dpo, kto, ppo, rloo, grpo, rejection or best-of-n.",
    "RECIPE(YAML 파일)대로 모델을 정렬합니다. METHOD: sft, reward, dpo, kto, ppo, rloo, grpo, rejection, best-of-n.",
)
EXAMPLES = (
    "\b\n"
    + say("Examples:", "예:")
    + (
        "\n  hunmin align sft sft.yaml --dry-run"
        "\n  hunmin align dpo dpo.yaml --set training.beta=0.05 --set output=runs/second"
        "\n  hunmin align grpo grpo.yaml --resume"
    )
)


def align(
    method: Annotated[str, typer.Argument(metavar="METHOD", show_default=False)],
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help=say("A YAML file (docs/alignment/data.md).", "YAML 파일(docs/alignment/data.md)."))
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help=say("Replace a value; repeatable.", "값을 바꿉니다. 여러 번 쓸 수 있습니다.")),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help=say("Only read the recipe and the data, and show a row.", "레시피와 데이터만 읽고 한 행을 보여 줍니다.")
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help=say("Go on where the run was interrupted.", "중단된 곳부터 이어서 합니다."))
    ] = False,
) -> None:
    """Carry out ``recipe`` and print its metrics."""
    from hunmin.align.recipe import METHODS, read, rows_of, run

    checked = read(method, recipe, settings or [])
    if dry_run:
        rows = rows_of(checked)
        counts = f"{len(rows.train):,}" + (f" + {len(rows.validation):,}" if rows.validation is not None else "")
        facts = [
            (say("method", "방법"), f"{checked.method} ({METHODS[checked.method].trainer})"),
            (say("model", "모델"), checked.recipe.model),
            (say("rows", "행"), f"{counts} ({METHODS[checked.method].kind})"),
            *((f"training.{name}", str(value)) for name, value in checked.training.items()),
        ]
        typer.echo(f"{table(facts)}\n\n{json.dumps(rows.train[0], ensure_ascii=False, indent=1)[:2000]}")
        typer.echo(
            say(
                f"\nNothing was written. The run would write to {checked.recipe.output}.",
                f"\n아무것도 쓰지 않았습니다. 결과 폴더: {checked.recipe.output}.",
            )
        )
        return
    results = run(checked, resume=resume)
    rows = [(split, name, _number(value)) for split, values in results.items() for name, value in values.items() if _told(name)]
    typer.echo(table([(say("SPLIT", "데이터"), say("METRIC", "지표"), say("VALUE", "값")), *rows]))
    typer.echo(say(f"saved in {checked.recipe.output}", f"{checked.recipe.output}에 저장했습니다"))


def _told(name: str) -> bool:
    return not name.endswith(("runtime", "samples_per_second", "steps_per_second", "epoch", "total_flos"))


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
