"""A Harmony put together of public parts: both branches compute what they did alone, and other files are refused by name."""

from pathlib import Path

import ovi_files
import pytest
import torch
from public_parts import FULL, hollow, save, save_shards, small_wan, video_tower
from rounding import ROUNDING, away
from small import small_latents

from harmony_core.conditioning import Conditioning
from harmony_core.config import InteractionConfig, preset
from harmony_core.encoders.symbols import to_symbols
from harmony_core.models.branch import Branch
from harmony_core.models.harmony import Harmony
from harmony_core.models.initialize import initialize
from harmony_core.models.interaction import Interaction
from harmony_core.runtime import Runtime
from harmony_core.training.config import read_config
from harmony_core.types import AV, Modality
from harmony_core.weights import assemble as assemble_module
from harmony_core.weights.assemble import assemble
from harmony_core.weights.checkpoint import load_checkpoint
from harmony_core.weights.convert import convert
from harmony_core.weights.files import check_keys, load_into
from harmony_core.weights.keymap import WanLayout, from_original

ROOT = Path(__file__).parents[2]
TIMES = AV(torch.full((1, 1), 0.4), torch.full((1, 1), 0.7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    save(folder / "wan.safetensors", small_wan())
    ovi_files.save_ovi(folder / "ovi.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(folder):
    """The small parts assembled, in float32."""
    assemble(folder / "wan.safetensors", folder / "ovi.safetensors", folder / "whole.safetensors", dtype="fp32")
    return load_checkpoint(folder / "whole.safetensors")


def captions(batch: int = 1) -> AV[torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    return AV(*(torch.randn(batch, n, ovi_files.TEXT, generator=source) for n in (7, 5)))


def outputs(model, *, transcript: str | None) -> tuple[AV[torch.Tensor], object]:
    told = captions()
    symbols = None if transcript is None else to_symbols([transcript], model.config.speech)
    context = model.prepare(
        Conditioning(video_caption=told.video, audio_caption=told.audio, transcript=symbols, reference=torch.randn(1, 20, 4)), 1
    )
    with torch.no_grad():
        return model(small_latents(), TIMES, context), context


def branch_alone(config, tensors) -> Branch:
    branch = Branch(config, Runtime(device="meta"))
    load_into(branch, tensors, what="the branch")
    return branch.requires_grad_(False)


def audio_tower() -> dict[str, torch.Tensor]:
    part = {k.removeprefix("audio_model."): v for k, v in ovi_files.weights().items() if k.startswith("audio_model.")}
    return {k.replace(".modulation.modulation", ".modulation"): v for k, v in part.items() if "fusion" not in k}


def test_the_video_branch_computes_what_it_did_alone(made):
    out, _ = outputs(made.model(), transcript="hello")
    alone = branch_alone(made.config.video, small_wan())
    wanted = alone(small_latents().video, TIMES.video, captions().video)
    assert wanted.std() > 0.1
    assert away(out.video, wanted) <= ROUNDING


def test_the_audio_branch_computes_what_it_did_alone(folder, tmp_path):
    """Without a transcript encoder it is told what Ovi's tower is told, and no more."""
    path = tmp_path / "m.safetensors"
    assemble(folder / "wan.safetensors", folder / "ovi.safetensors", path, dtype="fp32", transcripts=False)
    model = load_checkpoint(path).model()
    told = captions()
    context = model.prepare(Conditioning(video_caption=told.video, audio_caption=told.audio), 1)
    out = model(small_latents(), TIMES, context)
    alone = branch_alone(model.config.audio, audio_tower())
    wanted = alone(small_latents().audio, TIMES.audio, told.audio)
    assert wanted.std() > 0.1
    assert away(out.audio, wanted) <= ROUNDING


def test_with_transcripts_it_is_the_same_branch_and_a_transcript_is_more_padding(made):
    model, latents = made.model(), small_latents()
    with torch.no_grad():
        out, context = outputs(model, transcript="hello there")
        alone = branch_alone(made.config.audio, audio_tower())
        stream = alone.begin(
            latents.audio, TIMES.audio, context.text.audio, prefix=context.prefix, turn=turn(model, latents, context)
        )
        for block, text in zip(alone.blocks, stream.text, strict=True):
            stream = block.feed_forward(block.attend_text(block.attend_self(stream), text))
        assert away(out.audio, alone.finish(stream)) <= ROUNDING
        padding = alone.embed_text(torch.zeros(1, 1, ovi_files.TEXT))
        told = torch.cat([padding, alone.embed_text(captions().audio)], dim=1)
        for found, wanted in zip(context.text.audio, alone.read_context(told), strict=True):
            torch.testing.assert_close(found.k, wanted.k, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.v, wanted.v, rtol=1e-5, atol=1e-5)


def turn(model, latents, context):
    return model.audio.rotation(model.audio.layout(latents.audio, context.prefix), model.config.interaction.reference_gap)


def test_the_towers_sizes_are_their_files(made):
    video, audio = made.config.video, made.config.audio
    assert (video.dim, video.heads, video.layers, video.ffn, video.patch) == (256, 2, 3, 320, (1, 2, 2))
    assert (audio.embedding, audio.rope_axes, audio.rope_scale) == ("conv_mlp", (44,), ovi_files.ROPE_SCALE)
    assert made.config.interaction == InteractionConfig()
    assert made.config.speech == preset("5b").speech
    assert made.metadata["modelspec.description"].startswith("video branch of wan.safetensors, audio branch of ovi.safetensors")


@pytest.mark.bitwise("draw")
def test_what_is_new_is_drawn_from_the_seed_as_in_training_from_nothing_and_is_silent(folder, made, tmp_path):
    link = Interaction(made.config, Runtime()).to_video["main"]
    initialize(link, 0)
    assert torch.equal(made.tensors["interaction.layers.0.to_video.main.attn.q.weight"], link.attn.q.weight)
    for key, value in made.tensors.items():
        if key.startswith("interaction.") and ".attn.o." in key:
            assert not value.any()
    queries = [v for k, v in made.tensors.items() if k.startswith("interaction.") and k.endswith("attn.q.weight")]
    assert len({tuple(q[0, :4].tolist()) for q in queries}) == len(queries) == 9
    assert made.tensors["speech.embedding.weight"].std() > 0.01
    assert not made.tensors["null.audio"].any()
    for seed, same in ((0, True), (1, False)):
        assemble(folder / "wan.safetensors", folder / "ovi.safetensors", tmp_path / "m.safetensors", dtype="fp32", seed=seed)
        again = load_checkpoint(tmp_path / "m.safetensors").tensors
        assert torch.equal(again["speech.embedding.weight"], made.tensors["speech.embedding.weight"]) is same
        assert torch.equal(again["video.blocks.1.ffn.0.weight"], made.tensors["video.blocks.1.ffn.0.weight"])


def test_what_is_silent_can_learn(made):
    model = made.model().requires_grad_(True)
    told = captions()
    symbols = to_symbols(["hello"], made.config.speech)
    reference = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(0))
    context = model.prepare(
        Conditioning(video_caption=told.video, audio_caption=told.audio, transcript=symbols, reference=reference), 1
    )
    out = model(small_latents(), TIMES, context)
    (out.video.square().mean() + out.audio.square().mean()).backward()
    silent = [n for n, _ in model.named_parameters() if n.endswith("attn.o.weight") and n.startswith("interaction.")]
    assert len(silent) == 9
    silent.remove("interaction.layers.2.to_audio.style.attn.o.weight")  # after the last layer nothing reads the reference
    for name in (*silent, "speech.projection.weight", "speech.projection.bias"):
        assert model.get_parameter(name).grad.any(), name


@pytest.mark.parametrize(
    "form", ["model.diffusion_model.", "diffusion_model.", "diffusers", "shards", "ovi", "ovi half", "fp16"]
)
@pytest.mark.bitwise("file")
def test_every_form_of_the_video_branch_gives_the_same_model(folder, made, tmp_path, form):
    wan, path = small_wan(), tmp_path / "v.safetensors"
    if form == "diffusers":
        save(path, from_original(wan, WanLayout.DIFFUSERS))
    elif form == "shards":
        path = save_shards(tmp_path, wan)
    elif form == "fp16":
        save(path, {k: v.half() for k, v in wan.items()})
        wan = {k: v.half().float() for k, v in wan.items()}
    elif form.startswith("ovi"):
        ovi = ovi_files.weights()
        wan = video_tower(ovi)
        save(path, ovi if form == "ovi" else ovi_files.split(ovi)[0])
    else:
        save(path, {form + k: v for k, v in wan.items()} | {"first_stage_model.x": torch.zeros(1)})
    assemble(path, folder / "ovi.safetensors", tmp_path / "m.safetensors", dtype="fp32")
    found = load_checkpoint(tmp_path / "m.safetensors")
    assert found.config == made.config
    found.model()
    for key, value in wan.items():
        assert torch.equal(found.tensors[f"video.{key}"], value), key


@pytest.mark.parametrize("form", ["half", "bare half", "module", "app", "shards", "fp8"])
def test_every_form_of_the_audio_branch_gives_the_same_model(folder, made, tmp_path, form):
    ovi, path = ovi_files.weights(), tmp_path / "a.safetensors"
    tolerance = 0.0
    if "half" in form:
        save(path, ovi_files.split(ovi, prefix="" if form == "bare half" else "audio_model.", doubled=form == "half")[1])
    elif form == "shards":
        path = save_shards(tmp_path, ovi)
    elif form == "fp8":
        save(tmp_path / "plain.safetensors", ovi)
        convert(tmp_path / "plain.safetensors", path, "fp8")
        tolerance = 0.04
    else:
        path = tmp_path / "a.pt"
        torch.save({"module": ovi, "step": 3} if form == "module" else {"app": {"model": ovi}}, path)
    assemble(folder / "wan.safetensors", path, tmp_path / "m.safetensors", dtype="fp32")
    found = load_checkpoint(tmp_path / "m.safetensors")
    assert found.config == made.config
    for key, value in audio_tower().items():
        away = (found.tensors[f"audio.{key}"] - value).norm() / value.norm()
        assert away <= (tolerance if value.ndim == 2 else 0), key


def test_weights_are_written_in_one_precision_whatever_mixture_was_read(folder, tmp_path):
    wan = {k: v.bfloat16() if v.ndim > 1 else v for k, v in small_wan().items()}
    save(tmp_path / "mixed.safetensors", wan)
    assemble(tmp_path / "mixed.safetensors", folder / "ovi.safetensors", tmp_path / "m.safetensors")
    found = load_checkpoint(tmp_path / "m.safetensors")
    assert {value.dtype for value in found.tensors.values()} == {torch.bfloat16}
    found.model()


def test_full_size_files_make_the_config_that_is_fine_tuned(tmp_path):
    """By their headers alone: every key and shape of the published files, and the training config that comes along."""
    shapes = ovi_files.shapes(**FULL)
    ovi, wan = hollow(tmp_path / "o.safetensors", shapes), hollow(tmp_path / "w.safetensors", video_tower(shapes))
    parts = AV(assemble_module._open(wan, Modality.VIDEO), assemble_module._open(ovi, Modality.AUDIO))
    config = assemble_module._config(parts, preset("5b").speech)
    assert config.video == preset("5b").video == preset("ovi-720").video
    assert config.audio == preset("ovi-720").audio
    run = read_config(ROOT / "configs/harmony-5b-finetune.yaml")
    assert run.model == config
    assert run.init is not None
    model = Harmony(config, Runtime(device="meta"))
    for m in Modality:
        branch = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.startswith(f"{m.value}.")}
        check_keys(branch, parts[m].shapes, what="the branch")
    assert sum(p.numel() for p in model.parameters()) == 13_933_408_468  # docs/checkpoints.md reckons with it


# ---- bad input


def resized(width: int, channels: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes = video_tower(ovi_files.shapes(width=width, layers=layers, ffn=4 * width, text=4096, freq=256))
    return {**shapes, "patch_embedding.weight": (width, channels, 1, 2, 2)}


@pytest.mark.parametrize(
    ("width", "channels", "layers", "words"),
    [
        (5120, 16, 2, r"a 14B model of Wan \(dim 5120, 16 latent channels\)"),
        (5120, 36, 2, r"a 14B model of Wan \(dim 5120, 36 latent channels\)"),
        (1536, 16, 2, r"a 1.3B model of Wan2.1 \(dim 1536, 16 latent channels\)"),
    ],
)
def test_another_wan_is_named(folder, tmp_path, width, channels, layers, words):
    path = hollow(tmp_path / "w.safetensors", resized(width, channels, layers))
    with pytest.raises(ValueError, match=rf"w.safetensors is {words}; --video takes Wan2.2-TI2V-5B"):
        assemble(path, folder / "ovi.safetensors", tmp_path / "m.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_missing_half_an_image_model_and_a_pickle_with_code_are_one_sentence(folder, tmp_path):
    video, audio = ovi_files.split(ovi_files.weights())
    save(tmp_path / "v.safetensors", video)
    save(tmp_path / "a.safetensors", audio)
    save(tmp_path / "flux.safetensors", {f"double_blocks.{n}.img_attn.qkv.weight": torch.zeros(4, 4) for n in range(3)})
    save(tmp_path / "bare.safetensors", audio_tower())
    torch.save({"model": video, "optimizer": print}, tmp_path / "code.pt")
    good = {"video": folder / "wan.safetensors", "audio": folder / "ovi.safetensors"}
    for change, words in (
        ({"audio": "v.safetensors"}, "v.safetensors is Ovi's video half alone; --audio takes Ovi"),
        ({"video": "a.safetensors"}, "a.safetensors is Ovi's audio half alone; --video takes Wan2.2-TI2V-5B"),
        ({"audio": folder / "wan.safetensors"}, "wan.safetensors is .*; --audio takes Ovi"),
        ({"video": "bare.safetensors"}, "bare.safetensors is .*; --video takes"),
        ({"video": "flux.safetensors"}, "flux.safetensors is .*[Ii]mage.*; --video takes"),
        ({"video": "code.pt"}, "code.pt holds more than tensors and is not opened"),
        ({"video": "none.safetensors"}, "no weights file at .*none"),
        ({"audio": "ovi.gguf"}, "GGUF is neither read nor written"),
    ):
        given = good | {name: tmp_path / file for name, file in change.items()}
        with pytest.raises(ValueError, match=words) as raised:
            assemble(given["video"], given["audio"], tmp_path / "m.safetensors")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "m.safetensors").exists()


def test_branches_of_different_depth_are_refused(folder, tmp_path):
    save(tmp_path / "w.safetensors", small_wan(layers=2))
    with pytest.raises(ValueError, match="layer by layer, got 2 and 3 layers"):
        assemble(tmp_path / "w.safetensors", folder / "ovi.safetensors", tmp_path / "m.safetensors")


def test_a_file_that_lacks_weights_or_has_more_is_refused_naming_them(folder, tmp_path):
    wan = small_wan()
    del wan["blocks.1.norm3.bias"]
    save(tmp_path / "w.safetensors", wan | {"img_emb.proj.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"w.safetensors\): 1 missing: video.blocks.1.norm3.bias; 1 unexpected: video.img_emb"):
        assemble(tmp_path / "w.safetensors", folder / "ovi.safetensors", tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("given", "words"), [({"dtype": "fp8"}, "bf16, fp16, fp32, got 'fp8'"), ({"seed": -1}, "seed is 0 to")]
)
def test_bad_options(folder, tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        assemble(folder / "wan.safetensors", folder / "ovi.safetensors", tmp_path / "m.safetensors", **given)
