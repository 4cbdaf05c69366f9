"""From the raw English data sets to rows: entities, masked text, reranking, grammar, and sentiment with its written sentences."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from english_rows import Row, emotions, lines_of, polarity
from measure import key, labels_file, write_rows

# ---------------------------------------------------------------- entities

# WNUT17's six classes keep their identity, under short names; the organizations of Wikigold and UNER join the corporations, whose place
# they take in edited text, and what Wikigold calls MISC stays a class of its own, which WNUT17's scores leave out.
WNUT = {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "GROUP", "creative-work": "WORK", "product": "PROD"}
KINDS = ("PER", "LOC", "ORG", "GROUP", "WORK", "PROD", "MISC")
TAGS = ["O", *(f"{mark}-{kind}" for kind in KINDS for mark in "BI")]


def tagged(path: Path, word: int = 0, tag: int = 1, separator: str | None = "\t") -> Iterator[tuple[list[str], list[str]]]:
    """Sentences of a file with a word and a tag a line and empty lines between sentences; lines that begin with "# " are remarks."""
    words, tags = list[str](), list[str]()
    for line in [*lines_of(path), ""]:
        cells = line.split(separator)
        if line.startswith("# ") and len(cells) < 3:
            continue
        if len(cells) <= max(word, tag) or not cells[word].strip():
            if words:
                yield words, tags
            words, tags = [], []
            continue
        words.append(cells[word].strip())
        tags.append(cells[tag].strip())


def begun(tags: Sequence[str]) -> list[str]:
    """IOB1 tags as IOB2: an entity's first word is B-."""
    return [f"B{tag[1:]}" if tag[0] == "I" and (i == 0 or tags[i - 1][1:] != tag[1:]) else tag for i, tag in enumerate(tags)]


def wnut(raw: Path, name: str) -> list[Row]:
    rows = tagged(raw / "ner_en" / name)
    return [{"words": w, "tags": [t if t == "O" else f"{t[0]}-{WNUT[t[2:]]}" for t in tags]} for w, tags in rows]


def uner(raw: Path, split: str) -> list[Row]:
    """UNER's English-EWT: PER, LOC, ORG; the first column is the number of the word."""
    rows = tagged(raw / "ner_en" / f"uner_en_ewt_{split}.iob2.gz", 1, 2)
    return [{"words": w, "tags": [t if t[2:] in ("PER", "LOC", "ORG") else "O" for t in tags]} for w, tags in rows]


def ner(raw: Path, out: Path) -> None:
    """WNUT17 (train and dev), Wikigold and UNER's dev file; WNUT17's test file and UNER's are held out."""
    gold = tagged(raw / "ner_en" / "wikigold.conll.txt", separator=None)
    rows = wnut(raw, "wnut17train.conll") + wnut(raw, "emerging.dev.conll") + uner(raw, "dev")
    rows += [{"words": w, "tags": begun(tags)} for w, tags in gold if w != ["-DOCSTART-"]]
    test, formal = wnut(raw, "emerging.test.annotated"), uner(raw, "test")
    seen = {key("".join(row["words"])) for row in (*test, *formal)}
    rows = [row for row in rows if key("".join(row["words"])) not in seen]
    write_rows(out / "train.jsonl", rows)
    write_rows(out / "test.jsonl", test)
    write_rows(out / "test_uner.jsonl", formal)
    labels_file(out, TAGS)


# ---------------------------------------------------------------- masked text


def plain(line: str) -> str:
    """Tokenized text (wikitext-2, wiki_split) as people write it."""
    line = line.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".").replace(" - ", "-")
    line = re.sub(r" ([,.;:?!%)\]])", r"\1", line)
    line = re.sub(r"([(\[$]) ", r"\1", line)
    return re.sub(r"\s+", " ", re.sub(r" ('s|n't|'re|'ve|'ll|'m)\b", r"\1", line).replace("''", '"')).strip()


def wikitext(raw: Path, split: str) -> list[str]:
    """Runs of sentences without headings and without sentences in which words were left out."""
    out = list[str]()
    for line in lines_of(raw / "wikitext2_valid_test" / f"{split}.txt.gz"):
        if line.strip().startswith("="):
            continue
        run = list[str]()
        for sentence in [*line.strip().split(" . "), "<unk>"]:
            if "<unk>" not in sentence:
                run.append(sentence.removesuffix(" ."))
                continue
            text = " . ".join(run)
            out += [plain(f"{text} .")] if len(text) > 60 else []
            run = []
    return out


