"""What Harmony Encode tells, in a real ComfyUI."""

import itertools

import pytest
import torch
from comfy_server import Failed
from graphs import FRAMES, HEIGHT, SEED, STEPS, TOLD, WIDTH, Graph, clip_graph, node, sampled
from rounding import CHANGED, ROUNDING, away
from safetensors.torch import save_file

from harmony_core.config import preset
from harmony_core.encoders.spelling import LANGUAGES, speaking_seconds
from harmony_core.encoders.symbols import to_symbols
from harmony_core.geometry import ClipSpec
from harmony_core.guidance import Guidance, text_guidance
from harmony_core.pipeline import Pipeline, Request, generate
from harmony_core.sample import Schedule
from harmony_core.types import AV, Audio, Modality

NEAR = 1e-4
UNGUIDED = {"sync_video": 1.0, "sync_audio": 1.0}
BUILT_IN = "harmony-tiny (built in)"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def pipeline(server):
    return Pipeline.load(server.base / "models" / "checkpoints" / "small.safetensors")


def encoded(transcript: str, language: str | None = None) -> Graph:
    """The built-in checkpoint told a transcript, its symbols shown by a stock node too."""
    told = {"picture": "a face", "sound": "", "transcript": transcript} | ({} if language is None else {"language": language})
    return {
        "load": node("HarmonyLoadCheckpoint", checkpoint=BUILT_IN),
        "told": node("HarmonyEncode", model=["load", 0], clip=["load", 1], **told),
        "shown": node("PreviewAny", source=["told", 1]),
    }


def told(name: str, **changes) -> Graph:
    """A sampled clip of the small checkpoint, told other things."""
    graph = sampled(clip_graph(), name, **UNGUIDED)
    graph["told"]["inputs"] |= changes
    return graph


def latents(server, graph: Graph) -> AV[torch.Tensor]:
    server.run(graph)
    kept = server.kept(graph["keep"]["inputs"]["name"])
    return AV(kept["after.video"], kept["after.audio"])


def standalone(pipeline: Pipeline, guidance: Guidance | None = None, **request) -> AV[torch.Tensor]:
    """The latents harmony_core makes of the same, raw as ComfyUI has them."""
    spec = ClipSpec(frames=FRAMES, height=HEIGHT, width=WIDTH, grid=pipeline.model.config.grid)
    words = {"video_caption": TOLD["picture"], "audio_caption": TOLD["sound"], "transcript": TOLD["transcript"]}
    wanted = Request(spec=spec, **words, **request)
    schedule = Schedule(steps=STEPS, sampler="euler")
    made = generate(pipeline, wanted, seeds=[SEED], guidance=guidance, schedule=schedule).latents
    return AV(pipeline.video_vae.denormalise(made.video), made.audio)


def far(one: AV[torch.Tensor], other: AV[torch.Tensor]) -> float:
    return max((one[m] - other[m]).abs().max().item() for m in Modality)


@pytest.mark.parametrize(
    ("language", "transcript", "symbols"),
    [
        (None, "Hello,  World", "hello, world"),
        (None, "ni3 hao3", "ni3 hao3"),
        ("automatic", "I\u2019m “here”", "i'm here"),
        ("automatic", "Nǐhǎo!", "ni3 hao3!"),
        ("English", "Café", "cafe"),
        ("Mandarin", "nǚ'ér ma", "nv3 er2 ma5"),
        ("as written", "Ma1 ma", "ma1 ma"),
    ],
)
def test_a_transcript_is_shown_as_the_symbols_it_became(server, language, transcript, symbols):
    shown = server.run(encoded(transcript, language))
    report, count = shown["told"]["text"][0].splitlines()
    assert report == shown["shown"]["text"][0] == symbols
    assert count == f"{len(symbols)} of 64 symbols, about {speaking_seconds(symbols):.1f} s of speech"
    assert to_symbols([symbols], preset("tiny").speech).count_nonzero() == len(symbols)


