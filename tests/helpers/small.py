"""Models and clips small enough for a test, with every part there."""

import torch

from harmony_core.conditioning import Conditioning
from harmony_core.config import BranchConfig, HarmonyConfig, InteractionConfig, SymbolEncoderConfig
from harmony_core.flow import draw_noise
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.layers.rope import split_channels
from harmony_core.models.harmony import Harmony
from harmony_core.types import AV


def small_branch(channels: int, patch: tuple[int, ...], **changes) -> BranchConfig:
    base = {
        "channels": channels,
        "patch": patch,
        "dim": 48,
        "heads": 2,
        "layers": 2,
        "ffn": 64,
        "text_dim": 16,
        "text_len": 6,
        "freq_dim": 32,
        "rope_axes": split_channels(24) if len(patch) == 3 else (24,),
    }
    return BranchConfig(**{**base, **changes})


def small_config(**interaction) -> HarmonyConfig:
    """A two-layer model whose parts are all there."""
    isolation = interaction.pop("driver_isolation", True)
    return HarmonyConfig(
        video=small_branch(48, (1, 2, 2)),
        audio=small_branch(20, (1,)),
        interaction=InteractionConfig(**{"style_tokens": 2, "reference_gap": 4, **interaction}),
        speech=SymbolEncoderConfig(symbols=" abc", length=5, dim=16, blocks=1),
        grid=Grid(),
        driver_isolation=isolation,
    )


def small_model(config: HarmonyConfig | None = None, *, seed: int = 0, silent: bool = False) -> Harmony:
    """A model with random weights; unless ``silent`` the interaction and the heads, which start at zero, speak too."""
    config = config or small_config()
    model = Harmony(config)
    model.initialize(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if silent and name.startswith("interaction.layers"):
            continue
        if parameter.std() == 0 and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.requires_grad_(False)


def small_clip(**changes) -> ClipSpec:
    """Three video latents of 2 x 3 tokens and twelve audio latents."""
    return ClipSpec(**{"frames": 9, "height": 64, "width": 96, **changes})


def small_latents(batch: int = 1, *, seed: int = 0, spec: ClipSpec | None = None) -> AV[torch.Tensor]:
    """Random latents of a clip."""
    spec = spec or small_clip()
    return draw_noise(AV(spec.video_shape(batch), spec.audio_shape(batch)), range(seed, seed + batch))


def small_conditioning(batch: int = 1, *, seed: int = 0, reference: int = 3) -> Conditioning:
    """All conditions given, another for every item."""
    items = [torch.Generator().manual_seed(seed + i) for i in range(batch)]

    def draw(*shape: int) -> torch.Tensor:
        return torch.stack([torch.randn(*shape, generator=g) for g in items])

    return Conditioning(
        video_caption=draw(4, 16),
        audio_caption=draw(5, 16),
        transcript=torch.stack([torch.randint(0, 5, (5,), generator=g) for g in items]),
        reference=draw(20, reference) if reference else None,
    )
