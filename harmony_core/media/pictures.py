"""One decoded frame to one upright RGB picture of the wanted size.

Three things that players do and decoders leave undone: the matrix and range the colours are coded in, the turn and mirroring
a camera notes, and pixels that are not square.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from .hdr import tone_mapped, transfer_of

Resize = Literal["cover", "fit"]
Picture = np.ndarray[Any, np.dtype[np.uint8]]

# Bicubic, chroma handled at full width; the last three have no names in older PyAV.
SCALING = int(Interpolation.BICUBIC) | 0x2000 | 0x4000 | 0x40000

# Matrices of ITU-T H.273 by the number that files carry -> swscale's number of the same. PyAV lacks names for some.
_BT601, _BT709 = 5, 1
_MATRICES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}
_UNSTATED_MATRICES = (0, 2, 3)


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is brought upright: rows and columns exchanged first, then mirrored."""

    transposed: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def from_exif(cls, tag: int) -> Orientation:
        """From the orientation tag of a photograph, 1 to 8."""
        return cls(transposed=tag >= 5, mirror_x=tag in {2, 3, 6, 7}, mirror_y=tag in {3, 4, 7, 8})

    @classmethod
    def from_frame(cls, frame: VideoFrame) -> Orientation:
        """From the display matrix of a frame, to the nearest quarter turn."""
        try:
            side_data: Any = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV has no name for something else beside the frame; the turn alone it tells all the same
            return cls._from_degrees(frame.rotation)
        if side_data is None:
            return cls()
        a, b, _, c, d = np.frombuffer(side_data, "<i4")[:5].tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(transposed=True, mirror_x=c < 0, mirror_y=b < 0)
        return cls(mirror_x=a < 0, mirror_y=d < 0)

    @classmethod
    def _from_degrees(cls, counterclockwise: float) -> Orientation:
        return cls.from_exif((1, 8, 3, 6)[round(counterclockwise / 90) % 4])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after turning; its own inverse."""
        return (width, height) if self.transposed else (height, width)

    def apply(self, picture: Picture) -> Picture:
        """Turn (H, W, 3)."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


def shown_size(frame: VideoFrame, pixel_aspect: Fraction | None, orientation: Orientation) -> tuple[int, int]:
    """Height and width of the frame as a player shows it: upright, with square pixels."""
    width = max(1, round(frame.width * pixel_aspect)) if pixel_aspect else frame.width
    return orientation.size(frame.height, width)


class Framer:
    """Converts frames to pictures of one size, keeping swscale's tables from frame to frame.

    Args:
        size: height and width of the pictures.
        resize: ``cover`` fills the size and crops what is over, evenly; ``fit`` shows all and leaves black bars.
        pixels: the most pixels a picture may have on the way.
        still: photographs whose matrix is not stated are coded as JPEG is, whatever their size.
    """

    def __init__(self, size: tuple[int, int], *, resize: Resize, pixels: int, still: bool) -> None:
        if resize not in ("cover", "fit"):
            raise ValueError(f"resize is 'cover' or 'fit', got {resize!r}")
        self.size = size
        self.resize = resize
        self.pixels = pixels
        self.still = still
        self._scaler = VideoReformatter()

    def picture(self, frame: VideoFrame, pixel_aspect: Fraction | None, orientation: Orientation) -> Picture:
        """Convert one frame.

        Returns:
            (H, W, 3) uint8, full-range RGB, transparency over black.

        Raises:
            ValueError: the colours are coded in a way swscale does not know, or the picture is too elongated to fill the size.
        """
        shown = shown_size(frame, pixel_aspect, orientation)
        scaled = self._scaled_size(shown)
        if scaled[0] * scaled[1] > self.pixels:
            raise ValueError(
                f"a picture of {shown[1]} x {shown[0]} is too elongated to fill {self.size[1]} x {self.size[0]}: "
                f"it would be enlarged to {scaled[1]} x {scaled[0]}"
            )
        if _transparent(frame):
            frame = self._over_black(frame)
        height, width = orientation.size(*scaled)
        if (transfer := transfer_of(frame)) is not None:
            deep = self._convert(frame, height=height, width=width, pixel_format="rgb48le").to_ndarray()
            return self._placed(orientation.apply(tone_mapped(deep, transfer, int(frame.color_primaries or 0))))
        rgb = self._convert(frame, height=height, width=width, pixel_format="rgb24")
        return self._placed(orientation.apply(rgb.to_ndarray()))  # type: ignore[arg-type]

    def _scaled_size(self, shown: tuple[int, int]) -> tuple[int, int]:
        ratios = [Fraction(wanted, given) for wanted, given in zip(self.size, shown, strict=True)]
        ratio = max(ratios) if self.resize == "cover" else min(ratios)
        return max(1, round(shown[0] * ratio)), max(1, round(shown[1] * ratio))

    def _over_black(self, frame: VideoFrame) -> VideoFrame:
        rgba = self._convert(frame, height=frame.height, width=frame.width, pixel_format="rgba").to_ndarray()
        colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
        return VideoFrame.from_ndarray(((colour * alpha + 127) // 255).astype(np.uint8), format="rgb24")

    def _convert(self, frame: VideoFrame, *, height: int, width: int, pixel_format: str) -> VideoFrame:
        matrix, full = _coding(frame, still=self.still)
        return self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format=pixel_format,
            src_colorspace=matrix,
            # RGB has none, but older PyAV heeds the range only where the two differ.
            dst_colorspace=_BT601 if matrix == _BT709 else _BT709,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=SCALING,
        )

    def _placed(self, picture: Picture) -> Picture:
        """Crop or pad (h, w, 3) to the size, centred."""
        if picture.shape[:2] == self.size:
            return np.ascontiguousarray(picture)
        canvas: Picture = np.zeros((*self.size, 3), np.uint8)
        source, target = zip(
            *(_centred(given, wanted) for given, wanted in zip(picture.shape[:2], self.size, strict=True)), strict=True
        )
        canvas[target] = picture[source]
        return canvas


def _centred(given: int, wanted: int) -> tuple[slice, slice]:
    length = min(given, wanted)
    source, target = (given - length) // 2, (wanted - length) // 2
    return slice(source, source + length), slice(target, target + length)


def _transparent(frame: VideoFrame) -> bool:
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def _coding(frame: VideoFrame, *, still: bool) -> tuple[int, bool]:
    """The matrix of a frame's colours and whether their range is full."""
    if frame.format.is_rgb or frame.format.has_palette:
        return _BT709, True
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    number = int(frame.colorspace)
    if number in _UNSTATED_MATRICES:
        # What players assume: high definition is BT.709, smaller video and all photographs BT.601.
        large = frame.width >= 1280 or frame.height > 576
        return (_BT709 if large and not still else _BT601), full
    if number not in _MATRICES:
        raise ValueError(f"its colours are coded with matrix number {number}, which cannot be converted to RGB here")
    return _MATRICES[number], full
