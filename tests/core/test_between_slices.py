"""What other tasks of the program may do while a fan-out pass or a round is under way."""

from __future__ import annotations

import pytest

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker


def test_a_member_that_is_removed_between_two_slices_gets_what_it_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapi.core.fanout.SLICE", 1)
    kit = ChatKit(Limits(rate=0))
    a, b, c = (kit.member(name) for name in "abc")
    a.send("one\ntwo\n")
    a.transport.poll(kit.clock.monotonic())
    work = kit.hub.settle()
    next(work)  # the pass has begun
    for peer in (b, c):
        assert peer.connection.client is not None
        peer.connection.client.disconnect("kicked")
    for _ in work:
        pass
    for peer in (b, c):
        lines = peer.lines()
        assert lines[:2] == ["a:one", "a:two"]
        assert lines[2].startswith("* kicked")


def test_a_member_that_talks_without_end_does_not_keep_a_round_from_ending() -> None:
    kit = ChatKit(Limits(rate=0))
    kit.member("reader")
    talker = kit.member("talker").connection.client
    assert talker is not None
    talker.post("more")
    for _ in kit.hub.settle():
        talker.post("and more")
    assert kit.hub.busy


def test_the_room_that_one_enters_does_not_give_way() -> None:
    kit = ChatKit(Limits(rate=0, total_log_bytes=1 << 20))
    for room in ("one", "two"):
        peer = kit.member("a", room)
        for _ in range(70):
            peer.send("x" * 8000 + "\n")
            kit.settle()
        peer.send("/bye\n")
        peer.received()
    kit.member("b", "two")
    c = kit.member("c", "two")
    c.send("hello\n")
    kit.settle()
    assert kit.hub.room("two") is not None
    assert len(kit.hub.rooms["two"]) == 2


def test_a_telnet_opening_that_reads_nothing_holds_no_memory() -> None:
    kit = ChatKit(Limits(lane_bytes=4096))
    peer = kit.connect(telnet=True, capacity=0)
    for _ in range(50):
        peer.send(b"\xff\xf6" * 1000)
        kit.settle()
    assert not peer.transport.reading


def test_history_that_nobody_reads_fills_the_lane() -> None:
    kit = ChatKit(Limits(rate=0, lane_bytes=4096))
    peer = kit.member("a", capacity=0)
    peer.send("hello\n" + "/history\n" * 1000)
    kit.settle()
    assert not peer.transport.reading


def test_a_newcomer_with_history_is_not_blamed_for_what_is_trimmed_meanwhile() -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64))
    a = kit.member("a")
    for i in range(100):
        a.send(f"{i}\n")
        kit.settle()
    new = kit.connect()
    new.send('{"name": "new", "room": "dev", "history": 1000}')
    a.send("".join(f"more {i}\n" for i in range(4)))
    new.transport.poll(kit.clock.monotonic())
    a.transport.poll(kit.clock.monotonic())
    lines = new.lines()
    assert lines[-1] == "a:more 3"
    assert not kit.hub.disconnects


def test_a_member_that_only_sends_goes_on_when_a_late_broker_has_caught_up() -> None:
    kit = ChatKit(Limits(rate=0, in_hand_bytes=65536), broker=LateBroker)
    resumed = []

    class Speaker:
        def wake(self) -> None:
            resumed.append(True)

    client = kit.member("a").connection.client
    assert client is not None
    room = client.room
    assert room is not None
    room.listen(client, reads=False) if client.id in room.behind else room.current.discard(client)
    while not room.congested:
        client.post("x" * 8000)
    room.wait(Speaker())
    assert isinstance(kit.broker, LateBroker)
    kit.broker.release()
    assert resumed


def test_a_text_that_cannot_be_encoded_does_not_keep_a_member_half_removed() -> None:
    kit = ChatKit()
    a = kit.member("a")
    assert a.connection.client is not None
    a.connection.client.disconnect("kicked", "\ud800")
    assert a.lines() == ["* kicked: ?"]
    assert a.transport.ended


def test_pasted_rubbish_is_no_flood() -> None:
    kit = ChatKit(Limits(rate=0, flood=5))
    a, b = kit.member("a"), kit.member("b")
    a.send(b"\xe9\n" * 100 + b"hello\n")
    assert len(a.lines()) == 100
    assert b.lines() == ["a:hello"]


def test_what_was_read_is_processed_though_the_connection_is_known_to_be_broken() -> None:
    kit = ChatKit(Limits(rate=10, burst=10))
    a, b = kit.member("a"), kit.member("b", notices=True)
    a.send("".join(f"{i}\n" for i in range(40)))
    kit.settle()
    a.transport.reset()
    b.send("hello\n")
    kit.wait(5)
    assert b.lines() == [*(f"a:{i}" for i in range(40)), "* a left (connection_lost)"]
    assert a.transport.closed
    assert not kit.hub.timers


def test_a_move_is_not_put_off_for_ever_by_members_that_talk() -> None:
    kit = ChatKit(Limits(rate=0))
    a, b, c = kit.member("a", "one"), kit.member("b", "one", capacity=10_000), kit.member("c", "two")
    for _ in range(30):
        a.send("x" * 8000 + "\n")
        kit.settle()
    b.send("/join two\nhere\n")
    for _ in range(60):
        b.transport.take(5_000)
        a.send("y" * 5000 + "\n")
        kit.settle()
    assert c.lines() == ["b:here"]
