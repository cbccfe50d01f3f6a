"""The documentation is true: it names what there is and nothing else, its links lead somewhere, its examples run."""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import typing
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from executables import eventually
from layers import MAY_IMPORT, MODULES, VOCABULARY
from redis_servers import RedisServer, needs_redis

import chatapi
import chatapi.brokers.sqlite
import chatapi.testing
import gotcpchat
from chatapi import DISCONNECTS, Broker, Client, Limits, RefusalCode, Room, StoreError, addresses, limits
from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.redis.broker import KEEP, RedisBroker
from chatapi.brokers.sqlite import Keep, SQLiteBroker, database
from chatapi.brokers.sqlite import broker as sqlite
from chatapi.cli import client, lines, server, store
from chatapi.client import event_queue, requests
from chatapi.core import hub
from chatapi.core.entries import Deletion
from chatapi.core.handshake import Handshake, Resume
from chatapi.core.hooks import Hooks
from chatapi.errors import FrameError
from chatapi.protocol.json import frames
from chatapi.protocol.text import commands
from chatapi.server import log_limit
from chatapi.testing import ChatKit, Peer, VirtualClock

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "chatapi"


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    body: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Page:
    """One Markdown file: its blocks of code, and its prose without them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.blocks: list[Block] = []
        prose: list[str] = []
        lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
        for number, line in lines:
            if line.startswith("```"):
                body = "\n".join(text for _, text in takewhile(lambda item: item[1] != "```", lines)) + "\n"
                self.blocks.append(Block(self.name, number, line[3:].partition(" ")[0], body))
                prose.append("")
            else:
                prose.append(line)
        self.prose = "\n".join(prose)
        self.spans = re.findall(r"`([^`\n]+)`", self.prose)
        """What stands in backticks."""
        self.headings = [line.lstrip("# ") for line in prose if line.startswith("#")]

    def tables(self) -> Iterator[list[dict[str, str]]]:
        """Every table, as rows by the words of its heading."""
        for part in re.findall(r"(?:^\|.*\n)+", self.prose + "\n", re.MULTILINE):
            rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in part.splitlines()]
            yield [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


FILES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {
    page.name: page
    for page in map(Page, FILES)
    if page.path.name != "benchmarks.md"  # it is about other programs too, with their flags and names
}
PROTOCOL = [PAGES[f"docs/reference/{name}.md"] for name in ("protocol", "protocol-json", "codes")]
ARCHITECTURE = [PAGES[f"docs/explanation/{name}.md"] for name in ("architecture", "modules")]
BLOCKS = [block for page in PAGES.values() for block in page.blocks]
SPANS = [(page.name, span) for page in PAGES.values() for span in page.spans]
EVERYTHING = "\n".join(page.path.read_text(encoding="utf-8") for page in PAGES.values())
PROSE = "\n".join(page.prose for page in PAGES.values())


def table(*heading: str) -> list[dict[str, str]]:
    """The one table with this heading, on whichever page it is."""
    [found] = [rows for page in PAGES.values() for rows in page.tables() if rows and tuple(rows[0]) == heading]
    return found


def plain(cell: str) -> str:
    return cell.strip("`")


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


# Flags and variables


def flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Every flag, in its spelling with one dash."""
    return {name: action for action in parser._actions for name in action.option_strings if not name.startswith("--")}


SERVER, CLIENT = flags(server.build_parser()), flags(client.build_parser())
VARIABLES = {
    server.environment_name(action.dest) for action in SERVER.values() if action.dest not in ("help", "version")
} | {server.environment_name(former) for former in server.FORMER_NAMES.values()}


def table_of_flags(*heading: str) -> dict[str, dict[str, str]]:
    rows = {}
    for row in table(*heading):
        for name in row["flag"].split(", "):
            rows[plain(name)] = row
    return rows


def test_every_flag_and_variable_of_the_server_is_in_the_tables() -> None:
    rows = table_of_flags("flag", "variable", "default", "meaning") | table_of_flags(
        "flag", "variable", "default", "unit", "allowed", "meaning"
    )
    assert set(rows) == set(SERVER)
    for name, action in SERVER.items():
        expected = "" if action.dest in ("help", "version") else server.environment_name(action.dest)
        assert plain(rows[name]["variable"]) == expected


def test_every_flag_of_the_client_is_in_the_table() -> None:
    assert set(table_of_flags("flag", "default", "meaning")) == set(CLIENT)


def test_defaults_of_flags_are_right() -> None:
    rows = table_of_flags("flag", "variable", "default", "meaning")
    named = ("-a", "-trusted", "-lobby", "-log-level", "-store-sync", "-redis-prefix", "-redis-wait")
    for name in (*named, *(f"-keep-{name}" for name in Keep.model_fields)):
        assert f"(default {rows[name]['default']})" in (SERVER[name].help or "")
    rows = table_of_flags("flag", "default", "meaning")
    for name in ("-client", "-room", "-address"):
        assert f"(default {rows[name]['default']})" in (CLIENT[name].help or "")


