"""Ovi on a real ComfyUI: small random files in its layout, in every task, against ``harmony_core``'s own pipeline."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import layouts
import ovi_files
import pytest
import torch
from all_in_one import all_in_one_config
from comfy_server import Failed
from comfyui import run_beside_comfy
from graphs import SEED, Graph, node
from ovi_forms import in_eight_bits, quanto
from rounding import CHANGED, ROUNDING, away
from safetensors.torch import load_file, save_file
from small import small_branch, small_model
from standalone import far

from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import WAN_MEAN, WAN_STD, VideoVAE
from harmony_core.config import SymbolEncoderConfig
from harmony_core.encoders.symbols import to_symbols
from harmony_core.geometry import ClipSpec
from harmony_core.guidance import Guidance, sync_guidance, text_guidance
from harmony_core.pipeline import Pipeline, Request, generate
from harmony_core.runtime import Runtime
from harmony_core.sample import Schedule
from harmony_core.types import AV, Audio, Video
from harmony_core.weights.checkpoint import CodecConfigs, load_checkpoint, save_checkpoint
from harmony_core.weights.lora import Change, load_lora, merge_loras, save_lora, shapes_of
from harmony_core.weights.ovi import load_ovi

NEAR = 1e-4
SIZES = {"width": 128, "layers": 12, "ffn": 64, "text": 16, "freq": 32}
"""As many layers as it takes to leave out Ovi's layer 11."""
FRAMES, WIDTH, HEIGHT, STEPS = 13, 64, 32, 4
"""As many steps as divide 1000, the steps ComfyUI's schedules are taken from."""
WHOLE, RENAMED = "ovi_720x720.safetensors", "renamed.safetensors"
VIDEO_HALF, AUDIO_HALF = "Wan_2_2_Ovi_video_model_bf16.safetensors", "Wan_2_2_Ovi_audio_model_bf16.safetensors"
PARTS = "ovi parts.safetensors"
TOLD = {"picture": "a ball", "sound": "knock", "transcript": "Hello."}
PROMPT = "a ball <S>Hello.<E> <AUDCAP>knock<ENDAUDCAP>"
NEGATIVE = AV("blur", "echo")
TEXT = AV(4.0, 3.0)
OVI = {"sync_video": 1.0, "sync_audio": 1.0, "sync_text": "same", "text_video": 4.0, "text_audio": 3.0}
"""Ovi's own scales."""


def weights() -> dict[str, torch.Tensor]:
    return ovi_files.weights(**SIZES)


def save_parts(path: Path) -> None:
    """Codecs with Wan2.2's statistics and an encoder of short texts, in a checkpoint that lends them."""
    branches = {"video": small_branch(48, (1, 1, 1), text_len=96), "audio": small_branch(20, (1,), text_len=96)}
    config = all_in_one_config(caption=SymbolEncoderConfig(length=96, dim=16, blocks=1), **branches)
    torch.manual_seed(0)
    video, audio = VideoVAE(replace(VIDEO["tiny"], mean=WAN_MEAN, std=WAN_STD)), AudioCodec(AUDIO["tiny"])
    codecs = {**{f"video_vae.{key}": value for key, value in video.state_dict().items()}, **audio.state_dict()}
    tensors = {**small_model(config).state_dict(), **codecs}
    save_checkpoint(path, config, tensors, codecs=CodecConfigs(video=video.config, audio=audio.config))


@pytest.fixture(scope="module")
def ovi(server):
    """The server with Ovi in its folders; answers where these are."""
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(exist_ok=True)
    plain = weights()
    for name in (WHOLE, RENAMED, "dreamid_omni.safetensors"):
        ovi_files.save_ovi(folder / name, plain)
    video, audio = ovi_files.split(plain)
    save_file(video, folder / VIDEO_HALF)
    save_file(audio, folder / AUDIO_HALF)
    ovi_files.save_ovi(folder / "fp8_720x720.safetensors", {k: v.to(torch.float8_e4m3fn) for k, v in plain.items()})
    ovi_files.save_ovi(folder / "scaled_720x720.safetensors", in_eight_bits(plain))
    ovi_files.save_ovi(folder / "quanto_720x720.safetensors", quanto(plain))
    save_parts(server.base / "models" / "checkpoints" / PARTS)
    generator = torch.Generator().manual_seed(1)
    made = {
        "images": torch.rand(15, HEIGHT, WIDTH, 3, generator=generator),
        "wave": torch.rand(1, 2, 40_000, generator=generator) - 0.5,
    }
    save_file(made, server.base / "input" / "ovi.safetensors")
    return server


