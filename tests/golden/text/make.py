"""Writes the goldens of this folder: files of tiny models and what transformers makes of them. Run it after a change of text_kinds.py."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests import text_kinds as kinds


def main() -> None:
    import transformers

    warnings.simplefilter("ignore")
    for kind in ("bert", "roberta", "gpt2", "t5", "xlm-roberta", "llama", "marian"):
        with tempfile.TemporaryDirectory() as name:
            folder = kinds.KINDS[kind](Path(name) / kind)
            peer = transformers.AutoTokenizer.from_pretrained(str(folder))
            files: dict[str, Any] = {}
            for path in sorted(folder.iterdir()):
                data = path.read_bytes()
                binary = path.suffix in (".model", ".spm")
                files[path.name] = {"hex": data.hex()} if binary else (json.loads(data) if path.suffix == ".json" else data.decode())
            texts: list[Any] = []
            for text in (t for t in kinds.NASTY if "<mask>" not in t):
                out = dict(peer(text))
                texts.append([text, {**out, "text": peer.decode(out["input_ids"], skip_special_tokens=True)}])
            case = {"files": files, "texts": texts}
            (Path(__file__).parent / f"{kind}.json").write_text(json.dumps(case, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