def test_no_flag_is_made_up() -> None:
    known = set(SERVER) | set(CLIENT)
    known |= {f"-{name}" for name in known}
    for page, span in SPANS:
        if re.match("-+[a-z]", span):
            assert re.split("[ =]", span)[0] in known, f"{page}: {span}"


def test_every_command_line_would_be_understood() -> None:
    parsed = 0
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
                parsed += 1
    assert parsed > 10


def test_every_variable_is_named_and_none_is_made_up() -> None:
    pages = EVERYTHING + "".join((ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "compose.yaml"))
    assert set(re.findall(r"MACHAT_[A-Z_]*[A-Z]", pages)) == VARIABLES


def test_every_sub_command_is_in_the_table_with_its_arguments() -> None:
    rows = table("sub-command", "what it does", "beside a server")
    documented = {}
    for row in rows:
        word, *arguments = plain(row["sub-command"]).split()
        documented[word] = arguments
    assert documented == {
        word: [
            f"[{action.metavar}]" if action.nargs == "?" else action.metavar
            for action in store.build_parser(word)._actions
            if not action.option_strings
        ]
        for word in store.COMMANDS
    }
    assert tuple(store.COMMANDS) == server.SUB_COMMANDS


def only(language: str, beginning: str) -> Block:
    """The one block of a language that begins so."""
    [block] = [block for block in blocks(language) if block.body.startswith(beginning)]
    return block


async def chat_about_a_password() -> None:
    chat = chatapi.ChatAPI(broker=SQLiteBroker("chat.db"))
    async with chat, chat.join("Mina", "dev", reads=False) as mina, chat.join("Zoe", "dev", reads=False) as zoe:
        await mina.post("hello")
        await mina.post("my password is sesame")
        await zoe.post("two\nlines")
        await chat.delete("dev", 2, "moderator")


def test_the_sub_commands_work_as_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(chat_about_a_password)
    block = only("console", "$ chatserver rooms chat.db\n")
    here = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'cmd' / 'chatserver'))}"
    for line in block.body.splitlines():
        command = re.sub(r"\bchatserver\b", lambda _: here, line.removeprefix("$ "))
        assert subprocess.run(command, shell=True, check=False).returncode == 0, line
    assert "a last one such as `ok: 2 rooms, 3 messages`" in PROSE
    told = capfdbinary.readouterr()
    assert told.err == b""
    assert told.out.splitlines()[-1] == b"ok: 2 rooms, 6 messages"


def test_an_export_looks_as_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(chat_about_a_password)
    block = only("json", '{"type":"room"')
    Path("shown.ndjson").write_text(block.body, encoding="utf-8")
    assert store.main(["import", "shown.db", "dev", "shown.ndjson"]) == 0
    assert store.main(["export", "shown.db", "dev", "again.ndjson"]) == 0
    assert Path("again.ndjson").read_text(encoding="utf-8") == block.body
    assert store.main(["export", "chat.db", "dev", "real.ndjson"]) == 0

    def without_times(text: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in text.splitlines()]
        return [{key: value for key, value in line.items() if key not in ("ts", "epoch")} for line in lines]

    assert without_times(Path("real.ndjson").read_text(encoding="utf-8")) == without_times(block.body)


# Limits


def spoken(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,g}"


def allowed(field: Any) -> str:
    least = greatest = ""
    for bound in field.metadata:
        if getattr(bound, "ge", None) is not None:
            least = spoken(bound.ge)
        if getattr(bound, "gt", None) is not None:
            least = f"above {spoken(bound.gt)}"
        if getattr(bound, "le", None) is not None:
            greatest = spoken(bound.le)
    if greatest:
        return f"{least} to {greatest}"
    return least if least.startswith("above") else f"{least} or more"


def test_every_limit_is_in_the_table_with_its_default_and_its_bounds() -> None:
    rows = table("flag", "variable", "default", "unit", "allowed", "meaning")
    documented = [(plain(row["flag"].partition(", ")[0]), row["default"], row["allowed"]) for row in rows]
    assert documented == [
        (f"-{name.replace('_', '-')}", spoken(field.default), allowed(field))
        for name, field in Limits.model_fields.items()
    ]


def test_every_bound_of_the_store_is_in_the_table_with_its_default() -> None:
    documented = [(plain(row["field"]), row["default"]) for row in table("field", "default", "meaning")]
    assert documented == [(name, spoken(field.default)) for name, field in Keep.model_fields.items()]
    assert sqlite._TRIM_EVERY == 60
    assert "soon after the server has started, and every minute" in PROSE
    assert "when the chat starts and every minute" in PROSE


def test_every_bound_of_what_redis_keeps_is_in_the_table_with_its_default() -> None:
    rows = table_of_flags("flag", "variable", "default", "meaning")
    for name in Keep.model_fields:
        assert f"with `-redis` {spoken(getattr(KEEP, name))}, unless it is given" in rows[f"-keep-{name}"]["meaning"]


