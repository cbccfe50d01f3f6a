"""Clients that speak HTTP or TLS are told so at every door, and nothing that they send becomes a name or chat."""

from __future__ import annotations

import json
import logging
from email.parser import BytesParser

import pytest

from chatapi.addresses import Address
from chatapi.protocol.wrong_protocol import Stranger, find_stranger, may_become_stranger
from chatapi.testing import ChatKit, Peer

REQUESTS = {
    "a browser": b"GET / HTTP/1.1\r\nHost: localhost:6000\r\nAccept: */*\r\n\r\n",
    "a form": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\r\nMina\nhello\n",
    "a bare line feed": b"GET / HTTP/1.0\n\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "a method in lower case": b"patch /x HTTP/1.1\r\n\r\nMina\nhello\n",
    "a target with a blank": b"GET /a b HTTP/1.1\r\n\r\nMina\nhello\n",
    "a target longer than a line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\nMina\nhello\n",
    "lines as a body": b"PUT * HTTP/1.1\r\n\r\n" + b'{"name": "Mina", "room": "lounge"}\nhello\n' * 3,
    "a proxy's request": b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
}
HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(range(256)) + b"\nMina\nhello\n"


def pieces(data: bytes, how: str) -> list[bytes]:
    if how == "whole":
        return [data]
    if how == "trailing":
        return [data + b"\nMina\n/list\nhello\n" * 100]
    return [data[i : i + 1] for i in range(len(data))]


def serve(telnet: bool, chunks: list[bytes]) -> tuple[ChatKit, Peer, Peer, bytes]:
    """What a stranger is told, behind the greeting of the telnet door."""
    kit = ChatKit()
    kit.hub.listening = {"text": Address("127.0.0.1", 8989), "telnet": Address("127.0.0.1", 6000)}
    there = kit.member("there", "lounge", notices=True)
    peer = kit.connect(telnet=telnet)
    greeting = peer.received().encode()
    for chunk in chunks:
        peer.send(chunk)
        if len(chunk) == 1:
            kit.settle()
    peer.end()
    said = peer.received().encode()
    assert bool(greeting) == telnet
    return kit, there, peer, said


@pytest.mark.parametrize("telnet", [False, True], ids=["main door", "telnet door"])
@pytest.mark.parametrize("request_of", REQUESTS)
def test_an_http_request_gets_an_http_response_that_says_how_to_connect(request_of: str, telnet: bool) -> None:
    request = REQUESTS[request_of]
    # the main door refuses the first byte of a method in lower case, whatever follows
    is_refused_at_once = not telnet and request[:1].islower()
    for cut in ("whole",) if is_refused_at_once else ("whole", "trailing", "byte by byte"):
        check_response(request, telnet, cut)


def check_response(request: bytes, telnet: bool, cut: str) -> None:
    kit, there, peer, said = serve(telnet, pieces(request, cut))
    head, _, body = said.partition(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    headers = BytesParser().parsebytes(fields)
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Connection"] == "close"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Access-Control-Allow-Origin"] is None
    lines = body.decode().splitlines()
    assert len(lines) == 3
    assert "not HTTP" in lines[0]
    assert lines[1] == "People: telnet 127.0.0.1 6000"
    assert "127.0.0.1:8989" in lines[2]
    assert '{"name": "Mina", "room": "devroom"}' in lines[2]
    assert peer.transport.closed
    assert dict(kit.hub.refusals) == {"bad_handshake": 1}
    assert there.received() == ""


@pytest.mark.parametrize("telnet", [False, True], ids=["main door", "telnet door"])
def test_head_gets_no_body(telnet: bool) -> None:
    _, _, _, said = serve(telnet, [b"HEAD / HTTP/1.1\r\n\r\n"])
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.endswith(b"\r\n\r\n")
    assert said.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("cut", ["whole", "trailing", "byte by byte"])
