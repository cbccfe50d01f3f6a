"""A server whose file may not grow, for now: file systems, quotas and databases that are full, and relieved."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from executables import DEADLINE
from store_talk import ROOM, Talk, check_file, frame, kill, refusal, serving
from witnesses import kept

from chatapi import Bot, ChatAPI, Event, Message, Refused
from chatapi.brokers.sqlite.broker import SQLiteBroker


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a file system of this size; yield a function that resizes it. Skip the test if mounting is not allowed."""
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


@pytest.mark.slow
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
        assert refusal(other) == f"{str(other)!r}: database or disk is full"
        resize("size=8m")
        with serving(path) as server:
            assert frame(server.member("Late", ROOM, protocol="json"), "welcome")["seq"] == len(talk.taken)
        check_file(path, talk.taken)


@pytest.mark.slow
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
        server.says("messages can be stored again")
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
