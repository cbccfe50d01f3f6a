"""What is measured: this server in its variants, the machine's limit, and others' servers where they are installed.

Others run with their defaults but for what would stop a benchmark, and not them, from going on:

- redis: nothing is written to disk; up to 20,000 clients, which come from several addresses 127.0.1.x (protected mode,
  which takes 127.0.0.1 alone, is off; it listens there and nowhere else). Members speak RESP3, in which a subscriber
  may publish.
- nats: nothing; members ask not to get their own messages.
- ngircd: no penalty for talking much (MaxPenaltyTime), no limit on connections in all, from one address, and on
  channels joined; no lookup of names and idents.
- inspircd: no flood protection (commandrate, threshold, fakelag), 20,000 connections, in all and from one address, no
  lookup of names and idents, and queues of 64 MB each way, since members would be disconnected with the default ones.
- socketio: python-socketio's AsyncServer under uvicorn, WebSocket from the beginning; pings an hour apart. Two of them
  have an AsyncRedisManager.
- streams: what one would write with asyncio's streams in twenty lines.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import chatapi

from . import machine
from .load import ROOM_LENGTH, Protocol, Step
from .peers import irc, websocket


@dataclass(frozen=True)
class Subject:
    """A server that can be measured."""

    name: str
    what: str
    """In some words, for a person."""
    protocol: Protocol
    command: tuple[str, ...]
    """What starts it, from the project's folder. In it, and in `files`, {port} is its port of 127.0.0.1, {folder} an
    empty folder for its files, and {build} where the programs in C are."""
    version: Callable[[], str]
    missing: Callable[[], str] = lambda: ""
    """What it lacks on this machine, in some words; nothing if it can run."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Configuration: names in its folder, and what they hold."""

    def prepare(self, port: int, folder: Path) -> list[str]:
        """Write its files; returns its command with everything filled in."""

        def filled(text: str) -> str:
            for name, value in (("{port}", str(port)), ("{folder}", str(folder)), ("{build}", str(machine.scratch()))):
                text = text.replace(name, value)
            return text

        for name, text in self.files.items():
            (folder / name).write_text(filled(text))
        if self.command[0].startswith("{build}/"):
            machine.program(Path(self.command[0]).name)
        program, *arguments = map(filled, self.command)
        return [sys.executable if program == "python" else _found(program), *arguments]


# ---- this server ----

TEXT: Final = Protocol(
    hello=(Step('{"name":"%n","room":"%r"}\n'),),
    publish=lambda payload: "%t\n",
    echo=False,
    max_payload=8192,
)
JSON: Final = Protocol(
    hello=(Step('{"name":"%n","room":"%r","protocol":"json"}\n', wait='"type":"welcome"'),),
    publish=lambda payload: '{"type":"message","text":"%t"}\n',
    echo=False,
    max_payload=8192,
)


def executable(*flags: str) -> tuple[str, ...]:
    """The command that starts the server, with some flags more."""
    return ("python", "cmd/chatserver", "-a", "127.0.0.1:{port}", "-rate", "0", "-log-level", "error", *flags)


def embedded(backend: str, *arguments: str) -> tuple[str, ...]:
    """The command that starts a program with the chat inside, on asyncio, uvloop or trio."""
    return ("python", "-m", "bench.embedded", backend, "{port}", *arguments)


def _machat_version() -> str:
    return f"{chatapi.__version__}, {_package('uvloop') if _has('uvloop') else 'asyncio without uvloop'}"


def _backend_version(backend: str) -> str:
    return f"{chatapi.__version__}, {_package(backend) if backend != 'asyncio' else 'asyncio'}"


def _machat(name: str, what: str, command: tuple[str, ...], protocol: Protocol = TEXT, backend: str = "") -> Subject:
    return Subject(
        name,
        what,
        protocol,
        command,
        version=(lambda: _backend_version(backend)) if backend else _machat_version,
        missing=lambda: lacks(backend) if backend not in ("", "asyncio") else "",
    )


# ---- the machine's limit ----


def floor(mode: str) -> Subject:
    """The C program that does the least: one send for a `batch` of lines, or one for every `line`."""
    return Subject(
        "floor",
        "the machine's limit: the least, in C",
        Protocol(hello=(Step("%r %n\n", wait="ok\n"),), publish=lambda payload: "%t\n", echo=True),
        ("{build}/floor", "{port}", mode),
        version=lambda: "bench/floor.c",
    )


# ---- others ----


def _redis_publish(payload: int) -> str:
    return f"*3\r\n$7\r\nPUBLISH\r\n${ROOM_LENGTH}\r\n%r\r\n$%l\r\n%t\r\n"


