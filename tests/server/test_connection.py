"""One connection's life, with time turned by hand: opening, and speaking."""

from __future__ import annotations

import json

import pytest
from ways import closed

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker, Peer


def code(peer: Peer) -> str:
    """The code of the one line of JSON that a refused handshake gets."""
    lines = peer.lines()
    assert len(lines) == 1, lines
    error = json.loads(lines[0])
    assert error["type"] == "error"
    assert error["detail"]
    return str(error["code"])


# Opening


@pytest.mark.parametrize("so_far", [b"", b" ", b'{"name": "Mina"'])
def test_a_handshake_that_does_not_come_is_refused_in_time(so_far: bytes) -> None:
    kit = ChatKit()
    peer = kit.connect()
    peer.send(so_far or b" ")
    kit.wait(9.8)
    assert peer.received() == ""
    kit.wait(0.4)
    assert code(peer) == "handshake_timeout"
    assert peer.transport.ended
    kit.wait(2.2)
    assert closed(peer)
    assert not kit.hub.timers


def test_a_client_that_leaves_without_a_handshake_gets_no_answer() -> None:
    kit = ChatKit()
    peer = kit.connect()
    peer.end()
    assert peer.received() == ""
    assert closed(peer)
    assert not kit.hub.refusals


def test_a_handshake_cut_off_is_refused() -> None:
    kit = ChatKit()
    peer = kit.connect()
    peer.send('{"name": "Mi')
    peer.end()
    assert code(peer) == "bad_handshake"
    assert closed(peer)


def test_a_name_is_free_again_however_its_connection_ended() -> None:
    kit = ChatKit(Limits(grace=0.5))
    for end in ("/bye\n", "", "reset", "kicked"):
        peer = kit.member("Mina")
        if end == "reset":
            peer.transport.reset()
        elif end == "kicked":
            assert peer.connection.client is not None
            peer.connection.client.disconnect("kicked")
        else:
            peer.send(end)
        kit.settle()
        taken = kit.member("mina")
        assert taken.received() == ""
        taken.end()
        kit.wait(3)
        assert closed(taken)
        assert peer.transport.closed
    assert not kit.hub.rooms
    assert not kit.hub.connections
    assert not kit.hub.timers


def test_room_full_server_full_and_too_many_rooms() -> None:
    kit = ChatKit(Limits(room_members=1, rooms=2, keep=0))
    a = kit.member("a", "one")
    assert code(kit.member("b", "one")) == "room_full"
    kit.member("b", "two")
    assert code(kit.member("c", "three")) == "server_full"
    assert dict(kit.hub.refusals) == {"room_full": 1, "server_full": 1}
    a.send("/join three\n/join two\n")
    assert a.lines() == ["* no room can be added; rooms allowed: 2", "* 'two' is full; members allowed: 1"]


def test_an_empty_room_with_history_gives_way_to_a_new_one() -> None:
    kit = ChatKit(Limits(rooms=1))
    a = kit.member("a", "one")
    a.send("hi\n/bye\n")
    assert a.lines() == ["* goodbye"]
    assert "one" in kit.hub.rooms
    kit.member("a", "two")
    assert set(kit.hub.rooms) == {"two"}


def test_a_draining_server_refuses() -> None:
    kit = ChatKit()
    kit.hub.draining = True
    assert code(kit.member("a")) == "draining"


# Speaking


def test_nobody_waits_for_more_than_the_burst_and_all_lines_arrive_in_the_end() -> None:
    kit = ChatKit(Limits(rate=10, burst=20))
    a, b = kit.member("a"), kit.member("b")
    a.send("".join(f"{i}\n" for i in range(50)))
    assert len(b.lines()) == 20
    assert not a.transport.reading
    kit.wait(1.05)
    assert len(b.lines()) == 10
    kit.wait(2.05)
    assert b.lines()[-1] == "a:49"
    kit.wait(1)
    assert a.transport.reading


def test_commands_count_as_lines() -> None:
    kit = ChatKit(Limits(rate=1, burst=3))
    a = kit.member("a")
    a.send("/list\n" * 5)
    assert len(a.lines()) == 3


def test_the_end_of_a_stream_waits_for_the_lines_before_it() -> None:
    kit = ChatKit(Limits(rate=10, burst=10))
    a, b = kit.member("a"), kit.member("b")
    a.send("".join(f"{i}\n" for i in range(25)))
    a.end()
    kit.wait(3)
    assert [*b.lines()] == [f"a:{i}" for i in range(25)]
    assert closed(a)


