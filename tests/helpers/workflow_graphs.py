"""What the shipped workflows are: their nodes, how they are arranged and what their notes teach.

``make_workflows.py`` writes the files of ``workflows/`` from this; edit here, never there.
"""

from dataclasses import dataclass, field
from typing import Any

from graphs import Graph, node

CHECKPOINT = "harmony-tiny (built in)"
SEED = 0

COLOURS = {"model": "#3f789e", "told": "#b58b2a", "sample": "#5a8a5a", "result": "#8a6aa8", "extra": "#777777"}
"""Of the groups, the same in every workflow."""

FACE = {"picture": "a tan face with long brown hair, talking", "sound": "somebody speaks", "transcript": "hello baby"}

OTHER_CHECKPOINT = """**A bigger model**: put a Harmony checkpoint into `models/checkpoints`, press R, choose it here. Then \
set width, height and fps of *Empty Harmony Latent* to what it was trained on."""
TINY = """`harmony-tiny` comes with the pack and runs on a laptop without a graphics card. It was trained on drawn faces and \
bouncing balls of 64 by 64 pixels, and knows few words: *hello, baby, mama, papa, apple, water, lemon, happy, moon* \
and some more."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Nodes that belong together.

    Attributes:
        title: shown above them.
        kind: a key of ``COLOURS``.
        columns: names of nodes and of notes, top to bottom, of the columns from left to right.
    """

    title: str
    kind: str
    columns: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """One workflow.

    Attributes:
        name: of its file, and in the template browser.
        graph: nodes by name, in API format; values that are not given are the defaults.
        bands: groups from left to right, of the bands from top to bottom.
        notes: Markdown, by name.
        titles: of nodes that are not called what their kind is called, by name.
        muted: names of nodes that do not run until they are unmuted.
        models: files a node needs, by its name: ``name``, ``url``, ``directory``.
    """

    name: str
    graph: Graph
    bands: list[list[Group]]
    notes: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    muted: frozenset[str] = frozenset()
    models: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def script_name(self) -> str:
        """Of the file in API format."""
        return self.name.removeprefix("Harmony - ").lower().replace(" ", "-")


def loaded() -> Graph:
    """The model."""
    return {"load": node("HarmonyLoadCheckpoint", checkpoint=CHECKPOINT)}


def told(**words: Any) -> dict[str, Any]:
    """What the clip is to be."""
    return node("HarmonyEncode", model=["load", 0], clip=["load", 1], **words)


def empty(**inputs: Any) -> dict[str, Any]:
    """Nothing of the clip is given."""
    return node("HarmonyEmptyLatent", model=["load", 0], **inputs)


def sampled(positive: str = "told", latent: str = "latent", **changes: Any) -> dict[str, Any]:
    """The clip."""
    vaes = {"video_vae": ["load", 2], "audio_vae": ["load", 3]}
    links = {"model": ["load", 0], "positive": [positive, 0], "latent": [latent, 0]}
    return node("HarmonyKSampler", **links, **{"seed": SEED, **vaes, **changes})


def shown(
    prefix: str,
    *,
    end: str = "",
    latent: str = "sampled",
    images: list[Any] | None = None,
    audio: list[Any] | None = None,
    report: bool = True,
) -> Graph:
    """From a sampled latent to a saved video and its report; ``end`` is added to the names of the nodes."""
    decode = f"decode{end}"
    images, audio = images or [decode, 0], audio or [decode, 1]
    graph = {
        decode: node("HarmonyDecode", latent=[latent, 0], video_vae=["load", 2], audio_vae=["load", 3]),
        f"video{end}": node("CreateVideo", images=images, audio=audio, fps=[decode, 2]),
        f"save{end}": node("SaveVideo", video=[f"video{end}", 0], filename_prefix=f"video/{prefix}"),
    }
    if report:
        graph[f"report{end}"] = node("HarmonySyncReport", images=images, audio=audio, fps=[decode, 2])
    return graph


def result(title: str = "What comes out", end: str = "") -> Group:
    """The group of :func:`shown`."""
    return Group(
        title=title,
        kind="result",
        columns=[[f"decode{end}", f"video{end}", f"save{end}"], [f"report{end}"]],
    )


MODEL = Group(title="Model", kind="model", columns=[["load", "about"]])


