"""What a Harmony checkpoint is: frozen configs, the presets, and their form in a file's metadata.

Every choice the papers leave open is a field here, never a constant in the code.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from .geometry import Grid, check_fps
from .layers.rope import split_channels
from .records import check_fields, check_most, from_record, to_record
from .shown import shown

FORMAT_VERSION = "1"
CONFIG_KEY = "harmony.config"
FORMAT_KEY = "harmony.format"
_MOST_SYMBOLS = 1 << 16

InteractionKind = Literal["frame_wise", "global", "cmc_pe", "fused", "none"]
Positions = Literal["exact", "centred", "paper", "index"]


def _check(config: Any, where: str) -> None:
    """Types as annotated, and every number positive."""
    check_fields(config, where)
    for name, value in vars(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, int | float) and not isinstance(n, bool) and not n > 0 for n in numbers):
            raise ValueError(f"{where}.{name} is positive, got {shown(value)}")


@dataclass(frozen=True, kw_only=True)
class BranchConfig:
    """One diffusion transformer, in Wan2.2's terms.

    Attributes:
        channels: of the latent, in and out.
        patch: latents a token covers: (time, height, width), or (time,) for sound.
        dim: width of a token.
        heads: attention heads; divides ``dim``.
        layers: transformer blocks.
        ffn: hidden width of the feed-forward.
        text_dim: width of a caption token.
        text_len: caption tokens; shorter captions are padded with zeros, which are attended to, as Wan does.
        freq_dim: features of the sinusoidal time embedding.
        rope_axes: channels of a head that each axis of the patch turns; the rest is not turned.
        rope_theta: base of the rotary frequencies.
        rope_scale: multiplies every rotary frequency.
        eps: of the normalisations.
        embedding: ``conv`` is Wan's patch embedding, ``conv_mlp`` the one of Ovi's audio tower.
    """

    channels: int
    patch: tuple[int, ...]
    dim: int
    heads: int
    layers: int
    ffn: int
    text_dim: int
    text_len: int
    rope_axes: tuple[int, ...]
    freq_dim: int = 256
    rope_theta: float = 10_000.0
    rope_scale: float = 1.0
    eps: float = 1e-6
    embedding: Literal["conv", "conv_mlp"] = "conv"

    def __post_init__(self) -> None:
        _check(self, "branch")
        check_most(self, "branch", layers=256, heads=1024, channels=4096, patch=64, dim=1 << 16, ffn=1 << 20, freq_dim=1 << 16)
        check_most(self, "branch", text_dim=1 << 16, text_len=1 << 16, rope_axes=1 << 16)
        if self.dim % self.heads:
            raise ValueError(f"branch.dim {self.dim} is not a multiple of {self.heads} heads")
        if len(self.patch) not in {1, 3} or self.patch[0] != 1:
            raise ValueError(f"branch.patch is (1,) for sound or (1, height, width) for video, got {self.patch}")
        if len(self.rope_axes) != len(self.patch):
            raise ValueError(f"branch.rope_axes has {len(self.rope_axes)} axes, the patch has {len(self.patch)}")
        if sum(self.rope_axes) > self.head_dim or any(n % 2 for n in self.rope_axes):
            raise ValueError(f"branch.rope_axes are even and fit a head of {self.head_dim} channels, got {self.rope_axes}")
        if self.freq_dim % 2:
            raise ValueError(f"branch.freq_dim is even, got {self.freq_dim}")
        if self.embedding == "conv_mlp" and self.patch != (1,):
            raise ValueError(f"branch.embedding conv_mlp is for sound with patch (1,), got patch {self.patch}")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.dim // self.heads


@dataclass(frozen=True, kw_only=True)
class InteractionConfig:
    """How the two branches hear and see each other, at every layer.

    Attributes:
        kind: ``frame_wise`` is Harmony's; ``global`` its ablation baseline; ``cmc_pe`` the second paper's; ``fused`` Ovi's;
            ``none`` keeps the branches apart.
        positions: of the rotary embedding and of the windows: times, with the first video latent ``centred`` on the one frame
            it shows, or, ``exact`` but for that, as long as the others (models trained so far); the ``paper``'s j T_v / T_a; or
            each stream's own ``index`` (not aligned; windows are then those of the times).
        window: video latents to each side that are adjacent in time (``frame_wise``).
        style: global style alignment: the reference tokens attend to the whole video.
        style_tokens: learned tokens that take the reference's place when there is none; 0 for none.
        reference_gap: positions left free between the reference tokens and the clip.
    """

    kind: InteractionKind = "frame_wise"
    positions: Positions = "exact"
    window: int = 1
    style: bool = True
    style_tokens: int = 0
    reference_gap: int = 16

    def __post_init__(self) -> None:
        check_fields(self, "interaction")
        if self.window < 0 or self.style_tokens < 0 or self.reference_gap < 0:
            raise ValueError("interaction.window, style_tokens and reference_gap are not negative")
        check_most(self, "interaction", window=1024, style_tokens=4096, reference_gap=1 << 16)
        if self.style_tokens and not self.style:
            raise ValueError("interaction.style_tokens stand for a reference in style alignment; they need interaction.style")


@dataclass(frozen=True, kw_only=True)
class SymbolEncoderConfig:
    """Symbols to tokens, by ConvNeXt-V2 blocks.

    Attributes:
        symbols: the alphabet, each symbol one character; number 0 is the filler, number 1 the first of these.
            Empty: the symbols are the 256 bytes.
        length: symbols of a sequence; shorter ones are filled up.
        dim: width of the encoder.
        blocks: ConvNeXt-V2 blocks.
        kernel: symbols a block's convolution sees.
        expansion: hidden width of a block as a multiple of ``dim``.
    """

    symbols: str = ""
    length: int
    dim: int
    blocks: int
    kernel: int = 7
    expansion: int = 2

    def __post_init__(self) -> None:
        _check(self, "encoder")
        check_most(self, "encoder", length=1 << 16, dim=1 << 16, blocks=256, kernel=1023, expansion=64)
        if len(self.symbols) > _MOST_SYMBOLS:
            raise ValueError(f"encoder.symbols lists at most {_MOST_SYMBOLS:,} symbols, got {len(self.symbols):,}")
        if self.dim % 2 or not self.kernel % 2:
            raise ValueError(f"encoder.dim is even and encoder.kernel odd, got {self.dim} and {self.kernel}")
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError("encoder.symbols lists a symbol twice")

    @property
    def vocabulary(self) -> int:
        """Number of embeddings: the filler and every symbol."""
        return 1 + (len(self.symbols) or 256)


@dataclass(frozen=True, kw_only=True)
class HarmonyConfig:
    """A joint model.

    Attributes:
        video: the video branch.
        audio: the audio branch.
        interaction: what passes between them.
        speech: the transcript encoder; None for a model without transcripts.
        caption: the byte-level caption encoder of small models; None where captions come from umT5.
        grid: strides of the codecs the model was trained with.
        fps: frames per second it was trained at.
        driver_isolation: whether it was trained so that a clean stream never reads the stream it drives.
        prompt: what the branches are told. ``separate``: each its own caption, the transcript apart. ``ovi-720`` and
            ``ovi-960``: both the same prompt with everything in it, in the format of Ovi's models for that size.
    """

    video: BranchConfig
    audio: BranchConfig
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    speech: SymbolEncoderConfig | None = None
    caption: SymbolEncoderConfig | None = None
    grid: Grid = field(default_factory=Grid)
    fps: float = 24.0
    driver_isolation: bool = True
    prompt: Literal["separate", "ovi-720", "ovi-960"] = "separate"

    def __post_init__(self) -> None:
        check_fields(self, "config")
        if self.video.layers != self.audio.layers:
            raise ValueError(f"the branches interact layer by layer, got {self.video.layers} and {self.audio.layers} layers")
        if len(self.video.patch) != 3 or len(self.audio.patch) != 1:
            raise ValueError(f"video patches have 3 axes and audio patches 1, got {self.video.patch} and {self.audio.patch}")
        if self.video.patch[1:] != (self.grid.patch, self.grid.patch):
            raise ValueError(f"video.patch {self.video.patch} and grid.patch {self.grid.patch} differ")
        if (self.video.channels, self.audio.channels) != (self.grid.video_channels, self.grid.audio_channels):
            raise ValueError("the branches' channels and the grid's differ")
        if self.interaction.kind == "fused" and self.video.head_dim != self.audio.head_dim:
            heads = f"{self.video.head_dim} and {self.audio.head_dim}"
            raise ValueError(f"fused interaction turns keys as their own branch does and needs heads of one width, got {heads}")
        if self.interaction.kind == "fused" and self.video.heads != self.audio.heads:
            raise ValueError(f"fused interaction needs equally many heads, got {self.video.heads} and {self.audio.heads}")
        if self.caption and any(b.text_dim != self.video.text_dim for b in (self.video, self.audio)):
            raise ValueError(
                f"one caption encoder serves both branches, got text_dim {self.video.text_dim}, {self.audio.text_dim}"
            )
        if self.caption and self.caption.length > min(self.video.text_len, self.audio.text_len):
            raise ValueError(f"captions of {self.caption.length} tokens do not fit the branches' text_len")
        if self.one_prompt and (self.speech or self.caption or self.interaction.style):
            raise ValueError(f"prompt {self.prompt} is encoded by umT5 alone: leave speech, caption and interaction.style out")
        check_fps(self.fps)

    @property
    def one_prompt(self) -> bool:
        """Whether both branches are told one prompt, speech in it. Such a model has no "nothing" of its own, no voice."""
        return self.prompt != "separate"

    def replace(self, **changes: Any) -> HarmonyConfig:
        """A copy with some fields exchanged; ``interaction=dict(...)`` exchanges fields of a part."""
        parts = {
            name: dataclasses.replace(getattr(self, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return dataclasses.replace(self, **parts)

    def to_metadata(self) -> dict[str, str]:
        """As the metadata of a safetensors file."""
        return {FORMAT_KEY: FORMAT_VERSION, CONFIG_KEY: json.dumps(to_record(self), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> HarmonyConfig:
        """From the metadata of a safetensors file.

        Raises:
            ValueError: the file is not of this format, of another version, or its config has an unknown or wrong field.
        """
        if FORMAT_KEY not in metadata or CONFIG_KEY not in metadata:
            raise ValueError(f"this is no Harmony checkpoint: its metadata has no {FORMAT_KEY} and {CONFIG_KEY}")
        if metadata[FORMAT_KEY] != FORMAT_VERSION:
            given = shown(repr(metadata[FORMAT_KEY]), 40)
            raise ValueError(f"{FORMAT_KEY} is {given}, this version of the software reads {FORMAT_VERSION!r}")
        try:
            record = json.loads(metadata[CONFIG_KEY])
        except (ValueError, RecursionError) as error:  # of numbers of thousands of digits it is no JSONDecodeError
            raise ValueError(f"{CONFIG_KEY} in the metadata is no JSON: {error}") from error
        return from_record(cls, record, CONFIG_KEY)


def preset(name: str) -> HarmonyConfig:
    """One of the named configs.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {shown(repr(name))}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


