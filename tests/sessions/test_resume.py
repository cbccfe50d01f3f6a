"""Sessions (docs/reference/protocol-json.md): a member comes back under its name."""

from __future__ import annotations

import pytest
from speakers import BROKERS, CUTS, Speaker, chat, nothing_is_left, pair, refusal, release, texts, types

from chatapi import Limits
from chatapi.testing import ChatKit


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


def test_a_client_that_is_told_that_a_name_is_reserved_can_have_it_after_the_time_named() -> None:
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
def test_a_member_that_is_away_is_a_member_and_reads_nothing(cut: str) -> None:
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


def test_a_member_that_says_bye_is_gone_at_once_and_its_key_is_worth_nothing() -> None:
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


def test_a_member_that_came_back_is_treated_as_one_that_never_left() -> None:
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
