"""One run of the load generator (`load.c`): what it is asked to do, and the figures that it returns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import machine

ROOM_LENGTH: Final = len("r0003")
"""Characters that replace `%r` in a template."""
_CONNECTIONS_PER_ADDRESS: Final = 5000
_CONNECT_SECONDS: Final = 60


class LoadFailed(Exception):
    """The load could not be run, or the server failed under it; the text says how."""


@dataclass(frozen=True)
class Step:
    """A part of a handshake: the bytes to send, as a template, and the answer that must come before the next step."""

    send: str
    wait: str


@dataclass(frozen=True)
class Protocol:
    """A server's protocol, as templates.

    `%n` is a member's name, `%r` its room, `%t` the payload, `%l` the payload's length, `%%` a percent sign. Characters
    stand for bytes (Latin-1).
    """

    hello: tuple[Step, ...]
    publish: Callable[[int], str]
    """Return the template of a message with a payload of so many bytes."""
    echo: bool
    """Whether a member gets its own lines too."""
    ping: str = ""
    """The server's question whether a member is still there …"""
    pong: str = ""
    """… and the member's answer."""
    max_payload: int = 1 << 20
    """Bytes that fit into one message."""
    arrivals: int = 64
    """Connections that are opened at the same time: as many as the server accepts without refusing any."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """The behaviour of the members.

    Senders keep `window` lines each in flight, or send `rate` lines a second all together; with `talkers=0` nobody
    sends anything. Latency is measured with a `rate` only, from the time at which a line was due.
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
    sources: int = 0
    """Addresses 127.0.1.x that connections come from; 0 for as many as are needed."""
    pause_us: int = 500
    """With a window: microseconds between two looks at the sockets, so that the generator reads much at once."""
    drain_seconds: float = 10
    """How long the generator waits at most for lines that are on their way when the run ends."""

    @property
    def connections(self) -> int:
        """Return the number of members."""
        return self.rooms * self.members


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one run. Latency in microseconds, memory in bytes, shares of one core (1 is all of it)."""

    connections: int
    ready: int
    """Members that were in when the run began."""
    refused: int
    connect_seconds: float
    connects_per_second: float
    """With handshake."""
    probes: int
    """Members that got the first line of their room, which is sent before the run."""
    probes_expected: int

    seconds: float
    sent: int
    """Lines sent."""
    deliveries: int
    deliveries_per_second: float
    expected: int
    """Deliveries that should have happened."""
    lost: int
    """Those of them that did not happen, or not in order."""
    disordered: int
    """Lines that came twice, too late or to the wrong room."""
    disconnects: int
    """Members that the server disconnected in the run."""
    stuck: int
    """How often a sender got nothing for two seconds and continued as if all its lines had been lost."""

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
    drain_seconds: float
    deliveries_per_read: float
    bytes_per_delivery: float
    memory_before: int
    """Resident memory of the server, before the first connection."""
    memory_ready: int
    memory_end: int
    bytes_per_connection: float


def run_load(load: Load, protocol: Protocol, ports: Sequence[int], pids: Iterable[int] = ()) -> Figures:
    """Put a load on the server at these ports of 127.0.0.1; `pids` are its processes. Raises `LoadFailed`.

    The members of a room connect to the ports in turns.
    """
    if load.payload > protocol.max_payload:
        raise LoadFailed(f"a message carries at most {protocol.max_payload:,} bytes of payload")
    longest = _CONNECT_SECONDS + 30 + load.seconds + load.drain_seconds
    command = [str(machine.program("load")), *_arguments(load, protocol, ports, pids)]
    pipe = subprocess.PIPE
    with machine.on_core(machine.load_core()):
        # a session of its own: Ctrl-C interrupts this program alone, which ends what it started
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


def _arguments(load: Load, protocol: Protocol, ports: Sequence[int], pids: Iterable[int]) -> list[str]:
    options: dict[str, Any] = {
        "rooms": load.rooms,
        "members": load.members,
        "talkers": load.talkers,
        "window": load.window,
        "rate": load.rate,
        "payload": load.payload,
        "seconds": load.seconds,
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
    for port in ports:
        arguments += ["-port", str(port)]
    for step in protocol.hello:
        arguments += ["-hello", _escaped(step.send), "-wait", _escaped(step.wait)]
    for pid in pids:
        arguments += ["-pid", str(pid)]
    return arguments


def _escaped(text: str) -> str:
    """Return it as an argument of a program, which cannot contain NUL."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != ord("\\") else f"\\x{byte:02x}" for byte in text.encode("latin-1")
    )