def test_the_times_of_redis_are_as_they_are_said() -> None:
    given = {name: parameter.default for name, parameter in inspect.signature(RedisBroker).parameters.items()}
    patience, lease = spoken(given["patience"]), spoken(given["lease"])
    unsure = spoken(round(given["lease"] * 0.7, 1))
    assert [row["for"] for row in table("for", "what happens")] == [
        f"less than {patience} seconds",
        f"{patience} seconds",
        f"{unsure} seconds",
        f"{lease} seconds",
        "until it answers",
        "once it answers again",
    ]
    assert f"notice a dead server within {lease} seconds" in PROSE
    assert f"for up to {lease} seconds" in PROSE


@needs_redis
def test_every_key_in_redis_is_in_the_table_and_the_rights_and_commands_there_work() -> None:
    rights, watching = only("text", "user machat"), only("console", "$ redis-cli")
    with RedisServer() as redis, start_blocking_portal() as portal:
        redis.cli("ACL", "SETUSER", *rights.body.split()[1:])
        url = redis.url.replace("//", "//machat:PASSWORD@")
        chat = chatapi.ChatAPI(broker=RedisBroker(url, lease=1))
        _, [(_, address)] = portal.start_task(chat.serve, "127.0.0.1:0")
        with chatapi.connect_sync(str(address), name="Mina", room="dev", events=False) as mina:
            mina.send("hello")
            portal.call(chat.delete, "dev", 1, "moderator")
            [node] = redis.cli("ZRANGE", "machat:{nodes}", 0, -1)
            names = {"machat": "PREFIX", "dev": "ROOM", node.decode(): "NODE"}

            def in_general(name: bytes) -> str:
                in_words = re.sub(r"[\w-]+", lambda word: names.get(word[0], word[0]), name.decode())
                return re.sub(":sent:[0-9a-f]{32}$", ":sent:SESSION", in_words)

            eventually(lambda: redis.cli("EXISTS", f"machat:{{rooms:{node.decode()}}}"), "no list of rooms")
            keys = {f"`{in_general(key)}`" for key in redis.cli("KEYS", "*")}
            keys |= {f"channel `{in_general(channel)}`" for channel in redis.cli("PUBSUB", "CHANNELS")}
            assert {row["key"] for row in table("key", "what it is")} == keys
            for line in watching.body.splitlines():
                program, *words = shlex.split(line.removeprefix("$ "))
                assert program == "redis-cli"
                assert redis.cli(*words), line
        portal.call(chat.drain)


def test_each_way_to_sync_is_in_the_table() -> None:
    [levels] = [rows for page in PAGES.values() for rows in page.tables() if rows and "`-store-sync`" in rows[0]]
    parameter = inspect.signature(SQLiteBroker).parameters["sync"]
    rows = [row["`-store-sync`"] for row in levels]
    assert rows == ["full", "normal"]
    assert parameter.default == rows[0]
    assert {f"'{row}'" for row in rows} == set(re.findall(r"'\w+'", str(parameter.annotation)))


def test_what_is_fixed_is_as_it_says() -> None:
    assert f"where {hub.TOLD} of these are still open" in PROSE
    keepalive = addresses._KEEPALIVE
    [history] = [spec for spec in commands.TABLE if spec.name == "history"]
    values = [row["value"] for row in table("what", "value")]
    assert values == [
        str(limits.NAME_CHARS),
        str(limits.ROOM_CHARS),
        str(limits.MACHAT_NAME_BYTES),
        str(limits.LISTED),
        "".join(filter(str.isdigit, history.help)),
        spoken(limits.READ_BYTES),
        spoken(limits.OPENING_READ_BYTES),
        spoken(limits.CHUNK_BYTES),
        str(limits.LINES_AT_ONCE),
        f"1/{limits.RUN_SHARE}",
        f"1/{limits.ROUND_SHARE}",
        str(limits.ENTRY_COST),
        spoken(limits.SESSION_COST),
        spoken(limits.ID_COST),
        str(limits.PAST_MESSAGES),
        spoken(limits.PAST_BYTES),
        str(limits.TICK),
        f"1/{1 / limits.PAUSE_AT:g}",
        f"1/{1 / limits.RESUME_AT:g}",
        str(keepalive["TCP_KEEPIDLE"] + keepalive["TCP_KEEPINTVL"] * keepalive["TCP_KEEPCNT"]),
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "at most {handshake_bytes:,} bytes, within {handshake_seconds:g} seconds",
        "the server gives at most {history:,}",
        "A name has 1 to {NAME_CHARS} characters, a room's name 1 to {ROOM_CHARS}",
        "| more than {handshake_bytes:,} bytes, or {opening_bytes:,} bytes without coming into a room |",
        "the room has {room_members:,} members",
        "the server has {connections:,} connections or {rooms:,} rooms",
        "A line of more than {line_bytes:,} bytes",
        "| more than {frame_bytes:,} bytes |",
        "| the text has more than {line_bytes:,} bytes |",
        "at most {LISTED}, oneself included",
        "`limit` is 1 to {LISTED}",
        "stays reserved for {reserve:g} seconds",
        "The session is remembered for {remember:g} seconds more",
        "remembered for {remember:g} seconds, and at most {remember_ids:,} of them",
        "Rooms of more than {announce} members",
        "{lane_bytes:,} bytes wait for it already",
        "An answer has at most {lane_bytes:,} bytes",
        "for each {PAST_MESSAGES} messages or {PAST_BYTES:,} bytes of it",
        "all that is shown at once as {burst} lines at most",
        "at most {LISTED} of them",
        "within {nickname_seconds:g} seconds is sent away",
        "under a quarter, for {grace:g} seconds at most",
        "In any minute a room waits for at most {room_wait:g} seconds",
        "may send {burst} lines at once and {rate:g} a second",
        "together may send {address_burst:,} lines at once and {address_rate:g} a second",
        "or more than {address_flood} beyond ten a second from one address",
        "more than {flood} of them beyond one a second",
        "waits for the other side's end for {linger:g} seconds at most",
    ],
)
def test_numbers_in_the_protocol_page_are_the_defaults(sentence: str) -> None:
    fixed = {name: getattr(limits, name) for name in dir(limits) if name.isupper()}
    assert sentence.format(**Limits().model_dump(), **fixed) in PROSE


