import time

import pytest

from harmony_core.config import SymbolEncoderConfig, preset
from harmony_core.encoders.spelling import _SYLLABLES, LANGUAGES, speaking_seconds, spell
from harmony_core.encoders.symbols import to_symbols
from harmony_core.world.speech import VOCABULARY

LETTERS = preset("tiny").speech
MARKS = {"1": "\u0304", "2": "\u0301", "3": "\u030c", "4": "\u0300", "5": ""}
ENGLISH = ["hello, world!", "i'm here.", "ready? go!"]


def marked(syllable: str, tone: str) -> str:
    """A syllable as books have it: its mark on a vowel, ü with its dots."""
    vowel = next((v for v in "aeo" if v in syllable), None)
    at = syllable.index(vowel) if vowel else max(syllable.rfind(v) for v in "iuv")
    return (syllable[: at + 1] + MARKS[tone] + syllable[at + 1 :]).replace("v", "u\u0308")


@pytest.mark.parametrize("tone", MARKS)
def test_every_syllable_reads_the_same_with_a_mark_or_a_digit(tone):
    assert len(_SYLLABLES) > 400
    for syllable in sorted(_SYLLABLES):
        assert spell(syllable + tone, "Mandarin", LETTERS) == syllable + tone
        assert spell(marked(syllable, tone), "Mandarin", LETTERS) == syllable + tone


@pytest.mark.parametrize("language", ["automatic", "as written"])
def test_training_transcripts_stay_as_they_are(language):
    for word in (*VOCABULARY, *ENGLISH):
        assert spell(word, language, LETTERS) == word


@pytest.mark.parametrize(
    ("language", "text"),
    [("English", "Fiancée — “OK”…"), ("Mandarin", "Nǐhǎo, péngyou!"), ("automatic", "xī'ān"), ("automatic", "Déjà vu; & so")],
)
def test_what_is_spelled_stays_as_it_is_and_can_be_numbered(language, text):
    once = spell(text, language, LETTERS)
    assert once != text
    assert spell(once, language, LETTERS) == once
    assert to_symbols([once], LETTERS).count_nonzero() == len(once)


@pytest.mark.parametrize(
    ("together", "apart"), [("fāngàn", "fan1 gan4"), ("xī'ān", "xi1 an1"), ("xiān", "xian1"), ("ni3hao3", "ni3 hao3")]
)
def test_words_are_parted_by_the_rules_of_pinyin(together, apart):
    assert spell(together, "Mandarin", LETTERS) == apart


@pytest.mark.parametrize("word", ["hello", "nii3", "n", "nǐ3", "ni33", "ni0", "3"])
def test_what_is_no_pinyin_is_refused(word):
    with pytest.raises(ValueError, match="is no pinyin|one tone"):
        spell(word, "Mandarin", LETTERS)


@pytest.mark.parametrize("language", ["automatic", "English", "Mandarin"])
def test_characters_are_refused(language):
    with pytest.raises(ValueError, match="'你好' is in characters"):
        spell("say 你好", language, LETTERS)


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match=f"there are {', '.join(LANGUAGES)}"):
        spell("hello", "Welsh", LETTERS)


def test_an_encoder_of_bytes_reads_what_is_written():
    config = SymbolEncoderConfig(length=64, dim=8, blocks=1)
    assert spell(" 你好,  Hello ", "automatic", config) == " 你好,  Hello "


def test_ipa_is_read_by_models_that_know_it():
    config = preset("5b").speech
    assert spell("hələʊ", "automatic", config) == "hələʊ"
    assert spell("nǐ", "automatic", config) == "ni3"


def test_speaking_time_grows_with_what_is_said():
    assert speaking_seconds("") == 0
    assert speaking_seconds("hello " * 2) == 2 * speaking_seconds("hello")
    assert speaking_seconds("ni3 hao3") == 2 * speaking_seconds("ni3")
    assert speaking_seconds("five words make two seconds") == pytest.approx(2, rel=0.2)


def test_a_word_of_thousands_of_letters_is_read_or_refused_at_once():
    config = preset("tiny").speech
    assert config is not None
    began = time.monotonic()
    assert spell("ni3" * 2000, "Mandarin", config) == " ".join(["ni3"] * 2000)
    assert spell("ni" * 2000, "Mandarin", config) == " ".join(["ni5"] * 2000)
    for word in ("n" * 2000, "lian" * 500 + "q", "x" * 100_000, "an" * 1000 + "b"):
        with pytest.raises(ValueError, match="is no pinyin") as refusal:
            spell(word, "Mandarin", config)
        assert len(str(refusal.value)) < 200
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("[laughs] hello", "[laughs]"),
        ("hello [she laughs", "[she laughs"),
        ("ni3 hao3 (laughs)", "(laughs)"),
        ("{laughs} ha", "{laughs}"),
        ("<laughs> ha", "<laughs>"),
        ("*laughs* ha", "*laughs*"),
        ("ha *laughs", "*laughs"),
        ("ni3 hao3 【笑】", "【笑】"),
        ("ni3 hao3 （笑）", "（笑）"),  # noqa: RUF001
    ],
)
def test_stage_directions_are_not_spoken(language, text, direction):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole sentence is below
        spell(text, language, LETTERS)
    assert str(refusal.value).startswith(f"'{direction}' would be spoken: a transcript has spoken words alone; leave it out")


def test_quotation_marks_of_chinese_are_no_stage_directions():
    assert spell("「ni3 hao3」", "Mandarin", LETTERS) == "ni3 hao3"
