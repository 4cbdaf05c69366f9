"""The Korean starters: one small encoder, and an adapter on it for every task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ko_body
import korean_answers as others
import korean_chat as talk
import korean_rows as rows
import korean_scores as scores
from card import Data, Starter

SHARE = "CC BY-SA 4.0"
YNAT, NSMC = "KLUE-YNAT (Park et al. 2021)", "NSMC"
SEEN = (
    "The first pre-training of the body (`examples/ynat.py`) read the unlabelled text of nearly all Korean data sets, test rows included; the second "
    "(`ko/body`) left the test rows out. Labels were never among them."
)
WITHOUT_HEADLINES = SEEN.replace("test rows included", "test rows included, but not YNAT's dev headlines")


def example(task: str, *lines: str, model: str = "starter-ko") -> str:
    """Python lines for the card: the pipeline of a task, and calls with what they answered. ``model``: where it is not that of the task."""
    return "\n".join(["from hunmin import pipeline", "", f'answer = pipeline("{task}", model="{model}")', *lines])


def adapter(
    name: str,
    task: str,
    prepare: Callable[[Path, Path], None],
    measure: Callable[[Path, Path], Any],
    summary: str,
    *data: Data,
    **more: Any,
) -> Starter:
    """A starter on the Korean body."""
    more.setdefault("notes", (SEEN,))
    return Starter(f"ko/{name}", task, "ko", f"ko-{name}.yaml", prepare, measure, summary, data, base="../body", **more)


BODY = Starter(
    "ko/body", "fill-mask", "ko", "ko_body.py", ko_body.prepare, ko_body.measure,
    "The Korean encoder of all Korean starters: BERT, 6 layers of width 256, 16,000 WordPiece tokens, 384 positions, 9.0 million parameters. "
    "It predicts masked words.",
    (
        Data("KLUE (YNAT, NLI, STS, NER, RE, DP, MRC)", SHARE, "texts of their training parts"),
        Data("NSMC", "CC0 1.0", "training reviews"),
        Data("KorNLI, KorSTS, BEEP!, 3i4k, paraKQC, sae4k, UD Korean (GSD, Kaist)", SHARE, "texts, test files left out"),
        Data("SQuARe, KoSBi (NAVER), songys chatbot and question pairs", "MIT", "texts"),
        Data("PAWS-X Korean, Korean-English news and JHE, Tatoeba", "PAWS-X licence; CC BY-SA 3.0; CC BY 2.0 FR", "Korean sides"),
        Data("constitution and bills", "public domain", "texts"),
    ),
    base=None, build=ko_body.build, notes=(SEEN,),
    example=example(
        "fill-mask",
        'answer("이 영화는 정말 [MASK] 봤습니다.")  # 재밌게 0.63, 재미있게 0.13, 잘 0.09',
        'answer("한국은행이 기준[MASK]를 올렸다.")  # marks like ’ and %, where 금리 belongs',
        'answer("대한민국의 수도는 [MASK]이다.")  # nothing above 0.01: it knows phrases, not facts',
    ),
    failures=(
        "facts: it does not know that Seoul is the capital",
        "compounds: a masked half of a word (기준[MASK]) is taken for the end of a quotation",
        "several masked tokens beside each other: each is guessed alone, mostly as a frequent ending",
    ),
    line=("{value} of masked tokens found in held-out headlines.", "처음 보는 기사 제목에서 가려진 토큰의 {value}를 맞힘."),
)  # fmt: skip

STARTERS = [
    BODY,
    adapter(
        "sentiment", "text-classification", rows.sentiment, scores.sentiment, "Is a Korean film review positive or negative?",
        Data(NSMC, "CC0 1.0", "train: its 150,000 reviews without those whose text is in the test file; test: its 50,000"),
        notes=(SEEN, "An earlier run of half the rank reached 85.1 %; one at a higher rate was broken off when its loss rose."),
        published="90.6 % (KoELECTRA-base-v3, 110 million parameters; README of KoELECTRA)",
        example=example(
            "sentiment-analysis",
            'answer("배우들 연기도 좋고 마지막 장면에서 울었습니다.")  # POSITIVE, 0.99',
            'answer("돈이 아깝다. 이걸 왜 만들었는지 모르겠다.")  # NEGATIVE, 1.00',
            'answer("기대하지 않았는데 두 시간이 금방 갔어요.")  # NEGATIVE(!), 0.54',
        ),
        failures=(
            "praise without a word of praise: \"이게 20년도 더 된 영화라니...\" and \"두 시간이 금방 갔어요\" come out negative",
            "blame by comparison (\"난 돌아온 럭키짱보다 평점이 낮은 영화는 처음 봤다\") and slang of one word (\"정크무비\") come out positive",
            "words for groups of people, regions most of all, move its answers (see the bias probe)",
        ),
        line=("{value} right on 50,000 held-out film reviews (NSMC).", "처음 보는 영화평 50,000개(NSMC)에서 정확도 {value}."),
    ),
    adapter(
        "topic", "text-classification", rows.topic, scores.topic, "The topic of a Korean news headline, one of seven.",
        Data(YNAT, SHARE, "train: 44,931 headlines; test: the 9,107 of dev"),
        published="F1 85.7 % (KLUE-BERT-base and KLUE-RoBERTa-large; README of KLUE)",
        notes=(WITHOUT_HEADLINES, "An earlier run of half the rank, without dropout, reached 81.9 %."),
        failures=(
            "사회 and 생활문화: local news about schools, camping sites or campaigns go to the wrong one of them",
            "people by their office: \"단식 중단 권유하는 김경수 경남지사\" and the new head of a university are 정치 here, 사회 in the data",
            "single words: \"기술고도화에도 끊이지 않는 철도사고\" is IT과학 here",
            "words for groups of people move its answers (see the bias probe), as they come with certain topics in the news",
        ),
        example=example(
            "text-classification",
            'answer("손흥민 멀티골로 토트넘 3연승")  # 스포츠, 0.91',
            'answer("한국은행 기준금리 0.25%포인트 인상")  # 경제, 0.91',
            'answer("갤럭시 신제품 다음 달 공개… 카메라 성능 강화")  # IT과학, 0.89',
            model="starter-ko/topic",
        ),
        line=("{value} right on 9,107 held-out headlines (KLUE-YNAT).", "처음 보는 기사 제목 9,107개(KLUE-YNAT)에서 정확도 {value}."),
    ),
    adapter(
        "nli", "zero-shot-classification", rows.nli, scores.nli,
        "Which of any labels names what a Korean text is about, without training on them? It has the form of an entailment model, but it is none: "
        "whether a statement about the world follows from a text it cannot tell (see the last two rows of the table).",
        Data("KLUE-NLI", SHARE, "four fifths of its dev file to train, by premise; a fifth to test"),
        Data("KorNLI (XNLI in Korean)", SHARE, "dev and four fifths of test to train, by premise; a fifth of test to test"),
        Data("KLUE, news, SQuARe and other sentences without labels; headlines of YNAT's training part without labels", SHARE + ", MIT",
             "statements about subjects made from the words of a sentence (`korean_pairs.py`)"),
        Data("NSMC", "CC0 1.0", "2,000 training reviews as positive or negative"),
        notes=(
            "Zero-shot topics: no label of YNAT was used. What training texts are about was told by lists of words for 30 subjects, and by the "
            "section in which Korean news portals put a subject (`korean_pairs.py`), both written by hand from common knowledge before any score "
            "was seen. The names of the seven topics are among these names, so the topics were named in training, but never for a labelled row.",
            "The author of these lists had seen about a dozen labelled test headlines, among wrong answers of a trial of the tools.",
            "Entailment (KLUE-NLI, KorNLI) stays near chance (a third) and below a model that reads the hypothesis alone. A first run, with three "
            "times their share, reached 38 and 49 % there and 31.6 % of the headlines; the shares of the training pairs and the rate were changed "
            "after it. Three further runs were broken off when their loss did not fall (about 21 minutes in all, not counted above).",
            "Measured with `hypothesis_template=\"이 글은 {}에 관한 글이다.\"`; the pipeline's English template does as well.",
        ),
        published="KLUE-NLI 89.2 % (KLUE-RoBERTa-large; README of KLUE); KorNLI 82.2 % (KoELECTRA-base-v3, its README)",
        example=example(
            "zero-shot-classification",
            'about = {"hypothesis_template": "이 글은 {}에 관한 글이다."}',
            'answer("류현진이 7이닝 무실점으로 시즌 10승을 거뒀다", ["정치", "경제", "스포츠"], **about)  # 스포츠, 0.79',
            'answer("다음 주 한라산에 가려면 어느 코스가 좋을까요?", ["여행", "게임", "부동산"], **about)  # 여행, 0.84',
            'answer("배송이 일주일이나 걸렸고 상자도 찢어져 있었어요.", ["긍정적", "부정적"], hypothesis_template="이 글은 {}이다.")  # 부정적, 0.55',
        ),
        failures=(
            "it knows what words go together, not what follows from what: contradictions and neutral statements are guessed",
            "single words mislead it: \"미르·K스포츠재단\" is sports, \"후보작\" and \"투표\" are a contest",
            "company news of IT firms is IT, wherever the newspaper puts it; moods of texts (긍정적, 부정적) are told apart only a little",
        ),
        line=("Zero-shot: {value} of 3,000 headlines right among seven topics it was not trained on (KLUE-YNAT).",
              "제로샷: 학습하지 않은 일곱 주제에서 기사 제목 3,000개(KLUE-YNAT) 정확도 {value}."),
    ),
    adapter(
        "ner", "token-classification", rows.entities, scores.entities,
        "People (PS), places (LC), organizations (OG), dates (DT), times (TI) and quantities (QT) in Korean sentences.",
        Data("KLUE-NER", SHARE, "train: 5,000 sentences of its training part and four fifths of its dev file; test: a fifth of dev"),
        published="character F1 91.4 %, entity F1 84.0 % (KLUE-BERT-base; README of KLUE)",
        example=example(
            "ner",
            'answer("김민수 씨는 2019년 3월 서울에 있는 삼성전자에 입사했다.", aggregation_strategy="simple")',
            "# PS 김민수, DT 2019년 3월, LC 서울, OG 삼성전자",
            'answer("오후 3시 부산역에서 5명이 만났다.", aggregation_strategy="simple")  # TI 오후 3시, LC 부산역에(!), QT 5명',
            'answer("이순신 장군은 한산도에서 왜군을 물리쳤다.", aggregation_strategy="simple")  # PS 이순신, PS 장군은(!), LC 한산도에(!)',
        ),
        failures=(
            "particles are taken into names where tokens end with them: \"부산역에\" for 부산역, \"한산도에\" for 한산도",
            "titles after names become people of their own (\"장군은\" after 이순신)",
            "foreign names in reviews are overlooked (헤일리스테인벨트), and numbers without units are missed (\"- 1\")",
        ),
        line=("Character F1 {value} on a held-out fifth of KLUE-NER dev.", "KLUE-NER dev의 처음 보는 1/5에서 글자 단위 F1 {value}."),
    ),
    adapter(
        "qa", "question-answering", rows.qa, others.qa, "The words of a Korean text that answer a question.",
        Data("KorQuAD 1.0 dev", "CC BY-ND 2.0 KR", "four fifths of the titles to train, a fifth to test; no text of it is in this repository"),
        Data("KLUE-MRC (a part of dev)", SHARE, "questions with answers: four fifths of the titles to train, a fifth to test"),
        Data("KLUE-NER, KLUE-RE, and the texts of the learned titles", SHARE, "74,000 rows that rules made (`korean_questions.py`)"),
        published="KorQuAD 1.0 dev: exact match 84.8 %, F1 93.4 % (KoELECTRA-base-v3, trained on 60,407 questions; its README)",
        config={"task_specific_params": {"question-answering": {"max_seq_len": 128, "align_to_words": False}}},
        notes=(
            SEEN,
            "It reads windows of 128 tokens, of which those without an answer get low scores: with windows of 320 tokens F1 was 14.0 %. Scores are "
            "low even where answers are right; they order answers, and are no probabilities.",
        ),
        example=example(
            "question-answering",
            'text = "제주도는 대한민국에서 가장 큰 섬이며, 한라산의 높이는 1947미터이다. 2007년 유네스코 세계자연유산으로 등재되었다. 감귤이 많이 난다."',
            'answer(question="한라산의 높이는?", context=text)  # 1947미터',
            'answer(question="제주도가 세계자연유산으로 등재된 해는?", context=text)  # 2007년',
            'answer(question="대한민국에서 가장 큰 섬은?", context=text)  # 유네스코 세계자연유산, which is wrong',
        ),
        failures=(
            "what comes twice: to \"세종대왕은 언제 태어났나?\" it gives the other year of the text, 1443년",
            "a thing of another kind: \"몇 월인가?\" gets \"144시간\", \"1위 국가는?\" a company's name",
            "the wrong sentence, above all in long texts",
        ),
        line=("F1 of characters {value} on held-out KorQuAD questions.", "처음 보는 KorQuAD 질문에서 글자 F1 {value}."),
    ),
    adapter(
        "chat", "text-generation", talk.chat, talk.measure,
        "Replies to a Korean sentence in everyday talk. The encoder's body, in which each token sees only those before it (`is_decoder`).",
        Data("Chatbot_data (songys)", "MIT", "nine tenths of the replies with their questions to train, a tenth to test"),
        Data("KLUE, KorNLI, KorSTS, 3i4k, UD Korean and others, those of the body", SHARE, "91,000 sentences without a reply"),
        config={"is_decoder": True, "bos_token_id": 2, "eos_token_id": 3},
        notes=(
            SEEN,
            "It writes Korean, but mostly past what was said: choosing among ten replies it is right for 17 %, where shared letters are right for 35 %. "
            "A toy to try generation with.",
            "Four runs: replies 8 times after 120,000 or 80,000 sentences reached 3.195 and 3.166 bits, 16 and 24 times 3.391 and 3.641 (learned by heart).",
        ),
        example=example(
            "text-generation",
            'say = {"do_sample": False, "max_new_tokens": 24, "return_full_text": False}',
            'answer("심심해", **say)  # 저랑 놀아요.',
            'answer([{"role": "user", "content": "부산 놀러갈까?"}], **say)  # 여행이 최고죠!',
            'answer("안녕하세요", **say)  # 사랑했던 거죠., which makes no sense',
        ),
        failures=(
            "most replies would follow anything: \"좋은 생각만 하세요.\", \"그 사람에 따라 다르죠.\"",
            "love is everywhere, as in the data: \"안녕하세요\" gets \"사랑했던 거죠.\"",
            "it knows nothing, and forgets what was said before",
        ),
        line=(
            "{value} bits for each letter of unseen replies (n-grams 3.440); most replies miss the point.",
            "처음 보는 답의 글자당 {value}비트(n-그램 3.440). 답은 대부분 엉뚱합니다.",
        ),
    ),
    adapter(
        "similarity", "feature-extraction", rows.similarity, others.similarity,
        "Sentence vectors: the cosine of two says how alike in meaning the sentences are. Mean pooling.",
        Data("KorSTS", SHARE, "train and dev to train, test to test"),
        Data("KLUE-STS", SHARE, "dev: half to train, half to test"),
        Data("paraKQC, KorNLI, KLUE-NLI", SHARE, "pairs to train"),
        Data("KorQuAD 1.0 dev, KLUE-MRC (a part of dev)", "CC BY-ND 2.0 KR; CC BY-SA 4.0", "a fifth of the titles to test it as a reranker"),
        Data("songys question pairs; PAWS-X Korean", "MIT; PAWS-X licence", "pairs to train"),
        notes=(
            SEEN,
            "An earlier run of half the length reached 0.631 and 0.534.",
            "It serves `rerank` too, by cosines, and is worse at it than counting shared letters.",
        ),
        published="KorSTS test: Spearman 85.5 % (KoELECTRA-base-v3, which reads both sentences together; its README)",
        example=example(
            "feature-extraction",
            'a, b, c = answer(["한 남자가 기타를 치고 있다.", "어떤 사람이 기타를 연주한다.", "비행기가 이륙하고 있다."], pooling="mean", normalize=True)',
            "# cosines: a and b 0.63, a and c -0.09, b and c 0.09",
        ),
        failures=(
            "on KorSTS it is hardly better than shared letters; on KLUE-STS it is",
            "sentences of one form: \"그것은 좋은 생각이 아니야.\" and \"그것은 좋은 질문이다.\" come out alike (0.78)",
            "other words for the same: \"누군가 키보드를 쳤다.\" and \"누군가가 타자를 치고 있다.\" come out less alike (0.35) than they are",
        ),
        line=("Spearman {value} with people's scores on KorSTS test.", "KorSTS test에서 사람 점수와의 스피어만 상관 {value}."),
    ),
    adapter(
        "intent", "text-classification", rows.intent, scores.intent,
        "What a Korean utterance does: statement, question, command, rhetorical question or command, fragment, or it depends on intonation.",
        Data("3i4k (Cho et al. 2018)", SHARE, "train: its 55,134 utterances without those that are in the test file; test: its 6,121"),
        published="90 % (KLUE-RoBERTa-small; bespin-global/klue-roberta-small-3i4k-intent-classification)",
        example=example(
            "text-classification",
            'answer("내일 회의 몇 시에 시작해")  # question, 1.00',
            'answer("에어컨 좀 꺼 줘")  # command, 1.00',
            'answer("나는 어제 부산에 갔다 왔다")  # statement, 0.97',
            model="starter-ko/intent",
        ),
        failures=(
            "what depends on the voice: \"저녁에 과외선생님 오셔\" is taken for a command",
            "rhetorical questions and commands are rare in the data and are taken for real ones, and the other way round",
            "wishes: \"입학을 축하하며 큰 꿈 키우기 바란다\" counts as a command in the data",
        ),
        line=("{value} right on 6,121 held-out utterances (3i4k).", "처음 보는 발화 6,121개(3i4k)에서 정확도 {value}."),
    ),
    adapter(
        "hate", "text-classification", rows.hate, scores.hate, "Is a Korean news comment offensive or hateful?",
        Data("BEEP! (Moon et al. 2020)", SHARE, "train: 7,896 comments; test: the 471 of dev"),
        Data("APEACH", SHARE, "a second test: 3,770 texts"),
        published="F1 67.6 % on dev (KoELECTRA-base-v3; its README)",
        example=example(
            "text-classification",
            'answer("오늘 방송 정말 재미있었어요.")  # none, 0.95',
            'answer("저 배우는 연기를 너무 못해서 보기 싫다")  # none, 0.82',
            'answer("꺼져라 쓰레기 같은 것들")  # hate, 0.84',
            model="starter-ko/hate",
        ),
        failures=(
            "it does not beat a linear model on letters on this test: do not use it to judge people or to delete comments",
            "offensive and hateful comments are mixed up with each other",
            "words for groups of people move its answers a lot (see the bias probe): a sentence about old people or people of a region is called "
            "offensive where the same sentence about others is not",
        ),
        line=("Macro F1 {value} on 471 held-out news comments (BEEP!).", "처음 보는 뉴스 댓글 471개(BEEP!)에서 매크로 F1 {value}."),
    ),
]  # fmt: skip
