"""The player of the documentation's conversations: blocks of the language `chat`."""

from __future__ import annotations

import ast
import json
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pages import named, plain, table

from chatapi import Broker, Limits, StoreError
from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.sqlite import SQLiteBroker
from chatapi.cli import server
from chatapi.core.entries import Deletion
from chatapi.testing import ChatKit, Peer, VirtualClock

FIELDS = {
    plain(row["from the server"]): set(named(row["fields"])) for row in table("from the server", "fields", "meaning")
}
"""The fields that each frame from the server may have, as the pages say."""


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
        assert set(frame) - {"type"} - refused <= FIELDS[frame["type"]], "not in the table of frames"
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
