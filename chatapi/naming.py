"""The two ways of a chat to take names, rooms and blank lines: its own, and that of MaChat in Go (``-machat``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from .errors import RefusalCode, Refused
from .framing import close_lines
from .limits import MACHAT_NAME_BYTES, NAME_CHARS
from .names import check_kept_name, check_kept_room, check_name, check_room, name_key

_ROOMS: Final = "Go:"
"""What the key of each room of Go's begins with. The key of any other room is case-folded, so that both kinds can be
kept in one place and are never taken for each other."""
_CONTROLS: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])


class Naming(NamedTuple):
    """What may be a name, and when two names are the same. There are two of it: `OURS` and `GO`."""

    name: Callable[[str], str]
    """The name of a member as it is shown; raises `Refused` (``bad_name``)."""
    room: Callable[[str], str]
    """The name of a room as it is shown; raises `Refused` (``bad_room``)."""
    kept_name: Callable[[str], str]
    """The same for a member's name that was kept, perhaps before a rule came; raises `Refused` (``bad_name``)."""
    kept_room: Callable[[str], str]
    """The same for a room's name that was kept; raises `Refused` (``bad_room``)."""
    key: Callable[[str], str]
    """What the spellings of a member's name have in common."""
    room_key: Callable[[str], str]
    """What the spellings of a room's name have in common. It also tells which naming the room has: see `naming_of`."""
    name_bytes: int
    """Bytes of UTF-8 in a member's name at most."""
    allows_empty: bool
    """Whether a name may be empty, a handshake may leave out both names, and a blank line is a message."""

    def is_room(self, raw: str) -> bool:
        """Whether this can be a room's name."""
        try:
            self.room(raw)
        except Refused:
            return False
        return True


def _harmless(raw: str) -> str:
    """A name that cannot fake a line: without control characters, tabs too, and with its bidirectional ones closed."""
    if raw.isprintable():
        return raw
    return close_lines(raw.translate(_CONTROLS).encode(errors="surrogatepass")).decode(errors="surrogatepass")


def _go_name(raw: str) -> str:
    return _checked(raw, RefusalCode.BAD_NAME, "name")


def _go_room(raw: str) -> str:
    return _checked(raw, RefusalCode.BAD_ROOM, "room")


def _checked(raw: str, code: RefusalCode, what: str) -> str:
    name = _harmless(raw)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise Refused(code, f"the {what} has half a surrogate pair, which may not stand in it") from None
    if size > MACHAT_NAME_BYTES:
        raise Refused(code, f"the {what} has {size} bytes; at most {MACHAT_NAME_BYTES} are allowed")
    return name


OURS: Final = Naming(
    check_name,
    check_room,
    check_kept_name,
    check_kept_room,
    name_key,
    name_key,
    name_bytes=4 * NAME_CHARS,
    allows_empty=False,
)
"""The rules of docs/protocol.md, Names."""
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
"""Go's: any name, the empty one too, and two names are the same if their characters are. See docs/machat.md."""


def naming_of(room_key: str) -> Naming:
    """The naming of the room that has this key."""
    return GO if room_key.startswith(_ROOMS) else OURS
