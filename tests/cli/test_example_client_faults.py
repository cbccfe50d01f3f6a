"""`python cmd/examplechatclient` when things go wrong: refusals, lost servers, closed outputs and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from example_client import client_of
from executables import CLIENT, DEADLINE, Peer, Program, Server, eventually, run

pytestmark = pytest.mark.slow

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)


PYTHON = sys.executable


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server("-rate", "0") as server:
        yield server


def are_in(server: Server, room: str, *clients: Program) -> None:
    """Wait until clients know that they are in their room: the server's log says so before they have heard it."""
    eventually(lambda: server.err.count(f" joined {room} ") == len(clients), lambda: server.err)
    with server.member("Ann", room) as ann:
        ann.send("hello\n")
        for client in clients:
            client.prints(b"Ann:hello\n")


def _one_line(err: str, *about: str) -> None:
    assert re.fullmatch(r"examplechatclient: [^\n]+\n", err), err
    for word in about:
        assert word in err, err


@pytest.mark.parametrize("lines", [0, 2000])
def test_refused_it_says_why_and_prints_nothing(server: Server, room: str, lines: int) -> None:
    server.member("MINA", room)
    with client_of(server, room) as client:
        if lines:
            try:
                client.type("a line that nobody hears\n" * lines)
            except BrokenPipeError:
                pass  # it has ended already, which is as well
        assert client.wait() == 1
        assert client.out == b""
        _one_line(client.err, "'MINA' is already in", "name_taken")


def test_a_name_that_cannot_be_is_refused(server: Server, room: str) -> None:
    for name in ("a:b", "", "a b"):
        argv = (PYTHON, CLIENT, "-client", name, "-room", room, "-address", server.address)
        with Program(*argv) as client:
            assert client.wait() == 1
            assert client.out == b""
            _one_line(client.err, "bad_name")


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = run(PYTHON, CLIENT, "-client", "Mina", "-address", address)
    assert (code, out) == (1, "")
    _one_line(err, address)


def test_a_server_that_is_killed_and_started_again() -> None:
    with Server() as server:
        zoe = server.member("Zoe", "hall", notices=True)
        with client_of(server, "hall") as client:
            assert zoe.line() == "* Mina joined"
            zoe.send("hello\n")
            client.prints(b"Zoe:hello\n")
            server.signal(signal.SIGKILL)
            client.says("connection lost: ")
            client.type("one\ntwo\n")
            with Server(address=server.address) as again:
                _goes_on(again, client)
            assert client.out == b"Zoe:hello\nZoe:back\n"
            lost, back = client.err.splitlines()
            assert re.fullmatch("examplechatclient: connection lost: .+; trying again", lost)
            assert back == "examplechatclient: connected again; messages may have been missed (unknown_epoch)"


def test_a_server_that_is_stopped_and_started_again() -> None:
    with Server() as server:
        zoe = server.member("Zoe", "hall", notices=True)
        with client_of(server, "hall") as client:
            assert zoe.line() == "* Mina joined"
            server.stop()
            client.says("connection lost: the server is shutting down; trying again\n")
            client.type("one\ntwo\n")
            with Server(address=server.address) as again:
                _goes_on(again, client)
            assert client.out == b"Zoe:back\n"


def _goes_on(again: Server, client: Program) -> None:
    """Its server is another one now: what was typed in between is there, once, and it talks on, and leaves."""
    zoe = again.member("Zoe", "hall", history=10)
    assert zoe.lines(2) == ["Mina:one", "Mina:two"]
    client.says("connected again; ")
    zoe.send("back\n")
    client.prints(b"Zoe:back\n")
    client.type("three\n")
    assert zoe.line() == "Mina:three"
    client.end_input()
    assert client.wait() == 0


@pytest.mark.parametrize("keeps", [True, False])
def test_a_server_that_is_killed_while_piped_lines_wait_gets_the_remaining_lines_when_it_is_back(
    tmp_path: Path, keeps: bool
) -> None:
    """All of the input fits into the server's buffers, so a mere end of stream could not tell.

    Without a store it is unknown which of the lines were kept, and none is said again.
    """
    store = ("-store", str(tmp_path / "chat.db")) if keeps else ()
    with Server("-rate", "10", "-burst", "5", *store) as server:
        zoe = server.member("Zoe", "hall")
        with client_of(server, "hall") as client:
            client.type("".join(f"{i}\n" for i in range(100)))
            client.end_input()
            assert zoe.line() == "Mina:0"
            server.signal(signal.SIGKILL)
            client.says("connection lost: ")
            assert not client.ended
            with Server("-rate", "0", *store, address=server.address) as again:
                zoe = again.member("Zoe", "hall", history=100)
                if keeps:
                    said = zoe.until(b"Mina:99\n").decode().splitlines()
                    assert client.wait() == 0
                    assert said == [f"Mina:{i}" for i in range(100)]  # none is missing, and none is there twice
                    assert client.out == b""
                else:
                    assert client.wait() == 1
                    assert b"it is unknown whether this message was kept\n" in client.out
                    client.says("some lines may not have arrived")
                zoe.send("/history 1\n" if keeps else "/history\nhello\n/history 1\n")
                assert zoe.line() == ("Mina:99" if keeps else "Zoe:hello")


