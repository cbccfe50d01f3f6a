"""The handshake: one JSON object with a client's name, its room and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from ..errors import RefusalCode, Refused
from .names import OURS, Naming

EXAMPLE: Final = '{"name": "Mina", "room": "devroom"}'
"""A handshake, for error texts."""


def _name(value: str, info: ValidationInfo) -> str:
    try:
        return (info.context or OURS).name(value)
    except Refused as refused:
        raise PydanticCustomError("bad_name", "{detail}", {"detail": refused.detail}) from None


def _room(value: str, info: ValidationInfo) -> str:
    try:
        return (info.context or OURS).room(value)
    except Refused as refused:
        raise PydanticCustomError("bad_room", "{detail}", {"detail": refused.detail}) from None


class Resume(BaseModel):
    """The last event that a JSON member saw before its connection broke, and the key of its session."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True, extra="ignore")

    epoch: str = ""
    seq: int = Field(default=0, ge=0)
    ts: int = Field(default=0, ge=0)
    session: str = ""


class Handshake(BaseModel):
    """The first object that a client sends. Unknown keys are ignored, types are not converted (``"history": "3"`` is an
    error).

    The context of the validation is the `Naming` for both names; without one it is `OURS`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True, extra="ignore")

    name: Annotated[str, AfterValidator(_name)]
    """The member's name."""
    room: Annotated[str, AfterValidator(_room)]
    """The room to join; it is created if it does not exist."""
    protocol: Literal["text", "json"] = "text"
    """The protocol after the handshake."""
    echo: bool | None = None
    """Whether the sender also gets its own messages; None for the server's default (`-echo`)."""
    commands: bool | None = None
    """Whether lines that start with ``/`` or ``@`` are commands; None for the server's default (`-no-commands`)."""
    notices: bool = False
    """Whether joins, leaves and renames come as ``* …`` lines."""
    history: int = Field(default=0, ge=0)
    """Replay at most this many of the room's last messages on joining."""
    token: str | None = None
    """Credentials, for the program's `admit` hook."""
    resume: Resume | None = None
    """JSON only: the state to go on from, after a connection broke."""


def handshake_of(fields: Mapping[str, object], naming: Naming = OURS) -> Handshake:
    """Return the handshake with these fields. Raises `Refused` (``bad_handshake``, ``bad_name``, ``bad_room``)."""
    try:
        return Handshake.model_validate(fields, context=naming)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
    if first["type"] in ("bad_name", "bad_room"):
        raise Refused(RefusalCode(first["type"]), first["msg"])
    field = first["loc"][0]
    said = "" if first["type"] == "missing" else f", not {_short(first['input'])}"
    raise Refused(RefusalCode.BAD_HANDSHAKE, f"{field!r}: {first['msg']}{said}; a handshake looks like {EXAMPLE}")


def _short(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
