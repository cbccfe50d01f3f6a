"""A broker that keeps rooms in Redis: any number of servers, each a node, are one chat.

`room` is a room as one node sees it, `shard` the connection to one Redis server, `nodes` the leases and the messages
between nodes. The scripts in ``lua`` make the order of messages, and give numbers and names.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import anyio
import anyio.abc

try:
    from coredis import BaseConnection
    from coredis.exceptions import RedisError
except ImportError:
    raise ImportError("the Redis broker needs coredis; install the extra 'redis': pip install '.[redis]'") from None

from ...core.broker import Past, RoomCount, Sent, SharedRooms, unavailable
from ...core.entries import AnyEntry, AnyKept, Deletion, NameChanged, Said
from ...core.names import naming_of
from ...core.session_keys import hash_key
from ...errors import NotDelivered, StoreError
from ...events import Whisper
from ...limits import Keep, MiB
from ...pending import Pending
from . import batches, scripts
from .nodes import Nodes
from .room import Node, SharedRoom, State
from .scripts import Keys, Value
from .shard import UNREACHABLE, Shard, ShardOptions
from .shards import Shards
from .topology import Topology, reason_of, without_password
from .turns import MOST_BYTES, Claiming, Deleting, Releasing, Renaming, Saying

_logger = logging.getLogger("chatapi")

KEEP: Final = Keep(days=30, messages=100_000, bytes=64 * MiB)
"""What Redis keeps of each room by default: its memory is finite."""
_ENDED: Final = "the chat is not running"
_NAMES_UNREACHABLE: Final = "the server cannot claim the name, because Redis does not answer"
_SECRET_SECONDS: Final = 365 * 24 * 3600
"""Seconds after the start of the last server for which Redis has the secret that signs session keys."""
_GOODBYE_SECONDS: Final = 3.0
"""Seconds that the end waits for messages and names that are under way."""


class RedisBroker:
    """Keeps rooms in the Redis at `url` (see `Topology`), shared by all servers that use the same `prefix`.

    Messages are acknowledged when Redis has them, and, if `replicas` is not 0, so many of its replicas. If Redis has
    not answered for `patience` seconds, messages are refused with ``unavailable`` and members are told; everything goes
    on when Redis answers again. The members of a server that dies have left after `lease` seconds. `keep` bounds each
    room; a room without new messages is forgotten after `Keep.days`. Redis 7.0 or newer.

    Raises `ValueError` for an invalid URL.
    """

    keeps = True
    secret: bytes = b""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "machat",
        keep: Keep = KEEP,
        replicas: int = 0,
        lease: float = 10,
        patience: float = 3,
    ) -> None:
        if not isinstance(keep, Keep):
            raise ValueError(f"keep must be a Keep, such as Keep(days=30), not {keep!r}")
        self._topology = Topology(url, patience)
        self._url, self._prefix, self._keep, self._replicas = without_password(url), prefix, keep, replicas
        self._patience = patience
        self._publish = "SPUBLISH" if self._topology.sharded else "PUBLISH"
        self._rooms: SharedRooms | None = None
        self._open: dict[str, SharedRoom] = {}
        self._closing: dict[str, SharedRoom] = {}
        self._channels: dict[str, SharedRoom] = {}
        self._node: Node | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        sharded, changed = self._topology.sharded, self._availability_changed
        self._options = ShardOptions(sharded, patience, replicas, self._received, changed, self._may_ask)
        self._shards = Shards(self._topology, self._options)
        self._nodes = Nodes(
            secrets.token_urlsafe(9),
            prefix,
            lease,
            self._publish,
            self._shards.for_tag,
            self._open,
            suspected=self._suspect_dead,
            lease_renewed=self._lease_renewed,
        )
        self._suspected_dead = False

    @property
    def presence(self) -> RedisBroker:
        return self

    def attach(self, rooms: SharedRooms) -> None:
        self._rooms = rooms
        self._nodes.attach(rooms)
        node, publish = self._nodes.node, self._publish
        self._node = Node(node, rooms, publish, self._keep, self._replicas, self._schedule, self._forget)

    async def run(self, started: Callable[[], None]) -> None:
        """Talk to Redis until cancelled. Raises `StoreError` if it cannot be reached at the beginning.

        At the end, what was submitted before gets some seconds to be kept, and is refused otherwise.
        """
        await self._check_redis()
        ended = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._talk, started, ended)
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

    async def _talk(self, started: Callable[[], None], ended: anyio.Event) -> None:
        """Talk to Redis until `ended`, and then until nothing is under way. Cancellation does not end this."""
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    rooms = self._open.values()  # they are from an earlier run
                    shard = self._shards.start(tasks, rooms, self._nodes.tag, self._nodes.channel)
                    tasks.start_soon(self._nodes.run)
                    with anyio.move_on_after(self._patience):  # otherwise the first rooms and whispers have to wait
                        await self._nodes.has_begun.wait()
                        await shard.first_connected.wait()
                    started()
                    await ended.wait()
                    with anyio.move_on_after(_GOODBYE_SECONDS):
                        await self._all_done()
                        self._nodes.leave()
                        await self._all_done()
                    tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            self._nodes.stop()
            for room in list(self._open.values()):
                room.give_up(_ENDED)
            self._shards.stop()

    async def _all_done(self) -> None:
        """Wait until nothing is under way."""
        rooms = (self._open, self._closing)
        while any(room.busy for some in rooms for room in some.values()) or any(shard.busy for shard in self._shards):
            self.collect()
            await anyio.sleep(0.005)

    async def _check_redis(self) -> None:
        """Check that Redis can be reached and used, and get the secret."""
        version = "0"
        try:
            await self._topology.refresh()
            with anyio.fail_after(self._patience):
                async with anyio.create_task_group() as tasks:
                    connection = await self._topology.connection(self._topology.server_for("nodes"))
                    await tasks.start(connection.run)
                    version = connection.server_version or version
                    await self._agree_on_secret(connection)
                    tasks.cancel_scope.cancel()
        except* (RedisError, OSError) as group:
            raise StoreError(f"cannot use Redis at {self._url}: {reason_of(group)}") from None
        if int(version.partition(".")[0]) < 7:
            raise StoreError(f"Redis at {self._url} has version {version}; this server needs 7.0 or newer")
        _logger.info("rooms are kept by Redis at %s; this server is node %s", self._topology, self._nodes.node)

    async def _agree_on_secret(self, connection: BaseConnection) -> None:
        """Get the secret that signs session keys; the first server of the chat makes it."""
        key = f"{self._prefix}:{{nodes}}:secret"
        await connection.create_request(b"SET", key, secrets.token_bytes(32), b"NX")
        found: Any = await connection.create_request(b"GETEX", key, b"EX", _SECRET_SECONDS)
        self.secret = bytes(found or b"")

    # From shards, nodes and rooms

    def _may_ask(self) -> bool:
        """Return whether rooms may ask the script: not without a lease, which is asked for then."""
        if self._nodes.has_lease:
            return True
        self._nodes.renew_lease()
        return False

    def _suspect_dead(self) -> None:
        """Deliver nothing before rooms are synchronised, because others may have taken this node for dead."""
        self._suspected_dead = True
        for room in self._open.values():
            room.suspect_dead()

    def _lease_renewed(self) -> None:
        self._suspected_dead = False
        self.collect()

    def _schedule(self, room: SharedRoom) -> None:
        if room.shard is not None:
            room.shard.schedule(room)
        if self._rooms is not None:
            self._rooms.wake()

    def _received(self, channel: bytes, data: bytes) -> None:
        if not (self._suspected_dead or self._nodes.has_lease):
            self._suspect_dead()
        name = channel.decode()
        if (room := self._channels.get(name)) is not None:
            try:
                room.received(data)
            except Exception:
                _logger.exception("an error inside the server, in room %s", room.name)
                room.disconnect()
        elif name == self._nodes.channel:
            try:
                self._nodes.received(data)
            except Exception:
                _logger.exception("a message from another server could not be handled")

    def _availability_changed(self, shard: Shard, detail: str) -> None:
        assert self._rooms is not None
        self._rooms.availability_changed([room.key for room in shard.rooms], detail)

    # Rooms

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        if self._tasks is None or self._node is None:
            return Pending.failed(unavailable("the chat is not running; use `async with chat`, or serve it"))
        keys = Keys(self._prefix, quote(room, safe=""), self._topology.db)
        shard = self._shards.for_tag(keys.tag)
        if shard.trouble:
            return Pending.failed(unavailable(UNREACHABLE))
        shared = SharedRoom(room, name, epoch, (messages, max_bytes), self._node, keys)
        opened = shared.opened
        self._open[room] = self._channels[keys.channel] = shared
        shard.add(shared)
        if room in self._closing:  # opening releases every name that no member here has
            self._forget(self._closing[room])
        return opened

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        assert self._rooms is not None
        shared = self._open[room]
        if not self._is_available(shared):
            kept = [entry for entry in entries if isinstance(entry, Said | Deletion)]
            self._rooms.refuse(room, kept, unavailable(_ENDED if self._tasks is None else UNREACHABLE))
            return
        for entry in entries:
            if isinstance(entry, Said):
                shared.add(Saying(entry))
            elif isinstance(entry, Deletion):
                shared.add(Deleting(entry))

    def _is_available(self, shared: SharedRoom) -> bool:
        return self._tasks is not None and shared.shard is not None and not shared.shard.trouble

    def collect(self) -> None:
        self._shards.wake()

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        read: Pending[Sequence[AnyKept]] = Pending()
        self._read_more(self._open[room], before, messages, max_bytes, [], read)
        return read

    def _read_more(
        self,
        shared: SharedRoom,
        before: int,
        messages: int,
        max_bytes: int,
        newer: list[AnyKept],
        read: Pending[Sequence[AnyKept]],
    ) -> None:
        """Read a page before `newer`, until there are enough messages: the script counts deletions as messages."""

        def found(answer: Pending[Any]) -> None:
            if answer.error is not None:
                read.fail(answer.error)
                return
            page = batches.newest_entries(answer.result()[1], before, messages, max_bytes)
            missing = messages - sum(entry.count for entry in page if isinstance(entry, Said))
            space = max_bytes - sum(entry.weight for entry in page)
            if page and missing > 0 and space > 0 and page[0].seq > 1:
                self._read_more(shared, page[0].seq, missing, space, [*page, *newer], read)
            else:
                read.resolve([*page, *newer])

        self._ask(shared, "page", [before, messages, max_bytes], answer_bytes=max_bytes + MOST_BYTES).then(found)

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        def parse(answer: Any) -> Mapping[str, Sent]:
            pairs = zip(answer[1][::2], answer[1][1::2], strict=True)
            return {id_.decode(): Sent(room, *map(int, place.split())) for id_, place in pairs}

        return self._ask(self._open[room], "sent", [hash_key(session)]).map(parse)

    def close(self, room: str) -> None:
        shared = self._open.pop(room)
        shared.close()
        if shared.busy and not shared.is_closed:
            self._closing[room] = shared
        else:
            self._forget(shared)

    def _forget(self, shared: SharedRoom) -> None:
        shared.state = State.CLOSED
        for rooms, key in (
            (self._open, shared.key),
            (self._closing, shared.key),
            (self._channels, shared.keys.channel),
        ):
            if rooms.get(key) is shared:
                del rooms[key]
        if shared.shard is not None:
            shared.shard.remove(shared)

    def _ask(
        self, shared: SharedRoom, command: str, arguments: Sequence[Value], *, answer_bytes: int = 0
    ) -> Pending[Any]:
        """Return the answer of the script about a room. It fails with `Refused`."""
        if self._tasks is None:
            return Pending.failed(unavailable(_ENDED))
        answer: Pending[Any] = Pending()

        def answered(answers: Pending[Any]) -> None:
            if answers.error is not None:
                answer.fail(answers.error)
                return
            [result] = answers.result()
            if result[0] == b"error":
                answer.fail(unavailable(result[1].decode(errors="replace")))
            else:
                answer.resolve(result)

        keys = shared.keys.common()
        section = [command, len(keys), len(arguments), *arguments]
        shard = self._shards.for_tag(shared.keys.tag)
        shard.request(section, script=scripts.ROOM, keys=keys, answer_bytes=answer_bytes).then(answered)
        return answer

    # Presence

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        claiming = Claiming(name, hash_key(session), self._nodes.node, quiet, naming_of(room))
        return self._add_naming(room, claiming)

    def rename(self, room: str, key: str, entry: NameChanged, session: str) -> Pending[None]:
        return self._add_naming(room, Renaming(key, entry, hash_key(session), self._nodes.node, naming_of(room)))

    def _add_naming(self, room: str, step: Claiming | Renaming) -> Pending[None]:
        shared = self._open[room]
        if not self._is_available(shared):
            return Pending.failed(unavailable(_NAMES_UNREACHABLE))
        shared.add(step)
        return step.settled

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        shared = self._open.get(room)
        member = None if shared is None else shared.roster.local.pop(key, None)
        if shared is not None and member is not None and not shared.is_closed:
            shared.add(Releasing(key, member.name, member.session, reason, quiet))

    def whisper(self, room: str, key: str, whisper: Whisper, about: str) -> Pending[None]:
        target = self._open[room].roster.remote.get(key)
        if target is None or self._tasks is None:
            return Pending.failed(NotDelivered("nobody here has this name; nothing was sent"))
        number, delivered = self._nodes.whisper(target[0], room, key, whisper, about)
        self._tasks.start_soon(self._nodes.time_out, number)
        return delivered

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        return self._nodes.rooms()