def test_a_stream_of_refused_commands_is_a_flood() -> None:
    kit = ChatKit(Limits(rate=0, flood=10))
    a, b = kit.member("a"), kit.member("b")
    a.send("/nonsense\n" * 10)
    assert len(a.lines()) == 10
    kit.wait(5)
    a.send("/nonsense\n" * 5)
    assert len(a.lines()) == 5
    a.send("/nonsense\n@nobody hi\n" + "x" * 9000 + "\nhello\n" * 3)
    assert a.lines()[-1].startswith("* flood: ")
    assert a.transport.ended
    assert b.received() == ""
    assert kit.hub.disconnects["flood"] == 1


def test_plain_lines_are_never_a_flood() -> None:
    kit = ChatKit(Limits(rate=0, flood=1))
    a, b = kit.member("a"), kit.member("b")
    a.send("x\n" * 5000)
    assert len(b.lines()) == 5000


def test_a_quiet_member_stays_unless_the_server_has_an_idle_limit() -> None:
    kit = ChatKit()
    a = kit.member("a")
    kit.wait(100)
    assert a.received() == ""
    kit = ChatKit(Limits(idle=5))
    a, b = kit.member("a"), kit.member("b")
    for _ in range(4):
        kit.wait(4)
        a.send("x\n")
    lines = b.lines()
    assert lines[0] == "a:x"
    assert lines[-1].startswith("* idle_timeout: ")
    assert a.received() == ""


def test_a_bad_line_costs_its_sender_an_error_and_nobody_else_anything() -> None:
    kit = ChatKit()
    a, b = kit.member("a"), kit.member("b")
    a.send(b"one\n\xff\xfe\ntwo\n" + b"y" * 8193 + b"\nthree\n\x00\x1b[2J\n")
    errors = a.lines()
    assert len(errors) == 2
    assert "not UTF-8" in errors[0]
    assert "8,193 bytes; at most 8,192" in errors[1]
    assert b.lines() == ["a:one", "a:two", "a:three", "a:[2J"]


def test_a_whisper_reaches_one_member_and_an_unknown_name_nobody() -> None:
    kit = ChatKit()
    a, b, c = (kit.member(name) for name in "abc")
    a.send("@B psst\n/msg b again\n@zoe secret\n@b\n")
    assert b.lines() == ["* a whispers: psst", "* a whispers: again"]
    assert c.received() == ""
    assert a.lines() == [
        "* nobody here is called 'zoe'; nothing was sent",
        "* a whisper needs a name and a text: @NAME TEXT",
    ]


def test_a_whisper_to_a_member_that_reads_nothing_is_refused_when_its_lane_is_full() -> None:
    kit = ChatKit(Limits(rate=0, lane_bytes=4096))
    a, b = kit.member("a"), kit.member("b", capacity=0)
    a.send(("@b " + "x" * 1000 + "\n") * 10)
    refused = a.lines()
    assert 3 <= len(refused) <= 6
    assert set(refused) == {"* b has too many unread messages; nothing was sent"}
    b.transport.capacity = 1 << 30
    assert len(b.lines()) == 10 - len(refused)


def test_a_whisper_follows_what_was_said_before_it() -> None:
    kit = ChatKit(Limits(rate=0))
    a, b = kit.member("a"), kit.member("b", capacity=100)
    a.send("".join(f"{i} {'x' * 200}\n" for i in range(20)) + "@b psst\nlast\n")
    lines = b.lines()
    assert [line.split()[0] for line in lines[:20]] == [f"a:{i}" for i in range(20)]
    assert lines[20:] == ["* a whispers: psst", "a:last"]


def test_a_member_that_does_not_read_its_answers_is_not_read_from() -> None:
    kit = ChatKit(Limits(rate=0, lane_bytes=4096))
    a = kit.member("a", capacity=0)
    a.send("/help\n" * 1000)
    kit.settle()
    assert not a.transport.reading
    assert a.connection.client is not None
    assert a.connection.client.lane_size < 8192
    a.transport.capacity = 1 << 30
    assert len(a.lines()) == 1000 * 9
    assert a.transport.reading


