"""Asking for one connection, a hook or the broker: it waits for the answer while everybody else goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..core.admission import Newcomer, is_ready, prepare
from ..core.client import Client
from ..core.hooks import checked, outcome, retold
from ..errors import RefusalCode, Refused
from ..protocol.parser import Step

if TYPE_CHECKING:
    from .connection import Connection


def ask(
    connection: Connection,
    hook: Callable[[], object],
    what: str,
    then: Callable[[Any], None],
    refused: Callable[[Refused], None],
) -> None:
    """Go on with what the hook says: at once, or with the session parked until it has said it."""
    result = outcome(hook)
    if isinstance(result, Awaitable):
        connection.wait_for(connection.hub.spawn(result), lambda result: then(checked(result, what)), refused)
        return
    try:
        then(checked(result, what))
    except Refused as error:
        refused(error)


def passed(client: Client, block: bytes, result: object) -> bytes:
    """What the hook `on_message` lets a member say, of this text: all of it, or another text.

    Raises `TextTooLong`, and `Refused` if nothing is left of it: then the member is told.
    """
    changed = retold(result)
    block = block if changed is None else client.prepare(changed)
    if not block:
        raise Refused(RefusalCode.FORBIDDEN, "the server has left nothing of the text")
    return block


def blame(connection: Connection, refused: Refused) -> None:
    """Count a refusal as a fault of the member's, unless it is the server's."""
    if refused.code != RefusalCode.UNAVAILABLE:
        connection.fault()


def is_open(connection: Connection, client: Client, room: str, step: Step, refused: Callable[[Refused], None]) -> bool:
    """Whether a room can be gone to. If not, it is made ready, and this step is taken again, or refused."""
    hub = connection.hub
    if not hub.naming.is_room(room) or is_ready(hub, room, client.name):  # `move` refuses what cannot be a room
        return True

    def give_up(reason: Refused) -> None:
        connection.postpone(None)
        refused(reason)

    who = Newcomer(client.name, "" if client.session is None else client.session.key)
    connection.postpone(step)
    connection.wait_for(prepare(hub, hub.naming.room(room), who).prepared, lambda _: None, give_up)
    return False