def test_the_languages_are_those_of_the_core(server):
    _, options = server.get("/object_info/HarmonyEncode")["HarmonyEncode"]["input"]["optional"]["language"]
    assert tuple(options["options"]) == LANGUAGES


def test_no_transcript_is_no_speech(server):
    shown = server.run(encoded("  "))
    assert shown["told"]["text"] == ["no speech"]
    assert shown["shown"]["text"] == [""]


def test_more_words_take_longer(server):
    def seconds(transcript: str) -> float:
        return float(server.run(encoded(transcript))["told"]["text"][0].split("about ")[1].split(" s")[0])

    assert 0.2 < seconds("hello") < seconds("hello to all of you") < 3
    assert 0.1 < seconds("ni3") < seconds("ni3 hao3 peng2 you5") < 2


def test_spelling_is_all_that_a_language_changes(server):
    def clip(name: str, **changes) -> AV[torch.Tensor]:
        graph = told(name, **changes)
        graph["load"]["inputs"]["checkpoint"] = BUILT_IN
        graph["latent"]["inputs"] |= {"width": 64, "height": 64}
        graph["sampled"]["inputs"]["steps"] = 1
        return latents(server, graph)

    marks, digits = clip("marks", transcript="nǐ hǎo"), clip("digits", transcript="ni3 hao3", language="as written")
    other = clip("other", transcript="hello")
    assert away(marks, digits) <= ROUNDING
    assert away(marks.audio, other.audio) > CHANGED


@pytest.mark.parametrize(
    ("language", "transcript", "message"),
    [
        ("automatic", "I have 2 cats", "transcript: write numbers as words, got '2'"),
        ("English", "ni3 hao3", "transcript: write numbers as words, got '3'"),
        ("automatic", "你好", "transcript: '你好' is in characters; write Mandarin in pinyin"),
        ("as written", "你好", "transcript: the transcript encoder knows no '你'"),
        ("Mandarin", "hello", "transcript: 'hello' is no pinyin"),
        ("Mandarin", "ni7", "transcript: 'ni7': a syllable has one tone, from 1 to 5"),
        ("automatic", "a" * 65, "transcript: the text has 65 symbols, at most 64 fit"),
        ("Welsh", "bore da", "Value not in list"),
    ],
)
def test_a_transcript_that_cannot_be_said_is_one_sentence(server, language, transcript, message):
    with pytest.raises(Failed, match=message) as failed:
        server.run(encoded(transcript, language))
    assert len(str(failed.value).splitlines()) == 1
    server.run(encoded("hello"))


def test_one_caption_tells_both_streams(server):
    untold = latents(server, told("untold", sound=""))
    twice = latents(server, told("twice", sound=TOLD["picture"]))
    once = latents(server, told("once", sound="", one_caption=True))
    assert away(once, twice) <= ROUNDING
    assert away(once.audio, untold.audio) > CHANGED


def test_one_caption_gives_way_to_a_caption_of_the_sound(server):
    assert away(latents(server, told("alone")), latents(server, told("beside", one_caption=True))) <= ROUNDING


def negated(name: str, **words) -> Graph:
    graph = told(name)
    graph["away"] = node("HarmonyEncode", model=["load", 0], clip=["load", 1], **words)
    graph["sampled"]["inputs"] |= {"negative": ["away", 0], "text_video": 3.0, "text_audio": 2.0}
    return graph


def test_a_negative_equals_the_pipelines(server, pipeline):
    graph = negated("negative", picture="rain", sound="hum", transcript="")
    wanted = standalone(pipeline, text_guidance(AV(3.0, 2.0)), negative=AV("rain", "hum"))
    assert far(latents(server, graph), wanted) <= NEAR


def test_a_negative_of_nothing_is_as_none(server):
    empty = negated("nothing", picture="", sound="", transcript="")
    none = negated("none", picture="", sound="", transcript="")
    del none["sampled"]["inputs"]["negative"], none["away"]
    assert away(latents(server, empty), latents(server, none)) <= ROUNDING


