"""The frames that a client of the JSON protocol sends, one object a line, and the answers it gets."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from ...errors import FrameError
from ...limits import LISTED

Ref: TypeAlias = Annotated[str, Field(max_length=64)] | int | None
Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)] | None
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
    """Who is here."""

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
