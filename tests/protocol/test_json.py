"""The JSON protocol (docs/reference/protocol-json.md): every frame, with time turned by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from speakers import Frame, Speaker, chat, nothing_is_left, release

from chatapi import DISCONNECTS, Limits
from chatapi.core.broker import unavailable
from chatapi.testing import ChatKit, LateBroker

BROKERS = pytest.mark.parametrize("late", [False, True], ids=["in-process", "late"])


def types(frames: list[Frame]) -> list[str]:
    return [frame["type"] for frame in frames]


def stream(frames: list[Frame]) -> list[tuple[str, int, str | None]]:
    """The messages and acks at their place: what kind, their seq, and the text or the id."""
    return [
        (f["type"], f["seq"], f["text"] if f["type"] == "message" else f["id"])
        for f in frames
        if f["type"] in ("message", "ack") and f["seq"] is not None and "duplicate" not in f
    ]


def crowd(kit: ChatKit, *names: str, **fields: Any) -> list[Speaker]:
    """JSON members of one room, with everything read that their coming brought."""
    speakers = [Speaker(kit, name, **fields) for name in names]
    release(kit)
    for speaker in speakers:
        assert speaker.frames()[0]["type"] == "welcome"
    return speakers


# Coming in


def test_the_welcome_tells_everything_there_is_to_know() -> None:
    kit = ChatKit()
    ann = kit.member("Ann")
    ann.send("one\ntwo\n")
    kit.settle()
    mina = Speaker(kit, "mina")
    welcome = mina.frame()
    room = kit.hub.room("dev")
    assert room is not None
    assert welcome == {
        "type": "welcome",
        "name": "mina",
        "room": "dev",
        "session": welcome["session"],
        "epoch": room.epoch,
        "seq": 2,
        "ts": kit.clock.micros() + 1,
        "members": ["Ann", "mina"],
        "count": 2,
        "recovered": None,
        "limits": {
            "line_bytes": 8192,
            "frame_bytes": 65536,
            "remember": 300,
            "remember_ids": 1024,
            "reserve": 5,
        },
    }
    assert isinstance(welcome["session"], str)
    assert welcome["session"] not in ("", room.epoch)


def test_the_welcome_of_an_empty_log_and_of_a_server_with_other_limits() -> None:
    named = {"line_bytes": 100, "frame_bytes": 2000, "remember": 7.5, "remember_ids": 9, "reserve": 0.5}
    welcome = Speaker(ChatKit(Limits(**named))).frame()
    assert (welcome["seq"], welcome["ts"], welcome["members"], welcome["count"]) == (0, 0, ["Mina"], 1)
    assert welcome["limits"] == named


def test_the_welcome_names_at_most_100_members_and_counts_them_all() -> None:
    kit = ChatKit()
    for number in range(150):
        kit.member(f"m{number:03}")
    welcome = Speaker(kit, "a").frame()
    assert welcome["members"] == ["a", *(f"m{number:03}" for number in range(99))]
    assert welcome["count"] == 151
    last = Speaker(kit, "zoe").frame()
    assert len(last["members"]) == 100
    assert last["count"] == 152


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "Ann"}, "name_taken"),
        ({"name": "a:b"}, "bad_name"),
        ({"name": "Mina", "room": "a,b"}, "bad_room"),
        ({"name": "Mina", "protocol": "xml"}, "bad_handshake"),
        ({"name": "Mina", "protocol": None}, "bad_handshake"),
        ({"name": "Mina", "protocol": "json", "history": -1}, "bad_handshake"),
    ],
)
def test_a_refused_handshake_gets_one_line_and_leaves_nothing(fields: dict[str, Any], code: str) -> None:
    kit = ChatKit()
    kit.member("Ann")
    speaker = Speaker(kit, **fields) if "protocol" not in fields else None
    peer = speaker.peer if speaker else kit.member(**fields)
    lines = peer.lines()
    assert len(lines) == 1
    assert f'"code":"{code}"' in lines[0]
    assert peer.transport.ended
    assert nothing_is_left(kit)


@BROKERS
def test_history_comes_between_the_welcome_and_anything_live(late: bool) -> None:
    kit = chat(late)
    ann = kit.member("Ann")
    for i in range(1, 6):
        ann.send(f"{i}\n")
    release(kit)
    mina = Speaker(kit, "Mina", history=3)
    ann.send("live\n")
    release(kit)
    frames = mina.frames()
    assert types(frames) == ["welcome"] + ["message"] * 4
    assert stream(frames) == [("message", n, str(n)) for n in (3, 4, 5)] + [("message", 6, "live")]
    assert frames[0]["seq"] == 5


def test_what_is_sent_with_the_handshake_counts() -> None:
    kit = ChatKit()
    peer = kit.connect()
    peer.send('{"name":"Mina","room":"dev","protocol":"json"}{"type":"ping","ref":1}\r\n\n{"type":"bye"}')
    peer.end()
    lines = peer.lines()
    assert [line.split('"')[3] for line in lines] == ["welcome", "pong", "bye"]
    assert peer.transport.closed


# Saying something


@BROKERS
def test_a_message_is_told_to_all_and_acknowledged_to_its_sender(late: bool) -> None:
    kit = chat(late)
    mina, zoe = crowd(kit, "Mina", "Zoe")
    echo = crowd(kit, "Echo", echo=True)[0]
    release(kit)
    mina.frames(), zoe.frames()
    mina.send("message", text="hello", id="m1")
    kit.settle()
    release(kit)
    heard = zoe.frame()
    assert heard == {"type": "message", "seq": 1, "ts": heard["ts"], "name": "Mina", "text": "hello"}
    assert abs(heard["ts"] - kit.clock.micros()) < 1_000_000
    assert mina.frame() == {"type": "ack", "id": "m1", "seq": 1, "ts": heard["ts"]}
    assert echo.frame() == heard
    echo.send("message", text="mine", id="e1")
    release(kit)
    own = echo.frame()
    assert own == {"type": "message", "seq": 2, "ts": own["ts"], "name": "Echo", "text": "mine", "id": "e1"}
    assert own["ts"] > heard["ts"]
    assert zoe.frame() == {key: value for key, value in own.items() if key != "id"}
    echo.send("message", text="nameless")
    mina.send("message", text="nameless too")
    release(kit)
    assert ["id" in frame for frame in echo.frames()] == [False, False]
    assert [frame["id"] for frame in mina.frames() if frame["type"] == "ack"] == [None]


def test_only_an_acknowledgement_waits_for_the_broker() -> None:
    kit = ChatKit(broker=LateBroker)
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.send("message", text="hello", id="m1")
    mina.send("ping", ref=1)
    assert mina.frame() == {"type": "pong", "ref": 1}
    assert zoe.frames() == []
    release(kit)
    assert stream(mina.frames()) == [("ack", 1, "m1")]
    assert stream(zoe.frames()) == [("message", 1, "hello")]


@BROKERS
def test_every_members_stream_is_dense_and_one_order(late: bool) -> None:
    kit = chat(late, Limits(rate=0))
    members = crowd(kit, "a", "b", "c")
    for number in range(30):
        for member in members:
            member.send("message", text=f"{member.peer.connection.client!r}{number}", id=f"{number}")
        if number % 7 == 0:
            release(kit, 5)
    release(kit)
    streams = [[f for f in member.frames() if f["type"] in ("ack", "message")] for member in members]
    for seen in streams:
        assert [frame["seq"] for frame in seen] == list(range(1, 91))
    assert len({tuple(frame["ts"] for frame in seen) for seen in streams}) == 1
    for number, member in enumerate(members):
        acks = [frame["id"] for frame in streams[number] if frame["type"] == "ack"]
        assert acks == [str(i) for i in range(30)], member


def test_no_ack_overtakes_what_came_before_it_however_slowly_one_reads() -> None:
    kit = ChatKit(Limits(rate=0))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.frames()
    mina.peer.transport.capacity = 50
    for number in range(40):
        zoe.send("message", text=f"{number} " + "x" * 3000)
        mina.send("message", text="y", id=str(number))
        mina.send("ping", ref=number)
        kit.settle()
    frames = mina.frames()
    assert [f["seq"] for f in frames if f["type"] != "pong"] == list(range(1, 81))
    for frame in frames:
        if frame["type"] == "pong":
            at = frames.index(frame)
            said = [f["id"] for f in frames[:at] if f["type"] == "ack"]
            assert str(frame["ref"]) in said, "an answer overtook what came before it"


def test_text_and_json_members_share_one_room() -> None:
    kit = ChatKit()
    (mina,) = crowd(kit, "Mina")
    ann, bea = kit.member("Ann"), kit.member("Bea", notices=True)
    assert types(mina.frames()) == ["joined", "joined"]
    mina.send("message", text="one\ntwo\n\nthree\n", id="m")
    assert stream(mina.frames()) == [("ack", 1, "m")]
    assert ann.lines() == bea.lines() == ["Mina:one", "Mina:two", "Mina:three"]
    ann.send("hi\nthere\n")
    assert [(f["seq"], f["name"], f["text"]) for f in mina.frames()] == [(2, "Ann", "hi"), (3, "Ann", "there")]
    ann.send("@mina psst\n/nick Anna\n/bye\n")
    whisper, renamed, left = mina.frames()
    assert whisper == {"type": "whisper", "ts": whisper["ts"], "name": "Ann", "text": "psst"}
    assert renamed == {"type": "renamed", "seq": 3, "name": "Ann", "to": "Anna"}
    assert left == {"type": "left", "seq": 3, "name": "Anna", "reason": "bye"}
    mina.send("whisper", to="bea", text="a\nb")
    mina.send("rename", to="Mia")
    mina.send("bye")
    kit.settle()
    lines = bea.lines()
    assert lines[0:2] == ["Ann:hi", "Ann:there"]
    assert lines[-4:] == ["* Mina whispers: a", "* Mina whispers: b", "* Mina is now Mia", "* Mia left"]


def test_lines_that_look_like_commands_are_just_text() -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    for text in ("/bye", "@Zoe hi", "//x", "* Zoe left", '{"type":"bye"}'):
        mina.send("message", text=text)
        assert zoe.frame()["text"] == text


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("a\x00b\x07c\x1b[2Jd\x7f", "abc[2Jd"),
        ("a\x85b\u009bc", "abc"),
        ("tab\there", "tab\there"),
        ("a\r\nb\rc", "a\nbc"),
        ("\n\na\n\n\nb\n", "a\nb"),
        ("a\n\x00\nb", "a\nb"),
        ("\u00e9\u4e2d\U0001f600 \u2028", "\u00e9\u4e2d\U0001f600  "),
        ('"quotes" and \\ and </script>', '"quotes" and \\ and </script>'),
        (" spaces ", " spaces "),
    ],
)
@pytest.mark.parametrize("how", ["message", "whisper"])
def test_a_text_is_cleaned_once_for_all(text: str, heard: str, how: str) -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.send(how, text=text, **({"to": "Zoe"} if how == "whisper" else {}))
    frame = zoe.frame()
    assert (frame["type"], frame["text"]) == (how, heard)


@pytest.mark.parametrize("how", ["message", "whisper"])
@pytest.mark.parametrize("text", ["", "\n", "\x00", "\r\n\r\n", "\x1b\n\x07", "\x85"])
def test_an_empty_text_is_an_error(how: str, text: str) -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.send(how, text=text, id="i", **({"to": "Zoe"} if how == "whisper" else {}))
    error = mina.frame()
    assert (error["type"], error["code"], error["id"]) == ("error", "empty_text", "i")
    assert error["detail"]
    assert zoe.frames() == []


@pytest.mark.parametrize("how", ["message", "whisper"])
@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("x" * 8192, True),
        ("x" * 8193, False),
        ("\u00e9" * 4096, True),
        ("\u00e9" * 4097, False),
        ("\x00" * 500 + "x" * 8192, True),
        ("x" * 8192 + "\n", True),
        ("x\n" * 4096, True),
        ("x\n" * 4097, False),
        ('"' * 8192, True),
    ],
)
@pytest.mark.parametrize("id_", [{"id": "i"}, {}], ids=["with-id", "without"])
def test_the_limit_counts_the_texts_bytes(how: str, text: str, taken: bool, id_: dict[str, str]) -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.send(how, text=text, **id_, **({"to": "Zoe"} if how == "whisper" else {}))
    answer = mina.frame()
    if taken:
        assert (answer["type"], answer["id"]) == ("ack", id_.get("id"))
        assert zoe.frame()["text"] == text.replace("\x00", "").strip("\n")
    else:
        assert (answer["type"], answer["code"], answer.get("id")) == ("error", "text_too_long", id_.get("id"))
        assert "8,192" in answer["detail"]
        assert zoe.frames() == []


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


@pytest.mark.parametrize("ref", ["r", 5, 0, "", None])
@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("rename", {"to": "zoe"}, "name_taken"),
        ("rename", {"to": "a:b"}, "bad_name"),
        ("rename", {"to": ""}, "bad_name"),
        ("join", {"room": "a,b"}, "bad_room"),
        ("join", {"room": ""}, "bad_room"),
        ("join", {"room": "full"}, "room_full"),
        ("join", {"room": "lab"}, "name_taken"),
        ("join", {"room": "fourth"}, "server_full"),
        ("members", {"limit": 0}, "bad_frame"),
        ("history", {"before": 0}, "bad_frame"),
        ("ping", {"type": "pong"}, "bad_frame"),
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


# Asking


def test_members_can_be_paged_through() -> None:
    kit = ChatKit()
    names = [f"m{number:03}" for number in range(250)]
    for name in names:
        kit.member(name.upper() if name.endswith("7") else name)
    (mina,) = crowd(kit, "zoe")
    found: list[str] = []
    asked: dict[str, Any] = {}
    for page in range(1, 10):
        mina.send("members", ref=page, **asked)
        answer = mina.frame()
        assert (answer["type"], answer["ref"], answer["count"]) == ("members", page, 251)
        found += answer["members"]
        if "next" not in answer:
            break
        assert len(answer["members"]) == 100
        asked = {"after": answer["next"]}
    assert [name.lower() for name in found] == [*names, "zoe"]
    mina.send("members", after="M003", limit=2)
    assert mina.frame() == {"type": "members", "members": ["m004", "m005"], "count": 251, "next": "m005"}
    mina.send("members", after="m249", limit=1)
    assert mina.frame() == {"type": "members", "members": ["zoe"], "count": 251}
    mina.send("members", after="zzz")
    assert mina.frame() == {"type": "members", "members": [], "count": 251}


def test_rooms_can_be_paged_through() -> None:
    kit = ChatKit()
    (mina,) = crowd(kit, "Mina")
    for number in range(120):
        kit.member("a", f"R{number:03}")
    kit.member("b", "r001")
    gone = kit.member("a", "empty")
    gone.send("kept\n/bye\n")
    gone.received()
    mina.send("rooms", ref="x")
    first = mina.frame()
    assert (first["type"], first["ref"], first["count"], len(first["rooms"])) == ("rooms", "x", 121, 100)
    assert first["rooms"][:3] == [
        {"name": "dev", "count": 1},
        {"name": "R000", "count": 1},
        {"name": "R001", "count": 2},
    ]
    mina.send("rooms", after=first["next"])
    rest = mina.frame()
    assert "next" not in rest
    assert [room["name"] for room in rest["rooms"]] == [f"R{number:03}" for number in range(99, 120)]
    mina.send("rooms", after="r118", limit=1)
    assert mina.frame() == {"type": "rooms", "rooms": [{"name": "R119", "count": 1}], "count": 121}


@pytest.mark.parametrize("in_one_go", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 10, 25, 100])
def test_history_can_be_paged_through_to_the_beginning(limit: int, in_one_go: bool) -> None:
    kit = ChatKit(Limits(rate=0))
    (mina,) = crowd(kit, "Mina")
    ann = kit.member("Ann")
    if in_one_go:
        ann.send("".join(f"{n}\n" for n in range(1, 26)))
    else:
        for n in range(1, 26):
            ann.send(f"{n}\n")
            ann.send(f"/nick Ann{n}\n")
            kit.settle()
    live = [f for f in mina.frames() if f["type"] == "message"]
    found: list[Frame] = []
    asked: dict[str, Any] = {}
    for ref in range(30):
        mina.send("history", ref=ref, limit=limit, **asked)
        answer = mina.frame()
        assert (answer["type"], answer["ref"]) == ("history", ref)
        assert len(answer["messages"]) == min(limit, 25 - len(found))
        found = answer["messages"] + found
        if not answer["more"]:
            break
        asked = {"before": found[0]["seq"]}
    assert [{"type": "message", **message} for message in found] == live
    assert [message["seq"] for message in found] == list(range(1, 26))


@pytest.mark.parametrize(
    ("asked", "seqs", "more"),
    [
        ({}, range(37, 101), False),
        ({"limit": 64}, range(37, 101), False),
        ({"limit": 63}, range(38, 101), True),
        ({"before": 101, "limit": 2}, range(99, 101), True),
        ({"before": 102, "limit": 2}, range(99, 101), True),
        ({"before": 10**30, "limit": 2}, range(99, 101), True),
        ({"before": 100, "limit": 2}, range(98, 100), True),
        ({"before": 39, "limit": 2}, range(37, 39), False),
        ({"before": 38, "limit": 2}, range(37, 38), False),
        ({"before": 37}, (), False),
        ({"before": 20}, (), False),
        ({"before": 1}, (), False),
    ],
)
def test_the_newest_messages_before_a_seq_as_far_as_the_log_holds_them(
    asked: dict[str, Any], seqs: range, more: bool
) -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64))
    (mina,) = crowd(kit, "Mina")
    for n in range(100):
        mina.send("message", text=str(n + 1))
    mina.frames()
    mina.send("history", **asked)
    answer = mina.frame()
    assert ([m["seq"] for m in answer["messages"]], answer["more"]) == (list(seqs), more)
    assert all(m["text"] == str(m["seq"]) and m["name"] == "Mina" for m in answer["messages"])


@pytest.mark.parametrize("before", [None, 1, 2, 50])
def test_the_history_of_an_empty_room_and_of_a_server_that_shows_none(before: int | None) -> None:
    asked = {} if before is None else {"before": before}
    (mina,) = crowd(ChatKit(), "Mina")
    mina.send("history", **asked)
    assert mina.frame() == {"type": "history", "messages": [], "more": False}
    (mina,) = crowd(ChatKit(Limits(history=0)), "Mina")
    for _ in range(5):
        mina.send("message", text="x")
    mina.frames()
    mina.send("history", **asked)
    assert mina.frame() == {"type": "history", "messages": [], "more": False}, "whoever pages would never end"


@pytest.mark.parametrize("ref", ["r", "\u00e9", 5, 0, -1, None])
def test_a_ping_is_answered_with_its_ref(ref: str | int | None) -> None:
    (mina,) = crowd(ChatKit(), "Mina")
    mina.send("ping", ref=ref)
    assert mina.frame() == ({"type": "pong"} if ref is None else {"type": "pong", "ref": ref})


# Bad frames


@pytest.mark.parametrize(
    "bad",
    [
        b"hello",
        b"[]",
        b"null",
        b'{"type":"nonsense"}',
        b'{"text":"x"}',
        b'{"type":"message"}',
        b'{"type":"message","text":5}',
        b'{"type":"message","text":"\xff"}',
        b'{"type":"message","text":"\\ud800"}',
        b'{"type":"message","text":"x","id":7}',
        b'{"type":"message","text":"' + b"x" * 70_000 + b'"}',
        b"[" * 60_000,
    ],
    ids=lambda bad: bad[:40].decode(errors="replace"),
)
def test_a_bad_frame_costs_its_sender_an_error_and_nobody_else_anything(bad: bytes) -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.frames()
    mina.peer.send(b'{"type":"message","text":"before"}\n' + bad + b'\n{"type":"message","text":"after"}\n')
    frames = mina.frames()
    assert sorted(types(frames)) == ["ack", "ack", "error"]
    error = next(frame for frame in frames if frame["type"] == "error")
    assert error["code"] == ("frame_too_large" if len(bad) > 65536 else "bad_frame")
    assert error["detail"]
    assert stream(zoe.frames()) == [("message", 1, "before"), ("message", 2, "after")]


def test_a_stream_of_bad_frames_is_a_flood_and_pings_are_not() -> None:
    kit = ChatKit(Limits(rate=0, flood=10))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.frames()
    for number in range(500):
        mina.send("ping", ref=number)
    assert types(mina.frames()) == ["pong"] * 500
    mina.peer.send("nonsense\n" * 20)
    frames = mina.frames()
    assert types(frames[:10]) == ["error"] * 10
    bye = frames[-1]
    assert (bye["type"], bye["code"], bye["reconnect"], bye["after"]) == ("bye", "flood", True, 30)
    assert zoe.frame()["reason"] == "flood"


def test_frames_beyond_the_rate_wait_and_none_is_lost() -> None:
    kit = ChatKit(Limits(rate=10, burst=20))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    for number in range(50):
        mina.send("message", text=str(number))
    assert len(stream(zoe.frames())) == 20
    kit.wait(5)
    assert [text for _, _, text in stream(zoe.frames())] == [str(n) for n in range(20, 50)]


SENT = st.one_of(
    st.builds(
        lambda text, id: {"type": "message", "text": text, **({"id": id} if id else {})},  # noqa: A006
        st.sampled_from(["a", "b c", "é𝄞", "x" * 20, "x" * 21, "é" * 40, "é" * 41, "x" * 80, "x" * 81, "", " ",
                         "\n", "a\nb",
                         "a\tb", "\x1b[31m", "a\u200db", "\ufeff"]),
        st.sampled_from(["", "", "one", "two"]),
    ),
    st.sampled_from([
        {"type": "ping", "ref": 1}, {"type": "rename", "to": "Min"}, {"type": "rename", "to": "Zoe"},
        {"type": "whisper", "to": "Zoe", "text": "psst"}, {"type": "join", "room": "other"}, {"type": "message"},
        {"type": "history", "limit": 2}, {"type": "nonsense"}, {"type": "message", "text": "x" * 2000},
    ]),
)  # fmt: skip


@given(st.lists(SENT, max_size=30), st.booleans())
@example([{"type": "message", "text": "a", "id": id} for id in ("two", "one", "two")], True)  # noqa: A001
def test_what_comes_in_one_go_means_what_it_means_frame_by_frame(sent: list[Frame], late: bool) -> None:
    """Messages that come together are handled as one run, which nobody may notice."""

    def told(*, together: bool) -> list[list[Frame]]:
        kit = chat(late, Limits(rate=0, flood=1000, line_bytes=80, frame_bytes=1024))
        mina, zoe = crowd(kit, "Mina", "Zoe")
        lines = [json.dumps(frame) + "\n" for frame in sent]
        for data in ["".join(lines)] if together else lines:
            mina.peer.send(data)
            kit.settle()
        while isinstance(kit.broker, LateBroker) and kit.broker.pending:
            release(kit)
        return [mina.frames(), zoe.frames()]

    assert told(together=True) == told(together=False)


def test_each_message_that_was_not_kept_is_told_of() -> None:
    kit = chat(late=True)
    (mina,) = crowd(kit, "Mina")
    assert isinstance(kit.broker, LateBroker)
    kit.broker.failing = unavailable("the disk is full")
    mina.peer.send("".join(json.dumps({"type": "message", "text": text}) + "\n" for text in "abc"))
    release(kit)
    assert [(frame["type"], frame["code"]) for frame in mina.frames()] == [("error", "unavailable")] * 3


# Going


@pytest.mark.parametrize("code", DISCONNECTS)
def test_every_reason_of_the_table_is_told_as_a_bye(code: str) -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.frames()
    client = mina.peer.connection.client
    assert client is not None
    client.disconnect(code)
    reason = DISCONNECTS[code]
    assert mina.frame() == {
        "type": "bye",
        "code": code,
        "detail": reason.detail,
        "reconnect": reason.reconnect,
        "after": reason.after,
    }
    assert mina.peer.transport.ended
    assert zoe.frame() == {"type": "left", "seq": 0, "name": "Mina", "reason": code}
    assert kit.hub.disconnects == {code: 1}
    assert nothing_is_left(kit)


def test_a_bye_comes_behind_everything_else_and_nothing_behind_it_counts() -> None:
    kit = ChatKit()
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.frames()
    mina.send("message", text="last words", id="m")
    mina.send("ping", ref=1)
    mina.send("bye")
    mina.send("message", text="too late")
    frames = mina.frames()
    assert types(frames) == ["ack", "pong", "bye"]
    assert (frames[-1]["code"], frames[-1]["reconnect"], frames[-1]["after"]) == ("bye", False, 0)
    assert mina.peer.transport.ended
    mina.peer.end()
    kit.settle()
    assert mina.peer.transport.closed
    heard = zoe.frames()
    assert stream(heard) == [("message", 1, "last words")]
    assert heard[-1] == {"type": "left", "seq": 1, "name": "Mina", "reason": "bye"}
    Speaker(kit, "Mina").opened()


def test_a_bye_waits_for_the_acks_of_what_was_said_before_it() -> None:
    kit = ChatKit(broker=LateBroker)
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.frames()
    mina.send("message", text="last words", id="m")
    mina.send("bye")
    release(kit)
    frames = mina.frames()
    assert types(frames) == ["ack", "bye"]
    assert stream(zoe.frames()) == [("message", 1, "last words")]


@pytest.mark.parametrize("idle", [True, False])
def test_who_is_quiet_is_disconnected_only_where_the_server_says_so(idle: bool) -> None:
    kit = ChatKit(Limits(idle=5) if idle else Limits())
    (mina,) = crowd(kit, "Mina")
    kit.wait(4)
    mina.send("ping")
    assert types(mina.frames()) == ["pong"]
    kit.wait(60)
    frames = mina.frames()
    assert [(f["code"], f["reconnect"]) for f in frames] == ([("idle_timeout", True)] if idle else [])


def test_a_member_that_does_not_read_is_told_so_and_has_no_more_to_come() -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64, grace=5))
    mina, zoe = crowd(kit, "Mina", "Zoe")
    mina.frames()
    mina.peer.transport.capacity = 0
    for number in range(200):
        zoe.send("message", text=f"{number} " + "x" * 4000)
        kit.settle()
    kit.wait(7)
    mina.peer.transport.capacity = 1 << 30
    frames = mina.frames()
    assert frames[-1]["code"] == "slow_consumer"
    assert (frames[-1]["reconnect"], frames[-1]["after"]) == (True, 5)
    seqs = [frame["seq"] for frame in frames[:-1]]
    assert seqs == list(range(1, len(seqs) + 1)), "a gap"
    assert "left" in types(zoe.frames())


def test_an_id_sent_again_while_the_first_is_on_its_way_is_answered_too() -> None:
    kit = ChatKit(broker=LateBroker)
    mina = kit.member("Mina", protocol="json")
    mina.lines()
    mina.send('{"type":"message","text":"one","id":"a1"}\n' * 2)
    assert mina.lines() == []
    assert isinstance(kit.broker, LateBroker)
    kit.broker.release()
    first, again = map(json.loads, mina.lines())
    assert (first["id"], first["seq"], "duplicate" in first) == ("a1", 1, False)
    assert (again["id"], again["seq"], again["duplicate"]) == ("a1", 1, True)
