import json

import pytest
import torch

from harmony_core.geometry import ClipSpec, Grid
from harmony_core.media import write_video, write_wav
from harmony_core.progress import Cancelled
from harmony_core.training.cache import LatentCache, build_cache, fingerprint
from harmony_core.training.data import Clip, MediaFolder, PackedClips, open_source, pack_clips
from harmony_core.training.draws import generator
from harmony_core.training.order import order
from harmony_core.training.store import Entry, Store, writing
from harmony_core.types import Audio, Video

SPEC = ClipSpec(frames=9, height=32, width=32, grid=Grid(patch=1))


class Made:
    """Clips out of nothing: what any generator of clips looks like to the trainer."""

    spec = SPEC
    entries = tuple(Entry(file=f"{n}", transcript="hi", speaker="ann") for n in range(3))

    def clip(self, index: int) -> Clip:
        source = torch.Generator().manual_seed(index)
        frames = torch.rand(3, 9, 32, 32, generator=source) * 2 - 1
        wave = torch.rand(SPEC.samples, generator=source) - 0.5
        return Clip(frames, wave, wave[:3000] if index == 1 else None)


def write_folder(folder, lines):
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        frames = torch.rand(1, 3, 9, 32, 32) * 2 - 1
        write_video(folder / name, Video(frames, 24.0), Audio(torch.rand(1, 1, SPEC.samples) - 0.5, 16_000))
    write_wav(folder / "voice.wav", Audio(torch.rand(1, 2, 8000) - 0.5, 8000))
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


LINES = [
    {"file": "a.mp4", "video_caption": "red", "audio_caption": "knock", "transcript": "hi", "reference": "voice.wav"},
    {"file": "b.mp4", "speaker": "ann", "meta": {"events": [0.5]}},
]


