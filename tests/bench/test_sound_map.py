from harmony_core.bench.sound_map import BOTH, point, table


def test_maps_of_a_true_clip_point_at_the_ball_that_strikes_and_listen_to_its_sound():
    found = point("harmony-tiny", range(24))
    assert found.events > 40
    assert found.chance < found.fixed < found.maps[BOTH].own
    listening = found.maps["pictures 30 % noise"]
    assert listening.own > listening.other
    assert len(table(found).splitlines()) == 2 + len(found.maps)
