"""Pairs of a text and a statement about its subject, made without anyone's labels of subjects: the zero-shot half of ``ko/nli``.

Two sources. Words that stand for a subject (``SUBJECTS``, written by hand for this purpose, before any score was seen): a sentence with
"축구" is about sports. And words of the sentences themselves: a sentence from which "금리" was cut is still about "금리" and not about a word of
another sentence. Both teach what words go together; the topics of YNAT's headlines are not looked at.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

Pair = tuple[str, str, str]  # text, statement, label
TEMPLATES = (
    "이 글은 {}에 관한 글이다.", "이 글의 주제는 {}이다.", "{}에 관한 내용이다.", "이것은 {} 소식이다.",
    "This example is {}.", "This text is about {}.",
)  # fmt: skip
WEIGHTS = (12, 1, 1, 1, 3, 1)
# subject, its other names: words by which a sentence is known to be about it
SUBJECTS = {
    "정치": "대통령 국회 의원 여당 야당 총선 대선 선거 공천 탄핵 개헌 국감 청와대 총리 민주당 한국당 새누리당 국민의당 여야 원내대표 정당",
    "경제,금융": "금리 주가 코스피 증시 환율 은행 투자 수출 매출 영업이익 채권 물가 펀드 주식 순이익 상장 코스닥 무역 경기부양 한은",
    "부동산": "아파트 분양 집값 전세 재건축 주택 청약 오피스텔 땅값",
    "세계,국제,해외": "미국 중국 일본 러시아 트럼프 시진핑 푸틴 유엔 유럽 이란 시리아 이스라엘 독일 프랑스 영국 인도 아베 오바마 터키 홍콩 브라질",
    "북한,군사": "북한 김정은 미사일 핵실험 국방부 비핵화 군사 해군 공군 육군 장병",
    "스포츠": "축구 야구 농구 배구 골프 감독 선수 리그 월드컵 올림픽 투수 홈런 우승 프로야구 손흥민 류현진 결승 챔피언스 타자 득점 테니스",
    "사회,사건 사고": "경찰 검찰 법원 구속 징역 화재 사고 살인 시민단체 노조 파업 주민 복지 실종 집회 시위 성폭행 피의자 재판 벌금",
    "교육": "학교 학생 대학 교사 수능 교육청 입시 초등학교 학부모 교수",
    "문화,예술": "공연 전시 미술관 작가 소설 연극 뮤지컬 축제 문학 박물관 시인 오페라 화가 문화재",
    "생활": "맛집 휴가 패션 다이어트 캠핑 나들이 화장품 인테리어 요리 레시피 반려견",
    "건강,의료": "병원 환자 의사 치료 백신 감염 질환 수술 건강 비만 당뇨",
    "날씨": "기온 태풍 폭염 한파 미세먼지 장마 소나기 더위 추위 날씨",
    "과학,기술": "연구팀 연구진 우주 인공지능 로봇 과학자 인공위성 유전자 실험 논문",
    "IT,컴퓨터,인터넷": "스마트폰 갤럭시 아이폰 애플 구글 LG전자 네이버 카카오 앱 소프트웨어 인터넷 반도체 프로그램 페이스북 이동통신 5G 해킹",
    "게임": "게임 게이머 넥슨 엔씨소프트 스타크래프트 e스포츠",
    "영화": "영화 관객 개봉 극장 주연 영화제 흥행 감독판",
    "음악": "음악 노래 가수 앨범 콘서트 아이돌 빌보드 작곡",
    "방송,연예": "드라마 예능 배우 방송 시청률 출연 연예인 방탄소년단",
    "여행,숙소": "여행 호텔 숙소 관광객 호스트 공항 관광지 체크인",
    "음식": "음식 식당 밥 커피 맥주 치킨 빵 저녁식사",
    "종교": "교회 성당 불교 스님 교황 목사 기독교",
    "역사": "조선 고려 왕조 일제강점기 임진왜란 독립운동 황제 유적",
    "환경": "오염 온실가스 재활용 쓰레기 기후변화 생태계 멸종",
    "교통,자동차": "버스 지하철 도로 승용차 고속도로 택시 자동차 열차 현대차",
    "사랑,연애": "이별 사랑 남자친구 여자친구 연애 짝사랑 썸 고백",
    "가족": "엄마 아빠 부모님 아이 가족 남편 아내 할머니",
    "노동": "노조 파업 임금 비정규직 최저임금 근로자 노동자 일자리 해고",
    "지역": "시장 군수 구청장 도청 시청 구청 마을 전남 전북 경북 경남 충북 충남 강원도 부산시 대구시 인천시 광주시 울산시",
    "산업": "기업 공장 생산 신제품 출시 중소기업 창업 조선소 수주 협력사",
    "외교": "외교부 정상회담 대사관 외교 한미 한일 한중 방한",
}  # fmt: skip
# The section in which Korean news portals put a subject. Subjects that stand in several have none here.
SECTIONS = {
    "정치": "정치 북한 외교", "경제": "경제 부동산 산업", "사회": "사회 교육 노동 지역 환경", "세계": "세계", "스포츠": "스포츠",
    "IT과학": "과학 IT 게임", "생활문화": "문화 생활 날씨 음식 여행 종교 교통",
}  # fmt: skip
NOT_NOUNS = re.compile(
    r"(다|는|한|할|해|된|될|서|고|며|로|에|의|도|은|을|를|만|까지|부터|에서|으로|하게|하는|하며|없는|있는|라|자|나|면|지|게|들)$"
)


def subjects() -> dict[str, list[str]]:
    """The words that mean a subject, and its names, by its first name."""
    return {names.split(",")[0]: words.split() for names, words in SUBJECTS.items()}


def names_of() -> dict[str, list[str]]:
    return {names.split(",")[0]: names.split(",") for names in SUBJECTS}


def section_of() -> dict[str, str]:
    return {subject: section for section, held in SECTIONS.items() for subject in held.split()}


def statement(label: str, draw: random.Random) -> str:
    """A sentence that says that a text is about ``label``."""
    return draw.choices(TEMPLATES, WEIGHTS)[0].format(label)


def without(text: str, word: str) -> str:
    """A text without the words that begin with ``word``."""
    return " ".join(piece for piece in text.split() if not piece.lstrip("'\"“‘(").startswith(word))


def found_in(text: str, words: Iterable[str]) -> list[str]:
    """Those of ``words`` with which a word of the text begins."""
    pieces = [piece.lstrip("'\"“‘(") for piece in text.split()]
    return [word for word in words if any(piece.startswith(word) for piece in pieces)]


def index(texts: Sequence[str], words: Iterable[str], most: int = 6) -> dict[str, list[int]]:
    """For every word the numbers of the texts that have a word beginning with it. ``most``: syllables of the longest of ``words``."""
    wanted, found = set(words), defaultdict[str, list[int]](list)
    for i, text in enumerate(texts):
        heads = {piece.lstrip("'\"“‘(")[:n] for piece in text.split() for n in range(1, most + 1)}
        for word in heads & wanted:
            found[word].append(i)
    return found


def subject_pairs(texts: Sequence[str], count: int, seed: int) -> list[Pair]:
    """``count`` pairs, as many of each subject, half of them true. The word that gave the subject away is cut out of half of the texts."""
    draw, table, pairs = random.Random(seed), subjects(), list[Pair]()
    where = index(texts, [word for words in table.values() for word in words])
    about = defaultdict[int, set[str]](set)
    for subject, words in table.items():
        for word in words:
            for i in where.get(word, ()):
                about[i].add(subject)
    kinds = [kind for kind, words in table.items() if any(where.get(word) for word in words)]
    for n in range(count if len(kinds) > 1 else 0):
        subject = kinds[n % len(kinds)]
        word = draw.choice([word for word in table[subject] if where.get(word)])
        i = draw.choice(where[word])
        text = without(texts[i], word) if draw.random() < 0.5 else texts[i]
        true = draw.random() < 0.5
        label = word if true and draw.random() < 0.15 else named(subject, true, about[i], draw)
        if label and len(text) >= 8:
            pairs.append((text, statement(label, draw), "entailment" if true else "contradiction"))
    return pairs


def named(subject: str, true: bool, about: set[str], draw: random.Random) -> str | None:
    """A name of ``subject``, or of a subject that a text is not ``about``: its own, its section's, or that of two subjects in one."""
    names, sections = names_of(), section_of()
    known = {sections[one] for one in about if one in sections}
    others = [kind for kind in names if kind not in about and sections.get(kind) not in known]
    if not others:
        return None
    said = subject if true else draw.choice(others)
    if said in sections and draw.random() < 0.35:
        return sections[said]
    label = draw.choice(names[said])
    if draw.random() < 0.06:  # beside a true one anything, beside a false one a false one
        both = [label, draw.choice(names[draw.choice(others)])]
        draw.shuffle(both)
        label = draw.choice(("", " ", "·")).join(both)
    return label


