"""The brokers that come with the project keep the contract of `chatapi.testing`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from broker_suites import (
    InProcessSuite,
    JournalSuite,
    LateOpeningSuite,
    LateSuite,
    SQLiteSuite,
)

from chatapi.brokers.sqlite import SQLiteBroker
from chatapi.testing import ChatKit, LateBroker

pytestmark = pytest.mark.anyio


class TestInProcess(InProcessSuite):
    pass


class TestLate(LateSuite):
    pass


class TestLateOpening(LateOpeningSuite):
    pass


class TestSQLite(SQLiteSuite):
    pass


class TestJournal(JournalSuite):  # type: ignore[misc, valid-type]
    """The example of the page about backends."""


# The test kit over a late broker


def late_kit(**options: Any) -> tuple[ChatKit, LateBroker]:
    kit = ChatKit(broker=LateBroker, **options)
    assert isinstance(kit.broker, LateBroker)
    return kit, kit.broker


@pytest.mark.parametrize("how", ["/join lab\n", "/bye\n", "end"])
def test_a_member_that_leaves_before_its_line_is_kept_still_gets_its_echo(how: str) -> None:
    kit, broker = late_kit()
    mina = kit.member("Mina", echo=True)
    broker.release()
    mina.send("hello\n")
    mina.end() if how == "end" else mina.send(how)
    assert mina.received() == ""
    broker.release()
    lines = mina.lines()
    assert lines[0] == "Mina:hello"
    assert (mina.transport.ended, lines[1:]) == {
        "/join lab\n": (False, ["* you are now in lab (1): Mina"]),
        "/bye\n": (True, ["* goodbye"]),
        "end": (True, []),
    }[how]


async def test_a_kit_waits_for_a_broker_that_takes_its_time(tmp_path: Path) -> None:
    kit = ChatKit(broker=lambda clock: SQLiteBroker(tmp_path / "chat.db", clock=clock))
    async with kit.running():
        mina, zoe = kit.member("Mina"), kit.member("Zoe")
        mina.send("hello\n/join lab\nthere\n")
        assert zoe.received() == "", "nothing is open yet"
        await kit.settled()
        assert zoe.received() == "Mina:hello\n"
        room = kit.hub.room("lab")
        assert room is not None
        assert [said.text for said in room.history(9)] == ["there"]