# Commands and codes


def test_every_command_and_alias_is_in_the_table() -> None:
    rows = table("command", "alias", "effect")
    documented = [(plain(row["command"]), {plain(name) for name in row["alias"].split(", ")} - {""}) for row in rows]
    assert documented == [
        (spec.usage, {f"/{alias}" for alias in spec.aliases} | ({"@NAME TEXT"} if spec.name == "msg" else set()))
        for spec in commands.TABLE
    ]


def test_no_command_is_made_up() -> None:
    for page, span in SPANS:
        if command := re.fullmatch(r"/([a-z]+)( .*)?", span):
            assert command[1] in {*commands._BY_WORD, "x"}, f"{page}: {span}"  # "x" stands for any text


def test_every_refusal_code_is_in_the_table() -> None:
    assert [plain(row["code"]) for row in table("code", "when", "what to do")] == [*RefusalCode]


def test_every_code_of_a_frame_that_is_refused_is_in_the_table() -> None:
    assert [plain(row["code"]) for row in table("code", "when", "carries")] == [*FrameError]


def named(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_every_field_of_the_handshake_is_in_the_table() -> None:
    fields = [plain(row["field"]) for row in table("field", "type", "default", "meaning")]
    assert fields == [*Handshake.model_fields]
    assert [plain(row["field of `resume`"]) for row in table("field of `resume`", "default", "meaning")] == [
        *Resume.model_fields
    ]


def test_every_reason_for_not_recovering_is_in_the_table() -> None:
    reasons = set(re.findall(r'"(\w+)"', inspect.getsource(chatapi.core.room.Room.recover)))
    assert {plain(row["reason"]) for row in table("reason", "when")} == reasons


def test_every_frame_from_the_client_is_in_the_table_with_its_fields() -> None:
    models = {model.model_fields["type"].annotation.__args__[0]: model for model in frames.Frame.__args__}
    assert tuple(models) == frames.TYPES
    documented = {
        plain(row["from the client"]): named(row["fields"])
        for row in table("from the client", "fields", "effect", "answer")
    }
    assert documented == {kind: set(model.model_fields) - {"type"} for kind, model in models.items()}


SERVER_FRAMES = {
    plain(row["from the server"]): named(row["fields"]) for row in table("from the server", "fields", "meaning")
}


def test_every_frame_from_the_server_is_in_the_table() -> None:
    made = {"message"}  # which is put together by hand, many at once
    for path in (*(PACKAGE / "protocol").rglob("*.py"), *(PACKAGE / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "frame"
                and isinstance(node.args[0], ast.Constant)
            ):
                made.add(node.args[0].value)
    assert set(SERVER_FRAMES) == made | {"members", "rooms"}  # of which one function makes both


def used_by_the_server() -> set[str]:
    """The disconnect codes that stand as strings in the code, outside the table and the list of commands."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name not in ("errors.py", "commands.py") and path.relative_to(PACKAGE).parts[0] not in (
            "client",
            "testing",
        ):
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found |= {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for path in PACKAGE.rglob("*.lua"):
        found |= set(re.findall(r"'(\w+)'", path.read_text(encoding="utf-8")))
    return found & set(DISCONNECTS)


def test_every_disconnect_code_is_in_the_table() -> None:
    today = used_by_the_server()
    rows = table("code", "detail", "reconnect", "after", "today")
    documented = [(plain(row["code"]), *list(row.values())[1:]) for row in rows]
    assert documented == [
        (
            reason.code,
            reason.detail,
            "yes" if reason.reconnect else "no",
            f"{reason.after:g}",
            "server" if reason.code in today else "program",
        )
        for reason in DISCONNECTS.values()
    ]


def identifiers() -> set[str]:
    """Every word that means something in the code: what it defines, its modules, its codes, the fields of its JSON."""
    found = set(DISCONNECTS) | {*RefusalCode} | {*FrameError} | {"moved", "type", "code", "detail"}
    found |= set(re.findall(r'"(\w+)"', inspect.getsource(chatapi.core.room.Room.recover)))
    found |= set(dir(gotcpchat)) | set(sys.stdlib_module_names)
    found |= {"cmd", "gotcpchat", "__all__"}
    for path in PACKAGE.rglob("*.py"):
        found |= set(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("module", [chatapi, chatapi.testing, gotcpchat], ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_page_about_the_library(module: Any) -> None:
    text = "".join(page.path.read_text(encoding="utf-8") for page in PAGES.values() if page.name.startswith("docs/"))
    assert [name for name in module.__all__ if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("view", [Client, Room])
def test_rooms_and_members_have_exactly_the_public_names_of_the_page(view: type) -> None:
    [row] = [row for row in table("name", "what it is") if plain(row["name"]) == view.__name__]
    assert re.findall(r"`(\w+)`", row["what it is"]) == [name for name in vars(view) if not name.startswith("_")]


def test_every_public_name_of_the_store_is_in_the_page_about_the_library() -> None:
    for name in chatapi.brokers.sqlite.__all__:
        assert name in re.findall(r"\w+", PROSE)
    arguments = [*inspect.signature(SQLiteBroker).parameters]
    assert arguments == ["path", "sync", "keep", "clock"]


def test_every_argument_of_the_client_library_is_in_the_table_with_its_default() -> None:
    documented = [
        (plain(name), row["default"])
        for row in table("argument", "default", "meaning")
        for name in row["argument"].split(", ")
    ]
    _, *parameters = inspect.signature(chatapi.connect).parameters.values()
    assert documented == [
        (
            parameter.name,
            "required"
            if parameter.default is parameter.empty
            else str(parameter.default)
            if isinstance(parameter.default, bool | None)
            else spoken(parameter.default),
        )
        for parameter in parameters
    ]


def test_how_far_an_answer_is_waited_for_is_as_it_says() -> None:
    assert f"up to {event_queue.EXTRA_EVENTS:,} events more are taken in" in PROSE
    assert requests.RESEND_WITHIN < Limits().remember == requests.REMEMBER == 5 * 60
    assert Limits().remember_ids == requests.REMEMBER_IDS
    assert requests.resend_within(Limits().remember) == requests.RESEND_WITHIN
    assert f"stays away for five minutes ({requests.RESEND_WITHIN:g} seconds)" in PROSE
    assert f"waits for five minutes ({requests.RESEND_WITHIN:g} seconds;" in PROSE
    assert requests.MARGIN == 10


def test_every_example_is_in_the_table() -> None:
    rows = table("program", "what it is")
    assert {Path(row["program"].split("(")[1][:-1]).name for row in rows} == {
        path.name for path in (ROOT / "examples").glob("*.py")
    }


def test_every_call_of_the_client_library_is_in_the_table() -> None:
    calls = [re.match(r"`await room\.(\w+)\(", row["call"]) for row in table("call", "returns", "effect")]
    verbs = [name for name, member in vars(chatapi.Connection).items() if inspect.iscoroutinefunction(member)]
    assert [call[1] for call in calls if call] == [name for name in verbs if not name.startswith("_")]


def test_every_event_is_in_a_table_with_its_fields() -> None:
    rows = [
        row
        for page in PAGES.values()
        for events in page.tables()
        if events and [*events[0]] == ["event", "fields", "meaning"]
        for row in events
    ]
    documented = {plain(row["event"]): re.findall(r"`(\w+)`", row["fields"]) for row in rows}
    assert documented == {event.__name__: list(event.__match_args__) for event in typing.get_args(chatapi.News)}


def test_every_hook_is_in_the_table() -> None:
    hooks = [plain(row["hook"]) for row in table("hook", "gets", "returns", "can raise")]
    assert hooks == [*Hooks.__dataclass_fields__]


def test_every_error_is_in_the_tree() -> None:
    tree = only("text", "ChatError\n").body
    errors = {
        name
        for name in chatapi.__all__
        if isinstance(kind := getattr(chatapi, name), type) and issubclass(kind, Exception)
    }
    assert set(re.findall(r"^(?:[├└]── )?(\w+)", tree, re.MULTILINE)) == errors


# The rest


def logged() -> set[tuple[str, str]]:
    """The level and the text of every message that the library logs."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (
                call := re.fullmatch(r"_?logger\.(?!\w+Filter)(\w+)", ast.unparse(node.func))
            ):
                found.add((call[1].replace("exception", "error"), ast.literal_eval(node.args[0]).replace("%d", "%s")))
    return found


def test_every_log_line_is_in_the_table() -> None:
    rows = table("level", "message", "when")
    documented = {(row["level"], re.sub(r"\b[A-Z]{2,}\b", "%s", plain(row["message"]))) for row in rows}
    assert documented == logged()


def test_how_much_is_logged_is_as_it_says() -> None:
    assert f"If nobody reads the log, {lines._MAX_WAITING:,} lines wait" in PROSE
    assert f"{log_limit.BURST:,} are logged at once and {log_limit.RATE} a second" in PROSE


def complaints() -> set[str]:
    """What a store says that cannot be used, with a word for what stands in the gaps."""
    tree = ast.parse((PACKAGE / "brokers" / "sqlite" / "database.py").read_text(encoding="utf-8"))
    found = {f"%s: {reason}" for reason in database._PLAIN.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "StoreError":
            [text] = node.args
            assert isinstance(text, ast.JoinedStr)
            found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in text.values))
    return {text.replace("`", "") for text in found if "is not open" not in text and text != "%s: %s"}


