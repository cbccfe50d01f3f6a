"""The contract suite over each broker that comes with the project, for tests of the brokers and of the suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.sqlite import Keep, SQLiteBroker
from chatapi.core.broker import Broker, Past, unavailable
from chatapi.core.entries import AnyEntry
from chatapi.pending import Pending
from chatapi.testing import BrokerContract, LateBroker, VirtualClock


class InProcessSuite(BrokerContract):
    def broker(self, clock: VirtualClock) -> InProcessBroker:
        return InProcessBroker(clock)


class Released(LateBroker):
    """A late broker whose answers come one by one, each in a turn of the event loop of its own."""

    _asked: anyio.Event
    _runs = False

    async def run(self, started: Callable[[], None]) -> None:
        self._asked = anyio.Event()
        self._runs = True
        started()
        try:
            while True:
                await self._asked.wait()
                self._asked = anyio.Event()
                while self.release(1):
                    await anyio.lowlevel.checkpoint()
        finally:
            self._runs = False
            while self.release():
                pass

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        super().submit(room, entries)
        self._tell()

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        opened = super().open(room, name, epoch, messages, max_bytes)
        self._tell()
        return opened

    def _tell(self) -> None:
        if self._runs:
            self._asked.set()
        else:
            self.release()


class LateSuite(BrokerContract):
    opens_late = False

    def broker(self, clock: VirtualClock) -> LateBroker:
        return Released(clock, opens_late=self.opens_late)

    async def fail(self, broker: Broker) -> None:
        assert isinstance(broker, LateBroker)
        broker.failing = unavailable("the disk is full")

    async def heal(self, broker: Broker) -> None:
        assert isinstance(broker, LateBroker)
        broker.failing = None


class LateOpeningSuite(LateSuite):
    opens_late = True


class SQLiteSuite(BrokerContract):
    keeps = True
    forgets_after = 24 * 3600

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "chat.db"

    def broker(self, clock: VirtualClock) -> SQLiteBroker:
        return SQLiteBroker(self.path, clock=clock, keep=Keep(days=1))

    async def fail(self, broker: Broker) -> None:
        self.path.rename(self.path.with_name("elsewhere"))

    async def heal(self, broker: Broker) -> None:
        self.path.with_name("elsewhere").rename(self.path)

    async def forget(self, broker: Broker) -> None:
        assert isinstance(broker, SQLiteBroker)
        await broker.trim()


def _page() -> dict[str, Any]:
    """The first program of docs/how-to/backends.md, as a module."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "backends.md"
    source = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "journal"}
    exec(compile(source, page, "exec"), names)
    return names


PAGE = _page()


JournalSuite: type[BrokerContract] = PAGE["TestJournal"]


def suite_of(kind: type[Broker], path: Path) -> BrokerContract:
    """The suite, over brokers of one kind."""
    makers: dict[type[Any], tuple[type[BrokerContract], Callable[[VirtualClock], Any]]] = {
        InProcessBroker: (InProcessSuite, kind),
        LateBroker: (LateSuite, kind),
        SQLiteBroker: (SQLiteSuite, lambda clock: kind(path, clock=clock, keep=Keep(days=1))),  # type: ignore[call-arg]
        PAGE["Journal"]: (JournalSuite, lambda clock: kind(path, clock)),  # type: ignore[call-arg]
    }
    base, make = [maker for known, maker in makers.items() if issubclass(kind, known)][-1]  # the closest one
    suite = type(kind.__name__, (base,), {"broker": lambda self, clock: make(clock), "path": path})()
    assert isinstance(suite, BrokerContract)
    return suite
