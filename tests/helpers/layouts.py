"""Published weights files, header for header: names, shapes and dtypes as they are published, and no values.

A file is as long as its header says and takes no room: what would be values are holes.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import ovi_files
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harmony_core.codecs.audio import PRESETS as AUDIO
from harmony_core.codecs.audio import AudioCodec
from harmony_core.codecs.video_vae import PRESETS as VIDEO
from harmony_core.codecs.video_vae import VideoVAE
from harmony_core.runtime import Runtime
from harmony_core.weights.keymap import WanLayout, from_original
from harmony_core.weights.video_vae import to_diffusers

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"
BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}

Shapes = dict[str, tuple[int, ...]]


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype="BF16", *, dtypes=None, metadata=None) -> Path:
    """A safetensors file of these tensors, their values holes.

    Args:
        path: of the file.
        shapes: by key.
        dtype: of tensors that ``dtypes`` does not name.
        dtypes: by key.
        metadata: of the file.
    """
    table, end = ({"__metadata__": metadata} if metadata else {}), 0
    for key, shape in shapes.items():
        code = (dtypes or {}).get(key, dtype)
        start, end = end, end + prod(shape) * BYTES[code]
        table[key] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def write_shards(path: Path, shapes: Mapping[str, tuple[int, ...]], count: int) -> Path:
    """The same in shards beside ``NAME.index.json``."""
    keys = list(shapes)
    table = {}
    for n in range(count):
        name = f"{path.stem}-{n + 1:05d}-of-{count:05d}.safetensors"
        part = keys[n::count]
        write(path.with_name(name), {key: shapes[key] for key in part}, "F32")
        table |= dict.fromkeys(part, name)
    index = path.with_name(f"{path.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return index


def of(module) -> Shapes:
    """A module's state."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


# ---- models


