"""Files from other loaders beside ours, and files that are not what they should be."""

import math
from pathlib import Path

import layouts
import pytest
import torch
from all_in_one import save_all_in_one
from comfy_server import Failed
from graphs import FRAMES, clip_graph, node, sampled, sampled_by_stock
from rounding import ROUNDING, away
from safetensors.torch import save_file

from harmony_core.geometry import ClipSpec

CHECKPOINTS = "models/checkpoints"


def drawn(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random numbers of the usual size for so many inputs; every output reads one buffer from another place, so that a file of
    them is small.
    """
    inputs = math.prod(shape[1:])
    buffer = torch.randn(math.prod(shape[:1]) + inputs - 1, generator=generator) / inputs**0.5
    return buffer.unfold(0, inputs, 1).unflatten(1, shape[1:]) if len(shape) > 1 else buffer.reshape(shape)


def write_vaes(folder: Path) -> None:
    """Wan2.2's VAE and MMAudio's single file, every weight of them: the stock loader leaves others as memory holds them."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    for name, shapes in (("wan.pth", layouts.video_vae()), ("mmaudio.pth", layouts.audio_single())):
        weights = {key: drawn(shape, generator) for key, shape in shapes.items()}
        filters = {key: torch.ones(shape) / shape[-1] for key, shape in shapes.items() if key.endswith(("filter", "mel_basis"))}
        gains = {key: torch.ones(shape) for key, shape in shapes.items() if key.endswith("gamma")}
        torch.save(weights | filters | gains, folder / name)


def test_stock_vaes_beside_a_model_alone(server):
    write_vaes(server.base / "models" / "vae")
    save_all_in_one(server.base / CHECKPOINTS / "alone.safetensors", codecs=False)
    graph = clip_graph(checkpoint="alone.safetensors")
    graph["latent"]["inputs"] |= {"seconds": 5 / 24, "width": 32, "height": 32}
    graph = sampled_by_stock(graph, "alone")
    graph["sampled"]["inputs"]["steps"] = 1
    graph["wan"] = node("VAELoader", vae_name="wan.pth")
    graph["mmaudio"] = node("VAELoader", vae_name="mmaudio.pth")
    graph["clip"] = node("HarmonyDecode", latent=["sampled", 0], video_vae=["wan", 0], audio_vae=["mmaudio", 0])
    graph["keep clip"] = node("ProbeKeep", name="stock clip", images=["clip", 0], audio=["clip", 1])
    server.run(graph)
    kept = server.kept("stock clip")
    assert tuple(kept["images"].shape) == (5, 32, 32, 3)
    assert kept["wave"].shape[-1] == round(5 / 24 * 44_100)
    assert all(bool(x.isfinite().all()) for x in (kept["images"], kept["wave"]))


@pytest.mark.bitwise("locked")
def test_stock_vaes_give_the_clip_its_sound_and_its_silence(server):
    write_vaes(server.base / "models" / "vae")
    save_all_in_one(server.base / CHECKPOINTS / "alone.safetensors", codecs=False)
    graph = clip_graph("audio", checkpoint="alone.safetensors")
    graph["empty"]["inputs"] |= {"width": 32, "height": 32}
    graph["mmaudio"] = node("VAELoader", vae_name="mmaudio.pth")
    graph["wan"] = node("VAELoader", vae_name="wan.pth")
    graph["latent"]["inputs"]["audio_vae"] = ["mmaudio", 0]
    graph = sampled(graph, "stock drives", steps=1)
    graph["sampled"]["inputs"] |= {"video_vae": ["wan", 0], "audio_vae": ["mmaudio", 0]}
    server.run(graph)
    kept = server.kept("stock drives")
    assert torch.isfinite(kept["before.audio"]).all()
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