def test_every_complaint_about_the_store_is_in_the_table() -> None:
    rows = [plain(row["error"]) for row in table("error", "what to do")]
    assert {re.sub(r"\b[A-Z]{3,}\b(?<!SQL)", "%s", row) for row in rows} == complaints()


def test_the_map_has_every_module_in_sorted_order() -> None:
    listed = [plain(row["module"]) for row in table("module", "what it is")]
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    modules = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in files]
    assert listed == sorted(modules, key=lambda name: ("." in name, name))


def has_attribute(owner: Any, name: str) -> bool:
    """Whether a module or a class has this attribute, by itself, in an annotation or set in `__init__`."""
    if hasattr(owner, name) or name in getattr(owner, "__annotations__", {}):
        return True
    return inspect.isclass(owner) and f"self.{name}:" in inspect.getsource(owner.__init__)


def test_every_name_on_the_page_about_the_code_is_where_the_page_says() -> None:
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


def test_the_rules_for_imports_are_those_of_the_layering_test() -> None:
    rules = {}
    for row in table("folder", "may import"):
        name = row["folder"].partition(":")[0].partition(" and ")[0].strip("`")
        rules[name] = {plain(part) for part in row["may import"].split(", ")} - {"nothing"}
    allowed = {name: theirs - {"package"} for name, theirs in MAY_IMPORT.items()}
    assert rules == allowed
    [vocabulary] = [row["folder"] for row in table("folder", "may import") if ":" in row["folder"]]
    assert set(re.findall(r"`(\w+)`", vocabulary)) == VOCABULARY


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
        assert path.is_relative_to(ROOT), target
        if anchor:
            assert anchor in map(slug, Page(path).headings), target


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_no_page_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


