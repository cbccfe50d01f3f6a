"""A server that stood still for a while holds that against nobody: no time limit passes because it did not run.

The rounds here are those of the real poller, over real sockets, with time turned by hand.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import anyio
import pytest
from executables import Server, handshake
from serving import served

from chatapi import ChatAPI, Limits
from chatapi.limits import TICK
from chatapi.protocol.handshake import HandshakeProtocol
from chatapi.protocol.text.telnet import telnet_door
from chatapi.server.connection import Connection
from chatapi.server.listener import Listener
from chatapi.server.poller import Poller
from chatapi.server.transport import SocketTransport
from chatapi.testing import ChatKit

LIMITS = Limits(
    handshake_seconds=5, nickname_seconds=5, grace=5, reserve=5, linger=5, rate=0, log_bytes=65_536
)  # fmt: skip
ALMOST = 4.5  # seconds of such a limit that have passed when the server is stopped


class Machine:
    """A poller with a clock that is turned by hand, and clients on real sockets."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.kit = ChatKit(limits)
        self.hub = self.kit.hub
        self.poller = Poller(self.hub)
        self.sockets: list[socket.socket] = []

    def connect(self, *, telnet: bool = False) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.sockets += [ours, theirs]
        door = telnet_door() if telnet else HandshakeProtocol
        Connection(self.hub, door, SocketTransport(ours, self.poller.selector), "10.0.0.1:1000")
        return theirs

    def member(self, name: str, **fields: Any) -> socket.socket:
        client = self.connect()
        client.send(handshake(name, "lounge", **fields) + b"\n")
        self.run()
        return client

    def run(self) -> None:
        """Rounds until nothing is left to be done now."""
        for _ in range(50):
            for _ in self.poller._round():
                pass

    def wait(self, seconds: float) -> None:
        """Let time pass while the server runs."""
        end = self.kit.clock.monotonic() + seconds
        while self.kit.clock.monotonic() < end:
            self.kit.clock.turn(min(TICK, end - self.kit.clock.monotonic()))
            self.run()

    def stand_still(self, seconds: float = 60) -> None:
        """Let time pass while the server is stopped, and run it again."""
        self.kit.clock.turn(seconds)
        self.run()


def read(client: socket.socket) -> str:
    data = b""
    try:
        while more := client.recv(1 << 16):
            data += more
    except BlockingIOError:
        pass
    return data.decode()


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(getattr(request, "param", LIMITS))
    yield machine
    machine.poller.close()
    for sock in machine.sockets:
        sock.close()


def test_a_handshake_that_was_there_in_time_is_taken(machine: Machine) -> None:
    client = machine.connect()
    client.send(b'{"name": "a", ')
    machine.run()
    machine.wait(ALMOST)
    client.send(b'"room": "lounge"}\n/list\n')
    machine.stand_still()
    assert read(client) == "* in lounge (1): a\n"


def test_a_nickname_that_was_there_in_time_is_taken(machine: Machine) -> None:
    client = machine.connect(telnet=True)
    machine.run()
    machine.wait(ALMOST)
    client.send(b"a\r\n")
    machine.stand_still()
    assert "hello a" in read(client)


@pytest.mark.parametrize("sent", [b'{"name": "a", ', b""])
def test_an_opening_that_has_not_come_has_the_time_that_is_left(machine: Machine, sent: bytes) -> None:
    client = machine.connect()
    client.send(sent)
    machine.run()
    machine.wait(2)
    machine.stand_still()
    machine.wait(2)
    assert read(client) == ""
    machine.wait(1.5)
    assert json.loads(read(client))["code"] == "handshake_timeout"


def test_more_newcomers_than_a_round_takes_in_are_taken_in_before_their_time_is_up(machine: Machine) -> None:
    clients = [machine.connect() for _ in range(400)]
    machine.run()
    machine.wait(ALMOST)
    for number, client in enumerate(clients):
        client.send(handshake(f"n{number}", "lounge"))
    machine.kit.clock.turn(60)
    for _ in machine.poller._round():
        pass
    machine.wait(0.2)
    assert len(machine.hub.rooms["lounge"]) == 400


@pytest.mark.parametrize("machine", [Limits(idle=5)], indirect=True)
def test_a_member_whose_bytes_wait_is_not_idle(machine: Machine) -> None:
    client, other = machine.member("a"), machine.member("b")
    machine.wait(4.95)
    client.send(b"still here\n")
    machine.stand_still()
    assert read(other).startswith("a:still here\n")
    machine.wait(4)
    assert read(client) == ""
    machine.wait(2)
    assert read(client).startswith("* idle_timeout: ")


@pytest.mark.parametrize("machine", [Limits(idle=5, rate=1, burst=1)], indirect=True)
def test_a_member_that_its_rate_held_back_is_not_idle_for_the_time_of_the_server(machine: Machine) -> None:
    client = machine.member("a")
    client.send(b"one\ntwo\n")
    machine.run()
    machine.wait(0.3)
    machine.stand_still()
    machine.wait(4)
    assert read(client) == ""
    machine.wait(2)
    assert read(client).startswith("* idle_timeout: ")


@pytest.mark.parametrize("machine", [Limits(openings=3)], indirect=True)
def test_handshakes_that_wait_are_read_before_their_connections_give_way(machine: Machine) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    listener = Listener(listening, HandshakeProtocol, machine.hub, machine.poller.selector)
    clients = [machine.connect() for _ in range(3)]
    machine.run()
    machine.wait(0.5)
    for number, client in enumerate(clients):
        client.send(handshake(f"n{number}", "lounge"))
    late = socket.create_connection(listening.getsockname())
    machine.sockets.append(late)
    machine.stand_still()
    machine.wait(0.5)
    assert len(machine.hub.rooms["lounge"]) == 3
    assert len(machine.hub.openings) == 1
    listener.close()
    machine.hub.cut("draining")  # closes the socket that was accepted


