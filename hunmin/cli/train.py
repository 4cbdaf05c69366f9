"""``hunmin train``: a recipe carried out, or only planned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hunmin.cli.models import size
from hunmin.cli.table import table
from hunmin.errors import say

if TYPE_CHECKING:
    from hunmin.train.recipe.plan import StagePlan

HELP = say(
    "Train as RECIPE (a YAML file) says: tokenizer, stages, evaluation.", "RECIPE(YAML 파일)대로 학습합니다: 토크나이저, 학습 단계, 평가."
)
EXAMPLES = (
    "\b\n"
    + say("Examples:", "예:")
    + (
        "\n  hunmin train classify.yaml --dry-run"
        "\n  hunmin train classify.yaml --set training.learning_rate=1e-4 --set output=runs/second"
        "\n  hunmin train from_scratch.yaml --set stages.pretrain.training.max_steps=1000"
        "\n  hunmin train classify.yaml --resume"
    )
)
PARTS = {
    "weights": say("weights", "가중치"),
    "gradients": say("gradients", "기울기"),
    "optimizer": say("optimizer", "옵티마이저"),
    "activations": say("activations", "활성값"),
}


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help=say("A YAML file (docs/recipes.md).", "YAML 파일(docs/recipes.md)."))],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help=say("Replace a value; repeatable.", "값을 바꿉니다. 여러 번 쓸 수 있습니다.")),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help=say("Only print size, memory, time and one batch.", "학습하지 않고 크기, 메모리, 시간, 배치 하나만 보여 줍니다."),
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help=say("Go on where the run was interrupted.", "중단된 곳부터 이어서 학습합니다."))
    ] = False,
) -> None:
    """Carry out ``recipe`` and print the metrics of every stage."""
    from hunmin.train.recipe import plan, read, run

    checked = read(recipe, settings or [])
    if dry_run:
        made = plan(checked)
        typer.echo("\n\n".join(map(_planned, made.stages)))
        typer.echo(
            say(f"\nNothing was written. The run would write to {made.output}.", f"\n아무것도 쓰지 않았습니다. 결과 폴더: {made.output}.")
        )
        return
    results = run(checked, resume=resume)
    rows = [(stage, split, name, _number(value)) for stage, found in results.items() for split, name, value in _metrics(found)]
    typer.echo(table([(say("STAGE", "단계"), say("SPLIT", "데이터"), say("METRIC", "지표"), say("VALUE", "값")), *rows]))
    typer.echo(say(f"saved in {checked.output}", f"{checked.output}에 저장했습니다"))


def _metrics(found: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """What people want to know of a stage: neither speed nor run time of the evaluations."""
    left_out = ("runtime", "samples_per_second", "steps_per_second", "epoch")
    return [(split, name, value) for split, values in found.items() for name, value in values.items() if not name.endswith(left_out)]


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _planned(stage: StagePlan) -> str:
    """A stage's plan as text."""
    counts = ", ".join(f"{name} {count:,}" for name, count in stage.rows.items())
    epochs = f"{stage.epochs:.4g}"
    memory = "  ".join(f"{PARTS[name]} {size(held)}" for name, held in stage.memory.items())
    facts = [
        (say("model", "모델"), stage.model),
        (say("rows", "행"), counts + (say(f", packed {stage.packed:,}", f", 패킹 {stage.packed:,}") if stage.packed is not None else "")),
        (say("tokens", "토큰"), say(f"about {stage.tokens:,} an epoch", f"에폭마다 약 {stage.tokens:,}")),
        (
            say("steps", "스텝"),
            say(f"{stage.steps:,} of {stage.batch} rows, {epochs} epochs", f"{stage.steps:,}(스텝마다 {stage.batch}행), {epochs} 에폭"),
        ),
        (
            say("parameters", "파라미터"),
            say(f"{stage.parameters:,}, {stage.trained:,} learn", f"{stage.parameters:,}, 학습 {stage.trained:,}"),
        ),
        (say("memory", "메모리"), say(f"about {size(sum(stage.memory.values()))}: ", f"약 {size(sum(stage.memory.values()))}: ") + memory),
        (say("time", "시간"), say(f"about {_time(stage.seconds)} on {stage.device}", f"{stage.device}에서 약 {_time(stage.seconds)}")),
    ]
    if stage.labels:
        shown = ", ".join(stage.labels[:10]) + (", …" if len(stage.labels) > 10 else "")
        facts.insert(2, (say("labels", "라벨"), f"{len(stage.labels)}: {shown}"))
    head = say(f"stage {stage.name}: {stage.objective}", f"단계 {stage.name}: {stage.objective}")
    example = table([(say("TOKEN", "토큰"), say("LABEL", "라벨")), *stage.example])
    return f"{head}\n{table(facts)}\n\n{example}"


def _time(seconds: float) -> str:
    """Seconds for people: ``"0.4 s"``, ``"45 s"``, ``"3 min"``, ``"2.5 h"``."""
    if seconds < 2:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
