"""What the commands of the text protocol do, and what their sender is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import nsmallest
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from ..clients import Client
from ..commands import Command, help_lines
from ..errors import NotDelivered, Refused, TextTooLong
from ..limits import LISTED
from ..rooms import Room

if TYPE_CHECKING:
    from .connection import Connection

_HISTORY: Final = 20
_key = attrgetter("key")


def carry_out(connection: Connection, client: Client, command: Command) -> bool:
    """Carry out a command and tell its sender what came of it; False where it was refused."""
    try:
        _HANDLERS[command.name](connection, client, command)
    except Refused as refused:
        connection.tell(refused.detail)
    except (NotDelivered, TextTooLong, ValueError) as error:
        connection.tell(str(error))
    else:
        return True
    return False


def who_is_here(room: Room, heading: str) -> str:
    """The members of a room, sorted, at most `LISTED` of them, and their number."""
    names = room.first_members(LISTED)
    more = f" and {len(room) - len(names):,} more" if len(room) > len(names) else ""
    return f"{heading} ({len(room):,}): {', '.join(names)}{more}"


def _rename(connection: Connection, client: Client, command: Command) -> None:
    client.rename(command.argument)


def _whisper(connection: Connection, client: Client, command: Command) -> None:
    client.whisper(command.argument, command.text)


def _list(connection: Connection, client: Client, command: Command) -> None:
    assert client.room is not None
    connection.tell(who_is_here(client.room, f"in {client.room.name}"))


def _rooms(connection: Connection, client: Client, command: Command) -> None:
    rooms = [room for room in connection.rooms() if len(room)]
    shown = ", ".join(f"{room.name} ({len(room):,})" for room in nsmallest(LISTED, rooms, key=_key))
    more = f" and {len(rooms) - LISTED:,} more" if len(rooms) > LISTED else ""
    connection.tell(f"rooms ({len(rooms):,}): {shown}{more}")


def _join(connection: Connection, client: Client, command: Command) -> None:
    before = client.room
    connection.move(command.argument)
    assert client.room is not None
    where = "already" if client.room is before else "now"
    connection.tell(who_is_here(client.room, f"you are {where} in {client.room.name}"))


def _history(connection: Connection, client: Client, command: Command) -> None:
    asked = command.argument or str(_HISTORY)
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 9):
        raise ValueError(f"/history takes a number of messages, not {asked[:32]!r}")
    client.replay(int(asked))


def _bye(connection: Connection, client: Client, command: Command) -> None:
    connection.bye()


def _help(connection: Connection, client: Client, command: Command) -> None:
    for line in help_lines():
        connection.tell(line)


_Handler: TypeAlias = "Callable[[Connection, Client, Command], None]"

_HANDLERS: Final[Mapping[str, _Handler]] = MappingProxyType(
    {
        "username": _rename,
        "msg": _whisper,
        "list": _list,
        "rooms": _rooms,
        "join": _join,
        "history": _history,
        "bye": _bye,
        "help": _help,
    }
)
