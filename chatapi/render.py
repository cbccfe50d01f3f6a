"""Entries of a log as bytes: rendered once per style for all members, and apart only for who caused them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from pydantic_core import to_json

from .entries import AnyEntry, Arrived, Deletion, Departed, NameChanged, Said
from .errors import Disconnect
from .events import Whisper
from .framing import one_line


class Style(Protocol):
    """How the server speaks to a member: everything that makes one member's bytes differ from another's.

    Members who are spoken to in the same way share one style object, and so the bytes of what is rendered in it.
    """

    @property
    def numbered(self) -> bool:
        """Whether members are told numbers, so that none may be left out."""
        ...

    def entry(self, entry: AnyEntry) -> bytes:
        """An entry as everybody but its author gets it."""
        ...

    def own(self, entry: AnyEntry, echo: bool) -> bytes:
        """An entry as its author gets it."""
        ...

    def size(self, entry: AnyEntry) -> int:
        """At least as many bytes as `entry` and `own` have, and not many more. It costs less than to render them."""
        ...

    def whisper(self, whisper: Whisper) -> bytes:
        """What somebody said to this member alone."""
        ...

    def notice(self, code: str, detail: str) -> bytes:
        """How the server is."""
        ...

    def disconnect(self, reason: Disconnect, detail: str) -> bytes:
        """The last words."""
        ...


class TextStyle(NamedTuple):
    """The text protocol: ``NAME:TEXT``, and ``* `` before what the server itself says."""

    joint: bytes = b":"
    """What stands between the name and the text."""
    end: bytes = b"\n"
    """What ends a line."""
    notices: bool = False
    """Whether joins, leaves and renames are told."""

    @property
    def numbered(self) -> bool:
        """Lines have no numbers."""
        return False

    def line(self, text: str) -> bytes:
        """One line of the server's own, whatever is in the text: it may quote what somebody else has sent."""
        return b"* " + one_line(text).encode() + self.end

    def entry(self, entry: AnyEntry) -> bytes:
        """An entry as everybody but its author gets it."""
        if isinstance(entry, Said):
            prefix = entry.name.encode() + self.joint
            if entry.erased:
                return b"".join(prefix + line + self.end for line in entry.block.split(b"\n") if line)
            return prefix + entry.block[:-1].replace(b"\n", self.end + prefix) + self.end
        if not self.notices:
            return b""
        if isinstance(entry, Arrived):
            return self.line(f"{entry.name} joined")
        if isinstance(entry, Departed):
            return self.line(f"{entry.name} left" + _BECAUSE.get(entry.reason, f" ({entry.reason})"))
        if isinstance(entry, Deletion):
            return self.line(f"{entry.name} deleted a message")
        return b"" if entry.quiet else self.line(f"{entry.name} is now {entry.to}")

    def own(self, entry: AnyEntry, echo: bool) -> bytes:
        """One's own message where echo is on, and the word that one's rename took place."""
        if isinstance(entry, NameChanged):
            return self.line(f"you are now {entry.to}")
        return self.entry(entry) if echo and isinstance(entry, Said) else b""

    def size(self, entry: AnyEntry) -> int:
        """The text, and what stands before and behind each line; of anything else more than it can have."""
        if not isinstance(entry, Said):
            return _names_size(entry)
        lines = entry.count if entry.count > 1 else entry.block.count(b"\n")
        return len(entry.block) + lines * (len(entry.name.encode()) + len(self.joint) + len(self.end) - 1)

    def whisper(self, whisper: Whisper) -> bytes:
        """A line that nobody else can have sent, for each line of the text."""
        return b"".join(self.line(f"{whisper.name} whispers: {line}") for line in whisper.text.split("\n"))

    def notice(self, code: str, detail: str) -> bytes:
        """The code and the detail."""
        return self.line(f"{code}: {detail}")

    def disconnect(self, reason: Disconnect, detail: str) -> bytes:
        """The code and the detail; a goodbye is just that."""
        return self.line("goodbye" if reason.code == "bye" and detail == reason.detail else f"{reason.code}: {detail}")


_BECAUSE: Final = {"bye": "", "moved": " for another room"}


def _names_size(entry: AnyEntry) -> int:
    """At least as many bytes as a join, leave, rename or deletion has, in either protocol."""
    ref = 0
    names = len(entry.name)
    if isinstance(entry, NameChanged):
        names += len(entry.to)
        ref = 0 if entry.ref is None else len(to_json(entry.ref))
    return 128 + 4 * names + ref


_FRAME: Final = len('{"type":"ack","id":null,"seq":,"ts":,"name":,"text":""}')  # longer than that of a message


