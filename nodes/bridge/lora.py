"""LoRAs as ComfyUI's own patches of a MODEL.

ComfyUI's LoRA loaders know the layers of a Harmony model by its own names alone: a map from the names of Wan2.2's layers is
closed to models that are not the core's. So the file is renamed here, and all else is the core's: its patches, its casting,
its way of taking them away. Only parameters that belong to no layer have to be looked after: see :func:`patch_bare`.
"""

from __future__ import annotations

import logging
from typing import Any

import comfy.lora
import torch
from comfy.patcher_extension import CallbacksMP
from comfy_execution.utils import get_executing_context  # type: ignore[import-not-found]

from ...harmony_core.weights.lora import check_strength, load_lora, parameter_shapes
from .lora_paths import lora_path
from .model import harmony_model

log = logging.getLogger(__name__)

KEY = "harmony_lora"


def with_lora(model: Any, name: str, strength: float) -> Any:
    """A copy of a MODEL with a LoRA; with strength 0 the MODEL itself.

    Args:
        model: a Harmony model, perhaps with LoRAs.
        name: of a file in ComfyUI's folder.
        strength: how strongly.

    Raises:
        ValueError: it is another kind of model, there is no such file, it is no LoRA for this model, or the strength is out
            of range.
    """
    harmony = harmony_model(model)
    check_strength(strength, "strength")
    path = lora_path(name)
    if not strength:
        return model
    try:
        lora = load_lora(path, parameter_shapes(harmony.config))
    except ValueError as error:
        raise ValueError(f"lora_name: {error}; choose a LoRA of Wan2.2-5B or of this model") from error
    if lora.note:
        _say(lora.note)
    patches = comfy.lora.load_lora(lora.to_comfyui(), comfy.lora.model_lora_keys_unet(harmony, {}))
    changed = model.clone()
    refused = patches.keys() - set(changed.add_patches(patches, strength))
    assert not refused, f"layers of the model that ComfyUI does not patch: {sorted(refused)}"
    changed.remove_callbacks_with_key(CallbacksMP.ON_LOAD, KEY)  # of a LoRA before this one
    changed.add_callback_with_key(CallbacksMP.ON_LOAD, KEY, patch_bare)
    return changed


def patch_bare(patcher: Any, device: torch.device | None, *_others: Any) -> None:
    """Patch parameters that are no layer's weight or bias, such as Wan's modulations, once the rest is loaded.

    ComfyUI passes over those of a module that holds other modules, and where it streams weights over all of them. What is
    patched here it takes away with the rest.
    """
    for key in [key for key in patcher.patches if not key.endswith((".weight", ".bias"))]:
        # Where weights are streamed, they were as they are stored until now; else those that are kept are patched already.
        if patcher.is_dynamic() or key not in patcher.backup:
            patcher.patch_weight_to_device(key, device_to=device)


def _say(text: str) -> None:
    """In the log, and under the node."""
    log.warning("Harmony: %s", text)
    executing = get_executing_context()
    if executing is not None:
        from server import PromptServer  # type: ignore[import-not-found]

        PromptServer.instance.send_progress_text(text, executing.node_id)
