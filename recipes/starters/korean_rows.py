"""From the raw Korean data sets to the rows that the recipes read. ``raw`` is the folder of all data sets; splits are those of ``korean_data``."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import korean_data as ko
import korean_pairs as about
import korean_questions as made
from measure import key, labels_file, write_rows

Row = dict[str, Any]
NLI = ["entailment", "neutral", "contradiction"]
POLARITY = ["NEGATIVE", "POSITIVE"]
TOPICS = ["IT과학", "경제", "사회", "생활문화", "세계", "스포츠", "정치"]
INTENTS = ["fragment", "statement", "question", "command", "rhetorical question", "rhetorical command", "intonation-dependent"]
HATE = ["none", "offensive", "hate"]
ENTITIES = ["PS", "LC", "OG", "DT", "TI", "QT"]  # person, place, organization, date, time, quantity


def split_off(out: Path, train: Sequence[Row], test: Sequence[Row], labels: Sequence[str], *more: Sequence[Row]) -> None:
    """Write both parts, after taking the texts of the test rows (and of ``more``) out of the training rows."""
    seen = {key(row["text"]) for part in (test, *more) for row in part}
    write_rows(out / "train.jsonl", [row for row in train if row["text"].strip() and key(row["text"]) not in seen])
    write_rows(out / "test.jsonl", test)
    labels_file(out, labels)


def sentiment(raw: Path, out: Path) -> None:
    """NSMC with its own files."""
    parts = [ko.table(raw / f"nsmc_rebuilt/ratings_{name}.tsv.gz") for name in ("train", "test")]
    rows = [[{"text": row["document"], "label": POLARITY[int(row["label"])]} for row in part if row.get("label")] for part in parts]
    split_off(out, rows[0], rows[1], POLARITY)


def topic(raw: Path, out: Path) -> None:
    """KLUE-YNAT with its own files."""
    parts = [ko.table(raw / f"klue_ynat/{name}.tsv.gz") for name in ("train", "dev")]
    rows = [[{"text": row["title"], "label": TOPICS[int(row["label"])]} for row in part] for part in parts]
    split_off(out, rows[0], rows[1], TOPICS)


def intent(raw: Path, out: Path) -> None:
    """3i4k with its own files."""
    parts = [ko.table(raw / f"warnikchow_ko/3i4k_{name}.tsv.gz", "label text") for name in ("train_val", "test")]
    rows = [[{"text": row["text"].strip(), "label": INTENTS[int(row["label"])]} for row in part if row.get("text")] for part in parts]
    split_off(out, rows[0], rows[1], INTENTS)


def hate(raw: Path, out: Path) -> None:
    """BEEP! with its own files; APEACH is a second test, of another kind of text."""
    parts = [ko.table(raw / f"korean_hate_speech/beep_{name}.tsv.gz") for name in ("train", "dev")]
    rows = [[{"text": row["comments"], "label": row["hate"]} for row in part if row.get("hate") in HATE] for part in parts]
    apeach = [{"text": row["text"], "label": row["class"]} for row in ko.table(raw / "korean_hate_speech/apeach_test.csv.gz")]
    split_off(out, rows[0], rows[1], HATE, apeach)
    write_rows(out / "apeach.jsonl", apeach)


def entities(raw: Path, out: Path) -> None:
    """KLUE-NER: a tag for every character."""
    for name, test in (("train", False), ("test", True)):
        write_rows(out / f"{name}.jsonl", [{"text": text, "label": tags} for text, tags in ko.ner(raw, test)])
    labels_file(out, ["O", *(f"{mark}-{kind}" for kind in ENTITIES for mark in "BI")])


def nli(raw: Path, out: Path) -> None:
    """KLUE-NLI and KorNLI, and seven times as many statements about subjects; YNAT's dev headlines are the test of those."""
    draw, found = random.Random(7), ko.sources(raw)
    tests = ko.nli(raw, test=True)
    judged: list[about.Pair] = [row for part in ko.nli(raw, test=False).values() for row in part]
    banned = ko.forbidden(raw)
    titles = [row["title"] for row in ko.table(raw / "klue_ynat/train.tsv.gz") if row["title"] not in banned]
    news = [text for name, part in found.items() if "nsmc" not in name and "3i4k" not in name for text in part if 12 <= len(text) <= 120]
    pairs = about.subject_pairs(titles + news, 48000, 1)
    pairs += about.keyword_pairs(titles + news, about.keywords(titles), 12000, 2, kept=0.75)
    reviews = [(row["document"], ("부정적", "긍정적")[int(row["label"])]) for row in ko.table(raw / "nsmc_rebuilt/ratings_train.tsv.gz")]
    reviews = [row for row in reviews if len(row[0]) > 8 and row[0] not in banned]
    pairs += about.label_pairs(reviews, ("이 글은 {}이다.", "글쓴이의 태도는 {}이다.", "This example is {}."), 2000, 3)
    learned = [{"premise": a, "hypothesis": b, "label": label, "judged": n < len(judged)} for n, (a, b, label) in enumerate(judged + pairs)]
    draw.shuffle(learned)
    write_rows(out / "train.jsonl", learned)
    for name, part in tests.items():
        write_rows(out / f"{name}.jsonl", [{"premise": a, "hypothesis": b, "label": label} for a, b, label in part])
    dev = [{"text": row["title"], "label": TOPICS[int(row["label"])]} for row in ko.table(raw / "klue_ynat/dev.tsv.gz")]
    write_rows(out / "topics.jsonl", draw.sample(dev, 3000))
    labels_file(out, NLI)