LETTERS = " '-,.?!abcdefghijklmnopqrstuvwxyz"
TONES = "12345"
IPA = "ɑɐɒæɓʙβɔɕçɗɖðʤəɘɚɛɜɝɞɟʄɡɠɢʛɦɧħɥʜɨɪʝɭɬɫɮʟɱɯɰŋɳɲɴøɵɸθœɶʘɹɺɾɻʀʁɽʂʃʈʧʉʊʋⱱʌɣɤʍχʎʏʑʐʒʔʡʕʢǀǁǂǃˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘̩ᵻ"


def _wan_5b(channels: int, patch: tuple[int, ...]) -> BranchConfig:
    return BranchConfig(
        channels=channels,
        patch=patch,
        dim=3072,
        heads=24,
        layers=30,
        ffn=14336,
        text_dim=4096,
        text_len=512,
        rope_axes=split_channels(128) if len(patch) == 3 else (128,),
    )


def _ovi(prompt: Literal["ovi-720", "ovi-960"]) -> HarmonyConfig:
    audio = dataclasses.replace(_wan_5b(20, (1,)), rope_axes=(44,), rope_scale=0.19676, embedding="conv_mlp")
    return HarmonyConfig(
        video=_wan_5b(48, (1, 2, 2)),
        audio=audio,
        interaction=InteractionConfig(kind="fused", style=False),
        driver_isolation=False,
        prompt=prompt,
    )


