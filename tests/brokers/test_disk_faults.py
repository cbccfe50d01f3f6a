"""A server on a disk that fails: senders are told, other features go on, and no message is lost or comes back."""

from __future__ import annotations

import errno
import signal
import sys
from itertools import cycle
from pathlib import Path

import pytest
from executables import CLIENT, SERVER, Program, eventually
from faults import Action, FaultyDisk, File, Kind
from store_talk import ROOM, Talk, check_file, filled, frame, kill, serving
from witnesses import kept


@pytest.mark.parametrize(
    "error",
    [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow), pytest.param(errno.EROFS, marks=pytest.mark.slow)],
    ids=errno.errorcode.get,
)
def test_while_the_disk_refuses_senders_are_told_and_everything_else_goes_on(
    path: Path, disk: FaultyDisk, error: int
) -> None:
    with serving(path) as server:
        Talk(server).both()
        before = server.member("Al", "attic", echo=True)
        before.send("old times\n")
        assert before.line() == "Al:old times"
    with serving(path, disk) as server:
        talk = Talk(server)
        assert talk.both()
        disk.fail(error=error)
        for _ in range(3):
            assert not talk.line()
            assert not talk.frame()
        talk.tess.send("@Lea psst\n")
        assert talk.lea.until(b"psst\n").endswith(b"* Tess whispers: psst\n")
        talk.jo.send('{"type": "whisper", "to": "lea", "text": "hush", "id": "w"}\n')
        acknowledged = frame(talk.jo, "ack", "error")
        assert (acknowledged["type"], acknowledged["id"], acknowledged["seq"]) == ("ack", "w", None)
        assert talk.lea.line() == "* Jo whispers: hush"
        talk.tess.send("/nick Tessa\n")
        assert talk.tess.line() == "* you are now Tessa"
        assert frame(talk.jo, "renamed")["to"] == "Tessa"
        talk.tess.send("/list\n")
        assert talk.tess.line() == "* in dev (3): Jo, Lea, Tessa"
        talk.tess.send("/history 2\n")
        assert [line.partition(":")[2] for line in talk.tess.lines(2)] == ["line 1", "frame 2"]
        attic = server.member("Zoe", "attic", history=5)  # it has history, and is not in memory yet
        assert attic.line() == "Al:old times"
        cellar = server.member("Kim", "cellar", echo=True)  # there has never been one
        cellar.send("anybody?\n")
        assert cellar.line().startswith("* unavailable: ")
        cellar.send("/join attic\n")
        assert cellar.line() == "* you are now in attic (2): Kim, Zoe"
        server.says("messages cannot be stored: ")
        assert server.err.count("messages cannot be stored") == 1
        assert "stored again" not in server.err
        disk.heal()
        talk.tess.send("/nick Tess\n")
        assert talk.tess.line() == "* you are now Tess"
        assert talk.both()
        assert talk.both()
        server.says("messages can be stored again")
        cellar.send("at last\n")
        assert attic.until(b"at last\n").endswith(b"Kim:at last\n")
        assert server.err.count("messages can be stored again") == 1
        assert server.err.count("messages cannot be stored") == 1
    check_file(path, [("Tess", "line 1"), ("Jo", "frame 2"), *talk.taken])
    assert [message.text for message in kept(path, "attic")] == ["old times", "at last"]
    assert [message.text for message in kept(path, "cellar")] == []


@pytest.mark.slow
@pytest.mark.parametrize("action", [Action.FAIL, Action.HALF_THEN_FAIL])
def test_a_failure_of_any_single_call_costs_at_most_the_messages_of_that_moment(
    path: Path, disk: FaultyDisk, action: Action
) -> None:
    refused = 0
    with serving(path, disk) as server:
        talk = Talk(server)
        assert talk.both()
        for after in range(60):
            disk.fail(action, error=(errno.ENOSPC, errno.EIO, errno.EROFS)[after % 3], after=after, times=1)
            while not disk.hits:
                talk.both()
            disk.heal()
            assert talk.both(), after
            assert talk.both(), after
        refused = len(talk.refused)
    assert 0 < refused <= 60
    check_file(path, talk.taken)


@pytest.mark.slow
def test_a_checkpoint_that_fails_costs_no_message(path: Path, disk: FaultyDisk) -> None:
    """Only a checkpoint writes to the database itself; others are still in the write-ahead log."""
    with serving(path, disk) as server:
        talk = Talk(server)
        for kinds, after in ((Kind.WRITE, 0), (Kind.WRITE, 1), (Kind.WRITE, 700), (Kind.SYNC, 0), (Kind.WRITE, 5)):
            disk.fail(error=errno.EIO, after=after, times=1, files=File.DATABASE, kinds=kinds)
            while not disk.hits:
                talk.line("x" * 8_000 + f" {next(talk.numbers)}")
            disk.heal()
            assert talk.both()
        assert not talk.refused
        kill(server)
    check_file(path, talk.taken)


