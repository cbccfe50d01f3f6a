"""The program's hooks, which decide about handshakes and messages, and are told of joins, leaves and renames."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

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
"""Lets a handshake in as it is (None) or as it returns it, with another name or room; raises `Refused` to say no."""
OnMessage: TypeAlias = "Callable[[Client, str], str | Awaitable[str | None] | None]"
"""Passes a message (None) or changes it (another text); raises `Refused` to turn it down."""
OnPresence: TypeAlias = Callable[[str, "Joined | Left | Renamed"], "Awaitable[None] | None"]
"""Gets the room's name and a join, leave or rename."""


class Spawn(Protocol):
    """Awaits something within the hooks' limit; the value is its result, or the exception that it raised."""

    def __call__(self, awaitable: Awaitable[object], /, *, shield: bool = False) -> Pending[object]:
        """Begin. With `shield`, the end of the chat waits for it; otherwise it is cancelled then."""
        ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """The callables that a program has given, each sync or async, or none."""

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
        _logger.error("the hook %s failed", what, exc_info=result)
        raise Refused(RefusalCode.SERVER_ERROR, "the server could not decide; try again later")
    return result


def retold(changed: object) -> str | None:
    """Return the text that `on_message` returned, or None. Raises `Refused` if it is something else."""
    if changed is None or isinstance(changed, str):
        return changed
    checked(TypeError(f"on_message returned {type(changed).__name__}, not a text or None"), "on_message")
    raise AssertionError


def rechecked(handshake: object, naming: Naming) -> Handshake:
    """Check a handshake that a hook has changed like any other. Raises `Refused` if it is not valid."""
    if not isinstance(handshake, Handshake):
        checked(TypeError(f"admit returned {type(handshake).__name__}, not a Handshake or None"), "admit")
        raise AssertionError
    try:
        return Handshake.model_validate(handshake.model_dump(), context=naming)
    except ValidationError as error:
        checked(error, "admit")
        raise


def ask(spawn: Spawn, hook: Callable[[], object], what: str) -> Pending[Any]:
    """Call a hook, and return what it decides. Fails with `Refused`, also if the hook fails."""
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
    """Return what the hook `on_message` lets a member say, of this text: all of it, or another text, prepared.

    Raises `TextTooLong`, and `Refused` if nothing is left of it.
    """
    changed = retold(decided)
    block = block if changed is None else prepare(changed)
    if not block:
        raise Refused(RefusalCode.FORBIDDEN, "the server has left nothing of the text")
    return block
