"""What may be a name, and when two of them are the same."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from .errors import RefusalCode, Refused
from .limits import NAME_CHARS, ROOM_CHARS

_PLAIN: Final = re.compile(r"[!-+\--9;-~]+")  # printable ASCII without ':' and ','
_FIRST: Final = "@/*#"
_FORBIDDEN: Final = {
    "Cc": "a control character",
    "Cf": "an invisible format character",
    "Cs": "half a surrogate pair",
    "Cn": "an unassigned character",
    "Zs": "white space",
    "Zl": "white space",
    "Zp": "white space",
}


def check_name(raw: str) -> str:
    """A member's name as it will be shown (NFC).

    Raises `Refused` with ``bad_name``: a name has 1 to 32 characters, none of them white space, control, format or
    unassigned, nor ``:`` or ``,``, and does not start with ``@``, ``/``, ``*`` or ``#`` (docs/protocol.md, Names).
    """
    name = _check(raw, NAME_CHARS, RefusalCode.BAD_NAME, "name")
    if name[0] in _FIRST:
        raise Refused(
            RefusalCode.BAD_NAME, f"a name does not start with {name[0]!r} (nor with any of {' '.join(_FIRST)})"
        )
    return name


def check_room(raw: str) -> str:
    """A room's name as it will be shown (NFC): as `check_name`, but 1 to 64 characters and any first one.

    Raises `Refused` with ``bad_room``.
    """
    return _check(raw, ROOM_CHARS, RefusalCode.BAD_ROOM, "room")


def is_room(name: str) -> bool:
    """Whether this can be a room's name."""
    try:
        check_room(name)
    except Refused:
        return False
    return True


def name_key(name: str) -> str:
    """What two spellings of the same name have in common: the case-folded NFKC form."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _check(raw: str, most: int, code: RefusalCode, what: str) -> str:
    if len(raw) <= most and _PLAIN.fullmatch(raw):
        return raw
    if not raw:
        raise Refused(code, f"the {what} is empty; it takes 1 to {most} characters")
    if len(raw) > 4 * most:  # normalising is not free: what can never fit is not normalised
        raise Refused(code, f"the {what} has {len(raw)} characters; at most {most} are allowed")
    name = unicodedata.normalize("NFC", raw)
    if len(name) > most:
        raise Refused(code, f"the {what} has {len(name)} characters; at most {most} are allowed")
    for char in name:
        if char in ":,":
            raise Refused(code, f"the {what} has a {char!r}; neither ':' nor ',' may stand in it")
        kind = "Zs" if char.isspace() else unicodedata.category(char)
        if kind in _FORBIDDEN:
            raise Refused(code, f"the {what} has {_FORBIDDEN[kind]} (U+{ord(char):04X}), which may not stand in it")
    return name
