"""The Korean starters' data: who is tested on what, labels of characters, statements about subjects. Nothing is trained here."""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[1] / "recipes" / "starters"
sys.path.insert(0, str(RECIPES))
ko = pytest.importorskip("korean_data")
about = pytest.importorskip("korean_pairs")
scores = pytest.importorskip("korean_scores")
others = pytest.importorskip("korean_answers")
rows = pytest.importorskip("korean_rows")
made = pytest.importorskip("korean_questions")
talk = pytest.importorskip("korean_chat")


def packed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode("utf-8")))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with a few rows of the data sets that are split by title or sentence."""
    articles = [
        {"title": f"제목 {i}", "paragraphs": [{"context": f"{i}년에 서울에서 열렸다.", "qas": [
            {"id": str(i), "question": f"{i}번은 어디에서 열렸나?", "answers": [{"text": "서울", "answer_start": 99}]}]}]}
        for i in range(40)
    ]  # fmt: skip
    packed(tmp_path / "korquad1_dev/KorQuAD_v1.0_dev.json.gz", json.dumps({"data": articles}, ensure_ascii=False))
    mrc = [
        {"title": f"기사 {i // 2}", "context": "문단이다.", "question": f"질문 {i}?", "is_impossible": i % 3 == 0,
         "answers": {"text": ["문단"], "answer_start": [0]}}
        for i in range(40)
    ]  # fmt: skip
    packed(tmp_path / "klue_mrc_dev_part/dev_1350.jsonl.gz", "\n".join(json.dumps(row, ensure_ascii=False) for row in mrc))
    sentence = "## klue-ner-v1_dev_0{i}\t<서울:LC>에 {i}명\n서\tB-LC\n울\tI-LC\n에\tO\n \tO\n{i}\tB-QT\n명\tI-QT\n"
    packed(tmp_path / ko.NER[0], "\n".join(sentence.replace("{i}", str(i)) for i in range(9)))
    packed(tmp_path / ko.NER[1], "\n".join(sentence.replace("{i}", str(i)) for i in range(5)))
    found = "s0\t홍길동은 서울에서 태어났다.\t홍길동\tPER\t서울\tLOC\t0\ns1\t회사는 2001년에 세워졌다.\t회사\tORG\t없음\tDAT\t0\n"
    packed(tmp_path / "klue_re_dev/dev.tsv.gz", "guid\tsentence\tsubject\tsubject_type\tobject\tobject_type\tlabel\n" + found)
    return tmp_path


def test_titles_are_on_one_side(raw: Path) -> None:
    train, test = rows.questions(raw, False), rows.questions(raw, True)
    assert train and test and len(train) + len(test) == 40 + sum(i % 3 != 0 for i in range(40))
    assert not {row["context"] for row in train if row["of"] == "korquad"} & {row["context"] for row in test}
    assert all(row["context"][row["answers"]["answer_start"][0] :].startswith(row["answers"]["text"][0]) for row in train + test)
    kept, held = ({row["title"] for row in ko.mrc(raw, test)} for test in (False, True))
    assert kept and held and not kept & held


def test_contexts_are_cropped_around_answers() -> None:
    context = " ".join(f"낱말{i}" for i in range(200))
    for seed in range(50):
        start = random.Random(seed).randrange(len(context) - 5)
        row = {"question": "?", "context": context, "answers": {"text": [context[start : start + 5]], "answer_start": [start]}}
        found = rows.cropped(row, 80, random.Random(seed))
        at = found["answers"]["answer_start"][0]
        assert found["context"][at : at + 5] == context[start : start + 5] and len(found["context"]) <= 100


def test_a_part_without_the_answer() -> None:
    row = {"question": "?", "context": " ".join(f"낱말{i}" for i in range(60)), "answers": {"text": ["낱말30"], "answer_start": [0]}}
    for seed in range(20):
        (found,) = rows.without(row, 60, random.Random(seed))
        assert found["context"] in row["context"] and "낱말30" not in found["context"] and found["answers"]["text"] == []
    assert not list(rows.without(row | {"context": "낱말30"}, 60, random.Random(1)))


def test_the_sentence_with_the_answer() -> None:
    context = "서울은 3.5배 크다. 부산은 바다에 있다!\n대구는 덥다."
    row = {"question": "바다에 있는 곳은?", "context": context, "answers": {"text": ["부산"], "answer_start": [context.index("부산")]}}
    found = rows.listed(row)
    assert found["sentences"] == ["서울은 3.5배 크다.", "부산은 바다에 있다!", "대구는 덥다."] and found["right"] == 1
    assert rows.listed(row | {"context": "부산은 바다에 있다.", "answers": {"text": ["부산"], "answer_start": [0]}}) is None


def test_letters_that_were_seen_cost_fewer_bits() -> None:
    train = ["좋은 하루 되세요.", "좋은 꿈 꾸세요."] * 3
    seen, near, far = talk.letters(train, ["좋은 하루 되세요.", "좋은 꿈 되세요.", "훏쀍먂"])
    assert 0 < seen < near < far and far > 3 * 10


def test_a_tag_for_every_character(raw: Path) -> None:
    train, test = ko.ner(raw, False), ko.ner(raw, True)
    assert not {text for text, _ in train} & {text for text, _ in test}
    assert (("서울에 1명", ["B-LC", "I-LC", "O", "O", "B-QT", "I-QT"])) in train + test
    assert all(len(text) == len(tags) for text, tags in train + test)


def test_tags_come_back_from_groups() -> None:
    tags = ["B-LC", "I-LC", "O", "O", "B-QT", "I-QT"]
    groups = [{"start": a, "end": b, "entity_group": kind} for a, b, kind in scores.spans(tags)]
    assert scores.character_tags(groups, 6) == tags
    letters, whole = scores.tag_scores([tags], [tags], ["O", "B-LC", "I-LC", "B-QT", "I-QT"])
    assert scores.macro_of(letters) == scores.macro_of(whole) == 1.0
    train = [{"text": "서울에 가다", "label": ["B-LC", "I-LC", "O", "O", "O", "O"]}]
    assert scores.dictionary(train, ["나는 서울로"]) == [["O", "O", "O", "B-LC", "I-LC", "O"]]


def test_recipes_read_tags_of_characters(tokenizer: Any) -> None:
    from hunmin.train.recipe.encode import Work, tags
    from hunmin.train.recipe.schema import DataPart, Stage

    stage = Stage.__new__(Stage)
    object.__setattr__(stage, "data", DataPart(text="text", label="label"))
    work = Work(stage, tokenizer, 32, ["O", "B-LC", "I-LC"])
    found = tags({"text": ["서울에 가"], "label": [["B-LC", "I-LC", "O", "O", "O"]]}, [0], work)
    pieces = tokenizer.convert_ids_to_tokens(found["input_ids"][0])
    assert dict(zip(pieces, found["labels"][0], strict=True)) == {"[CLS]": -100, "서": 1, "##울": 2, "##에": 0, "가": 0, "[SEP]": -100}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    from hunmin import AutoTokenizer

    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "서", "##울", "##에", "가"]), encoding="utf-8"
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}', encoding="utf-8")
    return AutoTokenizer.from_pretrained(tmp_path)


def test_keywords_are_cut_out_and_others_are_false() -> None:
    titles = ["금리 인하에 증시 상승", "금리 동결 전망", "축구 대표팀 승리", "축구 결승 진출한 서울"] * 3
    words = about.keywords(titles, least=6)
    assert set(words) == {"금리", "축구"}  # frequent, and no ending of a verb or particle
    pairs = about.keyword_pairs(titles, words, 60, seed=1)
    assert {label for *_, label in pairs} == {"entailment", "contradiction"}
    for text, said, label in pairs:
        assert not about.found_in(text, words)  # the word itself is gone
        true = "금리" if "증시" in text or "동결" in text else "축구"
        assert (true in said) == (label == "entailment")
    assert pairs == about.keyword_pairs(titles, words, 60, seed=1)


def test_subjects_are_told_apart() -> None:
    texts = ["축구 대표팀이 크게 이겼다", "국회 본회의가 내일 열린다", "비가 많이 온다고 한다"]
    pairs = about.subject_pairs(texts, 200, seed=1)
    assert len(pairs) > 10 and all("비가" not in text for text, *_ in pairs)
    for text, said, label in pairs:
        if "대표팀이" in text and label == "contradiction":
            assert "스포츠" not in said
    assert about.without("‘축구’ 대표팀 축구화", "축구") == "대표팀"


def test_answers_are_compared_by_letters() -> None:
    assert others.letter_f1("서울", "서울") == 1.0 and others.letter_f1("‘서울’", "서울") == 1.0
    assert others.letter_f1("서울에서", "서울") == pytest.approx(2 / 3)
    assert others.letter_f1("", "서울") == 0.0
    assert others.closest_sentence("누가 왔나?", "철수가 왔다. 영희는 갔다.") == "철수가 왔다."


def test_words_are_masked_whole() -> None:
    body = pytest.importorskip("ko_body")
    ids, words = [2, 5, 6, 7, 8, 3], [None, 0, 0, 1, 2, None]
    for seed in range(9):
        hidden, places = body.masked(ids, words, 4, random.Random(seed))
        assert places in ([1, 2], [3], [4]) and all(hidden[i] == (4 if i in places else ids[i]) for i in range(6))
    assert body.joined([[7, 7], [8, 8], [9]], 6, 2, 3) == [[2, 7, 7, 8, 8, 3], [2, 9, 3]]


def test_held_out_rows_leave_the_training_rows(tmp_path: Path) -> None:
    rows.split_off(
        tmp_path, [{"text": "같은 글", "label": "a"}, {"text": "다른 글", "label": "b"}], [{"text": "같은  글", "label": "a"}], ["a", "b"]
    )
    assert [json.loads(line)["text"] for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()] == ["다른 글"]


# ---------------------------------------------------------------- questions made by rules

SENTENCE = "김민수 감독은 2019년 3월 부산에서 열린 영화제에서 관객 300명에게 처음으로 새 작품을 공개했다."


def test_answers_of_known_kinds(raw: Path) -> None:
    kinds = {text[a:b]: kind for text, spans in made.entities(raw) for a, b, kind in spans}
    assert kinds.items() >= {"서울": "LC", "홍길동": "PS", "회사": "OG"}.items()
    assert "없음" not in kinds and any(kind == "QT" and word.endswith("명") for word, kind in kinds.items())
    spans = {SENTENCE[a:b]: kind for a, b, kind in made.guessed(SENTENCE, random.Random(1))}
    assert spans["2019년 3월"] == "DT" and spans["300명"] == "QT"


@pytest.mark.parametrize(("answer", "kind", "asks"), [("김민수", "PS", "누구|누가|사람|인물"), ("부산", "LC", "어디|곳|장소|지역|도시|나라"),
                                                      ("300명", "QT", "몇 명|수는|얼마"), ("2019년 3월", "DT", "언제|때|날|해|연도|시기")])  # fmt: skip
def test_a_question_asks_for_its_answer_and_does_not_hold_it(answer: str, kind: str, asks: str) -> None:
    start = SENTENCE.index(answer)
    for seed in range(40):
        question = made.asked(SENTENCE, (start, start + len(answer), kind), random.Random(seed))
        if question is not None:
            assert answer not in question and question.endswith("?") and re.search(asks, question), question
    assert made.asked("서울 부산", (0, 2, "LC"), random.Random(1)) is None  # nothing is left to ask with


def test_answers_stand_where_made_rows_say(raw: Path) -> None:
    draw = random.Random(3)
    found = [*made.among([(SENTENCE, made.guessed(SENTENCE, draw))] * 9, draw), *made.within([f"{SENTENCE} {SENTENCE}"], 2, draw)]
    assert len(found) == 20 and len({row["context"] for row in found}) > 3
    for row in found:
        start, answer = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        assert row["context"][start : start + len(answer)] == answer
