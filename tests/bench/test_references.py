import pytest

from harmony_core.bench.references import follow, table


def test_a_reference_gives_the_material():
    found = follow("harmony-tiny", range(32))
    assert found.material.low > found.material_chance.high
    assert len(table(found).splitlines()) == 3


def test_chance_wants_several_clips():
    with pytest.raises(ValueError, match="4 or more clips are compared, got 3"):
        follow("harmony-tiny", range(3))
