"""Imports between the folders of the package go one way, also imports for type checkers alone; the core stays pure."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from layers import MAY_IMPORT, MODULES, PACKAGE, VOCABULARY

PURE = {"core", "protocol"}
"""Folders that do no input and output, know no event loop and start no thread. The same holds for `PURE_MODULES`."""
PURE_MODULES = {"errors", "events", "limits", "text", "pending", "client.events", "client.requests", "client.protocol"}
OUTSIDE = {"anyio", "asyncio", "trio", "os", "random", "secrets", "select", "selectors", "socket", "time", "threading"}


def source(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports(module: str, *, at_run_time: bool = False) -> set[str]:
    """The modules that a module imports, ours with a dot in front; `at_run_time`, only those at its top level."""
    path = source(module)
    package = path.relative_to(PACKAGE).parent.parts
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if at_run_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
            for alias in node.names:
                name = ".".join([*base, alias.name])
                found.add("." + (name if name in MODULES else ".".join(base)))
    return found


def folder(module: str) -> str:
    first = module.partition(".")[0]
    if first in VOCABULARY:
        return "vocabulary"
    return {"": "package", "bots": "chat", "doors": "chat", "past": "chat"}.get(first, first)


def outside(module: str, *, at_run_time: bool = False) -> set[str]:
    return {name.partition(".")[0] for name in imports(module, at_run_time=at_run_time)}


def test_imports_between_folders_go_one_way() -> None:
    against = [
        f"{module} imports {name[1:]}"
        for module in MODULES
        for name in imports(module)
        if name.startswith(".")
        and (theirs := folder(name[1:])) != (mine := folder(module))
        and theirs not in MAY_IMPORT[mine]
    ]
    assert not against, "\n".join(against)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_no_modules_of_a_folder_import_each_other_in_a_cycle(name: str) -> None:
    """Imports for type checkers count too: a module can be understood once those that it imports are."""
    modules = [module for module in MODULES if folder(module) == name]
    graph = {module: {f".{other}" for other in modules} & imports(module) - {f".{module}"} for module in modules}
    left = dict(graph)
    while free := [module for module in left if not any(other[1:] in left for other in left[module])]:
        for module in free:
            del left[module]
    assert not left, f"in a cycle, or above one: {sorted(left)}"


def test_every_folder_has_a_rule() -> None:
    assert {folder(module) for module in MODULES} == MAY_IMPORT.keys()


def test_the_core_and_the_protocols_are_pure() -> None:
    pure = [module for module in MODULES if folder(module) in PURE or module in PURE_MODULES]
    assert {module: found for module in pure if (found := outside(module) & OUTSIDE)} == {}


def test_no_event_loop_is_named() -> None:
    loops = {"asyncio", "trio"}
    naming = {module for module in MODULES if loops & outside(module)}
    assert naming <= {"server.readiness"}
    assert {module for module in naming if loops & outside(module, at_run_time=True)} == set(), (
        "the program has imported the event loop that it uses"
    )


def test_the_library_owns_no_signals_and_never_ends_the_program() -> None:
    library = [module for module in MODULES if not module.startswith("cli") and "__main__" not in module]
    assert [module for module in library if "signal" in imports(module)] == []
    for words in ("sys.exit", "raise SystemExit", "basicConfig"):
        assert [module for module in library if words in source(module).read_text()] == [], words


def test_files_stay_small() -> None:
    lines = {module: source(module).read_text().count("\n") for module in MODULES}
    assert {module: number for module, number in lines.items() if number > 400} == {}, "split them by idea"
