"""A data set made by several processes is the one that one process makes."""

import pytest
import torch
from processes import begin, results, together, written

from harmony_core.training.cache import LatentCache
from harmony_core.training.data import PackedClips

MAKE = """
    import sys, torch
    from pathlib import Path
    from safetensors.torch import load_file
    from harmony_core.codecs.audio import AudioCodec, AudioCodecConfig
    from harmony_core.codecs.audio_vae import AudioVAEConfig
    from harmony_core.codecs.video_vae import VideoVAE, VideoVAEConfig
    from harmony_core.codecs.vocoder import VocoderConfig
    from harmony_core.geometry import ClipSpec, Grid
    from harmony_core.training.cache import build_cache
    from harmony_core.training.data import Clip, pack
    from harmony_core.training.distributed import connected
    from harmony_core.training.store import Entry
    torch.set_num_threads(1)
    folder, count, broken = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    SPEC = ClipSpec(frames=9, height=32, width=32, grid=Grid(patch=1))

    class Made:
        spec = SPEC
        entries = tuple(Entry(file=f"{n}.mp4", video_caption=f"ball {n}", speaker="ann") for n in range(count))
        def clip(self, index):
            if index == broken:
                raise ValueError(f"{self.entries[index].file} cannot be read")
            source = torch.Generator().manual_seed(index)
            draw = lambda *shape: torch.rand(*shape, generator=source) * 2 - 1
            return Clip(draw(3, 9, 32, 32), draw(SPEC.samples), draw(4000) if index % 3 == 0 else None)

    torch.manual_seed(0)
    video = VideoVAE(VideoVAEConfig(
        encoder_width=4, decoder_width=4, multipliers=(1, 1, 1, 1), blocks=1, mean=(0.1,) * 48, std=(0.5,) * 48))
    audio = AudioCodec(AudioCodecConfig(
        vae=AudioVAEConfig(width=8, blocks=1), vocoder=VocoderConfig(width=16, rates=(16, 16), rate_kernels=(16, 16))))
    audio.audio_vae.init_weights(torch.Generator().manual_seed(0))
    audio.vocoder.init_weights(torch.Generator().manual_seed(0))
    source, seen = Made(), []
    try:
        with connected("cpu") as world:
            begin, end = world.rows(count)
            clips = ((source.entries[n], source.clip(n)) for n in range(begin, end))
            pack(clips, SPEC, folder / "clips", total=end - begin, shard_clips=3, world=world)
            build_cache(source, folder / "latents", video, audio, null_pairs=0.4, shard_clips=3, world=world,
                        progress=lambda done, total: seen.append((done, total)))
    except ValueError as error:
        print(f"harmony: {error}", file=sys.stderr)
        sys.exit(1)
    print(len(seen))
"""


def made(tmp_path, name: str, processes: int, count: int) -> tuple[PackedClips, LatentCache, list[int]]:
    folder = tmp_path / name
    folder.mkdir()
    seeds = range(processes)
    done = together(written(folder, MAKE), [str(folder), str(count), "-1"], hash_seeds=list(seeds))
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "latents", "program.py"]
    return PackedClips(folder / "clips"), LatentCache(folder / "latents"), [int(out) for out in done]


@pytest.mark.bitwise("program")
@pytest.mark.parametrize(("processes", "count"), [(2, 7), (3, 2)])
def test_several_processes_make_what_one_makes(tmp_path, processes, count):
    """Bit for bit and in the same order; also where there are fewer clips than processes."""
    *one, alone = made(tmp_path, "one", 1, count)
    *several, shared = made(tmp_path, "several", processes, count)
    total = count + round(0.4 * count)
    assert alone == [total]
    assert sum(shared) == total
    assert max(shared) <= -(-total // processes)  # each did a part
    for a, b in zip(one, several, strict=True):
        assert a.entries == b.entries
        assert (a.spec, a.made_with) == (b.spec, b.made_with)
        names = ("frames", "wave") if isinstance(a, PackedClips) else ("video", "audio")
        for clip in range(len(a)):
            assert all(torch.equal(a.row(clip, name), b.row(clip, name)) for name in names)
            theirs, ours = a.loose(clip, "reference"), b.loose(clip, "reference")
            assert (theirs is None) == (ours is None)
            assert theirs is None or torch.equal(theirs, ours)


def test_a_clip_that_one_process_cannot_read_leaves_nothing(tmp_path):
    ended = results(begin(written(tmp_path, MAKE), [str(tmp_path), "6", "5"], [0, 1]))
    assert [status for status, _, _ in ended] == [1, 1]
    assert "harmony: 5.mp4 cannot be read" in ended[1][2]
    assert "harmony: process 0 of 2 cannot reach another one" in ended[0][2]
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]