def test_a_goodbye_is_flushed_to_a_client_that_has_taken_what_was_in_its_way(machine: Machine) -> None:
    client = machine.member("a")
    (connection,) = machine.hub.connections
    while not cast("Connection", connection)._send_buffer.stalled:  # until its socket takes no more
        client.send(b"/help\n")
        machine.run()
    client.send(b"/bye\n")
    machine.run()
    machine.wait(ALMOST)
    assert machine.hub.room("lounge") is None
    machine.kit.clock.turn(60)
    said = ""
    for _ in range(100):  # it reads on as soon as the server does
        said += read(client)
        machine.run()
    assert said.endswith("* goodbye\n")


@pytest.mark.parametrize("round_takes", [0.4, 1.2, 2])
def test_deadlines_are_kept_by_a_server_whose_rounds_take_long(machine: Machine, round_takes: float) -> None:
    """It is busy, and does not stand still."""
    collect, clock, client = machine.hub.broker.collect, machine.kit.clock, machine.connect()

    def collect_slowly() -> None:
        clock.turn(round_takes / 2)  # it is called twice in a round
        collect()

    machine.hub.broker.collect = collect_slowly  # type: ignore[method-assign]
    began = clock.monotonic()
    while not (said := read(client)):
        for _ in machine.poller._round():
            pass
    assert "handshake_timeout" in said
    assert 5 <= clock.monotonic() - began <= 5 + 3 * round_takes


def test_a_member_that_lags_has_the_time_that_is_left_to_catch_up(machine: Machine) -> None:
    slow, fast = machine.member("slow"), machine.member("fast")
    said = ""
    while not machine.hub.rooms["lounge"].congested:
        try:
            fast.send(b"x" * 1000 + b"\n")
        except BlockingIOError:
            pass
        machine.run()
    machine.wait(ALMOST)
    assert machine.hub.rooms["lounge"].member("slow")
    machine.kit.clock.turn(60)
    machine.run()
    assert machine.hub.rooms["lounge"].member("slow")  # it could not read on meanwhile
    for _ in range(20):
        said += read(slow)
        machine.run()
    machine.wait(1)
    assert machine.hub.rooms["lounge"].member("slow")
    assert "slow_consumer" not in said


def test_a_name_stays_reserved_for_a_member_that_has_come_back_meanwhile(machine: Machine) -> None:
    client, other = machine.member("a", protocol="json"), machine.member("b", notices=True)
    welcome = json.loads(read(client).splitlines()[0])
    client.close()
    machine.wait(ALMOST)
    again = machine.connect()
    resume = {"epoch": welcome["epoch"], "seq": 0, "ts": 0, "session": welcome["session"]}
    again.send(handshake("a", "lounge", protocol="json", resume=resume) + b"\n")
    machine.stand_still()
    assert json.loads(read(again).splitlines()[0])["recovered"] is True
    assert read(other) == ""


def test_a_time_limit_passes_in_a_server_that_is_slow_but_runs(machine: Machine) -> None:
    client = machine.connect()
    machine.run()
    for _ in range(8):
        machine.kit.clock.turn(0.9)
        machine.run()
    assert json.loads(read(client))["code"] == "handshake_timeout"


def test_a_server_that_did_nothing_because_nothing_was_due_did_not_stand_still() -> None:
    machine = Machine(Limits())
    machine.member("a")
    machine.stand_still(3600)
    assert machine.hub.timers.lost == 0
    machine.poller.close()
    for sock in machine.sockets:
        sock.close()


# The whole program


@pytest.mark.anyio
async def test_hook_seconds_do_not_pass_while_the_program_keeps_the_event_loop_busy() -> None:
    asked = anyio.Event()
    decided = anyio.Event()

    async def admit(handshake: object) -> None:
        asked.set()
        await decided.wait()
        await anyio.lowlevel.checkpoint()

    limits = Limits(hook_seconds=600)
    chat = ChatAPI(limits, admit=admit)
    clock = chat._hub.clock
    late = 0.0

    class Late:
        def monotonic(self) -> float:
            return clock.monotonic() + late

        def micros(self) -> int:
            return clock.micros()

    chat._hub.clock = Late()
    async with served(chat) as doors, await anyio.connect_tcp(*doors["text"]) as stream:
        await stream.send(handshake("a", "lounge") + b"\n/list\n")
        await asked.wait()
        late = 3600.0
        await anyio.sleep(3 * TICK)  # rounds go by, in which the limit would pass
        decided.set()
        with anyio.fail_after(30):
            assert await stream.receive() == b"* in lounge (1): a\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_server_that_was_stopped_for_longer_than_its_limits_has_lost_nobody() -> None:
    """The limits are five seconds, and it is stopped for six: how fast the machine is makes no difference."""
    with Server("-idle", "5", "-handshake-seconds", "5") as server:
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall")
        newcomer = server.connect()
        newcomer.send(handshake("Ann", "hall")[:-1])
        mina.send("before\n")
        assert zoe.line() == "Mina:before"
        server.signal(signal.SIGSTOP)
        try:
            mina.send("meanwhile\n")
            zoe.send("me too\n")
            newcomer.send("}\nhello\n")
            late = server.connect()
            late.send(handshake("Late", "hall") + b"\nhere\n")
            time.sleep(6)
        finally:
            server.signal(signal.SIGCONT)
        assert sorted(zoe.lines(3)) == ["Ann:hello", "Late:here", "Mina:meanwhile"]
        assert sorted(mina.lines(3)) == ["Ann:hello", "Late:here", "Zoe:me too"]
