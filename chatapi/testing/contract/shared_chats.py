"""The suite: chats that share their rooms are one chat for their members."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ..kit import ChatKit, Peer
from . import recorder
from .members import KEPT, Enough, Member, all_hear, others, settled
from .resuming import ResumeContract, positions
from .subject import needs, same, shares


@needs(shares)
class SharedChatContract(ResumeContract):
    """Two whole chats over one place, for brokers with `presence`."""

    @asynccontextmanager
    async def chats(self) -> AsyncIterator[tuple[ChatKit, ChatKit]]:
        """Run two chats that share their rooms."""
        async with self.chat() as one, self.chat() as other:
            yield one, other

    async def test_members_of_two_chats_see_one_order(self) -> None:
        """Each of them gets all messages, with the same numbers and times, its own ones as acks."""
        async with self.chats() as chats:
            members = [Member(chats[i % 2], f"m{i}") for i in range(4)]
            await all_hear(*members)
            for turn in range(15):
                for i, member in enumerate(members):
                    if (turn + i) % 3:
                        member.send("message", text=f"m{i} {turn}", id=str(turn))
                guest = chats[turn % 2].member("guest")
                guest.send("one\ntwo\n/bye\n")
                await settled(*chats)
            for member in members:
                member.send("message", text="last", id="last")
            await settled(*chats)
            streams = [[f for f in await member.hears_until(_lasts(4)) if f["type"] in KEPT] for member in members]
            for stream in streams:
                same([frame["seq"] for frame in stream], [*range(1, len(streams[0]) + 1)], "the numbers that one saw")
                same([f["ts"] for f in stream], [f["ts"] for f in streams[0]], "the times that two members saw")
                same(
                    others(stream, streams[0]),
                    others(streams[0], stream),
                    "the messages of others, as two members got them",
                )
                acks = [frame["id"] for frame in stream if frame["type"] == "ack"]
                same(acks, [*sorted(acks[:-1], key=int), "last"], "the order of one's own messages")

    async def test_resume_through_the_other_chat_at_every_position(self) -> None:
        """All missed messages follow, the member's own ones as acks, then live ones; others see no leave or join."""
        async with self.chats() as chats:
            mina, zoe = Member(chats[0], "Mina"), Member(chats[0], "Zoe")
            story = await self.tell_a_story(chats[0], mina, zoe)
            key, came = mina, []
            for i, (seq, ts) in enumerate(positions(story)):
                mina.cut()
                mina = Member(chats[1 - i % 2], "Mina", resume=key.position(seq, ts))
                await self.follows(mina, story[seq:], own=True)
                zoe.send("message", text=f"after {seq}", id=str(seq))
                heard = await zoe.hears_until(_kept(1))
                [ack] = [frame for frame in heard if frame["type"] in KEPT]
                came += [frame for frame in heard if frame["type"] in ("joined", "left")]
                story.append({**ack, "type": "message", "name": "Zoe", "text": f"after {seq}"})
                del story[-1]["id"]
                live = [frame for frame in await mina.hears_until(_kept(1)) if frame["type"] in KEPT]
                same(live, story[-1:], "the live messages")
            same(came, [], "joins and leaves that others were told of")

    async def test_an_id_that_is_sent_again_through_the_other_chat_is_kept_once(self) -> None:
        """The member resumes there, whether or not that chat has heard of the first message."""
        async with self.chats() as (one, other):
            mina, zoe = Member(one, "Mina"), Member(other, "Zoe")
            await all_hear(mina, zoe)
            mina.send("message", text="a", id="1")
            one.settle()
            mina.cut()
            back = Member(other, "Mina", resume=mina.position(0, 0))
            back.send("message", text="a", id="1")
            back.send("message", text="b", id="2")
            acks = [f for f in await back.hears_until(_acks("2")) if f["type"] == "ack"]
            same({(ack["id"], ack["seq"]) for ack in acks}, {("1", 1), ("2", 2)}, "the acks")
            seen = [frame["text"] for frame in await zoe.hears_until(_kept(2)) if frame["type"] in KEPT]
            same(seen, ["a", "b"], "the messages that another member got")

    async def test_ids_that_are_sent_again_together_through_the_other_chat_are_kept_once(self) -> None:
        """The same for messages that arrive in one read."""
        async with self.chats() as (one, other):
            mina, zoe = Member(one, "Mina"), Member(other, "Zoe")
            await all_hear(mina, zoe)
            texts = [f"text {i}" for i in range(9)]
            lines = [json.dumps({"type": "message", "text": text, "id": text}) + "\n" for text in texts]
            mina.peer.send("".join(lines[:6]))
            one.settle()
            mina.cut()
            back = Member(other, "Mina", resume=mina.position(0, 0))
            back.peer.send("".join(lines))
            acks = [f for f in await back.hears_until(_acks(texts[-1])) if f["type"] == "ack"]
            expected = {(text, i + 1) for i, text in enumerate(texts)}
            same({(ack["id"], ack["seq"]) for ack in acks}, expected, "the acks")
            seen = [frame["text"] for frame in await zoe.hears_until(_kept(9)) if frame["type"] in KEPT]
            same(seen, texts, "the messages that another member got")

    async def test_messages_sent_through_the_other_chat_are_ones_own(self) -> None:
        """A member that returns to its first chat gets acks, with ids, for what it sent through the other one."""
        async with self.chats() as (one, other):
            for room, away in (("dev", 0), ("lab", 10)):  # while its name is reserved, and after that
                first, zoe = Member(one, "Mina", room), Member(one, "Zoe", room)
                await all_hear(first, zoe)
                first.cut()
                one.wait(away)
                await settled(one)
                second = Member(other, "Mina", room, resume=first.position(0, 0))
                await second.hears()
                second.send("message", text="a", id="1")
                [ack] = await second.kept()
                await zoe.hears_until(_kept(1))
                second.cut()
                third = Member(one, "Mina", room, resume=first.position(0, 0))
                told = {**ack, "name": "Mina", "text": "a"}  # it was sent elsewhere, so name and text are known
                same(await third.kept(), [told], "the replay for the member that comes back")
                third.send("message", text="a", id="1")
                same(await third.kept(), [{**ack, "duplicate": True}], "the answer to an id that is sent again")

    async def test_a_name_is_taken_back_through_the_other_chat(self) -> None:
        """With the key this works at once, and the old connection is told; with another key it is refused."""
        async with self.chats() as (one, other):
            mina = Member(one, "Mina")
            await mina.hears()  # so Zoe, who joins afterwards, gets no `joined` of Mina's first join later
            zoe = Member(other, "Zoe")
            await zoe.hears()
            thief = Member(other, "MINA", resume=mina.position(0, 0, session="wrong-key-of-somebody"))
            same([frame.get("code") for frame in await thief.hears()], ["name_taken"], "the answer to a wrong key")
            back = Member(other, "Mina", resume=mina.position(0, 0))
            same((await back.hears())[0].get("recovered"), True, "whether it goes on")
            told = await mina.hears_until(lambda frames: any(frame["type"] == "bye" for frame in frames))
            same((told[-1]["code"], told[-1]["reconnect"]), ("replaced", False), "the last frame of the old connection")
            back.send("message", text="it is me")
            heard = await zoe.hears_until(_kept(1))
            same([frame["type"] for frame in heard], ["message"], "the frames of other members")

    async def test_lines_and_commands_reach_the_other_chat(self) -> None:
        """Messages, whispers, lists, renames and joins in one chat appear in the other."""
        async with self.chats() as (one, other):
            mina = one.member("Mina", notices=True)
            await settled(one)
            zoe = other.member("Zoe", notices=True)
            await settled(other)
            same(await _hears(one, mina, 1), ["* Zoe joined"], "the notice of a join")
            zoe.send("hello\n")
            await settled(other)
            same(await _hears(one, mina, 1), ["Zoe:hello"], "the lines of Mina")
            zoe.send("@mina psst\n/list\n/nick MINA\n/nick Zo\n")
            await settled(other)
            same(await _hears(one, mina, 2), ["* Zoe whispers: psst", "* Zoe is now Zo"], "the lines of Mina")
            listed, refused, now = await _hears(other, zoe, 3)
            same((listed, now), ("* in dev (2): Mina, Zoe", "* you are now Zo"), "the lines of Zoe")
            same("MINA" in refused, True, f"whether a name is refused that another has: {refused}")
            mina.send("@nobody psst\n@zo psst\n/join lab\n")
            same((await _hears(one, mina, 2))[1], "* you are now in lab (1): Mina", "the lines of Mina")
            await settled(one)
            same(
                await _hears(other, zoe, 2),
                ["* Mina whispers: psst", "* Mina left for another room"],
                "the lines of Zoe",
            )
            zoe.send("/join LAB\n/list\nhere too\n")
            same((await _hears(other, zoe, 2))[-1], "* in lab (2): Mina, Zo", "the lines of Zoe")
            same(await _hears(one, mina, 2), ["* Zo joined", "Zo:here too"], "the lines of Mina")


def _lasts(number: int) -> Enough:
    return lambda frames: sum(f.get("text") == "last" or f.get("id") == "last" for f in frames) == number


def _kept(number: int) -> Enough:
    return lambda frames: sum(frame["type"] in KEPT for frame in frames) >= number


def _acks(id_: str) -> Enough:
    return lambda frames: any(frame["type"] == "ack" and frame["id"] == id_ for frame in frames)


async def _hears(chat: ChatKit, peer: Peer, number: int) -> list[str]:
    """Return the next lines of a member, when there are at least `number`."""
    lines: list[str] = []
    with anyio.move_on_after(recorder.PATIENCE):
        while True:
            await settled(chat)
            lines += peer.lines()
            if len(lines) >= number:
                return lines
            await anyio.sleep(0.001)
    raise AssertionError(f"only {lines} came within {recorder.PATIENCE:g} seconds")
