"""The answer to what a weights file is."""

from __future__ import annotations

from dataclasses import dataclass

from .published import Piece


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a file is.

    Attributes:
        kind: a name for programs.
        what: the same in words, the rest of a sentence that begins with "it is".
        purpose: what it is good for here; empty where for nothing.
        missing: what else makes clips with it.
        licence: of the published weights it looks like; empty where that is not known.
        folder: below ComfyUI's ``models`` folder; empty where no loader there reads it.
        notes: sentences somebody who wants to use it should know.
    """

    kind: str
    what: str
    purpose: str = ""
    missing: tuple[Piece, ...] = ()
    licence: str = ""
    folder: str = ""
    notes: tuple[str, ...] = ()
