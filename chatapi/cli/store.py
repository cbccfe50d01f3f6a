"""The server's sub-commands for the file of -store: rooms, export, import and check."""

from __future__ import annotations

import argparse
import difflib
import os
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import BinaryIO, Final, NamedTuple, cast

from pydantic_core import to_json

from chatapi.brokers.sqlite.check import Check
from chatapi.brokers.sqlite.store import RoomInfo, Store
from chatapi.brokers.sqlite.view import View
from chatapi.clock import SystemClock
from chatapi.core.names import GO, OURS, Naming, naming_of
from chatapi.errors import Refused, StoreError
from chatapi.text import one_line

from .flags import Parser, fail, interrupted
from .importing import BadLine, Import
from .output import CannotWrite, output
from .progress import Progress
from .records import export

_PROG: Final = "chatserver"
_INSTRUCTIONS: Final = 100_000
"""SQLite instructions between two checks for Ctrl-C: some milliseconds."""


class _NotImported(Exception):
    """The store refused the lines of an import."""


def main(arguments: Sequence[str]) -> int:
    """Run the sub-command that the first argument names; return its exit code."""
    word = arguments[0]
    prog = f"{_PROG} {word}"
    given = build_parser(word).parse(arguments[1:])
    try:
        return COMMANDS[word].run(given)
    except BadLine as error:
        fail(prog, f"{'' if given.path is None else f'{given.path!r}, '}{error}; nothing was imported")
    except Refused as refused:
        fail(prog, refused.detail)
    except StoreError as error:
        if _code(error) == sqlite3.SQLITE_INTERRUPT:
            return interrupted()
        fail(prog, str(error))
    except (CannotWrite, _NotImported) as failure:
        if str(failure):
            print(f"{prog}: {one_line(str(failure))}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return interrupted()


def build_parser(word: str) -> Parser:
    """Return the parser of a sub-command."""
    command = COMMANDS[word]
    parser = Parser(prog=f"{_PROG} {word}", description=command.description, epilog=command.examples)
    parser.add_argument("file", metavar="FILE", help="the file that the server keeps with -store")
    if command.path:
        parser.flag(
            "-machat", action="store_true", help="the room is from a server with -machat, and ROOM is its exact name"
        )
        parser.add_argument("room", metavar="ROOM", help="the room's name, in any spelling")
        parser.add_argument("path", metavar="PATH", nargs="?", type=_path, help=command.path)
    return parser


def _path(given: str) -> str | None:
    return None if given == "-" else given


# The sub-commands


def _rooms(given: argparse.Namespace) -> int:
    with _opened(given.file) as store, output() as out, store.snapshot():
        rooms = store.rooms()
        with Progress("looking at rooms", len(rooms), shown=not out.is_terminal) as progress:
            for i, room in enumerate(rooms):
                messages, size = store.size(room)
                line = {
                    "name": room.name,
                    "epoch": room.epoch,
                    "messages": messages,
                    "bytes": size,
                    "first": room.first,
                    "seq": room.seq,
                    "ts": room.ts,
                    **({"machat": True} if naming_of(room.key) is GO else {}),
                }
                out.write(to_json(line) + b"\n")
                progress(i)
    return 0


def _export(given: argparse.Namespace) -> int:
    naming = GO if given.machat else OURS
    name = naming.kept_room(given.room)
    with _opened(given.file) as store, store.snapshot():
        room = _room(store, name, naming)
        if given.path is not None:
            _check_apart(store, given.path)
        with (
            output(given.path) as out,
            Progress(f"exporting {room.name!r}", room.seq - room.first + 1, shown=not out.is_terminal) as progress,
        ):
            for lines, seq in export(store, room):
                out.write(lines)
                progress(seq - room.first + 1)
    return 0


def _import(given: argparse.Namespace) -> int:
    naming = GO if given.machat else OURS
    name = naming.room(given.room)
    with (
        _input(given.path) as source,
        closing(Store(given.file)) as store,
        Progress(f"importing {name!r}", _size(source)) as progress,
    ):
        coming = Import(source, SystemClock.micros(), progress, naming)
        store.open()
        if store.room(naming.room_key(name)) is not None:
            raise StoreError(f"{given.file!r} already has a room {name!r}; an import never overwrites a room")
        room = coming.room(name)
        try:
            count = store.restore(room, coming.entries())
        except StoreError as error:
            raise _NotImported(f"{error}; nothing was imported") from None
    with output() as out:
        what = f"seq {room.first} to {room.first + count - 1}" if count else "without messages"
        out.write(f"imported {name!r}, {what}\n".encode())
    return 0


def _check(given: argparse.Namespace) -> int:
    faults = 0
    with output() as out:
        try:
            with (
                _opened(given.file) as store,
                Progress(f"checking {given.file!r}", _kept(store), shown=not out.is_terminal) as progress,
            ):
                check = Check(store, progress)
                for fault in check.faults():
                    out.write(f"{one_line(fault)}\n".encode())
                    faults += 1
        except StoreError as error:
            if _code(error) != sqlite3.SQLITE_CORRUPT:
                raise
            out.write(
                f"SQLite: {one_line(str(error.__cause__))}\n".encode()
            )  # the damage keeps SQLite from opening the file
            return 1
        found = f"{_counted(check.rooms, 'room')}, {_counted(check.messages, 'message')}"
        out.write(f"{_counted(faults, 'fault') if faults else 'ok'}: {found}\n".encode())
    return 1 if faults else 0


class _Command(NamedTuple):
    run: Callable[[argparse.Namespace], int]
    description: str
    examples: str
    path: str = ""
    """The help text of PATH, for sub-commands that take a room and a path."""


COMMANDS: Final = {
    "rooms": _Command(
        _rooms,
        "List the rooms in a file of -store, as one JSON object per line: name and epoch, the number of messages\n"
        "kept, the bytes of their texts, the seq of the oldest and of the newest, and the time of the newest in\n"
        "microseconds since 1970. This also works while a server uses the file.",
        "examples:\n"
        "  chatserver rooms chat.db\n"
        "  chatserver rooms chat.db | jq -r .name                     only the names\n",
    ),
    "export": _Command(
        _export,
        "Write a room as lines of JSON: a header, then its messages and deletions. This also works while a server\n"
        "uses the file; messages that come after the start are left out.",
        "examples:\n"
        "  chatserver export chat.db dev dev.ndjson                   a backup of a room\n"
        "  chatserver export chat.db dev | gzip >dev.ndjson.gz\n"
        "  chatserver export chat.db dev | jq -r '.text // empty'     only the texts\n",
        "where to write (default: standard output)",
    ),
    "import": _Command(
        _import,
        "Make a room from lines of JSON, in a file that no server has open; the file is created if it does not exist.\n"
        "If the lines are an export, the room is restored. Otherwise each line must have a name and a text, and may\n"
        "have a ts if all have one; the messages are numbered from 1. If any line is wrong, nothing is imported.",
        "examples:\n"
        "  chatserver import chat.db dev dev.ndjson\n"
        "  zcat dev.ndjson.gz | chatserver import chat.db dev-of-may  under another name\n"
        '  echo \'{"name":"Mina","text":"hello"}\' | chatserver import new.db dev\n',
        "where to read (default: standard input)",
    ),
    "check": _Command(
        _check,
        "Check a file of -store for damage: print a line for each fault, then one with the numbers of rooms and\n"
        "messages. This changes nothing, and also works while a server uses the file. The exit code is 0 if there is\n"
        "no fault, and 1 if there is one.",
        "examples:\n  chatserver check chat.db\n  chatserver check chat.db >faults.txt || echo 'look at faults.txt'\n",
    ),
}


# Files


@contextmanager
def _opened(file: str) -> Iterator[View]:
    """Open the store for reading; Ctrl-C ends even a long query."""
    with closing(View(file)) as store:
        store.open()
        store.reader.set_progress_handler(lambda: 0, _INSTRUCTIONS)  # runs Python code, which handles signals
        yield store


def _room(store: View, name: str, naming: Naming) -> RoomInfo:
    room = store.room(naming.room_key(name))
    if room is None:
        names = {room.key: room.name for room in store.rooms() if naming_of(room.key) is naming}
        near = [repr(names[key]) for key in difflib.get_close_matches(naming.room_key(name), names, 3)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"`chatserver rooms` lists its {len(names):,} rooms"
        raise StoreError(f"{str(store.path)!r} has no room {name!r}; {hint}")
    return room


def _kept(store: View) -> int:
    """Return the approximate number of messages; 0 if the store cannot be read."""
    try:
        return sum(room.seq - room.trimmed for room in store.rooms())
    except StoreError:
        return 0


@contextmanager
def _input(path: str | None) -> Iterator[BinaryIO]:
    if path is not None:
        try:
            source = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise StoreError(f"cannot read {path!r}: {error.strerror}") from None
        with source:
            yield source
    elif sys.stdin is None:
        raise StoreError("the standard input is closed")
    else:
        if sys.stdin.isatty():
            print("reading lines from the terminal; Ctrl-D ends them", file=sys.stderr)  # noqa: T201
        yield cast("BinaryIO", sys.stdin.buffer)


def _size(source: BinaryIO) -> int:
    """Return the number of bytes to read; 0 if it is unknown."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _check_apart(store: View, path: str) -> None:
    for suffix in ("", "-wal", "-shm", "-lock"):
        own = f"{store.path}{suffix}"
        if os.path.exists(path) and os.path.exists(own) and os.path.samefile(path, own):
            raise StoreError(f"{path!r} is a file of the store itself")


# Texts


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _code(error: StoreError) -> int:
    """Return SQLite's primary error code; 0 if the error is not from SQLite."""
    return getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