def killed_after_a_failure(path: Path, disk: FaultyDisk, action: Action, after: int) -> None:
    """Kill the server as soon as the `after`-th call from here on has failed and a member was told."""
    with serving(path, disk) as server:
        talk = Talk(server)
        assert talk.both()
        disk.fail(action, error=errno.EIO, after=after, times=1)
        turns = cycle((talk.line, talk.frame))
        while not disk.hits:
            next(turns)()
        kill(server)
    disk.heal()
    with serving(path, disk) as server:
        late = server.member("Late", ROOM, protocol="json")
        assert frame(late, "welcome")["seq"] >= len(talk.taken)
        late.send('{"type": "message", "text": "I am new"}\n')
        seq = frame(late, "ack")["seq"]
    log = [(message.name, message.text) for message in kept(path, ROOM)]
    assert [message.seq for message in kept(path, ROOM)] == list(range(1, seq + 1))
    assert log[: len(talk.taken)] == talk.taken
    assert log[len(talk.taken) :] == [("Late", "I am new")]  # refused messages were not kept


@pytest.mark.slow
@pytest.mark.parametrize("after", range(4))
def test_a_server_killed_right_after_a_failure_has_lost_nothing(path: Path, disk: FaultyDisk, after: int) -> None:
    killed_after_a_failure(path, disk, Action.FAIL, after)


@pytest.mark.slow
def test_messages_refused_while_the_disk_confirms_nothing_do_not_come_back(path: Path, disk: FaultyDisk) -> None:
    """It takes every byte, and only never says that it has them: all of a commit is in the write-ahead log."""
    with serving(path, disk) as server:
        talk = Talk(server)
        assert talk.both()
        disk.fail(kinds=Kind.SYNC, error=errno.EIO)
        for _ in range(3):
            assert not talk.line()
            assert not talk.frame()
        kill(server)
    check_file(path, talk.taken)


@pytest.mark.long
@pytest.mark.parametrize("action", [Action.FAIL, Action.HALF_THEN_FAIL])
@pytest.mark.parametrize("after", range(60))
def test_a_server_killed_right_after_any_failure_has_lost_nothing(
    path: Path, disk: FaultyDisk, action: Action, after: int
) -> None:
    killed_after_a_failure(path, disk, action, after)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["ends", "is killed"])
def test_a_server_that_stops_while_the_disk_fails_has_lost_nothing(path: Path, disk: FaultyDisk, then: str) -> None:
    with serving(path, disk) as server:
        talk = Talk(server)
        assert talk.both()
        disk.fail()
        assert not talk.line()
        assert not talk.frame()
        if then == "ends":
            server.stop()  # with exit code 0, and without a traceback
        else:
            kill(server)
    check_file(path, talk.taken)


@pytest.mark.slow
def test_only_rooms_that_cannot_be_read_are_refused(path: Path, disk: FaultyDisk) -> None:
    with serving(path) as server:
        for room, lines in ("attic", 1), ("cellar", 50):  # more than SQLite has in its cache
            member = server.member("Al", room, echo=True)
            member.send(("x" * 8_000 + "\n") * lines)
            member.lines(lines)
    with serving(path, disk) as server:
        attic = server.member("Zoe", "attic", echo=True)
        mover = server.member("Mo", "attic", protocol="json")
        frame(mover, "welcome")
        disk.fail(error=errno.EIO, files=File.DATABASE | File.WAL, kinds=Kind.READ)
        refused = server.connect()
        refused.send('{"name": "Kim", "room": "cellar"}\n')
        refusal = refused.refusal()
        assert refusal["code"] == "unavailable"
        mover.send('{"type": "join", "room": "cellar", "ref": 1}\n')
        assert frame(mover, "error", "welcome")["code"] == "unavailable"
        attic.send("/list\n")
        assert attic.line() == "* in attic (2): Mo, Zoe"
        disk.heal()
        mover.send('{"type": "join", "room": "cellar", "ref": 2}\n')
        assert frame(mover, "error", "welcome")["seq"] == 50
        attic.send("still here\n")
        assert attic.line() == "Zoe:still here"


BOT = """
import sys, anyio, anyio.to_thread
from chatapi import ChatAPI, ChatError
from chatapi.brokers.sqlite import SQLiteBroker

async def main():
    async with ChatAPI(broker=SQLiteBroker(sys.argv[1])) as chat, chat.join("bot", "dev") as bot:
        print("ready", flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            what, _, rest = line.strip().partition(" ")
            try:
                if what == "post":
                    print("posted", (await bot.post(rest)).seq, flush=True)
                else:
                    print("deleted", (await chat.delete("dev", int(rest), "mod")).seq, flush=True)
            except ChatError as error:
                print("refused", error, flush=True)

anyio.run(main)
"""


