"""The frames that a client of the JSON protocol sends, one object a line, and the answers it gets."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, TypeAlias, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from ...errors import FrameError
from ...limits import LISTED, KiB
from ...text import cut_lines

Ref: TypeAlias = Annotated[str, Field(max_length=64)] | int | None
ID_CHARS: Final = 64
Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=ID_CHARS)] | None
Page: TypeAlias = Annotated[int, Field(ge=1, le=LISTED)]


class _Frame(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True, extra="ignore")


class Say(_Frame):
    """Say something to the room; answered by an `ack` at its place in the stream."""

    type: Literal["message"]
    text: str
    id: Id = None


class Tell(_Frame):
    """Say something to one member alone; answered by an `ack` without a place, or an error."""

    type: Literal["whisper"]
    to: str
    text: str
    id: Id = None


class Rename(_Frame):
    """Take another name; answered by one's own `renamed`."""

    type: Literal["rename"]
    to: str
    ref: Ref = None


class Move(_Frame):
    """Go to another room; answered by a `welcome`."""

    type: Literal["join"]
    room: str
    ref: Ref = None


class AskMembers(_Frame):
    """List the members of the room; answered by `members`."""

    type: Literal["members"]
    after: str | None = None
    limit: Page = LISTED
    ref: Ref = None


class AskRooms(_Frame):
    """Which rooms are open."""

    type: Literal["rooms"]
    after: str | None = None
    limit: Page = LISTED
    ref: Ref = None


class AskHistory(_Frame):
    """Messages before a seq, the newest of them."""

    type: Literal["history"]
    before: Annotated[int, Field(ge=1)] | None = None
    limit: Page = LISTED
    ref: Ref = None


class Ping(_Frame):
    """Answered by a `pong`."""

    type: Literal["ping"]
    ref: Ref = None


class Bye(_Frame):
    """Leave for good."""

    type: Literal["bye"]


Frame: TypeAlias = Say | Tell | Rename | Move | AskMembers | AskRooms | AskHistory | Ping | Bye
TYPES: Final = ("message", "whisper", "rename", "join", "members", "rooms", "history", "ping", "bye")
_BLANKS: Final = b" \t\r\n"
_IN_STRING: Final = bytes(c for c in range(0x20, 0x100) if c not in b'"\\\x7f')
"""The bytes that a string of printable characters without escapes may have."""
_FEW: Final = 4
"""Fewer frames are parsed one by one, because that takes less time."""
_WINDOW: Final = 8 * KiB
"""Bytes of frames that are taken at once, at most: it is for nothing, if they are not alike."""
_NAMES: Final = ([b"text", b"type"], [b"id", b"text", b"type"])
_NO_ENDS: Final = {0x00: None, 0x0A: None}
_ADAPTER: Final[TypeAdapter[Frame]] = TypeAdapter(Annotated[Frame, Field(discriminator="type")])


class BadFrame(NamedTuple):
    """A frame that cannot be taken, with the `ref` or `id` it came with, where that can be told."""

    code: FrameError
    detail: str
    ref: str | int | None = None
    id: str | None = None


def parse_frame(line: bytes) -> Frame | BadFrame:
    """The frame in a line of JSON."""
    try:
        value: Any = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        return BadFrame(FrameError.BAD_FRAME, f"not JSON: {error}")
    if not isinstance(value, dict):
        return BadFrame(FrameError.BAD_FRAME, 'a frame is a JSON object such as {"type": "message", "text": "hello"}')
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
    ref, id_ = value.get("ref"), value.get("id")
    ref = ref if type(ref) is int or (isinstance(ref, str) and len(ref) <= 64) else None
    id_ = id_ if isinstance(id_, str) and len(id_) <= 64 else None
    if first["type"].startswith("union_tag"):
        said = ascii(value.get("type"))[:40]
        return BadFrame(FrameError.BAD_FRAME, f"'type' is one of {', '.join(TYPES)}, not {said}", ref, id_)
    where = [
        str(part) for part in first["loc"][1:] if isinstance(part, int) or part in value or first["type"] == "missing"
    ]
    return BadFrame(FrameError.BAD_FRAME, f"'{where[0] if where else 'type'}': {first['msg']}", ref, id_)


