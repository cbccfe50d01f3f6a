"""Asking a hook of the program for one connection, which waits for the answer while everybody else goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..hooks import checked, outcome

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
        connection.wait_for(
            lambda decided: connection.hub.spawn(result, decided), lambda result: then(checked(result, what)), refused
        )
        return
    try:
        then(checked(result, what))
    except Refused as error:
        refused(error)
