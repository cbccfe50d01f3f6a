"""How sessions end, and what a member of a broken connection is still owed."""

from __future__ import annotations

import pytest
from speakers import CUTS, Speaker, nothing_is_left, pair, refusal, release, texts, types

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker


@pytest.mark.parametrize("code", ["kicked", "banned"])
@pytest.mark.parametrize("away", [False, True])
@CUTS
def test_a_member_that_is_removed_has_no_session_any_more(code: str, away: bool, cut: str) -> None:
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
def test_a_member_that_may_reconnect_keeps_its_session_but_not_its_name(code: str) -> None:
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


def test_a_member_that_ended_its_stream_is_sent_earlier_messages_and_no_later_ones() -> None:
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


def test_a_member_that_is_away_holds_nobody_up() -> None:
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


def test_a_member_that_ended_its_stream_and_does_not_read_keeps_its_name_for_the_grace() -> None:
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


def test_a_member_that_may_come_back_does_not_keep_the_log_of_a_room_that_is_gone() -> None:
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


def test_a_member_that_ends_its_stream_during_a_pass_still_gets_earlier_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatapi.core.fanout.SLICE", 1)
    kit = ChatKit(Limits(announce=0))
    first, _, last = (Speaker(kit, name).opened() for name in ("a", "b", "c"))
    now = kit.clock.monotonic()
    first.send("message", text="hello")
    first.peer.transport.poll(now)
    work = kit.hub.settle()
    next(work)  # the pass has begun
    last.peer.end()
    last.peer.transport.poll(now)
    for _ in work:
        pass
    assert [frame["text"] for frame in last.frames()] == ["hello"]


def test_a_member_that_has_ended_its_stream_gets_no_later_messages() -> None:
    kit = ChatKit(Limits(grace=20))
    slow, talker = Speaker(kit, "Mina", capacity=2000).opened(), Speaker(kit, "Zoe").opened()
    slow.frames()
    for number in range(30):
        talker.send("message", text=f"{number:300}")
    kit.settle()
    slow.peer.end()
    kit.settle()
    talker.send("message", text="later")
    kit.wait(6)  # its name is given up meanwhile
    texts = [frame["text"].strip() for frame in slow.frames()]
    assert texts == [str(number) for number in range(30)]
