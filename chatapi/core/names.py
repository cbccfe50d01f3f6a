"""Which names are allowed, and when two names are the same: our own rules, and those of Go (`-machat`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from ..errors import RefusalCode, Refused
from ..limits import MACHAT_NAME_BYTES, NAME_CHARS, ROOM_CHARS
from ..text import close_lines

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
_LONGEST: Final = 4 * max(NAME_CHARS, ROOM_CHARS)
"""Characters in a name, before NFC, at most: four of them can become one."""

IGNORABLE: Final = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
"""Default_Ignorable_Code_Point in DerivedCoreProperties.txt of the Unicode Character Database 15.1 (the same in 14.0
and 15.0): characters that a font shows as nothing. Python's `unicodedata` does not have this property."""
BLANK: Final = (0x2800, 0x13441, 0x13442, 0x16FE4, 0x1D159)
"""Characters that are shown as blank, though Unicode counts them neither as white space nor as ignorable: BRAILLE
PATTERN BLANK, EGYPTIAN HIEROGLYPH FULL BLANK and HALF BLANK, KHITAN SMALL SCRIPT FILLER, MUSICAL SYMBOL NULL NOTEHEAD.
"""
_INVISIBLE: Final = re.compile(
    "[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in (*IGNORABLE, *zip(BLANK, BLANK, strict=True))) + "]"
)


def check_name(raw: str, *, kept: bool = False) -> str:
    """Return a member's name as it will be shown (NFC).

    A name has 1 to 32 characters, none of them white space, control, format, invisible or unassigned, nor ``:`` or
    ``,``, and does not start with ``@``, ``/``, ``*``, ``#`` or a combining mark (docs/reference/protocol.md, Names).
    A `kept` name, which a store holds, may have what an earlier version or a newer Unicode has allowed: invisible or
    unassigned characters, or a combining mark at the start. Raises `Refused` with ``bad_name``.
    """
    name = _check(raw, NAME_CHARS, RefusalCode.BAD_NAME, "name", kept=kept)
    if name[0] in _FIRST:
        start = f"the name starts with {name[0]!r}; it must not start with any of {' '.join(_FIRST)}"
        raise Refused(RefusalCode.BAD_NAME, start)
    return name


def check_room(raw: str, *, kept: bool = False) -> str:
    """Return a room's name as it will be shown (NFC): as `check_name`, but with 1 to 64 characters and any first one.

    Raises `Refused` with ``bad_room``.
    """
    return _check(raw, ROOM_CHARS, RefusalCode.BAD_ROOM, "room", kept=kept)


def name_key(name: str) -> str:
    """Return the key of a name, which is the same for all spellings: the case-folded NFKC form.

    Every string has a key, also one that a client looks up unchecked. A string of more than 256 characters cannot be a
    name: only its beginning is normalised, because that takes quadratic time, and its key is one that no name has and
    that sorts right behind the key of the beginning. So keys are bounded; they can be longer than the names. Do not
    call this with a key.
    """
    if len(name) > _LONGEST:
        return f"{name_key(name[:_LONGEST])}\0"
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _check(raw: str, most: int, code: RefusalCode, what: str, *, kept: bool) -> str:
    if len(raw) <= most and _PLAIN.fullmatch(raw):
        return raw
    if not raw:
        raise Refused(code, f"the {what} is empty; it must have 1 to {most} characters")
    if len(raw) > 4 * most:  # too long in any form: normalising it would take time
        raise Refused(code, f"the {what} has {len(raw)} characters; at most {most} are allowed")
    name = unicodedata.normalize("NFC", raw)
    if len(name) > most:
        raise Refused(code, f"the {what} has {len(name)} characters; at most {most} are allowed")
    for char in name:
        if char in ":,":
            raise Refused(code, f"the {what} has a {char!r}; neither ':' nor ',' is allowed")
        kind = "Zs" if char.isspace() else unicodedata.category(char)
        if kind in _FORBIDDEN and not (kept and kind == "Cn"):
            raise Refused(code, f"the {what} has {_FORBIDDEN[kind]} (U+{ord(char):04X}), which is not allowed")
    if kept:
        return name
    if invisible := _INVISIBLE.search(name):
        raise Refused(code, f"the {what} has an invisible character (U+{ord(invisible[0]):04X}), which is not allowed")
    if unicodedata.category(name[0]).startswith("M"):
        raise Refused(
            code, f"the {what} starts with a combining mark (U+{ord(name[0]):04X}), which must follow another character"
        )
    return name


_ROOMS: Final = "Go:"
"""The beginning of the key of each room with Go's rules. The keys of other rooms are case-folded, so no key is equal to
one of the other kind, and one store can have rooms of both kinds."""
_CONTROLS: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])


class Naming(NamedTuple):
    """Rules for names, and for when two names are the same. There are two sets of them: `OURS` and `GO`."""

    name: Callable[[str], str]
    """The name of a member as it is shown; raises `Refused` (``bad_name``)."""
    room: Callable[[str], str]
    """The name of a room as it is shown; raises `Refused` (``bad_room``)."""
    kept_name: Callable[[str], str]
    """The same for a member's name in a store, which may be older than a rule; raises `Refused` (``bad_name``)."""
    kept_room: Callable[[str], str]
    """The same for a room's name in a store; raises `Refused` (``bad_room``)."""
    key: Callable[[str], str]
    """The key of a member's name: the same for all spellings."""
    room_key: Callable[[str], str]
    """The key of a room's name: the same for all spellings. It also tells the room's naming: see `naming_of`."""
    name_bytes: int
    """Bytes of UTF-8 in a member's name at most."""
    allows_empty: bool
    """Whether a name may be empty, a handshake may leave out both names, and a blank line is a message."""


def _harmless(raw: str) -> str:
    """Return a name that cannot fake a line: control characters and tabs removed, bidirectional ones closed."""
    if raw.isprintable():
        return raw
    return close_lines(raw.translate(_CONTROLS).encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _check_go(code: RefusalCode, what: str, raw: str) -> str:
    name = _harmless(raw)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise Refused(code, f"the {what} has half a surrogate pair, which is not allowed") from None
    if size > MACHAT_NAME_BYTES:
        raise Refused(code, f"the {what} has {size} bytes; at most {MACHAT_NAME_BYTES} are allowed")
    return name


OURS: Final = Naming(
    check_name,
    check_room,
    partial(check_name, kept=True),
    partial(check_room, kept=True),
    name_key,
    name_key,
    name_bytes=4 * NAME_CHARS,
    allows_empty=False,
)
"""The rules of docs/reference/protocol.md, Names."""
_go_name: Final = partial(_check_go, RefusalCode.BAD_NAME, "name")
_go_room: Final = partial(_check_go, RefusalCode.BAD_ROOM, "room")
GO: Final = Naming(
    _go_name,
    _go_room,
    _go_name,
    _go_room,
    _harmless,
    lambda room: _ROOMS + _harmless(room),
    name_bytes=MACHAT_NAME_BYTES,
    allows_empty=True,
)
"""The rules of Go (docs/how-to/coming-from-go.md): any name, also an empty one, in exactly its spelling."""


def naming_of(room_key: str) -> Naming:
    """Return the naming of the room that has this key."""
    return GO if room_key.startswith(_ROOMS) else OURS