@pytest.mark.parametrize("telnet", [False, True], ids=["main door", "telnet door"])
def test_the_hello_of_tls_gets_one_plain_line(telnet: bool, cut: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chatapi")
    kit, there, peer, said = serve(telnet, pieces(HELLO, cut))
    assert said == b"this port does not speak TLS; connect to it without encryption\n"
    assert peer.transport.closed
    assert dict(kit.hub.refusals) == {"bad_handshake": 1}
    assert there.received() == ""
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize("before", [b"\r\n", b"\n\n\n", b"  \r\n"])
@pytest.mark.parametrize("telnet", [False, True], ids=["main door", "telnet door"])
def test_blank_lines_before_a_request_change_nothing(before: bytes, telnet: bool) -> None:
    _, there, peer, said = serve(telnet, [before + REQUESTS["a form"]])
    assert b"HTTP/1.1 400 Bad Request" in said
    assert peer.transport.closed
    assert there.received() == ""


@pytest.mark.parametrize(
    "line", ["GET lost", "GET /", "GET HTTP/1.1", "GET / HTTP/1.1 please", "GET / HTTP/x", "/ HTTP/1.1"]
)
def test_what_looks_only_a_little_like_a_request_is_a_nickname_attempt(line: str) -> None:
    kit = ChatKit()
    peer = kit.connect(telnet=True)
    peer.send(f"{line}\r\n")
    assert peer.received().endswith("Nickname: ")
    peer.send("GET\r\n")
    assert "hello GET" in peer.received()


def test_the_beginning_of_a_request_is_no_nickname_until_its_line_ends() -> None:
    kit = ChatKit()
    peer = kit.connect(telnet=True)
    peer.received()
    for piece in (b"POST", b" ", b"/", b" HTTP/1.", b"1"):
        peer.send(piece)
        assert peer.received() == ""
    assert not kit.hub.rooms
    peer.send("\r\n")
    assert peer.received().startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("piece", [b"GET", b"GET ", b"GET / HT", b"\x16"])
def test_a_stream_that_ends_in_what_may_be_a_request_is_a_bad_handshake(piece: bytes) -> None:
    kit = ChatKit()
    peer = kit.connect()
    peer.send(piece)
    assert peer.received() == ""
    peer.end()
    assert json.loads(peer.received())["code"] == "bad_handshake"


def test_a_member_can_say_what_looks_like_a_request() -> None:
    kit = ChatKit()
    a, b = kit.member("a"), kit.member("b")
    a.send("GET / HTTP/1.1\n")
    assert b.lines() == ["a:GET / HTTP/1.1"]


def test_every_whole_request_line_is_one_that_was_waited_for() -> None:
    for request in REQUESTS.values():
        if request[:1].islower():
            continue
        line = request[: request.index(b"\n")]
        assert all(may_become_stranger(line[:end]) for end in range(1, len(line)))
        assert isinstance(find_stranger(line + b"\n"), Stranger)


# Which port is for people


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (Address("127.0.0.1", 6000), "telnet 127.0.0.1 6000"),
        (Address("::1", 6000), "telnet ::1 6000"),
        (Address("0.0.0.0", 6000), "telnet HOST 6000"),
        (Address("::", 6000), "telnet HOST 6000"),
    ],
)
@pytest.mark.parametrize("line", ["hello\n", "{}", '{"name": "Mina"}'])
def test_a_bad_handshake_is_told_which_port_is_for_people(address: Address, shown: str, line: str) -> None:
    kit = ChatKit()
    kit.hub.listening = {"text": Address("::", 8989), "telnet": address}
    peer = kit.connect()
    peer.send(line)
    assert json.loads(peer.received())["detail"].endswith(f"; people can connect with: {shown}")


def test_without_a_telnet_door_and_for_other_refusals_nothing_is_said_of_it() -> None:
    kit = ChatKit()
    peer = kit.connect()
    peer.send("hello\n")
    assert "telnet" not in peer.received()
    kit.hub.listening = {"telnet": Address("127.0.0.1", 6000)}
    assert "telnet" not in kit.member("a:b").received()
