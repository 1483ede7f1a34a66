"""What is measured: rows as data.

A row pairs what was seen in one *source* of pictures with what was heard in one source of sound. Sources are the true clips
(``truth``, ``truth_unseen``), the truth through the codecs (``codec``), the truth with its sound late (``late_1``, ...) and
whatever the model generates, each task a source under its own name. So the audio-driven row is generated pictures beside the
true sound, and its companion ``audio_driven_shuffled`` is the same pictures beside the sound of another clip: what chance
gives to pictures such as these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...guidance import Guidance, sync_guidance
from ...recipes import HARMONY
from ...sample import Schedule
from ...types import AV, Modality
from ...world.clip import Kind, Split, clip_spec
from ...world.dataset import TEST_SEEDS, Voices
from ...world.evaluation import SHIFTS

MEASURED: tuple[Kind, ...] = ("impact", "talk", "complex")
"""Kinds with something to hear; still clips stand beside the anchors."""

HEADLINE: Mapping[Kind, str] = {"impact": "event_f1", "talk": "sync_c", "complex": "event_f1"}
"""The figure of each kind that is also given as a share of the way from the floor to the truth."""

TRUTH: Mapping[Voices, str] = {"seen": "truth", "unseen": "truth_unseen"}
FLOOR: Mapping[Voices, str] = {"seen": "shuffled", "unseen": "shuffled_unseen"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """How the model generates a source.

    Attributes:
        drive: the stream that is given; None generates both.
        sync: whether SyncCFG guides.
        anchor: whether what is given is SyncCFG's anchor, silence or a still, in place of the clip's own stream.
        voices: of the clips.
    """

    drive: Modality | None = None
    sync: bool = False
    anchor: bool = False
    voices: Voices = "seen"


TASKS: Mapping[str, Task] = {
    "joint": Task(),
    "joint_sync_cfg": Task(sync=True),
    "audio_driven": Task(drive=Modality.AUDIO),
    "audio_driven_sync_cfg": Task(drive=Modality.AUDIO, sync=True),
    "video_driven": Task(drive=Modality.VIDEO),
    "video_driven_sync_cfg": Task(drive=Modality.VIDEO, sync=True),
    "audio_driven_unseen": Task(drive=Modality.AUDIO, voices="unseen"),
    "silence": Task(drive=Modality.AUDIO, anchor=True),
    "still": Task(drive=Modality.VIDEO, anchor=True),
}
_ASKED_FOR = {"audio_driven_sync_cfg", "video_driven_sync_cfg"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
        seen: source of the pictures.
        heard: source of the sound.
        voices: of the clips that the row is held against.
        shuffled: whether every clip's sound is another's.
        only: the figures that mean something; empty for all.
    """

    seen: str
    heard: str
    voices: Voices = "seen"
    shuffled: bool = False
    only: tuple[str, ...] = ()

    @property
    def sources(self) -> set[str]:
        """The sources it is made of."""
        return {self.seen, self.heard}


def _plain_rows() -> dict[str, Row]:
    rows = {"truth": Row(seen="truth", heard="truth"), "shuffled": Row(seen="truth", heard="truth", shuffled=True)}
    rows |= {f"late_{shift}": Row(seen="truth", heard=f"late_{shift}") for shift in SHIFTS}
    rows |= {
        "codec": Row(seen="codec", heard="codec"),
        "codec_video": Row(seen="codec", heard="truth"),
        "codec_audio": Row(seen="truth", heard="codec"),
        "truth_unseen": Row(seen="truth_unseen", heard="truth_unseen", voices="unseen"),
        "shuffled_unseen": Row(seen="truth_unseen", heard="truth_unseen", voices="unseen", shuffled=True),
    }
    return rows


def _task_row(name: str, task: Task) -> Row:
    true = TRUTH[task.voices]
    if task.anchor and task.drive is Modality.AUDIO:
        return Row(seen=name, heard=true, only=("motion",))
    if task.anchor:
        return Row(seen=true, heard=name, only=("loudness",))
    return Row(
        seen=true if task.drive is Modality.VIDEO else name,
        heard=true if task.drive is Modality.AUDIO else name,
        voices=task.voices,
    )


