"""The documentation names only what exists; its links lead somewhere, and its command lines are understood."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import sys
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from doc_rows import CLIENT, CONFORMANCE, SERVER, parsed
from layers import MODULES, PACKAGE
from pages import DOCS, PAGES, ROOT, SPANS, Page, blocks

import chatapi
import chatapi.brokers.sqlite
import chatapi.testing
import gotcpchat
from chatapi import DISCONNECTS, Limits, RefusalCode
from chatapi.cli import client, server, store
from chatapi.errors import FrameError
from chatapi.protocol.text import commands

EVERYTHING = "\n".join(page.text for page in PAGES.values())
ARCHITECTURE = [PAGES[f"docs/explanation/{name}.md"] for name in ("architecture", "modules")]


# Flags, variables, commands


def test_no_flag_is_made_up() -> None:
    known = set(SERVER) | set(CLIENT) | set(CONFORMANCE)
    known |= {f"-{name}" for name in known}
    for page, span in SPANS:
        if re.match("-+[a-z]", span):
            assert re.split("[ =]", span)[0] in known, f"{page}: {span}"


def test_every_command_line_would_be_understood() -> None:
    understood = 0
    lines = [line for block in blocks("console") + blocks("ini") for line in block.body.splitlines()]
    for line in lines + [span for _, span in SPANS]:
        words = shlex.split(line.replace("'", "")) if line.startswith("$ ") or "ExecStart" in line else line.split()
        for at, word in enumerate(words):
            main = {"chatserver": server, "examplechatclient": client}.get(word.rpartition("/")[2])
            if main is not None and (at == 0 or words[at - 1] in ("$", "|") or words[at - 1].endswith("python")):
                arguments = [*takewhile(lambda word: word[0] not in "|>", words[at + 1 :])]
                if main is server and arguments[:1] and arguments[0] in store.COMMANDS:
                    if len(arguments) > 1:  # or it is only named
                        store.build_parser(arguments[0]).parse(arguments[1:])
                else:
                    main.build_parser().parse(arguments)
                understood += 1
    assert understood > 10


def test_no_variable_is_made_up() -> None:
    pages = EVERYTHING + "".join((ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "compose.yaml"))
    known = {server.environment_name(action.dest) for action in SERVER.values()}
    known |= {server.environment_name(former) for former in server.FORMER_NAMES.values()}
    assert set(re.findall(r"MACHAT_[A-Z_]*[A-Z]", pages)) <= known


def test_no_command_is_made_up() -> None:
    for page, span in SPANS:
        if command := re.fullmatch(r"/([a-z]+)( .*)?", span):
            assert command[1] in {*commands._BY_WORD, "x"}, f"{page}: {span}"  # "x" stands for any text


# Names of the code


def identifiers() -> set[str]:
    """Every word that means something in the code: what it defines, its modules, its codes, the fields of its JSON."""
    found = set(DISCONNECTS) | {*RefusalCode} | {*FrameError} | {"moved", "type", "code", "detail"}
    found |= set(re.findall(r'"(\w+)"', inspect.getsource(chatapi.core.room.Room.recover)))
    found |= set(dir(gotcpchat)) | set(sys.stdlib_module_names)
    found |= {"cmd", "gotcpchat", "__all__"}
    for path in PACKAGE.rglob("*.py"):
        found |= set(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.arg | ast.keyword):
                found.add(node.arg or "")
            elif isinstance(node, ast.Name):
                found.add(node.id)
    return found


FOREIGN = re.compile(
    r"MACHAT_.*|.*\.(md|py|yaml|lua)"  # variables and files have tests of their own
    r"|(SO|TCP|IPV6|CAP|AF)_.*|[A-Z]\w+(NOFILE|StopSec|Set|Capabilities|Directory)|net\.ipv4\.tcp_rmem"  # the system's
    r"|.*\.db(-\w+)?|secure_delete"  # SQLite's
    r"|ssl_\w+"  # options of a URL
    r"|anyio\..*|pydantic\.ValidationError"
)
"""Names that are not this project's."""


def test_no_name_is_made_up() -> None:
    known = identifiers()
    for page, span in SPANS:
        name = re.fullmatch(r"([A-Za-z_]+(\.[A-Za-z_]+)*)(\(.*\))?", span)
        if name and re.search(r"[_.]|[a-z][A-Z]", span) and not FOREIGN.fullmatch(name[1]):
            assert set(name[1].split(".")) <= known, f"{page}: {span}"


@pytest.mark.parametrize(
    "module", [chatapi, chatapi.testing, chatapi.brokers.sqlite, gotcpchat], ids=lambda module: module.__name__
)
def test_every_public_name_is_in_the_guides_or_the_reference(module: Any) -> None:
    text = "".join(page.text for page in PAGES.values() if page.path.parent.name in ("how-to", "reference"))
    assert [name for name in module.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_every_error_is_in_the_tree() -> None:
    [tree] = blocks("text", "ChatError\n")
    errors = {
        name
        for name in chatapi.__all__
        if isinstance(kind := getattr(chatapi, name), type) and issubclass(kind, Exception)
    }
    assert set(re.findall(r"^(?:[├└]── )?(\w+)", tree.body, re.MULTILINE)) == errors


def has_attribute(owner: Any, name: str) -> bool:
    """Whether a module or a class has this attribute, by itself, in an annotation or set in `__init__`."""
    if hasattr(owner, name) or name in getattr(owner, "__annotations__", {}):
        return True
    return inspect.isclass(owner) and f"self.{name}:" in inspect.getsource(owner.__init__)


def test_every_name_on_the_pages_about_the_code_is_where_they_say() -> None:
    modules = {name: import_module(f"chatapi.{name}") for name in MODULES}
    owners: dict[str, list[Any]] = {name: [module] for name, module in modules.items()}
    for module in modules.values():
        for name, value in vars(module).items():
            owners.setdefault(name, []).append(value)
    for span in [span for page in ARCHITECTURE for span in page.spans]:
        if FOREIGN.fullmatch(span):
            continue
        owner, _, name = span.partition("(")[0].rpartition(".")
        if owner in owners:
            assert span in modules or any(has_attribute(one, name) for one in owners[owner]), span
        elif re.fullmatch(r"[A-Z][a-z]+", span):
            assert span in owners, span


# Pages, links, files


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.path.parent / file).resolve() if file else page.path
        assert path.exists(), target
        site = DOCS if page.path.is_relative_to(DOCS) else ROOT  # nothing else is on the site
        assert path.is_relative_to(site), target
        if anchor:
            assert anchor in map(slug, Page(path).headings), target


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_no_page_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


def test_every_page_is_in_the_table_of_pages() -> None:
    linked = set(re.findall(r"\]\(([^)\s#]+)", PAGES["docs/index.md"].prose))
    assert linked == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_terms_of_the_glossary_are_in_alphabetical_order() -> None:
    [rows] = PAGES["docs/reference/glossary.md"].tables()
    terms = [row["term"].lower() for row in rows]
    assert terms == sorted(set(terms))


def test_the_changelog_has_this_version() -> None:
    assert f"## [{chatapi.__version__}]" in PAGES["CHANGELOG.md"].text


def test_the_systemd_unit_waits_for_the_drain() -> None:
    [unit] = blocks("ini")
    settings = dict(line.split("=", 1) for line in unit.body.splitlines() if "=" in line)
    assert f" -store /var/lib/{settings['StateDirectory']}/" in settings["ExecStart"]
    assert int(settings["TimeoutStopSec"]) > Limits().drain
    assert int(settings["LimitNOFILE"]) > Limits().connections
