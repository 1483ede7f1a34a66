"""Captions of clips: several wordings, short enough for the small models' caption encoder (96 bytes)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clip import Kind
from .face import Face
from .scenes import COLOUR_NAMES, Scene
from .talk import Talk

_HEARD = {"wood": "low knocks of wood", "stone": "sharp clicks of stone", "glass": "bright pings of glass"}


@dataclass(frozen=True)
class Captions:
    """Of what is seen, and of what is heard."""

    video: str
    audio: str


def captions(kind: Kind, scene: Scene, talk: Talk, rng: np.random.Generator) -> Captions:
    """Captions of a clip; they say what there is, and never when."""
    materials = [ball.material for ball in scene.balls if ball.material]
    balls = _joined([f"a {COLOUR_NAMES[material]} ball" for material in materials])
    sounds = _joined([_HEARD[material] for material in materials])
    face = _face(scene.face, rng) if scene.face is not None else ""
    if kind == "impact":
        return Captions(
            _one(rng, f"{balls} bouncing in a room", f"{balls}, bouncing"), _one(rng, sounds, f"{sounds}, a dry room")
        )
    if kind == "still":
        seen = _one(rng, f"{face}, silent", f"{face} looks on") if face else _one(rng, f"{balls} at rest", f"{balls}, still")
        return Captions(seen, _one(rng, "silence", "nothing is heard"))
    spoken = _one(rng, "somebody speaks", "a voice says a few words")
    if kind == "talk":
        return Captions(_one(rng, f"{face}, talking", f"{face} speaks"), spoken)
    return Captions(f"{face} speaks beside {balls}", f"{spoken} over {sounds}")


def _face(face: Face, rng: np.random.Generator) -> str:
    length = "long" if face.long_hair else "short"
    return _one(rng, f"a {face.skin} face with {length} {face.hair} hair", f"a {face.skin} person, {face.hair} hair")


def _one(rng: np.random.Generator, *wordings: str) -> str:
    return wordings[rng.integers(len(wordings))]


def _joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
