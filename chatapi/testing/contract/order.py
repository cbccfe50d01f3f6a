"""What every broker owes to the rooms: order, numbers without a hole, times that grow, an end that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.entries import AnyEntry, AnyKept, Arrived, Deletion, Departed, Said
from ...errors import RefusalCode, Refused
from ...events import Whisper
from ...pending import Pending
from ..clock import VirtualClock
from .recorder import Recorder, arrived, departed, message, renamed, told
from .subject import Subject, same

_GIVE_IT = (0, 1, 2, 3, 4, 6, 8, 11, 15, 24)
"""Turns of the event loop that a broker gets, in one life after another, before it is stopped."""


class OrderContract(Subject):
    """Order, density, time, presence, cancellation: for brokers that keep something and for those that do not."""

    # Order and numbers

    async def test_a_new_room_is_as_who_opened_it_says(self) -> None:
        """Nobody has spoken in it: its name and its epoch are those given, and there is nothing of it."""
        async with self.life() as rooms:
            past = await rooms.open("dev", name="Dev", epoch="first")
            same(
                (past.epoch, past.name, past.seq, past.ts, past.first, list(past.tail)),
                ("first", "Dev", 0, 0, 1, []),
                "a room that nobody has spoken in",
            )

    async def test_what_is_submitted_comes_back_once_and_in_order(self) -> None:
        """However it is cut into calls; with numbers from 1 on, one for every message of a run."""
        async with self.life() as rooms:
            await rooms.open()
            said = [message("a"), message("b", "c", "d"), message("e f"), message("g", "h")]
            rooms.submit(said[0])
            rooms.submit(*said[1:3])
            rooms.submit(said[3])
            await rooms.settled()
            same(rooms.delivered["dev"], said, "what was submitted, in its order")
            same([entry.seq for entry in said], [1, 2, 5, 6], "the numbers of runs of 1, 3, 1 and 2 messages")
            await rooms.say(message("i"))
            same(rooms.kept()[-1].seq, 8, "the number behind them")

    async def test_much_is_delivered_in_order(self) -> None:
        """Hundreds of entries that come while others are on their way."""
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
            same(rooms.delivered["dev"], [*rooms.submitted(said)], "what was submitted, in its order")

    async def test_presence_has_its_place_and_no_number(self) -> None:
        """It overtakes nothing, is overtaken by nothing, and carries the number of the message before it."""
        async with self.life() as rooms:
            self.needs_rooms_of_its_own(rooms)
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

    async def test_presence_alone_is_delivered(self) -> None:
        """Where nobody says anything, and where somebody has said something before."""
        async with self.life() as rooms:
            self.needs_rooms_of_its_own(rooms)
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
        """Each has its own numbers, however what is said in them is mixed."""
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
                same(texts, [[f"{name} {i}"] for i in range(40) if i % 8 >= at], f"what was said in {name}")
                same([entry.seq for entry in rooms.kept(name)], [*range(1, len(texts) + 1)], f"the numbers in {name}")

    async def test_more_is_said_in_the_middle_of_a_delivery(self) -> None:
        """Who is told may answer at once, in the same room and in others: it goes behind what is there."""
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
            same(texts, {"dev": ["a", "a!!", "b", "b!!"], "lab": ["a!", "a!!!", "b!", "b!!!"]}, "what was said")

    # Time

    async def test_times_grow_though_the_clock_stands_still(self) -> None:
        """From message to message, within runs too."""
        self.needs_turning()
        clock = VirtualClock()
        async with self.life(clock) as rooms:
            await rooms.open()
            await rooms.say(message("a", "b", "c"), message("d"))
            await rooms.say(message("e"))
            same([entry.ts - clock.micros() for entry in rooms.kept()], [0, 3, 4], "microseconds after the clock's")

    async def test_times_grow_though_the_clock_goes_back(self) -> None:
        """It does when somebody sets it."""
        self.needs_turning()
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

    async def test_times_grow_though_much_is_said_at_once(self) -> None:
        """More messages than there are microseconds until the next one."""
        async with self.life() as rooms:
            await rooms.open()
            for _ in range(3):
                await rooms.say(message(*(f"{i}" for i in range(20_000))))  # the recorder sees that they grow
                await rooms.say(message("and"))
            same([entry.count for entry in rooms.kept()], [20_000, 1] * 3, "what was said")

    # Rooms that are closed and opened again

    async def test_a_room_that_is_closed_and_opened_goes_on_or_begins_anew(self) -> None:
        """It is the same log with the same epoch, or another one that says so."""
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

    async def test_what_is_on_its_way_at_the_end_is_settled(self) -> None:
        """Wherever the end comes: each entry is delivered or refused, once, and what was delivered is kept."""
        for turns in _GIVE_IT:
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
            same(found, told(before.kept(room)), "after a restart, what was delivered before it and nothing else")

    async def test_what_follows_at_the_end_is_settled_too(self) -> None:
        """Whoever is told of the last things may submit more, until the very end: none of it waits for ever."""
        for turns in _GIVE_IT:
            rooms = Recorder(self.broker(VirtualClock()))
            names = f"dev{turns}", f"lab{turns}"
            async with rooms.running():
                for room in names:
                    await rooms.open(room)
                rooms.then = _Talk(rooms, names)
                rooms.then()
                for _ in range(turns):
                    await rooms.turn()
            async with rooms.running():  # the recorder sees that the numbers go on
                for room in names:
                    await rooms.say(message("done"), room=room)

    async def test_questions_at_the_end_are_answered(self) -> None:
        """Each of them: with what was asked for, or with the reason why not."""
        for turns in _GIVE_IT:
            async with self.life() as rooms:
                await rooms.open()
                await rooms.say(message("a"))
                answers = _questions(rooms)
                for _ in range(turns):
                    await rooms.turn()
            same([answer.done for answer in answers], [True] * len(answers), "whether each question was answered")

    async def test_after_the_end_nothing_waits_for_ever(self) -> None:
        """Members leave a chat that has ended: that is delivered; what they say is refused or delivered, at once."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(message("a"))
        said = message("b")
        rooms.submit(departed(), said, departed("Ann"))
        await rooms.settled()
        gone = [entry.name for entry in rooms.delivered["dev"] if isinstance(entry, Departed)]
        same(gone, [] if rooms.shares else ["Zoe", "Ann"], "who has left, by what is delivered after the end")
        for _, reason in rooms.refused.get("dev", []):
            same(reason.code, RefusalCode.UNAVAILABLE, "the code of a message that comes after the end")
        answers = _questions(rooms)
        same([answer.done for answer in answers], [True] * len(answers), "whether each was answered after the end")
        rooms.close()

    async def test_it_runs_again(self) -> None:
        """A chat may be served, stopped, and served again: rooms that stayed open go on where they were."""
        broker = self.broker(VirtualClock())
        rooms = Recorder(broker)
        for turns in _GIVE_IT:
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

    async def test_refusals_say_why(self) -> None:
        """With a code that tells programs to try again, and a sentence for a person."""
        async with self.life() as rooms:
            await rooms.open()
            await self.fail(rooms.broker)
            await rooms.say(message("a"))
            [(_, reason)] = rooms.refused["dev"]
            same((type(reason), reason.code), (Refused, RefusalCode.UNAVAILABLE), "why a message was refused")
            same(bool(reason.detail.strip()), True, "whether there is a sentence about it")
            await self.heal(rooms.broker)

    async def test_while_it_fails_messages_are_refused_and_presence_goes_on(self) -> None:
        """In its order, and with the number of the last message that was kept."""
        async with self.life() as rooms:
            await rooms.open()
            await rooms.say(message("a"))
            await self.fail(rooms.broker)
            lost: list[AnyKept] = [message("b", "c"), Deletion("Ann", 1), message("d")]
            rooms.submit(arrived("1"), lost[0], arrived("2"))
            rooms.submit(lost[1], arrived("3"), lost[2], departed("3"))
            await rooms.settled()
            same([entry for entry, _ in rooms.refused["dev"]], lost, "what was refused")
            went_on = [(type(entry), entry.name, entry.seq) for entry in rooms.delivered["dev"][1:]]
            expected = [*((Arrived, name, 1) for name in "123"), (Departed, "3", 1)]
            same(went_on, [] if rooms.shares else expected, "what went on")
            await self.heal(rooms.broker)

    async def test_refused_messages_leave_no_hole(self) -> None:
        """Numbers go on behind the last message that was kept, in every room, as often as it fails and heals."""
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
    """Says something in some rooms whenever something was said, a number of times."""

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
