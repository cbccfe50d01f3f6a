"""Connections without a member are bounded, and keep out neither members that come back nor the rest of the program."""

from __future__ import annotations

import json
import resource
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from executables import Peer as Socket
from executables import Server, eventually, handshake

from chatapi import Limits
from chatapi.testing import ChatKit, Peer

HOME = "203.0.113.7"


def silent(kit: ChatKit, number: int, host: str = HOME, *, telnet: bool = False) -> list[Peer]:
    """Connections that say nothing."""
    return [kit.connect(telnet=telnet, address=f"{host}:{1000 + i}") for i in range(number)]


def is_told_to_give_way(peer: Peer) -> bool:
    """Whether it was told so, if it spoke the text protocol, and closed."""
    said = bytes(peer.transport.sent).decode()
    return peer.transport.closed and "server_full" in said and "have not joined a room" in said


def closed(peers: list[Peer]) -> list[bool]:
    return [peer.transport.closed for peer in peers]


@pytest.mark.parametrize("telnet", [False, True], ids=["text", "telnet"])
def test_openings_at_the_limit(telnet: bool) -> None:
    kit = ChatKit(Limits(openings=5))
    peers = silent(kit, 5, telnet=telnet)
    kit.wait(1)
    assert closed(peers) == [False] * 5


@pytest.mark.parametrize("telnet", [False, True], ids=["text", "telnet"])
def test_openings_one_beyond(telnet: bool) -> None:
    kit = ChatKit(Limits(openings=5))
    peers = silent(kit, 5, telnet=telnet)
    kit.wait(1)
    late = kit.member("Mina")
    assert closed(peers) == [True] + [False] * 4
    assert is_told_to_give_way(peers[0])
    assert late.connection.client is not None
    assert kit.hub.refusals["server_full"] == 1


@pytest.mark.parametrize("telnet", [False, True], ids=["text", "telnet"])
def test_address_openings_at_the_limit(telnet: bool) -> None:
    kit = ChatKit(Limits(address_openings=5))
    assert closed(silent(kit, 5, telnet=telnet)) == [False] * 5


@pytest.mark.parametrize("telnet", [False, True], ids=["text", "telnet"])
def test_address_openings_one_beyond(telnet: bool) -> None:
    kit = ChatKit(Limits(address_openings=5))
    other = silent(kit, 5, "203.0.113.8")
    peers = silent(kit, 6, telnet=telnet)
    assert closed(peers) == [True] + [False] * 5
    assert is_told_to_give_way(peers[0])
    assert closed(other) == [False] * 5


def test_address_openings_do_not_bound_a_trusted_address() -> None:
    kit = ChatKit(Limits(address_openings=5))
    assert closed(silent(kit, 50, "127.0.0.1")) == [False] * 50


def test_the_address_with_the_most_gives_way() -> None:
    kit = ChatKit(Limits(openings=20))
    first = silent(kit, 1, "203.0.113.8")
    attacker = silent(kit, 12, "203.0.113.66")
    others = silent(kit, 7, "203.0.113.9")
    kit.wait(1)
    for i in range(10):
        kit.connect(address=f"203.0.113.{100 + i}:1")
        assert len(kit.hub.openings) == 20
    assert closed(first) == [False]
    assert closed(attacker)[:5] == [True] * 5
    assert closed(others).count(True) <= 5
    assert sum(closed(attacker)) + sum(closed(others)) == 10


def test_nobody_gives_way_within_its_first_second() -> None:
    kit = ChatKit(Limits(openings=5))
    peers = silent(kit, 5)
    kit.wait(0.5)
    peers += silent(kit, 1, "203.0.113.8")
    assert closed(peers) == [False] * 6


def test_a_stranger_gives_way_to_a_member_where_there_are_as_many_connections_as_allowed() -> None:
    kit = ChatKit(Limits(connections=5))
    strangers = silent(kit, 4)
    mina = kit.member("Mina")
    refused = kit.member("Zoe")
    assert json.loads(refused.lines()[0])["code"] == "server_full"
    kit.wait(3)
    zoe = kit.member("Zoe", address="203.0.113.8:1")
    assert zoe.connection.client is not None
    assert mina.connection.client is not None
    assert sum(closed(strangers)) == 1


def test_the_places_of_those_that_are_told_that_the_server_is_full_are_none_for_members() -> None:
    kit = ChatKit(Limits(connections=2))
    members = [kit.member("Mina"), kit.member("Zoe")]
    for i in range(10):
        late = kit.member(f"late{i}")
        assert json.loads(late.lines()[0])["code"] == "server_full"
        kit.wait(1.2)  # it is still being closed, and gives way to the next one
    assert closed(members) == [False] * 2
    assert len(kit.hub.rooms["dev"]) == 2


def test_those_that_are_told_that_the_server_is_full_keep_nobody_out_once_it_is_not() -> None:
    kit = ChatKit(Limits(connections=2))
    members = [kit.member("Mina"), kit.member("Zoe")]
    told = [kit.member(f"late{i}") for i in range(10)]
    kit.wait(1.2)
    assert closed(told) == [False] * 10
    members[0].send("/bye\n")
    members[0].end()
    kit.settle()
    assert kit.member("Ann").connection.client is not None


def refused(kit: ChatKit, i: int) -> Peer:
    peer = kit.connect(address=f"{HOME}:{i}")
    peer.send("nonsense\n")
    kit.settle()
    return peer


def gone(kit: ChatKit, i: int) -> Peer:
    peer = kit.member(f"m{i}", address=f"{HOME}:{i}")
    peer.send("/bye\n")
    kit.settle()
    return peer


