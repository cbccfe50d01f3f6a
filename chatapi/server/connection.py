"""A connection: it receives at a limited rate, waits for results, and lets its client into a room."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..core.client import Client
from ..core.handshake import Handshake
from ..errors import ChatError, RefusalCode, Refused
from ..limits import OPENING_READ_BYTES, READ_BYTES
from ..pending import Pending
from ..protocol.connection_protocol import ConnectionProtocol, Door
from . import admission
from .rate_limit import NO_LIMIT, RateLimit
from .sending import SendingHalf
from .states import Event, Life, Receiving, Sending, Waiting
from .transport import Transport

if TYPE_CHECKING:
    from ..core.hub import Hub

_logger = logging.getLogger("chatapi")

_STEPS: Final = 64
"""Steps handled for one connection before it is another one's turn."""


class Connection(SendingHalf):
    """One accepted connection: the `Conversation` of its protocol object, and all that it receives."""

    __slots__ = ("_heard", "_left", "_settling")

    client: Client | None
    protocol: ConnectionProtocol
    rate_limit: RateLimit

    def __init__(self, hub: Hub, door: Door, transport: Transport, address: str) -> None:
        super().__init__(hub, transport, address)
        limits, now = hub.limits, hub.clock.monotonic()
        self.protocol = door(self)
        seconds = self.protocol.opening_seconds(limits)
        self.rate_limit = RateLimit(limits, now, hub.origins.hold(self.host))
        self._settling: tuple[int | None, Pending[None]] | None = None  # see `settled`
        self._heard = hub.timers.counted(now)
        self._left = max(limits.opening_bytes, limits.handshake_bytes)
        """Bytes that are still received from it: in its opening, and later while the server drains."""
        hub.connected(self, self.rate_limit.origin)
        hub.timers.set(self, now + seconds, self._deadline)
        transport.attach(self)
        self._watch()
        try:
            self.protocol.connected()
        except Exception:  # of a door that the program has added
            self.crashed()

    @property
    def is_new(self) -> bool:
        """Whether it is still on its way in."""
        return not self.state.has_joined

    # Receiving

    def readable(self, now: float) -> bool:
        """Receive once, if the other side may say something now, and handle that; return False if there was nothing."""
        if self.state.life > Life.JOINED:
            return self.state.life is not Life.CLOSED and self._discard()  # it was closed earlier in this round
        received, most = self.protocol.received, READ_BYTES
        if received.wasted:  # bytes that make no line count as lines of the full length
            self.rate_limit.spend(received.wasted / self.hub.limits.line_bytes)
            received.wasted = 0
        allowed = self._grant(now)
        if not allowed:
            return False
        opening = self.state.life is Life.OPENING
        if opening or self.hub.draining:
            if not (opening or self._left):
                return False
            most = min(OPENING_READ_BYTES, self._left) or 1
        data = self._receive(most)
        if data is None:
            return False
        self._heard = now - self.hub.timers.lost
        if data and opening and not self._left:
            limit = max(self.hub.limits.opening_bytes, self.hub.limits.handshake_bytes)
            why = f"you sent more than {limit:,} bytes before you joined a room, which is not allowed"
            self.protocol.refuse(Refused(RefusalCode.HANDSHAKE_TOO_LARGE, why))
            return True
        if most < READ_BYTES:
            self._left -= len(data)
        if data:
            self.protocol.receive_data(data)
        else:
            self._change(Event.PEER_ENDED)
            self.protocol.receive_eof()
        self._advance(now, allowed)
        return True

    def _grant(self, now: float) -> int:
        """Return how many lines may be handled now. If none, begin to wait for what stands in the way."""
        client, hub = self.client, self.hub
        if self._waiting is Waiting.RESULT:
            return 0
        if client is None or client.room is None:
            if self._send_buffer.waiting < hub.limits.lane_bytes:
                return NO_LIMIT
            waiting = Waiting.READER
        elif client.replaying or (client.lane_size and client.lane_full):
            waiting = Waiting.READER
        elif client.room.congested and not hub.draining:
            client.room.wait(self)
            waiting = Waiting.ROOM
        elif granted := NO_LIMIT if hub.draining else self.rate_limit.grant(now):
            return granted if hub.hooks.on_message is None else 1  # it is asked about each message
        else:
            hub.timers.set(self, self.rate_limit.ready_at, self._deadline)
            waiting = Waiting.RATE
        self._waiting = waiting
        self._watch()
        return 0

    def _advance(self, now: float, allowed: int) -> bool:
        """Handle steps for as long as nothing stands in the way; `allowed` lines of them at first.

        Returns whether it takes more bytes to go on.
        """
        for _ in range(_STEPS):
            if not allowed:
                return False
            received = self.protocol.received
            try:
                step = self.protocol.next_step(allowed)
                if step is None:
                    break
                if received.lines:
                    if self.client is not None:
                        self.rate_limit.spend(received.lines)
                    received.lines = 0
                self.protocol.handle(step)
            except ChatError as error:
                self.protocol.refuse(error)
            if self.state.life > Life.JOINED:
                return False
            if self._waiting is not Waiting.RESULT and not received.data and not received.ended:
                break
            allowed = self._grant(now)
        else:
            self.hub.call(self)  # there is more, but others have their turn first
            return False
        if self.state.receiving is Receiving.ENDED:
            self.wait(self.kept(), self._leave_at_end_of_stream)
            return False
        if self._waiting is not Waiting.NOTHING:
            self._waiting = Waiting.NOTHING
            self._watch()
        return True

    # Waiting

    def wait(self, pending: Pending[Any], then: Callable[[], None]) -> None:
        """Call `then` once the result is there; no further step is handled before that."""
        if pending.done:
            then()
            return
        assert self._waiting is not Waiting.RESULT, "a connection waits for one result at a time"
        self._waiting = Waiting.RESULT
        self._watch()
        pending.then(lambda _: self._go_on(then))

    def _go_on(self, then: Callable[[], None]) -> None:
        self._waiting = Waiting.TURN
        if self.state.life > Life.JOINED:
            return
        try:
            try:
                then()
            except ChatError as error:
                self.protocol.refuse(error)
        except Exception:
            self.crashed()
        self.hub.call(self)

    def kept(self) -> Pending[None]:
        """Return what is resolved once everything that the member has said has its place, or was refused."""
        kept: Pending[None] = Pending()
        self._settle(None, kept)
        return kept

    def settled(self) -> Pending[None]:
        """Return what is resolved once that is so, and the member was shown what the log held by then."""
        shown: Pending[None] = Pending()

        def show(_: Pending[None]) -> None:
            assert self.client is not None
            self._settle(self.client.newest, shown)

        self.kept().then(show)
        return shown

    def _settle(self, position: int | None, pending: Pending[None]) -> None:
        self._settling = position, pending
        self._look_if_settled()
        if self._settling is not None and not self._send_buffer.stalled:
            self.hub.call(self)

    def _look_if_settled(self) -> None:
        """Resolve what `kept` or `settled` has returned, if it is so."""
        if self._settling is None or self.state.life > Life.JOINED:
            return
        client, (position, pending) = self.client, self._settling
        _, receiving, sending, _ = self.state
        is_gone = position is None and receiving is Receiving.ENDED and sending is Sending.BROKEN
        if client is not None and client.room is not None and client.waits and not is_gone:
            client.room.wait(self)
        elif client is None or position is None or client.has_read(position):
            self._settling = None
            pending.resolve(None)

    def fault(self) -> None:
        """Count something that was refused; too much of that in too short a time is a flood."""
        if self.rate_limit.fault(self.hub.clock.monotonic()):
            self.disconnect("flood")

    def _close(self) -> None:
        """Close now."""
        self._settling = None  # break the reference cycle
        super()._close()

    # Coming and going

    def admit(self, handshake: Handshake, protocol: admission.ProtocolOf) -> None:
        """Have the client join a room; see `Conversation.admit`."""
        admission.admit(self, handshake, protocol)

    def move(self, room: str) -> Pending[None]:
        """Take the member to another room; see `Conversation.move`."""
        return admission.move(self, room)

    def joined(self, client: Client, protocol: ConnectionProtocol, room: str) -> None:
        """Note that the client is in a room, or in it again, and speaks this protocol from here on.

        The log has the name of the room as the handshake spells it.
        """
        self._change(Event.JOIN)
        self.client = client
        self.protocol = protocol
        protocol.received.lines = 0
        self._left = 2 * self.hub.limits.receive_buffer_bytes  # what Linux may hold of it
        self.hub.openings.discard(self, self.rate_limit.origin)
        self.hub.timers.clear(self)
        self._expect_something()
        self.hub.call(self)
        _logger.info("%s joined %s from %s", client.name, room, self.address)
        if client.room is not None and client.room.trouble:
            self.notice("unavailable", client.room.trouble)
        protocol.joined(client)

    def _deadline(self, now: float) -> None:
        """Act on a deadline that has passed, unless what it was set for waits to be read or to be sent."""
        try:
            self._act_on_deadline(now)
        except Exception:
            self.crashed()

    def _act_on_deadline(self, now: float) -> None:
        if self.state.life is Life.OPENING:
            while self.state.life is Life.OPENING and self.readable(now):
                pass
            if self.state.life is Life.OPENING:
                self.protocol.refuse(self._too_late())
        elif self.state.life is Life.JOINED:
            self._expect_something()
            if self._is_idle(now):
                self.readable(now)
            if self.state.life is Life.JOINED and self._is_idle(now):
                self.disconnect("idle_timeout")
            else:
                self.run(now)

    def _expect_something(self) -> None:
        if self.hub.limits.idle:
            timers = self.hub.timers
            timers.set(self, self._heard + timers.lost + self.hub.limits.idle, self._deadline)

    def _too_late(self) -> Refused:
        if self._waiting is Waiting.RESULT:
            return Refused(RefusalCode.UNAVAILABLE, "the room could not be opened in time; try again later")
        seconds = self.protocol.opening_seconds(self.hub.limits)
        return Refused(RefusalCode.HANDSHAKE_TIMEOUT, f"you did not identify yourself within {seconds:g} s")

    def _is_idle(self, now: float) -> bool:
        idle = self.hub.limits.idle
        waits = self._waiting is not Waiting.NOTHING
        return bool(idle) and not waits and self.hub.timers.counted(now) - self._heard >= idle

    def run(self, now: float) -> None:
        """Send what can be sent, then go on with what was received."""
        try:
            if self.state.life is Life.CLOSED:
                self._let_go()
            else:
                self._flush()
            if self._settling is not None:
                self._look_if_settled()
            if self.state.life > Life.JOINED:
                return
            received, by_itself = self.protocol.received, self._reads_by_itself
            has_more = received.data or received.ended or self._waiting is not Waiting.NOTHING or by_itself
            if has_more and self._advance(now, self._grant(now)) and by_itself and self.readable(now):
                self.hub.call(self)  # what is left has its turn later
        except Exception:
            self.crashed()

    writable = run
