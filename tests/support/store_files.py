"""Files of `-store` for tests of the sub-commands, and the sub-commands in this process."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from unittest import mock

from chatapi.brokers.sqlite.store import RoomInfo, Store
from chatapi.cli import server
from chatapi.core.entries import AnyKept, Deletion, Said
from chatapi.core.names import name_key

BEGINNING = 1_700_000_000_000_000
"""The time before the first message, in microseconds since 1970."""
FOUND = '{"name": "Mina", "text": "hello"}'
"""A line for `chatserver import` that was not exported."""


class Done(NamedTuple):
    """A sub-command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The printed JSON, line by line."""
        return [json.loads(line) for line in self.out.splitlines()]


def chatserver(*arguments: str | Path, lines: str | bytes = b"") -> Done:
    """Run `chatserver` with these arguments in this process, with `lines` at its standard input."""
    with ExitStack() as stack:
        streams = {name: stack.enter_context(TemporaryFile("w+", encoding="utf-8")) for name in _STREAMS}
        streams["stdin"].buffer.write(lines.encode() if isinstance(lines, str) else lines)
        streams["stdin"].seek(0)
        with mock.patch.multiple(sys, **streams):
            try:
                code = server.main([str(argument) for argument in arguments])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else -1
        out, err = (_text(streams[name]) for name in _STREAMS[1:])
    return Done(code, out, err)


_STREAMS = ("stdin", "stdout", "stderr")


def _text(stream: Any) -> str:
    stream.flush()
    stream.seek(0)
    return stream.buffer.read().decode()


def refused(word: str, *arguments: str | Path, lines: str | bytes = b"") -> str:
    """The one line with which a sub-command says that it cannot."""
    done = chatserver(word, *arguments, lines=lines)
    assert (done.code, done.out) == (2, ""), done
    assert re.fullmatch(rf"chatserver {word}: [^\n]+\n", done.err), done
    return done.err.removeprefix(f"chatserver {word}: ").rstrip("\n")


def said(seq: int, name: str, *texts: str) -> Said:
    """Messages that were said in one go."""
    run = Said(0, name, "".join(f"{text}\n" for text in texts).encode(), len(texts))
    run.seq, run.ts = seq, BEGINNING + 1000 * seq
    return run


def deleted(seq: int, name: str, target: int) -> Deletion:
    deletion = Deletion(name, target)
    deletion.seq, deletion.ts = seq, BEGINNING + 1000 * seq
    return deletion


def make(path: Path, *rooms: str, trimmed: int = 0) -> Path:
    """A file with rooms, all with the same history, whose oldest messages are forgotten."""
    with closing(Store(path)) as store:
        store.open()
        for name in rooms or ("Dev",):
            history: list[AnyKept] = [
                said(1, "Mina", "hello", "is anybody here?"),
                said(3, "Zoë", "oh\n  yes\nI am"),
                said(4, "Mina", "this", "should not", "be here"),
                deleted(7, "moderator", 5),
                said(8, "李雷", 'say "cheese" \\ \t 🙂'),
                said(9, "spammer", "buy!"),
                deleted(10, "moderator", 9),
                said(11, "Zoë", "bye"),
            ]
            info = RoomInfo(0, name_key(name), name, f"the-life-of-{name}", 0, 0, 1, 11, 0)
            assert store.restore(info, history) == 11
            if trimmed:
                found = store.room(info.key)
                assert found is not None
                assert store.trim(found, trimmed) == trimmed + 1
    return path


def messages(path: Path, room: str, number: int, text: str = "hello") -> Path:
    """A file with a room of that many messages, each said by itself."""
    with closing(Store(path)) as store:
        store.open()
        info = RoomInfo(0, name_key(room), room, "a-life", 0, 0, 1, number, 0)
        assert store.restore(info, (said(seq, "Mina", text) for seq in range(1, number + 1))) == number
    return path


def tamper(path: Path, *statements: str) -> None:
    """Change a file as someone with `sqlite3` can."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def content(folder: Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
