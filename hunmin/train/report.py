"""The model card of a run."""

from __future__ import annotations

from typing import Any


def model_card(trainer: Any, about: dict[str, Any]) -> str:
    """``README.md`` for the Hub."""
    name = about.get("model_name") or trainer.args.output_dir
    return f"# {name}\n"
