"""The suite: a whole chat over the broker shows its members one order, and keeps each message once."""

from __future__ import annotations

import json

from ...errors import RefusalCode
from .members import ChatSubject, Frame, Member, all_hear, others, settled
from .subject import can_fail, keeps, needs, same


class ChatContract(ChatSubject):
    """A whole chat, whose members have connections in memory: the promises that depend on the broker."""

    # One order

    async def test_all_see_one_order(self) -> None:
        """All members of a room get the same messages at the same positions, their own ones as acks."""
        async with self.chat() as chat:
            rooms = {room: [Member(chat, f"{room}{i}", room) for i in range(3)] for room in ("dev", "lab", "den")}
            everybody = [member for members in rooms.values() for member in members]
            seen: dict[str, list[Frame]] = {member.name: await member.kept() for member in everybody}
            for turn in range(20):
                for i, member in enumerate(everybody):
                    if (turn + i) % 3:
                        member.send("message", text=f"{member.name} {turn}", id=f"{turn}")
                guest = chat.member("guest", "dev")
                guest.send("one\ntwo\nthree\n/join lab\nfour\n/bye\n")
                for member in everybody:
                    seen[member.name] += await member.kept()
            for members in rooms.values():
                streams = [seen[member.name] for member in members]
                numbers = [[frame["seq"] for frame in stream] for stream in streams]
                same(numbers, [[*range(1, len(streams[0]) + 1)]] * 3, "the numbers that three members saw")
                same(len({str([frame["ts"] for frame in stream]) for stream in streams}), 1, "how many see other times")
                for stream in streams:
                    same(
                        others(stream, streams[0]),
                        others(streams[0], stream),
                        "the messages of others, as two members got them",
                    )
                for member in members:
                    acks = [frame["id"] for frame in seen[member.name] if frame["type"] == "ack"]
                    same(acks, sorted(acks, key=int), f"the order of what {member.name} said")

    # Leaving

    async def test_lines_before_a_leave_are_delivered(self) -> None:
        """Lines before a ``/join``, a ``/bye`` or the end of the stream are delivered, also to their sender."""
        async with self.chat() as chat:
            dev, lab = Member(chat, "Dev"), Member(chat, "Lab", "lab")
            await all_hear(dev, lab)
            text = chat.member("Mina", echo=True)
            text.send("a\nb\n/join lab\nc\n/bye\n")
            ends = chat.member("Zoe", echo=True)
            ends.send("d\ne")
            ends.end()
            await settled(chat)
            own = [line for line in text.lines() if line.startswith("Mina:")]
            same(
                (own, text.transport.ended),
                (["Mina:a", "Mina:b", "Mina:c"], True),
                "the lines of a member that changes rooms and leaves",
            )
            own = [line for line in ends.lines() if line.startswith("Zoe:")]
            same((own, ends.transport.ended), (["Zoe:d", "Zoe:e"], True), "the lines of a member that ends its stream")
            same(sorted(f["text"] for f in await dev.kept()), ["a", "b", "d", "e"], "the messages in the first room")
            same([f["text"] for f in await lab.kept()], ["c"], "the messages in the second room")

    async def test_messages_before_a_leave_are_acknowledged(self) -> None:
        """The same holds in the JSON protocol."""
        async with self.chat() as chat:
            mina, ann = Member(chat, "Mina"), Member(chat, "Ann")
            for room in ("lab", "den"):
                mina.send("message", text=room, id=room)
                mina.send("join", room=room)
            mina.send("message", text="last", id="last")
            mina.send("bye")
            ann.send("message", text="end", id="end")
            ann.peer.end()
            frames = [frame for frame in await mina.hears() if frame["type"] in ("ack", "welcome", "bye")]
            told = [frame.get("id") or frame.get("room") or frame["type"] for frame in frames]
            same(
                told,
                ["dev", "lab", "lab", "den", "den", "last", "bye"],
                "the frames of a member that changes rooms and leaves",
            )
            same(
                [f["id"] for f in await ann.kept() if f["type"] == "ack"],
                ["end"],
                "the acks of a member that ends its stream",
            )

    # Idempotency

    async def test_an_id_that_is_sent_again_is_acknowledged_and_not_kept_twice(self) -> None:
        """This holds when it has its number, while it is on its way, over a broken connection, and in another room."""
        async with self.chat() as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            await all_hear(mina, zoe)
            for _ in range(3):
                mina.send("message", text="a", id="1")
            acks = await mina.kept()
            same([frame["seq"] for frame in await zoe.kept()], [1], "the messages that another member got")
            first = acks[0]
            same({**first, "type": "ack"}, {"type": "ack", "id": "1", "seq": 1, "ts": first["ts"]}, "the ack")
            again = {**first, "duplicate": True}
            same(acks[1:], [again] * (len(acks) - 1), "further acks")
            mina.send("message", text="a", id="1")
            same(await mina.kept(), [again], "the answer to an id that is sent again")
            mina.cut()
            back = Member(chat, "Mina", resume=mina.position(0, 0, epoch="another"))
            back.send("message", text="a", id="1")
            back.send("join", room="lab")
            back.send("message", text="a", id="1")
            same(await back.kept(), [again, again], "the answers over a broken connection, and in another room")
            same(await zoe.kept(), [], "the messages that another member got")

    async def test_an_id_sent_again_in_another_room_is_acknowledged(self) -> None:
        """The member resumes in another room, while its message is still on its way."""
        async with self.chat() as chat:
            lab, mina, zoe = Member(chat, "Ann", "lab"), Member(chat, "Mina"), Member(chat, "Zoe")
            await all_hear(lab, mina, zoe)
            mina.send("message", text="a", id="1")
            chat.settle()
            mina.cut()
            back = Member(chat, "Mina", "lab", resume=mina.position(0, 0))
            back.send("message", text="a", id="1")
            back.send("message", text="b", id="2")
            acks = [(frame["id"], frame["seq"]) for frame in await back.kept() if frame["type"] == "ack"]
            same(acks, [("1", 1), ("2", 1)], "the acks of two messages, one of them said in another room")
            same([frame["text"] for frame in await zoe.kept()], ["a"], "the messages in one room")
            same([frame["text"] for frame in await lab.kept()], ["b"], "the messages in the other room")

    @needs(keeps)
    async def test_an_id_is_known_after_a_restart(self) -> None:
        """It is known for the session whose key the client shows; for others it is new."""
        async with self.chat() as chat:
            mina = Member(chat, "Mina")
            mina.send("message", text="a", id="1")
            mina.send("message", text="b", id="2")
            first, _ = await mina.kept()
        async with self.chat() as chat:
            zoe = Member(chat, "Zoe")
            back = Member(chat, "Mina", resume=mina.position(0, 0, epoch="another"))
            other = Member(chat, "Ann", resume=mina.position(0, 0, session="wrong"))
            back.send("message", text="a", id="1")
            back.send("join", room="lab")
            back.send("message", text="a", id="1")
            again = {**first, "duplicate": True}
            same([f for f in await back.kept() if f["type"] == "ack"], [again, again], "acks after a restart")
            other.send("message", text="c", id="1")
            same([f["seq"] for f in await other.kept() if f["type"] == "ack"], [3], "the number of another's message")
            same([f["text"] for f in await zoe.kept()], ["c"], "the messages delivered after the restart")

    # Faults

    @needs(can_fail)
    async def test_while_it_fails_senders_are_told_and_everything_else_goes_on(self) -> None:
        """The error has the id of the message that was not kept; sent again later, the message is kept."""
        async with self.chat() as chat:
            mina, zoe, tom = Member(chat, "Mina"), Member(chat, "Zoe"), chat.member("Tom", notices=True)
            await all_hear(mina, zoe)
            mina.send("message", text="a", id="1")
            await all_hear(mina, zoe)
            await self.fail(chat.broker)
            for _ in range(2):
                mina.send("message", text="b", id="2")
                error = await mina.error()
                same((error["code"], error["id"]), (RefusalCode.UNAVAILABLE, "2"), "the error")
            tom.send("c\nd\n")
            await settled(chat)
            refusals = [line for line in tom.lines() if line.startswith("* unavailable: ")]
            same(bool(refusals), True, "whether a text member is told")
            mina.send("whisper", to="Zoe", text="psst")
            ann = chat.member("Ann")
            ann.send("/bye\n")
            came = [frame["type"] for frame in await zoe.hears() if frame["type"] != "notice"]
            lines = [line for line in tom.lines() if line.startswith("* Ann")]
            if chat.broker.presence is None:
                same(came, ["whisper", "joined", "left"], "the events that go on while messages are refused")
                same(lines, ["* Ann joined", "* Ann left"], "the notices of a text member")
            else:  # without the broker, it is unknown whether the name is taken
                same((came, lines), (["whisper"], []), "the events that go on while messages are refused")
                same(
                    json.loads(ann.received())["code"], RefusalCode.UNAVAILABLE, "the answer to a member that comes in"
                )
            await mina.hears()
            await self.heal(chat.broker)
            mina.send("message", text="b", id="2")
            tom.send("e\n")
            acks = [frame for frame in await mina.kept() if frame["type"] == "ack"]
            same([(f["id"], f.get("duplicate")) for f in acks], [("2", None)], "the ack of what is sent again")
            seen = {frame["seq"]: frame["text"] for frame in await zoe.kept()}
            same((sorted(seen), sorted(seen.values())), ([2, 3], ["b", "e"]), "the messages kept afterwards")
        if self.keeps:
            async with self.chat() as chat:
                guest = Member(chat, "Guest")
                guest.send("history")
                texts = [message["text"] for message in (await guest.hears())[-1]["messages"]]
                same(sorted(texts), ["a", "b", "e"], "the messages after a restart")
