"""The nodes of a chat: which of them live, what they whisper to each other, and the rooms that each has members in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from time import monotonic
from typing import Any, Final

import anyio
from pydantic_core import from_json, to_json

from ...core.broker import RoomCount, SharedRooms
from ...errors import NotDelivered, Refused
from ...events import Whisper
from ...pending import Pending
from .room import SharedRoom
from .shard import NODES, Call, Shard

_logger = logging.getLogger("chatapi")

_PATIENCE: Final = 5.0
"""Seconds that a whisper waits for the other node to say that it was handed over."""
_LISTED_FOR: Final = 3600
"""Seconds after which Redis forgets the list of a node's rooms, where it is not looked after any more."""
_REMEMBERED: Final = 10_000
"""Whispers from elsewhere that are remembered, so that none is handed over twice."""


class Nodes:
    """This node among the others. `shard` finds where a tag is kept, `rooms` are those that are open here."""

    def __init__(
        self,
        node: str,
        prefix: str,
        lease: float,
        publish: str,
        shard: Callable[[str], Shard],
        rooms: Mapping[str, SharedRoom],
        suspect: Callable[[], None],
        renewed: Callable[[], None],
    ) -> None:
        self.node: str = node
        self.channel: str = _channel(prefix, node)
        self._prefix, self._lease, self._publish = prefix, lease, publish
        self._shard, self._rooms, self._suspect = shard, rooms, suspect
        self._go_on = renewed
        self._to: SharedRooms | None = None
        self._renewed = float("-inf")
        self._asked_at: float | None = None
        self._first, self._left = True, False
        self.began: anyio.Event = anyio.Event()
        """Set once this node has its lease."""
        self._living: frozenset[str] = frozenset()
        self._before: frozenset[str] = frozenset()
        self._trusted_from = float("-inf")
        self._numbers = count(1)
        self._whispers: dict[int, Pending[None]] = {}
        self._heard: dict[str, None] = {}  # the `about` of the whispers that were handed over
        self._listed: dict[str, str] = {}  # what Redis has of this node's rooms

    def attach(self, rooms: SharedRooms) -> None:
        """Learn whom to speak to."""
        self._to = rooms

    # The lease

    @property
    def lives(self) -> bool:
        """Whether this node is not taken for dead: nothing may be delivered otherwise."""
        return monotonic() - self._renewed < self._lease * 0.7

    async def run(self) -> None:
        """Renew the lease, see who else lives, keep the list of rooms."""
        while True:
            self.renew()
            self._list_rooms()
            await anyio.sleep(self._lease / 10)

    def renew(self) -> None:
        """Say that this node lives."""
        now = monotonic()
        if self._left or self._asked_at is not None:
            return
        if not self.lives and not self._first:
            self._suspect()
        self._asked_at = now
        lease = int(self._lease * 700)
        self._home.call(Call(self._renewal, [self.node, lease], NODES, [f"{self._prefix}:{{nodes}}"]))

    def _renewal(self, answer: Any) -> None:
        asked_at, self._asked_at = self._asked_at, None
        if isinstance(answer, Exception) or asked_at is None or self._left:
            return
        held, was_there, living = answer
        self._renewed = asked_at
        if not held and not self._first:
            _logger.warning("this server was taken for dead; the names of its members are claimed again")
            self._suspect()
        if not (held and was_there) and not self._first:
            self._trusted_from = asked_at + self._lease  # Redis was away, perhaps for others too: they come back
        self._first = False
        self.began.set()
        self._before, self._living = self._living, frozenset(node.decode() for node in living)
        self._go_on()
        if asked_at >= self._trusted_from:
            self._reap(self._before | self._living)

    def _reap(self, living: frozenset[str]) -> None:
        for room in self._rooms.values():
            dead = room.who.nodes() - living
            if dead:
                room.reap(dead)

    def leave(self) -> None:
        """This node ends: nobody waits for its lease."""
        self._left = True
        self._home.call(Call(_nothing, [self.node, 0], NODES, [f"{self._prefix}:{{nodes}}"]))
        where = f"rooms:{self.node}"
        self._shard(where).call(Call(_nothing, ["DEL", f"{self._prefix}:{{{where}}}"]))

    @property
    def _home(self) -> Shard:
        return self._shard("nodes")

    # Whispers

    def whisper(self, to: str, room: str, key: str, whisper: Whisper, about: str) -> tuple[int, Pending[None]]:
        """Hand a whisper to a member that is here through another node; return its number, for `forget`, too."""
        number, delivered = next(self._numbers), Pending[None]()
        self._whispers[number] = delivered
        said = {"n": number, "from": self.node, "room": room, "key": key, "about": about}
        self._tell(to, {**said, "ts": whisper.ts, "name": whisper.name, "text": whisper.text}, number)
        return number, delivered

    async def forget(self, number: int) -> None:
        """Wait for an answer no longer than is right."""
        await anyio.sleep(_PATIENCE)
        self._answered(number, "its server does not answer; it may have been sent")

    def _tell(self, to: str, what: dict[str, Any], number: int) -> None:
        def told(receivers: Any) -> None:
            if isinstance(receivers, Refused):
                self._answered(number, "what connects the servers does not answer; nothing was sent")
            elif not isinstance(receivers, int) or receivers == 0:
                self._answered(number, "its server is gone; nothing was sent")

        self._shard(_tag(to)).call(Call(told, [self._publish, _channel(self._prefix, to), to_json(what)]))

    def _answered(self, number: int, why: str) -> None:
        delivered = self._whispers.pop(number, None)
        if delivered is not None and why:
            delivered.fail(NotDelivered(why))
        elif delivered is not None:
            delivered.resolve(None)

    @property
    def pending(self) -> list[int]:
        """Whispers that nothing is known of yet."""
        return list(self._whispers)

    def heard(self, data: bytes) -> None:
        """Another node says something to this one."""
        assert self._to is not None
        said = from_json(data)
        if "why" in said:
            self._answered(said["n"], said["why"])
            return
        why, about = "", said["about"]
        if about not in self._heard:
            why = self._to.whispered(said["room"], said["key"], Whisper(said["ts"], said["name"], said["text"]))
            if about and not why:
                self._heard[about] = None
                if len(self._heard) > _REMEMBERED:
                    del self._heard[next(iter(self._heard))]
        self._tell(said["from"], {"n": said["n"], "why": why}, 0)

    def stop(self) -> None:
        """Nobody answers any more."""
        self._asked_at, self._first, self._left, self._listed, self.began = None, True, False, {}, anyio.Event()
        self._living = self._before = frozenset()
        for number in self.pending:
            self._answered(number, "the chat does not run; nothing is known of it")

    # The rooms of all nodes

    def _list_rooms(self) -> None:
        """Keep the list of rooms that have members here, for other nodes to read."""
        now = {key: f"{len(room.who.ours)} {room.name}" for key, room in self._rooms.items() if room.who.ours}
        gone = [key for key in self._listed if key not in now]
        new = [text for key, value in now.items() if self._listed.get(key) != value for text in (key, value)]
        where = f"rooms:{self.node}"
        shard, key = self._shard(where), f"{self._prefix}:{{{where}}}"
        if not shard.connected:
            self._listed = {}
            return
        self._listed = now
        if gone:
            shard.call(Call(_nothing, ["HDEL", key, *gone]))
        if new:
            shard.call(Call(_nothing, ["HSET", key, *new]))
        if now:
            shard.call(Call(_nothing, ["EXPIRE", key, _LISTED_FOR]))

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        """Every room that somebody is in. Those that are open here are known; the other nodes have lists of theirs."""
        counted: Pending[Sequence[RoomCount]] = Pending()
        found: dict[str, RoomCount] = {}
        others = [node for node in self._living if node != self.node]
        left = len(others)

        def done() -> None:
            for key, room in self._rooms.items():
                found.pop(key, None)
                if len(room.who):
                    found[key] = RoomCount(key, room.name, len(room.who))
            counted.resolve(list(found.values()))

        def listed(answer: Any) -> None:
            nonlocal left
            left -= 1
            if not isinstance(answer, Exception):
                for key, value in _pairs(answer):
                    number, name = value.decode().split(" ", 1)
                    before = found.get(key.decode())
                    found[key.decode()] = RoomCount(key.decode(), name, int(number) + (before.members if before else 0))
            if not left:
                done()

        for node in others:
            where = f"rooms:{node}"
            self._shard(where).call(Call(listed, ["HGETALL", f"{self._prefix}:{{{where}}}"]))
        if not others:
            done()
        return counted


def _tag(node: str) -> str:
    return f"node:{node}"


def _channel(prefix: str, node: str) -> str:
    return f"{prefix}:{{{_tag(node)}}}"


def _pairs(answer: Any) -> Sequence[tuple[bytes, bytes]]:
    """A hash, which RESP3 gives as a map."""
    return list(answer.items()) if isinstance(answer, dict) else list(zip(answer[::2], answer[1::2], strict=True))


def _nothing(answer: Any) -> None:
    pass
