"""`Client`: a name in a room, with a cursor into the room's log and a small lane for whispers and answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from ..errors import DISCONNECTS, Disconnected, NotDelivered, Refused, TextTooLong
from ..events import Whisper
from ..limits import ITEM_COST
from ..pending import Pending
from ..text import CLOSED, close_lines, without_empty_lines
from .entries import AnyEntry, KeptEntry, NameChanged, Said
from .log import Log
from .member import Outlet, Peer
from .room import Room
from .sessions import Session
from .style import Style


class Passage(NamedTuple):
    """Entries of the log that are to be shown: new ones (`live`), or history."""

    entries: Sequence[AnyEntry]
    live: bool


class _Private(NamedTuple):
    """An answer or a whisper in the lane. It is shown after all entries of the log before `position`."""

    position: int
    item: bytes | Whisper
    size: int


class _Replay(NamedTuple):
    """A range of the log, in the lane: the messages from `at` to `stop` are shown again. It holds no messages.

    They are history, or, if `live`, messages that the member missed; then its own ones are shown as its own.
    """

    position: int
    at: int
    stop: int
    live: bool = False
    begun: bool = False


_NOWHERE: Final = Log(0, 0)

Part: TypeAlias = Passage | Whisper | bytes
"""What `Client.read` returns: a passage of the log, a whisper, or an answer."""


class Client:
    """A member: a name in a room, with a cursor. `Admission` makes it for a connection or for a program's bot.

    None of its methods waits, and all of them belong on the event loop that the chat runs on.
    """

    __slots__ = (
        "_lane",
        "_latest",
        "_log",
        "address",
        "away",
        "echo",
        "end",
        "id",
        "key",
        "lane_size",
        "name",
        "outlet",
        "peer",
        "position",
        "replaying",
        "room",
        "session",
        "style",
    )

    def __init__(
        self,
        id: int,  # noqa: A002
        name: str,
        key: str,
        outlet: Outlet,
        style: Style,
        echo: bool,
        address: str,
    ) -> None:
        self.id: int = id
        """A number that no other client of this server has or had."""
        self.name: str = name
        """The name as it is shown."""
        self.key: str = key
        """The key of its name: the same for all spellings."""
        self.room: Room | None = None
        """The room that it is in; None before it has joined and once it has left."""
        self._log = _NOWHERE
        self.address: str = address
        """The host that it is connected from; empty for a program's own member."""
        self.session: Session[Client] | None = None
        """Its session, if it speaks the JSON protocol."""
        self.away: bool = False
        """Whether its connection broke, and its name is reserved."""
        self.echo: bool = echo
        self.style: Style = style
        self.outlet: Outlet = outlet
        self.peer: Peer | None = outlet.peer
        self.position: int = 0  # the cursor: the position of the next entry to be shown to it
        self.end: int | None = None  # the position at which its reading ends, once it has left
        self._lane: deque[_Private | _Replay] | None = None
        self._latest: Said | NameChanged | None = None  # its latest message or rename, if that may be on its way
        self.lane_size: int = 0
        self.replaying: bool = False
        """Whether history or missed messages are still to be shown to it; meanwhile its input waits."""

    def __repr__(self) -> str:
        return (
            f"<Client {self.name!r} in {self.room.name!r}>"
            if self.room is not None
            else f"<Client {self.name!r}, gone>"
        )

    # Speaking

    def post(self, text: str) -> None:
        """Say one message, of any number of lines, without waiting for anybody.

        The text is cleaned (docs/reference/protocol.md, Text); an empty one is dropped. If the broker refuses the
        message later, the member is told, or it is logged if the member cannot be told. Raises `TextTooLong` and
        `Disconnected`.
        """
        block = self.prepare(text)
        if block:
            self.submit(Said(self.id, self.name, block, 1))

    def submit(self, said: Said) -> None:
        """Say prepared messages. Raises `Disconnected`."""
        room = self.room if self.room is not None else self._there()
        room.submit(said)
        self._latest = None if said.seq else said

    @property
    def waits(self) -> bool:
        """Whether its latest message or rename has no place in the log yet."""
        return self._latest is not None and self._latest.pending

    def ask_whisper(self, to: str, text: str, about: str = "") -> Pending[None]:
        """Whisper to one member of the room, which is shown the text after everything that was delivered before.

        The result comes later if that member is on another server. Fails with `NotDelivered`. Whispers with the same
        `about`, unless that is empty, are delivered there only once. Raises `TextTooLong` and `Disconnected`.
        """
        room = self._there()
        text = self.prepare(text)[:-1].decode()
        whisper = Whisper(room.micros(), self.name, text)
        presence = room.presence
        if (target := room.member(to)) is not None:
            why = target.hear(whisper) if text else ""
            return Pending.failed(NotDelivered(why)) if why else Pending.resolved(None)
        if presence is not None and room.roster.is_elsewhere(key := room.naming.key(to)):
            return presence.whisper(room.key, key, whisper, about)
        return Pending.failed(NotDelivered(f"nobody here is called {to[:40]!r}; nothing was sent"))

    def hear(self, whisper: Whisper) -> str:
        """Take a whisper into the lane, or return why that is impossible."""
        if self.away:
            return f"{self.name} is away; nothing was sent"
        if not self._reads:
            return f"{self.name} does not read messages; nothing was sent"
        if self.lane_full:
            return f"{self.name} has too many unread messages; nothing was sent"
        self.push(whisper)
        return ""

    def ask_rename(self, name: str, ref: str | int | None = None) -> Pending[None]:
        """Take another name; the answer has this `ref`.

        The result comes later if several servers share the room. Fails with `Refused`; raises `Disconnected`.
        """
        room = self._there()
        try:
            name = room.naming.name(name)
        except Refused as refused:
            return Pending.failed(refused)
        return room.rename(self, name, ref, "" if self.session is None else self.session.key)

    def awaits(self, renamed: NameChanged) -> None:
        """Note its rename, which may have no place in the log yet."""
        self._latest = renamed if renamed.pending else None

    def disconnect(self, code: str, detail: str = "") -> None:
        """Remove it from the chat for a reason of `DISCONNECTS`, which it is told; without effect if it has left.

        Raises `KeyError` for a code that is not in the table.
        """
        reason = DISCONNECTS[code]
        if self.room is not None:
            self.room.leave(self, code)
            self.outlet.ended(reason, detail or reason.detail)

    def _there(self) -> Room:
        if self.room is None:
            raise Disconnected(DISCONNECTS["bye"], "this client has left its room")
        return self.room

    def prepare(self, text: str) -> bytes:
        """Return a text as one message of cleaned lines, as the log holds it; empty if nothing is left of it.

        Raises `TextTooLong` and `Disconnected`.
        """
        most = self._there().limits.line_bytes
        whole = block = without_empty_lines(text.encode(errors="replace").strip(b"\n") + b"\n")
        if len(whole) - 1 <= 3 * most:  # separators shrink to a third; a longer text cannot fit
            block = close_lines(whole)
        if len(block) - 1 > most:
            counted = CLOSED if len(block) > len(whole) else ""
            raise TextTooLong(f"the text has {len(block) - 1:,} bytes{counted}; at most {most:,} are allowed")
        return block

    # Reading

    def push(self, item: bytes | Whisper) -> None:
        """Put an answer or a whisper into the lane, after everything that the log holds now."""
        size = len(item.text.encode() if isinstance(item, Whisper) else item) + ITEM_COST
        self.lane_size += size
        self._append(_Private(self._log.head, item, size))

    def replay(self, messages: int) -> None:
        """Show the last `messages` messages of the room, at most `Limits.history`, after what the log holds now."""
        head, room = self._log.head, self._there()
        most = min(messages, room.limits.history)
        self._show_again(_Replay(head, room.back(most, shown=not self.style.numbered), head))

    def catch_up(self, position: int) -> None:
        """Show the messages from `position` on, before everything that comes from now on."""
        self._show_again(_Replay(self._log.head, position, self._log.head, live=True, begun=True))

    def _show_again(self, replay: _Replay) -> None:
        self.lane_size += ITEM_COST
        self.replaying = True
        if self.peer is not None:
            self.peer.shows_past(replay.stop - replay.at, self._log.weight(replay.at))
        self._append(replay)

    @property
    def _reads(self) -> bool:
        """Whether it reads. It does not if its connection broke, or if it was joined with ``reads=False``."""
        return self.room is not None and (self.id in self.room.behind or self.room.current.get(self.id) is not None)

    @property
    def lane_full(self) -> bool:
        """Whether the lane is full: whispers are refused, and commands wait."""
        return self.lane_size > 0 and self.room is not None and self.lane_size >= self.room.limits.lane_bytes

    @property
    def oldest(self) -> int:
        """The oldest position of the log that is still to be shown to it."""
        item = self._lane[0] if self._lane else None
        return min(self.position, item.at) if isinstance(item, _Replay) and item.begun else self.position

    @property
    def newest(self) -> int:
        """The position behind everything that the log holds."""
        return self._log.head

    def has_read(self, position: int) -> bool:
        """Return whether it was shown everything before this position of the log, and everything in its lane."""
        return not self._lane and self.position >= position

    @property
    def caught_up(self) -> bool:
        """Whether it was shown everything."""
        return not self._lane and self.position >= self._stop()

    def read(self, most: int) -> Part | None:
        """Return the next part to be shown, a `chunk` of `most` bytes at most, or None if nothing is left.

        If the log has forgotten entries that the client should read, it is disconnected as a slow consumer.
        """
        while True:
            lane = self._lane
            stop = lane[0].position if lane else self._stop()
            if self.position < stop:
                if self.position < self._log.tail:
                    self._lost_place()
                    return None
                entries, self.position = self._log.read(self.position, stop, most, self.style.size)
                return Passage(entries, live=True)
            if not lane:
                return None
            item = lane[0]
            if isinstance(item, _Private):
                lane.popleft()
                self.lane_size -= item.size
                return item.item
            at = item.at if item.begun else max(item.at, self._log.tail)
            if at >= item.stop:
                lane.popleft()
                self.lane_size -= ITEM_COST
                self.replaying = False
                continue
            if at < self._log.tail:
                self._lost_place()
                return None
            entries, at = self._log.read(at, item.stop, most, self.style.size)
            lane[0] = item._replace(at=at, begun=True)
            if kept := [entry for entry in entries if isinstance(entry, KeptEntry)]:
                return Passage(kept, item.live)

    def join(self, room: Room) -> None:
        """Enter a room. Raises `Refused` as `Room.check_free` does."""
        room.join(self)
        self.room = room

    def enter(self, log: Log) -> None:
        """Read this log from its head on. Only rooms call this."""
        self._log = log
        self.position = log.head
        self.end = None

    def part(self) -> None:
        """Be in no room any more; entries that the log holds now are still read. Only rooms call this."""
        self.room = None
        if not self.away:  # otherwise its reading has ended before
            self.end = self._log.head

    def go_away(self) -> None:
        """Stay a member without a connection, and read nothing."""
        if self.room is not None:
            self.away = True
            self.end = self._log.head
            self.room.went_away(self)

    def come_back(self, peer: Peer, style: Style, echo: bool, address: str) -> None:
        """Go on with another connection, which is shown all entries from now on."""
        if self.peer is not None:
            self.peer.replaced()
        self.outlet = self.peer = peer
        self.style, self.echo, self.address = style, echo, address
        self.away = False
        self.end = None
        if self.room is not None:
            self._log = self.room.log
            self.skip()
            self.room.came_back(self)

    def skip(self) -> None:
        """Skip everything that is still to be shown."""
        self._lane = None
        self.lane_size = 0
        self.replaying = False
        self.position = self._stop()

    def closed(self) -> None:
        """Read nothing more, and release the log, because a session may keep this client for long."""
        self.skip()
        self._log = _NOWHERE

    def _stop(self) -> int:
        return self._log.head if self.end is None else self.end

    def _lost_place(self) -> None:
        if self.room is not None and not self.away:  # if it is away, it is told when it comes back
            self.room.evict(self)
        self.skip()

    def _append(self, item: _Private | _Replay) -> None:
        if self._lane is None:
            self._lane = deque()
        self._lane.append(item)
        if self.room is not None:
            self.room.stalled(self)  # it must read by itself: a fan-out pass does not stop at the position of the item
        self.outlet.wake()
