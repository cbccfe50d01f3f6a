"""The nodes of a chat: their leases, the whispers between them, and the rooms that each has members in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from time import monotonic
from typing import Any, Final

import anyio
from pydantic_core import from_json, to_json

from ...core.broker import RoomCount, SharedRooms
from ...errors import NotDelivered
from ...events import Whisper
from ...pending import Pending
from . import scripts
from .room import SharedRoom
from .shard import Shard

_logger = logging.getLogger("chatapi")

_WHISPER_SECONDS: Final = 5.0
"""Seconds that a whisper waits for the answer of the other node."""
_ROOM_LIST_SECONDS: Final = 3600
"""Seconds after which Redis forgets the room list of a node that does not renew it."""
_MOST_REMEMBERED: Final = 10_000
"""Received whispers that are remembered, so that none is delivered twice."""


class Nodes:
    """This node among the others.

    Args:
        shard_for: returns the shard of a hash tag.
        rooms: the rooms that are open on this node.
        suspected: is called when other nodes may have taken this node for dead.
        lease_renewed: is called with each renewal of the lease.
    """

    def __init__(
        self,
        node: str,
        prefix: str,
        lease: float,
        publish: str,
        shard_for: Callable[[str], Shard],
        rooms: Mapping[str, SharedRoom],
        *,
        suspected: Callable[[], None],
        lease_renewed: Callable[[], None],
    ) -> None:
        self.node: str = node
        self.tag: str = _tag(node)
        """The hash tag of this node's channel."""
        self.channel: str = _channel(prefix, node)
        self._prefix, self._lease, self._publish = prefix, lease, publish
        self._shard_for, self._rooms = shard_for, rooms
        self._suspected, self._lease_renewed = suspected, lease_renewed
        self._chat: SharedRooms | None = None
        self._renewed_at = float("-inf")
        self._asked_at: float | None = None  # when the renewal under way was asked for
        self._is_new, self._ended = True, False
        self.has_begun: anyio.Event = anyio.Event()
        """Set when this node has its first lease."""
        self._alive: frozenset[str] = frozenset()
        self._alive_before: frozenset[str] = frozenset()
        self._reap_from = float("-inf")  # before that other nodes may have lost their leases with Redis' memory
        self._numbers = count(1)
        self._whispers: dict[int, Pending[None]] = {}  # whispers to other nodes, without an answer so far
        self._received: dict[str, None] = {}  # the `about` of the whispers that were delivered here
        self._room_list: dict[str, str] = {}  # this node's room list in Redis

    def attach(self, chat: SharedRooms) -> None:
        """Set the rooms of the chat, which whispers go to."""
        self._chat = chat

    # The lease

    @property
    def has_lease(self) -> bool:
        """Whether no other node can take this one for dead. Without a lease nothing may be delivered."""
        return monotonic() - self._renewed_at < self._lease * 0.7

    async def run(self) -> None:
        """Renew the lease and the room list, again and again, until cancelled."""
        while True:
            self.renew_lease()
            self._renew_room_list()
            await anyio.sleep(self._lease / 10)

    def renew_lease(self) -> None:
        """Ask Redis for a lease, unless that is under way."""
        now = monotonic()
        if self._ended or self._asked_at is not None:
            return
        if not self.has_lease and not self._is_new:
            self._suspected()
        self._asked_at = now
        self._request_lease(int(self._lease * 700)).then(self._renewed)

    def _request_lease(self, milliseconds: int) -> Pending[Any]:
        keys = [f"{self._prefix}:{{nodes}}"]
        return self._shard_for("nodes").request([self.node, milliseconds], script=scripts.NODES, keys=keys)

    def _renewed(self, answer: Pending[Any]) -> None:
        asked_at, self._asked_at = self._asked_at, None
        if answer.error is not None or asked_at is None or self._ended:
            return
        was_valid, existed, alive = answer.result()
        self._renewed_at = asked_at
        if not was_valid and not self._is_new:
            _logger.warning("other servers took this server for dead; it claims the names of its members again")
            self._suspected()
        if not (was_valid and existed) and not self._is_new:
            self._reap_from = asked_at + self._lease  # other nodes may have to renew their leases first
        self._is_new = False
        self.has_begun.set()
        self._alive_before, self._alive = self._alive, frozenset(node.decode() for node in alive)
        self._lease_renewed()
        if asked_at >= self._reap_from:
            self._reap(self._alive_before | self._alive)

    def _reap(self, alive: frozenset[str]) -> None:
        for room in self._rooms.values():
            dead = room.roster.remote_nodes() - alive
            if dead:
                room.reap(dead)

    def leave(self) -> None:
        """Give the lease back, so that nobody waits for its end."""
        self._ended = True
        self._request_lease(0)
        shard, key = self._list_of(self.node)
        shard.request(["DEL", key])

    # Whispers

    def whisper(self, to: str, room: str, key: str, whisper: Whisper, about: str) -> tuple[int, Pending[None]]:
        """Send a whisper to a member on another node; return its number, for `time_out`, and its result."""
        number, delivered = next(self._numbers), Pending[None]()
        self._whispers[number] = delivered
        message = {"n": number, "from": self.node, "room": room, "key": key, "about": about}
        self._send(to, {**message, "ts": whisper.ts, "name": whisper.name, "text": whisper.text}, number)
        return number, delivered

    async def time_out(self, number: int) -> None:
        """Fail a whisper that is not answered in time."""
        await anyio.sleep(_WHISPER_SECONDS)
        self._whisper_answered(number, "the member's server does not answer; the whisper may have been delivered")

    def _send(self, to: str, message: dict[str, Any], number: int) -> None:
        def sent(receivers: Pending[Any]) -> None:
            if receivers.error is not None:
                self._whisper_answered(number, "Redis does not answer; nothing was sent")
            elif receivers.result() == 0:
                self._whisper_answered(number, "the member's server is gone; nothing was sent")

        self._shard_for(_tag(to)).request([self._publish, _channel(self._prefix, to), to_json(message)]).then(sent)

    def _whisper_answered(self, number: int, why: str) -> None:
        delivered = self._whispers.pop(number, None)
        if delivered is not None and why:
            delivered.fail(NotDelivered(why))
        elif delivered is not None:
            delivered.resolve(None)

    def received(self, data: bytes) -> None:
        """Handle a message of another node: a whisper for a member here, or the answer to one."""
        assert self._chat is not None
        message = from_json(data)
        if "why" in message:
            self._whisper_answered(message["n"], message["why"])
            return
        why, about = "", message["about"]
        if about not in self._received:
            whisper = Whisper(message["ts"], message["name"], message["text"])
            why = self._chat.deliver_whisper(message["room"], message["key"], whisper)
            if about and not why:
                self._received[about] = None
                if len(self._received) > _MOST_REMEMBERED:
                    del self._received[next(iter(self._received))]
        self._send(message["from"], {"n": message["n"], "why": why}, 0)

    def stop(self) -> None:
        """Fail every whisper, and be new when the node runs again."""
        self._asked_at, self._is_new, self._ended, self.has_begun = None, True, False, anyio.Event()
        self._room_list = {}
        self._alive = self._alive_before = frozenset()
        for number in list(self._whispers):
            self._whisper_answered(number, "the chat has ended; the whisper may have been delivered")

    # Room lists

    def _list_of(self, node: str) -> tuple[Shard, str]:
        """Return the shard and the key of a node's room list."""
        tag = f"rooms:{node}"
        return self._shard_for(tag), f"{self._prefix}:{{{tag}}}"

    def _renew_room_list(self) -> None:
        """Keep the list of rooms with members on this node, which other nodes read."""
        rooms = {key: f"{len(room.roster.local)} {room.name}" for key, room in self._rooms.items() if room.roster.local}
        gone = [key for key in self._room_list if key not in rooms]
        new = [text for key, value in rooms.items() if self._room_list.get(key) != value for text in (key, value)]
        shard, key = self._list_of(self.node)
        if not shard.connected:
            self._room_list = {}
            return
        self._room_list = rooms
        if gone:
            shard.request(["HDEL", key, *gone])
        if new:
            shard.request(["HSET", key, *new])
        if rooms:
            shard.request(["EXPIRE", key, _ROOM_LIST_SECONDS])

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        """Return every room with members: from the rosters of rooms that are open here, and other nodes' lists."""
        counted: Pending[Sequence[RoomCount]] = Pending()
        found: dict[str, RoomCount] = {}
        others = [node for node in self._alive if node != self.node]
        missing = len(others)

        def resolve() -> None:
            for key, room in self._rooms.items():
                found.pop(key, None)
                if len(room.roster):
                    found[key] = RoomCount(key, room.name, len(room.roster))
            counted.resolve(list(found.values()))

        def listed(answer: Pending[Any]) -> None:
            nonlocal missing
            missing -= 1
            if answer.error is None:
                for key, value in _pairs(answer.result()):
                    members, name = value.decode().split(" ", 1)
                    before = found.get(key.decode())
                    total = int(members) + (before.members if before else 0)
                    found[key.decode()] = RoomCount(key.decode(), name, total)
            if not missing:
                resolve()

        for node in others:
            shard, key = self._list_of(node)
            shard.request(["HGETALL", key]).then(listed)
        if not others:
            resolve()
        return counted


def _tag(node: str) -> str:
    return f"node:{node}"


def _channel(prefix: str, node: str) -> str:
    return f"{prefix}:{{{_tag(node)}}}"


def _pairs(answer: Any) -> Sequence[tuple[bytes, bytes]]:
    """Return the items of a hash, which RESP3 gives as a map."""
    return list(answer.items()) if isinstance(answer, dict) else list(zip(answer[::2], answer[1::2], strict=True))
