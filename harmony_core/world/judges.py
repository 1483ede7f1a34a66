"""Two small networks that judge speech, trained on true clips in a few minutes on one CPU core.

The listener hears which word is spoken and what the mouth must be doing, 62.5 times a second. SyncNet (Chung & Zisserman,
"Out of time", 2016, here in miniature) puts the pictures of a mouth and the sound around them at one place when they belong
together. Both see their training clips blurred and noisy, as decoders make them.
"""

# B batch, F frames, T spectra, C channels, E width of an embedding

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..atomic import replacing
from ..codecs.mel import MelConfig, log_mel
from ..inputs import is_file, named
from ..progress import Progress
from .clip import Floats, WorldClip
from .dataset import Recipe, make_clip, make_talk
from .mouth import releases, shapes
from .speech import VOCABULARY
from .talk import Talk

logger = logging.getLogger(__name__)

_MEL = MelConfig(n_fft=512, hop=256, bins=64, floor=1e-4)
_RATE = _MEL.sample_rate / _MEL.hop  # spectra a second
_SHORTEST_WORD = 0.10
_Net = TypeVar("_Net", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class JudgesConfig:
    """How the judges are trained.

    Attributes:
        seed: of weights, order and noise.
        first_seed: of the clips; part of the training seeds that models seldom reach.
        talks: clips the listener hears.
        clips: clips SyncNet sees.
        listener_steps: of the optimiser.
        sync_steps: of the optimiser.
        batch: clips a step.
        learning_rate: highest, of AdamW.
    """

    seed: int = 0
    first_seed: int = 900_000
    talks: int = 1200
    clips: int = 320
    listener_steps: int = 600
    sync_steps: int = 300
    batch: int = 16
    learning_rate: float = 3e-3


class _Residual(nn.Module):
    """A convolution over time that adds to what it is given."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.conv(self.norm(x))))


class Listener(nn.Module):
    """Sound to words and mouth shapes."""

    def __init__(self, dim: int = 96) -> None:
        super().__init__()
        self.enter = nn.Conv1d(_MEL.bins, dim, 5, padding=2)
        self.blocks = nn.Sequential(*(_Residual(dim, 2**k) for k in (0, 1, 2, 3, 4)))
        self.words = nn.Conv1d(dim, len(VOCABULARY) + 1, 1)
        self.mouth = nn.Conv1d(dim, 3, 1)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mel spectra (B, bands, T) to word scores (B, words + 1, T), 0 for none, and mouth shapes (B, 3, T) in [0, 1]."""
        x = self.blocks(self.enter(mel))
        return self.words(x), self.mouth(x).sigmoid()

    @torch.no_grad()
    def hear(self, wave: Tensor) -> tuple[list[str], Floats]:
        """The words in a sound (1, samples) in order, and the times at which the mouth must open, seconds."""
        scores, mouth = self(features(wave))
        best = scores[0].softmax(0)
        runs = _runs(best.argmax(0).tolist())
        said = [VOCABULARY[word - 1] for word, length in runs if word and length >= _SHORTEST_WORD * _RATE]
        return said, releases(mouth[0, 0].double().numpy(), _RATE, start=0.5 / _RATE)


class SyncNet(nn.Module):
    """Pictures and sound to embeddings that agree where both belong together."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.GELU(),
            nn.Flatten(), nn.Linear(48 * 4 * 6, dim),
        )  # fmt: skip
        self.watch = nn.Conv1d(dim, dim, 5, padding=2)
        self.enter = nn.Conv1d(_MEL.bins, dim, 5, padding=2)
        self.blocks = nn.Sequential(*(_Residual(dim, d) for d in (1, 2, 3)))
        self.leave = nn.Conv1d(dim, dim, 1)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def pictures(self, frames: Tensor) -> Tensor:
        """Mouths (B, F, 3, 16, 24) of :func:`mouths` to (B, F, E) of length 1."""
        x = self.see(frames.flatten(0, 1)).view(*frames.shape[:2], -1).transpose(1, 2)
        return F.normalize(self.watch(F.gelu(x)).transpose(1, 2), dim=-1)

    def sound(self, mel: Tensor, frames: int, fps: float) -> Tensor:
        """Mel spectra (B, bands, T) to (B, F, E) of length 1, at the instants of the pictures."""
        x = self.leave(self.blocks(self.enter(mel)))
        at = ((torch.arange(frames) + 0.5) / fps * _RATE - 0.5).clamp(0, x.shape[-1] - 1)
        low = at.floor().long()
        high = (low + 1).clamp(max=x.shape[-1] - 1)
        part = at - low
        return F.normalize((x[..., low] * (1 - part) + x[..., high] * part).transpose(1, 2), dim=-1)


@dataclass(frozen=True)
class Judges:
    """The trained networks."""

    listener: Listener
    syncnet: SyncNet

    def save(self, path: str | Path) -> None:
        """Write both to one safetensors file."""
        tensors = {f"{name}.{key}": value for name, net in vars(self).items() for key, value in net.state_dict().items()}
        with replacing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={"vocabulary": "|".join(VOCABULARY)})

    @classmethod
    def load(cls, path: str | Path) -> Judges:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file is missing or holds something else.
        """
        if not is_file(Path(path)):
            raise ValueError(f"there is no file {named(path)} with judges; train them with train_judges")
        judges = cls(Listener().eval(), SyncNet().eval())
        try:
            tensors = load_file(path)
            for name, net in vars(judges).items():
                net.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
        except Exception as error:  # safetensors has an exception type of its own, torch raises RuntimeError
            raise ValueError(f"{named(path)} holds no judges of this version: {str(error).splitlines()[0]}") from error
        return judges


def features(wave: Tensor) -> Tensor:
    """Sound (B, samples) at 16 kHz as mel spectra (B, bands, T), about unit size."""
    return log_mel(wave, _MEL).add(2.5).div(1.2)


def mouths(frames: Tensor) -> Tensor:
    """The part of the pictures where a talking face has its mouth, at half size.

    Args:
        frames: (B, 3, F, 64, 64) in [-1, 1].

    Returns:
        (B, F, 3, 16, 24).
    """
    crops = frames.transpose(1, 2)[..., 32:64, 8:56]
    return F.avg_pool2d(crops.flatten(0, 1), 2).unflatten(0, crops.shape[:2])


def train_judges(config: JudgesConfig | None = None, *, progress: Progress | None = None) -> Judges:
    """Train both on clips made for them.

    Args:
        config: how.
        progress: called after each step of either.

    Raises:
        ValueError: espeak-ng is not installed.
    """
    config = config or JudgesConfig()
    total = config.listener_steps + config.sync_steps

    def after_listener(done: int, _: int) -> None:
        if progress is not None:
            progress(config.listener_steps + done, total)

    def in_listener(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    seeds = range(config.first_seed, config.first_seed + max(config.talks, config.clips))
    talks = [make_talk(Recipe(kind="talk", seed=seed)) for seed in seeds[: config.talks]]
    listener = _train_listener(talks, config, in_listener)
    clips = [make_clip(Recipe(kind="talk", seed=seed)) for seed in seeds[: config.clips]]
    return Judges(listener, _train_syncnet(clips, config, after_listener))


def _train_listener(talks: Sequence[Talk], config: JudgesConfig, progress: Progress) -> Listener:
    generator = torch.Generator().manual_seed(config.seed)
    listener = _seeded(Listener, config.seed)
    mels = torch.cat([features(torch.from_numpy(talk.wave)[None]) for talk in talks])
    words, mouths = _labels(talks, mels.shape[-1])
    optimizer, schedule = _optimizer(listener, config, config.listener_steps)
    for step in range(config.listener_steps):
        rows = torch.randint(len(talks), (config.batch,), generator=generator)
        scores, mouth = listener(_noisy(mels[rows], generator))
        loss = F.cross_entropy(scores, words[rows]) + 4 * F.mse_loss(mouth, mouths[rows])
        _step(loss, listener, optimizer, schedule)
        progress(step + 1, config.listener_steps)
    logger.info("listener: loss %.4f", loss.item())
    return listener.eval()


def _train_syncnet(clips: Sequence[WorldClip], config: JudgesConfig, progress: Progress) -> SyncNet:
    generator = torch.Generator().manual_seed(config.seed + 1)
    net = _seeded(SyncNet, config.seed + 1)
    pictures = torch.cat([mouths(clip.frames[None]) for clip in clips])
    mels = torch.cat([features(clip.samples) for clip in clips])
    spec = clips[0].spec
    optimizer, schedule = _optimizer(net, config, config.sync_steps)
    target = torch.arange(spec.frames).expand(config.batch, -1)
    for step in range(config.sync_steps):
        rows = torch.randint(len(clips), (config.batch,), generator=generator)
        seen = net.pictures(_blurred(pictures[rows], generator))
        heard = net.sound(_noisy(mels[rows], generator), spec.frames, spec.fps)
        alike = seen @ heard.transpose(1, 2) * net.scale.exp()
        loss = (F.cross_entropy(alike, target) + F.cross_entropy(alike.transpose(1, 2), target)) / 2
        _step(loss, net, optimizer, schedule)
        progress(step + 1, config.sync_steps)
    logger.info("syncnet: loss %.4f", loss.item())
    return net.eval()


def _seeded(make: Callable[[], _Net], seed: int) -> _Net:
    """A network with weights of this seed; the random numbers of everybody else stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _labels(talks: Sequence[Talk], length: int) -> tuple[Tensor, Tensor]:
    """The word (B, T) and the mouth (B, 3, T) at every spectrum."""
    times = (np.arange(length, dtype=np.float64) + 0.5) / float(_RATE)
    words = np.zeros((len(talks), length), np.int64)
    mouths = np.zeros((len(talks), 3, length), np.float32)
    for row, talk in enumerate(talks):
        for word in talk.words:
            words[row, (times >= word.start) & (times < word.end)] = VOCABULARY.index(word.text) + 1
        mouths[row] = shapes(talk.phonemes, times, length / _RATE).T
    return torch.from_numpy(words), torch.from_numpy(mouths)


def _noisy(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Louder or softer, over a floor of noise."""
    gain = 0.15 * torch.randn(len(mel), 1, 1, generator=generator)
    return mel + gain + 0.15 * torch.randn(mel.shape, generator=generator)


def _blurred(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy, and half of the time as soft as a decoder makes them."""
    if torch.rand((), generator=generator) < 0.5:
        soft = F.avg_pool3d(frames.transpose(1, 2), (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
        frames = (frames + soft.transpose(1, 2)) / 2
    return frames + 0.05 * torch.randn(frames.shape, generator=generator)


def _optimizer(
    net: nn.Module, config: JudgesConfig, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps, pct_start=0.15)


def _step(
    loss: Tensor, net: nn.Module, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def _runs(values: Sequence[int]) -> list[tuple[int, int]]:
    """Values and how often each stands in a row."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1] = (value, runs[-1][1] + 1)
        else:
            runs.append((value, 1))
    return runs
