"""Nodes for tests, loaded by the ComfyUI under test: exact tensors in and out."""

import gc
import json
import os
import sys
import time
from pathlib import Path

import folder_paths
import psutil
import torch
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


class ProbeAgain:
    """A latent as it is: with another number, what comes after it is run again instead of taken from a cache."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"latent": ("LATENT",), "number": ("INT", {})}}

    def run(self, latent, number):
        del number
        return (latent,)


class ProbeFail:
    """A model that fails in the middle of sampling."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "step": ("INT", {})}}

    def run(self, model, step):
        steps = []

        def fail(values):
            steps.append(values["sigma"])
            if len(steps) > step:
                raise RuntimeError("the probe fails")
            return values["denoised"]

        model = model.clone()
        model.set_model_sampler_post_cfg_function(fail)
        return (model,)


class ProbeAlive:
    """What of the pack is alive after a clip was made, as JSON in the output folder."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"name": ("STRING", {}), "latent": ("LATENT",), "images": ("IMAGE",), "audio": ("AUDIO",)}}

    def run(self, name, latent, images, audio):
        del latent, images, audio
        gc.collect()
        alive = [type(one) for one in gc.get_objects()]
        ours = [kind.__name__ for kind in alive if ".nodes.bridge." in str(getattr(kind, "__module__", ""))]
        found = {
            "seconds": time.process_time(),
            "resident": psutil.Process().memory_info().rss,
            "tensors": sum(issubclass(kind, torch.Tensor) for kind in alive),
            "objects": {kind: ours.count(kind) for kind in sorted(set(ours))},
            "absolute": sorted(key for key in sys.modules if key.split(".")[0] == "harmony_core"),
        }
        Path(folder_paths.get_output_directory(), name).write_text(json.dumps(found))
        return ()


class ProbeNumber:
    """A number that comes through a link, which ComfyUI does not look at."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ("FLOAT",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"text": ("STRING", {})}}

    def run(self, text):
        return (float(text),)


class ProbeChoice:
    """A choice that comes through a link, as other packs' nodes give file names."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ("COMBO",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"text": ("STRING", {})}}

    def run(self, text):
        return (text,)


class ProbeShapes:
    """The shapes of a latent's streams, as text under the node."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"latent": ("LATENT",)}}

    def run(self, latent):
        samples = latent["samples"]
        streams = samples.unbind() if getattr(samples, "is_nested", False) else [samples]
        return {"ui": {"text": [json.dumps([list(stream.shape) for stream in streams])]}}


class ProbeTouch:
    """Writes a file of models/checkpoints over with what it holds, once a model is loaded."""

    CATEGORY = "probe"
    FUNCTION = "run"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "name": ("STRING", {})}}

    def run(self, model, name):
        os.utime(folder_paths.get_full_path("checkpoints", name))
        return (model,)


NODES = (ProbeInputs, ProbeKeep, ProbeAgain, ProbeFail, ProbeAlive, ProbeNumber, ProbeChoice, ProbeTouch, ProbeShapes)
NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
