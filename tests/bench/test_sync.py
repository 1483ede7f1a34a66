from harmony_core.bench.sync import LATE, calibrate, table


def test_the_measure_tells_true_clips_of_the_world_from_shuffled_ones():
    found = calibrate("impact", range(12))
    assert found.clips == 12
    assert found.score > found.shuffled
    assert found.told_apart > 0.6
    assert found.doubted < found.doubted_shuffled
    assert set(found.within) == set(LATE)
    assert min(found.within_clear.values()) > 0.7
    text = table({"impact": found})
    assert len(text.splitlines()) == 2
