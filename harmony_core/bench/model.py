"""Speed of the joint model: what is computed once pays, and costs grow as they should.

All figures are ratios of medians measured in one run, the compared things in turn. The weights are random: time does not
depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..canvas import Canvas
from ..conditioning import Conditioning
from ..config import BranchConfig, HarmonyConfig, InteractionConfig, SymbolEncoderConfig, preset
from ..denoiser import Denoiser, Setting
from ..flow import draw_noise
from ..geometry import ClipSpec
from ..guidance import Guidance, sync_guidance
from ..layers.rope import split_channels
from ..models.alignment import align
from ..models.branch import Branch, Stream
from ..models.harmony import Harmony
from ..models.interaction import Exchange, Interaction, WritingLink
from ..plan.operations import joint_pass, operations_of
from ..runtime import Runtime, usable_device
from ..sample import Schedule, sample
from ..timing import interleaved, synchronize
from ..types import AV, Modality

SYNC = sync_guidance(AV(3.0, 2.0))


def _mid_branch(channels: int, patch: tuple[int, ...]) -> BranchConfig:
    return BranchConfig(
        channels=channels,
        patch=patch,
        dim=384,
        heads=6,
        layers=6,
        ffn=1536,
        text_dim=256,
        text_len=128,
        rope_axes=split_channels(64) if len(patch) == 3 else (64,),
    )


MID = HarmonyConfig(
    video=_mid_branch(48, (1, 2, 2)),
    audio=_mid_branch(20, (1,)),
    interaction=InteractionConfig(),
    speech=SymbolEncoderConfig(length=64, dim=128, blocks=2),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured.

    Attributes:
        config: of the model.
        spec: of the clip.
        steps: of the cached and uncached runs.
        rounds: how often everything is run.
    """

    config: HarmonyConfig
    spec: ClipSpec
    steps: int = 20
    rounds: int = 3


def case(name: str) -> Case:
    """A model and a clip by name: ``mid`` (3,100 video tokens, 158 audio tokens), ``tiny``, ``5b`` (121 frames at 704 x 1280).

    Raises:
        ValueError: an unknown preset.
    """
    if name == "mid":
        return Case(config=MID, spec=ClipSpec(frames=121, height=320, width=320))
    config = preset(name)
    if name == "tiny":
        return Case(config=config, spec=ClipSpec(frames=49, height=64, width=64, grid=config.grid))
    return Case(config=config, spec=ClipSpec(frames=121, height=704, width=1280), steps=20, rounds=1)