def text_to_av() -> Workflow:
    return Workflow(
        name="Harmony - text to audio-video",
        graph={**loaded(), "told": told(**FACE), "latent": empty(), "sampled": sampled(), **shown("harmony_text")},
        bands=[
            [
                MODEL,
                Group(title="What is told", kind="told", columns=[["told", "latent"]]),
                Group(title="Sampling", kind="sample", columns=[["sampled", "guidance"]]),
                result(),
            ]
        ],
        notes={
            "about": f"## Text to picture and sound\nPress **Run**: a face says two words, picture and sound made together. It "
            f"takes about a minute on a laptop.\n\n{TINY}\n\nTry `a blue ball bouncing in a room` with `low knocks of wood` "
            "and no "
            f"transcript.\n\n{OTHER_CHECKPOINT}",
            "guidance": "**sync_video**, **sync_audio**: how strictly the streams are kept to each other (SyncCFG); 1 is "
            "off and "
            "twice as fast. **seed**: another number, another clip; it stays as it is until you choose *randomize*.\n\nThe "
            "line "
            "under the sampler says what it cost.",
        },
    )


def image_to_av() -> Workflow:
    return Workflow(
        name="Harmony - image to audio-video",
        graph={
            **loaded(),
            "media": node("HarmonyDemoMedia"),
            "told": told(**FACE | {"picture": "a pale face with long blond hair, talking"}),
            "empty": empty(images=["media", 1]),
            "latent": node("HarmonyFirstFrame", latent=["empty", 0], video_vae=["load", 2], images=["media", 1]),
            "sampled": sampled(),
            **shown("harmony_image"),
        },
        bands=[
            [
                MODEL,
                Group(title="What is given and told", kind="told", columns=[["media", "own"], ["told", "empty", "latent"]]),
                Group(title="Sampling", kind="sample", columns=[["sampled"]]),
                result(),
            ]
        ],
        notes={
            "about": "## A picture starts to talk\nThe first picture is given, the rest and the sound are generated.\n\n"
            f"{OTHER_CHECKPOINT}",
            "own": "**Your own picture**: add *Load Image* and connect it in place of *face*, to both nodes. *Empty Harmony "
            "Latent* "
            "takes the clip's size from it; a size that does not fit the grid is refused, naming the nearest one: put "
            "*Resize Image* "
            "before it then.\n\nThe caption should say what is in the picture.",
        },
    )


def sound_to_video() -> Workflow:
    return Workflow(
        name="Harmony - sound to video",
        graph={
            **loaded(),
            "media": node("HarmonyDemoMedia"),
            "told": told(picture="a pale face with short black hair, talking", sound="somebody speaks", transcript=""),
            "empty": empty(audio=["media", 2]),
            "latent": node("HarmonyDriveWithAudio", latent=["empty", 0], audio_vae=["load", 3], audio=["media", 2], start=0.0),
            "sampled": sampled(sync_audio=1.0),
            **shown("harmony_sound_to_video", audio=["latent", 1]),
        },
        bands=[
            [
                MODEL,
                Group(title="What is given and told", kind="told", columns=[["media", "own"], ["told", "empty", "latent"]]),
                Group(title="Sampling", kind="sample", columns=[["sampled"]]),
                result(),
            ]
        ],
        notes={
            "about": "## Pictures for a sound\nThe sound is given, the pictures follow it. The saved video carries your own "
            "sound, not "
            f"a copy that went through the model.\n\n{OTHER_CHECKPOINT}",
            "own": "**Your own sound**: add *Load Audio* and connect it in place of *speech*, to both nodes. The clip "
            "becomes the "
            "longest one that the sound fills; for a shorter one disconnect *audio* of *Empty Harmony Latent* and set its "
            "seconds. "
            "**start** skips the beginning.\n\n`harmony-tiny` is made for clips of two seconds.",
        },
    )


def video_to_sound() -> Workflow:
    return Workflow(
        name="Harmony - video to sound",
        graph={
            **loaded(),
            "media": node("HarmonyDemoMedia"),
            "told": told(picture="", sound="bright pings of glass", transcript=""),
            "empty": empty(images=["media", 0]),
            "latent": node("HarmonyDriveWithVideo", latent=["empty", 0], video_vae=["load", 2], images=["media", 0]),
            "sampled": sampled(sync_video=1.0),
            **shown("harmony_video_to_sound", images=["latent", 1]),
        },
        bands=[
            [
                MODEL,
                Group(title="What is given and told", kind="told", columns=[["media", "own"], ["told", "empty", "latent"]]),
                Group(title="Sampling", kind="sample", columns=[["sampled"]]),
                result(),
            ]
        ],
        notes={
            "about": "## A video gets its sound\nThe pictures are given, the sound is made for them. The saved video "
            "carries your own "
            f"pictures, as they were.\n\n{OTHER_CHECKPOINT}",
            "own": "**Your own video**: add *Load Video* and *Get Video Components*; connect images in place of *bouncing "
            "balls*, to "
            "both nodes, and fps to *Empty Harmony Latent*. It takes size and length from the pictures: as many as fit, 1 + "
            "4k.\n\n"
            "Tell in **sound** what is heard: `low knocks of wood`, `sharp clicks of stone`, `bright pings of glass`.",
        },
    )


