"""The durable server on a disk that fails or fills: who is told, what goes on, and that it heals with the disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import anyio
import pytest
from executables import CLIENT, DEADLINE, ROOT, SERVER, Peer, Program, Server, eventually, run
from faults import Action, FaultyDisk, File, Kind, build
from witnesses import kept

from chatapi import Bot, ChatAPI, Event, Message, Refused, StoreError
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.brokers.sqlite.database import MIGRATIONS
from chatapi.brokers.sqlite.store import Store

ROOM = "dev"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def disk(tmp_path: Path, shim: Path) -> FaultyDisk:
    return FaultyDisk(tmp_path / "chat.db", shim)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def serving(path: Path, disk: FaultyDisk | None = None, before: Callable[[], None] | None = None) -> Server:
    env = None if disk is None else disk.environment
    return Server("-store", str(path), "-rate", "0", env=env, before=before)


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()
    server.hang_up()


def frame(peer: Peer, *types: str) -> dict[str, Any]:
    """The next frame of one of these types."""
    while True:
        found: dict[str, Any] = json.loads(peer.line())
        if found["type"] in types:
            return found


class Talk:
    """A text and a JSON member that say things, one after the other, and one who listens to both."""

    def __init__(self, server: Server) -> None:
        self.lea = server.member("Lea", ROOM)
        self.tess = server.member("Tess", ROOM, echo=True)
        self.jo = server.member("Jo", ROOM, protocol="json")
        self.welcome = frame(self.jo, "welcome")
        self.numbers = count(1)
        self.taken: list[tuple[str, str]] = []
        """What was accepted: name and text."""
        self.refused: list[str] = []
        self.seq = int(self.welcome["seq"])

    def line(self, text: str = "") -> bool:
        """Tess says something; whether it was taken."""
        text = text or f"line {next(self.numbers)}"
        self.tess.send(text + "\n")
        while not (heard := self.tess.line()).startswith("* ") and heard != f"Tess:{text}":
            pass
        if not heard.startswith("* "):
            self._taken("Tess", text)
            return True
        assert heard.startswith("* unavailable: your line was not kept: "), heard
        self.refused.append(text)
        return False

    def frame(self) -> bool:
        """Jo says something; whether it was taken."""
        text = f"frame {next(self.numbers)}"
        self.jo.send(json.dumps({"type": "message", "text": text, "id": text}) + "\n")
        answer = frame(self.jo, "ack", "error")
        assert answer["id"] == text
        if answer["type"] == "ack":
            self._taken("Jo", text)
            assert answer["seq"] == self.seq
            return True
        assert answer["code"] == "unavailable"
        self.refused.append(text)
        return False

    def _taken(self, name: str, text: str) -> None:
        assert self.lea.line() == f"{name}:{text}"  # the next thing that she hears: what is refused is shown to nobody
        self.taken.append((name, text))
        self.seq += 1

    def both(self) -> bool:
        """Both say something; whether all of it was taken."""
        return all([self.line(), self.frame()])


def check_file(path: Path, taken: list[tuple[str, str]]) -> None:
    """The file has this and nothing else, numbered without a hole."""
    log = kept(path, ROOM)
    assert [(message.name, message.text) for message in log] == taken
    assert [message.seq for message in log] == list(range(1, len(taken) + 1))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
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
        attic = server.member("Zoe", "attic", history=5)  # it has history, and nobody has been there since the start
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
        server.says("messages are stored again")
        cellar.send("at last\n")
        assert attic.until(b"at last\n").endswith(b"Kim:at last\n")
        assert server.err.count("messages are stored again") == 1
        assert server.err.count("messages cannot be stored") == 1
    check_file(path, [("Tess", "line 1"), ("Jo", "frame 2"), *talk.taken])
    assert [message.text for message in kept(path, "attic")] == ["old times", "at last"]
    assert [message.text for message in kept(path, "cellar")] == []


@pytest.mark.parametrize("action", [Action.FAIL, Action.HALF_THEN_FAIL])
def test_a_failure_of_any_single_call_costs_at_most_what_was_said_at_that_moment(
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


def test_a_checkpoint_that_fails_costs_nobody_anything(path: Path, disk: FaultyDisk) -> None:
    """Only a checkpoint writes to the database itself; what it could not move is still in the write-ahead log."""
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
    """Kill the server as soon as the `after`-th call from here on has failed and somebody was told."""
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
    assert log[len(talk.taken) :] == [("Late", "I am new")]  # what was refused is not there after all


@pytest.mark.parametrize("after", range(4))
def test_a_server_killed_right_after_a_failure_has_lost_nothing(path: Path, disk: FaultyDisk, after: int) -> None:
    killed_after_a_failure(path, disk, Action.FAIL, after)


def test_what_is_refused_while_the_disk_confirms_nothing_does_not_come_back(path: Path, disk: FaultyDisk) -> None:
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


def test_what_cannot_be_read_is_refused_and_nothing_else(path: Path, disk: FaultyDisk) -> None:
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


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of this size; it yields what gives it another one. Skips the test where that is not allowed."""
    folder.mkdir()

    def mount(options: str) -> subprocess.CompletedProcess[bytes]:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
        return subprocess.run(command, capture_output=True)

    if shutil.which("mount") is None or mount(f"size={size}").returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield lambda options: mount(f"remount,{options}").check_returncode()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_file_system_that_is_full_and_then_relieved(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "1m") as resize:
        path = tmp_path / "small" / "chat.db"
        with serving(path) as server:
            talk = Talk(server)
            while talk.line("x" * 8_000 + f" {next(talk.numbers)}"):
                pass
            resize("size=1200k")
            assert talk.both()
            while talk.line("x" * 8_000 + f" {next(talk.numbers)}"):
                pass
            new = server.member("Kim", "cellar", echo=True)
            new.send("/list\n")
            assert new.line() == "* in cellar (1): Kim"
            kill(server)
        with contextlib.suppress(OSError), (tmp_path / "small" / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(512))
        other = path.with_name("other.db")
        assert refusal("-store", other) == f"-store {str(other)!r}: database or disk is full"
        resize("size=8m")
        with serving(path) as server:
            assert frame(server.member("Late", ROOM, protocol="json"), "welcome")["seq"] == len(talk.taken)
        check_file(path, talk.taken)