def test_any_folder_of_videos_is_a_data_set(tmp_path):
    source = open_source(write_folder(tmp_path / "d", LINES), SPEC)
    assert isinstance(source, MediaFolder)
    assert source.entries[0].transcript == "hi"
    clip = source.clip(0)
    assert clip.frames.shape == (3, 9, 32, 32)
    assert clip.wave.shape == (SPEC.samples,)
    assert clip.reference.shape == (16_000,)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, {"file": "a.mp4", "catpion": "x"}], r"manifest\.jsonl, line 3 has unknown field\(s\) catpion"),
        ([{"video_caption": "x"}], r"line 1 lacks field\(s\) file"),
        ([{"file": "a.mp4", "transcript": 3}], "line 1.transcript is str"),
        ([{"file": "c.mp4"}, {"file": "a.mp4", "reference": "d.wav"}], "names 2 missing file.*c.mp4, d.wav"),
        ([], "lists no clip"),
        (["x"], "line 1 is an object"),
    ],
)
def test_a_wrong_manifest_is_refused_by_line(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        open_source(write_folder(tmp_path / "d", lines), SPEC)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.jsonl"):
        open_source(tmp_path / "none", SPEC)


def test_packed_clips_are_the_clips(tmp_path):
    packed = pack_clips(Made(), tmp_path / "p", shard_clips=2)
    assert isinstance(open_source(tmp_path / "p", SPEC), PackedClips)
    for n in range(3):
        made, read = Made().clip(n), packed.clip(n)
        assert (made.frames - read.frames).abs().max() < 1 / 127
        assert (made.wave - read.wave).abs().max() < 1e-4
        assert (read.reference is None) == (made.reference is None)
    with pytest.raises(ValueError, match="the config wants"):
        open_source(tmp_path / "p", ClipSpec(frames=13, height=32, width=32, grid=Grid(patch=1)))


def test_a_cancelled_or_failing_writer_leaves_nothing(tmp_path):
    def stop(done, total):
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        pack_clips(Made(), tmp_path / "p", shard_clips=1, progress=stop)
    assert not list(tmp_path.iterdir())
    assert len(pack_clips(Made(), tmp_path / "p")) == 3
    with pytest.raises(ValueError, match="is there already"):
        pack_clips(Made(), tmp_path / "p")


def test_a_cache_holds_what_the_codecs_give_and_the_null_pairs(tmp_path, codecs):
    cache = build_cache(Made(), tmp_path / "c", *codecs, null_pairs=0.34)
    assert len(cache) == 4
    assert [e.null for e in cache.entries] == [False, False, False, True]
    clip = Made().clip(0)
    latents = cache.latents([0, 3])
    assert torch.allclose(latents.video[0], codecs[0].encode(clip.frames[None])[0], atol=2e-3)
    still = clip.frames[:, :1].expand(-1, 9, -1, -1)
    assert torch.allclose(latents.video[1], codecs[0].encode(still[None].contiguous())[0], atol=2e-3)
    silence = codecs[1].encode(Audio(torch.zeros(1, 1, SPEC.samples), 16_000))[0]
    assert torch.allclose(latents.audio[1], silence, atol=2e-3)
    assert cache.entries[3].transcript == ""
    assert cache.loose(1, "reference").shape == (20, 6)
    assert cache.made_with == fingerprint(*codecs)


def test_every_third_null_pair_is_even_grey(tmp_path, codecs):
    cache = build_cache(Made(), tmp_path / "c", *codecs, null_pairs=1.0)
    assert [e.null for e in cache.entries] == [False] * 3 + [True] * 3
    grey = codecs[0].encode(torch.zeros(1, 3, 9, 32, 32))[0]
    assert [torch.allclose(video, grey, atol=2e-3) for video in cache.latents([3, 4, 5]).video] == [False, False, True]


@pytest.mark.bitwise("copy")
def test_a_still_keeps_the_reference_of_its_clip(tmp_path, codecs):
    """As SyncCFG's anchors do; else silence would be learnt from a silent reference."""
    cache = build_cache(Made(), tmp_path / "c", *codecs, null_pairs=1.0)
    assert torch.equal(cache.loose(4, "reference"), cache.loose(1, "reference"))
    assert [cache.reference(n, 0) is None for n in range(6)] == [False] * 6  # the speaker is Ann in all of them


def test_a_fingerprint_knows_every_weight(codecs):
    before = fingerprint(*codecs)
    weight = codecs[1].vocoder.conv_post.bias
    old = weight.clone()
    weight += 1e-6
    assert fingerprint(*codecs) != before
    weight.copy_(old)
    assert fingerprint(*codecs) == before


def test_an_epoch_has_every_clip_once_in_an_order_of_its_own():
    epochs = [order(12, step, 6, seed=1) for step in range(4)]
    first, second = epochs[0] + epochs[1], epochs[2] + epochs[3]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert sorted(order(5, 0, 10, seed=0)) == sorted(list(range(5)) * 2)  # a batch may span epochs


def test_random_sources_differ_with_every_argument():
    draws = {
        float(torch.rand((), generator=generator(seed, step, stream)))
        for seed in range(4)
        for step in range(4)
        for stream in range(4)
    }
    assert len(draws) == 64


@pytest.mark.parametrize("damage", ["cut", "kind", "count", "gone"])
def test_a_damaged_store_is_refused(tmp_path, damage):
    with writing(tmp_path / "s", kind="latents", spec=SPEC) as writer:
        writer.add(Entry(file="a"), {"video": torch.zeros(1), "audio": torch.zeros(1)})
    index, shard = tmp_path / "s" / "index.json", tmp_path / "s" / "clips-00000.safetensors"
    record = json.loads(index.read_text())
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-2])
    elif damage == "gone":
        shard.unlink()
    else:
        record |= {"kind": "clips"} if damage == "kind" else {"counts": [2]}
        index.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"damaged|latents are needed|contradicts itself"):
        LatentCache(tmp_path / "s")


def test_a_store_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one clip"), writing(tmp_path / "s", kind="latents", spec=SPEC):
        pass
    with pytest.raises(ValueError, match="no packed clips"):
        Store(tmp_path, kind="clips")
