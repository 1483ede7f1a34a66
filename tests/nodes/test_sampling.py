"""Harmony's guidance in every way to sample that ComfyUI has, against ``harmony_core``'s own pipeline."""

import json

import pytest
import torch
from all_in_one import save_all_in_one
from comfy_events import PREVIEW, Events
from comfy_server import Failed
from graphs import SAMPLING, SEED, STEPS, TASKS, clip_graph, node, sampled, sampled_by_parts, sampled_by_stock
from rounding import CHANGED, away
from standalone import far, standalone

from harmony_core.flow import shifted_schedule
from harmony_core.guidance import Guidance, sync_guidance, text_guidance
from harmony_core.pipeline import Pipeline
from harmony_core.sampling import SAMPLERS
from harmony_core.types import AV

NEAR = 1e-4
SCALES = AV(3.0, 2.0)
SYNC = sync_guidance(SCALES)
OFF = {"sync_video": 1.0, "sync_audio": 1.0}
GUIDES = {key: value for key, value in SAMPLING.items() if key.startswith(("sync", "text"))}
PROGRESS_TEXT, LEGACY_PREVIEW = 3, 1


@pytest.fixture(scope="module")
def pipeline(server):
    return Pipeline.load(server.base / "models" / "checkpoints" / "small.safetensors")


def patched(graph: dict, **changes) -> dict:
    """With SyncCFG in the model that samples."""
    guides = GUIDES | changes
    graph["sync"] = node("HarmonySyncCFG", model=["load", 0], video_vae=["load", 2], audio_vae=["load", 3], **guides)
    target = "guider" if "guider" in graph else "sampled"
    graph[target]["inputs"]["model"] = ["sync", 0]
    return graph


def by_guider(name: str, kind: str, task: str = "joint", **inputs) -> dict:
    """Sampled by Sampler Custom Advanced with one of ComfyUI's own guiders; told by the last inputs."""
    graph = sampled_by_parts(clip_graph(task), name)
    graph["nothing"] = node("CLIPTextEncode", clip=["load", 1], text="")
    graph["guider"] = node(kind, model=["load", 0], **inputs)
    return graph


TOLD, NOTHING = ["told", 0], ["nothing", 0]
GUIDERS = {
    "BasicGuider": {"conditioning": TOLD},
    "CFGGuider": {"positive": TOLD, "negative": NOTHING, "cfg": 4.0},
    "LTXVDualCFGGuider": {"positive": TOLD, "negative": NOTHING, "video_cfg": 5.0, "audio_cfg": 2.0},
    "DualCFGGuider": {
        "cond1": TOLD,
        "cond2": ["told too", 0],
        "negative": NOTHING,
        "cfg_conds": 3.0,
        "cfg_cond2_negative": 4.0,
        "style": "regular",
    },
    "nested DualCFGGuider": {
        "cond1": TOLD,
        "cond2": ["told too", 0],
        "negative": NOTHING,
        "cfg_conds": 3.0,
        "cfg_cond2_negative": 4.0,
        "style": "nested",
    },
    "PerpNegGuider": {"positive": TOLD, "negative": NOTHING, "empty_conditioning": NOTHING, "cfg": 4.0, "neg_scale": 1.0},
    "DualModelGuider": {
        "model_negative": ["load", 0],
        "positive": TOLD,
        "negative": NOTHING,
        "cfg": 4.0,
    },
}
TEXT = {"BasicGuider": AV(1.0, 1.0), "LTXVDualCFGGuider": AV(5.0, 2.0)}
"""What a guider does by itself, as scales of text guidance; (4, 4) where not named."""


def stock_guider(name: str, kind: str) -> dict:
    graph = by_guider(name, kind.rsplit(maxsplit=1)[-1], **GUIDERS[kind])
    graph["told too"] = graph["told"]
    return graph