def test_every_page_is_in_the_table_of_pages() -> None:
    index = PAGES["docs/index.md"].prose
    linked = set(re.findall(r"\]\(([^)\s#]+)", index))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert linked == pages - {"index.md"}


def test_the_changelog_has_this_version() -> None:
    assert f"## [{chatapi.__version__}]" in PAGES["CHANGELOG.md"].path.read_text(encoding="utf-8")


def test_the_systemd_unit_waits_for_the_drain() -> None:
    [unit] = blocks("ini")
    settings = dict(line.split("=", 1) for line in unit.body.splitlines() if "=" in line)
    assert f" -store /var/lib/{settings['StateDirectory']}/" in settings["ExecStart"]
    assert int(settings["TimeoutStopSec"]) > Limits().drain
    assert int(settings["LimitNOFILE"]) > Limits().connections


# Examples: conversations


class Conversation:
    """Plays a block of `chat` line by line: every line that is sent, and all that comes back, must stand in it.

    In a frame that comes, ``…`` is any one string or number, and ``{…}`` any object of such. In one that is sent, it is
    what the sender was last told under that key. The file of a server with ``-store`` is made in the current folder.
    """

    def __init__(self) -> None:
        self._kit = ChatKit()
        self._path = ""  # the server's store, where it has one
        self._lives = 0
        self._running: AsyncExitStack
        self._peers: dict[str, Peer] = {}
        self._telnet: list[Peer] = []  # those that came through the telnet door
        self._pending: dict[str, list[str]] = {}
        self._over: set[str] = set()  # whose end was seen
        self._told: dict[str, dict[str, Any]] = {}  # the last value of each key of JSON, by who was told

    async def play(self, script: str) -> None:
        async with AsyncExitStack() as self._running:
            for line in script.splitlines():
                if got := re.fullmatch(r"(\w+)< ?(.*)", line):
                    self._hears(got[1], got[2])
                    continue
                self._nothing_is_left_out()
                if said := re.fullmatch(r"(\w+)> (.*)", line):
                    self._connect(said[1]).send(unescaped(self._filled_in(*said.groups())) + b"\n")
                else:
                    await self._happens(line)
                await self._listen()
            self._nothing_is_left_out()

    async def _happens(self, line: str) -> None:
        if match := re.fullmatch(r"\(a server with (.*)\)", line):
            given = vars(server.build_parser().parse(match[1].split()))
            self._path = given["store"]
            await self._start(Limits(**{name: given[name] for name in Limits.model_fields if given[name]}))
        elif line == "(the server is killed and started again)":
            for peer in self._peers.values():
                peer.transport.reset()
                peer.transport.closed = peer.transport.ended = True
            self._over |= set(self._peers)
            await self._start(self._kit.hub.limits)
        elif match := re.fullmatch(r"\(the disk (is full|has room again)\)", line):
            assert isinstance(self._kit.broker, SQLiteBroker)
            store = self._kit.broker._store
            if match[1] == "is full":
                store.append = self._no_room  # type: ignore[method-assign]
            else:
                del store.append
        elif match := re.fullmatch(r"\(the program deletes message (\d+), as (\w+)\)", line):
            [room] = self._kit.hub.rooms.values()
            room.submit(Deletion(match[2], int(match[1])))
        elif match := re.fullmatch(r"\((\w+) connects( to the telnet door)?\)", line):
            self._connect(match[1], telnet=bool(match[2]))
        elif match := re.fullmatch(r"\((\w+) connects again; the old connection is (\w+)\)", line):
            self._peers[match[2]] = self._peers.pop(match[1])
            self._connect(match[1])
        elif match := re.fullmatch(r"\((\w+) sends a line of ([\d,]+) bytes\)", line):
            self._peers[match[1]].send(b"x" * int(match[2].replace(",", "")) + b"\n")
        elif match := re.fullmatch(r"\((\d+) seconds later\)", line):
            self._kit.wait(int(match[1]))
        elif match := re.fullmatch(r"\((\w+) loses the connection\)", line):
            self._peers[match[1]].transport.reset()
            self._over.add(match[1])
        elif match := re.fullmatch(r'\((\w+) sends "(.*)" (at once|and ends the stream)\)', line):
            self._peers[match[1]].send(unescaped(match[2]))
            if match[3] != "at once":
                self._peers[match[1]].end()
        else:
            pytest.fail(f"not understood: {line}")

    async def _start(self, limits: Limits) -> None:
        await self._running.aclose()
        self._lives += 1
        self._kit = ChatKit(limits, broker=self._broker, keys=f"key{self._lives}-")
        await self._running.enter_async_context(self._kit.running())

    def _no_room(self, batch: object) -> None:
        raise StoreError(f"{self._path!r}: database or disk is full")

    def _broker(self, clock: VirtualClock) -> Broker:
        return SQLiteBroker(self._path, clock=clock) if self._path else InProcessBroker(clock)

    def _connect(self, name: str, *, telnet: bool = False) -> Peer:
        if name not in self._peers or name in self._over:
            self._over.discard(name)
            self._peers[name] = self._kit.connect(telnet=telnet)
            if telnet:
                self._telnet.append(self._peers[name])
        return self._peers[name]

    async def _listen(self) -> None:
        await self._kit.settled()
        for name, peer in self._peers.items():
            text = peer.received()
            line_end = "\r\n" if peer in self._telnet else "\n"
            text = text.replace("Nickname: ", f"Nickname:{line_end}")
            assert text.count("\r") == text.count("\r\n")
            assert not text or text.endswith(line_end)
            self._pending.setdefault(name, []).extend(text.split(line_end)[:-1])

    def _hears(self, name: str, text: str) -> None:
        if text == "(end)":
            assert self._pending[name] == []
            assert self._peers[name].transport.ended
            self._over.add(name)
        else:
            assert self._pending[name][:1] == [as_told(text, self._pending[name][:1])]
            line = self._pending[name].pop(0)
            if line.startswith("{"):
                self._learn(name, json.loads(line))

    def _learn(self, name: str, frame: dict[str, Any]) -> None:
        refused = {"after"} if frame["type"] == "error" else set()  # which only a handshake's refusal has
        assert set(frame) - {"type"} - refused <= SERVER_FRAMES[frame["type"]], "not in the table of frames"
        self._told.setdefault(name, {}).update(frame)

    def _filled_in(self, name: str, line: str) -> str:
        """A line that is sent, with what its sender was told in place of ``…``."""
        return re.sub(
            r'"(\w+)": ("…"|…)', lambda match: f'"{match[1]}": {json.dumps(self._told[name][match[1]])}', line
        )

    def _nothing_is_left_out(self) -> None:
        assert not any(self._pending.values()), f"not in the example: {self._pending}"
        assert {name for name, peer in self._peers.items() if peer.transport.ended} == self._over