class Bench:
    """The measurements on one model and one device."""

    def __init__(self, what: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.what, self.device, self.dtype = what, device, dtype
        torch.manual_seed(0)
        self.model = _with_random_weights(lambda: Harmony(what.config, Runtime(device=device, dtype=dtype)))
        self.noise = draw_noise(AV(what.spec.video_shape(), what.spec.audio_shape()), [0]).map(lambda x: x.to(device))
        self.anchors = draw_noise(AV(what.spec.video_shape(), what.spec.audio_shape()), [1])

    def setting(self, *, cached: bool = True, guidance: Guidance | None = None, driver: Modality | None = None) -> Setting:
        """A run's setting, with captions and a two-second reference."""
        canvas = Canvas.blank(self.what.spec)
        if driver is not None:
            canvas = canvas.with_given(driver, self.anchors[driver])
        branch = self.what.config.video
        told = Conditioning(
            video_caption=torch.randn(1, branch.text_len, branch.text_dim),
            audio_caption=torch.randn(1, branch.text_len, branch.text_dim),
            reference=torch.randn(1, self.what.config.audio.channels, 62),
        )
        return Setting(canvas=canvas, told=told, anchors=self.anchors, guidance=guidance or Guidance(), use_cache=cached)

    def steps(self) -> dict[str, float]:
        """Seconds of a joint pass and of a SyncCFG step, its drivers cached or not; conditions and drivers are ready."""
        sigma = AV(0.5, 0.5)
        velocities = {
            "joint": Denoiser(self.model, self.setting()),
            "sync cached": Denoiser(self.model, self.setting(guidance=SYNC)),
            "sync uncached": Denoiser(self.model, self.setting(guidance=SYNC, cached=False)),
        }
        tasks = {name: partial(velocity, self.noise, sigma) for name, velocity in velocities.items()}
        return interleaved(tasks, rounds=2 * self.what.rounds + 1, device=self.device)

    def driven(self) -> dict[str, float]:
        """Seconds of a whole video-driven run, drivers cached or not."""
        schedule = Schedule(steps=self.what.steps, sampler="euler")

        def run(cached: bool) -> None:
            sample(self.model, self.setting(cached=cached, driver=Modality.VIDEO), seeds=[0], schedule=schedule)

        return interleaved(
            {"cached": lambda: run(True), "uncached": lambda: run(False)}, rounds=1, device=self.device, warm=False
        )

    def cache_error(self) -> float:
        """Largest difference of a guided velocity with and without cache."""
        a, b = (Denoiser(self.model, self.setting_seeded(cached))(self.noise, AV(0.5, 0.5)) for cached in (True, False))
        return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))

    def setting_seeded(self, cached: bool) -> Setting:
        """The same SyncCFG setting every time."""
        torch.manual_seed(2)
        return self.setting(guidance=SYNC, cached=cached)

    def interaction(self, kind: str) -> dict[str, float]:
        """Seconds of one layer's interaction on a clip and on one four times as long."""
        config = self.what.config.replace(interaction={"kind": kind, "style": False, "style_tokens": 0})
        torch.manual_seed(0)
        layer = _with_random_weights(lambda: Interaction(config, Runtime(device=self.device, dtype=self.dtype)))
        branches = _with_random_weights(lambda: _branches(config, self.device, self.dtype))
        tasks: dict[str, Callable[[], object]] = {}
        for times in (1, 4):
            spec = ClipSpec(
                frames=config.grid.frames((self.what.spec.latent_frames - 1) * times + 1),
                height=self.what.spec.height,
                width=self.what.spec.width,
                grid=config.grid,
            )
            noise = draw_noise(AV(spec.video_shape(), spec.audio_shape()), [0]).map(lambda x: x.to(self.device, self.dtype))
            streams = AV.of(partial(_begin, branches, noise))
            tables = align(config, spec.latent_frames, spec.audio_latents, spec.fps)
            exchanges = tables.map(lambda t: Exchange(t.to(self.device)))
            tasks[f"{times}x"] = partial(_exchange, layer, streams, exchanges)
        with torch.no_grad():
            return interleaved(tasks, rounds=2 * self.what.rounds + 1, device=self.device)

    def branch(self) -> dict[str, float]:
        """Seconds of our video branch and of diffusers' Wan transformer, same shapes and weights.

        Raises:
            ValueError: diffusers is not installed.
        """
        config = self.what.config.video
        other = _diffusers_wan(config).to(self.device)
        if self.dtype != torch.float32:
            other = other.to(self.dtype)
        x, t = self.noise.video.to(self.dtype), torch.tensor([0.5], device=self.device)
        text = torch.randn(1, config.text_len, config.text_dim, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            return interleaved(
                {
                    "ours": lambda: self.model.video(x, t, text),
                    "diffusers": lambda: other(hidden_states=x, timestep=1000 * t, encoder_hidden_states=text),
                },
                rounds=2 * self.what.rounds + 1,
                device=self.device,
            )


def measure(name: str, *, device: str = "cpu") -> dict[str, float]:
    """Measure everything.

    Args:
        name: ``mid``, ``tiny`` or ``5b``; see :func:`case`.
        device: where; on a GPU weights are bf16 and absolute figures are added.

    Raises:
        ValueError: an unknown preset, a device that cannot be used, or diffusers is not installed.
    """
    place = usable_device(device)
    bench = Bench(case(name), place, torch.bfloat16 if place.type == "cuda" else torch.float32)
    steps, driven, branch = bench.steps(), bench.driven(), bench.branch()
    ours, whole = bench.interaction("frame_wise"), bench.interaction("global")
    figures = {
        "video_driven_cached_over_uncached": driven["cached"] / driven["uncached"],
        "sync_cfg_cached_over_joint": steps["sync cached"] / steps["joint"],
        "sync_cfg_uncached_over_joint": steps["sync uncached"] / steps["joint"],
        "interaction_4x_over_1x": ours["4x"] / ours["1x"],
        "interaction_global_4x_over_1x": whole["4x"] / whole["1x"],
        "branch_over_diffusers": branch["ours"] / branch["diffusers"],
        "driver_cache_max_abs_error": bench.cache_error(),
        "video_tokens": bench.what.spec.video_tokens,
        "audio_tokens": bench.what.spec.audio_latents,
        "threads": torch.get_num_threads(),
    }
    if place.type == "cuda":
        figures |= _absolute(bench, steps["joint"])
    return figures


def _absolute(bench: Bench, joint_seconds: float) -> dict[str, float]:
    """Seconds, rate of computing and memory of a joint pass on a GPU, beside the rate that GPU reaches on a large product."""
    torch.cuda.reset_peak_memory_stats(bench.device)
    Denoiser(bench.model, bench.setting())(bench.noise, AV(0.5, 0.5))
    peak = torch.cuda.max_memory_allocated(bench.device)
    size = 8192
    a = torch.randn(size, size, device=bench.device, dtype=bench.dtype)
    product = interleaved({"product": lambda: a @ a}, rounds=10, device=bench.device)["product"]
    synchronize(bench.device)
    operations = operations_of(bench.what.config, bench.what.spec, [joint_pass(bench.what.config)])
    return {
        "joint_seconds": joint_seconds,
        "joint_tflops": operations.total / joint_seconds / 1e12,
        "matrix_tflops": 2 * size**3 / product / 1e12,
        "joint_peak_gib": peak / 2**30,
    }


def _begin(branches: Any, latents: AV[torch.Tensor], modality: Modality) -> Stream:
    latent = latents[modality]
    stream: Stream = branches[modality.value].begin(latent, torch.zeros(1, 1, device=latent.device), ())
    return stream


def _exchange(layer: Interaction, streams: AV, exchanges: AV) -> None:
    for target in Modality:
        link = layer.links(target)["main"]
        assert isinstance(link, WritingLink)
        memory = link.read(streams[target.other], exchanges[target])
        link.write(streams[target], memory, exchanges[target])


def _branches(config: HarmonyConfig, device: torch.device, dtype: torch.dtype) -> torch.nn.ModuleDict:
    runtime = Runtime(device=device, dtype=dtype)
    return torch.nn.ModuleDict(
        {m.value: Branch(c, runtime) for m, c in zip(Modality, (config.video, config.audio), strict=True)}
    )


def _with_random_weights(make: Callable[[], torch.nn.Module]):  # type: ignore[no-untyped-def]
    module = make()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return module.requires_grad_(False).eval()


def _diffusers_wan(config: BranchConfig) -> Any:
    try:
        from diffusers import WanTransformer3DModel  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError("the comparison needs diffusers; install it: pip install diffusers") from error
    make: Any = WanTransformer3DModel
    return make(
        patch_size=config.patch,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.channels,
        out_channels=config.channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn,
        num_layers=config.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=config.eps,
    ).eval()
