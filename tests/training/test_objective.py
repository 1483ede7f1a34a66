import dataclasses
import math

import pytest
import torch
from rounding import ROUNDING, away
from small import small_model

from harmony_core.conditioning import Conditioning
from harmony_core.encoders.symbols import FILLER
from harmony_core.flow import mix
from harmony_core.training.cache import LatentCache
from harmony_core.training.config import ObjectiveConfig, TimeConfig
from harmony_core.training.objective import Objective
from harmony_core.training.store import Entry, writing
from harmony_core.training.tasks import draw_batch, draw_time
from harmony_core.types import AV, Modality


@pytest.fixture
def draw(cache, model_config):
    def make(step=0, batch=6, seed=0, **changes):
        config = ObjectiveConfig(**{"reference_seconds": (0.05, 0.2), **changes})
        return draw_batch(cache, model_config, config, step=step, batch=batch, seed=seed)

    return make


@pytest.fixture(scope="module")
def objective(model_config):
    return Objective(small_model(model_config).requires_grad_(True))


def test_synergy_is_the_paper_s_sum_computed_by_hand(draw, objective):
    """Three passes over one noise; drivers clean at time 0; weights 1, 0.1 for video and 0.3 for audio."""
    batch = draw(first_frame=0.0, independent_times=0.0, no_reference=0.0)
    model, data, noise = objective.model, batch.data, batch.noise
    told = Conditioning(
        video_caption=model.encode_captions(batch.captions.video),
        audio_caption=model.encode_captions(batch.captions.audio),
        transcript=batch.transcript,
        reference=batch.reference,
        has_reference=batch.has_reference,
        dropped=batch.dropped,
    )
    context = model.prepare(told, 6)
    t = batch.times.video
    noisy = AV(mix(data.video, noise.video, t.view(-1, 1, 1, 1, 1)), mix(data.audio, noise.audio, t.view(-1, 1, 1)))
    times, zero = AV(t[:, None], t[:, None]), torch.zeros(6, 1)
    target = noise.map(lambda e, x: e - x, data)
    joint = model(noisy, times, context)
    heard = model(AV(noisy.video, data.audio), AV(times.video, zero), context, driver=Modality.AUDIO)
    seen = model(AV(data.video, noisy.audio), AV(zero, times.audio), context, driver=Modality.VIDEO)
    error = joint.map(lambda v, y: (v - y).square().mean(), target)
    expected = error.video + error.audio
    expected = expected + 0.1 * (heard.video - target.video).square().mean()
    expected = expected + 0.3 * (seen.audio - target.audio).square().mean()
    assert torch.allclose(objective(batch)["loss"], expected, atol=1e-5)


def test_mixed_batches_are_synergy_s_terms_one_at_a_time(draw, objective):
    terms = objective(draw())
    for driver, names in (
        (None, ["joint.video", "joint.audio"]),
        (Modality.AUDIO, ["audio_driven.video"]),
        (Modality.VIDEO, ["video_driven.audio"]),
    ):
        batch = dataclasses.replace(draw(mode="mixed"), driver=driver)
        losses = objective(batch)
        assert set(losses) == {"loss", *names}
        assert math.isclose(losses["loss"].item(), sum(float(terms[n]) for n in names), rel_tol=1e-5)


def test_mixed_batches_come_in_the_shares_asked_for(draw):
    drivers = [draw(step, batch=1, mode="mixed").driver for step in range(400)]
    shares = [drivers.count(d) / 400 for d in (None, Modality.AUDIO, Modality.VIDEO)]
    assert all(abs(a - b) < 0.08 for a, b in zip(shares, (0.5, 0.25, 0.25), strict=True))


def test_a_driver_learns_nothing_from_what_it_drives_but_by_being_read(draw, objective):
    """With isolation, the driver's own head has no gradient in a driven task; the driven one's has."""
    batch = dataclasses.replace(draw(mode="mixed"), driver=Modality.AUDIO)
    objective.zero_grad()
    objective(batch)["loss"].backward()
    audio, video = objective.model.audio, objective.model.video
    assert audio.head.head.weight.grad is None or not audio.head.head.weight.grad.any()
    assert video.head.head.weight.grad.any()
    assert audio.blocks[0].self_attn.v.weight.grad.any()
    objective.zero_grad()


