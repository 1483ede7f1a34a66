"""Clips that codecs can be trained on in a test: moving antialiased discs, and decaying modal tones where they turn."""

import math

import torch

from harmony_core.geometry import ClipSpec, Grid
from harmony_core.training.data import Clip
from harmony_core.training.store import Entry

COLOURS = ((0.9, 0.2, 0.2), (0.2, 0.8, 0.3), (0.3, 0.4, 0.95))
TONES = (330.0, 700.0, 1500.0)


class Discs:
    """A data set of ``count`` clips: a disc of one of three materials bounces; each bounce sounds."""

    def __init__(self, count: int, *, frames: int = 49, size: int = 64, seed: int = 0) -> None:
        self.spec = ClipSpec(frames=frames, height=size, width=size, grid=Grid(patch=1))
        self.entries = tuple(Entry(file=f"disc-{n}", video_caption="a disc", audio_caption="a tone") for n in range(count))
        self._seed = seed

    def clip(self, index: int) -> Clip:
        source = torch.Generator().manual_seed(1000 * self._seed + index)

        def draw(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=source))

        material = int(draw(0, 2.999))
        size, radius = self.spec.height, draw(0.06, 0.14) * self.spec.height
        x, y, dx, dy = (draw(0.2, 0.8) * size, draw(0.2, 0.8) * size, draw(-2, 2), draw(-3, 3))
        shade = draw(0.1, 0.4)
        frames, wave = [], torch.zeros(self.spec.samples)
        for frame in range(self.spec.frames):
            x, y = x + dx, y + dy
            if not radius < x < size - radius:
                dx, x = -dx, min(max(x, radius), size - radius)
                self._sound(wave, frame, TONES[material])
            if not radius < y < size - radius:
                dy, y = -dy, min(max(y, radius), size - radius)
                self._sound(wave, frame, TONES[material])
            frames.append(self._picture(x, y, radius, COLOURS[material], shade))
        return Clip(torch.stack(frames, 1) * 2 - 1, wave.clamp(-1, 1))

    def _picture(self, x: float, y: float, radius: float, colour: tuple[float, ...], shade: float) -> torch.Tensor:
        grid = torch.arange(self.spec.height) + 0.5
        inside = (radius - ((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2).sqrt() + 0.5).clamp(0, 1)
        ground = shade + 0.2 * grid[:, None] / self.spec.height
        return torch.stack([ground * (1 - inside) + c * inside for c in colour])

    def _sound(self, wave: torch.Tensor, frame: int, pitch: float) -> None:
        start = round(frame / self.spec.fps * 16_000)
        t = torch.arange(len(wave) - start) / 16_000
        for ratio, loudness in ((1.0, 0.3), (2.76, 0.15), (5.4, 0.07)):
            if pitch * ratio < 7500:
                wave[start:] += loudness * torch.exp(-t * 8 * ratio) * torch.sin(2 * math.pi * pitch * ratio * t)
