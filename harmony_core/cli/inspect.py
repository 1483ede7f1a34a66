"""Say what a weights file is, from its header alone: a Harmony checkpoint with its config, a codec, Wan2.2, Ovi, umT5, a LoRA.

Says what it is good for, what else it takes to make clips with it and where that is published, and ComfyUI's folder for it.
What is not known is said to be so, with the beginnings of its keys. Reads .safetensors, an index beside its shards, and
pickles that hold nothing but tensors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import BranchConfig, HarmonyConfig, SymbolEncoderConfig
    from ..weights.inspect import Description, Part
    from ..weights.published import Piece

SUMMARY = "say what a weights file is"

_LONGEST_TEXT, _MOST_PARTS = 200, 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file."""
    parser.add_argument("file", help="a weights file, or the name of a built-in checkpoint")
    parser.add_argument("--json", action="store_true", help="print everything that is known, configs included, as JSON")


def run(args: argparse.Namespace) -> None:
    """Look and print.

    Raises:
        ValueError: the file is missing, empty, truncated or no weights file.
    """
    from ..weights.builtin import resolve
    from ..weights.inspect import inspect

    found = inspect(resolve(args.file))
    if args.json:
        print(json.dumps(_record(found), indent=2, ensure_ascii=False))
        return
    lines = list(_lines(found))
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"{name:<{width}}  {text}")


def _record(found: Description) -> dict[str, Any]:
    from ..records import to_record

    return {**to_record(found), "path": str(found.path)}


def _lines(found: Description) -> Iterator[tuple[str, str]]:
    shards = f" in {found.files} files" if found.files > 1 else ""
    yield "file", f"{found.path}, {_bytes(found.size)}{shards}"
    yield "is", found.what
    yield from _use(found)
    yield "tensors", f"{found.tensors}, {_count(found.parameters)} values, {_dtypes(found.dtypes)}"
    for part in found.parts[:_MOST_PARTS]:
        yield f"  {part.name}", _part(part)
    if len(found.parts) > _MOST_PARTS:
        rest = found.parts[_MOST_PARTS:]
        yield "  others", f"{sum(part.tensors for part in rest)} tensors with {len(rest)} other beginnings"
    if found.config is not None:
        yield from _config(found.config)
    if found.clip is not None:
        clip = found.clip
        yield "trained on", f"{clip.frames} frames of {clip.width} x {clip.height} at {clip.fps:g} fps ({clip.seconds:.2f} s)"
    yield from _codecs(found)
    for name, text in sorted(found.metadata.items()):
        flat = " ".join(text.split())
        yield name, flat if len(flat) <= _LONGEST_TEXT else flat[:_LONGEST_TEXT] + "..."


def _use(found: Description) -> Iterator[tuple[str, str]]:
    """What can be done with it."""
    if found.purpose:
        yield "good for", found.purpose
    for note in found.notes:
        yield "note", note
    for piece in found.missing:
        yield "missing", _piece(piece)
    if found.licence:
        yield "licence", found.licence
    if found.folder:
        yield "ComfyUI", f"models/{found.folder}"


def _piece(piece: Piece) -> str:
    sources = "; or ".join(f"{source.repository}, {', '.join(source.files)}" for source in piece.sources)
    return f"{piece.name}: {sources} ({piece.licence})"


def _part(part: Part) -> str:
    return f"{part.tensors} tensors, {_count(part.parameters)} values, {_dtypes(part.dtypes)}"


def _config(config: HarmonyConfig) -> Iterator[tuple[str, str]]:
    link, grid = config.interaction, config.grid
    yield "video branch", _branch(config.video)
    yield "audio branch", _branch(config.audio)
    style = "style alignment" if link.style else "no style alignment"
    style += f", {link.style_tokens} tokens for no reference" if link.style_tokens else ""
    window = f", window {link.window}" if link.kind == "frame_wise" else ""
    yield "interaction", f"{link.kind}, {link.positions} positions{window}, {style}"
    yield "isolation", "drivers read nothing of what they drive" if config.driver_isolation else "none: drivers are run along"
    yield "captions", _encoder(config.caption) or f"umT5's, {config.video.text_dim} wide, prompt {config.prompt}"
    yield "transcripts", _encoder(config.speech) or "none"
    strides = f"{grid.frame_stride} frames and {grid.pixel_stride} x {grid.pixel_stride} pixels"
    yield "video grid", f"{config.fps:g} fps, {strides} a latent, sides multiples of {grid.size_multiple}"
    yield "audio grid", f"{grid.sample_rate} Hz, {grid.audio_rate:g} latents a second"


def _branch(branch: BranchConfig) -> str:
    patch = " x ".join(map(str, branch.patch))
    return (
        f"{branch.layers} layers, dim {branch.dim}, {branch.heads} heads, feed-forward {branch.ffn}, "
        f"{branch.channels} channels, patch {patch}"
    )


def _encoder(encoder: SymbolEncoderConfig | None) -> str:
    if encoder is None:
        return ""
    symbols = f"{len(encoder.symbols)} symbols" if encoder.symbols else "bytes"
    return f"{symbols}, up to {encoder.length}; dim {encoder.dim}, blocks {encoder.blocks}"


def _codecs(found: Description) -> Iterator[tuple[str, str]]:
    video, audio = found.codecs.video, found.codecs.audio
    if video is not None:
        yield "video codec", f"{video.channels} channels, encoder {video.encoder_width} and decoder {video.decoder_width} wide"
    if audio is not None:
        vocoder = "its waveform computed, not learned" if audio.vocoder is None else f"vocoder {audio.vocoder.width} wide"
        yield "audio codec", f"{audio.vae.latent_channels} channels at {audio.mel.sample_rate} Hz, {vocoder}"


def _dtypes(dtypes: tuple[str, ...]) -> str:
    return ", ".join(dtypes) or "no dtype"


def _count(values: int) -> str:
    for size, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if values >= size:
            return f"{values / size:.2f} {name}"
    return str(values)


def _bytes(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"
