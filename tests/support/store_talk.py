"""Members that talk through a server over a file, and a check of the messages in that file afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from executables import Peer, Server
from faults import FaultyDisk
from store_files import said
from witnesses import kept

from chatapi import StoreError
from chatapi.brokers.sqlite.store import RoomInfo, Store

ROOM = "dev"


def serving(path: Path, disk: FaultyDisk | None = None, before: Callable[[], None] | None = None) -> Server:
    env = None if disk is None else disk.environment
    return Server("-store", str(path), "-rate", "0", env=env, before=before)


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()
    server.hang_up()


def frame(peer: Peer, *types: str) -> dict[str, Any]:
    """The next frame of one of these types."""
    while True:
        found: dict[str, Any] = json.loads(peer.line())
        if found["type"] in types:
            return found


class Talk:
    """A text and a JSON member that send in turns, and a member that receives from both."""

    def __init__(self, server: Server) -> None:
        self.lea = server.member("Lea", ROOM)
        self.tess = server.member("Tess", ROOM, echo=True)
        self.jo = server.member("Jo", ROOM, protocol="json")
        self.welcome = frame(self.jo, "welcome")
        self.numbers = count(1)
        self.taken: list[tuple[str, str]] = []
        """The accepted messages: name and text."""
        self.refused: list[str] = []
        self.seq = int(self.welcome["seq"])

    def line(self, text: str = "") -> bool:
        """Tess sends a line; return whether it was accepted."""
        text = text or f"line {next(self.numbers)}"
        self.tess.send(text + "\n")
        while not (heard := self.tess.line()).startswith("* ") and heard != f"Tess:{text}":
            pass
        if not heard.startswith("* "):
            self._taken("Tess", text)
            return True
        assert heard.startswith("* unavailable: your line was not kept: "), heard
        self.refused.append(text)
        return False

    def frame(self) -> bool:
        """Jo sends a message; return whether it was accepted."""
        text = f"frame {next(self.numbers)}"
        self.jo.send(json.dumps({"type": "message", "text": text, "id": text}) + "\n")
        answer = frame(self.jo, "ack", "error")
        assert answer["id"] == text
        if answer["type"] == "ack":
            self._taken("Jo", text)
            assert answer["seq"] == self.seq
            return True
        assert answer["code"] == "unavailable"
        self.refused.append(text)
        return False

    def _taken(self, name: str, text: str) -> None:
        assert self.lea.line() == f"{name}:{text}"  # her next line: refused ones are shown to no member
        self.taken.append((name, text))
        self.seq += 1

    def both(self) -> bool:
        """Both send; return whether both messages were accepted."""
        return all([self.line(), self.frame()])


def check_file(path: Path, taken: list[tuple[str, str]]) -> None:
    """The file has this and nothing else, numbered without a hole."""
    log = kept(path, ROOM)
    assert [(message.name, message.text) for message in log] == taken
    assert [message.seq for message in log] == list(range(1, len(taken) + 1))


def filled(path: Path) -> list[tuple[str, str]]:
    """Make a file with two messages; returns their names and texts."""
    taken = [("Tess", "line 1"), ("Jo", "frame 2")]
    with closing(Store(path)) as store:
        store.open()
        info = RoomInfo(0, ROOM, ROOM, "a-life", 0, 0, 1, len(taken), 0)
        assert store.restore(info, (said(seq, *line) for seq, line in enumerate(taken, 1))) == len(taken)
    return taken


def refusal(path: Path) -> str:
    """Why a server would not start on a file."""
    with closing(Store(path)) as store, pytest.raises(StoreError) as raised:
        store.open()
    assert "\n" not in str(raised.value)
    return str(raised.value)
