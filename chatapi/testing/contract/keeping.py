"""The suite: a broker that keeps messages finds all of them again, also after a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from ...core.broker import Past, Sent
from ...core.entries import AnyKept, Deletion, Said
from ...limits import Limits
from ...pending import Pending
from ..clock import VirtualClock
from .recorder import Recorder, arrived, departed, message, told
from .subject import Subject, can_fail, forgets, keeps, needs, same, uses_given_clock


@needs(keeps)
class KeepingContract(Subject):
    """Reading back, restarts, deletions, forgetting: for brokers that keep something."""

    async def _fill(self, rooms: Recorder, room: str = "dev") -> list[tuple[object, ...]]:
        """Submit entries of every kind in a new room, with 13 numbers; return the kept ones."""
        await rooms.open(room)
        await rooms.say(message("a"), arrived(), message("b", "c", "d", name="Zoë"), departed(), room=room)
        await rooms.say(message("e"), message("one message\nof two lines"), room=room)
        [two_lines] = [entry for entry in rooms.kept(room) if entry.seq == 6]
        assert isinstance(two_lines, Said)
        await rooms.say(message("f" * 500), message("g", "h", "i", "j"), message("k"), message("漢字"), room=room)
        found = told(rooms.kept(room))
        same(len(found), 13, "messages of one room")
        return found

    # Reading

    async def test_messages_are_read_back_unchanged(self) -> None:
        """Texts, names, numbers and times are unchanged, at once and after each restart."""
        said: list[tuple[object, ...]] = []
        for life in range(3):
            async with self.life() as rooms:
                if not life:
                    said = await self._fill(rooms)
                else:
                    past = await rooms.open()
                    same(told(past.tail), said, "the tail of a room that is opened again")
                same(told(await rooms.read(1 << 30)), said, "all kept entries of a room")

    async def test_every_page_can_be_read(self) -> None:
        """A page has the newest messages below any number, for any limit: none missing, and no unneeded run."""
        async with self.life() as rooms:
            said = await self._fill(rooms)
            await self._read_pages(rooms, said)
        async with self.life() as rooms:
            await rooms.open()
            await self._read_pages(rooms, said)

    async def _read_pages(self, rooms: Recorder, said: list[tuple[object, ...]]) -> None:
        for before in range(1, len(said) + 2):
            for messages in range(1, len(said) + 2):
                found = await rooms.read(before, messages)
                asked = f"at most {messages} messages below number {before}"
                _check_page(found, before, messages, asked)
                below = [line for line in told(found) if line[1] in range(1, before)]
                same(len(below) >= min(messages, before - 1), True, f"whether the page has enough messages: {asked}")
                same(below, said[before - 1 - len(below) : before - 1], asked)

    async def test_a_page_is_bounded_in_bytes(self) -> None:
        """It is about as large as asked for, and not empty if messages exist: an empty one means the beginning."""
        async with self.life() as rooms:
            said = await self._fill(rooms)
            for before in range(2, len(said) + 2):
                for max_bytes in (0, 1, 900, 2_000):
                    found = await rooms.read(before, 100, max_bytes)
                    asked = f"at most {max_bytes} bytes below number {before}"
                    same(bool(found), True, f"whether the page is not empty: {asked}")
                    _check_page(found, before, 100, asked)
                    most = max_bytes + max(entry.weight for entry in found)
                    same(
                        sum(entry.weight for entry in found) <= most,
                        True,
                        f"whether the page is about as large as asked for: {asked}",
                    )

    async def test_a_room_without_messages_has_nothing_to_read(self) -> None:
        """Joins and leaves are not kept."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(arrived(), departed())
            same(list(await rooms.read(1)), [], "its kept entries")

    async def test_delivered_messages_can_be_read_at_once(self) -> None:
        """This holds even during their delivery."""
        async with self.life() as rooms:
            await rooms.open()
            pages: list[Pending[Sequence[AnyKept]]] = []
            rooms.then = lambda room, _: pages.append(rooms.ask(rooms.broker.read(room, 1 << 30, 1, 1 << 20)))
            for i in range(5):
                await rooms.say(message(str(i)))
            rooms.then = None
            await rooms.answered()
            same([page.result()[-1].seq >= i for i, page in enumerate(pages, 1)], [True] * 5, "whether each was found")

    # Opening

    async def test_a_room_is_opened_with_its_newest_messages(self) -> None:
        """It has as many as asked for, and the rest of the oldest run; none is missing up to the newest."""
        said: list[tuple[object, ...]] = []
        for again in (False, True):
            async with self.life() as rooms:
                if not again:
                    said = await self._fill(rooms, "Dev")
                    rooms.close("Dev")
                for messages in range(len(said) + 2):
                    past = await rooms.open("Dev", name="DEV", epoch="other", messages=messages)
                    same((past.epoch, past.name, past.seq, past.first), ("e", "Dev", len(said), 1), "an opened room")
                    same(past.ts, said[-1][2], "the time of its newest message")
                    _check_page(past.tail, past.seq + 1, messages, f"a tail of at most {messages} messages")
                    same(told(past.tail), said[-len(told(past.tail)) or len(said) :], "the newest messages")
                    same(len(told(past.tail)) >= min(messages, len(said)), True, "whether a tail is long enough")
                    rooms.close("Dev")
                past = await rooms.open("Dev", max_bytes=900)
                _check_page(past.tail, past.seq + 1, 1000, "a tail of at most 900 bytes")
                same(
                    sum(entry.weight for entry in past.tail[1:]) <= 900,
                    True,
                    "whether a tail is about as large as asked for",
                )

    # Restarts

    async def test_rooms_go_on_after_a_restart(self) -> None:
        """They keep the epoch, and go on with the next number and a later time, even if the new clock is behind."""
        newest: dict[str, int] = {}
        for life in range(4):
            async with self.life(VirtualClock(1_000 - 100 * life)) as rooms:
                for room in ("dev", "lab", "empty"):
                    past = await rooms.open(room, epoch=f"{room}-{life}")
                    if room != "empty":
                        same((past.epoch, past.seq), (f"{room}-0", 3 * life), f"{room} in life {life}")
                        same(past.ts, newest.get(room, 0), "the time of its newest message")
                for room in ("dev", "lab"):  # the recorder checks that numbers and times go on
                    await rooms.say(arrived(), message("a", "b"), departed(), message("c"), room=room)
                    if not rooms.shares:
                        same(rooms.delivered[room][0].seq, 3 * life, "the number that presence carries")
                    newest[room] = rooms.kept(room)[-1].ts

    # Messages of sessions

    async def test_messages_of_a_session_are_found_by_id(self) -> None:
        """The broker knows room, number and time, also after a restart. Ids of other sessions are separate."""
        clock = VirtualClock()
        async with self.life(clock) as rooms:
            for room in ("dev", "lab"):
                await rooms.open(room)
            await rooms.say(message("a", ids=["1"], session="s"), message("b"), message("c", ids=["1"], session="t"))
            await rooms.say(message("d", "e", "f", ids=["2", None, "3"], session="s"), message("g", session="s"))
            await rooms.say(message("h", ids=["4"], session="s"), room="lab")
            clock.turn(1)
            await rooms.say(message("i", ids=["2"], session="s"), room="lab")
            kept = {(room, line[1]): line[2] for room in ("dev", "lab") for line in told(rooms.kept(room))}
            places = {"1": ("dev", 1), "2": ("lab", 2), "3": ("dev", 6), "4": ("lab", 1)}
            expected = {id_: Sent(*place, kept[place]) for id_, place in places.items()}  # type: ignore[arg-type]
            await self._has_said(rooms, expected)
        async with self.life(clock) as rooms:
            for room in ("dev", "lab"):
                await rooms.open(room)
            await self._has_said(rooms, expected)
            same(sorted(filter(None, await rooms.sent("t"))), ["1"], "the messages of another session")
            same(dict(await rooms.sent("nobody")), {}, "the messages of an unknown session")

    async def _has_said(self, rooms: Recorder, expected: Mapping[str, Sent]) -> None:
        for room in ("dev", "lab"):
            found = dict(await rooms.sent("s", room))
            here = {id_: place for id_, place in expected.items() if place.room == room}
            same(
                {id_: found.get(id_) for id_ in here},
                here,
                f"the messages of a session in {room}, the newest of each id",
            )
            if not rooms.shares:  # a broker that knows only one room cannot know the others
                same(found, expected, "the messages of the session in all rooms")

    @needs(uses_given_clock)
    async def test_ids_are_known_for_the_time_of_the_limit(self) -> None:
        """The limit is `Limits.remember`."""
        clock, limits = VirtualClock(), Limits(remember=60)
        async with self.life(clock, limits) as rooms:
            await rooms.open()
            await rooms.say(message("a", ids=["1"], session="s"))
            clock.turn(59)
            same(sorted(await rooms.sent("s")), ["1"], "the ids after 59 seconds of 60")
            clock.turn(2)
            await rooms.say(message("b", ids=["2"], session="s"))
            same(sorted(await rooms.sent("s")), ["2"], "the ids after 61 seconds of 60")
        async with self.life(clock, limits) as rooms:
            same(sorted(await rooms.sent("s")), ["2"], "the ids after a restart")

    @needs(can_fail)
    async def test_ids_of_refused_messages_are_not_known(self) -> None:
        """So the messages can be sent again."""
        async with self.life() as rooms:
            await rooms.open()
            await self.fail(rooms.broker)
            await rooms.say(message("a", ids=["1"], session="s"))
            await self.heal(rooms.broker)
            same(dict(await rooms.sent("s")), {}, "the ids of refused messages")
            await rooms.say(message("a", ids=["1"], session="s"))
            same((await rooms.sent("s"))["1"].seq, 1, "the number of the message that was sent again")

    # Deletions

    async def test_a_deletion_empties_the_text_and_keeps_the_number(self) -> None:
        """This holds for a single message, for any message of a run, and for one with several lines."""
        async with self.life() as rooms:
            said = await self._fill(rooms)
            targets = [1, 3, 2, 6, 8, 11]
            for target in targets:
                await rooms.say(Deletion("Ann", target))
            deletions = told(rooms.kept())[len(said) :]
            same([line[-1] for line in deletions], targets, "the targets of the deletions")
            expected = [(*line[:4], "") if line[1] in targets else line for line in said] + deletions
            same(told(await rooms.read(1 << 30)), expected, "the kept entries of a room in which messages were deleted")
        async with self.life() as rooms:
            past = await rooms.open()
            same(told(past.tail), expected, "the same after a restart")
            same(past.seq, len(expected), "the newest number, deletions counted")
            runs = [entry for entry in past.tail if isinstance(entry, Said)]
            marked = [entry.seq for entry in runs if entry.erased]
            same(marked, [entry.seq for entry in runs if "" in entry.texts()], "the runs with `erased`")

    async def test_a_deletion_together_with_its_message(self) -> None:
        """The deletion may follow so closely that both are kept in one step."""
        async with self.life() as rooms:
            await rooms.open()
            rooms.submit(message("a", "b"), Deletion("Ann", 2), message("c"))
            await rooms.settled()
            texts = [line[-1] for line in told(await rooms.read(1 << 30))]
            same(texts, ["a", "", 2, "c"], "two messages, a deletion of the second, and a message")

    async def test_a_deletion_without_a_message_changes_nothing(self) -> None:
        """The target was deleted before, is a deletion, or is the number of the next message."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(message("a"), *(Deletion("Ann", target) for target in (1, 1, 2, 6)), message("b"))
            texts = [line[-1] for line in told(await rooms.read(1 << 30))]
            same(texts, ["", 1, 1, 2, 6, "b"], "the kept entries")

    # Forgetting

    @needs(forgets)
    async def test_old_messages_are_forgotten(self) -> None:
        """`trimmed` is called, numbers and times go on, and old messages are not read any more."""
        clock = VirtualClock()
        async with self.life(clock) as rooms:
            old = await self._fill(rooms)
            await self._fill(rooms, "closed")
            rooms.close("closed")
            clock.turn(self.forgets_after * 2)
            await rooms.say(message("new", "er"), message("newest"))
            await self.forget(rooms.broker)
            rooms.check()
            first = len(old) + 1
            same(rooms.first.get("dev"), first, "the oldest number, as given to `trimmed`")
            left = told(rooms.kept())[-3:]
            same(told(await rooms.read(1 << 30)), left, "the messages that are read")
            same(list(await rooms.read(first)), [], "the forgotten messages that are read")
            await rooms.say(message("on"), Deletion("Ann", 1))
            left = told(rooms.kept())[-5:]
        async with self.life(clock) as rooms:
            past = await rooms.open()
            same((past.first, past.seq, told(past.tail)), (first, first + 4, left), "the room after a restart")
            await self._is_emptied(await rooms.open("closed"), old)

    @needs(forgets)
    async def test_numbers_go_on_if_all_messages_are_forgotten(self) -> None:
        """Otherwise a client that resumes would take new messages for old ones."""
        clock = VirtualClock()
        async with self.life(clock) as rooms:
            old = await self._fill(rooms)
            clock.turn(self.forgets_after * 2)
            await self.forget(rooms.broker)
            same(rooms.first.get("dev"), len(old) + 1, "the oldest number, as given to `trimmed`")
            rooms.close()
            await self._is_emptied(await rooms.open(), old)
        async with self.life(VirtualClock(1)) as rooms:
            await self._is_emptied(await rooms.open(), old)
            await rooms.say(message("new"))  # the recorder checks that number and time go on
        async with self.life(VirtualClock(1)) as rooms:
            past = await rooms.open()
            same((past.first, past.seq, len(past.tail)), (len(old) + 1, len(old) + 1, 1), "the room, one message later")

    async def _is_emptied(self, past: Past, old: list[tuple[object, ...]]) -> None:
        same(
            (past.epoch, past.first, past.seq, past.ts, list(past.tail)),
            ("e", len(old) + 1, len(old), old[-1][2], []),
            "a room whose messages were all forgotten",
        )


def _check_page(found: Sequence[AnyKept], before: int, messages: int, asked: str) -> None:
    """Check that no message is missing below `before`, and that the page has no unneeded entry."""
    for one, other in pairwise(found):
        same(other.seq, one.seq + one.count, f"the number after {one.seq}, in {asked}")
    if not messages:
        same(list(found), [], asked)
    if found:
        same(
            found[-1].seq < before <= found[-1].seq + found[-1].count,
            True,
            f"whether the last entry ends the page: {asked}",
        )
    have = [min(before - entry.seq, entry.count) for entry in found if isinstance(entry, Said)]
    same(not have or sum(have[1:]) < messages, True, f"whether no entry is unneeded: {asked}")
