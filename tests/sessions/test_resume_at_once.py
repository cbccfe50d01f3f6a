"""Several connections that come back with the key of one session at the same time, after a restart on a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from speakers import Speaker

from chatapi import Limits
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.testing import ChatKit

pytestmark = pytest.mark.anyio


def kit(path: Path) -> ChatKit:
    """A life of the server that loads but two messages of a room: who resumes from further back waits for the disk."""
    broker = SQLiteBroker
    return ChatKit(Limits(history=2, rate=0), broker=lambda clock: broker(path, clock=clock), keys="k" * 20)


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1), ()])
async def test_the_connection_that_comes_in_has_the_session(tmp_path: Path, gone: tuple[int, ...]) -> None:
    before = kit(tmp_path / "c.db")
    async with before.running():
        mina = Speaker(before)
        await before.settled()
        mina.frames()
        for i in range(5):
            mina.send("message", text=f"{i}", id=f"{i}")
        await before.settled()
        first = mina.frames()[0]
    after = kit(tmp_path / "c.db")
    async with after.running():
        some = [Speaker(after, resume=mina.resume(first["seq"], first["ts"])) for _ in range(3)]
        after.settle()
        for i in gone:
            some[i].peer.connection.abort("connection_lost")
        await after.settled()
        last = some[-1]
        frames = last.frames()
        assert last.session == mina.session
        assert last.welcome["recovered"] is True
        assert [frame["type"] for frame in frames] == ["welcome", "ack", "ack", "ack", "ack"]
        last.send("message", text="1", id="1")
        await after.settled()
        assert last.frame()["duplicate"] is True
        assert not after.hub.sessions._before
