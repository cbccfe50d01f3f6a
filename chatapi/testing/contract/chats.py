"""What a chat promises to its members, over any broker: one order, nothing twice, and a way back to where one was."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeAlias

import anyio

from ...core.entries import Deletion
from ...errors import RefusalCode
from ...limits import Limits
from ..clock import VirtualClock
from ..kit import ChatKit, Peer
from . import recorder
from .subject import Subject, same

Frame: TypeAlias = dict[str, Any]
Enough: TypeAlias = Callable[[list[Frame]], bool]

KEPT = ("message", "ack", "deleted")
_lives = count(1)


class Member:
    """A member that speaks the JSON protocol, as seen from its side."""

    def __init__(self, chat: ChatKit, name: str, room: str = "dev", **fields: Any) -> None:
        self._chat = chat
        self.name = name
        self.peer: Peer = chat.member(name, room, protocol="json", **fields)
        self.welcome: Frame = {}
        """The newest one that was read."""

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002
        """Send a frame."""
        self.peer.send(json.dumps({"type": type, **fields}) + "\n")

    async def hears(self) -> list[Frame]:
        """What came since the last call, once everything has happened that follows from what was sent."""
        await settled(self._chat)
        frames: list[Frame] = [json.loads(line) for line in self.peer.lines()]
        for frame in frames:
            if frame["type"] == "welcome":
                self.welcome = frame
        return frames

    async def hears_until(self, enough: Enough) -> list[Frame]:
        """What came since the last call, once that is enough: what others say elsewhere takes its time."""
        frames = await self.hears()
        with anyio.move_on_after(recorder.PATIENCE):
            while not enough(frames):
                await anyio.sleep(0.001)
                frames += await self.hears()
            return frames
        raise AssertionError(f"{self.name} has heard no more than {frames[-3:]} after {recorder.PATIENCE:g} seconds")

    async def kept(self) -> list[Frame]:
        """`hears`, of what counts alone."""
        return [frame for frame in await self.hears() if frame["type"] in KEPT]

    async def error(self) -> Frame:
        """The one error that came since the last call."""
        errors = [frame for frame in await self.hears() if frame["type"] == "error"]
        same(len(errors), 1, f"the number of errors among {errors}")
        return errors[0]

    def position(self, seq: int, ts: int, **other: Any) -> Frame:
        """What it shows to go on behind a message."""
        return {"epoch": self.welcome["epoch"], "seq": seq, "ts": ts, "session": self.welcome["session"], **other}

    def cut(self) -> None:
        """Its connection breaks."""
        self.peer.wire.reset()
        self._chat.settle()


async def settled(*chats: ChatKit) -> None:
    """Wait until nothing is on its way through the broker."""
    with anyio.move_on_after(recorder.PATIENCE):
        for chat in chats:
            await chat.settled()
        return
    raise AssertionError(f"the broker has not answered after {recorder.PATIENCE:g} seconds")


class ChatContract(Subject):
    """A whole chat, with members that have wires of memory: every promise that hangs on the broker."""

    @asynccontextmanager
    async def chat(self, clock: VirtualClock | None = None, **limits: Any) -> AsyncIterator[ChatKit]:
        """One life of a chat; its members may speak as fast as they like."""
        settings = Limits(**{"rate": 0, **limits})
        chat = ChatKit(settings, broker=self.broker, clock=clock, keys=f"life-{next(_lives)}-of-this-chat-")
        async with chat.running():
            yield chat
            if chat.broker.presence is not None:  # as a server that is stopped does: the next life has other members
                for client in [client for room in chat.hub.rooms.values() for client in room.members]:
                    client.disconnect("draining")
                await settled(chat)

    # One order

    async def test_all_see_one_order(self) -> None:
        """Every lasting member of a room is shown the same messages at the same places, its own as acks."""
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
                    same(others(stream, streams[0]), others(streams[0], stream), "what two members saw of others")
                for member in members:
                    acks = [frame["id"] for frame in seen[member.name] if frame["type"] == "ack"]
                    same(acks, sorted(acks, key=int), f"the order of what {member.name} said")

    # Leaving

    async def test_who_goes_leaves_nothing_behind(self) -> None:
        """What was said before a ``/join``, a ``/bye`` or the end of the stream is delivered, and its sender told."""
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
            same((own, text.wire.ended), (["Mina:a", "Mina:b", "Mina:c"], True), "what who moves on and leaves sees")
            own = [line for line in ends.lines() if line.startswith("Zoe:")]
            same((own, ends.wire.ended), (["Zoe:d", "Zoe:e"], True), "what who ends its stream sees")
            same(sorted(f["text"] for f in await dev.kept()), ["a", "b", "d", "e"], "what the first room saw")
            same([f["text"] for f in await lab.kept()], ["c"], "what the second room saw")

    async def test_who_goes_gets_its_acks(self) -> None:
        """The same in the JSON protocol."""
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
            same(told, ["dev", "lab", "lab", "den", "den", "last", "bye"], "what who moves on and leaves is told")
            same([f["id"] for f in await ann.kept() if f["type"] == "ack"], ["end"], "the acks of who ends its stream")

    # Idempotency

    async def test_an_id_that_is_sent_again_is_acknowledged_and_not_kept_twice(self) -> None:
        """Once it has its place, while it is on its way, over a broken connection, and in another room."""
        async with self.chat() as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            await all_hear(mina, zoe)
            for _ in range(3):
                mina.send("message", text="a", id="1")
            acks = await mina.kept()
            same([frame["seq"] for frame in await zoe.kept()], [1], "what another member saw of it")
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
            same(await zoe.kept(), [], "what another member saw of all that")

    async def test_an_id_sent_again_elsewhere_is_acknowledged_in_the_end(self) -> None:
        """By who comes back into another room, while what it said is still on its way."""
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
            same([frame["text"] for frame in await zoe.kept()], ["a"], "what was said in the one room")
            same([frame["text"] for frame in await lab.kept()], ["b"], "what was said in the other")

    async def test_an_id_is_known_after_a_restart(self) -> None:
        """To who shows the key; for everybody else it is new."""
        self.needs_keeping()
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
            same([f["text"] for f in await zoe.kept()], ["c"], "what is delivered after the restart")

    # The way back

    async def tell_a_story(self, chat: ChatKit, mina: Member, zoe: Member) -> list[Frame]:
        """Messages, runs, joins, renames and deletions; returns what counts of it, as somebody else is shown it now."""
        await all_hear(mina, zoe)
        tom = chat.member("Tom")
        mina.send("message", text="a", id="m1")
        await settled(chat)
        tom.send("b\nc\nd\n")
        await settled(chat)
        chat.member("Ann").send("e\n/nick Anna\nf\n/bye\n")
        await settled(chat)
        mina.send("message", text="g\nh", id="m2")
        mina.send("message", text="i", id="m3")
        await settled(chat)
        room = chat.hub.room("dev")
        assert room is not None, "the room has members"
        for target in (3, 7):
            room.submit(Deletion("Tom", target))
        await settled(chat)
        mina.send("message", text="j", id="m4")
        tom.send("k\nl\n/bye\n")
        seen = await zoe.kept()
        same([frame["seq"] for frame in seen], [*range(1, 14)], "the numbers of the story")
        return [{**frame, "text": ""} if frame["seq"] in (3, 7) else frame for frame in seen]

    async def test_resume_at_every_position(self) -> None:
        """What was missed follows, all of it and nothing else, one's own as acks; then what comes live."""
        async with self.chat() as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            story = await self.tell_a_story(chat, mina, zoe)
            key = mina
            for seq, ts in positions(story):
                mina.cut()
                mina = Member(chat, "Mina", resume=key.position(seq, ts))
                await self.follows(mina, story[seq:], own=True)
                zoe.send("message", text=f"after {seq}", id=str(seq))
                await settled(chat)
                [ack] = await zoe.kept()
                story.append({**ack, "type": "message", "name": "Zoe", "text": f"after {seq}"})
                del story[-1]["id"]
                same(await mina.kept(), story[-1:], "what comes live")

    async def test_resume_at_every_position_after_a_restart(self) -> None:
        """The same, though the room has loaded but a few of the messages; without a key these are all that is shown."""
        self.needs_keeping()
        async with self.chat() as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            story = await self.tell_a_story(chat, mina, zoe)
        for seq, ts in positions(story):
            async with self.chat(history=2) as chat:
                guest = Member(chat, "Guest", resume=mina.position(seq, ts, session=""))
                if len(story) - seq <= 2:
                    await self.follows(guest, story[seq:], own=False)
                else:
                    [welcome] = await guest.hears()
                    same((welcome["recovered"], welcome["reason"]), (False, "trimmed"), "what a stranger is told")
                back = Member(chat, "Mina", resume=mina.position(seq, ts))
                await self.follows(back, story[seq:], own=True)
                back.send("ping")
                same((await back.hears())[-1]["type"], "pong", "what follows")

    async def follows(self, member: Member, missed: list[Frame], *, own: bool) -> None:
        """See that a member is told at first that it has recovered, and then what it missed."""
        welcome, *frames = await member.hears()
        same(welcome.get("recovered"), True, f"whether it recovered: {welcome}")
        ids = {1: "m1", 7: "m2", 8: "m3", 11: "m4"}
        mine = [own and frame["name"] == "Mina" and frame["type"] == "message" for frame in missed]
        expected = [
            {**frame, "type": "ack", "id": ids[frame["seq"]]} if is_mine else frame
            for frame, is_mine in zip(missed, mine, strict=True)
        ]
        found = [frame for frame in frames if frame["type"] in KEPT]
        for ack, frame, is_mine in zip(found, expected, mine, strict=False):
            for key in ("name", "text"):
                if is_mine and key not in ack and frame.get(key):
                    del frame[key]  # it need not be said, but where nothing is left of the text
        same(found, expected, "what follows a resume")

    async def test_a_position_that_never_was_is_told(self) -> None:
        """Another epoch, a number that is not there yet, a time that is another's."""
        async with self.chat() as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            story = await self.tell_a_story(chat, mina, zoe)
            await self._is_told(chat, mina, story, session="")
            mina.cut()
        if self.keeps:
            async with self.chat(history=2) as chat:
                await self._is_told(chat, mina, story)

    async def _is_told(self, chat: ChatKit, mina: Member, story: list[Frame], **session: str) -> None:
        for seq, ts in positions(story):
            wrong = {"unknown_epoch": mina.position(seq, ts, epoch="another")}
            if seq:
                wrong["diverged"] = mina.position(seq, ts + 1)
            for reason, resume in wrong.items():
                await self._is_not_recovered(chat, {**resume, **session}, reason)
        ahead = mina.position(len(story) + 1, story[-1]["ts"] + 1, **session)
        await self._is_not_recovered(chat, ahead, "diverged")

    async def _is_not_recovered(self, chat: ChatKit, resume: Frame, reason: str) -> None:
        guest = Member(chat, "Guest", resume=resume)
        frames = await guest.hears()
        same([frame["type"] for frame in frames], ["welcome"], "what follows where there is no way back")
        same((frames[0]["recovered"], frames[0].get("reason")), (False, reason), f"what is said to {resume}")
        guest.send("bye")
        await guest.hears()

    async def test_a_position_that_was_forgotten_is_told(self) -> None:
        """As `trimmed`; one that was not is a way back."""
        self.needs_forgetting()
        clock = VirtualClock()
        async with self.chat(clock, history=2) as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            story = await self.tell_a_story(chat, mina, zoe)
            clock.turn(self.forgets_after * 2)
            mina.send("message", text="new", id="new")
            [new] = [frame for frame in await mina.kept() if frame["type"] == "ack" and frame["id"] == "new"]
            await self.forget(chat.broker)
            for seq, ts in positions(story):
                await self._is_not_recovered(chat, mina.position(seq, ts, session=""), "trimmed")
        async with self.chat(clock, history=2) as chat:
            for seq, ts in positions(story):
                await self._is_not_recovered(chat, mina.position(seq, ts, session=""), "trimmed")
            guest = Member(chat, "Guest", resume=mina.position(new["seq"], new["ts"], session=""))
            same((await guest.hears())[0]["recovered"], True, "whether what is kept is a way back")

    # History

    async def test_history_is_paged_through(self) -> None:
        """Back to the first message, whatever the size of the page; and it says where there is no more."""
        async with self.chat() as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            story = await self.tell_a_story(chat, mina, zoe)
            said = [{key: frame[key] for key in ("seq", "ts", "name", "text")} for frame in story if "text" in frame]
            await self._pages(zoe, said, 12)
        if self.keeps:
            for most in (1, 2, 3, 5, 8, 12):
                async with self.chat(history=most) as chat:
                    guest = Member(chat, "Guest")
                    await guest.hears()
                    await self._pages(guest, said, most)

    async def _pages(self, member: Member, said: list[Frame], largest: int) -> None:
        for size in range(1, largest + 1):
            found: list[Frame] = []
            before: dict[str, int] = {}
            while True:
                member.send("history", limit=size, **before)
                [page] = await member.hears()
                found = page["messages"] + found
                same(len(page["messages"]) in ({size} if page["more"] else range(size + 1)), True, "the size of a page")
                if not page["more"]:
                    break
                before = {"before": page["messages"][0]["seq"]}
            same(found, said, f"what was found in pages of {size}")

    # Faults

    async def test_while_it_fails_senders_are_told_and_everything_else_goes_on(self) -> None:
        """With the id of what was not kept; sent again later, it is."""
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
                same(came, ["whisper", "joined", "left"], "what goes on while messages are refused")
                same(lines, ["* Ann joined", "* Ann left"], "what a text member is shown of it")
            else:  # nobody can say whether somebody of that name is there already
                same((came, lines), (["whisper"], []), "what goes on while messages are refused")
                same(json.loads(ann.received())["code"], RefusalCode.UNAVAILABLE, "what is said to who comes in")
            await mina.hears()
            await self.heal(chat.broker)
            mina.send("message", text="b", id="2")
            tom.send("e\n")
            acks = [frame for frame in await mina.kept() if frame["type"] == "ack"]
            same([(f["id"], f.get("duplicate")) for f in acks], [("2", None)], "the ack of what is sent again")
            seen = {frame["seq"]: frame["text"] for frame in await zoe.kept()}
            same((sorted(seen), sorted(seen.values())), ([2, 3], ["b", "e"]), "what is kept afterwards")
        if self.keeps:
            async with self.chat() as chat:
                guest = Member(chat, "Guest")
                guest.send("history")
                texts = [message["text"] for message in (await guest.hears())[-1]["messages"]]
                same(sorted(texts), ["a", "b", "e"], "what is there after a restart")


async def all_hear(*members: Member) -> None:
    """Let some members hear what there is, which is not looked at."""
    for member in members:
        await member.hears()


def others(one: list[Frame], other: list[Frame]) -> list[tuple[Any, ...]]:
    """What one of two members saw, but for what either of them has said itself."""
    own = {frame["seq"] for frame in one + other if frame["type"] == "ack"}
    return [(f["seq"], f["ts"], f["name"], f["text"]) for f in one if f["seq"] not in own]


def positions(story: list[Frame]) -> list[tuple[int, int]]:
    """Every number of a story with its time, and the beginning."""
    return [(0, 0), *((frame["seq"], frame["ts"]) for frame in story)]
