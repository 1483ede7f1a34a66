import json

import pytest

from harmony_core.evaluation.items import OWN, read_items


def test_our_list_has_three_sets_of_fifty_and_says_what_each_needs():
    items = read_items(OWN)
    by_set = {name: [item for item in items if item.set == name] for name in ("ambient", "speech", "complex")}
    assert [len(some) for some in by_set.values()] == [50, 50, 50]
    assert all(item.video_caption and item.audio_caption for item in items)
    assert not any(item.transcript or item.language for item in by_set["ambient"])
    for name in ("speech", "complex"):
        assert all(item.transcript for item in by_set[name])
        assert [sum(item.language == one for item in by_set[name]) for one in ("en", "zh")] == [25, 25]
        chinese = [item.transcript for item in by_set[name] if item.language == "zh"]
        assert all(any("\u4e00" <= c <= "\u9fff" for c in text) for text in chinese)
    assert len({(item.video_caption, item.audio_caption) for item in items}) == 150


THREE = {"video_prompt": "a dog", "audio_prompt": "barking"}
PUBLIC = {
    "t2av.json": (
        [{"index": 7, "prompt": "all", **THREE, "speech_prompt": [{"speaker": "x", "text": "Hi."}, {"text": "Ho."}]}],
        ("t2av-7", "a dog", "barking", "Hi. Ho."),
    ),
    "verse.json": ({"set3": {"12": {**THREE, "audio_prompt": ["barking", "wind"], "speech_prompt": "Sit."}}},
                   ("set3-12", "a dog", "barking wind", "Sit.")),
    "va.json": ([{"prompt_en": "all", "prompt_vision": "a dog", "prompt_audio": "barking"}], ("va-0", "a dog", "barking", "")),
    "avgen.json": ([{"content": "animals", "prompt": "a dog barks"}], ("avgen-0", "a dog barks", "", "")),
    "phy.jsonl": ([{"id": "m1", "prompt_a": "a cup", "prompt_b": "a bowl"}], ("m1_a", "a cup", "", "")),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_lists_are_read(name, tmp_path):
    content, expected = PUBLIC[name]
    lines = "\n".join(map(json.dumps, content)) if name.endswith("l") else json.dumps(content)
    (tmp_path / name).write_text(lines)
    item = read_items(tmp_path / name)[0]
    assert (item.id, item.video_caption, item.audio_caption, item.transcript) == expected


def test_a_csv_and_a_folder_of_files_are_read(tmp_path):
    (tmp_path / "javis.csv").write_text('path,text\nx.mp4,"a dog, barking"\ny.mp4,rain\n')
    (tmp_path / "sports.json").write_text(json.dumps([{"content": "c", "prompt": "tennis"}]))
    (tmp_path / "readme.md").write_text("no list")
    assert [(i.id, i.set, i.prompt) for i in read_items(tmp_path)] == [
        ("sample_0000", "javis", "a dog, barking"),
        ("sample_0001", "javis", "rain"),
        ("sports-0", "sports", "tennis"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[{}]", "is of no known format"),
        ("a.json", "[1, 2]", "is no list of items"),
        ("a.json", '{"a": 1}', "is no list of items"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.json", "[]", "lists no item"),
        ("a.json", '[{"content": "", "prompt": "x"}, {"content": ""}]', "item 2 is not of AVGen-Bench: it lacks prompt"),
        ("a.jsonl", '{"id": "a"}\n{"id": "a"}', "1 ids stand there more than once, such as 'a'"),
        ("a.jsonl", '{"id": "../a"}', "an item's id is the name of a file"),
        ("a.jsonl", '{"id": 3}', "id"),
        ("b.csv", "", "lists no item"),
    ],
)
def test_another_list_is_one_sentence(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_items(tmp_path / name)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300


def test_a_missing_list_and_bytes_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        read_items(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_items(tmp_path / "b.json")
    (tmp_path / "b.json").unlink()
    with pytest.raises(ValueError, match=r"holds no .json"):
        read_items(tmp_path)
