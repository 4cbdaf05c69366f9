"""Korean and English, from one into the other: data of the small encoder-decoder ``koen/text2text``, which also summarizes and chats in Korean.

One model has four tasks. The first token of its input says which, as in Marian's models with several target languages.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import translation_scores
from card import Data, Starter
from measure import Measured, read_rows

KOREAN, ENGLISH, SUMMARY, REPLY = ">>ko<<", ">>en<<", ">>요약<<", ">>답<<"
PREFIXES = (KOREAN, ENGLISH, SUMMARY, REPLY)
SEED = 20
LONGEST = 160  # characters of a training text: short sentences are seen several times in the minutes that there are
VOCABULARY = 8000
HELD = {"tatoeba": 500, "docs": 1000, "requests": 1000, "chat": 500}  # rows held out
Pair = tuple[str, str]


def plain(text: str) -> str:
    """A text as it is compared with others: no case, no punctuation, no spaces."""
    return re.sub(r"[\W_]+", "", text.casefold()) or text.strip()


def read_tsv(path: Path, header: bool = True) -> list[list[str]]:
    """Rows of a packed file of tab-separated cells, which have no quotes."""
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="\n") as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
    return rows[1:] if header else rows


def held_out(rows: Sequence[Pair], count: int, group: Callable[[int], str], seed: int = SEED) -> tuple[list[Pair], list[Pair]]:
    """Training rows, and at least ``count`` test rows: whole groups of them, drawn at random.

    A test row whose text stands on either side of a training row is in neither part.
    """
    groups: dict[str, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(group(i), []).append(i)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    seen = [(plain(a), plain(b)) for a, b in rows]
    counts: dict[str, int] = {}
    for pair in seen:
        for side in {*pair}:
            counts[side] = counts.get(side, 0) + 1
    taken, test = set[int](), list[Pair]()
    for name in names:
        if len(test) >= count:
            break
        inside: dict[str, int] = {}
        for i in groups[name]:
            for side in {*seen[i]}:
                inside[side] = inside.get(side, 0) + 1
        taken.update(groups[name])
        fresh = [i for i in groups[name] if all(counts[side] == inside[side] for side in seen[i])]
        test += {seen[i]: rows[i] for i in fresh}.values()
    return [row for i, row in enumerate(rows) if i not in taken], test[:count]


def parallel(raw: Path) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]]]:
    """Korean-English pairs by domain: training and test rows. No text of a test row is in training rows of any domain."""
    folder = raw / "ko_en_parallel"

    def pairs(name: str) -> list[Pair]:
        return [(row[0], row[1]) for row in read_tsv(folder / f"{name}.tsv.gz")]

    pages = [row[2] for row in read_tsv(folder / "python_docs.tsv.gz")]
    tatoeba = pairs("tatoeba")
    train, test = {"news": pairs("news_dev"), "jhe": pairs("jhe_dev")}, {"news": pairs("news_test"), "jhe": pairs("jhe_eval")}
    train["tatoeba"], test["tatoeba"] = held_out(tatoeba, HELD["tatoeba"], lambda i: str(i))
    train["docs"], test["docs"] = held_out(pairs("python_docs"), HELD["docs"], lambda i: pages[i])
    banned = {plain(text) for rows in test.values() for row in rows for text in row}
    short = {name: [row for row in rows if max(map(len, row)) <= LONGEST] for name, rows in train.items()}
    return {name: without(rows, banned) for name, rows in short.items()}, test


def without(rows: Iterable[Pair], banned: set[str]) -> list[Pair]:
    """Rows, each once, that have no text of ``banned`` on either side."""
    return [row for row in dict.fromkeys(rows) if not {plain(row[0]), plain(row[1])} & banned]


def requests(raw: Path) -> tuple[list[Pair], list[Pair]]:
    """Korean requests and questions with the noun phrase that says the same (sae4k), held out by the phrase."""
    rows = [(row[0], row[1]) for row in read_tsv(raw / "warnikchow_ko" / "sae4k_v1.tsv.gz", header=False)]
    return _split(rows, HELD["requests"], lambda i: plain(rows[i][1]))


def chat(raw: Path) -> tuple[list[Pair], list[Pair]]:
    """Korean small talk: a sentence and a reply, held out by the sentence. Replies recur: only sentences are kept apart."""
    with (raw / "songys_chatbot" / "ChatbotData.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["Q"], row["A"]) for row in csv.DictReader(file)]
    train, test = held_out([(question, question) for question, _ in rows], HELD["chat"], lambda i: plain(rows[i][0]))
    drawn, answers = {plain(question) for question, _ in test}, dict(rows)
    del train
    return [row for row in rows if plain(row[0]) not in drawn], [(question, answers[question]) for question, _ in test]


def _split(rows: list[Pair], count: int, group: Callable[[int], str]) -> tuple[list[Pair], list[Pair]]:
    train, test = held_out(rows, count, group)
    return without(train, {plain(text) for row in test for text in row}), test


def prepare(raw: Path, out: Path) -> None:
    """Write a file of training rows for every source, ``test.jsonl`` with all that is held out, and the tokenizer.

    Rows are ``{"text": prefix and text, "target": text}``; test rows name their ``domain`` as well.
    """
    out.mkdir(parents=True, exist_ok=True)
    train, test = parallel(raw)
    written = {name: [row for ko, en in rows for row in directions(ko, en)] for name, rows in train.items()}
    held = [{"domain": f"{name}-{way}", **row} for name, rows in test.items() for ko, en in rows for way, row in _named(ko, en)]
    for name, prefix, (kept, apart) in (("requests", SUMMARY, requests(raw)), ("chat", REPLY, chat(raw))):
        written[name] = [{"text": f"{prefix} {a}", "target": b} for a, b in kept]
        held += [{"domain": name, "text": f"{prefix} {a}", "target": b} for a, b in apart]
    for name, rows in written.items():
        write(out / f"{name}.jsonl", rows)
    write(out / "test.jsonl", held)
    tokenizer(text for rows in written.values() for row in rows for text in (without_prefix(row["text"]), row["target"])).save_pretrained(
        out / "tokenizer"
    )


def directions(ko: str, en: str) -> list[dict[str, str]]:
    """A pair of sentences as two rows."""
    return [row for _, row in _named(ko, en)]


def _named(ko: str, en: str) -> list[tuple[str, dict[str, str]]]:
    return [("ko-en", {"text": f"{ENGLISH} {ko}", "target": en}), ("en-ko", {"text": f"{KOREAN} {en}", "target": ko})]


def without_prefix(text: str) -> str:
    """The text behind the token that says the task."""
    first, _, rest = text.partition(" ")
    return rest if first in PREFIXES else text


def tokenizer(texts: Iterable[str]) -> Any:
    """One vocabulary for both languages, with a token for every task."""
    from hunmin.text.scratch import train_tokenizer

    made = train_tokenizer(dict.fromkeys(texts), "unigram", VOCABULARY, model_type="marian", extra=PREFIXES)
    made.model_max_length = 256
    return made


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Rows as lines of JSON."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# ---------------------------------------------------------------- the starter

RECIPE, SHARE = "koen-text2text.yaml", "CC BY-SA 3.0"
NOTES = (
    "Trained for minutes on one core from 23,000 pairs of sentences, most from manuals of Python: it has seen few words and little else.",
    "BLEU of Korean is counted over letters (sacrebleu's `char`), of English over words: the two are not to be compared.",
)
FAILURES = ()
EXAMPLE = """from hunmin import pipeline

