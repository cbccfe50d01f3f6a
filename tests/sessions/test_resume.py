"""Sessions and resume (docs/reference/protocol-json.md): coming back under one's name, with nothing lost or doubled."""

from __future__ import annotations

from typing import Any

import pytest
from speakers import Frame, Speaker, chat, nothing_is_left, release

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker

CUTS = pytest.mark.parametrize("cut", ["reset", "end"])
BROKERS = pytest.mark.parametrize("late", [False, True], ids=["in-process", "late"])


def texts(frames: list[Frame]) -> list[tuple[str, int, str]]:
    """The messages and acks among the frames: what kind, their seq, and the text or the id."""
    return [(f["type"], f["seq"], f.get("text", f.get("id"))) for f in frames if f["type"] in ("message", "ack")]


def types(frames: list[Frame]) -> list[str]:
    return [frame["type"] for frame in frames]


def refusal(speaker: Speaker) -> Frame:
    frame = speaker.frame()
    assert frame["type"] == "error"
    assert frame["detail"]
    return frame


def pair(kit: ChatKit, **fields: Any) -> tuple[Speaker, Speaker]:
    """Mina and Zoe in one room, each with its welcome read and nothing else to read."""
    mina = Speaker(kit, "Mina", **fields)
    release(kit)
    mina.opened()
    zoe = Speaker(kit, "Zoe")
    release(kit)
    zoe.opened()
    assert mina.frame() == {"type": "joined", "seq": 0, "name": "Zoe"}
    return mina, zoe


# The name


