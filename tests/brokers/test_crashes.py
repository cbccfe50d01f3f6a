"""A server with a file is killed: acknowledged messages are kept once, in one order, for all members that stayed.

Every delay here is part of the schedule of faults, drawn from a seeded generator; nothing is waited for by sleeping.
"""

from __future__ import annotations

import errno
import random
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from executables import SERVER, Program, Server
from faults import Action, FaultyDisk, File, Kind
from witnesses import Witness, check, history, kept, until

import chatapi
from chatapi import Address, Message
from chatapi.addresses import parse_address
from chatapi.client import protocol as client_protocol
from chatapi.testing import Proxy

pytestmark = pytest.mark.anyio

ROOMS = ("harbour", "market")


def free_port() -> int:
    """Return a port without a listener, outside the range from which clients get theirs: one could reach itself."""
    for port in random.Random(sys.argv[0] + str(time.monotonic())).sample(range(15_000, 32_000), 100):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class Mortal:
    """A durable server that is killed and started again, on the same port and file."""

    def __init__(self, path: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.deaths = 0
        self._argv = ("-store", str(path), "-rate", "0", "-log-level", "warning", *flags)
        self._env = env
        self._server: Server | None = None

    async def start(self) -> None:
        """Have it serve."""
        start = lambda: Server(*self._argv, address=self.address, env=self._env)  # noqa: E731
        self._server = await anyio.to_thread.run_sync(start)

    async def start_and_kill(self, seconds: float) -> None:
        """Have it begin to start, and kill it in the middle of that, or as soon as it serves."""
        with Program(sys.executable, SERVER, "-a", self.address, *self._argv, env=self._env) as program:
            await anyio.sleep(seconds)
            program.process.kill()
            await anyio.to_thread.run_sync(program.process.wait)
            program.check()
        self.deaths += 1

    def kill(self) -> None:
        """Kill it."""
        assert self._server is not None
        self._server.process.kill()

    async def died(self) -> None:
        """Wait until it is dead, by a signal that it cannot catch and nothing else."""
        assert self._server is not None
        server, self._server = self._server, None
        with server:
            assert await anyio.to_thread.run_sync(server.wait) == -signal.SIGKILL
        self.deaths += 1

    def stop(self) -> None:
        """Have it end in good order, if it lives."""
        if self._server is not None:
            server, self._server = self._server, None
            with server:
                pass


@pytest.fixture
def duplicates(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that the server has acknowledged as kept before."""
    found: list[str] = []

    def ack(self: Any, frame: dict[str, Any]) -> None:
        if frame.get("duplicate"):
            found.append(frame["id"])
        client_protocol.ClientProtocol._on_ack(self, frame)

    monkeypatch.setitem(client_protocol._HANDLERS, "ack", ack)
    return found


async def survive(path: Path, kills: int, *flags: str, seed: int) -> dict[str, int]:
    """Kill a server so often while six members talk in two rooms; check the outcome and return its figures."""
    schedule = random.Random(seed)
    mortal = Mortal(path, *flags)
    witnesses = [Witness(f"{room}{i}", room) for room in ROOMS for i in range(3)]
    await mortal.start()
    try:
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            for witness in witnesses:
                await witness.come(mortal.address, tasks, stack)
            for witness in witnesses:
                witness.talk()
            for kill in range(kills):
                if kill == 0 or schedule.random() < 0.5:  # the other half dies whatever it is doing
                    await all_go_on(witnesses)
                await anyio.sleep(schedule.uniform(0.02, 0.3))
                mortal.kill()
                await mortal.died()
                if schedule.random() < 0.1:
                    await mortal.start_and_kill(schedule.uniform(0.02, 0.5))
                await mortal.start()
            await all_go_on(witnesses)
            for witness in witnesses:
                await witness.stop()
            logs = {room: await history(mortal.address, room) for room in ROOMS}
            for witness in witnesses:
                await witness.has(len(logs[witness.room]))
    finally:
        mortal.stop()
    total = {"kills": mortal.deaths, "resumed": sum(witness.recoveries for witness in witnesses)}
    for room in ROOMS:
        assert kept(path, room) == logs[room]
        for what, number in check([witness for witness in witnesses if witness.room == room], logs[room]).items():
            total[what] = total.get(what, 0) + number
    assert total["resumed"] >= len(witnesses)
    return total


async def all_go_on(witnesses: list[Witness]) -> None:
    """Wait until every member has said one thing more."""
    before = {witness: len(witness.acknowledged) for witness in witnesses}
    await until(
        lambda: all(len(witness.acknowledged) > count for witness, count in before.items()),
        lambda: f"not everybody goes on: {[(w.name, len(w.acknowledged) - c) for w, c in before.items()]}",
    )


@pytest.mark.slow
async def test_nothing_is_lost_or_doubled_when_the_server_is_killed_under_load(tmp_path: Path) -> None:
    total = await survive(tmp_path / "chat.db", 5, seed=1)
    assert total["kills"] >= 5


@pytest.mark.slow
async def test_the_same_without_waiting_for_the_disk(tmp_path: Path) -> None:
    await survive(tmp_path / "chat.db", 2, "-store-sync", "normal", seed=2)


@pytest.mark.long
@pytest.mark.parametrize("sync", ["full", "normal"])
async def test_a_hundred_kills(
    tmp_path: Path, anyio_backend_name: str, sync: str, duplicates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    total = await survive(tmp_path / "chat.db", 100, "-store-sync", sync, seed=3)
    total["acknowledged as duplicates"] = len(duplicates)
    with capsys.disabled():
        print(f"\n{anyio_backend_name}, {sync}:", ", ".join(f"{n:,} {what}" for what, n in total.items()))  # noqa: T201
    assert total["kills"] >= 100


async def dies_on_the_way(path: Path, disk: FaultyDisk, action: Action, after: int = 0, **which: Any) -> list[Message]:
    """Have the server die at a call of its disk while three members talk; return the messages kept at its death."""
    mortal = Mortal(path, env=disk.environment)
    witnesses = [Witness(name, "dev") for name in ("Al", "Bo", "Cy")]
    await mortal.start()
    try:
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            for witness in witnesses:
                await witness.come(mortal.address, tasks, stack)
            await witnesses[0].say("Al 0")
            disk.fail(action, after=after, times=1, **which)
            for witness in witnesses:
                witness.talk()
            await mortal.died()
            disk.heal()
            found = kept(path, "dev")
            await mortal.start()
            await all_go_on(witnesses)
            for witness in witnesses:
                await witness.stop()
            log = await history(mortal.address, "dev")
            for witness in witnesses:
                await witness.has(len(log))
    finally:
        mortal.stop()
    check(witnesses, log)
    assert kept(path, "dev") == log
    assert log[: len(found)] == found
    return found


@pytest.mark.slow
async def test_a_commit_whose_acknowledgement_never_left(tmp_path: Path, disk: FaultyDisk) -> None:
    """The server dies right after its disk has confirmed, before anybody hears of it: asked again, nothing doubles."""
    found = await dies_on_the_way(tmp_path / "chat.db", disk, Action.DIE_AFTER, files=File.WAL, kinds=Kind.SYNC)
    assert len(found) > 1  # a message was on disk, and no member had been told


@pytest.mark.slow
async def test_a_commit_that_was_half_written(tmp_path: Path, disk: FaultyDisk) -> None:
    found = await dies_on_the_way(tmp_path / "chat.db", disk, Action.DIE_HALFWAY, 4, files=File.WAL, kinds=Kind.WRITE)
    assert [message.text for message in found][:1] == ["Al 0"]


@pytest.mark.long
@pytest.mark.parametrize("action", [Action.DIE_BEFORE, Action.DIE_HALFWAY, Action.DIE_AFTER])
@pytest.mark.parametrize("after", range(20))
async def test_death_at_any_call(tmp_path: Path, disk: FaultyDisk, action: Action, after: int) -> None:
    await dies_on_the_way(tmp_path / "chat.db", disk, action, after)


@pytest.mark.long
@pytest.mark.parametrize("action", [Action.DIE_BEFORE, Action.DIE_HALFWAY, Action.DIE_AFTER])
@pytest.mark.parametrize(("kinds", "after"), [(Kind.WRITE, 0), (Kind.WRITE, 1), (Kind.WRITE, 7), (Kind.SYNC, 0)])
async def test_death_in_a_checkpoint(tmp_path: Path, disk: FaultyDisk, action: Action, kinds: Kind, after: int) -> None:
    """Nothing else writes to the database itself."""
    await dies_on_the_way(tmp_path / "chat.db", disk, action, after, files=File.DATABASE, kinds=kinds)


async def test_death_while_the_file_is_opened(tmp_path: Path, disk: FaultyDisk) -> None:
    await dies_while_opening(tmp_path / "chat.db", disk, 20)


@pytest.mark.long
@pytest.mark.parametrize("after", range(35))
async def test_death_at_any_call_of_opening(tmp_path: Path, disk: FaultyDisk, after: int) -> None:
    await dies_while_opening(tmp_path / "chat.db", disk, after)


async def dies_while_opening(path: Path, disk: FaultyDisk, after: int) -> None:
    """Have a server die at a call while it makes a file, or opens it; the next one finds nothing wrong with it."""
    disk.fail(Action.DIE_AFTER, after=after, times=1)
    with Program(sys.executable, SERVER, "-a", "127.0.0.1:0", "-store", path, env=disk.environment) as program:
        await until(lambda: program.ended or program.out, lambda: "it neither serves nor dies")
        program.process.kill()  # it may have opened the file in fewer calls
        assert await anyio.to_thread.run_sync(program.wait) == -signal.SIGKILL
    disk.heal()
    mortal = Mortal(path)
    await mortal.start()
    try:
        async with chatapi.connect(mortal.address, name="Al", room="dev") as member:
            assert (await member.send("first")).seq == 1
    finally:
        mortal.stop()
    assert [message.text for message in kept(path, "dev")] == ["first"]


@pytest.mark.slow
async def test_a_member_outlasts_a_disk_that_cannot_be_read_for_a_while(tmp_path: Path, disk: FaultyDisk) -> None:
    """Its room cannot be loaded after a restart: it tries again, and goes on when it can be."""
    mortal = Mortal(tmp_path / "chat.db", env=disk.environment)
    await mortal.start()
    try:
        where = parse_address(mortal.address)
        proxy = Proxy(where)
        async with proxy.open(), anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            al, bo = Witness("Al", "dev"), Witness("Bo", "dev")
            await al.come(str(proxy.address), tasks, stack)
            await bo.come(str(proxy.address), tasks, stack)
            for i in range(50):
                await bo.say(f"Bo {i} " + "x" * 8_000)  # more than SQLite has in its cache
            await al.has(50)
            mortal.kill()
            await mortal.died()
            proxy.target = Address("127.0.0.1", free_port())  # no member reconnects before the disk fails
            await mortal.start()
            disk.fail(files=File.DATABASE | File.WAL, kinds=Kind.READ, error=errno.EIO)
            proxy.target = where
            await until(lambda: disk.hits > 3, lambda: f"{disk.hits} reads have failed")
            disk.heal()
            await al.say("Al 0")
            await bo.has(51)
            assert al.gaps == bo.gaps == []
    finally:
        mortal.stop()
