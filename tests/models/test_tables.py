from harmony_core.models.tables import Tables


def test_a_table_is_made_once_and_the_one_used_longest_ago_goes():
    tables, made = Tables(most=2), []

    def get(key: str) -> str:
        return tables.once(key, lambda: made.append(key) or key)

    assert [get(key) for key in ("a", "b", "a", "c", "a", "b")] == ["a", "b", "a", "c", "a", "b"]
    assert made == ["a", "b", "c", "b"]
    assert len(tables) == 2