@pytest.mark.bitwise("locked")
def test_a_given_first_frame_is_clean_and_not_in_the_loss(draw, objective):
    batch = draw(first_frame=1.0, mode="joint", reference="none")
    seen = []
    handle = objective.model.video.patch_embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    losses = objective(batch)
    handle.remove()
    assert torch.equal(seen[0][:, :, 0], batch.data.video[:, :, 0])
    worse = batch.noise.video.clone()
    worse[:, :, 0] += 100
    other = objective(dataclasses.replace(batch, noise=batch.noise.replace(Modality.VIDEO, worse)))
    assert away(losses["loss"], other["loss"]) <= ROUNDING


def test_text_is_dropped_clip_by_clip(draw, objective):
    batch = draw(text_drop=0.5, batch=10)
    assert 0 < batch.dropped.sum() < 10
    told = objective(dataclasses.replace(batch, dropped=torch.zeros_like(batch.dropped)))
    untold = objective(dataclasses.replace(batch, dropped=torch.ones_like(batch.dropped)))
    assert told["loss"] != untold["loss"] != objective(batch)["loss"]


@pytest.mark.bitwise("draw")
def test_captions_are_left_out_one_by_one(draw):
    with_all, batch = draw(batch=40), draw(batch=40, caption_drop=0.3)
    out = batch.captions.map(lambda symbols: (symbols == FILLER).all(1))
    assert all(2 <= int(lost.sum()) <= 24 for lost in out)
    assert not torch.equal(out.video, out.audio)
    assert torch.equal(batch.captions.video[~out.video], with_all.captions.video[~out.video])
    assert torch.equal(batch.transcript, with_all.transcript)


def test_independent_times_come_with_their_probability(draw):
    batch = draw(independent_times=0.25, batch=400)
    share = float((batch.times.video != batch.times.audio).float().mean())
    assert abs(share - 0.25) < 0.08


@pytest.mark.parametrize("config", [TimeConfig(), TimeConfig(shift=3.0), TimeConfig(distribution="logit_normal", mean=1.0)])
def test_times_are_in_range_and_shift_towards_noise(config):
    t = draw_time(config, 4000, torch.Generator().manual_seed(0))
    assert 0 <= t.min() <= t.max() <= 1
    expected = {1.0: 0.5, 3.0: 0.75}[config.shift] if config.distribution == "uniform" else 1 / (1 + math.exp(-1))
    assert abs(float(t.median()) - expected) < 0.03


def test_a_reference_is_of_the_speaker_but_of_another_clip(draw, cache):
    batch = draw(no_reference=0.0, batch=10)
    assert 2 <= batch.reference.shape[2] <= 6
    by_name = {entry.file: n for n, entry in enumerate(cache.entries)}
    for row, name in enumerate(batch.names):
        clip = by_name[name]
        speaker = cache.entries[clip].speaker
        # Where its reference may come from: its own file, or others of the speaker.
        places = [n for n, e in enumerate(cache.entries) if e.speaker == speaker and speaker and n != clip]
        assert bool(batch.has_reference[row]) == bool(places or clip == 3)
        if not batch.has_reference[row]:
            continue
        whole = [cache.loose(3, "reference").float()] if clip == 3 else [cache.row(n, "audio").float() for n in places]
        windows = [w.unfold(1, batch.reference.shape[2], 1) for w in whole]
        assert any((w == batch.reference[row][:, None]).all(0).all(-1).any() for w in windows), name


def test_same_clip_references_are_cut_from_the_clip(draw, cache):
    batch = draw(reference="same_clip", streams="audio", no_reference=0.0, batch=5)
    assert batch.has_reference.all()
    for row in range(5):
        windows = batch.data.audio[row].unfold(1, batch.reference.shape[2], 1)
        assert (windows == batch.reference[row][:, None]).all(0).all(-1).any()