@pytest.mark.parametrize("kind", GUIDERS)
def test_a_stock_guider_guides_as_it_says(server, pipeline, inputs, kind):
    server.run(stock_guider(kind, kind))
    guidance = text_guidance(TEXT.get(kind, AV(4.0, 4.0)))
    assert far(server.kept(kind), standalone(pipeline, inputs, "joint", guidance)) <= NEAR


@pytest.mark.parametrize("kind", GUIDERS)
def test_synccfg_is_added_to_what_a_stock_guider_does(server, pipeline, inputs, kind):
    server.run(patched(stock_guider(f"{kind} sync", kind)))
    guidance = sync_guidance(SCALES, text="additive", text_scale=TEXT.get(kind, AV(4.0, 4.0)))
    assert far(server.kept(f"{kind} sync"), standalone(pipeline, inputs, "joint", guidance)) <= NEAR


@pytest.mark.parametrize("task", TASKS)
def test_a_stock_ksampler_with_the_patch_equals_the_pipeline(server, pipeline, inputs, task):
    graph = patched(sampled_by_stock(clip_graph(task), f"patch {task}"), latent=["latent", 0])
    server.run(graph)
    assert far(server.kept(f"patch {task}"), standalone(pipeline, inputs, task, SYNC)) <= NEAR


def test_sampler_custom_with_the_patch_equals_the_pipeline(server, pipeline, inputs):
    graph = sampled_by_parts(clip_graph(), "patch custom")
    del graph["guider"], graph["noise"]
    graph["nothing"] = node("CLIPTextEncode", clip=["load", 1], text="")
    graph["sampled"] = node(
        "SamplerCustom",
        model=["load", 0],
        add_noise=True,
        noise_seed=SEED,
        cfg=1.0,
        positive=TOLD,
        negative=NOTHING,
        sampler=["walk", 0],
        sigmas=["sigmas", 0],
        latent_image=["latent", 0],
    )
    server.run(patched(graph))
    assert far(server.kept("patch custom"), standalone(pipeline, inputs, "joint", SYNC)) <= NEAR


PATCHES = {
    "null": ({"sync_text": "null"}, 1.0, sync_guidance(SCALES, text="null")),
    "additive": (
        {"sync_text": "additive", "text_video": 4.0, "text_audio": 2.0},
        1.0,
        sync_guidance(SCALES, text="additive", text_scale=AV(4.0, 2.0)),
    ),
    "text alone": (OFF | {"text_video": 4.0, "text_audio": 2.0}, 1.0, text_guidance(AV(4.0, 2.0))),
    "rescale": ({"rescale": 0.7}, 1.0, Guidance(guides=SYNC.guides, rescale=AV(0.7, 0.7))),
    "rescale beside cfg": (
        {"rescale": 0.7},
        4.0,
        Guidance(
            guides=sync_guidance(SCALES, text="additive", text_scale=AV(4.0, 4.0)).guides,
            rescale=AV(0.7, 0.7),
        ),
    ),
    "off": (OFF, 1.0, Guidance()),
}


@pytest.mark.parametrize("case", PATCHES)
def test_the_patch_does_what_its_inputs_say(server, pipeline, inputs, case):
    changes, cfg, guidance = PATCHES[case]
    server.run(patched(sampled_by_stock(clip_graph(), f"patch {case}", cfg=cfg), **changes))
    assert far(server.kept(f"patch {case}"), standalone(pipeline, inputs, "joint", guidance)) <= NEAR


def test_a_guider_without_a_negative_leaves_the_text_out_and_keeps_the_voice(server, pipeline, inputs):
    graph = patched(by_guider("untold", "BasicGuider", "voice", conditioning=TOLD), sync_text="null")
    server.run(graph)
    wanted = standalone(pipeline, inputs, "voice", sync_guidance(SCALES, text="null"))
    assert far(server.kept("untold"), wanted) <= NEAR