def as_told(text: str, lines: list[str]) -> str:
    """The line that came, if it is what the example says but for ``…``; otherwise what the example says."""
    if not text.startswith("{") or "…" not in text:
        return text
    pattern = re.escape(text).replace(r"\{…\}", r"\{[^{}]*\}").replace('"…"', r'"[\w-]+"').replace("…", r"[\d.]+")
    return lines[0] if lines and re.fullmatch(pattern, lines[0]) else text


def unescaped(text: str) -> bytes:
    r"""What is sent where the example says ``\n``, ``\r`` or ``\x1b``; frames have JSON's own escapes."""
    if text.startswith("{"):
        return text.encode()
    return re.sub(r"\\(n|r|x[0-9a-f]{2})", lambda match: ast.literal_eval(f'"{match[0]}"'), text).encode()


@pytest.mark.parametrize("block", blocks("chat"), ids=str)
def test_conversations(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(Conversation().play, block.body)


def test_every_section_of_the_protocol_page_has_an_example() -> None:
    pages = [page.path.read_text(encoding="utf-8") for page in PROTOCOL]
    sections = [section for page in pages for section in re.split("^## ", page, flags=re.MULTILINE)[1:]]
    assert [section.splitlines()[0] for section in sections if "```chat\n" not in section] == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('A> {"name": "a", "room": "r", "echo": true}\nA> hi\n', "not in the example"),
        ('A> {"name": "a", "room": "r", "echo": true}\nA> hi\nA< a:ho\n', "a:ho"),
        ('A> {"name": "a", "room": "r"}\nA> hi\nA< a:hi\n', "a:hi"),
        ('A> {"name": "a", "room": "r"}\nA< (end)\n', "ended"),
        ('A> {"name": "a", "room": "r"}\nB> {"name": "A", "room": "r"}\nB< {"type":"error","code":"…"}\n', "…"),
        ('A> {"name": "a", "room": "r"}\nB> {"name": "…", "room": "r"}\n', "'B'"),
        ("(A yawns)\n", "not understood"),
        (
            '(a server with -echo)\nA> {"name": "a", "room": "r"}\nA> hi\n(the server is killed and started again)\n'
            'A> {"name": "a", "room": "r", "history": 1}\nA< a:hi\n',
            "a:hi",
        ),
        ('(a server with -store c.db)\nA> {"name": "a", "room": "r"}\n(the disk is full)\nA> hi\n', "not kept"),
    ],
)
def test_a_conversation_that_is_not_true_fails(
    script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception), match=why):
        anyio.run(Conversation().play, script)


