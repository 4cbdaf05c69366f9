"""Sentences a second of opus-mt-en-fr (Marian) with four beams, over 200 texts of mixed length, beside CTranslate2 and transformers.

    python benchmarks/seq2seq.py [--runs N] [--texts N] [--threads N] [--quick]

Tokenizing and decoding are counted. Transformers and CTranslate2 get batches of 32 that are sorted by length; CTranslate2 computes
in int8. chrF compares the translations with those of transformers in fp32 (100: the same). The model is fetched once (375 MB).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import calm, gather, machine, options, passages, per_second, seconds, table, turns

from hunmin.hub.opus import opus_mt_en_fr

BEAMS, BATCH, MOST = 4, 32, 128  # tokens of a translation
Translate = Callable[[list[str]], list[str]]


def hunmin(**loading: Any) -> Translate:
    import hunmin as library

    folder = opus_mt_en_fr()
    model = library.AutoModelForSeq2SeqLM.from_pretrained(folder, **loading)
    pipe = library.pipeline("translation", model=model, tokenizer=library.AutoTokenizer.from_pretrained(folder))
    return lambda rows: [one["translation_text"] for one in pipe(rows, num_beams=BEAMS, max_new_tokens=MOST)]


def transformers(dtype: str) -> Translate:
    import torch
    import transformers as library

    folder = opus_mt_en_fr()
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    model = library.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def batch(part: list[str]) -> list[str]:
        found = model.generate(**tokenizer(part, padding=True, return_tensors="pt"), num_beams=BEAMS, max_new_tokens=MOST)
        return tokenizer.batch_decode(found, skip_special_tokens=True)

    return by_length(batch)


def ctranslate2(place: Path, kind: str, threads: int) -> Translate:
    import ctranslate2 as library
    import transformers

    folder, made = opus_mt_en_fr(), place / kind
    library.converters.TransformersConverter(str(folder)).convert(str(made), quantization=kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    translator = library.Translator(str(made), device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1)

    def batch(part: list[str]) -> list[str]:
        words = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(part)["input_ids"]]
        found = translator.translate_batch(words, beam_size=BEAMS, max_decoding_length=MOST)
        return [tokenizer.decode(tokenizer.convert_tokens_to_ids(one.hypotheses[0]), skip_special_tokens=True) for one in found]

    return by_length(batch)


def by_length(batch: Translate) -> Translate:
    """Rows through ``batch``, those of similar length together."""

    def run(rows: list[str]) -> list[str]:
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        out = [""] * len(rows)
        for i in range(0, len(order), BATCH):
            part = order[i : i + BATCH]
            for r, text in zip(part, batch([rows[r] for r in part]), strict=True):
                out[r] = text
        return out

    return run


def main() -> None:
    given = options(__doc__, runs=(2, 1), texts=(200, 8))
    calm(given.threads)
    import sacrebleu

    rows = passages(given.texts, 4)
    said: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        works: dict[str, Translate] = gather(
            {
                "Hunmin fp32": lambda: hunmin(dtype="float32"),
                "Hunmin bf16": lambda: hunmin(dtype="bfloat16"),
                "Hunmin int8": lambda: hunmin(quantization="int8"),
                "CTranslate2 int8": lambda: ctranslate2(Path(place), "int8", given.threads),
                "transformers fp32": lambda: transformers("float32"),
                "transformers bf16": lambda: transformers("bfloat16"),
            }
        )

        def translate(name: str) -> None:
            said[name] = works[name](rows)

        found = turns(
            {name: name for name in works}, given.runs, lambda name: seconds(lambda: translate(name)), lambda name: works[name](rows[:8])
        )
        rates = per_second(len(rows), found)
    print(machine(given.threads))
    print(
        f"{len(rows)} texts of {sum(len(row.split()) for row in rows) / len(rows):.1f} words on average, {BEAMS} beams, {given.runs} rounds"
    )
    notes = {name: f"chrF {sacrebleu.corpus_chrf(texts, [said['transformers fp32']]).score:.1f}" for name, texts in said.items()}
    table("opus-mt-en-fr, four beams", "texts/s", rates, [name for name in rates if name.startswith("Hunmin")], notes)


if __name__ == "__main__":
    main()