def test_moving_to_another_room_leaves_no_line_behind() -> None:
    kit = ChatKit(Limits(rate=0))
    a, b, c = kit.member("a", "one"), kit.member("b", "one", capacity=100), kit.member("c", "two")
    for i in range(20):
        a.send(f"{i} {'x' * 8000}\n")
        kit.settle()
    b.send("/join two\nhello\n")
    kit.settle()
    assert c.received() == ""
    lines = b.lines()
    assert [line.split()[0] for line in lines[:20]] == [f"a:{i}" for i in range(20)]
    assert lines[20:] == ["* you are now in two (2): b, c"]
    assert c.lines() == ["b:hello"]
    a.send("anyone?\n")
    assert b.received() == ""


def test_a_move_that_is_refused_changes_nothing() -> None:
    kit = ChatKit()
    a, b, _ = kit.member("a", "one"), kit.member("b", "one"), kit.member("A", "two")
    a.send("/join two\n/join a,b\n/join one\nstill here\n")
    assert a.lines() == [
        "* 'A' is already in 'two'",
        "* the room has a ','; neither ':' nor ',' is allowed",
        "* you are already in one (2): a, b",
    ]
    assert b.lines() == ["a:still here"]


def test_a_rename_is_told_to_all_who_want_notices_and_to_oneself() -> None:
    kit = ChatKit()
    a, b, c = kit.member("a"), kit.member("b", notices=True), kit.member("c")
    a.send("one\n/nick z\ntwo\n/nick B\n/username\n/nick Z\n")
    assert b.lines() == ["* c joined", "a:one", "* a is now z", "z:two", "* z is now Z"]
    assert c.lines() == ["a:one", "z:two"]
    assert a.lines() == [
        "* you are now z",
        "* 'b' is already in 'dev'",
        "* /username needs NAME: /username NAME",
        "* you are now Z",
    ]


def test_large_rooms_announce_a_rename_only_to_the_renamed_member() -> None:
    kit = ChatKit(Limits(announce=2))
    watcher = kit.member("watcher", notices=True)
    kit.member("a")
    b = kit.member("b")
    b.send("/nick c\n/bye\n")
    assert b.lines() == ["* you are now c", "* goodbye"]
    assert watcher.lines() == ["* a joined"]


@pytest.mark.parametrize("late", [False, True])
def test_history_is_replayed_before_anything_live(late: bool) -> None:
    kit = ChatKit(broker=LateBroker) if late else ChatKit()
    a = kit.member("a", notices=True)
    for i in range(10):
        a.send(f"{i}\n")
        kit.settle()
    if isinstance(kit.broker, LateBroker):
        kit.broker.release(5)
        assert kit.member("b", history=3).lines() == ["a:1", "a:2", "a:3"]
        kit.broker.release()
    b = kit.member("c", history=3, notices=True)
    a.send("live\n/history 2\n")
    kit.settle()
    if isinstance(kit.broker, LateBroker):
        kit.broker.release()
    assert b.lines() == ["a:7", "a:8", "a:9", "a:live"]
    b.send("/history 2\n/history\n/history x\n")
    lines = b.lines()
    assert lines[:2] == ["a:9", "a:live"]
    assert len(lines) == 2 + 11 + 1
    assert lines[-1] == "* /history takes a number of messages, not 'x'"


def test_a_rooms_history_is_kept_for_a_while_and_then_freed() -> None:
    kit = ChatKit(Limits(keep=60))
    a = kit.member("a")
    a.send("remember\n/bye\n")
    a.received()
    kit.wait(59)
    b = kit.member("b", history=10)
    assert b.lines() == ["a:remember"]
    b.end()
    kit.wait(61)
    assert not kit.hub.rooms
    assert not kit.hub.timers
    assert kit.member("c", history=10).received() == ""


def test_all_logs_together_are_bounded() -> None:
    limits = Limits(rate=0, total_log_bytes=1 << 20)
    kit = ChatKit(limits)
    old = kit.member("a", "old")
    old.send(b"x" * 8000 + b"\n/bye\n")
    old.received()
    for number in range(4):
        peer = kit.member("a", f"room{number}")
        for _ in range(8):
            peer.send((b"x" * 8000 + b"\n") * 8)
            kit.settle()
    assert "old" not in kit.hub.rooms
    held = sum(room.log.held for room in kit.hub.rooms.values())
    assert held <= limits.total_log_bytes


def test_echo_and_commands_can_be_had_the_go_servers_way() -> None:
    kit = ChatKit(echo=True, commands=False)
    a, b = kit.member("a"), kit.member("b", echo=False, commands=True)
    a.send("/list\n@b hi\n")
    assert a.lines() == b.lines() == ["a:/list", "a:@b hi"]
    b.send("/list\nx\n")
    assert b.lines() == ["* in dev (2): a, b"]
