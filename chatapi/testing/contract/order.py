"""The suite: order, numbers without a hole, times that grow, and an end that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.entries import AnyEntry, AnyKept, Arrived, Deletion, Departed, Said
from ...errors import RefusalCode, Refused
from ...events import Whisper
from ...pending import Pending
from ..clock import VirtualClock
from .recorder import Recorder, arrived, departed, message, renamed, told
from .subject import Subject, alone, can_fail, needs, same, uses_given_clock

_TURNS_BEFORE_END = (0, 1, 2, 3, 4, 6, 8, 11, 15, 24)
"""Turns of the event loop before the broker is stopped, one number for each run."""


class OrderContract(Subject):
    """Order, numbers, times, presence and the end: for all brokers."""

    async def test_the_claims_of_the_suite_are_true(self) -> None:
        """With a wrong one, the suite would leave out tests of this broker."""
        clock = VirtualClock()
        async with self.life(clock) as rooms:
            same(self.keeps, rooms.broker.keeps, "`keeps` of the suite, which is that of its broker")
            same(self.shares, rooms.shares, "`shares` of the suite: whether its broker has `presence`")
            await rooms.open()
            await rooms.say(message("a"))
            same(self.own_clock, rooms.kept()[0].ts != clock.micros(), "`own_clock` of the suite")

    # Order and numbers

    async def test_a_new_room_is_empty(self) -> None:
        """Its name and its epoch are those given, and it has no entries."""
        async with self.life() as rooms:
            past = await rooms.open("dev", name="Dev", epoch="first")
            same(
                (past.epoch, past.name, past.seq, past.ts, past.first, list(past.tail)),
                ("first", "Dev", 0, 0, 1, []),
                "a room without messages",
            )

    async def test_entries_are_delivered_once_and_in_order(self) -> None:
        """This holds for any division into calls; the numbers start at 1, one for each message of a run."""
        async with self.life() as rooms:
            await rooms.open()
            said = [message("a"), message("b", "c", "d"), message("e f"), message("g", "h")]
            rooms.submit(said[0])
            rooms.submit(*said[1:3])
            rooms.submit(said[3])
            await rooms.settled()
            same(rooms.delivered["dev"], said, "the submitted entries, in their order")
            same([entry.seq for entry in said], [1, 2, 5, 6], "the numbers of runs of 1, 3, 1 and 2 messages")
            await rooms.say(message("i"))
            same(rooms.kept()[-1].seq, 8, "the next number")

    async def test_much_is_delivered_in_order(self) -> None:
        """Hundreds of entries are submitted while others are on their way."""
        async with self.life() as rooms:
            await rooms.open()
            said: list[AnyEntry] = []
            for i in range(300):
                part = (message(*(f"{i} {j}" for j in range(i % 4 + 1))), arrived(f"n{i}"), message(f"{i} last"))
                said += part
                rooms.submit(*part)
                if i % 7 == 0:
                    await rooms.turn()
            await rooms.settled()
            same(rooms.delivered["dev"], [*rooms.submitted(said)], "the submitted entries, in their order")

    @needs(alone)
    async def test_presence_has_a_position_and_no_number(self) -> None:
        """It keeps its order among the messages, and carries the number of the message before it."""
        async with self.life() as rooms:
            await rooms.open()
            first: list[AnyEntry] = [
                arrived(),
                message("a"),
                arrived("Ann"),
                departed("Ann"),
                message("b", "c"),
                renamed(),
            ]
            rooms.submit(*first)
            rooms.submit(departed("Zo"))
            rooms.submit(message("d"))
            await rooms.settled()
            same(rooms.delivered["dev"][:6], first, "messages and presence, in their order")
            same([entry.seq for entry in rooms.delivered["dev"]], [0, 1, 1, 1, 2, 3, 3, 4], "their numbers")

    @needs(alone)
    async def test_presence_alone_is_delivered(self) -> None:
        """This holds before the first message and after it."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(arrived())
            await rooms.say(message("a"))
            await rooms.say(departed())
            same([entry.seq for entry in rooms.delivered["dev"]], [0, 1, 1], "the numbers")

    async def test_deletions_are_counted_like_messages(self) -> None:
        """A deletion has a number and a time of its own."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(message("a", "b"), Deletion("Ann", 1), message("c"))
            same([entry.seq for entry in rooms.kept()], [1, 3, 4], "the numbers of two messages, a deletion, a message")

    async def test_rooms_are_counted_apart(self) -> None:
        """Each has its own numbers, even if their messages alternate."""
        async with self.life() as rooms:
            names = [f"room{i}" for i in range(8)]
            for name in names:
                same((await rooms.open(name)).seq, 0, "the newest number of a new room")
            for i in range(40):
                for name in names[: i % 8 + 1]:
                    rooms.submit(message(f"{name} {i}"), arrived(str(i)), room=name)
                if i % 5 == 0:
                    await rooms.turn()
            await rooms.settled()
            for at, name in enumerate(names):
                texts = [entry.texts() for entry in rooms.kept(name) if isinstance(entry, Said)]
                same(texts, [[f"{name} {i}"] for i in range(40) if i % 8 >= at], f"the messages in {name}")
                same([entry.seq for entry in rooms.kept(name)], [*range(1, len(texts) + 1)], f"the numbers in {name}")

    async def test_entries_can_be_submitted_during_a_delivery(self) -> None:
        """A receiver may submit at once, in the same room and in others: its entries come after the present ones."""
        async with self.life() as rooms:
            await rooms.open("dev")
            await rooms.open("lab")

            def answer(room: str, entries: Sequence[AnyEntry]) -> None:
                for entry in entries:
                    if isinstance(entry, Said) and len(text := entry.texts()[0]) < 4:
                        rooms.submit(message(f"{text}!"), arrived(text), room="lab" if room == "dev" else "dev")
                        rooms.submit(departed(text), room=room)

            rooms.then = answer
            await rooms.say(message("a"), arrived(), message("b"))
            await rooms.settled()
            texts = {room: sorted(str(line[-1]) for line in told(rooms.kept(room))) for room in ("dev", "lab")}
            same(texts, {"dev": ["a", "a!!", "b", "b!!"], "lab": ["a!", "a!!!", "b!", "b!!!"]}, "the messages")

    # Time

    @needs(uses_given_clock)
    async def test_times_grow_though_the_clock_stands_still(self) -> None:
        """They grow from message to message, also within runs."""
        clock = VirtualClock()
        async with self.life(clock) as rooms:
            await rooms.open()
            await rooms.say(message("a", "b", "c"), message("d"))
            await rooms.say(message("e"))
            same([entry.ts - clock.micros() for entry in rooms.kept()], [0, 3, 4], "microseconds after the clock's")

    @needs(uses_given_clock)
    async def test_times_grow_though_the_clock_goes_back(self) -> None:
        """A clock goes back when it is set."""
        clock = VirtualClock()
        async with self.life(clock) as rooms:
            await rooms.open()
            await rooms.say(message("a"))
            now = clock.micros()
            clock.turn(-500)
            await rooms.say(message("b"))
            clock.turn(1_000)
            await rooms.say(message("c"))
            same([entry.ts for entry in rooms.kept()], [now, now + 1, now + 500_000_000], "the times")

    async def test_times_grow_for_many_messages_at_once(self) -> None:
        """There are more messages than microseconds until the next one."""
        async with self.life() as rooms:
            await rooms.open()
            for _ in range(3):
                await rooms.say(message(*(f"{i}" for i in range(20_000))))  # the recorder checks that times grow
                await rooms.say(message("and"))
            same([entry.count for entry in rooms.kept()], [20_000, 1] * 3, "the messages")

    # Rooms that are closed and opened again

    async def test_a_room_that_is_closed_and_opened_goes_on_or_begins_anew(self) -> None:
        """It has the same log with the same epoch, or another log with another epoch."""
        async with self.life() as rooms:
            await rooms.open(epoch="one")
            await rooms.say(message("a", "b"))
            ts = rooms.kept()[-1].ts + 1
            rooms.close()
            past = await rooms.open(epoch="two")
            expected = ("one", 2, ts) if self.keeps else ("two", 0, 0)
            same((past.epoch, past.seq, past.ts), expected, "a room that was closed and is opened again")
            await rooms.say(message("c"))

    # The end

    async def test_entries_on_their_way_at_the_end_are_settled(self) -> None:
        """At any time of the end, each entry is delivered or refused once, and delivered ones are kept."""
        for turns in _TURNS_BEFORE_END:
            room = f"room{turns}"
            async with self.life() as rooms:
                await rooms.open(room)
                rooms.submit(message("a"), arrived(), message("b", "c"), room=room)
                for turn in range(turns):
                    await rooms.turn()
                    rooms.submit(message(str(turn)), departed(), room=room)
            if self.keeps:
                await self._is_kept(rooms, room)

    async def _is_kept(self, before: Recorder, room: str) -> None:
        async with self.life() as rooms:
            past = await rooms.open(room)
            found = told(past.tail)
            same(found, told(before.kept(room)), "the entries after a restart, which are those delivered before")

    async def test_entries_submitted_during_the_end_are_settled(self) -> None:
        """Receivers of the last entries may submit more until the end: these are settled too."""
        for turns in _TURNS_BEFORE_END:
            rooms = Recorder(self.broker(VirtualClock()))
            names = f"dev{turns}", f"lab{turns}"
            async with rooms.running():
                for room in names:
                    await rooms.open(room)
                rooms.then = _Talk(rooms, names)
                rooms.then()
                for _ in range(turns):
                    await rooms.turn()
            async with rooms.running():  # the recorder checks that the numbers go on
                for room in names:
                    await rooms.say(message("done"), room=room)

    async def test_questions_at_the_end_are_answered(self) -> None:
        """Each is answered, with a result or an error."""
        for turns in _TURNS_BEFORE_END:
            async with self.life() as rooms:
                await rooms.open()
                await rooms.say(message("a"))
                answers = _questions(rooms)
                for _ in range(turns):
                    await rooms.turn()
            same([answer.done for answer in answers], [True] * len(answers), "whether each question was answered")

    async def test_entries_after_the_end_are_settled(self) -> None:
        """Leaves are delivered after the end; messages are refused or delivered at once."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(message("a"))
        said = message("b")
        rooms.submit(departed(), said, departed("Ann"))
        await rooms.settled()
        gone = [entry.name for entry in rooms.delivered["dev"] if isinstance(entry, Departed)]
        same(gone, [] if rooms.shares else ["Zoe", "Ann"], "the leaves that are delivered after the end")
        for _, reason in rooms.refused.get("dev", []):
            same(reason.code, RefusalCode.UNAVAILABLE, "the code of a message that comes after the end")
        answers = _questions(rooms)
        same([answer.done for answer in answers], [True] * len(answers), "whether each was answered after the end")
        rooms.close()

    async def test_it_runs_again(self) -> None:
        """A chat may be served, stopped, and served again: rooms that stayed open go on."""
        broker = self.broker(VirtualClock())
        rooms = Recorder(broker)
        for turns in _TURNS_BEFORE_END:
            async with rooms.running():
                if not turns:
                    await rooms.open()
                await rooms.say(message(f"{turns}", "!"), arrived())
                for _ in range(turns):
                    rooms.submit(message("?"), departed())
                    await rooms.turn()
        async with rooms.running():
            await rooms.say(message("done"))
        if self.keeps:
            await self._is_kept(rooms, "dev")

    @needs(can_fail)
    async def test_refusals_say_why(self) -> None:
        """They have a code that tells programs to try again, and a sentence for people."""
        async with self.life() as rooms:
            await rooms.open()
            await self.fail(rooms.broker)
            await rooms.say(message("a"))
            [(_, reason)] = rooms.refused["dev"]
            same((type(reason), reason.code), (Refused, RefusalCode.UNAVAILABLE), "the reason of a refusal")
            same(bool(reason.detail.strip()), True, "whether the refusal has a sentence")
            await self.heal(rooms.broker)

    @needs(can_fail)
    async def test_while_it_fails_messages_are_refused_and_presence_goes_on(self) -> None:
        """Presence keeps its order, and carries the number of the last message that was kept."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(message("a"))
            await self.fail(rooms.broker)
            lost: list[AnyKept] = [message("b", "c"), Deletion("Ann", 1), message("d")]
            rooms.submit(arrived("1"), lost[0], arrived("2"))
            rooms.submit(lost[1], arrived("3"), lost[2], departed("3"))
            await rooms.settled()
            same([entry for entry, _ in rooms.refused["dev"]], lost, "the refused entries")
            went_on = [(type(entry), entry.name, entry.seq) for entry in rooms.delivered["dev"][1:]]
            expected = [*((Arrived, name, 1) for name in "123"), (Departed, "3", 1)]
            same(went_on, [] if rooms.shares else expected, "the presence that was delivered")
            await self.heal(rooms.broker)

    @needs(can_fail)
    async def test_refused_messages_leave_no_hole(self) -> None:
        """After each failure, numbers go on after the last message that was kept, in every room."""
        async with self.life() as rooms:
            for room in ("dev", "lab"):
                await rooms.open(room)
            for i in range(4):
                await rooms.say(message(f"{i}", "…"), room="dev")
                await self.fail(rooms.broker)
                rooms.submit(message("lost"), arrived(), message("lost"), room="dev")
                await rooms.say(message("lost"), room="lab")
                await rooms.settled()
                await self.heal(rooms.broker)
                await rooms.say(message(f"{i}"), room="lab")
            same([entry.seq for entry in rooms.kept("dev")], [1, 3, 5, 7], "the numbers in one room")
            same([entry.seq for entry in rooms.kept("lab")], [1, 2, 3, 4], "the numbers in the other")
            same(len(rooms.refused["dev"]) + len(rooms.refused["lab"]), 12, "how many were refused")
        if self.keeps:
            for room in ("dev", "lab"):
                await self._is_kept(rooms, room)


class _Talk:
    """Submits entries in some rooms after each delivery, for a number of times."""

    def __init__(self, rooms: Recorder, names: Sequence[str]) -> None:
        self._rooms, self._names = rooms, names
        self._left = 40

    def __call__(self, *told: object) -> None:
        if self._left:
            self._left -= 1
            for room in self._names:
                self._rooms.submit(arrived(str(self._left)), message(str(self._left)), room=room)


def _questions(rooms: Recorder) -> list[Pending[Any]]:
    """Ask one question of each kind."""
    broker, presence = rooms.broker, rooms.broker.presence
    answers: list[Pending[Any]] = [
        broker.open("lab", "lab", "e", 10, 1000),
        broker.read("dev", 2, 10, 1000),
        broker.sent("dev", "nobody"),
    ]
    if presence is not None:
        answers += [
            presence.claim("dev", "Ann", "", False),
            presence.rename("dev", "ann", renamed("Ann", "Anna"), ""),
            presence.whisper("dev", "zoe", Whisper(1, "Ann", "psst"), ""),
            presence.rooms(),
        ]
    return [rooms.ask(answer) for answer in answers]
