"""A room as lines of JSON: a header with its properties, then its messages and deletions, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from chatapi.brokers.sqlite.store import LAST_SEQ, RoomInfo
from chatapi.brokers.sqlite.view import View
from chatapi.errors import StoreError
from chatapi.protocol.json.rendering import JSON, frame

_LAST_TS: Final = 253_402_300_799_999_999
"""The end of the year 9999; a larger number is not in microseconds."""

Seq: TypeAlias = Annotated[int, Field(ge=1, le=LAST_SEQ)]
Ts: TypeAlias = Annotated[int, Field(ge=0, le=_LAST_TS)]


class _Record(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True, extra="ignore")


class Header(_Record):
    """The properties of a room, beside its messages."""

    type: Literal["room"]
    name: str
    epoch: Annotated[str, Field(min_length=1, max_length=64)]
    seq: Annotated[int, Field(ge=0, le=LAST_SEQ)]
    """The number of the newest message or deletion."""
    ts: Ts
    first: Seq
    """The number of the oldest one that is kept; `seq` + 1 if none is."""
    trimmed_ts: Ts
    """The `ts` of the newest one that is not kept any more; 0 if all are kept."""


class NumberedMessage(_Record):
    """A message with its number, as in an export."""

    type: Literal["message"]
    seq: Seq
    ts: Ts
    name: str
    text: str


class NumberedDeletion(_Record):
    """A deletion with its number, as in an export."""

    type: Literal["deleted"]
    seq: Seq
    ts: Ts
    name: str
    target: Seq


class PlainMessage(_Record):
    """A message from another source, which gets its number on import."""

    type: Literal["message"] = "message"
    name: str
    text: str
    ts: Ts | None = None


HEADER: Final[TypeAdapter[Header]] = TypeAdapter(Header)
NUMBERED: Final[TypeAdapter[NumberedMessage | NumberedDeletion]] = TypeAdapter(
    Annotated[NumberedMessage | NumberedDeletion, Field(discriminator="type")]
)
PLAIN: Final[TypeAdapter[PlainMessage]] = TypeAdapter(PlainMessage)

_AnyRecord = TypeVar("_AnyRecord")


class BadRecord(ValueError):
    """A line that is not valid; the text is the reason."""


def parse(adapter: TypeAdapter[_AnyRecord], line: bytes) -> _AnyRecord:
    """Parse a line. Raises `BadRecord`."""
    try:
        return adapter.validate_json(line)
    except ValidationError as errors:
        error = errors.errors(include_url=False)[0]
    kind, message = error["type"], error["msg"]
    field = error["loc"][-1] if error["loc"] else ""
    if kind == "json_invalid":
        raise BadRecord(f"it is not JSON: {error.get('ctx', {}).get('error', message)}")
    if kind.startswith("model_"):
        raise BadRecord('it is not a JSON object such as {"type": "message", …}')
    if kind == "union_tag_not_found":
        raise BadRecord("it has no 'type'")
    if kind == "union_tag_invalid" or field == "type":
        raise BadRecord(f"a line of the type {ascii(from_json(line)['type'])[:40]} is not allowed here")
    if kind == "missing":
        raise BadRecord(f"it has no '{field}'")
    raise BadRecord(f"'{field}': {message[0].lower()}{message[1:]}")


def is_header(line: bytes) -> bool:
    """Whether this line is meant as a header. Raises `BadRecord`."""
    try:
        value = from_json(line)
    except ValueError as error:
        raise BadRecord(f"it is not JSON: {error}") from None
    return isinstance(value, dict) and value.get("type") == "room"


def export(store: View, room: RoomInfo) -> Iterator[tuple[bytes, int]]:
    """Yield a room as lines, several at a time, with the seq of the last of them. Raises `StoreError`."""
    header = frame(
        "room",
        name=room.name,
        epoch=room.epoch,
        seq=room.seq,
        ts=room.ts,
        first=room.first,
        trimmed_ts=room.trimmed_ts,
    )
    yield header, room.first - 1
    seq = room.first
    try:
        for entry in store.entries(room):
            lines = JSON.entry(entry)
            if entry.seq != seq or lines.count(b"\n") != entry.count:
                break
            seq += entry.count
            yield lines, seq - 1
    except (TypeError, ValueError, AttributeError):
        pass  # a row has values other than numbers and UTF-8
    if seq != room.seq + 1:
        raise StoreError(
            f"{str(store.path)!r}: {room.name!r} is damaged at seq {seq}; `chatserver check` lists the faults"
        )