def sounding(server, wave: torch.Tensor, rate: int = 48_000, **changes) -> Graph:
    """A clip told to speak with the voice of some sound."""
    file = f"voice-{next(NUMBERS)}.safetensors"
    save_file({"images": torch.zeros(1, 32, 48, 3), "wave": wave}, server.base / "input" / file)
    graph = told("voiced", voice=["voice", 1], **{"audio_vae": ["load", 3]} | changes)
    graph["voice"] = node("ProbeInputs", file=file, frames=1, rate=rate)
    return graph


def noise(channels: int, samples: int) -> torch.Tensor:
    return torch.rand(1, channels, samples, generator=torch.Generator().manual_seed(5)) - 0.5


def test_a_part_of_any_sound_is_a_voice(server, pipeline):
    wave = noise(2, 96_000)
    graph = sounding(server, wave, voice_start=0.5, voice_seconds=0.75)
    wanted = standalone(pipeline, voice=Audio(wave[..., 24_000:60_000], 48_000))
    assert far(latents(server, graph), wanted) <= NEAR


def test_a_voice_may_end_before_the_seconds_do(server, pipeline):
    wave = noise(1, 20_000)
    graph = sounding(server, wave, rate=22_050)
    assert far(latents(server, graph), standalone(pipeline, voice=Audio(wave, 22_050))) <= NEAR


SPOILT = torch.tensor(float("nan"))
NO_VOICE = {
    "empty": (lambda: noise(2, 0), {}, "voice: there is no sound in it"),
    "short": (lambda: noise(2, 9_600), {}, "voice: a reference voice lasts at least 0.3 s, got 0.20 s"),
    "ends": (lambda: noise(2, 48_000), {"voice_start": 0.9}, "voice: a reference voice lasts at least 0.3 s, got 0.10 s"),
    "over": (lambda: noise(2, 48_000), {"voice_start": 1.5}, "voice: nothing is left of it after 1.5 s, it lasts 1.00 s"),
    "silent": (lambda: torch.zeros(1, 2, 48_000), {}, "voice: the reference voice is silent"),
    "clipped": (lambda: noise(2, 48_000).sign(), {}, "voice: 100% of the reference voice is clipped"),
    "broken": (lambda: torch.where(noise(2, 48_000) > 0.499, SPOILT, 0.1), {}, "voice: it holds samples that are not finite"),
    "two": (lambda: noise(2, 48_000).expand(2, -1, -1).contiguous(), {}, "voice: there are 2 sounds in it; give one"),
    "no codec": (lambda: noise(2, 48_000), {"audio_vae": None}, "audio_vae: there is none in this checkpoint"),
    "other codec": (lambda: noise(2, 48_000), {"audio_vae": ["load", 2]}, "audio_vae: this VAE is not one of audio"),
}


@pytest.mark.parametrize("case", NO_VOICE)
def test_what_is_no_voice_is_one_sentence(server, case):
    wave, changes, message = NO_VOICE[case]
    graph = sounding(server, wave(), **changes)
    graph["told"]["inputs"] = {key: value for key, value in graph["told"]["inputs"].items() if value is not None}
    with pytest.raises(Failed, match=message) as failed:
        server.run(graph)
    assert str(failed.value).startswith("HarmonyEncode: ") and len(str(failed.value).splitlines()) == 1
    latents(server, told("after no voice"))


@pytest.mark.parametrize("where", ["picture", "sound"])
def test_a_caption_that_is_too_long_names_its_input(server, where):
    with pytest.raises(Failed, match=f"HarmonyEncode: {where}: the text has 30 symbols, at most 24 fit"):
        server.run(told("wrong", **{where: "x" * 30}))


def test_another_models_clip_is_refused(server):
    graph = told("wrong", clip=["other", 1])
    graph["other"] = node("HarmonyLoadCheckpoint", checkpoint=BUILT_IN)
    with pytest.raises(Failed, match="HarmonyEncode: clip: its captions are 96 wide, this model reads 16"):
        server.run(graph)
