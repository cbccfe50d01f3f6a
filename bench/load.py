"""One run of the load generator (`load.c`): what is asked of it, and the figures it comes back with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from . import machine

NAME_LENGTH: Final = len("u000012")
"""Characters of what `%n` becomes in a template."""
ROOM_LENGTH: Final = len("r0003")
"""Characters of what `%r` becomes in a template."""
_CONNECTIONS_PER_ADDRESS: Final = 5000
_CONNECT_SECONDS: Final = 60


class LoadFailed(Exception):
    """The load could not be run, or the server could not bear it; the text says how."""


@dataclass(frozen=True)
class Step:
    """A part of a handshake: what is sent, and what must have come before the next one. Both are templates' text."""

    send: str
    wait: str = ""


@dataclass(frozen=True)
class Protocol:
    """How a server is spoken to, as templates.

    `%n` is a member's name, `%r` its room, `%t` the payload, `%l` the payload's length, `%%` a percent sign. Characters
    stand for bytes (Latin-1). Where the last step waits for nothing, members are in when the server has come to rest.
    """

    hello: tuple[Step, ...]
    publish: Callable[[int], str]
    """The template of a message, for a payload of so many bytes."""
    echo: bool
    """Whether a member gets what it says itself, too."""
    ping: str = ""
    """What the server asks now and then …"""
    pong: str = ""
    """… and the answer."""
    max_payload: int = 1 << 20
    """Bytes that fit into one message."""
    arrivals: int = 64
    """Connections that are on their way in at once: what the server takes without refusing any."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the members do.

    Talkers keep `window` lines each in flight, or say `rate` lines a second all together; with `talkers=0` nobody
    says anything. Latency is measured with a `rate` alone, from the time at which a line was due.
    """

    rooms: int = 1
    members: int
    """In each room."""
    talkers: int = 1
    """In each room."""
    window: int = 0
    rate: float = 0
    payload: int = 64
    """Bytes: 16 at least, with a `rate` 32."""
    seconds: float = 3
    stalled: float = 0
    """This part of each room's members stops reading when the run begins."""
    sources: int = 0
    """Addresses 127.0.1.x that connections come from; 0 for as many as are needed."""
    pause_us: int = 500
    """With a window: microseconds between two looks at the sockets, so that the generator reads much at once."""
    drain_seconds: float = 10
    """How long what is on its way is waited for at most, once nobody talks any more."""

    @property
    def connections(self) -> int:
        """How many there are."""
        return self.rooms * self.members


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one run came to. Latency in microseconds, memory in bytes, shares of one core (1 is all of it)."""

    connections: int
    ready: int
    """Members that were in when the run began."""
    refused: int
    early_disconnects: int
    connect_seconds: float
    connects_per_second: float
    """With handshake."""
    probes: int
    """Members that got the first line of their room, which is said before the run."""
    probes_expected: int

    seconds: float
    sent: int
    """Lines said."""
    deliveries: int
    deliveries_per_second: float
    expected: int
    """Deliveries there should have been, to all members that read."""
    lost: int
    """Of those, how many did not come in their place."""
    disordered: int
    """How many came twice, too late or to the wrong room."""
    disconnects: int
    """Members that read and were disconnected in the run."""
    stuck: int
    """How often a talker heard nothing for two seconds and went on as if all had been lost."""
    stalled: int
    stalled_gone: int
    """Of the stalled members, those that were seen to be disconnected."""

    latency_mean: float = 0
    latency_p50: float = 0
    latency_p90: float = 0
    latency_p99: float = 0
    latency_p999: float = 0
    latency_max: float = 0

    server_cpu_seconds: float
    """From the run's beginning until the last delivery, all threads and processes."""
    server_cpu_per_million: float
    """CPU seconds for a million deliveries."""
    server_cpu_share: float
    generator_cpu_share: float
    """Near 1, the load was the bottleneck."""
    server_cpu_each: Sequence[float] = ()
    """The same for each of its processes, in their order."""
    drain_seconds: float
    deliveries_per_read: float
    bytes_per_delivery: float
    memory_before: int
    """Resident memory of the server, before the first connection."""
    memory_ready: int
    memory_end: int
    bytes_per_connection: float
    timeline: list[int] = field(default_factory=list)
    """Deliveries in every 100 ms of the run."""


def run_load(load: Load, protocol: Protocol, port: int | Sequence[int], pids: Iterable[int] = ()) -> Figures:
    """Put a load on the server at a port of 127.0.0.1; `pids` are its processes. Raises `LoadFailed`.

    With several ports, the members of a room go through them in turns.
    """
    if load.payload > protocol.max_payload:
        raise LoadFailed(f"a message carries at most {protocol.max_payload:,} bytes of payload")
    longest = _CONNECT_SECONDS + 30 + load.seconds + load.drain_seconds
    command = [str(machine.program("load")), *_arguments(load, protocol, port, pids)]
    pipe = subprocess.PIPE
    with machine.on_core(machine.load_core()):
        # a session of its own: Ctrl-C is for us alone, who end what we started
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True)
    with process:
        try:
            said, complaint = process.communicate(timeout=longest)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LoadFailed(f"the run was not over after {longest:.0f} s") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise LoadFailed(complaint.decode().strip() or f"the load generator ended with code {process.returncode}")
    figures = Figures(**json.loads(said))
    _check(figures)
    return figures


def _check(figures: Figures) -> None:
    if figures.ready < figures.connections:
        refused = f", {figures.refused:,} were refused" if figures.refused else ""
        raise LoadFailed(
            f"{figures.ready:,} of {figures.connections:,} members came in within {_CONNECT_SECONDS} s{refused}"
        )
    if figures.probes < figures.probes_expected:
        raise LoadFailed(f"a first line reached {figures.probes:,} of {figures.probes_expected:,} members")


def _arguments(load: Load, protocol: Protocol, port: int | Sequence[int], pids: Iterable[int]) -> list[str]:
    options: dict[str, Any] = {
        "rooms": load.rooms,
        "members": load.members,
        "talkers": load.talkers,
        "window": load.window,
        "rate": load.rate,
        "payload": load.payload,
        "seconds": load.seconds,
        "stall": load.stalled,
        "sources": load.sources or -(-load.connections // _CONNECTIONS_PER_ADDRESS),
        "pending": protocol.arrivals,
        "pause": load.pause_us,
        "drain": load.drain_seconds,
        "connect": _CONNECT_SECONDS,
        "echo": int(protocol.echo),
        "publish": _escaped(protocol.publish(load.payload)),
        "ping": _escaped(protocol.ping),
        "pong": _escaped(protocol.pong),
    }
    arguments = [part for name, value in options.items() for part in (f"-{name}", str(value))]
    for one in [port] if isinstance(port, int) else port:
        arguments += ["-port", str(one)]
    for step in protocol.hello:
        arguments += ["-hello", _escaped(step.send), "-wait", _escaped(step.wait)]
    for pid in pids:
        arguments += ["-pid", str(pid)]
    return arguments


def _escaped(text: str) -> str:
    """As an argument of a program, which can hold no NUL."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != ord("\\") else f"\\x{byte:02x}" for byte in text.encode("latin-1")
    )
