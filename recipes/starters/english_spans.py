"""What the cards of the English starters for entities, answers, masked words, reranking and grammar say in numbers."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from english_qa import sentences
from english_rows import Row
from english_scores import COSINE, classifier, plain
from english_text import TAGS
from measure import Bias, Measured, Score, Wrong, bootstrap, counted, embedded, mean, opened, probe, read_rows, share, spans

# ---------------------------------------------------------------- entities


EXAMPLES = (
    "My name is Sylvain and I work at Hugging Face in Brooklyn .",
    "Angela Merkel visited Paris with the president of Siemens .",
    "I bought an iPhone and listened to Abbey Road by the Beatles .",
)


def tagger(folder: Path) -> Any:
    """The exported folder as a function from lists of words to lists of tags, each word by its first token."""
    import torch

    model, tokenizer = opened(folder, "token-classification")

    def tag(rows: Sequence[list[str]]) -> list[list[str]]:
        order, out = sorted(range(len(rows)), key=lambda i: len(rows[i])), dict[int, list[str]]()
        for first in range(0, len(order), 64):
            part = order[first : first + 64]
            words = [rows[i] for i in part]
            batch = tokenizer(words, is_split_into_words=True, padding=True, truncation=True, max_length=256, return_tensors="pt")
            with torch.no_grad():
                best = model(**batch).logits.argmax(-1).tolist()
            for j, i in enumerate(part):
                found = ["O"] * len(rows[i])
                for at, word in reversed(list(enumerate(batch.word_ids(j)))):
                    if word is not None:
                        found[word] = TAGS[best[j][at]]
                out[i] = found
        return [out[i] for i in range(len(rows))]

    return tag


def gazetteer(train: Sequence[Row]) -> Any:
    """The baseline: the longest entity of the training rows that begins at a word, with its most frequent kind."""
    kinds: dict[tuple[str, ...], Counter[str]] = {}
    for row in train:
        for a, b, kind in spans(row["tags"]):
            kinds.setdefault(tuple(word.lower() for word in row["words"][a:b]), Counter())[kind] += 1
    known = {words: count.most_common(1)[0][0] for words, count in kinds.items()}

    def tag(rows: Sequence[list[str]]) -> list[list[str]]:
        out: list[list[str]] = []
        for words in rows:
            low, tags, i = [word.lower() for word in words], ["O"] * len(words), 0
            while i < len(words):
                n = next((n for n in range(6, 0, -1) if tuple(low[i : i + n]) in known), 0)
                if n:
                    kind = known[tuple(low[i : i + n])]
                    tags[i : i + n] = [f"B-{kind}"] + [f"I-{kind}"] * (n - 1)
                i += max(1, n)
            out.append(tags)
        return out

    return tag


def entity_counts(said: Sequence[list[str]], rows: Sequence[Row], rename: dict[str, str]) -> list[tuple[int, int, int]]:
    """(right, said, true) entities of every row; kinds are renamed, and those that ``rename`` lacks do not count."""
    out: list[tuple[int, int, int]] = []
    for tags, row in zip(said, rows, strict=True):
        mine, true = ({(a, b, rename[k]) for a, b, k in spans(t) if k in rename} for t in (tags, row["tags"]))
        out.append((len(mine & true), len(mine), len(true)))
    return out


def ner(folder: Path, prepared: Path) -> Measured:
    """F1 of whole entities on WNUT17's six classes, and of people, places and organizations on UNER's web text."""
    tag, train = tagger(folder), read_rows(prepared / "train.jsonl")
    simple, scores, errors = gazetteer(train), list[Score](), list[Wrong]()
    six = {kind: kind for kind in ("PER", "LOC", "ORG", "GROUP", "WORK", "PROD")}
    three = {"PER": "PER", "LOC": "LOC", "ORG": "ORG", "GROUP": "ORG"}
    for name, rename, on, goal in (
        ("test", six, "WNUT17 test, 6 classes", 0.38),
        ("test_uner", three, "UNER English-EWT test: PER, LOC, ORG", None),
    ):
        rows = read_rows(prepared / f"{name}.jsonl")
        said = tag([row["words"] for row in rows])
        base = counted("", entity_counts(simple([row["words"] for row in rows]), rows, rename), "").value
        scores.append(counted("span F1", entity_counts(said, rows, rename), on, goal=goal, baseline=base, baseline_is="known entities"))
        errors += _entity_errors(said, rows)
    words = [text.split() for text in EXAMPLES]
    found = [
        ", ".join(f"{' '.join(row[a:b])} {kind}" for a, b, kind in sorted(spans(tags))) for row, tags in zip(words, tag(words), strict=True)
    ]
    return Measured(scores, errors[:6], _named(tag), list(zip(EXAMPLES, found, strict=True)))


def _entity_errors(said: Sequence[list[str]], rows: Sequence[Row]) -> list[Wrong]:
    out: list[Wrong] = []
    for tags, row in zip(said, rows, strict=True):
        shown = [", ".join(f"{' '.join(row['words'][a:b])} {k}" for a, b, k in sorted(spans(t))) or "–" for t in (row["tags"], tags)]
        if shown[0] != shown[1]:
            out.append(Wrong(" ".join(row["words"]), *shown))
    return random.Random(7).sample(out, 3)


def _named(tag: Any) -> list[Bias]:
    """Whether names of different origin are found as people alike: the answer is PER or not."""
    pairs = {
        "gender (first names)": [("John", "Mary"), ("Michael", "Jennifer"), ("David", "Linda"), ("Robert", "Susan")],
        "origin (first names)": [("Emily", "Lakisha"), ("Greg", "Jamal"), ("Anna", "Fatima"), ("Peter", "Minjun"), ("James", "Oluwaseun")],
    }
    frames = ["{} works at the hospital .", "I met {} in the park .", "My neighbour {} bought a car .", "Yesterday {} called me twice ."]

    def one(texts: list[str]) -> list[tuple[str, float]]:
        rows = [text.split() for text in texts]
        words = {name for both in pairs.values() for pair in both for name in pair}
        found = [
            next(t for t, w in zip(tags, row, strict=True) if w in words)[2:] or "O" for tags, row in zip(tag(rows), rows, strict=True)
        ]
        return [(kind, float(kind == "PER")) for kind in found]

    return probe(one, pairs, frames)


# ---------------------------------------------------------------- answers


def qa(folder: Path, prepared: Path) -> Measured:
    """SQuAD's F1 and exact match on articles of XQuAD that nothing learned from. Baseline: the sentence most like the question, whole."""
    from hunmin.pipelines import pipeline
    from hunmin.train.metrics import squad

    model, tokenizer = opened(folder, "question-answering")
    pipe, rows = pipeline("question-answering", model, tokenizer=tokenizer), read_rows(prepared / "test.jsonl")
    found = pipe([{"question": row["question"], "context": row["context"]} for row in rows])
    said, true = [one["answer"] for one in found], [row["answers"]["text"][0] for row in rows]
    each = [squad([a], [b]) for a, b in zip(said, true, strict=True)]
    scale = 100 if max(one["f1"] for one in each) > 1 else 1
    f1, exact = [one["f1"] / scale for one in each], [one["exact_match"] / scale == 1 for one in each]
    base = [squad([_nearest(row)], [t])["f1"] / scale for row, t in zip(rows, true, strict=True)]
    on = "XQuAD en, held-out articles"
    best: dict[str, Any] = {"baseline": float(np.mean(base)), "baseline_is": "sentence with the most words of the question"}
    errors = [Wrong(row["question"], t, a) for row, t, a, value in zip(rows, true, said, f1, strict=True) if value == 0]
    scores = [mean("F1", f1, on, goal=0.60, **best), share("exact match", exact, on)]
    text = "My name is Sylvain and I work at Hugging Face in Brooklyn."
    questions = ["Where do I work?", "What is my name?", "In which city do I work?"]
    shown = [(f"{text} {one}", pipe(question=one, context=text)["answer"]) for one in questions]
    return Measured(scores, random.Random(7).sample(errors, 5), _asked(pipe), shown)


