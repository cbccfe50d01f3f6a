"""The interface of every protocol object: its methods, and what it may do with its connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

from ..addresses import Address, parse_address
from ..core.client import Client
from ..core.entries import Said
from ..core.handshake import Handshake
from ..core.style import Style
from ..errors import ChatError, FrameError, NotDelivered, RefusalCode, Refused, TextTooLong
from ..limits import Limits
from ..pending import Pending
from .framing import ReceiveBuffer
from .wrong_protocol import Stranger

if TYPE_CHECKING:
    from ..core.hub import Hub


class Conversation(Protocol):
    """A connection as its protocol object sees it."""

    hub: Hub
    """The rooms, the limits and the program's hooks."""
    client: Client | None
    """The member that this connection belongs to; None before it has joined a room."""

    def admit(self, handshake: Handshake, protocol: Callable[[Handshake], ConnectionProtocol]) -> None:
        """Have the client join a room; no further step is handled until it has, or was refused.

        `protocol` returns the protocol object of the member: a new one, or the one that asks. It gets the handshake as
        the hook `admit` has changed it. If the client is refused, `ConnectionProtocol.refuse` is called.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send bytes to this client, behind everything that it has been shown."""
        ...

    def wait(self, pending: Pending[Any], then: Callable[[], None]) -> None:
        """Call `then` once the result is there, at once if it is; no further step is handled before that.

        `then` may raise `ChatError`, as `ConnectionProtocol.handle` may.
        """
        ...

    def kept(self) -> Pending[None]:
        """Return what is resolved once everything that the member has said has its place, or was refused."""
        ...

    def move(self, room: str) -> Pending[None]:
        """Take the member to another room, once everything that came before was kept and shown.

        Fails with `Refused`: then the member stays.
        """
        ...

    def fault(self) -> None:
        """Count something that was refused: too many in a short time are a flood, which ends the connection."""
        ...

    def shows_past(self, messages: int, size: int) -> None:
        """Charge the member for so many messages of the past, of about `size` bytes."""
        ...

    def bye(self, last: bytes | None = None) -> None:
        """End the connection as the client has asked; a member leaves its room.

        `last` are the last bytes that are sent, instead of the style's goodbye.
        """
        ...

    def refuse(self, error: ChatError, last: bytes) -> None:
        """End a connection that has no member yet; `last` are the bytes that tell why."""
        ...


class ConnectionProtocol:
    """Parses what one connection receives, handles it and renders the answers.

    A door makes the first protocol object of a connection. `Conversation.admit` replaces it if the member speaks
    another protocol than the opening. The connection calls `receive_data`, then `next_step` and `handle` in turns, for
    as long as the member may say more: so the bytes behind a step wait unparsed while a name or a room changes.
    """

    __slots__ = ("connection", "received")

    resumable: ClassVar[bool] = False
    """Whether a member whose connection breaks may come back: then it has a session, and `welcome` is called."""
    style: Style
    """How members of this protocol are shown what happens in their room."""

    def __init__(self, connection: Conversation, received: ReceiveBuffer | None = None) -> None:
        self.connection: Conversation = connection
        self.received: ReceiveBuffer = ReceiveBuffer() if received is None else received

    # Before the client has joined a room

    def opening_seconds(self, limits: Limits) -> float:
        """Return how long the client may take until it has joined a room."""
        return limits.handshake_seconds

    def connected(self) -> None:
        """Greet the client, if the server speaks first."""

    # What the client sends

    def receive_data(self, data: bytes) -> None:
        """Take bytes that were received."""
        received = self.received
        if received.data:
            received.feed(data)
        else:
            received.data = data

    def receive_eof(self) -> None:
        """Take the end of the client's stream."""
        self.received.end()

    def next_step(self, most: int) -> Any:
        """Parse and return the next step, of at most `most` lines; None until more bytes come. Raises `ChatError`."""
        raise NotImplementedError

    def handle(self, step: Any) -> None:
        """Do what a step asks for. Raises `ChatError`."""
        raise NotImplementedError

    def refuse(self, error: ChatError) -> None:
        """Tell the client why a step failed; before it has joined, the connection ends with that."""
        told = self.style.notice(*code_and_detail(error))
        if self.connection.client is None:
            if isinstance(error, Stranger):
                told = error.answer(self.connection.hub.listening)
            self.connection.refuse(error, told)
        else:
            self.connection.write(told)
            self.blame(error)

    def blame(self, error: ChatError) -> None:
        """Count an error as a fault of the member's, unless it is the server's."""
        if not (isinstance(error, Refused) and error.code == RefusalCode.UNAVAILABLE):
            self.connection.fault()

    # What a member is told, besides what `style` renders

    def joined(self, client: Client) -> None:
        """Note that the client is in its room."""

    def welcome(self, client: Client, recovered: bool | None, reason: str) -> bytes:
        """Render the first thing that a member with a session is shown.

        Args:
            recovered: whether the messages that it missed follow; None if it did not ask for them.
            reason: why they do not follow.
        """
        raise NotImplementedError

    def not_kept(self, said: Said, reason: Refused) -> None:
        """Tell the member that the broker refused what it said."""
        lines = "your line was" if said.count == 1 else f"your last {said.count:,} lines were"
        self.connection.write(self.style.notice(reason.code, f"{lines} {not_kept_as(reason)}: {reason.detail}"))

    def already_sent(self, said: Said) -> None:
        """Tell the member that its session has sent this message before; only resumable protocols are told."""
        raise NotImplementedError


def code_and_detail(error: ChatError) -> tuple[str, str]:
    """Return what a client is told of an error that a step has caused. Raises other errors again."""
    if isinstance(error, Refused):
        return error.code, error.detail
    if isinstance(error, NotDelivered):
        return FrameError.NOT_DELIVERED, str(error)
    if isinstance(error, TextTooLong):
        return FrameError.TEXT_TOO_LONG, str(error)
    raise error


def not_kept_as(reason: Refused) -> str:
    """Return what is known of a message that was refused."""
    return "not kept" if reason.sure else "perhaps not kept"


Door: TypeAlias = Callable[[Conversation], ConnectionProtocol]
"""Makes the first protocol object of each connection that a listening socket accepts."""


def check_doors(doors: Mapping[Any, Any] | None) -> list[tuple[str, Door, Address]]:
    """Return a program's own doors, each with its name and its address.

    Raises `ValueError` if they are no such mapping, and `AddressError`.
    """
    checked: list[tuple[str, Door, Address]] = []
    for name, value in (doors or {}).items():
        if not (isinstance(name, str) and name):
            raise ValueError(f"{name!r} cannot be the name of a door; a name must be a string that is not empty")
        if name in ("text", "telnet"):
            raise ValueError(f"the library has a door {name!r} of its own; choose another name")
        match value:
            case (str(where), door) if callable(door):
                checked.append((name, cast("Door", door), parse_address(where)))
            case _:
                what = 'an address and what makes its protocol objects, such as ("localhost:6667", MyProtocol)'
                raise ValueError(f"the door {name!r} is {value!r}; it is a tuple of {what}")
    return checked
