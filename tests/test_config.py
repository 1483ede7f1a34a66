import json

import pytest

from harmony_core.config import CONFIG_KEY, FORMAT_KEY, PRESETS, HarmonyConfig, InteractionConfig, preset
from harmony_core.records import from_record, to_record


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_way_through_metadata(name):
    assert HarmonyConfig.from_metadata(preset(name).to_metadata()) == preset(name)


def test_unknown_preset_names_the_known():
    with pytest.raises(ValueError, match="no preset 'huge'; there are 5b, tiny, ovi-720, ovi-960"):
        preset("huge")


def edited(**changes) -> dict[str, str]:
    meta = preset("tiny").to_metadata()
    record = json.loads(meta[CONFIG_KEY])
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        place = record
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    return {**meta, CONFIG_KEY: json.dumps(record)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown field.* colour"),
        ({"video__dim": "wide"}, "video.dim is int, got 'wide'"),
        ({"video__dim": True}, "video.dim is int, got True"),
        ({"video__dim": 100}, "not a multiple of 6 heads"),
        ({"interaction__kind": "telepathy"}, "interaction.kind is one of .* got 'telepathy'"),
        ({"video__patch": [1, 2]}, "patch"),
        ({"fps": 0}, "fps is a positive number"),
        ({"fps": float("inf")}, "fps is a number below"),
        ({"video__rope_theta": float("nan")}, "rope_theta is a number below"),
        ({"video__dim": 10**30}, "video.dim is a number below"),
        ({"fps": 10**400}, "fps is a number below"),
        ({"video": None}, "is an object with fields|got null"),
        ({"audio__layers": 3}, "6 and 3 layers"),
    ],
)
def test_a_config_with_a_wrong_field_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        HarmonyConfig.from_metadata(edited(**changes))


def test_another_format_version_is_refused_with_both():
    meta = {**preset("tiny").to_metadata(), FORMAT_KEY: "99"}
    with pytest.raises(ValueError, match="is '99', this version of the software reads '1'"):
        HarmonyConfig.from_metadata(meta)


def test_other_files_are_no_harmony_checkpoint():
    with pytest.raises(ValueError, match="no Harmony checkpoint"):
        HarmonyConfig.from_metadata({"format": "pt"})
    with pytest.raises(ValueError, match="is no JSON"):
        HarmonyConfig.from_metadata({FORMAT_KEY: "1", CONFIG_KEY: "{"})


def test_missing_fields_are_named():
    record = to_record(preset("tiny").video)
    del record["heads"], record["ffn"]
    with pytest.raises(ValueError, match="lacks field.* heads, ffn"):
        from_record(type(preset("tiny").video), record, "video")


def test_parts_are_replaced_field_by_field():
    changed = preset("tiny").replace(interaction={"kind": "global"}, driver_isolation=False)
    assert changed.interaction.kind == "global"
    assert changed.interaction.style_tokens == preset("tiny").interaction.style_tokens
    assert not changed.driver_isolation


def test_style_tokens_need_style():
    with pytest.raises(ValueError, match=r"they need interaction.style"):
        InteractionConfig(style=False, style_tokens=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interaction": {"kind": "telepathy"}}, "interaction.kind is one of .* got 'telepathy'"),
        ({"interaction": {"positions": "vague"}}, "interaction.positions is one of"),
        ({"video": {"embedding": "magic"}}, "branch.embedding is one of"),
        ({"interaction": {"kind": "fused"}, "audio": {"heads": 3, "rope_axes": (64,)}}, "needs heads of one width"),
        ({"audio": {"text_dim": 32}}, "one caption encoder serves both"),
        ({"video": {"text_len": 4}}, "do not fit the branches' text_len"),
    ],
)
def test_a_config_built_in_code_is_checked_as_one_from_a_file(changes, message):
    with pytest.raises(ValueError, match=message):
        preset("tiny").replace(**changes)


def test_endless_json_is_refused():
    with pytest.raises(ValueError, match="is no JSON"):
        HarmonyConfig.from_metadata({**preset("tiny").to_metadata(), CONFIG_KEY: "[" * 200_000})
