"""`ChatAPI`: a chat inside a program: rooms, doors, bots, hooks."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any, NamedTuple

import anyio
import anyio.abc
import anyio.lowlevel

from .addresses import DEFAULT_ADDRESS, Address, bind, parse_address
from .bots import Bot
from .brokers.memory import InProcessBroker
from .clock import Clock, SystemClock
from .core import views
from .core.admission import Admission
from .core.broker import Broker
from .core.broker_events import BrokerEventHandler
from .core.hooks import Admit, Hooks, OnMessage, OnPresence
from .core.hub import Hub
from .core.origins import LOOPBACK
from .events import Deleted, History
from .limits import Limits
from .past import PastOfRooms
from .pending import Pending
from .protocol.connection_protocol import Door, check_doors
from .protocol.handshake import HandshakeProtocol
from .protocol.text.rendering import TEXT
from .protocol.text.telnet import telnet_door
from .server.listener import Listener, keep_reserve
from .server.log_limit import LogLimit
from .server.poller import Poller
from .tasks import task_group, wait

_logger = logging.getLogger("chatapi")


class Listening(NamedTuple):
    """An address at which a server listens."""

    door: str
    """``"text"``, ``"telnet"``, or the name of a door of the program's own."""
    address: Address


class ChatAPI:
    """A chat: rooms and their members. It belongs to the event loop on which it is first used.

    `echo` and `commands` apply to members whose handshake does not say: whether a sender gets its own
    messages back (None: no), and whether lines that start with ``/`` or ``@`` are commands (None: yes).

    With `machat` the chat behaves as MaChat in Go (docs/how-to/coming-from-go.md): names, rooms and blank lines are
    as there. If they are not given, `echo` is True, `commands` is False, and `Limits.line_bytes` is 64 KiB.

    `trusted` are the addresses and networks (``"10.0.0.0/8"``) that stand for many clients, such as a proxy: the limits
    of one address do not apply to them. Raises `AddressError` for a text that is neither.

    The hooks may be sync or async; while an async one is awaited, that member waits and everybody else goes
    on. `admit` gets every `Handshake`: it returns None to let it in as it is, or a changed one, and raises
    `Refused` (``unauthorized``, ``forbidden``, …) to turn it down. `on_message` gets the `Client` and the text of
    its message: it returns None to pass it, or another text, and raises `Refused`. `on_presence` is told the
    room's name with `Joined`, `Left` or `Renamed`. If a hook fails, or takes longer than `Limits.hook_seconds`,
    only the member that it was called for gets an error (``server_error``).
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        machat: bool = False,
        echo: bool | None = None,
        commands: bool | None = None,
        admit: Admit | None = None,
        on_message: OnMessage | None = None,
        on_presence: OnPresence | None = None,
        broker: Broker | None = None,
        clock: Clock | None = None,
        trusted: Iterable[str] = LOOPBACK,
    ) -> None:
        clock = clock or SystemClock()
        broker = broker or InProcessBroker(clock)
        hooks = Hooks(admit, on_message, on_presence)
        self._hub = Hub(
            limits, clock, broker, _new_key, hooks, machat=machat, echo=echo, commands=commands, trusted=trusted
        )
        broker.attach(BrokerEventHandler(self._hub))
        self._log_limit = LogLimit(clock, self._hub.timers)
        self._poller: Poller | None = None
        self._listeners: list[Listener] = []
        self._listening: list[Listening] = []
        self._starting: anyio.CancelScope | None = None  # of `serve`, until it listens
        self._drained = anyio.Event()  # set to end `serve`
        self._stopped = anyio.Event()  # set when `serve` has ended
        self._runs = self._served = self._failed = False
        self._past = PastOfRooms(self._hub)
        self._block = AsyncExitStack()

    @property
    def limits(self) -> Limits:
        """Its limits."""
        return self._hub.limits

    @property
    def rooms(self) -> list[views.Room]:
        """Every room, sorted by name; those included that are empty and keep their history."""
        return [views.Room(self._hub.rooms[key]) for key in sorted(self._hub.rooms)]

    def room(self, name: str) -> views.Room | None:
        """Return the room of this name, in any spelling, if there is one."""
        room = self._hub.room(name)
        return None if room is None else views.Room(room)

    @property
    def listening(self) -> list[Listening]:
        """The addresses at which it listens now."""
        return self._listening.copy()

    @property
    def connections(self) -> int:
        """The number of open connections, before and after their handshake."""
        return len(self._hub.connections)

    @property
    def refusals(self) -> Mapping[str, int]:
        """How often each code ended a connection that had not joined a room: a `RefusalCode`, or ``flood``."""
        return dict(self._hub.refusals)

    @property
    def disconnects(self) -> Mapping[str, int]:
        """How often each code of `DISCONNECTS` ended a membership, since the beginning."""
        return dict(self._hub.disconnects)

    async def __aenter__(self) -> ChatAPI:
        """Run the chat without doors for as long as the block lasts; `serve` does so by itself.

        A chat that is not served needs this if its broker has tasks or threads, as a durable one has, or if it has
        async hooks. Raises the errors of the broker's `run`, such as `StoreError`, and `RuntimeError` (it runs
        already).
        """
        stack = AsyncExitStack()
        await stack.enter_async_context(self._running())
        stack.push_async_callback(self._settled)
        self._block = stack
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        """Wait until all messages are kept, for `Limits.drain` seconds at most, and stop."""
        return await self._block.__aexit__(*exception)

    @asynccontextmanager
    async def join(
        self, name: str, room: str, *, history: int = 0, echo: bool = False, reads: bool = True
    ) -> AsyncIterator[Bot]:
        """Put a member of the program's own into a room, which is created if it does not exist; it leaves at the end.

        It reads the last `history` messages of the room first; with `echo` it reads its own messages too. With
        ``reads=False`` it only speaks: it cannot be iterated, nothing is kept for it, nobody waits for it, and whispers
        to it are refused. Raises `Refused` (``bad_name``, ``bad_room``, ``name_taken``, ``room_full``,
        ``server_full``, ``draining``). Works without `serve` as well.
        """
        hub = self._hub
        if self._poller is None:
            hub.timers.run(hub.clock.monotonic())  # nothing else runs them if the chat does not run
        admission = Admission(hub, hub.naming.name(name), hub.naming.room(room))
        await wait(admission.ready)
        bot = Bot(lambda bot: admission.enter(bot, TEXT, echo, history if reads else 0), hub, reads=reads)
        try:
            yield bot
        finally:
            bot.leave()

    async def history(self, room: str, *, before: int | None = None, limit: int = 100) -> History:
        """Return a page of a room's history: the newest `limit` messages, or the newest ones before the seq `before`.

        It reaches as far back as the broker keeps them, and opens the room if it is not open. Raises `Refused`
        (``bad_room``, ``server_full``; ``unavailable`` if it cannot be read).
        """
        return await self._past.history(room, before, limit)

    async def delete(self, room: str, seq: int, name: str) -> Deleted:
        """Delete a message: its text is emptied, on disk too, and a `Deleted` by `name` follows in the room's log.

        Returns once that is kept; if it is cancelled, the message may be deleted or not. Raises `NoSuchMessage` if the
        room has no message of that number, or its text is empty already, and `Refused` (``bad_name``, ``bad_room``;
        ``unavailable`` if it cannot be kept). Of several calls for one message at the same time, also on other servers
        that share the room, one succeeds, and the others raise `NoSuchMessage`.
        """
        return await self._past.delete(room, seq, name)

    async def _settled(self) -> None:
        if self._poller is not None:
            with self._poller.within(self.limits.drain):
                await self._poller.until(lambda: all(room.settled for room in self._hub.rooms.values()))

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Run the broker and the rounds for as long as the block lasts."""
        if self._runs:
            raise RuntimeError("this chat is running already")
        self._runs, self._failed = True, False
        poller = Poller(self._hub)
        self._log_limit.begin()
        try:
            async with task_group() as tasks:

                async def run_broker(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                    await self._watched(lambda: self._hub.broker.run(task_status.started))

                def spawn(awaitable: Awaitable[object], /, *, shield: bool = False) -> Pending[object]:
                    pending: Pending[object] = Pending()
                    tasks.start_soon(self._await, awaitable, pending, shield)
                    return pending

                await tasks.start(run_broker)
                self._hub.spawn = spawn
                self._poller = poller
                tasks.start_soon(self._watched, poller.run)
                try:
                    yield
                finally:
                    self._hub.tell()  # the poller may be cancelled already
                tasks.cancel_scope.cancel()
        finally:
            for room in self._hub.rooms.values():
                room.unattended()
            self._runs, self._poller = False, None
            poller.close()
            self._hub.tell()
            self._log_limit.end()

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this work. If it fails, note that before other tasks are cancelled because of it."""
        try:
            await work()
        except Exception:
            self._failed = True
            raise

    async def serve(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        telnet: str | None = None,
        lobby: str = "lounge",
        doors: Mapping[str, tuple[str, Door]] | None = None,
        task_status: anyio.abc.TaskStatus[list[Listening]] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Let clients in at `address`, and people with ``telnet`` at `telnet`, until drained or cancelled.

        `doors` are the program's own: by a name, the address at which to listen and the door (docs/how-to/doors.md).

        ``await task_group.start(chat.serve, …)`` returns the addresses at which it listens, or an empty list if `drain`
        was called while it started. Cancelling it closes every connection at once, without telling the clients; the
        members leave with the code ``draining``, and `on_presence` is told of each before this returns. `drain` ends it
        in good order. Raises `AddressError`, `OSError` (an address is in use), `StoreError` (the file of a durable
        broker), `Refused` (the lobby's name), `ValueError` (one of `doors` is malformed) and
        `RuntimeError` (this chat is being served already); later, the errors of the broker's `run`.
        """
        if self._served:
            raise RuntimeError("this chat is being served already")
        self._served, self._drained = True, anyio.Event()
        if self._stopped.is_set():
            self._stopped = anyio.Event()
        try:
            opened: list[tuple[str, Door, Address]] = [("text", HandshakeProtocol, parse_address(address))]
            # made also without a telnet door, so that a wrong name of the lobby is always an error
            for_people = telnet_door(lobby, self._hub.naming)
            if telnet is not None:
                opened.append(("telnet", for_people, parse_address(telnet)))
            opened += check_doors(doors)
            with anyio.CancelScope() as starting:
                self._starting = starting
                async with self._running() if self._poller is None else nullcontext():
                    await anyio.lowlevel.checkpoint()  # ends here if `drain` was called meanwhile
                    await self._serve(opened, task_status)
        finally:
            self._starting = None
            self._served = False
            self._stopped.set()
        if starting.cancelled_caught:
            task_status.started([])

    async def _serve(
        self, doors: list[tuple[str, Door, Address]], task_status: anyio.abc.TaskStatus[list[Listening]]
    ) -> None:
        try:
            self._listening = [Listening(name, where) for name, door, at in doors for where in self._listen(door, at)]
            self._hub.listening = dict(reversed(self._listening))  # the first of each
            keep_reserve(self._hub)
            self._starting = None
            task_status.started(self.listening)
            await self._drained.wait()
        finally:
            self._drained.set()
            self._stop_listening()
            self._hub.cut("server_error" if self._failed else "draining")
            self._hub.draining = False

    async def stopped(self) -> None:
        """Wait until `serve` has ended: drained, cancelled or failed.

        Returns at once if it has ended and was not called again. Before the first `serve`, it waits for that one.
        """
        await self._stopped.wait()

    async def drain(self) -> None:
        """Stop serving in good order: let nobody in, deliver what was received, tell everybody, bots too, and close.

        This takes `Limits.drain` seconds at most; then, or if it is cancelled, the connections that are left are closed
        at once. `serve` returns a moment later: `stopped` waits for that. If `serve` is still starting, it ends before
        it listens. A second call waits for the first one. Without effect if the chat is not being served.
        """
        poller, hub, drained = self._poller, self._hub, self._drained
        if not self._served or drained.is_set():
            return
        if self._starting is not None:
            self._starting.cancel()
            self._dismiss()
            return
        if hub.draining:
            await drained.wait()
            return
        assert poller is not None
        hub.draining = True
        _logger.info("draining: no new members can join, and %d connections are told", len(hub.connections))
        self._stop_listening()
        try:
            with poller.within(self.limits.drain):
                for connection in list(hub.connections):
                    hub.call(connection)
                with poller.within(self.limits.drain / 2):
                    await poller.until(
                        lambda: (
                            not hub.busy
                            and all(room.settled for room in hub.rooms.values())
                            and not any(connection.parked for connection in hub.connections)
                        )
                    )
                if drained.is_set():  # `serve` was cancelled meanwhile
                    return
                for connection in list(hub.connections):
                    connection.disconnect("draining")
                self._dismiss()
                await poller.until(lambda: not hub.connections)
        finally:
            if drained is self._drained:  # otherwise `serve` was cancelled, and called again
                self._dismiss()
            drained.set()

    def _dismiss(self) -> None:
        """Tell every member that is left, such as a bot, that the server is shutting down."""
        for client in [client for room in self._hub.rooms.values() for client in room.members]:
            client.disconnect("draining")

    async def _await(self, awaitable: Awaitable[object], pending: Pending[object], shield: bool) -> None:
        """Await an async hook; set the value of `pending` to its result, or to the exception that it raised."""
        assert self._poller is not None
        seconds = self.limits.hook_seconds
        result: object = TimeoutError(f"the hook took longer than {seconds:g} s")
        try:
            scope = anyio.move_on_after(seconds, shield=True) if shield else self._poller.within(seconds)
            with scope:
                result = await awaitable
        except Exception as error:
            result = error
        except anyio.get_cancelled_exc_class():
            await anyio.lowlevel.checkpoint_if_cancelled()  # raises if this task was cancelled
            result = RuntimeError("something that the hook awaited was cancelled")
        pending.resolve(result)

    def _listen(self, door: Door, address: Address) -> list[Address]:
        assert self._poller is not None
        sockets = bind(address, self.limits)
        self._listeners += [Listener(sock, door, self._hub, self._poller.selector) for sock in sockets]
        self._poller.eager = list(self._listeners)
        return [Address(*sock.getsockname()[:2]) for sock in sockets]

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._poller is not None:
            self._poller.eager = []
        self._listening.clear()
        self._hub.listening = {}


def _new_key() -> str:
    return secrets.token_urlsafe(16)