@CUTS
@pytest.mark.parametrize("protocol", ["json", "text"])
def test_the_name_of_a_broken_connection_is_reserved_for_a_while(cut: str, protocol: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.cut(cut)
    kit.wait(1)
    other = kit.member("MINA", protocol=protocol).received()
    assert '"code":"name_taken"' in other
    assert '"after":' in other
    kit.wait(3.5)
    assert zoe.frames() == [], "a leave was announced within the grace"
    assert refusal(Speaker(kit, "Mina"))["after"] == pytest.approx(0.5, abs=0.15)
    kit.wait(0.7)
    assert zoe.frame() == {"type": "left", "seq": 0, "name": "Mina", "reason": "connection_lost"}
    Speaker(kit, "Mina").opened()
    assert zoe.frame() == {"type": "joined", "seq": 0, "name": "Mina"}
    assert nothing_is_left(kit)


def test_who_is_told_that_a_name_is_reserved_can_have_it_after_the_time_named() -> None:
    kit = ChatKit()
    mina, _ = pair(kit)
    mina.cut("reset")
    kit.wait(2)
    after = refusal(Speaker(kit, "Mina"))["after"]
    assert 2.8 <= after <= 3.2
    kit.wait(after + 0.1)
    Speaker(kit, "Mina").opened()


def test_a_name_that_somebody_is_using_is_taken_without_an_end_in_sight() -> None:
    kit = ChatKit()
    pair(kit)
    error = refusal(Speaker(kit, "Mina"))
    assert error["code"] == "name_taken"
    assert "after" not in error


def test_the_reserve_is_a_limit() -> None:
    kit = ChatKit(Limits(reserve=20))
    mina, zoe = pair(kit)
    mina.cut("reset")
    kit.wait(19)
    assert refusal(Speaker(kit, "Mina"))["code"] == "name_taken"
    kit.wait(1.2)
    assert types(zoe.frames()) == ["left"]


@CUTS
def test_who_is_away_is_a_member_and_reads_nothing(cut: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.cut(cut)
    zoe.send("members", ref=1)
    assert zoe.frame()["members"] == ["Mina", "Zoe"]
    zoe.send("whisper", to="Mina", text="there?", id="w")
    error = zoe.frame()
    assert (error["type"], error["code"], error["id"]) == ("error", "not_delivered", "w")


def test_a_text_members_name_is_free_at_once() -> None:
    kit = ChatKit()
    for cut in ("reset", "end", "/bye\n"):
        peer = kit.member("Mina")
        if cut == "reset":
            peer.transport.reset()
        elif cut == "end":
            peer.end()
        else:
            peer.send(cut)
        kit.settle()
        again = kit.member("Mina")
        assert again.received() == ""
        again.end()
        kit.settle()


def test_who_says_bye_is_gone_at_once_and_its_key_is_worth_nothing() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.send("bye")
    assert mina.frame()["type"] == "bye"
    assert zoe.frame()["reason"] == "bye"
    again = Speaker(kit, "Mina", resume=mina.resume())
    again.opened()
    assert again.session != mina.session


@CUTS
@BROKERS
def test_the_key_takes_the_name_back_and_nobody_hears_of_it(cut: str, late: bool) -> None:
    kit = chat(late)
    mina, zoe = pair(kit)
    mina.cut(cut)
    release(kit)
    kit.wait(4)
    again = Speaker(kit, "mina", resume=mina.resume())
    release(kit)
    again.opened()
    assert again.welcome["recovered"] is True
    assert again.welcome["session"] == mina.session
    assert (again.welcome["name"], again.welcome["members"]) == ("Mina", ["Mina", "Zoe"])
    kit.wait(20)
    release(kit)
    assert zoe.frames() == []
    zoe.send("message", text="still here?", id="z")
    again.send("message", text="yes", id="m")
    release(kit)
    assert [f["type"] for f in zoe.frames()] == ["ack", "message"]
    assert texts(again.frames()) == [("message", 1, "still here?"), ("ack", 2, "m")]
    assert nothing_is_left(kit)


@BROKERS
def test_the_key_takes_the_name_over_while_the_old_connection_is_open(late: bool) -> None:
    kit = chat(late)
    mina, zoe = pair(kit)
    again = Speaker(kit, "Mina", resume=mina.resume())
    release(kit)
    again.opened()
    bye = mina.frame()
    assert (bye["type"], bye["code"], bye["reconnect"]) == ("bye", "replaced", False)
    assert kit.hub.disconnects == {"replaced": 1}
    assert mina.peer.transport.ended
    mina.send("message", text="from the past", id="x")
    release(kit)
    kit.wait(20)
    release(kit)
    assert zoe.frames() == []
    assert mina.peer.transport.closed
    again.send("message", text="hello", id="y")
    release(kit)
    assert texts(zoe.frames()) == [("message", 1, "hello")]
    assert texts(again.frames()) == [("ack", 1, "y")]
    assert nothing_is_left(kit)


def test_the_old_connection_gets_its_bye_behind_a_finished_frame() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.peer.transport.capacity = 100
    zoe.send("message", text="x" * 500)
    kit.settle()
    again = Speaker(kit, "Mina", resume=mina.resume())
    assert texts(again.frames()) == [("message", 1, "x" * 500)]
    frames = mina.frames()  # which fails on half a frame
    assert frames[-1]["code"] == "replaced"
    assert texts(frames) in ([], [("message", 1, "x" * 500)])


@pytest.mark.parametrize("old", ["open", "reset", "end", "closing"])
def test_a_reset_of_the_old_connection_does_not_disturb_the_new_one(old: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    if old in ("reset", "end"):
        mina.cut(old)
    again = Speaker(kit, "Mina", resume=mina.resume())
    again.opened()
    if old == "closing":
        mina.peer.end()
        kit.settle()
    mina.peer.transport.reset()
    kit.wait(30)
    zoe.send("message", text="hello")
    assert texts(again.frames()) == [("message", 1, "hello")]
    assert types(zoe.frames()) == ["ack"]


@pytest.mark.parametrize("key", ["", "wrong", "key0", None])
def test_a_wrong_key_counts_as_none(key: str | None) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.cut("reset")
    shown = {} if key is None else {"session": key}
    assert refusal(Speaker(kit, "Mina", resume=shown))["code"] == "name_taken"
    other = Speaker(kit, "Ann", resume=shown)
    other.opened()
    assert other.welcome["recovered"] is False
    assert other.session not in (mina.session, zoe.session, key)


def test_a_key_can_be_used_again_and_again() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    key = mina.session
    for number in range(1, 6):
        mina.cut("reset" if number % 2 else "end")
        mina = Speaker(kit, "Mina", resume=mina.resume())
        mina.opened()
        assert mina.welcome["recovered"] is True
        assert mina.session == key
        kit.wait(4)
    assert zoe.frames() == []
    mina.cut("reset")
    kit.wait(6)
    assert types(zoe.frames()) == ["left"]
    assert nothing_is_left(kit)


def test_who_came_back_is_as_good_as_one_that_never_left() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.cut("reset")
    again = Speaker(kit, "Mina", resume=mina.resume()).opened()
    kit.wait(600)
    again.send("message", text="still here", id="a")
    assert texts(again.frames()) == [("ack", 1, "a")]
    assert types(zoe.frames()) == ["message"]
    again.cut("end")
    kit.wait(4)
    last = Speaker(kit, "Mina", resume=again.resume())
    assert texts(last.frames()) == [("ack", 1, "a")]
    assert last.session == mina.session
    assert zoe.frames() == []


def test_the_key_belongs_to_the_member_through_renames_and_room_changes() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    other = Speaker(kit, "Ann", "lab").opened()
    mina.send("rename", to="Mia")
    mina.send("join", room="lab", ref="j")
    moved = mina.frames()[-1]
    assert (moved["type"], moved["ref"], moved["session"]) == ("welcome", "j", mina.session)
    zoe.frames()
    assert other.frame()["name"] == "Mia"
    mina.cut("reset")
    assert refusal(Speaker(kit, "Mia", "lab"))["after"] > 4
    Speaker(kit, "Mina", "dev").opened()  # nobody's name any more
    mina.welcome = moved
    again = Speaker(kit, "Mia", "lab", resume=mina.resume())
    again.opened()
    assert again.welcome["recovered"] is True
    assert again.session == mina.session
    assert other.frames() == []


@pytest.mark.parametrize("where", [("Mia", "dev"), ("Mina", "lab")])
@pytest.mark.parametrize("old", ["open", "away"])
def test_with_its_key_a_member_may_come_back_elsewhere_and_is_only_there(where: tuple[str, str], old: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    if old == "away":
        mina.cut("reset")
    again = Speaker(kit, *where, resume=mina.resume())
    again.frames()
    assert (again.welcome["name"], again.welcome["room"]) == where
    if old == "open":
        assert mina.frame()["code"] == "replaced"
    told = zoe.frames()
    assert (told[0]["type"], told[0]["name"]) == ("left", "Mina")
    assert types(told[1:]) == (["joined"] if where[1] == "dev" else [])
    Speaker(kit, "Mina", "dev").opened()
    kit.wait(20)
    again.send("ping", ref=1)
    told = again.frames()
    assert told[-1] == {"type": "pong", "ref": 1}
    assert types(told[:-1]) == (["joined"] if where[1] == "dev" else [])
    assert nothing_is_left(kit)


@pytest.mark.parametrize("old", ["open", "away"])
def test_a_key_shown_with_a_name_that_is_taken_leaves_everything_as_it_was(old: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    if old == "away":
        mina.cut("reset")
    assert refusal(Speaker(kit, "Zoe", resume=mina.resume()))["code"] == "name_taken"
    assert zoe.frames() == [], "the member was thrown out by a handshake that was refused"
    assert refusal(Speaker(kit, "Mina"))["code"] == "name_taken"
    if old == "open":
        zoe.send("message", text="hi")
        assert texts(mina.frames()) == [("message", 1, "hi")]
    again = Speaker(kit, "Mina", resume=mina.resume())
    again.frames()
    assert again.session == mina.session
    assert nothing_is_left(kit)


# Going on where one was


@CUTS
@BROKERS
@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("gone_for", [0, 8])
def test_what_was_missed_comes_once_in_order_and_before_anything_live(
    cut: str, late: bool, key: bool, gone_for: float
) -> None:
    kit = chat(late, Limits(rate=0))
    mina, zoe = pair(kit)
    mina.send("message", text="mine", id="m0")
    zoe.send("message", text="one")
    release(kit)
    seen = mina.frames()
    assert texts(seen) == [("ack", 1, "m0"), ("message", 2, "one")]
    mina.send("message", text="unseen", id="m1")
    kit.settle()
    mina.peer.transport.capacity = 0
    zoe.send("message", text="two")
    release(kit)
    mina.cut(cut)
    release(kit)
    kit.wait(gone_for)
    release(kit)
    for text in ("three", "four"):
        zoe.send("message", text=text)
    release(kit)
    resume = mina.resume(2, seen[-1]["ts"], **({} if key else {"session": "wrong"}))
    name = "Mina" if key or gone_for else "Mia"
    again = Speaker(kit, name, resume=resume, history=50)
    zoe.send("message", text="live")
    release(kit)
    frames = again.frames()
    assert frames[0]["type"] == "welcome"
    assert frames[0]["recovered"] is True
    assert "reason" not in frames[0]
    assert frames[0]["seq"] == 6
    own = ("ack", 3, "m1") if key else ("message", 3, "unseen")
    assert texts(frames) == [own, *(("message", 4 + i, t) for i, t in enumerate(["two", "three", "four", "live"]))]
    acks_and_messages = [f for f in frames if f["type"] in ("ack", "message")]
    assert [f["ts"] for f in acks_and_messages] == sorted({f["ts"] for f in acks_and_messages})
    assert nothing_is_left(kit)


def test_with_echo_ones_own_come_as_messages_with_their_ids() -> None:
    kit = ChatKit()
    mina, _ = pair(kit)
    mina.send("message", text="mine", id="m1")
    kit.settle()
    mina.cut("reset")
    again = Speaker(kit, "Mina", resume=mina.resume(), echo=True)
    frames = again.frames()
    assert [(f["type"], f.get("id"), f.get("text")) for f in frames[1:]] == [("message", "m1", "mine")]


def test_seq_0_is_a_position_too() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    assert (mina.welcome["seq"], mina.welcome["ts"]) == (0, 0)
    again = Speaker(kit, "Mina", resume=mina.resume())
    assert again.frame()["recovered"] is True, "an empty log"
    again.cut("end")
    for text in ("one", "two"):
        zoe.send("message", text=text)
    kit.settle()
    again = Speaker(kit, "Mina", resume=mina.resume())
    frames = again.frames()
    assert frames[0]["recovered"] is True
    assert texts(frames) == [("message", 1, "one"), ("message", 2, "two")]
    later = Speaker(kit, "Ann", resume={"epoch": mina.welcome["epoch"]})
    assert texts(later.frames()) == [("message", 1, "one"), ("message", 2, "two")]


def test_a_position_within_what_a_text_member_said_in_one_go() -> None:
    kit = ChatKit()
    mina, _ = pair(kit)
    kit.member("ann").send("one\ntwo\nthree\nfour\n")
    seen = [f for f in mina.frames() if f["type"] == "message"]
    mina.cut("reset")
    for frame in seen:
        again = Speaker(kit, "Mina", resume=mina.resume(frame["seq"], frame["ts"]))
        frames = again.frames()
        assert frames[0]["recovered"] is True
        assert texts(frames) == texts(seen[frame["seq"] :])
        again.cut("reset")


def test_joins_and_leaves_are_not_replayed_and_the_roster_is_the_truth() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.cut("reset")
    ann = Speaker(kit, "Ann").opened()
    zoe.send("rename", to="Zara")
    zoe.send("message", text="hi")
    ann.send("bye")
    kit.settle()
    again = Speaker(kit, "Mina", resume=mina.resume())
    frames = again.frames()
    assert types(frames) == ["welcome", "message"]
    assert frames[0]["members"] == ["Mina", "Zara"]


def reasons(kit: ChatKit, mina: Speaker, zoe: Speaker, reason: str) -> Frame:
    """What Mina shows to come back, where the reason why she cannot is this one."""
    zoe.send("message", text="one")
    seen = mina.frames()[-1]
    if reason == "unknown_epoch":
        return mina.resume(1, seen["ts"], epoch="another")
    if reason == "trimmed":
        zoe_said = 200
        for i in range(zoe_said):
            zoe.send("message", text=str(i))
        kit.settle()
        return mina.resume(1, seen["ts"])
    if reason == "trimmed from the start":
        for i in range(200):
            zoe.send("message", text=str(i))
        kit.settle()
        return mina.resume(0, 0)
    if reason == "diverged, another ts":
        return mina.resume(1, seen["ts"] + 1)
    assert reason == "diverged, the future"
    return mina.resume(2, seen["ts"] + 1)


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize(
    "reason",
    ["unknown_epoch", "trimmed", "trimmed from the start", "diverged, another ts", "diverged, the future"],
)
def test_a_gap_is_told_with_its_reason_and_the_member_goes_on_from_there(reason: str, key: bool) -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64))
    mina, zoe = pair(kit)
    resume = reasons(kit, mina, zoe, reason)
    mina.frames()
    if not key:
        resume["session"] = "wrong"
    mina.cut("reset")
    again = Speaker(kit, "Mina" if key else "Mia", resume=resume)
    welcome = again.frame()
    assert welcome["recovered"] is False
    assert welcome["reason"] == reason.partition(",")[0].partition(" ")[0]
    zoe.send("message", text="live")
    assert texts(again.frames()) == [("message", welcome["seq"] + 1, "live")]
    assert nothing_is_left(kit)


def test_what_the_log_just_still_holds_is_recovered_and_what_it_just_lost_is_not() -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64, burst=10_000))
    mina, zoe = pair(kit)
    zoe.frames()
    for i in range(100):
        zoe.send("message", text=str(i), id=str(i))
        kit.settle()
    acks = {frame["seq"]: frame["ts"] for frame in zoe.frames() if frame["type"] == "ack"}
    mina.frames()
    mina.cut("reset")
    verdicts = {}
    for seq in range(30, 45):
        again = Speaker(kit, "Mina", resume=mina.resume(seq, acks[seq]))
        frames = again.frames()
        verdicts[seq] = frames[0]["recovered"]
        expected = [("message", s, str(s - 1)) for s in range(seq + 1, 101)] if verdicts[seq] else []
        assert texts(frames) == expected
        again.cut("reset")
    assert [verdicts[seq] for seq in sorted(verdicts)] == sorted(verdicts.values()), "all or nothing"
    assert verdicts[30] is False
    assert verdicts[44] is True


def test_a_room_that_was_freed_and_opened_again_is_another_one() -> None:
    kit = ChatKit(Limits(keep=0))
    mina = Speaker(kit).opened()
    mina.send("message", text="one", id="a")
    ack = mina.frame()
    mina.send("bye")
    kit.settle()
    again = Speaker(kit, resume=mina.resume(1, ack["ts"]))
    welcome = again.frame()
    assert (welcome["recovered"], welcome["reason"]) == (False, "unknown_epoch")
    assert welcome["epoch"] != mina.welcome["epoch"]
    assert (welcome["seq"], welcome["ts"]) == (0, 0)


def test_an_empty_room_that_keeps_its_history_can_be_resumed() -> None:
    kit = ChatKit(Limits(keep=60))
    mina, zoe = pair(kit)
    zoe.send("message", text="one")
    zoe.send("bye")
    kit.settle()
    mina.cut("reset")
    kit.wait(30)
    frames = Speaker(kit, resume=mina.resume()).frames()
    assert frames[0]["recovered"] is True
    assert texts(frames) == [("message", 1, "one")]


def test_what_is_missed_may_be_much_more_than_a_chunk_or_a_lane() -> None:
    kit = ChatKit(Limits(rate=0, lane_bytes=4096))
    mina, zoe = pair(kit)
    mina.cut("reset")
    for i in range(100):
        zoe.send("message", text=f"{i} " + "x" * 5000)
    kit.settle()
    again = Speaker(kit, resume=mina.resume(), capacity=1000)
    zoe.send("message", text="live")
    again.send("message", text="own", id="o")
    frames = again.frames()
    assert [frame["seq"] for frame in frames[1:]] == list(range(1, 103))


def test_where_no_resume_was_asked_none_is_told() -> None:
    kit = ChatKit()
    assert Speaker(kit).frame()["recovered"] is None
    assert Speaker(kit, "Zoe", resume=None).frame()["recovered"] is None


def test_history_follows_where_nothing_could_be_recovered() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    for text in ("one", "two", "three"):
        zoe.send("message", text=text)
    kit.settle()
    mina.cut("reset")
    frames = Speaker(kit, resume=mina.resume(epoch="gone"), history=2).frames()
    assert frames[0]["recovered"] is False
    assert texts(frames) == [("message", 2, "two"), ("message", 3, "three")]


@pytest.mark.parametrize(
    "resume",
    [[], "key", 5, {"epoch": 1}, {"seq": -1}, {"seq": "1"}, {"ts": -1}, {"ts": 1.5}, {"session": None}],
)
def test_a_resume_of_a_wrong_type_is_refused_by_name(resume: object) -> None:
    kit = ChatKit()
    error = refusal(Speaker(kit, resume=resume))
    assert error["code"] == "bad_handshake"
    assert "resume" in error["detail"]
    assert nothing_is_left(kit)


# Saying something again


@BROKERS
def test_the_same_id_is_acknowledged_again_and_neither_stored_nor_delivered_twice(late: bool) -> None:
    kit = chat(late)
    mina, zoe = pair(kit)
    mina.send("message", text="once", id="a")
    release(kit)
    first = mina.frame()
    assert "duplicate" not in first
    zoe.send("message", text="between")
    release(kit)
    mina.frames()
    mina.send("message", text="once", id="a")
    mina.send("message", text="even with another text", id="a")
    release(kit)
    assert mina.frames() == [{**first, "duplicate": True}, {**first, "text": "once", "duplicate": True}]
    mina.send("message", text="more", id="b")
    release(kit)
    assert texts(mina.frames()) == [("ack", 3, "b")]
    assert texts(zoe.frames()) == [("message", 1, "once"), ("ack", 2, None), ("message", 3, "more")]


def test_an_id_is_ones_own_and_none_is_none() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    for speaker in (mina, zoe):
        speaker.send("message", text="x", id="same")
        speaker.send("message", text="y")
        speaker.send("message", text="y")
    kit.settle()
    assert [seq for _, seq, _ in texts(zoe.frames())] == [1, 2, 3, 4, 5, 6]


@CUTS
@pytest.mark.parametrize("delivered", [True, False])
@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("recovered", [True, False])
@pytest.mark.parametrize("gone_for", [0, 8, 250])
def test_ids_are_known_over_a_reconnect(cut: str, delivered: bool, key: bool, recovered: bool, gone_for: float) -> None:
    kit = ChatKit(broker=LateBroker)
    mina, zoe = pair(kit)
    mina.send("message", text="once", id="a")
    kit.settle()
    if delivered:
        release(kit)
    mina.cut(cut)
    kit.wait(gone_for)
    resume = mina.resume(**({} if recovered else {"epoch": "gone"}), **({} if key else {"session": "wrong"}))
    name = "Mina" if key else "Mia"
    again = Speaker(kit, name, resume=resume)
    again.send("message", text="once", id="a")
    kit.settle()
    release(kit)
    frames = [frame for frame in again.frames() if frame["type"] in ("message", "ack")]
    heard = texts(zoe.frames())
    if not key:
        assert heard == [("message", 1, "once"), ("message", 2, "once")], "another session's ids are its own"
        return
    assert heard == [("message", 1, "once")]
    assert frames, "never acknowledged"
    assert {(frame["type"], frame["id"], frame["seq"]) for frame in frames} == {("ack", "a", 1)}
    in_place = [frame for frame in frames if "duplicate" not in frame]
    assert len(in_place) == (1 if recovered or not delivered else 0), "its place in the stream is told once"
    assert nothing_is_left(kit)


@BROKERS
def test_again_while_the_first_is_on_its_way_gives_one_message_and_its_ack(late: bool) -> None:
    kit = chat(late)
    mina, zoe = pair(kit)
    for _ in range(3):
        mina.send("message", text="once", id="a")
    kit.settle()
    release(kit)
    assert texts(zoe.frames()) == [("message", 1, "once")]
    frames = mina.frames()
    assert "duplicate" not in frames[0]
    assert {(frame["type"], frame["id"], frame["seq"]) for frame in frames} == {("ack", "a", 1)}


def test_after_five_minutes_an_id_is_new_again() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.send("message", text="x", id="a")
    mina.frames()
    kit.wait(299)
    mina.send("message", text="x", id="a")
    assert mina.frame()["duplicate"] is True
    kit.wait(2)
    mina.send("message", text="x", id="a")
    assert texts(mina.frames()) == [("ack", 2, "a")]
    assert texts(zoe.frames()) == [("message", 1, "x"), ("message", 2, "x")]


def test_after_1024_others_an_id_is_new_again() -> None:
    kit = ChatKit(Limits(rate=0))
    mina, _ = pair(kit)
    for i in range(1025):
        mina.send("message", text="x", id=str(i))
    acks = mina.frames()
    assert texts(acks) == [("ack", i + 1, str(i)) for i in range(1025)]
    mina.send("message", text="x", id="1")
    assert mina.frame() == {**acks[1], "duplicate": True}
    mina.send("message", text="x", id="0")
    assert texts(mina.frames()) == [("ack", 1026, "0")]


def test_an_id_that_is_used_anew_is_among_the_last_ones() -> None:
    kit = ChatKit(Limits(remember_ids=3))
    mina, _ = pair(kit)
    for id_ in ("a", "b"):
        mina.send("message", text=id_, id=id_)
    kit.settle()
    kit.wait(301)
    for id_ in ("a", "c", "d"):
        mina.send("message", text=id_, id=id_)
    mina.frames()
    for id_ in ("a", "c", "d"):
        mina.send("message", text=id_, id=id_)
    assert [frame.get("duplicate") for frame in mina.frames()] == [True] * 3, "the last three ids"


def test_ids_are_known_in_another_room_and_under_another_name() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    lab = Speaker(kit, "Ann", "lab").opened()
    mina.send("message", text="once", id="a")
    mina.send("rename", to="Mia")
    mina.send("join", room="lab")
    mina.frames()
    mina.send("message", text="once", id="a")
    assert [(f["seq"], f["duplicate"]) for f in mina.frames()] == [(1, True)]
    assert types(lab.frames()) == ["joined"]
    assert len(texts(zoe.frames())) == 1


@pytest.mark.parametrize("again", [False, True], ids=["said once", "said again"])
def test_who_moves_on_while_its_message_is_on_its_way_gets_the_ack_nevertheless(again: bool) -> None:
    kit = ChatKit(broker=LateBroker)
    mina, zoe = pair(kit)
    mina.send("message", text="once", id="a")
    mina.send("join", room="lab", ref=1)
    if again:
        mina.send("message", text="once", id="a")
    kit.settle()
    release(kit)
    kit.wait(1)
    release(kit)
    assert ("message", 1, "once") in texts(zoe.frames())
    frames = mina.frames()
    assert ("ack", 1, "a") in texts(frames), "never acknowledged"
    assert "welcome" in types(frames)


def test_what_was_refused_is_not_remembered() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.send("message", text="x" * 9000, id="a")
    mina.send("message", text="\x00", id="a")
    assert [frame["code"] for frame in mina.frames()] == ["text_too_long", "empty_text"]
    mina.send("message", text="shorter", id="a")
    assert texts(mina.frames()) == [("ack", 1, "a")]
    assert texts(zoe.frames()) == [("message", 1, "shorter")]


# The end of a session


@pytest.mark.parametrize("code", ["kicked", "banned"])
@pytest.mark.parametrize("away", [False, True])
@CUTS
def test_who_is_removed_has_no_session_any_more(code: str, away: bool, cut: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.send("message", text="x", id="a")
    mina.frames()
    client = mina.peer.connection.client
    assert client is not None
    if away:
        mina.cut(cut)
    client.disconnect(code)
    kit.settle()
    assert (zoe.frames()[-1]["type"], client.room) == ("left", None)
    again = Speaker(kit, "Mina", resume=mina.resume())
    again.frames()
    assert again.session != mina.session
    again.send("message", text="x", id="a")
    assert texts(again.frames()) == [("ack", 2, "a")]
    assert nothing_is_left(kit)


@pytest.mark.parametrize("code", ["slow_consumer", "idle_timeout", "flood", "server_error", "token_expired"])
def test_who_may_reconnect_keeps_its_session_but_not_its_name(code: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.send("message", text="x", id="a")
    mina.frames()
    client = mina.peer.connection.client
    assert client is not None
    client.disconnect(code)
    assert mina.frame()["code"] == code
    assert zoe.frames()[-1] == {"type": "left", "seq": 1, "name": "Mina", "reason": code}
    kit.wait(40)
    other = Speaker(kit, "Mina").opened()
    other.send("bye")
    kit.settle()
    again = Speaker(kit, "Mina", resume=mina.resume())
    frames = again.frames()
    assert frames[0]["recovered"] is True
    assert again.session == mina.session
    assert texts(frames) == [("ack", 1, "a")]
    again.send("message", text="x", id="a")
    assert again.frame()["duplicate"] is True
    assert nothing_is_left(kit)


def test_a_session_is_forgotten_five_minutes_after_its_end() -> None:
    kit = ChatKit()
    mina, _ = pair(kit)
    mina.cut("reset")
    kit.wait(299)
    again = Speaker(kit, "Mina", resume=mina.resume())
    again.frames()
    assert again.session == mina.session
    again.cut("reset")
    kit.wait(310)
    later = Speaker(kit, "Mina", resume=mina.resume())
    later.frames()
    assert later.session != mina.session


@pytest.mark.parametrize("away", [False, True])
def test_a_server_that_drains_lets_nobody_back_and_leaves_nothing_behind(away: bool) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    if away:
        mina.cut("reset")
    kit.hub.draining = True
    assert refusal(Speaker(kit, "Mina", resume=mina.resume()))["code"] == "draining"
    for speaker in (zoe, mina):
        speaker.peer.connection.disconnect("draining")
    byes = [speaker.frame() for speaker in ((zoe,) if away else (zoe, mina))]
    assert {(bye["type"], bye["code"], bye["reconnect"], bye["after"] > 0) for bye in byes} == {
        ("bye", "draining", True, True)
    }
    assert nothing_is_left(kit)


@CUTS
def test_what_was_sent_before_the_break_without_a_goodbye_is_processed(cut: str) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.send("message", text="last", id="a")
    if cut == "reset":
        kit.settle()  # a reset destroys what was not read yet
    mina.cut(cut)
    assert texts(zoe.frames()) == [("message", 1, "last")]
    if cut == "end":
        assert texts(mina.frames()) == [("ack", 1, "a")]
        assert mina.peer.transport.closed


def test_who_ended_its_stream_is_sent_what_it_was_owed_and_nothing_later() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.peer.transport.capacity = 10
    zoe.send("message", text="before")
    kit.settle()
    mina.cut("end")
    zoe.send("message", text="after")
    kit.settle()
    assert texts(mina.frames()) == [("message", 1, "before")]
    assert mina.peer.transport.closed
    again = Speaker(kit, "Mina", resume=mina.resume())
    assert texts(again.frames()) == [("message", 1, "before"), ("message", 2, "after")]


def test_a_crash_on_one_connection_leaves_the_session(caplog: pytest.LogCaptureFixture) -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    mina.peer.connection.crashed()
    assert mina.frame()["code"] == "server_error"
    again = Speaker(kit, "Mina", resume=mina.resume())
    again.frames()
    assert again.session == mina.session
    assert types(zoe.frames()) == ["left", "joined"]
    assert nothing_is_left(kit)


def test_who_is_away_holds_nobody_up() -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64))
    mina, zoe = pair(kit)
    mina.peer.transport.capacity = 0
    zoe.send("message", text="0")
    kit.settle()
    mina.cut("reset")
    for i in range(300):
        zoe.send("message", text=str(i), id=str(i))
        kit.settle()
    assert len(zoe.frames()) == 301
    assert zoe.peer.transport.reading
    again = Speaker(kit, "Mina", resume=mina.resume())
    welcome = again.frame()
    assert (welcome["recovered"], welcome["reason"], welcome["seq"]) == (False, "trimmed", 301)


def test_who_ended_its_stream_and_does_not_read_keeps_its_name_for_the_grace() -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64))
    mina, zoe = pair(kit)
    mina.peer.transport.capacity = 10
    for _ in range(20):  # more than is rendered at once
        zoe.send("message", text="x" * 8000)
    kit.settle()
    mina.cut("end")
    for i in range(100):
        zoe.send("message", text=str(i))
        kit.settle()
    mina.peer.received()
    assert types(zoe.frames()) == ["ack"] * 120, "a leave was announced within the grace"
    again = Speaker(kit, "Mina", resume=mina.resume())
    again.frames()
    assert again.session == mina.session


