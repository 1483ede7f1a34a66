"""Make fixtures/ovi.npz: run Ovi's own model on the cases of tests/helpers/ovi_files.py.

    python tests/parity/make_ovi_fixture.py OVI

OVI is a checkout of github.com/character-ai/Ovi. Its attention needs a GPU's kernels and it casts to bfloat16 everywhere; here
it is given torch's attention, and the casts are to float32, so that the two models can be compared closely.
"""

import argparse
import sys
import types
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
import ovi_files as ovi

FIXTURE = Path(__file__).parent / "fixtures" / "ovi.npz"


def attention(q, k, v, k_lens=None, window_size=(-1, -1)):
    """(B, L, N, D), keys up to their lengths; what Ovi asks of flash attention."""
    assert window_size == (-1, -1)
    mask = None
    if k_lens is not None:
        mask = (torch.arange(k.shape[1])[None] < k_lens[:, None])[:, None, None]
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask).transpose(1, 2)


def load(checkout: Path, name: str) -> types.ModuleType:
    """One of its modules, in float32."""
    path = checkout.joinpath(*name.split(".")).with_suffix(".py")
    source = path.read_text(encoding="utf-8").replace(".bfloat16()", ".float()").replace("torch.bfloat16", "torch.float32")
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - what this script is for
    return module


def fusion_model(checkout: Path) -> type:
    for name in ("ovi", "ovi.modules", "ovi.utils", "ovi.distributed_comms"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    stubs = {
        "ovi.modules.attention": {"flash_attention": attention},
        "ovi.distributed_comms.communications": {"all_gather": None, "all_to_all_4D": None},
        "ovi.distributed_comms.parallel_states": {"nccl_info": None, "get_sequence_parallel_state": lambda: False},
    }
    for name, contents in stubs.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)
    sys.modules["ovi.modules"].__package__ = "ovi.modules"
    model = load(checkout, "ovi.modules.model")
    del model
    return load(checkout, "ovi.modules.fusion").FusionModel


def config(tower: str) -> dict:
    shared = {
        "dim": ovi.WIDTH, "ffn_dim": ovi.FFN, "freq_dim": ovi.FREQ, "num_heads": ovi.HEADS, "num_layers": ovi.LAYERS,
        "in_dim": ovi.CHANNELS[tower], "out_dim": ovi.CHANNELS[tower], "patch_size": ovi.PATCH[tower], "text_dim": ovi.TEXT,
        "text_len": 512, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
    }  # fmt: skip
    if tower == "audio":
        return {**shared, "model_type": "t2a", "temporal_rope_scaling_factor": ovi.ROPE_SCALE}
    return {**shared, "model_type": "ti2v"}


def scheduler(checkout: Path):
    module = load(checkout, "ovi.utils.fm_solvers_unipc")
    made = module.FlowUniPCMultistepScheduler(num_train_timesteps=1000, shift=1, use_dynamic_shifting=False)
    made.set_timesteps(ovi.STEPS, device="cpu", shift=ovi.SHIFT)
    return made


def run(model: torch.nn.Module, checkout: Path) -> dict[str, np.ndarray]:
    """A whole run as Ovi's engine does it, but with exact times: it cuts them to whole numbers of a thousandth."""
    given = ovi.run_inputs()
    x = {"video": given["video"], "audio": given["audio"]}
    solvers = {name: scheduler(checkout) for name in x}
    sigmas = solvers["video"].sigmas.double().tolist()
    for number, step in enumerate(solvers["video"].timesteps):
        x["video"] = torch.cat([given["first"], x["video"][:, 1:]], dim=1)

        def ask(texts: dict[str, torch.Tensor], sigma: float, **more: int) -> dict[str, torch.Tensor]:
            video, audio = model(
                vid=[x["video"]],
                audio=[x["audio"]],
                t=torch.tensor([1000 * sigma]),
                vid_context=[texts["video"]],
                audio_context=[texts["audio"]],
                vid_seq_len=ovi.FRAMES * ovi.ROWS * ovi.COLUMNS // 4,
                audio_seq_len=ovi.LENGTH,
                first_frame_is_clean=True,
                **more,
            )
            return {"video": video[0], "audio": audio[0]}

        full = ask({"video": given["text"], "audio": given["text"]}, sigmas[number])
        negative = {"video": given["video_negative"], "audio": given["audio_negative"]}
        less = ask(negative, sigmas[number], slg_layer=ovi.SKIP)
        for name, solver in solvers.items():
            guided = less[name] + ovi.SCALES[name] * (full[name] - less[name])
            x[name] = solver.step(guided[None], step, x[name][None], return_dict=False)[0][0]
    x["video"] = torch.cat([given["first"], x["video"][:, 1:]], dim=1)
    return {"run: video": x["video"].numpy(), "run: audio": x["audio"].numpy(), "run: sigmas": np.array(sigmas)}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    checkout = parser.parse_args().checkout
    model = fusion_model(checkout)(config("video"), config("audio")).float().eval()
    model.load_state_dict(ovi.weights(), strict=True)
    model.set_rope_params()
    out = {}
    for name, case in ovi.CASES.items():
        given = ovi.inputs(name)
        video, audio = model(
            vid=[given["video"]],
            audio=[given["audio"]],
            t=torch.tensor([case["t"]]),
            vid_context=[given["video_text"]],
            audio_context=[given["audio_text"]],
            vid_seq_len=ovi.FRAMES * ovi.ROWS * ovi.COLUMNS // 4,
            audio_seq_len=ovi.LENGTH,
            first_frame_is_clean=case.get("first_frame", False),
            slg_layer=case.get("skip", False),
        )
        out |= {f"{name}: video": video[0].numpy(), f"{name}: audio": audio[0].numpy()}
    out |= run(model, checkout)
    np.savez_compressed(FIXTURE, **out)
    for key, value in out.items():
        print(f"{key}: {value.shape}, deviation {value.std():.3f}")
    print(f"wrote {FIXTURE}, {FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
