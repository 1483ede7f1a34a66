"""Who compares bit for bit says why it may: its test has the mark ``bitwise``, with one of the reasons of decision 0011.

``python tests/architecture/test_bitwise.py`` counts them.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISION = ROOT / "docs" / "decisions" / "0011-what-the-same-means.md"
REASONS = ("copy", "draw", "file", "locked", "mask", "program")
EXACT = {"equal", "array_equal", "assert_array_equal"}
FILES = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if path != Path(__file__)]
Function = ast.FunctionDef


def compares(node: ast.AST) -> bool:
    """Whether a piece of code calls what compares bit for bit: ``equal`` of tensors and arrays, or tolerances of 0."""
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and one.attr in EXACT:
            return True
        if isinstance(one, ast.Call):
            zero = {k.arg for k in one.keywords if isinstance(k.value, ast.Constant) and not k.value.value}
            if {"rtol", "atol"} <= zero:
                return True
    return False


def exact_tests(tree: ast.AST) -> dict[str, Function]:
    """Tests of a file that compare bit for bit, by themselves or by another function of it."""
    functions = {one.name: one for one in ast.walk(tree) if isinstance(one, Function)}
    found = {name for name, one in functions.items() if compares(one)}
    while True:
        callers = {
            name
            for name, one in functions.items()
            if any(isinstance(used, ast.Name) and used.id in found for used in ast.walk(one))
        }
        if callers <= found:
            return {name: one for name, one in functions.items() if name in found and name.startswith("test_")}
        found |= callers


def reason(test: Function) -> str | None:
    """What a test's mark says."""
    marks = (one for one in test.decorator_list if isinstance(one, ast.Call))
    return next((one.args[0].value for one in marks if ast.unparse(one.func) == "pytest.mark.bitwise"), None)


def marked(tree: ast.AST) -> dict[str, str]:
    functions = [one for one in ast.walk(tree) if isinstance(one, Function)]
    return {one.name: why for one in functions if (why := reason(one)) is not None}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_a_test_that_compares_bit_for_bit_says_why_it_may(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = [name for name, test in exact_tests(tree).items() if reason(test) is None]
    assert not silent, f"compare by rounding.away, or say why they may by @pytest.mark.bitwise: {', '.join(silent)}"
    assert set(marked(tree).values()) <= set(REASONS)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("beside_*.py")), ids=lambda path: path.name)
def test_scripts_beside_comfyui_compare_bit_for_bit_for_marked_tests_alone(path):
    if compares(ast.parse(path.read_text(encoding="utf-8"))):
        users = [one for one in FILES if f'"{path.name}"' in one.read_text(encoding="utf-8")]
        assert users and all(marked(ast.parse(one.read_text(encoding="utf-8"))) for one in users)


def test_every_reason_is_in_the_decision():
    text = DECISION.read_text(encoding="utf-8")
    assert [why for why in REASONS if f"- **{why}**" not in text] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def test_a(): assert torch.equal(x, y)", ["test_a"]),
        ("def test_a(): assert not x.equal(y)", ["test_a"]),
        ("def same(a): return all(map(torch.equal, a))\ndef both(): return same(1)\ndef test_a(): assert both()", ["test_a"]),
        ("def test_a(): torch.testing.assert_close(x, y, rtol=0, atol=0.0)", ["test_a"]),
        ("def test_a(): torch.testing.assert_close(x, y, rtol=0, atol=1e-5)", []),
        ("def test_a(): assert away(x, y) <= ROUNDING", []),
    ],
)
def test_comparisons_are_seen(code, found):
    assert list(exact_tests(ast.parse(code))) == found


if __name__ == "__main__":
    counts = Counter(why for path in FILES for why in marked(ast.parse(path.read_text(encoding="utf-8"))).values())
    for why, count in sorted(counts.items()):
        print(f"{why:8} {count:3}")
    print(f"{'all':8} {counts.total():3}")
