"""The suite: rooms that several nodes share have unique names and correct rosters, even if nodes end."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

import anyio

from ...core.entries import Arrived, Departed, NameChanged
from ...errors import RefusalCode, Refused
from ...limits import Limits
from .nodes import Node, all_know, all_see_all, together
from .recorder import message, told
from .subject import SOON, Subject, can_be_cut_off, can_fail, needs, same, shares


@needs(shares)
class PresenceContract(Subject):
    """Members of several nodes: for brokers with `presence`."""

    # Names

    async def test_a_name_is_given_once(self) -> None:
        """This holds for any spelling and any node; the name is free after its release, and in other rooms."""
        async with self.nodes() as nodes:
            one, other = [await nodes.start("dev", "lab") for _ in range(2)]
            await one.come("Mina", session="of-mina")
            for node in (one, other):
                for session in ("", "of-zoe"):
                    refused = await _refusal(node.come("mINA", session=session))
                    same(refused, RefusalCode.NAME_TAKEN, "the answer to a claim of a name that is taken")
            await other.come("mina", "lab")
            one.go("Mina")
            await one.until(lambda: _left(one), "the leave was not delivered")
            await other.come("MINA")
            await all_know([one, other], ["MINA"])

    async def test_of_several_claims_of_a_name_at_once_one_succeeds(self) -> None:
        """The claims come from different nodes."""
        async with self.nodes() as nodes:
            some = await nodes.start_several(3)
            for i in range(10):
                told_so: list[RefusalCode | None] = []

                async def come(node: Node, name: str, told_so: list[RefusalCode | None] = told_so) -> None:
                    told_so.append(await _refusal(node.come(name)))

                wanted = zip(some, (f"a{i}", f"A{i}", f"a{i}"), strict=True)
                await together(*(lambda node=node, name=name: come(node, name) for node, name in wanted))
                same(told_so.count(None), 1, "how many of three got a name")
                same(told_so.count(RefusalCode.NAME_TAKEN), 2, "how many of three were told that it is taken")
            rosters = [sorted(name.lower() for name in node.roster()) for node in some if node.ours]
            await all_know(some, some[0].roster())
            same(rosters[0], [f"a{i}" for i in range(10)], "the roster")

    async def test_a_room_is_full_everywhere(self) -> None:
        """`Limits.room_members` counts the members of all nodes."""
        async with self.nodes() as nodes:
            limits = Limits(room_members=2)
            one, other = [await nodes.start("dev", limits=limits) for _ in range(2)]
            await one.come("Mina", session="of-mina")
            await other.come("Zoe")
            same(await _refusal(one.come("Ann")), RefusalCode.ROOM_FULL, "the answer to a claim in a full room")
            await other.come("Mina", session="of-mina")  # a member already

    async def test_a_name_is_taken_by_renaming(self) -> None:
        """A rename is refused if another has the name, and frees the old one; it may change only the spelling."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await one.come("Mina")
            await other.come("Zoe")
            refused = await _refusal(other.rename("Zoe", "MINA"))
            same(refused, RefusalCode.NAME_TAKEN, "the answer to a rename to a name that is taken")
            entry = await other.rename("Zoe", "ZOE")
            same(entry in other.delivered["dev"], True, "whether a rename is delivered as the entry that was given")
            await one.rename("Mina", "Ann")
            await other.come("Mina")
            await all_know([one, other], ["Ann", "Mina", "ZOE"])
            for node in (one, other):
                changes = [(e.name, e.to) for e in node.delivered["dev"] if isinstance(e, NameChanged)]
                same(changes, [("Zoe", "ZOE"), ("Mina", "Ann")], "the renames that were delivered")

    # Rosters

    async def test_rosters_are_correct_on_all_nodes(self) -> None:
        """This holds after joins, leaves, renames and moves, and on a node that opens the room later."""
        async with self.nodes() as nodes:
            one, other = [await nodes.start("dev", "lab") for _ in range(2)]
            for i in range(6):
                await (one, other)[i % 2].come(f"n{i}")
            one.go("n0")
            await other.rename("n1", "Zoe")
            one.go("n2", reason="moved")
            await one.come("n2", "lab")
            await all_know([one, other], ["Zoe", "n3", "n4", "n5"])
            await all_know([one, other], ["n2"], "lab")
            late = await nodes.start("dev", "lab")
            await late.come("late")
            same(late.roster(), ["Zoe", "late", "n3", "n4", "n5"], "the roster of a node that was started later")
            same(late.roster("lab"), ["n2"], "that of another room")
            same(_came(late), ["late"], "the joins that a later node delivers")
            await all_know([one, other], ["Zoe", "late", "n3", "n4", "n5"])

    async def test_joins_and_leaves_have_the_same_position_everywhere(self) -> None:
        """Each is delivered once, between the same messages, in the order of its node."""
        async with self.nodes() as nodes:
            some = await nodes.start_several(3)

            async def live(node: Node, name: str) -> None:
                for i in range(6):
                    node.submit(message(f"{i} a", name=name))
                    await node.come(f"{name}{i}")
                    node.submit(message(f"{i} b", name=name))
                    await node.rename(f"{name}{i}", f"{name}{i}x")
                    node.submit(message(f"{i} c", name=name))
                    node.go(f"{name}{i}x")
                await node.say(message("last", name=name))

            lives = zip(some, "ABC", strict=True)
            await together(*(lambda node=node, name=name: live(node, name) for node, name in lives))
            await all_see_all(some)
            for node in some[1:]:
                same(node.seen(), some[0].seen(), "the entries of two nodes, presence included")
            kinds = ("a", "arrived", "b", "namechanged", "c", "departed")
            expected = [*(f"{i} {kind}" if len(kind) == 1 else kind for i in range(6) for kind in kinds), "last"]
            for name in "ABC":
                own = [line for line in some[0].seen() if str(line[3 if line[0] == "said" else 2]).startswith(name)]
                same([line[4] if line[0] == "said" else line[0] for line in own], expected, f"the entries of {name}")

    async def test_quiet_changes_are_correct_and_not_announced(self) -> None:
        """Rooms with very many members use them."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await one.come("Mina", quiet=True)
            await one.come("Zoe", quiet=True)
            await one.rename("Zoe", "Ann", quiet=True)
            one.go("Mina", quiet=True)
            await one.say(message("last"))
            await other.sees(one)
            for node in (one, other):
                same(node.roster(), ["Ann"], "the roster")
                same(_came(node) + _left(node), [], "the joins and leaves that were delivered")
                quiet = [entry.quiet for entry in node.delivered["dev"] if isinstance(entry, NameChanged)]
                same(quiet, [True], "the renames, and whether they are quiet")

    async def test_a_session_takes_its_name_over(self) -> None:
        """This works at once, on another node; the old one is told ``replaced``, and no join or leave is delivered."""
        async with self.nodes() as nodes:
            some = one, other, _ = await nodes.start_several(3)
            await one.come("Mina", session="of-mina")
            await all_know(some, ["Mina"])
            for node, before in ((other, one), (one, other)):
                await node.come("Mina", session="of-mina")
                await node.say(message("here"))
                await all_see_all(some)
                same(before.losses, [("dev", "mina", "replaced")], "the lost names of the old node")
                before.losses.clear()
                await all_know(some, ["Mina"])
            _delivered(some, ["arrived", "said", "said"])
            one.go("Mina")
            await all_know(some, [])

    # Nodes that end

    async def test_a_node_that_ends_finishes_what_it_has_begun(self) -> None:
        """Released members leave, however long its lease is, and its last messages are delivered."""
        self.lease = 3600
        async with self.nodes() as nodes:
            one, other, third = await nodes.start_several(3)
            await one.come("Mina")
            await all_know([other, third], ["Mina"])
            one.submit(message("last"))
            one.go("Mina")
            await nodes.end(one)
            await all_know([other, third], [])
            await other.come("mina")
            await all_know([other, third], ["mina"])
            _delivered((other, third), ["arrived", "said", "departed", "arrived"])

    async def test_members_of_a_node_that_ends_leave(self) -> None:
        """They leave once, though the node has not released them."""
        self.lease: float = SOON
        async with self.nodes() as nodes:
            one, other, third = await nodes.start_several(3)
            await one.come("Mina")
            await all_know([other, third], ["Mina"])
            await nodes.end(one)
            await all_know([other, third], [])
            await other.come("mina")
            await all_know([other, third], ["mina"])
            _delivered((other, third), ["arrived", "departed", "arrived"])

    async def test_members_of_a_living_node_stay(self) -> None:
        """They stay beyond the lease, because their node renews it."""
        self.lease = SOON
        async with self.nodes() as nodes:
            some = await nodes.start_several(3)
            for node, name in zip(some, "abc", strict=True):
                await node.come(name)
            end = anyio.current_time() + self.lease
            while anyio.current_time() < end:
                for node in some:
                    await node.say(message("I am here"))
            await all_see_all(some)
            await all_know(some, ["a", "b", "c"])
            for node in some:
                same((_left(node), node.losses), ([], []), "the members that left or lost a name")

    @needs(can_be_cut_off)
    async def test_members_of_a_node_that_dies_leave(self) -> None:
        """They leave once on all nodes, when its lease ends; then their names are free, and no others."""
        self.lease = SOON
        async with self.nodes() as nodes:
            one, other, third = await nodes.start_several(3)
            for name in ("Mina", "Zoe"):
                await one.come(name, session=f"of-{name.lower()}")
            await other.come("Ann")
            await all_know([one, other, third], ["Ann", "Mina", "Zoe"])
            await self.cut_off(one.broker)
            await other.come("Mina", session="of-mina")  # a member that resumes on another node does not wait
            await all_know([other, third], ["Ann", "Mina"])
            await third.come("zoe")
            await all_know([other, third], ["Ann", "Mina", "zoe"])
            for node in (other, third):
                await node.say(message("last"))
            await all_see_all([other, third])
            same(other.seen()[-6:], third.seen()[-6:], "the entries of two nodes")
            for node in (other, third):
                same(_left(node), ["Zoe"], "the members that left")
                same(sorted(_came(node)), ["Ann", "Mina", "Zoe", "zoe"], "the members that came in")
            await self.reconnect(one.broker)

    # Nodes that are in trouble

    @needs(can_fail)
    async def test_members_are_told_that_messages_cannot_be_kept(self) -> None:
        """They are also told when it is over; members of other nodes are not told."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await self.fail(one.broker)
            await one.say(message("a"))
            same(len(one.refused["dev"]), 1, "how many were refused")
            await one.until(lambda: one.absences, "members were not told that messages cannot be kept")
            await self.heal(one.broker)
            await one.until(lambda: len(one.absences) > 1, "members were not told that it is over")
            same(
                [(rooms, bool(why)) for rooms, why in one.absences],
                [(("dev",), True), (("dev",), False)],
                "the changes of availability",
            )
            await one.say(message("b"))
            await other.sees(one)
            same([line[4] for line in other.seen()], ["b"], "whether each message is kept")
            same(other.absences, [], "the changes of availability on the other node")

    @needs(can_be_cut_off)
    async def test_a_node_that_is_cut_off_for_a_moment_misses_nothing(self) -> None:
        """No leave is delivered; messages that it submits meanwhile are kept after its return, or refused."""
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            await one.come("Mina", session="of-mina")
            await other.come("Zoe")
            await all_know([one, other], ["Mina", "Zoe"])
            for i in range(3):
                said = [message(f"{i} {j}", ids=[f"{i} {j}"] if j else None, session="of-mina") for j in range(4)]
                one.submit(*said[:2])
                for _ in range(2 * i):
                    await one.turn()
                await self.cut_off(one.broker)
                one.submit(*said[2:])
                await other.say(message(f"meanwhile {i}"), message("run", "of two"))
                await other.come(f"guest{i}")
                await self.reconnect(one.broker)
                await one.settled()
                await all_see_all([one, other])
                refused = [entry for entry, _ in one.refused.get("dev", ())]
                same(
                    [entry in one.kept() for entry in said],
                    [entry not in refused for entry in said],
                    "whether each message is kept",
                )
                same(told(one.kept()), told(other.kept()), "the messages of two nodes")
                await all_know([one, other], sorted(["Mina", "Zoe", *(f"guest{j}" for j in range(i + 1))]))
            for node in (one, other):
                same(_left(node), [], "the members that left")
                same(sorted(_came(node)), ["Mina", "Zoe", "guest0", "guest1", "guest2"], "the members that came in")
            same((one.losses, one.cuts), ([], []), "lost names and rooms")

    @needs(can_be_cut_off)
    async def test_a_node_that_is_cut_off_for_long_claims_its_names_again(self) -> None:
        """A member whose name was taken gets ``name_lost``; the others are members again, and have missed nothing."""
        self.lease = SOON
        async with self.nodes() as nodes:
            one, other = await nodes.start_several(2)
            for name in ("Mina", "Ann", "Tom"):
                await one.come(name, session=f"of-{name.lower()}")
            await all_know([one, other], ["Ann", "Mina", "Tom"])
            await self.cut_off(one.broker)
            await all_know([other], [])
            same(sorted(_left(other)), ["Ann", "Mina", "Tom"], "the members that left")
            await other.come("mina")
            await other.come("Tom", session="of-tom")
            await other.say(message("meanwhile", name="mina"))
            await self.reconnect(one.broker)
            await all_know([one, other], ["Ann", "Tom", "mina"])
            lost = [("dev", "mina", "name_lost"), ("dev", "tom", "replaced")]
            same(sorted(one.losses), lost, "the lost names, and the codes")
            await one.say(message("back", name="Ann"))
            await all_see_all([one, other])
            same(told(one.kept()), told(other.kept()), "the messages of two nodes")
            same(sorted(_came(other)), ["Ann", "Ann", "Mina", "Tom", "Tom", "mina"], "the members that came in")
            same(one.cuts, [], "rooms that could not go on")


async def _refusal(call: Awaitable[object]) -> RefusalCode | None:
    """Return the code of a refusal; None if there was none."""
    try:
        await call
    except Refused as refused:
        return refused.code
    return None


def _delivered(nodes: Iterable[Node], expected: list[str]) -> None:
    """Check the kinds of the entries that were delivered to each of these nodes."""
    for node in nodes:
        same([line[0] for line in node.seen()], expected, "the entries that were delivered")


def _left(node: Node) -> list[str]:
    return [entry.name for entry in node.delivered.get("dev", ()) if isinstance(entry, Departed)]


def _came(node: Node) -> list[str]:
    return [entry.name for entry in node.delivered.get("dev", ()) if isinstance(entry, Arrived)]
