"""A shard: one connection to one Redis server, over which its rooms ask and are told, for as long as it takes.

What rooms want is gathered while the last round trip runs, and is one call of the script where one server has all
rooms. A connection that breaks, or that does not answer in time, is made again, and every room synchronised. Where that
does not work for a while, whatever waits is refused, and members are told.
"""

from __future__ import annotations

import importlib.resources
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, NamedTuple

import anyio
from coredis import BaseConnection
from coredis.exceptions import ConnectionError as NotConnected
from coredis.exceptions import MovedError, RedisError

from ...core.broker import unavailable
from .room import SharedRoom
from .topology import reason_of
from .turns import Section, Value

_logger = logging.getLogger("chatapi")

ROOM: Final = "room"
NODES: Final = "nodes"
AWAY: Final = "what keeps the messages does not answer"
"""What members are told."""
_PING_AFTER: Final = 1.0
"""Seconds without anything to ask after which the server is asked for a sign of life."""
_BACKOFF, _BACKOFF_CAP = 0.05, 1.0
_WAIT_MS: Final = 100
"""Milliseconds that replicas have, until something else is asked in between."""
_TIMED_OUT: Final = " timed out after "
_MOST_BYTES: Final = 1024 * 1024
"""Bytes of arguments in one call, about."""
_MOST_BACK: Final = 8 * 1024 * 1024
"""Bytes in its answer, about: Redis ends a connection that hears of messages and has 32 MB before it, by default."""


class Call(NamedTuple):
    """Something else to ask: a command, or a script where `script` names one."""

    then: Callable[[Any], None]
    """Gets the answer, or an exception."""
    arguments: Sequence[Value]
    script: str = ""
    keys: Sequence[str] = ()
    back: int = 0
    """Bytes in its answer, about, where they may be many: such calls come last, and only so many at once."""


