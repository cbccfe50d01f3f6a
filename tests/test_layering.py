"""The layers of docs/architecture.md: imports go downwards only, and the core stays pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "chatapi"
LAYERS = [
    {"limits", "events", "clock", "callbacks", "sessions", "sorted_keys", "tasks"},
    {"errors", "entries", "framing", "timers"},
    {
        "names",
        "naming",
        "commands",
        "log",
        "render",
        "broker",
        "origins",
        "pace",
        "addresses",
        "frames",
        "news",
        "outbox",
        "strangers",
    },
    {"handshake", "clients", "openings", "dialogue", "inbox", "brokers.database"},
    {"brokers.store", "brokers.batches", "brokers.places"},
    {"brokers.writer", "brokers.view", "brokers.turns", "brokers.attendance"},
    {"brokers.sqlite", "brokers.check", "brokers.shared"},
    {"brokers.shard"},
    {"brokers.nodes"},
    {"brokers.redis"},
    {"roster", "deliveries", "session", "pressure", "wires", "tickets", "hooks", "lifeline", "log_limit"},
    {"connection"},
    {"blocking", "proxy"},
    {"rooms", "presence_hook"},
    {"fanout", "paging", "room_list"},
    {"hub"},
    {"arrivals"},
    {"doors.replies", "doors.answers", "doors.door", "doors.feed", "doors.stages", "doors.asking"},
    {"doors.entrance"},
    {"doors.intake"},
    {"doors.connection", "doors.text", "doors.telnet"},
    {"readiness"},
    {"doors.listener", "poller", "bots"},
    {"chat"},
    {"kit"},
    {"contract.recorder"},
    {"contract.nodes"},
    {"contract.subject"},
    {"contract.order", "contract.keeping", "contract.sharing", "contract.presence", "contract.chats"},
    {"contract.shared_chats"},
    {"contract.suite"},
    {"__init__", "testing", "doors.__init__", "brokers.__init__", "contract.__init__", "cli.__init__"},
    {"cli.flags", "cli.lines", "cli.screen", "cli.output", "cli.progress", "cli.records"},
    {"cli.typed", "cli.importing"},
    {"cli.store"},
    {"cli.server", "cli.client"},
]
PURE = {
    "errors", "limits", "events", "entries", "framing", "names", "naming", "handshake", "commands", "session", "log",
    "render", "broker", "openings", "origins", "pace", "timers", "pressure", "clients", "rooms", "fanout", "frames",
    "tickets", "news", "outbox", "dialogue", "arrivals", "roster", "deliveries", "paging", "presence_hook",
    "sorted_keys", "room_list", "strangers",
}  # fmt: skip
OUTSIDE = {"anyio", "asyncio", "trio", "os", "random", "secrets", "select", "selectors", "socket", "time", "threading"}


def imports(module: str, *, typing_too: bool = False) -> set[str]:
    """What a module imports, ours as ``.name``; what is only imported for type checkers does not count."""
    parts = module.split(".")
    tree = ast.parse(PACKAGE.joinpath(*parts).with_suffix(".py").read_text())
    found = set()
    for node in tree.body if not typing_too else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
                continue
            package = parts[: len(parts) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {"." + ".".join([*package, name]) for name in names if name}
    return found


MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}


def test_every_module_has_its_layer() -> None:
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards_or_sideways_without_a_circle(module: str) -> None:
    for name in imports(module):
        if name.startswith("."):
            assert LEVEL[name[1:]] <= LEVEL[module], f"{module} imports {name[1:]}"


@pytest.mark.parametrize("module", sorted(PURE))
def test_the_core_is_pure(module: str) -> None:
    outside = {name.partition(".")[0] for name in imports(module, typing_too=True)} & OUTSIDE
    assert not outside


@pytest.mark.parametrize("module", ["rooms", "clients"])
def test_rooms_and_clients_know_no_door_and_no_wire(module: str) -> None:
    assert not {name for name in imports(module, typing_too=True) if name.startswith((".doors", ".wires", ".poller"))}


CLIENT_LIBRARY = {"news", "outbox", "dialogue", "inbox", "lifeline", "connection", "blocking"}
SHARED = {"events", "errors", "limits", "addresses"}


@pytest.mark.parametrize("module", sorted({*MODULES} - {"__init__"} - SHARED))
def test_the_client_library_and_the_server_know_nothing_of_each_other(module: str) -> None:
    ours = {name[1:] for name in imports(module, typing_too=True) if name.startswith(".")} - SHARED
    assert not (ours - CLIENT_LIBRARY if module in CLIENT_LIBRARY else ours & CLIENT_LIBRARY)


@pytest.mark.parametrize("module", MODULES)
def test_no_event_loop_is_named(module: str) -> None:
    allowed = {"asyncio"} if module == "readiness" else set()
    assert not ({"asyncio", "trio"} - allowed) & {name.partition(".")[0] for name in imports(module, typing_too=True)}
    assert not {"asyncio", "trio"} & imports(module)  # what is there is imported by whoever uses it


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("cli")])
def test_the_library_owns_no_signals_and_never_ends_the_program(module: str) -> None:
    source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text()
    assert "signal" not in imports(module, typing_too=True)
    assert "sys.exit" not in source
    assert "raise SystemExit" not in source
    assert "basicConfig" not in source


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_small(module: str) -> None:
    lines = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text().count("\n")
    assert lines <= 500, "split it by idea"
