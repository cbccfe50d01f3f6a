"""The JSON protocol: whispers, renames, joins and leaves."""

from __future__ import annotations

from typing import Any

import pytest
from speakers import BROKERS, Speaker, chat, crowd, nothing_is_left, release, stream, types

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker

# Whispers


def test_a_whisper_reaches_one_and_is_acknowledged_without_a_place() -> None:
    kit = ChatKit()
    mina, zoe, ann = crowd(kit, "Mina", "Zoe", "Ann")
    mina.send("whisper", to="ZOE", text="psst", id="w1")
    ack, heard = mina.frame(), zoe.frame()
    assert ack == {"type": "ack", "id": "w1", "seq": None, "ts": ack["ts"]}
    assert heard == {"type": "whisper", "ts": heard["ts"], "name": "Mina", "text": "psst"}
    assert abs(heard["ts"] - kit.clock.micros()) < 1_000_000
    assert ann.frames() == []
    mina.send("whisper", to="Zoe", text="nameless")
    assert mina.frame()["id"] is None
    mina.send("message", text="aloud", id="w1")
    assert stream(mina.frames()) == [("ack", 1, "w1")]


@pytest.mark.parametrize("to", ["nobody", "", "a:b", "Elsewhere", "Away"])
def test_a_whisper_that_cannot_be_handed_over_is_an_error_and_never_a_broadcast(to: str) -> None:
    kit = ChatKit()
    mina, zoe, away = crowd(kit, "Mina", "Zoe", "Away")
    Speaker(kit, "Elsewhere", "lab")
    away.cut("reset")
    mina.send("whisper", to=to, text="secret", id="w")
    error = mina.frame()
    assert (error["type"], error["code"], error["id"]) == ("error", "not_delivered", "w")
    assert zoe.frames() == []
    mina.send("whisper", to=to, text="secret")
    assert not {"id", "ref"} & mina.frame().keys()


def test_a_whisper_to_a_full_lane_is_not_delivered() -> None:
    kit = ChatKit(Limits(rate=0, lane_bytes=4096))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    zoe.peer.transport.capacity = 0
    for number in range(10):
        mina.send("whisper", to="Zoe", text="x" * 1000, id=str(number))
    answers = mina.frames()
    taken = [frame["id"] for frame in answers if frame["type"] == "ack"]
    refused = [frame["id"] for frame in answers if frame["type"] == "error" and frame["code"] == "not_delivered"]
    assert sorted(taken + refused) == [str(i) for i in range(10)]
    assert taken
    assert refused
    zoe.peer.transport.capacity = 1 << 30
    assert types(zoe.frames()) == ["whisper"] * len(taken)


def test_a_whisper_follows_what_was_delivered_before_it() -> None:
    kit = ChatKit(Limits(rate=0))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    zoe.peer.transport.capacity = 100
    for number in range(10):
        mina.send("message", text=f"{number} " + "x" * 500)
    mina.send("whisper", to="Zoe", text="psst")
    mina.send("message", text="last")
    assert types(zoe.frames()) == ["message"] * 10 + ["whisper", "message"]


# Renames, joins and leaves


@BROKERS
def test_a_rename_is_told_at_its_place_and_to_oneself_with_the_ref(late: bool) -> None:
    kit = chat(late)
    mina, zoe = crowd(kit, "Mina", "Zoe")
    release(kit)
    mina.frames()
    mina.send("message", text="one")
    mina.send("rename", to="Mia", ref="r1")
    mina.send("message", text="two")
    release(kit)
    heard = zoe.frames()
    assert heard[1] == {"type": "renamed", "seq": 1, "name": "Mina", "to": "Mia"}
    assert [(f["name"], f["text"]) for f in (heard[0], heard[2])] == [("Mina", "one"), ("Mia", "two")]
    own = mina.frames()
    assert types(own) == ["ack", "renamed", "ack"]
    assert own[1] == {**heard[1], "ref": "r1"}
    mina.send("rename", to="MIA", ref=7)
    release(kit)
    assert mina.frame() == {"type": "renamed", "seq": 2, "name": "Mia", "to": "MIA", "ref": 7}
    mina.send("rename", to="Mina")
    release(kit)
    assert "ref" not in mina.frame()


@pytest.mark.parametrize(
    ("kind", "fields", "code", "ref"),
    [
        ("rename", {"to": "zoe"}, "name_taken", "r"),
        ("rename", {"to": "a:b"}, "bad_name", 5),
        ("rename", {"to": ""}, "bad_name", None),
        ("join", {"room": "a,b"}, "bad_room", 0),
        ("join", {"room": ""}, "bad_room", ""),
        ("join", {"room": "full"}, "room_full", "r"),
        ("join", {"room": "lab"}, "name_taken", 5),
        ("join", {"room": "fourth"}, "server_full", None),
        ("members", {"limit": 0}, "bad_frame", ""),
        ("history", {"before": 0}, "bad_frame", "r"),
        ("ping", {"type": "pong"}, "bad_frame", 0),
    ],
)
def test_a_request_that_is_refused_is_answered_with_its_ref_and_changes_nothing(
    kind: str, fields: dict[str, Any], code: str, ref: str | int | None
) -> None:
    kit = ChatKit(Limits(room_members=2, rooms=3, keep=0))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    Speaker(kit, "MINA", "lab")
    full = [Speaker(kit, name, "full") for name in "ab"]
    for speaker in full:
        speaker.frames()
    mina.frames()
    frame = {"kind": kind, "ref": ref, **fields}
    mina.send(frame.pop("type", kind), **{key: value for key, value in frame.items() if key != "kind"})
    error = mina.frame()
    assert (error["type"], error["code"], error.get("ref")) == ("error", code, ref)
    assert ("ref" in error) == (ref is not None)
    assert error["detail"]
    mina.send("message", text="still here")
    assert stream(zoe.frames()) == [("message", 1, "still here")]
    assert [speaker.frames() for speaker in full] == [[], []]
    assert sorted(kit.hub.rooms) == ["dev", "full", "lab"]
    assert nothing_is_left(kit)


