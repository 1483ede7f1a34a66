"""Captions of umT5 in training: what a model is told while it learns is what it is told when it is asked for a clip."""

import dataclasses
import gc
import importlib.util
import json
import shutil
import weakref
from pathlib import Path

import pytest
import text_encoders
import torch
from rounding import CHANGED, ROUNDING, away
from safetensors.torch import load_file
from small import small_branch, small_model

from harmony_core.config import HarmonyConfig, InteractionConfig, SymbolEncoderConfig
from harmony_core.geometry import ClipSpec, Grid
from harmony_core.pipeline import Pipeline, Request
from harmony_core.progress import Cancelled
from harmony_core.training.cache import LatentCache, build_cache
from harmony_core.training.captions import encoder_fingerprint, load_caption_encoder
from harmony_core.training.config import ModelRun, ObjectiveConfig
from harmony_core.training.data import Clip
from harmony_core.training.model import train_model
from harmony_core.training.objective import Objective
from harmony_core.training.store import Entry
from harmony_core.training.tasks import draw_batch
from harmony_core.types import Modality
from harmony_core.weights.umt5 import load_text_encoder

spec = importlib.util.spec_from_file_location("processes", Path(__file__).with_name("test_distributed.py"))
processes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(processes)

GRID = Grid(patch=1)
SPEC = ClipSpec(frames=9, height=32, width=32, grid=GRID)
BRANCHES = {"video": small_branch(48, (1, 1, 1), text_len=64), "audio": small_branch(20, (1,), text_len=64)}
CONFIGS = {
    "separate": HarmonyConfig(
        **BRANCHES,
        interaction=InteractionConfig(style_tokens=2, reference_gap=4),
        speech=SymbolEncoderConfig(symbols=" abcdefghijklmnopqrstuvwxyz", length=8, dim=16, blocks=1),
        grid=GRID,
    ),
    "ovi-960": HarmonyConfig(
        **BRANCHES,
        interaction=InteractionConfig(kind="fused", style=False),
        driver_isolation=False,
        prompt="ovi-960",
        grid=GRID,
    ),
}
ENTRIES = (
    Entry(file="0", video_caption="a red ball", audio_caption="a dull knock", transcript="hi"),
    Entry(file="1", video_caption="  a   dog ", audio_caption=""),
    Entry(file="2", video_caption="", audio_caption="rain", transcript="so"),
    Entry(file="3"),
)
CALM = {"reference": "none", "first_frame": 0.0, "text_drop": 0.0, "mode": "joint"}


class Made:
    """Clips out of nothing, with texts."""

    spec = SPEC

    def __init__(self, entries=ENTRIES) -> None:
        self.entries = entries

    def clip(self, index: int) -> Clip:
        source = torch.Generator().manual_seed(index)
        return Clip(torch.rand(3, 9, 32, 32, generator=source) * 2 - 1, torch.rand(SPEC.samples, generator=source) - 0.5)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return text_encoders.save_folder(tmp_path_factory.mktemp("umt5") / "umt5")


@pytest.fixture(params=list(CONFIGS))
def config(request) -> HarmonyConfig:
    return CONFIGS[request.param]


@pytest.fixture
def make_cache(tmp_path, codecs, encoder):
    """Latents with captions; the folder's name, the model, what is said and how many stills there are."""

    def make(name: str, config: HarmonyConfig, entries=ENTRIES, null_pairs: float = 0.0) -> LatentCache:
        captions = load_caption_encoder(encoder, config)
        return build_cache(Made(entries), tmp_path / name, *codecs, captions=captions, null_pairs=null_pairs)

    return make


@pytest.fixture
def make(make_run):
    """A run of a model of ``CONFIGS``."""

    def run(config: HarmonyConfig, cache: LatentCache, objective=None, **changes) -> ModelRun:
        reference = "none" if config.one_prompt else "same_speaker"
        objective = objective or ObjectiveConfig(reference=reference, reference_seconds=(0.05, 0.2), caption_drop=0.3)
        base = make_run(objective=objective, **changes)
        data = dataclasses.replace(base.data, cache=str(cache.folder))
        return dataclasses.replace(base, data=data, model=config, text_encoder="umt5")

    return run


def told(model, modality: Modality, act) -> torch.Tensor:
    """What a branch reads as caption, padded, in the last of the calls that ``act`` makes."""
    seen = []
    handle = model.branch(modality).text_embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    act()
    handle.remove()
    return max(seen, key=len)


