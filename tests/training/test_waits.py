"""What a training step reads on the host it waits for on a GPU: nothing, once its tables are made."""

import traceback

import pytest
from small import small_model
from torch.utils._python_dispatch import TorchDispatchMode

from harmony_core.training.config_stage import ObjectiveConfig
from harmony_core.training.objective import Objective
from harmony_core.training.tasks import draw_batch

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal")


class Reads(TorchDispatchMode):
    """Lists where values of tensors are read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().startswith(READS):
            stack = traceback.extract_stack()
            places = [f"{frame.filename}:{frame.lineno}" for frame in stack if "harmony_core" in frame.filename]
            self.found += [place for place in places[-1:] if "encoders/symbols.py" not in place]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["joint", "mixed", "synergy"])
def test_a_step_reads_no_value_of_a_device(cache, model_config, mode, monkeypatch):
    """Numbers of texts are looked at where they are in host memory, as here, and nowhere else."""
    objective = Objective(small_model(model_config).requires_grad_(True))
    config = ObjectiveConfig(mode=mode, reference_seconds=(0.1, 0.1), no_reference=0.5)
    batches = [draw_batch(cache, model_config, config, step=step, batch=6, seed=0) for step in range(4)]
    for batch in batches:
        objective(batch)  # the tables
    for batch in batches:
        with Reads() as reads:
            objective(batch)["loss"].backward()
        assert reads.found == []
