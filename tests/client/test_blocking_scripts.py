"""Scripts without an event loop end when they are done, whatever they forget, and say goodbye."""

from __future__ import annotations

import gc
import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from executables import DEADLINE, Peer, Program, Server, eventually

from chatapi import BlockingConnection, Disconnected, EventsUnread, Message, Refused, State, Unreachable, connect_sync

WELCOME = {
    "type": "welcome", "name": "ci", "room": "dev", "session": "key", "epoch": "e", "seq": 0, "ts": 0,
    "members": ["ci"], "count": 1, "recovered": None, "limits": {},
}  # fmt: skip


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def zoe(server: Server, room: str) -> Peer:
    return server.member("Zoe", room, notices=True)


def script(address: str, backend: str, *lines: str, room: str = "dev", options: str = "") -> Program:
    """A script that has connected, and does this then; every warning is an error."""
    connects = f"room = connect_sync({address!r}, backend={backend!r}, name='ci', room={room!r}{options})"
    source = "\n".join(("import sys, threading", "from chatapi import connect_sync", connects, *lines))
    return Program(sys.executable, "-W", "error", "-c", source)


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that welcomes everybody and then says nothing, not even at the end."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                connection.recv(10_000)
                connection.sendall(json.dumps(WELCOME).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)
    for connection in connections:
        connection.close()


SENDS = "room.send('deployed')"


def ends_and_says_goodbye(server: Server, zoe: Peer, room: str, backend: str, *lines: str, code: int = 0) -> None:
    with script(server.address, backend, *lines, room=room) as program:
        assert [zoe.line(), zoe.line()] == ["* ci joined", "ci:deployed"]
        assert program.wait() == code
        assert program.err == ""
        assert zoe.line() == "* ci left"


def test_a_script_ends_and_says_goodbye(server: Server, zoe: Peer, room: str, backend: str) -> None:
    ends_and_says_goodbye(server, zoe, room, backend, SENDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        (SENDS, "room.close()", "room.close()"),
        ("with room:", f"    {SENDS}"),
        ("with room:", f"    {SENDS}", "    room.close()"),
        (SENDS, "sys.exit(3)"),
        (SENDS, "del room"),
        (SENDS, "threading.Thread(target=next, args=(room, None), daemon=True).start()"),
        (SENDS, "threading.Thread(target=list, args=(room,), daemon=True).start()"),
        (SENDS, "thread = threading.Thread(target=list, args=(room,))", "thread.start()", "room.close()"),
    ],
    ids="; ".join,
)
def test_a_script_ends_and_says_goodbye_however_it_ends(
    server: Server, zoe: Peer, room: str, backend: str, lines: tuple[str, ...]
) -> None:
    ends_and_says_goodbye(server, zoe, room, backend, *lines, code=3 if "sys.exit(3)" in lines else 0)


@pytest.mark.slow
def test_a_script_that_fails_ends_and_says_goodbye(server: Server, zoe: Peer, room: str, backend: str) -> None:
    with script(server.address, backend, "1 / 0", room=room) as program:
        assert program.process.wait(DEADLINE) == 1
        assert program.err.rstrip().endswith("ZeroDivisionError: division by zero")
        assert [zoe.line(), zoe.line()] == ["* ci joined", "* ci left"]


@pytest.mark.slow
@pytest.mark.parametrize("lines", [("room.receive()",) * 3, ("with room:", "    list(room)")], ids=["call", "block"])
def test_an_interrupted_script_ends_and_says_goodbye(
    server: Server, zoe: Peer, room: str, backend: str, lines: tuple[str, ...]
) -> None:
    with script(server.address, backend, "print('in', flush=True)", *lines, room=room) as program:
        program.prints(b"in")
        assert zoe.line() == "* ci joined"
        program.signal(signal.SIGINT)
        assert program.process.wait(DEADLINE) == -signal.SIGINT
        assert program.err.rstrip().endswith("KeyboardInterrupt")
        assert zoe.line() == "* ci left"


