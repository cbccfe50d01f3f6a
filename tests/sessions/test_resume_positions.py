"""Resume: a member goes on where it was, with nothing lost or doubled."""

from __future__ import annotations

import pytest
from speakers import BROKERS, CUTS, Frame, Speaker, chat, nothing_is_left, pair, refusal, release, texts, types

from chatapi import Limits
from chatapi.testing import ChatKit


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
