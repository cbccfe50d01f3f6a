"""A shard: the connection to one Redis server, which carries the requests of its rooms and the published batches.

One round trip runs at a time. The next one has everything that was asked meanwhile; without a cluster, the sections of
all rooms are one script call. A connection that breaks or does not answer in time is replaced, and then every room is
synchronised. If that fails for `patience` seconds, waiting messages are refused and members are told.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import anyio
from coredis import BaseConnection
from coredis.exceptions import ConnectionError as NotConnected
from coredis.exceptions import MovedError, RedisError

from ...core.broker import unavailable
from ...pending import Pending
from . import scripts
from .requests import MOST_ANSWER_BYTES, Request, Requests
from .room import SharedRoom
from .scripts import Section, Value
from .subscriptions import Subscriptions
from .topology import reason_of

_logger = logging.getLogger("chatapi")

UNREACHABLE: Final = "the message store does not answer"
"""The reason that members are given."""
_PING_AFTER: Final = 1.0
"""Seconds without a request after which the server is pinged."""
_BACKOFF, _BACKOFF_CAP = 0.05, 1.0
_WAIT_MS: Final = 100
"""Milliseconds that one WAIT for replicas may take; other requests go between two of them."""
_TIMED_OUT: Final = " timed out after "
_MOST_BYTES: Final = 1024 * 1024
"""Approximate bytes of arguments in one round trip."""


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """The settings that all shards of a node share."""

    sharded: bool
    """Whether they are those of a cluster."""
    patience: float
    """Seconds after which messages are refused."""
    replicas: int
    """The number of replicas that must have a message before it is acknowledged."""
    received: Callable[[bytes, bytes], None]
    """Called with the channel of each published message, and the message."""
    availability_changed: Callable[[Shard, str], None]
    """Called with the reason when requests begin to fail, and with an empty text when they succeed again."""
    may_ask: Callable[[], bool]
    """Returns whether rooms may ask the script, which they may not while the node has no lease."""
    turn_numbers: Iterator[int] = field(default_factory=lambda: count(1))


class Shard:
    """The connection to one server.

    `connect` makes a connection that is not open yet. `connection_broke` refreshes the topology, and returns False if
    this shard is not used any more.
    """

    def __init__(
        self,
        name: str,
        options: ShardOptions,
        connect: Callable[[], Any],
        connection_broke: Callable[[Shard], Awaitable[bool]],
    ) -> None:
        self.name: str = name
        self.rooms: dict[SharedRoom, None] = {}
        self.subscriptions: Subscriptions = Subscriptions(sharded=options.sharded)
        self.trouble: str = ""
        """The reason why requests fail, once they have failed for too long."""
        self.first_connected: anyio.Event = anyio.Event()
        """Set when the first connection is made."""
        self._options, self._connect, self._connection_broke = options, connect, connection_broke
        self._scheduled: dict[SharedRoom, None] = {}
        self._requests = Requests()
        self._work = anyio.Event()
        self._connection: BaseConnection | None = None
        self._hashes: dict[str, bytes] = {}  # of the scripts, by their names
        self._in_round_trip = False
        self._awaiting_replicas: list[
            tuple[SharedRoom, Any]
        ] = []  # answers to give when enough replicas have the writes
        self._awaiting_since = 0.0
        self._clock_offset = 0.0  # seconds by which Redis' wall clock is ahead of our monotonic one, when connected
        self._failing_since: float | None = None
        self._trouble_logged = False
        self._refuses = False  # Redis answers, but with errors

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    @property
    def busy(self) -> bool:
        """Whether there is something to ask, or an answer to come."""
        return self.connected and bool(self._scheduled or self._requests or self._in_round_trip)

    # What to ask

    def schedule(self, room: SharedRoom) -> None:
        """Have the room asked for its next section; call `wake` afterwards."""
        self._scheduled[room] = None

    def wake(self) -> None:
        """Begin a round trip if there is something to ask."""
        if self._scheduled or self._requests:
            self._work.set()

    def request(
        self, arguments: Sequence[Value], *, script: str = "", keys: Sequence[str] = (), answer_bytes: int = 0
    ) -> Pending[Any]:
        """Return the answer to a command, or to a call of a script. It fails with `Refused`.

        Args:
            answer_bytes: the approximate size of the answer, if it may be large. Large answers are asked for last,
                and only a bounded amount in each round trip.
        """
        request = Request(arguments, script, keys, answer_bytes)
        if self.trouble and not self.connected:
            request.fail()
        else:
            self._requests.add(request)
            self._work.set()
        return request.answer

    def add(self, room: SharedRoom) -> None:
        """Take over a room whose keys are on this server."""
        self.rooms[room] = None
        room.shard = self
        self.subscriptions.add(room.keys.channel)
        self.schedule(room)
        self._work.set()

    def remove(self, room: SharedRoom) -> None:
        """Forget a room that is closed, or whose keys are on another server."""
        self._scheduled.pop(room, None)
        if room in self.rooms:
            del self.rooms[room]
            self.subscriptions.remove(room.keys.channel)

    # Connections

    async def run(self) -> None:
        """Connect and make round trips, again and again, until cancelled or not used any more."""
        attempt = 0
        while True:
            since = anyio.current_time()
            self._disconnected(await self._connect_once())
            attempt = 0 if anyio.current_time() - since > _BACKOFF_CAP else attempt + 1
            if not await self._connection_broke(self):
                return
            delay = min(_BACKOFF_CAP, _BACKOFF * 2**attempt) * random.uniform(0.5, 1)
            await anyio.sleep(delay if attempt > 1 else 0)

    async def _connect_once(self) -> str:
        """Use one connection until it breaks; return the reason."""
        reason = "it ended"
        try:
            with anyio.fail_after(self._options.patience) as deadline:
                connection: BaseConnection = await self._connect()
                async with anyio.create_task_group() as tasks:
                    await tasks.start(connection.run)
                    await self._prepare(connection)
                    deadline.deadline = float("inf")
                    self._connection = connection
                    self.subscriptions.connected(connection)
                    for room in self.rooms:
                        room.connection_lost()
                    self.first_connected.set()
                    tasks.start_soon(self._listen, connection)
                    await self._make_round_trips(connection)
        except* (RedisError, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError) as group:
            reason = reason_of(group)
        finally:
            self._connection, self._in_round_trip = None, False
            self.subscriptions.disconnected()
        return reason

    async def _prepare(self, connection: BaseConnection) -> None:
        for name in (scripts.ROOM, scripts.NODES):
            digest: Any = await connection.create_request(b"SCRIPT LOAD", scripts.source(name))
            self._hashes[name] = digest
        time: Any = await connection.create_request(b"TIME")
        self._clock_offset = int(time[0]) + int(time[1]) / 1_000_000 - anyio.current_time()

    async def _listen(self, connection: BaseConnection) -> None:
        # The generator takes a turn of the event loop for each message. Messages that came with it are taken at once.
        buffer = getattr(connection, "_push_message_buffer_out", None)
        async with aclosing(connection.push_messages) as pushes:
            async for kind, *message in pushes:
                self._handle_push(kind, message)
                with suppress(anyio.WouldBlock):
                    while buffer is not None:
                        kind, *message = buffer.receive_nowait()
                        self._handle_push(kind, message)
                self.wake()

    def _handle_push(self, kind: Any, message: Any) -> None:
        if kind in (b"message", b"smessage"):
            self._options.received(message[0], message[1])
        elif kind == b"sunsubscribe":
            self.subscriptions.ended(message[0].decode())

    # Round trips

    async def _make_round_trips(self, connection: BaseConnection) -> None:
        while True:
            self._work = anyio.Event()
            sections = self._take_sections() if self._options.may_ask() and not self._awaiting_replicas else []
            requests = self._requests.take()
            if self._awaiting_replicas:
                await self._round_trip(connection, [], requests)
                await self._check_replicas(connection)
            elif sections or requests:
                await self._round_trip(connection, sections, requests)
            elif self._scheduled:
                await self._refused("this server cannot renew its lease")
            else:
                await self._wait_for_work(connection)

    async def _wait_for_work(self, connection: BaseConnection) -> None:
        with anyio.move_on_after(_PING_AFTER) as waiting:
            await self._work.wait()
        if waiting.cancelled_caught:
            await connection.create_request(b"PING")
            if not self._refuses:
                self._succeeded()

    def _take_sections(self) -> list[tuple[SharedRoom, Section]]:
        sections: list[tuple[SharedRoom, Section]] = []
        size = answer_bytes = 0
        deadline = int((anyio.current_time() + self._clock_offset + self._options.patience) * 1_000_000)
        while self._scheduled and size < _MOST_BYTES and answer_bytes < MOST_ANSWER_BYTES:
            room = next(iter(self._scheduled))
            del self._scheduled[room]
            section = room.next_section(next(self._options.turn_numbers), deadline)
            if section is not None:
                sections.append((room, section))
                answer_bytes += section.answer_bytes
                size += sum(len(value) for value in section.arguments if isinstance(value, bytes))
        return sections

    async def _round_trip(
        self, connection: BaseConnection, sections: list[tuple[SharedRoom, Section]], requests: list[Request]
    ) -> None:
        self._in_round_trip = True
        groups: dict[str, list[tuple[SharedRoom, Section]]] = {}
        for room, section in sections:
            group_key = f"{section.command} {room.key}" if self._options.sharded else section.command
            groups.setdefault(group_key, []).append((room, section))
        calls = [(group, connection.create_request(b"EVALSHA", *self._script_call(group))) for group in groups.values()]
        others = [(request, connection.create_request(*request.command(self._hashes))) for request in requests]
        answers: list[tuple[SharedRoom, Any]] = []
        for group, call in calls:
            found: Any = await call
            answers += zip((room for room, _ in group), found, strict=True)
        if self._options.replicas and answers:
            self._awaiting_replicas, self._awaiting_since, answers = answers, anyio.current_time(), []
        trouble = self._give_answers(answers)
        for request, reply in others:
            result: Any
            try:
                result = await reply
            except MovedError:
                raise
            except RedisError as error:
                result = unavailable(str(error))
                trouble = trouble or (str(error) if request.script else "")
            self._requests.answered(result)
        self._in_round_trip = False
        if trouble:
            await self._refused(trouble)
        elif not self._awaiting_replicas and (calls or any(request.script for request in requests)):
            self._refuses = False
            self._succeeded()

    def _give_answers(self, answers: list[tuple[SharedRoom, Any]]) -> str:
        """Give rooms their answers; return a reason if the script refused one. An error of ours closes its room."""
        trouble = ""
        for room, answer in answers:
            if room.shard is not self:  # it moved to another shard meanwhile, and asks there
                continue
            try:
                trouble = room.answered(answer) or trouble
            except Exception:
                _logger.exception("an error inside the server, in room %s", room.name)
                room.disconnect()
        return trouble

    def _script_call(self, group: list[tuple[SharedRoom, Section]]) -> list[Value]:
        keys = [key for _, section in group for key in section.keys]
        arguments: list[Value] = [group[0][1].command]
        for _, section in group:
            arguments += len(section.keys), len(section.arguments), *section.arguments
        return [self._hashes[scripts.ROOM], len(keys), *keys, *arguments]

    async def _check_replicas(self, connection: BaseConnection) -> None:
        """Give rooms their answers if enough replicas have what this connection has written."""
        found: Any = await connection.create_request(b"WAIT", self._options.replicas, _WAIT_MS)
        if found >= self._options.replicas:
            answers, self._awaiting_replicas = self._awaiting_replicas, []
            if trouble := self._give_answers(answers):
                await self._refused(trouble)
            else:
                self._succeeded()
        elif anyio.current_time() - self._awaiting_since > self._options.patience:
            self._give_up(
                f"only {found} replicas have the messages, and {self._options.replicas} must have them", sent=False
            )

    # Trouble

    def _disconnected(self, reason: str) -> None:
        """Handle a broken connection: what was asked will not be answered."""
        self._awaiting_replicas = []
        self._requests.fail_sent()
        now = anyio.current_time()
        if self._failing_since is None:
            self._failing_since = now
            self._trouble_logged = True
            _logger.warning("the connection to Redis at %s broke: %s", self.name, reason)
        for room in list(self.rooms):
            room.connection_lost()
        if now - self._failing_since >= self._options.patience or _TIMED_OUT in reason:
            self._give_up(reason)

    async def _refused(self, reason: str) -> None:
        """Handle a refusal: Redis answers, but does not do what it is asked."""
        self._refuses = True
        now = anyio.current_time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._options.patience:
            self._give_up(reason)
            raise NotConnected(reason)  # another connection may lead to a server that does
        await anyio.sleep(_BACKOFF)

    def _give_up(self, reason: str, *, sent: bool = True) -> None:
        if not self.trouble:
            _logger.error(
                "Redis at %s cannot be used: %s; messages are refused, and this server tries again", self.name, reason
            )
        if self._failing_since is None:
            self._failing_since = anyio.current_time()
        first, self.trouble, self._trouble_logged = not self.trouble, reason, True
        self._requests.fail_waiting()
        for room in list(self.rooms):
            room.give_up(UNREACHABLE, sent=sent)
        if first:
            self._options.availability_changed(self, f"{UNREACHABLE}; messages are not kept")

    def _succeeded(self) -> None:
        if self._trouble_logged:
            _logger.warning("Redis at %s answers again", self.name)
        self._failing_since, self._trouble_logged = None, False
        if self.trouble:
            self.trouble = ""
            self._options.availability_changed(self, "")

    def drop(self) -> None:
        """Fail every request, because this shard is not used any more."""
        self._requests.fail_sent()
        self._requests.fail_waiting()
