"""Draws the pack's icon and banner for ComfyUI's registry from the clips of ``make demo``.

make demo && python tests/helpers/make_icon.py

Of the sizes the registry asks for: an icon of 400 by 400 pixels at most, square; a banner of 21 to 9.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from comfyui import ROOT
from PIL import Image, ImageDraw, ImageFont

FOLDER = ROOT / "docs" / "images"
ICON = (400, 400)
BANNER = (1680, 720)
PAPER, INK, FAINT = (24, 24, 28), (235, 235, 240), (120, 180, 255)
BARS = 48
"""Of a waveform in the icon; a banner has more of the same width."""
SHOWN = 11
"""Pictures of a clip in the banner."""
CLIPS = ("talk", "impact")


class Clip:
    """A saved clip: pictures (F, H, W, 3) of 8 bits, and samples."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as file:
            self.pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        with av.open(str(path)) as file:
            self.wave = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1).mean(0)

    def loudness(self, parts: int) -> np.ndarray:
        """Of equal parts of the sound, 0 to 1."""
        found = np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(self.wave, parts)])
        return found / max(float(found.max()), 1e-6)

    def loudest(self) -> Image.Image:
        """The picture at the loudest moment."""
        return Image.fromarray(self.pictures[int(self.loudness(len(self.pictures)).argmax())])

    def some(self, count: int) -> Iterator[Image.Image]:
        """Pictures at equal distances."""
        for index in np.linspace(0, len(self.pictures) - 1, count).round().astype(int):
            yield Image.fromarray(self.pictures[index])


def larger(picture: Image.Image, times: int) -> Image.Image:
    """Whole pixels, as they are."""
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def draw_wave(draw: ImageDraw.ImageDraw, clip: Clip, bars: int, box: tuple[int, int, int, int]) -> None:
    """The loudness of a clip as bars about the middle of a box: left, top, width, height."""
    left, top, width, height = box
    pitch = width / bars
    for place, loud in enumerate(clip.loudness(bars)):
        reach = max(1.5, loud * height / 2)
        x, middle = left + place * pitch, top + height / 2
        draw.rounded_rectangle((x + pitch * 0.2, middle - reach, x + pitch * 0.8, middle + reach), pitch * 0.3, fill=FAINT)


def icon(clip: Clip) -> Image.Image:
    """A face over its sound."""
    made = Image.new("RGB", ICON, PAPER)
    face = larger(clip.loudest(), 4)
    made.paste(face, ((ICON[0] - face.width) // 2, 24))
    draw_wave(ImageDraw.Draw(made), clip, BARS // 2, (40, 296, ICON[0] - 80, 80))
    return made


def banner(clips: list[Clip]) -> Image.Image:
    """The name, and each clip as pictures over its sound."""
    made = Image.new("RGB", BANNER, PAPER)
    draw = ImageDraw.Draw(made)
    draw.text((66, 40), "Harmony", INK, ImageFont.load_default(96))
    draw.text((70, 156), "video and sound, generated together", FAINT, ImageFont.load_default(36))
    side, gap, top = 128, 12, 236
    width = SHOWN * side + (SHOWN - 1) * gap
    left = (BANNER[0] - width) // 2
    for clip in clips:
        for place, picture in enumerate(clip.some(SHOWN)):
            made.paste(larger(picture, side // picture.width), (left + place * (side + gap), top))
        draw_wave(draw, clip, BARS * 3, (left, top + side + 10, width, 72))
        top += side + 100
    return made


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=ROOT / "out" / "demo", help="where make demo left them (%(default)s)")
    folder = parser.parse_args().clips
    missing = [name for name in CLIPS if not (folder / f"{name}.mp4").is_file()]
    if missing:
        parser.error(f"there is no {missing[0]}.mp4 in {folder}; run make demo, or name its folder by --clips")
    clips = [Clip(folder / f"{name}.mp4") for name in CLIPS]
    icon(clips[0]).save(FOLDER / "icon.png", optimize=True)
    banner(clips).save(FOLDER / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
