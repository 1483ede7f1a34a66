"""Latents to pixels and sound, and back."""
