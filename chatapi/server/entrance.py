"""The way in, the same behind every door: the program's hook, a room that is loaded, a client in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..addresses import Address
from ..core import admission as arrivals
from ..core.client import Client
from ..core.handshake import Handshake
from ..core.hooks import rechecked
from ..core.style import Style
from ..errors import RefusalCode, Refused
from ..limits import Limits
from ..protocol.handshake import EXAMPLE
from ..protocol.json import handler as answers
from ..protocol.json.rendering import JSON
from ..protocol.wrong_protocol import Stranger
from .asking import ask

if TYPE_CHECKING:
    from ..core.hub import Hub
    from .connection import Connection


def admit(connection: Connection, handshake: Handshake, let_in: Callable[[Handshake], None]) -> None:
    """Let somebody in, if the program's hook has nothing against it, and once there is a room to come into."""
    hub = connection.hub
    hook = hub.hooks.admit

    def refuse(reason: Refused) -> None:
        connection.door.refuse(connection, reason)

    def prepare(handshake: Handshake) -> None:
        resume = handshake.resume if handshake.protocol == "json" else None
        if resume is None and arrivals.is_ready(hub, handshake.room, handshake.name):
            let_in(handshake)
            return
        key = hub.sessions.key_for("" if resume is None else resume.session) if handshake.protocol == "json" else ""
        who = arrivals.Newcomer(handshake.name, key, resume, _host(connection))
        arrival = arrivals.prepare(hub, handshake.room, who)
        connection.wait_for(arrival.prepared, lambda _: let_in(handshake), refuse)
        arrival.prepared.then(lambda _: arrival.close())

    if hook is None:
        prepare(handshake)
        return
    ask(
        connection,
        lambda: hook(handshake),
        "admit",
        lambda changed: prepare(handshake if changed is None else rechecked(changed, hub.naming)),
        refuse,
    )


def join(
    connection: Connection,
    name: str,
    room: str,
    style: Style,
    *,
    echo: bool | None,
    commands: bool | None,
    history: int = 0,
) -> Client:
    """Become a member that speaks text; None stands for the server's default. Raises `Refused`."""
    hub = connection.hub
    echo = hub.echo if echo is None else echo
    client = hub.enter(name, room, connection, style, echo, _host(connection), history)
    connection.session.open(hub.commands if commands is None else commands)
    connection.joined(client, style, room)
    return client


def join_json(connection: Connection, handshake: Handshake) -> None:
    """Become a member that speaks the JSON protocol, or be one again. Raises `Refused`."""
    hub = connection.hub
    echo = hub.echo if handshake.echo is None else handshake.echo
    client = hub.come_in(handshake, connection, JSON, echo, _host(connection), answers.welcome)
    connection.session.open_frames()
    connection.joined(client, JSON, handshake.room)


def for_people(hub: Hub) -> str:
    """How people connect; empty where no door is for them."""
    return f"telnet {_place(address, ' ')}" if (address := hub.listening.get("telnet")) is not None else ""


def answer(connection: Connection, stranger: Stranger) -> bytes:
    """What a client of another protocol is told: what this is, and how to connect to it."""
    people, programs = for_people(connection.hub), connection.hub.listening.get("text")
    where = "connect" if programs is None else f"connect to {_place(programs, ':')}"
    lines = ["This is a MaChat chat server. It speaks over plain TCP, not HTTP."]
    if people:
        lines.append(f"People: {people}")
    lines.append(f"Programs: {where}, send {EXAMPLE}, and then lines of text.")
    return stranger.answer(lines)


def _place(address: Address, between: str) -> str:
    """An address to connect to; HOST stands for a server that listens on all of its addresses."""
    host, port = address
    if host in ("", "0.0.0.0", "::"):
        host = "HOST"
    return f"[{host}]{between}{port}" if ":" in host and between == ":" else f"{host}{between}{port}"


def too_late(connection: Connection, waits_for_us: bool) -> Refused:
    """The reason where nobody came in within the time for it."""
    if waits_for_us:
        return Refused(RefusalCode.UNAVAILABLE, "the room could not be opened in time; try again later")
    seconds = connection.door.seconds(connection.hub.limits)
    return Refused(RefusalCode.HANDSHAKE_TIMEOUT, f"you did not say who you are within {seconds:g} s")


def too_much(limits: Limits) -> Refused:
    """The reason where nobody came in within the bytes for it."""
    most = max(limits.opening_bytes, limits.handshake_bytes)
    return Refused(RefusalCode.HANDSHAKE_TOO_LARGE, f"nobody came in within {most:,} bytes, which are allowed for it")


def _host(connection: Connection) -> str:
    return connection.address.rpartition(":")[0]