def keywords(titles: Sequence[str], least: int = 40) -> list[str]:
    """Frequent words of titles that look like nouns: two to five syllables without an ending."""
    counts = Counter(piece for title in titles for piece in re.findall(r"(?<!\S)[가-힣]{2,5}(?!\S)", title))
    return [word for word, n in counts.most_common() if n >= least and not NOT_NOUNS.search(word)]


def keyword_pairs(texts: Sequence[str], words: Sequence[str], count: int, seed: int, kept: float = 0.0) -> list[Pair]:
    """``count`` pairs of a text without one of its words and a statement that it is about this word (true) or another's word (false).

    ``kept``: the share of texts that keep the word. Those are easy, and teach first that the two sides are to be compared: without them a
    small model learned nothing for hundreds of steps.
    """
    draw, pairs = random.Random(seed), list[Pair]()
    where = index(texts, words)
    known = [word for word in words if where.get(word)]
    for _ in range(count if known else 0):
        word = draw.choice(known)
        whole = texts[draw.choice(where[word])]
        text, true = whole if draw.random() < kept else without(whole, word), draw.random() < 0.5
        if not true:
            word = draw.choice(known)
            if found_in(whole, [word]):
                continue
        if len(text) >= 8:
            pairs.append((text, statement(word, draw), "entailment" if true else "contradiction"))
    return pairs


def label_pairs(rows: Sequence[tuple[str, str]], templates: Sequence[str], count: int, seed: int) -> list[Pair]:
    """Pairs from texts with a label in words: the true label or, as often, another."""
    draw, labels = random.Random(seed), sorted({label for _, label in rows})
    pairs = list[Pair]()
    for text, label in draw.sample(list(rows), min(count, len(rows))):
        true = draw.random() < 0.5
        said = label if true else draw.choice([other for other in labels if other != label])
        pairs.append((text, draw.choice(templates).format(said), "entailment" if true else "contradiction"))
    return pairs
