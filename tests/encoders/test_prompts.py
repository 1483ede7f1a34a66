"""Captions and transcript as one prompt in Ovi's formats."""

import pytest

from harmony_core.encoders.prompts import ovi_prompt

BOTH = ("ovi-720", "ovi-960")


def test_each_format_has_its_own_place_for_the_sound():
    words = ("A man in a suit speaks.", "Male voice, room tone.", "The network rejects human command.")
    start = "A man in a suit speaks. <S>The network rejects human command.<E> "
    assert ovi_prompt(*words, "ovi-720") == start + "<AUDCAP>Male voice, room tone.<ENDAUDCAP>"
    assert ovi_prompt(*words, "ovi-960") == start + "Audio: Male voice, room tone."


@pytest.mark.parametrize("form", BOTH)
def test_what_is_missing_leaves_nothing_behind(form):
    assert ovi_prompt("", "", "", form) == ""
    assert ovi_prompt(" a dog ", " ", "\n", form) == "a dog"
    assert ovi_prompt("", "", "hello", form) == "<S>hello<E>"
    assert "<S>" not in ovi_prompt("a dog", "barking", "", form)


@pytest.mark.parametrize("form", BOTH)
def test_every_line_of_a_transcript_is_spoken_by_itself(form):
    assert ovi_prompt("two men talk", "", "Hello.\n\n  Good evening. ", form) == "two men talk <S>Hello.<E> <S>Good evening.<E>"


@pytest.mark.parametrize("form", BOTH)
def test_speech_within_the_caption_stays_in_its_place(form):
    said = "She says, <S>Yes.<E> Then he answers, <S>No.<E> Both laugh."
    assert ovi_prompt(said, "", "", form) == said
    assert ovi_prompt(said, "laughter", "", form).startswith(said + " ")


def test_a_sound_within_the_caption_becomes_the_models_form():
    seen = "A stage. <S>Now!<E>"
    for sound in ("<AUDCAP>Guitar riffs.<ENDAUDCAP>", "Audio: Guitar riffs.", "Audio:  Guitar riffs. "):
        assert ovi_prompt(f"{seen} {sound}", "", "", "ovi-720") == f"{seen} <AUDCAP>Guitar riffs.<ENDAUDCAP>"
        assert ovi_prompt(f"{seen} {sound}", "", "", "ovi-960") == f"{seen} Audio: Guitar riffs."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a <S>b", "", ""), "speech stands between <S> and <E>"),
        (("a b<E>", "", ""), "speech stands between"),
        (("a <S>b<S>c<E><E>", "", ""), "speech stands between"),
        (("a <AUDCAP>b", "", ""), "sound between <AUDCAP> and <ENDAUDCAP>"),
        (("a", "", "<S>b<E>"), "tags such as <S> belong in the video caption alone, the transcript is put between tags"),
        (("a", "<AUDCAP>b<ENDAUDCAP>", ""), "the audio caption is put between tags"),
        (("a Audio: b", "c", ""), "the video caption holds a sound already .'b'.; leave it or the audio caption out"),
    ],
)
@pytest.mark.parametrize("form", BOTH)
def test_tags_that_do_not_fit_are_refused(form, words, message):
    with pytest.raises(ValueError, match=message):
        ovi_prompt(*words, form)
