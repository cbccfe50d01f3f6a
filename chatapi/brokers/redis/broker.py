"""A broker whose rooms live in Redis: any number of servers, each a node, are one chat.

`shared` is a room as one node sees it, `shard` the talk with one Redis server, `nodes` the leases and what nodes say to
each other, `places` where Redis is. The scripts in ``lua`` are where order, names and numbers come from.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final
from urllib.parse import quote

import anyio
import anyio.abc

try:
    from coredis import BaseConnection
    from coredis.exceptions import RedisError
except ImportError:
    raise ImportError("a broker over Redis needs coredis, the extra 'redis': pip install '.[redis]'") from None

from ...core.broker import Past, RoomCount, Sent, SharedRooms, unavailable
from ...core.entries import AnyEntry, AnyKept, Deletion, NameChanged, Said
from ...core.names import naming_of
from ...core.session_keys import hash_key
from ...errors import NotDelivered, Refused, StoreError
from ...events import Whisper
from ...limits import Keep, MiB
from ...pending import Pending
from . import batches
from .nodes import Nodes
from .room import SharedRoom, State
from .shard import AWAY, ROOM, Call, Shard
from .topology import Places, Server, hidden, reason_of
from .turns import MOST_BYTES, Claiming, Deleting, Keys, Node, Releasing, Renaming, Saying, Value

_logger = logging.getLogger("chatapi")

KEEP: Final = Keep(days=30, messages=100_000, bytes=64 * MiB)
"""What Redis keeps of each room, where nothing else is said: its memory is finite."""
_ENDED: Final = "the chat does not run"
_SECRET_FOR: Final = 365 * 24 * 3600
"""Seconds after the start of the last server for which Redis has what the keys of sessions are signed with."""
_GOODBYE: Final = 3.0
"""Seconds that the end waits for what is on its way."""


class RedisBroker:
    """Keeps rooms in the Redis at `url` (`Places` says which URLs there are), shared by all that use the same `prefix`.

    Messages are acknowledged once Redis has them, as durable as it is set up to be, and once they are on `replicas`
    replicas, where that is not 0. Where Redis has not answered for `patience` seconds, messages are refused with
    ``unavailable`` and members are told; everything goes on when it is back. The members of a server that ends
    without a word have left after `lease` seconds. `keep` bounds each room; a room that nobody has said anything in for
    `Keep.days` is forgotten. Redis 7.0 or newer.

    Raises `ValueError` for a URL that is none.
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
            raise ValueError(f"keep is a Keep, such as Keep(days=30), not {keep!r}")
        self._places = Places(url, patience)
        self._url, self._prefix, self._keep, self._replicas = hidden(url), prefix, keep, replicas
        self._patience = patience
        self._publish = "SPUBLISH" if self._places.sharded else "PUBLISH"
        self._rooms: SharedRooms | None = None
        self._open: dict[str, SharedRoom] = {}
        self._closing: dict[str, SharedRoom] = {}
        self._channels: dict[str, SharedRoom] = {}
        self._shards: dict[str, Shard] = {}
        self._numbers = count(1)
        self._node: Node | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._nodes = Nodes(
            secrets.token_urlsafe(9),
            prefix,
            lease,
            self._publish,
            self._shard,
            self._open,
            self._suspect,
            self._renewed,
        )
        self._suspected = False

    @property
    def presence(self) -> RedisBroker:
        """Itself: names and rosters are in Redis too."""
        return self

    def attach(self, rooms: SharedRooms) -> None:
        """Learn whom to speak to."""
        self._rooms = rooms
        self._nodes.attach(rooms)
        self._node = Node(self._nodes.node, rooms, self._publish, self._keep, self._replicas, self._mark, self._forget)

    async def run(self, started: Callable[[], None]) -> None:
        """Talk to Redis until cancelled. Raises `StoreError` where it cannot be reached at the beginning.

        What was submitted before it is cancelled is given some seconds to be kept, and refused otherwise.
        """
        await self._begin()
        ended = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._talk, started, ended)
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

    async def _talk(self, started: Callable[[], None], ended: anyio.Event) -> None:
        """Talk to Redis until `ended`, then until nothing is on its way: what cancels the rest does not end this."""
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    self._shards.clear()
                    for room in self._open.values():  # from an earlier life
                        self._shard(room.keys.tag).add(room)
                    self._make_shards()
                    self._shard(f"node:{self._nodes.node}").subscribe(self._nodes.channel)
                    tasks.start_soon(self._nodes.run)
                    with anyio.move_on_after(self._patience):  # or rooms, and whispers of others, would have to wait
                        await self._nodes.began.wait()
                        await self._shard(f"node:{self._nodes.node}").began.wait()
                    started()
                    await ended.wait()
                    with anyio.move_on_after(_GOODBYE):
                        await self._done()
                        self._nodes.leave()
                        await self._done()
                    tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            self._nodes.stop()
            for room in list(self._open.values()):
                room.give_up(_ENDED)
            for shard in self._shards.values():
                shard.drop()
            self._shards.clear()

    async def _done(self) -> None:
        """Wait until nothing is on its way."""
        rooms, shards = (self._open, self._closing), self._shards
        while any(room.busy for one in rooms for room in one.values()) or any(shard.busy for shard in shards.values()):
            self.collect()
            await anyio.sleep(0.005)

    async def _begin(self) -> None:
        """See that there is a Redis, and one that can do what is asked of it."""
        version = "0"
        try:
            await self._places.look()
            with anyio.fail_after(self._patience):
                async with anyio.create_task_group() as tasks:
                    connection = await self._places.connection(self._places.where("nodes"))
                    await tasks.start(connection.run)
                    version = connection.server_version or version
                    await self._agree_on_secret(connection)
                    tasks.cancel_scope.cancel()
        except* (RedisError, OSError) as group:
            raise StoreError(f"cannot use Redis at {self._url}: {reason_of(group)}") from None
        if int(version.partition(".")[0]) < 7:
            raise StoreError(f"Redis at {self._url} is {version}; 7.0 or newer is needed")
        _logger.info("rooms are kept by Redis at %s; this server is node %s", self._places, self._nodes.node)

    async def _agree_on_secret(self, connection: BaseConnection) -> None:
        """The first server of the chat says what keys of sessions are signed with."""
        key = f"{self._prefix}:{{nodes}}:secret"
        await connection.create_request(b"SET", key, secrets.token_bytes(32), b"NX")
        found: Any = await connection.create_request(b"GETEX", key, b"EX", _SECRET_FOR)
        self.secret = bytes(found or b"")

    # Where rooms are

    def _shard(self, tag: str) -> Shard:
        """The shard for keys with this tag."""
        return self._shard_at(self._places.where(tag))

    def _make_shards(self) -> None:
        """Begin to talk to every server that has rooms: whoever asks something there need not wait."""
        for server in self._places.servers():
            self._shard_at(server)

    def _shard_at(self, server: Server) -> Shard:
        shard = self._shards.get(str(server))
        if shard is None:
            shard = self._shards[str(server)] = Shard(
                str(server),
                lambda: self._places.connection(server),
                sharded=self._places.sharded,
                patience=self._patience,
                replicas=self._replicas,
                number=lambda: next(self._numbers),
                push=self._pushed,
                told=self._told,
                moved=self._moved,
                may_ask=self._may_ask,
            )
            if self._tasks is not None:
                self._tasks.start_soon(shard.run)
        return shard

    async def _moved(self, broken: Shard) -> bool:
        """A connection broke: see whether rooms are elsewhere now; False where the shard is none any more."""
        if not self._places.sharded:
            return True
        try:
            await self._places.look()
        except (RedisError, OSError):
            return True
        self._make_shards()
        for shard in list(self._shards.values()):
            for room in list(shard.rooms):
                if self._shard(room.keys.tag) is not shard:
                    shard.remove(room)
                    self._shard(room.keys.tag).add(room)
                    room.lost()  # it asks there from here on
        here = self._shard(f"node:{self._nodes.node}")
        for shard in self._shards.values():
            (shard.subscribe if shard is here else shard.unsubscribe)(self._nodes.channel)
        if broken.name in map(str, self._places.servers()):
            return True
        del self._shards[broken.name]
        broken.drop()
        return False

    def _may_ask(self) -> bool:
        """Whether rooms may be asked for: not while this node may be taken for dead."""
        if self._nodes.lives:
            return True
        self._nodes.renew()
        return False

    def _suspect(self) -> None:
        """This node may be taken for dead: nothing is delivered before its names are claimed again."""
        self._suspected = True
        for room in self._open.values():
            room.suspect()

    def _renewed(self) -> None:
        self._suspected = False
        self.collect()

    def _mark(self, room: SharedRoom) -> None:
        if room.shard is not None:
            room.shard.mark(room)
        if self._rooms is not None:
            self._rooms.wake()

    def _pushed(self, channel: bytes, data: bytes) -> None:
        if not (self._suspected or self._nodes.lives):
            self._suspect()
        name = channel.decode()
        if (room := self._channels.get(name)) is not None:
            try:
                room.published(data)
            except Exception:
                _logger.exception("an error inside the server, in room %s", room.name)
                room.cut()
        elif name == self._nodes.channel:
            try:
                self._nodes.heard(data)
            except Exception:
                _logger.exception("what another server has said was not understood")

    def _told(self, shard: Shard, detail: str) -> None:
        assert self._rooms is not None
        self._rooms.away([room.key for room in shard.rooms], detail)

    # What rooms ask

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        """See what there is of a room, and be told of it from here on."""
        if self._tasks is None or self._node is None:
            return Pending.failed(unavailable("the chat does not run; use `async with chat`, or serve it"))
        keys = Keys(self._prefix, quote(room, safe=""), self._places.db)
        shard = self._shard(keys.tag)
        if shard.away:
            return Pending.failed(unavailable(AWAY))
        shared = SharedRoom(room, name, epoch, (messages, max_bytes), self._node, keys)
        opened = shared.opened
        self._open[room] = self._channels[keys.channel] = shared
        shard.add(shared)
        if room in self._closing:  # opening it gives back whatever names nobody has here
            self._forget(self._closing[room])
        return opened

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take messages and deletions."""
        assert self._rooms is not None
        shared = self._open[room]
        if self._is_away(shared):
            kept = [entry for entry in entries if isinstance(entry, Said | Deletion)]
            why = AWAY if self._tasks is not None else _ENDED
            self._rooms.refuse(room, kept, unavailable(why))
            return
        for entry in entries:
            if isinstance(entry, Said):
                shared.put(Saying(entry))
            elif isinstance(entry, Deletion):
                shared.put(Deleting(entry))

    def _is_away(self, shared: SharedRoom) -> bool:
        """Whether nothing is kept now."""
        return self._tasks is None or shared.shard is None or bool(shared.shard.away)

    def collect(self) -> None:
        """What was submitted in this round begins its way together."""
        for shard in self._shards.values():
            shard.wake()

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        """Read back."""
        read: Pending[Sequence[AnyKept]] = Pending()
        self._page(self._open[room], before, messages, max_bytes, [], read)
        return read

    def _page(
        self,
        shared: SharedRoom,
        before: int,
        messages: int,
        max_bytes: int,
        newer: list[AnyKept],
        read: Pending[Sequence[AnyKept]],
    ) -> None:
        def found(answer: Any) -> None:
            page = batches.newest(answer[1], before, messages, max_bytes)
            left = messages - sum(entry.count for entry in page if isinstance(entry, Said))
            room = max_bytes - sum(entry.weight for entry in page)
            if page and left > 0 and room > 0 and page[0].seq > 1:  # deletions were among what was counted
                self._page(shared, page[0].seq, left, room, [*page, *newer], read)
            else:
                read.resolve([*page, *newer])

        self._ask(shared, "page", [before, messages, max_bytes], found, read.fail, back=max_bytes + MOST_BYTES)

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        """What a session has said in this room under which ids."""
        sent: Pending[Mapping[str, Sent]] = Pending()

        def found(answer: Any) -> None:
            pairs = zip(answer[1][::2], answer[1][1::2], strict=True)
            sent.resolve({id_.decode(): Sent(room, *map(int, place.split())) for id_, place in pairs})

        self._ask(self._open[room], "sent", [hash_key(session)], found, sent.fail)
        return sent

    def close(self, room: str) -> None:
        """Look at a room no longer, once what is on its way is told."""
        shared = self._open.pop(room)
        shared.close()
        if shared.busy and not shared.is_closed:
            self._closing[room] = shared
        else:
            self._forget(shared)

    def _forget(self, shared: SharedRoom) -> None:
        shared.state = State.CLOSED
        if self._open.get(shared.key) is shared:
            del self._open[shared.key]
        if self._closing.get(shared.key) is shared:
            del self._closing[shared.key]
        if self._channels.get(shared.keys.channel) is shared:
            del self._channels[shared.keys.channel]
        if shared.shard is not None:
            shared.shard.remove(shared)

    def _ask(
        self,
        shared: SharedRoom,
        command: str,
        arguments: Sequence[Value],
        then: Callable[[Any], None],
        failed: Callable[[Refused], None],
        *,
        back: int = 0,
    ) -> None:
        """Ask the script about a room; `back` is as in `Call`."""
        if self._tasks is None:
            failed(unavailable(_ENDED))
            return

        def answered(answer: Any) -> None:
            if isinstance(answer, Refused):
                failed(answer)
            elif answer[0][0] == b"error":
                failed(unavailable(answer[0][1].decode(errors="replace")))
            else:
                then(answer[0])

        keys = shared.keys.fixed()
        section = [command, len(keys), len(arguments), *arguments]
        self._shard(shared.keys.tag).call(Call(answered, section, ROOM, keys, back))

    # Who is there

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        """Ask for a name."""
        shared = self._open[room]
        if self._is_away(shared):
            return Pending.failed(unavailable("what keeps the names does not answer"))
        claiming = Claiming(name, hash_key(session), self._nodes.node, quiet, naming_of(room))
        shared.put(claiming)
        return claiming.settled

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        """Give a name back."""
        shared = self._open.get(room)
        own = None if shared is None else shared.who.ours.pop(key, None)
        if shared is not None and own is not None and not shared.is_closed:
            shared.put(Releasing(key, own.name, own.session, reason, quiet))

    def rename(self, room: str, key: str, entry: NameChanged, session: str) -> Pending[None]:
        """Ask for another name."""
        shared = self._open[room]
        if self._is_away(shared):
            return Pending.failed(unavailable("what keeps the names does not answer"))
        renaming = Renaming(key, entry, hash_key(session), self._nodes.node, naming_of(room))
        shared.put(renaming)
        return renaming.settled

    def whisper(self, room: str, key: str, whisper: Whisper, about: str) -> Pending[None]:
        """Hand a whisper to another node."""
        other = self._open[room].who.others.get(key)
        if other is None or self._tasks is None:
            return Pending.failed(NotDelivered("nobody here is called so; nothing was sent"))
        number, delivered = self._nodes.whisper(other[0], room, key, whisper, about)
        self._tasks.start_soon(self._nodes.forget, number)
        return delivered

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        """Every room that somebody is in."""
        return self._nodes.rooms()
