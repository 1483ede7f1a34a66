"""Which published file this is, by the names and shapes of its tensors.

Each rule knows one kind of file and answers with what it is, what it is for and what it lacks, or with None. A rule is lenient
about what does not matter (prefixes, quantisation, a converter's leftovers) and strict about what does: the sizes that decide
whether the weights fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from ..config import preset
from ..models.harmony import Harmony
from ..runtime import Runtime
from ..types import Modality
from . import ovi, published
from .checkpoint import CODEC_PARTS, MODEL_PARTS
from .finding import Finding
from .header import Header, beginnings, begins, below, plain, shape, stored
from .keymap import WanLayout, detect_layout, to_original
from .lora_names import Names, Role, other_kind, split_key
from .recognise_parts import audio_codec, text_encoder, video_vae


def recognise(header: Header, name: str) -> Finding:
    """Say what a file is.

    Args:
        header: its tensors.
        name: of the file: what tells apart files whose tensors are alike.
    """
    for rule in _RULES:
        found = rule(header, name)
        if found is not None:
            return found
    return Finding(kind="unknown", what="nothing known here; its keys begin with " + beginnings(header))


# ---- Wan's transformer and those made of it

_NAMES = {WanLayout.ORIGINAL: "its original", WanLayout.DIFFUSERS: "diffusers'"}
_WIDTH, _LAYERS, _CHANNELS, _TENSORS = 3072, 30, 48, 825
_SIZES = {(5120, 40): "14B", (1536, 30): "1.3B", (_WIDTH, _LAYERS): "5B"}
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_ATTENTION = re.compile(r"(?:(?:model\.)?diffusion_model\.)?blocks\.\d+\.(?:self_attn\.q|attn1\.to_q)\.weight")
_IN_BLOCK = re.compile(r"blocks\.\d+\.(?:(?:self|cross)_attn\.(?:q|k|v|o|norm_q|norm_k)|norm3|ffn|modulation)(?:\.|$)")
_OWN = {"patch_embedding", "text_embedding", "time_embedding", "time_projection", "blocks", "head", "rope", "freqs"}
_EXTRAS = {
    "vace_patch_embedding": "VACE",
    "vace_blocks": "VACE",
    "control_adapter": "camera control",
    "casual_audio_encoder": "speech to video",
    "audio_proj": "sound to video",
    "face_adapter": "animation",
    "ref_conv": "control by reference",
    "img_emb": "image to video",
    "condition_embedder": "image to video",
}
"""Layers that Wan's relatives have beside those of text to video, and what they are for."""


def _wan(header: Header, _: str) -> Finding | None:
    tensors = plain(header)
    try:
        layout = detect_layout(tensors)
    except ValueError:
        return _wan_shard(tensors)
    keys = to_original(tensors, layout)
    ending = f", in {_NAMES.get(layout, f'{layout.value}*')} names{stored(header)}"
    reasons = _not_5b(keys)
    if reasons:
        return Finding(
            kind="wan", what=_other_wan(keys) + ending, notes=(f"not usable as video branch, because {'; '.join(reasons)}",)
        )
    return Finding(
        kind="wan",
        what=f"Wan2.2-TI2V-5B's video transformer{ending}",
        purpose="the video branch of a joint model; alone it makes no sound",
        missing=(published.AUDIO, published.TEXT, *published.CODECS),
        licence=published.APACHE,
        folder=published.VIDEO.folder,
        notes=_incomplete(keys, _TENSORS),
    )


def _layers(keys: Header) -> int:
    return 1 + max((int(m[1]) for key in keys if (m := _BLOCK.match(key))), default=-1)


def _sizes(keys: Header) -> tuple[int, int, int]:
    """Width and channels in and out; 0 for what is not there to be seen."""
    embedding, head = shape(keys, "patch_embedding.weight"), shape(keys, "head.head.weight")
    area = embedding[3] * embedding[4] if len(embedding) == 5 else 1
    width, channels = embedding[:2] if len(embedding) > 1 else (0, 0)
    return width, channels, head[0] // area if head else 0


def _extras(keys: Header) -> list[str]:
    """What Wan's text to video does not have: modules, and the parts of its blocks."""
    modules = {begins(key) for key in keys} - _OWN
    in_blocks = {".".join(key.split(".")[2:4]) for key in keys if _BLOCK.match(key) and not _IN_BLOCK.match(key)}
    return sorted(modules) + sorted(in_blocks)


def _not_5b(keys: Header) -> list[str]:
    """Why these weights do not fit the video branch; empty where they do."""
    (width, channels, out), layers, reasons = _sizes(keys), _layers(keys), []
    if (width, layers) != (_WIDTH, _LAYERS):
        reasons.append(f"it is {width} wide with {layers} layers, TI2V-5B {_WIDTH} with {_LAYERS}")
    if channels not in {out, 0} and out:
        reasons.append(f"it takes {channels} channels and gives {out}: conditions come in beside the latents")
    if out not in {0, _CHANNELS} or (not out and channels != _CHANNELS):
        reasons.append(f"its latents have {out or channels} channels, not the {_CHANNELS} of Wan2.2's VAE")
    if extras := _extras(keys):
        reasons.append(f"it has layers of another task ({', '.join(extras[:5])})")
    return reasons