@pytest.fixture(scope="module")
def reference(ovi):
    """What harmony_core makes of a task: raw latents."""
    models = ovi.base / "models"
    lent = load_checkpoint(models / "checkpoints" / PARTS)
    encoder, exact = lent.model(), Runtime(dtype=torch.float32)

    @cache
    def text(said: str) -> torch.Tensor:
        return encoder.encode_captions(to_symbols([said], encoder.caption.config))

    made = load_file(ovi.base / "input" / "ovi.safetensors")
    pictures, sound = made["images"].movedim(-1, 0)[None] * 2 - 1, Audio(made["wave"], 44_100)
    given = {
        "joint": {},
        "audio": {"drive": sound},
        "video": {"drive": Video(pictures, 24.0)},
        "first": {"image": pictures[:, :, :1]},
    }
    codecs = {"video_vae": lent.video_vae(exact), "audio_codec": lent.audio_codec(exact), "text": text}

    def run(task="joint", guidance=None, *, negative=NEGATIVE, lora=None, **schedule):
        model = load_ovi(models / "diffusion_models" / WHOLE, runtime=exact)
        if lora is not None:
            merge_loras(model, [(load_lora(lora, shapes_of(model)), 0.8)])
        pipeline = Pipeline(model=model, **codecs)
        spec = ClipSpec(frames=FRAMES, height=HEIGHT, width=WIDTH, grid=model.config.grid)
        words = {"video_caption": "a ball", "audio_caption": "knock", "transcript": "Hello."}
        request = Request(spec=spec, negative=negative, **words, **given[task])
        walk = Schedule(**{"steps": STEPS, "sampler": "euler", **schedule})
        latents = generate(pipeline, request, seeds=[SEED], guidance=guidance or Guidance(), schedule=walk).latents
        return AV(pipeline.video_vae.denormalise(latents.video), latents.audio)

    return run


def told(**inputs) -> dict:
    return node("HarmonyEncode", **{"model": ["load", 0], "clip": ["parts", 1], **TOLD, **inputs})


def clip_graph(task: str = "joint", checkpoint: str = WHOLE, **loading) -> Graph:
    """Everything up to the latent of a task and Ovi's two negative texts."""
    graph = {
        "load": node("HarmonyLoadCheckpoint", checkpoint=checkpoint, **loading),
        "parts": node("HarmonyLoadCheckpoint", checkpoint=PARTS),
        "told": told(),
        "negative": told(picture=NEGATIVE.video, sound=NEGATIVE.audio, transcript="", apart=True),
        "empty": node("HarmonyEmptyLatent", model=["load", 0], seconds=0.5417, width=WIDTH, height=HEIGHT, fps=24.0, batch=1),
    }
    if task == "joint":
        return graph | {"latent": graph.pop("empty")}
    graph["inputs"] = node("ProbeInputs", file="ovi.safetensors", frames=15, rate=44_100)
    if task == "audio":
        given = {"audio_vae": ["parts", 3], "audio": ["inputs", 1], "start": 0.0}
        return graph | {"latent": node("HarmonyDriveWithAudio", latent=["empty", 0], **given)}
    kind = "HarmonyDriveWithVideo" if task == "video" else "HarmonyFirstFrame"
    return graph | {"latent": node(kind, latent=["empty", 0], video_vae=["parts", 2], images=["inputs", 0])}


VAES = {"video_vae": ["parts", 2], "audio_vae": ["parts", 3]}