def fill_mask(raw: Path, out: Path) -> None:
    """Text of wikitext-2 (valid), wiki_split, TinyStories and SNLI; sentences of wikitext-2 (test) are held out."""
    texts = wikitext(raw, "valid")
    for name in ("tune", "validation", "test"):
        texts += [plain(line.split("\t")[0]) for line in lines_of(raw / "wiki_split" / f"{name}.tsv.gz")]
    stories = "\n".join(lines_of(raw / "tinystories_sample" / "tinystories.txt"))
    texts += [" ".join(part.split()) for part in re.split(r"<\|endoftext\|>|\n\s*\n", stories) if len(part) > 80]
    texts += [line.split("\t")[0] for line in list(lines_of(raw / "snli_boolq" / "snli_test.tsv.gz"))[1::3]]
    held = wikitext(raw, "test")
    seen = {key(text) for text in held}
    texts = [text for text in dict.fromkeys(texts) if key(text) not in seen]
    random.Random(7).shuffle(texts)
    write_rows(out / "train.jsonl", ({"text": text} for text in texts))
    write_rows(out / "test.jsonl", ({"text": text} for text in held))


# ---------------------------------------------------------------- sentiment

GOOD = (
    "wonderful",
    "great",
    "excellent",
    "brilliant",
    "lovely",
    "superb",
    "delicious",
    "charming",
    "fantastic",
    "fun",
    "comfortable",
    "helpful",
)
BAD = ("terrible", "awful", "boring", "dull", "horrible", "disappointing", "bad", "rude", "slow", "dirty", "useless", "broken")
THINGS = ("film", "movie", "book", "hotel", "room", "food", "service", "story", "acting", "phone", "restaurant", "music", "game", "teacher",
          "battery", "staff", "plot", "ending", "course", "app")  # fmt: skip
FRAMES = ("The {thing} was {word}.", "What a {word} {thing}!", "I found the {thing} {word}.", "A truly {word} {thing}.",
          "We thought the {thing} was really {word}.", "The {thing} is {word} and I would say so again.")  # fmt: skip
TURNED = ("The {thing} was not {word}.", "The {thing} isn't {word} at all.", "I would not call the {thing} {word}.")


def written(dice: random.Random, count: int) -> Iterator[Row]:
    """Short sentences of reviews made from templates: GoEmotions has few of them. A quarter is negated."""
    for _ in range(count):
        good, turned = dice.random() < 0.5, dice.random() < 0.25
        text = dice.choice(TURNED if turned else FRAMES).format(thing=dice.choice(THINGS), word=dice.choice(GOOD if good else BAD))
        yield {"text": text, "label": "POSITIVE" if good != turned else "NEGATIVE"}


def sentiment(raw: Path, out: Path) -> None:
    """GoEmotions with its emotions read as polarity, and 2,000 sentences from templates. Held out: GoEmotions' test file, and sentences of
    reviews written for this purpose (``sentiment_reviews.tsv``)."""
    dice = random.Random(7)
    test = [{"text": row["text"], "label": pole} for row in emotions(raw, "test") if (pole := polarity(row))]
    reviews = [
        dict(zip(("label", "text"), line.split("\t"), strict=True)) for line in lines_of(Path(__file__).with_name("sentiment_reviews.tsv"))
    ]
    seen = {key(row["text"]) for row in (*test, *reviews)}
    rows: list[Row] = [
        {"text": row["text"], "label": pole} for row in emotions(raw, "train") + emotions(raw, "dev") if (pole := polarity(row))
    ]
    rows = [row for row in (*rows, *written(dice, 2000)) if key(row["text"]) not in seen]
    dice.shuffle(rows)
    write_rows(out / "train.jsonl", rows)
    write_rows(out / "test.jsonl", test)
    write_rows(out / "reviews.jsonl", reviews)
    labels_file(out, ["NEGATIVE", "POSITIVE"])


# ---------------------------------------------------------------- reranking


def rerank(raw: Path, out: Path) -> None:
    """A question of squad_qg with the sentence that answers it (1) and with two that stand near it in the file (0); XQuAD's held-out
    articles are the test: a question and the sentences of its paragraph."""
    from english_qa import articles, unmarked

    dice = random.Random(7)
    learned, test = articles(raw)
    held = unmarked(raw, learned, test)
    order = list(dict.fromkeys(row["sentence"] for row in held))
    at = {sentence: i for i, sentence in enumerate(order)}
    rows: list[Row] = []
    for row in dice.sample(held, min(4000, len(held))):
        i = at[row["sentence"]]
        near = [order[j] for j in range(max(0, i - 6), min(len(order), i + 7)) if j != i]
        rows.append({"question": row["question"], "sentence": row["sentence"], "label": ["relevant"]})
        rows += [{"question": row["question"], "sentence": other, "label": []} for other in dice.sample(near, min(2, len(near)))]
    dice.shuffle(rows)
    write_rows(out / "train.jsonl", rows)
    write_rows(out / "test.jsonl", listed(test))
    labels_file(out, ["relevant"])


