"""Run beside ComfyUI: captions of its umT5, small but for its width, told to a Harmony model by Harmony Encode.

The files are read, recognised and encoded by ComfyUI's own code; only the sizes of umT5 are told to it.
"""

import json
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.sd  # noqa: E402 - after the device is chosen
import comfy_api.latest  # noqa: E402, F401 - ComfyUI has it when it loads packs
import torch  # noqa: E402
from beside_nodes import CHANGED, ROUNDING, away, load_pack  # noqa: E402
from umt5 import SMALL, write_umt5  # noqa: E402

import nodes  # noqa: E402

RED, SEA = "a red ball falls", "the sea at night, waves"
LONG = "knocks on wood " * 100


def load(path: Path, kind: str):
    options = {f"{name}_model_config": SMALL.options() for name in ("umt5xxl", "t5xxl")}
    return comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType[kind], model_options=options)


def refusal(ask) -> str:
    try:
        ask()
    except ValueError as error:
        return str(error)
    return ""


@torch.inference_mode()
def main(folder: Path) -> dict:
    load_pack()
    from pack.nodes.bridge import latent, loader  # noqa: PLC0415 - exists from here on
    from pack.nodes.conditioning import HarmonyEncode  # noqa: PLC0415

    write_umt5(folder / "umt5.safetensors", SMALL)
    clip = load(folder / "umt5.safetensors", "WAN")
    model, none, _, _ = loader.load_all(folder / "words.safetensors")
    short, *_ = loader.load_all(folder / "short.safetensors")

    def stock(text: str):
        return nodes.CLIPTextEncode().encode(clip, text)[0]

    def told(picture: str, sound: str = "", *, encoder=clip, patcher=model):
        return HarmonyEncode.execute(patcher, encoder, picture, sound, "").result[0]

    empty = latent.empty_latent(model.model.config, seconds=13 / 24, width=48, height=32, fps=24.0, batch=1)

    def sampled(positive, negative=None, cfg: float = 1.0) -> list:
        given = (positive, negative or told(""), empty)
        return nodes.KSampler().sample(model, 7, 1, cfg, "euler", "simple", *given)[0]["samples"].unbind()

    def equal(one, other) -> list[bool | None]:
        """Of either stream; None where it is neither the same nor clearly another."""
        return [None if ROUNDING < far <= CHANGED else far <= ROUNDING for far in map(away, one, other)]

    both = told(RED, SEA)
    (seen, extras), heard = both[0], both[0][1]["harmony_audio_caption"]
    tokens = {text: len(clip.tokenize(text)["umt5xxl"][0]) for text in (RED, LONG)}
    words = [number for number, _ in clip.tokenize(RED)["umt5xxl"][0] if number]
    first, red = sampled(both), sampled(told(RED))
    guided = sampled(both, told(SEA), 3.0)
    return {
        "recognised": type(clip.tokenizer).__name__,
        "shape": list(seen.shape),
        "padded": tokens[RED],
        "picture_is_the_stock_caption": away(seen, stock(RED)[0][0]) <= ROUNDING,
        "sound_is_the_stock_caption": away(heard, stock(SEA)[0][0]) <= ROUNDING,
        "words_are_told": bool(seen[0, : len(words)].any(-1).all()) and len(words) > len(RED.split()),
        "rest_is_zero": not seen[0, len(words) :].any(),
        "captions_differ": away(seen, heard) > CHANGED,
        "untold": [told("")[0][1]["harmony_untold"], extras["harmony_untold"]],
        "finite": all(bool(x.isfinite().all()) for x in first),
        "stock_conditioning_samples_the_same": equal(red, sampled(stock(RED))),
        "another_picture": equal(first, sampled(told(SEA, SEA))),
        "another_sound": equal(first, sampled(told(RED, RED))),
        "no_sound": equal(first, red),
        "a_negative": equal(first, guided),
        "another_negative": equal(guided, sampled(both, told("", SEA), 3.0)),
        "short": list(told(RED, patcher=short)[0][0].shape),
        "short_is_the_whole_caption": away(told(RED, patcher=short)[0][0], seen[:, :24]) <= ROUNDING,
        "no_clip": none is None and refusal(lambda: told(RED, encoder=None)),
        "too_long": refusal(lambda: told(LONG)),
        "too_long_tokens": tokens[LONG],
        "too_long_for_short": refusal(lambda: told("birds far away " * 4, patcher=short)),
        "t5": refusal(lambda: told(RED, encoder=load(folder / "umt5.safetensors", "MOCHI"))),
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(result)}\n")