def test_input_that_ends_while_the_server_is_away_waits_for_it_only_where_something_is_to_be_said() -> None:
    with Server() as server, client_of(server, "hall") as waits, client_of(server, "room") as leaves:
        are_in(server, "hall", waits)
        are_in(server, "room", leaves)
        server.signal(signal.SIGKILL)
        for client in (waits, leaves):
            client.says("connection lost: ")
        waits.type("hello")
        for client in (waits, leaves):
            client.end_input()
        assert leaves.wait() == 0
        assert not waits.ended
        with Server(address=server.address) as again:
            zoe = again.member("Zoe", "hall", history=10)
            assert zoe.line() == "Mina:hello"
            assert waits.wait() == 0


_WELCOME = {
    "type": "welcome", "name": "Mina", "room": "hall", "session": "s", "epoch": "e", "seq": 0, "ts": 0,
    "members": ["Mina"], "count": 1, "recovered": None, "limits": {"line_bytes": 8192, "frame_bytes": 65536},
}  # fmt: skip


@pytest.mark.parametrize(
    ("last", "about"),
    [
        (
            {"type": "bye", "code": "kicked", "detail": "out", "reconnect": False, "after": 0},
            "disconnected: kicked: out",
        ),
        (
            {"type": "bye", "code": "banned", "detail": "out", "reconnect": False, "after": 0},
            "disconnected: banned: out",
        ),
        ({"type": "bye", "code": "flood", "detail": "out", "reconnect": True, "after": 30}, "disconnected: flood: out"),
    ],
    ids=["kicked", "banned", "flood"],
)
def test_cut_off_for_good(last: dict[str, object], about: str) -> None:
    with _listening() as (listener, argv), Program(*argv) as client:
        _answer(listener, _WELCOME, last)
        assert client.wait() == 1
        assert client.out == b""
        assert client.err == f"examplechatclient: {about}\n"


def test_refused_when_it_comes_back() -> None:
    with _listening() as (listener, argv), Program(*argv) as client:
        _answer(listener, _WELCOME)
        client.says("connection lost: ")
        _answer(listener, {"type": "error", "code": "name_taken", "detail": "somebody has it"})
        assert client.wait() == 1
        assert client.err.splitlines()[1:] == ["examplechatclient: disconnected: name_taken: somebody has it"]


def test_a_reserved_name_says_when_it_is_free() -> None:
    with _listening() as (listener, argv), Program(*argv) as client:
        _answer(listener, {"type": "error", "code": "name_taken", "detail": "it is reserved", "after": 4.2})
        assert client.wait() == 1
        assert client.err == "examplechatclient: refused: it is reserved (name_taken); try again in 5 s\n"


def test_what_cannot_be_kept_for_now_is_said_again_and_people_are_told() -> None:
    with _listening() as (listener, argv), Program(*argv) as client:
        client.type("deployed\n")
        client.end_input()
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb", buffering=0) as server:
            connection.settimeout(DEADLINE)
            server.readline()
            server.write(_line(_WELCOME))
            said = json.loads(server.readline())
            server.write(_line({"type": "notice", "code": "unavailable", "detail": "Redis is away"}))
            server.write(_line({"type": "error", "code": "unavailable", "detail": "not kept", "id": said["id"]}))
            client.says("unavailable: Redis is away\n")
            assert not client.ended
            server.write(_line({"type": "notice", "code": "available", "detail": "messages can be kept again"}))
            assert json.loads(server.readline()) == said
            server.write(_line({"type": "ack", "id": said["id"], "seq": 1, "ts": 1}))
            assert json.loads(server.readline()) == {"type": "bye"}
        assert client.wait() == 0
        assert client.out == b""
        assert client.err.splitlines() == [
            "examplechatclient: unavailable: Redis is away",
            "examplechatclient: available: messages can be kept again",
        ]


@contextmanager
def _listening() -> Iterator[tuple[socket.socket, tuple[str | Path, ...]]]:
    """Something that is no server yet, and how to start a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        port = listener.getsockname()[1]
        yield listener, (PYTHON, CLIENT, "-client", "Mina", "-room", "hall", "-address", f"127.0.0.1:{port}")


def _answer(listener: socket.socket, *frames: dict[str, object]) -> None:
    """Take one handshake, answer it, and hang up."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(DEADLINE)
        with connection.makefile("rb") as lines:
            assert json.loads(lines.readline())["protocol"] == "json"
        connection.sendall(b"".join(map(_line, frames)))


