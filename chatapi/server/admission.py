"""Entering a room: the program's hook decides, the broker prepares the room, the client joins or moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ..core.admission import Newcomer, is_ready, prepare
from ..core.client import Client
from ..core.handshake import Handshake
from ..core.hooks import ask, rechecked
from ..core.hub import Runnable
from ..core.member import Peer
from ..errors import Refused
from ..pending import Pending
from ..protocol.connection_protocol import ConnectionProtocol, Conversation

ProtocolOf: TypeAlias = Callable[[Handshake], ConnectionProtocol]


class Applicant(Conversation, Peer, Runnable, Protocol):
    """A connection whose client wants to enter a room."""

    @property
    def host(self) -> str:
        """Where it comes from, without a port."""
        ...

    def settled(self) -> Pending[None]:
        """Return what is resolved once everything from before was kept and shown."""
        ...

    def joined(self, client: Client, protocol: ConnectionProtocol) -> None:
        """Note that the client is in its room, and speaks this protocol from here on."""
        ...


def admit(connection: Applicant, handshake: Handshake, protocol_of: ProtocolOf) -> None:
    """Let a client in, if the program's hook has nothing against it. Raises `Refused`, now or to the connection."""
    hub = connection.hub
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
    """Have everything fetched that the client needs to join, and let it join."""
    hub = connection.hub
    resume = handshake.resume if protocol.resumable else None
    if resume is None and is_ready(hub, handshake.room, handshake.name):
        _join(connection, handshake, protocol)
        return
    key = hub.sessions.key_for("" if resume is None else resume.session) if protocol.resumable else ""
    arrival = prepare(hub, handshake.room, Newcomer(handshake.name, key, resume, connection.host))

    def join() -> None:
        arrival.prepared.result()
        _join(connection, handshake, protocol)

    try:
        connection.wait(arrival.prepared, join)
    finally:
        arrival.prepared.then(lambda _: arrival.close())


def _join(connection: Applicant, handshake: Handshake, protocol: ConnectionProtocol) -> None:
    """Make the client a member of a room that is ready. Raises `Refused`."""
    hub, style, host = connection.hub, protocol.style, connection.host
    echo = hub.echo if handshake.echo is None else handshake.echo
    if protocol.resumable:
        client = hub.come_in(handshake, connection, style, echo, host, protocol.welcome)
    else:
        client = hub.enter(handshake.name, handshake.room, connection, style, echo, host, handshake.history)
    connection.joined(client, protocol)


def move(connection: Applicant, room: str) -> Pending[None]:
    """Take the member of a connection to another room. Fails with `Refused`.

    That waits until everything from before was kept and shown, because the member reads nothing of its old room
    afterwards, and then until the broker has prepared the room; meanwhile there may be something new to be shown.
    """
    moved: Pending[None] = Pending()
    hub, client = connection.hub, connection.client
    assert client is not None

    def settled(_: Pending[None]) -> None:
        if client.room is None:
            return  # it was disconnected
        if not hub.naming.is_room(room) or is_ready(hub, room, client.name):  # `move` refuses other names
            enter()
            return
        key = "" if client.session is None else client.session.key
        prepare(hub, hub.naming.room(room), Newcomer(client.name, key)).prepared.then(prepared)

    def prepared(ready: Pending[None]) -> None:
        if ready.error is not None:
            moved.fail(ready.error)
        elif client.room is not None:
            connection.settled().then(settled)

    def enter() -> None:
        try:
            hub.move(client, room)
        except Refused as refused:
            moved.fail(refused)
        else:
            hub.call(connection)
            moved.resolve(None)

    connection.settled().then(settled)
    return moved