def test_a_file_that_may_not_grow_is_refused_to_grow_and_nothing_else(path: Path) -> None:
    """As with a quota: the bound is the process's own, and is raised while it runs."""
    limit = pytest.importorskip("resource")
    if not hasattr(limit, "prlimit"):
        pytest.skip("this system cannot change another process's limits")
    most = 400 * 1024
    with serving(path, before=lambda: limit.setrlimit(limit.RLIMIT_FSIZE, (most, limit.RLIM_INFINITY))) as server:
        talk = Talk(server)
        while talk.line("x" * 8_000 + f" {next(talk.numbers)}"):
            pass
        talk.tess.send("/list\n")
        assert talk.tess.line() == "* in dev (3): Jo, Lea, Tess"
        limit.prlimit(server.process.pid, limit.RLIMIT_FSIZE, (limit.RLIM_INFINITY, limit.RLIM_INFINITY))
        assert talk.both()
        server.says("messages are stored again")
    check_file(path, talk.taken)


@pytest.mark.anyio
async def test_a_database_that_may_not_grow_refuses_and_heals(path: Path) -> None:
    """In one process: SQLite itself refuses, as with a quota."""
    broker = SQLiteBroker(path)
    async with ChatAPI(broker=broker) as chat, chat.join("bot", ROOM) as bot, chat.join("ear", ROOM) as ear:
        writer = broker._store._writer
        assert writer is not None
        first = await bot.post("first")
        [(pages,)] = writer.execute("PRAGMA page_count")
        writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(Refused, match="full") as refused:
            await bot.post("x" * 8_000)
        assert refused.value.code == "unavailable"
        await bot.rename("robot")
        await ear.whisper("robot", "psst")
        async with chat.join("new", "cellar") as new:
            assert new.room is not None
        writer.execute("PRAGMA max_page_count = 1000000")
        second = await bot.post("y" * 8_000)
        assert first is not None
        assert second is not None
        assert (first.seq, second.seq) == (1, 2)
        heard = [event async for event in until_seq(ear, 2)]
        assert [event.text[:5] for event in heard if isinstance(event, Message)] == ["first", "yyyyy"]
    assert [message.text[:5] for message in kept(path, ROOM)] == ["first", "yyyyy"]


