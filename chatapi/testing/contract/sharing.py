"""The suite: rooms that several nodes share have one order; ids and whispers work across nodes."""

from __future__ import annotations

from collections.abc import Awaitable

from ...core.broker import Sent
from ...core.entries import Deletion, Said
from ...errors import NotDelivered
from ...events import Whisper
from .nodes import Node, all_see_all, together
from .recorder import message, told
from .subject import SOON, Subject, keeps, needs, same, shares


@needs(shares)
class SharingContract(Subject):
    """Messages of several nodes at once: for brokers with `presence`."""

    # One order

    async def test_messages_of_one_node_are_delivered_on_all(self) -> None:
        """Numbers, times, names and texts are the same; the sending node gets the entries that it has submitted."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            said: list[Said | Deletion] = [message("a"), message("b", "c", name="Zoë"), Deletion("Ann", 2)]
            await one.say(*said[:2])
            await one.say(said[2], message("two\nlines"), message("漢字", ids=["1"], session="of-one"))
            await other.sees(one)
            answer = message("d", name="Ann")
            await other.say(answer)
            await one.sees(other)
            same(other.seen(), one.seen(), "the entries of two nodes")
            same([line[1] for line in one.seen()], [*range(1, 8)], "the numbers")
            same(
                [entry in one.kept() for entry in [*said, answer]],
                [True, True, True, False],
                "whether each entry is the one that this node submitted",
            )

    async def test_all_nodes_speak_at_once(self) -> None:
        """All messages have one order without a hole, and those of a node keep their order."""
        async with self.nodes() as nodes:
            some = await nodes.start_several(3)

            async def speak(node: Node, name: str) -> None:
                for i in range(40):
                    node.submit(message(*(f"{name} {i} {j}" for j in range(i % 3 + 1)), name=name))
                    if i % 5 == 0:
                        await node.turn()
                await node.settled()

            speakers = zip(some, "ABC", strict=True)
            await together(*(lambda node=node, name=name: speak(node, name) for node, name in speakers))
            await all_see_all(some)
            for node in some[1:]:
                same(node.seen(), some[0].seen(), "the entries of two nodes")
            for name in "ABC":
                texts = [line[4] for line in some[0].seen() if line[3] == name]
                expected = [f"{name} {i} {j}" for i in range(40) for j in range(i % 3 + 1)]
                same(texts, expected, f"the messages of {name}, in the order in which they were submitted")

    async def test_a_node_that_opens_a_room_later_goes_on_without_a_gap(self) -> None:
        """Its tail and the entries delivered after it are complete, also while other messages are on their way."""
        async with self.nodes() as nodes:
            one = await nodes.start("dev")
            for turns in range(12):
                one.submit(message(f"{turns} before"), message("run", f"of {turns}"))
                late = await nodes.start()
                one.submit(*(message(f"{turns} {i}") for i in range(turns)))
                for _ in range(turns):
                    await one.turn()
                past = await late.open("dev", name="DEV", epoch="another")
                one.submit(message(f"{turns} after"))
                await one.settled()
                await late.sees(one)
                same((past.epoch, past.name), ("e", "dev"), "the epoch and the name of a room that was there before")
                found, every = [*told(past.tail), *late.seen()], one.seen()
                same(found, every if self.keeps else every[-len(found) :], "the messages that a later node gets")
                await late.say(message(f"{turns} goes on"))
                await one.sees(late)
                await nodes.end(late)

    @needs(keeps)
    async def test_messages_of_other_nodes_are_read_back(self) -> None:
        """Any node can read them, without texts that any node has deleted."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await one.say(message("a"), message("b", "c"))
            await other.sees(one)
            await other.say(Deletion("Ann", 3), message("d"))
            await one.sees(other)
            for node in (one, other, await nodes.start("dev")):
                texts = [line[-1] for line in told(await node.read(1 << 30))]
                same(texts, ["a", "b", "", 3, "d"], "the messages that each node reads")

    # Ids

    async def test_an_id_that_comes_from_two_nodes_is_kept_once(self) -> None:
        """The second gets the number of the first; with another session it is another message."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            first, again = (message("a", ids=["1"], session="of-mina") for _ in range(2))
            await one.say(first)
            await other.sees(one)
            await other.say(again, message("b", ids=["1"], session="of-zoe"))
            same(
                other.duplicates, {"dev": [(again, first.seq, first.ts)]}, "the duplicate, and the number of the first"
            )
            await one.sees(other)
            same([line[4] for line in one.seen()], ["a", "b"], "the messages that are kept")

    async def test_an_id_that_comes_from_two_nodes_at_once_is_kept_once(self) -> None:
        """One of them is first; the other one gets its number."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            for i in range(10):
                for node in (one, other):
                    node.submit(message(f"{i}", ids=[str(i)], session="of-mina"))
                for node in (one, other):
                    await node.settled()
            for node in (one, other):
                await node.say(message("last"))
            await all_see_all([one, other])
            same([line[4] for line in one.seen()], [*map(str, range(10)), "last", "last"], "the messages that are kept")
            places = {line[4]: line[1:3] for line in one.seen()}
            known = [(said.texts()[0], (seq, ts)) for node in (one, other) for said, seq, ts in _known(node)]
            same(
                sorted(known),
                sorted((str(i), places[str(i)]) for i in range(10)),
                "the duplicates, and the numbers of the first ones",
            )

    @needs(keeps)
    async def test_ids_of_a_session_are_known_on_every_node(self) -> None:
        """So is the session itself, after a member has come in with it, even without a message."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await one.come("Mina", session="of-mina")
            await one.come("Zoe", session="of-zoe")
            await one.say(message("a", ids=["1"], session="of-mina"), message("b"))
            [said, _] = one.kept()
            for node in (other, await nodes.start("dev")):
                found = dict(await node.sent("of-mina"))
                same(found.get("1"), Sent("dev", said.seq, said.ts), "the messages of a session")
                same(set(found) - {""}, {"1"}, "the ids of a session")
                same("" in await node.sent("of-zoe"), True, "whether a session that has said nothing is known")
                same(dict(await node.sent("nobody")), {}, "the messages of an unknown session")

    # Whispers

    async def test_a_whisper_reaches_another_node(self) -> None:
        """It arrives unchanged, and its sender learns that it was delivered."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await other.come("Zoe")
            await one.knows(["Zoe"])
            whisper = Whisper(7, "Mina", "psst, 漢字\nand more")
            await one.whisper("zoe", whisper)
            same(other.whispers, [("dev", "zoe", whisper)], "the whispers")

    async def test_a_whisper_that_is_not_delivered_is_refused_with_the_reason(self) -> None:
        """The reason is that of the other node, or that no member has that name, or has it no longer."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await other.come("Zoe")
            await one.knows(["Zoe"])
            other.why_not = "Zoe is away; nothing was sent"
            same(await _why_not(one.whisper("Zoe", _PSST)), other.why_not, "why a whisper was not delivered")
            same(
                bool(await _why_not(one.whisper("Ann", _PSST))), True, "whether a whisper to an unknown name is refused"
            )
            other.go("Zoe")
            await one.knows([])
            same(
                bool(await _why_not(one.whisper("Zoe", _PSST))),
                True,
                "whether a whisper to a member that has left is refused",
            )

    async def test_a_whisper_that_is_sent_again_is_delivered_once(self) -> None:
        """This holds if it has the same `about`, from any node; one that was refused is tried again."""
        async with self.nodes() as nodes:
            one, other, third = await nodes.start_several(3)
            await other.come("Zoe")
            for node in (one, third):
                await node.knows(["Zoe"])
            other.why_not = "away"
            same(await _why_not(one.whisper("Zoe", _PSST, about="1")), "away", "why it was not delivered")
            other.why_not = ""
            other.whispers.clear()
            for node in (one, one, third):
                await node.whisper("Zoe", _PSST, about="1")
            same(len(other.whispers), 1, "how often one whisper was delivered")
            for _ in range(2):
                await one.whisper("Zoe", _PSST)
            await one.whisper("Zoe", _PSST, about="2")
            same(len(other.whispers), 4, "how many whispers were")

    # Rooms

    async def test_rooms_are_counted_from_any_node(self) -> None:
        """The counts include rooms and members of all nodes."""
        self.lease = SOON
        async with self.nodes() as nodes:
            one, other, third = [await nodes.start("dev", "Lab", "empty") for _ in range(3)]
            await third.open("den")
            for node, name, room in ((one, "a", "dev"), (other, "b", "dev"), (third, "c", "Lab"), (third, "d", "den")):
                await node.come(name, room)
            idle = await nodes.start()
            for node in (one, other, third, idle):
                await node.counts({"dev": 2, "Lab": 1, "den": 1})
            third.go("c", "Lab")
            one.go("a")
            for node in (one, other, third, idle):
                await node.counts({"dev": 1, "den": 1})


_PSST = Whisper(1, "Mina", "psst")


async def _why_not(call: Awaitable[None]) -> str:
    """Return why a whisper was not delivered; empty if it was."""
    try:
        await call
    except NotDelivered as why:
        return str(why)
    return ""


def _known(node: Node) -> list[tuple[Said, int, int]]:
    return node.duplicates.get("dev", [])