def holds(path: Path, text: bytes) -> bool:
    """Whether a text is anywhere in the file or its write-ahead log."""
    return any(text in file.read_bytes() for file in (path, path.with_name(f"{path.name}-wal")))


@pytest.mark.slow
def test_a_deletion_that_is_kept_is_not_refused_because_the_old_text_cannot_be_wiped_yet(
    path: Path, disk: FaultyDisk
) -> None:
    with Program(sys.executable, "-c", BOT, path, env=disk.environment) as bot:
        bot.type("post secret\n")
        bot.prints(b"posted 1\n")
        disk.fail(files=File.DATABASE)  # so that nothing can be moved out of the write-ahead log
        bot.type("delete 1\n")
        bot.prints(b"deleted 2\n")
        bot.type("post go on\n")
        bot.prints(b"posted 3\n")
        disk.heal()
        bot.type("post and on\n")
        bot.prints(b"posted 4\n")
        bot.type("delete 3\n")
        bot.prints(b"deleted 5\n")
        assert not holds(path, b"secret")
        bot.end_input()
        assert bot.wait() == 0
    assert [message.text for message in kept(path, ROOM)] == ["", "", "and on"]


@pytest.mark.slow
def test_a_deletion_killed_before_the_old_text_is_wiped_is_finished_at_the_next_start(
    path: Path, disk: FaultyDisk
) -> None:
    with Program(sys.executable, "-c", BOT, path, env=disk.environment) as bot:
        bot.type("post secret\n")
        bot.prints(b"posted 1\n")
        disk.fail(Action.DIE_BEFORE, files=File.DATABASE, times=1)
        bot.type("delete 1\n")
        assert bot.wait() == -signal.SIGKILL
    disk.heal()
    assert holds(path, b"secret")
    with Program(sys.executable, "-c", BOT, path, env=disk.environment) as bot:
        eventually(lambda: not holds(path, b"secret"), "the old text is still there")
        bot.end_input()
        assert bot.wait() == 0


@pytest.mark.slow
def test_a_line_that_cannot_be_kept_is_said_until_it_is(path: Path, disk: FaultyDisk) -> None:
    with serving(path, disk) as server:
        disk.fail()
        with Program(sys.executable, CLIENT, "-client", "ci", "-room", "dev", "-address", server.address) as client:
            client.type("deployed\n")
            client.end_input()
            client.says("examplechatclient: unavailable: not kept: the server's file: ")
            assert not client.ended
            disk.heal()
            assert client.wait() == 0
            assert client.out == b""
            client.says("examplechatclient: available: ")
    assert [message.text for message in kept(path, "dev")] == ["deployed"]


@pytest.mark.slow
def test_a_line_that_was_not_kept_in_all_this_time_is_no_success(path: Path, disk: FaultyDisk) -> None:
    imports = "import sys; from chatapi.client import requests; from chatapi.cli import client"
    argv = (
        sys.executable,
        "-c",
        f"{imports}; requests.RESEND_WITHIN = 0; sys.exit(client.main())",
        "-client",
        "ci",
        "-room",
        "dev",
    )
    with serving(path, disk) as server:
        disk.fail()
        with Program(*argv, "-address", server.address) as client:
            client.type("deployed\n")
            client.end_input()
            assert client.wait() == 1
            client.prints(b"not kept: the server's file: ")


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 12, 25])
def test_a_disk_that_fails_while_a_file_is_made(path: Path, disk: FaultyDisk, after: int) -> None:
    fails_while_opening(path, disk, after)


@pytest.mark.long
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("after", range(36))
def test_a_disk_that_fails_at_any_call_of_opening(path: Path, disk: FaultyDisk, after: int, used: bool) -> None:
    taken = filled(path) if used else []
    fails_while_opening(path, disk, after)
    check_file(path, [*taken, ("Tess", "line 1"), ("Jo", "frame 2")])


def fails_while_opening(path: Path, disk: FaultyDisk, after: int) -> None:
    """Either it does not matter, or the server says so and ends; and the file is as good as ever."""
    disk.fail(error=errno.EIO, after=after)
    with Program(sys.executable, SERVER, "-a", "127.0.0.1:0", "-store", path, env=disk.environment) as program:
        eventually(lambda: program.ended or program.out, "nothing happens")
        if program.ended:
            assert program.wait() == 2
            assert program.err.startswith(f"chatserver: -store {str(path)!r}: ")
            assert program.err.count("\n") == 1
        else:
            program.check()
    disk.heal()
    with serving(path, disk) as server:
        assert Talk(server).both()
