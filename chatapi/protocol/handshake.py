"""Parsing the handshake: bytes to a `Handshake`, or a refusal that names the fault."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from ..core.handshake import Handshake
from ..core.names import OURS, Naming
from ..errors import RefusalCode, Refused

EXAMPLE: Final = '{"name": "Mina", "room": "devroom"}'


def parse_handshake(data: bytes, naming: Naming = OURS) -> Handshake:
    """The handshake that `data` says. Keys match without regard to case, as in Go.

    Raises `Refused` with ``bad_handshake`` (not JSON, not an object, a field that is missing or of a wrong type: the
    detail names it), ``bad_name`` or ``bad_room``.
    """
    try:
        value: Any = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(
            RefusalCode.BAD_HANDSHAKE, f"the handshake is not JSON: {error}; it looks like {EXAMPLE}"
        ) from None
    if not isinstance(value, dict):
        raise Refused(RefusalCode.BAD_HANDSHAKE, f"the handshake is not a JSON object; it looks like {EXAMPLE}")
    fields = {key.lower(): field for key, field in value.items()}
    if naming.allows_empty:
        fields |= {key: "" for key in ("name", "room") if fields.get(key) is None}
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
