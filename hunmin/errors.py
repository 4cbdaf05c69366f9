"""Errors for people, in English and Korean.

Every error that a user can cause derives from :class:`HunminError` and says in one or two lines what was wrong, where, and what to do.
``say`` holds both languages at the place of the error, so a message cannot drift from the code that raises it.
"""

from __future__ import annotations

import locale
import logging
import os
from functools import cache

logger = logging.getLogger("hunmin")


class HunminError(Exception):
    """Base of every error that Hunmin raises on purpose. The command line prints it without a traceback."""


class SourceError(HunminError, OSError):
    """A model, file or package cannot be found or reached."""


class FormatError(HunminError, ValueError):
    """A file is broken, truncated, unsafe, or not what its name says."""


class ConfigError(HunminError, ValueError):
    """A configuration names something that Hunmin does not know or cannot compute."""


class InputError(HunminError, ValueError):
    """The caller's input or arguments cannot be used."""


@cache
def language() -> str:
    """``"ko"`` when ``HUNMIN_LANG`` or, without it, the locale asks for Korean; else ``"en"``."""
    wanted = os.environ.get("HUNMIN_LANG")
    if not wanted:
        wanted = next((v for k in ("LC_ALL", "LC_MESSAGES", "LANG") if (v := os.environ.get(k))), "") or locale.getlocale()[0] or ""
    return "ko" if wanted.lower().startswith("ko") else "en"


def say(en: str, ko: str) -> str:
    """The message in the user's language."""
    return ko if language() == "ko" else en


def short(value: object, longest: int = 60) -> str:
    """``repr(value)``, cut to ``longest`` characters: messages must stay readable when the input is a megabyte."""
    text = repr(value[: longest + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


@cache
def warn_once(message: str) -> None:
    """Log ``message`` as a warning, the first time only."""
    logger.warning(message)