@pytest.mark.slow
def test_a_script_that_is_interrupted_while_it_connects_ends(backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with script(address, backend, options=", connect_timeout=1e6") as program:
            connection, _ = silent.accept()
            assert connection.recv(10_000).startswith(b"{")
            program.signal(signal.SIGINT)
            assert program.process.wait(DEADLINE) == -signal.SIGINT
            assert connection.recv(1) == b""
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        (),
        (
            "threading.excepthook = print",
            "threading.Thread(target=room.send, args=('x',), daemon=True).start()",
        ),
    ],
)
def test_a_server_that_does_not_answer_keeps_no_script_from_ending(
    deaf: str, backend: str, lines: tuple[str, ...]
) -> None:
    with script(deaf, backend, *lines, *lines, options=", close_timeout=1e6") as program:
        assert program.wait() == 0
        assert program.err == ""


@pytest.mark.slow
def test_a_script_ends_while_it_tries_to_connect_again(backend: str) -> None:
    with Server() as server:
        program = script(
            server.address, backend, "room.receive()", "print(room.receive(), flush=True)", "sys.stdin.read()"
        )
        eventually(lambda: "ci joined" in server.err, lambda: server.err)
    with program:
        program.prints(b"Lost")
        program.end_input()
        assert program.wait() == 0
        assert program.err == ""


# The object itself


def connected(server: Server, room: str, backend: Any, **options: Any) -> BlockingConnection:
    return connect_sync(server.address, backend=backend, name="Mina", room=room, **options)


def test_errors_come_out_of_the_call(server: Server, room: str, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(Unreachable):
        connect_sync(f"127.0.0.1:{port}", backend=backend, name="Mina", room=room)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_events"):
        connected(server, room, backend, max_events=0)
    mina = connected(server, room, backend)
    with pytest.raises(Refused, match="name_taken"):
        connected(server, room, backend)
    mina.close()
    connected(server, room, backend).close()


CALLS = {
    "send": ("x",), "whisper": ("Zoe", "x"), "rename": ("Min",), "join": ("ops",),
    "members": (), "rooms": (), "history": (), "ping": (),
}  # fmt: skip


def test_after_close_every_call_says_so_and_what_had_come_can_be_read(
    server: Server, zoe: Peer, room: str, backend: str
) -> None:
    connection = connected(server, room, backend, echo=True)
    sent = connection.send("x")
    for _ in range(2):
        connection.close()
    assert connection.state is State.CLOSED
    for name, arguments in CALLS.items():
        with pytest.raises(Disconnected, match="bye: this connection was closed"):
            getattr(connection, name)(*arguments)
    verbs = {name for name, call in vars(BlockingConnection).items() if not name.startswith("_") and callable(call)}
    assert verbs == {*CALLS, "close", "receive"}
    connection.receive(timeout=5)  # the welcome
    assert list(connection) == [sent]
    with pytest.raises(EOFError):
        connection.receive()
    deaf = connected(server, room, backend, events=False)
    deaf.close()
    with pytest.raises(RuntimeError, match="events=False"):
        deaf.receive()


def test_a_connection_that_nobody_refers_to_any_more_leaves(server: Server, zoe: Peer, room: str, backend: str) -> None:
    connected(server, room, backend)
    gc.collect()
    assert [zoe.line(), zoe.line()] == ["* Mina joined", "* Mina left"]


def test_its_thread_ends_with_it(server: Server, room: str, backend: str) -> None:
    before = set(threading.enumerate())
    connection = connected(server, room, backend)
    [thread] = [thread for thread in set(threading.enumerate()) - before if thread.name == "chatapi"]
    assert thread.daemon
    connection.close()
    assert not thread.is_alive()


def test_many_threads_may_close_it_while_others_speak(server: Server, room: str, backend: str) -> None:
    connection = connected(server, room, backend, events=False)
    said: list[Message] = []
    unexpected: list[BaseException] = []

    def speak() -> None:
        try:
            while True:
                said.append(connection.send("x"))
        except Disconnected:
            pass
        except EventsUnread as error:
            unexpected.append(error)

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(said) > 20, "nothing was said")
    closers = [threading.Thread(target=connection.close) for _ in range(4)]
    for thread in closers:
        thread.start()
    for thread in threads + closers:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert unexpected == []
