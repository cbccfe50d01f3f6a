"""The mutants of a module: each is its syntax tree with one small change in one function."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}
_SWAPPED_NAMES = {"min": "max", "max": "min", "bisect_left": "bisect_right", "bisect_right": "bisect_left"}


@dataclass
class Mutant:
    """A change of one expression or statement."""

    module: str
    function: str
    line: int
    lines: tuple[range, range]
    """The lines of the expression, and those of its statement without the statements inside it."""
    before: str
    after: str
    tree: ast.Module
    place: tuple[ast.AST, str, int | None]
    node: ast.AST

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identify the mutant, also after lines were added above it."""
        return self.module, self.function, self.before, self.after

    def describe(self) -> str:
        """Return the change for a person to read."""
        return f"{self.module}:{self.line} {self.function}\n  - {self.before}\n  + {self.after}"

    def compile(self) -> CodeType:
        """Return the code of the whole module with the change, which stays in the tree."""
        _put(self.place, self.node)
        return compile(ast.fix_missing_locations(self.tree), str(Path(self.module).resolve()), "exec")


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Return the mutants of all functions of a module, in the order of its lines."""
    tree = ast.parse(source)
    found = [
        Mutant(module, function, node.lineno, lines, before, after, tree, place, new)
        for node, place, function, lines, stmt in _walk(tree)
        for new in _changes(node)
        for before, after in [_texts(stmt, node, place, new)]
        if before != after
    ]
    seen: dict[tuple[str, str, str, str], int] = {}
    for mutant in found:  # the same change of equal statements of one function
        seen[mutant.key] = number = seen.get(mutant.key, 0) + 1
        if number > 1:
            mutant.after += f"  # {number}"
    return found


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in the place of this node."""
    match node:
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                if type(op) in _SWAPPED:
                    yield ast.Compare(left, [*ops[:i], _SWAPPED[type(op)](), *ops[i + 1 :]], comparators)
        case ast.BinOp(left, op, right) if type(op) in _SWAPPED and not _is_text(left) and not _is_text(right):
            yield ast.BinOp(left, _SWAPPED[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(_SWAPPED[type(op)](), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(int() | float() as value) if not isinstance(value, bool):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Name(id, ast.Load()) if id in _SWAPPED_NAMES:
            yield ast.Name(_SWAPPED_NAMES[id], ast.Load())
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.AugAssign(target, op, value):
            if type(op) in _SWAPPED:
                yield ast.AugAssign(target, _SWAPPED[type(op)](), value)
            yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield _SWAPPED[type(node)]()
        case ast.Expr(ast.Call()) | ast.Delete() | ast.Return(None):
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript(), *_]):
            yield ast.Pass()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


_Place = tuple[ast.AST, str, int | None]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_NOT_RUN = {"annotation", "returns", "decorator_list", "type_comment", "type_params"}


def _walk(tree: ast.Module) -> Iterator[tuple[ast.AST, _Place, str, tuple[range, range], ast.stmt]]:
    """Yield each node of a function with its place, its function's qualified name, its lines and its statement."""

    def walk(
        parent: ast.AST, name: str, function: str, stmt: ast.stmt | None
    ) -> Iterator[tuple[ast.AST, _Place, str, tuple[range, range], ast.stmt]]:
        for field, value in ast.iter_fields(parent):
            if field in _NOT_RUN or (isinstance(parent, _FUNCTIONS) and field == "args"):
                continue
            for i, node in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(node, ast.AST):
                    continue
                place = (parent, field, i if isinstance(value, list) else None)
                if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                    inner = f"{name}.{node.name}" if name else node.name
                    is_function = isinstance(node, _FUNCTIONS)
                    yield from walk(
                        node, f"{inner}.<locals>" if is_function else inner, inner if is_function else "", None
                    )
                    continue
                inside = node if isinstance(node, ast.stmt) else stmt
                if function and inside is not None and hasattr(node, "lineno"):
                    own = range(node.lineno, node.end_lineno + 1)
                    yield node, place, function, (own, _head(inside)), inside
                yield from walk(node, name, function, inside)

    yield from walk(tree, "", "", None)


def _head(stmt: ast.stmt) -> range:
    body = getattr(stmt, "body", None)
    return range(stmt.lineno, max(body[0].lineno, stmt.lineno + 1) if body else (stmt.end_lineno or stmt.lineno) + 1)


def _texts(stmt: ast.stmt, node: ast.AST, place: _Place, new: ast.AST) -> tuple[str, str]:
    """Return the statement before and after the change, without the statements inside it."""
    before = _text(stmt)
    if node is stmt:
        return before, _text(new)
    _put(place, new)
    after = _text(stmt)
    _put(place, node)
    return before, after


def _text(stmt: ast.AST) -> str:
    head = copy.copy(stmt)
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        if hasattr(head, field):
            setattr(head, field, [])
    return ast.unparse(head)


def _put(place: _Place, node: ast.AST) -> None:
    parent, field, index = place
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node
