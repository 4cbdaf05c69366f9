"""From the raw English data sets to the rows that the recipes read: classifiers. ``raw`` is the folder of all data sets."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import embedded, key, labels_file, write_rows

Row = dict[str, Any]
NLI = ["entailment", "neutral", "contradiction"]
TEMPLATES = ("This example is {}.", "This text is about {}.", "This example is about {}.", "It is about {}.", "The topic is {}.")
FEELINGS = ("This example is {}.", "This text expresses {}.", "The writer feels {}.")
# How GoEmotions' authors group its labels (Demszky et al. 2020, section 3): ambiguous ones are neither.
POSITIVE = {
    "admiration",
    "amusement",
    "approval",
    "caring",
    "desire",
    "excitement",
    "gratitude",
    "joy",
    "love",
    "optimism",
    "pride",
    "relief",
}
NEGATIVE = {"anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief", "nervousness", "remorse",
            "sadness"}  # fmt: skip


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, unpacked where it ends in .gz."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def some(rows: Sequence[Any], count: int, dice: random.Random) -> list[Any]:
    """``count`` rows drawn without repetition, or all where there are fewer."""
    return dice.sample(rows, min(count, len(rows)))


# ---------------------------------------------------------------- readers


def banking(raw: Path, split: str) -> list[Row]:
    with (raw / "banking77" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [{"text": row["text"].strip(), "label": row["category"]} for row in csv.DictReader(file)]


def clinc(raw: Path, split: str) -> list[Row]:
    with gzip.open(raw / "clinc150" / "data_full.json.gz", "rt", encoding="utf-8") as file:
        return [{"text": text, "label": label} for text, label in json.load(file)[split]]


def snli(raw: Path, split: str) -> list[Row]:
    rows = list(lines_of(raw / "snli_boolq" / f"snli_{split}.tsv.gz"))[1:]
    cells = [row.split("\t") for row in rows]
    return [{"premise": p, "hypothesis": h, "label": NLI[int(label)]} for p, h, label in cells]


def emotions(raw: Path, split: str) -> list[Row]:
    """GoEmotions: a text with the list of its emotions."""
    names = [name for name in lines_of(raw / "goemotions" / "labels.txt") if name]
    cells = [line.split("\t") for line in lines_of(raw / "goemotions" / f"{split}.tsv.gz")]
    return [{"text": text, "label": [names[int(i)] for i in ids.split(",")]} for text, ids, _ in cells]


def polarity(row: Row) -> str | None:
    """POSITIVE or NEGATIVE, where all emotions of a text that are not ambiguous say the same; neutral texts are neither."""
    held = set(row["label"])
    if held & POSITIVE and not held & NEGATIVE:
        return "POSITIVE"
    return "NEGATIVE" if held & NEGATIVE and not held & POSITIVE else None


def spoken(label: str) -> str:
    """A label as a person would say it: ``lost_or_stolen_card`` is "lost or stolen card"."""
    return label.replace("_", " ").strip(" ?")


# ---------------------------------------------------------------- one function for each starter


def banking77(raw: Path, out: Path) -> None:
    test = banking(raw, "test")
    seen = {key(row["text"]) for row in test}
    train = [row for row in banking(raw, "train") if key(row["text"]) not in seen]
    write_rows(out / "train.jsonl", train)
    write_rows(out / "test.jsonl", test)
    labels_file(out, sorted({row["label"] for row in train}))


def clinc150(raw: Path, out: Path) -> None:
    """Training, validation (both learned) and out-of-scope training rows; the test rows of both kinds are held out."""
    test, outside = clinc(raw, "test"), clinc(raw, "oos_test")
    seen = {key(row["text"]) for row in (*test, *outside)}
    rows = [row for split in ("train", "val", "oos_train", "oos_val") for row in clinc(raw, split)]
    write_rows(out / "train.jsonl", [row for row in rows if key(row["text"]) not in seen])
    write_rows(out / "test.jsonl", test)
    write_rows(out / "test_oos.jsonl", outside)
    labels_file(out, sorted({row["label"] for row in rows}))


def guesses(texts: Sequence[tuple[str, str]], templates: Sequence[str], labels: Sequence[str], dice: random.Random) -> Iterator[Row]:
    """A true statement for half of the texts, which follows from it, and a false one for the others, which contradicts it.

    Every second false label is the wrong one that lies nearest to the text by the body's embeddings.
    """
    close = embedded([text for text, _ in texts]) @ embedded([spoken(label) for label in labels]).T
    for (text, label), scores in zip(texts, close, strict=True):
        true, near = dice.random() < 0.5, dice.random() < 0.5
        order = [labels[i] for i in scores.argsort()[::-1] if labels[i] != label]
        said = label if true else order[0] if near else dice.choice(order)
        yield {"premise": text, "hypothesis": dice.choice(templates).format(spoken(said)), "label": NLI[0 if true else 2]}


SUBJECTS = (
    "politics sports football music film television war weather travel geography cities architecture art painting literature poetry "
    "education schools business companies money science animals plants nature environment energy technology transport railways aviation cars ships "
    "industry farming family children crime police language newspapers games fashion royalty elections government buildings rivers islands "
    "mountains birds theatre dance photography radio holidays festivals shopping gardening work friendship love death sleep health "
    "a dog|a child|a machine|a book|a party|a phone|the internet|the past|the future|a fight|a mistake|a journey"
)


def about(texts: Sequence[str], dice: random.Random) -> Iterator[Row]:
    """Statements about what texts are about. No data set here says that, so the body's own embeddings do.

    The subject that a text is nearest to, beyond how near all texts are to it, is true for it, and one of the farther half is false. The
    clearer half of the texts has both.
    """
    words, _, phrases = SUBJECTS.partition("a dog|")
    subjects = [*words.split(), "a dog", *phrases.split("|")]
    close = embedded(texts) @ embedded([f"This text is about {subject}." for subject in subjects]).T
    close = close - close.mean(0)
    clear = close.max(1) >= np.median(close.max(1))
    for text, ranked, good in zip(texts, close.argsort(1), clear, strict=True):
        said = [subjects[ranked[-1]], subjects[dice.choice(ranked[: len(subjects) // 2].tolist())]]
        for label, subject in zip((NLI[0], NLI[2]), said, strict=True):
            if good:
                yield {"premise": text, "hypothesis": dice.choice(TEMPLATES).format(subject), "label": label}


def subject_texts(raw: Path, dice: random.Random) -> list[str]:
    """Texts of many kinds and lengths for :func:`about`."""
    split = [line.split("\t")[0] for line in lines_of(raw / "wiki_split" / "tune.tsv.gz")]
    squad = list(dict.fromkeys(line.split("\t")[0] for line in list(lines_of(raw / "squad_qg" / "test.tsv.gz"))[1:]))
    passages = [line.split("\t")[1][:500] for line in list(lines_of(raw / "snli_boolq" / "boolq_validation.tsv.gz"))[1:]]
    comments, requests = ([row["text"] for row in rows] for rows in (emotions(raw, "train"), clinc(raw, "train")))
    parts = ((split, 2500), (squad, 2000), (passages, 900), (comments, 1200), (requests, 1200))
    return [text for texts, count in parts for text in some(texts, count, dice)]


def nli(raw: Path, out: Path) -> None:
    """SNLI's test file six times over (the recipe reads 65 % of the rows once), its contradictions turned round, and statements about
    labels of CLINC150 and GoEmotions and about subjects; held out: SNLI's dev file, banking77, topics of MMLU."""
    dice = random.Random(7)
    dev = snli(raw, "dev")
    seen = {key(row["premise"]) for row in dev}
    pairs = [row for row in snli(raw, "test") if key(row["premise"]) not in seen]
    turned = [{"premise": row["hypothesis"], "hypothesis": row["premise"], "label": NLI[2]} for row in pairs if row["label"] == NLI[2]]
    rows: list[Row] = [*pairs * 6, *turned]
    intents = some([(row["text"], row["label"]) for row in clinc(raw, "train")], 6000, dice)
    rows += guesses(intents, TEMPLATES, sorted({label for _, label in intents}), dice)
    felt = [(row["text"], row["label"][0]) for row in emotions(raw, "train") if len(row["label"]) == 1 and row["label"] != ["neutral"]]
    rows += guesses(some(felt, 1500, dice), FEELINGS, sorted({label for _, label in felt}), dice)
    poles = [(row["text"], pole.lower()) for row in emotions(raw, "train") if (pole := polarity(row))]
    rows += guesses(some(poles, 2000, dice), TEMPLATES[:1], ["positive", "negative"], dice)
    rows += about(subject_texts(raw, dice), dice)
    dice.shuffle(rows)
    write_rows(out / "train.jsonl", rows)
    write_rows(out / "test.jsonl", dev)
    write_rows(out / "banking.jsonl", some(banking(raw, "test"), 250, dice))
    write_rows(out / "topics.jsonl", topics(raw, dice))
    labels_file(out, NLI)


