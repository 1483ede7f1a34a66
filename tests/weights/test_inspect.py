"""Every kind of file is known by what is in it, and what is not known is said to be so."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import layouts
import pytest
import torch
from all_in_one import SPEC, all_in_one_config, save_all_in_one
from safetensors.torch import save_file
from small import small_branch, small_clip, small_config, small_latents, small_model

from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.config import FORMAT_KEY, preset
from harmony_core.models.branch import Branch
from harmony_core.runtime import Runtime
from harmony_core.weights.audio_codec import to_comfyui, to_mmaudio
from harmony_core.weights.checkpoint import CodecConfigs, save_checkpoint
from harmony_core.weights.inspect import inspect
from harmony_core.weights.keymap import WanLayout, from_original
from harmony_core.weights.latents import save_latents
from harmony_core.weights.video_vae import to_diffusers


def saved(path, tensors, metadata=None):
    save_file({key: value.clone() for key, value in tensors.items()}, str(path), metadata=metadata)
    return path


def test_a_harmony_checkpoint_says_all_about_itself(tmp_path):
    path = save_all_in_one(tmp_path / "all.safetensors")
    found = inspect(path)
    assert found.kind == "harmony"
    assert found.what == "a Harmony checkpoint of format 1, with its video and audio codecs"
    assert found.config == all_in_one_config()
    assert found.clip == SPEC
    assert found.codecs == CodecConfigs(video=VIDEO["tiny"], audio=AUDIO["tiny"])
    assert found.metadata["modelspec.title"] == "small"
    assert not [key for key in found.metadata if "config" in key]
    assert found.size == path.stat().st_size
    assert found.dtypes == ("float32",)
    parts = {part.name: part for part in found.parts}
    assert set(parts) == {"video", "audio", "interaction", "speech", "caption", "video_vae", "audio_vae", "vocoder"}
    assert sum(part.parameters for part in found.parts) == found.parameters
    assert sum(part.tensors for part in found.parts) == found.tensors


def test_shards_are_one_checkpoint(tmp_path):
    model = small_model()
    save_checkpoint(tmp_path / "m.safetensors", model.config, model.state_dict(), shard_bytes=50_000)
    found = inspect(tmp_path / "m.safetensors.index.json")
    assert found.what.endswith("without codecs")
    assert found.files > 3
    assert found.tensors == len(model.state_dict())
    assert found.config == small_config()
    next(tmp_path.glob("m-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="lists the shard .*, which is not beside it"):
        inspect(tmp_path / "m.safetensors.index.json")


@pytest.mark.parametrize("layout", list(WanLayout))
def test_a_wan_transformer_is_known_in_all_its_names(tmp_path, layout):
    branch = Branch(small_branch(48, (1, 2, 2)), Runtime())
    found = inspect(saved(tmp_path / "wan.safetensors", from_original(branch.state_dict(), layout)))
    assert found.kind == "wan"
    assert "not TI2V-5B: dim 48, 48 channels, 2 layers" in found.what
    assert ("diffusers'" in found.what) == (layout is WanLayout.DIFFUSERS)


# ---- published files, header for header

TEXT, VIDEO_VAE, SOUND = "text encoder umT5-xxl", "video VAE", ["audio VAE", "vocoder"]
CODECS = [VIDEO_VAE, *SOUND]
APACHE, NO_COMMERCE = "Apache-2.0", "CC-BY-NC-4.0: not for commercial use"
WAN = "Wan2.2-TI2V-5B's video transformer, in its original names"
OVI = "weights in Ovi's names, its video and audio towers"
VIDEO_HALF, AUDIO_HALF = "weights in Ovi's names, its video tower alone", "weights in Ovi's names, its audio tower alone"
FP8, INT8 = ", quantised to float8_e4m3fn with scales beside the weights", ", quantised to int8 as quanto stores it"
UMT5 = "the text encoder umT5-xxl, in"
MMAUDIO = "an audio VAE in MMAudio's names, of 20 latent channels (16 kHz: 20), without a vocoder"
BIGVGAN = "a BigVGAN vocoder, without a VAE"
LACKS_VOCODER = ["vocoder", "joint model", TEXT, VIDEO_VAE]
LACKS_AUDIO_VAE = ["audio VAE", "joint model", TEXT, VIDEO_VAE]

# what it is, what is missing, licence, folder of ComfyUI
FOUND = {
    "wan2.2_ti2v_5B_fp16.safetensors": (WAN, ["audio branch", TEXT, *CODECS], APACHE, "diffusion_models"),
    "diffusion_pytorch_model.safetensors.index.json": (WAN, ["audio branch", TEXT, *CODECS], APACHE, "diffusion_models"),
    "model.safetensors": (OVI, [TEXT, *CODECS], APACHE, "diffusion_models"),
    "model_960x960.safetensors": (OVI, [TEXT, *CODECS], APACHE, "diffusion_models"),
    "model_960x960_10s.safetensors": (OVI, [TEXT, *CODECS], APACHE, "diffusion_models"),
    "model_fp8_e4m3fn.safetensors": (OVI + ", in float8_e4m3fn without scales", [TEXT, *CODECS], APACHE, "diffusion_models"),
    "Wan_2_2_Ovi_video_model_bf16.safetensors": (
        VIDEO_HALF, ["Ovi's audio tower", TEXT, *CODECS], APACHE, "diffusion_models",
    ),
    "Wan_2_2_Ovi_audio_model_bf16.safetensors": (
        AUDIO_HALF, ["Ovi's video tower", TEXT, *CODECS], APACHE, "diffusion_models",
    ),
    "Wan2_2-5B-Ovi_960x960_10s_fp8_e4m3fn_scaled_KJ.safetensors": (OVI + FP8, [TEXT, *CODECS], APACHE, "diffusion_models"),
    "wan2.2_ovi_video_10B_quanto_bf16_int8.safetensors": (
        VIDEO_HALF + INT8, ["Ovi's audio tower", TEXT, *CODECS], APACHE, "diffusion_models",
    ),
    "wan2.2_ovi_audio_10B_quanto_bf16_int8.safetensors": (
        AUDIO_HALF + INT8, ["Ovi's video tower", TEXT, *CODECS], APACHE, "diffusion_models",
    ),
    "dreamid_omni.safetensors": (OVI, [TEXT, *CODECS], APACHE, "diffusion_models"),
    "Wan2.2_VAE.pth": ("Wan2.2's video VAE, in its original names", ["joint model", TEXT, *SOUND], APACHE, "vae"),
    "wan2.2_vae.safetensors": ("Wan2.2's video VAE, in its original names", ["joint model", TEXT, *SOUND], APACHE, "vae"),
    "v1-16.pth": (MMAUDIO, LACKS_VOCODER, NO_COMMERCE, ""),
    "best_netG.pt": (BIGVGAN, LACKS_AUDIO_VAE, NO_COMMERCE, ""),
    "mmaudio_vae_16k_bf16.safetensors": (MMAUDIO, LACKS_VOCODER, NO_COMMERCE, ""),
    "mmaudio_vocoder_bigvgan_best_netG_bf16.safetensors": (BIGVGAN, LACKS_AUDIO_VAE, NO_COMMERCE, ""),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": (
        f"{UMT5} ComfyUI's names{FP8}", ["joint model", *CODECS], APACHE, "text_encoders",
    ),
    "umt5_xxl_fp16.safetensors": (f"{UMT5} ComfyUI's names", ["joint model", *CODECS], APACHE, "text_encoders"),
    "models_t5_umt5-xxl-enc-bf16.pth": (f"{UMT5} its original names", ["joint model", *CODECS], APACHE, ""),
}  # fmt: skip


def test_every_published_file_has_its_line():
    assert FOUND.keys() == layouts.PUBLISHED.keys()


@pytest.mark.parametrize("name", FOUND)
def test_a_published_file_is_known(tmp_path, name):
    path = layouts.PUBLISHED[name](tmp_path / name)
    found = inspect(path)
    what, missing, licence, folder = FOUND[name]
    assert (found.what, found.licence, found.folder) == (what, licence, folder)
    assert [piece.name for piece in found.missing] == missing
    assert all(piece.sources and all(source.files for source in piece.sources) for piece in found.missing)
    assert found.purpose
    assert not [note for note in found.notes if "incomplete" in note or "not usable" in note]


def test_the_layouts_are_those_of_the_modules():
    """What the files above are made of, against the models themselves."""
    assert layouts.wan() == layouts.of(Branch(preset("5b").video, Runtime(device="meta")))
    assert sum(prod(shape) for shape in layouts.ovi().values()) == 11_660_753_108
    assert layouts.video_vae() == layouts.of(VideoVAE(VIDEO["wan2.2"], Runtime(device="meta")))


def test_the_text_encoder_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        theirs = layouts.of(transformers.UMT5EncoderModel(config))
    theirs.pop("encoder.embed_tokens.weight", None)  # the same table twice
    assert theirs == layouts.umt5()


def test_wans_relatives_are_told_apart_by_their_shapes(tmp_path):
    fun, camera = layouts.wan(channels=100), layouts.wan() | {"control_adapter.conv.weight": (3072, 24, 2, 2)}
    files = {
        "a 14B transformer of Wan's for text to video": (layouts.wan(**layouts.WAN_14B), "5120 wide with 40 layers"),
        "a 1.3B transformer of Wan's for text to video": (layouts.wan(**layouts.WAN_1B), "16 channels, not the 48"),
        "a 14B transformer of Wan's for image to video": (
            layouts.wan(**layouts.WAN_14B | {"channels": 36}) | layouts.IMAGE_LAYERS,
            "takes 36 channels and gives 16",
        ),
        "a 14B transformer of Wan's for VACE": (
            layouts.wan(**layouts.WAN_14B) | {"vace_patch_embedding.weight": (5120, 96, 1, 2, 2)},
            "vace_patch_embedding",
        ),
        "a 5B transformer of Wan's for image to video or control": (fun, "takes 100 channels and gives 48"),
        "a 5B transformer of Wan's for camera control": (camera, "control_adapter"),
        "a 5B transformer of Wan's for text to video, not TI2V-5B": (
            layouts.wan() | {"blocks.0.cross_attn.k_img.weight": (3072, 3072)},
            "layers of another task (cross_attn.k_img)",
        ),
    }
    for what, (shapes, why) in files.items():
        found = inspect(layouts.write(tmp_path / "wan.safetensors", shapes))
        assert found.what.startswith(what)
        assert "not TI2V-5B" in found.what
        (note,) = found.notes
        assert note.startswith("not usable as video branch, because ")
        assert why in note
        assert not found.purpose and not found.missing and not found.folder


@pytest.mark.parametrize("layout", list(WanLayout))
@pytest.mark.parametrize("stored", ["plain", "old scales", "new scales", "quanto"])
def test_the_published_size_is_known_in_all_its_names_and_precisions(tmp_path, layout, stored):
    path, shapes = tmp_path / "w.safetensors", layouts.wan(layout=layout)
    if stored == "plain":
        layouts.write(path, shapes)
    elif stored == "quanto":
        layouts.quanto(path, shapes)
    else:
        layouts.scaled(path, shapes, scale="scale_weight" if stored == "old scales" else "weight_scale", mark=stored[0] == "o")
    found = inspect(path)
    assert found.what.startswith("Wan2.2-TI2V-5B's video transformer, in ")
    assert ("diffusers'" in found.what) == (layout is WanLayout.DIFFUSERS)
    assert {"plain": "names", "quanto": INT8}.get(stored, FP8) in found.what
    assert not found.notes


def test_a_file_that_is_not_whole_is_said_to_be_so(tmp_path):
    shapes = layouts.wan()
    first = {key: shapes[key] for key in list(shapes)[:200]}
    later = {key: shapes[key] for key in list(shapes)[200:400]}
    name = "diffusion_pytorch_model-00001-of-00003.safetensors"
    for part, known in ((first, ""), (later, "a part of a transformer of Wan's design, 200 tensors")):
        found = inspect(layouts.write(tmp_path / name, part))
        assert found.what.startswith(known)
        assert "give diffusion_pytorch_model.safetensors.index.json" in found.notes[-1]
    half = {key: shape for key, shape in layouts.ovi().items() if "blocks.29." not in key}
    assert "29 layers" in " ".join(inspect(layouts.write(tmp_path / "ovi.safetensors", half)).notes)
    lacks = {key: shape for key, shape in shapes.items() if key != "blocks.7.ffn.2.bias"}
    assert "incomplete: 824 of 825 tensors" in inspect(layouts.write(tmp_path / "w.safetensors", lacks)).notes[0]


@pytest.mark.parametrize("wrap", [("module",), ("app", "model")])
def test_ovi_is_known_in_a_pickle_whatever_it_is_nested_in(tmp_path, wrap):
    found = inspect(layouts.pickled(tmp_path / "ovi.pt", layouts.ovi(), wrap=wrap))
    assert (found.what, found.tensors) == (OVI, len(layouts.ovi()))


def test_names_tell_apart_what_has_the_same_tensors(tmp_path):
    said = {
        "model.safetensors": "720x720_5s",
        "model_960x960.safetensors": "960x960_5s",
        "model_960x960_10s.safetensors": "960x960_10s",
        "mine.safetensors": "none of",
        "dreamid_omni.safetensors": "DreamID-Omni, whose tensors are Ovi's: its reference pictures and voices",
    }
    for name, words in said.items():
        notes = inspect(layouts.write(tmp_path / name, layouts.ovi())).notes
        assert words in " ".join(notes)


def test_a_pickle_of_many_gigabytes_is_not_read(tmp_path):
    path = layouts.PUBLISHED["models_t5_umt5-xxl-enc-bf16.pth"](tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    assert path.stat().st_size > 11e9
    if not Path("/proc/self/io").exists():
        pytest.skip("what a process reads is counted on Linux alone")
    code = (
        "import sys; from harmony_core.weights.inspect import inspect\n"
        "def said(file, word): return int(next(l for l in open(f'/proc/self/{file}') if l.startswith(word)).split()[1])\n"
        "before = said('io', 'rchar'); inspect(sys.argv[1]); print(said('io', 'rchar') - before, said('status', 'VmHWM') << 10)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    read, peak = map(int, done.stdout.split())
    assert read < 20e6  # a table of contents and a list of tensors; the values are 11 GB
    assert peak < 2e9  # nor are they touched where the file is mapped


def test_codecs_are_known_in_all_their_names(tmp_path):
    torch.manual_seed(0)
    video, audio = VideoVAE(VIDEO["tiny"]).state_dict(), AudioCodec(AUDIO["tiny"]).state_dict()
    vae, vocoder = to_mmaudio(audio)
    ours = CodecConfigs(video=VIDEO["tiny"]).to_metadata()
    files = {
        "a Harmony video codec": ({f"video_vae.{key}": value for key, value in video.items()}, ours),
        "a video VAE of Wan2.2's design in the tiny size, in its original names": (video, None),
        "a video VAE of Wan2.2's design in the tiny size, in diffusers' names": (to_diffusers(video), None),
        "an audio VAE in MMAudio's names, of 20 latent channels (16 kHz: 20), without a vocoder": (vae, None),
        "a BigVGAN vocoder, without a VAE": (vocoder, None),
        "an audio VAE with its vocoder, in ComfyUI's names": (to_comfyui(audio, AUDIO["tiny"].mel), None),
        "an audio VAE with its vocoder, in Harmony's names": (audio, None),
    }
    for what, (tensors, metadata) in files.items():
        assert inspect(saved(tmp_path / "c.safetensors", tensors, metadata)).what == what
    torch.save({"generator": vocoder}, tmp_path / "best_netG.pt")
    found = inspect(tmp_path / "best_netG.pt")
    assert found.what == "a BigVGAN vocoder, without a VAE"
    assert found.tensors == len(vocoder)


def test_codecs_of_other_models_are_told_apart(tmp_path):
    vae, vocoder = layouts.mmaudio()
    wan21 = layouts.video_vae_21()
    small = {**wan21, "encoder.head.0.gamma": (64, 1, 1, 1)}
    files = {
        "Wan2.1's video VAE, in its original names": (wan21, "its latents have 16 channels, the models' 48"),
        "a video VAE of Wan's design but not Wan2.2's: its towers end on 64 and 96": (small, ""),
        "an audio VAE in MMAudio's names, of 40 latent channels": (
            vae | {"decoder.conv_in.weight": (2048, 40, 3)},
            "it is MMAudio's for 44.1 kHz",
        ),
        BIGVGAN: (
            {
                key: (1536, 128, 7) if key.startswith("conv_pre.") and len(shape) == 3 else shape
                for key, shape in vocoder.items()
            },
            "it is one for 44.1 kHz, with 128 mel bands",
        ),
        "a text encoder of T5's design but not umT5-xxl: 32128 words, 4096 wide": (
            layouts.umt5(words=32128),
            "which has 256384 words",
        ),
    }
    for what, (shapes, why) in files.items():
        found = inspect(layouts.write(tmp_path / "c.safetensors", shapes))
        assert found.what.startswith(what)
        assert why in " ".join(found.notes)
        assert not found.purpose and not found.missing
    whole = inspect(layouts.write(tmp_path / "c.safetensors", layouts.audio_single()))
    assert (whole.what, whole.licence) == ("an audio VAE with its vocoder, in ComfyUI's names", NO_COMMERCE)
    assert [piece.name for piece in whole.missing] == ["joint model", TEXT, VIDEO_VAE]
    assert whole.folder == "vae"


@pytest.mark.parametrize("form", layouts.LORA_FORMS)
def test_a_lora_is_known_in_all_its_names(tmp_path, form):
    found = inspect(layouts.write(tmp_path / "l.safetensors", layouts.lora(form)))
    names = {"kohya": "kohya's", "peft": "diffusers' or PEFT's", "diffusers": "diffusers' or PEFT's"}.get(form, "ComfyUI's")
    assert found.what == f"a LoRA of rank 16 for 180 layers, not a model by itself, in {names} names"
    branch = "audio branch" if "audio" in form else "video branch"
    assert found.purpose == f"changes the {branch} of Wan2.2-TI2V-5B's width, Ovi's too"
    assert (found.kind, found.folder, found.notes) == ("lora", "loras", ())


def test_a_lora_for_another_model_says_which(tmp_path):
    path = tmp_path / "l.safetensors"
    wide = inspect(layouts.write(path, layouts.lora("comfyui", width=5120, layers=40)))
    assert not wide.purpose
    assert "its layers are 5120 wide, as Wan's 14B models" in wide.notes[0]
    flux = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 3072), "x.lora_up.weight": (8, 8)}
    assert "none of its layers has a name of theirs" in inspect(layouts.write(path, flux)).notes[0]
    mixed = layouts.lora("comfyui", layers=1) | {"diffusion_model.img_emb.proj.1.lora_down.weight": (16, 1280)}
    assert inspect(layouts.write(path, mixed)).notes == ("6 of its 7 layers have a place in these models",)
    loha = {"lora_unet_blocks_0_self_attn_q.hada_w1_a": (3072, 8), "lora_unet_blocks_0_self_attn_q.hada_w1_b": (8, 3072)}
    found = inspect(layouts.write(path, loha))
    assert found.what.startswith("a LoHa, not a model by itself")
    assert "not supported here" in found.notes[0]


def test_models_of_no_use_here_are_named(tmp_path):
    for key, what in {
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "an image model in Flux's names",
        "model.diffusion_model.input_blocks.0.0.weight": "an image model in Stable Diffusion's or SDXL's names",
        "model.diffusion_model.patchify_proj.weight": "a video model in LTX's names",
    }.items():
        found = inspect(layouts.write(tmp_path / "m.safetensors", {key: (4, 4), "other.weight": (4,)}))
        assert (found.kind, found.what, found.notes) == ("other", what, ("not usable here",))


def test_what_comfyuis_nodes_save_of_ours_is_told_apart(tmp_path):
    keys = {"model": "model.diffusion_model.video.head", "text": "cond_stage_model.encoder.x", "vae": "first_stage_model.codec"}

    def written(*parts: str):
        tensors = {keys.get(part, part): torch.zeros(1) for part in ("harmony.metadata", *parts)}
        save_file(tensors, tmp_path / "saved.safetensors")
        return inspect(tmp_path / "saved.safetensors")

    assert written("model").folder == "diffusion_models"
    for parts in (("model", "vae"), ("model", "text"), ("model", "text", "vae")):
        assert (written(*parts).folder, "Save Checkpoint" in written(*parts).what) == ("checkpoints", True)
    codec = written("codec.x")  # Save VAE
    assert (codec.kind, codec.folder, codec.purpose) == ("other", "", "")


def test_what_harmony_stores_in_eight_bits_is_said(tmp_path):
    config = small_config()
    shapes = layouts.of(small_model())
    names = [key for key, shape in shapes.items() if key.endswith("self_attn.q.weight")]
    scales = {f"{key.removesuffix('.weight')}.weight_scale": () for key in names}
    path = layouts.write(
        tmp_path / "h.safetensors",
        shapes | scales,
        dtypes=dict.fromkeys(names, "F8_E4M3") | dict.fromkeys(scales, "F32"),
        metadata=config.to_metadata() | {"modelspec.license": "MIT"},
    )
    found = inspect(path)
    assert found.what == "a Harmony checkpoint of format 1, without codecs" + FP8
    assert (found.licence, found.folder) == ("MIT", "diffusion_models")


def test_what_is_no_model_of_ours_is_named_as_far_as_it_is_known(tmp_path):
    one = torch.zeros(1)
    files = {
        "a LoRA of rank 4 for 1 layers, not a model by itself, in plain names": {
            "blocks.0.q.lora_A.weight": torch.zeros(4, 9),
            "blocks.0.q.lora_B.weight": torch.zeros(9, 4),
        },
        "in Ovi's names, its video and audio towers": {
            "video_model.blocks.0.cross_attn.k_fusion.weight": one,
            "audio_model.head.head.weight": one,
        },
        "its video tower alone": {"blocks.0.cross_attn.k_fusion.weight": one, "time_projection.1.weight": one},
        "judges": {"listener.words.weight": one, "syncnet.scale": one},
        "in Harmony's names (audio (1), video (1)) whose metadata lacks the config": {"video.a": one, "audio.a": one},
        "nothing known here; its keys begin with unet (2), text (1)": {"unet.a": one, "unet.b": one, "text.a": one},
    }
    for what, tensors in files.items():
        assert what in inspect(saved(tmp_path / "x.safetensors", tensors)).what
    save_latents(tmp_path / "l.safetensors", small_latents(), small_clip())
    assert inspect(tmp_path / "l.safetensors").kind == "latents"


class Trap:
    """What leaves a file behind when it is unpickled freely."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_pickle_is_run(tmp_path):
    torch.save({"a.weight": torch.zeros(1), "b": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match=r"holds more than tensors and is not opened; convert it to \.safetensors"):
        inspect(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()  # it would have been


def test_what_is_no_whole_weights_file_is_refused(tmp_path):
    whole = save_all_in_one(tmp_path / "all.safetensors", codecs=False).read_bytes()
    contents = {
        "cut.safetensors": (whole[: len(whole) // 2], "truncated or of another format"),
        "head.safetensors": (whole[:20], "truncated or of another format"),
        "empty.safetensors": (b"", "is empty"),
        "text.pt": (b"Dear diary", "truncated or of another format|holds more than tensors"),
        "index.safetensors.index.json": (json.dumps({"a": 1}).encode(), "is no safetensors index"),
        "song.mp3": (b"ID3", "is no weights file"),
        "text.safetensors": (b"Dear diary, today I downloaded a model.", "truncated or of another format"),
        "model-Q4_K_M.gguf": (b"GGUF\x03\0\0\0", "is GGUF, which is not read here: take the .safetensors"),
        "renamed.safetensors": (b"GGUF\x03\0\0\0", "is GGUF"),
        "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "the weights themselves were not"),
        "page.safetensors": (b"<!DOCTYPE html><html>", "is a web page"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            inspect(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no file"):
        inspect(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is a folder"):
        inspect(tmp_path)
    later = saved(tmp_path / "later.safetensors", {"a": torch.zeros(1)}, small_config().to_metadata() | {FORMAT_KEY: "9"})
    with pytest.raises(ValueError, match="harmony.format is '9'"):
        inspect(later)
