"""The contract suite finds faulty brokers, and has the tests that match the claims of its author."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from broker_suites import (
    Released,
    suite_of,
)

from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.sqlite import SQLiteBroker, store
from chatapi.core.broker import Broker, Past, Rooms, Sent
from chatapi.core.entries import AnyEntry, AnyKept, KeptEntry
from chatapi.errors import StoreError
from chatapi.pending import Pending
from chatapi.testing import BrokerContract
from chatapi.testing.contract import recorder

pytestmark = pytest.mark.anyio


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