ROWS: Mapping[str, Row] = {**_plain_rows(), **{name: _task_row(name, task) for name, task in TASKS.items()}}
"""Every row that can be asked for; those with full figures have a shuffled companion."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured and how.

    Attributes:
        kinds: of clips, each measured by itself.
        rows: names of ``ROWS``; None for all but SyncCFG on driven tasks. The truth and the floor are always there.
        clips: of each kind.
        first: number of the first of them, of all that are held out.
        batch: clips that are generated together.
        split: easy or hard.
        seed: of noise, shuffles and bootstraps.
        schedule: steps and sampler.
        sync_scale: of SyncCFG, for video and sound.
        driven_sync: whether driven tasks are measured with SyncCFG as well.

    Raises:
        ValueError: an unknown kind, row or split, fewer than two clips or more than there are, or a scale below 0.
    """

    kinds: tuple[Kind, ...] = ("impact", "talk")
    rows: tuple[str, ...] | None = None
    clips: int = 256
    first: int = 0
    batch: int = 16
    split: Split = "easy"
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    sync_scale: AV[float] = HARMONY.sync
    driven_sync: bool = False

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(MEASURED) or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"the kinds to measure are among {', '.join(MEASURED)}, each once, got {', '.join(self.kinds)}")
        unknown = sorted(set(self.rows or ()) - set(ROWS))
        if unknown or self.rows == ():
            raise ValueError(f"the rows are {', '.join(ROWS)}, got {', '.join(unknown) or 'none'}")
        nowhere = [name for name in self.rows or () if not any(name in self.rows_of(kind) for kind in self.kinds)]
        if nowhere:
            raise ValueError(f"{', '.join(nowhere)} is measured on talk clips only; add talk to the kinds")
        if not 2 <= self.clips <= len(TEST_SEEDS):
            raise ValueError(f"2 to {len(TEST_SEEDS)} clips of a kind are measured, got {self.clips}")
        if not 0 <= self.first <= len(TEST_SEEDS) - self.clips:
            raise ValueError(f"the first of {self.clips} clips is number 0 to {len(TEST_SEEDS) - self.clips}, got {self.first}")
        if self.batch < 1 or self.seed < 0:
            raise ValueError(f"a batch has at least one clip and a seed is not negative, got {self.batch} and {self.seed}")
        clip_spec(self.split)
        sync_guidance(self.sync_scale)

    @property
    def guidance(self) -> Guidance:
        """SyncCFG as the paper has it: the anchors are told all that the clip is told."""
        return sync_guidance(self.sync_scale)

    def rows_of(self, kind: Kind) -> dict[str, Row]:
        """The rows of a kind, in the order of the table."""
        asked = set(ROWS if self.rows is None else self.rows)
        if self.rows is None and not self.driven_sync:
            asked -= _ASKED_FOR
        chosen = {name: row for name, row in ROWS.items() if name in asked and (kind == "talk" or row.voices == "seen")}
        always = {TRUTH[row.voices] for row in chosen.values()} | {FLOOR[row.voices] for row in chosen.values()}
        always |= {TRUTH["seen"], FLOOR["seen"]}
        chosen = {name: row for name, row in ROWS.items() if name in chosen or name in always}
        companions = {
            f"{name}_shuffled": Row(seen=row.seen, heard=row.heard, voices=row.voices, shuffled=True)
            for name, row in chosen.items()
            if name in TASKS and not row.only
        }
        return {**chosen, **companions}

    def tasks_of(self, kind: Kind) -> dict[str, Task]:
        """What the model generates for a kind, by source."""
        needed = self.sources_of(kind)
        return {name: task for name, task in TASKS.items() if name in needed}

    def sources_of(self, kind: Kind) -> set[str]:
        """The sources that the rows of a kind are made of."""
        return set().union(*(row.sources for row in self.rows_of(kind).values()))
