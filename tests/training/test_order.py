"""Which clips a step has, with several folders, shapes and stages."""

import time
from collections import Counter

import pytest
import torch

from harmony_core.training.order import Order, StageOrder, arranged, clips_for, order, shared
from harmony_core.training.prefetch import Prefetcher


def stage(clips, *, shares=(1.0,), batches, steps=1000) -> StageOrder:
    return StageOrder(steps=steps, buckets=arranged(clips, shares, batches))


def drawn(made: Order, steps: int) -> list[list[int]]:
    return [made.clips(step) for step in range(steps)]


def test_one_folder_and_one_shape_have_the_order_of_older_runs():
    made = Order([stage({(0, 0): range(23)}, batches={0: 5}, steps=7), stage({(0, 0): range(23)}, batches={0: 5})], seed=3)
    assert drawn(made, 30) == [order(23, step, 5, 3) for step in range(30)]


def test_a_step_is_the_same_whenever_it_is_asked_for():
    stages = [stage({(0, 0): range(10), (1, 0): range(10, 40), (1, 1): range(40, 60)}, shares=(1, 3), batches={0: 2, 1: 4})]
    whole = drawn(Order(stages, seed=1), 50)
    assert Order(stages, seed=1).clips(40) == whole[40]
    back = Order(stages, seed=1)
    assert [back.clips(n) for n in (49, 0, 30)] == [whole[49], whole[0], whole[30]]
    assert drawn(Order(stages, seed=2), 50) != whole


def test_every_clip_comes_once_an_epoch_whatever_its_shape():
    """37 clips of three shapes with batches of 4, 3 and 2: no clip is ever two draws ahead of another of its shape."""
    clips = {(0, 0): range(20), (1, 0): range(20, 30), (2, 0): range(30, 37)}
    made, counts = Order([stage(clips, batches={0: 4, 1: 3, 2: 2})], seed=0), Counter()
    for step in range(400):
        batch = made.clips(step)
        buckets = [bucket for bucket, some in clips.items() if set(batch) <= set(some)]
        assert len(buckets) == 1 and len(batch) == {0: 4, 1: 3, 2: 2}[buckets[0][0]]
        counts.update(batch)
        for some in clips.values():
            assert max(counts[c] for c in some) - min(counts[c] for c in some) <= 1
    assert max(counts.values()) - min(counts.values()) <= 2  # of all shapes


def test_sources_have_their_shares_in_every_batch_and_all_together():
    """Speech and environment 1 : 1, of 10 and 90 clips, the second in two shapes."""
    clips = {(0, 0): range(10), (0, 1): range(10, 40), (1, 1): range(40, 100)}
    made, speech, total = Order([stage(clips, shares=(1, 1), batches={0: 6, 1: 6})], seed=5), 0, 0
    for step in range(300):
        batch = made.clips(step)
        here = sum(clip < 10 for clip in batch)
        assert here == 0 or here in {4, 5}  # of the first shape it is 1/2 to 1/6
        speech, total = speech + here, total + len(batch)
        assert abs(speech - total / 2) <= 6
    even = Order([stage({(0, 0): range(5), (0, 1): range(5, 50)}, shares=(1, 1), batches={0: 8})], seed=0)
    for step in range(20):
        batch = [clip < 5 for clip in even.clips(step)]
        assert sum(batch) == 4 and sum(batch[:4]) == 2  # each of two processes has as many


def test_a_stage_goes_on_where_the_one_before_stopped():
    made = Order([stage({(0, 0): range(12)}, batches={0: 4}, steps=2), stage({(0, 0): range(12)}, batches={0: 2}, steps=2)], 0)
    assert sorted(clip for batch in drawn(made, 4) for clip in batch) == list(range(12))
    with pytest.raises(IndexError):
        made.clips(4)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.9, 0.05, 0.05], [0.5, 0.2, 0.2, 0.1]])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_shares_are_kept_to_within_a_clip_or_two(weights, batch):
    had = [0] * len(weights)
    for step in range(1, 200):
        counts = shared(batch, weights, had)
        assert sum(counts) == batch and min(counts) >= 0
        had = [a + b for a, b in zip(had, counts, strict=True)]
        assert all(abs(n - w / sum(weights) * step * batch) < 2 for n, w in zip(had, weights, strict=True))


def test_a_budget_of_tokens_gives_batches_that_divide():
    assert [clips_for(budget, 100) for budget in (100, 250, 399, 400, 799, 800, 1700)] == [1, 2, 2, 4, 4, 8, 16]
    with pytest.raises(ValueError, match=r"stage\.tokens 99 is less than one clip has, 100"):
        clips_for(99, 100)


def test_batches_are_ready_before_they_are_asked_for_and_in_order():
    seen = []

    def draw(step):
        seen.append(step)
        return torch.tensor(step)

    with Prefetcher(draw, range(3, 9), device="cpu") as batches:
        waiting = iter(batches)
        assert int(next(waiting)) == 3
        for _ in range(200):
            if seen == [3, 4, 5, 6]:
                break
            time.sleep(0.01)
        assert seen == [3, 4, 5, 6]  # two lie ready, one waits for a place
        assert [int(batch) for batch in waiting] == [4, 5, 6, 7, 8]


def test_an_error_of_a_draw_is_raised_where_its_batch_is_asked_for_and_the_thread_ends():
    def draw(step):
        if step == 1:
            raise ValueError("damaged")
        return step

    with pytest.raises(ValueError, match="damaged"), Prefetcher(draw, range(5), device="cpu") as batches:
        assert next(iter(batches)) == 0
        list(batches)
    with Prefetcher(draw, [0] * 100, device="cpu") as batches:
        next(iter(batches))
    assert not batches._thread.is_alive()