def gone_without_reading(kit: ChatKit, i: int) -> Peer:
    peer = kit.member(f"m{i}", address=f"{HOME}:{i}", capacity=0)
    peer.send("/list\n/bye\n")
    kit.settle()
    peer.connection.disconnect("kicked")
    kit.settle()
    return peer


def nameless(kit: ChatKit, i: int) -> Peer:
    peer = kit.connect(telnet=True, address=f"{HOME}:{i}")
    peer.send("x" * 100 + "\n")
    kit.settle()
    return peer


@pytest.mark.parametrize("come", [refused, gone, gone_without_reading, nameless], ids=lambda come: come.__name__)
def test_connections_without_a_member_count_in_every_stage(come: Callable[[ChatKit, int], Peer]) -> None:
    kit = ChatKit(Limits(openings=5, linger=3600, grace=3600, nickname_seconds=3600))
    for i in range(30):
        come(kit, i)
        assert len(kit.hub.openings) <= 5
        assert len(kit.hub.connections) <= 5
        kit.wait(1)


def test_members_do_not_count_as_connections_without_one() -> None:
    kit = ChatKit(Limits(openings=2, address_openings=2))
    peers = [kit.member(f"m{i}", address=f"{HOME}:{i}", protocol=("text", "json")[i % 2]) for i in range(20)]
    assert len(kit.hub.openings) == 0
    assert closed(peers) == [False] * 20
    peers += silent(kit, 2)
    kit.wait(1)
    assert closed(peers) == [False] * 22


def test_nothing_is_left_when_all_have_gone() -> None:
    kit = ChatKit(Limits(openings=10))
    for i in range(20):
        (refused, gone, nameless)[i % 3](kit, i).connection.abort("connection_lost")
    assert (len(kit.hub.openings), len(kit.hub.connections), len(kit.hub.origins)) in [(0, 0, 0), (0, 0, 1)]
    kit.wait(2)
    assert len(kit.hub.origins) == 0


# Descriptors


def few(descriptors: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


def connect_silently(server: Server, number: int) -> list[socket.socket]:
    """Connections that say nothing; the system accepts them, whatever the server does."""
    sockets = []
    for _ in range(number):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(server.addresses[0])
        sockets.append(sock)
    return sockets


def comes_in(server: Server, name: str) -> Socket:
    """A member that connects as often as it must, as every client does."""

    def attempt() -> Socket | None:
        peer = server.connect()
        peer.send(handshake(name, "hall", echo=True) + b"\nhello\n")
        try:
            heard = peer.socket.recv(1 << 16)
        except OSError:
            return None
        return peer if heard == f"{name}:hello\n".encode() else None

    return eventually(attempt, f"{name} cannot come in; the log: {server.err}")


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [100, 300])
def test_strangers_keep_no_member_out_and_leave_descriptors(descriptors: int, tmp_path: Path) -> None:
    store = str(tmp_path / "chat.db")
    with Server("-store", store, "-handshake-seconds", "3600", before=few(descriptors)) as server:
        server.says("descriptors are enough for ")
        mina = server.member("Mina", "hall")
        crowd = connect_silently(server, descriptors + 50)
        try:
            zoe = comes_in(server, "Zoe")
            assert mina.line() == "Zoe:hello"
            zoe.reset()
            comes_in(server, "Zoe2").send("again\n")
            assert mina.lines(2) == ["Zoe2:hello", "Zoe2:again"]
            used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
            assert descriptors - used >= min(64, descriptors // 8)
        finally:
            for sock in crowd:
                sock.close()
        assert "cannot accept" not in server.err
        assert server.err.count("descriptors are enough for ") == 1


@pytest.mark.slow
def test_where_descriptors_run_out_all_the_same_strangers_give_way_to_members() -> None:
    with Server("-handshake-seconds", "3600") as server:
        mina = server.member("Mina", "hall")
        crowd = connect_silently(server, 60)
        eventually(lambda: used(server) >= 60, "they do not come in")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used(server), used(server)))
        try:
            comes_in(server, "Zoe")
            assert mina.line() == "Zoe:hello"
        finally:
            for sock in crowd:
                sock.close()


def used(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.mark.slow
def test_with_enough_descriptors_nothing_is_said_about_them() -> None:
    with Server("-connections", "10", before=few(1000)) as server:
        server.member("Mina", "hall")
        assert "descriptors" not in server.err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-openings", "20"], ["-address-openings", "20", "-trusted", ""]])
def test_a_flood_of_silent_connections_keeps_no_member_out(flags: list[str]) -> None:
    with Server("-handshake-seconds", "3600", *flags) as server:
        mina = server.member("Mina", "hall")
        crowd = connect_silently(server, 100)
        try:
            comes_in(server, "Zoe")
            assert mina.line() == "Zoe:hello"
            eventually(lambda: used(server) < 60, "too many of them are open")
            for sock in crowd[:1]:
                assert select.select([sock], [], [], 30)[0], "the oldest one was not closed"
        finally:
            for sock in crowd:
                sock.close()
        server.stop(signal.SIGTERM)


@pytest.mark.parametrize(("age", "comes_in"), [(0.04, False), (0.06, True)])
def test_a_full_server_lets_a_member_in_for_a_connection_that_says_nothing(age: float, comes_in: bool) -> None:
    kit = ChatKit(Limits(connections=3))
    waiting = [kit.connect(address=f"198.51.100.{i}:1") for i in range(3)]
    kit.wait(age)
    member = kit.member("Mina", "dev", echo=True)
    member.send("hi\n")
    told = member.received()
    assert (told == "Mina:hi\n") is comes_in, told
    assert [peer.transport.ended for peer in waiting] == [comes_in, False, False]
