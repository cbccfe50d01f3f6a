"""What a client has sent before it closed its socket is said, over TCP and with the real server."""

from __future__ import annotations

import fcntl
import json
import struct
import sys
import termios
from collections.abc import Iterator

import pytest
from executables import Peer, Server, eventually, handshake

if sys.platform != "linux":
    pytest.skip("what a socket holds after a reset is asked of Linux", allow_module_level=True)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server("-rate", "4000", "-burst", "50", "-telnet", "127.0.0.1:0") as server:
        yield server


LINES = [f"{i} {'x' * 95}" for i in range(1000)]  # more than the server reads at once


def is_acknowledged(peer: Peer) -> bool:
    """Whether the server's system has all that this client sent."""
    return struct.unpack("i", fcntl.ioctl(peer.socket, termios.TIOCOUTQ, b"\0" * 4))[0] == 0


def enter(server: Server, door: str, room: str, echo: bool) -> Peer:
    if door != "telnet":
        return server.member("Mina", room, protocol=door, echo=echo)
    peer = server.connect(to=server.telnet[0])
    peer.send("Mina\r\n")
    peer.until(b"/help")
    peer.until(b"\n")
    return peer


@pytest.mark.parametrize("why", ["its own lines come back", "others talk"])
@pytest.mark.parametrize("door", ["text", "json", "telnet"])
def test_a_client_that_closes_its_socket_loses_none_of_the_lines_that_arrived(
    server: Server, room: str, door: str, why: str
) -> None:
    if door == "telnet":
        room = "lounge"
    zoe, ann = server.member("Zoe", room), server.member("Ann", room)
    mina = enter(server, door, room, echo=why == "its own lines come back" and door != "telnet")
    for text in LINES:
        mina.send((json.dumps({"type": "message", "text": text}) if door == "json" else text) + "\n")
    eventually(lambda: is_acknowledged(mina), "the server's system does not take it all")
    if why == "its own lines come back":  # what comes back is unread, so that a close sends a reset
        mina.send("/list\r\n" if door == "telnet" else "")
    mina.close()
    talk = [f"{i}" for i in range(20)] if why == "others talk" else []
    heard: list[str] = []
    for text in talk:  # each is delivered before the next is sent: the first one is answered by a reset
        zoe.send(f"{text}\n")
        while (line := ann.line()) != f"Zoe:{text}":
            heard.append(line)
    while len(heard) < len(LINES):
        heard.append(ann.line())
    assert heard == [f"Mina:{text}" for text in LINES]


def test_a_client_that_was_gone_before_it_was_accepted_has_said_its_lines(server: Server, room: str) -> None:
    zoe = server.member("Zoe", room)
    for number in range(20):
        peer = server.connect()
        peer.send(handshake(f"Mina{number}", room) + f"\nhello {number}\n".encode())
        peer.close()
        assert zoe.line() == f"Mina{number}:hello {number}"


@pytest.mark.parametrize("door", ["main", "telnet"])
def test_an_http_client_is_answered_over_tcp(server: Server, door: str) -> None:
    peer = server.connect(to=server.telnet[0] if door == "telnet" else None)
    peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    said = peer.rest().decode()
    assert "HTTP/1.1 400 Bad Request\r\n" in said
    host, port = server.telnet[0]
    assert f"\nPeople: telnet {host} {port}\n" in said
    assert f"connect to {server.address}," in said


def test_a_line_at_the_main_port_is_told_which_port_is_for_people(server: Server) -> None:
    peer = server.connect()
    peer.send("hello\n")
    host, port = server.telnet[0]
    assert peer.refusal()["detail"].endswith(f"people can connect with: telnet {host} {port}")
