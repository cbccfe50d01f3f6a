"""The servers that are measured: this one in its variants, the floor, and others' servers if they are installed.

The others run with their defaults, except for settings that would stop a benchmark and not real use:

- redis: it writes nothing to disk; it accepts 20,000 clients, also from addresses 127.0.1.x (protected mode, which
  accepts 127.0.0.1 only, is off; it listens on 127.0.0.1). Members speak RESP3, in which a subscriber may publish.
- nats: all defaults; members ask not to get their own messages.
- ngircd: no penalty for members that send much (MaxPenaltyTime), no limit on connections in all, from one address, and
  on joined channels; no lookup of names and idents.
- inspircd: no flood protection (commandrate, threshold, fakelag), 20,000 connections, in all and from one address, no
  lookup of names and idents, and queues of 64 MB each way, because it would disconnect members with the default ones.
- socketio: python-socketio's AsyncServer under uvicorn, WebSocket from the beginning; pings an hour apart.
- streams: a program of twenty lines on asyncio's streams.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
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
    """A short description."""
    protocol: Protocol
    command: tuple[str, ...]
    """The command that starts it, from the project's folder. In it, and in `files`, {port} is its port of 127.0.0.1,
    {port2} a second one, {folder} an empty folder for its files, and {build} the folder of the programs in C."""
    version: Callable[[], str]
    missing: Callable[[], str] = lambda: ""
    """Return what it lacks on this machine, or nothing if it can run."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Configuration files: their names in its folder, and their contents."""

    @property
    def ports(self) -> int:
        """Return the number of ports at which it listens."""
        return 2 if "{port2}" in self.command else 1

    def description(self) -> dict[str, str]:
        """Return what it is, its version and command, or what it lacks."""
        missing = self.missing()
        return {
            "what": self.what,
            "version": "" if missing else self.version(),
            "command": " ".join(part or "''" for part in self.command).removeprefix("{build}/"),
            "missing": missing,
        }

    def prepare(self, ports: Sequence[int], folder: Path) -> list[str]:
        """Write its files; return its command with everything filled in."""
        values = {"{port}": ports[0], "{port2}": ports[-1], "{folder}": folder, "{build}": machine.scratch()}

        def filled(text: str) -> str:
            for name, value in values.items():
                text = text.replace(name, str(value))
            return text

        for name, text in self.files.items():
            (folder / name).write_text(filled(text))
        if self.command[0].startswith("{build}/"):
            machine.program(Path(self.command[0]).name)
        program, *arguments = map(filled, self.command)
        return [sys.executable if program == "python" else found(program), *arguments]


# ---- this server ----

TEXT: Final = Protocol(
    # the protocol does not tell when a member has joined; a whisper to itself does
    hello=(Step('{"name":"%n","room":"%r"}\n@%n ready\n', wait="whispers: ready\n"),),
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
    """Return the command that starts the server, with more flags."""
    return ("python", "cmd/chatserver", "-a", "127.0.0.1:{port}", "-rate", "0", "-log-level", "error", *flags)


def embedded(backend: str) -> tuple[str, ...]:
    """Return the command that starts a program with the chat inside, on asyncio or trio."""
    return ("python", "-m", "bench.peers.embedded", backend, "{port}")


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


# ---- the floor ----


def floor(mode: str) -> Subject:
    """Return the C program that does the least work: one send for a `batch` of lines, or one for each `line`."""
    return Subject(
        "floor",
        "a C program that does the least work",
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
    """Return a server that is a program of its own."""
    return Subject(
        name,
        what,
        protocol,
        command,
        version=lambda: _version_of(command[0]),
        missing=lambda: "" if found(command[0]) else f"{command[0]} is not installed",
        files=files or {},
    )


# ---- what is installed ----


def found(binary: str) -> str:
    """Return the path of a program, or nothing; also search system folders that are not in everybody's PATH."""
    return shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin") or ""


def _version_of(binary: str) -> str:
    try:
        said = subprocess.run(
            [found(binary), "--version"], capture_output=True, text=True, check=False, timeout=10
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
    """Return which of these are not installed, as a sentence, or nothing."""
    lacking = [package for package in packages if not _has(package)]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


_ALL: Final = (
    _machat("machat", "this server, its executable; members use the text protocol", executable()),
    _machat("machat-json", "its members use the JSON protocol", executable(), JSON),
    _machat("machat-asyncio", "inside a program, on plain asyncio", embedded("asyncio"), backend="asyncio"),
    _machat("machat-trio", "inside a program, on trio", embedded("trio"), backend="trio"),
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
    Subject(
        "machat-redis",
        "two servers and the Redis between them, all on one core",
        TEXT,
        ("python", "-m", "bench.peers.two_servers", "{port}", "{port2}", "{folder}"),
        version=lambda: f"{_machat_version()}, Redis {_version_of('redis-server')}",
        missing=lambda: lacks("coredis") or ("" if found("redis-server") else "redis-server is not installed"),
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
        "a simple broadcaster on asyncio's streams",
        _STREAMS,
        ("python", "bench/peers/streams_server.py", "{port}"),
        version=lambda: f"Python {sys.version.split()[0]}",
    ),
)

SUBJECTS: Final[dict[str, Subject]] = {subject.name: subject for subject in _ALL}
"""All of them, by name. A workload decides which of the two floors it is compared with."""
OURS: Final = "machat"
FLOOR: Final = "floor"
DEFAULT: Final = (FLOOR, OURS, f"{OURS}-json", "redis", "nats", "inspircd", "ngircd", "socketio", "streams")
"""The servers that are measured if no others are asked for."""
