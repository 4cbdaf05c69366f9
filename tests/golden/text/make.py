"""Writes the goldens of this folder: files of tiny models and what transformers makes of them. Run it after a change of text_kinds.py.

Run it once with transformers 5 and once with 4.50: version 5 lost the character map and the languages of some kinds, and it writes the others.
"""

from __future__ import annotations

import json
import sys
import tempfile
import unicodedata
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests import text_kinds as kinds

KINDS = {
    "5": ("bert", "roberta", "gpt2", "t5", "xlm-roberta", "llama", "marian", "m2m100"),
    "4": ("mbart", "mbart50", "nllb", "pegasus", "deberta-v2", "deberta-v2-punct"),
}
TRANSLATING = ("m2m100", "mbart", "mbart50", "nllb")


def as_trained(kind: str, peer: Any, ids: list[int]) -> list[int]:
    """Version 4.50 puts the mask of NLLB before the languages where no file gives ids, but the models have it last (eng_Latn is 256047)."""
    if kind != "nllb":
        return ids
    mask, last = peer.mask_token_id, len(peer) - 1
    return [last if index == mask else index - (index > mask) for index in ids]


def main() -> None:
    import transformers

    warnings.simplefilter("ignore")
    version = transformers.__version__[0]
    for kind in KINDS[version]:
        with tempfile.TemporaryDirectory() as name:
            folder = kinds.KINDS[kind](Path(name) / kind)
            peer = transformers.AutoTokenizer.from_pretrained(str(folder))
            files: dict[str, Any] = {}
            for path in sorted(folder.iterdir()):
                data = path.read_bytes()
                binary = path.suffix in (".model", ".spm")
                files[path.name] = {"hex": data.hex()} if binary else (json.loads(data) if path.suffix == ".json" else data.decode())
            texts: list[Any] = []
            skip = ("<mask>", "[UNK]") if kind.endswith("punct") else ("<mask>",)  # after lowercasing 4.50 finds "[UNK]" as no other does
            for text in (t for t in kinds.NASTY if not any(token in t for token in skip)):
                given = unicodedata.normalize("NFC", text) if version == "4" else text  # SentencePiece composes, its Rust form does not
                out = dict(peer(given))
                if version == "4" and given == text:
                    out["offset_mapping"] = peer(text, return_offsets_mapping=True)["offset_mapping"]
                more = {"text": peer.decode(out["input_ids"], skip_special_tokens=True)}
                if kind in TRANSLATING:
                    more["target"] = as_trained(kind, peer, peer(text_target=given)["input_ids"])
                texts.append([text, {**out, "input_ids": as_trained(kind, peer, out["input_ids"]), **more}])
            case = {"files": files, "texts": texts}
            (Path(__file__).parent / f"{kind}.json").write_text(json.dumps(case, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
