"""Weights in files: reading them safely, renaming public layouts to ours and back, saving our own format."""
