"""A connection, from accept to close: wire → session → client on the way in, log → wire on the way out.

::

    OPENING ──▶ JOINED ──▶ FLUSHING ──▶ LINGERING ──▶ CLOSED
       └──────────┴──────────┘ a refusal, a goodbye, a disconnect, the other side's end of stream

FLUSHING sends what is left; LINGERING has ended the stream and waits for the other side's end, because a close with
unread input makes a reset that destroys what is in flight (RFC 1122, 4.2.2.13). Both discard what they receive.
"""

from __future__ import annotations

import logging
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from ..clients import Client, Part
from ..commands import BadCommand, Command
from ..errors import DISCONNECTS, Disconnect, RefusalCode, Refused
from ..events import Whisper
from ..framing import TelnetFilter
from ..limits import CHUNK_BYTES
from ..pace import NO_LIMIT, Pace
from ..render import Batch, Style, render
from ..rooms import Room
from ..session import BadLine, Lines, Session, Step
from ..wires import Wire
from . import replies
from .door import Door

if TYPE_CHECKING:
    from ..hub import Hub

_logger = logging.getLogger("chatapi")

_STEPS: Final = 64
"""Steps taken for one connection before it is somebody else's turn."""


class Stage(IntEnum):
    """Where in its life a connection is."""

    OPENING = 0
    JOINED = 1
    FLUSHING = 2
    LINGERING = 3
    CLOSED = 4