_REDIS: Final = Protocol(
    hello=(Step("HELLO 3\r\nSUBSCRIBE %r\r\n", wait="\r\n:1\r\n"),), publish=_redis_publish, echo=True
)
_NATS: Final = Protocol(
    hello=(Step('CONNECT {"verbose":false,"pedantic":false,"echo":false}\r\nSUB %r 1\r\nPING\r\n', wait="PONG\r\n"),),
    publish=lambda payload: "PUB %r %l\r\n%t\r\n",
    echo=False,
    ping="PING\r\n",
    pong="PONG\r\n",
)
_STREAMS: Final = Protocol(
    hello=(Step("%r %n\n", wait="ok\n"),), publish=lambda payload: "%t\n", echo=False, max_payload=60_000
)


def program(
    name: str, what: str, protocol: Protocol, command: tuple[str, ...], files: Mapping[str, str] | None = None
) -> Subject:
    """A server that is a program of its own, if it is installed."""
    return Subject(
        name,
        what,
        protocol,
        command,
        version=lambda: _version_of(command[0]),
        missing=lambda: "" if _found(command[0]) else f"{command[0]} is not installed",
        files=files or {},
    )


# ---- finding out ----


def _found(binary: str) -> str:
    """Where a program is; system folders that are not in everybody's path are searched as well."""
    return shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin") or ""


def _version_of(binary: str) -> str:
    try:
        said = subprocess.run(
            [_found(binary), "--version"], capture_output=True, text=True, check=False, timeout=10
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    number = re.search(r"\d+(\.\d+)+", said)
    return number[0] if number else "unknown"


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _package(distribution: str) -> str:
    return f"{distribution} {importlib.metadata.version(distribution)}"


def lacks(*packages: str) -> str:
    """Which of these are not installed, in some words."""
    lacking = [package for package in packages if not _has(package)]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


_ALL: Final = (
    _machat("machat", "this server, its executable", executable()),
    _machat("machat-asyncio", "inside a program, on plain asyncio", embedded("asyncio"), backend="asyncio"),
    _machat("machat-uvloop", "inside a program, on uvloop", embedded("uvloop"), backend="uvloop"),
    _machat("machat-trio", "inside a program, on trio", embedded("trio"), backend="trio"),
    _machat("machat-json", "its members speak JSON", executable(), JSON),
    _machat(
        "machat-store-normal",
        "history on disk, survives the process",
        executable("-store", "{folder}/chat.db", "-store-sync", "normal"),
    ),
    _machat(
        "machat-store-full",
        "history on disk, survives a power cut",
        executable("-store", "{folder}/chat.db", "-store-sync", "full"),
    ),
    floor("batch"),
    program(
        "redis",
        "Redis pub/sub",
        _REDIS,
        (
            *("redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--dir", "{folder}"),
            *("--save", "", "--appendonly", "no", "--maxclients", "20000", "--protected-mode", "no"),
        ),
    ),
    program("nats", "nats-server", _NATS, ("nats-server", "-a", "127.0.0.1", "-p", "{port}")),
    program(
        "ngircd",
        "ngIRCd",
        irc.PROTOCOL,
        ("ngircd", "-n", "-f", "{folder}/ngircd.conf"),
        {"ngircd.conf": irc.NGIRCD},
    ),
    program(
        "inspircd",
        "InspIRCd",
        irc.PROTOCOL_INSPIRCD,
        ("inspircd", "--nofork", "--nopid", "--runasroot", "--config", "{folder}/inspircd.conf"),
        {"inspircd.conf": irc.INSPIRCD},
    ),
    Subject(
        "socketio",
        "python-socketio under uvicorn",
        websocket.PROTOCOL,
        ("python", "bench/peers/socketio_server.py", "{port}"),
        version=lambda: f"{_package('python-socketio')}, {_package('uvicorn')}, {_package('websockets')}",
        missing=lambda: lacks("socketio", "uvicorn", "websockets"),
    ),
    Subject(
        "streams",
        "asyncio's streams, as one would write it",
        _STREAMS,
        ("python", "bench/peers/streams_server.py", "{port}"),
        version=lambda: f"Python {sys.version.split()[0]}",
    ),
)

SUBJECTS: Final[dict[str, Subject]] = {subject.name: subject for subject in _ALL}
"""All of them, by name. Which of the two floors `floor` is depends on the workload."""
OURS: Final = "machat"
FLOOR: Final = "floor"
DEFAULT: Final = (FLOOR, OURS, "redis", "nats", "inspircd", "ngircd", "socketio", "streams")
"""What is measured where nothing else is asked for."""
