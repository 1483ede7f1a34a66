"""Files from other loaders beside ours, and files that are not what they should be."""

import pytest
import torch
from all_in_one import save_all_in_one
from comfy_server import Failed
from graphs import FRAMES, clip_graph, node, sampled, sampled_by_stock
from rounding import ROUNDING, away
from safetensors.torch import save_file

from harmony_core.codecs.video_vae import PRESETS, VideoVAE
from harmony_core.geometry import ClipSpec
from harmony_core.runtime import Runtime

CHECKPOINTS = "models/checkpoints"


def write_wan_vae(path) -> None:
    """What the stock VAELoader knows a Wan2.2 VAE by; it draws the other weights itself."""
    whole = VideoVAE(PRESETS["wan2.2"], Runtime(device="meta")).state_dict()
    keys = ("decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.upsamples.0.residual.2.weight")
    save_file({key: torch.ones(whole[key].shape) * 0.01 for key in keys}, path)


def write_mmaudio_vae(path) -> None:
    """Likewise of the one file that holds MMAudio's VAE, vocoder and mel filter; the filter it does not draw."""
    save_file(
        {
            "vocoder.activation_post.downsample.lowpass.filter": torch.ones(1, 1, 12) / 12,
            "mel_converter.mel_basis": torch.ones(80, 513) / 513,
        },
        path,
    )


def test_stock_vaes_beside_a_model_alone(server):
    folder = server.base / "models" / "vae"
    folder.mkdir(exist_ok=True)
    write_wan_vae(folder / "wan.safetensors")
    write_mmaudio_vae(folder / "mmaudio.safetensors")
    save_all_in_one(server.base / CHECKPOINTS / "alone.safetensors", codecs=False)
    graph = clip_graph(checkpoint="alone.safetensors")
    graph["latent"]["inputs"] |= {"seconds": 5 / 24, "width": 32, "height": 32}
    graph = sampled_by_stock(graph, "alone")
    graph["sampled"]["inputs"]["steps"] = 1
    graph["wan"] = node("VAELoader", vae_name="wan.safetensors")
    graph["mmaudio"] = node("VAELoader", vae_name="mmaudio.safetensors")
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["wan", 0], audio_vae=["mmaudio", 0])
    graph["keep clip"] = node("ProbeKeep", name="stock clip", images=["clip", 0], audio=["clip", 1])
    server.run(graph)
    kept = server.kept("stock clip")
    assert tuple(kept["images"].shape) == (5, 32, 32, 3)
    assert kept["wave"].shape[-1] == round(5 / 24 * 44_100)


@pytest.mark.bitwise("locked")
def test_stock_vaes_give_the_clip_its_sound_and_its_silence(server):
    folder = server.base / "models" / "vae"
    folder.mkdir(exist_ok=True)
    write_wan_vae(folder / "wan.safetensors")
    write_mmaudio_vae(folder / "mmaudio.safetensors")
    save_all_in_one(server.base / CHECKPOINTS / "alone.safetensors", codecs=False)
    graph = clip_graph("audio", checkpoint="alone.safetensors")
    graph["empty"]["inputs"] |= {"width": 32, "height": 32}
    graph["mmaudio"] = node("VAELoader", vae_name="mmaudio.safetensors")
    graph["wan"] = node("VAELoader", vae_name="wan.safetensors")
    graph["latent"]["inputs"]["audio_vae"] = ["mmaudio", 0]
    graph = sampled(graph, "stock drives", steps=1)
    graph["sampled"]["inputs"] |= {"video_vae": ["wan", 0], "audio_vae": ["mmaudio", 0]}
    server.run(graph)
    kept = server.kept("stock drives")
    assert torch.equal(kept["before.audio"], kept["after.audio"])
    # This VAE takes 44.1 kHz and rounds down; the clip and SyncCFG's silence have all their latents all the same.
    assert kept["after.audio"].shape[-1] == ClipSpec(frames=FRAMES, height=32, width=32).audio_latents
    assert torch.isfinite(kept["after.video"]).all()


def write_other(path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}, path)


def write_truncated(path) -> None:
    whole = path.with_name("small.safetensors").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def write_renamed(path) -> None:
    path.write_bytes(b"PK\x03\x04 this is no file of tensors")


def write_unfit(path) -> None:
    """The config of two layers over the weights of one."""
    save_all_in_one(path, codecs=False)
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(path, "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys() if ".blocks.1." not in key}  # noqa: SIM118
        metadata = file.metadata()
    save_file(kept, path, metadata=metadata)


WRONG = {
    "other": (write_other, "this is no Harmony checkpoint"),
    "truncated": (write_truncated, "it is truncated or of another format"),
    "renamed": (write_renamed, "it is truncated or of another format"),
    "unfit": (write_unfit, "these weights do not fit this model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_checkpoint_is_one_sentence_and_the_queue_goes_on(server, case):
    write, message = WRONG[case]
    write(server.base / CHECKPOINTS / f"wrong-{case}.safetensors")
    with pytest.raises(Failed, match=rf"checkpoint: .*{message}.*choose a whole Harmony checkpoint") as failed:
        server.run(sampled_by_stock(clip_graph(checkpoint=f"wrong-{case}.safetensors"), "wrong"))
    assert len(str(failed.value).splitlines()) == 1
    server.run(sampled_by_stock(clip_graph(), f"after-wrong-{case}"))
    assert server.kept(f"after-wrong-{case}")


def test_a_lora_of_another_model_changes_nothing(server):
    loras = server.base / "models" / "loras"
    loras.mkdir(exist_ok=True)
    layer = "lora_unet_input_blocks_1_1_proj_in"
    save_file(
        {f"{layer}.lora_up.weight": torch.ones(320, 4), f"{layer}.lora_down.weight": torch.ones(4, 320)},
        loras / "sd.safetensors",
    )
    graph = sampled_by_stock(clip_graph(), "other lora")
    graph["lora"] = node("LoraLoaderModelOnly", model=["load", 0], lora_name="sd.safetensors", strength_model=1.0)
    graph["sampled"]["inputs"]["model"] = ["lora", 0]
    server.run(graph)
    server.run(sampled_by_stock(clip_graph(), "no lora"))
    found, plain = server.kept("other lora"), server.kept("no lora")
    assert away(found, plain) <= ROUNDING
    assert "lora key not loaded" in server.text()


def test_eight_bits_are_a_choice_in_the_graph(server):
    graph = sampled_by_stock(clip_graph(), "fp8")
    graph["load"]["inputs"]["weight_dtype"] = "fp8_e4m3fn"
    server.run(graph)
    server.run(sampled_by_stock(clip_graph(), "not fp8"))
    found, plain = server.kept("fp8"), server.kept("not fp8")
    for key in ("after.video", "after.audio"):
        assert 0 < (found[key] - plain[key]).norm() / plain[key].norm() < 0.2
    assert "manual cast: torch.float32" in server.text()