class Connection:
    """One connected peer. It is an `Outlet` to its client, a `Sender` to its room, a `Runnable` to the hub."""

    __slots__ = (
        "_heard",
        "_held",
        "_hub",
        "_last",
        "_pace",
        "_parked",
        "_peer_ended",
        "_stage",
        "_telnet",
        "_unsent",
        "_wire",
        "address",
        "client",
        "door",
        "session",
        "style",
    )

    def __init__(self, hub: Hub, door: Door, wire: Wire, address: str) -> None:
        self._hub = hub
        self._wire = wire
        self.door: Door = door
        self.address: str = address
        """Where it comes from: ``host:port``, mapped addresses as IPv4."""
        self.session: Session = Session(hub.limits, door.opens_with)
        self.client: Client | None = None
        self.style: Style = door.style
        self._stage = Stage.OPENING
        self._unsent: bytes | memoryview | None = None  # what the socket has not taken yet, of at most one chunk
        self._last = b""  # the very last words, behind everything else
        self._held: Step | None = None  # a command that waits until everything before it was shown
        self._parked = False  # whether reading waits for something
        self._peer_ended = False
        self._telnet = TelnetFilter() if door.telnet else None
        self._heard = now = hub.clock.monotonic()
        self._pace = Pace(hub.limits, now)
        hub.connections[self] = None
        hub.timers.set(self, now + door.seconds(hub.limits), self._deadline)
        wire.attach(self)
        self._watch()
        door.greet(self)

    # Bytes in

    def readable(self, now: float) -> None:
        """The wire has bytes, or its end."""
        if self._stage is Stage.CLOSED:  # earlier in this round
            return
        if self._stage <= Stage.JOINED and not self._allowance(now):
            self._park()
            return
        try:
            data = self._wire.receive()
        except OSError:
            self._lost()
            return
        if data is None:
            return
        self._heard = now
        if not data:
            self._peer_ended = True
        if self._stage >= Stage.FLUSHING:
            if self._stage is Stage.LINGERING and not data:
                self._close()
            else:
                self._watch()
            return
        if not data:
            self.session.end()
        elif self._telnet is None:
            self.session.feed(data)
        else:
            text, answer = self._telnet.feed(data)
            self.session.feed(text)
            self.write(answer)
        self._advance(now)

    def _advance(self, now: float) -> None:
        """Take steps for as long as nothing stands in the way."""
        for _ in range(_STEPS):
            allowed = self._allowance(now)
            if not allowed:
                self._park()
                return
            try:
                step, self._held = self._held or self.session.step(allowed), None
                if step is None:
                    break
                self._take(step, now)
            except Refused as refused:
                self.door.refuse(self, refused)
            if self._stage > Stage.JOINED:
                return
            if self._held is not None:
                self._park()
                return
        else:
            self._hub.call(self)  # there is more, but others have their turn first
            return
        if self._peer_ended:
            self._leave("bye", b"")
        else:
            self._parked = False
            self._watch()

    def _take(self, step: Step, now: float) -> None:
        client = self.client
        if client is None:
            assert not isinstance(step, Lines | Command | BadCommand)
            self.door.admit(self, step)
        elif isinstance(step, Lines):
            self._pace.spend(step.cost)
            if step.messages:
                client.say(step.block, step.messages)
        elif isinstance(step, Command):
            if step.name == "join" and not client.caught_up:  # it would leave lines of this room behind
                self._held = step
                if self._unsent is None:
                    self._hub.call(self)
                return
            self._pace.spend(1)
            if not replies.carry_out(self, client, step):
                self.fault()
        else:
            assert isinstance(step, BadLine | BadCommand)
            self._pace.spend(1)
            self.tell(step.why)
            if isinstance(step, BadCommand):  # a file that is not text is pasted by mistake
                self.fault()

    def _allowance(self, now: float) -> int:
        """How many lines may be taken now; 0 where something stands in the way, which will have `run` called."""
        client = self.client
        if client is None or client.room is None:
            return 0 if len(self._unsent or b"") >= self._hub.limits.lane_bytes else NO_LIMIT
        if client.lane_full:
            return 0
        if self._hub.draining:
            return NO_LIMIT
        if client.room.congested:
            client.room.wait(self)
            return 0
        allowed = self._pace.allowance(now)
        if not allowed:
            self._hub.timers.set(self, self._pace.ready_at, self._deadline)
        return allowed

    def fault(self) -> None:
        """Something was refused; too much of that in too short a time is a flood."""
        if self._pace.fault(self._hub.clock.monotonic()):
            self.disconnect("flood")

    def _park(self) -> None:
        self._parked = True
        self._watch()

    # Coming and going

    def join(
        self, name: str, room: str, style: Style, *, echo: bool | None, commands: bool | None, history: int = 0
    ) -> Client:
        """Become a member; None stands for the server's default. Raises `Refused`."""
        hub = self._hub
        echo = hub.echo if echo is None else echo
        host = self.address.rpartition(":")[0]
        self.client = hub.enter(name, room, self, style, echo, host, history)
        self.style = style
        self.session.open(hub.commands if commands is None else commands)
        self._stage = Stage.JOINED
        hub.timers.clear(self)
        self._expect_something()
        hub.call(self)
        _logger.info("%s joined %s from %s", name, room, self.address)
        return self.client

    def move(self, room: str) -> None:
        """Go to another room; where that is refused (`Refused`), stay."""
        assert self.client is not None
        before = self.client.room
        assert before is not None
        self._hub.move(self.client, room)
        self._hub.call(self)
        if (room_now := self.client.room) is not before:
            _logger.info("%s went from %s to %s", self.client.name, before.name, room_now.name if room_now else None)

    def rooms(self) -> list[Room]:
        """Every room of the chat."""
        return list(self._hub.rooms.values())

    @property
    def parked(self) -> bool:
        """Whether something that was read waits."""
        return self._stage is Stage.JOINED and self._parked

    @property
    def takes_commands(self) -> bool:
        """Whether lines that start with ``/`` or ``@`` are commands here."""
        return self.session.commands

    def bye(self) -> None:
        """Leave as asked."""
        self._leave("bye", self.style.line("goodbye"))

    def refuse(self, refused: Refused, line: bytes) -> None:
        """End the connection before it has begun, with one line that says why."""
        self._hub.refusals[refused.code] += 1
        _logger.info("refused %s: %s", self.address, refused)
        self._finish(line, self._hub.limits.linger)

    def disconnect(self, code: str) -> None:
        """End the connection for a reason of the table, and tell the other side."""
        if self._stage is Stage.JOINED and self.client is not None:
            self.client.disconnect(code)
        elif self._stage is Stage.OPENING:
            if code == "draining":
                self.door.refuse(self, Refused(RefusalCode.DRAINING, DISCONNECTS[code].detail))
            else:
                self.ended(DISCONNECTS[code], DISCONNECTS[code].detail)

    def ended(self, reason: Disconnect, detail: str) -> None:
        """The client was disconnected: tell it why, behind what it is still owed."""
        self._count(reason.code)
        seconds = self._hub.limits.grace
        if reason.code == "slow_consumer" and self.client is not None:
            self.client.skip()  # it cannot be given what it is owed, and is told so
            seconds = self._hub.limits.linger
        self._finish(self.style.line(f"{reason.code}: {detail}"), seconds)

    def crashed(self) -> None:
        """An exception came out of something done for this connection: it alone ends, and the log says why."""
        _logger.exception("an error inside the server, for %s", self.address)
        try:
            if self._stage <= Stage.JOINED:
                self.disconnect("server_error")
            else:
                self._close()
        except Exception:
            self._lost("server_error")

    def abort(self) -> None:
        """Close at once, without a word."""
        self._lost()

    def _leave(self, code: str, last: bytes) -> None:
        client = self.client
        if client is not None and client.room is not None:
            client.room.leave(client, code)
            self._count(code)
        self._finish(last, self._hub.limits.grace)

    def _lost(self, code: str = "connection_lost") -> None:
        client = self.client
        if client is not None and client.room is not None:
            client.room.leave(client, code)
            self._count(code)
        self._close()

    def _count(self, code: str) -> None:
        self._hub.disconnects[code] += 1
        if self.client is not None:
            _logger.info("%s left from %s: %s", self.client.name, self.address, code)

    def _finish(self, last: bytes, seconds: float) -> None:
        self._stage = Stage.FLUSHING
        self._last = last
        self._hub.timers.set(self, self._hub.clock.monotonic() + seconds, self._deadline)
        self._hub.call(self)
        self._watch()

    def _close(self) -> None:
        self._stage = Stage.CLOSED
        self._unsent = None
        self._hub.timers.clear(self)
        self._hub.connections.pop(self, None)
        self._wire.close()

    def _expect_something(self) -> None:
        if self._hub.limits.idle:
            self._hub.timers.set(self, self._heard + self._hub.limits.idle, self._deadline)

    def _deadline(self, now: float) -> None:
        """The time of what this connection was waiting for is up."""
        if self._stage is Stage.OPENING:
            seconds = self.door.seconds(self._hub.limits)
            self.door.refuse(
                self, Refused(RefusalCode.HANDSHAKE_TIMEOUT, f"you did not say who you are within {seconds:g} s")
            )
        elif self._stage is not Stage.JOINED:
            self._close()
        elif self._hub.limits.idle and not self._parked and now - self._heard >= self._hub.limits.idle:
            self.disconnect("idle_timeout")
        else:
            self._expect_something()
            self.run(now)

    # Bytes out

    def offer(self, data: bytes) -> None:
        """Send what the fan-out pass has rendered; what the socket refuses is kept, as a view of what all share."""
        if self._stage is not Stage.JOINED:
            return
        try:
            sent = self._wire.offer(data)
        except OSError:
            self._lost()
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self._stalled()

    def wake(self) -> None:
        """There is something for the client to read."""
        self._hub.call(self)

    def resume(self) -> None:
        """What this connection waited for may be over."""
        self._hub.call(self)

    def tell(self, text: str) -> None:
        """Say something to this member alone, as a line of the server's own."""
        if self.client is not None and self.client.room is not None:
            self.client.push(self.style.line(text))
        else:
            self.write(self.style.line(text))

    def write(self, data: bytes) -> None:
        """Send bytes that are not text, or that come before there is a client."""
        if not data:
            return
        if self.client is not None and self.client.room is not None:
            self.client.push(data)
        else:
            self._unsent = bytes(self._unsent or b"") + data
            self._hub.call(self)

    def run(self, now: float) -> None:
        """Send what can be sent, then go on with what was read."""
        try:
            if self._stage is not Stage.CLOSED:
                self._pump()
            if self._stage <= Stage.JOINED:
                self._advance(now)
        except Exception:
            self.crashed()

    def writable(self, now: float) -> None:
        """The wire takes bytes again."""
        self.run(now)

    def _pump(self) -> None:
        """Send until nothing is left or the socket takes no more."""
        while True:
            if self._unsent:
                try:
                    sent = self._wire.offer(self._unsent)
                except OSError:
                    self._lost()
                    return
                if sent < len(self._unsent):
                    self._unsent = memoryview(self._unsent)[sent:]
                    self._stalled()
                    return
            self._unsent = None
            part = self.client.read(CHUNK_BYTES) if self.client is not None else None
            if part is not None:
                self._unsent = self._render(part)
            elif self._stage is Stage.FLUSHING and self._last:
                self._unsent, self._last = self._last, b""
            else:
                break
        if self._stage is Stage.FLUSHING:
            self._wire.shut()
            if self._peer_ended:
                self._close()
                return
            self._stage = Stage.LINGERING
            self._hub.timers.set(self, self._hub.clock.monotonic() + self._hub.limits.linger, self._deadline)
        elif self.client is not None and self.client.room is not None:
            self.client.room.caught_up(self.client)
        self._watch()

    def _render(self, part: Part) -> bytes:
        if isinstance(part, bytes):
            return part
        if isinstance(part, Whisper):
            return b"".join(self.style.line(f"{part.name} whispers: {line}") for line in part.text.split("\n"))
        if part.live and self.client is not None:
            return Batch(part.entries).for_reader(self.style, self.client.id, self.client.echo)
        return b"".join(render(entry, self.style) for entry in part.entries)

    def _stalled(self) -> None:
        if self.client is not None and self.client.room is not None:
            self.client.room.stalled(self.client)
        self._watch()

    def _watch(self) -> None:
        if self._stage is Stage.CLOSED:
            return
        read = not self._peer_ended
        if self._stage <= Stage.JOINED:
            read = read and not self._parked and not (self._stage is Stage.JOINED and self._hub.draining)
        self._wire.watch(read, write=bool(self._unsent))
