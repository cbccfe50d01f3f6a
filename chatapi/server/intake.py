"""What one connection receives: how much at once and in all, when, and to the very end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Refused
from ..limits import OPENING_READ_BYTES, READ_BYTES
from ..protocol.parser import Session
from ..protocol.telnet import TelnetFilter
from . import entrance
from .rate_limit import Pace
from .send_buffer import Feed
from .stages import Stage
from .transport import Send, Wire

if TYPE_CHECKING:
    from ..core.hub import Hub
    from .door import Door


class Intake:
    """The receiving half of a `Connection`; a base class, because that is one object less for a member at rest."""

    __slots__ = (
        "_feed", "_heard", "_left", "_peer_ended", "_stage", "_telnet", "_wire", "address", "door", "hub", "pace",
        "send", "session",
    )  # fmt: skip

    def __init__(self, hub: Hub, door: Door, wire: Wire, address: str) -> None:
        limits, now = hub.limits, hub.clock.monotonic()
        self.hub: Hub = hub
        self.door: Door = door
        self.address: str = address
        """Where it comes from: ``host:port``, mapped addresses as IPv4."""
        self._wire = wire
        self._feed = Feed(wire)
        self.send: Send = wire.send
        self.session: Session = Session(limits, door.opens_with, hub.naming)
        self.pace: Pace = Pace(limits, now, hub.origins.hold(address.rpartition(":")[0]))
        """How fast it may speak."""
        self._stage = Stage.OPENING
        self._telnet = TelnetFilter() if door.telnet else None
        self._heard = hub.timers.counted(now)
        self._left = max(limits.opening_bytes, limits.handshake_bytes)
        """Bytes that are still received from it: in its opening, and later while the server drains."""
        self._peer_ended = False

    def readable(self, now: float) -> None:
        """The wire has bytes, or its end."""
        if self._stage <= Stage.JOINED:
            self._read(now)
        elif self._stage is not Stage.CLOSED:  # earlier in this round
            self._discard()

    def _read(self, now: float) -> bool:
        """Read once, if the other side may say something now, and go on with that; False where there was nothing."""
        session, most = self.session, READ_BYTES
        if session.wasted:  # bytes that make no line count as lines of the full length
            self.pace.spend(session.wasted / self.hub.limits.line_bytes)
            session.wasted = 0
        allowed = self._allowance(now)
        if not allowed:
            self._park()
            return False
        opening = self._stage is Stage.OPENING
        if opening or self.hub.draining:
            if not (opening or self._left):
                return False
            most = min(OPENING_READ_BYTES, self._left) or 1
        data = self._receive(most)
        if data is None:
            return False
        self._heard = self.hub.timers.counted(now)
        if data and opening and not self._left:
            self._turn_down(entrance.too_much(self.hub.limits))
            return True
        if most < READ_BYTES:
            self._left -= len(data)
        self.write(self._take_in(data))
        self._advance(now, allowed)
        return True

    def _read_on(self, now: float) -> None:
        """Read where the poller does not tell that there is more; what is left has its turn later."""
        if self._reads_by_itself and self._read(now):
            self.hub.call(self)

    def _discard(self) -> bool:
        """Drop what the other side says after the end; False where nothing more waits."""
        data = self._receive(READ_BYTES)
        if data == b"":
            self._peer_ended = True
            if self._stage is Stage.LINGERING or self._feed.deaf:
                self._close()
            else:
                self._watch()
        return bool(data)

    def _receive(self, most: int) -> bytes | None:
        """Bytes that wait, empty ones at the end of the stream; None where nothing waits.

        On a connection that is broken the kernel still holds what had come before, so that is received to its end.
        Nothing more can come then, so that nothing waits means the end.
        """
        try:
            data = self._wire.receive(most)
        except OSError:  # only once everything that had come was received
            self._deafen()
            data = b""
        return b"" if data is None and self._feed.deaf else data

    def _take_in(self, data: bytes) -> bytes:
        """Hand what was received to the session, and return what telnet has to be answered."""
        if not data:
            self._peer_ended = True
            self.session.end()
        elif self._telnet is None:
            self.session.feed(data)
        else:
            text, answer = self._telnet.feed(data)
            self.session.wasted += len(data) - len(text)
            self.session.feed(text)
            return answer
        return b""

    def _deafen(self) -> None:
        """The other side hears nothing more: all that is sent counts as sent."""
        self._feed.deaf = True
        self.send = len

    @property
    def _reads_by_itself(self) -> bool:
        """Whether it reads what waits until nothing does, and is not told by the poller that more has come.

        So does a member while the server drains. A broken connection does, because the system would report it as
        ready in every round.
        """
        return self._feed.deaf or (self.hub.draining and self._stage is Stage.JOINED)

    # What the other half does with it

    def run(self, now: float) -> None:
        """Send what can be sent, then go on with what was read."""
        raise NotImplementedError

    def _allowance(self, now: float) -> int:
        raise NotImplementedError

    def _advance(self, now: float, allowed: int) -> bool:
        raise NotImplementedError

    def _turn_down(self, refused: Refused) -> None:
        raise NotImplementedError

    def _park(self) -> None:
        raise NotImplementedError

    def _watch(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send bytes to this member alone, behind what it has been shown."""
        raise NotImplementedError
