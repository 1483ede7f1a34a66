"""Adapters between harmony_core and ComfyUI's internals; whatever a new ComfyUI may break is in this folder."""