def _small(channels: int, patch: tuple[int, ...], *, dim: int, heads: int, layers: int) -> BranchConfig:
    return BranchConfig(
        channels=channels,
        patch=patch,
        dim=dim,
        heads=heads,
        layers=layers,
        ffn=4 * dim,
        text_dim=96,
        text_len=96,
        rope_axes=split_channels(dim // heads) if len(patch) == 3 else (dim // heads,),
    )


PRESETS: dict[str, HarmonyConfig] = {
    "5b": HarmonyConfig(
        video=_wan_5b(48, (1, 2, 2)),
        audio=_wan_5b(20, (1,)),
        speech=SymbolEncoderConfig(symbols=LETTERS + TONES + IPA, length=512, dim=512, blocks=4),
    ),
    "tiny": HarmonyConfig(
        video=_small(48, (1, 1, 1), dim=192, heads=6, layers=6),
        audio=_small(20, (1,), dim=192, heads=6, layers=6),
        interaction=InteractionConfig(style_tokens=4),
        speech=SymbolEncoderConfig(symbols=LETTERS + TONES, length=64, dim=128, blocks=4),
        caption=SymbolEncoderConfig(length=96, dim=96, blocks=2),
        grid=Grid(patch=1),
    ),
    "ovi-720": _ovi("ovi-720"),
    "ovi-960": _ovi("ovi-960"),
}
"""``5b`` is Wan2.2-TI2V-5B twice; ``tiny`` is small enough to train on a CPU; ``ovi-*`` are Ovi's published models."""
