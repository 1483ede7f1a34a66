"""Harmony: video and sound generated together by one joint diffusion transformer.

The package knows torch and nothing of ComfyUI. Read ``docs/architecture.md`` for the map and ``docs/paper.md`` for which
equation lives in which file. Importing it costs nothing: submodules are imported where they are used.
"""

__version__ = "0.1.0"