def sampled(graph: Graph, name: str, **changes) -> Graph:
    """With Harmony KSampler at Ovi's scales."""
    inputs = {"model": ["load", 0], "positive": ["told", 0], "negative": ["negative", 0], "latent": ["latent", 0], **VAES}
    walk = {"seed": SEED, "steps": STEPS, "sampler_name": "euler"}
    graph["sampled"] = node("HarmonyKSampler", **{**inputs, **walk, **OVI, **changes})
    graph["keep"] = node("ProbeKeep", name=name, before=["latent", 0], after=["sampled", 0])
    return graph


def made(server, graph: Graph, name: str = "ovi", **changes) -> dict[str, torch.Tensor]:
    """What is sampled, kept."""
    server.run(sampled(graph, name, **changes))
    return {key: value for key, value in server.kept(name).items() if key.startswith("after")}


@pytest.mark.parametrize("task", ["joint", "audio", "video", "first"])
def test_every_task_equals_the_pipeline(ovi, reference, task):
    found = made(ovi, clip_graph(task))
    assert far(found, reference(task, text_guidance(TEXT, skip_layers=(11,)))) <= NEAR


@pytest.mark.parametrize("task", ["joint", "audio", "video", "first"])
@pytest.mark.bitwise("locked")
def test_what_is_given_comes_back_bit_for_bit(ovi, task):
    ovi.run(sampled(clip_graph(task), "given"))
    kept = ovi.kept("given")
    assert torch.equal(kept["before.audio"], kept["after.audio"]) == (task == "audio")
    assert torch.equal(kept["before.video"], kept["after.video"]) == (task == "video")
    assert torch.equal(kept["before.video"][:, :, 0], kept["after.video"][:, :, 0]) == (task in {"video", "first"})


SYNCED = {
    "same": (OVI | {"text_video": 1.0, "text_audio": 1.0}, sync_guidance(AV(3.0, 2.0))),
    "null": (OVI | {"text_video": 1.0, "text_audio": 1.0}, sync_guidance(AV(3.0, 2.0), text="null", skip_layers=(11,))),
    "additive": (OVI, sync_guidance(AV(3.0, 2.0), text="additive", text_scale=TEXT, skip_layers=(11,))),
}


@pytest.mark.parametrize("task", ["joint", "audio"])
@pytest.mark.parametrize("mode", SYNCED)
def test_synccfg_equals_the_pipeline(ovi, reference, mode, task):
    inputs, guidance = SYNCED[mode]
    found = made(ovi, clip_graph(task), **inputs | {"sync_video": 3.0, "sync_audio": 2.0, "sync_text": mode})
    assert far(found, reference(task, guidance)) <= NEAR


@pytest.mark.parametrize(("text", "layers"), [("automatic", (11,)), ("", ()), ("2", (2,)), ("5, 3", (3, 5))])
def test_layers_are_left_out_of_the_passes_without_the_text(ovi, reference, text, layers):
    found = made(ovi, clip_graph(), skip_layers=text)
    assert far(found, reference("joint", text_guidance(TEXT, skip_layers=layers))) <= NEAR
    other = text_guidance(TEXT, skip_layers=() if layers else (11,))
    assert far(found, reference("joint", other)) > 10 * NEAR


def test_the_guider_leaves_out_the_same_layers_and_ovis_sampler_is_there(ovi, reference):
    graph = clip_graph()
    inputs = {"model": ["load", 0], "positive": ["told", 0], "negative": ["negative", 0], **VAES, **OVI}
    graph["guider"] = node("HarmonySyncGuider", **inputs)
    graph["noise"] = node("RandomNoise", noise_seed=SEED)
    graph["walk"] = node("HarmonySampler", sampler_name="unipc", gamma=1.0)
    graph["sigmas"] = node("BasicScheduler", model=["load", 0], scheduler="simple", steps=STEPS, denoise=1.0)
    parts = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["walk", 0], "sigmas": ["sigmas", 0]}
    graph["sampled"] = node("SamplerCustomAdvanced", **parts, latent_image=["latent", 0])
    graph["keep"] = node("ProbeKeep", name="by parts", after=["sampled", 0])
    ovi.run(graph)
    wanted = reference("joint", text_guidance(TEXT, skip_layers=(11,)), sampler="unipc")
    assert far(ovi.kept("by parts"), wanted) <= NEAR


