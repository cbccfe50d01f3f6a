"""The log holds nobody up: not if clients cause lines without end, and not if nobody reads it."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any

import anyio
import pytest
from executables import DEADLINE, ROOT, SERVER, Peer, environment, eventually, handshake, prepared
from serving import served

from chatapi import ChatAPI, Handshake, Limits, connect
from chatapi.cli.lines import Lines, LinesHandler
from chatapi.core.hooks import Hooks
from chatapi.server.log_limit import BURST, RATE, LogLimit
from chatapi.testing import ChatKit, VirtualClock

SUMMARY = "… and {:d} more lines like this: {}"


@contextmanager
def limited(kit: ChatKit) -> Iterator[LogLimit]:
    """A kit whose log is limited, as that of a chat that runs."""
    limit = LogLimit(kit.clock, kit.hub.timers)
    limit.begin()
    try:
        yield limit
    finally:
        limit.end()


def fails(handshake: Handshake) -> None:
    raise ValueError("a fault of the program")


def refuse(kit: ChatKit, i: int) -> None:
    kit.member("no name, because it is too long for one", address=f"203.0.113.7:{i}")


def join(kit: ChatKit, i: int) -> None:
    kit.member(f"m{i}", address=f"203.0.113.7:{i}").connection.abort("connection_lost")


def leave(kit: ChatKit, i: int) -> None:
    kit.member(f"m{i}", address=f"203.0.113.7:{i}").connection.abort("connection_lost")


def crash(kit: ChatKit, i: int) -> None:
    peer = kit.connect(address=f"203.0.113.7:{i}")
    try:
        raise ValueError("a fault of the server")
    except ValueError:
        peer.connection.crashed()
    peer.connection.abort("connection_lost")


def have_the_hook_fail(kit: ChatKit, i: int) -> None:
    kit.hub.hooks = Hooks(admit=fails)
    kit.member(f"m{i}", address=f"203.0.113.7:{i}")


def change_rooms(kit: ChatKit, i: int) -> None:
    peer = next((peer for peer in kit.peers if not peer.transport.closed), None) or kit.member("Mina")
    peer.send(f"/join room{i % 2}\n")
    kit.settle()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cause", "line"),
    [
        (refuse, "refused %s: %s"),
        (join, "%s joined %s from %s"),
        (leave, "%s left from %s: %s"),
        (crash, "an error inside the server, for %s"),
        (have_the_hook_fail, "the hook %s failed"),
        (change_rooms, "%s went from %s to %s"),
    ],
)
def test_what_a_client_can_cause_at_will_is_logged_at_a_bounded_rate(
    cause: Callable[[ChatKit, int], None], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kit = ChatKit(Limits(rate=0))
    number = BURST + 50
    with limited(kit):
        for i in range(number):
            cause(kit, i)
        logged = [record.msg for record in caplog.records]
        before = logged.count(line)
        assert before == BURST
        kit.wait(1.2)
        messages = [record.getMessage() for record in caplog.records]
        kinds = {record.msg for record in caplog.records}
        assert [message for message in messages if message.endswith(f": {line}")]
        left_out = sum(
            int(found[1])
            for message in messages
            if (found := re.fullmatch(rf"… and (\d+) more.*: {re.escape(line)}", message))
        )
        assert before + left_out in (number, number - 1), kinds  # changing to the room where it is says nothing
        caplog.clear()
        for i in range(50):
            cause(kit, i)
        again = [record.msg for record in caplog.records].count(line)
        assert RATE <= again <= 2 * RATE
    if cause is refuse:
        assert kit.hub.refusals["bad_name"] == number + 50


def test_what_was_left_out_is_said_at_the_end_at_the_latest(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kit = ChatKit()
    with limited(kit):
        for i in range(BURST + 7):
            refuse(kit, i)
    assert caplog.messages[-1] == SUMMARY.format(7, "refused %s: %s")
    refuse(kit, 0)
    assert "more" not in caplog.messages[-1], "it is not limited any longer"


def test_a_line_from_another_thread_is_counted_too(caplog: pytest.LogCaptureFixture) -> None:
    kit = ChatKit()
    logger = logging.getLogger("chatapi")
    with limited(kit):
        thread = threading.Thread(target=lambda: [logger.warning("again %s", i) for i in range(BURST + 3)])
        thread.start()
        thread.join()
        assert len(caplog.records) == BURST
        assert len(kit.hub.timers._when) == 0, "timers belong to the event loop"
    assert caplog.messages[-1] == SUMMARY.format(3, "again %s")


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_chat_that_is_served_limits_its_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    filters = list(logging.getLogger("chatapi").filters)
    chat = ChatAPI(clock=VirtualClock())
    async with served(chat) as doors:
        for _ in range(BURST + 20):
            async with await anyio.connect_tcp(*doors["text"]) as stream:
                await stream.send(b"nonsense\n")
                async for _ in stream:
                    pass
        async with connect(doors["text"], name="Mina", room="dev") as mina:
            await mina.send("hello")
    logged = [record.msg for record in caplog.records].count("refused %s: %s")
    left_out = sum(
        record.args[0] for record in caplog.records if record.msg.startswith("… and") and "refused" in record.args[1]
    )  # type: ignore[index,operator,misc]
    assert logged + left_out == BURST + 20 == chat.refusals["bad_handshake"]
    assert left_out == 20
    assert logging.getLogger("chatapi").filters == filters


# Nobody reads


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    """A pipe that takes 4,096 bytes: where it is read, and where it is written."""
    reading, writing = os.pipe()
    with FileIO(reading, "rb") as reader, FileIO(writing, "wb") as writer:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        yield reader, writer


def all_written(lines: Lines) -> None:
    """Wait until the thread has ended: it must not write to a descriptor that is something else by then."""
    eventually(lambda: lines.close() or not lines._thread.is_alive(), "not all of it is written")


def test_lines_that_nobody_takes_are_dropped_and_counted(pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    lines = Lines(writer.fileno())
    handler = LinesHandler(lines)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for i in range(20_000):
        logger.warning("line %d %s", i, "x" * 50)
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.extend(iter(lambda: reader.read(1 << 16), b"")))
    reading.start()
    all_written(lines)
    writer.close()
    reading.join(DEADLINE)
    texts = b"".join(found).decode().splitlines()
    written = [int(text.split()[1]) for text in texts if text.startswith("line ")]
    dropped = sum(int(found[1]) for text in texts if (found := re.search(r" (\d+) lines were dropped here", text)))
    assert written == sorted(written)
    assert written[:10_000] == list(range(10_000))
    assert dropped > 0
    assert len(written) + dropped == 20_000


@pytest.mark.slow
def test_the_end_does_not_wait_for_a_reader(pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    lines = Lines(writer.fileno())
    for _ in range(20_000):
        lines.put("x" * 100)
    closing = threading.Thread(target=lines.close, daemon=True)
    closing.start()
    closing.join(DEADLINE)
    assert not closing.is_alive()
    reader.close()
    all_written(lines)


def test_all_that_is_read_is_written_before_the_end(pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    lines = Lines(writer.fileno())
    for i in range(100):
        lines.put(f"line {i}")
    all_written(lines)
    writer.close()
    assert reader.read() == b"".join(b"line %d\n" % i for i in range(100))


def test_a_stream_that_refuses_everything_is_told_of(pipe: tuple[FileIO, FileIO]) -> None:
    reader, writer = pipe
    reader.close()
    told: list[Any] = []
    lines = Lines(writer.fileno(), lambda line, error: told.append((line, type(error))))
    lines.put("hello")
    all_written(lines)
    assert told == [("hello", BrokenPipeError)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("unread", ["stderr", "stdout and stderr"])
def test_a_server_whose_output_nobody_reads_goes_on_and_ends(
    unread: str, number: signal.Signals, pipe: tuple[FileIO, FileIO]
) -> None:
    blocked = pipe[1].fileno()
    port = free_port()
    if unread != "stderr":
        os.write(blocked, b"x" * 4096)
    process = subprocess.Popen(
        [sys.executable, SERVER, "-a", f"127.0.0.1:{port}", "-log-level", "debug"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if unread == "stderr" else blocked,
        stderr=blocked,
        preexec_fn=prepared(),
    )
    try:
        mina = eventually(lambda: comes_in(port, "Mina"), "it does not listen")
        for _ in range(2000):
            with Peer(("127.0.0.1", port)) as peer:
                peer.send(b"nonsense\n")
                assert peer.refusal()["code"] == "bad_handshake"
        zoe = comes_in(port, "Zoe")
        assert zoe is not None
        zoe.send("hello\n")
        assert mina.line() == "Zoe:hello"
        process.send_signal(number)
        assert mina.line() == "* draining: the server is shutting down"
        mina.close()
        zoe.close()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait(DEADLINE)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def comes_in(port: int, name: str) -> Peer | None:
    try:
        peer = Peer(("127.0.0.1", port))
    except ConnectionRefusedError:
        return None
    peer.send(handshake(name, "hall") + b"\n/list\n")
    peer.line()
    return peer