def _other_wan(keys: Header) -> str:
    (width, channels, out), layers = _sizes(keys), _layers(keys)
    size = _SIZES.get((width, layers))
    if size is None:
        inside = f"dim {width}, {channels} channels, " if width else ""
        return f"a transformer of Wan's design but not TI2V-5B: {inside}{layers} layers"
    tasks = [_EXTRAS[extra] for extra in _extras(keys) if extra in _EXTRAS]
    usual = "image to video or control" if out and channels != out else "text to video"
    return f"a {size} transformer of Wan's for {tasks[0] if tasks else usual}, not TI2V-5B"


def _wan_shard(tensors: Header) -> Finding | None:
    """Blocks of such a transformer without what is before them."""
    if not any(_ATTENTION.fullmatch(key) for key in tensors):
        return None
    note = "the rest is in other shards: give the index beside them, ....safetensors.index.json"
    return Finding(kind="wan", what=f"a part of a transformer of Wan's design, {len(tensors)} tensors", notes=(note,))


def _incomplete(keys: Header, expected: int) -> tuple[str, ...]:
    if len(keys) >= expected:
        return ()
    return (f"incomplete: {len(keys)} of {expected} tensors; it is one of several shards, or was not saved whole",)


# ---- Ovi

_TOWERS = {
    Modality.VIDEO: ("video.patch_embedding.weight", _CHANNELS, _TENSORS + 7 * _LAYERS, published.OVI_VIDEO),
    Modality.AUDIO: ("audio.patch_embedding.0.weight", 20, _TENSORS + 3 + 7 * _LAYERS, published.OVI_AUDIO),
}
"""Of each tower: where its size shows, its channels, its tensors, and where it is published alone."""


def _ovi(header: Header, name: str) -> Finding | None:
    tensors = plain(header)
    if not ovi.is_ovi(tensors):
        return None
    towers = [tower for tower in Modality if tower in ovi.towers_of(tensors)]
    names = " and ".join(tower.value for tower in towers)
    which = f"its {names} towers" if len(towers) > 1 else f"its {names} tower alone"
    fused = "" if any(".k_fusion." in key for key in tensors) else ", without fusion"
    what = f"weights in Ovi's names, {which}{fused}{stored(header)}"
    reasons = _not_ovi(ovi.to_harmony(tensors), towers)
    if reasons:
        return Finding(kind="ovi", what=what, notes=(f"not of Ovi's published size: {'; '.join(reasons)}", *_ovi_notes(name)))
    others = tuple(_TOWERS[tower][3] for tower in Modality if tower not in towers)
    whole = "makes video and sound together, from a prompt and perhaps a first picture"
    return Finding(
        kind="ovi",
        what=what,
        purpose="one half of Ovi; given with the other" if others else whole,
        missing=(*others, published.TEXT, *published.CODECS),
        licence=published.APACHE,
        folder=published.MODEL.folder,
        notes=(*_incomplete(tensors, sum(_TOWERS[tower][2] for tower in towers)), *_ovi_notes(name)),
    )


def _not_ovi(tensors: Header, towers: Sequence[Modality]) -> list[str]:
    reasons = []
    for tower in towers:
        key, channels, _, _ = _TOWERS[tower]
        embedding, layers = shape(tensors, key), _layers(below(tensors, f"{tower.value}."))
        if len(embedding) < 2:
            reasons.append(f"its {tower.value} tower has no {key.partition('.')[2]}")
        elif (*embedding[:2], layers) != (_WIDTH, channels, _LAYERS):
            found = f"{embedding[0]} wide with {layers} layers and {embedding[1]} channels"
            reasons.append(f"its {tower.value} tower is {found}, Ovi's {_WIDTH} with {_LAYERS} and {channels}")
    return reasons


def _ovi_notes(name: str) -> tuple[str, ...]:
    if ovi.is_dreamid([name]):
        return (f"its name says DreamID-Omni, whose tensors are Ovi's: {ovi.NOT_DREAMID}",)
    size = ovi.size_of([name])
    says = f"this name says {size}" if size else f"this name says none of {', '.join(ovi.SIZES)}"
    return (f"Ovi's three models and DreamID-Omni have the same tensors, names tell them apart: {says}",)


# ---- LoRAs

_FORMATS = (
    (re.compile(r"lora_unet_|lycoris_|lora_transformer_"), "kohya's"),
    (re.compile(r"(model\.)?diffusion_model\."), "ComfyUI's"),
    (re.compile(r"(transformer|base_model\.model|unet)\."), "diffusers' or PEFT's"),
)
_OTHER_FORMS = {"a LoHa", "a LoKr"}
_BRANCHES = {"video": "video branch", "audio": "audio branch"}


