"""A connection, from accept to close: wire → session → client on the way in, log → wire on the way out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ..core.client import Client
from ..core.entries import Said
from ..core.handshake import Handshake
from ..core.style import Style
from ..errors import DISCONNECTS, Disconnect, NotDelivered, RefusalCode, Refused
from ..pending import Pending
from ..protocol.json import handler as answers
from ..protocol.json.frames import BadFrame, Frame
from ..protocol.parser import BadLine, Lines, Nickname, Step
from ..protocol.text import handler as replies
from ..protocol.text.rendering import TextStyle
from ..protocol.wrong_protocol import Stranger
from ..text import one_line
from . import entrance
from .door import Door
from .intake import Intake
from .rate_limit import NO_LIMIT
from .stages import Stage
from .transport import Wire

if TYPE_CHECKING:
    from ..core.hub import Hub

_logger = logging.getLogger("chatapi")
_T = TypeVar("_T")

_STEPS: Final = 64
"""Steps taken for one connection before it is somebody else's turn."""


class Connection(Intake):
    """One connected peer. It is the `Peer` of its client, a `Sender` to its room, a `Runnable` to the hub."""

    __slots__ = ("_deciding", "_held", "_parked", "client", "is_new", "style")

    def __init__(self, hub: Hub, door: Door, wire: Wire, address: str) -> None:
        super().__init__(hub, door, wire, address)
        self.client: Client | None = None
        self.style: Style = door.style
        self._held: Step | None = None  # a command that waits until everything before it was shown
        self._deciding = False  # whether a hook of the program takes its time
        self._parked = False  # whether reading waits for something
        self.is_new: bool = True
        """Whether it is still on its way in."""
        hub.connected(self, self.pace.origin)
        hub.timers.set(self, hub.clock.monotonic() + door.seconds(hub.limits), self._deadline)
        wire.attach(self)
        self._watch()
        door.greet(self)

    # Bytes in: what was received

    def _advance(self, now: float, allowed: int) -> bool:
        """Take steps for as long as nothing stands in the way; `allowed` lines of them at first.

        Returns whether it takes more bytes to go on.
        """
        for _ in range(_STEPS):
            if not allowed:
                self._park()
                return False
            try:
                step, self._held = self._held or self.session.step(allowed), None
                if step is None:
                    break
                self._take(step)
            except Refused as refused:
                self._turn_down(refused)
            if self._stage > Stage.JOINED:
                return False
            if self._held is not None:
                self._park()
                return False
            if not (self.session.waiting or self._deciding or self._peer_ended):
                break
            allowed = self._allowance(now)
        else:
            self.hub.call(self)  # there is more, but others have their turn first
            return False
        if self._peer_ended:
            if self._feed.deaf or self._is_heard():
                self._stream_ended()
            else:
                self._park()
            return False
        if self._parked:
            self._parked = False
            self._watch()
        return True

    def _turn_down(self, refused: Refused) -> None:
        if isinstance(refused, Stranger):
            self.refuse(refused, entrance.answer(self, refused))
        else:
            self.door.refuse(self, refused)

    def _take(self, step: Step) -> None:
        client = self.client
        if client is None:
            assert isinstance(step, Handshake | Nickname | BadLine)
            self.door.admit(self, step)
        elif client.session is not None:
            answers.take(self, client, cast("Frame | BadFrame | Lines", step))  # the session is in FRAMES
        else:
            replies.take(self, client, step)

    def hold(self, step: Step) -> None:
        """Take this step again once everything before it was kept and shown; this session is parked."""
        self._held = step
        if self._is_heard() and not self._feed.stalled:
            self.hub.call(self)

    def hold_for(self, said: Said, step: Step) -> None:
        """Take this step again once something that was said has its place, or was refused."""
        self._held = step
        said.when_settled().then(lambda _: self.resume())

    def postpone(self, step: Step | None) -> None:
        """Take this step again after what is waited for, or none."""
        self._held = step

    def _is_heard(self) -> bool:
        """Whether all that this member said has its place; if not, it goes on once more has."""
        client = self.client
        if client is None or client.room is None or not client.waits:
            return True
        client.room.wait(self)
        return False

    def _allowance(self, now: float) -> int:
        """How many lines may be taken now; 0 where something stands in the way, which will have `run` called."""
        client = self.client
        if self._deciding:
            return 0
        if client is None or client.room is None:
            return 0 if self._feed.waiting >= self.hub.limits.lane_bytes else NO_LIMIT
        if client.lane_full or client.replaying:
            return 0
        most = NO_LIMIT if self.hub.hooks.on_message is None else 1  # it is asked about each message
        if self.hub.draining:
            return most
        if client.room.congested:
            client.room.wait(self)
            return 0
        allowed = self.pace.allowance(now)
        if not allowed:
            self.hub.timers.set(self, self.pace.ready_at, self._deadline)
        return min(allowed, most)

    def wait_for(
        self,
        pending: Pending[_T],
        then: Callable[[_T], None],
        failed: Callable[[Any], None],
    ) -> None:
        """Call `then` with the value once it is there; the session is parked until then.

        If `pending` fails with `Refused` or `NotDelivered`, or `then` raises one of them, `failed` is called with it.
        """

        def go_on(pending: Pending[_T]) -> None:
            self._deciding = False
            if self._stage > Stage.JOINED:
                return
            try:
                try:
                    then(pending.result())
                except (Refused, NotDelivered) as error:
                    failed(error)
            except Exception:
                self.crashed()
            self.hub.call(self)

        self._deciding = True
        pending.then(go_on)

    def shows_past(self, messages: int, size: int) -> None:
        """The member is about to be shown so much of the past, which it pays for as for lines of its own."""
        self.pace.spend_on_past(messages, size)

    def fault(self) -> None:
        """Something was refused; too much of that in too short a time is a flood."""
        if self.pace.fault(self.hub.clock.monotonic()):
            self.disconnect("flood")

    def _park(self) -> None:
        self._parked = True
        self._watch()

    # Coming and going

    def joined(self, client: Client, style: Style, room: str) -> None:
        """The client is in its room, or in it again."""
        self.client = client
        self.style = style
        self._stage = Stage.JOINED
        self._left = 2 * self.hub.limits.receive_buffer_bytes  # what Linux may hold of it
        self.is_new = False
        self.hub.openings.discard(self, self.pace.origin)
        self.hub.timers.clear(self)
        self._expect_something()
        self.hub.call(self)
        _logger.info("%s joined %s from %s", client.name, room, self.address)
        if client.room is not None and client.room.trouble:
            self.notice("unavailable", client.room.trouble)

    def move(self, room: str) -> None:
        """Go to another room; where that is refused (`Refused`), stay."""
        assert self.client is not None
        self.hub.move(self.client, room)
        self.hub.call(self)

    @property
    def peer(self) -> Connection:
        """This object: fan-out passes serve it."""
        return self

    @property
    def parked(self) -> bool:
        """Whether something that was read waits."""
        return self._stage is Stage.JOINED and self._parked

    def bye(self) -> None:
        """Leave as asked."""
        if self.client is not None:
            self.hub.sessions.over(self.client, may_come_back=False)
        self._leave("bye", self._last_words("bye"))

    def refuse(self, refused: Refused, line: bytes) -> None:
        """End the connection before it has begun, with one line that says why; nothing where it ends already."""
        if self._stage is not Stage.OPENING:
            return
        self.hub.refusals[refused.code] += 1
        _logger.info("refused %s: %s", self.address, one_line(str(refused)))
        self._finish(line, self.hub.limits.linger)

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
        if self.client is not None:
            self.hub.sessions.over(self.client, may_come_back=reason.reconnect)
        if self._stage is Stage.CLOSED:
            self._let_go()
            return  # the member was away
        seconds = self.hub.limits.grace
        if reason.code == "slow_consumer" and self.client is not None:
            self.client.skip()  # it cannot be given what it is owed, and is told so
            seconds = self.hub.limits.linger
        self._finish(self.style.disconnect(reason, detail), seconds)

    def not_kept(self, said: Said, reason: Refused) -> None:
        """What the member said was not kept."""
        assert self.client is not None
        (replies if self.client.session is None else answers).not_kept(self, self.client, said, reason)

    def already_sent(self, said: Said) -> None:
        """The member has said this before."""
        assert self.client is not None
        answers.already_sent(self.client, said)

    def notice(self, code: str, detail: str) -> None:
        """Tell the member how the server is."""
        self.write(self.style.notice(code, detail))

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

    def replaced(self) -> None:
        """Another connection has taken the member over."""
        if self._stage is not Stage.JOINED:
            self.client = None
            return
        self._count("replaced")
        self.client = None
        self._finish(self._last_words("replaced"), self.hub.limits.linger)

    def _last_words(self, code: str) -> bytes:
        return self.style.disconnect(DISCONNECTS[code], DISCONNECTS[code].detail)

    def abort(self, code: str) -> None:
        """Close at once, without a word."""
        self._lost(code)

    def _leave(self, code: str, last: bytes) -> None:
        client = self.client
        if client is not None and client.room is not None:
            client.room.leave(client, code)
            self._count(code)
        self._finish(last, self.hub.limits.grace)

    def _stream_ended(self) -> None:
        """The other side's end of stream: a text member leaves, a JSON member that said no goodbye may come back."""
        client = self.client
        if self._feed.deaf:
            self._lost()
        elif client is None or client.session is None or client.room is None:
            self._leave("bye", b"")
        else:
            self.hub.break_off(client)
            self._finish(b"", self.hub.limits.grace)

    def broken(self) -> None:
        """Sending has failed. What the other side had sent before is still received and processed, at its pace."""
        if self._stage > Stage.JOINED:
            self._lost()
        else:
            self._deafen()
            self.hub.call(self)
            self._watch()

    def _lost(self, code: str = "connection_lost") -> None:
        client = self.client
        if client is not None and client.room is not None and not client.away:
            if code == "connection_lost" and client.session is not None and not self.hub.draining:
                self.hub.break_off(client)
                self._close()
                return
            client.room.leave(client, code)
            self._count(code)
            self.hub.sessions.over(client, may_come_back=True)
        self._close()

    def _count(self, code: str) -> None:
        self.hub.disconnects[code] += 1
        if self.client is not None:
            _logger.info("%s left from %s: %s", self.client.name, self.address, code)

    def _finish(self, last: bytes, seconds: float) -> None:
        self._stage = Stage.FLUSHING
        now, timers = self.hub.clock.monotonic(), self.hub.timers
        self.hub.openings.add(self, self.pace.origin, timers.counted(now))
        self._feed.last = last
        timers.set(self, now + seconds, self._deadline)
        self.hub.call(self)
        self._watch()

    def _close(self) -> None:
        self._stage = Stage.CLOSED
        self._feed.clear()
        self.hub.timers.clear(self)
        self.hub.disconnected(self, self.pace.close())
        if self.client is not None and self.client.outlet is self:
            self.client.closed()
        self._wire.close()
        self._let_go()

    def _let_go(self) -> None:
        """Forget a client that has left: they hold each other, and would be left to the garbage collector."""
        if self.client is not None and self.client.room is None:
            self.client = None

    def _expect_something(self) -> None:
        if self.hub.limits.idle:
            timers = self.hub.timers
            timers.set(self, self._heard + timers.lost + self.hub.limits.idle, self._deadline)

    def _deadline(self, now: float) -> None:
        """The time of what this connection was waiting for is up, unless that waits to be read or to be sent."""
        if self._stage is Stage.OPENING:
            while self._stage is Stage.OPENING and self._read(now):
                pass
            if self._stage is Stage.OPENING:
                self._turn_down(entrance.too_late(self, self._deciding))
        elif self._stage is Stage.JOINED:
            self._expect_something()
            if self._is_idle(now):
                self._read(now)
            if self._stage is Stage.JOINED and self._is_idle(now):
                self.disconnect("idle_timeout")
            else:
                self.run(now)
        elif self._stage is Stage.FLUSHING:
            self._pump()
            if self._stage is Stage.FLUSHING:
                self._wire.give_up()
                self._close()
        else:
            for _ in range(_STEPS):
                if not self._discard():
                    break
            self._close()

    def _is_idle(self, now: float) -> bool:
        idle = self.hub.limits.idle
        return bool(idle) and not self._parked and self.hub.timers.counted(now) - self._heard >= idle

    # Bytes out

    def buffer(self, data: bytes | memoryview) -> None:
        """The socket took no more than a part of what a fan-out pass has rendered."""
        self._feed.keep(data)
        self._stalled()

    def wake(self) -> None:
        """There is something for the client to read."""
        self.hub.call(self)

    resume = wake  # what this connection waited for may be over

    def tell(self, text: str) -> None:
        """Say something to this member of the text protocol alone, as a line of the server's own."""
        assert isinstance(self.style, TextStyle)
        self.write(self.style.line(text))

    def write(self, data: bytes) -> None:
        """Send bytes to this member alone, behind what it has been shown."""
        if not data:
            return
        if self.client is not None and self.client.room is not None:
            self.client.push(data)
        else:
            self._feed.add(data)
            self.hub.call(self)

    def run(self, now: float) -> None:
        """Send what can be sent, then go on with what was read."""
        try:
            if self._stage is Stage.CLOSED:
                self._let_go()
            else:
                self._pump()
            if self._stage <= Stage.JOINED and self._advance(now, self._allowance(now)):
                self._read_on(now)
        except Exception:
            self.crashed()

    writable = run  # the wire takes bytes again

    def _pump(self) -> None:
        """Send until nothing is left or the socket takes no more."""
        stage = None
        try:
            while stage is not self._stage:  # reading may find that its place is lost
                stage = self._stage
                if not self._feed.pump(self.client, self.style, last=stage is Stage.FLUSHING):
                    self._stalled()
                    return
        except OSError:
            self.broken()
            return
        if self._stage is Stage.FLUSHING:
            self._wire.shut()
            if self._peer_ended or self._feed.deaf:
                self._close()
                return
            self._stage = Stage.LINGERING
            self.hub.timers.set(self, self.hub.clock.monotonic() + self.hub.limits.linger, self._deadline)
        elif self.client is not None and self.client.room is not None:
            self.client.room.caught_up(self.client)
        self._watch()

    def _stalled(self) -> None:
        if self.client is not None and self.client.room is not None:
            self.client.room.stalled(self.client)
        self._watch()

    def _watch(self) -> None:
        if self._stage is Stage.CLOSED:
            return
        held_back = self._peer_ended or (self._stage <= Stage.JOINED and (self._parked or self._reads_by_itself))
        self._wire.watch(not held_back, write=self._feed.stalled)
