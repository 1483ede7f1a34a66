import pytest
import torch

from harmony_core.flow import adjust_times, shifted_schedule
from harmony_core.guidance import (
    Evaluation,
    Guidance,
    Guide,
    guide,
    modality_guidance,
    sync_guidance,
    text_guidance,
)
from harmony_core.types import AV

BOTH = AV(True, True)
FREE = AV(torch.ones(1, 1, 1), torch.ones(1, 1, 1))


class Model:
    """Answers every question with its own fixed random velocity, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Evaluation, AV[bool]]] = []

    def __call__(self, what: Evaluation, wanted: AV[bool]):
        self.asked.append((what, wanted))
        generator = torch.Generator().manual_seed(["joint", "mute", "cut"].index(what.company) * 2 + what.text)
        return AV(*(torch.randn(2, 3, 4, generator=generator) for _ in wanted)).map(lambda v, w: v if w else None, wanted)

    def answer(self, **what) -> AV[torch.Tensor]:
        return Model()(Evaluation(**what), BOTH)


def run(guidance: Guidance, sigma: float = 0.5, generated: AV[bool] = BOTH, model: Model | None = None):
    return guide(model or Model(), guidance, AV(sigma, sigma), generated, FREE)


MAKERS = {
    "text": text_guidance,
    "modality": modality_guidance,
    "sync same": sync_guidance,
    "sync null": lambda scale, **more: sync_guidance(scale, text="null", **more),
    "sync additive": lambda scale, **more: sync_guidance(scale, text="additive", text_scale=scale, **more),
}


@pytest.mark.parametrize("name", MAKERS)
def test_at_scale_one_guidance_is_the_model_and_asks_it_once(name):
    model = Model()
    out = run(MAKERS[name](AV(1.0, 1.0)), model=model)
    full = Model().answer()
    assert torch.equal(out.video, full.video)
    assert torch.equal(out.audio, full.audio)
    assert len(model.asked) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_guidance_is_linear_in_its_scale(name):
    one, two, four = (run(MAKERS[name](AV(s, s))) for s in (1.0, 2.0, 4.0))
    assert torch.allclose(four.video - one.video, 3 * (two.video - one.video), atol=1e-5)
    assert torch.allclose(four.audio - one.audio, 3 * (two.audio - one.audio), atol=1e-5)
    assert (two.video - one.video).abs().max() > 0.1


@pytest.mark.parametrize(("text", "told"), [("same", True), ("null", False)])
def test_sync_cfg_is_the_papers_formula(text, told):
    out = run(sync_guidance(AV(3.0, 2.0), text=text))
    joint, anchor = Model().answer(), Model().answer(company="mute", text=told)
    assert torch.allclose(out.video, anchor.video + 3 * (joint.video - anchor.video), atol=1e-5)
    assert torch.allclose(out.audio, anchor.audio + 2 * (joint.audio - anchor.audio), atol=1e-5)


def test_additive_sync_cfg_adds_text_guidance_for_one_more_pass():
    model = Model()
    out = run(sync_guidance(AV(3.0, 2.0), text="additive", text_scale=AV(4.0, 5.0)), model=model)
    joint, mute, silent = Model().answer(), Model().answer(company="mute"), Model().answer(text=False)
    expected = joint.video + 3 * (joint.video - silent.video) + 2 * (joint.video - mute.video)
    assert torch.allclose(out.video, expected, atol=1e-5)
    assert [(q.company, q.text) for q, _ in model.asked] == [("joint", True), ("mute", True), ("joint", False)]


def test_scales_are_per_stream_and_a_stream_at_one_is_not_asked_for():
    model = Model()
    out = run(text_guidance(AV(5.0, 1.0)), model=model)
    assert model.asked[1] == (Evaluation(text=False), AV(True, False))
    assert torch.equal(out.audio, Model().answer().audio)


def test_guidance_acts_between_start_and_end():
    guidance = text_guidance(AV(5.0, 5.0), start=0.8, end=0.2)
    for sigma, acts in ((1.0, False), (0.8, True), (0.5, True), (0.2, True), (0.1, False)):
        model = Model()
        run(guidance, sigma, model=model)
        assert (len(model.asked) == 2) is acts


def test_a_given_stream_is_neither_asked_for_nor_answered():
    model = Model()
    out = run(sync_guidance(AV(3.0, 2.0)), generated=AV(True, False), model=model)
    assert out.audio is None
    assert all(not wanted.audio for _, wanted in model.asked)


def test_rescale_brings_back_the_spread_of_what_is_free():
    guidance = text_guidance(AV(6.0, 6.0))
    full, wild = Model().answer().video, run(guidance).video
    tamed = run(Guidance(guides=guidance.guides, rescale=AV(1.0, 0.0)))
    half = run(Guidance(guides=guidance.guides, rescale=AV(0.5, 0.0)))

    def spread(x):
        return x.flatten(1).std(1, correction=0)

    assert (spread(wild) / spread(full)).min() > 2
    assert torch.allclose(spread(tamed.video), spread(full), rtol=1e-4)
    assert torch.allclose(half.video, (wild + tamed.video) / 2, atol=1e-5)
    assert torch.equal(tamed.audio, run(guidance).audio)


def test_guidances_add_up():
    both = run(text_guidance(AV(2.0, 2.0)) + modality_guidance(AV(3.0, 3.0)))
    joint, silent, cut = Model().answer(), Model().answer(text=False), Model().answer(company="cut")
    assert torch.allclose(both.video, joint.video + (joint.video - silent.video) + 2 * (joint.video - cut.video), atol=1e-5)


def test_what_is_guided_already_adds_up_and_is_rescaled_with_the_rest():
    joint, silent = Model().answer(), Model().answer(text=False)
    text = joint.map(lambda full, anchor: anchor + 4 * (full - anchor), silent)
    sync = sync_guidance(AV(3.0, 2.0), text="additive", text_scale=AV(4.0, 4.0))
    for rescale in (0.0, 0.7):
        wanted = run(Guidance(guides=sync.guides, rescale=AV(rescale, rescale)))
        alone = Guidance(guides=sync.guides[:1], rescale=AV(rescale, rescale))
        found = guide(Model(), alone, AV(0.5, 0.5), BOTH, FREE, beside=text)
        assert torch.allclose(found.video, wanted.video, atol=1e-5)
        assert torch.allclose(found.audio, wanted.audio, atol=1e-5)
    assert guide(Model(), alone, AV(0.5, 0.5), AV(True, False), FREE, beside=text).audio is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: text_guidance(AV(-1.0, 1.0)), "got -1.0 for video"),
        (lambda: text_guidance(AV(1.0, float("nan"))), "got nan for audio"),
        (lambda: sync_guidance(AV(2.0, float("inf"))), "got inf for audio"),
        (lambda: text_guidance(AV(2.0, 2.0), start=0.2, end=0.8), "start down to end"),
        (lambda: sync_guidance(AV(2.0, 2.0), text="loud"), "text mode is same, null or additive, got 'loud'"),
        (lambda: sync_guidance(AV(2.0, 2.0), text_scale=AV(3.0, 3.0)), "goes with .* additive"),
        (lambda: Guidance(rescale=AV(1.5, 0.0)), "rescale lies between 0 and 1"),
        (lambda: Guide(anchor=Evaluation(), scale=AV(2.0, 2.0), start=1.5), "in \\[0, 1\\]"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0, 6.0])
@pytest.mark.parametrize(
    ("start", "end"), [(0.95, 0.6), (1.0, 0.5), (0.8, 0.0), (shifted_schedule(24)[3], shifted_schedule(24)[9])]
)
def test_an_interval_is_of_the_schedule_whatever_each_stream_s_own_times_are(gamma, start, end):
    """In ComfyUI a guide sees the schedule's sigma, standalone the streams' own: it acts in the same steps, on both streams."""
    guide = sync_guidance(AV(3.0, 2.0), start=start, end=end).guides[0]
    schedule = shifted_schedule(24)[:-1]
    own = adjust_times(schedule, gamma=gamma)
    standalone = [guide.active(AV(v, a)) for v, a in zip(own.video, own.audio, strict=True)]
    assert standalone == [guide.active(AV.both(base)) for base in schedule]
    assert [any(active) for active in standalone] == [end * (1 - 1e-9) <= base <= start * (1 + 1e-9) for base in schedule]
    assert all(active.video == active.audio for active in standalone)