def _nearest(row: Row) -> str:
    asked = set(row["question"].lower().strip("?").split())
    parts = [row["context"][a:b].strip() for a, b in sentences(row["context"])]
    return max(parts, key=lambda text: len(asked & set(text.lower().split())) / math.sqrt(len(text.split())))


def _asked(pipe: Any) -> list[Bias]:
    """WinoGender-like: who is meant by "he" and "she" in a sentence with two people (the answer should not depend on it)."""
    jobs = [("nurse", "doctor"), ("secretary", "engineer"), ("teacher", "mechanic"), ("librarian", "pilot"), ("cleaner", "manager")]
    frames = [f"The {a} met the {b} because {{}} was late. Who was late?" for a, b in jobs]
    frames += [f"The {b} called the {a} because {{}} had a question. Who had a question?" for a, b in jobs]

    def one(texts: list[str]) -> list[tuple[str, float]]:
        parts = [text.split(". ") for text in texts]
        found = pipe([{"question": question, "context": f"{context}."} for context, question in parts])
        return [(row["answer"], row["score"]) for row in found]

    return probe(one, {"gender (he, she)": [("he", "she")]}, frames)


# ---------------------------------------------------------------- masked words


GAPS = (
    "The capital of France is [MASK].",
    "She opened the [MASK] and walked into the room.",
    "Two dogs are [MASK] in the park.",
    "This course will teach you all about [MASK] models.",
)


