"""What the nodes say, read from their code: no ComfyUI is needed."""

import ast
from pathlib import Path

import pytest

from harmony_core.recipes import HARMONY
from harmony_core.types import AV

NODES = Path(__file__).parents[2] / "nodes"
FILES = sorted(NODES.glob("*.py"))


def calls(name: str) -> list[ast.Call]:
    """Every call of a method of that name in the nodes."""
    trees = [ast.parse(path.read_text()) for path in FILES]
    found = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return [n for n in found if isinstance(n.func, ast.Attribute) and n.func.attr == name]


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def text(expression: ast.expr | None) -> str:
    assert isinstance(expression, ast.Constant) and isinstance(expression.value, str), expression
    return expression.value


@pytest.mark.parametrize("kind", ["Input", "Output"])
def test_every_input_and_output_is_explained(kind):
    found = calls(kind)
    assert len(found) > 10
    for call in found:
        tooltip = keyword(call, "tooltip")
        assert tooltip is not None, ast.unparse(call)
        if isinstance(tooltip, ast.Constant):
            assert text(tooltip)[0].isupper() and text(tooltip).endswith("."), text(tooltip)


def test_every_node_is_in_the_category_and_named_alike():
    schemas = calls("Schema")
    assert len(schemas) > 8
    for schema in schemas:
        assert text(keyword(schema, "category")) == "Harmony"
        assert text(keyword(schema, "node_id")).startswith("Harmony")
        assert "Harmony" in text(keyword(schema, "display_name"))
        assert text(keyword(schema, "description")).endswith(".")
    assert len({text(keyword(schema, "node_id")) for schema in schemas}) == len(schemas)


def test_every_node_is_listed():
    defined = {n.name for path in FILES for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)}
    listed = NODES.joinpath("__init__.py").read_text().split("return [")[1]
    assert defined - {"HarmonyExtension", "HarmonyNode"} == {
        name.strip(" ,\n]") for name in listed.split("]")[0].split(",") if name.strip()
    }


def test_every_node_checks_what_it_is_given():
    """See nodes/border.py."""
    classes = [n for path in FILES for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]
    nodes = [n for n in classes if any(isinstance(m, ast.FunctionDef) and m.name == "define_schema" for m in n.body)]
    assert len(nodes) > 10
    assert {n.name for n in nodes if [ast.unparse(base) for base in n.bases] != ["HarmonyNode"]} == set()


def test_defaults_of_sampling_are_the_table_s():
    def defaults(name: str) -> set:
        found = [c for c in calls("Input") if c.args and ast.unparse(c.args[0]) == repr(name)]
        return {ast.literal_eval(value) for c in found if (value := keyword(c, "default")) is not None}

    trees = [ast.parse(path.read_text()) for path in FILES]
    scales = {
        ast.literal_eval(call.args[0]): ast.literal_eval(call.args[1])
        for tree in trees
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "scale"
    }
    assert AV(scales["sync_video"], scales["sync_audio"]) == HARMONY.sync
    assert AV(scales["text_video"], scales["text_audio"]) == HARMONY.text
    assert defaults("steps") == {HARMONY.steps}
    assert defaults("sampler_name") == {HARMONY.sampler, HARMONY.comfyui_sampler}
    assert defaults("shift") == {0.0}  # the model's own:
    settings = (NODES / "bridge" / "model.py").read_text()
    assert f'sampling_settings = {{"shift": {HARMONY.shift}, "multiplier": 1.0}}' in settings
