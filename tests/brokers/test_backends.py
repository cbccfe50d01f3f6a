"""The brokers that come with the project keep the contract of `chatapi.testing`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import ASYNCIO, EVERY_LOOP

from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.sqlite import Keep, SQLiteBroker, store
from chatapi.core.broker import Broker, Past, Rooms, Sent, unavailable
from chatapi.core.entries import AnyEntry, AnyKept, Deletion, KeptEntry
from chatapi.errors import StoreError
from chatapi.pending import Pending
from chatapi.testing import BrokerContract, ChatKit, LateBroker, Recorder, VirtualClock
from chatapi.testing.contract import recorder
from chatapi.testing.contract.recorder import arrived, departed, message, told

pytestmark = pytest.mark.anyio


class TestInProcess(BrokerContract):
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


class TestLate(BrokerContract):
    opens_late = False

    def broker(self, clock: VirtualClock) -> LateBroker:
        return Released(clock, opens_late=self.opens_late)

    async def fail(self, broker: Broker) -> None:
        assert isinstance(broker, LateBroker)
        broker.failing = unavailable("the disk is full")

    async def heal(self, broker: Broker) -> None:
        assert isinstance(broker, LateBroker)
        broker.failing = None


class TestLateOpening(TestLate):
    opens_late = True


class TestSQLite(BrokerContract):
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


class TestJournal(PAGE["TestJournal"]):  # type: ignore[misc, valid-type]
    """The example of the page about backends."""


# The suite finds faulty brokers


class SkipsANumber(InProcessBroker):
    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        self._logs[room].seq += 1
        super().submit(room, entries)


class DeliversTwice(InProcessBroker):
    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        super().submit(room, entries)
        assert self._rooms is not None
        self._rooms.deliver(room, entries[-1:])


class TurnsRoundWhatComesTogether(InProcessBroker):
    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        super().submit(room, entries[::-1])


class StandsStill(InProcessBroker):
    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        self._logs[room].ts = 0
        super().submit(room, entries)


class LetsPresenceOvertake(Released):
    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        super().submit(room, [entry for entry in entries if isinstance(entry, KeptEntry)])
        assert self._rooms is not None
        for entry in entries:
            if not isinstance(entry, KeptEntry):
                self._logs[room].stamp(entry)
                self._rooms.deliver(room, [entry])


class NumbersTooEarly(Released):
    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        super().submit(room, entries)
        for entry in entries:
            if isinstance(entry, KeptEntry):
                entry.seq = self._logs[room].seq + 1


class LosesPresenceWhileItFails(Released):
    def _settle(self, room: str, entry: AnyEntry) -> None:
        if self.failing is None or isinstance(entry, KeptEntry):
            super()._settle(room, entry)


class LeavesAHole(Released):
    def _settle(self, room: str, entry: AnyEntry) -> None:
        super()._settle(room, entry)
        if self.failing is not None and isinstance(entry, KeptEntry):
            self._logs[room].seq += entry.count


class CallsFromAThread(Released):
    async def run(self, started: Callable[[], None]) -> None:
        self._asked = anyio.Event()
        self._runs = True
        started()
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            await anyio.to_thread.run_sync(self.release)


class EndsTooSoon(Released):
    def release(self, most: int | None = None) -> int:
        return super().release(most) if self._runs else 0


class LosesTheOldestOfAPage(SQLiteBroker):
    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        return super().read(room, before, messages, max_bytes).map(lambda page: page[1:])


class _Opens(SQLiteBroker):
    def _of(self, past: Past) -> Past:
        raise NotImplementedError

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        return super().open(room, name, epoch, messages, max_bytes).map(self._of)


class LosesTheNewestOnOpening(_Opens):
    def _of(self, past: Past) -> Past:
        return past._replace(tail=past.tail[:-1])


class BeginsAnewWhereAllIsForgotten(_Opens):
    def _of(self, past: Past) -> Past:
        if not past.tail:
            self._logs["dev"].seq = 0
            return past._replace(seq=0, ts=0, first=1)
        return past


class TakesAnotherEpoch(SQLiteBroker):
    lives = 0

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        return super().open(room, name, epoch, messages, max_bytes).map(lambda past: past._replace(epoch=epoch))


class KnowsNoIds(SQLiteBroker):
    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        return Pending.resolved({})


class DoesNotTellWhatIsForgotten(SQLiteBroker):
    def attach(self, rooms: Rooms) -> None:
        super().attach(rooms)
        rooms.trimmed = lambda room, first: None  # type: ignore[method-assign]


WRONG: list[tuple[type[Broker], str]] = [
    (SkipsANumber, "entries_are_delivered_once_and_in_order"),
    (SkipsANumber, "a_position_that_never_existed_is_refused"),
    (DeliversTwice, "entries_are_delivered_once_and_in_order"),
    (TurnsRoundWhatComesTogether, "entries_are_delivered_once_and_in_order"),
    (StandsStill, "times_grow_though_the_clock_stands_still"),
    (StandsStill, "times_grow_though_the_clock_goes_back"),
    (LetsPresenceOvertake, "presence_has_a_position_and_no_number"),
    (NumbersTooEarly, "much_is_delivered_in_order"),
    (LosesPresenceWhileItFails, "while_it_fails_messages_are_refused_and_presence_goes_on"),
    (LosesPresenceWhileItFails, "while_it_fails_senders_are_told_and_everything_else_goes_on"),
    (LeavesAHole, "refused_messages_leave_no_hole"),
    (CallsFromAThread, "presence_alone_is_delivered"),
    (EndsTooSoon, "entries_on_their_way_at_the_end_are_settled"),
    (EndsTooSoon, "entries_submitted_during_the_end_are_settled"),
    (EndsTooSoon, "entries_after_the_end_are_settled"),
    (LosesTheOldestOfAPage, "every_page_can_be_read"),
    (LosesTheOldestOfAPage, "history_is_paged_through"),
    (LosesTheOldestOfAPage, "resume_at_every_position_after_a_restart"),
    (LosesTheNewestOnOpening, "a_room_is_opened_with_its_newest_messages"),
    (BeginsAnewWhereAllIsForgotten, "numbers_go_on_if_all_messages_are_forgotten"),
    (TakesAnotherEpoch, "rooms_go_on_after_a_restart"),
    (TakesAnotherEpoch, "resume_at_every_position_after_a_restart"),
    (KnowsNoIds, "messages_of_a_session_are_found_by_id"),
    (KnowsNoIds, "an_id_is_known_after_a_restart"),
    (DoesNotTellWhatIsForgotten, "old_messages_are_forgotten"),
    (DoesNotTellWhatIsForgotten, "a_position_that_was_forgotten_is_refused"),
]


def suite_of(kind: type[Broker], path: Path) -> BrokerContract:
    """The suite, over brokers of one kind."""
    makers: dict[type[Any], tuple[type[BrokerContract], Callable[[VirtualClock], Any]]] = {
        InProcessBroker: (TestInProcess, kind),
        LateBroker: (TestLate, kind),
        SQLiteBroker: (TestSQLite, lambda clock: kind(path, clock=clock, keep=Keep(days=1))),  # type: ignore[call-arg]
        PAGE["Journal"]: (TestJournal, lambda clock: kind(path, clock)),  # type: ignore[call-arg]
    }
    base, make = [maker for known, maker in makers.items() if issubclass(kind, known)][-1]  # the closest one
    suite = type(kind.__name__, (base,), {"broker": lambda self, clock: make(clock), "path": path})()
    assert isinstance(suite, BrokerContract)
    return suite


@pytest.mark.parametrize(("kind", "test"), WRONG, ids=lambda value: value if isinstance(value, str) else value.__name__)
async def test_the_suite_finds_a_broker_that(
    kind: type[Broker], test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PATIENCE", 0.1)  # these brokers never deliver: a longer wait finds no more
    with pytest.raises(AssertionError):
        await getattr(suite_of(kind, tmp_path / "chat.db"), f"test_{test}")()


@pytest.mark.parametrize("test", ["a_deletion_empties_the_text_and_keeps_the_number"])
async def test_the_suite_finds_that_nothing_is_deleted(
    test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_erase", lambda *_: None)
    with pytest.raises(AssertionError, match="in which messages were deleted"):
        await getattr(suite_of(SQLiteBroker, tmp_path / "chat.db"), f"test_{test}")()


async def test_the_suite_finds_that_refused_messages_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_of(SQLiteBroker, tmp_path / "chat.db")
    append = store.Store.append
    failing: list[bool] = []

    def append_and_fail(self: store.Store, batch: Sequence[store.Append]) -> None:
        append(self, batch)
        if failing:
            raise StoreError("it is in the file all the same")

    async def fail(broker: Broker) -> None:
        failing.append(True)

    async def heal(broker: Broker) -> None:
        failing.clear()

    monkeypatch.setattr(store.Store, "append", append_and_fail)
    monkeypatch.setattr(suite, "fail", fail)
    monkeypatch.setattr(suite, "heal", heal)
    with pytest.raises((AssertionError, ValueError)):
        await suite.test_refused_messages_leave_no_hole()


# A suite has the tests that match its claims


class Unclaimed(BrokerContract):
    pass


class Claimed(Unclaimed):
    keeps = shares = True
    forgets_after = 1

    async def fail(self, broker: Broker) -> None:
        pass

    async def cut_off(self, broker: Broker) -> None:
        pass


class WithAClockOfItsOwn(Claimed):
    own_clock = True


class WithTestsOfItsOwn(Unclaimed):
    async def test_old_messages_are_forgotten(self) -> None:
        pass

    test_a_new_room_is_empty = None  # type: ignore[assignment]


def names_of_tests(suite: type[BrokerContract]) -> set[str]:
    return {name for name in dir(suite) if name.startswith("test_") and callable(getattr(suite, name))}


def test_a_suite_has_the_tests_that_match_its_claims() -> None:
    every = {name for name in dir(BrokerContract) if name.startswith("test_")}
    alone = {"test_presence_has_a_position_and_no_number", "test_presence_alone_is_delivered"}
    turning = {
        "test_times_grow_though_the_clock_stands_still",
        "test_times_grow_though_the_clock_goes_back",
        "test_ids_are_known_for_the_time_of_the_limit",
    }
    assert names_of_tests(Claimed) == every - alone
    assert names_of_tests(WithAClockOfItsOwn) == every - alone - turning
    assert alone < names_of_tests(Unclaimed)
    for claimed in ("read_back", "restart", "forgotten", "node", "other_chat", "fails", "refused_messages"):
        assert [name for name in names_of_tests(Unclaimed) if claimed in name] == [], claimed
    own = {"test_old_messages_are_forgotten"}
    assert names_of_tests(WithTestsOfItsOwn) == names_of_tests(Unclaimed) - {"test_a_new_room_is_empty"} | own


@pytest.mark.parametrize("claim", ["keeps", "shares", "own_clock"])
@pytest.mark.parametrize("kind", [InProcessBroker, SQLiteBroker])
async def test_a_wrong_claim_is_found(kind: type[Broker], claim: str, tmp_path: Path) -> None:
    suite = suite_of(kind, tmp_path / "chat.db")
    wrong = type("Wrong", (type(suite),), {claim: not getattr(suite, claim)})()
    with pytest.raises(AssertionError, match=f"`{claim}` of the suite"):
        await wrong.test_the_claims_of_the_suite_are_true()


# Against a model

ROOMS = st.sampled_from(["dev", "lab"])
STEPS = st.one_of(
    st.tuples(st.just("say"), ROOMS, st.integers(1, 4)),
    st.tuples(st.just("delete"), ROOMS, st.integers(1, 12)),
    st.tuples(st.just("presence"), ROOMS, st.just(0)),
    st.tuples(st.just("turn"), ROOMS, st.integers(-100, 100)),
    st.tuples(st.just("settle"), ROOMS, st.just(0)),
    st.tuples(st.just("fail"), ROOMS, st.just(0)),
    st.tuples(st.just("heal"), ROOMS, st.just(0)),
    st.tuples(st.just("reopen"), ROOMS, st.integers(0, 12)),
    st.tuples(st.just("read"), ROOMS, st.integers(1, 12)),
    st.tuples(st.just("restart"), ROOMS, st.integers(-100, 100)),
)


class Model:
    """The expected content of rooms: lists of texts, and of the targets of deletions."""

    def __init__(self, suite: BrokerContract) -> None:
        self.suite = suite
        self.clock = VirtualClock(1_000_000)
        self.failing = False
        self.rooms: dict[str, list[object]] = {"dev": [], "lab": []}

    async def play(self, steps: Sequence[tuple[str, str, int]]) -> None:
        at = 0
        while at <= len(steps):
            rooms = Recorder(self.suite.broker(self.clock))
            async with rooms.running():
                for room in self.rooms:
                    await self.opened(rooms, room, 1000)
                while at < len(steps) and steps[at][0] != "restart":
                    await self.step(rooms, *steps[at])
                    at += 1
                await self.settle(rooms)
                if self.failing:
                    await self.step(rooms, "heal", "dev", 0)
            if at < len(steps):
                self.clock.turn(steps[at][2])
                if not self.suite.keeps:
                    self.rooms = {"dev": [], "lab": []}
            at += 1

    async def opened(self, rooms: Recorder, room: str, messages: int) -> None:
        past = await rooms.open(room, messages=messages)
        assert past.seq == len(self.rooms[room])
        tail = [line[-1] for line in told(past.tail)]
        assert tail == self.rooms[room][len(self.rooms[room]) - len(tail) :]
        assert len(tail) >= min(messages, len(self.rooms[room]))

    async def settle(self, rooms: Recorder) -> None:
        """Take over the delivered entries; refused ones are not part of a room."""
        await rooms.settled()
        for room, entries in rooms.delivered.items():
            for entry in entries:
                if isinstance(entry, KeptEntry):
                    for line in told([entry]):
                        self.rooms[room].append(line[-1])
                if isinstance(entry, Deletion) and entry.target < entry.seq:
                    text = self.rooms[room][entry.target - 1]
                    self.rooms[room][entry.target - 1] = "" if isinstance(text, str) else text
        rooms.delivered.clear()

    async def step(self, rooms: Recorder, what: str, room: str, number: int) -> None:
        if what == "say":
            rooms.submit(message(*(f"{room} {self.clock.micros()} {i}" for i in range(number))), room=room)
        elif what == "delete":
            rooms.submit(Deletion("Ann", number), room=room)
        elif what == "presence":
            rooms.submit(arrived(), departed(), room=room)
        elif what == "turn":
            self.clock.turn(number)
            await rooms.turn()
        else:
            await self.settle(rooms)
        if what == "fail" and not self.failing and not isinstance(self.suite, TestInProcess):
            self.failing = True
            await self.suite.fail(rooms.broker)
        elif what == "heal" and self.failing:
            self.failing = False
            await self.suite.heal(rooms.broker)
        elif what == "reopen":
            rooms.close(room)
            if not self.suite.keeps:
                self.rooms[room] = []
            await self.opened(rooms, room, number)
        elif what == "read" and self.suite.keeps:
            page: Sequence[AnyKept] = await rooms.read(number, room=room)
            found = [line[-1] for line in told(page) if line[1] in range(1, number)]
            assert found == self.rooms[room][: number - 1]


def play(kind: type[Broker], loop: Any, steps: list[Any]) -> None:
    backend, options = loop
    with tempfile.TemporaryDirectory() as folder:
        suite = suite_of(kind, Path(folder) / "chat.db")
        anyio.run(Model(suite).play, steps, backend=backend, backend_options=options)


KINDS = pytest.mark.parametrize("kind", [InProcessBroker, Released, SQLiteBroker, PAGE["Journal"]])


@KINDS
@settings(max_examples=15)
@given(steps=st.lists(STEPS, max_size=30))
def test_any_steps_leave_the_rooms_that_the_model_has(kind: type[Broker], steps: list[Any]) -> None:
    play(kind, ASYNCIO.values[0], steps)


@pytest.mark.long
@pytest.mark.parametrize("loop", EVERY_LOOP)
@KINDS
@settings(max_examples=100)
@given(steps=st.lists(STEPS, max_size=30))
def test_many_steps_leave_the_rooms_that_the_model_has(kind: type[Broker], loop: Any, steps: list[Any]) -> None:
    play(kind, loop, steps)


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
