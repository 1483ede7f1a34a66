"""Media files in and out: any video, sound or picture file to the core's values, and those to mp4, wav and png.

Reading: time 0 is a file's first picture, or its first sound where it has no pictures; every time is taken from the
timestamps, so that a variable frame rate, late sound and an encoder's delay come out right. Pictures come upright, with
square pixels, in full-range RGB. A file can be refused for its size before it costs memory (:class:`Limits`), and nothing
but the file itself is opened, whatever a playlist in it may name. Of several tracks the default one is taken. High dynamic
range (HLG, PQ) is tone-mapped, interlaced pictures are not de-interlaced, tiled HEIC photographs are refused.

Writing is all or nothing: the target appears complete, or stays as it was.
"""

from ..audio_ops import to_mono
from .read import read_audio, read_clip, read_image, read_video
from .source import AudioInfo, Limits, MediaInfo, VideoInfo, probe
from .write import write_image, write_video, write_wav

__all__ = [
    "AudioInfo",
    "Limits",
    "MediaInfo",
    "VideoInfo",
    "probe",
    "read_audio",
    "read_clip",
    "read_image",
    "read_video",
    "to_mono",
    "write_image",
    "write_video",
    "write_wav",
]