def test_conditions_that_are_combined_are_averaged_in_the_anchors_too(server, pipeline, inputs):
    graph = patched(by_guider("combined", "BasicGuider", conditioning=["both", 0]))
    graph["both"] = node("ConditioningCombine", conditioning_1=TOLD, conditioning_2=TOLD)
    server.run(graph)
    assert far(server.kept("combined"), standalone(pipeline, inputs, "joint", SYNC)) <= NEAR


def test_a_second_patch_takes_the_place_of_the_first(server, pipeline, inputs):
    graph = patched(sampled_by_stock(clip_graph(), "twice"))
    graph["first"] = node("HarmonySyncCFG", **graph["sync"]["inputs"] | {"sync_video": 9.0})
    graph["sync"]["inputs"]["model"] = ["first", 0]
    server.run(graph)
    assert far(server.kept("twice"), standalone(pipeline, inputs, "joint", SYNC)) <= NEAR


def test_one_guided_model_samples_clips_of_two_sizes(server, pipeline, inputs):
    graph = patched(sampled_by_stock(clip_graph(), "small clip"))
    graph["wide"] = node("HarmonyEmptyLatent", **graph["latent"]["inputs"] | {"width": 64})
    graph["sampled wide"] = node("KSampler", **graph["sampled"]["inputs"] | {"latent_image": ["wide", 0]})
    graph["keep wide"] = node("ProbeKeep", name="wide clip", after=["sampled wide", 0])
    server.run(graph)
    assert far(server.kept("small clip"), standalone(pipeline, inputs, "joint", SYNC)) <= NEAR
    wide = server.kept("wide clip")["after.video"]
    assert wide.shape[-1] == 4 and torch.isfinite(wide).all()


def test_a_guided_model_is_not_guided_twice(server, pipeline, inputs):
    with pytest.raises(Failed, match="model: it is guided already; connect the MODEL before Harmony SyncCFG"):
        server.run(patched(sampled(clip_graph(), "refused")))
    with pytest.raises(Failed, match="model: it is guided already"):
        server.run(patched(sampled_by_parts(clip_graph(), "refused")))
    server.run(patched(sampled(clip_graph(), "once", **OFF)))
    assert far(server.kept("once"), standalone(pipeline, inputs, "joint", SYNC)) <= NEAR


def between(first: int, last: int) -> dict[str, float]:
    """The interval of sigma that holds these steps and no others."""
    sigmas = shifted_schedule(STEPS)
    return {"start": (sigmas[first] + sigmas[first - 1]) / 2, "end": (sigmas[last] + sigmas[last + 1]) / 2}


def test_guidance_acts_between_its_shares_of_the_steps(server, pipeline, inputs):
    shares = {"start_percent": 0.2, "end_percent": 0.6}
    wanted = standalone(pipeline, inputs, "joint", sync_guidance(SCALES, **between(1, 2)))
    server.run(sampled(clip_graph(), "shares", **shares))
    server.run(patched(sampled_by_stock(clip_graph(), "shares patch"), **shares))
    assert far(server.kept("shares"), wanted) <= NEAR
    assert far(server.kept("shares patch"), wanted) <= NEAR
    assert far(server.kept("shares"), standalone(pipeline, inputs, "joint", SYNC)) > 100 * NEAR


OPTIONS = {
    "rescale": ({"rescale": 0.7}, Guidance(guides=SYNC.guides, rescale=AV(0.7, 0.7)), {}),
    "text": (OFF | {"text_video": 4.0, "text_audio": 2.0}, text_guidance(AV(4.0, 2.0)), {}),
    "shift": ({"shift": 3.0}, SYNC, {"shift": 3.0}),
    "heun": ({"sampler_name": "heun"}, SYNC, {"sampler": "heun"}),
    **{
        f"gamma {name}": (
            {"gamma": 1.5, "sampler_name": "uni_pc" if name == "unipc" else name},
            SYNC,
            {"gamma": 1.5, "sampler": name},
        )
        for name in SAMPLERS
    },
}