def fill_mask(folder: Path, prepared: Path) -> Measured:
    """15 % of the tokens of wikitext-2's test paragraphs, masked once with a fixed seed: is the best word right, and perplexity."""
    import torch

    model, tokenizer = opened(folder, "fill-mask")
    rows = [row["text"] for row in read_rows(prepared / "test.jsonl")]
    ids = [row for row in tokenizer(rows, truncation=True, max_length=128)["input_ids"] if len(row) > 16]
    train = Counter(
        i for row in tokenizer([r["text"] for r in read_rows(prepared / "train.jsonl")][:20_000])["input_ids"] for i in row[1:-1]
    )
    total, common = sum(train.values()) + len(tokenizer), train.most_common(1)[0][0]
    draw, counts, simple = torch.Generator().manual_seed(7), list[tuple[float, float, int]](), list[tuple[float, float]]()
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for first in range(0, len(order), 16):
        part = [torch.tensor(ids[i]) for i in order[first : first + 16]]
        batch = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=tokenizer.pad_token_id)
        inside = torch.stack([(row != tokenizer.pad_token_id) & (row != 101) & (row != 102) for row in batch])
        chosen = (torch.rand(batch.shape, generator=draw) < 0.15) & inside
        with torch.no_grad():
            logits = model(
                batch.masked_fill(chosen, tokenizer.mask_token_id), attention_mask=(batch != tokenizer.pad_token_id).long()
            ).logits
        for j in range(len(batch)):
            wanted = batch[j][chosen[j]]
            chances = logits[j][chosen[j]].float().log_softmax(-1)
            loss = -chances.gather(1, wanted[:, None]).sum().item() if len(wanted) else 0.0
            counts.append((loss, float((chances.argmax(-1) == wanted).sum()), len(wanted)))
            simple.append((-sum(math.log((train[int(i)] + 1) / total) for i in wanted), float((wanted == common).sum())))
    held, base = np.array(counts), np.array(simple)
    masked, on = int(held[:, 2].sum()), "masked tokens of wikitext-2 test"
    ends = bootstrap(held, lambda c: math.exp(c[:, 0].sum() / c[:, 2].sum()))
    marks = np.arange(masked) < held[:, 1].sum()
    value, plain_value = math.exp(held[:, 0].sum() / masked), math.exp(base[:, 0].sum() / masked)
    scores = [
        share("accuracy", marks.tolist(), on, baseline=float(base[:, 1].sum() / masked), baseline_is="the commonest token"),
        Score("perplexity", value, *ends, masked, on, baseline=plain_value, baseline_is="frequencies of tokens", percent=False, down=True),
    ]
    from hunmin.pipelines import pipeline

    pipe = pipeline("fill-mask", model, tokenizer=tokenizer, top_k=3)
    shown = [(text, ", ".join(f"{row['token_str'].strip()} {row['score']:.2f}" for row in pipe(text))) for text in GAPS]
    return Measured(scores, [], _pronouns(pipe), shown)


def _pronouns(pipe: Any) -> list[Bias]:
    """How much likelier "he" than "she" is before a job, between jobs of which the first is held by more men: mean change of the share."""
    pairs = {"gender (jobs)": [("doctor", "nurse"), ("engineer", "teacher"), ("driver", "secretary"), ("pilot", "cleaner")]}

    def one(texts: list[str]) -> list[tuple[str, float]]:
        out: list[tuple[str, float]] = []
        for text in texts:
            by = {row["token_str"].strip(): row["score"] for row in pipe(text, targets=["he", "she"])}
            out.append((max(by, key=lambda word: by[word]), by["he"] / (by["he"] + by["she"])))
        return out

    frames = ["The {} said that [MASK] was tired.", "The {} left early because [MASK] was ill.", "When the {} arrived, [MASK] sat down."]
    return probe(one, pairs, frames)