async def until_seq(bot: Bot, seq: int) -> AsyncIterator[Event]:
    with anyio.fail_after(DEADLINE):
        async for event in bot:
            yield event
            if isinstance(event, Message) and event.seq == seq:
                return


# Starting wrongly: one line on standard error, exit code 2, no traceback


def refusal(*flags: str | Path) -> str:
    """What a server says that does not start."""
    with Program(sys.executable, SERVER, "-a", "127.0.0.1:0", *flags) as program:
        eventually(lambda: program.ended or program.out, "it neither serves nor ends")
        assert not program.out, "it serves"
        assert program.wait() == 2
        err = program.err
    assert err.count("\n") == 1, err
    assert err.startswith("chatserver: ")
    return err.removeprefix("chatserver: ").removesuffix("\n")


def filled(path: Path) -> list[tuple[str, str]]:
    """A file of a server that has ended; returns what is in it."""
    with serving(path) as server:
        talk = Talk(server)
        talk.both()
    return talk.taken


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal("-store", tmp_path).startswith(f"-store {str(tmp_path)!r}")
    assert list(tmp_path.iterdir()) == []
    assert not tmp_path.with_name(f"{tmp_path.name}-lock").exists()


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "chat.db"
    assert refusal("-store", path) == f"-store {str(path)!r}: there is no folder {str(path.parent)!r}"


@pytest.mark.parametrize(
    "content", [b"dear diary\n" * 1000, b"dear diary\n", bytes(8192)], ids=["text", "a line", "zeros"]
)
def test_a_file_that_is_no_database_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refusal("-store", path) == f"-store {str(path)!r}: this is not a SQLite database"
    assert path.read_bytes() == content