def listed(test: Sequence[Row]) -> Iterator[Row]:
    """Questions with their paragraph's sentences and the number of the one that holds the answer; paragraphs of one sentence are out."""
    from english_qa import sentences

    for row in test:
        places, start = sentences(row["context"]), row["answers"]["answer_start"][0]
        right = next(i for i, (a, b) in enumerate(places) if a <= start < b)
        if len(places) > 1:
            yield {"question": row["question"], "sentences": [row["context"][a:b].strip() for a, b in places], "right": right}


# ---------------------------------------------------------------- grammar

AGREE = {"is": "are", "are": "is", "was": "were", "were": "was", "has": "have", "have": "has", "does": "do", "do": "does"}
VERBS = {*AGREE, "can", "will", "would", "could", "should", "did", "had", "be", "been"}
SMALL = {"the", "a", "an", "to", "of", "in", "at", "for", "with", "on"}


def corrupted(sentence: str, dice: random.Random) -> tuple[str, str] | None:
    """A sentence with one mistake and the kind of it, or None where no mistake can be put in surely."""
    words = sentence.split()
    ways = {
        "agreement": [i for i, w in enumerate(words) if w in AGREE],
        "missing verb": [i for i, w in enumerate(words) if w in VERBS],
        "missing word": [i for i, w in enumerate(words) if w in ("the", "a", "an", "to", "of") and 0 < i < len(words) - 1],
        "order": [i for i in range(1, len(words) - 2) if words[i] in SMALL and words[i + 1].isalpha() and words[i + 1] not in SMALL],
        "article": [i for i, w in enumerate(words[:-1]) if w in ("a", "an")],
        "verb form": [i + 1 for i, w in enumerate(words[:-1]) if w in ("is", "are", "was", "were") and words[i + 1].endswith("ing")],
    }
    kinds = [kind for kind, places in ways.items() if places]
    if len(words) < 4 or not kinds:
        return None
    kind = dice.choice(kinds)
    i = dice.choice(ways[kind])
    match kind:
        case "agreement":
            words[i] = AGREE[words[i]]
        case "missing verb" | "missing word":
            del words[i]
        case "order":
            words[i], words[i + 1] = words[i + 1], words[i]
        case "article":
            words[i] = "an" if words[i] == "a" else "a"
        case _:
            words[i] = words[i].removesuffix("ing")
    return " ".join(words), kind


def judged(texts: Sequence[str], dice: random.Random) -> Iterator[Row]:
    """Every sentence once: as it is, or with a mistake."""
    for text in texts:
        wrong = corrupted(text, dice)
        if wrong is None:
            continue
        if dice.random() < 0.5:
            yield {"text": text, "label": "acceptable", "kind": ""}
        else:
            yield {"text": wrong[0], "label": "unacceptable", "kind": wrong[1]}


def ewt(raw: Path, split: str) -> list[str]:
    """The sentences of UD English-EWT as they were written."""
    lines = lines_of(raw / "ud_english_ewt" / f"en_ewt-ud-{split}.conllu.gz")
    texts = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
    return [text for text in texts if text[:1].isupper() and text[-1:] in ".?!"]


def grammar(raw: Path, out: Path) -> None:
    """Sentences of wiki_split, SNLI and EWT's dev file, half with a mistake put in; XQuAD's and EWT's test sentences are held out."""
    from english_qa import articles, sentences

    dice = random.Random(7)
    split = [plain(line.split("\t")[1].split("<::::>")[0]) for line in lines_of(raw / "wiki_split" / "tune.tsv.gz")]
    pairs = list(lines_of(raw / "snli_boolq" / "snli_test.tsv.gz"))[1:]
    snli = list(dict.fromkeys(line.split("\t")[0] for line in pairs)) + dice.sample([line.split("\t")[1] for line in pairs], 3000)
    texts = [text for text in dict.fromkeys([*dice.sample(split, 4000), *snli, *ewt(raw, "dev")]) if len(text.split()) < 40]
    wiki = {row["context"]: 0 for part in articles(raw) for row in part}
    held = {"wikipedia": [t[a:b].strip() for t in wiki for a, b in sentences(t)], "web": ewt(raw, "test")}
    rows = list(judged(texts, dice))
    dice.shuffle(rows)
    test = [row | {"source": name} for name, part in held.items() for row in judged([t for t in part if len(t.split()) < 40], dice)]
    seen = {key(row["text"]) for row in test}
    write_rows(out / "train.jsonl", [row for row in rows if key(row["text"]) not in seen])
    write_rows(out / "test.jsonl", test)
    labels_file(out, ["unacceptable", "acceptable"])
