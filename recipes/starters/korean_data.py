"""The Korean data sets of the starters: how their files are read, and which of their rows are held out for the scores.

Every file is one of the raw data folder (``--data``). What is held out is decided by a checksum of a text or title, so that it does not
depend on any order, and rows that share that text are on one side.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NER = ("klue_nli_sts_ner_dp/klue-ner_train_mini.tsv.gz", "klue_nli_sts_ner_dp/klue-ner-v1.1_dev.tsv.gz")
# Rows of these files are never trained on, by the body neither (KorQuAD: no derivatives of its text; KoBBQ measures bias).
TESTS = (
    "klue_ynat/dev.tsv.gz", "nsmc_rebuilt/ratings_test.tsv.gz", "kor_nlu/sts-test.tsv.gz", "korean_hate_speech/beep_dev.tsv.gz",
    "korean_hate_speech/apeach_test.csv.gz", "warnikchow_ko/3i4k_test.tsv.gz", "korquad1_dev/KorQuAD_v1.0_dev.json.gz",
    "kobbq/KoBBQ_test_samples.tsv.gz",
)  # fmt: skip


def held(key: str, share: float = 0.2) -> bool:
    """Whether rows of this text, title or premise are held out."""
    return zlib.crc32(key.encode("utf-8")) / 2**32 < share


def read(path: Path) -> str:
    """The text of a file, unpacked."""
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig", "replace")


def table(path: Path, names: str = "") -> list[dict[str, str]]:
    """Rows of a file whose fields are separated by tabs (quotes mean nothing there) or, ``.csv``, by commas. ``names``: its columns, if it has no heading."""
    text = read(path)
    if ".csv" in path.name:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    rows = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    heading = names.split() if names else rows.pop(0)
    return [dict(zip(heading, row, strict=False)) for row in rows]


def records(path: Path) -> Any:
    """A JSON file, or the list of the objects of a file with one a line."""
    text = read(path)
    return [json.loads(line) for line in text.splitlines() if line.strip()] if ".jsonl" in path.name else json.loads(text)


def tagged(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Sentences of KLUE-NER with a tag (``O``, ``B-PS``, ``I-PS``, ...) for every character."""
    for block in read(path).split("\n\n"):
        rows = [line.split("\t") for line in block.split("\n") if "\t" in line and not line.startswith("##")]
        if rows:
            yield "".join(row[0] for row in rows), [row[1] for row in rows]


def ner(data: Path, test: bool) -> list[tuple[str, list[str]]]:
    """KLUE-NER: a fifth of its dev file to test, the rest of it and all of ``train_mini`` to train. No test sentence is among the training ones."""
    dev = list(tagged(data / NER[1]))
    if test:
        return [row for row in dev if held(row[0])]
    return [row for row in [*tagged(data / NER[0]), *dev] if not held(row[0])]


def mrc(data: Path, test: bool) -> list[dict[str, Any]]:
    """KLUE-MRC by title: a fifth to test."""
    return [row for row in records(data / "klue_mrc_dev_part/dev_1350.jsonl.gz") if held(row["title"]) == test]


def nli(data: Path, test: bool) -> dict[str, list[tuple[str, str, str]]]:
    """(premise, hypothesis, label) of KLUE-NLI and KorNLI by premise: a fifth of KLUE-NLI's dev file and of KorNLI's test file to test."""
    klue = [
        (row["premise"], row["hypothesis"], row["gold_label"]) for row in records(data / "klue_nli_sts_ner_dp/klue-nli-v1.1_dev.json.gz")
    ]
    rows = {"klue": klue}
    for part in ("dev", "test"):
        found = [
            tuple(row.get(name, "") for name in ("sentence1", "sentence2", "gold_label"))
            for row in table(data / f"kor_nlu/xnli.{part}.ko.tsv.gz")
        ]
        rows["kornli-" + part] = [row for row in found if row[2] in ("entailment", "neutral", "contradiction")]  # type: ignore[misc]
    if test:
        return {name: [row for row in rows[name] if held(row[0])] for name in ("klue", "kornli-test")}
    return {name: [row for row in part if not held(row[0])] for name, part in rows.items()}


def sts(data: Path, test: bool) -> dict[str, list[tuple[str, str, float]]]:
    """(sentence, sentence, 0 to 5): KorSTS's test file and a half of KLUE-STS's dev file to test, the others to train."""
    klue = [
        (row["sentence1"], row["sentence2"], float(row["labels"]["real-label"]))
        for row in records(data / "klue_nli_sts_ner_dp/klue-sts-v1.1_dev.json.gz")
    ]
    rows = {"klue": [row for row in klue if held(row[0], 0.5) == test]}
    for part in ("test",) if test else ("train", "dev"):
        rows["korsts-" + part] = [
            (row["sentence1"], row["sentence2"], float(row["score"])) for row in table(data / f"kor_nlu/sts-{part}.tsv.gz")
        ]
    return rows


def korean(text: str) -> Iterator[str]:
    """The Korean sentences of a file of any form: fields of tables, strings of JSON, lines. At least eight syllables, 45% of the characters."""
    for piece in re.split(r'[\t\n\r"]|\\n|(?<=다\.)\s|(?<=[?!])\s', text):
        piece = piece.removeprefix("# text = ").strip()
        if max(8, 0.45 * len(piece)) <= len(re.findall("[가-힣]", piece)):
            yield piece


def forbidden(data: Path) -> set[str]:
    """Sentences and texts of all held-out rows, pieces of them too."""
    found = set[str]()
    for name in TESTS:
        if not name.startswith("korquad"):
            for line in read(data / name).splitlines():
                found |= {field.strip() for field in line.split("\t")} | set(korean(line))
    for row in mrc(data, test=True):
        found |= {row["title"], row["question"], *korean(row["context"]), *row["context"].split("\n")}
    held_pairs = [
        *(row for part in nli(data, test=True).values() for row in part),
        *(row for part in sts(data, test=True).values() for row in part),
    ]
    held_texts = [*(sentence for row in held_pairs for sentence in row[:2]), *(row[0] for row in ner(data, test=True))]
    return found | set(held_texts) | {piece for text in held_texts for piece in korean(text)}


def sources(data: Path) -> dict[str, list[str]]:
    """Korean sentences of every file in their order, each once, none that is held out. Software manuals stay out, and so does markup."""
    seen, found = forbidden(data), dict[str, list[str]]()
    for path in sorted(data.glob("*/*")):
        name = f"{path.parent.name}/{path.name}"
        skipped = name in TESTS or "docs" in name or name.startswith("klue_ynat/") or path.name == "SOURCE.txt"
        if skipped or path.suffix not in (".gz", ".csv", ".txt"):
            continue
        if name in NER:
            pieces = (sentence for sentence, _ in tagged(path))
        elif name.startswith("klue_mrc"):
            pieces = (
                piece for row in mrc(data, test=False) for text in (row["title"], row["context"], row["question"]) for piece in korean(text)
            )
        elif path.suffix == ".csv":
            pieces = (piece for row in table(path) for text in row.values() if isinstance(text, str) for piece in korean(text))
        else:
            pieces = korean(read(path))
        kept = found.setdefault(name, [])
        for piece in pieces:
            if piece not in seen and "\t" not in piece and not piece.startswith("## "):
                seen.add(piece)
                kept.append(piece)
    return {name: pieces for name, pieces in found.items() if pieces}
