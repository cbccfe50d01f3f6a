"""The client's connection with its socket: opens it, reads, writes, closes it, and makes it again when it breaks.

One task runs `Reconnector.run`. Code that gives it something to do (adds a request, takes an event, begins to close)
calls `wake`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import SocketStream

from ..addresses import Address, reason
from ..errors import DISCONNECTS, Disconnect, Disconnected, RefusalCode, Refused
from ..limits import READ_BYTES
from .event_queue import EventQueue, Signal
from .events import EventsUnread, Lost, ProtocolError, State, Unreachable
from .protocol import ClientProtocol

_SOCKET_ERRORS: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_TEMPORARY: Final = (
    RefusalCode.DRAINING,
    RefusalCode.SERVER_FULL,
    RefusalCode.ROOM_FULL,
    RefusalCode.HANDSHAKE_TIMEOUT,
    RefusalCode.SERVER_ERROR,
    RefusalCode.UNAVAILABLE,
)
"""Refusals after which a client that was in the room tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times of a connection, in seconds; `chatapi.connect` explains them."""

    connect_timeout: float
    close_timeout: float
    ping_after: float
    ping_timeout: float
    backoff: float
    backoff_cap: float

    def delay(self, attempt: int) -> float:
        """Return the seconds before an attempt (0, 1, 2 …).

        They are random from 0 to the bound (full jitter), so that many clients do not come back at the same moment.
        """
        return random.uniform(0, min(self.backoff_cap, self.backoff * 2.0 ** min(attempt, 60)))


class Reconnector:
    """Runs a `ClientProtocol` over one connection after the other, and puts its events into an `EventQueue`."""

    def __init__(
        self, protocol: ClientProtocol, events: EventQueue, address: Address, *, reconnect: bool, timing: Timing
    ) -> None:
        self.state: State = State.CONNECTING
        self.ended: Callable[[], Disconnected] | None = None
        """Makes the error with the reason of the end; None before the end."""
        self._protocol = protocol
        self._events = events
        self._address = address
        self._reconnect = reconnect
        self._timing = timing
        self._attempt = 0
        self._stream: SocketStream | None = None
        self._scope = anyio.CancelScope()
        self._write_signal = Signal()
        self._finished = anyio.Event()

    def wake(self) -> None:
        """Have the task of `run` look for something to do."""
        self._write_signal.set()
        self._events.changed.set()

    async def open(self) -> None:
        """Connect and shake hands.

        Raises `Refused`, `Unreachable`, `ProtocolError`, and `Disconnected` if the server answers with a `bye`.
        """
        welcomed = False
        try:
            with anyio.fail_after(self._timing.connect_timeout):
                await self._handshake()
                welcomed = True
        except TimeoutError:
            raise Unreachable(self._no_welcome()) from None
        except ProtocolError as error:
            raise ProtocolError(f"{self._address} {error}") from None
        except (*_SOCKET_ERRORS, UnicodeError) as error:
            if said := self._protocol.wrong_server:
                raise ProtocolError(f"{self._address} {said}") from None
            why = reason(error) if isinstance(error, OSError) else str(error)
            why = why or "the connection ended during the handshake"
            raise Unreachable(f"cannot reach {self._address}: {why}") from error
        finally:
            if not welcomed:
                await self.abort()
        self.state = State.CONNECTED

    def _no_welcome(self) -> str:
        """Return the text of the error if the handshake has timed out."""
        none = f"{self._address} sent no welcome within {self._timing.connect_timeout:g} s"
        if self._stream is None:
            return none
        silent = "accepts connections and sends nothing: it may be MaChat in Go, or another kind of server"
        return f"{none}: it {self._protocol.wrong_server or silent}"

    async def _handshake(self) -> None:
        protocol = self._protocol
        self._stream = await anyio.connect_tcp(self._address.host or "localhost", self._address.port)
        with suppress(anyio.BrokenResourceError):  # a server that refuses at once may have sent its reason
            await self._stream.send(protocol.handshake())
        while not protocol.in_room:
            for event in protocol.receive_data(await self._stream.receive(READ_BYTES)):
                self._events.put(event)
                break  # that was the welcome; `_read` handles the rest, when the queue has space
            if protocol.bye is not None:
                raise protocol.bye

    async def abort(self) -> None:
        """Close the socket at once."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with anyio.CancelScope(shield=True):  # it does not wait, and a cancellation would leave the socket open
                await anyio.aclose_forcefully(stream)

    async def run(self) -> None:
        """Use connections, one after the other, until the program closes or the server ends it for good."""
        error: Disconnected | None = None
        try:
            with self._scope:
                while True:
                    reason = await self._use_connection()
                    if self._may_end():
                        break
                    # Only this client knows its session: a connection that replaced ours was an older attempt of ours.
                    may_return = reason.reason.reconnect or reason.reason.code == "replaced"
                    if not (self._reconnect and may_return):
                        raise reason
                    self.state = State.RECONNECTING
                    self._events.put(Lost(reason.reason, reason.detail))
                    await self._open_again(reason.reason.after)
                    if self._may_end():
                        break
        except Disconnected as reason:
            error = reason
        finally:
            self._finish(error)
            await self.abort()

    async def close(self) -> None:
        """Say goodbye when everything is answered, and wait for the end; after `close_timeout`, end at once."""
        self._protocol.leaving = True
        self._events.stop()
        self.wake()
        with anyio.move_on_after(self._timing.close_timeout):
            await self._finished.wait()
        self._scope.cancel()
        await self._finished.wait()

    def _may_end(self) -> bool:
        return self._protocol.leaving and not self._protocol.requests.awaited

    def _finish(self, error: Disconnected | None) -> None:
        self.state = State.CLOSED
        reason, detail = DISCONNECTS["bye"], "this connection was closed"
        if error is not None:
            reason, detail = error.reason, error.detail
        cause = None if error is None else error.__cause__

        def ended() -> Disconnected:
            again = Disconnected(reason, detail)
            again.__cause__ = cause
            return again

        self.ended = ended
        self._protocol.requests.fail_all(ended)
        self._events.end(None if error is None or self._protocol.leaving else ended)
        self._finished.set()

    async def _open_again(self, after: float) -> None:
        """Connect again, in as many attempts as it takes. Raises `Disconnected` if further attempts are useless."""
        while True:
            await self._wait_for_space()
            with anyio.move_on_after(after + self._timing.delay(self._attempt)):
                while not self._may_end():
                    await self._events.changed.wait()
            if self._may_end():
                return
            after = 0.0
            self._attempt += 1
            try:
                await self.open()
                return
            except Refused as refused:
                waits = refused.code == RefusalCode.NAME_TAKEN and refused.after is not None
                if not (waits or refused.code in _TEMPORARY):
                    row = Disconnect(str(refused.code), refused.detail, reconnect=False, after=0, websocket=4000)
                    raise Disconnected(row, refused.detail) from refused
                self._attempt -= waits
                after = refused.after or 0.0
            except Disconnected as bye:
                if not bye.reason.reconnect:
                    raise
                after = bye.reason.after
            except (Unreachable, ProtocolError):
                pass

    async def _use_connection(self) -> Disconnected:
        """Read and write on one connection, from its welcome to its end; return the reason of the end."""
        stream = self._stream
        assert stream is not None
        since = anyio.current_time()
        reason = _connection_lost("the connection broke")  # for type checkers; `_read` always returns a reason
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, stream)
            reason = await self._read(stream)
            tasks.cancel_scope.cancel()
        await self.abort()
        self._protocol.connection_lost()
        if anyio.current_time() - since >= self._timing.backoff_cap:
            self._attempt = 0  # a connection that breaks sooner does not count as a success
        return reason

    async def _write(self, stream: SocketStream) -> None:
        try:
            while not self._protocol.bye_sent:
                now = anyio.current_time()
                if data := self._protocol.data_to_send(now):
                    await stream.send(data)
                else:
                    with anyio.CancelScope(deadline=self._protocol.requests.next_attempt(now)):
                        await self._write_signal.wait()
            await stream.send_eof()
        except _SOCKET_ERRORS:
            pass  # `_read` finds the reason

    async def _read(self, stream: SocketStream) -> Disconnected:
        protocol, timing = self._protocol, self._timing
        pinged = False
        data = b""
        try:
            while True:
                for event in protocol.receive_data(data):
                    self._events.put(event)
                    await self._wait_for_space()
                if protocol.bye is not None:
                    return protocol.bye
                self._write_signal.set()  # an answer may allow the next request
                await self._wait_for_space()
                silence = timing.ping_timeout if pinged else timing.ping_after
                with anyio.move_on_after(silence) as scope:
                    data = await stream.receive(READ_BYTES)
                if not scope.cancelled_caught:
                    pinged = False
                elif pinged:
                    return _connection_lost(
                        f"the server sent nothing for {timing.ping_after + timing.ping_timeout:g} s"
                    )
                else:
                    data, pinged = b"", True
                    protocol.ping()
        except ProtocolError as error:
            return _connection_lost(f"protocol error: {error}")
        except anyio.EndOfStream:
            return _connection_lost("the server ended the connection")
        except _SOCKET_ERRORS as error:
            return _connection_lost(str(error.__cause__ or error) or "the connection broke")

    async def _wait_for_space(self) -> None:
        """Wait while the event queue is full, unless a call waits for an answer behind these events."""
        while self._events.full and not self._protocol.leaving:
            if self._protocol.requests.awaited:
                if not self._events.overfull:
                    return
                self._protocol.requests.fail_all(_events_unread)
            self._write_signal.set()
            await self._events.changed.wait()


def _connection_lost(detail: str) -> Disconnected:
    return Disconnected(DISCONNECTS["connection_lost"], detail)


def _events_unread() -> EventsUnread:
    return EventsUnread("too many events wait to be read; read them, or connect with events=False")