def test_references_are_left_out_clip_by_clip(draw):
    some = [draw(step, batch=4, no_reference=0.25, reference="same_clip", streams="audio").has_reference for step in range(100)]
    has = torch.stack(some)
    assert 250 < has.sum() < 350
    assert not has.all(1).all()
    assert has.any(1).sum() > 90


def test_no_reference_shares_a_sample_with_its_target(tmp_path, model_config, cache):
    """Clips of a speaker, of a source of sound, of neither, with a recording beside them; and stills made of them."""
    kinds = [{"speaker": "ann"}, {"sound_source": "glass"}, {}, {"speaker": "bob", "sound_source": "glass"}]
    with writing(tmp_path / "c", kind="latents", spec=cache.spec) as writer:
        for n in range(40):
            # Every latent is another number, so that a shared one is seen; a still is silent.
            still, steps = n % 10 == 9, torch.arange(1.0, cache.spec.audio_latents + 1)
            audio = (torch.zeros_like(steps) if still else n * 100 + steps).expand(20, -1)
            entry = Entry(file=f"{n - 9 if still else n}.mp4", null=still, **kinds[n % 4])
            loose = {"reference": torch.full((20, 6), -1.0 - n)} if n % 8 == 3 else {}
            writer.add(entry, {"video": torch.zeros(cache.spec.video_shape()[1:]), "audio": audio.contiguous()}, loose)
    made = LatentCache(tmp_path / "c")
    drawn = 0
    for step in range(70):
        config = ObjectiveConfig(reference_seconds=(0.05, 0.3), no_reference=0.0)
        batch = draw_batch(made, model_config, config, step=step, batch=20, seed=1)
        for row in torch.nonzero(batch.has_reference).flatten().tolist():
            reference = batch.reference[row, 0]
            assert not torch.isin(reference, batch.data.audio[row, 0]).any(), batch.names[row]
            assert reference.abs().sum() > 0
            drawn += 1
    assert drawn > 1000
    unknown = [n for n, entry in enumerate(made.entries) if not entry.speaker and not entry.sound_source]
    assert unknown
    assert all(made.reference(n, pick) is None for n in unknown for pick in range(3))


def test_a_part_of_the_target_is_a_reference_of_the_audio_branch_alone_only():
    with pytest.raises(ValueError, match=r"objective.reference: same_clip hands the model a part of what it is to make"):
        ObjectiveConfig(reference="same_clip")


@pytest.mark.bitwise("draw")
def test_a_knob_leaves_the_other_draws_as_they_were(draw):
    a, b = draw(text_drop=0.0), draw(text_drop=1.0, caption_drop=0.5, independent_times=0.9, reference="none", mode="mixed")
    assert torch.equal(a.times.video, b.times.video)
    assert torch.equal(a.noise.video, b.noise.video)
    assert a.names == b.names


def test_audio_pretraining_touches_the_audio_branch_alone(draw, objective):
    objective.zero_grad()
    losses = objective(draw(streams="audio"))
    losses["loss"].backward()
    touched = {name.split(".")[0] for name, p in objective.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert "audio" in touched
    assert not touched & {"video"}
    objective.zero_grad()


def test_gradient_checkpointing_changes_no_gradient(draw, objective):
    batch, gradients = draw(), []
    for on in (False, True):
        objective.model.gradient_checkpointing = on
        objective.zero_grad()
        objective(batch)["loss"].backward()
        gradients.append({n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None})
    objective.model.gradient_checkpointing = False
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(g, gradients[1][n], atol=1e-6) for n, g in gradients[0].items())
    objective.zero_grad()


def test_a_later_step_of_the_same_shapes_makes_no_table_again(draw, model_config, monkeypatch):
    """Rotary factors and alignments are computed on the CPU: a GPU would wait for them at every step."""
    objective = Objective(small_model(model_config))
    first = objective(draw(no_reference=1.0))["loss"]

    def made_again(*_, **__):
        raise AssertionError("a table was made again")

    monkeypatch.setattr("harmony_core.models.branch.rotation", made_again)
    monkeypatch.setattr("harmony_core.models.alignment.rotation", made_again)
    assert objective(draw(no_reference=1.0))["loss"] == pytest.approx(float(first), rel=1e-6)
