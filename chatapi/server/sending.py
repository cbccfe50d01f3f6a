"""The sending half of a connection: sends entries and answers to the client, and closes in good order."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ..core.client import Client
from ..core.entries import Said
from ..errors import DISCONNECTS, ChatError, Disconnect, RefusalCode, Refused
from ..limits import READ_BYTES
from ..protocol.connection_protocol import ConnectionProtocol
from ..text import one_line
from .rate_limit import RateLimit
from .send_buffer import SendBuffer
from .states import FIRST, Event, Life, Receiving, Sending, State, Waiting, after
from .transport import Send, Transport

if TYPE_CHECKING:
    from ..core.hub import Hub

_logger = logging.getLogger("chatapi")

_DISCARDS: Final = 64
"""Times that a closing connection receives at its deadline."""


class SendingHalf:
    """The `Peer` of a client: what the client, its room and the hub do with a connection.

    It is a base class, so that a connection stays one object: fan-out passes call `send` on it without a detour, and a
    member at rest takes little memory. It knows nothing of what the connection receives.
    """

    __slots__ = (
        "_send_buffer", "_transport", "_waiting", "address", "client", "hub", "protocol", "rate_limit", "send", "state",
    )  # fmt: skip

    def __init__(self, hub: Hub, transport: Transport, address: str) -> None:
        self.hub: Hub = hub
        self.address: str = address
        """The peer's ``host:port``; an IPv4 address that is mapped to IPv6 stands as IPv4."""
        self.client: Client | None = None
        self.state: State = FIRST
        self.protocol: ConnectionProtocol
        """Parses what the client sends, handles it and renders the answers; deleted when the connection is closed."""
        self.rate_limit: RateLimit
        """How many lines the member may say."""
        self.send: Send = transport.send
        self._transport = transport
        self._send_buffer = SendBuffer(transport)
        self._waiting = Waiting.NOTHING

    @property
    def peer(self) -> SendingHalf:
        """This object: fan-out passes serve it."""
        return self

    @property
    def host(self) -> str:
        """The address without the port."""
        return self.address.rpartition(":")[0]

    @property
    def parked(self) -> bool:
        """Whether the member may have sent something that was not handled yet."""
        return self.state.life is Life.JOINED and self._waiting is not Waiting.NOTHING

    def run(self, now: float) -> None:
        """Send what can be sent, then go on with what was received."""
        raise NotImplementedError

    def wake(self) -> None:
        """Go on when its turn comes: there is something to read for the client, or what it waited for may be over."""
        self.hub.call(self)

    def shows_past(self, messages: int, size: int) -> None:
        """Charge the member for so many messages of the past that it is shown, as for lines of its own."""
        self.rate_limit.spend_on_past(messages, size)

    # Sending

    def buffer(self, data: bytes | memoryview) -> None:
        """Hold the bytes that the socket refused in a fan-out pass."""
        self._send_buffer.buffer(data)
        self._stalled()

    def write(self, data: bytes) -> None:
        """Send bytes to this client, behind everything that it has been shown."""
        if not data:
            return
        if self.client is not None and self.client.room is not None:
            self.client.push(data)
        else:
            self._send_buffer.add(data)
            self.hub.call(self)

    def _flush(self) -> None:
        """Send until nothing is left or the socket takes no more."""
        life = None
        try:
            while life is not self.state.life:  # reading may find that its place is lost
                life = self.state.life
                if self.state.sending is Sending.BROKEN:
                    self._send_buffer.clear()
                    if self.client is not None:
                        self.client.skip()
                elif not self._send_buffer.flush(self.client, last=life is Life.FLUSHING):
                    self._stalled()
                    return
        except OSError:
            self.broken()
            return
        if self.state.life is Life.FLUSHING:
            self._transport.shut()
            self._change(Event.FLUSHED)
            if self.state.is_over:
                self._close()
                return
            self.hub.timers.set(self, self.hub.clock.monotonic() + self.hub.limits.linger, self._close_anyway)
        elif self.client is not None and self.client.room is not None:
            self.client.room.caught_up(self.client)
        self._watch()

    def _stalled(self) -> None:
        if self.client is not None and self.client.room is not None:
            self.client.room.stalled(self.client)
        self._watch()

    def _watch(self) -> None:
        """Tell the transport which of receiving and sending it is to try again."""
        life, receiving, _, _ = self.state
        if life is Life.CLOSED:
            return
        pauses = life <= Life.JOINED and (self._waiting is not Waiting.NOTHING or self._reads_by_itself)
        self._transport.watch(receiving is Receiving.OPEN and not pauses, write=self._send_buffer.stalled)

    # How it ends

    def refuse(self, error: ChatError, last: bytes) -> None:
        """End the connection before its client has joined; `last` tells why. No effect if it ends already."""
        if self.state.life is Life.JOINED:
            raise RuntimeError("refuse: this client has joined; write tells it something, and bye lets it leave")
        if self.state.life is not Life.OPENING:
            return
        self.hub.refusals[error.code if isinstance(error, Refused) else RefusalCode.BAD_HANDSHAKE] += 1
        _logger.info("refused %s: %s", self.address, one_line(str(error)))
        self._finish(last, self.hub.limits.linger)

    def turn_away(self, error: Refused) -> None:
        """Have the protocol object tell a client that has not joined why it cannot."""
        try:
            self.protocol.refuse(error)
        except Exception:  # of a door that the program has added, as in the methods below
            self.crashed()

    def disconnect(self, code: str) -> None:
        """End the connection for a reason of the table, and tell the other side."""
        if self.state.life is Life.JOINED and self.client is not None:
            self.client.disconnect(code)
        elif self.state.life is Life.OPENING:
            if code == "draining":
                self.turn_away(Refused(RefusalCode.DRAINING, DISCONNECTS[code].detail))
            else:
                self.ended(DISCONNECTS[code], DISCONNECTS[code].detail)

    def ended(self, reason: Disconnect, detail: str) -> None:
        """Tell a client that was disconnected why, behind everything that it is still to be shown."""
        hub, client = self.hub, self.client
        self._count(reason.code)
        if client is not None:
            hub.sessions.over(client, may_come_back=reason.reconnect)
        if self.state.life >= Life.LINGERING:  # the member was away
            self._let_go()
            return
        seconds = hub.limits.grace
        if reason.code == "slow_consumer" and client is not None:
            client.skip()  # it cannot be shown what is missing, and is told so
            seconds = hub.limits.linger
        self._finish(self._last_words(reason, detail), seconds)

    def not_kept(self, said: Said, reason: Refused) -> None:
        """Tell the member that the broker refused what it said."""
        try:
            self.protocol.not_kept(said, reason)
        except Exception:
            self.crashed()

    def already_sent(self, said: Said) -> None:
        """Tell the member that its session has sent this message before."""
        try:
            self.protocol.already_sent(said)
        except Exception:
            self.crashed()

    def notice(self, code: str, detail: str) -> None:
        """Tell the member whether the server is available."""
        if self.state.life is Life.JOINED:
            try:
                self.write(self.protocol.style.notice(code, detail))
            except Exception:
                self.crashed()

    def crashed(self) -> None:
        """End this connection alone because of the exception that is being handled, and log that."""
        self._log_error()
        try:
            if self.state.life <= Life.JOINED:
                self.disconnect("server_error")
                if self.client is not None:
                    self.client.skip()  # what it is still to be shown may be what cannot be rendered
            else:
                self._close()
        except Exception:
            self.abort("server_error")

    def replaced(self) -> None:
        """End the connection, because another connection has resumed its member."""
        if self.state.life is Life.JOINED:
            self._count("replaced")
            self._finish(self._last_words(DISCONNECTS["replaced"]), self.hub.limits.linger)
        self.client = None

    def bye(self, last: bytes | None = None) -> None:
        """End the connection as the client has asked; `last` are the last bytes, instead of the style's goodbye."""
        if self.client is not None:
            self.hub.sessions.over(self.client, may_come_back=False)
        self._leave("bye", self._last_words(DISCONNECTS["bye"]) if last is None else last)

    def _leave_at_end_of_stream(self) -> None:
        """Have a member leave whose client has ended its stream, or reserve its name if it may come back."""
        client = self.client
        if self.state.sending is Sending.BROKEN:
            self.abort()
        elif client is None or client.room is None or client.session is None:
            self._leave("bye", b"")
        else:
            self.hub.break_off(client)
            self._finish(b"", self.hub.limits.grace)

    def _leave(self, code: str, last: bytes) -> None:
        client = self.client
        if client is not None and client.room is not None:
            client.room.leave(client, code)
            self._count(code)
        self._finish(last, self.hub.limits.grace)

    def abort(self, code: str = "connection_lost") -> None:
        """Close at once, without a word; the member leaves, or its name is reserved."""
        hub, client = self.hub, self.client
        if client is not None and client.room is not None and not client.away:
            if code == "connection_lost" and client.session is not None and not hub.draining:
                hub.break_off(client)
            else:
                client.room.leave(client, code)
                self._count(code)
                hub.sessions.over(client, may_come_back=True)
        self._close()

    def _last_words(self, reason: Disconnect, detail: str = "") -> bytes:
        """Return the last words; none if the style fails, because the connection ends in any case."""
        try:
            return self.protocol.style.disconnect(reason, detail or reason.detail)
        except Exception:
            self._log_error()
            return b""

    def _log_error(self) -> None:
        _logger.exception("an error inside the server, for %s", self.address)

    def _count(self, code: str) -> None:
        """Count and log the end of a membership, or of a connection that has not joined as a refusal."""
        if self.client is None:
            self.hub.refusals[code] += 1
            _logger.info("refused %s: %s", self.address, code)
        else:
            self.hub.disconnects[code] += 1
            _logger.info("%s left from %s: %s", self.client.name, self.address, code)

    def broken(self) -> None:
        """Note that sending has failed. What the other side had sent before is still received and handled."""
        if self.state.life > Life.JOINED:
            self.abort()
        else:
            self._fail_to_send()
            self.hub.call(self)
            self._watch()

    def _change(self, event: Event) -> None:
        self.state = after(self.state, event)

    def _finish(self, last: bytes, seconds: float) -> None:
        """Send what is left and the last words within so many seconds, and close."""
        self._change(Event.FINISH)
        now, timers = self.hub.clock.monotonic(), self.hub.timers
        self.hub.openings.add(self, self.rate_limit.origin, timers.counted(now))
        self._send_buffer.last = last
        timers.set(self, now + seconds, self._close_anyway)
        self.hub.call(self)
        self._watch()

    def _close(self) -> None:
        """Close now."""
        if self.state.life is not Life.CLOSED:
            self._change(Event.CLOSE)
            del self.protocol  # break the reference cycle
        self._send_buffer.clear()
        self.hub.timers.clear(self)
        self.hub.disconnected(self, self.rate_limit.close())
        if self.client is not None and self.client.outlet is self:
            self.client.closed()
        self._transport.close()
        self._let_go()

    def _let_go(self) -> None:
        """Forget a client that has left, to break the reference cycle."""
        if self.state.life is Life.CLOSED and self.client is not None and self.client.room is None:
            self.client = None

    def _close_anyway(self, now: float) -> None:
        """Close, though the other side has not taken everything in time, or has not ended its stream."""
        if self.state.life is Life.FLUSHING:
            try:
                self._flush()
            except Exception:
                self._log_error()
            if self.state.life is Life.FLUSHING:
                self._transport.give_up()
                self._close()
        else:
            for _ in range(_DISCARDS):
                if not self._discard():
                    break
            self._close()

    def _discard(self) -> bool:
        """Drop what the other side says after the end; return False if nothing more waits."""
        data = self._receive(READ_BYTES)
        if data == b"":
            self._change(Event.PEER_ENDED)
            if self.state.is_over:
                self._close()
            else:
                self._watch()
        return bool(data)

    def _receive(self, most: int) -> bytes | None:
        """Return bytes that wait, empty ones at the end of the stream; None if nothing waits.

        On a connection that is broken the kernel still holds what had come before, so that is received to its end.
        Nothing more can come then: if nothing waits, that is the end.
        """
        try:
            data = self._transport.receive(most)
        except OSError:  # only once everything that had come was received
            self._fail_to_send()
            data = b""
        return b"" if data is None and self.state.sending is Sending.BROKEN else data

    def _fail_to_send(self) -> None:
        """Drop what is sent from here on: the other side hears nothing more."""
        self._change(Event.SEND_FAILED)
        self.send = len

    @property
    def _reads_by_itself(self) -> bool:
        """Whether it reads until nothing waits, and is not told by the poller that more has come.

        So does a member while the server drains. A broken connection does, because the system would report it as
        ready in every round.
        """
        return self.state.sending is Sending.BROKEN or (self.hub.draining and self.state.life is Life.JOINED)
