"""The suite: members of a whole chat resume at any position, and page through the history."""

from __future__ import annotations

from ...core.entries import Deletion
from ..clock import VirtualClock
from ..kit import ChatKit
from .members import KEPT, ChatSubject, Frame, Member, all_hear, settled
from .subject import forgets, keeps, needs, same


class ResumeContract(ChatSubject):
    """Members that come back: resume and history, as far as the broker keeps them."""

    # The way back

    async def tell_a_story(self, chat: ChatKit, mina: Member, zoe: Member) -> list[Frame]:
        """Send messages, runs, joins, renames, deletions; return the numbered frames that another member gets."""
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
        """All missed messages follow and nothing else, the member's own ones as acks; then live ones."""
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
                same(await mina.kept(), story[-1:], "the live messages")

    @needs(keeps)
    async def test_resume_at_every_position_after_a_restart(self) -> None:
        """The same, though the room has loaded only a few of the messages; without a key only these are replayed."""
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
                    same(
                        (welcome["recovered"], welcome["reason"]),
                        (False, "trimmed"),
                        "the answer to a client without a key",
                    )
                back = Member(chat, "Mina", resume=mina.position(seq, ts))
                await self.follows(back, story[seq:], own=True)
                back.send("ping")
                same((await back.hears())[-1]["type"], "pong", "the next frame")

    async def follows(self, member: Member, missed: list[Frame], *, own: bool) -> None:
        """Check that a member gets a welcome with `recovered`, and then what it missed."""
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
                    del frame[key]  # the server may leave it out, unless the text was deleted
        same(found, expected, "the frames after a resume")

    async def test_a_position_that_never_existed_is_refused(self) -> None:
        """It has another epoch, a number that is not given yet, or the time of another message."""
        async with self.chat() as chat:
            mina, zoe = Member(chat, "Mina"), Member(chat, "Zoe")
            story = await self.tell_a_story(chat, mina, zoe)
            await self._is_refused(chat, mina, story, session="")
            mina.cut()
        if self.keeps:
            async with self.chat(history=2) as chat:
                await self._is_refused(chat, mina, story)

    async def _is_refused(self, chat: ChatKit, mina: Member, story: list[Frame], **session: str) -> None:
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
        same([frame["type"] for frame in frames], ["welcome"], "the frames after a resume that was not granted")
        same((frames[0]["recovered"], frames[0].get("reason")), (False, reason), f"the answer to {resume}")
        guest.send("bye")
        await guest.hears()

    @needs(forgets)
    async def test_a_position_that_was_forgotten_is_refused(self) -> None:
        """The reason is `trimmed`; at a position that is still kept, a resume is granted."""
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
            same((await guest.hears())[0]["recovered"], True, "whether a resume at a message that is kept is granted")

    # History

    async def test_history_is_paged_through(self) -> None:
        """The pages reach back to the first message, for any size of a page, and the last one says so."""
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
            same(found, said, f"the messages found in pages of {size}")


def positions(story: list[Frame]) -> list[tuple[int, int]]:
    """Return the beginning, and each number of a story with its time."""
    return [(0, 0), *((frame["seq"], frame["ts"]) for frame in story)]