@pytest.mark.parametrize("case", OPTIONS)
def test_harmony_ksampler_does_what_its_options_say(server, pipeline, inputs, case):
    changes, guidance, schedule = OPTIONS[case]
    server.run(sampled(clip_graph(), f"option {case}", **changes))
    wanted = standalone(pipeline, inputs, "joint", guidance, **schedule)
    assert far(server.kept(f"option {case}"), wanted) <= NEAR
    assert far(server.kept(f"option {case}"), standalone(pipeline, inputs, "joint", SYNC)) > 100 * NEAR


@pytest.mark.parametrize("task", ["audio", "video", "first"])
@pytest.mark.bitwise("locked")
def test_timestep_adjustment_beside_what_is_given(server, pipeline, inputs, task):
    server.run(sampled(clip_graph(task), f"adjusted {task}", gamma=1.5))
    kept = server.kept(f"adjusted {task}")
    assert far(kept, standalone(pipeline, inputs, task, SYNC, gamma=1.5)) <= NEAR
    given = {"audio": lambda side: kept[f"{side}.audio"], "video": lambda side: kept[f"{side}.video"]}
    first = given.get(task, lambda side: kept[f"{side}.video"][:, :, :1])
    assert torch.equal(first("before"), first("after"))


@pytest.mark.parametrize("gamma", [1.0, 1.5])
@pytest.mark.parametrize("name", SAMPLERS)
def test_harmonys_samplers_in_sampler_custom_advanced_equal_the_pipeline(server, pipeline, inputs, name, gamma):
    graph = sampled_by_parts(clip_graph(), f"walk {name} {gamma}")
    graph["walk"] = node("HarmonySampler", sampler_name=name, gamma=gamma)
    server.run(graph)
    wanted = standalone(pipeline, inputs, "joint", SYNC, sampler=name, gamma=gamma)
    assert far(server.kept(f"walk {name} {gamma}"), wanted) <= NEAR


def in_two_stages(graph: dict, step: int = 2) -> dict:
    """The same sigmas, split between two samplers."""
    graph["split"] = node("SplitSigmas", sigmas=["sigmas", 0], step=step)
    graph["no noise"] = node("DisableNoise")
    whole = graph["sampled"]["inputs"]
    graph["stage"] = node("SamplerCustomAdvanced", **whole | {"sigmas": ["split", 0]})
    changes = {"sigmas": ["split", 1], "noise": ["no noise", 0], "latent_image": ["stage", 0]}
    graph["sampled"] = node("SamplerCustomAdvanced", **whole | changes)
    return graph


def test_two_stages_on_adjusted_times_equal_one(server, pipeline, inputs):
    graph = in_two_stages(sampled_by_parts(clip_graph("first"), "stages"))
    graph["walk"] = node("HarmonySampler", sampler_name="euler", gamma=1.5)
    graph["guider"]["inputs"]["latent"] = ["latent", 0]
    server.run(graph)
    assert far(server.kept("stages"), standalone(pipeline, inputs, "first", SYNC, gamma=1.5)) <= NEAR


def test_a_sampler_that_cannot_adjust_times_is_refused(server):
    message = "sampler_name: timestep adjustment has no lcm; choose one of euler, heun, dpmpp_2m, uni_pc, or set gamma to 1"
    with pytest.raises(Failed, match=message):
        server.run(sampled(clip_graph(), "refused", sampler_name="lcm", gamma=1.5))


def test_guidance_that_ends_before_it_starts_is_refused(server):
    with pytest.raises(Failed, match="start_percent: it is 0.8, end_percent 0.5"):
        server.run(sampled(clip_graph(), "refused", start_percent=0.8, end_percent=0.5))