class Messages(NamedTuple):
    """Some messages: each a line of printable UTF-8, and either all of their ids or none."""

    block: bytes
    number: int
    ids: tuple[str, ...]
    end: int
    """The end of the last frame."""


def is_plain(frame: Frame | BadFrame, line_bytes: int) -> TypeGuard[Say]:
    """Return whether this is a message in which nothing is to be cleaned."""
    return (
        isinstance(frame, Say)
        and 0 < len(frame.text) <= line_bytes // 4  # bytes of UTF-8 in a character
        and frame.text.isprintable()
    )


def may_be_alike(buffer: bytes, start: int, last: int, *, ids: bool) -> bool:
    """Return whether it is worth to `parse_alike` what starts there, which can be told at little cost.

    `last` is the end of the last whole line. Messages with an id are not, unless `ids`.
    """
    end = buffer.find(b"\n", start) + 1
    if end == last or buffer.find(b'"message"', start, end) < 0 or buffer.find(b"\\", start, end) >= 0:
        return False
    if not ids and buffer.find(b'"id"', start, end) >= 0:
        return False
    second = end
    for _ in range(_FEW - 1):
        end = buffer.find(b"\n", end) + 1
        if not end:
            return False
    return buffer.count(b'"message"', second, end) == _FEW - 1 and buffer.find(b"\\", second, end) < 0


def parse_alike(buffer: bytes, start: int, size: int, most: int) -> Messages | None:
    """Return the messages in the next lines, if these are `message` frames that differ in nothing but texts and ids.

    The lines are not parsed one by one: what stands around the text and the id of the first line is taken out of all of
    them at once. Only `size` bytes and `most` lines are looked at, up to the first escape. Returns None also if a text
    or an id is empty, or has a character that is not printable.
    """
    stop = start + min(size, _WINDOW)
    escape = buffer.find(b"\\", start, stop)
    lines = buffer[start : buffer.rfind(b"\n", start, stop if escape < 0 else escape) + 1]
    if lines.count(b"\n") > most:
        lines = cut_lines(lines, most)
    end = start + len(lines)
    around = _around_strings(lines[: lines.find(b"\n") + 1])
    if around is None or not lines.endswith(around[-1]):
        return None
    head, *between, tail = around
    inner = lines[len(head) : -len(tail)].split(tail + head)
    strings, ends = b"\n".join(inner), b"\n"
    if between:
        halves = strings.split(between[0])
        if len(halves) != len(inner) + 1:
            return None
        strings, ends = b"\0".join(halves), b"\0\n"
    if strings.translate(None, _IN_STRING) + b"\n" != ends * len(inner):
        return None
    if not strings.isascii() and not _is_printable(strings):
        return None
    if not between:
        return None if b"" in inner else Messages(strings + b"\n", len(inner), (), end)
    fields = strings.replace(b"\0", b"\n").decode().split("\n")
    texts, ids = fields[::2], fields[1::2]
    if b'"id"' in head:
        texts, ids = ids, texts
    if "" in fields or max(map(len, ids)) > ID_CHARS:
        return None
    return Messages("\n".join([*texts, ""]).encode(), len(ids), tuple(ids), end)


def _around_strings(line: bytes) -> list[bytes] | None:
    """Return what stands before, between and behind the text and the id, if the line is the frame of a message."""
    parts = line.split(b'"')  # outside of a string, inside, outside, …
    names, values = parts[1::4], parts[3::4]
    outside = [b"{", *[b":", b","] * (len(names) - 1), b":", b"}"]
    if sorted(names) not in _NAMES or [part.strip(_BLANKS) for part in parts[::2]] != outside:
        return None
    if values[names.index(b"type")] != b"message":
        return None
    for i, name in enumerate(names):
        if name != b"type":
            parts[4 * i + 3] = b"\0"
    return b'"'.join(parts).split(b"\0")


def _is_printable(strings: bytes) -> bool:
    try:
        return strings.decode().translate(_NO_ENDS).isprintable()
    except UnicodeDecodeError:
        return False