def questions(raw: Path, test: bool) -> list[Row]:
    """KorQuAD's and KLUE-MRC's questions, split by title; those of KLUE-MRC that have no answer are left out."""
    rows = list[Row]()
    for article in ko.records(raw / "korquad1_dev/KorQuAD_v1.0_dev.json.gz")["data"]:
        for paragraph in article["paragraphs"]:
            if ko.held(article["title"]) == test:
                given = [(qa["question"], qa["answers"]) for qa in paragraph["qas"]]
                rows += [
                    _question(q, paragraph["context"], [one["text"] for one in a], [one["answer_start"] for one in a], "korquad")
                    for q, a in given
                ]
    for row in ko.mrc(raw, test):
        if not row["is_impossible"]:
            rows.append(_question(row["question"], row["context"], row["answers"]["text"], row["answers"]["answer_start"], "klue"))
    return rows


def _question(question: str, context: str, texts: list[str], starts: list[int], of: str) -> Row:
    """A row whose first answer stands where its start says (looked for where it does not)."""
    start = starts[0] if context[starts[0] : starts[0] + len(texts[0])] == texts[0] else context.find(texts[0])
    return {"question": question, "context": context, "answers": {"text": texts[:1], "answer_start": [start]}, "all": texts, "of": of}


def cropped(row: Row, letters: int, draw: random.Random) -> Row:
    """A row whose context is at most ``letters`` long, from the beginning of a word, the answer somewhere inside."""
    context, answer = row["context"], row["answers"]["text"][0]
    start = row["answers"]["answer_start"][0]
    first = max(0, min(start, len(context) - letters, start - draw.randrange(max(1, letters - len(answer)))))
    first = context.rfind(" ", 0, first + 1) + 1
    part = context[first : max(first + letters, start + len(answer))]
    return row | {"context": part, "answers": {"text": [answer], "answer_start": [start - first]}}