def by_stock(graph: Graph, name: str, *, cfg: float = 4.0, model=("load", 0)) -> Graph:
    """ComfyUI's own KSampler, told by its own text nodes."""
    graph["told"] = node("CLIPTextEncode", clip=["parts", 1], text=PROMPT)
    graph["negative"] = node("CLIPTextEncode", clip=["parts", 1], text="blur")
    walk = {"seed": SEED, "steps": STEPS, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    inputs = {"model": list(model), "positive": ["told", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    graph["sampled"] = node("KSampler", **inputs, **walk)
    graph["keep"] = node("ProbeKeep", name=name, after=["sampled", 0])
    return graph


def test_stock_nodes_tell_both_streams_the_prompt_and_guide_without_skipping(ovi, reference):
    ovi.run(by_stock(clip_graph(), "stock"))
    wanted = reference("joint", text_guidance(AV(4.0, 4.0)), negative=AV("blur", "blur"))
    assert far(ovi.kept("stock"), wanted) <= NEAR


def test_the_patch_skips_layers_in_a_stock_sampler(ovi, reference):
    graph = by_stock(clip_graph(), "patched", cfg=1.0, model=("sync", 0))
    graph["sync"] = node("HarmonySyncCFG", model=["load", 0], **VAES, **OVI)
    ovi.run(graph)
    wanted = reference("joint", text_guidance(TEXT, skip_layers=(11,)), negative=AV("blur", "blur"))
    assert far(ovi.kept("patched"), wanted) <= NEAR


@pytest.fixture(scope="module")
def plain(ovi):
    return made(ovi, clip_graph())


@pytest.mark.parametrize("order", [(VIDEO_HALF, AUDIO_HALF), (AUDIO_HALF, VIDEO_HALF)], ids=["video first", "audio first"])
def test_two_halves_in_either_order_are_the_whole(ovi, plain, order):
    first, second = order
    assert away(plain, made(ovi, clip_graph(checkpoint=first, other_half=second))) <= ROUNDING


@pytest.mark.parametrize("form", ["fp8", "scaled", "quanto"])
def test_files_in_eight_bits(ovi, form):
    alone = {"text_video": 1.0, "text_audio": 1.0}  # guidance makes differences larger
    plain = made(ovi, clip_graph(), **alone)
    found = made(ovi, clip_graph(checkpoint=f"{form}_720x720.safetensors"), **alone)
    for key, value in plain.items():
        assert 0 < (found[key] - value).norm() / value.norm() < 0.2, key


def test_a_model_saved_by_modelsave_gives_the_same(ovi, plain):
    graph = clip_graph(checkpoint=VIDEO_HALF, other_half=AUDIO_HALF)
    graph["save"] = node("ModelSave", model=["load", 0], filename_prefix="diffusion_models/ovi")
    ovi.run(graph)
    (written,) = (ovi.base / "output" / "diffusion_models").glob("ovi*.safetensors")
    assert away(plain, made(ovi, clip_graph(checkpoint=written.name))) <= ROUNDING


def test_a_lora_reaches_both_towers_and_what_is_between_them_and_is_taken_away(ovi, reference, plain):
    folder = ovi.base / "models" / "loras"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(5)

    def pair(out: int, inner: int) -> Change:
        up, down = torch.randn(out, 4, generator=generator) * 0.2, torch.randn(4, inner, generator=generator) * 0.2
        return Change(up=up, down=down, alpha=4.0)

    layers = {
        "video.blocks.1.self_attn.q": pair(128, 128),
        "audio.blocks.2.ffn.0": pair(64, 128),
        "interaction.layers.3.to_audio.main.attn.k": pair(128, 128),
    }
    save_lora(folder / "ovi.safetensors", layers)
    graph = clip_graph()
    graph["lora"] = node("HarmonyLoadLora", model=["load", 0], lora_name="ovi.safetensors", strength=0.8)
    found = made(ovi, graph, model=["lora", 0])
    wanted = reference("joint", text_guidance(TEXT, skip_layers=(11,)), lora=folder / "ovi.safetensors")
    assert far(found, wanted) <= NEAR
    assert away(plain, found) > CHANGED
    assert away(plain, made(ovi, clip_graph())) <= ROUNDING


def test_a_renamed_file_takes_its_size_from_the_user_and_the_prompt_its_form(ovi):
    shown = {}
    for size in ("720x720_5s", "960x960_5s", "960x960_10s"):
        graph = clip_graph(checkpoint=RENAMED, ovi_size=size)
        del graph["negative"], graph["latent"]
        graph["seen"] = node("PreviewAny", source=["told", 1])
        outputs = ovi.run(graph)
        assert "".join(outputs["seen"]["text"]) == "".join(outputs["told"]["text"])
        (shown[size],) = outputs["seen"]["text"]
    late = "a ball <S>Hello.<E> Audio: knock"
    assert shown == {"720x720_5s": PROMPT, "960x960_5s": late, "960x960_10s": late}


def test_dreamid_runs_as_ovi_where_it_is_asked_to(ovi, plain):
    before = ovi.text()
    assert away(plain, made(ovi, clip_graph(checkpoint="dreamid_omni.safetensors", ovi_size="720x720_5s"))) <= ROUNDING
    assert "its reference pictures and voices" in ovi.text().removeprefix(before)


def changed(name: str, **inputs):
    """A graph with other inputs of one node."""

    def write(graph: Graph) -> None:
        graph[name]["inputs"] |= inputs

    return write


WRONG = {
    "a half alone": (
        changed("load", checkpoint=VIDEO_HALF),
        f"HarmonyLoadCheckpoint: other_half: {VIDEO_HALF} holds Ovi's video tower alone; choose the file of its audio tower",
    ),
    "the other half alone": (changed("load", checkpoint=AUDIO_HALF), "choose the file of its video tower"),
    "the same half twice": (changed("load", checkpoint=VIDEO_HALF, other_half=VIDEO_HALF), "both .* hold Ovi's video tower"),
    "a half that is none": (changed("load", checkpoint=VIDEO_HALF, other_half="small.safetensors"), "holds no weights of Ovi"),
    "a half of what has none": (
        changed("load", checkpoint="small.safetensors", other_half=AUDIO_HALF),
        "other_half: small.safetensors is not Ovi's, and nothing else comes in halves; set it to none",
    ),
    "a name that says nothing": (changed("load", checkpoint=RENAMED), "ovi_size: the name of .*renamed.* does not say which"),
    "dreamid": (changed("load", checkpoint="dreamid_omni.safetensors"), "ovi_size: .*DreamID-Omni's, by its name"),
    "truncated": (changed("load", checkpoint="cut_720x720.safetensors"), "checkpoint: .*truncated or of another format"),
    "a half truncated": (
        changed("load", checkpoint=VIDEO_HALF, other_half="cut_720x720.safetensors"),
        "checkpoint, other_half: .*cut_720x720.*truncated or of another format",
    ),
    "a layer is missing": (changed("load", checkpoint="lacks_720x720.safetensors"), "do not fit Ovi's model: 2 missing"),
    "Wan's 14B": (
        changed("load", checkpoint="wan14b.safetensors"),
        "checkpoint: this is no Harmony checkpoint, wan14b.safetensors is a 14B transformer of Wan's.*choose a whole",
    ),
    "a voice": (changed("told", voice=["inputs", 1]), "HarmonyEncode: voice: this model takes no reference voice"),
    "two sounds": (changed("told", picture="<AUDCAP>a<ENDAUDCAP>"), "HarmonyEncode: picture, sound, transcript: .*a sound"),
    "no encoder": (changed("told", clip=["load", 1]), "HarmonyEncode: clip: .*connect Load CLIP with umT5, type wan"),
    "a transcript apart": (changed("told", apart=True), "HarmonyEncode: transcript: with apart there is no prompt"),
    "no such layer": (changed("sampled", skip_layers="12"), "HarmonyKSampler: skip_layers: this model's are 0 to 11, got 12"),
    "no layers": (changed("sampled", skip_layers="the last"), "HarmonyKSampler: skip_layers: it is numbers such as 11"),
    "nothing to go away from": (lambda graph: graph["sampled"]["inputs"].pop("negative"), "negative: this model has no"),
}


@pytest.fixture(scope="module")
def bad(ovi):
    """Files that are not what they should be."""
    folder = ovi.base / "models" / "diffusion_models"
    whole = (folder / WHOLE).read_bytes()
    (folder / "cut_720x720.safetensors").write_bytes(whole[: len(whole) // 2])
    lacks = {key: value for key, value in weights().items() if "audio_model.blocks.1.self_attn.q." not in key}
    ovi_files.save_ovi(folder / "lacks_720x720.safetensors", lacks)
    layouts.write(folder / "wan14b.safetensors", layouts.wan(**layouts.WAN_14B))
    yield ovi
    (folder / "wan14b.safetensors").unlink()


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence_on_the_node(bad, case):
    change, message = WRONG[case]
    graph = sampled(clip_graph("video"), "wrong")
    change(graph)
    with pytest.raises(Failed, match=message) as failed:
        bad.run(graph)
    assert len(str(failed.value).splitlines()) == 1


def test_the_page_is_told_ovis_grid_and_memory_and_nothing_of_symbols(ovi):
    for name in (WHOLE, VIDEO_HALF):
        about = ovi.get(f"/harmony/checkpoint?name={name}")
        assert (about["size_multiple"], about["symbols"]) == (32, 0)
        asked = {"checkpoint": name, "transcript": "Hello.", "language": "automatic"}
        assert ovi.post("/harmony/transcript", asked) == b"null"
    clip = "pictures=13&width=64&height=32&fps=24&batch=1"
    assert ovi.get(f"/harmony/memory?name={WHOLE}&{clip}")["weights"] == sum(v.nbytes for v in weights().values())
    assert "tower alone" in ovi.get(f"/harmony/memory?name={VIDEO_HALF}&{clip}")["error"]


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """What a script found with ComfyUI's own umT5 and its loaders at hand."""
    folder = tmp_path_factory.mktemp("ovi")
    plain = ovi_files.weights(**SIZES | {"text": 4096})
    ovi_files.save_ovi(folder / WHOLE, plain)
    ovi_files.save_ovi(folder / "fp8_720x720.safetensors", {k: v.to(torch.float8_e4m3fn) for k, v in plain.items()})
    ovi_files.save_ovi(folder / "scaled_720x720.safetensors", in_eight_bits(plain))
    ovi_files.save_ovi(folder / "quanto_720x720.safetensors", quanto(plain))
    for half, name in zip(ovi_files.split(plain), (VIDEO_HALF, AUDIO_HALF), strict=True):
        save_file(half, folder / name)
    return run_beside_comfy(Path(__file__).with_name("beside_ovi.py"), str(folder), VIDEO_HALF, AUDIO_HALF)


@pytest.mark.parametrize(
    "what",
    [
        "prompt_is_the_stock_caption",
        "both_are_told_it",
        "the_rest_is_zero",
        "an_empty_negative_is_told",
        "apart_is_apart",
        "samples",
        "scaled_layers_stay_in_eight_bits",
        "scaled_is_the_plain_one",
        "a_second_copy_of_two_halves_is_the_same",
        "a_second_copy_is_another",
    ],
)
def test_beside_comfyuis_umt5(beside, what):
    assert beside[what]


@pytest.mark.parametrize("form", ["ovi", "fp8", "scaled", "quanto"])
def test_memory_that_is_told_is_memory_that_is_taken(beside, form):
    for told, taken in beside["memory"][form].values():
        # A quantised layer's notes are no memory of the model.
        assert told == pytest.approx(taken, rel=0.01 if form == "scaled" else 0)