def _lora(header: Header, _: str) -> Finding | None:
    down = {
        split[0]: entry
        for key, entry in header.items()
        if (split := split_key(key)) is not None and split[1] is Role.DOWN and len(entry.shape) > 1
    }
    other = other_kind(header)
    if not down:
        if other is None or other[0] not in _OTHER_FORMS:
            return None
        note = "not supported here: only LoRAs of two matrices are"
        return Finding(
            kind="lora", what=f"{other[0]}, not a model by itself; its keys begin with {beginnings(header)}", notes=(note,)
        )
    ranks = sorted({entry.shape[0] for entry in down.values()})
    rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    names = next((whose for form, whose in _FORMATS if any(form.match(key) for key in down)), "plain")
    what = f"a LoRA of {rank} for {len(down)} layers, not a model by itself, in {names} names"
    purpose, notes = _use_of_lora(down)
    if other is not None:
        notes = (*notes, f"it is {other[0]} too, which is not supported here")
    return Finding(kind="lora", what=what, purpose=purpose, folder="loras", notes=notes)


@cache
def _layers_of_5b() -> Names:
    return Names(Harmony(preset("5b"), Runtime(device="meta")).state_dict())


def _use_of_lora(down: Header) -> tuple[str, tuple[str, ...]]:
    """What it is good for, and notes."""
    placed = {name: layer for name in down if (layer := _layers_of_5b().find(name)) is not None}
    if not placed:
        return "", (f"not for these models: none of its layers has a name of theirs; they begin with {beginnings(down)}",)
    parts = sorted({_BRANCHES.get(begins(layer), begins(layer)) for layer in placed.values()}, reverse=True)
    changed = " and the ".join(parts)
    share = () if len(placed) == len(down) else (f"{len(placed)} of its {len(down)} layers have a place in these models",)
    widths = sorted({down[name].shape[1] for name, layer in placed.items() if layer.endswith(("self_attn.q", "ffn.0"))})
    if not widths or widths == [_WIDTH]:
        return f"changes the {changed} of Wan2.2-TI2V-5B's width, Ovi's too", share
    size = next((f", as Wan's {size} models" for (width, _), size in _SIZES.items() if width in widths), "")
    note = (
        f"not for Wan2.2-TI2V-5B and Ovi, which are {_WIDTH} wide: its layers are {' and '.join(map(str, widths))} wide{size}"
    )
    return "" if size else f"changes the {changed} of a model of that width", (note, *share)


# ---- others

_STRANGERS = (
    ("double_blocks.0.img_attn.qkv.weight", "an image model in Flux's names"),
    ("double_blocks.0.img_attn_qkv.weight", "a video model in HunyuanVideo's names"),
    ("joint_blocks.0.x_block.attn.qkv.weight", "an image model in Stable Diffusion 3's names"),
    ("input_blocks.0.0.weight", "an image model in Stable Diffusion's or SDXL's names"),
    ("down_blocks.0.resnets.0.conv1.weight", "an image model in diffusers' names of Stable Diffusion"),
    ("patchify_proj.weight", "a video model in LTX's names"),
    ("clip_input_proj.0.weight", "MMAudio's own transformer, which makes sound for a finished video"),
    ("text_model.encoder.layers.0.self_attn.q_proj.weight", "a CLIP encoder"),
)


def _stranger(header: Header, _: str) -> Finding | None:
    for mark, what in _STRANGERS:
        if any(key == mark or key.endswith("." + mark) for key in header):
            return Finding(kind="other", what=what, notes=("not usable here",))
    return None


def _judges(header: Header, _: str) -> Finding | None:
    if {begins(key) for key in header} != {"listener", "syncnet"}:
        return None
    return Finding(kind="judges", what="the small world's judges", purpose="harmony evaluate")


def _saved_by_comfyui(header: Header) -> Finding:
    """What ComfyUI's nodes for saving write of ours; the config is a tensor, as they keep no metadata of a model."""
    beside = {begins(key) for key in header} - {"harmony", "model"}
    if not any(key.startswith("model.diffusion_model.") for key in header):
        what = "a Harmony codec as ComfyUI's own Save VAE writes it"
        return Finding(kind="other", what=what, notes=("no loader reads it: keep the checkpoint it came from",))
    node = "Save Checkpoint writes it, with a codec or a text encoder" if beside else "Save Model writes it"
    return Finding(
        kind="harmony",
        what=f"a Harmony model as ComfyUI's own {node}",
        purpose="makes video and sound together",
        folder="checkpoints" if beside else "diffusion_models",
        notes=("read by the nodes, not by the command line: its config is a tensor",),
    )


def _harmony_parts(header: Header, _: str) -> Finding | None:
    if "harmony.metadata" in header:
        return _saved_by_comfyui(header)
    if header and all(key.startswith((*MODEL_PARTS, *CODEC_PARTS)) for key in plain(header)):
        what = f"tensors in Harmony's names ({beginnings(header)}) whose metadata lacks the config: no checkpoint by itself"
        return Finding(kind="unknown", what=what)
    return None


_RULES: tuple[Callable[[Header, str], Finding | None], ...] = (
    _lora,
    _ovi,
    text_encoder,
    _wan,
    video_vae,
    audio_codec,
    _judges,
    _harmony_parts,
    _stranger,
)
"""In the order they are asked: a LoRA's keys also look like those of what it is for, and Ovi's like Wan's."""