def test_the_key_is_shown_to_nobody_else() -> None:
    kit = ChatKit()
    mina, zoe = pair(kit)
    ann = kit.member("Ann", notices=True, history=10)
    mina.send("message", text="hi", id="a")
    mina.send("rename", to="Mia", ref="r")
    zoe.send("members")
    zoe.send("rooms")
    zoe.send("history")
    kit.settle()
    mina.cut("reset")
    kit.wait(6)
    heard = zoe.peer.received() + ann.received()
    assert "hi" in heard
    assert mina.session not in heard
    assert len({mina.session, zoe.session}) == 2


def test_a_whisper_that_is_sent_again_under_its_id_is_said_once() -> None:
    kit = ChatKit()
    mina, zoe = kit.member("Mina", protocol="json"), kit.member("Zoe")
    for _ in range(2):
        mina.send('{"type":"message","text":"hi","id":"1"}\n{"type":"whisper","to":"Zoe","text":"psst","id":"1"}\n')
        kit.settle()
    assert sorted(zoe.lines()) == ["* Mina whispers: psst", "Mina:hi"]
    assert mina.received().count('"duplicate":true') == 2


def test_who_may_come_back_does_not_keep_the_log_of_a_room_that_is_gone() -> None:
    """Its session lives longer than the room."""
    kit = ChatKit(Limits(keep=1, reserve=1, remember=300))
    mina = Speaker(kit).opened()
    mina.send("message", text="x" * 5000, id="one")
    kit.settle()
    mina.cut("reset")
    kit.wait(4)
    assert kit.hub.rooms == {}
    session = kit.hub.sessions.find(mina.session)
    assert session is not None
    assert session.client._log.held == 0


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_member_whose_session_was_forgotten_leaves_when_its_connection_ends(how: str) -> None:
    kit = ChatKit()
    zoe, mina = kit.member("Zoe", notices=True), kit.member("Mina", protocol="json")
    kit.hub.sessions.close_all("draining")
    if how == "end":
        mina.end()
    else:
        mina.transport.reset()
    kit.settle()
    assert zoe.lines()[-1].startswith("* Mina left")


