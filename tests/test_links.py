"""A link stays a link: every writer writes what it leads to, as people with linked output folders expect."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import small_model

from harmony_core.atomic import replacing
from harmony_core.geometry import ClipSpec
from harmony_core.media import write_video, write_wav
from harmony_core.types import AV, Audio, Video
from harmony_core.weights.checkpoint import load_checkpoint, save_checkpoint
from harmony_core.weights.latents import save_latents
from harmony_core.weights.stream import Entry, writing

SPEC = ClipSpec(frames=5, height=32, width=32)


def write_text(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("new")


def write_stream(path: Path) -> None:
    with writing(path, {"a": Entry((2,), torch.float32)}, {}) as writer:
        writer.write("a", [torch.ones(2)])


def write_checkpoint(path: Path) -> None:
    model = small_model()
    save_checkpoint(path, model.config, model.state_dict())


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "text": (".json", write_text),
    "convert": (".safetensors", write_stream),
    "checkpoint": (".safetensors", write_checkpoint),
    "latents": (
        ".safetensors",
        lambda path: save_latents(path, AV(torch.zeros(SPEC.video_shape(1)), torch.zeros(SPEC.audio_shape(1))), SPEC),
    ),
    "mp4": (".mp4", lambda path: write_video(path, Video(torch.zeros(1, 3, 5, 32, 32), 24.0))),
    "wav": (".wav", lambda path: write_wav(path, Audio(torch.zeros(1, 1, 100), 16_000))),
}


@pytest.mark.parametrize("there", [True, False], ids=["over a file", "to nothing yet"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path, writer, there):
    suffix, write = WRITERS[writer]
    for name in ("links", "files"):
        (tmp_path / name).mkdir()
    link, file = (tmp_path / "links" / "a").with_suffix(suffix), (tmp_path / "files" / "b").with_suffix(suffix)
    link.symlink_to(file)
    if there:
        file.write_text("old")
    write(link)
    assert link.is_symlink()
    assert file.read_bytes() not in {b"", b"old"}
    assert [*link.parent.iterdir(), *file.parent.iterdir()] == [link, file]


def test_a_failure_leaves_the_link_and_what_it_leads_to(tmp_path):
    link, file = tmp_path / "link.txt", tmp_path / "file.txt"
    file.write_text("old")
    link.symlink_to(file)
    with pytest.raises(RuntimeError), replacing(link) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert link.is_symlink()
    assert file.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_shards_of_a_linked_index_are_written_beside_what_it_leads_to(tmp_path):
    for name in ("links", "files"):
        (tmp_path / name).mkdir()
    link, index = tmp_path / "links" / "m.safetensors.index.json", tmp_path / "files" / "m.safetensors.index.json"
    link.symlink_to(index)
    model = small_model()
    save_checkpoint(tmp_path / "links" / "m.safetensors", model.config, model.state_dict(), shard_bytes=50_000)
    assert [*link.parent.iterdir()] == [link]
    assert link.is_symlink()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in load_checkpoint(index).tensors.items())
