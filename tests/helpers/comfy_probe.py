"""Nodes for tests, loaded by the ComfyUI under test: exact tensors in and out."""

from pathlib import Path

import folder_paths
from safetensors.torch import load_file, save_file


class ProbeInputs:
    """Pictures and sound from a file of tensors in the input folder."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE", "AUDIO")

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"file": ("STRING", {}), "frames": ("INT", {"default": 15}), "rate": ("INT", {"default": 44100})}}

    def run(self, file, frames, rate):
        tensors = load_file(Path(folder_paths.get_input_directory()) / file)
        return tensors["images"][:frames], {"waveform": tensors["wave"], "sample_rate": rate}


class ProbeKeep:
    """Whatever is connected, as a file of tensors in the output folder."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        kinds = {"before": "LATENT", "after": "LATENT", "images": "IMAGE", "audio": "AUDIO"}
        return {"required": {"name": ("STRING", {})}, "optional": {key: (kind,) for key, kind in kinds.items()}}

    def run(self, name, before=None, after=None, images=None, audio=None):
        found = {}
        for key, latent in (("before", before), ("after", after)):
            if latent is not None:
                found |= dict(zip((f"{key}.video", f"{key}.audio"), latent["samples"].unbind(), strict=True))
        if images is not None:
            found["images"] = images
        if audio is not None:
            found["wave"] = audio["waveform"]
        save_file({key: value.contiguous() for key, value in found.items()}, Path(folder_paths.get_output_directory()) / name)
        return ()


NODE_CLASS_MAPPINGS = {"ProbeInputs": ProbeInputs, "ProbeKeep": ProbeKeep}
