"""Entering a room: the program's hook decides, the broker prepares the room, the client joins or moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ..core.admission import Admission
from ..core.client import Client
from ..core.handshake import Handshake
from ..core.hooks import ask, rechecked
from ..core.hub import Runnable
from ..core.member import Peer
from ..core.room import Room
from ..errors import Refused
from ..pending import Pending
from ..protocol.connection_protocol import ConnectionProtocol, Conversation

ProtocolOf: TypeAlias = Callable[[Handshake], ConnectionProtocol]


class Applicant(Conversation, Peer, Runnable, Protocol):
    """A connection whose client wants to enter a room."""

    @property
    def host(self) -> str:
        """The peer's address without the port."""
        ...

    def settled(self) -> Pending[None]:
        """Return what is resolved once everything from before was kept and shown."""
        ...

    def joined(self, client: Client, protocol: ConnectionProtocol, room: str) -> None:
        """Note that the client is in its room, and speaks this protocol from here on."""
        ...


def admit(connection: Applicant, handshake: Handshake, protocol_of: ProtocolOf) -> None:
    """Let a client in, if the program's hook has nothing against it. Raises `Refused`, now or to the connection."""
    hub = connection.hub
    if connection.client is not None:
        raise RuntimeError("admit: this client has joined already; move takes it to another room")
    if (hook := hub.hooks.admit) is None:
        _prepare(connection, handshake, protocol_of(handshake))
        return
    answer = ask(hub.spawn, lambda: hook(handshake), "admit")

    def go_on() -> None:
        changed = answer.result()
        admitted = handshake if changed is None else rechecked(changed, hub.naming)
        _prepare(connection, admitted, protocol_of(admitted))

    connection.wait(answer, go_on)


def _prepare(connection: Applicant, handshake: Handshake, protocol: ConnectionProtocol) -> None:
    """Have everything fetched that the client needs to join, and let it join. Raises `Refused`."""
    resume = handshake.resume if protocol.resumable else None
    admission = Admission(
        connection.hub,
        handshake.name,
        handshake.room,
        resumable=protocol.resumable,
        resume=resume,
        host=connection.host,
    )
    try:
        if admission.ready.done:
            _join(connection, admission, handshake, protocol)
        else:
            connection.wait(admission.ready, lambda: _join(connection, admission, handshake, protocol))
    finally:
        if resume is not None:
            admission.ready.then(lambda _: admission.close())


def _join(connection: Applicant, admission: Admission, handshake: Handshake, protocol: ConnectionProtocol) -> None:
    """Make the client a member of a room that is ready. Raises `Refused`."""
    echo = connection.hub.echo if handshake.echo is None else handshake.echo
    if protocol.resumable:
        client = admission.come_in(connection, protocol.style, echo, handshake.history, protocol.welcome)
    else:
        client = admission.enter(connection, protocol.style, echo, handshake.history)
    connection.joined(client, protocol, handshake.room)


def move(connection: Applicant, room: str) -> Pending[None]:
    """Take the member of a connection to another room. Fails with `Refused`.

    That waits until everything from before was kept and shown, because the member reads nothing of its old room
    afterwards, and then until the broker has prepared the room; meanwhile there may be something new to be shown.
    """
    moved: Pending[None] = Pending()
    hub, client = connection.hub, connection.client
    if client is None:
        raise RuntimeError("move: this client has not joined a room; admit lets it join one")

    def is_here() -> bool:
        """Return whether the member still has this connection, and a room."""
        return connection.client is client and client.room is not None and not client.away

    def settled(_: Pending[None]) -> None:
        if not is_here():
            return
        try:
            admission = Admission.of_member(hub, client, room)
            if not admission.ready.done:
                admission.ready.then(prepared)
                return
            admission.move(client)
        except Refused as refused:
            moved.fail(refused)
        else:
            hub.call(connection)
            moved.resolve(None)

    def prepared(ready: Pending[Room]) -> None:
        if ready.error is not None:
            moved.fail(ready.error)
        elif is_here():
            connection.settled().then(settled)

    connection.settled().then(settled)
    return moved