class JsonStyle:
    """The JSON protocol: one object a line."""

    __slots__ = ()

    numbered = True

    def entry(self, entry: AnyEntry) -> bytes:
        """A `message` for each, or `joined`, `left`, `renamed`."""
        if isinstance(entry, Said):
            head, name, seq, ts = (
                b'{"type":"message","seq":%d,"ts":%d,"name":',
                to_json(entry.name),
                entry.seq,
                entry.ts,
            )
            name += b',"text":'
            pieces: list[bytes] = []
            for i, text in enumerate(entry.texts()):
                pieces += head % (seq + i, ts + i), name, to_json(text), b"}\n"
            return b"".join(pieces)
        if isinstance(entry, Arrived):
            return frame("joined", seq=entry.seq, name=entry.name)
        if isinstance(entry, Departed):
            return frame("left", seq=entry.seq, name=entry.name, reason=entry.reason)
        if isinstance(entry, Deletion):
            return frame("deleted", seq=entry.seq, ts=entry.ts, name=entry.name, target=entry.target)
        return b"" if entry.quiet else frame("renamed", seq=entry.seq, name=entry.name, to=entry.to)

    def own(self, entry: AnyEntry, echo: bool) -> bytes:
        """An `ack` at its place, or with echo the message with its `id`; one's rename with its `ref`.

        The `ack` has the name and the text too, where these are not what its author knows.
        """
        if isinstance(entry, NameChanged):
            ref = {} if entry.ref is None else {"ref": entry.ref}
            return frame("renamed", seq=entry.seq, name=entry.name, to=entry.to, **ref)
        if not isinstance(entry, Said):
            return b""
        pieces = []
        is_plain = not (entry.ack_tells or entry.erased)
        texts = [""] * entry.count if is_plain and not echo else entry.texts()
        for i, text in enumerate(texts):
            id_, seq, ts = entry.id_of(i), entry.seq + i, entry.ts + i
            if echo:
                named = {} if id_ is None else {"id": id_}
                pieces.append(frame("message", seq=seq, ts=ts, name=entry.name, text=text, **named))
            elif is_plain:
                pieces.append(b'{"type":"ack","id":%b,"seq":%d,"ts":%d}\n' % (to_json(id_), seq, ts))
            else:
                named = {"name": entry.name} if "name" in entry.ack_tells else {}
                told = {"text": text} if "text" in entry.ack_tells or not text else {}  # it may have been deleted since
                pieces.append(frame("ack", id=id_, seq=seq, ts=ts, **named, **told))
        return b"".join(pieces)

    def size(self, entry: AnyEntry) -> int:
        """The text with what is escaped in it, and a frame around each message; of anything else more than it can have.

        The only control characters in a text are line feeds and tabs.
        """
        if not isinstance(entry, Said):
            return _names_size(entry)
        block = entry.block
        size = len(block) + sum(map(block.count, (b'"', b"\\", b"\t")))
        if entry.count == 1:
            size += block.count(b"\n")
        if entry.ids:
            size += sum(len(b',"id":') + len(to_json(id_)) for id_ in entry.ids)
        numbers = len(str(entry.seq + entry.count)) + len(str(entry.ts + entry.count))
        return size + entry.count * (_FRAME + numbers + len(to_json(entry.name)))

    def whisper(self, whisper: Whisper) -> bytes:
        """A `whisper`."""
        return frame("whisper", ts=whisper.ts, name=whisper.name, text=whisper.text)

    def notice(self, code: str, detail: str) -> bytes:
        """A `notice`."""
        return frame("notice", code=code, detail=one_line(detail))

    def disconnect(self, reason: Disconnect, detail: str) -> bytes:
        """A `bye`."""
        return frame("bye", code=reason.code, detail=one_line(detail), reconnect=reason.reconnect, after=reason.after)


def frame(type: str, **fields: object) -> bytes:  # noqa: A002
    """A frame of the JSON protocol, as a line."""
    return to_json({"type": type, **fields}) + b"\n"


TEXT: Final = TextStyle()
TEXT_WITH_NOTICES: Final = TextStyle(notices=True)
TELNET: Final = TextStyle(b": ", b"\r\n", notices=True)
JSON: Final = JsonStyle()


class Batch:
    """Some entries, rendered when first asked for in a style and shared from then on."""

    __slots__ = ("_ends", "_entries", "_shared", "end", "origins", "start")

    def __init__(self, entries: Sequence[AnyEntry]) -> None:
        self._entries = entries
        self._shared: dict[Style, bytes] = {}
        self._ends: dict[Style, list[int]] = {}  # 0, and where in that each entry ends
        self.start: int = entries[0].position
        self.end: int = entries[-1].end
        self.origins: dict[int, list[int]] = {}
        """Whose entries these are, by the index of each."""
        for i, entry in enumerate(entries):
            self.origins.setdefault(entry.origin, []).append(i)

    def shared(self, style: Style) -> bytes:
        """What everybody gets who caused none of it."""
        data = self._shared.get(style)
        if data is None:
            pieces = [style.entry(entry) for entry in self._entries]
            data = self._shared[style] = b"".join(pieces)
            self._ends[style] = [0, *accumulate(map(len, pieces))]
        return data

    def own(self, style: Style, origin: int, echo: bool) -> bytes:
        """What the member `origin` gets, its own entries filtered or put in its own words."""
        shared = memoryview(self.shared(style))
        ends = self._ends[style]
        pieces: list[bytes | memoryview] = []
        done = 0
        for i in self.origins[origin]:
            pieces += shared[done : ends[i]], style.own(self._entries[i], echo)
            done = ends[i + 1]
        pieces.append(shared[done:])
        return b"".join(pieces)

    def for_reader(self, style: Style, reader: int, echo: bool) -> bytes:
        """What the member `reader` gets."""
        return self.own(style, reader, echo) if reader in self.origins else self.shared(style)