def wan(*, width=3072, ffn=14336, layers=30, channels=48, out=48, layout=WanLayout.ORIGINAL) -> Shapes:
    """Wan's text to video; by default Wan2.2-TI2V-5B."""
    shapes: Shapes = {}

    def linear(name, inputs, outputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    shapes["patch_embedding.weight"], shapes["patch_embedding.bias"] = (width, channels, 1, 2, 2), (width,)
    linear("text_embedding.0", 4096, width)
    linear("text_embedding.2", width, width)
    linear("time_embedding.0", 256, width)
    linear("time_embedding.2", width, width)
    linear("time_projection.1", width, 6 * width)
    for n in range(layers):
        for attention in ("self_attn", "cross_attn"):
            for projection in "qkvo":
                linear(f"blocks.{n}.{attention}.{projection}", width, width)
            shapes[f"blocks.{n}.{attention}.norm_q.weight"] = shapes[f"blocks.{n}.{attention}.norm_k.weight"] = (width,)
        shapes[f"blocks.{n}.norm3.weight"] = shapes[f"blocks.{n}.norm3.bias"] = (width,)
        linear(f"blocks.{n}.ffn.0", width, ffn)
        linear(f"blocks.{n}.ffn.2", ffn, width)
        shapes[f"blocks.{n}.modulation"] = (1, 6, width)
    linear("head.head", width, 4 * out)
    shapes["head.modulation"] = (1, 2, width)
    return from_original(shapes, layout)


WAN_14B = {"width": 5120, "ffn": 13824, "layers": 40, "channels": 16, "out": 16}
WAN_1B = {"width": 1536, "ffn": 8960, "layers": 30, "channels": 16, "out": 16}
IMAGE_LAYERS: Shapes = {
    "img_emb.proj.0.weight": (1280,),
    "img_emb.proj.1.weight": (1280, 1280),
    "blocks.0.cross_attn.k_img.weight": (5120, 5120),
}


def ovi() -> Shapes:
    """Ovi's single file, any of the three sizes."""
    return ovi_files.shapes(width=3072, layers=30, ffn=14336, text=4096, freq=256)


def ovi_halves() -> tuple[Shapes, Shapes]:
    """Ovi in two files: video without a prefix, audio under one."""
    return ovi_files.split(ovi())


def linears(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What converters quantise: matrices of blocks."""
    return [key for key, shape in shapes.items() if "blocks." in key and key.endswith(".weight") and len(shape) == 2]


def scaled(path: Path, shapes: Shapes, *, scale="scale_weight", mark=True) -> Path:
    """In fp8 with a scale beside every matrix, old (``scale_weight``) or new (``weight_scale``)."""
    small = linears(shapes)
    beside = {f"{key.removesuffix('.weight')}.{scale}": () for key in small} | ({"scaled_fp8": (2,)} if mark else {})
    dtypes = dict.fromkeys(small, "F8_E4M3") | dict.fromkeys(beside, "F32") | ({"scaled_fp8": "F8_E4M3"} if mark else {})
    return write(path, shapes | beside, dtypes=dtypes)


def quanto(path: Path, shapes: Shapes) -> Path:
    """In int8 as quanto writes it."""
    small = set(linears(shapes))
    table: Shapes = {}
    dtypes = {}
    for key, shape in shapes.items():
        if key not in small:
            table[key] = shape
            continue
        table |= {f"{key}._data": shape, f"{key}._scale": (shape[0], 1)}
        dtypes[f"{key}._data"] = "I8"
        layer = key.removesuffix(".weight")
        table |= {f"{layer}.input_scale": (), f"{layer}.output_scale": ()}
    return write(path, table, dtypes=dtypes)


# ---- codecs


def _fixture(name: str):
    return json.loads(gzip.decompress((FIXTURES / name).read_bytes()))


def video_vae(*, diffusers=False) -> Shapes:
    """Wan2.2's."""
    published = {key: tuple(shape) for key, shape in _fixture("wan22_video_vae_keys.json.gz").items()}
    if not diffusers:
        return published
    return {
        key: tuple(v.shape) for key, v in to_diffusers(VideoVAE(VIDEO["wan2.2"], Runtime(device="meta")).state_dict()).items()
    }


def video_vae_21() -> Shapes:
    """The ends of Wan2.1's: enough to know it by."""
    return {
        "encoder.conv1.weight": (96, 3, 3, 3, 3),
        "encoder.head.0.gamma": (384, 1, 1, 1),
        "encoder.head.2.weight": (32, 384, 3, 3, 3),
        "conv1.weight": (32, 32, 1, 1, 1),
        "conv2.weight": (16, 16, 1, 1, 1),
        "decoder.conv1.weight": (384, 16, 3, 3, 3),
        "decoder.head.0.gamma": (96, 1, 1, 1),
        "decoder.head.2.weight": (3, 96, 3, 3, 3),
    }


def mmaudio() -> tuple[Shapes, Shapes]:
    """MMAudio's VAE for 16 kHz and its vocoder."""
    vae, vocoder = ({key: tuple(shape) for key, shape in t.items()} for t in _fixture("audio_codec_mmaudio_keys.json.gz"))
    return vae, vocoder


def audio_single() -> Shapes:
    """Both in ComfyUI's single file."""
    codec = of(AudioCodec(AUDIO["mmaudio-16k"], Runtime(device="meta")))
    vae = {f"vae.{key.removeprefix('audio_vae.')}": shape for key, shape in codec.items() if key.startswith("audio_vae.")}
    constants = {
        "vocoder.activation_post.upsample.filter": (1, 1, 12),
        "vocoder.activation_post.downsample.lowpass.filter": (1, 1, 12),
        "mel_converter.mel_basis": (80, 513),
        "mel_converter.hann_window": (1024,),
    }
    return vae | {key: shape for key, shape in codec.items() if key.startswith("vocoder.")} | constants


# ---- text encoders

UMT5 = {"words": 256_384, "width": 4096, "hidden": 10_240, "layers": 24, "heads": 64}


def umt5(*, words=256_384, width=4096, hidden=10_240, layers=24, heads=64) -> Shapes:
    """The encoder in transformers' names."""
    shapes: Shapes = {"shared.weight": (words, width), "encoder.final_layer_norm.weight": (width,)}
    for n in range(layers):
        attention, feed = f"encoder.block.{n}.layer.0", f"encoder.block.{n}.layer.1"
        for projection in "qkv":
            shapes[f"{attention}.SelfAttention.{projection}.weight"] = (width, width)
        shapes[f"{attention}.SelfAttention.o.weight"] = (width, width)
        shapes[f"{attention}.SelfAttention.relative_attention_bias.weight"] = (32, heads)
        shapes[f"{attention}.layer_norm.weight"] = shapes[f"{feed}.layer_norm.weight"] = (width,)
        shapes[f"{feed}.DenseReluDense.wi_0.weight"] = shapes[f"{feed}.DenseReluDense.wi_1.weight"] = (hidden, width)
        shapes[f"{feed}.DenseReluDense.wo.weight"] = (width, hidden)
    return shapes


def umt5_original() -> Shapes:
    """The same in Wan's names."""
    words, width, hidden, layers, heads = UMT5.values()
    shapes: Shapes = {"token_embedding.weight": (words, width), "norm.weight": (width,)}
    for n in range(layers):
        shapes |= {f"blocks.{n}.attn.{p}.weight": (width, width) for p in "qkvo"}
        shapes |= {f"blocks.{n}.ffn.{name}.weight": (hidden, width) for name in ("gate.0", "fc1")}
        shapes |= {f"blocks.{n}.norm{m}.weight": (width,) for m in (1, 2)}
        shapes[f"blocks.{n}.ffn.fc2.weight"] = (width, hidden)
        shapes[f"blocks.{n}.pos_embedding.embedding.weight"] = (32, heads)
    return shapes


# ---- LoRAs

LORA_FORMS = {
    "kohya": ("lora_unet_blocks_{n}_{a}_{p}", ".lora_down.weight", ".lora_up.weight"),
    "comfyui": ("diffusion_model.blocks.{n}.{a}.{p}", ".lora_down.weight", ".lora_up.weight"),
    "peft": ("base_model.model.blocks.{n}.{a}.{p}", ".lora_A.weight", ".lora_B.weight"),
    "diffusers": ("transformer.blocks.{n}.{d}.to_{p}", ".lora_A.weight", ".lora_B.weight"),
    "harmony audio": ("diffusion_model.audio.blocks.{n}.{a}.{p}", ".lora_A.weight", ".lora_B.weight"),
}


def lora(form: str, *, width=3072, layers=30, rank=16) -> Shapes:
    """A LoRA of the attention's q, k and v."""
    layer, down, up = LORA_FORMS[form]
    shapes: Shapes = {}
    for n in range(layers):
        for attention, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            for projection in "qkv":
                name = layer.format(n=n, a=attention, d=theirs, p=projection)
                shapes[name + down], shapes[name + up] = (rank, width), (width, rank)
    return shapes


# ---- files by their published names


def pickled(path: Path, shapes: Shapes, *, dtype=torch.bfloat16, wrap=()) -> Path:
    """A pickle of these tensors, nested under names; the values are holes, as torch leaves them."""
    with FakeTensorMode():
        state = {key: torch.empty(shape, dtype=dtype) for key, shape in shapes.items()}
    for name in reversed(wrap):
        state = {name: state}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(state, path)
    return path


def _umt5_comfyui(path: Path) -> Path:
    shapes = umt5() | {"spiece_model": (4_548_313,), "scaled_fp8": (0,)}
    small = [key for key in shapes if key.startswith("encoder.block") and key.endswith("weight") and len(shapes[key]) == 2]
    scales = {key.removesuffix("weight") + "scale_weight": () for key in small}
    dtypes = dict.fromkeys(small, "F8_E4M3") | dict.fromkeys(scales, "F32") | {"spiece_model": "U8", "scaled_fp8": "F8_E4M3"}
    return write(path, shapes | scales, "F16", dtypes=dtypes)


def _norm_old(vocoder: Shapes) -> Shapes:
    """Weight norms in torch's old names, as the pickle has them."""
    new = ".parametrizations.weight.original"
    return {key.replace(new + "0", ".weight_g").replace(new + "1", ".weight_v"): shape for key, shape in vocoder.items()}


PUBLISHED: dict[str, Callable[[Path], Path]] = {
    "wan2.2_ti2v_5B_fp16.safetensors": lambda path: write(path, wan(), "F16"),
    "diffusion_pytorch_model.safetensors.index.json": lambda path: write_shards(
        path.with_name(path.name.removesuffix(".index.json")), wan(), 3
    ),
    "model.safetensors": lambda path: write(path, ovi()),
    "model_960x960.safetensors": lambda path: write(path, ovi()),
    "model_960x960_10s.safetensors": lambda path: write(path, ovi()),
    "model_fp8_e4m3fn.safetensors": lambda path: write(path, ovi(), dtypes=dict.fromkeys(linears(ovi()), "F8_E4M3")),
    "Wan_2_2_Ovi_video_model_bf16.safetensors": lambda path: write(path, ovi_halves()[0]),
    "Wan_2_2_Ovi_audio_model_bf16.safetensors": lambda path: write(path, ovi_halves()[1]),
    "Wan2_2-5B-Ovi_960x960_10s_fp8_e4m3fn_scaled_KJ.safetensors": lambda path: scaled(path, ovi_halves()[0] | ovi_halves()[1]),
    "wan2.2_ovi_video_10B_quanto_bf16_int8.safetensors": lambda path: quanto(path, ovi_halves()[0]),
    "wan2.2_ovi_audio_10B_quanto_bf16_int8.safetensors": lambda path: quanto(path, ovi_halves()[1]),
    "dreamid_omni.safetensors": lambda path: write(path, ovi()),
    "Wan2.2_VAE.pth": lambda path: pickled(path, video_vae(), dtype=torch.float32),
    "wan2.2_vae.safetensors": lambda path: write(path, video_vae(), "F16"),
    "v1-16.pth": lambda path: pickled(path, mmaudio()[0], dtype=torch.float32),
    "best_netG.pt": lambda path: pickled(path, _norm_old(mmaudio()[1]), dtype=torch.float32, wrap=("generator",)),
    "mmaudio_vae_16k_bf16.safetensors": lambda path: write(path, mmaudio()[0]),
    "mmaudio_vocoder_bigvgan_best_netG_bf16.safetensors": lambda path: write(path, mmaudio()[1]),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": _umt5_comfyui,
    "umt5_xxl_fp16.safetensors": lambda path: write(path, umt5() | {"spiece_model": (4_548_313,)}, "F16"),
    "models_t5_umt5-xxl-enc-bf16.pth": lambda path: pickled(path, umt5_original()),
}
"""Each writes its file, header for header, and returns what to inspect."""