def again(graph: dict, name: str, **inputs) -> dict:
    """A clip, sampled, as the latent of another sampler."""
    graph["once"], graph["keep"] = graph["sampled"], node("ProbeKeep", name=name, before=["once", 0], after=["sampled", 0])
    latent = "latent_image" if "latent_image" in graph["once"]["inputs"] else "latent"
    graph["sampled"] = node(graph["once"]["class_type"], **graph["once"]["inputs"] | {latent: ["once", 0], **inputs})
    return graph


@pytest.mark.parametrize("denoise", [0.5, 0.25])
def test_denoise_means_what_it_means_in_ksampler(server, denoise):
    server.run(again(sampled_by_stock(clip_graph("first"), ""), "stock again", denoise=denoise, seed=SEED + 1))
    server.run(again(sampled(clip_graph("first"), "", **OFF), "ours again", denoise=denoise, seed=SEED + 1))
    stock, ours = server.kept("stock again"), server.kept("ours again")
    for key in stock:
        assert (stock[key] - ours[key]).abs().max() <= NEAR, key
    assert (ours["before.video"] - ours["after.video"]).abs().max() > 100 * NEAR


@pytest.mark.bitwise("copy")
def test_a_little_denoise_changes_little_and_none_nothing(server):
    moved = {}
    for denoise in (0.0, 0.1, 0.5, 1.0):
        graph = again(sampled(clip_graph(), ""), "moved", denoise=denoise, seed=SEED + 1)
        graph["keep"] = node("ProbeKeep", name="moved", after=["sampled", 0])
        graph["keep too"] = node("ProbeKeep", name="not moved", before=["once", 0])
        server.run(graph)
        before, after = server.kept("not moved")["before.audio"], server.kept("moved")["after.audio"]
        moved[denoise] = (before - after).abs().mean().item()
    assert moved[0.0] == 0 < moved[0.1] < moved[0.5] < moved[1.0]


SLOW = {"seconds": 1.0833, "fps": 12.0}


def at_12(graph: dict) -> dict:
    graph["latent"]["inputs"] |= SLOW
    return graph


def test_a_clip_of_another_rate_is_sampled_at_its_own(server, pipeline, inputs):
    clip = ["latent", 0]
    by_parts = sampled_by_parts(at_12(clip_graph()), "rate parts")
    by_parts["guider"]["inputs"]["latent"] = clip
    graphs = {
        "rate ours": sampled(at_12(clip_graph()), "rate ours"),
        "rate patch": patched(sampled_by_stock(at_12(clip_graph()), "rate patch"), latent=clip),
        "rate parts": by_parts,
    }
    wanted = standalone(pipeline, inputs, "joint", SYNC, fps=12.0)
    for name, graph in graphs.items():
        server.run(graph)
        assert far(server.kept(name), wanted) <= NEAR, name


def test_conditions_may_tell_a_stock_ksampler_the_rate(server, pipeline, inputs):
    graph = sampled_by_stock(at_12(clip_graph()), "rate told")
    graph["rate"] = node("LTXVConditioning", positive=TOLD, negative=NOTHING, frame_rate=12.0)
    graph["sampled"]["inputs"] |= {"positive": ["rate", 0], "negative": ["rate", 1]}
    server.run(graph)
    assert far(server.kept("rate told"), standalone(pipeline, inputs, "joint", fps=12.0)) <= NEAR


def test_a_rate_nobody_told_is_one_sentence(server):
    with pytest.raises(
        Failed, match=r"latent: the video lasts 0\.542 s and needs 17 audio latents, got 34.*if it is not of 24 fps, connect"
    ) as failed:
        server.run(sampled_by_stock(at_12(clip_graph()), "refused"))
    assert len(str(failed.value).splitlines()) == 1


def events_of(server, graph: dict, **extra) -> list[tuple[str, object]]:
    """All that is sent while a graph runs."""
    with Events(server.port) as events:
        body = {"prompt": graph, "client_id": events.name, "extra_data": extra}
        number = json.loads(server.post("/prompt", body))["prompt_id"]
        found = []
        for kind, data in events:
            found.append((kind, data))
            assert kind != "execution_error", data
            if kind == "executing" and data.get("prompt_id") == number and data["node"] is None:
                return found
    raise AssertionError


