"""Values of others in our messages: printable and short, whatever they are."""

from __future__ import annotations


def shown(value: object, limit: int = 80) -> str:
    """A value for a message.

    Text stands as it is, but for characters that cannot be printed or written (halves of characters, line ends, marks that
    turn the direction of writing), which are spelled out; anything else is its ``repr``. What is over ``limit`` characters is
    cut off.
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # somebody else's code; a number of more digits than Python prints, a list that holds itself
        text = f"some {type(value).__name__}"
    text = "".join(_spelled(character) for character in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: max(0, limit - 3)]}..."


def _spelled(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
