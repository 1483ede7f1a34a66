"""The orientation that a camera notes in a JPEG, PNG, WebP or TIFF file.

FFmpeg reports it for some formats in some versions and loses the mirrored ones on the way through PyAV, so the tag is read
here, from the few bytes that hold it. A file without a tag, or with a broken one, is upright: the picture itself is whole.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_ORIENTATION_TAG = 0x0112
_LONGEST_TAG_BLOCK = 1 << 20


def read_orientation(path: Path) -> int:
    """The EXIF orientation of a picture file, 1 (upright) to 8."""
    with path.open("rb") as file:
        try:
            return _orientation(_tags(file))
        except struct.error:
            return 1


def _tags(file: BinaryIO) -> bytes:
    """The TIFF structure that holds the tags, empty where there is none."""
    head = file.read(12)
    file.seek(0)
    if head[:2] == b"\xff\xd8":
        return _from_jpeg(file)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return _from_chunks(file, first=8, wanted=b"eXIf", header=">I4s", checksum=4)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return _from_chunks(file, first=12, wanted=b"EXIF", header="<4sI", padded=True)
    if head[:4] in {b"II*\0", b"MM\0*"}:
        return file.read(_LONGEST_TAG_BLOCK)
    return b""


def _from_jpeg(file: BinaryIO) -> bytes:
    file.seek(2)
    while True:
        marker, length = struct.unpack(">HH", file.read(4))
        if marker == 0xFFDA or marker < 0xFF00 or length < 2:
            return b""
        if marker == 0xFFE1:
            block = file.read(length - 2)
            if block.startswith(b"Exif\0\0"):
                return block[6:]
        else:
            file.seek(length - 2, 1)


def _from_chunks(file: BinaryIO, *, first: int, wanted: bytes, header: str, checksum: int = 0, padded: bool = False) -> bytes:
    file.seek(first)
    while True:
        fields = struct.unpack(header, file.read(8))
        kind, length = fields if isinstance(fields[0], bytes) else reversed(fields)
        if kind == wanted:
            return file.read(min(length, _LONGEST_TAG_BLOCK)).removeprefix(b"Exif\0\0")
        file.seek(length + (length % 2 if padded else 0) + checksum, 1)


def _orientation(tags: bytes) -> int:
    if tags[:2] not in {b"II", b"MM"}:
        return 1
    order = "<" if tags[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", tags, 4)
    (count,) = struct.unpack_from(order + "H", tags, directory)
    for entry in range(count):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tags, directory + 2 + 12 * entry)
        if tag == _ORIENTATION_TAG and kind == 3 and 1 <= value <= 8:
            return int(value)
    return 1
