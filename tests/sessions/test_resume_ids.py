"""Resume: a message that is said again under its id is kept once."""

from __future__ import annotations

import json

import pytest
from speakers import BROKERS, CUTS, Speaker, chat, nothing_is_left, pair, release, texts, types

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker


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


def test_after_1024_other_ids_an_id_is_new_again() -> None:
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
def test_a_member_that_moves_on_before_its_message_is_kept_gets_the_ack(again: bool) -> None:
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


def test_an_interrupted_join_does_not_cost_a_later_message_its_ack() -> None:
    kit = ChatKit(Limits(rate=0))
    stalled = Speaker(kit, "Mina", capacity=4000).opened()
    talker = Speaker(kit, "Zoe").opened()
    stalled.frames()
    for _ in range(100):
        talker.send("message", text="x" * 500)
    kit.settle()
    stalled.send("join", room="other")  # waits, and never takes place: the connection is taken over
    kit.settle()
    mina = Speaker(kit, "Mina", resume=stalled.resume())
    mina.frames()
    said = {"type": "message", "text": "hi", "id": "1"}
    mina.peer.send("".join(json.dumps(frame) + "\n" for frame in (said, {"type": "join", "room": "other"})))
    assert [frame["type"] for frame in mina.frames()] == ["ack", "welcome"]