class Shard:
    """Asks one server. `connect` makes a connection, `push` gets every message with its channel."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Any],
        *,
        sharded: bool,
        patience: float,
        replicas: int,
        number: Callable[[], int],
        push: Callable[[bytes, bytes], None],
        told: Callable[[Shard, str], None],
        moved: Callable[[Shard], Awaitable[bool]],
        may_ask: Callable[[], bool],
    ) -> None:
        self.name: str = name
        self.rooms: dict[SharedRoom, None] = {}
        self.channels: dict[str, None] = {}
        """What is subscribed to."""
        self.away: str = ""
        """Why it does not answer, once that has taken too long."""
        self.began: anyio.Event = anyio.Event()
        """Set once it was connected for the first time."""
        self._connect, self._moved, self._may_ask = connect, moved, may_ask
        self._sharded, self._patience, self._replicas = sharded, patience, replicas
        self._number, self._push, self._told = number, push, told
        self._dirty: dict[SharedRoom, None] = {}
        self._users: Counter[str] = Counter()  # how many rooms listen to a channel
        self._leaving: Counter[str] = Counter()  # ends of subscriptions that were asked for
        self._calls: deque[Call] = deque()
        self._called: deque[Call] = deque()  # those that are asked and not answered
        self._work = anyio.Event()
        self._connection: BaseConnection | None = None
        self._failing_since: float | None = None
        scripts = importlib.resources.files("chatapi.brokers.redis").joinpath("lua")
        self._sources = {name: scripts.joinpath(f"{name}.lua").read_text() for name in (ROOM, NODES)}
        self._scripts: dict[str, bytes] = {}
        self._asking = False
        self._said = False  # whether the log has it that something is wrong
        self._unsure: list[tuple[SharedRoom, Any]] = []  # answers that wait for replicas
        self._unsure_since = 0.0
        self._ahead = 0.0  # of our clock, that of Redis
        self._refuses = False  # it answers, but does not do what it is asked

    @property
    def connected(self) -> bool:
        """Whether it can be asked."""
        return self._connection is not None

    @property
    def busy(self) -> bool:
        """Whether it has something to ask, or waits for an answer."""
        return self.connected and bool(self._dirty or self._calls or self._asking)

    # What is wanted

    def mark(self, room: SharedRoom) -> None:
        """This room may have something to ask; `wake` follows."""
        self._dirty[room] = None

    def wake(self) -> None:
        """There is something to do."""
        if self._dirty or self._calls:
            self._work.set()

    def call(self, call: Call) -> None:
        """Ask something; where there is no connection it waits for one, but not for long."""
        if self.away and not self.connected:
            _fail([call])
            return
        self._calls.append(call)
        self._work.set()

    def add(self, room: SharedRoom) -> None:
        """A room whose keys are here."""
        self.rooms[room] = None
        room.shard = self
        self._users[room.keys.channel] += 1
        self.subscribe(room.keys.channel)
        self.mark(room)
        self._work.set()

    def remove(self, room: SharedRoom) -> None:
        """A room that nobody looks at, or that is elsewhere now."""
        channel = room.keys.channel
        self._dirty.pop(room, None)
        if room in self.rooms:
            del self.rooms[room]
            self._users[channel] -= 1
        if self._users[channel] <= 0:  # it may have been opened again
            del self._users[channel]
            self.unsubscribe(channel)

    def subscribe(self, channel: str) -> None:
        """Be told what is published there."""
        if channel not in self.channels:
            self.channels[channel] = None
            self._send("SSUBSCRIBE" if self._sharded else "SUBSCRIBE", channel)

    def unsubscribe(self, channel: str) -> None:
        """Be told no longer."""
        if channel in self.channels:
            del self.channels[channel]
            if self.connected:
                self._leaving[channel] += 1
            self._send("SUNSUBSCRIBE" if self._sharded else "UNSUBSCRIBE", channel)

    def _send(self, command: str, channel: str) -> None:
        if self._connection is not None and self._connection.usable:
            self._connection.send_command(command.encode(), channel)

    # Talking

    async def run(self) -> None:
        """Keep talking until cancelled."""
        attempt = 0
        while True:
            since = anyio.current_time()
            self._broke(await self._once())
            attempt = 0 if anyio.current_time() - since > _BACKOFF_CAP else attempt + 1
            if not await self._moved(self):
                return
            delay = min(_BACKOFF_CAP, _BACKOFF * 2**attempt) * random.uniform(0.5, 1)
            await anyio.sleep(delay if attempt > 1 else 0)

    async def _once(self) -> str:
        """One connection, until it ends; returns why it did."""
        reason = "it ended"
        try:
            with anyio.fail_after(self._patience) as deadline:
                connection: BaseConnection = await self._connect()
                async with anyio.create_task_group() as tasks:
                    await tasks.start(connection.run)
                    for name, source in self._sources.items():
                        self._scripts[name] = await connection.create_request(b"SCRIPT LOAD", source)  # type: ignore[assignment]
                    seconds, micros = await self._time(connection)
                    self._ahead = seconds + micros / 1_000_000 - anyio.current_time()
                    deadline.deadline = float("inf")
                    self._connection = connection
                    self._leaving.clear()
                    for channel in self.channels:
                        self._send("SSUBSCRIBE" if self._sharded else "SUBSCRIBE", channel)
                    for room in self.rooms:
                        room.lost()
                    self.began.set()
                    tasks.start_soon(self._listen, connection)
                    await self._talk(connection)
        except* (RedisError, OSError, anyio.ClosedResourceError, anyio.BrokenResourceError) as group:
            reason = reason_of(group)
        finally:
            self._connection, self._asking = None, False
        return reason

    async def _time(self, connection: BaseConnection) -> tuple[int, int]:
        """What the clock of Redis says."""
        answer: Any = await connection.create_request(b"TIME")
        return int(answer[0]), int(answer[1])

    async def _listen(self, connection: BaseConnection) -> None:
        # Its generator takes a turn of the event loop for each push: what has come with one is taken without.
        buffer = getattr(connection, "_push_message_buffer_out", None)
        async with aclosing(connection.push_messages) as pushes:
            async for kind, *message in pushes:
                self._hear(kind, message)
                with suppress(anyio.WouldBlock):
                    while buffer is not None:
                        kind, *message = buffer.receive_nowait()
                        self._hear(kind, message)
                self.wake()

    def _hear(self, kind: Any, message: Any) -> None:
        if kind in (b"message", b"smessage"):
            self._push(message[0], message[1])
        elif kind == b"sunsubscribe":
            self._left(message[0].decode())

    def _left(self, channel: str) -> None:
        """A subscription has ended: as was asked for, or because the slot has moved to another shard."""
        if self._leaving[channel]:
            self._leaving[channel] -= 1
        elif channel in self.channels:
            raise MovedError("0 elsewhere:0")

    async def _talk(self, connection: BaseConnection) -> None:
        while True:
            self._work = anyio.Event()
            sections = self._sections() if self._may_ask() and not self._unsure else []
            calls = self._take_calls()
            if self._unsure:
                await self._ask(connection, [], calls)
                await self._see_replicas(connection)
                continue
            if self._dirty and not (sections or calls):
                await self._troubled("this server cannot renew its lease")
                continue
            if not (sections or calls):
                with anyio.move_on_after(_PING_AFTER) as quiet:
                    await self._work.wait()
                if quiet.cancelled_caught:
                    await connection.create_request(b"PING")
                    if not self._refuses:
                        self._works()
                continue
            await self._ask(connection, sections, calls)

    def _take_calls(self) -> deque[Call]:
        """Take the calls for the next round trip, which go beside the rooms' sections."""
        small, large, later = deque[Call](), deque[Call](), deque[Call]()
        back = 0
        for call in self._calls:
            back += call.back
            (small if not call.back else large if back <= _MOST_BACK or not large else later).append(call)
        self._calls = later
        return small + large

    def _sections(self) -> list[tuple[SharedRoom, Section]]:
        found: list[tuple[SharedRoom, Section]] = []
        size = back = 0
        until = int((anyio.current_time() + self._ahead + self._patience) * 1_000_000)
        while self._dirty and size < _MOST_BYTES and back < _MOST_BACK:
            room = next(iter(self._dirty))
            del self._dirty[room]
            section = room.next(self._number(), until)
            if section is not None:
                found.append((room, section))
                back += section.back
                size += sum(len(value) for value in section.arguments if isinstance(value, bytes))
        return found

    async def _ask(
        self, connection: BaseConnection, sections: list[tuple[SharedRoom, Section]], calls: deque[Call]
    ) -> None:
        """One round trip."""
        self._asking, self._called = True, calls.copy()
        together: dict[str, list[tuple[SharedRoom, Section]]] = {}
        for room, section in sections:
            together.setdefault(f"{section.command} {room.key}" if self._sharded else section.command, []).append(
                (room, section)
            )
        asked = [(group, connection.create_request(b"EVALSHA", *self._script(group))) for group in together.values()]
        others = [(call, connection.create_request(*self._command(call))) for call in calls]
        answers: list[tuple[SharedRoom, Any]] = []
        for group, request in asked:
            found: Any = await request
            answers += zip((room for room, _ in group), found, strict=True)
        if self._replicas and answers:
            self._unsure, self._unsure_since, answers = answers, anyio.current_time(), []
        trouble = self._answer(answers)
        for call, request in others:
            result: Any
            try:
                result = await request
            except MovedError:
                raise
            except RedisError as error:
                result = unavailable(str(error))
                trouble = trouble or (str(error) if call.script else "")
            self._called.popleft()
            _tell(call, result)
        self._asking = False
        if trouble:
            await self._troubled(trouble)
        elif not self._unsure and (asked or any(call.script for call in calls)):
            self._refuses = False
            self._works()

    def _answer(self, answers: list[tuple[SharedRoom, Any]]) -> str:
        """Give rooms their answers; an error of ours costs a room its members, who come back to it."""
        trouble = ""
        for room, answer in answers:
            if room.shard is not self:  # it has moved meanwhile, and asks there
                continue
            try:
                trouble = room.answered(answer) or trouble
            except Exception:
                _logger.exception("an error inside the server, in room %s", room.name)
                room.cut()
        return trouble

    def _script(self, group: list[tuple[SharedRoom, Section]]) -> list[Value]:
        keys = [key for _, section in group for key in section.keys]
        arguments: list[Value] = [group[0][1].command]
        for _, section in group:
            arguments += len(section.keys), len(section.arguments), *section.arguments
        return [self._scripts[ROOM], len(keys), *keys, *arguments]

    def _command(self, call: Call) -> list[Any]:
        if call.script:
            return [b"EVALSHA", self._scripts[call.script], len(call.keys), *call.keys, *call.arguments]
        command, *arguments = call.arguments
        return [str(command).encode(), *arguments]

    async def _see_replicas(self, connection: BaseConnection) -> None:
        """See whether what this connection has written is on enough replicas: then rooms get their answers."""
        found: Any = await connection.create_request(b"WAIT", self._replicas, _WAIT_MS)
        if found >= self._replicas:
            answers, self._unsure = self._unsure, []
            if trouble := self._answer(answers):
                await self._troubled(trouble)
            else:
                self._works()
        elif anyio.current_time() - self._unsure_since > self._patience:
            self._give_up(f"it has {found} replicas that follow, of {self._replicas}", asked=False)

    # How it is

    def _broke(self, reason: str) -> None:
        """The connection is gone, and with it the answers to what was asked."""
        called, self._called = self._called, deque()
        self._unsure = []
        _fail(called)
        now = anyio.current_time()
        if self._failing_since is None:
            self._failing_since = now
            self._said = True
            _logger.warning("the connection to Redis at %s broke: %s", self.name, reason)
        for room in list(self.rooms):
            room.lost()
        if now - self._failing_since >= self._patience or _TIMED_OUT in reason:
            self._give_up(reason)

    async def _troubled(self, reason: str) -> None:
        """The server answers, but does not do what it is asked."""
        self._refuses = True
        now = anyio.current_time()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._patience:
            self._give_up(reason)
            raise NotConnected(reason)  # another connection may lead to a server that does
        await anyio.sleep(_BACKOFF)

    def _give_up(self, reason: str, *, asked: bool = True) -> None:
        if not self.away:
            _logger.error("Redis at %s cannot be used: %s; senders are told, and it is tried again", self.name, reason)
        if self._failing_since is None:
            self._failing_since = anyio.current_time()
        first, self.away, self._said = not self.away, reason, True
        calls, self._calls = self._calls, deque()
        _fail(calls)
        for room in list(self.rooms):
            room.give_up(AWAY, asked=asked)
        if first:
            self._told(self, f"{AWAY}; nothing that is said is kept")

    def _works(self) -> None:
        if self._said:
            _logger.warning("Redis at %s answers again", self.name)
        self._failing_since, self._said = None, False
        if self.away:
            self.away = ""
            self._told(self, "")

    def drop(self) -> None:
        """Fail every call, because this shard is no longer used."""
        calls = (*self._called, *self._calls)
        self._called, self._calls = deque(), deque()
        _fail(calls)


def _fail(calls: Iterable[Call]) -> None:
    for call in calls:
        _tell(call, unavailable("Redis does not answer"))


def _tell(call: Call, answer: Any) -> None:
    try:
        call.then(answer)
    except Exception:
        _logger.exception("an error inside the server, with an answer of Redis")
