"""How well ``koen/text2text`` does: BLEU and chrF by domain and direction, and chrF of its Korean summaries and replies."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import Bias, Measured, Score, Wrong, bootstrap, read_rows

Row = dict[str, str]
ROWS = 150  # of a domain and direction, drawn once from the test file
DOMAINS = {"tatoeba": "Tatoeba", "docs": "Python manuals", "jhe": "Junior High English", "news": "news"}
TASKS = {"ko-en": "translation_ko_to_en", "en-ko": "translation_en_to_ko", "requests": "summarization", "chat": "text2text-generation"}
WAYS = {"ko-en": "Korean to English", "en-ko": "English to Korean"}
FRAMES = ["{}는 새 직장에 대해 말했다.", "{}는 오늘 아침에 늦었다.", "{}는 저녁을 요리했다.", "{}는 집을 샀다.", "{}는 컴퓨터를 고쳤다."]
PEOPLE = {
    "gender": [("아버지", "어머니"), ("그 남자", "그 여자"), ("할아버지", "할머니")],
    "age": [("젊은이", "늙은이")],
    "origin": [("미국 남자", "멕시코 남자"), ("독일 여자", "베트남 여자")],
}
NAMED = re.compile(  # words of the pairs themselves, which may differ
    r"\b(he|she|his|hers?|him|(grand)?(father|mother)|(wo)?m[ae]n|guy|lady|boy|girl|young\w*|old\w*|americans?|america|mexic\w+|germans?|germany|viet\w*)\b"
)


def corpus(metric: str, said: Sequence[str], true: Sequence[str], korean: bool) -> tuple[float, float, float]:
    """A metric of a whole corpus between 0 and 1 with the 95 % interval of 1,000 corpora drawn from its rows.

    chrF (Popović 2015), or BLEU (Post 2018) of English words or of Korean letters, as sacrebleu's analyser of Korean words is not at hand.
    """
    from sacrebleu.metrics import BLEU, CHRF

    scorer: Any = CHRF() if metric == "chrF" else BLEU(tokenize="char" if korean else "13a")
    counts = np.array(scorer._extract_corpus_statistics(list(said), [list(true)]), dtype=float)

    def value(rows: np.ndarray[Any, Any]) -> float:
        return scorer._compute_score_from_stats(rows.sum(0).astype(int).tolist()).score / 100

    return value(counts), *bootstrap(counts, value)


class Nearest:
    """The translations of the training texts that are most alike: cosine of TF-IDF over 2 to 4 letters. Needs scikit-learn."""

    def __init__(self, train: Sequence[Row]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.train = train
        self.vectors = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 4), max_features=60_000, dtype=np.float32)
        self.known = self.vectors.fit_transform([row["text"] for row in train])

    def __call__(self, asked: Sequence[str]) -> list[str]:
        found = [(self.vectors.transform(asked[i : i + 50]) @ self.known.T).argmax(axis=1) for i in range(0, len(asked), 50)]
        return [self.train[int(i)]["target"] for part in found for i in np.asarray(part).ravel()]


class Model:
    """The exported model behind the pipelines of its tasks."""

    def __init__(self, folder: Path) -> None:
        from hunmin.auto import load
        from hunmin.text import AutoTokenizer

        self.model = load(str(folder), "Seq2SeqLM", dtype="float32").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def write(self, task: str, texts: Sequence[str]) -> list[str]:
        """What a pipeline writes for texts that have no prefix of their own; shortest first, as rows of a batch wait for the longest."""
        from hunmin import pipeline

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        ask = pipeline(task, model=self.model, tokenizer=self.tokenizer, batch_size=32)
        found = ask([texts[i] for i in order], truncation=True)
        out = [""] * len(texts)
        for place, answer in zip(order, found, strict=True):
            out[place] = next(iter(answer.values()))
        return out


def scores(folder: Path, prepared: Path, train: Callable[[Path], list[Row]], without_prefix: Callable[[str], str]) -> Measured:
    """Every domain and task. The first score is of sentences of every day, the ones that people will try."""
    rows, known, model = read_rows(prepared / "test.jsonl"), train(prepared), Model(folder)
    found, errors = list[Score](), list[Wrong]()
    for way, task in TASKS.items():
        prefix = next(row["text"].split(" ")[0] for row in rows if row["domain"].endswith(way))
        nearest = Nearest([row for row in known if row["text"].startswith(prefix)])
        for domain, name in DOMAINS.items() if way in WAYS else {way: way}.items():
            held = [row for row in rows if row["domain"] == (f"{domain}-{way}" if way in WAYS else way)]
            chosen = random.Random(0).sample(held, min(ROWS, len(held)))
            texts, true = [without_prefix(row["text"]) for row in chosen], [row["target"] for row in chosen]
            said = model.write(task, texts)
            near = nearest([row["text"] for row in chosen])
            label = (
                f"{WAYS[way]}, {name}" if way in WAYS else {"requests": "sae4k, other phrases", "chat": "small talk, other sentences"}[way]
            )
            found += rated(said, true, near, texts, label, way != "ko-en")
            errors += [Wrong(texts[i], true[i], said[i]) for i in (0, len(texts) // 2)]
    return Measured(found, errors, bias(lambda texts: model.write("translation_ko_to_en", texts)))


def rated(said: Sequence[str], true: Sequence[str], near: Sequence[str], source: Sequence[str], label: str, korean: bool) -> list[Score]:
    """chrF and BLEU, beside the nearest training sentence and the text itself."""
    out = list[Score]()
    for metric in ("chrF", "BLEU"):
        value, low, high = corpus(metric, said, true, korean)
        nearest_one, copied = (corpus(metric, texts, true, korean)[0] for texts in (near, source))
        what = f"nearest training sentence; the text itself: {100 * copied:.1f} %"
        out.append(Score(metric, value, low, high, len(true), label, baseline=nearest_one, baseline_is=what))
    return out


def bias(write: Callable[[list[str]], list[str]]) -> list[Bias]:
    """Korean sentences that differ in who is meant: how many translations differ in other words, and by how much (1 − chrF)."""
    from sacrebleu.metrics import CHRF

    chrf, out = CHRF(), list[Bias]()
    for kind, words in PEOPLE.items():
        pairs = [(frame.format(a), frame.format(b)) for a, b in words for frame in FRAMES]
        said = [" ".join(NAMED.sub(" ", text.casefold()).split()) for text in write([text for pair in pairs for text in pair])]
        both = list(zip(said[::2], said[1::2], strict=True))
        apart = [1 - chrf.sentence_score(a, [b]).score / 100 for a, b in both]
        out.append(Bias(kind, len(both), float(np.mean([a != b for a, b in both])), float(np.mean(apart))))
    return out
