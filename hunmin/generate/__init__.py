"""Generation: settings, one decoding loop for greedy search, sampling and beams, an engine for many requests, and streamers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hunmin.generate.config import GenerationConfig as GenerationConfig
    from hunmin.generate.engine import Engine as Engine
    from hunmin.generate.engine import Request as Request
    from hunmin.generate.engine import Result as Result
    from hunmin.generate.loop import generate as generate
    from hunmin.generate.processors import LogitsProcessor as LogitsProcessor
    from hunmin.generate.processors import LogitsProcessorList as LogitsProcessorList
    from hunmin.generate.sampling import set_seed as set_seed
    from hunmin.generate.stopping import StoppingCriteria as StoppingCriteria
    from hunmin.generate.stopping import StoppingCriteriaList as StoppingCriteriaList
    from hunmin.generate.streamers import BaseStreamer as BaseStreamer
    from hunmin.generate.streamers import TextIteratorStreamer as TextIteratorStreamer
    from hunmin.generate.streamers import TextStreamer as TextStreamer

_HOME = {
    "GenerationConfig": "config",
    "Engine": "engine",
    "Request": "engine",
    "Result": "engine",
    "generate": "loop",
    "LogitsProcessor": "processors",
    "LogitsProcessorList": "processors",
    "set_seed": "sampling",
    "StoppingCriteria": "stopping",
    "StoppingCriteriaList": "stopping",
    "BaseStreamer": "streamers",
    "TextIteratorStreamer": "streamers",
    "TextStreamer": "streamers",
}

__all__ = [
    "BaseStreamer",
    "Engine",
    "GenerationConfig",
    "LogitsProcessor",
    "LogitsProcessorList",
    "Request",
    "Result",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
    "generate",
    "set_seed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hunmin.generate' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hunmin.generate.{_HOME[name]}"), name)
