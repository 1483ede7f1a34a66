"""Send a media file through the codecs and back: what the model could at best give back of it, to see and hear."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "encode and decode a media file through the codecs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, help="a video, sound or picture file")
    parser.add_argument("--out", type=Path, required=True, help="the file to write: .mp4, .wav or .png")
    parser.add_argument("--video-vae", type=Path, help="weights of the Wan2.2 video VAE, for a file with pictures")
    parser.add_argument("--audio-codec", type=Path, help="weights of the audio VAE and vocoder, for a file with sound")


def run(args: argparse.Namespace) -> None:
    """Read the file at a clip's rate and size, encode, decode, write.

    Raises:
        ValueError: weights that the file needs were not given, or a file cannot be read or written.
    """
    if args.video_vae is None and args.audio_codec is None:
        raise ValueError("give the weights of the codecs: --video-vae FILE for the pictures, --audio-codec FILE for the sound")
