"""The JSON protocol: bad frames, goodbyes and other ends."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from speakers import Frame, Speaker, chat, crowd, nothing_is_left, release, stream, types

from chatapi import DISCONNECTS, Limits
from chatapi.core.broker import unavailable
from chatapi.testing import ChatKit, LateBroker

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
def test_a_quiet_member_is_disconnected_only_if_the_server_says_so(idle: bool) -> None:
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
