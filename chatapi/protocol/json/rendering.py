"""Entries of a log, and answers to frames, as frames of the JSON protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic_core import to_json

from ...core.client import Client
from ...core.entries import AnyEntry, Arrived, Deletion, Departed, NameChanged, Said
from ...core.style import names_size
from ...errors import Disconnect
from ...events import Message, Whisper
from ...limits import LISTED
from ...text import one_line

_MESSAGE: Final = b'{"type":"message","seq":%d,"ts":%d,"name":%b,"text":%b}\n'
_MANY: Final = 8
"""A run of this many messages or more is rendered column by column, which takes longer to begin and less for each."""
_THREE_DIGITS: Final = tuple(b"%03d" % number for number in range(1000))
_ESCAPED: Final = bytes(c for c in range(0x20) if c != 0x0A) + b'"\\'
"""The bytes that JSON escapes, except for the line feed."""
_FRAME: Final = len('{"type":"ack","id":null,"seq":,"ts":,"name":,"text":""}')  # longer than that of a message
_TOLD: Final = ("line_bytes", "frame_bytes", "remember", "remember_ids", "reserve")
"""The limits that a client needs to know."""


class JsonStyle:
    """The JSON protocol: one object a line."""

    __slots__ = ()

    numbered = True

    def entry(self, entry: AnyEntry) -> bytes:
        """A `message` for each, or `joined`, `left`, `renamed`."""
        if isinstance(entry, Said):
            if entry.count >= _MANY:
                return _messages(entry)
            name, seq, ts = to_json(entry.name), entry.seq, entry.ts
            frames = []
            for i, text in enumerate(entry.texts()):
                frames.append(_MESSAGE % (seq + i, ts + i, name, to_json(text)))
            return b"".join(frames)
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
        if entry.count >= _MANY and None not in (entry.ids or ()) and (is_plain or echo):
            return _messages(entry, _ids(entry)) if echo else _acks(entry)
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
            return names_size(entry)
        block = entry.block
        size = 2 * len(block) - len(block.translate(None, _ESCAPED))
        if entry.count == 1:
            size += block.count(b"\n")
        if entry.ids:
            size += entry.count * len(b',"id":') + len(to_json(entry.ids))
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


def _messages(run: Said, ids: Sequence[bytes] = ()) -> bytes:
    """Render a run of messages as everybody but its author gets it, or with its ids."""
    return _columns(
        run.count,
        *_numbers(b'{"type":"message","seq":', run.seq, run.count),
        *_numbers(b',"ts":', run.ts, run.count),
        b',"name":%b,"text":"' % to_json(run.name),
        _between_quotes(run.block[:-1]),
        *((b'","id":', ids, b"}\n") if ids else (b'"}\n',)),
    )


def _acks(run: Said) -> bytes:
    """Render an `ack` for each message of a run, which tells only the place of the message."""
    return _columns(
        run.count,
        b'{"type":"ack","id":',
        _ids(run) or b"null",
        *_numbers(b',"seq":', run.seq, run.count),
        *_numbers(b',"ts":', run.ts, run.count),
        b"}\n",
    )


def _ids(run: Said) -> Sequence[bytes]:
    """Return the ids of a run as JSON, if it has some."""
    if not run.ids:
        return ()
    ids = to_json(run.ids)[1:-1].split(b",")
    return ids if len(ids) == run.count else list(map(to_json, run.ids))  # with commas in them


def _between_quotes(lines: bytes) -> list[bytes]:
    """Return each line as it stands between the quotes of a JSON string."""
    if len(lines.translate(None, _ESCAPED)) == len(lines):
        return lines.split(b"\n")
    return [to_json(line)[1:-1] for line in lines.decode().split("\n")]


def _columns(count: int, *columns: bytes | Sequence[bytes]) -> bytes:
    """Join `count` rows; a column of bytes is the same in each row."""
    pieces = [b""] * (count * len(columns))
    for i, column in enumerate(columns):
        pieces[i :: len(columns)] = [column] * count if isinstance(column, bytes) else column
    return b"".join(pieces)


def _numbers(before: bytes, first: int, count: int) -> tuple[bytes, Sequence[bytes]]:
    """Return two columns: what stands `before` the numbers from `first` on, with the digits that all share, and the
    rest of each."""
    thousands, rest = divmod(first, 1000)
    if thousands and rest + count <= 1000:
        return before + b"%d" % thousands, _THREE_DIGITS[rest : rest + count]
    return before, [b"%d" % number for number in range(first, first + count)]


def frame(type: str, **fields: object) -> bytes:  # noqa: A002
    """A frame of the JSON protocol, as a line."""
    return to_json({"type": type, **fields}) + b"\n"


JSON: Final = JsonStyle()


def ref_of(ref: str | int | None) -> dict[str, Any]:
    """Return the field that repeats the `ref` of a request, if it has one."""
    return {} if ref is None else {"ref": ref}


def error_frame(code: str, detail: str, id: str | None = None, ref: str | int | None = None) -> bytes:  # noqa: A002
    """Render an `error`, with the `id` or the `ref` of the frame that it answers."""
    about = ref_of(ref) if id is None else {"id": id}
    return frame("error", code=code, detail=one_line(detail), **about)


def welcome(client: Client, recovered: bool | None, reason: str, **ref: Any) -> bytes:
    """Render a `welcome`, the first frame that a member gets in a room.

    Args:
        client: the member, which has a session.
        recovered: whether the messages that it missed follow; None if it did not ask for them.
        reason: why they do not follow.
        ref: the field that repeats the `ref` of a request.
    """
    room, session = client.room, client.session
    assert room is not None
    assert session is not None
    return frame(
        "welcome",
        name=client.name,
        room=room.name,
        session=session.key,
        epoch=room.epoch,
        seq=room.seq,
        ts=room.ts,
        members=room.first_members(LISTED),
        count=len(room),
        recovered=recovered,
        **({"reason": reason} if reason else {}),
        limits={name: getattr(room.limits, name) for name in _TOLD},
        **ref,
    )


def already_sent(
    name: str,
    id: str | None,  # noqa: A002
    seq: int | None,
    ts: int,
    kept: Message | None = None,
    sent: str | None = None,
) -> bytes:
    """Render the `ack` of a message that its author `name` has sent before.

    It has the name and the text of what was `kept`, if they differ from the author's name and the text `sent` now.
    """
    differs: dict[str, str] = {}
    if kept is not None:
        if kept.name != name:
            differs["name"] = kept.name
        if kept.text != sent:
            differs["text"] = kept.text
    return frame("ack", id=id, seq=seq, ts=ts, **differs, duplicate=True)


def page(
    kind: str, found: Sequence[Any], limit: int, count: int, ref: str | int | None, name: Callable[[Any], str]
) -> bytes:
    """Render a page of a list, `found` having one item more than `limit` if another page follows."""
    more = {"next": name(found[limit - 1])} if len(found) > limit else {}
    return frame(kind, **{kind: found[:limit]}, count=count, **more, **ref_of(ref))


def history_page(messages: Sequence[Message], more: bool, most_bytes: int, ref: str | int | None) -> tuple[bytes, int]:
    """Render a `history` with as many of the newest messages as fit in `most_bytes`, at least one; and count them."""
    left = most_bytes + 1 - len(frame("history", messages=[], more=False, **ref_of(ref)))
    listed: list[dict[str, Any]] = []
    for message in reversed(messages):
        shown = {"seq": message.seq, "ts": message.ts, "name": message.name, "text": message.text}
        left -= len(to_json(shown)) + 1
        if left < 0 and listed:
            more = True
            break
        listed.append(shown)
    return frame("history", messages=listed[::-1], more=more, **ref_of(ref)), len(listed)