# Examples: programs

CLIENTS = [block for block in blocks("python") if '"localhost:8989", name=' in block.body]
WITH_REDIS = [block for block in blocks("python") if "redis://localhost:6379" in block.body]
WEB = [block for block in blocks("python") if "import Starlette" in block.body]
SERVERS = [block for block in blocks("python") if ":8989" in block.body and block not in CLIENTS + WEB]
PROGRAMS = [block for block in blocks("python") if block not in SERVERS + CLIENTS + WITH_REDIS + WEB]


@pytest.fixture
def _chatapi_logs_as_before() -> Iterator[None]:
    logger = logging.getLogger("chatapi")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("_chatapi_logs_as_before")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_programs(block: Block, backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anyio, "run", functools.partial(anyio.run, backend=backend))
    source = "\n" * block.line + block.body  # so that a traceback has the page's own line numbers
    exec(compile(source, ROOT / block.page, "exec"), {"__name__": "__main__"})


@needs_redis
@pytest.mark.parametrize("block", WITH_REDIS, ids=str)
def test_programs_with_redis(block: Block) -> None:
    with RedisServer() as redis:
        source = "\n" * block.line + block.body.replace("redis://localhost:6379/0", redis.url)
        exec(compile(source, ROOT / block.page, "exec"), {"__name__": "__main__"})
        assert redis.cli("XLEN", "machat:{dev}:log") == 1


@pytest.mark.parametrize("block", CLIENTS, ids=str)
def test_clients(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    with start_blocking_portal() as portal:
        chat = chatapi.ChatAPI()
        _, [(_, address)] = portal.start_task(chat.serve, "127.0.0.1:0")
        source = "\n" * block.line + block.body.replace("localhost:8989", str(address))
        exec(compile(source, ROOT / block.page, "exec"), {"__name__": "__main__"})
        portal.call(chat.drain)
    [room] = chat.rooms
    assert capsys.readouterr().out == f"{room.seq}\n" == "1\n"


RUN = """
import anyio, functools, runpy, sys
anyio.run = functools.partial(anyio.run, backend=sys.argv[1])
runpy.run_path(sys.argv[2], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("block", "backend"),
    [
        pytest.param(block, backend, id=f"{block}-{backend}")
        for block in SERVERS
        for backend in ("asyncio", "trio")
        if backend == "asyncio" or "run_tcp" not in block.body  # which always runs on asyncio
    ],
)
def test_servers(block: Block, backend: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(re.sub(r"localhost:\d+", "localhost:0", block.body), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", RUN, backend, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            port = re.search(r"port=(\d+)", process.stdout.readline())
            assert port is not None
            with socket.create_connection(("localhost", int(port[1])), 30) as sock, sock.makefile("rwb") as stream:
                stream.write(b'{"name": "Zoe", "room": "dev", "echo": true}\nhello\n')
                stream.flush()
                assert stream.readline() == b"Zoe:hello\n"
                if "parrot" in block.body:
                    assert stream.readline() == b"parrot:Zoe said hello\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait() == (0 if "run_tcp" in block.body else -signal.SIGTERM)
        finally:
            watchdog.cancel()
            process.kill()


def test_there_are_examples() -> None:
    assert len(blocks("chat")) >= 10
    assert len(SERVERS) >= 3
    assert CLIENTS
    assert len(PROGRAMS) >= 15
    assert {block.language for block in BLOCKS} == {"chat", "console", "ini", "json", "python", "text"}
