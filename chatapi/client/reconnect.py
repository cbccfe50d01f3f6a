"""A client's connection, made again whenever it breaks: opens, reads, writes, waits, and closes in good order.

One task runs `Lifeline.run`. Whoever changes what there is to do (a request was put in, an event was taken, it is time
to leave) says so with `nudge`.
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
from .event_queue import Inbox, Signal
from .events import EventsUnread, Lost, ProtocolError, State, Unreachable
from .protocol import Dialogue

_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_FOR_NOW: Final = (
    RefusalCode.DRAINING,
    RefusalCode.SERVER_FULL,
    RefusalCode.ROOM_FULL,
    RefusalCode.HANDSHAKE_TIMEOUT,
    RefusalCode.SERVER_ERROR,
    RefusalCode.UNAVAILABLE,
)
"""Refusals that pass, for who has been in the room before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The times of a connection, in seconds; `chatapi.connect` says what they mean."""

    connect_timeout: float
    close_timeout: float
    ping_after: float
    ping_timeout: float
    backoff: float
    backoff_cap: float

    def delay(self, attempt: int) -> float:
        """Seconds before an attempt (0, 1, 2 …): full jitter, so that many clients do not come back at once."""
        return random.uniform(0, min(self.backoff_cap, self.backoff * 2.0 ** min(attempt, 60)))


class Lifeline:
    """What carries a `Dialogue` from connection to connection, and its news into an `Inbox`."""

    def __init__(self, dialogue: Dialogue, inbox: Inbox, address: Address, *, reconnect: bool, pace: Pace) -> None:
        self.state: State = State.CONNECTING
        self.ended: Callable[[], Disconnected] | None = None
        """Makes the error that says why it is over, once it is."""
        self._dialogue = dialogue
        self._inbox = inbox
        self._address = address
        self._reconnect = reconnect
        self._pace = pace
        self._attempt = 0
        self._stream: SocketStream | None = None
        self._scope = anyio.CancelScope()
        self._work = Signal()
        self._finished = anyio.Event()

    def nudge(self) -> None:
        """Something is to be done."""
        self._work.set()
        self._inbox.changed.set()

    async def open(self) -> None:
        """Connect and shake hands. Raises `Refused`, `Unreachable`, `ProtocolError`, and `Disconnected` for a `bye`."""
        welcomed = False
        try:
            with anyio.fail_after(self._pace.connect_timeout):
                await self._shake()
                welcomed = True
        except TimeoutError:
            raise Unreachable(self._no_welcome()) from None
        except ProtocolError as error:
            raise ProtocolError(f"{self._address} {error}") from None
        except (*_GONE, UnicodeError) as error:
            if said := self._dialogue.foreign:
                raise ProtocolError(f"{self._address} {said}") from None
            why = reason(error) if isinstance(error, OSError) else str(error)
            why = why or "the connection ended during the handshake"
            raise Unreachable(f"cannot reach {self._address}: {why}") from error
        finally:
            if not welcomed:
                await self.drop()
        self.state = State.CONNECTED

    def _no_welcome(self) -> str:
        """What to say where the time is up."""
        none = f"no welcome from {self._address} in {self._pace.connect_timeout:g} s"
        if self._stream is None:
            return none
        said = "takes the connection and says nothing: it may be MaChat in Go, or another kind of server"
        return f"{none}: it {self._dialogue.foreign or said}"

    async def _shake(self) -> None:
        dialogue = self._dialogue
        self._stream = await anyio.connect_tcp(self._address.host or "localhost", self._address.port)
        with suppress(anyio.BrokenResourceError):  # whoever refuses at once may have said why
            await self._stream.send(dialogue.handshake())
        while not dialogue.live:
            for news in dialogue.receive(await self._stream.receive(READ_BYTES)):
                self._inbox.put(news)
                break  # that was the welcome; the rest waits for `_read`, and for room in the inbox
            if dialogue.bye is not None:
                raise dialogue.bye

    async def drop(self) -> None:
        """Close the socket at once."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with anyio.CancelScope(shield=True):  # it takes no time, and half of it would leave the socket open
                await anyio.aclose_forcefully(stream)

    async def run(self) -> None:
        """Carry on until it is over for good."""
        error: Disconnected | None = None
        try:
            with self._scope:
                while True:
                    reason = await self._talk()
                    if self._done():
                        break
                    # Nobody else knows our session: whatever took the name over was an older attempt of our own.
                    comes_back = reason.reason.reconnect or reason.reason.code == "replaced"
                    if not (self._reconnect and comes_back):
                        raise reason
                    self.state = State.RECONNECTING
                    self._inbox.put(Lost(reason.reason, reason.detail))
                    await self._come_back(reason.reason.after)
                    if self._done():
                        break
        except Disconnected as reason:
            error = reason
        finally:
            self._finish(error)
            await self.drop()

    async def close(self) -> None:
        """Say goodbye once everything is answered, and wait for the end; after `close_timeout` just end it."""
        self._dialogue.leaving = True
        self._inbox.stop()
        self.nudge()
        with anyio.move_on_after(self._pace.close_timeout):
            await self._finished.wait()
        self._scope.cancel()
        await self._finished.wait()

    def _done(self) -> bool:
        return self._dialogue.leaving and not self._dialogue.outbox.pending

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
        self._dialogue.outbox.fail(ended)
        self._inbox.end(None if error is None or self._dialogue.leaving else ended)
        self._finished.set()

    async def _come_back(self, after: float) -> None:
        """Connect again, for as long as it takes. Raises `Disconnected` where it makes no sense any more."""
        while True:
            await self._room_to_read()
            with anyio.move_on_after(after + self._pace.delay(self._attempt)):
                while not self._done():
                    await self._inbox.changed.wait()
            if self._done():
                return
            after = 0.0
            self._attempt += 1
            try:
                await self.open()
                return
            except Refused as refused:
                waits = refused.code == RefusalCode.NAME_TAKEN and refused.after is not None
                if not (waits or refused.code in _FOR_NOW):
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

    async def _talk(self) -> Disconnected:
        """One connection, from its welcome until its end; returns why it ended."""
        stream = self._stream
        assert stream is not None
        since = anyio.current_time()
        reason = _broke("the connection broke")  # for type checkers: no task group swallows anything here
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, stream)
            reason = await self._read(stream)
            tasks.cancel_scope.cancel()
        await self.drop()
        self._dialogue.lost()
        if anyio.current_time() - since >= self._pace.backoff_cap:
            self._attempt = 0  # only what has held for a while counts as a success
        return reason

    async def _write(self, stream: SocketStream) -> None:
        try:
            while not self._dialogue.said_bye:
                now = anyio.current_time()
                if data := self._dialogue.outgoing(now):
                    await stream.send(data)
                else:
                    with anyio.CancelScope(deadline=self._dialogue.outbox.due(now)):
                        await self._work.wait()
            await stream.send_eof()
        except _GONE:
            pass  # `_read` finds out why

    async def _read(self, stream: SocketStream) -> Disconnected:
        dialogue, pace = self._dialogue, self._pace
        pinged = False
        data = b""
        try:
            while True:
                for news in dialogue.receive(data):
                    self._inbox.put(news)
                    await self._room_to_read()
                if dialogue.bye is not None:
                    return dialogue.bye
                self._work.set()  # answers make room for more requests
                await self._room_to_read()
                silence = pace.ping_timeout if pinged else pace.ping_after
                with anyio.move_on_after(silence) as scope:
                    data = await stream.receive(READ_BYTES)
                if not scope.cancelled_caught:
                    pinged = False
                elif pinged:
                    return _broke(f"nothing came for {pace.ping_after + pace.ping_timeout:g} s")
                else:
                    data, pinged = b"", True
                    dialogue.ping()
        except ProtocolError as error:
            return _broke(f"protocol error: {error}")
        except anyio.EndOfStream:
            return _broke("the server ended the connection")
        except _GONE as error:
            return _broke(str(error.__cause__ or error) or "the connection broke")

    async def _room_to_read(self) -> None:
        """Wait while the inbox is full, unless somebody waits for an answer that stands behind what fills it."""
        while self._inbox.full and not self._dialogue.leaving:
            if self._dialogue.outbox.pending:
                if not self._inbox.overfull:
                    return
                self._dialogue.outbox.fail(_unread)
            self._work.set()
            await self._inbox.changed.wait()


def _broke(detail: str) -> Disconnected:
    return Disconnected(DISCONNECTS["connection_lost"], detail)


def _unread() -> EventsUnread:
    return EventsUnread("too many events wait to be read; read them, or connect with events=False")