def one_voice() -> Workflow:
    voice = {"voice": ["media", 3], "audio_vae": ["load", 3], "voice_seconds": 1.5}
    other = {"picture": "a pale face with long blond hair, talking", "sound": "somebody speaks", "transcript": "happy moon"}
    return Workflow(
        name="Harmony - two clips with one voice",
        graph={
            **loaded(),
            "media": node("HarmonyDemoMedia"),
            "heard": node("PreviewAudio", audio=["media", 3]),
            "latent": empty(),
            "told": told(**FACE, **voice),
            "sampled": sampled(),
            **shown("harmony_voice_1"),
            "told 2": told(**other, **voice),
            "sampled 2": sampled("told 2"),
            **shown("harmony_voice_2", end=" 2", latent="sampled 2"),
        },
        bands=[
            [
                MODEL,
                Group(title="The voice", kind="told", columns=[["media", "heard", "own"]]),
                Group(title="First clip", kind="told", columns=[["told", "latent"]]),
                Group(title="Sampling of the first", kind="sample", columns=[["sampled"]]),
                result("First clip"),
            ],
            [
                Group(title="Second clip", kind="told", columns=[["told 2"]]),
                Group(title="Sampling of the second", kind="sample", columns=[["sampled 2"]]),
                result("Second clip", " 2"),
            ],
        ],
        notes={
            "about": "## One voice, two clips\nBoth clips speak with the voice that is given: other words, another face, "
            "the same "
            f"speaker.\n\n{OTHER_CHECKPOINT}",
            "own": "**Your own voice**: add *Load Audio* and connect it in place of *voice*, to both *Harmony Encode*. "
            "**voice_start** "
            "and **voice_seconds** choose the part: a second or two of clear speech without music is enough.\n\nUse only "
            "voices "
            "whose owners agree.",
        },
        titles={"heard": "The voice"},
    )


def off_and_on() -> Workflow:
    off = {"sync_video": 1.0, "sync_audio": 1.0}
    return Workflow(
        name="Harmony - SyncCFG off and on",
        graph={
            **loaded(),
            "told": told(**FACE),
            "latent": empty(),
            "sampled": sampled(**off),
            **shown("harmony_sync_off"),
            "sampled 2": sampled(),
            **shown("harmony_sync_on", end=" 2", latent="sampled 2"),
        },
        bands=[
            [
                MODEL,
                Group(title="What is told, to both", kind="told", columns=[["told", "latent"]]),
                Group(title="SyncCFG off", kind="sample", columns=[["sampled"]]),
                result("SyncCFG off"),
            ],
            [
                Group(title="SyncCFG on", kind="sample", columns=[["sampled 2"]]),
                result("SyncCFG on", " 2"),
            ],
        ],
        notes={
            "about": "## What SyncCFG does\nTwice the same clip: same words, same seed. Above, both scales are 1: the plain "
            "model. Below, "
            "picture and sound are guided towards each other, which takes about twice as long.\n\nCompare the two reports, "
            "and try "
            "other seeds, the same in both: one clip proves little. The documentation has the figures of many clips.\n\n"
            f"{OTHER_CHECKPOINT}",
        },
        titles={"sampled": "Sampler with SyncCFG off", "sampled 2": "Sampler with SyncCFG on"},
    )