def test_another_programs_database_stays_as_it_is(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE birds (name)")
    before = path.read_bytes()
    said = f"-store {str(path)!r} is not a file of this chat server, but of another program"
    assert refusal("-store", path) == said
    assert path.read_bytes() == before


def test_a_damaged_header(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.write(b"SQLite formal 3")
    assert refusal("-store", path) == f"-store {str(path)!r}: this is not a SQLite database"


def test_a_damaged_first_page(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 400)
    assert refusal("-store", path) == f"-store {str(path)!r}: it is damaged; `chatserver check` tells more"


def test_a_newer_schema(path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    said = f"-store {str(path)!r} was written by a newer version of this program (its schema is 99, the newest known"
    assert refusal("-store", path).startswith(said)
    assert path.read_bytes() == before


@contextmanager
def unwritable(path: Path, tmp_path: Path, how: str) -> Iterator[None]:
    """A file that even root cannot write to; skips the test where that cannot be had."""
    if how == "immutable":
        on, off = ["chattr", "+i", path], ["chattr", "-i", path]
    else:
        on, off = ["mount", "--bind", "-o", "ro", tmp_path, tmp_path], ["umount", "-l", tmp_path]
    if shutil.which(str(on[0])) is None or subprocess.run(on, capture_output=True).returncode:
        pytest.skip(f"{on[0]} does not work here")
    try:
        if os.access(path, os.W_OK):
            pytest.skip(f"{on[0]} does not keep this user from writing")
        yield
    finally:
        subprocess.run(off, check=True)


@pytest.mark.parametrize("how", ["immutable", "a read-only file system"])
def test_a_file_that_cannot_be_written_to(path: Path, tmp_path: Path, how: str) -> None:
    taken = filled(path)
    path.with_name("chat.db-lock").unlink()
    with unwritable(path, tmp_path, how):
        said = refusal("-store", path)
        assert said.startswith(f"-store {str(path)!r}: ")
        assert any(word in said for word in ("written to", "read-only", "cannot be opened")), said
    check_file(path, taken)


def test_two_servers_on_one_file(path: Path) -> None:
    with serving(path) as first:
        talk = Talk(first)
        assert talk.both()
        assert refusal("-store", path) == f"-store {str(path)!r} is in use by another server"
        assert talk.both()
        beside = path.parent / "sub" / ".." / path.name  # the same file in other words
        beside.parent.parent.mkdir()
        assert refusal("-store", beside) == f"-store {str(beside)!r} is in use by another server"
        assert talk.both()
    check_file(path, talk.taken)
    with serving(path) as next_one:  # an ended server leaves no lock behind
        assert Talk(next_one).both()


def test_the_same_file_under_another_name_is_in_use_too(path: Path) -> None:
    with serving(path) as first:
        talk = Talk(first)
        link = path.with_name("link.db")
        link.symlink_to(path)
        assert refusal("-store", link) == f"-store {str(link)!r} is in use by another server"
        assert talk.both()


def test_a_file_left_by_a_killed_server_opens_at_once(path: Path) -> None:
    with serving(path) as server:
        talk = Talk(server)
        assert all(talk.both() for _ in range(20))
        kill(server)
    assert path.with_name("chat.db-wal").stat().st_size > 0
    with serving(path) as server:
        assert Talk(server).welcome["seq"] == 40
    check_file(path, talk.taken)


@pytest.mark.parametrize("how", ["deleted", "moved away", "replaced"])
def test_a_file_that_is_gone_while_the_server_runs(path: Path, how: str) -> None:
    with serving(path) as server:
        talk = Talk(server)
        assert talk.both()
        if how == "deleted":
            path.unlink()
        else:
            path.rename(path.with_name("elsewhere.db"))
        if how == "replaced":
            filled(path.with_name("other.db"))
            path.with_name("other.db").rename(path)
        why = "was replaced by another file" if how == "replaced" else "was moved or deleted"
        talk.tess.until(b"frame 2\n")
        talk.tess.send("too late\n")
        said = f"* unavailable: your line was not kept: the server's file {why} while it is open"
        assert talk.tess.line() == said
        assert not talk.frame()
        talk.tess.send("/list\n")
        assert talk.tess.line() == "* in dev (3): Jo, Lea, Tess"
        if how == "moved away":
            path.with_name("elsewhere.db").rename(path)
            assert talk.both()
    if how == "moved away":
        check_file(path, talk.taken)


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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-store", ""], "-store '': it needs the name of a file"),
        (["-store", "x.db", "-store-sync", "nonsense"], "-store-sync 'nonsense': it must be full or normal"),
        (["-keep-days", "3"], "-keep-days needs -store"),
        (["-keep-messages", "3"], "-keep-messages needs -store"),
        (["-keep-bytes", "3"], "-keep-bytes needs -store"),
        (["-store-sync", "full"], "-store-sync needs -store"),
        (["-store", "x.db", "-keep-days", "-1"], "-keep-days '-1': input should be greater than or equal to 0"),
    ],
)
def test_flags_that_make_no_sense(tmp_path: Path, flags: list[str], said: str) -> None:
    code, out, err = run(sys.executable, ROOT / SERVER, *flags, cwd=tmp_path)
    assert (code, out, err) == (2, "", f"chatserver: {said}\n")
    assert list(tmp_path.iterdir()) == []


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


# Migration


def test_a_file_of_the_first_version_goes_on_in_the_next_one(path: Path) -> None:
    taken = filled(path)
    migrations = [*MIGRATIONS, "ALTER TABLE rooms ADD COLUMN topic TEXT;\nCREATE TABLE pins (seq INTEGER)"]
    new = Store(path, migrations=migrations)
    new.open()
    try:
        assert new.reader.execute("PRAGMA user_version").fetchone() == (len(migrations),)
        assert new.reader.execute("SELECT topic FROM rooms").fetchall() == [(None,)]
        assert new.reader.execute("SELECT count(*) FROM pins").fetchone() == (0,)
        past = new.past(ROOM, 10, 100_000)
        assert past is not None
        assert [event.text for entry in past.tail for event in entry.events() if isinstance(event, Message)] == [
            text for _, text in taken
        ]
        assert past.seq == len(taken)
        assert list(new.faults()) == []
    finally:
        new.close()
    with pytest.raises(StoreError, match=r"newer version .*its schema is 3, the newest known here 2"):
        Store(path).open()
    said = f"-store {str(path)!r} was written by a newer version of this program"
    assert refusal("-store", path).startswith(said)
    check_file(path.with_name("chat.db-v2"), taken)
    with serving(path.with_name("chat.db-v2")) as old:  # the way back
        assert Talk(old).welcome["seq"] == len(taken)


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    taken = filled(path)
    with pytest.raises(StoreError):
        Store(path, migrations=[*MIGRATIONS, "CREATE TABLE pins (seq INTEGER);\nALTER TABLE nothing ADD x"]).open()
    check_file(path, taken)
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
        assert file.execute("SELECT name FROM sqlite_master WHERE name = 'pins'").fetchone() is None
    assert filled(path.with_name("fresh.db")) == taken  # and a new file is none the worse for it
    with serving(path) as server:
        assert Talk(server).both()


MIGRATE = """
import sys
from chatapi.brokers.sqlite.database import MIGRATIONS
from chatapi.brokers.sqlite.store import Store
store = Store(sys.argv[1], migrations=[*MIGRATIONS, "ALTER TABLE rooms ADD COLUMN topic TEXT"])
store.open()
store.close()
"""


def migrate(path: Path, disk: FaultyDisk) -> int:
    """Open a file with a store that knows one version more; returns the exit code."""
    return subprocess.run(
        [sys.executable, "-c", MIGRATE, path], cwd=ROOT, env=disk.environment, stderr=subprocess.DEVNULL
    ).returncode


def test_a_migration_killed_in_the_middle_is_done_the_next_time(path: Path, disk: FaultyDisk) -> None:
    taken = filled(path)
    disk.count()
    assert migrate(path, disk) == 0
    calls = disk.calls
    assert calls > 4
    for after in range(0, calls, 7):
        restore_first_version(path)
        disk.fail(Action.DIE_BEFORE, after=after, times=1)
        assert migrate(path, disk) == -signal.SIGKILL
        disk.heal()
        assert migrate(path, disk) == 0
        check_file(path.with_name("chat.db-v2"), taken)
        with contextlib.closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (3,)
            assert file.execute("SELECT count(topic), count(*) FROM rooms").fetchone() == (0, 1)
            assert file.execute("SELECT sum(count) FROM log").fetchone() == (len(taken),)


def restore_first_version(path: Path) -> None:
    """Put the copy that the migration has kept back into its place."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.with_name(path.name + "-v2").replace(path)


@pytest.mark.parametrize("action", [Action.FAIL, Action.DIE_AFTER])
def test_a_copy_that_could_not_be_finished_is_made_again(path: Path, shim: Path, action: Action) -> None:
    """Or the way back would be half a file, and nobody would know."""
    taken = filled(path)
    copy = path.with_name("chat.db-v2")
    for after in (0, 3):
        for name in ("chat.db-v2", "chat.db-v2-part"):  # whatever it is called until it is whole
            disk = FaultyDisk(path.with_name(name), shim)
            disk.fail(action, after=after, times=1)
            migrate(path, disk)
            disk.heal()
            if disk.hits:
                break
            restore_first_version(path)
        else:
            raise AssertionError("no copy was made")
        assert migrate(path, disk) == 0
        check_file(copy, taken)
        restore_first_version(path)
