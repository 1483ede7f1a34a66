"""The small models' own caption encoder as a CLIP, so that stock text nodes encode for it."""

from __future__ import annotations

from typing import Any

import comfy.ops
import comfy.sd
import torch
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ...harmony_core.config import SymbolEncoderConfig
from ...harmony_core.encoders.symbols import SymbolEncoder, to_symbols
from ...harmony_core.runtime import Runtime
from ...harmony_core.weights.checkpoint import Checkpoint
from .stored import quantised_layers

PART = "caption."


class ByteTokenizer:
    """Captions to bytes."""

    config: SymbolEncoderConfig

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        data = tokenizer_data or {}
        self.config = data["config"]

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_options: Any) -> dict[str, Any]:
        """One sequence of symbol numbers, each of weight 1.

        Raises:
            ValueError: the text is too long.
        """
        numbers = to_symbols([text], self.config)[0].tolist()
        return {"harmony": [[(n, 1.0, 0) if return_word_ids else (n, 1.0) for n in numbers]]}

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing of its own."""
        return {}


class CaptionModel(nn.Module):
    """The encoder with the interface of ComfyUI's text encoders."""

    def __init__(
        self,
        *,
        config: SymbolEncoderConfig,
        output: int,
        dtype: torch.dtype,
        device: Any,
        operations: Any = nn,
        **_options: Any,
    ) -> None:
        super().__init__()
        runtime = Runtime(layers=operations, device=device, dtype=dtype)
        self.encoder = SymbolEncoder(config, output, runtime).eval().requires_grad_(False)
        self.dtypes = {dtype}
        self._options: dict[str, Any] = {}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Take options of a call; only the device matters here."""
        self._options |= options

    def reset_clip_options(self) -> None:
        """Forget them."""
        self._options = {}

    def encode_token_weights(self, tokens: dict[str, Any]) -> tuple[Tensor, None]:
        """Caption tokens (1, length, width); there is no pooled output."""
        device = self._options.get("execution_device") or self.encoder.projection.weight.device
        numbers = torch.tensor([[token[0] for token in row] for row in tokens["harmony"]], dtype=torch.long, device=device)
        return self.encoder(numbers, torch.float32).cpu(), None

    def load_sd(self, state: dict[str, Tensor]) -> Any:
        """Take the checkpoint's weights."""
        return self.encoder.load_state_dict(state, strict=False, assign=getattr(self, "can_assign_sd", False))


def caption_clip(checkpoint: Checkpoint) -> comfy.sd.CLIP:
    """The CLIP of a checkpoint with a caption encoder of its own."""
    config = checkpoint.config.caption
    assert config is not None
    target = ClipTarget(ByteTokenizer, CaptionModel)
    target.params = {"config": config, "output": checkpoint.config.video.text_dim}
    weights = {key.removeprefix(PART): value for key, value in checkpoint.tensors.items() if key.startswith(PART)}
    quantised = quantised_layers(weights)
    if quantised:
        target.params["operations"] = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=True)
    weights = {key: v if key.rpartition(".")[0] in quantised else v.float() for key, v in weights.items()}
    return comfy.sd.CLIP(
        target,
        tokenizer_data={"config": config},
        parameters=sum(v.numel() for v in weights.values()),
        state_dict=[weights],
        model_options={"dtype": torch.float32},
        # Its layers are torch's own: there is nothing to stream in for so few weights.
        disable_dynamic=True,
    )