def upscale() -> Workflow:
    return Workflow(
        name="Harmony - upscale and interpolate",
        graph={
            **loaded(),
            "told": told(**FACE),
            "latent": empty(),
            "sampled": sampled(),
            "decode": node("HarmonyDecode", latent=["sampled", 0], video_vae=["load", 2], audio_vae=["load", 3]),
            "larger": node("ImageScaleBy", image=["decode", 0], upscale_method="lanczos", scale_by=4.0),
            "video": node("CreateVideo", images=["larger", 0], audio=["decode", 1], fps=["decode", 2]),
            "save": node("SaveVideo", video=["video", 0], filename_prefix="video/harmony_larger"),
            "upscaler": node("UpscaleModelLoader", model_name="RealESRGAN_x4plus.safetensors"),
            "upscaled": node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["decode", 0]),
            "interpolator": node("FrameInterpolationModelLoader", model_name="rife_v4.26.safetensors"),
            "smoother": node("FrameInterpolate", interp_model=["interpolator", 0], images=["upscaled", 0], multiplier=2),
            "video 2": node("CreateVideo", images=["smoother", 0], audio=["decode", 1], fps=48.0),
            "save 2": node("SaveVideo", video=["video 2", 0], filename_prefix="video/harmony_larger_smoother"),
        },
        bands=[
            [
                MODEL,
                Group(title="What is told", kind="told", columns=[["told", "latent"]]),
                Group(title="Sampling", kind="sample", columns=[["sampled", "decode"]]),
                Group(title="Larger", kind="result", columns=[["larger", "video"], ["save"]]),
            ],
            [
                Group(
                    title="With models: larger, and twice as many pictures (muted)",
                    kind="extra",
                    columns=[["models"], ["upscaler", "interpolator"], ["upscaled", "smoother"], ["video 2"], ["save 2"]],
                ),
            ],
        ],
        notes={
            "about": "## Larger and smoother\nThe pictures are ordinary IMAGEs and the sound ordinary AUDIO, so every "
            "upscaler works. The "
            "sound is left alone: neither more pixels nor more pictures change how long the clip is.\n\n"
            f"{OTHER_CHECKPOINT}",
            "models": "This part is **muted**: it needs two files that ComfyUI does not come with.\n\n"
            "- [RealESRGAN_x4plus.safetensors](https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/"
            "RealESRGAN_x4plus.safetensors) in `models/upscale_models`\n"
            "- [rife_v4.26.safetensors](https://huggingface.co/Comfy-Org/frame_interpolation/resolve/main/frame_interpolation/"
            "rife_v4.26.safetensors) in `models/frame_interpolation`\n\nThen select its nodes and press Ctrl+M. Twice as "
            "many pictures "
            "need twice the fps: 48. Other checkpoints: twice theirs.",
        },
        muted=frozenset({"upscaler", "upscaled", "interpolator", "smoother", "video 2", "save 2"}),
        models={
            "upscaler": [
                {
                    "name": "RealESRGAN_x4plus.safetensors",
                    "url": "https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
                    "directory": "upscale_models",
                }
            ],
            "interpolator": [
                {
                    "name": "rife_v4.26.safetensors",
                    "url": "https://huggingface.co/Comfy-Org/frame_interpolation/resolve/main/frame_interpolation/"
                    "rife_v4.26.safetensors",
                    "directory": "frame_interpolation",
                }
            ],
        },
    )


def span_anew() -> Workflow:
    return Workflow(
        name="Harmony - new sound for seconds 1 to 2",
        graph={
            **loaded(),
            "told": told(**FACE),
            "latent": empty(),
            "sampled": sampled(),
            **shown("harmony_before"),
            "kept": node(
                "HarmonyKeepSpan", latent=["sampled", 0], action="keep", stream="picture and sound", start=0.0, end=0.0
            ),
            "freed": node("HarmonyKeepSpan", latent=["kept", 0], action="free", stream="sound", start=1.0, end=2.0),
            "media": node("HarmonyDemoMedia"),
            "told 2": told(**FACE, voice=["media", 3], audio_vae=["load", 3], voice_seconds=1.5),
            "sampled 2": sampled("told 2", "freed", seed=1, sync_video=1.0),
            **shown("harmony_after", end=" 2", latent="sampled 2"),
        },
        bands=[
            [
                MODEL,
                Group(title="What is told", kind="told", columns=[["told", "latent"]]),
                Group(title="The first take", kind="sample", columns=[["sampled"]]),
                result("First take"),
            ],
            [
                Group(
                    title="What is kept, and what is new", kind="told", columns=[["kept", "freed", "media"], ["told 2", "span"]]
                ),
                Group(title="The second take", kind="sample", columns=[["sampled 2"]]),
                result("Second take", " 2"),
            ],
        ],
        notes={
            "about": "## Say a part of it anew\nA clip is made; then the sound of seconds 1 to 2 is made anew, in another "
            "voice. "
            "All else stays: the pictures, and the latents of the sound before and after, bit for bit.\n\n"
            f"{OTHER_CHECKPOINT}",
            "span": "*Keep* keeps all of the first take, *free* gives seconds 1 to 2 of its sound back to the sampler. "
            "Choose *picture "
            "and sound* there, and the mouth moves anew as well.\n\n**A clip you saved**: *Save Harmony Latent* after the "
            "first sampler, "
            "later *Load Harmony Latent* in its place. **Your own video**: *Load Video*, *Get Video Components*, and "
            "connect images, "
            "audio and both VAEs to *keep*, with *Empty Harmony Latent* as its latent.",
        },
        titles={
            "kept": "Keep all of it",
            "freed": "Free the sound of seconds 1 to 2",
            "sampled": "First take",
            "sampled 2": "Second take",
        },
    )


WORKFLOWS = [
    text_to_av(),
    image_to_av(),
    sound_to_video(),
    video_to_sound(),
    one_voice(),
    off_and_on(),
    upscale(),
    span_anew(),
]
