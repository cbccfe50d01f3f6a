"""The JSON protocol (docs/reference/protocol-json.md): coming in and saying something, with time turned by hand."""

from __future__ import annotations

from typing import Any

import pytest
from speakers import BROKERS, Speaker, chat, crowd, nothing_is_left, release, stream, types

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker

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
