import pytest

from harmony_core.shown import shown


class Silent:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Größe 3", "Größe 3"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("half \ud800", "half \\ud800"),
        ("turned \u202e", "turned \\u202e"),
        ([1, "a"], "[1, 'a']"),
        (None, "None"),
        (10**5000, "some int"),
        (Silent(), "some Silent"),
    ],
    ids=range(8),
)
def test_a_value_is_printable(value, text):
    assert shown(value) == text
    assert shown(value).encode().decode().isprintable()


@pytest.mark.parametrize("limit", [3, 10, 80])
@pytest.mark.parametrize("value", ["x" * 5000, "\n" * 5000, ["x" * 5000]])
def test_a_value_is_short(value, limit):
    assert len(shown(value, limit)) == limit
    assert shown(value, limit).endswith("...")