@pytest.mark.parametrize("how", ["taken over", "reset", "end"])
@pytest.mark.parametrize("waits_for", ["the reader", "the broker"])
def test_a_join_that_waits_ends_with_its_connection(waits_for: str, how: str) -> None:
    kit = ChatKit(Limits(rate=0), broker=lambda clock: LateBroker(clock, opens_late=True))
    mina = Speaker(kit, "Mina", capacity=4000)
    release(kit)
    mina.opened()
    talker = Speaker(kit, "Zoe")
    release(kit)
    if waits_for == "the reader":
        for _ in range(100):
            talker.send("message", text="x" * 500)
        release(kit)
    mina.send("join", room="other")
    kit.settle()
    if how == "taken over":
        Speaker(kit, "Mina", resume=mina.resume()).frames()
    elif how == "end":
        mina.peer.end()
    else:
        mina.peer.transport.reset()
    mina.peer.transport.take()
    release(kit)
    kit.wait(10)
    release(kit)
    dev, other = kit.hub.room("dev"), kit.hub.room("other")
    assert dev is not None
    assert [client.name for client in dev.members] == (["Mina", "Zoe"] if how == "taken over" else ["Zoe"])
    assert other is None or not other.members


@pytest.mark.parametrize("id", ["1", "whisper 1"])
def test_the_ids_of_whispers_and_of_messages_are_counted_apart(id: str) -> None:  # noqa: A002
    kit = ChatKit()
    mina, zoe = Speaker(kit, "Mina").opened(), Speaker(kit, "Zoe").opened()
    mina.send("whisper", to="Zoe", text="psst", id="1")
    mina.send("message", text="hello", id=id)
    mina.send("whisper", to="Zoe", text="psst", id="1")
    acks = [frame for frame in mina.frames() if frame["type"] == "ack"]
    assert [(ack["seq"], ack.get("duplicate", False)) for ack in acks] == [(None, False), (1, False), (None, True)]
    assert [frame["type"] for frame in zoe.frames()] == ["whisper", "message"]