pipeline("translation_ko_to_en", "starter-koen/text2text")("나는 책을 읽고 있어요.")
pipeline("translation_en_to_ko", "starter-koen/text2text")("I am reading a book.")
pipeline("summarization", "starter-koen/text2text")("내일 서울에 비가 오는지 알려줘")
pipeline("text2text-generation", "starter-koen/text2text")("오늘 너무 피곤해")"""
SETTINGS: dict[str, Any] = {  # of config.json. Translation with named languages needs none: its pipeline finds ">>en<<" in the vocabulary
    "task_specific_params": {
        "summarization": {"prefix": f"{SUMMARY} "},
        "text2text-generation": {"prefix": f"{REPLY} "},
        "translation": {"prefix": f"{ENGLISH} "},
    },
    "forced_eos_token_id": 1,
}
GENERATION: dict[str, Any] = {"max_length": 128, "num_beams": 1, "no_repeat_ngram_size": 4, "forced_eos_token_id": 1}


def build(raw: Path, run: Path) -> None:
    """Carry out the recipe, and say in the model's files which prefix a task has and how it writes."""
    from hunmin.train.recipe import run as carry_out

    del raw  # the recipe names its prepared rows
    carry_out(Path(__file__).parent / RECIPE, ["overwrite=true"])
    settle(run)


def settle(run: Path) -> None:
    """Put ``SETTINGS`` and ``GENERATION`` into the files of a model."""
    for name, more in (("config.json", SETTINGS), ("generation_config.json", GENERATION)):
        path = run / name
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**held, **more}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def known(prepared: Path) -> list[dict[str, str]]:
    """All training rows, for the nearest sentence."""
    names = [path for path in sorted(prepared.glob("*.jsonl")) if path.stem != "test"]
    return [row for path in names for row in read_rows(path)]


def measure(folder: Path, prepared: Path) -> Measured:
    """BLEU and chrF on everything that was held out."""
    return translation_scores.scores(folder, prepared, known, without_prefix)


STARTERS = [
    Starter(
        "koen/text2text", "translation", "en-ko", RECIPE, prepare, measure,
        "Translates between Korean and English, says a Korean request as a short phrase, and answers Korean small talk: one encoder-decoder of "
        "7.3 million parameters, trained from nothing.",
        (
            Data("Python 3.13 documentation in Korean", "PSF-2.0", "train: 18,600 pairs of at most 160 letters; test: 1,000 of held-out pages"),
            Data("Tatoeba (manythings.org)", "CC BY 2.0 FR", "train: 3,216 pairs; test: 500"),
            Data("Korean parallel corpora (Park et al. 2016), news", SHARE, "train: 684 pairs of its dev file; test: its test file"),
            Data("Junior High English", SHARE, "train: 713 pairs of its dev file; test: its eval file"),
            Data("sae4k (Cho et al. 2019)", "CC BY-SA 4.0", "train: 28,483 requests and their phrase; test: 1,000 with other phrases"),
            Data("Chatbot_data (songys)", "MIT", "train: 11,310 sentences with a reply; test: 500 other sentences"),
        ),
        failures=FAILURES,
        notes=NOTES,
        base=None,
        line=("A demonstration, no translator: chrF {value} from Korean to English on sentences of every day, twice that on manuals.", "번역기라기보다 시범입니다: 한영 chrF가 일상 문장에서 {value}, 설명서에서는 그 두 배입니다."),
        example=EXAMPLE,
        build=build,
        int8=True,
    ),
]  # fmt: skip
