"""A file that is exchanged on the disk under the same name is read again; one that is the same is not."""

import pytest
import torch
from all_in_one import save_all_in_one
from comfy_events import Events
from comfy_server import Failed
from graphs import Graph, clip_graph, node, sampled_by_stock
from safetensors.torch import load_file, save_file

from harmony_core.weights.files import read_header

NAME = "exchanged.safetensors"


def changed(path, by: float) -> None:
    """The same checkpoint with other weights, in place of the one that is there."""
    tensors, (_, metadata) = load_file(path), read_header(path)
    tensors["video.head.head.weight"] = tensors["video.head.head.weight"] + by
    save_file(tensors, path.with_suffix(".new"), metadata=metadata)
    path.with_suffix(".new").replace(path)


def sampled_with(checkpoint, name: str) -> Graph:
    graph = sampled_by_stock(clip_graph(), name)
    graph["load"]["inputs"]["checkpoint"] = checkpoint
    return graph


def executed(server, graph: Graph) -> set[str]:
    with Events(server.port) as events:
        number = server.queue(graph, events.name)
        ran = set()
        for kind, data in events:
            if kind == "executing" and data.get("node"):
                ran.add(data["node"])
            if kind in {"execution_success", "execution_error"} and data["prompt_id"] == number:
                return ran
    return ran


@pytest.fixture
def checkpoint(server):
    return save_all_in_one(server.base / "models" / "checkpoints" / NAME)


def test_an_exchanged_checkpoint_is_loaded_again(server, checkpoint):
    server.run(sampled_with(NAME, "first"))
    assert "load" not in executed(server, sampled_with(NAME, "same"))
    changed(checkpoint, 0.1)
    assert "load" in executed(server, sampled_with(NAME, "second"))
    first, second = server.kept("first"), server.kept("second")
    assert not torch.equal(first["after.video"], second["after.video"])
    checkpoint.replace(checkpoint.with_name("other.safetensors"))
    server.run(sampled_with("other.safetensors", "other"))
    assert torch.equal(server.kept("other")["after.video"], second["after.video"])


def test_so_is_one_whose_name_another_node_gives(server, checkpoint):
    def graph(name: str) -> Graph:
        named = sampled_with(["name", 0], name)
        named["name"] = node("ProbeChoice", text=NAME)
        return named

    server.run(graph("linked first"))
    assert "load" not in executed(server, graph("linked same"))
    changed(checkpoint, 0.2)
    assert "load" in executed(server, graph("linked second"))
    assert not torch.equal(server.kept("linked first")["after.video"], server.kept("linked second")["after.video"])


def test_so_is_a_lora(server):
    path = server.base / "models" / "loras" / NAME
    path.parent.mkdir(exist_ok=True)

    def write(value: float) -> None:
        key = "diffusion_model.video.blocks.0.ffn.0"
        tensors = {f"{key}.lora_A.weight": torch.full((4, 48), value), f"{key}.lora_B.weight": torch.full((64, 4), value)}
        save_file(tensors, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def graph(name: str) -> Graph:
        found = sampled_by_stock(clip_graph(), name)
        found["lora"] = node("HarmonyLoadLora", model=["load", 0], lora_name=NAME, strength=1.0)
        found["sampled"]["inputs"]["model"] = ["lora", 0]
        return found

    write(0.1)
    server.run(graph("lora first"))
    assert "lora" not in executed(server, graph("lora same"))
    write(0.5)
    assert "lora" in executed(server, graph("lora second"))
    assert not torch.equal(server.kept("lora first")["after.video"], server.kept("lora second")["after.video"])


def test_a_file_that_is_written_over_in_use_is_said_and_loaded_again(server, checkpoint):
    """Its values may still be in the file: had it been cut short, the process would end when they are used."""
    graph = sampled_with(NAME, "written over")
    graph["touched"] = node("ProbeTouch", model=["load", 0], name=NAME)
    graph["sampled"]["inputs"]["model"] = ["touched", 0]
    with pytest.raises(Failed, match=f"checkpoint: {NAME} was written over in use; queue the graph again"):
        server.run(graph)
    server.run(sampled_with(NAME, "loaded again"))


def test_a_file_cut_short_is_refused_and_the_next_graph_runs(server, checkpoint):
    server.run(sampled_with(NAME, "whole"))
    with checkpoint.open("rb") as file:
        head = file.read(10_000)
    checkpoint.with_suffix(".new").write_bytes(head)
    checkpoint.with_suffix(".new").replace(checkpoint)
    with pytest.raises(Failed, match="HarmonyLoadCheckpoint: checkpoint: "):
        server.run(sampled_with(NAME, "cut"))
    server.run(sampled_by_stock(clip_graph(), "lives"))
