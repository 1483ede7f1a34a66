"""Transcripts in the letters a model reads: English in plain letters, Mandarin in pinyin with a tone after every syllable.

Models know letters, a few signs, the tones 1 to 5 and perhaps IPA, and no language; what tells the languages apart is the
spelling. Here people's spelling (typographic signs, accents, tone marks) becomes that of the training data. Nothing is
guessed: what has no one reading is refused by name.
"""

from __future__ import annotations

import re
import unicodedata

from ..config import SymbolEncoderConfig
from ..shown import shown

AUTOMATIC, ENGLISH, MANDARIN, AS_WRITTEN = LANGUAGES = ("automatic", "English", "Mandarin", "as written")

LETTERS_PER_SECOND = 15.0
"""Of English: 150 words a minute, of five letters and a space."""
SYLLABLES_PER_SECOND = 4.2
"""Of Mandarin: 250 characters a minute."""

_SIGNS = str.maketrans({
    **dict.fromkeys("‘’ʼ`´", "'"), **dict.fromkeys("‐‑‒", "-"), **dict.fromkeys("–—;:，；：、", ", "),  # noqa: RUF001
    **dict.fromkeys("\"“”„«»「」『』《》", " "), "…": "...", "。": ". ", "？": "? ", "！": "! ", "&": " and ",  # noqa: RUF001
})  # fmt: skip
_TONE_MARKS = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
_UMLAUT = "\u0308"
_NEUTRAL = "5"
_CHARACTERS = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_DIRECTION = re.compile(r"[\[({<【［（〔｛＜][^\])}>】］）〕｝＞]*[\])}>】］）〕｝＞]?|\*[^*]*\*?")  # noqa: RUF001 - of Chinese, too
_LONE_DIGIT = re.compile(r"(?<![a-z])\d+|\d{2,}")
_TONED = re.compile(r"[a-z]+[1-5]")

_OFTEN = "d t n l g k h zh ch sh z c s"
_FINALS = {
    "a": f"b p m f {_OFTEN}", "o": "b p m f l", "e": f"m r {_OFTEN}", "ai": f"b p m {_OFTEN}",
    "ei": "b p m f d t n l g k h zh sh z", "ao": f"b p m r {_OFTEN}", "ou": f"p m f r {_OFTEN}", "an": f"b p m f r {_OFTEN}",
    "en": "b p m f d n g k h zh ch sh r z c s", "ang": f"b p m f r {_OFTEN}", "eng": f"b p m f r {_OFTEN}",
    "ong": "d t n l g k h zh ch r z c s", "i": "b p m d t n l j q x zh ch sh r z c s", "ia": "d l j q x",
    "ie": "b p m d t n l j q x", "iao": "b p m d t n l j q x", "iu": "m d n l j q x", "ian": "b p m d t n l j q x",
    "in": "b p m n l j q x", "iang": "n l j q x", "ing": "b p m d t n l j q x", "iong": "j q x",
    "u": f"b p m f r j q x {_OFTEN}", "ua": "g k h zh ch sh r", "uo": f"r {_OFTEN}", "uai": "g k h zh ch sh",
    "ui": "d t g k h zh ch sh r z c s", "uan": f"r j q x {_OFTEN}", "un": f"r j q x {_OFTEN}", "uang": "g k h zh ch sh",
    "ue": "j q x n l", "v": "n l", "ve": "n l",
}  # fmt: skip
_ALONE = (
    "a o e ai ei ao ou an en ang eng er ya yo ye yao you yan yin yang ying yong yi yu yue yuan yun "
    "wa wo wai wei wan wen wang weng wu"
)
_SYLLABLES = {start + final for final, starts in _FINALS.items() for start in starts.split()} | set(_ALONE.split())
_LONGEST = 6