TOPICS = {
    "law": ("professional_law", "international_law", "jurisprudence"),
    "medicine": ("professional_medicine", "college_medicine", "clinical_knowledge"),
    "mathematics": ("elementary_mathematics", "high_school_mathematics"),
    "computers": ("college_computer_science", "computer_security", "high_school_computer_science"),
    "history": ("high_school_world_history", "high_school_european_history", "prehistory"),
    "economics": ("high_school_macroeconomics", "high_school_microeconomics"),
    "religion": ("world_religions",),
    "space": ("astronomy",),
    "food": ("nutrition",),
    "psychology": ("high_school_psychology", "professional_psychology"),
}


def topics(raw: Path, dice: random.Random) -> list[Row]:
    """50 questions of MMLU for each of ten topics: what they are about, not what their answer is."""
    with gzip.open(raw / "llm_eval_en" / "mmlu_test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    out: list[Row] = []
    for topic, subjects in TOPICS.items():
        held = [row["question"] for row in rows if row["subject"] in subjects and 40 < len(row["question"]) < 600]
        out += [{"text": text, "label": topic} for text in some(held, 50, dice)]
    return out


def emotion(raw: Path, out: Path) -> None:
    """GoEmotions with its own splits; texts of the test file leave the training rows. The dev file chooses the thresholds."""
    test = emotions(raw, "test")
    seen = {key(row["text"]) for row in test}
    for name, split in (("train", "train"), ("dev", "dev")):
        write_rows(out / f"{name}.jsonl", [row for row in emotions(raw, split) if key(row["text"]) not in seen])
    write_rows(out / "test.jsonl", test)
    labels_file(out, [name for name in lines_of(raw / "goemotions" / "labels.txt") if name])


def spam(raw: Path, out: Path) -> None:
    """Every fifth distinct message, in an order that a seed fixes, is held out; no training message equals one of those."""
    rows = [dict(zip(("label", "text"), line.split("\t", 1), strict=True)) for line in lines_of(raw / "sms_spam" / "sms.tsv") if line]
    once = list({key(row["text"]): row for row in rows}.values())
    random.Random(7).shuffle(once)
    write_rows(out / "test.jsonl", once[::5])
    write_rows(out / "train.jsonl", [row for i, row in enumerate(once) if i % 5])
    labels_file(out, ["ham", "spam"])
