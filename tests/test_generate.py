"""The whole path, codecs included, on random weights."""

import pytest
import torch
from rounding import CHANGED, ROUNDING, away
from small import small_branch

from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.config import HarmonyConfig, SymbolEncoderConfig
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.guidance import sync_guidance, text_guidance
from harmony_core.models.harmony import Harmony
from harmony_core.pipeline import Pipeline, Request, generate
from harmony_core.progress import Cancelled
from harmony_core.sample import Schedule
from harmony_core.types import AV, Audio, Video
from harmony_core.weights.checkpoint import CodecConfigs, save_checkpoint

GRID = Grid(patch=1)
SPEC = ClipSpec(frames=9, height=32, width=48, grid=GRID)
SHORT = Schedule(steps=2, sampler="euler")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    torch.manual_seed(0)
    config = HarmonyConfig(
        video=small_branch(48, (1, 1, 1), text_len=24),
        audio=small_branch(20, (1,), text_len=24),
        speech=SymbolEncoderConfig(symbols=" abc", length=6, dim=16, blocks=1),
        caption=SymbolEncoderConfig(length=24, dim=16, blocks=1),
        grid=GRID,
    )
    model = Harmony(config)
    model.initialize(0)
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.std() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    for symbols in (model.caption, model.speech):  # each as strong as one that was learnt, so that every word is heard
        torch.nn.init.normal_(symbols.embedding.weight)
    codecs = VideoVAE(VIDEO["tiny"]), AudioCodec(AUDIO["tiny"])
    return Pipeline(
        model=model.requires_grad_(False),
        video_vae=codecs[0].requires_grad_(False),
        audio_codec=codecs[1].requires_grad_(False),
    )


def make(pipeline, seeds=(1,), **request):
    more = {key: request.pop(key) for key in ("guidance", "schedule", "on_step", "on_decode") if key in request}
    return generate(pipeline, Request(**{"spec": SPEC, **request}), seeds=seeds, **{"schedule": SHORT, **more})


def tone(seconds: float, rate: int = 16_000, channels: int = 1) -> Audio:
    t = torch.arange(round(seconds * rate)) / rate
    return Audio(0.3 * torch.sin(2 * torch.pi * 220 * t).expand(1, channels, -1), rate)


def picture(frames: int = 1) -> torch.Tensor:
    return torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_picture_and_sound_are_of_one_length(pipeline):
    clip = make(pipeline, (1, 2), video_caption="a ball", audio_caption="a knock", transcript="abc", voice=tone(0.5))
    assert clip.video.frames.shape == (2, 3, 9, 32, 48)
    assert clip.audio.waveform.shape == (2, 1, SPEC.samples)
    assert clip.video.frames.abs().max() <= 1
    assert clip.audio.waveform.abs().max() <= 1
    assert away(clip.video.frames[0], clip.video.frames[1]) > CHANGED


@pytest.mark.bitwise("program")
def test_every_word_counts_and_the_same_request_gives_the_same_clip(pipeline):
    base = {"video_caption": "a ball", "audio_caption": "a knock", "transcript": "abc", "voice": tone(0.5)}
    first = make(pipeline, **base).latents
    again = make(pipeline, **base).latents
    assert torch.equal(first.video, again.video)
    assert torch.equal(first.audio, again.audio)
    for change in ({"video_caption": "a cube"}, {"audio_caption": "a bell"}, {"transcript": "cab"}, {"voice": tone(0.6)}):
        other = make(pipeline, **{**base, **change}).latents
        assert away(first.audio, other.audio) > CHANGED


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (11_025, 6)])
@pytest.mark.bitwise("locked")
def test_driving_sound_comes_back_as_it_was_cut_to_the_clip(pipeline, rate, channels):
    song = tone(1.0, rate, channels)
    clip = make(pipeline, drive=song)
    samples = round(SPEC.seconds * rate)
    assert torch.equal(clip.audio.waveform, song.waveform[..., :samples])
    assert clip.audio.sample_rate == rate
    assert abs(clip.audio.seconds - clip.video.seconds) < 1 / rate