def spell(text: str, language: str, config: SymbolEncoderConfig) -> str:
    """A transcript in the letters of an encoder.

    English is spelled in lower case without accents and typographic signs. Mandarin is pinyin, ``ni3 hao3`` or ``nǐ hǎo``,
    words together or apart; it becomes syllables, each with its tone from 1 to 5, 5 where it has none; ü becomes v. As written
    changes nothing but case and spaces. Automatic is as written where the encoder knows every symbol and digits are tones,
    else Mandarin where all words are pinyin and one has a tone, else English.

    Args:
        text: what is said.
        language: one of ``LANGUAGES``.
        config: of the encoder that will read it; one of bytes reads anything as written.

    Raises:
        ValueError: there is no such language, or the text is not spelled in it: numbers in figures, Chinese characters, a word
            that is no pinyin, or a stage direction in brackets of any kind or between asterisks.
    """
    if language not in LANGUAGES:
        raise ValueError(f"no language {_quoted(language)}; there are {', '.join(LANGUAGES)}")
    direction = _DIRECTION.search(text)
    if direction and config.symbols and direction[0][0] not in config.symbols:
        raise ValueError(
            f"{_quoted(direction[0])} would be spoken: a transcript has spoken words alone; "
            "leave it out, and say it in the caption of the sound"
        )
    written = " ".join(text.lower().split())
    if language == AS_WRITTEN or not config.symbols:
        return text if not config.symbols else written
    characters = _CHARACTERS.search(text)
    if characters:
        raise ValueError(
            f"{_quoted(characters[0])} is in characters; write Mandarin in pinyin with tones, as ni3 hao3 or nǐ hǎo"
        )
    if language == MANDARIN:
        return _mandarin(written)
    if language == ENGLISH:
        return _english(written)
    if set(written) <= set(config.symbols) and not _LONE_DIGIT.search(written):
        return written
    try:
        spelled = _mandarin(written)
    except ValueError:
        return _english(written)
    has_tones = any(c in _TONE_MARKS or c.isdigit() for c in unicodedata.normalize("NFD", written))
    return spelled if has_tones else _english(written)


def speaking_seconds(spelled: str) -> float:
    """About how long it takes to say what :func:`spell` gave, seconds; people differ by a third either way."""
    words = re.findall(r"[^\s,.?!-]+", spelled)
    syllables = sum(len(_TONED.findall(word)) for word in words)
    letters = sum(len(word) + 1 for word in words if not _TONED.search(word))
    return syllables / SYLLABLES_PER_SECOND + letters / LETTERS_PER_SECOND


def _english(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_SIGNS))
    plain = " ".join("".join(c for c in plain if not unicodedata.combining(c)).split())
    figures = re.search(r"\d+", plain)
    if figures:
        raise ValueError(f"write numbers as words, got {_quoted(figures[0])}; digits stand for the tones of Mandarin")
    return re.sub(r" +(?=[,.?!])", "", plain)


def _mandarin(text: str) -> str:
    # Decomposed, a tone mark follows its vowel; "u" with an umlaut is "v".
    plain = unicodedata.normalize("NFD", text.translate(_SIGNS)).replace("u" + _UMLAUT, "v")
    plain = re.sub("u([\u0304\u0301\u030c\u0300])" + _UMLAUT, r"v\1", plain)
    parts = re.findall(r"[^\s,.?!-]+|[,.?!-]", plain)
    spelled = " ".join(part if part in ",.?!-" else " ".join(_syllables(part)) for part in parts)
    return re.sub(r" +(?=[,.?!])", "", spelled)


def _quoted(word: str) -> str:
    return f"'{shown(unicodedata.normalize('NFC', word), 60)}'"


def _syllables(word: str) -> list[str]:
    """The syllables of a word, each with its tone."""
    found = []
    # A digit or an apostrophe ends a syllable.
    for piece in re.findall(r"[^\d']+\d?|\d", word):
        letters, tones = "", []
        for c in piece:
            if c in _TONE_MARKS or c.isdigit():
                tones.append((max(len(letters) - 1, 0), _TONE_MARKS.get(c, c)))
            else:
                letters += c
        split = _split(letters)
        if not split:
            raise ValueError(f"{_quoted(word)} is no pinyin; write syllables with tones, as ni3 hao3")
        start = 0
        for syllable in split:
            inside = [tone for at, tone in tones if start <= at < start + len(syllable)]
            start += len(syllable)
            if len(inside) > 1 or not set(inside) <= set("12345"):
                raise ValueError(f"{_quoted(word)}: a syllable has one tone, from 1 to 5")
            found.append(syllable + (inside[0] if inside else _NEUTRAL))
    return found


def _split(letters: str) -> list[str] | None:
    """Letters as pinyin syllables; inside a word one never begins with a, e or o. None where they are none."""
    # From the end: how long the syllable at each place is, the longest after which the rest is syllables too.
    lengths: list[int] = [0] * len(letters)
    for start in reversed(range(len(letters))):
        if start and letters[start] in "aeo":
            continue
        for end in range(min(start + _LONGEST, len(letters)), start, -1):
            if letters[start:end] in _SYLLABLES and (end == len(letters) or lengths[end]):
                lengths[start] = end - start
                break
    if letters and not lengths[0]:
        return None
    split, start = [], 0
    while start < len(letters):
        split.append(letters[start : start + lengths[start]])
        start += lengths[start]
    return split
