"""Nothing is done in the order of a set: that of an Enum's members, or of texts, is another in every process."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for folder in ("harmony_core", "nodes") for path in (ROOT / folder).rglob("*.py"))
SETS = {"set", "frozenset"}
ORDERLESS = SETS | {"sorted", "any", "all", "min", "max", "sum", "len"}
"""What gives the same whatever order it is given things in."""


def is_set(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is seen to be a set: it is written as one, or its name is said to be one."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in SETS
    if isinstance(node, ast.BinOp):
        return is_set(node.left, names) or is_set(node.right, names)
    if isinstance(node, ast.Name | ast.Attribute):
        return (node.id if isinstance(node, ast.Name) else node.attr) in names
    return isinstance(node, ast.Set | ast.SetComp)


def said(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation).partition("[")[0] in SETS


def names_of_sets(tree: ast.Module) -> set[str]:
    """Fields, arguments and variables that are annotated as sets or given one, by their names in the module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and said(node.annotation):
            names.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and said(node.annotation):
            names.add(ast.unparse(node.target).rpartition(".")[2])
        elif isinstance(node, ast.Assign) and is_set(node.value, set()):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def in_the_order_of_a_set(tree: ast.Module) -> Iterator[int]:
    """Lines that go through a set one by one, for something in which order shows."""
    names = names_of_sets(tree)
    orderless = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ORDERLESS
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and is_set(node.iter, names):
            yield node.lineno
        if isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp) and id(node) not in orderless:
            yield from (node.lineno for part in node.generators if is_set(part.iter, names))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"list", "tuple", "dict"}:
            yield from (node.lineno for argument in node.args if is_set(argument, names) and id(node) not in orderless)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_done_in_the_order_of_a_set(path):
    lines = list(in_the_order_of_a_set(ast.parse(path.read_text(encoding="utf-8"))))
    assert not lines, f"{path.relative_to(ROOT)}, lines {lines}: go through sorted(...) or the members of an Enum"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("class P:\n    readers: frozenset[M]\ndef f(p):\n    for m in p.readers: work(m)", [4]),
        ("def f(texts): return {t: encode(t) for t in set(texts)}", [1]),
        ("def f(streams: frozenset[M]): return [s for s in streams]", [1]),
        ("keys = {1, 2}\nfirst = list(keys)", [2]),
        ("def f(texts): return sorted(t for t in set(texts))", []),
        ("for m in Modality: work(m)", []),
    ],
)
def test_the_check_sees_such_lines(code, found):
    assert list(in_the_order_of_a_set(ast.parse(code))) == found
