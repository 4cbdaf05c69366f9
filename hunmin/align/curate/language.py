"""Which language a text is in, by its letters and its commonest words: enough to sort training data, and nothing to download."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import NamedTuple

from hunmin.text.languages import M2M100

# The first word of a letter's name in Unicode -> the script's tag (ISO 15924).
_SCRIPTS = {
    "LATIN": "Latn", "HANGUL": "Hang", "CJK": "Hani", "HIRAGANA": "Kana", "KATAKANA": "Kana", "CYRILLIC": "Cyrl", "ARABIC": "Arab",
    "GREEK": "Grek", "HEBREW": "Hebr", "THAI": "Thai", "DEVANAGARI": "Deva", "BENGALI": "Beng", "TAMIL": "Taml", "GEORGIAN": "Geor",
    "ARMENIAN": "Armn", "KHMER": "Khmr", "LAO": "Laoo", "MYANMAR": "Mymr", "ETHIOPIC": "Ethi", "GUJARATI": "Gujr", "KANNADA": "Knda",
    "MALAYALAM": "Mlym", "SINHALA": "Sinh", "GURMUKHI": "Guru", "ORIYA": "Orya",
}  # fmt: skip
# Scripts that one language uses, or one more than all others; those of several are told apart by words.
_ONLY = {
    "Hang": "ko", "Kana": "ja", "Hani": "zh", "Grek": "el", "Hebr": "he", "Thai": "th", "Deva": "hi", "Beng": "bn", "Taml": "ta",
    "Geor": "ka", "Armn": "hy", "Khmr": "km", "Laoo": "lo", "Mymr": "my", "Ethi": "am", "Gujr": "gu", "Knda": "kn", "Mlym": "ml",
    "Sinh": "si", "Guru": "pa", "Orya": "or",
}  # fmt: skip
_SYLLABLES = {"Hang", "Hani", "Kana"}  # a sign says what two or three letters say elsewhere
_WORDS = {
    "en": "the of and to in is that it for was on are with as this be have from not you what how an by or if can which when will your has",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als wie ich was wurde bei nach am welche",
    "fr": "de la le et les des en un du une que est pour qui dans il elle au par sur pas plus ne je",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más pero",
    "it": "di e il che la in un a per è una sono non con del si da come le dei nel ma anche più",
    "pt": "de a o que e do da em um para com não uma os no se na por mais as dos como mas ao",
    "nl": "de van een het en in is dat op te zijn met voor niet aan er om ook als dan maar bij",
    "sv": "och i att det som en på är av för med till den har de inte om ett men var jag",
    "da": "og i at det er en på til af for med den der ikke de som har et jeg fra men",
    "pl": "i w nie na się z do to że jest o jak po co ale za od przez tym są",
    "tr": "ve bir bu da de için ile çok ne daha gibi olarak olan var ama en kadar sonra",
    "vi": "và của là có không được cho một các người trong đã với này khi để những",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena ada",
    "ru": "и в не на что я с он как это по но из у к за от то так для",
    "uk": "і в не на що я з він як це але до від та за є у для так про",
    "bg": "и в на не да се за от с е че по са като но до това при което",
    "ar": "في من على أن إلى عن لا هذا التي الذي هذه مع كان ما هو",
    "fa": "در از به که این را با است برای آن یک خود تا بر هم",
    "ur": "کے میں ہے کی کا اور سے کو پر نے یہ کہ ہیں تھا",
}  # fmt: skip
_WRITTEN = {**dict.fromkeys(_WORDS, "Latn"), "ru": "Cyrl", "uk": "Cyrl", "bg": "Cyrl", "ar": "Arab", "fa": "Arab", "ur": "Arab"}
KNOWN = frozenset({*_WORDS, *_ONLY.values()} & {*M2M100})


class Guess(NamedTuple):
    """The language's code as M2M-100 has it, None where nothing tells; the script, None without letters; its share of letters."""

    language: str | None
    script: str | None
    share: float


def script_of(language: str) -> str | None:
    """The script in which a language is written; None for one that is not known here."""
    return _WRITTEN.get(language) or next((script for script, code in _ONLY.items() if code == language), None)


def guess(text: str) -> Guess:
    """The language of a text: of the script with most of its letters the one whose commonest words it uses most."""
    counted = Counter(_script(letter) for letter in text if letter.isalpha())
    counted.pop("", None)
    weights = {script: count * (2 if script in _SYLLABLES else 1) for script, count in counted.items()}
    if not weights:
        return Guess(None, None, 0.0)
    if weights.get("Kana") and weights["Kana"] * 10 >= weights.get("Hani", 0):  # Japanese writes its words in both
        weights["Kana"] += weights.pop("Hani", 0)
    script = max(weights, key=lambda name: weights[name])
    share = weights[script] / sum(weights.values())
    if script in _ONLY:
        return Guess(_ONLY[script], script, share)
    words = Counter(re.findall(r"\w+", text.casefold()))
    hits = {code: sum(words[word] * weight for word, weight in _listed(code)) for code, written in _WRITTEN.items() if written == script}
    first, second = sorted([0.0, 0.0, *hits.values()], reverse=True)[:2]
    return Guess(max(hits, key=lambda code: hits[code]) if first > 1.5 * second else None, script, share)


@cache
def _script(letter: str) -> str:
    return _SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0].split("-")[0], "")


@cache
def _listed(code: str) -> tuple[tuple[str, float], ...]:
    """The words of a language, and what each says: one that several languages share says little, one letter may be a variable's name."""
    several = Counter(word for words in _WORDS.values() for word in words.split())
    single = _WRITTEN[code] == "Latn"
    return tuple((word, 1 / several[word]) for word in _WORDS[code].split() if len(word) > 1 or not single)