@BROKERS
def test_joining_another_room_is_answered_by_its_welcome(late: bool) -> None:
    kit = chat(late)
    mina, zoe = crowd(kit, "Mina", "Zoe")
    (ann,) = crowd(kit, "Ann", room="lab")
    ann.send("message", text="before")
    release(kit)
    ann.frames(), mina.frames()
    zoe.send("message", text="in dev")
    release(kit)
    mina.send("join", room="LAB", ref="j")
    mina.send("message", text="hello lab", id="m")
    release(kit)
    frames = mina.frames()
    assert types(frames) == ["message", "welcome", "ack"]
    welcome = frames[1]
    told = ("name", "room", "session", "seq", "members", "count", "recovered", "ref")
    assert {key: welcome[key] for key in told} == {
        "name": "Mina",
        "room": "lab",
        "session": mina.session,
        "seq": 1,
        "members": ["Ann", "Mina"],
        "count": 2,
        "recovered": None,
        "ref": "j",
    }
    assert welcome["epoch"] != mina.welcome["epoch"]
    assert welcome["limits"] == mina.welcome["limits"]
    assert stream(frames[2:]) == [("ack", 2, "m")]
    assert zoe.frames()[-1] == {"type": "left", "seq": 1, "name": "Mina", "reason": "moved"}
    heard = ann.frames()
    assert heard[0] == {"type": "joined", "seq": 1, "name": "Mina"}
    assert stream(heard) == [("message", 2, "hello lab")]
    zoe.send("message", text="anyone?")
    release(kit)
    assert mina.frames() == [], "heard from the room it left"
    assert nothing_is_left(kit)


def test_joining_leaves_nothing_of_the_old_room_unread() -> None:
    kit = ChatKit(Limits(rate=0))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.peer.transport.capacity = 100
    for number in range(20):
        zoe.send("message", text=f"{number} " + "x" * 8000)
        kit.settle()
    mina.send("join", room="lab")
    mina.send("message", text="here", id="h")
    kit.settle()
    frames = mina.frames()
    assert types(frames) == ["message"] * 20 + ["welcome", "ack"]


def test_joining_the_room_one_is_in_is_answered_and_announced_to_nobody() -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.send("join", room="DEV", ref=1)
    welcome = mina.frame()
    assert (welcome["type"], welcome["room"], welcome["ref"], welcome["count"]) == ("welcome", "dev", 1, 2)
    assert zoe.frames() == []


@BROKERS
def test_joins_and_leaves_are_told_between_the_messages(late: bool) -> None:
    kit = chat(late)
    mina, zoe = crowd(kit, "Mina", "Zoe")
    release(kit)
    mina.frames(), zoe.frames()
    mina.send("message", text="one")
    kit.settle()
    ann = Speaker(kit, "Ann")
    mina.send("message", text="two")
    kit.settle()
    ann.send("bye")
    kit.settle()
    mina.send("message", text="three")
    release(kit)
    kit.settle()
    frames = zoe.frames()
    assert [(f["type"], f["seq"]) for f in frames] == [
        ("message", 1),
        ("joined", 1),
        ("message", 2),
        ("left", 2),
        ("message", 3),
    ]
    assert frames[1] == {"type": "joined", "seq": 1, "name": "Ann"}
    assert frames[3] == {"type": "left", "seq": 2, "name": "Ann", "reason": "bye"}
    assert [(f["type"], f["seq"]) for f in mina.frames()] == [
        (kind.replace("message", "ack"), seq) for kind, seq in [(f["type"], f["seq"]) for f in frames]
    ]


def test_large_rooms_announce_nothing_but_ones_own_rename() -> None:
    kit = ChatKit()
    watcher = Speaker(kit, "watcher").opened()
    for number in range(198):
        kit.member(f"m{number}")
    watcher.frames()
    mina = Speaker(kit, "Mina")  # the 200th
    assert watcher.frame()["type"] == "joined"
    mina.send("rename", to="Mia")
    assert watcher.frame()["type"] == "renamed"
    zoe = Speaker(kit, "Zoe")  # one more than 200
    zoe.frames(), mina.frames()
    assert watcher.frames() == []
    mina.send("rename", to="Mina", ref="r")
    assert mina.frame() == {"type": "renamed", "seq": 0, "name": "Mia", "to": "Mina", "ref": "r"}
    zoe.cut("reset")
    kit.wait(6)
    assert watcher.frames() == []
    mina.send("message", text="hi", id="m")
    assert stream(watcher.frames()) == [("message", 1, "hi")]
    mina.send("bye")
    mina.frames()
    assert types(watcher.frames()) == ["left"]


def test_a_join_waits_for_the_acks_of_messages_that_got_their_places_after_it_was_asked_for() -> None:
    kit = ChatKit(broker=LateBroker)
    assert isinstance(kit.broker, LateBroker)
    mina = Speaker(kit, "Mina").opened()
    kit.broker.release()
    mina.frames()
    mina.peer.transport.capacity = 0
    mina.send("ping")
    kit.settle()  # the pong fills the send buffer
    mina.send("message", text="hello", id="1")
    mina.send("join", room="other")
    kit.settle()
    for _ in range(3):
        kit.broker.release()
        kit.settle()
    mina.peer.transport.capacity = 1 << 30
    for _ in range(3):
        kit.settle()
        kit.broker.release()
    assert [frame["type"] for frame in mina.frames()] == ["pong", "ack", "welcome"]