def binary(found: list, kind: int) -> list[bytes]:
    """Payloads of one kind of binary message."""
    return [data[4:] for name, data in found if name == PREVIEW and int.from_bytes(data[:4], "big") == kind]


COSTS = {
    # A step has one joint pass and one of each stream beside its anchor; the two anchors are run once.
    "ours": (sampled, "joint", {}, "5 steps of 2.2 picture and 2.2 sound passes; 8 driver passes saved (27%)"),
    # SyncCFG in one step of five.
    "part": (sampled, "joint", {"end_percent": 0.2}, "5 steps of 1.4 picture and 1.4 sound passes"),
    # The given sound is run once.
    "driven": (sampled_by_stock, "audio", {}, "5 steps of 1 picture and 0.2 sound passes; 4 driver passes saved (40%)"),
    "stock": (sampled_by_stock, "joint", {}, "5 steps of 1 picture and 1 sound passes"),
}


@pytest.mark.parametrize("case", COSTS)
def test_the_node_that_samples_says_what_it_cost(server, case):
    make, task, changes, wanted = COSTS[case]
    graph = make(clip_graph(task), f"cost {case}", **changes)
    graph["sampled"]["inputs"]["seed"] = 100 + list(COSTS).index(case)  # what is cached costs nothing
    before = len(server.text())
    (text,) = binary(events_of(server, graph), PROGRESS_TEXT)
    length = int.from_bytes(text[:4], "big")
    assert text[4 : 4 + length] == b"sampled"
    assert text[4 + length :].decode() == wanted
    assert wanted in server.text()[before:]


@pytest.mark.parametrize("kind", ["KSampler", "SamplerCustomAdvanced", "HarmonyKSampler"])
def test_previews_arrive_where_the_colours_are_known(server, kind):
    save_all_in_one(server.base / "models" / "checkpoints" / "wan.safetensors", codecs=False)
    make = {"KSampler": sampled_by_stock, "SamplerCustomAdvanced": sampled_by_parts, "HarmonyKSampler": sampled}[kind]
    for checkpoint, count in (("wan.safetensors", STEPS), ("small.safetensors", 0)):
        graph = make(clip_graph(checkpoint=checkpoint), f"preview {kind}")
        target = graph["guider"] if "guider" in graph else graph["sampled"]
        if kind != "KSampler":
            target["inputs"] |= OFF
            del target["inputs"]["video_vae"], target["inputs"]["audio_vae"]
        graph["noise" if "noise" in graph else "sampled"]["inputs"]["noise_seed" if "noise" in graph else "seed"] = 200
        pictures = binary(events_of(server, graph, preview_method="latent2rgb"), LEGACY_PREVIEW)
        assert len(pictures) == count
        assert all(picture[4:7] == b"\xff\xd8\xff" for picture in pictures)
        assert len(set(pictures)) == count


def test_a_batch_is_its_clips_one_by_one(server, pipeline, inputs):
    graph = patched(sampled_by_parts(clip_graph(), "two"))
    graph["guider"] = node("BasicGuider", model=["sync", 0], conditioning=TOLD)
    graph["latent"]["inputs"]["batch"] = 2
    server.run(graph)
    two = server.kept("two")
    graph = sampled(clip_graph(), "both", seed=SEED)
    graph["latent"]["inputs"]["batch"] = 2
    server.run(graph)
    both = server.kept("both")
    first = {key: value[:1] for key, value in both.items()}
    assert far(first, standalone(pipeline, inputs, "joint", SYNC)) <= NEAR
    for key, value in two.items():
        assert value.shape[0] == 2
        assert torch.isfinite(value).all()
        if key.startswith("after"):
            assert away(value[0], value[1]) > CHANGED