def without(row: Row, letters: int, draw: random.Random) -> Iterator[Row]:
    """A row with another part of the context, where the answer does not stand; nothing where there is none."""
    context, answer = row["context"], row["answers"]["text"][0]
    places = [m.end() for m in re.finditer(r"^|\s", context) if len(context) - m.end() > letters // 3]
    parts = [part for at in places if answer not in (part := context[at : at + letters])]
    if parts:
        yield row | {"context": draw.choice(parts), "answers": {"text": [], "answer_start": []}}


def qa(raw: Path, out: Path) -> None:
    """Whole contexts to test; to train parts of them that the reader has in one window, with the answer and without.

    Rows are in the order in which they are learned: words to find again first, then what is missing among words and questions made by rules,
    last the labelled questions, with some of the easier kinds.
    """
    draw, learned, test = random.Random(7), questions(raw, False), questions(raw, True)
    held = "\n".join({row["context"] for row in test})
    sentences = [row for row in made.entities(raw) if row[0] not in held]
    over = list(made.among(sentences, draw)) + list(made.within(sorted({row["context"] for row in learned}), 20, draw))
    draw.shuffle(over)

    def parts(rows: Iterable[Row], least: int, most: int) -> list[Row]:
        return [cropped(row, draw.randint(least, most), draw) for row in rows]

    def none(rows: Iterable[Row]) -> list[Row]:
        return [one for row in rows for one in without(row, draw.randint(100, 200), draw)]

    half = len(over) // 2
    stages = [
        parts(made.found(sentences, 4000, draw), 50, 100),
        parts(made.found(sentences, 3000, draw), 100, 200) + parts(made.gaps(sentences, 8000, draw), 100, 200),
        parts(over[:half], 100, 200)
        + none(over[: half // 4])
        + parts(made.gaps(sentences, 3000, draw), 150, 200)
        + parts(learned, 100, 200),
        parts(over[half:], 100, 200) + none(over[half : half + half // 2]) + parts(learned * 3, 100, 200) + none(learned * 2),
        parts(learned * 2, 120, 200) + none(learned * 3),
    ]
    for stage in stages[1:]:
        draw.shuffle(stage)
    rows = [{name: row[name] for name in ("question", "context", "answers")} for stage in stages for row in stage]
    write_rows(out / "train.jsonl", [row for row in rows if len(row["question"]) <= 80])  # a longer one leaves no room in a window
    write_rows(out / "test.jsonl", test)


def listed(row: Row) -> Row | None:
    """A question with its text's sentences and the number of the one that holds the answer; None where there is one sentence."""
    places = [m.span() for m in re.finditer(r"\S.*?(?:[.?!](?=\s)|$)", row["context"], re.M)]
    start = row["answers"]["answer_start"][0]
    right = next((i for i, (a, b) in enumerate(places) if a <= start < b), None)
    if right is None or len(places) < 2:
        return None
    return {"question": row["question"], "sentences": [row["context"][a:b] for a, b in places], "right": right}


def similarity(raw: Path, out: Path) -> None:
    """Pairs with the cosine that they should have: scored pairs, paraphrases, questions and statements that follow or not.

    Beside the pairs of the test: the questions of ``qa``'s test with the sentences of their text, to put in order.
    """
    write_rows(out / "rerank.jsonl", [row for one in questions(raw, True) if (row := listed(one)) is not None])
    draw, rows = random.Random(7), list[tuple[str, str, float]]()
    tests = ko.sts(raw, test=True)
    rows += [(a, b, score / 5) for part in ko.sts(raw, test=False).values() for a, b, score in part] * 2
    clusters = [row["text"] for row in ko.table(raw / "warnikchow_ko/paraKQC_v1.tsv.gz", "topic act text")]
    for at in range(0, len(clusters) - 10, 10):
        same = draw.sample(clusters[at : at + 10], 4)
        rows += [(same[0], same[1], 0.9), (same[2], same[3], 0.9), (same[0], draw.choice(clusters), 0.1)]
    for row in ko.table(raw / "songys_question_pair/kor_pair_train.csv"):  # 0: the same
        rows.append((row["question1"], row["question2"], 0.85 if row["is_duplicate"] == "0" else 0.4))
    for name in ("dev_2k", "test_2k"):
        found = ko.table(raw / f"pawsx_ko/{name}.tsv.gz")
        rows += [(row["sentence1"], row["sentence2"], 0.9 if row["label"] == "1" else 0.6) for row in found if row.get("label")]
    cosine = {"entailment": 0.75, "neutral": 0.45, "contradiction": 0.3}
    rows += [(a, b, cosine[label]) for part in ko.nli(raw, test=False).values() for a, b, label in part]
    seen = {key(text) for part in tests.values() for row in part for text in row[:2]}
    rows = [row for row in rows if row[0] and row[1] and key(row[0]) not in seen and key(row[1]) not in seen]
    draw.shuffle(rows)
    write_rows(out / "train.jsonl", [{"text": a, "pair": b, "label": round(value, 3)} for a, b, value in rows])
    for name, part in tests.items():
        write_rows(out / f"{name}.jsonl", [{"text": a, "pair": b, "label": value} for a, b, value in part])
