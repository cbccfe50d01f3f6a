"""Calls the program's hooks and checks what they return."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

from pydantic import ValidationError

from ..errors import ChatError, RefusalCode, Refused
from ..events import Joined, Left, Renamed
from ..pending import Pending
from .handshake import Handshake
from .names import Naming

if TYPE_CHECKING:
    from .views import Client

_logger = logging.getLogger("chatapi")

Admit: TypeAlias = Callable[[Handshake], "Handshake | Awaitable[Handshake | None] | None"]
"""Admits a handshake as it is (returns None) or changed (returns it); raises `Refused` to refuse it."""
OnMessage: TypeAlias = "Callable[[Client, str], str | Awaitable[str | None] | None]"
"""Passes a message (returns None) or changes it (returns another text); raises `Refused` to refuse it."""
OnPresence: TypeAlias = Callable[[str, "Joined | Left | Renamed"], "Awaitable[None] | None"]
"""Is told of a join, leave or rename, with the name of the room."""


class Spawn(Protocol):
    """Awaits the result of an async hook, for `Limits.hook_seconds` at most."""

    def __call__(self, awaitable: Awaitable[object], /, *, shield: bool = False) -> Pending[object]:
        """Return the result later: its value is what the hook returned, or the exception that it raised.

        With `shield`, the end of the chat waits for the hook; otherwise that cancels it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a program, each sync or async, or None."""

    admit: Admit | None = None
    on_message: OnMessage | None = None
    on_presence: OnPresence | None = None


def outcome(hook: Callable[[], object]) -> object:
    """Call a hook; return its result, which may be an awaitable, or the exception that it raised."""
    try:
        return hook()
    except Exception as error:
        return error


def checked(result: object, what: str) -> object:
    """Return a hook's result. Raises `Refused` if the hook did, or if it failed, which is logged."""
    if isinstance(result, Refused):
        raise result
    if isinstance(result, ChatError):
        raise Refused(RefusalCode.FORBIDDEN, str(result))
    if isinstance(result, BaseException):
        _fail(result, what)
    return result


def _fail(error: BaseException, what: str) -> NoReturn:
    """Log that a hook failed, and raise `Refused`."""
    _logger.error("the hook %s failed", what, exc_info=error)
    raise Refused(RefusalCode.SERVER_ERROR, "the server failed to check this; try again later")


def rechecked(handshake: object, naming: Naming) -> Handshake:
    """Check a handshake that a hook has changed like any other. Raises `Refused` if it is not valid."""
    if not isinstance(handshake, Handshake):
        _fail(TypeError(f"admit returned {type(handshake).__name__}, not a Handshake or None"), "admit")
    try:
        return Handshake.model_validate(handshake.model_dump(), context=naming)
    except ValidationError as error:
        _fail(error, "admit")


def ask(spawn: Spawn, hook: Callable[[], object], what: str) -> Pending[Any]:
    """Call a hook, and return its result, maybe later. Fails with `Refused`, also if the hook fails."""
    answer: Pending[Any] = Pending()

    def settle(result: object) -> None:
        try:
            decided = checked(result, what)
        except Refused as refused:
            answer.fail(refused)
        else:
            answer.resolve(decided)

    result = outcome(hook)
    if isinstance(result, Awaitable):
        spawn(result).then(lambda awaited: settle(awaited.result()))
    else:
        settle(result)
    return answer


def passed(block: bytes, decided: object, prepare: Callable[[str], bytes]) -> bytes:
    """Return the text that a member may send, by the result of `on_message`: this one, or another one, prepared.

    Raises `TextTooLong`, and `Refused` if nothing is left of it, or if the hook returned something else than a text.
    """
    if isinstance(decided, str):
        block = prepare(decided)
    elif decided is not None:
        _fail(TypeError(f"on_message returned {type(decided).__name__}, not a text or None"), "on_message")
    if not block:
        raise Refused(RefusalCode.FORBIDDEN, "the server removed the whole text")
    return block
