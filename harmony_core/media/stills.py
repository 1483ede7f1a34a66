"""Whether a photograph is all there: FFmpeg shows half of a cut JPEG or GIF, with the rest green or black."""

from __future__ import annotations

from typing import BinaryIO

_TRAILER, _EXTENSION, _IMAGE = 0x3B, 0x21, 0x2C


def is_cut_gif(file: BinaryIO) -> bool:
    """Whether a GIF ends in the middle of a picture. The file is left at its beginning.

    One that lacks its end mark alone shows all its pictures, and junk after that mark harms nothing.
    """
    try:
        return _ends_within(file)
    finally:
        file.seek(0)


def _ends_within(file: BinaryIO) -> bool:
    header = file.read(13)
    if len(header) < 13 or header[:3] != b"GIF":
        return False  # FFmpeg says what it is
    _skip_colours(file, header[10])
    while True:
        mark = file.read(1)
        if not mark or mark[0] == _TRAILER:
            return False
        if mark[0] == _EXTENSION:
            file.read(1)
        elif mark[0] == _IMAGE:
            place = file.read(9)
            if len(place) < 9:
                return True
            _skip_colours(file, place[8])
            file.read(1)
        else:
            return False  # not a block: what was before it is whole
        if not _skip_blocks(file):
            return True


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)


def _skip_blocks(file: BinaryIO) -> bool:
    """Pass over a block's data; False where the file ends in it."""
    while True:
        size = file.read(1)
        if not size:
            return False
        if not size[0]:
            return True
        if len(file.read(size[0])) < size[0]:
            return False