# ---------------------------------------------------------------- reranking and grammar


def rerank(folder: Path, prepared: Path) -> Measured:
    """MRR of the sentence that holds the answer among its paragraph's sentences, beside MiniLM's embeddings and BM25."""
    answer, rows = classifier(folder), read_rows(prepared / "test.jsonl")
    pairs = [{"text": row["question"], "text_pair": text} for row in rows for text in row["sentences"]]
    ends = np.cumsum([0, *(len(row["sentences"]) for row in rows)])
    flat = np.array([one[0]["score"] for one in answer(pairs)])
    asked, read = embedded([row["question"] for row in rows]), embedded([p["text_pair"] for p in pairs])
    ways = {
        "starter": [flat[a:b] for a, b in itertools.pairwise(ends)],
        "cosine": [read[a:b] @ asked[i] for i, (a, b) in enumerate(itertools.pairwise(ends))],
        "bm25": bm25(rows),
    }
    found = {name: [_rank(s, row["right"]) for s, row in zip(scores, rows, strict=True)] for name, scores in ways.items()}
    on = "XQuAD en, held-out articles: sentences of the paragraph"
    errors = [
        Wrong(row["question"], row["sentences"][row["right"]], row["sentences"][int(s.argmax())])
        for row, s in zip(rows, ways["starter"], strict=True)
        if int(s.argmax()) != row["right"]
    ]
    best: dict[str, Any] = {"baseline": float(np.mean(found["cosine"])), "baseline_is": COSINE}
    first = {name: [value == 1 for value in values] for name, values in found.items()}
    return Measured(
        [
            mean("MRR@10", found["starter"], on, **best),
            share("right sentence first", first["starter"], on, baseline=float(np.mean(first["cosine"])), baseline_is=COSINE),
            mean("MRR@10 of BM25, for comparison", found["bm25"], on),
        ],
        random.Random(7).sample(errors, min(5, len(errors))),
        probe(lambda texts: _relevance(answer, texts)),
    )


def _relevance(answer: Any, texts: list[str]) -> list[tuple[str, float]]:
    """Whether a sentence about a person answers the question about what happened: (yes or no, score)."""
    found = [row[0]["score"] for row in answer([{"text": "Who was it?", "text_pair": text} for text in texts])]
    return [("yes" if score > 0.5 else "no", float(score)) for score in found]


def _rank(scores: Any, right: int) -> float:
    place = 1 + int((scores > scores[right]).sum())
    return 1 / place if place <= 10 else 0.0


def bm25(rows: Sequence[Row], k: float = 1.2, b: float = 0.75) -> list[Any]:
    """BM25 (Robertson & Zaragoza 2009) of every sentence for its question; frequencies of words over all sentences of the test."""
    cut = [[text.lower().replace(",", " ").replace(".", " ").split() for text in row["sentences"]] for row in rows]
    everything = {" ".join(words): words for part in cut for words in part}
    often = Counter(word for words in everything.values() for word in set(words))
    n, usual = len(everything), float(np.mean([len(words) for words in everything.values()]))
    out: list[Any] = []
    for row, part in zip(rows, cut, strict=True):
        asked = row["question"].lower().strip("?").split()
        values = list[float]()
        for words in part:
            held, total = Counter(words), 0.0
            for word in asked:
                rarity = math.log(1 + (n - often[word] + 0.5) / (often[word] + 0.5))
                total += rarity * held[word] * (k + 1) / (held[word] + k * (1 - b + b * len(words) / usual))
            values.append(total)
        out.append(np.array(values))
    return out


def grammar(folder: Path, prepared: Path) -> Measured:
    """Accuracy on sentences of other corpora with the same kinds of mistakes put in, and for each corpus alone."""
    measured, _, said = plain(folder, prepared, "XQuAD's and EWT's sentences, half with a mistake put in", None, "acceptable")
    test = read_rows(prepared / "test.jsonl")
    for name in ("wikipedia", "web"):
        hits = [a == row["label"] for a, row in zip(said, test, strict=True) if row["source"] == name]
        measured.scores.append(share("accuracy", hits, f"of these, {name}"))
    for kind in sorted({row["kind"] for row in test if row["kind"]}):
        hits = [a == row["label"] for a, row in zip(said, test, strict=True) if row["kind"] == kind]
        measured.scores.append(share("mistakes found", hits, kind))
    return measured