@pytest.mark.bitwise("locked")
def test_driving_pictures_come_back_as_they_were(pipeline):
    film = Video(picture(20), 24.0)
    clip = make(pipeline, drive=film, guidance=sync_guidance(AV(3.0, 2.0)))
    assert torch.equal(clip.video.frames, film.frames[:, :, :9])
    assert clip.audio.waveform.shape[-1] == SPEC.samples


def test_a_first_picture_is_the_first_latent(pipeline):
    clip = make(pipeline, image=picture(), guidance=sync_guidance(AV(3.0, 2.0)))
    assert away(clip.latents.video[:, :, :1], pipeline.video_vae.encode(picture())) <= ROUNDING


def test_anchors_go_through_their_codecs(pipeline):
    anchors = pipeline.anchors(SPEC, picture())
    assert anchors.video.shape == SPEC.video_shape()
    assert anchors.audio.shape == SPEC.audio_shape()
    assert away(anchors.video[:, :, 0], anchors.video[:, :, 1]) > CHANGED
    assert anchors.audio.abs().max() > 0


def test_a_negative_caption_is_gone_away_from(pipeline):
    guidance = text_guidance(AV(4.0, 4.0))
    plain = make(pipeline, video_caption="a", guidance=guidance).latents.video
    assert away(plain, make(pipeline, video_caption="a", negative=AV("b", ""), guidance=guidance).latents.video) > CHANGED


def test_decoding_tells_its_progress_and_can_be_cancelled(pipeline):
    told = []
    make(pipeline, on_decode=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0

    def stop(done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        make(pipeline, on_decode=stop)


def test_an_all_in_one_file_makes_the_same_clip(pipeline, tmp_path):
    path = tmp_path / "all.safetensors"
    video = {f"video_vae.{key}": value for key, value in pipeline.video_vae.state_dict().items()}
    tensors = {**pipeline.model.state_dict(), **video, **pipeline.audio_codec.state_dict()}
    codecs = CodecConfigs(video=pipeline.video_vae.config, audio=pipeline.audio_codec.config)
    save_checkpoint(path, pipeline.model.config, tensors, codecs=codecs)
    ours, theirs = (make(p, transcript="abc") for p in (pipeline, Pipeline.load(path)))
    assert away(ours.video.frames, theirs.video.frames) <= ROUNDING
    assert away(ours.audio.waveform, theirs.audio.waveform) <= ROUNDING


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"voice": tone(0.2)}, "lasts at least 0.3 s, got 0.20 s"),
        ({"voice": Audio(torch.zeros(1, 1, 16_000), 16_000)}, "voice is silent"),
        ({"voice": Audio(torch.ones(1, 1, 16_000), 16_000)}, "100% of the reference voice is clipped"),
        ({"voice": Audio(torch.full((1, 1, 16_000), float("nan")), 16_000)}, "not finite"),
        ({"image": torch.zeros(1, 3, 1, 64, 64)}, "a first picture of this clip is"),
        ({"image": picture(), "drive": Video(picture(9), 24.0)}, "leave the first picture out"),
        ({"drive": tone(0.1)}, "the sound lasts 0.10 s, the clip 0.38 s; make the clip shorter"),
        ({"drive": Video(picture(5), 24.0)}, "there are 5 pictures, the clip has 9"),
        ({"drive": Video(picture(9), 30.0)}, "at 24 fps, got 32 x 48 at 30 fps"),
        ({"spec": ClipSpec(frames=9, height=32, width=32)}, "the clip is made for Grid.*, the checkpoint for Grid"),
        ({"transcript": "xyz"}, "knows no 'x'"),
        ({"transcript": "abcabca"}, "has 7 symbols, at most 6"),
        ({"video_caption": "a" * 25}, "has 25 symbols, at most 24"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline, request_, message):
    with pytest.raises(ValueError, match=message):
        make(pipeline, **request_)