def _line(frame: dict[str, object]) -> bytes:
    return json.dumps(frame).encode() + b"\n"


def test_a_flood_of_refused_lines_does_not_look_like_success(server: Server, room: str, zoe: Peer) -> None:
    with client_of(server, room) as client:
        client.type("@Nobody hello\n" * 100)
        client.end_input()
        assert client.wait() == 1
        assert set(client.out.splitlines()) == {b"* nobody here is called 'Nobody'; nothing was sent"}
        _one_line(client.err, "disconnected: flood")


def test_lines_that_look_like_commands_can_be_said(server: Server, room: str, zoe: Peer) -> None:
    with client_of(server, room, "-no-commands") as client:
        client.type("/bye\n@Zoe hi\n")
        client.end_input()
        assert client.wait() == 0
        assert client.out == b""
    assert zoe.lines(4) == ["* Mina joined", "Mina:/bye", "Mina:@Zoe hi", "* Mina left"]


def test_an_output_that_is_closed_early(server: Server, room: str, zoe: Peer) -> None:
    """As in `examplechatclient | head -1`."""
    reader, writer = os.pipe()
    try:
        with client_of(server, room, stdout=writer) as client:
            os.close(writer)
            assert zoe.line() == "* Mina joined"
            zoe.send("one\n")
            with os.fdopen(reader, "rb") as head:
                assert head.readline() == b"Zoe:one\n"
            zoe.send("two\n")
            assert client.wait() in (0, 1)
            assert client.err == ""
    except BaseException:
        for descriptor in (reader, writer):
            try:
                os.close(descriptor)
            except OSError:
                pass  # closed already
        raise
    assert zoe.line().startswith("* Mina left")


def test_no_output_at_all(server: Server, room: str, zoe: Peer) -> None:
    """With its stdout closed, as `>&-` does, it can still say something."""
    with client_of(server, room, before=lambda: os.close(1)) as client:
        client.type("hello\n")
        assert zoe.lines(2) == ["* Mina joined", "Mina:hello"]
        zoe.send("hello yourself\n")
        zoe.send("/list\n")
        assert zoe.line().startswith("* ")
        client.end_input()
        client.wait()
    assert zoe.line().startswith("* Mina left")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_an_output_that_takes_no_more_is_one_line(server: Server, room: str, zoe: Peer) -> None:
    with open("/dev/full", "wb") as full, client_of(server, room, stdout=full.fileno()) as client:
        assert zoe.line() == "* Mina joined"
        zoe.send("hello\n")
        assert client.wait() == 1
        _one_line(client.err, "No space left on device")
    assert zoe.line().startswith("* Mina left")


def test_ctrl_c(server: Server, room: str, zoe: Peer) -> None:
    with client_of(server, room) as client:
        client.type("hello\n")
        assert zoe.lines(2) == ["* Mina joined", "Mina:hello"]
        client.signal(signal.SIGINT)
        assert client.wait() in (130, -signal.SIGINT)
        assert client.err == ""
    assert zoe.line() == "* Mina left"  # it has said goodbye: its name is free at once


def talk(mina: Program, zoe: Program) -> None:
    """Have two clients hear each other, and leave."""
    mina.type("hello\n")
    zoe.prints(b"Mina:hello\n")
    zoe.type("hello yourself\n")
    mina.prints(b"Zoe:hello yourself\n")
    for client in (mina, zoe):
        client.end_input()
        assert client.wait() == 0


def test_two_clients_talk(server: Server, room: str) -> None:
    other = (PYTHON, CLIENT, "-client", "Zoe", "-room", room, "-address", server.address)
    with client_of(server, room) as mina, Program(*other) as zoe:
        eventually(lambda: server.err.count(f"joined {room}") == 2, lambda: server.err)
        talk(mina, zoe)
        assert (mina.out, zoe.out) == (b"Zoe:hello yourself\n", b"Mina:hello\n")


def test_two_clients_go_on_when_their_server_is_back() -> None:
    with Server() as server:
        other = (PYTHON, CLIENT, "-client", "Zoe", "-room", "hall", "-address", server.address)
        with client_of(server, "hall") as mina, Program(*other) as zoe:
            are_in(server, "hall", mina, zoe)
            server.signal(signal.SIGKILL)
            for client in (mina, zoe):
                client.says("connection lost: ")
            with Server(address=server.address) as again:
                eventually(lambda: again.err.count("joined hall") == 2, lambda: again.err)
                talk(mina, zoe)
                assert (mina.out, zoe.out) == (b"Ann:hello\nZoe:hello yourself\n", b"Ann:hello\nMina:hello\n")
