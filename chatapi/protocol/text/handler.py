"""What the commands of the text protocol do, and what their sender is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from ...core import views
from ...core.broker import RoomCount
from ...core.client import Client
from ...core.entries import Said
from ...core.hooks import OnMessage
from ...core.room import Room
from ...errors import NotDelivered, Refused, TextTooLong
from ...limits import LISTED
from ...server.asking import ask, blame, is_open, passed
from ..parser import BadLine, Lines, Step
from .commands import BadCommand, Command, help_lines

if TYPE_CHECKING:
    from ...server.connection import Connection

_HISTORY: Final = 20


def take(connection: Connection, client: Client, step: Step) -> None:
    """Take what a member of the text protocol said: messages, a command, or what cannot be taken."""
    if isinstance(step, Lines):
        connection.pace.spend(step.cost)
        if step.messages and (hook := connection.hub.hooks.on_message) is not None:
            _ask_to_say(connection, client, hook, step.block)
        elif step.messages:
            client.say(step.block, step.messages)
        return
    if isinstance(step, Command):
        leaves = step.name in ("join", "bye")
        if (leaves and client.waits) or (step.name == "join" and not client.ready_to_leave()):
            connection.hold(step)  # it would leave lines of this room behind
            return
        if step.name == "join" and not is_open(
            connection, client, step.argument, step, lambda refused: _refuse(connection, refused)
        ):
            return
        connection.pace.spend(1)
        if _carry_out(connection, client, step):
            return
    else:
        assert isinstance(step, BadLine | BadCommand)
        connection.pace.spend(1)
        connection.tell(step.why)
        if isinstance(step, BadLine):
            return  # a file that is not text is pasted by mistake
    connection.fault()


def _ask_to_say(connection: Connection, client: Client, hook: OnMessage, block: bytes) -> None:
    """Say one message, if the program's hook has nothing against it."""
    text = block[:-1].decode()

    def say(result: object) -> None:
        if client.room is not None:
            try:
                client.say(passed(client, block, result), 1)
            except TextTooLong as error:
                connection.tell(str(error))

    ask(
        connection,
        lambda: hook(views.Client(client), text),
        "on_message",
        say,
        lambda refused: connection.tell(refused.detail),
    )


def _refuse(connection: Connection, refused: Refused) -> None:
    connection.tell(refused.detail)
    blame(connection, refused)


def not_kept(connection: Connection, client: Client, said: Said, reason: Refused) -> None:
    """Tell a member that what it said was not kept."""
    lines = "your line was" if said.count == 1 else f"your last {said.count:,} lines were"
    connection.tell(f"{reason.code}: {lines} {not_kept_as(reason)}: {reason.detail}")


def not_kept_as(reason: Refused) -> str:
    """What is known of a message that was refused."""
    return "not kept" if reason.sure else "perhaps not kept"


def _carry_out(connection: Connection, client: Client, command: Command) -> bool:
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
    connection.wait_for(
        client.ask_rename(command.argument),
        lambda _: None,
        lambda refused: _refuse(connection, refused),
    )


def _whisper(connection: Connection, client: Client, command: Command) -> None:
    def not_delivered(error: NotDelivered) -> None:
        connection.tell(str(error))
        connection.fault()

    connection.wait_for(client.ask_whisper(command.argument, command.text), lambda _: None, not_delivered)


def _list(connection: Connection, client: Client, command: Command) -> None:
    assert client.room is not None
    connection.tell(who_is_here(client.room, f"in {client.room.name}"))


def _rooms(connection: Connection, client: Client, command: Command) -> None:
    def told(found: tuple[Sequence[RoomCount], int]) -> None:
        rooms, count = found
        shown = ", ".join(f"{room.name} ({room.members:,})" for room in rooms)
        more = f" and {count - len(rooms):,} more" if count > len(rooms) else ""
        connection.tell(f"rooms ({count:,}): {shown}{more}")

    connection.wait_for(
        connection.hub.room_list.page(None, LISTED),
        told,
        lambda refused: _refuse(connection, refused),
    )


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