def hearing_model(config: HarmonyConfig):
    """A small model to which a text says as much as to one that has learnt, so that another one is more than rounding."""
    model = small_model(config)
    for modality in Modality:
        for name, parameter in model.branch(modality).text_embedding.named_parameters():
            if name.endswith("weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    if model.speech is not None:
        torch.nn.init.normal_(model.speech.embedding.weight)
    return model


def batch_of(cache, config, *, step: int = 0, **objective):
    """All clips of a cache, in some order."""
    return draw_batch(cache, config, ObjectiveConfig(**{**CALM, **objective}), step=step, batch=len(cache), seed=0)


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.bitwise("copy")
def test_training_tells_a_model_what_sampling_tells_it(make_cache, config, encoder, codecs, modality):
    """Bit for bit: umT5 is computed in bfloat16 and its tokens are kept in it. Stills have their captions, without speech."""
    cache = make_cache("c", config, null_pairs=0.5)
    model = small_model(config)
    torch.nn.init.normal_(model.null["video"]) if model.null else None
    pipeline = Pipeline(model=model, video_vae=codecs[0], audio_codec=codecs[1], text=load_text_encoder(encoder))
    batch = batch_of(cache, config)
    learnt = told(model, modality, lambda: Objective(model)(batch))
    assert learnt.shape == (6, 64, 16)
    by_name = {(e.file, e.null): e for e in cache.entries}
    assert len(by_name) == 6
    texts = [cache.entries[clip] for clip in drawn(cache, batch)]
    for row, entry in zip(learnt, texts, strict=True):
        request = Request(
            spec=SPEC, video_caption=entry.video_caption, audio_caption=entry.audio_caption, transcript=entry.transcript
        )
        conditions = pipeline.conditioning(request, 1)
        asked = told(model, modality, lambda conditions=conditions: model.prepare(conditions, 1))
        assert away(row, asked[0]) <= ROUNDING, entry
    assert len({row.numpy().tobytes() for row in learnt}) > 2


def drawn(cache, batch) -> list[int]:
    """The clips of a batch, told by their latents: a still has its clip's name."""
    return [next(n for n in range(len(cache)) if torch.equal(cache.latents([n]).video[0], x)) for x in batch.data.video]


@pytest.mark.bitwise("copy")
def test_what_is_left_out_is_the_model_s_nothing_or_the_empty_prompt(make_cache, config, encoder):
    cache, model = make_cache("c", config), hearing_model(config)
    empty = load_text_encoder(encoder)("")[0]
    for m in Modality:
        nothing = empty if config.one_prompt else torch.nn.init.normal_(model.null[m.value])[0]
        nothing = torch.nn.functional.pad(nothing, (0, 0, 0, 64 - len(nothing)))
        read = told(model, m, lambda: Objective(model)(batch_of(cache, config, caption_drop=1.0)))
        assert all(torch.equal(row, nothing) for row in read)
        lost = []
        for step in range(6):
            whole, half = (
                told(model, m, lambda p=p, step=step: Objective(model)(batch_of(cache, config, step=step, caption_drop=p)))
                for p in (0.0, 0.5)
            )
            said = [(a, b) for a, b in zip(whole, half, strict=True) if not torch.equal(a, nothing)]
            assert all(torch.equal(b, a) or torch.equal(b, nothing) for a, b in said)
            lost += [torch.equal(b, nothing) for _, b in said]
        assert 0 < sum(lost) < len(lost)
    losses = [float(Objective(model)(batch_of(cache, config, **{drop: 1.0}))["loss"]) for drop in ("text_drop", "caption_drop")]
    spoken = config.speech is not None
    assert (abs(losses[0] / losses[1] - 1) > 1e-4) == spoken  # the transcript is text too


@pytest.mark.parametrize("field", ["video_caption", "audio_caption"])
def test_another_caption_is_another_loss(make_cache, config, field):
    model, objective = hearing_model(config), {}
    for name, text in (("a", "a red ball"), ("again", "a red ball"), ("b", "a blue bus")):
        entries = (dataclasses.replace(ENTRIES[0], **{field: text}), *ENTRIES[1:])
        objective[name] = Objective(model)(batch_of(make_cache(name, config, entries), config))["loss"]
    assert away(objective["again"], objective["a"]) <= ROUNDING
    assert away(objective["b"], objective["a"]) > CHANGED


def test_the_model_s_nothing_learns_where_it_is_told(make_cache):
    config = CONFIGS["separate"]
    objective = Objective(small_model(config).requires_grad_(True))
    cache = make_cache("c", config, ENTRIES[:1])
    for drop in (0.0, 1.0):
        objective.zero_grad()
        objective(batch_of(cache, config, caption_drop=drop))["loss"].backward()
        assert all(bool(p.grad is not None and p.grad.any()) == bool(drop) for p in objective.model.null.values())


@pytest.mark.bitwise("program")
def test_a_resumed_run_is_the_uninterrupted_one(make, make_cache, config, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise Cancelled

    cache = make_cache("c", config)
    whole, parts = (make(config, cache, output=str(tmp_path / name)) for name in ("whole", "parts"))
    expected = load_file(train_model(whole, cache))
    with pytest.raises(Cancelled):
        train_model(parts, cache, progress=stop)
    found = load_file(train_model(parts, cache, resume=True))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_equal_one(make, make_cache, tmp_path, sharding):
    config = CONFIGS["separate"]
    cache = make_cache("c", config)
    one, two = (make(config, cache, output=str(tmp_path / name), steps=4, sharding=sharding) for name in ("one", "two"))
    expected = load_file(train_model(one, cache))
    processes.together(two, cache, tmp_path)
    found = load_file(tmp_path / "two" / "model.safetensors")
    assert processes.largest_difference(expected, found) <= 1e-5


def test_the_encoder_is_gone_once_the_cache_is_made(encoder, codecs, tmp_path):
    """It is as large as a model; nothing may wait for the garbage collector to let go of it."""
    captions = load_caption_encoder(encoder, CONFIGS["separate"])
    held = weakref.ref(captions.encode.__wrapped__.model)
    build_cache(Made(), tmp_path / "c", *codecs, captions=captions)
    assert held() is not None
    gc.disable()
    try:
        del captions
        assert held() is None
    finally:
        gc.enable()


# ---- bad input


def test_a_cache_without_captions_or_with_another_prompt_is_refused(make, make_cache, codecs, tmp_path):
    separate, ovi = CONFIGS.values()
    bare = build_cache(Made(), tmp_path / "bare", *codecs)
    with pytest.raises(ValueError, match="were made without the captions this model is told; remove the folder"):
        train_model(make(separate, bare), bare)
    other = make_cache("other", separate)
    with pytest.raises(ValueError, match="another format of prompt, separate, this model's is ovi-960; remove the folder"):
        train_model(make(ovi, other), other)
    assert not Path(make(ovi, other).run.output).exists()


def test_another_encoder_has_another_fingerprint(encoder, tmp_path):
    copy = shutil.copytree(encoder, tmp_path / "copy")
    before = encoder_fingerprint(copy)
    assert before == encoder_fingerprint(encoder)
    (copy / "README.md").write_text("words")
    assert before == encoder_fingerprint(copy)
    file = copy / "model.safetensors"
    weights = file.read_bytes()
    file.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert encoder_fingerprint(copy) != before
    file.write_bytes(weights)
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "truncation": None}, indent=3))
    assert encoder_fingerprint(copy) != before
    assert encoder_fingerprint(file) != before
    with pytest.raises(ValueError, match="cannot read the text encoder .*none: No such file"):
        encoder_fingerprint(tmp_path / "none")


def test_what_cannot_be_encoded_is_named_and_nothing_is_written(make_cache, encoder, tmp_path):
    separate, ovi = CONFIGS.values()
    long = Entry(file="long.mp4", audio_caption="x" * 64)
    with pytest.raises(ValueError, match=r"clip long\.mp4: its audio caption has 65 tokens, the model reads 64"):
        make_cache("c", separate, (long,))
    with pytest.raises(ValueError, match=r"clip t\.mp4: tags such as <S>"):
        make_cache("c", ovi, (Entry(file="t.mp4", transcript="<S>"),))
    wide = text_encoders.save_folder(tmp_path / "wide", width=24)
    with pytest.raises(ValueError, match="gives tokens 24 wide, the model reads 16"):
        load_caption_encoder(wide, separate)
    assert not (tmp_path / "c").exists()
    assert len(make_cache("rest", separate, (*ENTRIES, long))) == len(ENTRIES)
    assert "its audio caption has 65 tokens" in (tmp_path / "rest" / "skipped.jsonl").read_text()
