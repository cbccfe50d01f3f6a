"""Every limit has a test at its limit and one beyond it: `test_FIELD_at_the_limit` and `test_FIELD_one_beyond`."""

from __future__ import annotations

import ast
from pathlib import Path

from chatapi import Limits
from chatapi.limits import Keep


def names_in(path: Path) -> set[str]:
    """The names of the test functions of a module, at its top level or in its classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    nodes = [*tree.body, *(node for one in classes for node in one.body)]
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


MODULES = sorted(Path(__file__).parents[1].rglob("test_*.py"))
TESTS = set().union(*map(names_in, MODULES))


def test_every_limit_is_tested() -> None:
    fields = [*Limits.model_fields, *Keep.model_fields]
    wanted = {f"test_{field}_{where}" for field in fields for where in ("at_the_limit", "one_beyond")}
    assert sorted(wanted - TESTS) == []


def test_both_models_have_fields_of_different_names() -> None:
    assert not Limits.model_fields.keys() & Keep.model_fields.keys()  # or one test would stand for two
